"""The rule, case by case, and its row form against its parts."""

import dataclasses
import math
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis import display, equivalence, significance, verdict
from analysis.findings import Interval
from search_spaces.study import Outcome

POINTS = Outcome(metric="auroc", label="AUROC")
LOSS = Outcome(metric="loss", label="Loss", higher_is_better=False, unit=1.0)


def evidence(
    estimate: float = 0.013,
    apart: float = 0.5,
    same: float | None = None,
    outcome: Outcome = POINTS,
    n: int = 10,
    needed: int | None = None,
) -> verdict.Evidence:
    return verdict.Evidence(
        arm="Layer 4",
        reference="Baseline",
        n=n,
        interval=Interval(estimate, estimate - 0.009, estimate + 0.009, 0.95, "t"),
        p_difference=apart,
        p_equivalence=same,
        margin=None if same is None else 0.01,
        alpha=0.05,
        outcome=outcome,
        needed=needed,
    )


@pytest.mark.parametrize(
    ("claim", "apart", "same", "word"),
    [
        ("difference", 0.05, None, "better"),
        ("difference", 0.051, None, "undecided"),
        ("difference", 0.2, 0.05, "equivalent"),
        ("difference", 0.01, 0.01, "better"),
        ("difference", 0.2, 0.2, "undecided"),
        ("equivalence", 0.01, 0.01, "equivalent"),
        ("equivalence", 0.01, 0.2, "better"),
        ("equivalence", 0.2, 0.05, "equivalent"),
        ("equivalence", 0.2, 0.2, "undecided"),
        ("difference", math.nan, math.nan, "undecided"),
        ("equivalence", math.nan, math.nan, "undecided"),
    ],
)
def test_the_rule(claim: str, apart: float, same: float | None, word: str) -> None:
    assert verdict.RULES[claim](evidence(apart=apart, same=same)).word == word


def test_direction_follows_the_outcome() -> None:
    assert verdict.difference(evidence(0.013, 0.01)).word == "better"
    assert verdict.difference(evidence(-0.013, 0.01)).word == "worse"
    assert verdict.difference(evidence(0.013, 0.01, outcome=LOSS)).word == "worse"
    assert verdict.difference(evidence(-0.013, 0.01, outcome=LOSS)).word == "better"


def test_sentences() -> None:
    assert verdict.difference(evidence(0.013, 0.0123)).sentence == (
        "Layer 4 is better than Baseline by 1.3 points (95% interval 0.4 to 2.2, corrected p = 0.012, 10 blocks)."
    )
    assert verdict.equivalence(evidence(0.002, 0.01, 0.00001)).sentence == (
        "Layer 4 and Baseline are equivalent within 1 point (95% interval −0.7 to 1.1, corrected p < 0.0001, 10 "
        "blocks); the difference of 0.2 points is real but within the margin."
    )
    assert verdict.difference(evidence(0.002, 0.01, 0.01)).sentence.endswith(
        "though by less than the margin of 1 point."
    )


def test_the_interval_is_that_of_the_size_named() -> None:
    """'By 1.3 points' with an interval around minus 1.3 would contradict itself."""
    assert verdict.difference(evidence(-0.013, 0.0123)).sentence == (
        "Layer 4 is worse than Baseline by 1.3 points (95% interval 0.4 to 2.2, corrected p = 0.012, 10 blocks)."
    )
    loss = dataclasses.replace(evidence(-0.013, 0.0123, outcome=LOSS), corrected=False)
    assert verdict.difference(loss).sentence == (
        "Layer 4 is better than Baseline by 0.013 (95% interval 0.004 to 0.022, p = 0.012, 10 blocks)."
    )


def test_undecided_says_what_would_decide() -> None:
    found = verdict.difference(evidence(apart=0.3, same=0.4, needed=34))
    assert found.blocks_needed == 34
    assert "nor shown to be equivalent (95% interval 0.4 to 2.2, corrected p = 0.3 for a difference and = 0.4 for" in (
        found.sentence
    )
    assert found.sentence.endswith("About 34 blocks would likely decide, at the mean and variance seen.")
    assert "No affordable number" in verdict.difference(evidence(apart=0.9)).sentence


@pytest.mark.parametrize(("n", "have"), [(0, "no block"), (1, "one block")])
def test_too_few_blocks_are_said(n: int, have: str) -> None:
    found = verdict.difference(evidence(math.nan, math.nan, n=n))
    assert found.sentence == f"Layer 4 and Baseline share {have}; a verdict needs at least two."


def test_rows_are_the_tests_one_by_one() -> None:
    rows = np.random.default_rng(0).normal(0.3, 1, size=(50, 6))
    rows[:3] = [[0.5] * 6, [0.0] * 6, [-2.0] * 6]
    apart, same = verdict.p_difference_rows(rows), verdict.p_equivalence_rows(rows, 1.0)
    assert not verdict.coarse(rows).any()
    for row, p, q in zip(rows[3:], apart[3:], same[3:], strict=True):
        assert (p, q) == pytest.approx((significance.paired_t(row), equivalence.tost_t(row, 1.0)))
    assert apart[:3].tolist() == [2 / 64, 1.0, 2 / 64]
    assert same[:3].tolist() == [1 / 64, 1 / 64, 1.0]


@given(st.integers(2, 9), st.integers(-32, 32))
def test_without_variation_the_sign_flip_test_decides(n: int, eighths: int) -> None:
    differences = np.full(n, eighths / 8)
    assert verdict.p_difference(differences, "t") == significance.sign_flip(differences)
    assert verdict.p_equivalence(differences, 2.0, "t") == equivalence.tost_sign_flip(differences, 2.0)


@given(st.integers(3, 12), st.integers(1, 500), st.floats(0.1, 3))
def test_where_values_are_few_the_larger_p_decides(n: int, pattern: int, margin: float) -> None:
    differences = np.array([0.5 if pattern >> i & 1 else 1.0 for i in range(n)])
    if len(set(differences)) == 1:
        return
    assert verdict.coarse(differences)
    apart = max(significance.paired_t(differences), significance.sign_flip(differences))
    same = max(equivalence.tost_t(differences, margin), equivalence.tost_sign_flip(differences, margin))
    assert verdict.p_difference(differences, "t") == pytest.approx(apart)
    assert verdict.p_equivalence(differences, margin, "t") == pytest.approx(same)


@pytest.mark.parametrize(
    ("values", "few"),
    [([1, 2], False), ([1, 1, 2], True), ([1, 1, 2, 3], False), ([0] * 10 + [1, 2], True), ([1] * 40 + [2], False)],
)
def test_what_counts_as_coarse(values: list[int], few: bool) -> None:
    assert bool(verdict.coarse(np.array(values, dtype=float))) == few


def test_the_test_that_decided_is_named() -> None:
    fine, few, equal = np.array([1.0, 2.0, 4.0]), np.array([1.0, 1.0, 2.0]), np.ones(3)
    assert verdict.test_name(fine, "t", "difference") == "paired t"
    assert verdict.test_name(fine, "sign-flip", "equivalence") == "TOST, sign-flip (exact)"
    assert verdict.test_name(np.arange(41.0), "sign-flip", "difference") == "sign-flip (99999 random draws)"
    assert verdict.test_name(few, "t", "difference").startswith("paired t and sign-flip")
    assert verdict.test_name(equal, "t", "difference").startswith("sign-flip (exact), as")


def test_the_declared_test_decides() -> None:
    differences = np.array([0.4, 0.5, 0.3, 0.6, 0.45])
    assert verdict.p_difference(differences, "sign-flip") == 0.0625
    assert verdict.p_difference(differences, "t") < 0.01
    assert verdict.p_equivalence(differences, 1.0, "sign-flip") == 1 / 32


def test_one_difference_has_no_p() -> None:
    assert math.isnan(verdict.p_difference(np.array([0.1]), "t"))
    assert math.isnan(verdict.p_equivalence(np.array([0.1]), 1.0, "sign-flip"))


def test_blocks_needed_has_power_by_simulation() -> None:
    """Samples with the mean and sd seen, at the size named, end decided in about 80 % of the cases."""
    seen = np.array([0.3, -0.9, 1.6, 0.2, 1.1, -0.4])
    needed = verdict.blocks_needed(seen, None, "t", 0.05)
    draws = np.random.default_rng(0).normal(seen.mean(), seen.std(ddof=1), size=(20_000, needed))
    assert np.mean(verdict.p_difference_rows(draws) <= 0.05) == pytest.approx(0.8, abs=0.015)


def test_blocks_needed_limits() -> None:
    assert verdict.blocks_needed(np.array([0.1]), None, "t", 0.05) is None
    assert verdict.blocks_needed(np.zeros(4), None, "t", 0.05) is None
    assert verdict.blocks_needed(np.full(4, 0.2), None, "t", 0.05) == 6  # 2 / 2^6 is the first below 0.05
    assert verdict.blocks_needed(np.array([1.0, 1.1, 0.9]), None, "sign-flip", 0.01) == 8
    assert verdict.blocks_needed(np.array([1e-9, -1e-9, 1e-9, -1e-9]), None, "t", 0.05) is None


def test_blocks_needed_of_coarse_differences_can_decide() -> None:
    """Six gains of a point and two ties: t alone would want 9 blocks, with which the sign-flip test cannot reject."""
    seen, alpha = np.array([0.01] * 6 + [0.0] * 2), 0.05 / 6
    assert verdict.blocks_needed(seen, None, "t", alpha) == verdict.blocks_needed(seen, None, "sign-flip", alpha) == 11
    nine, eleven = (np.array([0.01] * gains + [0.0] * ties) for gains, ties in ((7, 2), (8, 3)))
    assert verdict.p_difference(eleven, "t") <= alpha < verdict.p_difference(nine, "t")


def test_numbers_for_people() -> None:
    assert [verdict.number(x) for x in (1.25e-5, 0.5, 12.345, 12345.6)] == ["1.25e-05", "0.5", "12.3", "12346"]
    assert verdict.amount(0.01, POINTS) == "1 point"
    assert verdict.amount(0.5, LOSS) == "0.5"
    assert verdict.p_text(0.00009) == "< 0.0001"


@pytest.mark.parametrize("alpha", [0.01, 0.05, 0.1])
@given(share=st.floats(0.97, 1.03))
def test_p_is_never_rounded_across_a_level(alpha: float, share: float) -> None:
    """'Undecided' beside 'p = 0.05' at level 0.05 would contradict the rule."""
    p = alpha * share
    for shown in (verdict.p_text(p), display.p_value(p)):
        sign, value = re.fullmatch(r"([=<>]?) ?([0-9.]+)", shown).groups()
        assert (float(value) > alpha or (sign == ">" and float(value) == alpha)) == (p > alpha)
