"""The verdict's error rates, by a small simulation; `benchmarks.calibration` does the rest, with the same noise."""

import math

import numpy as np
import pytest

from analysis import verdict
from analysis.multiplicity import holm
from benchmarks import calibration

DRAWS = 3_000
ROOM = 4 * math.sqrt(0.05 * 0.95 / DRAWS)
PROMISED = [name for name, shape in calibration.SHAPES.items() if shape.promised]


@pytest.mark.parametrize("name", PROMISED)
def test_wrong_verdicts_of_a_family_at_five_blocks(name: str) -> None:
    outcomes = calibration.SHAPES[name].draw(np.random.default_rng(0), (DRAWS, 5, 4))
    differences = np.moveaxis(outcomes[:, :, 1:] - outcomes[:, :, :1], 2, 1)
    apart = verdict.p_difference_rows(differences.reshape(-1, 5)).reshape(DRAWS, 3)
    assert (holm(apart) <= 0.05).any(axis=1).mean() <= 0.05 + ROOM
    margin = 4 * differences.std() / math.sqrt(5)
    same = verdict.p_equivalence_rows((differences + margin).reshape(-1, 5), margin).reshape(DRAWS, 3)
    assert (holm(same) <= 0.05).any(axis=1).mean() <= 0.05 + ROOM


@pytest.mark.parametrize("name", ["normal", "unequal arms"])
@pytest.mark.parametrize("n", [5, 20])
def test_t_interval_covers_where_it_promises_to(name: str, n: int) -> None:
    outcomes = calibration.SHAPES[name].draw(np.random.default_rng(1), (DRAWS, n, 2))
    covered = np.mean(calibration.significance.paired_t_rows(outcomes[:, :, 1] - outcomes[:, :, 0]) > 0.05)
    assert 0.93 <= covered <= 0.97


def test_without_correction_the_family_would_err() -> None:
    """The simulation can fail: it sees the error that the correction removes."""
    outcomes = calibration.SHAPES["normal"].draw(np.random.default_rng(2), (DRAWS, 10, 8))
    differences = np.moveaxis(outcomes[:, :, 1:] - outcomes[:, :, :1], 2, 1)
    p = verdict.p_difference_rows(differences.reshape(-1, 10)).reshape(DRAWS, 7)
    assert (p <= 0.05).any(axis=1).mean() > 0.15


@pytest.mark.slow
def test_the_benchmark_writes_what_it_promises(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "EXACT_DRAWS", 20)
    monkeypatch.setattr(calibration, "BOOTSTRAP_DRAWS", 5)
    figures = list(calibration.simulate(400, 0))
    page = calibration.page(figures, "evidence")
    assert page.count("\n| normal |") == 6
    assert {figure.arms for figure in figures} == set(range(2, 9))
