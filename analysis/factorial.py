"""Designs of two factors (for example R-Mix's p by K): marginal means, tests of both factors and of their interaction,
and how the variance between the cells divides.

The model is the mixed one that blocks ask for: outcome = cell + block + noise, blocks random. Where every cell has
every block, its tests are the F tests of the two-way analysis of variance with blocks, which need no iteration. Beside
each stands the aligned-rank test, which does not lean on normal noise. Descriptive: the declared contrasts decide.

Sources: Wobbrock et al., CHI 2011, aligned rank transform; Hutter, Hoos and Leyton-Brown, ICML 2014, fANOVA.
"""

import math
from collections.abc import Mapping

import numpy as np
from scipy import special

from analysis.effects import mean_t
from analysis.findings import FactorEffect, Factorial, Interval
from analysis.significance import Floats
from search_spaces.study import Study


def analyse(values: Mapping[str, Mapping[str, float]], study: Study) -> Factorial | None:
    """The two-factor analysis of a study's outcomes.

    Args:
        values: arm -> block -> outcome.
        study: whose arms state their factor levels.

    Returns:
        None unless the arms that state levels cross exactly two factors completely, each cell once, on at least 2
        blocks that all of these arms finished.
    """
    found = _grid(study)
    if found is None:
        return None
    factors, levels, cells = found
    arms = [[cells[a, b] for b in levels[1]] for a in levels[0]]
    blocks = [block for block in values[arms[0][0]] if all(block in values[arm] for row in arms for arm in row)]
    if len(blocks) < 2:
        return None
    y_NIJ = np.array([[[values[arm][block] for arm in row] for row in arms] for block in blocks])
    means_IJ = y_NIJ.mean(axis=0)
    return Factorial(
        factors=factors,
        levels=levels,
        cells=cells,
        means={(a, b): float(means_IJ[i, j]) for i, a in enumerate(levels[0]) for j, b in enumerate(levels[1])},
        marginal=_marginal(y_NIJ, factors, levels, 1 - study.alpha),
        effects=_effects(y_NIJ, factors),
        n=len(blocks),
    )


def _grid(
    study: Study,
) -> tuple[tuple[str, str], tuple[tuple[str, ...], tuple[str, ...]], dict[tuple[str, str], str]] | None:
    """Names of the two factors, their levels as text in the study's order, and (level, level) -> arm."""
    arms = [arm for arm in study.arms if len(arm.factors) == 2]
    names = list(dict.fromkeys(name for arm in arms for name in arm.factors))
    if len(names) != 2:
        return None
    first, second = names
    cells = {(str(arm.factors[first]), str(arm.factors[second])): arm.name for arm in arms}
    levels = (tuple(dict.fromkeys(a for a, _ in cells)), tuple(dict.fromkeys(b for _, b in cells)))
    full = len(levels[0]) * len(levels[1])
    if len(cells) != len(arms) or len(arms) != full or min(len(levels[0]), len(levels[1])) < 2:
        return None
    return (first, second), levels, cells


def _marginal(
    y_NIJ: Floats, factors: tuple[str, str], levels: tuple[tuple[str, ...], tuple[str, ...]], level: float
) -> dict[str, dict[str, Interval]]:
    per_level = (y_NIJ.mean(axis=2), y_NIJ.mean(axis=1))
    return {
        factor: {name: mean_t(per_level[axis][:, i], level) for i, name in enumerate(levels[axis])}
        for axis, factor in enumerate(factors)
    }


def _effects(y_NIJ: Floats, factors: tuple[str, str]) -> tuple[FactorEffect, ...]:
    p, p_ranks, shares = anova(y_NIJ), aligned_ranks(y_NIJ), variance_shares(y_NIJ.mean(axis=0))
    names = (*factors, ":".join(factors))
    return tuple(
        FactorEffect(name, p[i], "F, two factors with blocks", shares[i], {"aligned ranks": p_ranks[i]})
        for i, name in enumerate(names)
    )


def _parts(means_IJ: Floats) -> tuple[Floats, Floats, Floats]:
    """Effects of the first factor (I, 1), the second (1, J) and both together (I, J); all add to the means."""
    grand = means_IJ.mean()
    first = means_IJ.mean(axis=1, keepdims=True) - grand
    second = means_IJ.mean(axis=0, keepdims=True) - grand
    return first, second, means_IJ - grand - first - second


def anova(y_NIJ: Floats) -> tuple[float, float, float]:
    """The p-values of the first factor, the second and their interaction, by F tests with blocks as a random factor.

    Args:
        y_NIJ: (blocks, first levels, second levels), N >= 2.

    Returns:
        NaN for all where nothing varies besides cell and block.
    """
    n, i, j = y_NIJ.shape
    parts = _parts(y_NIJ.mean(axis=0))
    residual = y_NIJ - y_NIJ.mean(axis=0) - y_NIJ.mean(axis=(1, 2), keepdims=True) + y_NIJ.mean()
    df_error = (n - 1) * (i * j - 1)
    error = float((residual**2).sum()) / df_error
    if error <= 1e-24 * max(1e-300, float((y_NIJ**2).mean())):
        return math.nan, math.nan, math.nan
    squares = (n * j * (parts[0] ** 2).sum(), n * i * (parts[1] ** 2).sum(), n * (parts[2] ** 2).sum())
    degrees = (i - 1, j - 1, (i - 1) * (j - 1))
    first, second, both = (
        float(special.fdtrc(df, df_error, ss / df / error)) for ss, df in zip(squares, degrees, strict=True)
    )
    return first, second, both


def aligned_ranks(y_NIJ: Floats) -> tuple[float, float, float]:
    """The same three tests after the aligned rank transform.

    For each effect the data are stripped of cell means and blocks, given that one effect back, ranked, and put through
    `anova`, from which only the test of that effect is read.
    """
    from scipy import stats

    residual = y_NIJ - y_NIJ.mean(axis=0) - y_NIJ.mean(axis=(1, 2), keepdims=True) + y_NIJ.mean()
    found = []
    for index, part in enumerate(_parts(y_NIJ.mean(axis=0))):
        aligned = np.round(residual + part, 12)
        found.append(anova(stats.rankdata(aligned).reshape(y_NIJ.shape))[index])
    return found[0], found[1], found[2]


def variance_shares(means_IJ: Floats) -> tuple[float, float, float]:
    """fANOVA: shares of the first factor, the second and the interaction in the variance between all cell means.

    Every level counts the same. The shares add to 1; noise in the means inflates the interaction's. NaN where nothing
    varies.
    """
    parts = _parts(np.asarray(means_IJ, dtype=float))
    squares = [float(np.mean(np.broadcast_to(part, np.shape(means_IJ)) ** 2)) for part in parts]
    total = sum(squares)
    if total == 0:
        return math.nan, math.nan, math.nan
    return squares[0] / total, squares[1] / total, squares[2] / total
