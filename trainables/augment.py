"""Random views of image batches, made on the device that holds the pixels, with randomness per image.

What SupContrast's and SimCLR's torchvision pipelines do image by image in worker processes, for a whole batch at once:
crop, flip, rotation and shift are one bilinear sampling, the colour operations are elementwise. Nothing waits for the
host, there is no loop over images, and the only source of randomness is the generator passed in.

Source: torchvision.transforms (RandomResizedCrop, RandomHorizontalFlip, RandomRotation, RandomCrop, ColorJitter,
RandomGrayscale, GaussianBlur); the settings of SupContrast (HobbitLong/SupContrast, main_supcon.py).

Deviations:
    1. Pixels stay floats from the first operation on; torchvision on PIL images rounds to 8 bits after each.
    2. RandomRotation samples bilinearly (torchvision's default: nearest), and together with a crop in one sampling.
    3. Where hue stands in an image's order of colour operations is dealt out: each quarter of the batch, at random, has
       it first, second, third, last. Per image all 24 orders are equally likely (when the batch divides by 4); within a
       batch they are not independent. The order of the other three is independent for each image.
    4. GaussianBlur draws whether to blur for each image (SimCLR's RandomApply), with a kernel of 3.

Shapes: B images, C channels (1 or 3), H rows, W columns. Angles in degrees; colours in [0, 1].
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from trainables.config import check_types, require

BRIGHTNESS, CONTRAST, SATURATION, HUE = 0.4, 0.4, 0.4, 0.1
"""ColorJitter's strengths in SupContrast."""
ASPECT = (3 / 4, 4 / 3)
"""RandomResizedCrop's range of width / height."""
BLUR_SIGMA = (0.1, 2.0)
"""GaussianBlur's range, pixels."""
LUMA = (0.2989, 0.587, 0.114)
"""Grey from red, green, blue (ITU-R 601, as torchvision has it)."""

_TRIES = 10
_DRAWS = {
    "area": _TRIES,
    "aspect": _TRIES,
    "corner": 2,
    "flip": 1,
    "angle": 1,
    "shift": 2,
    "jitter": 1,
    "factors": 4,
    "order": 3,
    "hue_place": 1,
    "grayscale": 1,
    "blur": 2,
}
"""Uniform numbers drawn for each image, whatever the settings: two arms that differ in one setting share the rest."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a view may change. The defaults change nothing; `SIMCLR` is the usual set."""

    crop: bool = False
    """RandomResizedCrop with areas from crop_scale to 1."""
    crop_scale: float = 0.2
    """Smallest area of the crop, as a fraction of the image's."""
    padding: int = 0
    """RandomCrop after padding by so many pixels on all sides."""
    padding_mode: Literal["zeros", "reflect"] = "zeros"
    """What the padding shows."""
    flip: bool = False
    """Horizontal flip, p = 0.5."""
    rotation: float = 0.0
    """RandomRotation by up to so many degrees either way; black outside."""
    jitter: float = 0.0
    """Probability of ColorJitter(0.4, 0.4, 0.4, 0.1). On grey images: brightness and contrast."""
    grayscale: float = 0.0
    """Probability of grey."""
    blur: float = 0.0
    """Probability of GaussianBlur(3, sigma from 0.1 to 2)."""

    def __post_init__(self) -> None:
        check_types(self)
        require(0 < self.crop_scale <= 1, self, "crop_scale", "above 0 and at most 1")
        require(self.padding >= 0, self, "padding", "at least 0")
        require(0 <= self.rotation <= 180, self, "rotation", "between 0 and 180 degrees")
        for name in ("jitter", "grayscale", "blur"):
            require(0 <= getattr(self, name) <= 1, self, name, "a probability, between 0 and 1")


Framing = int | Literal["resized"]
"""A random crop after padding by so many pixels; or a random part, of 8% of the area at least, made as large as the
image was: the two ways in which classifiers of small and of large images are trained."""


def framed(framing: Framing, *, flip: bool) -> Settings:
    """The settings of a framing, with or without flips."""
    if framing == "resized":
        return Settings(crop=True, crop_scale=0.08, flip=flip)
    return Settings(padding=framing, flip=flip)


SIMCLR = Settings(crop=True, flip=True, jitter=0.8, grayscale=0.2)
"""SupContrast's set."""


def two_views(pixels_BHWC: Tensor, settings: Settings, generator: torch.Generator) -> Tensor:
    """Two independent views of each image: (2B, C, H, W), all first views before all second ones."""
    return view(torch.cat([pixels_BHWC, pixels_BHWC]), settings, generator)


@torch.no_grad()
def view(pixels_BHWC: Tensor, settings: Settings, generator: torch.Generator) -> Tensor:
    """One random view of each image.

    Args:
        pixels_BHWC: uint8, on any device.
        settings: what may change.
        generator: on the same device, or on the CPU (then the numbers are the same for every device). It advances by
            the same amount for all settings.

    Returns:
        (B, C, H, W) float32 in [0, 1], not normalised.
    """
    x_BCHW = to_float(pixels_BHWC)
    u = _draw(len(x_BCHW), generator, x_BCHW.device)
    if settings.crop or settings.flip or settings.rotation or settings.padding:
        x_BCHW = _moved(x_BCHW, settings, u)
    if settings.jitter:
        x_BCHW = _jittered(x_BCHW, settings.jitter, u)
    if settings.grayscale and x_BCHW.shape[1] == 3:
        x_BCHW = torch.where(_column(u["grayscale"] < settings.grayscale), gray(x_BCHW), x_BCHW)
    if settings.blur:
        low, high = BLUR_SIGMA
        blurred_BCHW = blur(x_BCHW, low + (high - low) * u["blur"][:, 1])
        x_BCHW = torch.where(_column(u["blur"][:, 0] < settings.blur), blurred_BCHW, x_BCHW)
    return x_BCHW


def to_float(pixels_BHWC: Tensor) -> Tensor:
    """(B, H, W, C) uint8 -> (B, C, H, W) float32 in [0, 1], contiguous."""
    return pixels_BHWC.permute(0, 3, 1, 2).contiguous().float().div_(255)


def normalise(x_BCHW: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """(x - mean) / std for each channel."""
    if all(m == 0 for m in mean) and all(s == 1 for s in std):
        return x_BCHW
    scale_C = _constants([1 / s for s in std], x_BCHW)
    offset_C = _constants([-m / s for m, s in zip(mean, std, strict=True)], x_BCHW)
    return torch.addcmul(offset_C.view(1, -1, 1, 1), x_BCHW, scale_C.view(1, -1, 1, 1))


def _constants(values: Sequence[float], like: Tensor) -> Tensor:
    """A small tensor filled on the device: copying one from the host would make the host wait."""
    return torch.stack([torch.full((), value, dtype=like.dtype, device=like.device) for value in values])


def _draw(count: int, generator: torch.Generator, device: torch.device) -> dict[str, Tensor]:
    uniform = torch.rand(count, sum(_DRAWS.values()), generator=generator, device=generator.device)
    parts = uniform.to(device, non_blocking=True).split(list(_DRAWS.values()), dim=1)
    return {name: part.squeeze(1) for name, part in zip(_DRAWS, parts, strict=True)}


def _column(values_B: Tensor) -> Tensor:
    return values_B.view(-1, 1, 1, 1)


# Geometry: one sampling for all


def crop_boxes(area_BT: Tensor, aspect_BT: Tensor, corner_B2: Tensor, size: tuple[int, int], scale: float) -> Tensor:
    """RandomResizedCrop's boxes from uniform numbers: of T tries the first that fits, else the largest central box.

    Args:
        area_BT: uniform in [0, 1), one column a try.
        aspect_BT: the same.
        corner_B2: the same, for the box's top and left.
        size: height and width of the images, pixels.
        scale: smallest area, as a fraction.

    Returns:
        (B, 4) top, left, height, width in whole pixels, as floats.
    """
    height, width = size
    area = height * width * (scale + (1 - scale) * area_BT)
    low, high = math.log(ASPECT[0]), math.log(ASPECT[1])
    aspect = torch.exp(low + (high - low) * aspect_BT)
    w_BT, h_BT = (area * aspect).sqrt().round(), (area / aspect).sqrt().round()
    fits_BT = (w_BT > 0) & (w_BT <= width) & (h_BT > 0) & (h_BT <= height)
    first_B1 = fits_BT.to(torch.uint8).argmax(1, keepdim=True)
    any_B = fits_BT.any(1)
    h_last = min(height, round(width / ASPECT[0]))
    w_last = min(width, round(height * ASPECT[1]))
    h_B = torch.where(any_B, h_BT.gather(1, first_B1).squeeze(1), h_last)
    w_B = torch.where(any_B, w_BT.gather(1, first_B1).squeeze(1), w_last)
    top_B = torch.where(any_B, (corner_B2[:, 0] * (height - h_B + 1)).floor(), (height - h_last) // 2)
    left_B = torch.where(any_B, (corner_B2[:, 1] * (width - w_B + 1)).floor(), (width - w_last) // 2)
    return torch.stack([top_B, left_B, h_B, w_B], 1)


def _moved(x_BCHW: Tensor, settings: Settings, u: dict[str, Tensor]) -> Tensor:
    height, width = x_BCHW.shape[2:]
    flip_B = u["flip"] < 0.5 if settings.flip else None
    angle_B = settings.rotation * (2 * u["angle"] - 1) if settings.rotation else None
    shift_B2 = ((2 * settings.padding + 1) * u["shift"]).floor() - settings.padding if settings.padding else None
    box_B4 = None
    if settings.crop:
        box_B4 = crop_boxes(u["area"], u["aspect"], u["corner"], (height, width), settings.crop_scale)
    return move(x_BCHW, box_B4, flip_B, angle_B, shift_B2, reflect=settings.padding_mode == "reflect")


def move(
    x_BCHW: Tensor,
    box_B4: Tensor | None = None,
    flip_B: Tensor | None = None,
    angle_B: Tensor | None = None,
    shift_B2: Tensor | None = None,
    *,
    reflect: bool = False,
) -> Tensor:
    """Crop and resize to the image's size, flip, rotate, shift: in this order, by one bilinear sampling.

    Args:
        x_BCHW: images.
        box_B4: top, left, height, width of the crop, pixels.
        flip_B: whether to flip left and right.
        angle_B: degrees, anticlockwise about the centre.
        shift_B2: rows and columns by which the window of a padded random crop lies below and right of the middle.
        reflect: what rotation and shift bring in is mirrored (without the edge pixel) rather than black.
    """
    count, _, height, width = x_BCHW.shape
    y_BHW, x_BHW = _canvas(x_BCHW, angle_B, shift_B2)
    covered_BHW = None
    if angle_B is not None or shift_B2 is not None:
        if reflect:
            y_BHW, x_BHW = _mirrored(y_BHW, height), _mirrored(x_BHW, width)
        else:
            covered_BHW = _coverage(y_BHW, height) * _coverage(x_BHW, width)
    if flip_B is not None:
        x_BHW = x_BHW * (1 - 2 * flip_B.to(x_BHW.dtype)).view(-1, 1, 1)
    if box_B4 is not None:
        top_B, left_B, h_B, w_B = box_B4.unbind(1)
        y_BHW, x_BHW = _inside(y_BHW, top_B, h_B, height), _inside(x_BHW, left_B, w_B, width)
    grid_BHW2 = torch.stack(torch.broadcast_tensors(x_BHW, y_BHW), -1).expand(count, height, width, 2)
    sampled_BCHW = F.grid_sample(x_BCHW, grid_BHW2, mode="bilinear", padding_mode="border", align_corners=False)
    return sampled_BCHW if covered_BHW is None else sampled_BCHW * covered_BHW.unsqueeze(1)


def _canvas(x_BCHW: Tensor, angle_B: Tensor | None, shift_B2: Tensor | None) -> tuple[Tensor, Tensor]:
    """Where each output pixel lies on the cropped image: rows and columns in [-1, 1], broadcastable to (B, H, W)."""
    height, width = x_BCHW.shape[2:]
    y_BHW = ((2 * torch.arange(height, device=x_BCHW.device) + 1) / height - 1).view(1, -1, 1)
    x_BHW = ((2 * torch.arange(width, device=x_BCHW.device) + 1) / width - 1).view(1, 1, -1)
    if shift_B2 is not None:
        y_BHW = y_BHW + (2 / height) * shift_B2[:, 0].view(-1, 1, 1)
        x_BHW = x_BHW + (2 / width) * shift_B2[:, 1].view(-1, 1, 1)
    if angle_B is not None:
        radians_B11 = angle_B.view(-1, 1, 1) * (math.pi / 180)
        cos, sin = radians_B11.cos(), radians_B11.sin()
        # Rotated in pixels, not in units of the sides, which differ when the image is not square.
        y_BHW, x_BHW = (
            cos * y_BHW + sin * x_BHW * (width / height),
            cos * x_BHW - sin * y_BHW * (height / width),
        )
    return y_BHW, x_BHW


def _coverage(at: Tensor, side: int) -> Tensor:
    """The weight bilinear sampling gives to the image, not to the black around it, for a coordinate in [-1, 1]."""
    return ((side + 1) / 2 - at.abs() * (side / 2)).clamp_(0, 1)


def _mirrored(at: Tensor, side: int) -> Tensor:
    last = (side - 1) / side  # the coordinate of the last pixel's centre
    beyond = (at.abs() - last).clamp_(min=0)
    return at - 2 * torch.sign(at) * beyond


def _inside(at: Tensor, start_B: Tensor, length_B: Tensor, side: int) -> Tensor:
    """From a coordinate on the crop to one on the image, never beyond the centres of the crop's edge pixels."""
    start_B11, length_B11 = start_B.view(-1, 1, 1), length_B.view(-1, 1, 1)
    moved = at * (length_B11 / side) + ((2 * start_B11 + length_B11) / side - 1)
    low, high = (2 * start_B11 + 1) / side - 1, (2 * (start_B11 + length_B11) - 1) / side - 1
    return torch.clamp(moved, low, high)


# Colour


def gray(x_BCHW: Tensor) -> Tensor:
    """(B, 1, H, W): the luma of colour images; grey ones as they are."""
    if x_BCHW.shape[1] == 1:
        return x_BCHW
    r, g, b = x_BCHW.split(1, dim=1)
    gray_B1HW: Tensor = (r * LUMA[0]).add_(g, alpha=LUMA[1]).add_(b, alpha=LUMA[2])
    return gray_B1HW


def shift_hue(x_BCHW: Tensor, turns_B: Tensor) -> Tensor:
    """Turns the hue of colour images by a fraction of the circle, in HSV space.

    Value V and chroma D stay; with hue h in sixths of the circle, channel n in (5, 3, 1) becomes
    V - D clamp(min(k, 4 - k), 0, 1) with k = (n + h) mod 6.
    """
    r, g, b = x_BCHW.split(1, dim=1)
    top_B1HW = torch.maximum(torch.maximum(r, g), b)
    chroma_B1HW = top_B1HW - torch.minimum(torch.minimum(r, g), b)
    divisor = torch.where(chroma_B1HW == 0, 1.0, chroma_B1HW)
    sixths = torch.where(
        r == top_B1HW,
        (g - b) / divisor,
        torch.where(g == top_B1HW, 2 + (b - r) / divisor, 4 + (r - g) / divisor),
    )
    n_1C11 = _constants([5, 3, 1], x_BCHW).view(1, 3, 1, 1)
    k_BCHW = (sixths + 6 * _column(turns_B) + n_1C11).remainder_(6)
    return top_B1HW - chroma_B1HW * torch.minimum(k_BCHW, 4 - k_BCHW).clamp_(0, 1)


def _jittered(x_BCHW: Tensor, probability: float, u: dict[str, Tensor]) -> Tensor:
    """ColorJitter in an order of its own for each image; an image left alone has factors 1 and no turn of hue."""
    jittered_B1 = (u["jitter"] < probability).unsqueeze(1)
    spread_4 = _constants([BRIGHTNESS, CONTRAST, SATURATION, HUE], x_BCHW)
    deviation_B4 = torch.where(jittered_B1, (2 * u["factors"] - 1) * spread_4, 0)
    coloured = x_BCHW.shape[1] == 3
    blends = 3 if coloured else 2  # saturation and hue mean nothing on grey
    factors_BK = 1 + deviation_B4[:, :blends]
    order_BK = u["order"][:, :blends].argsort(1)
    if not coloured:
        return _blended(x_BCHW, factors_BK, order_BK, None)
    dealt_B = u["hue_place"].argsort()
    mixed_BCHW = _blended(x_BCHW[dealt_B], factors_BK[dealt_B], order_BK[dealt_B], deviation_B4[dealt_B, 3])
    return torch.empty_like(mixed_BCHW).index_copy_(0, dealt_B, mixed_BCHW)


def _blended(x_BCHW: Tensor, factors_BK: Tensor, order_BK: Tensor, turns_B: Tensor | None) -> Tensor:
    """The K blends in each image's order; the quarter i of the batch has its hue turned after i of them."""
    blends = factors_BK.shape[1]
    bounds = [len(x_BCHW) * place // (blends + 1) for place in range(blends + 2)]
    for place in range(blends + 1):
        if turns_B is not None and bounds[place] < bounds[place + 1]:
            part = slice(bounds[place], bounds[place + 1])
            x_BCHW[part] = shift_hue(x_BCHW[part], turns_B[part])
        if place < blends:
            which_B = order_BK[:, place]
            x_BCHW = blend(x_BCHW, which_B, factors_BK.gather(1, which_B.unsqueeze(1)).squeeze(1))
    return x_BCHW


def blend(x_BCHW: Tensor, which_B: Tensor, factor_B: Tensor) -> Tensor:
    """clamp(f x + (1 - f) r), where r is black, the image's mean grey, or its grey version.

    Args:
        x_BCHW: images.
        which_B: 0 adjusts brightness, 1 contrast, 2 saturation; for each image.
        factor_B: f; 1 leaves the image as it is.
    """
    gray_B1HW = gray(x_BCHW)
    rest_B111 = _column(1 - factor_B)
    mean_B111 = gray_B1HW.mean((1, 2, 3), keepdim=True)
    reference = (mean_B111 * (rest_B111 * _column(which_B == 1))).expand_as(gray_B1HW)
    if x_BCHW.shape[1] == 3:
        reference = torch.addcmul(reference, gray_B1HW, rest_B111 * _column(which_B == 2))
    return torch.addcmul(reference, x_BCHW, _column(factor_B)).clamp_(0, 1)


def blur(x_BCHW: Tensor, sigma_B: Tensor) -> Tensor:
    """GaussianBlur with 3 taps a direction, edges reflected; sigma in pixels for each image."""
    side_B = torch.exp(-0.5 / sigma_B**2)
    middle_B111 = _column(1 / (1 + 2 * side_B))
    side_B111 = _column(side_B) * middle_B111
    p = F.pad(x_BCHW, (1, 1, 1, 1), mode="reflect")
    rows = p[:, :, 1:-1] * middle_B111 + (p[:, :, :-2] + p[:, :, 2:]) * side_B111
    return rows[..., 1:-1] * middle_B111 + (rows[..., :-2] + rows[..., 2:]) * side_B111
