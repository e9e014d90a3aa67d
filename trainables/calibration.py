"""Whether a classifier's confidence is what it says: errors by bins, the Brier score, reliability, temperature.

Papers: Guo et al., On Calibration of Modern Neural Networks (arXiv 1706.04599), for temperature and reliability;
Nguyen and O'Connor (arXiv 1508.05154) for bins of equal size. Repository: JinXins/Adversarial-AutoMixup, for the
variant with sorted bins.

Confidence is the largest softmax probability; probabilities are in double precision. The error with equally wide bins
is `trainables.classification.calibration_error`.

Deviations:
1. Networks here have no validation images, so a temperature is fitted on one half of the test images and used on the
   other, and the other way round: `cross_fitted`.

Shapes: N images, K classes, M bins.
"""

from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from trainables import classification

BINS = 15
TEMPERATURES = (1e-3, 1e3)
"""Between these a temperature is searched."""


def adaptive_error(logits_NK: Tensor, labels_N: Tensor, bins: int = BINS) -> float:
    """|accuracy - confidence| of bins with equally many images, by rising confidence, weighted by their sizes."""
    confidence_N, correct_N = _judged(logits_NK, labels_N)
    order_N = confidence_N.argsort(stable=True)
    parts = (correct_N - confidence_N)[order_N].tensor_split(bins)
    return sum(abs(float(part.sum())) for part in parts) / len(labels_N)


def sorted_error(logits_NK: Tensor, labels_N: Tensor, bins: int = 10) -> float:
    """What the code of AdAutoMix prints as the calibration error, to compare with its tables: no calibration error.

    Of equally wide bins the accuracies and the confidences are each put in rising order, the sizes are not. So bins
    are compared that do not belong together.
    """
    shown = reliability(logits_NK, labels_N, bins)
    accuracy_M, confidence_M = (np.sort(np.nan_to_num(shown[name])) for name in ("accuracy", "confidence"))
    return float((shown["share"] * np.abs(accuracy_M - confidence_M)).sum())


def brier(logits_NK: Tensor, labels_N: Tensor) -> float:
    """Mean squared distance between the probabilities and the one-hot label, summed over classes: 0 to 2."""
    p_NK = logits_NK.double().softmax(1)
    return float((p_NK - F.one_hot(labels_N, p_NK.shape[1])).square().sum(1).mean())


def reliability(logits_NK: Tensor, labels_N: Tensor, bins: int = BINS) -> dict[str, np.ndarray]:
    """What a reliability diagram is drawn from.

    Returns:
        'edges' (M + 1); 'share' of the images in each bin (low, high], mean 'confidence' and 'accuracy' in it (M),
        NaN where it is empty.
    """
    confidence_N, correct_N = (values.cpu().numpy() for values in _judged(logits_NK, labels_N))
    edges = np.linspace(0, 1, bins + 1)
    inside = [(confidence_N > low) & (confidence_N <= high) for low, high in pairwise(edges)]

    def means(values_N: np.ndarray) -> np.ndarray:
        return np.array([values_N[each].mean() if each.any() else np.nan for each in inside])

    return {
        "edges": edges,
        "share": np.array([each.mean() for each in inside]),
        "confidence": means(confidence_N),
        "accuracy": means(correct_N),
    }


def temperature(logits_NK: Tensor, labels_N: Tensor) -> float:
    """What logits must be divided by for the smallest negative log-likelihood.

    That is convex in the inverse, and its slope there, the mean of E_p[z] - z_y, is halved towards 0; where it has one
    sign throughout, the nearer of `TEMPERATURES` is the answer.
    """
    z_NK = logits_NK.double()
    true_N = z_NK.gather(1, labels_N[:, None])[:, 0]
    low, high = (float(np.log(1 / each)) for each in reversed(TEMPERATURES))
    for _ in range(60):
        middle = (low + high) / 2
        slope = float((((z_NK * np.exp(middle)).softmax(1) * z_NK).sum(1) - true_N).mean())
        low, high = (low, middle) if slope > 0 else (middle, high)
    return float(np.exp(-(low + high) / 2))


def cross_fitted(logits_NK: Tensor, labels_N: Tensor, half_N: Tensor) -> tuple[Tensor, float]:
    """Logits over the temperature that the other half's images call for.

    Args:
        logits_NK: of test images.
        labels_N: true classes.
        half_N: which of two halves each image belongs to, bool; neither is empty.

    Returns:
        The logits (N, K), double, and the mean of the two temperatures.
    """
    first, second = (temperature(logits_NK[half], labels_N[half]) for half in (half_N, ~half_N))
    by_N = torch.where(half_N, second, first).double()
    return logits_NK.double() / by_N[:, None], (first + second) / 2


def measures(logits_NK: Tensor, labels_N: Tensor) -> dict[str, float]:
    """'nll', 'ece_10', 'ece_15', 'ece_adaptive_15', 'ece_sorted_10' and 'brier'."""
    return {
        "nll": float(F.cross_entropy(logits_NK.double(), labels_N)),
        "ece_10": classification.calibration_error(logits_NK, labels_N, 10),
        "ece_15": classification.calibration_error(logits_NK, labels_N, 15),
        "ece_adaptive_15": adaptive_error(logits_NK, labels_N, 15),
        "ece_sorted_10": sorted_error(logits_NK, labels_N, 10),
        "brier": brier(logits_NK, labels_N),
    }


def _judged(logits_NK: Tensor, labels_N: Tensor) -> tuple[Tensor, Tensor]:
    """Confidence, and 1 where the answer is right, else 0."""
    confidence_N, predicted_N = logits_NK.double().softmax(1).max(1)
    return confidence_N, (predicted_N == labels_N).double()
