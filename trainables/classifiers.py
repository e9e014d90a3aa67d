"""Image classifiers of the mixing and of the out-of-distribution literature, as stages, so that a method can mix
activations between them, and look at features before the last layer.

Papers: He et al., Identity Mappings (arXiv 1603.05027); Zagoruyko and Komodakis, Wide ResNets (arXiv 1605.07146); Xie
et al., ResNeXt (arXiv 1611.05431); He et al. (arXiv 1512.03385); Huang et al., DenseNets (arXiv 1608.06993).
Repositories, whose details differ from the papers: minhlong94/Random-Mixup and, for ImageNet, snu-mllab/Co-Mixup; for
WRN-40-2 hendrycks/outlier-exposure, for DenseNet-BC andreasveit/densenet-pytorch, for ResNet-18 and DenseNet-121
torchvision.

A classifier maps images (B, C, H, W) to logits (B, K). Weights are drawn from the generator passed in, on the CPU, so a
seed gives one network on every device.

Deviations:
1. `width` scales all channels; at 64 each is the published network.
2. Average pooling is over all pixels, whatever the image's size. At 32 x 32 the kernels of 4 and 8 are that too.
3. ResNet-18's last bias starts at 0, torchvision's within 1 / sqrt(inputs). DenseNets: `trainables.densenet`.

Details worth knowing: the PreAct ResNet has no batch norm before its pooling. The Wide ResNets of the mixing literature
(16-8, 28-10) have convolutions with biases, the stride on a block's second one, a shortcut from the raw input, and a
last batch norm of momentum 0.9; the narrow ones (40-2, 10-2) have none of this. All as released. WRN-10-2 and
DenseNet-BC-22-12 are ours, for small scales.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainables import densenet

Mixing = Callable[[Tensor], Tensor]
"""Activations (B, C, H, W) -> mixed ones."""


class PreActBlock(nn.Module):
    """Batch norm and ReLU before each of two 3x3 convolutions; the shortcut starts after the first ReLU."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = _conv(inputs, outputs, 3, stride)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = _conv(outputs, outputs, 3)
        changed = stride != 1 or inputs != outputs
        self.shortcut = _conv(inputs, outputs, 1, stride) if changed else None

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, H / stride, W / stride)."""
        h_BCHW = F.relu(self.bn1(x_BCHW))
        short_BCHW = x_BCHW if self.shortcut is None else self.shortcut(h_BCHW)
        out_BCHW: Tensor = self.conv2(F.relu(self.bn2(self.conv1(h_BCHW)))) + short_BCHW
        return out_BCHW


class WideBlock(nn.Module):
    """Two 3x3 convolutions with biases, the stride on the second; the shortcut starts from the raw input."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = _conv(inputs, outputs, 3, bias=True)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = _conv(outputs, outputs, 3, stride, bias=True)
        changed = stride != 1 or inputs != outputs
        self.shortcut: nn.Module = _conv(inputs, outputs, 1, stride, bias=True) if changed else nn.Identity()

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, H / stride, W / stride)."""
        h_BCHW = self.conv1(F.relu(self.bn1(x_BCHW)))
        out_BCHW: Tensor = self.conv2(F.relu(self.bn2(h_BCHW))) + self.shortcut(x_BCHW)
        return out_BCHW


class BasicBlock(nn.Module):
    """Two 3x3 convolutions, the stride on the first, each with a batch norm, around a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = _conv(inputs, outputs, 3, stride), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = _conv(outputs, outputs, 3), nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(_conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, H / stride, W / stride)."""
        h_BCHW = F.relu(self.bn1(self.conv1(x_BCHW)))
        return F.relu(self.bn2(self.conv2(h_BCHW)) + self.shortcut(x_BCHW))


class BottleneckBlock(nn.Module):
    """1x1, 3x3 in groups with the stride, 1x1, each with a batch norm, around a shortcut."""

    def __init__(self, inputs: int, inner: int, outputs: int, stride: int, groups: int = 1) -> None:
        super().__init__()
        self.conv1, self.bn1 = _conv(inputs, inner, 1), nn.BatchNorm2d(inner)
        self.conv2, self.bn2 = _conv(inner, inner, 3, stride, groups=groups), nn.BatchNorm2d(inner)
        self.conv3, self.bn3 = _conv(inner, outputs, 1), nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(_conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, H / stride, W / stride)."""
        h_BCHW = F.relu(self.bn1(self.conv1(x_BCHW)))
        h_BCHW = F.relu(self.bn2(self.conv2(h_BCHW)))
        return F.relu(self.bn3(self.conv3(h_BCHW)) + self.shortcut(x_BCHW))


class Classifier(nn.Module):
    """A stem, stages, a last normalisation, the mean over pixels, a linear layer.

    Attributes:
        description: arguments of `classifier`; with the weights, what `rebuild` needs.
    """

    def __init__(
        self, stem: nn.Module, stages: Sequence[nn.Module], last: nn.Module, features: int, classes: int
    ) -> None:
        super().__init__()
        self.stem, self.stages, self.last = stem, nn.ModuleList(stages), last
        self.linear = nn.Linear(features, classes)
        self.description: dict[str, Any] = {}

    def forward(self, x_BCHW: Tensor, mixing: Mixing | None = None, after: int = 0) -> Tensor:
        """The logits (B, K).

        Args:
            x_BCHW: normalised images.
            mixing: applied to the activations after the stage numbered `after`, from 1; to the images at 0.
            after: see `mixing`; at most the number of stages.
        """
        logits_BK: Tensor = self.linear(self.features(x_BCHW, mixing, after))
        return logits_BK

    def features(self, x_BCHW: Tensor, mixing: Mixing | None = None, after: int = 0) -> Tensor:
        """What the linear layer is given, (B, D)."""
        return self.maps(x_BCHW, mixing, after).mean((2, 3))

    def maps(self, x_BCHW: Tensor, mixing: Mixing | None = None, after: int = 0) -> Tensor:
        """The last feature maps (B, D, h, w), whose means over pixels are the features."""
        if mixing is not None and after == 0:
            x_BCHW = mixing(x_BCHW)
        x_BCHW = self.stem(x_BCHW)
        for number, stage in enumerate(self.stages, 1):
            x_BCHW = stage(x_BCHW)
            if mixing is not None and after == number:
                x_BCHW = mixing(x_BCHW)
        maps_BDhw: Tensor = self.last(x_BCHW)
        return maps_BDhw


def _preact_resnet18(width: int, channels: int, classes: int) -> Classifier:
    stages, inputs = [], width
    for index in range(4):
        outputs = width << index
        stages.append(_chain(PreActBlock, inputs, outputs, 2, 1 if index == 0 else 2))
        inputs = outputs
    return Classifier(_conv(channels, width, 3), stages, nn.Identity(), inputs, classes)


def _wide_resnet(depth: int, factor: int, width: int, channels: int, classes: int) -> Classifier:
    first = max(1, width // 4)
    stages, inputs = [], first
    for index in range(3):
        outputs = max(1, width * factor // 4) << index
        stages.append(_chain(WideBlock, inputs, outputs, (depth - 4) // 6, 1 if index == 0 else 2))
        inputs = outputs
    last = nn.Sequential(nn.BatchNorm2d(inputs, momentum=0.9), nn.ReLU(inplace=True))
    return Classifier(_conv(channels, first, 3, bias=True), stages, last, inputs, classes)


def _resnext29(width: int, channels: int, classes: int) -> Classifier:
    stages, inputs, groups = [], width, 4
    for index in range(3):
        inner, outputs = groups * max(1, (width << index) * 24 // 64), 4 * (width << index)
        blocks = [
            BottleneckBlock(inputs if place == 0 else outputs, inner, outputs, 2 if index and place == 0 else 1, groups)
            for place in range(3)
        ]
        stages.append(nn.Sequential(*blocks))
        inputs = outputs
    stem = nn.Sequential(_conv(channels, width, 3), nn.BatchNorm2d(width), nn.ReLU(inplace=True))
    return Classifier(stem, stages, nn.Identity(), inputs, classes)


def _resnet50(width: int, channels: int, classes: int) -> Classifier:
    stages, inputs = [], width
    for index, count in enumerate((3, 4, 6, 3)):
        inner, outputs = width << index, 4 * (width << index)
        blocks = [
            BottleneckBlock(inputs if place == 0 else outputs, inner, outputs, 2 if index and place == 0 else 1)
            for place in range(count)
        ]
        stages.append(nn.Sequential(*blocks))
        inputs = outputs
    return Classifier(imagenet_stem(channels, width), stages, nn.Identity(), inputs, classes)


def imagenet_stem(channels: int, width: int) -> nn.Sequential:
    """A quarter of the image's side: a 7 x 7 convolution with stride 2, batch norm, ReLU, and pooling with stride 2."""
    return nn.Sequential(
        nn.Conv2d(channels, width, 7, 2, padding=3, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, 2, padding=1),
    )


def _resnet18(small: bool, width: int, channels: int, classes: int) -> Classifier:
    stages, inputs = [], width
    for index in range(4):
        outputs = width << index
        stages.append(_chain(BasicBlock, inputs, outputs, 2, 1 if index == 0 else 2))
        inputs = outputs
    stem = nn.Sequential(_conv(channels, width, 3), nn.BatchNorm2d(width), nn.ReLU(inplace=True))
    return Classifier(stem if small else imagenet_stem(channels, width), stages, nn.Identity(), inputs, classes)


def _narrow_resnet(depth: int, width: int, channels: int, classes: int) -> Classifier:
    """A Wide ResNet of factor 2: 16, then 32, 64 and 128 channels at width 64."""
    first = max(1, width // 4)
    stages, inputs = [], first
    for index in range(3):
        outputs = max(1, width // 2) << index
        stages.append(_chain(PreActBlock, inputs, outputs, (depth - 4) // 6, 1 if index == 0 else 2))
        inputs = outputs
    last = nn.Sequential(nn.BatchNorm2d(inputs), nn.ReLU(inplace=True))
    return Classifier(_conv(channels, first, 3), stages, last, inputs, classes)


def _densenet_bc(depth: int, width: int, channels: int, classes: int) -> Classifier:
    """DenseNet-BC for small images: three stages, growth 12 at width 64."""
    growth = max(1, width * 12 // 64)
    stages, last, features = densenet.stages(((depth - 4) // 6,) * 3, growth, 2 * growth)
    return Classifier(_conv(channels, 2 * growth, 3), stages, last, features, classes)


def _densenet121(width: int, channels: int, classes: int) -> Classifier:
    stages, last, features = densenet.stages((6, 12, 24, 16), max(1, width // 2), width)
    return Classifier(imagenet_stem(channels, width), stages, last, features, classes)


Name = Literal[
    "preactresnet18",
    "wrn16_8",
    "wrn28_10",
    "resnext29_4x24",
    "resnet50",
    "wrn40_2",
    "wrn10_2",
    "resnet18",
    "resnet18_imagenet",
    "densenet_bc_100_12",
    "densenet_bc_22_12",
    "densenet121",
]
Law = Literal["torch", "resnext", "imagenet", "he"]

CLASSIFIERS: Mapping[str, tuple[Callable[[int, int, int], Classifier], Law]] = {
    "preactresnet18": (_preact_resnet18, "torch"),
    "wrn16_8": (lambda width, channels, classes: _wide_resnet(16, 8, width, channels, classes), "torch"),
    "wrn28_10": (lambda width, channels, classes: _wide_resnet(28, 10, width, channels, classes), "torch"),
    "resnext29_4x24": (_resnext29, "resnext"),
    "resnet50": (_resnet50, "imagenet"),
    "wrn40_2": (lambda width, channels, classes: _narrow_resnet(40, width, channels, classes), "he"),
    "wrn10_2": (lambda width, channels, classes: _narrow_resnet(10, width, channels, classes), "he"),
    "resnet18": (lambda width, channels, classes: _resnet18(True, width, channels, classes), "he"),
    "resnet18_imagenet": (lambda width, channels, classes: _resnet18(False, width, channels, classes), "he"),
    "densenet_bc_100_12": (lambda width, channels, classes: _densenet_bc(100, width, channels, classes), "he"),
    "densenet_bc_22_12": (lambda width, channels, classes: _densenet_bc(22, width, channels, classes), "he"),
    "densenet121": (_densenet121, "he"),
}
"""Name -> how it is built from (width, channels, classes), and the law of its first weights. resnet50, densenet121 and
resnet18_imagenet have the stem of ImageNet; the others that of small images. A new architecture is a line here."""


def classifier(name: str, width: int, channels: int, classes: int, generator: torch.Generator) -> Classifier:
    """The classifier `name` of CLASSIFIERS with weights drawn from `generator`."""
    description = {"network": name, "width": width, "channels": channels, "classes": classes}
    network = _empty(description)
    initialise(network, CLASSIFIERS[name][1], generator)
    return network


def rebuild(description: Mapping[str, Any], weights: Mapping[str, Tensor]) -> Classifier:
    """The classifier of a final state: `rebuild(state["network"], state["weights"])`, in eval mode, on the CPU."""
    network = _empty(description)
    network.load_state_dict(dict(weights))
    return network.eval()


def _empty(description: Mapping[str, Any]) -> Classifier:
    build, _ = CLASSIFIERS[description["network"]]
    with torch.device("meta"):
        network = build(description["width"], description["channels"], description["classes"])
    network.description = dict(description)
    return network.to_empty(device="cpu")


@torch.no_grad()
def initialise(network: nn.Module, law: Law, generator: torch.Generator) -> None:
    """Draws all weights, reading no global generator; batch norms become the identity.

    'torch': all uniform within 1 / sqrt(fan in), biases too, as torch itself does. 'resnext': convolutions normal,
    variance 2 / fan out; linear layers normal, variance 2 / inputs; biases 0. 'imagenet': convolutions likewise; linear
    layers normal, standard deviation 0.01; biases 0; the last batch norm of every block starts at scale 0. 'he':
    convolutions as in 'resnext'; linear layers uniform within 1 / sqrt(inputs); biases 0.
    """
    for part in network.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.reset_parameters()
        elif isinstance(part, nn.Conv2d | nn.Linear):
            _draw(part, law, generator)
    if law == "imagenet":
        for part in network.modules():
            if isinstance(part, BottleneckBlock):
                nn.init.zeros_(part.bn3.weight)


def _draw(part: nn.Conv2d | nn.Linear, law: Law, generator: torch.Generator) -> None:
    if law == "torch":
        bound = part.weight[0].numel() ** -0.5
        for weight in part.parameters():
            weight.uniform_(-bound, bound, generator=generator)
        return
    if isinstance(part, nn.Conv2d):
        nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu", generator=generator)
    elif law == "resnext":
        nn.init.kaiming_normal_(part.weight, nonlinearity="relu", generator=generator)
    elif law == "he":
        bound = part.in_features**-0.5
        part.weight.uniform_(-bound, bound, generator=generator)
    else:
        part.weight.normal_(0.0, 0.01, generator=generator)
    if part.bias is not None:
        part.bias.zero_()


def _chain(
    block: type[PreActBlock] | type[WideBlock] | type[BasicBlock], inputs: int, outputs: int, count: int, stride: int
) -> nn.Sequential:
    first = block(inputs, outputs, stride)
    return nn.Sequential(first, *(block(outputs, outputs, 1) for _ in range(count - 1)))


def _conv(inputs: int, outputs: int, side: int, stride: int = 1, *, groups: int = 1, bias: bool = False) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, side, stride, padding=side // 2, groups=groups, bias=bias)
