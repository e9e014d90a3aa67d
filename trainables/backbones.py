"""Image encoders with the stem for small images, and the projection heads on them.

Papers: He et al., Deep Residual Learning (arXiv 1512.03385); the head and the stem as in Khosla et al. (arXiv
2004.11362). Repositories: torchvision `resnet`, HobbitLong/SupContrast@66a8fe5 `networks/resnet_big.py`.

An encoder maps images (B, C, H, W) to pooled features (B, D) and its named activations {layer: (B, K, h, w)}, each the
output of a stage: after the last block's addition and ReLU, so never negative. It is a stack of stages with nothing
saved across them, so a gradient with respect to an activation is a backward pass through the later stages alone.

Weights are drawn from the generator passed in, on the CPU, so a seed gives one network on every device.

Deviations:
1. `width` scales all stages; 64 is the paper's network.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LAYERS = ("conv2_2", "conv3_2", "conv4_2", "conv5_2")
"""Names of the stage outputs, after the last blocks of ResNet-18. Deeper networks' last blocks take the same names."""
EMBEDDING = 128
"""Dimensions of a projection head's output."""


class BasicBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut."""

    expansion = 1

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = _conv(inputs, width, 3, stride)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = _conv(width, width, 3)
        self.bn2 = nn.BatchNorm2d(width)
        self.shortcut = _shortcut(inputs, width, stride)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, width * expansion, H / stride, W / stride)."""
        h_BCHW = F.relu(self.bn1(self.conv1(x_BCHW)), inplace=True)
        return F.relu(self.bn2(self.conv2(h_BCHW)).add_(self.shortcut(x_BCHW)), inplace=True)


class Bottleneck(nn.Module):
    """1x1, 3x3 (with the stride, as torchvision has it) and 1x1 convolutions around a shortcut."""

    expansion = 4

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        outputs = width * self.expansion
        self.conv1 = _conv(inputs, width, 1)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = _conv(width, width, 3, stride)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = _conv(width, outputs, 1)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.shortcut = _shortcut(inputs, outputs, stride)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, width * expansion, H / stride, W / stride)."""
        h_BCHW = F.relu(self.bn1(self.conv1(x_BCHW)), inplace=True)
        h_BCHW = F.relu(self.bn2(self.conv2(h_BCHW)), inplace=True)
        return F.relu(self.bn3(self.conv3(h_BCHW)).add_(self.shortcut(x_BCHW)), inplace=True)


class Encoder(nn.Module):
    """A stack of named stages, then the mean over pixels. `features` is the number of channels of the last stage."""

    def __init__(self, stages: Mapping[str, nn.Module], features: int) -> None:
        super().__init__()
        self.stages = nn.ModuleDict(stages)
        self.features = features

    def forward(self, x_BCHW: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The pooled features (B, D) and the activations by layer."""
        activations = {}
        for layer, stage in self.stages.items():
            x_BCHW = stage(x_BCHW)
            activations[layer] = x_BCHW
        return x_BCHW.mean((2, 3)), activations

    def compile_stages(self) -> None:
        """Compiles each stage by itself: gradients with respect to the activations between them stay available."""
        for stage in self.stages.values():
            stage.compile(dynamic=False)


def _resnet(block: type[BasicBlock] | type[Bottleneck], blocks: tuple[int, ...], width: int, channels: int) -> Encoder:
    """A ResNet whose first convolution is 3x3 with stride 1 and no pooling after it, for images of 16 to 64 pixels."""
    stem = (_conv(channels, width, 3), nn.BatchNorm2d(width), nn.ReLU(inplace=True))
    stages, inputs = {}, width
    for index, (layer, count) in enumerate(zip(LAYERS, blocks, strict=True)):
        parts: list[nn.Module] = list(stem) if index == 0 else []
        for place in range(count):
            parts.append(block(inputs, width << index, 2 if index and place == 0 else 1))
            inputs = (width << index) * block.expansion
        stages[layer] = nn.Sequential(*parts)
    return Encoder(stages, inputs)


ENCODERS: Mapping[str, Callable[[int, int], Encoder]] = {
    "resnet18": lambda width, channels: _resnet(BasicBlock, (2, 2, 2, 2), width, channels),
    "resnet34": lambda width, channels: _resnet(BasicBlock, (3, 4, 6, 3), width, channels),
    "resnet50": lambda width, channels: _resnet(Bottleneck, (3, 4, 6, 3), width, channels),
}
"""Name -> (width, channels) -> an encoder whose weights are not yet drawn. A new architecture is a line here."""


class Projected(nn.Module):
    """An encoder with a projection head: what contrastive methods train and `knn_osr` scores."""

    def __init__(self, encoder: Encoder, head: nn.Module, description: Mapping[str, Any]) -> None:
        super().__init__()
        self.encoder, self.head = encoder, head
        self.description = dict(description)

    def forward(self, x_BCHW: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """The head's output (B, 128), not normalised; the pooled features (B, D); the named activations."""
        features_BD, activations = self.encoder(x_BCHW)
        return self.head(features_BD), features_BD, activations

    def embed(self, x_BCHW: Tensor) -> dict[str, Tensor]:
        """For evaluation: 'head' (B, 128) normalised, 'backbone' (B, D)."""
        out_BD, features_BD, _ = self(x_BCHW)
        return {"head": F.normalize(out_BD, dim=1), "backbone": features_BD}


def encoder(name: str, width: int, channels: int, generator: torch.Generator) -> Encoder:
    """The encoder `name` of ENCODERS with weights drawn from `generator` (Kaiming, fan out)."""
    with torch.device("meta"):
        network = ENCODERS[name](width, channels)
    initialise(network, generator)
    return network


def projected(name: str, width: int, channels: int, head: str, generator: torch.Generator) -> Projected:
    """An encoder with a head: 'mlp' (D to D, ReLU, to 128) or 'linear' (D to 128). Weights as in `initialise`."""
    description = {"network": name, "width": width, "channels": channels, "head": head}
    network = _projected(description)
    initialise(network, generator)
    return network


def rebuild(description: Mapping[str, Any], weights: Mapping[str, Tensor]) -> Projected:
    """The network of a final state: `rebuild(state["network"], state["weights"])`, in eval mode, on the CPU."""
    network = _projected(description).to_empty(device="cpu")
    network.load_state_dict(dict(weights))
    return network.eval()


def _projected(description: Mapping[str, Any]) -> Projected:
    with torch.device("meta"):
        body = ENCODERS[description["network"]](description["width"], description["channels"])
        size = body.features
        if description["head"] == "linear":
            head: nn.Module = nn.Linear(size, EMBEDDING)
        else:
            head = nn.Sequential(nn.Linear(size, size), nn.ReLU(inplace=True), nn.Linear(size, EMBEDDING))
        return Projected(body, head, description)


@torch.no_grad()
def initialise(network: nn.Module, generator: torch.Generator) -> None:
    """Moves a network from the meta device to the CPU and draws its weights, reading no global generator.

    Convolutions: normal, variance 2 / fan out. Linear layers: torch's own law, uniform within 1 / sqrt(inputs). Batch
    norms: the identity.
    """
    network.to_empty(device="cpu")
    for part in network.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu", generator=generator)
            if part.bias is not None:
                part.bias.zero_()
        elif isinstance(part, nn.Linear):
            bound = part.in_features**-0.5
            part.weight.uniform_(-bound, bound, generator=generator)
            if part.bias is not None:
                part.bias.uniform_(-bound, bound, generator=generator)
        elif isinstance(part, nn.BatchNorm2d):
            part.reset_parameters()
        elif [*part.parameters(recurse=False), *part.buffers(recurse=False)]:
            raise TypeError(f"{type(part).__name__} has weights, and nothing here says how to draw them.")


def _conv(inputs: int, outputs: int, side: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, side, stride, padding=side // 2, bias=False)


def _shortcut(inputs: int, outputs: int, stride: int) -> nn.Module:
    if stride == 1 and inputs == outputs:
        return nn.Identity()
    return nn.Sequential(_conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))
