"""Each corruption against a slow one from its definition, with SciPy, PIL and colorsys; and all of them together."""

import colorsys
import io
import itertools
import math

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage

from trainables import corruptions
from trainables.corruption_settings import CIFAR, CORRUPTIONS, EXTRA, SEVERITIES, TINYIMAGENET
from trainables.corruptions import FUNCTIONS, corrupt

ALL = (*CORRUPTIONS, *EXTRA)
every = pytest.mark.parametrize("name", ALL)
severities = pytest.mark.parametrize("severity", SEVERITIES)


def stream() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def pictures(count: int = 3, side: int = 32, channels: int = 3) -> np.ndarray:
    """Smooth shapes with some grain, uint8 (count, side, side, channels); a black and a grey corner."""
    rng = np.random.default_rng(0)
    coarse = rng.uniform(0, 1, (count, 6, 6, channels))
    fine = ndimage.zoom(coarse, (1, side / 6, side / 6, 1), order=1) + rng.normal(
        0, 0.03, (count, side, side, channels)
    )
    pixels = (fine.clip(0, 1) * 255).astype(np.uint8)
    pixels[:, :2, :2] = 0
    pixels[:, -3:, -3:] = 100
    return pixels


def fast(name: str, severity: int, pixels: np.ndarray) -> np.ndarray:
    return corrupt(torch.from_numpy(pixels), name, severity, stream()).numpy()


def uniform(generator: torch.Generator, *shape: int) -> np.ndarray:
    return torch.rand(shape, generator=generator).double().numpy()


def normal(generator: torch.Generator, *shape: int) -> np.ndarray:
    return torch.randn(shape, generator=generator).double().numpy()


def smooth(image: np.ndarray, sigma: float, mode: str = "nearest", truncate: float = 4.0) -> np.ndarray:
    """Rows and columns alone, channels apart."""
    return ndimage.gaussian_filter(image, (sigma, sigma, 0)[: image.ndim], mode=mode, truncate=truncate)


# Slow ones: floats (H, W, C) of all images at once or one by one -> the same. Draws come in the order of the fast ones.


def slow_gaussian_noise(x, s, g):
    return x + s[0] * normal(g, *np.moveaxis(x, 3, 1).shape).transpose(0, 2, 3, 1)


def slow_speckle_noise(x, s, g):
    return x * (1 + s[0] * normal(g, *np.moveaxis(x, 3, 1).shape).transpose(0, 2, 3, 1))


def slow_impulse_noise(x, s, g):
    u = uniform(g, *np.moveaxis(x, 3, 1).shape).transpose(0, 2, 3, 1)
    return np.where(u < s[0] / 2, 1.0, np.where(u < s[0], 0.0, x))


def slow_gaussian_blur(x, s, g):
    return np.stack([smooth(image, s[0]) for image in x])


def slow_defocus_blur(x, s, g):
    radius, alias = s
    grid = np.arange(-8, 9)
    disk = (grid[:, None] ** 2 + grid**2 <= radius**2).astype(float)
    taps = np.exp(-np.array([1, 0, 1]) / (2 * alias**2))
    kernel = ndimage.convolve(disk / disk.sum(), np.outer(taps, taps) / taps.sum() ** 2)
    return np.stack(
        [
            np.dstack([ndimage.correlate(image[:, :, c], kernel, mode="mirror") for c in range(x.shape[3])])
            for image in x
        ]
    )


def slow_glass_blur(x, s, g):
    sigma, far, times = s
    count, height, width, _ = x.shape
    images = [np.floor(smooth(image, sigma) * 255 + 1e-3) for image in x]
    for _ in range(times):
        shape = (2, count, height - 2 * far, width - 2 * far)
        shift = torch.randint(-far, far, shape, generator=g).numpy()
        for b, image in enumerate(images):
            for h in range(height - far, far, -1):
                for w in range(width - far, far, -1):
                    dy, dx = shift[:, b, h - far - 1, w - far - 1]
                    image[h, w] = image[h + dy, w + dx]
    return np.stack([smooth(image / 255, sigma) for image in images])


def moved(image, radius, sigma, degrees):
    """ImageMagick's motion blur, from its documentation: one weight and one shift at a time."""
    weights = [math.exp(-(i**2) / (2 * sigma**2)) for i in range(2 * radius + 1)]
    out = np.zeros_like(image)
    for i, weight in enumerate(weights):
        dy = math.ceil(i * math.sin(math.radians(degrees)) - 0.5)
        dx = math.ceil(i * math.cos(math.radians(degrees)) - 0.5)
        rows = (np.arange(image.shape[0]) + dy).clip(0, image.shape[0] - 1)
        columns = (np.arange(image.shape[1]) + dx).clip(0, image.shape[1] - 1)
        out += weight / sum(weights) * image[rows][:, columns]
    return out


def slow_motion_blur(x, s, g):
    degrees = 90 * torch.rand(len(x), generator=g) - 45
    return np.stack([moved(image, s[0], s[1], float(d)) for image, d in zip(x, degrees, strict=True)])


def clipped_zoom(image, factor):
    side = image.shape[0]
    inside = math.ceil(side / factor)
    top = (side - inside) // 2
    large = ndimage.zoom(image[top : top + inside, top : top + inside], (factor, factor, 1)[: image.ndim], order=1)
    trim = (large.shape[0] - side) // 2
    return large[trim : trim + side, trim : trim + side]


def slow_zoom_blur(x, s, g):
    factors = np.arange(1, s[0], 0.01)
    return np.stack([(image + sum(clipped_zoom(image, f) for f in factors)) / (len(factors) + 1) for image in x])


def slow_snow(x, s, g):
    mean, std, zoom, threshold, radius, sigma, kept = s
    count, height, width, _ = x.shape
    layers = mean + std * normal(g, count, 1, height, width)[:, 0]
    degrees = 90 * torch.rand(count, generator=g) - 135
    out = []
    for image, layer, angle in zip(x, layers, degrees, strict=True):
        flakes = clipped_zoom(layer, zoom)
        flakes[flakes < threshold] = 0
        falling = moved(np.floor(flakes.clip(0, 1) * 255) / 255, radius, sigma, float(angle))[:, :, None]
        grey = image @ [0.299, 0.587, 0.114]
        image = kept * image + (1 - kept) * np.maximum(image, grey[:, :, None] * 1.5 + 0.5)
        out.append(image + falling + np.rot90(falling, 2))
    return np.stack(out)


def diamond_square(drawn, size, decay):
    """One point at a time, with the uniform numbers of three sets of points a level."""
    drawn = iter(drawn)
    map_, step, rough = np.zeros((size, size)), size, 100.0
    while step >= 2:
        half = step // 2
        at = range(0, size, step)
        noise = [rough**2 * (2 * next(drawn) - 1) for _ in range(3)]
        old = map_.copy()
        for i, r in enumerate(at):
            for j, c in enumerate(at):
                corners = [old[r, c], old[(r + step) % size, c], old[r, (c + step) % size]]
                corners.append(old[(r + step) % size, (c + step) % size])
                map_[r + half, c + half] = np.mean(corners) + noise[0][i, j]
        for i, r in enumerate(at):
            for j, c in enumerate(at):
                sides = [map_[r + half, c + half], map_[r - half, c + half], old[r, c], old[r, (c + step) % size]]
                map_[r, c + half] = np.mean(sides) + noise[1][i, j]
                sides = [map_[r + half, c + half], map_[r + half, c - half], old[r, c], old[(r + step) % size, c]]
                map_[r + half, c] = np.mean(sides) + noise[2][i, j]
        step, rough = half, rough / decay
    return (map_ - map_.min()) / (map_.max() - map_.min())


def fractals(g, count, size, decay):
    levels = []
    step = size
    while step >= 2:
        levels += [uniform(g, count, size // step, size // step) for _ in range(3)]
        step //= 2
    return np.stack([diamond_square([level[b] for level in levels], size, decay) for b in range(count)])


def slow_fog(x, s, g):
    layers = fractals(g, len(x), 1 << (x.shape[1] - 1).bit_length(), s[1])[:, : x.shape[1], : x.shape[2]]
    return np.stack(
        [
            (image + s[0] * fog[:, :, None]) * image.max() / (image.max() + s[0])
            for image, fog in zip(x, layers, strict=True)
        ]
    )


def slow_frost(x, s, g):
    layers = fractals(g, len(x), 1 << (x.shape[1] - 1).bit_length(), 1.7)[:, : x.shape[1], : x.shape[2]]
    ridges = 0.25 + 0.75 * (1 - abs(2 * layers[..., None] - 1))
    return s[0] * x + s[1] * ridges * np.array([0.8, 0.9, 1.0])


def through_hsv(x, change):
    out = np.empty_like(x)
    for place in np.ndindex(x.shape[:3]):
        out[place] = colorsys.hsv_to_rgb(*change(*colorsys.rgb_to_hsv(*x[place])))
    return out


def slow_brightness(x, s, g):
    return through_hsv(x, lambda h, sat, v: (h, sat, min(1, v + s[0])))


def slow_saturate(x, s, g):
    return through_hsv(x, lambda h, sat, v: (h, min(1, max(0, sat * s[0] + s[1])), v))


def slow_contrast(x, s, g):
    means = x.mean(axis=(1, 2), keepdims=True)
    return means + s[0] * (x - means)


def slow_elastic_transform(x, s, g):
    count, side = x.shape[:2]
    middle, third = side // 2, side // 3
    corners = np.array(
        [[middle + third, middle + third], [middle + third, middle - third], [middle - third, middle - third]], float
    )
    moves = s[2] * side * (2 * uniform(g, count, 3, 2) - 1)
    shifts = 2 * uniform(g, count, 2, side, side) - 1 if s[0] else np.zeros((count, 2, side, side))
    rows, columns = np.mgrid[:side, :side].astype(float)
    out = []
    for image, move, shift in zip(x, moves, shifts, strict=True):
        back = np.linalg.solve(np.column_stack([corners + move, np.ones(3)]), corners)
        at = np.dstack([columns, rows, np.ones_like(rows)]) @ back
        image = np.dstack(
            [
                ndimage.map_coordinates(c, [at[..., 1], at[..., 0]], order=1, mode="mirror")
                for c in image.transpose(2, 0, 1)
            ]
        )
        if s[0]:
            dx, dy = (s[0] * side * smooth(each, s[1] * side, "reflect", 3.0) for each in shift)
            image = np.dstack(
                [
                    ndimage.map_coordinates(c, [rows + dy, columns + dx], order=1, mode="reflect")
                    for c in image.transpose(2, 0, 1)
                ]
            )
        out.append(image)
    return np.stack(out)


def by_pil(x, change):
    images = [Image.fromarray(np.round(image * 255).astype(np.uint8)) for image in x]
    return np.stack([np.asarray(change(image)) / 255 for image in images])


def slow_pixelate(x, s, g):
    side = x.shape[1]
    small = (int(side * s[0]),) * 2
    return by_pil(x, lambda image: image.resize(small, Image.Resampling.BOX).resize((side, side), Image.Resampling.BOX))


def slow_jpeg_compression(x, s, g):
    def through(image):
        file = io.BytesIO()
        image.save(file, "JPEG", quality=s[0])
        return Image.open(file).convert("RGB")

    return by_pil(x, through)


def slow_spatter(x, s, g):
    mean, std, sigma, threshold, amount, muddy = s
    layers = mean + std * normal(g, len(x), 1, *x.shape[1:3])[:, 0]
    out = []
    for image, layer in zip(x, layers, strict=True):
        drops = smooth(layer, sigma)
        drops[drops < threshold] = 0
        if muddy:
            cover = smooth((drops > threshold).astype(float), amount)
            cover[cover < 0.8] = 0
            out.append(image * (1 - cover[..., None]) + cover[..., None] * np.array([63, 42, 20]) / 255)
        else:
            out.append(image + amount * (drops / max(drops.max(), 1e-12))[..., None] * np.array([175, 238, 238]) / 255)
    return np.stack(out)


SLOW = {name.removeprefix("slow_"): value for name, value in list(globals().items()) if name.startswith("slow_")}


SIZES = [(32, CIFAR, severity) for severity in SEVERITIES] + [(64, TINYIMAGENET, severity) for severity in (1, 3, 5)]


@pytest.mark.parametrize("name", sorted(SLOW))
@pytest.mark.parametrize(("side", "table", "severity"), SIZES, ids=[f"{size[0]}-{size[2]}" for size in SIZES])
def test_a_corruption_is_its_slow_definition(name, side, table, severity):
    pixels = pictures(2, side)
    wanted = SLOW[name](pixels / 255, table[name][severity - 1], stream())
    wanted = np.floor(wanted.clip(0, 1) * 255 + 1e-3).astype(int)
    off = np.abs(fast(name, severity, pixels).astype(int) - wanted)
    # Where a value is nearly a whole level, or lies at a threshold, float32 and float64 part.
    assert np.mean(off > 1) < 2e-3, f"{np.mean(off > 1):.2%} of the values differ by more than a level"
    assert off.mean() < 0.02


def test_every_corruption_has_a_slow_one_or_a_law():
    assert set(SLOW) | {"shot_noise"} == set(ALL) == set(FUNCTIONS) == set(CIFAR) == set(TINYIMAGENET)


@severities
def test_shot_noise_has_the_mean_and_variance_of_a_poisson_law(severity):
    pixels = np.full((4, 64, 64, 3), 128, np.uint8)
    values = corruptions.shot_noise(torch.full((4, 3, 64, 64), 0.5), CIFAR["shot_noise"][severity - 1], stream())
    photons = CIFAR["shot_noise"][severity - 1][0]
    error = (0.5 / photons / values.numel()) ** 0.5
    assert abs(float(values.mean()) - 0.5) < 4 * error
    assert float(values.var()) == pytest.approx(0.5 / photons, rel=0.03)
    assert abs(fast("shot_noise", severity, pixels).mean() - 127.5) < 1


MONOTONE = dict.fromkeys(ALL, SEVERITIES) | {
    "glass_blur": (1, 4),
    "motion_blur": (1, 2, 3, 5),
    "frost": (1, 2, 3),
    "elastic_transform": (5, 4, 3, 2, 1),
    "pixelate": (1, 5),
    "spatter": (1, 2, 3),
    "saturate": (3, 1, 2),
}
"""Severities by rising distance from the clean image. Of some kinds the settings are not monotone: glass blur trades
its blur for a second shuffle, motion blur's radius 8 adds nothing to a Gaussian that ends before 6, frost's image
weight falls while its own stands still, elastic transforms trade their affine part, which moves most, for a rougher
displacement, a box filter's blocks fall off the grid at some sizes, spatter turns from water to mud, and saturation
falls before it rises.
"""


@every
def test_distance_to_the_clean_image_rises_with_severity(name):
    pixels = pictures(24)
    far = [np.sqrt(np.mean((fast(name, severity, pixels) - pixels.astype(float)) ** 2)) for severity in MONOTONE[name]]
    assert far[0] > 0
    assert all(before < after for before, after in itertools.pairwise(far)), far


@every
@pytest.mark.parametrize(("side", "channels"), [(16, 1), (16, 3), (33, 3), (64, 1)])
def test_grey_and_odd_images_keep_their_shape_and_type(name, side, channels):
    pixels = pictures(2, side, channels)
    found = fast(name, 5, pixels)
    assert found.dtype == np.uint8
    assert found.shape == pixels.shape
    if (name, channels) == ("saturate", 1):
        assert np.array_equal(found, pixels)
    else:
        assert not np.array_equal(found, pixels)


@every
def test_a_stream_repeats_and_no_global_generator_moves(name):
    pixels = pictures(2)
    kept = pixels.copy()
    torch.manual_seed(1)
    before = torch.get_rng_state()
    assert np.array_equal(fast(name, 3, pixels), fast(name, 3, pixels))
    assert torch.equal(before, torch.get_rng_state())
    assert np.array_equal(pixels, kept)


@pytest.mark.parametrize(("name", "severity"), [("fogg", 1), ("fog", 0), ("fog", 6)])
def test_what_is_no_corruption_is_refused(name, severity):
    with pytest.raises(ValueError, match="is no corruption"):
        fast(name, severity, pictures(1))
