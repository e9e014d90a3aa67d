"""Open-set classification rates, and what else is read off scores, angles and norms: pure functions of NumPy arrays.

Papers: Dhamija et al. (arXiv 1811.04110) for the OSCR curve, with Bisgin et al.'s correction (both rates count scores
at the threshold); the thesis cited in `trainables.margins`, section 5.2, for the rest; CosFace (arXiv 1801.09414) and
AdaCos (arXiv 1905.00292) for bounds on the scale.
Repository: TwoDigitsOneNumber/openset-imagenet-comparison@e7faf79 `metrics.py`, `util.py`.

Labels: 0..C-1 for known rows, -1 for negatives, -2 for unknowns. Scores keep the precision they come in: in float32
many of them may be exactly 1, and then no threshold separates them.

Deviations:
1. `ccr_at(..., completed=True)` goes on where the curve ends: a threshold above every outsider rejects all of them. The
   thesis leaves such cells blank.
2. The code's histogram 'known_std' is left out: it holds means.
3. FPR is a share of one group, negatives or unknowns, as in the code and in all tables; Eq 5.2 has both together, which
   is `outsiders="pooled"`.

Shapes: N rows, C classes, T thresholds.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from trainables.data_protocols import NEGATIVE, UNKNOWN

Floats = NDArray[np.floating]
Outsiders = Literal["negative", "unknown", "pooled"]

EDGES = np.linspace(0, math.pi + math.pi / 100, 100)
"""Edges of the 99 bins of angle histograms."""


@dataclass(frozen=True)
class Curve:
    """CCR and FPR at every distinct score of the outsiders, thresholds ascending, so that both rates fall."""

    threshold_T: Floats
    ccr_T: Floats
    fpr_T: Floats
    ccr_above: float
    """CCR of thresholds just above the largest score of an outsider, where FPR is 0."""


def curve(scores_NC: ArrayLike, labels_N: ArrayLike, outsiders: Outsiders = "unknown") -> Curve:
    """OSCR for one group of outsiders.

    CCR(tau) = share of known rows whose largest score is their own class's and at least tau; FPR(tau) = share of
    outsiders whose largest score is at least tau. Of tied classes the first counts as the prediction.

    Raises:
        ValueError: labels outside the convention, no known row or no outsider, a score that is not a number.
    """
    scores_NC, labels_N = checked(scores_NC, labels_N)
    outside_N = {"negative": labels_N == NEGATIVE, "unknown": labels_N == UNKNOWN, "pooled": labels_N < 0}[outsiders]
    if not outside_N.any() or not (labels_N >= 0).any():
        raise ValueError(f"an OSCR curve needs known rows and {outsiders} ones; labels are {_told(labels_N)}.")
    correct = np.sort(correct_scores(scores_NC, labels_N))
    outside = np.sort(scores_NC[outside_N].max(axis=1))
    threshold_T, first_T = np.unique(outside, return_index=True)
    known = int((labels_N >= 0).sum())
    return Curve(
        threshold_T,
        (len(correct) - np.searchsorted(correct, threshold_T, side="left")) / known,
        (len(outside) - first_T) / len(outside),
        (len(correct) - int(np.searchsorted(correct, outside[-1], side="right"))) / known,
    )


def ccr_at(
    oscr: Curve,
    fpr: float,
    rule: Literal["strict_below", "at_most"] = "strict_below",
    *,
    completed: bool = False,
) -> float:
    """CCR at the threshold whose FPR is the largest below `fpr`; nothing is interpolated.

    Args:
        oscr: the curve.
        fpr: the rate that is tolerated.
        rule: whether FPR must lie below it (the thesis's tables) or may equal it.
        completed: where the curve has no such point, the CCR at FPR 0 in place of NaN.
    """
    allowed_T = oscr.fpr_T < fpr if rule == "strict_below" else oscr.fpr_T <= fpr
    if allowed_T.any():
        return float(oscr.ccr_T[np.argmax(allowed_T)])
    return oscr.ccr_above if completed else float("nan")


def fpr_floor(oscr: Curve) -> float:
    """The smallest FPR on the curve: the share of outsiders that no threshold on a score of theirs rejects."""
    return float(oscr.fpr_T[-1])


def saturated(scores_NC: ArrayLike) -> float:
    """Share of rows whose largest score is exactly 1."""
    return float((np.asarray(scores_NC).max(axis=1) == 1).mean())


def accuracy(scores_NC: ArrayLike, labels_N: ArrayLike) -> float:
    """Closed-set accuracy: the share of known rows that are classified correctly, without a threshold."""
    scores_NC, labels_N = checked(scores_NC, labels_N)
    return len(correct_scores(scores_NC, labels_N)) / int((labels_N >= 0).sum())


def correct_scores(scores_NC: Floats, labels_N: NDArray[np.int64]) -> Floats:
    """The largest scores of the known rows whose prediction is right."""
    known_N = labels_N >= 0
    inside_NC, classes_N = scores_NC[known_N], labels_N[known_N]
    predicted_N = inside_NC.argmax(axis=1)
    right_N = predicted_N == classes_N
    values: Floats = inside_NC[right_N, predicted_N[right_N]]
    return values


def confidence(
    probabilities_NC: ArrayLike, labels_N: ArrayLike, offset: float | None = None
) -> tuple[float, int, float, int]:
    """Mean p_y of known rows and mean 1 + offset - max p of all others, each with its number of rows (NaN for none).

    Args:
        probabilities_NC: softmax scores.
        labels_N: classes.
        offset: what a perfectly uncertain row is given back; None: 1 / C.
    """
    probabilities_NC, labels_N = checked(probabilities_NC, labels_N)
    known_N = labels_N >= 0
    offset = 1 / probabilities_NC.shape[1] if offset is None else offset
    own = probabilities_NC[known_N, labels_N[known_N]]
    other = 1 + offset - probabilities_NC[~known_N].max(axis=1) if (~known_N).any() else np.empty(0)
    means = [float(values.mean()) if len(values) else float("nan") for values in (own, other)]
    return means[0], len(own), means[1], len(other)


def checked(scores_NC: ArrayLike, labels_N: ArrayLike) -> tuple[Floats, NDArray[np.int64]]:
    """Both as arrays.

    Raises:
        ValueError: labels outside the convention, other shapes, a score that is not a number.
    """
    scores, labels = np.asarray(scores_NC), np.asarray(labels_N, dtype=np.int64)
    if scores.ndim != 2 or labels.shape != scores.shape[:1]:
        raise ValueError(f"scores must be (N, C) and labels (N,); they are {scores.shape} and {labels.shape}.")
    check_labels(labels, scores.shape[1])
    if np.isnan(scores).any():
        raise ValueError(f"{int(np.isnan(scores).sum())} of {scores.size} scores are not numbers.")
    return scores, labels


def check_labels(labels_N: NDArray[np.int64], classes: int) -> None:
    """Raises ValueError unless labels are 0..C-1 (known), -1 (negative) or -2 (unknown)."""
    wrong = labels_N[(labels_N < UNKNOWN) | (labels_N >= classes)]
    if len(wrong):
        raise ValueError(
            f"label {wrong[0]} is not allowed: labels are 0 to {classes - 1} for known classes, {NEGATIVE} for "
            f"negatives and {UNKNOWN} for unknowns."
        )


def _told(labels_N: NDArray[np.int64]) -> str:
    return ", ".join(map(str, np.unique(labels_N)[:5]))


# Angles


def angle_groups(angles_NC: ArrayLike, labels_N: ArrayLike) -> dict[str, Floats]:
    """Angles to class centres by group: 'known_true' (own class), and for each of known (other classes), negative and
    unknown rows '<group>_smallest', '_max' and '_avg' over classes. Groups without rows are left out.
    """
    angles_NC, labels_N = checked(angles_NC, labels_N)
    known_N = labels_N >= 0
    found: dict[str, Floats] = {}
    if known_N.any():
        own_NC = np.arange(angles_NC.shape[1]) == labels_N[known_N, None]
        found["known_true"] = angles_NC[known_N][own_NC]
        others = angles_NC[known_N][~own_NC].reshape(int(known_N.sum()), -1)
        found |= _extremes("known", others) if others.shape[1] else {}
    for group, label in (("unknown", UNKNOWN), ("negative", NEGATIVE)):
        if (labels_N == label).any():
            found |= _extremes(group, angles_NC[labels_N == label])
    return found


def _extremes(group: str, angles_NC: Floats) -> dict[str, Floats]:
    return {
        f"{group}_smallest": angles_NC.min(axis=1),
        f"{group}_max": angles_NC.max(axis=1),
        f"{group}_avg": angles_NC.mean(axis=1),
    }


def histogram(angles_N: ArrayLike) -> tuple[NDArray[np.int64], Floats]:
    """Counts and densities in the bins of `EDGES`, (99,) each."""
    counts = np.histogram(np.asarray(angles_N), EDGES)[0]
    return counts, np.histogram(np.asarray(angles_N), EDGES, density=True)[0]


# Scale and margin


def scale_bound(probability: float, classes: int, form: Literal["cosface", "adacos"] = "cosface") -> float:
    """The scale from which the softmax can reach `probability` at angle 0.

    'cosface' puts the other C - 1 cosines at -1 / (C - 1), a simplex; 'adacos' at 0.
    """
    logit = math.log((classes - 1) * probability / (1 - probability))
    return logit * (classes - 1) / classes if form == "cosface" else logit


def scale(probability: float, classes: int) -> int:
    """The smallest integer at or above CosFace's bound."""
    return math.ceil(scale_bound(probability, classes))


def margin_bound(head: Literal["cos", "ang"], classes: int, features: int) -> float:
    """The largest margin that C centres in K dimensions leave room for.

    On a circle (K = 2) neighbours are 2 pi / C apart, on a line (K = 1) only two classes are apart at all; otherwise a
    simplex, the best for K >= C - 1, bounds it.
    """
    if features == 1 and classes > 2:
        return 0.0
    if features == 2 and classes > 2:
        return 1 - math.cos(2 * math.pi / classes) if head == "cos" else 2 * math.pi / classes
    return classes / (classes - 1) if head == "cos" else math.acos(-1 / (classes - 1))


def probability_curve(
    theta: ArrayLike, s: float, classes: int, m: float = 0.0, kind: Literal["cos", "ang", "sphere"] = "cos"
) -> Floats:
    """Softmax probability of the own class at angle theta when all other cosines are 0, with a margin.

    'sphere' takes m as a factor and continues cos(m theta) monotonically past pi, as SphereFace does.
    """
    angle = np.asarray(theta, dtype=np.float64)
    if kind == "sphere":
        k = np.floor(m * angle / math.pi)
        a = s * ((-1) ** k * np.cos(m * angle) - 2 * k)
    else:
        a = s * (np.cos(angle) - m) if kind == "cos" else s * np.cos(angle + m)
    curve_T: Floats = 1 / (1 + (classes - 1) * np.exp(-a))
    return curve_T
