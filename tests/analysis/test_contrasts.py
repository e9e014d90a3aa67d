"""compare(): against the statistics by hand, and over every degenerate frame."""

import dataclasses
import json
import math

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.weightstats import DescrStatsW

from ablate.plan import plan
from analysis import wording
from analysis.audit import warnings
from analysis.cells import read
from analysis.contrasts import compare
from analysis.findings import Findings
from analysis.frame import Frame, FrameError
from search_spaces import catalogue
from search_spaces.study import Block, Contrast, Scale, Study, StudyError
from tests.analysis import frames

STUDY = frames.small_study(arms=4, blocks=10)


def last(frame: Frame, arm: str, metric: str = "auroc") -> np.ndarray:
    own = frame.epochs[(frame.epochs["arm"] == arm) & (frame.epochs["epoch"] == 12)]
    return own.set_index("block")[metric].to_numpy()


def ending(study: Study, **outcomes: list[float]) -> Frame:
    """A finished sweep whose arms end with these outcomes, one for each block."""
    frame = frames.sound(study, epochs=2)
    for arm, values in outcomes.items():
        own = (frame.epochs["arm"] == arm) & (frame.epochs["epoch"] == 2)
        frame.epochs.loc[own, study.outcome.metric] = values
    return frame


def with_contrasts(*contrasts: Contrast, study: Study = STUDY) -> Study:
    return dataclasses.replace(study, contrasts=contrasts)


def test_contrasts_are_the_paired_tests_of_scipy_corrected_by_statsmodels() -> None:
    frame = frames.sound(STUDY, shifts={"a1": 0.02}, seed=3)
    found = compare(frame, STUDY)
    tests = [stats.ttest_rel(last(frame, f"a{i}"), last(frame, "a0")) for i in (1, 2, 3)]
    assert [r.p for r in found.contrasts] == pytest.approx([t.pvalue for t in tests])
    adjusted = multipletests([t.pvalue for t in tests], method="holm")[1]
    assert [r.p_adjusted for r in found.contrasts] == pytest.approx(adjusted)
    interval = tests[0].confidence_interval(0.95)
    assert (found.contrasts[0].interval.low, found.contrasts[0].interval.high) == pytest.approx(tuple(interval))
    assert found.contrasts[0].verdict.word == "better"


def test_equivalence_claims_are_tost_corrected_among_themselves() -> None:
    claims = [Contrast(arm=f"a{i}", reference="a0", claim="equivalence", margin=0.012) for i in (1, 2, 3)]
    study = with_contrasts(*claims)
    frame = frames.sound(study, noise=0.004)
    found = compare(frame, study)
    raw = [DescrStatsW(last(frame, f"a{i}") - last(frame, "a0")).ttost_mean(-0.012, 0.012)[0] for i in (1, 2, 3)]
    assert [r.p for r in found.contrasts] == pytest.approx(raw)
    assert [r.p_adjusted for r in found.contrasts] == pytest.approx(multipletests(raw, method="holm")[1])
    assert {r.verdict.word for r in found.contrasts} == {"equivalent"}
    assert found.contrasts[0].test == "TOST, paired t"


def test_families_are_corrected_apart() -> None:
    study = with_contrasts(
        Contrast(arm="a1", reference="a0"),
        Contrast(arm="a2", reference="a0", family="other"),
        Contrast(arm="a3", reference="a0", family="other"),
    )
    one, two, three = compare(frames.sound(study), study).contrasts
    assert one.p_adjusted == one.p
    assert (two.p_adjusted, three.p_adjusted) == pytest.approx(tuple(multipletests([two.p, three.p], method="holm")[1]))


def test_no_correction_where_the_study_declares_none() -> None:
    study = dataclasses.replace(STUDY, correction="none")
    found = compare(frames.sound(study), study).contrasts
    assert all(r.p == r.p_adjusted and "corrected" not in r.verdict.sentence for r in found)


@pytest.mark.parametrize(("name", "there"), [("hochberg", "simes-hochberg"), ("benjamini-hochberg", "fdr_bh")])
def test_the_declared_correction_is_made(name: str, there: str) -> None:
    study = dataclasses.replace(STUDY, correction=name)
    found = compare(frames.sound(study), study).contrasts
    assert [r.p_adjusted for r in found] == pytest.approx(multipletests([r.p for r in found], method=there)[1])


def test_an_unknown_correction_gives_the_nearest() -> None:
    with pytest.raises(StudyError, match="Did you mean 'holm'"):
        dataclasses.replace(STUDY, correction="hoolm")


def test_an_unknown_test_gives_the_allowed_ones() -> None:
    with pytest.raises(StudyError, match="It may be: t, sign-flip"):
        with_contrasts(Contrast(arm="a1", reference="a0", test="signflip"))


def test_interquartile_means_are_over_several_whole_datasets() -> None:
    blocks = tuple(Block(dataset=name, seed=seed) for name in ("digits", "mnist") for seed in range(4))
    study = dataclasses.replace(STUDY, scales=(Scale(name="smoke", blocks=blocks),))
    frame = frames.sound(study)
    found = compare(frame, study).interquartile
    assert found["a1"].estimate == pytest.approx(stats.trim_mean(last(frame, "a1"), 0.25))
    assert compare(frames.failed(study), study).interquartile == {}
    assert compare(frames.sound(STUDY), STUDY).interquartile == {}


def test_the_declared_sign_flip_test_decides() -> None:
    study = with_contrasts(Contrast(arm="a1", reference="a0", test="sign-flip"))
    five, ten = (frames.sound(study, blocks=n, shifts={"a1": 0.2}) for n in (5, 10))
    (result,) = compare(five, study).contrasts
    assert (result.p, result.verdict.word) == (0.0625, "undecided")
    assert result.verdict.blocks_needed == 6
    assert compare(ten, study).contrasts[0].verdict.word == "better"


def test_a_contrast_of_one_dataset_uses_its_blocks_only() -> None:
    blocks = tuple(Block(dataset=name, seed=seed) for name in ("digits", "mnist") for seed in range(5))
    study = dataclasses.replace(
        STUDY,
        scales=(Scale(name="smoke", blocks=blocks),),
        contrasts=(Contrast(arm="a1", reference="a0", dataset="mnist"), Contrast(arm="a1", reference="a0")),
    )
    one, both = compare(frames.sound(study), study).contrasts
    assert one.blocks == tuple(f"mnist/t0/s{seed}" for seed in range(5))
    assert one.dataset == "mnist"
    assert len(both.blocks) == 10


def test_a_failure_in_the_family_does_not_make_the_others_look_better() -> None:
    """An arm without a value keeps its place in the family, with p = 1."""
    frame = frames.sound(STUDY, shifts={"a1": 0.012})
    frame.trials.loc[frame.trials["arm"] == "a3", ["state", "reason"]] = ("failed", "diverged")
    holed = compare(frame, STUDY)
    raw = [r.p for r in holed.contrasts]
    assert math.isnan(raw[2])
    expected = multipletests([raw[0], raw[1], 1.0], method="holm")[1]
    assert [r.p_adjusted for r in holed.contrasts[:2]] == pytest.approx(expected[:2])


def test_arms_that_a_sweep_leaves_out_are_named_and_gain_the_others_nothing() -> None:
    frame = frames.missing_arm(STUDY)
    found = compare(frame, STUDY)
    assert found.left_out == ("a3",)
    assert [arm.arm for arm in found.arms] == ["a0", "a1", "a2"]
    assert [contrast.arm for contrast in found.contrasts] == ["a1", "a2"]
    expected = multipletests([*(contrast.p for contrast in found.contrasts), 1.0], method="holm")[1]
    assert [contrast.p_adjusted for contrast in found.contrasts] == pytest.approx(expected[:2])
    assert "(3 in the family 'primary')" in wording.tests(found, STUDY)
    assert "to come" not in wording.headline(found, STUDY)
    narrow = dataclasses.replace(STUDY, arms=STUDY.arms[:3], contrasts=STUDY.contrasts[:2])
    assert found.ranks == compare(frame, narrow).ranks, "of the arms in the sweep, as if there were no others"


def test_without_any_contrast_between_its_arms_a_sweep_says_so() -> None:
    found = compare(frames.missing_baseline(STUDY), STUDY)
    assert not found.contrasts
    said = wording.headline(found, STUDY)
    assert said == "No declared comparison is between the arms of this sweep, so nothing is decided."


def test_relabelling_the_direction_swaps_better_and_worse() -> None:
    frame = frames.sound(STUDY, shifts={"a1": 0.03})
    lower = dataclasses.replace(STUDY, outcome=dataclasses.replace(STUDY.outcome, higher_is_better=False))
    assert compare(frame, STUDY).contrasts[0].verdict.word == "better"
    assert compare(frame, lower).contrasts[0].verdict.word == "worse"
    wins = np.mean(last(frame, "a1") > last(frame, "a0"))
    assert compare(frame, STUDY).contrasts[0].effects["superiority"] == pytest.approx(wins)
    assert compare(frame, lower).contrasts[0].effects["superiority"] == pytest.approx(1 - wins)


def test_the_same_frame_gives_the_same_findings_in_any_row_order() -> None:
    frame = frames.sound(STUDY)
    shuffled = Frame(frame.trials.sample(frac=1, random_state=0), frame.epochs.sample(frac=1, random_state=0))
    assert_same(compare(frame, STUDY), compare(shuffled, STUDY))


def assert_same(one: Findings, other: Findings) -> None:
    assert json.dumps(plain(one), sort_keys=True) == json.dumps(plain(other), sort_keys=True)


def plain(value: object) -> object:
    if dataclasses.is_dataclass(value):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    return value


@pytest.mark.parametrize("kind", frames.DEGENERATE)
def test_no_degenerate_frame_breaks_the_comparison(kind: str) -> None:
    found = compare(frames.DEGENERATE[kind](STUDY), STUDY)
    assert len(found.contrasts) == {"missing_arm": 2, "missing_baseline": 0}.get(kind, 3)
    for result in found.contrasts:
        assert len(result.differences) == len(result.blocks)
        assert not set(result.blocks) & set(result.dropped)
        assert all(math.isfinite(difference) for difference in result.differences)
        assert result.verdict.sentence.endswith(".")
        if len(result.blocks) < 2:
            assert result.verdict.word == "undecided"
            assert math.isnan(result.p)


NAMED = {
    "not_a_number": "a3 failed on 1 of 10 blocks (digits/t0/s0: auroc is not a finite number at its last epoch)",
    "infinite": "a3 failed on 1 of 10 blocks (digits/t0/s0: auroc is not a finite number",
    "all_not_a_number": "a0 failed on 10 of 10 blocks",
    "failed": "digits/t0/s0: diverged: Diverged: loss is nan in step 17",
    "all_failed": "a1 - a0 has 0 shared blocks: no interval and no test",
    "pending": "Pending: a3 on 1 block.",
    "nothing_run": "3 contrasts have no shared block yet, as runs are pending: a1 - a0, a2 - a0, a3 - a0. Each counts",
    "unequal_blocks": "a3 - a0 is over 9 of 10 blocks. Left out: digits/t0/s0: a3 is pending",
    "missing_arm": "Not part of this sweep: a3. 1 of 3 declared contrasts is with it: not shown, counted as p = 1.",
    "missing_baseline": "Not part of this sweep: a0. 3 of 3 declared contrasts are with it",
    "one_block": "a1 - a0 has 1 shared block: no interval and no test",
    "two_blocks": "With 2 blocks a two-sided sign-flip or signed-rank test cannot go below p = 0.5",
    "zero_variance": "all 10 differences are equal, so t has no answer and the exact sign-flip test decides",
    "identical_arms": "all 10 differences are exactly zero",
    "ties": "ties among the 10 differences",
    "mixed_commits": "Trials of 2 commits are mixed: 0123456789ab (20), 76543210fedc (20)",
    "changed_study": "The study changed since the run: a0 ran with gone 7 (now null).",
    "other_data": "Arms saw different data on block digits/t0/s0",
    "unequal_epochs": "Trials on digits ran for different numbers of epochs: 10, 12.",
    "no_epochs": "digits/t0/s0: done, but no epochs recorded",
    "no_secondary": "Secondary outcome left out: the frame has no metric 'accuracy'",
}


@pytest.mark.parametrize("kind", frames.DEGENERATE)
def test_every_degenerate_frame_is_named_in_the_warnings(kind: str) -> None:
    found = compare(frames.DEGENERATE[kind](STUDY), STUDY)
    assert NAMED[kind] in "\n".join(found.warnings)


def test_arms_that_lost_equally_many_but_other_blocks_are_not_compared_by_their_means() -> None:
    study = frames.small_study(arms=2, blocks=4)
    frame = frames.sound(study, epochs=2)
    for arm, block in (("a0", "digits/t0/s0"), ("a1", "digits/t0/s1")):
        own = (frame.trials["arm"] == arm) & (frame.trials["block"] == block)
        frame.trials.loc[own, ["state", "reason"]] = ("failed", "diverged")
    assert "Arms finished different blocks" in "\n".join(compare(frame, study).warnings)


def test_before_a_sweep_is_done_waiting_contrasts_take_one_line_and_lost_ones_their_own() -> None:
    waiting = compare(frames.nothing_run(STUDY), STUDY).warnings
    assert not [warning for warning in waiting if "Left out" in warning]
    lost = compare(frames.all_failed(STUDY), STUDY).warnings
    assert not [warning for warning in lost if "as runs are pending" in warning]
    assert len([warning for warning in lost if "has 0 shared blocks" in warning]) == 3


def test_a_sound_frame_has_no_warning_but_its_scope() -> None:
    (scope,) = compare(frames.sound(STUDY), STUDY).warnings
    assert scope.startswith("All blocks are seeds on one split of digits")


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("empty", "has no trials"),
        ("other_study", "is of study 'another', not of 'toy'"),
        ("two_scales", "mixes scales: elsewhere, smoke"),
        ("repeated_cell", "arm 'a0' has 2 trials on block 'digits/t0/s0'"),
        ("repeated_epoch", "epoch 1 of arm 'a0' on block 'digits/t0/s0' is recorded twice"),
        ("no_outcome", "no metric 'auroc'"),
        ("unknown_state", "state 'finished'"),
    ],
)
def test_frames_that_nothing_can_be_made_of_are_refused(kind: str, message: str) -> None:
    frame = frames.REFUSED[kind](STUDY)
    with pytest.raises(FrameError, match=message):
        compare(frame, STUDY)


def test_every_refused_frame_is_tested() -> None:
    assert len(frames.REFUSED) == 7


def test_without_variation_identical_arms_are_equivalent_and_others_decided_by_sign_flips() -> None:
    same = compare(frames.identical_arms(STUDY), STUDY).contrasts
    assert {r.verdict.word for r in same} == {"equivalent"}
    apart = compare(frames.zero_variance(STUDY), STUDY).contrasts
    assert {r.verdict.word for r in apart} == {"better"}
    assert {r.p for r in apart} == {2 / 1024}
    assert all(math.isnan(r.interval.low) for r in apart)


def test_arms_that_differ_in_the_last_bits_are_equal() -> None:
    study = frames.small_study(arms=3, blocks=8)
    level = [0.8 + i / 100 for i in range(8)]
    noisy = [[value + (1 + (i + k) % 3) * 1.2e-16 for i, value in enumerate(level)] for k in (0, 1)]
    found = compare(ending(study, a0=level, a1=noisy[0], a2=noisy[1]), study)
    assert [set(result.differences) for result in found.contrasts] == [{0.0}, {0.0}]
    assert {result.verdict.word for result in found.contrasts} == {"equivalent"}
    assert found.ranks is not None
    assert found.ranks.p == 1.0


@pytest.mark.parametrize("test", ["t", "sign-flip"])
def test_a_difference_of_exactly_the_margin_is_not_within_it(test: str) -> None:
    """Each arm is a point above the other, though all these differences of floats are below 0.01."""
    level = [20, 23, 28, 34, 40, 46, 56, 68]
    before, after = ([(value + more) / 100 for value in level] for more in (0, 1))
    assert all(one - other < 0.01 for one, other in zip(after, before, strict=True))
    contrast = Contrast(arm="a1", reference="a0", claim="equivalence", margin=0.01, test=test)
    study = frames.small_study(arms=2, blocks=8, contrasts=(contrast,))
    (result,) = compare(ending(study, a0=before, a1=after), study).contrasts
    assert (set(result.differences), result.p, result.verdict.word) == ({0.01}, 1.0, "better")


def test_leaning_differences_are_named() -> None:
    frame = frames.sound(STUDY, noise=0.0)

    def lean(value: float, block: str) -> float:
        return value + (0.5 if block.endswith("s3") else 0.001 * int(block[-1]))

    own = (frame.epochs["arm"] == "a1") & (frame.epochs["epoch"] == 12)
    frame.epochs.loc[own, "auroc"] = [
        lean(value, block) for value, block in frame.epochs.loc[own, ["auroc", "block"]].itertuples(index=False)
    ]
    assert "a1 - a0: the differences lean to one side" in "\n".join(compare(frame, STUDY).warnings)


def test_an_oracle_is_labelled() -> None:
    study = dataclasses.replace(STUDY, outcome=dataclasses.replace(STUDY.outcome, select="best_oracle"))
    assert "'best_oracle'" in compare(frames.sound(study), study).warnings[0]


def test_friedman_is_over_the_blocks_that_every_arm_finished() -> None:
    found = compare(frames.failed(STUDY), STUDY)
    assert found.ranks.n == 9
    assert found.omnibus == {"statistic": found.ranks.statistic, "p": found.ranks.p, "n": 9, "k": 4}
    frame = frames.sound(STUDY)
    expected = stats.friedmanchisquare(*(last(frame, f"a{i}") for i in range(4)))
    assert compare(frame, STUDY).ranks.statistic == pytest.approx(expected.statistic)


def test_a_block_of_different_data_is_in_no_comparison_of_several_arms() -> None:
    arms = [dataclasses.replace(arm, factors={"p": i // 2, "k": i % 2}) for i, arm in enumerate(STUDY.arms)]
    study = dataclasses.replace(STUDY, arms=tuple(arms))
    whole, other = (compare(build(study), study) for build in (frames.sound, frames.other_data))
    assert (whole.ranks.n, whole.factorial.n) == (10, 10)
    assert (other.ranks.n, other.factorial.n) == (9, 9)
    blocks = tuple(Block(dataset=name, seed=seed) for name in ("digits", "mnist") for seed in range(4))
    several = dataclasses.replace(study, scales=(Scale(name="smoke", blocks=blocks),))
    assert compare(frames.other_data(several), several).interquartile == {}, "4 and 3 blocks"


def test_arms_have_their_t_intervals_and_secondary_outcomes() -> None:
    frame = frames.sound(STUDY)
    found = compare(frame, STUDY)
    expected = stats.ttest_1samp(last(frame, "a2"), 0).confidence_interval(0.95)
    assert (found.arms[2].mean.low, found.arms[2].mean.high) == pytest.approx(tuple(expected))
    assert found.arms[2].sd == pytest.approx(np.std(last(frame, "a2"), ddof=1))
    assert found.secondary["accuracy"][1].mean.estimate == pytest.approx(last(frame, "a1", "accuracy").mean())


def test_bootstrap_intervals_are_left_out_below_ten_blocks() -> None:
    few, many = (compare(frames.sound(STUDY, blocks=n), STUDY).contrasts[0].intervals for n in (9, 10))
    assert "bca" not in few
    assert few["sign-flip"].level >= 0.95
    assert "bca" in many
    assert many["tost"].level == pytest.approx(0.9)


def test_more_blocks_than_can_be_enumerated_repeat_to_the_last_digit() -> None:
    study = frames.small_study(arms=2, blocks=45)
    frame = frames.sound(study, epochs=2)
    assert_same(compare(frame, study), compare(frame, study))
    other = compare(frame, study, generator=np.random.default_rng(1)).contrasts[0].other_p["sign-flip"]
    assert other == pytest.approx(compare(frame, study).contrasts[0].other_p["sign-flip"], abs=0.01)


@pytest.mark.parametrize("name", catalogue.names())
def test_a_study_of_the_catalogue_does_not_look_changed_when_it_is_not(name: str) -> None:
    """The plan's own configs, as records store them, are those that the audit expects."""
    study = catalogue.load(name)
    for scale in (study.scales[0], study.scales[-1]):
        whole = plan(study, scale.name)
        configs = {trial.id: json.dumps(dict(trial.config), sort_keys=True) for trial in whole.trials}
        cells = {(cell.arm, cell.block.name): configs[cell.trial] for cell in whole.cells}
        frame = frames.sound(study, scale.name, epochs=1)
        frame.trials["config"] = [cells[row.arm, row.block] for row in frame.trials.itertuples()]
        table = read(frame, study, study.outcome)
        assert not [text for text in warnings(frame, study, table) if "changed" in text]
