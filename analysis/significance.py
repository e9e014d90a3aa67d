"""Tests of 'no difference' for paired data, and the omnibus tests over several arms. Pure functions.

Exact means exact: the sign-flip and signed-rank tests enumerate their null distribution, ties and zeros included. SciPy's
`wilcoxon` does so only without ties, and its `permutation_test` enumerates 2^n by brute force; hence own code here, held
against both in the tests. Only `scipy.special` is imported at the top: commands that start fast use this file.

Sources: Wilcoxon, Biometrics Bulletin 1 (1945); Pratt, JASA 54 (1959) on zeros; Fisher, The Design of Experiments
(1935), section 21, on sign flips; Horowitz and Sahni, JACM 21 (1974) for the split in two halves.
"""

from collections.abc import Callable, Mapping
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import special

Floats = npt.NDArray[np.float64]
Side = Literal["two-sided", "greater", "less"]

EXACT_LIMIT = 40
"""Up to so many differences the sign-flip p-value is exact (two halves of 2^20 sums); beyond, seeded Monte Carlo."""
DRAWS = 99_999
"""Random sign vectors of the Monte Carlo sign-flip test."""


def checked(differences: npt.ArrayLike, least: int = 1) -> Floats:
    """The differences as a float array.

    Raises:
        ValueError: not one-dimensional, not finite, or fewer than `least`.
    """
    values = np.asarray(differences, dtype=float)
    if values.ndim != 1:
        raise ValueError(f"paired differences must be one-dimensional, got shape {values.shape}.")
    if values.size < least:
        raise ValueError(f"needs at least {least} paired differences, got {values.size}.")
    if not np.isfinite(values).all():
        raise ValueError(f"{np.sum(~np.isfinite(values))} of {values.size} differences are not finite; drop their blocks.")
    return values


def constant(differences: npt.ArrayLike) -> npt.NDArray[np.bool_]:
    """Whether the differences along the last axis are all equal, up to rounding in their own size."""
    values = np.asarray(differences, dtype=float)
    spread = values.max(axis=-1) - values.min(axis=-1)
    return np.asarray(spread <= 1e-12 * np.abs(values).max(axis=-1))


def paired_t(differences: npt.ArrayLike, shift: float = 0.0, side: Side = "two-sided") -> float:
    """Student's paired t test of 'the mean difference is `shift`'.

    Args:
        differences: (n,) arm minus reference over shared blocks, n >= 2.
        shift: the mean under the null hypothesis.
        side: 'greater' looks for a mean above `shift`.

    Returns:
        The p-value; NaN when the differences do not vary (t has no answer then, and none is made up).
    """
    values = checked(differences, least=2)
    return float(paired_t_rows(values[None, :], shift, side)[0])


def paired_t_rows(differences_RN: Floats, shift: float = 0.0, side: Side = "two-sided") -> Floats:
    """`paired_t` of each of R rows of N differences, without the checks."""
    n = differences_RN.shape[-1]
    flat = constant(differences_RN)
    error = differences_RN.std(axis=-1, ddof=1) / np.sqrt(n)
    with np.errstate(divide="ignore", invalid="ignore"):
        t = (differences_RN.mean(axis=-1) - shift) / error
    t = np.where(flat, np.nan, t)
    if side == "two-sided":
        return np.asarray(2 * special.stdtr(n - 1, -np.abs(t)))
    return np.asarray(special.stdtr(n - 1, -t if side == "greater" else t))


def sign_flip(
    differences: npt.ArrayLike,
    shift: float = 0.0,
    side: Side = "two-sided",
    *,
    generator: np.random.Generator | None = None,
) -> float:
    """Sign-flip permutation test on the sum: exact for differences symmetric about `shift`, whatever their shape.

    Under the null hypothesis each difference less `shift` is as likely as its negative; p is the share of the 2^n sign
    vectors whose sum is at least as extreme as the one seen (equal sums count, up to rounding).

    Args:
        differences: (n,) arm minus reference, n >= 1.
        shift: centre of symmetry under the null hypothesis.
        side: 'greater' looks for differences above `shift`.
        generator: needed above `EXACT_LIMIT` differences, where `DRAWS` random sign vectors stand for all of them.

    Raises:
        ValueError: more than `EXACT_LIMIT` differences and no generator.
    """
    values = checked(differences) - shift
    if side == "less":
        values = -values
    total = values.sum()
    sizes = np.abs(values)
    bound = (abs(total) if side == "two-sided" else total) - 1e-10 * sizes.sum()
    if values.size > EXACT_LIMIT:
        upper = _sampled_tail(sizes, bound, generator)
    else:
        upper = _exact_tail(sizes, bound)
    return float(min(1.0, 2 * upper)) if side == "two-sided" else float(upper)


def _exact_tail(sizes: Floats, bound: float) -> float:
    """Share of sign vectors whose sum of +-sizes is at least `bound`: all sums of two halves, matched by sorting."""
    half = sizes.size // 2
    left, right = _signed_sums(sizes[:half]), np.sort(_signed_sums(sizes[half:]))
    reached = right.size - np.searchsorted(right, bound - left, side="left")
    return float(reached.sum() / (left.size * right.size))


def _signed_sums(sizes: Floats) -> Floats:
    """All 2^n sums of +-sizes."""
    sums = np.zeros(1)
    for size in sizes:
        sums = np.concatenate([sums + size, sums - size])
    return sums


def _sampled_tail(sizes: Floats, bound: float, generator: np.random.Generator | None) -> float:
    if generator is None:
        raise ValueError(f"{sizes.size} differences are more than {EXACT_LIMIT}: pass a generator for Monte Carlo.")
    reached = 1
    for _ in range(9):
        signs = generator.integers(0, 2, size=(DRAWS // 9, sizes.size), dtype=np.int8) * 2.0 - 1.0
        reached += int(np.sum(signs @ sizes >= bound))
    return reached / (DRAWS // 9 * 9 + 1)


def sign_flip_attainable(n: int) -> float:
    """Smallest two-sided p that a sign-flip or signed-rank test can give with n differences: 2 / 2^n."""
    return min(1.0, 2.0 ** (1 - n)) if n else 1.0


def wilcoxon(differences: npt.ArrayLike, side: Side = "two-sided") -> float:
    """Wilcoxon's signed-rank test, exact with ties and zeros.

    Declared rules: ties share their mean rank; zeros are ranked with the rest and then left out (Pratt 1959). The null
    distribution is that of the ranks at hand, by convolution. Differences closer than 1e-12 of the largest are ties.

    Args:
        differences: (n,) arm minus reference, n >= 1.
        side: 'greater' looks for differences above 0.
    """
    values = checked(differences)
    scale = np.abs(values).max()
    if scale == 0:
        return 1.0
    rounded = np.round(values / scale, 12)
    twice_ranks = _twice_midranks(np.abs(rounded))
    used = rounded != 0
    positive = int(twice_ranks[used & (rounded > 0)].sum())
    chance = _rank_sum_distribution(twice_ranks[used])
    upper, lower = float(chance[positive:].sum()), float(chance[: positive + 1].sum())
    if side == "two-sided":
        return min(1.0, 2 * min(upper, lower))
    return min(1.0, upper if side == "greater" else lower)


def _twice_midranks(sizes: Floats) -> npt.NDArray[np.int64]:
    """Twice the mean rank (from 1) of each value: an integer."""
    ordered = np.sort(sizes)
    below = np.searchsorted(ordered, sizes, side="left")
    up_to = np.searchsorted(ordered, sizes, side="right")
    return below + up_to + 1


def _rank_sum_distribution(twice_ranks: npt.NDArray[np.int64]) -> Floats:
    """Chance of each value of the doubled positive-rank sum under random signs: (sum + 1,)."""
    chance = np.zeros(int(twice_ranks.sum()) + 1)
    chance[0] = 1.0
    for rank in twice_ranks:
        shifted = np.zeros_like(chance)
        shifted[rank:] = chance[: chance.size - rank]
        chance = (chance + shifted) / 2
    return chance


PRIMARY: Mapping[str, Callable[..., float]] = {"t": paired_t, "sign-flip": sign_flip}
"""Tests that a contrast may declare as the one that decides; `search_spaces.study.Contrast.test` names one."""
