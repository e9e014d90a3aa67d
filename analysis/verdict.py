"""The rule that turns numbers into a word, one pure function per kind of claim. Nothing else decides.

In prose, for a reviewer:

1. A contrast is tested on the differences (arm minus reference) over the blocks that both arms finished. The test that
   decides is the declared one: the paired t test, unless the study declares the exact sign-flip test for the contrast.
2. Where the differences do not vary at all, t has no answer, and the exact sign-flip test decides in its stead: n
   equal differences that are not zero have p = 2 / 2^n, equal zeros p = 1. So five identical differences decide
   nothing. Where they are coarse, that is 3 to 40 differences with at most two distinct values, or one in four, the
   larger of the two p-values counts: few distinct values make the standard deviation small by accident too often
   (simulation found 6 % wrong 'equivalent' at five blocks under t alone).
3. The p-values of all contrasts of one declared family are corrected together as the study declares (Holm). A contrast
   that cannot be tested (fewer than two shared blocks) stays in its family with p = 1: losing runs must not make the
   others look better. p-values of equivalence (TOST at the stated margin) are corrected in the same way, together with
   those of the family's other contrasts that state a margin.
4. A claim of difference: 'better' or 'worse' if the corrected p of difference is at most alpha; else 'equivalent' if a
   margin is stated and the corrected p of equivalence is at most alpha; else 'undecided'.
5. A claim of equivalence: the same two questions in the other order. So 'equivalent' may be said of a difference that
   is real but smaller than the margin; the sentence then says so, and so it does under 4.

What may go wrong, and how often. With no true difference in a family, the chance of any 'better' or 'worse' is at most
alpha; with all true differences at their margins, the chance of any 'equivalent' is at most alpha. At most one of the
two mistakes is possible for one contrast, so no correction is due between them (Goeman, Solari and Stijnen, Statistics
in Medicine 29 (2010)). In a family where some differences are none and others are at their margins each kind keeps its
alpha, and the two chances may add: 9.6 % in a simulation of two claims of equivalence, 20 blocks. The rates hold
exactly for normal paired differences, and were found by simulation to hold for symmetric ones, heavy-tailed or tied
(`benchmarks/calibration.py`; figures in `results/calibration/`). Two arms with the same noise, however skewed, have
symmetric differences. They do not for differences that are themselves strongly skewed, which takes skewed noise that is
much wider in one arm: no test does, for all such distributions (Bahadur and Savage, Annals of Mathematical Statistics
27 (1956)). A report warns where the differences look so.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from analysis import equivalence as tost
from analysis import power
from analysis.findings import LEVELS, Interval, Verdict, Word
from analysis.significance import (
    DRAWS,
    EXACT_LIMIT,
    Floats,
    constant,
    paired_t_rows,
    sign_flip,
    sign_flip_attainable,
)
from search_spaces.study import Outcome


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What one contrast's verdict rests on."""

    arm: str
    reference: str
    """Labels, for the sentence."""
    n: int
    interval: Interval
    """Of the mean difference, level 1 - alpha."""
    p_difference: float
    """Corrected; NaN where no test can be made."""
    p_equivalence: float | None
    """Corrected; None without a margin, NaN where no test can be made."""
    margin: float | None
    alpha: float
    outcome: Outcome
    needed: int | None = None
    """Blocks in all that would likely decide."""
    corrected: bool = True
    """Whether the study declares a correction at all."""


def coarse(differences_RN: Floats) -> npt.NDArray[np.bool_]:
    """Rule 2: whether so few values are distinct that t alone is not trusted. False where nothing varies at all."""
    n = differences_RN.shape[-1]
    if not 3 <= n <= EXACT_LIMIT:
        return np.zeros(differences_RN.shape[:-1], dtype=bool)
    size = np.abs(differences_RN).max(axis=-1, keepdims=True)
    distinct = 1 + (np.diff(np.sort(differences_RN, axis=-1), axis=-1) > 1e-9 * size).sum(axis=-1)
    return np.asarray((distinct > 1) & (distinct <= max(2, n / 4)))


def p_difference_rows(differences_RN: Floats) -> Floats:
    """Rules 1 and 2 by t: p of 'no difference' of each of R rows of N differences, N >= 2."""
    n = differences_RN.shape[-1]
    flat = np.where((differences_RN == 0).all(axis=-1), 1.0, sign_flip_attainable(n))
    p = np.where(constant(differences_RN), flat, paired_t_rows(differences_RN))
    return _larger_where_coarse(p, differences_RN, sign_flip)


def p_equivalence_rows(differences_RN: Floats, margin: float) -> Floats:
    """Rules 1 and 2 by t: p of 'at least a margin apart' of each of R rows of N differences, N >= 2."""
    n = differences_RN.shape[-1]
    flat = np.where(np.abs(differences_RN).max(axis=-1) < margin, 2.0**-n, 1.0)
    p = np.where(constant(differences_RN), flat, tost.tost_t_rows(differences_RN, margin))
    return _larger_where_coarse(p, differences_RN, lambda row: tost.tost_sign_flip(row, margin))


def _larger_where_coarse(p: Floats, differences_RN: Floats, exact: Callable[[Floats], float]) -> Floats:
    """`p`, or the exact p where it is larger and the differences are coarse. Equal samples are computed once."""
    rows = np.flatnonzero(coarse(differences_RN))
    if rows.size:
        patterns, which = np.unique(np.sort(differences_RN[rows], axis=-1), axis=0, return_inverse=True)
        found = np.array([exact(pattern) for pattern in patterns])
        p[rows] = np.maximum(p[rows], found[which.ravel()])
    return p


def test_name(differences: Floats, test: str, claim: str) -> str:
    """Which test decided, in words."""
    exact = differences.size <= EXACT_LIMIT
    name = "paired t" if test == "t" else f"sign-flip ({'exact' if exact else f'{DRAWS} random draws'})"
    if test == "t" and differences.size > 1:
        if bool(constant(differences)):
            name = "sign-flip (exact), as the differences do not vary"
        elif bool(coarse(differences)):
            name = "paired t and sign-flip (the larger p), as the differences are coarse"
    return f"TOST, {name}" if claim == "equivalence" else name


def p_difference(differences: Floats, test: str, generator: np.random.Generator | None = None) -> float:
    """The deciding p of 'no difference' by the declared test; NaN below two blocks."""
    if differences.size < 2:
        return math.nan
    if test == "sign-flip":
        return sign_flip(differences, generator=generator)
    return float(p_difference_rows(differences[None, :])[0])


def p_equivalence(differences: Floats, margin: float, test: str, generator: np.random.Generator | None = None) -> float:
    """The deciding p of 'at least a margin apart' by the declared test; NaN below two blocks."""
    if differences.size < 2:
        return math.nan
    if test == "sign-flip":
        return tost.tost_sign_flip(differences, margin, generator=generator)
    return float(p_equivalence_rows(differences[None, :], margin)[0])


def difference(evidence: Evidence) -> Verdict:
    """Rule 4: the word for a claim of difference."""
    if _rejects(evidence.p_difference, evidence.alpha):
        return _apart(evidence)
    if _rejects(evidence.p_equivalence, evidence.alpha):
        return _same(evidence)
    return _undecided(evidence)


def equivalence(evidence: Evidence) -> Verdict:
    """Rule 5: the word for a claim of equivalence."""
    if _rejects(evidence.p_equivalence, evidence.alpha):
        return _same(evidence)
    if _rejects(evidence.p_difference, evidence.alpha):
        return _apart(evidence)
    return _undecided(evidence)


RULES: Mapping[str, Callable[[Evidence], Verdict]] = {"difference": difference, "equivalence": equivalence}
"""By the claim that a contrast declares."""


def blocks_needed(differences: Floats, margin: float | None, test: str, alpha: float) -> int | None:
    """Blocks in all with which some verdict other than 'undecided' is likely (power 0.8), if the mean and the standard
    deviation seen so far are the true ones. A rough guide: both are estimates. None where no number of blocks would.

    Args:
        differences: (n,) over the shared blocks.
        margin: of the contrast, if it has one.
        test: the declared one; the sign-flip test also needs enough blocks for its smallest p, and so do coarse
            differences.
        alpha: of Holm's strictest step, so that the other contrasts need not help.
    """
    if differences.size < 2:
        return None
    mean, sd = float(differences.mean()), float(differences.std(ddof=1))
    exact = math.ceil(1 - math.log2(alpha))
    if bool(constant(differences)):
        reachable = mean != 0 or margin is not None
        return max(exact, differences.size + 1) if reachable else None
    exactly = test == "sign-flip" or bool(coarse(differences))  # zeros do not count in the sign-flip test's smallest p
    least = math.ceil(exact / float(np.mean(differences != 0))) if exactly and mean else 2
    found = [(power.blocks_for_difference(mean, sd, alpha), least)]
    if margin is not None:
        found.append((power.blocks_for_equivalence(margin, sd, alpha, mean), exact if exactly else 2))
    enough = [max(n, fewest) for n, fewest in found if n is not None]
    return max(min(enough), differences.size + 1) if enough else None


def _rejects(p: float | None, alpha: float) -> bool:
    return p is not None and p <= alpha


def _apart(evidence: Evidence) -> Verdict:
    gain = evidence.interval.estimate * (1 if evidence.outcome.higher_is_better else -1)
    word: Word = "better" if gain > 0 else "worse"
    found = evidence.interval
    if found.estimate < 0:  # the sentence speaks of the size, and so does its interval
        found = replace(found, estimate=-found.estimate, low=-found.high, high=-found.low)
    size = amount(found.estimate, evidence.outcome)
    support = _support(evidence, found, evidence.p_difference)
    text = f"{evidence.arm} is {word} than {evidence.reference} by {size} ({support})"
    if _rejects(evidence.p_equivalence, evidence.alpha) and evidence.margin is not None:
        text += f", though by less than the margin of {amount(evidence.margin, evidence.outcome)}"
    return Verdict(word, text + ".")


def _same(evidence: Evidence) -> Verdict:
    assert evidence.margin is not None
    assert evidence.p_equivalence is not None
    text = (
        f"{evidence.arm} and {evidence.reference} are equivalent within {amount(evidence.margin, evidence.outcome)} "
        f"({_support(evidence, evidence.interval, evidence.p_equivalence)})"
    )
    if _rejects(evidence.p_difference, evidence.alpha):
        text += (
            f"; the difference of {amount(evidence.interval.estimate, evidence.outcome)} is real but within the margin"
        )
    return Verdict("equivalent", text + ".")


def _undecided(evidence: Evidence) -> Verdict:
    pair = f"{evidence.arm} and {evidence.reference}"
    if evidence.n < 2:
        have = "no block" if evidence.n == 0 else "one block"
        return Verdict("undecided", f"{pair} share {have}; a verdict needs at least two.", evidence.needed)
    text = f"{pair} are not separated by this data"
    text += " nor shown to be equivalent" if evidence.margin is not None else ""
    text += f" ({_support(evidence, evidence.interval, evidence.p_difference, evidence.p_equivalence)})."
    if evidence.needed is not None:
        text += f" About {evidence.needed} blocks would likely decide, at the mean and variance seen."
    else:
        text += " No affordable number of blocks would likely decide, at the mean and variance seen."
    return Verdict("undecided", text, evidence.needed)


def _support(evidence: Evidence, interval: Interval, p: float, other_p: float | None = None) -> str:
    """What a verdict rests on; with a second p, the first is named as that of difference, the second of equivalence."""
    unit, bounds = evidence.outcome.unit, ""
    if math.isfinite(interval.low):
        low, high = number(interval.low * unit), number(interval.high * unit)
        bounds = f"{100 * interval.level:g}% interval {low} to {high}, "
    found = p_text(p) if other_p is None else f"{p_text(p)} for a difference and {p_text(other_p)} for equivalence"
    return f"{bounds}{'corrected ' if evidence.corrected else ''}p {found}, {evidence.n} blocks"


def amount(value: float, outcome: Outcome) -> str:
    """A difference in the unit of display: '1.3 points' for a fraction shown in points."""
    shown = number(value * outcome.unit)
    if outcome.unit != 100:
        return shown
    return f"{shown} point" if shown in ("1", "−1") else f"{shown} points"


def number(value: float) -> str:
    """Three significant digits, plain below a million, with the tables' minus sign."""
    text = f"{value:.3g}" if abs(value) < 999.5 or abs(value) >= 1e6 else f"{value:.0f}"
    return f"−{text[1:]}" if text.startswith("-") else text


def p_text(p: float) -> str:
    """'= 0.012', '< 0.0001', or '> 0.05' where rounding would put p at a level that it is above."""
    if p < 1e-4:
        return "< 0.0001"
    text = f"{p:.2g}"
    return f"{'>' if float(text) in LEVELS and p > float(text) else '='} {text}"
