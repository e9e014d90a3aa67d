"""Equivalence within a margin, by two one-sided tests (TOST): 'no significant change' is never its evidence.

Both one-sided nulls ('the difference is at most -margin', 'at least +margin') must fall; p is the larger of the two,
and no correction is due between them. Source: Schuirmann, J. Pharmacokinetics and Biopharmaceutics 15 (1987).
"""

import numpy as np
import numpy.typing as npt

from analysis.significance import Floats, paired_t, paired_t_rows, sign_flip


def _margin(margin: float) -> float:
    if not margin > 0:
        raise ValueError(f"the margin of an equivalence test must be above 0, got {margin}.")
    return margin


def tost_t(differences: npt.ArrayLike, margin: float) -> float:
    """TOST by paired t.

    Args:
        differences: (n,) arm minus reference, n >= 2.
        margin: largest difference that counts as none, above 0, in the metric's own unit.

    Returns:
        The p-value; NaN when the differences do not vary.
    """
    low = paired_t(differences, -_margin(margin), "greater")
    return float(np.maximum(low, paired_t(differences, margin, "less")))


def tost_t_rows(differences_RN: Floats, margin: float) -> Floats:
    """`tost_t` of each of R rows of N differences."""
    low = paired_t_rows(differences_RN, -_margin(margin), "greater")
    return np.asarray(np.maximum(low, paired_t_rows(differences_RN, margin, "less")))


def tost_sign_flip(differences: npt.ArrayLike, margin: float, *, generator: np.random.Generator | None = None) -> float:
    """TOST by sign flips: exact for symmetric noise, and with an answer where the differences do not vary.

    Args:
        differences: (n,) arm minus reference, n >= 1.
        margin: largest difference that counts as none, above 0.
        generator: as for `analysis.significance.sign_flip`.
    """
    low = sign_flip(differences, -_margin(margin), "greater", generator=generator)
    return max(low, sign_flip(differences, margin, "less", generator=generator))
