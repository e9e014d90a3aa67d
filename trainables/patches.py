"""Rectangular patches: how large, where, and pasting whole images into them, for a batch at once and without the host.

Papers: Yun et al., CutMix (arXiv 1905.04899); Informed Mixing (arXiv 2505.12803), section 3.2. Repository:
gawainxu/comprehensive_osr@d18b920 `dataUtil.py`, whose boxes are border "halves".

Deviations:
1. Resizing is antialiased, as torchvision's is: the triangle filter widens with the shrinking.

Shapes: B images, C channels, H rows, W columns. A box is (y0, y1, x0, x1) in pixels, y1 and x1 excluded.
"""

from typing import Literal

import torch
from torch import Tensor

Border = Literal["clip", "shift", "halves"]
Law = Literal["side", "area"]


def patch_side(ratio: Tensor, law: Law, extent: int) -> Tensor:
    """Pixels of a patch along a side of `extent`: floor(g extent), or floor(sqrt(a) extent) for an area ratio; from 1.

    `ratio` should be float64: floor is not forgiving.
    """
    share = ratio if law == "side" else ratio.sqrt()
    return (share * extent).floor().long().clamp(min=1)


def span(centre: Tensor, side: Tensor, extent: int, border: Border) -> tuple[Tensor, Tensor]:
    """First pixel and the one after the last of a patch along one axis of `extent` pixels.

    From centre - side // 2, `side` long, cut at the margin ('clip') or moved inside ('shift'); or centre -+ side // 2,
    cut ('halves').
    """
    start = centre - side // 2
    if border == "shift":
        start = torch.minimum(start.clamp(min=0), extent - side)
        return start, start + side
    stop = centre + side // 2 if border == "halves" else start + side
    return start.clamp(min=0), stop.clamp(max=extent)


def boxes(centres_B2: Tensor, sides_B2: Tensor, size: tuple[int, int], border: Border) -> Tensor:
    """Boxes (B, 4): y0, y1, x0, x1; y1 and x1 are excluded."""
    rows = span(centres_B2[:, 0], sides_B2[:, 0], size[0], border)
    columns = span(centres_B2[:, 1], sides_B2[:, 1], size[1], border)
    return torch.stack([*rows, *columns], 1)


def inner_boxes(place_B2: Tensor, sides_B2: Tensor, size: tuple[int, int]) -> Tensor:
    """CutMix's boxes (B, 4), wholly inside, from uniform numbers in [0, 1)."""
    extent_2 = torch.stack([size[0] - sides_B2[:, 0], size[1] - sides_B2[:, 1]], 1) + 1
    start_B2 = (place_B2 * extent_2).long()
    stop_B2 = start_B2 + sides_B2
    return torch.stack([start_B2[:, 0], stop_B2[:, 0], start_B2[:, 1], stop_B2[:, 1]], 1)


def area(box_B4: Tensor, size: tuple[int, int]) -> Tensor:
    """Share (B,) of the image that each box covers."""
    y0, y1, x0, x1 = box_B4.unbind(1)
    return ((y1 - y0) * (x1 - x0)).float() / (size[0] * size[1])


def paste(x_BCHW: Tensor, content_BCHW: Tensor, box_B4: Tensor) -> Tensor:
    """Images with a whole other image, resized (bilinear, antialias), in a box each; bit for bit x outside it.

    Antialiased bilinear resizing is separable and linear: two batched matrix products, whatever the boxes' sizes.
    """
    y0_B, y1_B, x0_B, x1_B = box_B4.unbind(1)
    rows_BHH = _resizing(y0_B, y1_B, x_BCHW.shape[2], x_BCHW.dtype)
    columns_BWW = _resizing(x0_B, x1_B, x_BCHW.shape[3], x_BCHW.dtype)
    resized_BCHW = rows_BHH.unsqueeze(1) @ content_BCHW @ columns_BWW.transpose(1, 2).unsqueeze(1)
    return fill(x_BCHW, resized_BCHW, box_B4)


def fill(x_BCHW: Tensor, content_BCHW: Tensor, box_B4: Tensor) -> Tensor:
    """Replaces the pixels inside each box by those of `content` (broadcastable)."""
    y0, y1, x0, x1 = (edge_B.view(-1, 1, 1, 1) for edge_B in box_B4.unbind(1))
    y_H1 = torch.arange(x_BCHW.shape[2], device=x_BCHW.device).unsqueeze(1)
    x_W = torch.arange(x_BCHW.shape[3], device=x_BCHW.device)
    inside_B1HW = (y_H1 >= y0) & (y_H1 < y1) & (x_W >= x0) & (x_W < x1)
    return torch.where(inside_B1HW, content_BCHW, x_BCHW)


def _resizing(start_B: Tensor, stop_B: Tensor, extent: int, dtype: torch.dtype) -> Tensor:
    """(B, extent, extent): row i of it makes pixel i of a resized axis that lies from start to stop.

    The triangle filter, as wide as the shrinking: weight of input j is max(0, 1 - |j + 1/2 - m| / r), with r the ratio
    of lengths and m = r (i - start + 1/2) the middle of the output pixel on the input, then scaled to sum to 1.
    """
    index = torch.arange(extent, device=start_B.device, dtype=dtype)
    ratio_B11 = (extent / (stop_B - start_B).clamp(min=1).to(dtype)).view(-1, 1, 1)
    middle_BH1 = ratio_B11 * (index.view(1, -1, 1) - start_B.to(dtype).view(-1, 1, 1) + 0.5)
    weights = (1 - (index + 0.5 - middle_BH1).abs() / ratio_B11).clamp(min=0)
    return weights / weights.sum(2, keepdim=True).clamp(min=torch.finfo(dtype).tiny)
