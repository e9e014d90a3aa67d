"""Corrections of a family of p-values for its size. Each works along the last axis, so a simulation corrects its draws
with the code that corrects a report. Held against statsmodels in the tests (importing it costs a report 0.3 s).

Sources: Holm, Scand. J. Statistics 6 (1979); Hochberg, Biometrika 75 (1988); Benjamini and Hochberg, JRSS B 57 (1995).
"""

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

from analysis.significance import Floats


def holm(p: npt.ArrayLike) -> Floats:
    """Holm's step-down: controls the family-wise error under any dependence."""
    return _stepped(p, lambda m: np.arange(m, 0, -1.0), down=True)


def hochberg(p: npt.ArrayLike) -> Floats:
    """Hochberg's step-up: never less powerful than Holm; needs independent or positively dependent tests."""
    return _stepped(p, lambda m: np.arange(m, 0, -1.0), down=False)


def benjamini_hochberg(p: npt.ArrayLike) -> Floats:
    """Benjamini-Hochberg: controls the expected share of wrong discoveries, not the chance of any. For exploration."""
    return _stepped(p, lambda m: m / np.arange(1.0, m + 1), down=False)


def none(p: npt.ArrayLike) -> Floats:
    """The p-values as they are, for a study that declares no correction."""
    return _stepped(p, np.ones, down=True, monotone=False)


def _stepped(p: npt.ArrayLike, factors: Callable[[int], Floats], *, down: bool, monotone: bool = True) -> Floats:
    """Sorted p-values times their factors, made monotone from the small end (down) or the large end (up)."""
    values = np.asarray(p, dtype=float)
    if values.size and not ((values >= 0) & (values <= 1)).all():
        raise ValueError("p-values must lie in [0, 1]; leave tests that could not be made out of the family.")
    order = np.argsort(values, axis=-1, kind="stable")
    scaled = np.take_along_axis(values, order, axis=-1) * factors(values.shape[-1])
    if monotone and down:
        scaled = np.maximum.accumulate(scaled, axis=-1)
    elif monotone:
        scaled = np.flip(np.minimum.accumulate(np.flip(scaled, axis=-1), axis=-1), axis=-1)
    adjusted = np.empty_like(scaled)
    np.put_along_axis(adjusted, order, np.minimum(scaled, 1.0), axis=-1)
    return adjusted


CORRECTIONS: Mapping[str, Callable[[npt.ArrayLike], Floats]] = {
    "holm": holm,
    "hochberg": hochberg,
    "benjamini-hochberg": benjamini_hochberg,
    "none": none,
}
"""By the name a study declares (`search_spaces.study.Study.correction`)."""
