"""Against statsmodels and brute force."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from statsmodels.stats.weightstats import DescrStatsW

from analysis import equivalence
from analysis.effects import mean_t
from analysis.significance import sign_flip

samples = st.lists(st.integers(-40, 40), min_size=3, max_size=9, unique=True).map(lambda xs: np.array(xs) / 16)


@pytest.mark.parametrize("margin", [0.1, 0.5, 2.0])
def test_tost_t_is_that_of_statsmodels(margin: float) -> None:
    values = np.random.default_rng(0).normal(0.2, 0.5, 12)
    assert equivalence.tost_t(values, margin) == pytest.approx(DescrStatsW(values).ttost_mean(-margin, margin)[0])


@given(samples, st.floats(0.01, 3))
def test_tost_agrees_with_its_interval(values: np.ndarray, margin: float) -> None:
    """TOST rejects at 5 % exactly where the 90 % interval lies within the margins (Schuirmann 1987)."""
    interval = mean_t(values, 0.90)
    inside = -margin < interval.low and interval.high < margin
    p = equivalence.tost_t(values, margin)
    assert (p < 0.05) == inside or abs(p - 0.05) < 1e-9


@given(samples, st.floats(0.01, 3))
def test_a_wider_margin_is_easier(values: np.ndarray, margin: float) -> None:
    assert equivalence.tost_t(values, 2 * margin) <= equivalence.tost_t(values, margin) + 1e-12
    assert equivalence.tost_sign_flip(values, 2 * margin) <= equivalence.tost_sign_flip(values, margin) + 1e-12


@given(samples)
def test_tost_mirrors(values: np.ndarray) -> None:
    assert equivalence.tost_t(-values, 1.0) == pytest.approx(equivalence.tost_t(values, 1.0), rel=1e-9)
    assert equivalence.tost_sign_flip(-values, 1.0) == equivalence.tost_sign_flip(values, 1.0)


def test_tost_sign_flip_is_two_one_sided_sign_flips_by_hand() -> None:
    # Moved up by 1 both are positive, and 1 of 4 sign vectors reaches their sum; moved down by 1 likewise.
    assert equivalence.tost_sign_flip([-0.3, 0.1], 1.0) == 0.25
    values = np.array([0.5, -0.25, 1.5, 0.125, -0.75])
    expected = max(sign_flip(values + 1, side="greater"), sign_flip(values - 1, side="less"))
    assert equivalence.tost_sign_flip(values, 1.0) == expected


@pytest.mark.parametrize("margin", [0.0, -1.0, float("nan")])
def test_the_margin_must_be_positive(margin: float) -> None:
    with pytest.raises(ValueError, match="above 0"):
        equivalence.tost_t([0.1, 0.2, 0.4], margin)
