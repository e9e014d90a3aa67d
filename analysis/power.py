"""What a design can and cannot find, before anyone pays for it; and how many more blocks an open question needs.

Normal paired differences throughout: noncentral t for a difference; for TOST the exact power by averaging over the
distribution of the sample standard deviation (Owen's Q, Owen 1965; Phillips, J. Pharmacokinetics and Biopharmaceutics
18 (1990)). Only `scipy.special` is imported: `show` starts with this file.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from scipy import special

from analysis.findings import Design, PowerRow
from analysis.significance import sign_flip_attainable
from search_spaces.study import Contrast, Study

TARGET = 0.8
"""Power that counts as 'would likely decide'."""
MOST_BLOCKS = 10_000
"""More blocks than this count as 'no number of blocks'."""
_SPREAD = 512
"""Points of the quadrature over the standard deviation."""


def power_difference(n: int, effect: float, sd: float, alpha: float = 0.05) -> float:
    """Chance that a two-sided paired t test at `alpha` finds a true mean difference.

    Args:
        n: blocks.
        effect: true mean difference.
        sd: standard deviation of the paired differences, above 0, in the same unit.
        alpha: level of this one test, after correction.
    """
    if n < 2:
        return 0.0
    critical = special.stdtrit(n - 1, 1 - alpha / 2)
    shift = abs(effect) / sd * math.sqrt(n)
    missed = _noncentral_t(n - 1, shift, critical) - _noncentral_t(n - 1, shift, -critical)
    return float(1 - missed)


def _noncentral_t(df: int, shift: float, t: float) -> float:
    """Its distribution function. SciPy gives NaN for some chances that are all but zero (below 2e-7): zero here."""
    chance = float(special.nctdtr(df, shift, t))
    return 0.0 if math.isnan(chance) else chance


def power_equivalence(n: int, margin: float, sd: float, alpha: float = 0.05, effect: float = 0.0) -> float:
    """Chance that TOST by paired t at `alpha` shows equivalence within `margin`.

    Args:
        n: blocks.
        margin: above 0.
        sd: standard deviation of the paired differences, above 0.
        alpha: level of each one-sided test, after correction.
        effect: true mean difference.
    """
    if n < 2:
        return 0.0
    critical = special.stdtrit(n - 1, 1 - alpha)
    at = (np.arange(_SPREAD) + 0.5) / _SPREAD
    ratio = np.sqrt(special.chdtri(n - 1, 1 - at) / (n - 1))
    room = margin * math.sqrt(n) / sd - critical * ratio
    centre = effect * math.sqrt(n) / sd
    passed = special.ndtr(room - centre) - special.ndtr(-room - centre)
    return float(np.mean(np.where(room > 0, passed, 0.0)))


def detectable(n: int, sd: float, alpha: float = 0.05, power: float = TARGET) -> float:
    """Smallest true difference that the paired t test finds with the given power; infinite below 2 blocks."""
    if n < 2:
        return math.inf
    low, high = 0.0, 1.0
    while power_difference(n, high, 1.0, alpha) < power and high < 1e6:
        low, high = high, 2 * high
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if power_difference(n, middle, 1.0, alpha) >= power else (middle, high)
    return high * sd


def blocks_for_difference(effect: float, sd: float, alpha: float = 0.05, power: float = TARGET) -> int | None:
    """Fewest blocks with which a true difference of `effect` is likely found; None beyond `MOST_BLOCKS`."""
    return _fewest(lambda n: power_difference(n, effect, sd, alpha) >= power)


def blocks_for_equivalence(
    margin: float, sd: float, alpha: float = 0.05, effect: float = 0.0, power: float = TARGET
) -> int | None:
    """Fewest blocks with which equivalence is likely shown, if the true difference is `effect`.

    None beyond `MOST_BLOCKS`, and where the effect itself is outside the margin.
    """
    if abs(effect) >= margin:
        return None
    return _fewest(lambda n: power_equivalence(n, margin, sd, alpha, effect) >= power)


def _fewest(enough: Callable[[int], bool]) -> int | None:
    """Smallest n in 2..MOST_BLOCKS with enough(n), which once true stays true."""
    high = 2
    while not enough(high):
        if high >= MOST_BLOCKS:
            return None
        high = min(2 * high, MOST_BLOCKS)
    low = max(2, high // 2)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle + 1, high)
    return high


def design(study: Study, scale: str, blocks: int | None = None) -> Design:
    """What `study` at `scale` can find, over a range of standard deviations of the paired differences.

    Where contrasts differ in their number of blocks, in the size of their family or in their margin, the figures are
    for the fewest blocks, the largest family and the smallest margin.

    Args:
        study: with its contrasts, family sizes, alpha and margins.
        scale: name of the scale.
        blocks: so many of the scale's blocks only, where given.

    Raises:
        StudyError: unknown scale.
    """
    chosen = study.scale(scale).blocks[:blocks]
    contrasts = study.contrasts_at(scale)
    counts = [sum(c.dataset in ("", block.dataset) for block in chosen) for c in contrasts]
    n = min(counts, default=len(chosen))
    family = max(Counter(contrast.family for contrast in contrasts).values(), default=1)
    alpha = study.alpha / (1 if study.correction == "none" else family)
    margin = min((contrast.margin for contrast in contrasts if contrast.margin is not None), default=None)
    step = margin if margin is not None else 1 / study.outcome.unit
    rows = tuple(_row(n, factor * step, margin, alpha) for factor in (0.25, 0.5, 1.0, 2.0, 4.0))
    least = sign_flip_attainable(n)
    attainable = {"sign-flip": least, "wilcoxon": least}
    notes = tuple(_notes(contrasts, n, max(counts, default=n), study.alpha, alpha))
    return Design(n, family, study.alpha, margin, attainable, rows, notes)


def _row(n: int, sd: float, margin: float | None, alpha: float) -> PowerRow:
    if margin is None:
        return PowerRow(sd, None, None, detectable(n, sd, alpha))
    found, same = power_difference(n, margin, sd, alpha), power_equivalence(n, margin, sd, alpha)
    return PowerRow(sd, found, same, detectable(n, sd, alpha))


def _notes(contrasts: Sequence[Contrast], n: int, most: int, alpha: float, strictest: float) -> Iterator[str]:
    """In words, what the design cannot decide. `n` and `most`: blocks of the contrasts with the fewest and the most;
    `strictest`: alpha at the first step of the correction.
    """
    least = sign_flip_attainable(n)
    if most < 2:
        yield "With fewer than 2 blocks no test and no interval is possible: every verdict will be 'undecided'."
        return
    if n < 2:
        yield f"A contrast has {n} of these blocks, too few for any test: its verdict will be 'undecided'."
        return
    if least > strictest:
        enough = math.ceil(1 - math.log2(strictest))
        level = f"{alpha:g}" if least > alpha else f"{strictest:.2g}, the strictest step of the correction"
        if least > alpha and strictest < alpha:
            level += f", nor at {strictest:.2g}, the strictest step of the correction"
        yield (
            f"With {n} blocks a two-sided sign-flip or signed-rank test cannot go below p = {least:.4g}, so it "
            f"cannot reject at {level}; that takes {enough} blocks. The paired t test can."
        )
        if any(contrast.test == "sign-flip" for contrast in contrasts):
            yield "A contrast declares the sign-flip test as the one that decides: it may have to stay 'undecided'."
    if any(contrast.margin is None for contrast in contrasts):
        yield "A contrast without a margin can end 'better', 'worse' or 'undecided', never 'equivalent'."
