"""Kendall's tau against SciPy; the comparison with printed numbers by hand."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from analysis import agreement
from analysis.cells import read
from search_spaces.study import Published
from tests.analysis import frames


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=3, max_size=9))
def test_kendall_is_scipys(pairs: list[tuple[int, int]]) -> None:
    printed, ours = np.array(pairs, dtype=float).T
    expected = stats.kendalltau(printed, ours).statistic
    assert agreement.kendall(printed, ours[None, :])[0] == pytest.approx(0.0 if math.isnan(expected) else expected)


def test_tau_of_clear_orders() -> None:
    printed = np.array([1.0, 2.0, 3.0, 4.0])
    ours = np.tile(printed, (6, 1)) + np.random.default_rng(0).normal(0, 1e-3, (6, 4))
    found = agreement.mean_tau([(printed, ours)], generator=np.random.default_rng(0))
    assert (found.estimate, found.low, found.high) == (1.0, 1.0, 1.0)
    assert agreement.mean_tau([(printed, -ours)], generator=np.random.default_rng(0)).estimate == -1.0


def test_tau_is_averaged_over_datasets_and_its_interval_holds_the_noise() -> None:
    printed = np.array([1.0, 2.0, 3.0])
    ours = np.tile(printed, (8, 1)) + np.random.default_rng(1).normal(0, 6, (8, 3))
    found = agreement.mean_tau([(printed, ours), (printed, -ours)], generator=np.random.default_rng(0))
    assert found.estimate == pytest.approx(0)
    assert found.low < 0 < found.high


def test_one_block_has_a_tau_without_interval() -> None:
    found = agreement.mean_tau([(np.arange(3.0), np.arange(3.0)[None, :])], generator=np.random.default_rng(0))
    assert found.estimate == 1.0
    assert math.isnan(found.low)


def _published(dataset: str, *values: float, metric: str = "auroc") -> tuple[Published, ...]:
    return tuple(
        Published(arm=f"a{i}", dataset=dataset, metric=metric, value=value, where=f"Table 1, row {i}")
        for i, value in enumerate(values)
    )


def _compare(published: tuple[Published, ...], shifts: dict[str, float]) -> agreement.Agreement:
    study = frames.small_study(published=published)
    frame = frames.sound(study, shifts=shifts, noise=1e-4)
    return agreement.compare_published(frame, read(frame, study, study.outcome), study)


def test_rows_and_signs_on_the_papers_dataset() -> None:
    found = _compare(_published("digits", 90.0, 92.0, 89.0), {"a1": 0.03, "a2": 0.01})
    first, second = found.contrasts
    assert (first.published, second.published) == (2.0, -1.0)
    assert first.ours == pytest.approx(3.0, abs=0.05)
    assert (first.agree, second.agree, first.ours_on) == (True, False, "")
    assert (found.agreed, found.comparable) == (1, 2)
    assert [row.n for row in found.rows] == [6, 6, 6]
    assert found.rows[1].ours - found.rows[0].ours == pytest.approx(3.0, abs=0.05)
    assert found.tau.estimate == pytest.approx(1 / 3)


def test_another_dataset_lends_its_signs_but_never_its_values() -> None:
    found = _compare(_published("cifar10", 90.0, 92.0, 89.0), {"a1": 0.03, "a2": -0.01})
    assert all(row.ours is None for row in found.rows)
    assert [contrast.ours_on for contrast in found.contrasts] == ["digits", "digits"]
    assert found.agreed == 2


def test_equal_printed_numbers_have_no_sign_to_agree_with() -> None:
    found = _compare(_published("digits", 90.0, 90.0), {"a1": 0.03})
    assert [contrast.agree for contrast in found.contrasts] == [None]
    assert found.comparable == 0
    assert found.tau is None


def test_a_printed_metric_that_is_no_outcome_has_its_row_where_it_was_measured() -> None:
    study = frames.small_study(published=_published("digits", 95.0, 96.0, metric="auroc_near"))
    frame = frames.sound(study, noise=1e-4)
    frame.epochs["auroc_near"] = frame.epochs["accuracy"] / 2
    found = agreement.compare_published(frame, read(frame, study, study.outcome), study)
    accuracy = read(frame, study, study.secondary[0])
    for row in found.rows:
        assert row.ours == pytest.approx(50 * np.mean(list(accuracy.values[row.arm].values())))
        assert row.n == 6


def test_a_printed_secondary_metric_has_its_row() -> None:
    found = _compare(_published("digits", 95.0, 96.0, metric="accuracy"), {})
    assert [row.n for row in found.rows] == [6, 6]
    assert found.contrasts == ()


def test_a_method_that_we_do_not_run_is_a_row_without_ours() -> None:
    foreign = Published(arm="SomebodyElse", dataset="digits", metric="auroc", value=88.0, where="Table 1")
    found = _compare((foreign,), {})
    assert (found.rows[0].ours, found.rows[0].n) == (None, 0)


def test_nothing_published_is_nothing_to_compare() -> None:
    study = frames.small_study()
    frame = frames.sound(study)
    assert agreement.compare_published(frame, read(frame, study, study.outcome), study) is None
