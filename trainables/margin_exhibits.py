"""What a network trained by `margins` shows: OSCR curves, angles to class centres, deep features of two dimensions.

Paper: the figures of the thesis cited in `trainables.margins`: 6.1 (OSCR), 6.6 (angles with probability curves, Eq
3.10) and 3.2 to 4.2 (deep features).
Repository: TwoDigitsOneNumber/openset-imagenet-comparison@e7faf79.

The arrays are named in `analysis.openset_figures`, which draws them. They are thinned for pictures; every number comes
from `margin_scores`.

Deviations:
1. Probability curves are given for heads on unit centres only. The thesis also draws one for SFN-Norm, whose centres in
   its code were not normalised.
2. SphereFace's curve with its margin is drawn too, by its own monotone form.

Shapes: N images, C classes, T thresholds, K = 2 features.
"""

import math
from collections.abc import Mapping
from typing import Literal

import numpy as np
from torch import Tensor

from trainables import oscr
from trainables.data_protocols import NEGATIVE, UNKNOWN

POINTS = 200
"""Of a curve, at most: evenly spaced on the logarithm of FPR, the ends among them."""
SHOWN: Mapping[str, tuple[str, int]] = {
    "test": ("known", 1000),
    "negative": ("negative", 500),
    "unknown": ("unknown", 500),
}
"""Evaluated set -> the group that it is shown as, and how many of its deep features at most."""

Arrays = dict[str, np.ndarray]


def curves_and_angles(score_NC: np.ndarray, angle_NC: np.ndarray, labels_N: np.ndarray) -> Arrays:
    """Curves and histograms of a network's outputs; those of groups that a protocol lacks are left out."""
    return _curves(score_NC, labels_N) | _angles(angle_NC, labels_N)


def _curves(score_NC: np.ndarray, labels_N: np.ndarray) -> Arrays:
    found: Arrays = {}
    groups: tuple[tuple[oscr.Outsiders, int], ...] = (("negative", NEGATIVE), ("unknown", UNKNOWN))
    for group, label in groups:
        if (labels_N == label).any():
            curve = oscr.curve(score_NC, labels_N, group)
            kept = thinned(curve.fpr_T)
            found[f"oscr_{group}_fpr"] = curve.fpr_T[kept].astype(np.float32)
            found[f"oscr_{group}_ccr"] = np.asarray(curve.ccr_T)[kept].astype(np.float32)
    return found


def thinned(fpr_T: np.ndarray, points: int = POINTS) -> np.ndarray:
    """Indices of `points` falling rates at most, the first and the last among them."""
    rates = np.geomspace(fpr_T[-1], fpr_T[0], points)
    nearest = np.searchsorted(-fpr_T, -rates, side="left").clip(0, len(fpr_T) - 1)
    return np.unique([0, *nearest, len(fpr_T) - 1])


def _angles(angle_NC: np.ndarray, labels_N: np.ndarray) -> Arrays:
    groups = oscr.angle_groups(angle_NC, labels_N)
    named = {"known": "known_true", "negative": "negative_smallest", "unknown": "unknown_smallest"}
    counts = {f"angles_{name}": oscr.histogram(groups[key])[0] for name, key in named.items() if key in groups}
    return {"angles_edges": oscr.EDGES.copy()} | counts


def probabilities(head: Literal["norm", "cos", "ang", "sphere"], s: float, classes: int, m: float) -> Arrays:
    """The softmax score of the own class by angle, at length s: as tested, and as trained with a margin."""
    theta = np.linspace(0, math.pi, 100)
    found = {"probability_theta": theta, "probability_test": oscr.probability_curve(theta, s, classes)}
    if head != "norm" and m != (1.0 if head == "sphere" else 0.0):
        found["probability_training"] = oscr.probability_curve(theta, s, classes, m, head)
    return found


def features(outputs: Mapping[str, Mapping[str, Tensor]], W_KC: Tensor) -> Arrays:
    """Deep features of evaluated images, evenly spaced ones of many, and the class centres."""
    found: Arrays = {"centres": W_KC.detach().cpu().numpy().astype(np.float32)}
    for name, (group, most) in SHOWN.items():
        if name not in outputs:
            continue
        phi_N2 = outputs[name]["features"].numpy()
        rows = np.linspace(0, len(phi_N2) - 1, min(most, len(phi_N2))).round().astype(int)
        found[f"features_{group}"] = phi_N2[rows].astype(np.float32)
        if group == "known":
            found["features_known_labels"] = outputs[name]["labels"].numpy()[rows].astype(np.int16)
    return found
