"""Against slow loops."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.frame import Frame, FrameError
from analysis.selection import outcomes, select
from search_spaces.study import Outcome
from tests.analysis import frames

curves = st.lists(st.floats(-1, 1) | st.just(float("nan")), min_size=1, max_size=30).map(lambda c: [*c, 0.5])


@given(curves)
def test_rules_are_the_slow_loops(curve: list[float]) -> None:
    measured = [value for value in curve if value == value]
    tail = sorted(value for value in curve[-10:] if value == value)
    middle = len(tail) // 2
    median = tail[middle] if len(tail) % 2 else (tail[middle - 1] + tail[middle]) / 2
    assert select(curve, "last") == curve[-1]
    assert select(curve, "best_oracle") == max(measured)
    assert select(curve, "best_oracle", higher_is_better=False) == min(measured)
    assert select(curve, "median_last_10") == pytest.approx(median)


@given(curves)
def test_the_oracle_is_never_behind(curve: list[float]) -> None:
    best = select(curve, "best_oracle")
    assert best >= select(curve, "last")
    assert best >= select(curve, "median_last_10")


@pytest.mark.parametrize("rule", ["last", "best_oracle", "median_last_10"])
@pytest.mark.parametrize("end", [float("nan"), float("inf"), -float("inf")])
def test_a_run_that_ends_without_a_number_has_no_outcome(rule: str, end: float) -> None:
    assert np.isnan(select([0.9, 0.8, end], rule))


def test_a_run_without_epochs_has_no_outcome() -> None:
    assert np.isnan(select([], "last"))


def test_an_unknown_rule_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match="'best' is unknown; allowed: last, best_oracle, median_last_10"):
        select([0.1], "best")


def test_outcomes_go_by_epoch_number_not_by_row() -> None:
    frame = frames.sound(frames.small_study())
    shuffled = Frame(frame.trials, frame.epochs.sample(frac=1, random_state=1))
    outcome = Outcome(metric="auroc", label="AUROC")
    pd.testing.assert_series_equal(
        outcomes(frame, outcome), outcomes(shuffled, outcome).loc[outcomes(frame, outcome).index]
    )
    last = frame.epochs[frame.epochs["epoch"] == 12].set_index(["arm", "block"])["auroc"]
    assert outcomes(frame, outcome).to_dict() == last.to_dict()


def test_a_metric_that_was_not_measured_gives_the_nearest() -> None:
    frame = frames.sound(frames.small_study())
    with pytest.raises(FrameError, match=r"no metric 'aurocc'\. Did you mean 'auroc'"):
        outcomes(frame, Outcome(metric="aurocc", label=""))


def test_nothing_run_has_no_outcomes_whatever_the_columns() -> None:
    frame = frames.nothing_run(frames.small_study())
    assert outcomes(frame, Outcome(metric="unheard", label="")).empty
