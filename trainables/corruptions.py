"""Common corruptions of small images: 15 kinds and 4 extra ones, each in five severities.

Paper: Hendrycks and Dietterich, Benchmarking Neural Network Robustness (arXiv 1903.12261).
Official repository: hendrycks/robustness@e0377d4, `make_cifar_c.py` and `make_tinyimagenet_c.py`, whose settings these
are; those of ImageNet at 224 pixels differ.

Images below 48 pixels a side take CIFAR's settings, larger ones Tiny-ImageNet's; settings are in pixels, or fractions
of the side where they say so. Grey images are corrupted as such. Results are 8-bit, cut and not rounded, as in the
files that the authors publish.

Deviations:
1. Motion blur, and with it snow, is ImageMagick's kernel without ImageMagick: a one-sided Gaussian along a line, at
   whole pixels. ImageMagick's angle turns the other way in some versions; the law of the angle is symmetric. It rounds
   to 8 bits, and here these two are cut like the others: half a level darker.
2. The frost's overlays are photographs; here a fractal of bright ridges, tinted, is drawn for each image.
3. The water of `spatter` (severities 1 to 3) is brighter where there is more of it; OpenCV's relief of its edges is not
   here. Neither is the rounding of OpenCV's warp to 1/32 of a pixel in `elastic_transform`.
4. Random numbers are other ones, so images are alike to the published ones in law alone.
5. Tiny-ImageNet's files were saved as JPEG of quality 85 on top; these are not.

Glass blur's exchange of pixels copies the second over the first, as the released code does: there both sides of the
exchange are views of one array.

Shapes: B images, H rows, W columns, C channels, S side of a fractal.
"""

import io
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from trainables import separable
from trainables.augment import gray, to_float
from trainables.corruption_settings import CIFAR, SEVERITIES, TINYIMAGENET, Settings

LARGE = 48
"""Pixels a side from which Tiny-ImageNet's settings hold."""


def corrupt(pixels_BHWC: Tensor, name: str, severity: int, generator: Generator) -> Tensor:
    """Images with one corruption, on their device.

    Args:
        pixels_BHWC: uint8.
        name: one of FUNCTIONS.
        severity: 1 to 5.
        generator: of all that is random, on the images' device. What an image gets depends on its place in the batch.

    Returns:
        uint8 (B, H, W, C).

    Raises:
        ValueError: no such corruption or severity.
    """
    if name not in FUNCTIONS or severity not in SEVERITIES:
        raise ValueError(
            f"{name!r} at severity {severity} is no corruption. There are: {', '.join(FUNCTIONS)}; 1 to 5."
        )
    table = TINYIMAGENET if max(pixels_BHWC.shape[1:3]) >= LARGE else CIFAR
    out_BCHW = FUNCTIONS[name](to_float(pixels_BHWC), table[name][severity - 1], generator)
    # A whole number of levels may lie an error of float32 below itself, and would be cut to the level beneath.
    levels_BCHW = out_BCHW.clamp(0, 1).mul_(255).add_(1e-3).floor_()
    return levels_BCHW.to(torch.uint8).permute(0, 2, 3, 1).contiguous()


# Noise


def gaussian_noise(x_BCHW: Tensor, settings: Settings, generator: Generator) -> Tensor:
    """Settings: standard deviation."""
    return x_BCHW + settings[0] * _normal(x_BCHW.shape, generator)


def shot_noise(x_BCHW: Tensor, settings: Settings, generator: Generator) -> Tensor:
    """Settings: how many photons a white pixel has on average."""
    return torch.poisson(x_BCHW * settings[0], generator=generator) / settings[0]


def impulse_noise(x_BCHW: Tensor, settings: Settings, generator: Generator) -> Tensor:
    """Settings: the share of values, each channel's its own, that become 0 or 1, with equal chance."""
    u_BCHW = _uniform(x_BCHW.shape, generator)
    return torch.where(u_BCHW < settings[0], (u_BCHW < settings[0] / 2).to(x_BCHW.dtype), x_BCHW)


def speckle_noise(x_BCHW: Tensor, settings: Settings, generator: Generator) -> Tensor:
    """Settings: standard deviation of a factor."""
    return x_BCHW + settings[0] * x_BCHW * _normal(x_BCHW.shape, generator)


# Blur


def gaussian_blur(x_BCHW: Tensor, settings: Settings, generator: Generator) -> Tensor:
    """Settings: standard deviation in pixels; edges are repeated."""
    del generator
    return separable.filtered(x_BCHW, settings[0], "nearest", 4.0)


def defocus_blur(x_BCHW: Tensor, settings: Settings, generator: Generator) -> Tensor:
    """Settings: radius of a disk, and the standard deviation of the 3 x 3 Gaussian that smoothes it; edges mirrored."""
    del generator
    radius, alias = settings
    reach = int(radius) + 1
    at = np.arange(-reach, reach + 1)
    disk = np.zeros((len(at) + 2, len(at) + 2))
    disk[1:-1, 1:-1] = at[:, None] ** 2 + at[None, :] ** 2 <= radius**2
    taps = np.exp(-(np.array([-1.0, 0.0, 1.0]) ** 2) / (2 * alias**2))
    taps /= taps.sum()
    smooth = (
        sum(taps[i] * taps[j] * disk[i : i + len(at), j : j + len(at)] for i in range(3) for j in range(3)) / disk.sum()
    )
    kernel = torch.tensor(smooth, dtype=x_BCHW.dtype, device=x_BCHW.device)
    rows_BCHW = x_BCHW.reshape(-1, 1, *x_BCHW.shape[2:])
    return F.conv2d(F.pad(rows_BCHW, (reach,) * 4, mode="reflect"), kernel[None, None]).view_as(x_BCHW)


def glass_blur(x_BCHW: Tensor, settings: Settings, generator: Generator) -> Tensor:
    """Settings: standard deviation of a blur before and after, how far pixels move, how often.

    From the last pixel to the first, each takes the value at up to `far` pixels before, or `far` - 1 behind it. Behind
    it have changed already, so where a value comes from in the end is found by following the way back.
    """
    sigma, far, times = settings[0], int(settings[1]), int(settings[2])
    count, channels, height, width = x_BCHW.shape
    x_BCHW = separable.filtered(x_BCHW, sigma, "nearest", 4.0).mul_(255).add_(1e-3).floor_().div_(255)
    rows, columns = (torch.arange(far + 1, side - far + 1, device=x_BCHW.device) for side in (height, width))
    here_hw = rows[:, None] * width + columns
    for _ in range(times):
        shape = (2, count, len(rows), len(columns))
        shift_2Bhw = torch.randint(-far, far, shape, generator=generator, device=generator.device)
        from_Bhw = here_hw + shift_2Bhw[0] * width + shift_2Bhw[1]
        source_BP = torch.arange(height * width, device=x_BCHW.device).repeat(count, 1)
        source_BP[:, here_hw.flatten()] = from_Bhw.flatten(1)
        source_BP = _followed(source_BP, here_hw.flatten())
        x_BCHW = x_BCHW.flatten(2).gather(2, source_BP[:, None].expand(-1, channels, -1)).view_as(x_BCHW)
    return separable.filtered(x_BCHW, sigma, "nearest", 4.0)


def _followed(source_BP: Tensor, moved_M: Tensor) -> Tensor:
    """Where each pixel's value was at first, if pixels take their sources' values from the last to the first."""
    moved_P = torch.zeros(source_BP.shape[1], dtype=torch.bool, device=source_BP.device)
    moved_P[moved_M] = True
    first_BP = source_BP
    place_BP = torch.arange(source_BP.shape[1], device=source_BP.device).expand_as(source_BP)
    while True:
        # A source behind its place has changed by then: it stands for its own source.
        changed_BP = (source_BP > place_BP) & moved_P[source_BP]
        if not bool(changed_BP.any()):
            return source_BP
        place_BP = torch.where(changed_BP, source_BP, place_BP)
        source_BP = torch.where(changed_BP, first_BP.gather(1, source_BP), source_BP)


def motion_blur(x_BCHW: Tensor, settings: Settings, generator: Generator) -> Tensor:
    """Settings: radius and standard deviation of a one-sided Gaussian, along a line of -45 to 45 degrees."""
    degrees_B = 90 * _uniform((len(x_BCHW),), generator) - 45
    return _moved(x_BCHW, int(settings[0]), settings[1], degrees_B)


def _moved(x_BCHW: Tensor, radius: int, sigma: float, degrees_B: Tensor) -> Tensor:
    """The mean of the images displaced by 0, 1, ... 2 `radius` pixels along a line, each one's weight from a Gaussian;
    edges are repeated.
    """
    count, channels, height, width = x_BCHW.shape
    steps = torch.arange(2 * radius + 1, device=x_BCHW.device, dtype=torch.float64)
    law = torch.exp(-(steps**2) / (2 * sigma**2))
    weights = (law / law.sum()).tolist()
    radians_B1 = torch.deg2rad(degrees_B.double())[:, None]
    down_BK = torch.ceil(steps * radians_B1.sin() - 0.5).long()
    right_BK = torch.ceil(steps * radians_B1.cos() - 0.5).long()
    pad = 2 * radius + 1
    padded_BCP = F.pad(x_BCHW, (pad,) * 4, mode="replicate").flatten(2)
    across = width + 2 * pad
    rows, columns = (torch.arange(side, device=x_BCHW.device) + pad for side in (height, width))
    here_P = (rows[:, None] * across + columns).flatten()
    out_BCP = torch.zeros_like(x_BCHW).flatten(2)
    for k, weight in enumerate(weights):
        at_B1P = (down_BK[:, k, None, None] * across + right_BK[:, k, None, None]) + here_P
        out_BCP.add_(padded_BCP.gather(2, at_B1P.expand(-1, channels, -1)), alpha=weight)
    return out_BCP.view(count, channels, height, width)


def zoom_blur(x_BCHW: Tensor, settings: Settings, generator: Generator) -> Tensor:
    """Settings: the zoom up to which, from 1 on in hundredths, enlarged images are averaged with the image itself."""
    del generator
    factors = np.arange(1, settings[0], 0.01)
    sizes: dict[tuple[int, int, int, int], int] = {}
    for factor in factors.tolist():
        key = (*separable.crop(x_BCHW.shape[2], factor), *separable.crop(x_BCHW.shape[3], factor))
        sizes[key] = sizes.get(key, 0) + 1
    total_BCHW = x_BCHW.clone()
    for (*tall, inside, size), times in sizes.items():
        down, right = separable.zoom(x_BCHW.shape[2], *tall), separable.zoom(x_BCHW.shape[3], inside, size)
        total_BCHW.add_(separable.mixed(x_BCHW, down, right), alpha=times)
    return total_BCHW / (len(factors) + 1)


# Weather


def snow(x_BCHW: Tensor, settings: Settings, generator: Generator) -> Tensor:
    """Settings: mean, standard deviation, zoom and threshold of the flakes; radius and standard deviation of their
    motion blur at -135 to -45 degrees; how much of the image is not whitened.
    """
    mean, std, zoom, threshold, radius, sigma, kept = settings
    count, _, height, width = x_BCHW.shape
    flakes_B1HW = mean + std * _normal((count, 1, height, width), generator)
    down, right = (
        separable.zoom(height, *separable.crop(height, zoom)),
        separable.zoom(width, *separable.crop(width, zoom)),
    )
    flakes_B1HW = separable.mixed(flakes_B1HW, down, right)
    flakes_B1HW = torch.where(flakes_B1HW < threshold, 0.0, flakes_B1HW).clamp_(0, 1)
    degrees_B = 90 * _uniform((count,), generator) - 135
    falling_B1HW = _moved(flakes_B1HW.mul_(255).floor_().div_(255), int(radius), sigma, degrees_B)
    white_BCHW = torch.maximum(x_BCHW, gray(x_BCHW) * 1.5 + 0.5)
    return kept * x_BCHW + (1 - kept) * white_BCHW + falling_B1HW + falling_B1HW.flip(2, 3)


FROST = (0.80, 0.90, 1.0)
"""The frost's colour."""


def frost(x_BCHW: Tensor, settings: Settings, generator: Generator) -> Tensor:
    """Settings: weights of the image and of the frost."""
    count, _, height, width = x_BCHW.shape
    ridges_BHW = 1 - (2 * plasma(count, max(height, width), 1.7, generator)[:, :height, :width] - 1).abs()
    return settings[0] * x_BCHW + settings[1] * (0.25 + 0.75 * ridges_BHW[:, None]) * _colour(FROST, x_BCHW)


def fog(x_BCHW: Tensor, settings: Settings, generator: Generator) -> Tensor:
    """Settings: how much fog, and by how much its roughness falls from scale to scale."""
    count, _, height, width = x_BCHW.shape
    fog_BHW = plasma(count, max(height, width), settings[1], generator)[:, :height, :width]
    top_B111 = x_BCHW.amax((1, 2, 3), keepdim=True)
    return (x_BCHW + settings[0] * fog_BHW[:, None]) * top_B111 / (top_B111 + settings[0])


def plasma(count: int, side: int, decay: float, generator: Generator) -> Tensor:
    """Fractals by the diamond-square algorithm on a torus: (count, S, S) in [0, 1], S the power of 2 from `side` on.

    Each new point is the mean of four old ones and a uniform number, whose spread is the square of a roughness that
    `decay` divides after each halving.
    """
    size = 1 << (side - 1).bit_length()
    map_BSS = torch.zeros(count, size, size, device=generator.device)
    step, rough = size, 100.0

    def between(total_Bhw: Tensor) -> Tensor:
        return total_Bhw / 4 + rough**2 * (2 * _uniform(total_Bhw.shape, generator) - 1)

    while step >= 2:
        half = step // 2
        corners = map_BSS[:, ::step, ::step]
        pairs = corners + corners.roll(-1, 1)
        middles = between(pairs + pairs.roll(-1, 2))
        map_BSS[:, half::step, half::step] = middles
        map_BSS[:, ::step, half::step] = between(middles + middles.roll(1, 1) + corners + corners.roll(-1, 2))
        map_BSS[:, half::step, ::step] = between(middles + middles.roll(1, 2) + corners + corners.roll(-1, 1))
        step, rough = half, rough / decay
    map_BSS -= map_BSS.amin((1, 2), keepdim=True)
    return map_BSS / map_BSS.amax((1, 2), keepdim=True).clamp_min(1e-12)


WATER, MUD = (175 / 255, 238 / 255, 238 / 255), (63 / 255, 42 / 255, 20 / 255)


def spatter(x_BCHW: Tensor, settings: Settings, generator: Generator) -> Tensor:
    """Settings: mean, standard deviation, smoothing and threshold of the drops; how much water, or the smoothing of
    mud; whether it is mud.
    """
    mean, std, sigma, threshold, amount, muddy = settings
    count, _, height, width = x_BCHW.shape
    drops_B1HW = separable.filtered(mean + std * _normal((count, 1, height, width), generator), sigma, "nearest", 4.0)
    drops_B1HW = torch.where(drops_B1HW < threshold, 0.0, drops_B1HW)
    if muddy:
        cover_B1HW = separable.filtered((drops_B1HW > threshold).to(x_BCHW.dtype), amount, "nearest", 4.0)
        cover_B1HW = torch.where(cover_B1HW < 0.8, 0.0, cover_B1HW)
        return x_BCHW * (1 - cover_B1HW) + cover_B1HW * _colour(MUD, x_BCHW)
    most_B111 = drops_B1HW.amax((2, 3), keepdim=True).clamp_min(1e-12)
    return x_BCHW + amount * drops_B1HW / most_B111 * _colour(WATER, x_BCHW)


# Colour and resolution


def brightness(x_BCHW: Tensor, settings: Settings, generator: Generator) -> Tensor:
    """Settings: what is added to the value V of HSV."""
    del generator
    top_B1HW = x_BCHW.amax(1, keepdim=True)
    raised_B1HW = (top_B1HW + settings[0]).clamp(max=1)
    return torch.where(top_B1HW > 0, x_BCHW * raised_B1HW / top_B1HW.clamp_min(1e-12), raised_B1HW)


def contrast(x_BCHW: Tensor, settings: Settings, generator: Generator) -> Tensor:
    """Settings: factor of the deviation from each channel's mean."""
    del generator
    mean_BC11 = x_BCHW.mean((2, 3), keepdim=True)
    return (x_BCHW - mean_BC11) * settings[0] + mean_BC11


def saturate(x_BCHW: Tensor, settings: Settings, generator: Generator) -> Tensor:
    """Settings: factor of the saturation S of HSV, and what is added to it. Grey pixels turn red; grey images stay."""
    del generator
    if x_BCHW.shape[1] == 1:
        return x_BCHW
    top_B1HW = x_BCHW.amax(1, keepdim=True)
    chroma_B1HW = top_B1HW - x_BCHW.amin(1, keepdim=True)
    old_B1HW = chroma_B1HW / top_B1HW.clamp_min(1e-12)
    new_B1HW = (old_B1HW * settings[0] + settings[1]).clamp(0, 1)
    coloured_BCHW = top_B1HW - (top_B1HW - x_BCHW) * new_B1HW / old_B1HW.clamp_min(1e-12)
    red_BCHW = top_B1HW * (1 - new_B1HW * _colour((0.0, 1.0, 1.0), x_BCHW))
    return torch.where(chroma_B1HW > 0, coloured_BCHW, red_BCHW)


def elastic_transform(x_BCHW: Tensor, settings: Settings, generator: Generator) -> Tensor:
    """Settings, as shares of the side: size and smoothness of a displacement of each pixel, and how far the corners of
    a triangle move, with which the whole image moves first.
    """
    alpha, sigma, affine = settings
    count, _, height, width = x_BCHW.shape
    side = min(height, width)
    middle, third = torch.tensor([width // 2, height // 2], dtype=torch.float32), side // 3
    corners_32 = torch.stack([middle + third, middle + torch.tensor([third, -third]), middle - third]).to(x_BCHW.device)
    moved_B32 = corners_32 + affine * side * (2 * _uniform((count, 3, 2), generator) - 1)
    back_B32 = torch.linalg.solve(F.pad(moved_B32, (0, 1), value=1.0), corners_32.expand(count, 3, 2))
    rows, columns = (torch.arange(n, device=x_BCHW.device, dtype=torch.float32) for n in (height, width))
    grid_HW3 = torch.stack(
        [
            columns.expand(height, width),
            rows[:, None].expand(height, width),
            torch.ones_like(columns).expand(height, -1),
        ],
        -1,
    )
    x_BCHW = _sampled(x_BCHW, torch.einsum("hwi,bij->bhwj", grid_HW3, back_B32), corners=True)
    if not alpha:
        return x_BCHW
    shift_B2HW = separable.filtered(
        2 * _uniform((count, 2, height, width), generator) - 1, sigma * side, "reflect", 3.0
    )
    return _sampled(x_BCHW, grid_HW3[..., :2] + alpha * side * shift_B2HW.permute(0, 2, 3, 1), corners=False)


def _sampled(x_BCHW: Tensor, at_BHW2: Tensor, *, corners: bool) -> Tensor:
    """Bilinear values at (column, row) in pixels; beyond the edge, or the middles of edge pixels, mirrored."""
    size = torch.tensor([x_BCHW.shape[3], x_BCHW.shape[2]], dtype=torch.float32, device=x_BCHW.device)
    grid_BHW2 = 2 * at_BHW2 / (size - 1) - 1 if corners else (2 * at_BHW2 + 1) / size - 1
    return F.grid_sample(x_BCHW, grid_BHW2, padding_mode="reflection", align_corners=corners)


def pixelate(x_BCHW: Tensor, settings: Settings, generator: Generator) -> Tensor:
    """Settings: share of the side that the image is made smaller to, by a box filter, and enlarged again."""
    del generator
    for target in ([int(side * settings[0]) for side in x_BCHW.shape[2:]], x_BCHW.shape[2:]):
        down, right = (separable.boxes(old, new) for old, new in zip(x_BCHW.shape[2:], target, strict=True))
        x_BCHW = _levels(separable.mixed(_levels(separable.mixed(x_BCHW, None, right)), down, None))
    return x_BCHW


def jpeg_compression(x_BCHW: Tensor, settings: Settings, generator: Generator) -> Tensor:
    """Settings: quality. By PIL, on the CPU."""
    del generator
    from PIL import Image

    grey = x_BCHW.shape[1] == 1
    pixels_BHWC = _levels(x_BCHW).mul(255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    decoded = np.empty_like(pixels_BHWC)
    for place, pixels_HWC in enumerate(pixels_BHWC):
        file = io.BytesIO()
        Image.fromarray(pixels_HWC[:, :, 0] if grey else pixels_HWC).save(file, "JPEG", quality=int(settings[0]))
        with Image.open(file) as image:
            decoded[place] = np.asarray(image).reshape(pixels_HWC.shape)
    return to_float(torch.from_numpy(decoded)).to(x_BCHW.device)


Function = Callable[[Tensor, Settings, Generator], Tensor]
"""Images (B, C, H, W) in [0, 1], settings of one severity, random numbers -> images that may lie beyond [0, 1]."""
FUNCTIONS: Mapping[str, Function] = {
    each.__name__: each
    for each in (
        *(
            gaussian_noise,
            shot_noise,
            impulse_noise,
            defocus_blur,
            glass_blur,
            motion_blur,
            zoom_blur,
            snow,
            frost,
            fog,
        ),
        *(brightness, contrast, elastic_transform, pixelate, jpeg_compression),
        *(speckle_noise, gaussian_blur, spatter, saturate),
    )
}
"""Every corruption by name."""


def _normal(shape: Sequence[int], generator: Generator) -> Tensor:
    return torch.randn(tuple(shape), generator=generator, device=generator.device)


def _uniform(shape: Sequence[int], generator: Generator) -> Tensor:
    return torch.rand(tuple(shape), generator=generator, device=generator.device)


def _colour(rgb: tuple[float, float, float], like_BCHW: Tensor) -> Tensor:
    """(1, C, 1, 1): a colour, of grey images its luma."""
    colour = torch.tensor(rgb, device=like_BCHW.device).view(1, 3, 1, 1)
    return gray(colour) if like_BCHW.shape[1] == 1 else colour


def _levels(x_BCHW: Tensor) -> Tensor:
    """Rounded to 8 bits."""
    return x_BCHW.mul(255).add_(0.5).floor_().div_(255)
