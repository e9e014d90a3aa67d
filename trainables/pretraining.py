"""Plain cross-entropy training of a classifier, for other methods to start from or to score: once for all of them.

Paper: Gradient-Regularized Out-of-Distribution Detection (GReg), arXiv 2404.12368, section 4; the schedule is that of
its code, o4lc/Greg-OOD@6ea4ff0, which has it from outlier exposure.

Length and learning rate have names of their own, so that a scale can set them apart from those of what comes after.

Deviations:
1. The rest of an epoch, less than a batch, is dropped; the code trains on it.

Expected: about 95% on CIFAR-10 with WRN-40-2. The protocol's out-of-distribution images, where it has any, are scored
by the energy, without having been trained against.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F

from trainables import augment, classification, classifiers, detection, loop, openset, schedules, seeding
from trainables.config import check_types, require
from trainables.datasets import Data
from trainables.protocol import Epoch, State


@dataclass(frozen=True, kw_only=True)
class Config:
    """What can be varied. [C] is read in the code."""

    network: classifiers.Name = "wrn40_2"
    """Of `trainables.classifiers`."""
    width: int = 64
    """64: the published network."""
    pretraining_epochs: int = 100
    """[C]"""
    pretraining_rate: float = 0.1
    """Learning rate at the first step. [C]"""
    batch: int = 64
    """[C]"""
    floor: float = 1e-6
    """Learning rate after the last step, along a cosine. [C]"""
    momentum: float = 0.9
    """Nesterov's. [C]"""
    weight_decay: float = 1e-4
    """[C]"""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Of the network's passes."""
    channels_last: bool = False
    """Memory layout on the device."""
    flip: bool = True
    """Horizontal flip, p = 0.5. [C]"""
    padding: augment.Framing = 4
    """Random crop after so many black pixels on all sides; 'resized': of a random part, on ImageNet. [C]"""

    @property
    def epochs(self) -> int:
        """How many there will be."""
        return self.pretraining_epochs

    def __post_init__(self) -> None:
        check_types(self)
        for field in ("width", "pretraining_epochs"):
            require(getattr(self, field) >= 1, self, field, "at least 1")
        require(self.batch >= 2, self, "batch", "at least 2: batch norm needs more than one image")
        require(0 < self.pretraining_rate < float("inf"), self, "pretraining_rate", "above 0 and finite")
        for field in ("weight_decay", "floor"):
            require(0 <= getattr(self, field) < float("inf"), self, field, "at least 0 and finite")
        require(0 < self.momentum < 1, self, "momentum", "above 0 and below 1")
        require(self.padding == "resized" or self.padding >= 0, self, "padding", "at least 0, or 'resized'")


def train(config: Config, data: Data, *, seed: int, device: str, resume: State | None = None) -> Iterator[Epoch]:
    """Trains a classifier and yields after every epoch; see `trainables.protocol`.

    The final state rebuilds the network: `classifiers.rebuild(state["network"], state["weights"])`.

    Raises:
        ConfigError: a batch larger than the training set.
        Diverged: a loss or weight is no longer finite.
    """
    pixels_NHWC, labels_N = loop.resident(data, config.batch, device)
    init = seeding.torch_stream(seed, "init")
    channels, classes = int(pixels_NHWC.shape[3]), len(data.classes)
    network = classifiers.classifier(config.network, config.width, channels, classes, init).to(device)
    if config.channels_last:
        network.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(
        network.parameters(),
        lr=config.pretraining_rate,
        momentum=config.momentum,
        nesterov=True,
        weight_decay=config.weight_decay,
        **loop.fused(device),
    )
    done, steps = 0, len(labels_N) // config.batch
    if resume is not None:
        done = resume["epoch"]
        network.load_state_dict(resume["weights"])
        optimizer.load_state_dict(resume["optimizer"])
    views = augment.framed(config.padding, flip=config.flip)
    for epoch in range(done, config.epochs):
        order_N = torch.randperm(len(labels_N), generator=seeding.torch_stream(seed, f"order/{epoch}")).to(device)
        random = seeding.torch_stream(seed, f"augment/{epoch}", device)
        totals = loop.Totals()
        network.train()
        for s in range(steps):
            order_B = order_N[s * config.batch : (s + 1) * config.batch]
            step, total = epoch * steps + s, config.epochs * steps
            rate = schedules.cosine(step, total, config.pretraining_rate, config.floor)
            loop.set_learning_rate(optimizer, rate)
            x_BCHW = augment.normalise(augment.view(pixels_NHWC[order_B], views, random), data.mean, data.std)
            with totals.step(device):
                with torch.autocast(x_BCHW.device.type, torch.bfloat16, enabled=config.precision == "bf16"):
                    logits_BK = network(x_BCHW)
                terms = {"loss": F.cross_entropy(logits_BK.float(), labels_N[order_B])}
                optimizer.zero_grad(set_to_none=True)
                terms["loss"].backward()
                optimizer.step()
            totals.add(terms)
        metrics = totals.means(network, epoch + 1)
        if epoch + 1 == config.epochs:
            metrics |= evaluate(network, data, device)
        yield Epoch(epoch + 1, metrics, loop.captured(epoch + 1, network, optimizer))


def evaluate(network: classifiers.Classifier, data: Data, device: str) -> dict[str, float]:
    """Accuracy and calibration; where there are out-of-distribution images, how well the energy finds them."""
    with openset.evaluation_mode(network), loop.repeatable(device), torch.no_grad():
        found = classification.evaluate(network, data, data.mean, data.std, device=device)
        sets = detection.evaluated(data)
        if len(sets) == 1:
            return found
        scores = {
            name: torch.cat([network(x_BCHW).logsumexp(1) for x_BCHW in detection.batches(images, data, device)])
            for name, images in sets.items()
        }
    return found | detection.measure(detection.arrays(scores))
