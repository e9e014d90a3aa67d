"""How large a difference is: paired estimates with intervals, and effect sizes without a unit. Pure functions.

Sources: Hartigan, JASA 64 (1969), typical values, for the sign-flip interval; Efron, JASA 82 (1987), BCa; Hedges, J.
Educational Statistics 6 (1981); Kerby, Comprehensive Psychology 3 (2014), rank-biserial; Nadeau and Bengio, Machine
Learning 52 (2003); Agarwal et al., NeurIPS 2021, interquartile mean.
"""

import math

import numpy as np
import numpy.typing as npt
from scipy import special

from analysis.findings import Interval
from analysis.significance import Floats, checked, constant

SUBSETS_LIMIT = 20
"""Up to so many differences the sign-flip interval looks at all 2^n - 1 subset means; beyond, at random subsets."""
SUBSETS = 99_999
RESAMPLES = 10_000
STRATIFIED_RESAMPLES = 2_000


def mean_t(values: npt.ArrayLike, level: float = 0.95) -> Interval:
    """Mean with Student's t interval; for differences over shared blocks this is the paired t interval.

    Covers exactly for normal noise. The bounds are NaN with one value, and where the values do not vary: the data then
    say nothing about their spread.

    Args:
        values: (n,) differences, or outcomes of one arm; may be empty.
        level: two-sided, in (0, 1).
    """
    numbers = checked(values, least=0)
    method = "t"
    if numbers.size == 0:
        return Interval(math.nan, math.nan, math.nan, level, method)
    mean = float(numbers.mean())
    if numbers.size == 1 or bool(constant(numbers)):
        return Interval(mean, math.nan, math.nan, level, method)
    half = _t_half_width(numbers, 1 / numbers.size, level)
    return Interval(mean, mean - half, mean + half, level, method)


def _t_half_width(values: Floats, variance_factor: float, level: float) -> float:
    quantile = special.stdtrit(values.size - 1, (1 + level) / 2)
    return float(quantile * values.std(ddof=1) * math.sqrt(variance_factor))


def sign_flip_interval(
    differences: npt.ArrayLike, level: float = 0.95, *, generator: np.random.Generator | None = None
) -> Interval:
    """All centres of symmetry that the sign-flip test does not reject, found by inverting the test.

    A shift is rejected from below when few subsets of the differences have a mean up to it, so the bounds are order
    statistics of the 2^n - 1 subset means (Hartigan's typical values). Exact for symmetric noise of any shape. Where
    even the full range covers less than `level` (n <= 5 at 95 %), the range is given with the level that it has.

    Args:
        differences: (n,) arm minus reference, n >= 2.
        level: wanted, two-sided.
        generator: needed above `SUBSETS_LIMIT` differences.

    Raises:
        ValueError: too many differences and no generator.
    """
    values = checked(differences, least=2)
    means = _subset_means(values, generator)
    count = means.size + 1
    cut = math.floor((1 - level) / 2 * count + 1e-9)
    if cut == 0:
        cut, level = 1, 1 - 2 / count
    ordered = np.partition(means, [cut - 1, means.size - cut])
    how = "exact" if values.size <= SUBSETS_LIMIT else f"{SUBSETS} random subsets"
    low, high = float(ordered[cut - 1]), float(ordered[means.size - cut])
    return Interval(float(values.mean()), low, high, level, f"sign-flip ({how})")


def _subset_means(values: Floats, generator: np.random.Generator | None) -> Floats:
    """Means of all non-empty subsets, or of random ones (each element in or out by a fair coin)."""
    if values.size <= SUBSETS_LIMIT:
        sums, sizes = np.zeros(1), np.zeros(1)
        for value in values:
            sums, sizes = np.concatenate([sums, sums + value]), np.concatenate([sizes, sizes + 1])
        return sums[1:] / sizes[1:]
    if generator is None:
        raise ValueError(f"{values.size} differences are more than {SUBSETS_LIMIT}: pass a generator for Monte Carlo.")
    chosen = generator.integers(0, 2, size=(SUBSETS, values.size), dtype=np.int8).astype(bool)
    chosen[~chosen.any(axis=1), 0] = True
    return np.asarray((chosen @ values) / chosen.sum(axis=1))


def bca(differences: npt.ArrayLike, level: float = 0.95, *, generator: np.random.Generator) -> Interval:
    """Mean with the bias-corrected and accelerated bootstrap interval (SciPy's).

    Below about 10 values any bootstrap covers too little (73 to 84 % instead of 95 % at n = 3 and 5 for the percentile
    form), so a report leaves it out there.

    Args:
        differences: (n,) arm minus reference, n >= 2.
        level: two-sided.
        generator: of the resampling.
    """
    values = checked(differences, least=2)
    mean = float(values.mean())
    method = f"BCa bootstrap ({RESAMPLES})"
    if bool(constant(values)):
        return Interval(mean, math.nan, math.nan, level, method)
    from scipy import stats

    found = stats.bootstrap(
        (values,), np.mean, confidence_level=level, n_resamples=RESAMPLES, method="BCa", rng=generator
    ).confidence_interval
    return Interval(mean, float(found.low), float(found.high), level, method)


def nadeau_bengio(differences: npt.ArrayLike, test_to_train: float, level: float = 0.95) -> tuple[Interval, float]:
    """Corrected resampled t: for blocks that are overlapping resamples of one data set.

    Such blocks share training examples, so their differences are correlated and the plain variance of the mean, s^2/n,
    is too small; s^2 (1/n + test/train) stands in for it.

    Args:
        differences: (n,) one per resample, n >= 2.
        test_to_train: size of a resample's test part over that of its training part, above 0.
        level: two-sided.

    Returns:
        The interval, and the two-sided p-value of 'no difference' (NaN when the differences do not vary).
    """
    if not test_to_train > 0:
        raise ValueError(f"test_to_train must be above 0, got {test_to_train}.")
    values = checked(differences, least=2)
    mean, method = float(values.mean()), "Nadeau-Bengio corrected t"
    if bool(constant(values)):
        return Interval(mean, math.nan, math.nan, level, method), math.nan
    factor = 1 / values.size + test_to_train
    half = _t_half_width(values, factor, level)
    t = mean / (values.std(ddof=1) * math.sqrt(factor))
    return Interval(mean, mean - half, mean + half, level, method), float(2 * special.stdtr(values.size - 1, -abs(t)))


def hedges_g(differences: npt.ArrayLike) -> float:
    """Standardised mean difference of pairs: mean over standard deviation of the differences (d_z), times Hedges' exact
    small-sample factor J(n - 1) = G(m/2) / (sqrt(m/2) G((m - 1)/2)), m = n - 1.

    NaN with one difference or where the differences do not vary. With n = 2, J(1) = 0 / 1 has no meaning: NaN too.
    """
    values = checked(differences)
    m = values.size - 1
    if m < 2 or bool(constant(values)):
        return math.nan
    correction = math.exp(special.gammaln(m / 2) - special.gammaln((m - 1) / 2)) / math.sqrt(m / 2)
    return float(values.mean() / values.std(ddof=1) * correction)


def rank_biserial(differences: npt.ArrayLike) -> float:
    """Matched-pairs rank-biserial correlation, in [-1, 1]: favourable minus unfavourable share of the rank sum.

    Zeros are ranked and then left out, as in `analysis.significance.wilcoxon`; 0 where all differences are zero.
    """
    from scipy import stats

    values = checked(differences)
    ranks = stats.rankdata(np.abs(values)) * np.sign(values)
    total = np.abs(ranks).sum()
    return float(ranks.sum() / total) if total else 0.0


def superiority(differences: npt.ArrayLike) -> float:
    """Probability of superiority for pairs, in [0, 1]: share of blocks with a positive difference, zeros half."""
    values = checked(differences)
    return float(np.mean(values > 0) + np.mean(values == 0) / 2)


def interquartile_mean(scores_SD: npt.ArrayLike, level: float = 0.95, *, generator: np.random.Generator) -> Interval:
    """Mean of the middle half of all scores, with a bootstrap interval stratified by dataset.

    Runs are resampled within each dataset, datasets are not: the interval speaks about seeds on these datasets. It is a
    percentile interval and covers too little below about 10 runs a dataset. Its bounds are NaN with one run a dataset,
    which resampling can only repeat.

    Args:
        scores_SD: (seeds, datasets), on one scale (for example fractions, or scores relative to a baseline).
        level: two-sided.
        generator: of the resampling.

    Raises:
        ValueError: not two-dimensional, empty or not finite.
    """
    from scipy import stats

    scores = np.asarray(scores_SD, dtype=float)
    if scores.ndim != 2 or scores.size == 0 or not np.isfinite(scores).all():
        raise ValueError(f"scores must be (seeds, datasets) and finite, got shape {scores.shape}.")
    seeds, datasets = scores.shape
    estimate = float(stats.trim_mean(scores.ravel(), 0.25))
    method = f"stratified percentile bootstrap ({STRATIFIED_RESAMPLES})"
    if seeds < 2:
        return Interval(estimate, math.nan, math.nan, level, method)
    rows = generator.integers(0, seeds, size=(STRATIFIED_RESAMPLES, seeds, datasets))
    resampled = scores[rows, np.arange(datasets)].reshape(STRATIFIED_RESAMPLES, -1)
    low, high = np.quantile(stats.trim_mean(resampled, 0.25, axis=1), [(1 - level) / 2, (1 + level) / 2])
    return Interval(estimate, float(low), float(high), level, method)
