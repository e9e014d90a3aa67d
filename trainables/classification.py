"""How a trained classifier is judged on a closed set: accuracy, calibration, and one step of an adversary.

Sources: expected calibration error, Guo et al. (arXiv 1706.04599) Eq 3; FGSM, Goodfellow et al. (arXiv 1412.6572), in
the protocol of PuzzleMix (snu-mllab/PuzzleMix): a step of 8/255 on pixels, clipped to [0, 1], and only then normalised.

Deviations:
1. Calibration bins are (low, high], so that a confidence of 1 is counted; there is no temperature.

Shapes: N images, B of a batch, K classes.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from trainables.augment import normalise, to_float
from trainables.datasets import Data, Images

Network = Callable[[Tensor], Tensor]
"""Normalised images (B, C, H, W) -> logits (B, K); in eval mode."""
EPSILON = 8 / 255
"""FGSM's step, in units of a pixel's range."""


def batches(images: Images, device: str, batch: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Pixels (B, C, H, W) in [0, 1] and labels (B,), in order, on the device."""
    for start in range(0, len(images.pixels), batch):
        pixels_BHWC = torch.from_numpy(np.array(images.pixels[start : start + batch])).to(device)
        labels_B = torch.from_numpy(np.array(images.labels[start : start + batch], dtype=np.int64)).to(device)
        yield to_float(pixels_BHWC), labels_B


@torch.no_grad()
def evaluate(
    network: Network,
    data: Data,
    mean: Sequence[float],
    std: Sequence[float],
    *,
    device: str = "cpu",
    batch: int = 500,
) -> dict[str, float]:
    """'accuracy', 'accuracy_top5', 'nll' (nats), 'ece_10' and 'ece_15' on the test images."""
    logits, labels = [], []
    for x_BCHW, labels_B in batches(data.test, device, batch):
        logits.append(network(normalise(x_BCHW, mean, std)).float())
        labels.append(labels_B)
    return measures(torch.cat(logits), torch.cat(labels))


def measures(logits_NK: Tensor, labels_N: Tensor) -> dict[str, float]:
    """What `evaluate` returns, from logits."""
    return {
        "accuracy": top_k(logits_NK, labels_N, 1),
        "accuracy_top5": top_k(logits_NK, labels_N, 5),
        "nll": float(F.cross_entropy(logits_NK.double(), labels_N)),
        "ece_10": calibration_error(logits_NK, labels_N, 10),
        "ece_15": calibration_error(logits_NK, labels_N, 15),
    }


def top_k(logits_NK: Tensor, labels_N: Tensor, k: int) -> float:
    """Share of images whose class is among the k largest logits; among all, where there are fewer."""
    top_Nk = logits_NK.topk(min(k, logits_NK.shape[1]), dim=1).indices
    return float((top_Nk == labels_N[:, None]).any(1).double().mean())


def calibration_error(logits_NK: Tensor, labels_N: Tensor, bins: int) -> float:
    """Expected calibration error: |accuracy - confidence| of equally wide bins of confidence, weighted by their size.

    Confidence is the largest softmax probability.
    """
    confidence_N, predicted_N = logits_NK.double().softmax(1).max(1)
    correct_N = (predicted_N == labels_N).double()
    total = 0.0
    for low, high in pairwise(np.linspace(0, 1, bins + 1).tolist()):
        inside_N = (confidence_N > low) & (confidence_N <= high)
        if inside_N.any():
            total += abs(float((correct_N[inside_N] - confidence_N[inside_N]).sum()))
    return total / len(labels_N)


def fgsm(
    network: Network,
    x_BCHW: Tensor,
    labels_B: Tensor,
    mean: Sequence[float],
    std: Sequence[float],
    epsilon: float = EPSILON,
) -> Tensor:
    """Images one step of `epsilon` up the sign of the cross-entropy's gradient, clipped to [0, 1]; not normalised.

    Args:
        network: in eval mode.
        x_BCHW: images in [0, 1].
        labels_B: true classes.
        mean: of the normalisation that the network wants.
        std: likewise.
        epsilon: in units of a pixel's range.
    """
    with torch.enable_grad():
        x_BCHW = x_BCHW.detach().requires_grad_()
        loss = F.cross_entropy(network(normalise(x_BCHW, mean, std)), labels_B, reduction="sum")
        (gradient_BCHW,) = torch.autograd.grad(loss, x_BCHW)
    return (x_BCHW.detach() + epsilon * gradient_BCHW.sign()).clamp(0, 1)


def fgsm_error(
    network: Network,
    data: Data,
    mean: Sequence[float],
    std: Sequence[float],
    *,
    device: str = "cpu",
    batch: int = 500,
) -> float:
    """Share of test images that are misclassified after `fgsm`."""
    wrong = torch.zeros((), dtype=torch.int64, device=device)
    for x_BCHW, labels_B in batches(data.test, device, batch):
        moved_BCHW = fgsm(network, x_BCHW, labels_B, mean, std)
        with torch.no_grad():
            wrong += (network(normalise(moved_BCHW, mean, std)).argmax(1) != labels_B).sum()
    return float(wrong) / len(data.test.labels)
