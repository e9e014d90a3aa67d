"""Maps of what a network's loss draws on, from a layer's activations and the loss's gradients, and where they peak.

Papers: Selvaraju et al., Grad-CAM (arXiv 1610.02391); Jiang et al., LayerCAM (TIP 2021); Informed Mixing (arXiv
2505.12803), Eq 4-7. Repositories: gawainxu/comprehensive_osr@d18b920 (R1), gawainxu/GradMix@b4f2ece (R2).

Deviations:
1. Grad-CAM adds over channels; R1 and R2 take the mean, which peaks at the same place.
2. The gradient is that of a loss, with the sign asked for; both papers on maps take that of a class score.

Shapes: B images, K channels of a layer with rows h and columns w, images of H rows and W columns. A (B, K, h, w) is the
layer's activation, G = dL/dA; sigma is the sign, +1 or -1.
"""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Aggregation = Literal["batch_minmax_sum", "raw_sum", "per_image"]
Grid = Literal["upsampled", "lowres", "corner"]
Tie = Literal["first", "centre"]


def layercam(A_BKhw: Tensor, G_BKhw: Tensor, sign: int = 1) -> Tensor:
    """LayerCAM (B, h, w): ReLU of the sum over channels of ReLU(sigma G) A, Eq 6-7. The outer one matters if A < 0."""
    return ((sign * G_BKhw).relu() * A_BKhw).sum(1).relu()


def gradcam(A_BKhw: Tensor, G_BKhw: Tensor, sign: int = 1) -> Tensor:
    """Grad-CAM (B, h, w): ReLU of the sum over channels of a_k A^k with a_k the spatial mean of sigma G^k."""
    a_BK11 = sign * G_BKhw.mean((2, 3), keepdim=True)
    return (a_BK11 * A_BKhw).sum(1).relu()


def activation_map(A_BKhw: Tensor) -> Tensor:
    """The gradient-free control (B, h, w): the sum over channels of A."""
    return A_BKhw.sum(1)


def aggregate(maps: Sequence[Tensor], how: Aggregation, size: tuple[int, int]) -> Tensor:
    """Maps of several layers, each (B, h, w) with its own h and w, as one of (B, *size).

    Args:
        maps: one for each layer.
        how: 'batch_minmax_sum' (R2) scales each layer to 0..1 over the batch, upsamples and adds; 'per_image' divides
            each image's map by its maximum instead; 'raw_sum' (R1) adds raw maps and scales the sum over the batch.
        size: rows and columns to upsample to, bilinearly.
    """
    if how == "batch_minmax_sum":
        maps = [_minmax(map_Bhw) for map_Bhw in maps]
    elif how == "per_image":
        maps = [_over_maximum(map_Bhw) for map_Bhw in maps]
    total_BHW = torch.stack([_upsampled(map_Bhw, size) for map_Bhw in maps]).sum(0)
    return _minmax(total_BHW) if how == "raw_sum" else total_BHW


def _minmax(map_Bhw: Tensor) -> Tensor:
    low, high = map_Bhw.min(), map_Bhw.max()
    return (map_Bhw - low) / (high - low + 1e-8)


def _over_maximum(map_Bhw: Tensor) -> Tensor:
    peak_B11 = map_Bhw.amax((1, 2), keepdim=True)
    return map_Bhw / peak_B11.clamp(min=torch.finfo(map_Bhw.dtype).tiny)


def _upsampled(map_Bhw: Tensor, size: tuple[int, int]) -> Tensor:
    if tuple(map_Bhw.shape[1:]) == tuple(size):
        return map_Bhw
    return F.interpolate(map_Bhw.unsqueeze(1), size=size, mode="bilinear", align_corners=False).squeeze(1)


def peak(map_Bhw: Tensor, tie: Tie = "first") -> Tensor:
    """Row and column (B, 2), as floats, of each map's maximum.

    Upsampling is flat along the margin, so that maxima there tie, up to rounding.

    Args:
        map_Bhw: maps.
        tie: 'first' takes the first maximum in row-major order, exactly (so the top left pixel of a map of zeros, as
            in R1); 'centre' the mean of all that are equal to within rounding (a millionth).
    """
    width = map_Bhw.shape[2]
    flat_BP = map_Bhw.flatten(1)
    if tie == "first":
        best_B = flat_BP.argmax(1)
        return torch.stack([best_B // width, best_B % width], 1).to(map_Bhw.dtype)
    highest_B1 = flat_BP.amax(1, keepdim=True)
    tied_BP = (flat_BP >= highest_B1 - 1e-6 * highest_B1.abs()).to(map_Bhw.dtype)
    place_P = torch.arange(flat_BP.shape[1], device=map_Bhw.device)
    place_P2 = torch.stack([place_P // width, place_P % width], 1).to(map_Bhw.dtype)
    return tied_BP @ place_P2 / tied_BP.sum(1, keepdim=True)


def locate(maps: Sequence[Tensor], how: Aggregation, grid: Grid, tie: Tie, size: tuple[int, int]) -> Tensor:
    """Pixel (B, 2), row and column, at which the aggregated maps peak, on images of `size`.

    Args:
        maps: one for each layer.
        how: see `aggregate`.
        grid: 'upsampled' looks on maps upsampled to the image; 'lowres' and 'corner' at the finest layer's resolution,
            and take the middle or the top left pixel of the cell found.
        tie: see `peak`.
        size: rows and columns of the image.

    Returns:
        Whole pixels. A place between two goes to the second, where it is the middle of an even patch.
    """
    if grid == "upsampled":
        place_B2 = peak(aggregate(maps, how, size), tie)
    else:
        rows, columns = max(tuple(map_Bhw.shape[1:]) for map_Bhw in maps)
        cell_B2 = peak(aggregate(maps, how, (rows, columns)), tie)
        sides = (size[0] / rows, size[1] / columns)
        offsets = [(side - 1) / 2 if grid == "lowres" else 0.0 for side in sides]
        place_B2 = torch.stack([cell_B2[:, axis] * sides[axis] + offsets[axis] for axis in (0, 1)], 1)
    return (place_B2 + 0.5).floor().long()
