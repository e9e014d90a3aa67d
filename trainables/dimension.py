"""Intrinsic dimension of the features of a network that another trial trained, by TwoNN. One epoch.

Papers: Informed Mixing (GradMix), arXiv 2505.12803, section 1 and Table 1; E. Facco et al., Scientific Reports 7
(2017), 12140, for the estimator. Official repository: gawainxu/comprehensive_osr@d18b920 `ID.py`.

From an image's nearest neighbour to the next the distance grows by a factor whose law depends on the dimension alone,
not on the density: `metrics.intrinsic_dimension`. Training images are not augmented, and the network is in eval mode.
The paper names neither the layer nor what is averaged; its code takes the head's output and the mean over known
classes.

Deviations:
1. Those of `trainables.metrics` and, with 'head' and 'classes', none from what `trainables.gradmix` reports itself.
2. At most `points` images of each class, or of all, are taken: where there are more, evenly over their order.

Shapes: N training images, D features.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch

from trainables import classification, judged, loop, openset
from trainables.config import ConfigError, check_types, require
from trainables.datasets import Data
from trainables.protocol import Epoch, Needed, State


@dataclass(frozen=True, kw_only=True)
class Config:
    """Whose features, and which. [C] is read in the code, [D] is ours."""

    network: Needed
    """The trial that trains the network; its final state holds 'network' (a description) and 'weights'."""
    feature: openset.Feature = "head"
    """An encoder's head's output, scaled to length 1 [C], or what any network's last layer is given."""
    over: Literal["classes", "all"] = "classes"
    """The mean over known classes [C], or once for the images of all."""
    points: int = 5000
    """At most so many images at once. [D] all of a class of CIFAR-10."""
    fraction: float = 0.9
    """Share of the images, those with the smallest factors, that the line is fitted to. [C] 0.9."""
    k: int = 10
    """Neighbours per class, for the accuracy."""

    def __post_init__(self) -> None:
        check_types(self)
        judged.check_feature(self.network, "network", self.feature)
        require(self.points >= 3, self, "points", "at least 3: a point and its two neighbours")
        require(0 < self.fraction <= 1, self, "fraction", "above 0 and at most 1")
        require(self.k >= 1, self, "k", "at least 1")


def train(
    config: Config, data: Data, *, seed: int, device: str, resume: State | None = None, network: State
) -> Iterator[Epoch]:
    """Measures the features of another trial's network; yields one epoch.

    'intrinsic_dimension', and the 'accuracy' of Algorithm 1's nearest neighbours by the same features.

    Args:
        config: which features.
        data: its training images are measured.
        seed: not used: nothing here is random.
        device: where the network runs.
        resume: a state of this method; it was finished then, so nothing is yielded.
        network: final state of the needed trial.

    Raises:
        ConfigError: so few different images that no dimension is defined.
        ValueError: a state that describes no network, one for images of other channels, or a classifier where the
            feature is a head.
        Diverged: a feature is not finite.
    """
    del seed
    if resume is not None:
        return
    embed = judged.embedding(config.network, network, data, device, config.feature)
    mean, std = judged.colours(config.network, data)
    data = replace(data, mean=tuple(mean), std=tuple(std))
    with loop.repeatable(device):
        train_ND, test_QD = (
            openset.embed_images(embed, images, data, device, judged.BATCH)[config.feature]
            for images in (data.train, data.test)
        )
    labels_N, truth_Q = (torch.from_numpy(np.array(of.labels, dtype=np.int64)) for of in (data.train, data.test))
    groups_N = labels_N if config.over == "classes" else torch.zeros_like(labels_N)
    found = openset.dimension(train_ND.cpu().numpy(), groups_N.numpy(), config.points, config.fraction)
    if not found:
        raise ConfigError(
            f"{data.spec.protocol!r} has too few different training images for an intrinsic dimension: at least three "
            "are needed of some class. Raise `per_class` in the data specification, or set over='all'."
        )
    scores_QC = openset.class_scores(test_QD, train_ND, labels_N.to(device), len(data.classes), config.k)
    accuracy = classification.top_k(scores_QC, truth_Q.to(device), 1)
    yield Epoch(1, {"accuracy": accuracy} | found, lambda: {"epoch": 1})
