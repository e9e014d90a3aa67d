"""The open-set studies against what the thesis printed, and their arms against its losses, whatever they are called."""

from collections import defaultdict

import pytest
import torch

from search_spaces import margins
from search_spaces.study import Study
from trainables.margins import LOSSES, named

STUDIES = {study.name: study for study in margins.STUDIES}
COLUMNS = ("ccr_1e-3", "ccr_1e-2", "ccr_1e-1", "ccr_1")


def sums(studies: list[Study], where: str) -> dict[tuple[str, str], tuple[int, int]]:
    """(data, metric) -> how many different losses have a printed cell there, and the cells' sum in hundredths."""
    found: dict[tuple[str, str], dict[str, int]] = defaultdict(dict)
    for study in studies:
        for cell in study.published:
            if cell.where.startswith(where):
                loss = cell.where.removeprefix(where)
                value = round(100 * cell.value)
                assert found[cell.dataset, cell.metric].setdefault(loss, value) == value
    return {key: (len(values), sum(values.values())) for key, values in found.items()}


def test_columns_of_the_printed_tables_add_up():
    """Numbers of cells and sums, taken from the tables themselves: any wrong, missing or shifted cell changes one."""
    toy = {"ccr_1e-3": (13, 75604), "ccr_1e-2": (14, 96406), "ccr_1e-1": (14, 131898), "ccr_1": (14, 139070)}
    earlier = {"ccr_1e-3": (4, 37476), "ccr_1e-2": (5, 41428), "ccr_1e-1": (5, 47927), "ccr_1": (5, 49588)}
    everything = list(STUDIES.values())
    assert sums(everything, "Table 6.1") == {("toy", metric): value for metric, value in toy.items()}
    assert sums(everything, "toy run") == {("toy", metric): value for metric, value in earlier.items()}
    imagenet = {
        "imagenet-p1": ((12, 22283), (12, 53138), (12, 71513), (12, 76546)),
        "imagenet-p2": ((9, 3301), (12, 17039), (12, 49805), (12, 78198)),
        "imagenet-p3": ((5, 1881), (12, 20168), (12, 67364), (12, 92807)),
    }
    assert sums([STUDIES["margins_protocols"]], "Table 6.2") == {
        (data, metric): value
        for data, values in imagenet.items()
        for metric, value in zip(COLUMNS, values, strict=True)
    }


@pytest.mark.parametrize(
    ("study", "arm", "printed"),
    [
        ("margins_types", "cosface", (3.61, 27.89, 89.0, 99.34)),
        ("margins_value", "hfn_ang_0.5", (1.07, 17.45, 88.01, 99.42)),
        ("margins_scale", "cos_eos_p0.999995", (98.49, 99.19, 99.23, 99.23)),
        ("margins_norm", "cos_eos_hfn", (98.49, 99.19, 99.23, 99.23)),
        ("margins_norm", "cos_eos_sfn_as_run", (95.79, 98.48, 99.28, 99.30)),
        ("margins_norm", "cos_eos_sfn", ()),
        ("margins_norm", "ang_ce_sfn", (6.17, 55.22, 91.4, 99.39)),
        ("margins_osreg", "arc_os_non_symmetric", (87.69, 94.99, 98.57, 99.33)),
        ("margins_lambda", "cos_os_0.01", (88.41, 95.03, 98.45, 99.39)),
        ("margins_lambda", "cos_os_0.1", ()),
        ("margins_dim", "cos_eos_K=C", (98.49, 99.19, 99.23, 99.23)),
        ("margins_dim", "cos_eos_K=2", ()),
        ("margins_control", "sfn_norm", ()),
        ("margins_detach", "sphere_hfn_detached", (3.02, 16.44, 86.07, 99.27)),
        ("margins_flags", "none_bias", (88.41, 95.03, 98.45, 99.39)),
        ("margins_score", "sm_softmax_softmax", (27.89, 83.1, 99.21)),
        ("margins_score", "cosface_logit", ()),
        ("margins_arcos", "m=0.5_lr=0.001_constant", (0.0, 0.0, 0.09, 1.26)),
    ],
)
def test_an_arm_that_the_thesis_ran_has_its_numbers_and_no_other_has(study, arm, printed):
    assert tuple(cell.value for cell in STUDIES[study].published if cell.arm == arm) == printed


def test_what_the_thesis_compares_can_be_compared_in_sign():
    """HFN with SFN for Margin-EOS, and symmetric with asymmetric: both sides of each contrast are printed."""
    for name, pairs in {
        "margins_norm": {("cos_eos_sfn_as_run", "cos_eos_hfn"), ("arc_eos_sfn_as_run", "ang_eos_hfn")},
        "margins_osreg": {("cos_os", "cos_os_non_symmetric"), ("arc_os", "arc_os_non_symmetric")},
    }.items():
        study = STUDIES[name]
        printed = {cell.arm for cell in study.published if cell.metric == study.outcome.metric}
        assert pairs <= {(contrast.arm, contrast.reference) for contrast in study.contrasts}
        assert printed >= {arm for pair in pairs for arm in pair}


def test_arms_named_as_a_loss_are_that_loss():
    for study in STUDIES.values():
        for arm in study.arms:
            if arm.name in LOSSES:
                assert arm.config == named(arm.name), (study.name, arm.name)


def test_the_noise_of_one_seed_is_what_two_runs_of_the_thesis_differ_by():
    """At FPR 1e-2, losses that both runs have; the earlier one's numbers are printed here alone."""
    earlier = {"cosface": 0.4091, "arcface": 0.3418, "cosface_sfn": 0.5451, "cos_eos": 0.9936, "arc_os": 0.9543}
    apart = max(abs(margins.TABLE_6_1[loss][1] - value) for loss, value in earlier.items())
    assert f"up to {apart:.2f} at FPR 1e-2" in margins.ONE_SEED


def test_rates_on_both_groups_are_read_in_every_study():
    for study in STUDIES.values():
        read = {outcome.metric for outcome in (study.outcome, *study.secondary)}
        assert read >= {"accuracy", *COLUMNS, *(f"ccr_negative_{rate}" for rate in ("1e-3", "1e-2", "1e-1"))}


def test_the_scale_from_which_a_score_is_exactly_1_is_what_the_note_says():
    def score(s: float, cosine: float) -> float:
        return float(torch.softmax(torch.tensor([s] + [s * cosine] * 9), dim=0)[0])

    for cosine, about in ((0.0, 16.7), (-1 / 9, 15.0)):
        assert score(13.0, cosine) < 1
        assert score(about - 0.3, cosine) < 1
        assert score(about + 0.3, cosine) == 1
    assert any("about 16.7" in note and "15 where" in note for note in STUDIES["margins_scale"].notes)
