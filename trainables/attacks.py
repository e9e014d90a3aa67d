"""Projected gradient descent against a classifier, in the space of pixels; and AdAutoMix's step, which is not.

Paper: Madry et al., Towards Deep Learning Models Resistant to Adversarial Attacks (arXiv 1706.06083).
Repository: MadryLab/cifar10_challenge, whose steps and radius in L-infinity are the defaults. One step without a random
start is `trainables.classification.fgsm`. JinXins/Adversarial-AutoMixup, for `released_fgsm`.

Deviations:
1. The step in L2 and its radius are ours: the paper's are of ImageNet.

Shapes: B images, C channels, H rows, W columns.
"""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Norm = Literal["linf", "l2"]
RADIUS = {"linf": 8 / 255, "l2": 0.5}
"""How far an image may move, in units of a pixel's range."""
STEP = {"linf": 2 / 255, "l2": 0.1}
STEPS = 10


def pgd(
    network: Callable[[Tensor], Tensor],
    x_BCHW: Tensor,
    labels_B: Tensor,
    norm: Norm,
    *,
    radius: float,
    step: float,
    steps: int,
    generator: torch.Generator | None,
) -> Tensor:
    """Images moved up the cross-entropy, `step` at a time, back into the ball after each, and into [0, 1].

    Args:
        network: pixels in [0, 1] -> logits, in eval mode.
        x_BCHW: images in [0, 1].
        labels_B: true classes.
        norm: of the ball, and of the step: along the gradient's sign, or the gradient of length 1.
        radius: of the ball.
        step: length of a step.
        steps: how many.
        generator: of the start, uniform in the ball; none: the image itself.

    Returns:
        Images (B, C, H, W) in [0, 1], no further than `radius` from the given ones.
    """
    moved_BCHW = x_BCHW if generator is None else x_BCHW + _start(x_BCHW, norm, radius, generator)
    moved_BCHW = moved_BCHW.clamp(0, 1)
    for _ in range(steps):
        with torch.enable_grad():
            moved_BCHW = moved_BCHW.detach().requires_grad_()
            loss = F.cross_entropy(network(moved_BCHW), labels_B, reduction="sum")
            (gradient_BCHW,) = torch.autograd.grad(loss, moved_BCHW)
        ahead_BCHW = moved_BCHW.detach() + step * _direction(gradient_BCHW, norm)
        moved_BCHW = (x_BCHW + _inside(ahead_BCHW - x_BCHW, norm, radius)).clamp(0, 1)
    return moved_BCHW.detach()


def released_fgsm(
    network: Callable[[Tensor], Tensor],
    x_BCHW: Tensor,
    labels_B: Tensor,
    mean: Sequence[float],
    std: Sequence[float],
    epsilon: float = RADIUS["linf"],
) -> Tensor:
    """What AdAutoMix's code attacks with, to compare with its table: no bounded attack.

    It adds `epsilon` to the normalised image and cuts that to [0, 1], so that all below the mean turns into the mean.

    Args:
        network: pixels in [0, 1] -> logits, in eval mode.
        x_BCHW: images in [0, 1].
        labels_B: true classes.
        mean: of the normalisation that the network does by itself.
        std: likewise.
        epsilon: in normalised units.

    Returns:
        Images (B, C, H, W), not normalised: the network's own normalisation makes of them what that code gives it.
    """
    mean_C11, std_C11 = (x_BCHW.new_tensor(each).view(-1, 1, 1) for each in (mean, std))
    with torch.enable_grad():
        x_BCHW = x_BCHW.detach().requires_grad_()
        loss = F.cross_entropy(network(x_BCHW), labels_B, reduction="sum")
        (gradient_BCHW,) = torch.autograd.grad(loss, x_BCHW)
    moved_BCHW = (x_BCHW.detach() - mean_C11) / std_C11 + epsilon * gradient_BCHW.sign()
    return moved_BCHW.clamp(0, 1) * std_C11 + mean_C11


def _direction(gradient_BCHW: Tensor, norm: Norm) -> Tensor:
    return gradient_BCHW.sign() if norm == "linf" else gradient_BCHW / _length(gradient_BCHW)


def _inside(shift_BCHW: Tensor, norm: Norm, radius: float) -> Tensor:
    """The nearest shift within the ball."""
    if norm == "linf":
        return shift_BCHW.clamp(-radius, radius)
    return shift_BCHW * (radius / _length(shift_BCHW)).clamp(max=1)


def _start(x_BCHW: Tensor, norm: Norm, radius: float, generator: torch.Generator) -> Tensor:
    """Uniform in the ball: in L2 of a direction from a normal law, and a length whose power is uniform."""
    if norm == "linf":
        return (2 * torch.rand(x_BCHW.shape, generator=generator, device=x_BCHW.device) - 1) * radius
    normal_BCHW = torch.randn(x_BCHW.shape, generator=generator, device=x_BCHW.device)
    u_B111 = torch.rand((len(x_BCHW), 1, 1, 1), generator=generator, device=x_BCHW.device)
    length_B111 = u_B111.pow(1 / x_BCHW[0].numel()) * radius
    return length_B111 * normal_BCHW / _length(normal_BCHW)


def _length(x_BCHW: Tensor) -> Tensor:
    length_B: Tensor = torch.linalg.vector_norm(x_BCHW.flatten(1), dim=1)
    return length_B.clamp_min(1e-12).view(-1, 1, 1, 1)
