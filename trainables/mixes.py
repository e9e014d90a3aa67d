"""Ways to mix a batch with itself that ask no network where to look: the baselines of the mixing literature.

Mixup (arXiv 1710.09412), CutMix (arXiv 1905.04899), SaliencyMix (arXiv 2006.01791), FMix (arXiv 2002.12047), ResizeMix
(arXiv 2012.11101), GridMix (Pattern Recognition 109, 2021). Repository: Westlake-AI/openmixup, whose settings are those
of the published comparisons; snu-mllab/PuzzleMix for CutMix's real-valued box.

Every function takes images and the partner of each, and the random numbers; it returns mixed images and the weight of
an image's own label. Numbers that decide shapes come from the host, so nothing here waits for a device.

Deviations:
1. OpenMixup draws the partners of CutMix and FMix again, up to ten times, where one is the image itself. Here they are
   any permutation.
2. SaliencyMix's saliency is computed in floats; OpenCV's, of which it is a reading, rounds to 8 bits after each step
   (and reads floats between 0 and 1 as such bytes, when it is given normalised ones).
3. A resized patch of no pixels pastes nothing.
4. torchvision's MixUp and CutMix mix each image with the one before it and draw from the global generator, so they are
   not called here; given partners and draws, they are the same (a test holds both against them).
5. GridMix cuts a region that would not fit to the image's size, which matters at aspects far from 1; its holes are at
   most as many as fit with two pixels each.

Shapes: B images, C channels, H rows, W columns.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

Box = tuple[int, int, int, int]
"""Top, left, bottom, right; the last two are outside."""


def mixup(x_BCHW: Tensor, partner_B: Tensor, lam: float | Tensor) -> Tensor:
    """Mixup: lam x + (1 - lam) x[partner]; also of activations. `lam` is a number, or broadcasts against the images."""
    return lam * x_BCHW + (1 - lam) * x_BCHW[partner_B]


def box(lam: float, centre: tuple[float, float], size: tuple[int, int]) -> Box:
    """CutMix's box: sides sqrt(1 - lam) of the image's, cut to whole pixels and again when halved; clipped.

    Args:
        lam: share of the image that should stay.
        centre: row and column, whole pixels.
        size: height and width.
    """
    ratio = math.sqrt(1 - lam)
    return _clipped([int(extent * ratio) // 2 for extent in size], centre, size)


def real_box(lam: float, centre: tuple[float, float], size: tuple[int, int]) -> Box:
    """PuzzleMix's: a centre anywhere, and corners cut to whole pixels after they are clipped."""
    ratio = math.sqrt(1 - lam)
    return _clipped([extent * ratio / 2 for extent in size], centre, size)


def _clipped(halves: list[int] | list[float], centre: tuple[float, float], size: tuple[int, int]) -> Box:
    ends = [
        (int(min(max(c - half, 0), extent)), int(min(max(c + half, 0), extent)))
        for c, half, extent in zip(centre, halves, size, strict=True)
    ]
    return ends[0][0], ends[1][0], ends[0][1], ends[1][1]


def cutmix(x_BCHW: Tensor, partner_B: Tensor, cut: Box) -> tuple[Tensor, float]:
    """The partner's pixels inside the box. Own weight: the area outside."""
    top, left, bottom, right = cut
    mixed_BCHW = x_BCHW.clone()
    mixed_BCHW[:, :, top:bottom, left:right] = x_BCHW[partner_B, :, top:bottom, left:right]
    return mixed_BCHW, _outside(cut, x_BCHW)


def _outside(cut: Box, x_BCHW: Tensor) -> float:
    top, left, bottom, right = cut
    return 1 - (bottom - top) * (right - left) / (x_BCHW.shape[2] * x_BCHW.shape[3])


def resizemix(x_BCHW: Tensor, partner_B: Tensor, tau: float, centre: tuple[int, int]) -> tuple[Tensor, float]:
    """The whole partner, resized to the nearest pixels, in a box with sides tau of the image's, clipped."""
    size = (x_BCHW.shape[2], x_BCHW.shape[3])
    cut = _clipped([int(extent * tau) // 2 for extent in size], centre, size)
    top, left, bottom, right = cut
    mixed_BCHW = x_BCHW.clone()
    if bottom > top and right > left:
        small_BChw = F.interpolate(x_BCHW[partner_B], (bottom - top, right - left), mode="nearest")
        mixed_BCHW[:, :, top:bottom, left:right] = small_BChw
    return mixed_BCHW, _outside(cut, x_BCHW)


def resize_ratio(random: np.random.Generator, alpha: float, low: float = 0.1, high: float = 0.8) -> float:
    """ResizeMix's tau ~ Beta(alpha, alpha), uniform where that is not between low and high."""
    tau, again = random.beta(alpha, alpha), random.uniform(low, high)
    return float(tau if low <= tau <= high else again)


def masked(x_BCHW: Tensor, partner_B: Tensor, own_HW: Tensor) -> Tensor:
    """The image where `own_HW` is 1, its partner where it is 0."""
    return torch.lerp(x_BCHW[partner_B], x_BCHW, own_HW)


def grid_mask(
    lam: float, holes: int, area: float, aspect: float, corner: tuple[float, float], size: tuple[int, int]
) -> NDArray[np.float32]:
    """GridMix: 1 in the holes of a grid, which show the partner, 0 elsewhere; (H, W).

    Args:
        lam: a hole's side is sqrt(1 - lam) of its cell's, at least a pixel and at most all but one.
        holes: cells across the region.
        area: of the region, as a share of the image's.
        aspect: height over width of the region.
        corner: where the region lies, uniform in [0, 1): along columns, along rows.
        size: height and width.
    """
    height, width = size
    w = int(math.sqrt(int(height * width * area) / aspect))
    h = min(int(w * aspect), height)
    w = min(w, width)
    left, top = int((width - w) * corner[0]), int((height - h) * corner[1])
    cell = math.ceil(w / min(holes, w // 2))
    hole = min(max(int(cell * math.sqrt(1 - lam)), 1), cell - 1)
    across, down = np.arange(w) % cell < hole, np.arange(h) % cell < hole
    mask_HW = np.zeros(size, dtype=np.float32)
    mask_HW[top : top + h, left : left + w] = down[:, None] & across[None, :]
    return mask_HW


FMIX_DECAY = 3.0
"""Power of the frequency by which FMix's spectrum falls."""


def fmix_noise(random: np.random.Generator, size: tuple[int, int]) -> NDArray[np.float64]:
    """The normal numbers that `fmix_mask` takes: (H, W // 2 + 1, 2)."""
    return random.standard_normal((size[0], size[1] // 2 + 1, 2))


def fmix_mask(lam: float, noise: NDArray[np.float64], size: tuple[int, int], *, up: bool) -> NDArray[np.float32]:
    """FMix: 1 for the lam H W largest pixels of a low-frequency picture, 0 elsewhere; (H, W).

    As released: the real and imaginary parts are read from the first two rows of the noise, and the picture is their
    inverse transform over columns of frequencies and parts.

    Args:
        lam: share of ones.
        noise: see `fmix_noise`.
        size: height and width.
        up: whether the number of ones is rounded up or down.
    """
    height, width = size
    rows_H1, columns_F = np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[: width // 2 + 1]
    frequency_HF = np.sqrt(rows_H1**2 + columns_F**2)
    spectrum = noise / np.maximum(frequency_HF, 1 / max(size))[:, :, None] ** FMIX_DECAY
    picture_HW = np.fft.irfftn(spectrum[0] + 1j * spectrum[1], size, axes=(0, 1))
    count = math.ceil(lam * height * width) if up else math.floor(lam * height * width)
    mask = np.zeros(height * width, dtype=np.float32)
    mask[picture_HW.ravel().argsort()[::-1][:count]] = 1
    return mask.reshape(size)


NEIGHBOURHOODS = (12, 24, 48, 28, 56, 112)
"""Reaches of the surrounds that fine-grained saliency compares a pixel with, pixels."""


def fine_grained_saliency(x_CHW: Tensor) -> Tensor:
    """How much each pixel stands out from its surroundings at six scales, brighter and darker alike; (H, W).

    Montabone and Soto's visual saliency as OpenCV has it: grey, smoothed twice, minus the mean of a surround without
    the pixel; positive and negative parts summed over scales, each divided by its largest value, and added.
    """
    gray_HW = _gray(x_CHW)
    height, width = gray_HW.shape
    summed = F.pad(gray_HW.double().cumsum(0).cumsum(1), (1, 0, 1, 0))
    on_HW = off_HW = torch.zeros_like(gray_HW)
    for reach in NEIGHBOURHOODS:
        top, bottom = _span(height, reach, gray_HW.device)
        left, right = _span(width, reach, gray_HW.device)
        total = summed[bottom][:, right] + summed[top][:, left] - summed[bottom][:, left] - summed[top][:, right]
        count = (bottom - top)[:, None] * (right - left)[None, :] - 1
        difference_HW = gray_HW - ((total - gray_HW) / count).to(gray_HW.dtype)
        on_HW, off_HW = on_HW + difference_HW.clamp(min=0), off_HW + (-difference_HW).clamp(min=0)
    tiny = torch.finfo(gray_HW.dtype).tiny
    return on_HW / on_HW.max().clamp(min=tiny) + off_HW / off_HW.max().clamp(min=tiny)


def _gray(x_CHW: Tensor) -> Tensor:
    """Luma (channels read as blue, green, red, as OpenCV does), smoothed twice by [1 2 1] / 4 both ways."""
    blue_green_red = (0.114, 0.587, 0.299) if len(x_CHW) == 3 else (1 / len(x_CHW),) * len(x_CHW)
    gray_HW = sum(weight * plane_HW for weight, plane_HW in zip(blue_green_red, x_CHW, strict=True))
    x = torch.as_tensor(gray_HW)[None, None]
    for _ in range(2):
        p = F.pad(x, (1, 1, 1, 1), mode="reflect")
        p = (p[:, :, :-2] + 2 * p[:, :, 1:-1] + p[:, :, 2:]) / 4
        x = (p[..., :-2] + 2 * p[..., 1:-1] + p[..., 2:]) / 4
    return x[0, 0]


def _span(extent: int, reach: int, device: torch.device) -> tuple[Tensor, Tensor]:
    place = torch.arange(extent, device=device)
    return (place - reach + 1).clamp(0, extent), (place + reach + 1).clamp(0, extent)


def saliencymix(x_BCHW: Tensor, partner_B: Tensor, lam: float) -> tuple[Tensor, Tensor]:
    """CutMix with the box of the whole batch at the most salient pixel of the first image's partner.

    The box's place stays on the device, so it is a comparison and no slice. Own weight: a tensor without dimensions.
    """
    height, width = x_BCHW.shape[2:]
    ratio = math.sqrt(1 - lam)
    peak = fine_grained_saliency(x_BCHW[partner_B[:1]][0]).argmax()
    inside = []
    for centre, extent in ((peak // width, height), (peak % width, width)):
        place, half = torch.arange(extent, device=x_BCHW.device), int(extent * ratio) // 2
        inside.append((place >= centre - half) & (place < centre + half))
    own_HW = 1 - (inside[0][:, None] & inside[1][None, :]).to(x_BCHW.dtype)
    return masked(x_BCHW, partner_B, own_HW), own_HW.mean()


def by_hand(
    mix: str, x_BCHW: Tensor, partner_B: Tensor, lam: float, alpha: float, random: np.random.Generator
) -> tuple[Tensor, Tensor | float]:
    """A mix by its name, with what it draws beside lam: mixed images, and the weight of an image's own label.

    Args:
        mix: 'vanilla' (none), 'mixup', 'cutmix', 'saliencymix', 'fmix', 'resizemix' or 'gridmix'.
        x_BCHW: images.
        partner_B: index of each image's partner.
        lam: the one of the batch.
        alpha: of ResizeMix's tau ~ Beta(alpha, alpha).
        random: on the host.

    Raises:
        ValueError: another name.
    """
    size = (x_BCHW.shape[2], x_BCHW.shape[3])
    if mix == "vanilla":
        return x_BCHW, 1.0
    if mix == "mixup":
        return mixup(x_BCHW, partner_B, lam), lam
    if mix == "saliencymix":
        return saliencymix(x_BCHW, partner_B, lam)
    if mix == "fmix":
        noise = fmix_noise(random, size)
        own_HW = fmix_mask(lam, noise, size, up=bool(random.random() > 0.5))
        return masked(x_BCHW, partner_B, torch.from_numpy(own_HW).to(x_BCHW.device, non_blocking=True)), lam
    if mix == "gridmix":
        holes, area, aspect = int(random.integers(2, 7)), random.uniform(0.5, 1), random.uniform(0.5, 2)
        own_HW = 1 - grid_mask(lam, holes, area, aspect, tuple(random.random(2)), size)
        mixed_BCHW = masked(x_BCHW, partner_B, torch.from_numpy(own_HW).to(x_BCHW.device, non_blocking=True))
        return mixed_BCHW, float(own_HW.mean())
    if mix == "resizemix":
        tau = resize_ratio(random, alpha)
        return resizemix(x_BCHW, partner_B, tau, _centre(random, size))
    if mix == "cutmix":
        return cutmix(x_BCHW, partner_B, box(lam, _centre(random, size), size))
    raise ValueError(f"no mix is named {mix!r}.")


def _centre(random: np.random.Generator, size: tuple[int, int]) -> tuple[int, int]:
    return int(random.integers(size[0])), int(random.integers(size[1]))
