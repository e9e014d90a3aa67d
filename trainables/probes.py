"""How good a frozen network's features are: a linear classifier trained on them, and their nearest neighbours.

Paper: Informed Mixing (GradMix), arXiv 2505.12803, section 4.5 and Figure 5.
Repositories: R1 = gawainxu/comprehensive_osr@d18b920, R2 = gawainxu/GradMix@b4f2ece `main_linear.py`. In the fields
below [C] is read in their code, [D] is our decision; the paper says of its linear classifiers only that they are alike.

The network, which another trial trained (an encoder or a classifier, with or without labels, on these images or on
others), stays as it is, in eval mode. After every epoch of the linear layer 'accuracy' and 'accuracy_top5' are that
layer's on the test images; after the last there are also 'knn_accuracy' and 'knn_accuracy_top5', by Algorithm 1's class
scores with the training images as exemplars.

Deviations:
1. The last epoch is the result. R2 reports the best by test accuracy, which an `Outcome` of 'best_oracle' selects and
   says so. `released` gives the other settings of R2.
2. The layer starts at zero: the loss is convex, so nothing depends on a draw.
3. The last, smaller batch of an epoch is trained on, too.

Shapes: N training images, B of a batch, Q test images, D features, K classes.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainables import augment, classification, judged, loop, openset, schedules, seeding, spread
from trainables.config import check_types, require
from trainables.datasets import Data, Images
from trainables.protocol import Epoch, Needed, State


@dataclass(frozen=True, kw_only=True)
class Config:
    """How features are probed. Names `probe_...` let a scale set them apart from those of the network's training."""

    network: Needed
    """The trial that trains the network; its final state holds 'network' (a description) and 'weights', and its config
    says how images are augmented; where it does not, it is as with GradMix."""
    feature: openset.Feature = "backbone"
    """What the network's last layer is given [C], or an encoder's head's output."""
    probe_epochs: int = 100
    """[D]; [C] 20 to 30."""
    probe_batch: int = 256
    """[C]"""
    probe_optimizer: Literal["sgd", "adam"] = "sgd"
    """[D]; [C] Adam."""
    probe_rate: float = 0.1
    """Learning rate at the start. [D]; [C] 0.01 or 0.001."""
    probe_schedule: Literal["cosine", "steps"] = "cosine"
    """[D] a cosine of each epoch, to 0; [C] a tenth after each of `probe_milestones`."""
    probe_milestones: tuple[int, ...] = (5, 10, 15)
    """Epochs after which the steps schedule drops. [C]"""
    probe_momentum: float = 0.9
    """For SGD only [D]."""
    probe_weight_decay: float = 0.0
    """[D]"""
    probe_views: Literal["moved", "pretraining", "none"] = "moved"
    """What training images go through: the pre-training's crop, flip and rotation alone [D]; all that its views do [C];
    nothing, and then features are computed once."""
    bias: bool = True
    """Whether the linear layer has one. R1 yes, R2 no."""
    k: int = 10
    """Neighbours per class. [P] 10 in the ablations on open sets."""

    @property
    def epochs(self) -> int:
        """How many there will be."""
        return self.probe_epochs

    def __post_init__(self) -> None:
        check_types(self)
        judged.check_feature(self.network, "network", self.feature)
        for field in ("probe_epochs", "probe_batch", "k"):
            require(getattr(self, field) >= 1, self, field, "at least 1")
        require(0 < self.probe_rate < float("inf"), self, "probe_rate", "above 0 and finite")
        require(0 <= self.probe_weight_decay < float("inf"), self, "probe_weight_decay", "at least 0 and finite")
        require(0 <= self.probe_momentum < 1, self, "probe_momentum", "at least 0 and below 1")
        rising = list(self.probe_milestones) == sorted(set(self.probe_milestones))
        require(rising and min(self.probe_milestones, default=1) >= 1, self, "probe_milestones", "rising, from 1")


def released(network: Needed, **fields: Any) -> Config:
    """R2's settings, for the network of that trial."""
    theirs: dict[str, Any] = {
        "probe_epochs": 20,
        "probe_optimizer": "adam",
        "probe_rate": 0.01,
        "probe_schedule": "steps",
        "probe_views": "pretraining",
        "bias": False,
    }
    return Config(network=network, **(theirs | fields))


class Linear(nn.Module):
    """A linear layer that starts at zero; `description` says how to build it."""

    def __init__(self, features: int, classes: int, *, bias: bool) -> None:
        super().__init__()
        self.weight_KD = nn.Parameter(torch.zeros(classes, features))
        self.bias_K = nn.Parameter(torch.zeros(classes)) if bias else None
        self.description = {"features": features, "classes": classes, "bias": bias}

    def forward(self, features_BD: Tensor) -> Tensor:
        """(B, D) -> logits (B, K)."""
        return F.linear(features_BD, self.weight_KD, self.bias_K)


def train(
    config: Config, data: Data, *, seed: int, device: str, resume: State | None = None, network: State
) -> Iterator[Epoch]:
    """Trains a linear layer on the features of another trial's network, and yields after every epoch.

    Args:
        config: how to probe.
        data: whose images are classified; labels are read here, whether they were in the network's training or not.
        seed: of the order of images and of their augmentation.
        device: where both networks run.
        resume: a state of this method.
        network: final state of the needed trial.

    Raises:
        ValueError: a state that describes no network, one for images of other channels, or a classifier where
            `config.feature` is a head.
        Diverged: a loss, weight or feature is not finite.
    """
    embed = judged.embedding(config.network, network, data, device, config.feature)
    mean, std = judged.colours(config.network, data)
    data = replace(data, mean=tuple(mean), std=tuple(std))
    pixels_NHWC, labels_N = loop.resident(data, 1, device, "probe_batch")
    truth_Q = torch.from_numpy(np.array(data.test.labels, dtype=np.int64)).to(device)
    test_QD = features(config, embed, data, data.test, device)
    linear = Linear(test_QD.shape[1], len(data.classes), bias=config.bias).to(device)
    optimizer, done = _optimizer(config, linear, device), 0
    if resume is not None:
        done = resume["epoch"]
        linear.load_state_dict(resume["weights"])
        optimizer.load_state_dict(resume["optimizer"])
    read = _reader(config, embed, data, pixels_NHWC)
    for epoch in range(done, config.epochs):
        order_N = torch.randperm(len(labels_N), generator=seeding.torch_stream(seed, f"probe/order/{epoch}")).to(device)
        random = seeding.torch_stream(seed, f"probe/augment/{epoch}", device)
        loop.set_learning_rate(optimizer, _learning_rate(config, epoch))
        totals = loop.Totals()
        for order_B in order_N.split(config.probe_batch):
            with totals.step(device):
                loss = F.cross_entropy(linear(read(order_B, random)), labels_N[order_B])
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
            totals.add({"loss": loss})
        metrics = totals.means(linear, epoch + 1)
        with torch.no_grad(), loop.repeatable(device):
            metrics |= accuracies(linear(test_QD), truth_Q)
            if epoch + 1 == config.epochs:
                exemplars_ND = features(config, embed, data, data.train, device)
                scores_QK = openset.class_scores(test_QD, exemplars_ND, labels_N, len(data.classes), config.k)
                metrics |= {f"knn_{name}": value for name, value in accuracies(scores_QK, truth_Q).items()}
        yield Epoch(epoch + 1, metrics, loop.captured(epoch + 1, linear, optimizer))


def accuracies(scores_QK: Tensor, truth_Q: Tensor) -> dict[str, float]:
    """'accuracy' and 'accuracy_top5' of scores of the classes."""
    found = {"accuracy": 1, "accuracy_top5": 5}
    return {name: classification.top_k(scores_QK, truth_Q, k) for name, k in found.items()}


def features(config: Config, embed: openset.Embed, data: Data, images: Images, device: str) -> Tensor:
    """Features (N, D) of images that nothing changes, in order."""
    with loop.repeatable(device):
        return openset.embed_images(embed, images, data, device, judged.BATCH)[config.feature]


def views(config: Config) -> augment.Settings | None:
    """What training images go through; None: nothing."""
    if config.probe_views == "none":
        return None
    all_of_them = spread.views(config.network)
    if config.probe_views == "pretraining":
        return all_of_them
    return replace(all_of_them, jitter=0.0, grayscale=0.0, blur=0.0)


def _reader(
    config: Config, embed: openset.Embed, data: Data, pixels_NHWC: Tensor
) -> Callable[[Tensor, torch.Generator], Tensor]:
    """(rows of training images (B,), where views come from) -> their features (B, D)."""
    settings = views(config)
    if settings is None:
        frozen_ND = features(config, embed, data, data.train, str(pixels_NHWC.device))
        return lambda order_B, _: frozen_ND[order_B]

    @torch.no_grad()
    def read(order_B: Tensor, random: torch.Generator) -> Tensor:
        x_BCHW = augment.normalise(augment.view(pixels_NHWC[order_B], settings, random), data.mean, data.std)
        return embed(x_BCHW)[config.feature].float()

    return read


def _optimizer(config: Config, linear: Linear, device: str) -> torch.optim.Optimizer:
    options: dict[str, Any] = {"lr": config.probe_rate, "weight_decay": config.probe_weight_decay} | loop.fused(device)
    if config.probe_optimizer == "sgd":
        return torch.optim.SGD(linear.parameters(), momentum=config.probe_momentum, **options)
    return torch.optim.Adam(linear.parameters(), **options)


def _learning_rate(config: Config, epoch: int) -> float:
    """Of the epoch with this index, from 0."""
    if config.probe_schedule == "steps":
        return schedules.multi_step(epoch, config.probe_rate, config.probe_milestones)
    return schedules.cosine(epoch, config.probe_epochs, config.probe_rate)
