"""Open-set recognition by nearest neighbours in a learned embedding, and the evaluation of a trained one.

Paper: Informed Mixing (GradMix), arXiv 2505.12803, Algorithm 1.
Official repository: gawainxu/comprehensive_osr@d18b920.

An image's score for a class is the sum of its k largest cosines to the training images of that class. The class with
the largest score is the prediction, and that largest score says how known the image is.

Deviations:
1. All test images are evaluated; the repository cuts classes off at 501 to 1101 images, and `ood.py` keeps every tenth.
2. The score is not divided by its sum over classes unless asked ('normalised', what the repository does).

Shapes: Q queries, N exemplars, C classes, D features, B batch.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from trainables import metrics
from trainables.augment import normalise, to_float
from trainables.datasets import Data, Images
from trainables.protocol import Diverged

Feature = Literal["head", "backbone"]
Score = Literal["raw", "normalised"]
Embed = Callable[[Tensor], Mapping[str, Tensor]]
"""Normalised images (B, C, H, W) -> {'head': (B, D1), 'backbone': (B, D2)}."""

SIMILARITIES_AT_ONCE = 1 << 25
"""Cosines held in memory at a time: 128 MiB of float32."""


@contextmanager
def evaluation_mode(module: nn.Module) -> Iterator[nn.Module]:
    """The module in eval mode; afterwards every submodule has its own mode back."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield module
    finally:
        for part, training in modes:
            part.training = training


def class_scores(queries_QD: Tensor, exemplars_ND: Tensor, labels_N: Tensor, classes: int, k: int) -> Tensor:
    """Algorithm 1: G_c(x), the sum of the min(k, n_c) largest cosines between x and the exemplars of class c.

    Args:
        queries_QD: features; rows need not be normalised.
        exemplars_ND: features of the training images.
        labels_N: their classes, 0..classes-1; each class needs an exemplar.
        classes: number of classes.
        k: neighbours per class.

    Returns:
        Scores (Q, classes).

    Raises:
        ValueError: k below 1, or a class without exemplars.
    """
    if k < 1:
        raise ValueError(f"k={k} is not allowed: k must be at least 1.")
    counts = torch.bincount(labels_N, minlength=classes).tolist()
    if min(counts) == 0:
        raise ValueError(f"class {counts.index(0)} has no exemplars: every known class needs a training image.")
    order = torch.argsort(labels_N, stable=True)
    exemplars_DN = nn.functional.normalize(exemplars_ND[order], dim=1).T
    queries_QD = nn.functional.normalize(queries_QD, dim=1)
    rows = max(1, SIMILARITIES_AT_ONCE // exemplars_DN.shape[1])

    def scores(part_BD: Tensor) -> Tensor:
        by_class = torch.split(part_BD @ exemplars_DN, counts, dim=1)
        return torch.stack([cosines.topk(min(k, cosines.shape[1])).values.sum(dim=1) for cosines in by_class], dim=1)

    return torch.cat([scores(part) for part in queries_QD.split(rows)])


def known_score(scores_QC: Tensor, score: Score) -> Tensor:
    """How known each query is (Q,): max_c G_c, or max_c (G_c / sum_c' G_c') when 'normalised'.

    The division comes first, as released: where the sum is negative, the largest quotient is that of the smallest G_c.
    """
    if score == "normalised":
        scores_QC = scores_QC / scores_QC.sum(dim=1, keepdim=True)
    return scores_QC.max(dim=1).values


def evaluate(
    embed: Embed,
    data: Data,
    *,
    k: int = 10,
    score: Score = "raw",
    feature: Feature = "head",
    device: str = "cpu",
    intrinsic_dimension: bool = False,
    linear_probe: bool = False,
    batch: int = 512,
) -> dict[str, float]:
    """The metrics of a trained embedding on a protocol's data.

    Args:
        embed: the network, in eval mode (see `evaluation_mode`); called without gradients, on images normalised as the
            protocol says and not augmented.
        data: training images are the exemplars; test images and, where the protocol has them, unknown ones are scored.
        k: neighbours per class.
        score: how the class scores become one.
        feature: which output of `embed` is compared.
        device: where `embed` lives.
        intrinsic_dimension: also TwoNN of the head features of the training images, averaged over the known classes.
        linear_probe: also the test accuracy of a linear classifier on the backbone features.
        batch: images embedded at a time.

    Returns:
        'accuracy', and where asked for and defined 'auroc', 'intrinsic_dimension', 'linear_accuracy'.

    Raises:
        Diverged: a feature that is not finite.
        ValueError: k below 1, or a known class without training images.
    """
    train = embed_images(embed, data.train, data, device, batch)
    test = embed_images(embed, data.test, data, device, batch)
    labels_N = torch.from_numpy(np.array(data.train.labels, dtype=np.int64)).to(device)
    classes = len(data.classes)
    known_QC = class_scores(test[feature], train[feature], labels_N, classes, k)
    truth_Q = torch.from_numpy(np.array(data.test.labels, dtype=np.int64)).to(device)
    results = {"accuracy": float((known_QC.argmax(dim=1) == truth_Q).double().mean())}
    unknown = data.others.get("unknown")
    if unknown is not None:
        others = embed_images(embed, unknown, data, device, batch)
        unknown_QC = class_scores(others[feature], train[feature], labels_N, classes, k)
        results["auroc"] = metrics.auroc(_numpy(known_score(known_QC, score)), _numpy(known_score(unknown_QC, score)))
    if intrinsic_dimension:
        results |= dimension(_numpy(train["head"]), _numpy(labels_N))
    if linear_probe:
        results["linear_accuracy"] = linear_accuracy(train["backbone"], labels_N, test["backbone"], truth_Q)
    return results


@torch.no_grad()
def embed_images(embed: Embed, images: Images, data: Data, device: str, batch: int) -> dict[str, Tensor]:
    """All images through `embed`, batch by batch, in float32 on the device: output name -> (N, D).

    Raises:
        Diverged: a feature that is not finite.
    """
    outputs: dict[str, list[Tensor]] = {}
    for start in range(0, len(images.labels), batch):
        pixels_BHWC = torch.from_numpy(np.array(images.pixels[start : start + batch])).to(device)
        for name, values in embed(normalise(to_float(pixels_BHWC), data.mean, data.std)).items():
            outputs.setdefault(name, []).append(values.float())
    features = {name: torch.cat(parts) for name, parts in outputs.items()}
    for name, values in features.items():
        if not bool(torch.isfinite(values).all()):
            raise Diverged(f"the {name} features of the trained network are not finite.")
    return features


def linear_accuracy(
    train_ND: Tensor, labels_N: Tensor, test_QD: Tensor, truth_Q: Tensor, *, penalty: float = 1e-4, steps: int = 200
) -> float:
    """Test accuracy of multinomial logistic regression on standardised features, fitted by full-batch L-BFGS.

    No random number and no schedule enters, so arms differ by their features alone.
    """
    mean_D, std_D = train_ND.mean(dim=0), train_ND.std(dim=0).clamp_min(1e-6)
    inputs_ND, inputs_QD = (train_ND - mean_D) / std_D, (test_QD - mean_D) / std_D
    classes = int(labels_N.max()) + 1
    weight_CD = inputs_ND.new_zeros(classes, inputs_ND.shape[1]).requires_grad_()
    bias_C = inputs_ND.new_zeros(classes).requires_grad_()
    optimizer = torch.optim.LBFGS([weight_CD, bias_C], max_iter=steps, line_search_fn="strong_wolfe")

    def closure() -> float:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(inputs_ND @ weight_CD.T + bias_C, labels_N)
        loss = loss + penalty * weight_CD.square().sum()
        loss.backward()
        return float(loss.detach())

    with torch.enable_grad():
        optimizer.step(closure)
    predicted_Q = (inputs_QD @ weight_CD.detach().T + bias_C.detach()).argmax(dim=1)
    return float((predicted_Q == truth_Q).double().mean())


def dimension(
    features_ND: np.ndarray, labels_N: np.ndarray, points: int = 5000, fraction: float = 0.9
) -> dict[str, float]:
    """Mean over classes of TwoNN on at most `points` images each; empty when no class has enough distinct images.

    Of more images every so many-th is taken: some data sets come class by class.
    """
    values = []
    for label in np.unique(labels_N):
        rows = np.flatnonzero(labels_N == label)
        spread = np.arange(min(points, len(rows))) * len(rows) // min(points, len(rows))
        values.append(metrics.intrinsic_dimension(features_ND[rows[spread]], fraction))
    finite = [value for value in values if np.isfinite(value)]
    return {"intrinsic_dimension": float(np.mean(finite))} if finite else {}


def _numpy(values: Tensor) -> np.ndarray:
    return values.detach().cpu().numpy()
