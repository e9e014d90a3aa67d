"""Densely connected stages: every layer sees the outputs of all layers before it.

Paper: Huang et al., Densely Connected Convolutional Networks (arXiv 1608.06993). Repositories: torchvision `densenet`
for ImageNet; andreasveit/densenet-pytorch for DenseNet-BC on small images, which GReg's code derives from.

The parts of a `trainables.classifiers.Classifier`: a stem, stages with a transition before all but the first, a last
norm. Bottleneck layers of 4 growths, transitions that halve the channels.

Deviations:
1. First weights are drawn as in `classifiers.initialise`, 'he': convolutions with variance 2 / fan out. GReg's
   DenseNet-BC has 2 / (layers of a stage), a standard deviation of 0.354 whatever the fan; torchvision's DenseNet-121
   2 / fan in. What follows a convolution is a batch norm, which takes their size out.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class DenseLayer(nn.Module):
    """Batch norm, ReLU, 1x1 to four growths, batch norm, ReLU, 3x3 to one; the input is kept beside the output."""

    def __init__(self, inputs: int, growth: int) -> None:
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(inputs), nn.Conv2d(inputs, 4 * growth, 1, bias=False)
        self.bn2, self.conv2 = nn.BatchNorm2d(4 * growth), nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, inputs + growth, H, W)."""
        h_BCHW = self.conv1(F.relu(self.bn1(x_BCHW)))
        return torch.cat([x_BCHW, self.conv2(F.relu(self.bn2(h_BCHW)))], dim=1)


class Transition(nn.Module):
    """Batch norm, ReLU, 1x1 to half the channels, mean over 2x2 pixels."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.bn, self.conv = nn.BatchNorm2d(inputs), nn.Conv2d(inputs, inputs // 2, 1, bias=False)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, inputs / 2, H / 2, W / 2)."""
        return F.avg_pool2d(self.conv(F.relu(self.bn(x_BCHW))), 2)


def stages(layers: Sequence[int], growth: int, inputs: int) -> tuple[list[nn.Module], nn.Module, int]:
    """Stages of so many layers each, the norm after the last, and how many channels come out.

    Args:
        layers: of each stage.
        growth: channels a layer adds.
        inputs: channels of the stem.
    """
    found: list[nn.Module] = []
    for index, count in enumerate(layers):
        parts: list[nn.Module] = []
        if index:
            parts.append(Transition(inputs))
            inputs //= 2
        for _ in range(count):
            parts.append(DenseLayer(inputs, growth))
            inputs += growth
        found.append(nn.Sequential(*parts))
    return found, nn.Sequential(nn.BatchNorm2d(inputs), nn.ReLU(inplace=True)), inputs
