"""Every study of the catalogue at smoke scale, every arm, from plan to findings, in this process.

All share one home, so a trial that several studies want is trained once here too.
"""

import math
from pathlib import Path

import pandas as pd
import pytest

from ablate import driver, exhibits, records
from ablate.execution import Options
from ablate.home import Home
from ablate.plan import Plan, plan
from ablate.wanted import pending
from analysis import drawing, gallery
from analysis.contrasts import compare
from analysis.frame import VOLATILE
from search_spaces import catalogue

STUDIES = catalogue.imported()


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Home:
    return Home(tmp_path_factory.mktemp("home"))


def run(home: Home, smoke: Plan) -> driver.Result:
    return driver.run(smoke, Options(home=home, local=True, download=False))


@pytest.mark.parametrize("name", STUDIES)
def test_every_arm_runs_and_the_study_gets_its_findings(home, name):
    study = STUDIES[name]
    result = run(home, plan(study, "smoke"))
    smoke = result.plan  # a tuning study's grows
    study = smoke.study
    assert not result.failed
    assert result.done == tuple(trial.id for trial in smoke.trials)

    frame = records.frame(home, smoke)
    assert list(frame.trials["arm"]) == [cell.arm for cell in smoke.cells]
    assert set(frame.trials["state"]) == {"done"}
    last = frame.epochs.groupby(["arm", "block"], sort=False).last()
    for outcome in (study.outcome, *study.secondary):
        assert last[outcome.metric].notna().all(), outcome.metric
    for metric in {"auroc", "accuracy"} & set(last.columns):
        assert last[metric].between(0, 1).all()

    findings = compare(frame, study)
    assert [summary.n for summary in findings.arms] == [len(smoke.scale.blocks)] * len(study.arms)
    assert len(findings.contrasts) == len(study.contrasts_at("smoke"))
    assert all(math.isfinite(contrast.interval.estimate) for contrast in findings.contrasts)

    shown = exhibits.gather(home, smoke, frame)
    assert not shown.unreadable
    for figure in study.figures:
        pictures = gallery.DRAWINGS[figure](shown, study)
        assert pictures, f"no run leaves what {figure!r} draws"
        assert all(drawing.render(picture).svg for picture in pictures)


def test_a_second_run_trains_nothing_and_finds_the_same(home):
    smoke = plan(STUDIES["gradmix_layers"], "smoke")
    run(home, smoke)
    before = records.frame(home, smoke)
    again = run(home, smoke)
    assert again.trained == 0
    after = records.frame(home, smoke)
    pd.testing.assert_frame_equal(after.trials, before.trials)
    pd.testing.assert_frame_equal(after.epochs, before.epochs)


def test_what_one_study_trained_the_next_does_not(home):
    run(home, plan(STUDIES["gradmix_layers"], "smoke"))
    wanted = plan(STUDIES["gradmix_augmentation"], "smoke")
    shared = {trial.id for trial in plan(STUDIES["gradmix_layers"], "smoke").trials} & {t.id for t in wanted.trials}
    assert len(shared) == 2, "conv5_2 is GradMix on both blocks"
    assert not shared & set(pending(wanted, Options(home=home)))


def test_scoring_a_network_elsewhere_gives_what_its_own_trial_reported(home):
    """knn_osr with the defaults of GradMix's own evaluation, through a checkpoint on disk: the same numbers."""
    scored, trained = plan(STUDIES["gradmix_k"], "smoke"), plan(STUDIES["gradmix_layers"], "smoke")
    for each in (trained, scored):
        run(home, each)
    frames = [records.frame(home, each).epochs for each in (scored, trained)]
    k10, conv5_2 = (
        frame[frame["arm"] == arm].set_index("block") for frame, arm in zip(frames, ("k10_raw", "conv5_2"), strict=True)
    )
    last = conv5_2.groupby(level="block").last()
    for metric in ("auroc", "accuracy"):
        pd.testing.assert_series_equal(k10[metric].sort_index(), last[metric].sort_index(), check_exact=True)


def test_two_homes_give_the_same_numbers(home, tmp_path):
    smoke = plan(STUDIES["gradmix_loss"], "smoke")
    frames = []
    for each in (home, Home(Path(tmp_path))):
        run(each, smoke)
        frames.append(records.frame(each, smoke).epochs.drop(columns=list(VOLATILE), errors="ignore"))
    pd.testing.assert_frame_equal(*frames, check_exact=True)
