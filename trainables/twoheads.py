"""Networks of the AdAutoMix experiments: a body in stages, a head for one-hot labels and one for mixed ones.

Papers: He et al. (arXiv 1512.03385), Xie et al., ResNeXt (arXiv 1611.05431), Liu et al., Swin Transformer (arXiv
2103.14030), Liu et al., ConvNeXt (arXiv 2201.03545). Repositories: Westlake-AI/openmixup and
JinXins/Adversarial-AutoMixup for stems, heads and first weights; torchvision for Swin-T and ConvNeXt-T.

The ResNets have the stem for small images, a 3 x 3 convolution with stride 1 and no pooling, so their third stage has a
quarter of the image's side; those of Swin, ConvNeXt and the ResNets with the stem of ImageNet a sixteenth. A network's
weights are drawn from the generator passed in, on the CPU, so a seed gives one network on every device.

Deviations:
1. `width` scales all channels; at 64 each is the published network. ResNeXt's groups shrink with it below 64.
2. Swin and ConvNeXt have torchvision's first weights, and no stochastic depth, which would read the global generator.
3. ConvNeXt's stem is torchvision's, 4 x 4 with stride 4; OpenMixup's for small images is 3 x 3 with stride 1.
4. Swin's stages begin with the merging of patches; OpenMixup's end with it, and with a normalisation of what they give
   away.

Shapes: B images, C channels, H x W pixels, c channels and h x w pixels of a stage's output, D features, K classes.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from trainables.backbones import BasicBlock
from trainables.classifiers import BottleneckBlock, imagenet_stem
from trainables.config import ConfigError, nearest

Name = Literal[
    "resnet18", "resnet34", "resnet50", "resnext50", "resnet18_imagenet", "resnet50_imagenet", "swin_t", "convnext_t"
]


class Seen(NamedTuple):
    """What a network makes of a batch."""

    features_Bchw: Tensor
    """Output of the stage that masks are made from."""
    pooled_BD: Tensor
    one_BK: Tensor
    """Logits of the one-hot head."""
    mix_BK: Tensor
    """Logits of the mix head."""


class Body(NamedTuple):
    """Parts of `TwoHeads`, and the channels of each stage's output."""

    stages: Sequence[nn.Module]
    last: nn.Module
    channels: Sequence[int]


class TwoHeads(nn.Module):
    """A body with both heads.

    Attributes:
        layer: number of the stage, from 1, whose output is `Seen.features_Bchw`.
        map_channels: c, the channels of that.
        description: arguments of `two_heads`; with the weights, what builds it again.
    """

    def __init__(self, body: Body, classes: int, *, layer: int, shared: bool = False) -> None:
        super().__init__()
        stages, last, channels = body
        if not 1 <= layer <= len(stages):
            raise ConfigError(
                f"layer={layer} is not allowed: the network has {len(stages)} stages, and masks are made from the "
                f"output of stage {layer}. Set layer to between 1 and {len(stages)}, or another network."
            )
        self.stages, self.last, self.layer = nn.ModuleList(stages), last, layer
        self.map_channels = channels[layer - 1]
        self.one = nn.Linear(channels[-1], classes)
        self.mix = self.one if shared else nn.Linear(channels[-1], classes)
        self.description: dict[str, Any] = {}

    def forward(self, x_BCHW: Tensor) -> Seen:
        """Normalised images through the body and both heads."""
        features_Bchw = x_BCHW
        for number, stage in enumerate(self.stages, 1):
            x_BCHW = stage(x_BCHW)
            if number == self.layer:
                features_Bchw = x_BCHW
        pooled_BD = self.last(x_BCHW)
        return Seen(features_Bchw, pooled_BD, self.one(pooled_BD), self.mix(pooled_BD))

    def maps(self, x_BCHW: Tensor) -> Tensor:
        """The last feature maps (B, D, h, w), whose means over pixels the heads are given.

        Raises:
            ConfigError: the body normalises after the mean, so that no maps have that mean.
        """
        parts = list(self.last) if isinstance(self.last, nn.Sequential) else [self.last]
        if not isinstance(parts[-1], Pool):
            name = self.description["network"]
            raise ConfigError(f"{name!r} takes the mean over pixels before its last layers: no maps lead to its heads.")
        for part in (*self.stages, *parts[:-1]):
            x_BCHW = part(x_BCHW)
        return x_BCHW


class Pool(nn.Module):
    """The mean over pixels."""

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C)."""
        return x_BCHW.mean((2, 3))


Block = Callable[[int, int, int], tuple[nn.Module, int]]
"""(inputs, width of the stage, stride) -> a residual block and its outputs."""


def _basic(inputs: int, width: int, stride: int) -> tuple[nn.Module, int]:
    return BasicBlock(inputs, width, stride), width


def _bottleneck(inputs: int, width: int, stride: int) -> tuple[nn.Module, int]:
    return BottleneckBlock(inputs, width, 4 * width, stride), 4 * width


def _grouped(inputs: int, width: int, stride: int) -> tuple[nn.Module, int]:
    """32 groups of 4 channels in the first stage of the published network."""
    inner = 2 * width
    groups = next(count for count in (32, 16, 8, 4, 2) if inner % count == 0)
    return BottleneckBlock(inputs, inner, 4 * width, stride, groups), 4 * width


def _resnet(block: Block, blocks: Sequence[int], width: int, channels: int, *, large: bool = False) -> Body:
    small = (nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True))
    stem = imagenet_stem(channels, width) if large else small
    stages, outputs, inputs = [], [], width
    for index, count in enumerate(blocks):
        parts: list[nn.Module] = list(stem) if index == 0 else []
        for place in range(count):
            part, inputs = block(inputs, width << index, 2 if index and place == 0 else 1)
            parts.append(part)
        stages.append(nn.Sequential(*parts))
        outputs.append(inputs)
    return Body(stages, Pool(), outputs)


class Permuted(nn.Module):
    """An axis order for a module that wants another: (0, 2, 3, 1) is channels last, (0, 3, 1, 2) channels first."""

    def __init__(self, *order: int) -> None:
        super().__init__()
        self.order = order

    def forward(self, x: Tensor) -> Tensor:
        """The permuted view."""
        return x.permute(self.order)


def _swin_t(width: int, channels: int) -> Body:
    from torchvision.models import SwinTransformer

    first = 3 * width // 2
    network = SwinTransformer([4, 4], first, [2, 2, 6, 2], [3, 6, 12, 24], [7, 7], stochastic_depth_prob=0.0)
    parts = list(network.features.children())
    if channels != 3:
        parts[0][0] = nn.Conv2d(channels, first, 4, 4)
    stages = [
        nn.Sequential(
            *([Permuted(0, 2, 3, 1)] if index else []), *parts[2 * index : 2 * index + 2], Permuted(0, 3, 1, 2)
        )
        for index in range(4)
    ]
    last = nn.Sequential(Permuted(0, 2, 3, 1), network.norm, Permuted(0, 3, 1, 2), Pool())
    return Body(stages, last, [first << index for index in range(4)])


def _convnext_t(width: int, channels: int) -> Body:
    from torchvision.models.convnext import CNBlockConfig, ConvNeXt

    sizes = [3 * width // 2 << index for index in range(5)]
    setting = [
        CNBlockConfig(sizes[index], sizes[index + 1] if index < 3 else None, count)
        for index, count in enumerate((3, 3, 9, 3))
    ]
    network = ConvNeXt(setting, stochastic_depth_prob=0.0)
    parts = list(network.features.children())
    if channels != 3:
        parts[0][0] = nn.Conv2d(channels, sizes[0], 4, 4)
    stages = [nn.Sequential(*parts[2 * index : 2 * index + 2]) for index in range(4)]
    last = nn.Sequential(nn.AdaptiveAvgPool2d(1), network.classifier[0], nn.Flatten(1))
    return Body(stages, last, sizes[:4])


BODIES: Mapping[str, Callable[[int, int], Body]] = {
    "resnet18": partial(_resnet, _basic, (2, 2, 2, 2)),
    "resnet34": partial(_resnet, _basic, (3, 4, 6, 3)),
    "resnet50": partial(_resnet, _bottleneck, (3, 4, 6, 3)),
    "resnext50": partial(_resnet, _grouped, (3, 4, 6, 3)),
    "resnet18_imagenet": partial(_resnet, _basic, (2, 2, 2, 2), large=True),
    "resnet50_imagenet": partial(_resnet, _bottleneck, (3, 4, 6, 3), large=True),
    "swin_t": _swin_t,
    "convnext_t": _convnext_t,
}
"""Name -> its body from (width, channels of the images). A new architecture is a line here."""
TRANSFORMER_LIKE = ("swin_t", "convnext_t")
"""Bodies from torchvision, with its first weights; their widths must be even."""
STAGES = 4
"""Of every body here."""


def two_heads(
    name: str, width: int, channels: int, classes: int, generator: torch.Generator, *, layer: int, shared: bool = False
) -> TwoHeads:
    """The network `name` of BODIES with weights drawn from `generator`.

    Args:
        name: of the body.
        width: 64 is the published network.
        channels: of the images.
        classes: K.
        generator: on the CPU.
        layer: number of the stage whose output masks are made from.
        shared: one head for one-hot and mixed labels.
    """
    description = {
        "network": name,
        "width": width,
        "channels": channels,
        "classes": classes,
        "layer": layer,
        "shared": shared,
    }
    network = build(description, int(torch.randint(2**62, (), generator=generator)))
    initialise(network, generator)
    return network


def build(description: Mapping[str, Any], seed: int = 0) -> TwoHeads:
    """The network of a description, its weights not yet as they should be, but for torchvision's bodies.

    Raises:
        ConfigError: no such network, or `layer` is none of its stages.
    """
    name = description["network"]
    if name not in BODIES:
        raise ConfigError(f"network={name!r} is not allowed.{nearest(name, BODIES)} There are: {', '.join(BODIES)}.")
    with torch.random.fork_rng(devices=[]):  # torchvision draws from the global generator; here a copy of it
        torch.default_generator.manual_seed(seed)
        body = BODIES[name](description["width"], description["channels"])
        network = TwoHeads(body, description["classes"], layer=description["layer"], shared=description["shared"])
    network.description = dict(description)
    return network


@torch.no_grad()
def initialise(network: TwoHeads, generator: torch.Generator) -> None:
    """Draws the weights: ResNets' convolutions normal, variance 2 / fan out, and the last batch norm of every block at
    scale 0; both heads normal, standard deviation 0.01, each on its own, biases 0. Other bodies stay as they are.
    """
    for part in network.stages.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.reset_parameters()
        elif isinstance(part, nn.Conv2d) and network.description["network"] not in TRANSFORMER_LIKE:
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu", generator=generator)
    for part in network.stages.modules():
        if isinstance(part, BasicBlock):
            nn.init.zeros_(part.bn2.weight)
        elif isinstance(part, BottleneckBlock):
            nn.init.zeros_(part.bn3.weight)
    for head in (network.one, network.mix):
        head.weight.normal_(0.0, 0.01, generator=generator)
        head.bias.zero_()
