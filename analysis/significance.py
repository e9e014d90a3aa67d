"""Tests of 'no difference' for paired data, and the omnibus tests over several arms. Pure functions.

Exact means exact: the sign-flip and signed-rank tests enumerate their null distribution, ties and zeros included.
SciPy's `wilcoxon` does so only without ties, and its `permutation_test` enumerates 2^n by brute force; hence own code
here, held against both in the tests. Only `scipy.special` is imported at the top: commands that start fast use this.

Sources: Wilcoxon, Biometrics Bulletin 1 (1945); Pratt, JASA 54 (1959) on zeros; Fisher, The Design of Experiments
(1935), section 21, on sign flips; Horowitz and Sahni, JACM 21 (1974) for the split in two halves; Benavoli et al., ICML
2014, Bayesian signed-rank; Friedman, JASA 32 (1937); Conover, Practical Nonparametric Statistics (1999), section 5.8;
Nemenyi as in Demsar, JMLR 7 (2006).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import special

from analysis.findings import RankPair, Ranks

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
        raise ValueError(
            f"{np.sum(~np.isfinite(values))} of {values.size} differences are not finite; drop their blocks."
        )
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
    exact = values.size <= EXACT_LIMIT
    upper = _exact_tail(sizes, bound) if exact else _sampled_tail(sizes, bound, generator)
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


@dataclass(frozen=True)
class Posterior:
    """Chances, adding to 1, that most of the differences' weight lies below, within or above the region of practical
    equivalence.
    """

    below: float
    within: float
    above: float


def bayesian_signed_rank(
    differences: npt.ArrayLike, rope: float, *, generator: np.random.Generator, draws: int = 20_000
) -> Posterior:
    """Bayesian signed-rank test: a Dirichlet process on the differences, with one pseudo-difference of weight 1/2 at 0.

    In each draw of weights, the Walsh averages (z_i + z_j) / 2 put some weight below -rope, within, and above rope; a
    region's chance is the share of draws in which it has the most weight.

    Args:
        differences: (n,) arm minus reference, n >= 1.
        rope: half-width of the region of practical equivalence, at least 0.
        generator: of the draws.
        draws: posterior draws.
    """
    if rope < 0:
        raise ValueError(f"rope must be at least 0, got {rope}.")
    z_N = np.concatenate([[0.0], checked(differences)])
    walsh_NN = (z_N[:, None] + z_N[None, :]) / 2
    weights_DN = generator.dirichlet(np.concatenate([[0.5], np.ones(z_N.size - 1)]), size=draws)
    masses = [
        np.einsum("dn,dn->d", weights_DN @ region_NN.astype(float), weights_DN)
        for region_NN in (walsh_NN < -rope, np.abs(walsh_NN) <= rope, walsh_NN > rope)
    ]
    winner = np.bincount(np.argmax(masses, axis=0), minlength=3) / draws
    return Posterior(*(float(share) for share in winner))


def ranks(outcomes: Mapping[str, npt.ArrayLike], higher_is_better: bool = True, alpha: float = 0.05) -> Ranks | None:
    """Friedman's test over all arms, with Conover's and Nemenyi's comparisons of all pairs.

    Outcomes of a block that are closer than 1e-12 of its largest are ties.
    For the critical-difference diagram; the declared contrasts, not these, decide. Own code for the two post-hoc tests,
    because importing scikit-posthocs costs a report 0.6 s; the tests hold it against that package.

    Args:
        outcomes: arm -> (n,) outcomes over the same blocks, in the same order.
        higher_is_better: rank 1 is the highest, else the lowest.
        alpha: of the critical difference.

    Returns:
        None below 3 arms or 2 blocks.
    """
    arms = list(outcomes)
    table_BA = np.array([np.asarray(outcomes[arm], dtype=float) for arm in arms]).T
    if len(arms) < 3 or table_BA.shape[0] < 2:
        return None
    from scipy import stats

    n, k = table_BA.shape
    largest_B1 = np.abs(table_BA).max(axis=1, keepdims=True)
    believed_BA = np.round(table_BA / np.where(largest_B1 > 0, largest_B1, 1.0), 12)
    ranks_BA = stats.rankdata(-believed_BA if higher_is_better else believed_BA, axis=1)
    statistic, p = _friedman(ranks_BA)
    mean_A = ranks_BA.mean(axis=0)
    spread = float(np.sqrt(k * (k + 1) / (6 * n)))
    studentized = stats.studentized_range(k, np.inf)
    pairs = list(combinations(range(k), 2))
    gaps = np.array([abs(mean_A[i] - mean_A[j]) for i, j in pairs])
    nemenyi = studentized.sf(gaps / spread * np.sqrt(2))
    conover = _conover(ranks_BA, gaps)
    conover = conover if np.isnan(conover).any() else _holm(conover)
    return Ranks(
        mean={arm: float(rank) for arm, rank in zip(arms, mean_A, strict=True)},
        n=n,
        statistic=statistic,
        p=p,
        critical_difference=float(studentized.ppf(1 - alpha) / np.sqrt(2) * spread),
        pairs=tuple(
            RankPair(arms[i], arms[j], float(c), float(min(1.0, q)))
            for (i, j), c, q in zip(pairs, conover, nemenyi, strict=True)
        ),
    )


def _friedman(ranks_BA: Floats) -> tuple[float, float]:
    """Friedman's chi-square with correction for ties, and its p; (0, 1) where every block is one tie."""
    k = ranks_BA.shape[1]
    centred = ranks_BA - (k + 1) / 2
    within = float((centred**2).sum())
    if within == 0:
        return 0.0, 1.0
    statistic = (k - 1) * float((centred.sum(axis=0) ** 2).sum()) / within
    return statistic, float(special.chdtrc(k - 1, statistic))


def _conover(ranks_BA: Floats, gaps: Floats) -> Floats:
    """Two-sided p of each gap between mean ranks, by t on (n - 1)(k - 1) degrees of freedom.

    Where all blocks rank alike, t has no answer, and none is made up: three blocks would give p = 0.
    """
    n, k = ranks_BA.shape
    df = (n - 1) * (k - 1)
    residual = n * float((ranks_BA**2).sum()) - float((ranks_BA.sum(axis=0) ** 2).sum())
    if residual <= 1e-9:
        return np.where(gaps > 1e-12, np.nan, 1.0)
    t = n * gaps / np.sqrt(2 * residual / df)
    return np.asarray(2 * special.stdtr(df, -t))


def _holm(p: Floats) -> Floats:
    from analysis.multiplicity import holm

    return holm(p)


PRIMARY: Mapping[str, Callable[..., float]] = {"t": paired_t, "sign-flip": sign_flip}
"""Tests that a contrast may declare as the one that decides; `search_spaces.study.Contrast.test` names one."""
