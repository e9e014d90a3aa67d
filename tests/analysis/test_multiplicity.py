"""Against statsmodels."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.stats.multitest import multipletests

from analysis import multiplicity
from search_spaces.study import CORRECTIONS

families = st.lists(st.floats(0, 1), min_size=1, max_size=12)
SAME_THERE = {"holm": "holm", "hochberg": "simes-hochberg", "benjamini-hochberg": "fdr_bh"}


@pytest.mark.parametrize("name", SAME_THERE)
@given(p=families)
@settings(max_examples=50)
def test_corrections_are_those_of_statsmodels(name: str, p: list[float]) -> None:
    expected = multipletests(p, method=SAME_THERE[name])[1]
    assert multiplicity.CORRECTIONS[name](p) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("name", multiplicity.CORRECTIONS)
@given(p=families, seed=st.integers(0, 999))
def test_order_does_not_matter_and_nothing_shrinks(name: str, p: list[float], seed: int) -> None:
    correct, order = multiplicity.CORRECTIONS[name], np.random.default_rng(seed).permutation(len(p))
    adjusted = correct(p)
    assert correct(np.array(p)[order]) == pytest.approx(adjusted[order])
    assert (adjusted >= np.array(p) - 1e-15).all()
    assert (adjusted <= 1).all()


def test_every_correction_that_a_study_may_declare_is_here() -> None:
    assert set(multiplicity.CORRECTIONS) == set(CORRECTIONS)


def test_rows_are_corrected_each_by_itself() -> None:
    rows = np.random.default_rng(0).random((5, 4))
    assert multiplicity.holm(rows) == pytest.approx(np.array([multiplicity.holm(row) for row in rows]))


def test_none_changes_nothing() -> None:
    assert multiplicity.none([0.3, 0.01]).tolist() == [0.3, 0.01]


@pytest.mark.parametrize("p", [[0.2, float("nan")], [1.5], [-0.1]])
def test_what_is_no_p_value_is_refused(p: list[float]) -> None:
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\]"):
        multiplicity.holm(p)
