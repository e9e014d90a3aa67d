"""Networks with a bottleneck: images to K deep features, and K x C class centres for the logits on them.

Paper: the thesis cited in `trainables.margins`, section 5.3; LeNet++ is Wen et al.'s (ECCV 2016, center loss).
Repositories: TwoDigitsOneNumber/openset-imagenet-comparison@e7faf79 `architectures`; torchvision `resnet`.

LeNet++ is three stages of conv 5x5, conv 5x5, batch norm, max pooling by 2, then a linear layer to K. With K = C = 10,
on 28 x 28 images, it has 806,926 parameters including the class centres.

Deviations:
1. No activation, as in the code: pooling is the only nonlinearity. Wen et al. have PReLU: `activation="prelu"`.
2. The deep features have a bias, as in the code; the thesis says they have none: `bias=False`.
3. Weights are drawn from the generator passed in, by torch's default laws (class centres: Xavier normal).

Shapes: B images, C channels or classes, H rows, W columns, K deep features.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from trainables import backbones

STAGES = 3
"""Of LeNet++; each halves the image."""


class LeNetPP(nn.Module):
    """LeNet++ up to the deep features."""

    def __init__(self, width: int, channels: int, side: int, features: int, activation: str, bias: bool) -> None:
        super().__init__()
        parts: list[nn.Module] = []
        for stage in range(STAGES):
            inputs, outputs = channels if stage == 0 else width << (stage - 1), width << stage
            for first in (True, False):
                parts.append(nn.Conv2d(inputs if first else outputs, outputs, 5, padding=2))
                if activation == "prelu":
                    parts.append(nn.PReLU(outputs))
            parts += [nn.BatchNorm2d(outputs), nn.MaxPool2d(2, 2)]
        self.stages = nn.Sequential(*parts)
        self.bottleneck = nn.Linear((width << (STAGES - 1)) * (side >> STAGES) ** 2, features, bias=bias)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Deep features (B, K)."""
        phi_BK: Tensor = self.bottleneck(self.stages(x_BCHW).flatten(1))
        return phi_BK


class SmallResNet(nn.Module):
    """An encoder for small images with a bottleneck."""

    def __init__(self, name: str, width: int, channels: int, features: int, bias: bool) -> None:
        super().__init__()
        self.encoder = backbones.ENCODERS[name](width, channels)
        self.bottleneck = nn.Linear(self.encoder.features, features, bias=bias)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Deep features (B, K)."""
        phi_BK: Tensor = self.bottleneck(self.encoder(x_BCHW)[0])
        return phi_BK


class Centred(nn.Module):
    """A body that gives deep features, and the class centres W (K, C). What a final state describes."""

    def __init__(self, body: nn.Module, features: int, classes: int, description: Mapping[str, Any]) -> None:
        super().__init__()
        self.body = body
        self.centres = nn.Parameter(torch.empty(features, classes))
        self.description = dict(description)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Deep features (B, K)."""
        features_BK: Tensor = self.body(x_BCHW)
        return features_BK


def network(
    name: str,
    *,
    width: int,
    stem: str,
    channels: int,
    side: int,
    features: int,
    classes: int,
    activation: str,
    bias: bool,
    generator: torch.Generator,
) -> Centred:
    """A network with weights drawn from `generator`, on the CPU.

    Args:
        name: 'lenetpp', 'resnet18' or 'resnet50'.
        width: channels of the first stage; with stem 'imagenet' always 64.
        stem: a ResNet's first layers, 'small' or 'imagenet'.
        channels: of the images.
        side: of the images, pixels.
        features: K.
        classes: C.
        activation: LeNet++'s, 'none' or 'prelu'.
        bias: whether the deep features have one.
        generator: where weights are drawn from.

    Raises:
        ValueError: images too small for LeNet++.
    """
    description = {
        "network": name,
        "width": width,
        "stem": stem,
        "channels": channels,
        "side": side,
        "features": features,
        "classes": classes,
        "activation": activation,
        "bias": bias,
    }
    built = _built(description)
    _initialise(built, generator)
    return built


def rebuild(description: Mapping[str, Any], weights: Mapping[str, Tensor]) -> Centred:
    """The network of a final state, in eval mode, on the CPU."""
    built = _built(description).to_empty(device="cpu")
    built.load_state_dict(dict(weights))
    return built.eval()


def _built(description: Mapping[str, Any]) -> Centred:
    d = description
    if d["network"] == "lenetpp" and d["side"] >> STAGES == 0:
        raise ValueError(f"images of {d['side']} pixels are too small for LeNet++, which needs {1 << STAGES} a side.")
    with torch.device("meta"):
        if d["network"] == "lenetpp":
            body: nn.Module = LeNetPP(
                d["width"], d["channels"], d["side"], d["features"], d["activation"], bias=d["bias"]
            )
        elif d["stem"] == "small":
            body = SmallResNet(d["network"], d["width"], d["channels"], d["features"], bias=d["bias"])
        else:
            from torchvision.models import resnet

            whole = getattr(resnet, d["network"])()
            whole.fc = nn.Linear(whole.fc.in_features, d["features"], bias=d["bias"])
            body = whole
        return Centred(body, d["features"], d["classes"], d)


@torch.no_grad()
def _initialise(built: Centred, generator: torch.Generator) -> None:
    """ResNets as `backbones.initialise`; LeNet++ by torch's defaults, which are uniform within 1 / sqrt(fan in)."""
    if not isinstance(built.body, LeNetPP):
        backbones.initialise(built.body, generator)
    else:
        for part in built.body.to_empty(device="cpu").modules():
            if isinstance(part, nn.Conv2d | nn.Linear):
                bound = 1 / math.sqrt(part.weight[0].numel())
                for weights in (part.weight, *([] if part.bias is None else [part.bias])):
                    weights.uniform_(-bound, bound, generator=generator)
            elif isinstance(part, nn.BatchNorm2d):
                part.reset_parameters()
            elif isinstance(part, nn.PReLU):
                part.weight.fill_(0.25)
    built.centres = nn.Parameter(torch.empty(built.centres.shape, device="cpu"))
    nn.init.xavier_normal_(built.centres, generator=generator)
