"""Filters that mix rows and columns apart: for each side a matrix, applied to all images at once.

Sources: SciPy's `gaussian_filter` and `zoom`, PIL's box filter, whose results these are. Deviations: none known.

Shapes: B images, C channels, H rows, W columns.
"""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Matrix = NDArray[np.float64]


def mixed(x_BCHW: Tensor, down: Matrix | None, right: Matrix | None) -> Tensor:
    """Rows mixed by one matrix, columns by another; None leaves them."""
    for matrix, of_rows in ((down, True), (right, False)):
        if matrix is not None:
            m = torch.tensor(matrix, dtype=x_BCHW.dtype, device=x_BCHW.device)
            x_BCHW = torch.matmul(m, x_BCHW) if of_rows else torch.matmul(x_BCHW, m.T)
    return x_BCHW


def filtered(x_BCHW: Tensor, sigma: float, edges: str, truncate: float) -> Tensor:
    """A Gaussian filter in both directions, cut at `truncate` standard deviations; edges 'nearest' or 'reflect'."""
    height, width = x_BCHW.shape[2:]
    return mixed(x_BCHW, gaussian(height, sigma, edges, truncate), gaussian(width, sigma, edges, truncate))


def gaussian(side: int, sigma: float, edges: str, truncate: float) -> Matrix:
    """The matrix (side, side) of a Gaussian filter; beyond the edge its pixel again, or the mirrored image."""
    reach = int(truncate * sigma + 0.5)
    steps = np.arange(-reach, reach + 1)
    taps = np.exp(-(steps**2) / (2 * sigma**2)) if reach else np.ones(1)
    matrix = np.zeros((side, side))
    for step, tap in zip(steps, taps / taps.sum(), strict=True):
        at = np.arange(side) + step
        if edges == "nearest":
            at = at.clip(0, side - 1)
        else:
            at = at % (2 * side)
            at = np.where(at < side, at, 2 * side - 1 - at)
        np.add.at(matrix, (np.arange(side), at), tap)
    return matrix


def crop(side: int, factor: float) -> tuple[int, int]:
    """Pixels a side of the middle that is enlarged, and of what becomes of it."""
    inside = math.ceil(side / factor)
    return inside, round(inside * factor)


def zoom(side: int, inside: int, size: int) -> Matrix:
    """The matrix (side, side) that enlarges the middle `inside` pixels to `size` bilinearly, and takes the middle."""
    matrix = np.zeros((side, side))
    top, trim = (side - inside) // 2, (size - side) // 2
    for row in range(side):
        at = (row + trim) * (inside - 1) / max(1, size - 1)
        low = min(int(at), inside - 1)
        matrix[row, top + low] += 1 - (at - low)
        matrix[row, top + min(low + 1, inside - 1)] += at - low
    return matrix


def boxes(old: int, new: int) -> Matrix:
    """The matrix (new, old) of a box filter: the mean of the pixels whose middles lie in each new pixel, as in PIL."""
    scale = old / new
    half = max(scale, 1.0) / 2
    matrix = np.zeros((new, old))
    for row in range(new):
        centre = (row + 0.5) * scale
        low, high = max(0, int(centre - half + 0.5)), min(old, int(centre + half + 0.5))
        inside = (np.arange(low, high) + 0.5 - centre) / (2 * half)
        matrix[row, low:high] = (inside > -0.5) & (inside <= 0.5)
    normalised: Matrix = matrix / matrix.sum(1, keepdims=True)
    return normalised
