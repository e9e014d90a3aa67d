"""Class activation maps: how much each place of an image adds to a class's logit.

Paper: Zhou et al., Learning Deep Features for Discriminative Localization (arXiv 1512.04150). With last feature maps A
and the weights W and biases b of the layer behind their mean over pixels,

    M_c = sum_d W_cd A_d,        logit_c = mean over pixels of M_c + b_c.

Deviations: none known.

Shapes: B images, D channels of the last feature maps, h x w pixels of them, H x W of the images, K classes.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor

from trainables import augment, classifiers, judged, twoheads
from trainables.config import ConfigError
from trainables.datasets import Data
from trainables.protocol import Needed, State

WITHOUT_MAPS = frozenset({*judged.ENCODERS, "transfer"})
"""Methods of the catalogue whose networks are, or may be, no mean over last feature maps before one linear layer."""


class Last(NamedTuple):
    """The end of a classifier."""

    maps: Callable[[Tensor], Tensor]
    """Images (B, C, H, W) in [0, 1], not normalised -> last feature maps (B, D, h, w), in eval mode."""
    weights_KD: Tensor
    biases_K: Tensor


def check_needed(needed: Needed, field: str) -> None:
    """Refuses, before anything runs, what trains no classifier with last feature maps.

    Raises:
        ConfigError: naming the field.
    """
    judged.check_needed(needed, field)
    body = judged.field(needed, "network", "")
    if needed.method in WITHOUT_MAPS or body == "convnext_t":
        what = f"{needed.method!r}" + (f" with {body!r}" if body == "convnext_t" else "")
        raise ConfigError(
            f"{field} needs a trial of {what}, whose network has no last feature maps with a class's weights: class "
            "activation maps are of classifiers that take the mean over pixels right before their last layer. Name "
            f"another, such as {', '.join(map(repr, sorted(judged.CLASSIFIERS)))}."
        )


def last(needed: Needed, state: State, data: Data, device: str) -> Last:
    """The end of the classifier of another trial's final state.

    Args:
        needed: that trial.
        state: holds 'network' (a description) and 'weights'.
        data: what it was trained on.
        device: where the network shall run.

    Raises:
        ValueError: a state that describes no classifier, one of another number of classes or channels, or whose
            weights are another's.
    """
    network = judged.trained(needed, state)
    if isinstance(network, classifiers.Classifier):
        layer = network.linear
    elif isinstance(network, twoheads.TwoHeads):
        layer = network.one
    else:
        raise ValueError(
            "the needed trial's final state holds no classifier with last feature maps and a class's weights, so there "
            "are no class activation maps."
        )
    judged.check_fits(network.description, data)
    network.to(device)
    mean, std = judged.colours(needed, data)
    return Last(lambda x_BCHW: network.maps(augment.normalise(x_BCHW, mean, std)), layer.weight, layer.bias)


def logits(end: Last, maps_BDhw: Tensor) -> Tensor:
    """What the classifier itself gives for these last feature maps, (B, K)."""
    return F.linear(maps_BDhw.mean((2, 3)), end.weights_KD, end.biases_K)


def class_maps(end: Last, maps_BDhw: Tensor, classes_B: Tensor) -> Tensor:
    """M_c (B, h, w) of one class for each image."""
    return (end.weights_KD[classes_B][:, :, None, None] * maps_BDhw).sum(1)


def upscaled(cam_Bhw: Tensor, size: tuple[int, int], smoothing: int = 1) -> Tensor:
    """Maps as large as the images, (B, H, W), bicubically, each moved to 0..1; all 0 where a map is constant.

    Args:
        cam_Bhw: of classes.
        size: H and W.
        smoothing: an odd number: each pixel becomes the mean of so many a side, zeros around the map.
    """
    cam_B1hw = F.avg_pool2d(cam_Bhw[:, None], smoothing, 1, padding=smoothing // 2)
    cam_BHW = F.interpolate(cam_B1hw, size=size, mode="bicubic")[:, 0]
    low_B11, high_B11 = cam_BHW.amin((1, 2), keepdim=True), cam_BHW.amax((1, 2), keepdim=True)
    return (cam_BHW - low_B11) / (high_B11 - low_B11).clamp(min=1e-12)
