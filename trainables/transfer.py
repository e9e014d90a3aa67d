"""Transfer by fine-tuning: a network that another trial trained on other images goes on with these.

Paper: Adversarial AutoMixup, ICLR 2024 (hal-04655281), section 4.5 and Table 3, with the settings of section 4.1.2.
Repositories: JinXins/Adversarial-AutoMixup, on Westlake-AI/openmixup.

The last layer is new, everything is trained, by plain cross-entropy. Of a student and its teacher, the one goes on that
the needed trial's own `scored` names. Fields have names of their own where the training before has them too, so that a
scale can set them apart.

Deviations:
1. Images are the squares that the data specification gives, at one size for training and test; the code trains on
   crops of 224 from images whose shorter side is 256, and tests on their middle.
2. The paper does not say which of AdAutoMix's networks goes on, nor how its new layer starts.
3. Crops are bilinear.

Expected, [P] top-1 of ResNet-50 from ImageNet after 100 epochs: 81.76 on CUB-200 and 88.88 on Stanford Cars without
mixing, 83.36 and 89.65 after AdAutoMix.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F

from trainables import augment, classification, finetuned, judged, loop, openset, schedules, seeding, teachers
from trainables.config import check_types, require
from trainables.datasets import Data
from trainables.protocol import Epoch, Needed, State

REMEMBERED = ("accuracy", "accuracy_top5")
"""What has a best and a median."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """What goes on, and how. [P] printed in the paper, [C] read in the code, [D] ours."""

    network: Needed
    """The trial whose network goes on; usually on other data."""
    start: Literal["trained", "scratch"] = "trained"
    """Its weights, or new ones for the same network: what would be learned without it [D]."""
    transfer_epochs: int = 100
    """[P] 100."""
    transfer_batch: int = 16
    """[P] 16; the rest of an epoch is dropped."""
    transfer_rate: float = 1e-3
    """Learning rate at the start. [P] 0.001."""
    transfer_floor: float = 0.0
    """What its cosine, which moves by the epoch, ends at, as a share. [C] 0."""
    head_factor: float = 1.0
    """The new layer's learning rate over the others'. [P] unsaid."""
    momentum: float = 0.9
    """[P] 0.9."""
    weight_decay: float = 5e-4
    """[P] 0.0005."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Of the network's passes."""
    channels_last: bool = False
    """Memory layout on the device."""
    flip: bool = True
    """Horizontal flip, p = 0.5. [C]"""
    crop: bool = True
    """RandomResizedCrop. [C]"""
    crop_scale: float = 0.5
    """Smallest area of that crop, as a fraction. [C] 0.5."""
    padding: int = 0
    """Random crop after so many pixels on all sides, mirrored."""
    evaluate_every: int = 1
    """Epochs between evaluations; 0: after the last only."""

    @property
    def epochs(self) -> int:
        """How many there will be."""
        return self.transfer_epochs

    def __post_init__(self) -> None:
        check_types(self)
        judged.check_needed(self.network, "network")
        require(self.transfer_epochs >= 1, self, "transfer_epochs", "at least 1")
        require(self.transfer_batch >= 2, self, "transfer_batch", "at least 2: batch norm needs more than one image")
        for field in ("transfer_rate", "head_factor"):
            require(0 < getattr(self, field) < math.inf, self, field, "above 0 and finite")
        require(0 <= self.transfer_floor <= 1, self, "transfer_floor", "a share of the rate, between 0 and 1")
        require(0 <= self.momentum < 1, self, "momentum", "at least 0 and below 1")
        require(0 <= self.weight_decay < math.inf, self, "weight_decay", "at least 0 and finite")
        require(0 < self.crop_scale <= 1, self, "crop_scale", "above 0 and at most 1")
        for field in ("padding", "evaluate_every"):
            require(getattr(self, field) >= 0, self, field, "at least 0")


def train(
    config: Config, data: Data, *, seed: int, device: str, resume: State | None = None, network: State
) -> Iterator[Epoch]:
    """Fine-tunes the network of another trial and yields after every epoch; see `trainables.protocol`.

    The final state rebuilds the network: `finetuned.rebuild(state["network"], state["weights"])`.

    Raises:
        ConfigError: a batch larger than the training set.
        ValueError: a state that describes no network, or one for images of other channels.
        Diverged: a loss or weight is no longer finite.
    """
    pixels_NHWC, labels_N = loop.resident(data, config.transfer_batch, device, "transfer_batch")
    tuned = network_of(config, data, seed, network).to(device)
    if config.channels_last:
        tuned.to(memory_format=torch.channels_last)
    optimizer = optimizer_of(config, tuned, device)
    done, history, steps = 0, {}, len(labels_N) // config.transfer_batch
    if resume is not None:
        done, history = resume["epoch"], loop.copied(resume["history"])
        tuned.load_state_dict(resume["weights"])
        optimizer.load_state_dict(resume["optimizer"])
    views = augment.Settings(
        flip=config.flip, crop=config.crop, crop_scale=config.crop_scale, padding=config.padding, padding_mode="reflect"
    )
    for epoch in range(done, config.epochs):
        set_rates(config, optimizer, epoch)
        order_N = torch.randperm(len(labels_N), generator=seeding.torch_stream(seed, f"order/{epoch}")).to(device)
        random = seeding.torch_stream(seed, f"augment/{epoch}", device)
        totals = loop.Totals()
        tuned.train()
        for order_B in order_N[: steps * config.transfer_batch].view(steps, -1):
            x_BCHW = augment.normalise(augment.view(pixels_NHWC[order_B], views, random), data.mean, data.std)
            with totals.step(device):
                with torch.autocast(x_BCHW.device.type, torch.bfloat16, enabled=config.precision == "bf16"):
                    logits_BK = tuned(x_BCHW)
                loss = F.cross_entropy(logits_BK.float(), labels_N[order_B])
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
            totals.add({"loss": loss})
        metrics = totals.means(tuned, epoch + 1)
        if epoch + 1 == config.epochs or (config.evaluate_every and (epoch + 1) % config.evaluate_every == 0):
            metrics |= evaluate(tuned, data, device)
            metrics |= teachers.remembered(history, epoch + 1, metrics, REMEMBERED)
        yield Epoch(epoch + 1, metrics, loop.captured(epoch + 1, tuned, optimizer, history=history))


def network_of(config: Config, data: Data, seed: int, state: State) -> finetuned.Finetuned:
    """The network as it starts.

    Raises:
        ValueError: a state that describes no network, or one for images of other channels.
    """
    before = judged.trained(config.network, state)
    judged.check_channels(before.description, data)
    random = seeding.torch_stream(seed, "init")
    if config.start == "scratch":
        before = finetuned.new(before.description, random)
    return finetuned.on(before, len(data.classes), random)


def optimizer_of(config: Config, tuned: finetuned.Finetuned, device: str) -> torch.optim.Optimizer:
    """Of the body, and of the new layer with a learning rate of its own."""
    groups: list[dict[str, Any]] = [
        {"params": list(tuned.body.parameters()), "factor": 1.0},
        {"params": list(tuned.head.parameters()), "factor": config.head_factor},
    ]
    return torch.optim.SGD(
        groups,
        lr=config.transfer_rate,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        **loop.fused(device),
    )


def set_rates(config: Config, optimizer: torch.optim.Optimizer, epoch: int) -> None:
    """Learning rates of the epoch with that index, from 0."""
    floor = config.transfer_floor * config.transfer_rate
    rate = schedules.cosine(epoch, config.epochs, config.transfer_rate, floor)
    for group in optimizer.param_groups:
        group["lr"] = group["factor"] * rate


def evaluate(tuned: finetuned.Finetuned, data: Data, device: str) -> dict[str, float]:
    """Accuracy and calibration on the test images."""
    with openset.evaluation_mode(tuned), loop.repeatable(device):
        return classification.evaluate(tuned, data, data.mean, data.std, device=device)
