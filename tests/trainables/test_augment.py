"""Every operation against torchvision's, image by image; every draw against torchvision's own draws."""

import dataclasses

import pytest
import torch
from scipy import stats
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as tv

from trainables import augment
from trainables.augment import SIMCLR, Settings, view
from trainables.config import ConfigError


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(count: int = 6, channels: int = 3, height: int = 20, width: int = 20) -> torch.Tensor:
    return torch.rand(count, channels, height, width, generator=generator(1))


def pixels(count: int = 64, side: int = 12, channels: int = 3) -> torch.Tensor:
    return torch.randint(0, 256, (count, side, side, channels), dtype=torch.uint8, generator=generator(2))


# Geometry


@pytest.mark.parametrize(("height", "width"), [(20, 20), (20, 14)])
@pytest.mark.parametrize("flipped", [False, True])
def test_crop_and_flip_equal_torchvision(height: int, width: int, flipped: bool) -> None:
    x = images(4, height=height, width=width)
    boxes = torch.tensor([[0, 0, height, width], [3, 2, 9, 11], [height - 5, width - 7, 5, 7], [1, 0, 13, 10]]).float()
    ours = augment.move(x, boxes, torch.full((4,), flipped))
    for i, (top, left, h, w) in enumerate(boxes.int().tolist()):
        theirs = tv.resized_crop(x[i], top, left, h, w, [height, width], antialias=True)
        theirs = tv.horizontal_flip(theirs) if flipped else theirs
        torch.testing.assert_close(ours[i], theirs, atol=2e-5, rtol=0)


@pytest.mark.parametrize(("height", "width"), [(20, 20), (20, 14)])
def test_rotation_equals_torchvision(height: int, width: int) -> None:
    x = images(5, height=height, width=width)
    angles = [-170.0, -37.0, 0.0, 5.0, 90.0]
    ours = augment.move(x, angle_B=torch.tensor(angles))
    for i, angle in enumerate(angles):
        theirs = tv.rotate(x[i], angle, interpolation=v2.InterpolationMode.BILINEAR)
        torch.testing.assert_close(ours[i], theirs, atol=1e-4, rtol=0)


@pytest.mark.parametrize("mode", ["constant", "reflect"])
def test_shift_equals_a_crop_of_the_padded_image(mode: str) -> None:
    x, padding = images(3, height=12, width=16), 4
    shifts = torch.tensor([[-4, 4], [0, -3], [2, 0]])
    ours = augment.move(x, shift_B2=shifts.float(), reflect=mode == "reflect")
    for i, (down, right) in enumerate(shifts.tolist()):
        padded = tv.pad(x[i], [padding], padding_mode=mode)
        theirs = tv.crop(padded, padding + down, padding + right, 12, 16)
        torch.testing.assert_close(ours[i], theirs, atol=1e-5, rtol=0)


def test_nothing_moves_without_parameters() -> None:
    x = images()
    torch.testing.assert_close(augment.move(x), x, atol=1e-5, rtol=0)


def test_crop_and_rotation_in_one_sampling_equal_torchvisions_two_where_these_are_exact() -> None:
    rows, columns = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    slopes = torch.stack([rows / 32, columns / 32, (rows + 2 * columns) / 96])[None]
    ours = augment.move(slopes, torch.tensor([[4.0, 6.0, 20.0, 18.0]]), angle_B=torch.tensor([25.0]))
    cropped = tv.resized_crop(slopes, 4, 6, 20, 18, [32, 32], antialias=True)
    theirs = tv.rotate(cropped, 25.0, interpolation=v2.InterpolationMode.BILINEAR)
    inside = slice(6, -6)  # bilinear sampling of a slope is exact, but at the edges it is clamped
    torch.testing.assert_close(ours[..., inside, inside], theirs[..., inside, inside], atol=1e-4, rtol=0)


# Colour


@pytest.mark.parametrize(
    ("which", "theirs", "channels"),
    [
        (0, tv.adjust_brightness, 1),
        (0, tv.adjust_brightness, 3),
        (1, tv.adjust_contrast, 1),
        (1, tv.adjust_contrast, 3),
        (2, tv.adjust_saturation, 3),
    ],
)
def test_blend_equals_torchvision(which: int, theirs, channels: int) -> None:
    x, factors = images(channels=channels), torch.linspace(0.6, 1.4, 6)
    ours = augment.blend(x, torch.full((6,), which), factors)
    for i, factor in enumerate(factors.tolist()):
        torch.testing.assert_close(ours[i], theirs(x[i], factor), atol=1e-6, rtol=0)


def test_hue_equals_torchvision() -> None:
    x = images(9)
    x[0] = 0.3  # no hue at all
    x[1, :2] = 1.0  # two channels at the top
    turns = torch.linspace(-0.5, 0.5, 9)
    ours = augment.shift_hue(x, turns)
    for i, turn in enumerate(turns.tolist()):
        torch.testing.assert_close(ours[i], tv.adjust_hue(x[i], turn), atol=3e-6, rtol=0)


def test_gray_and_blur_equal_torchvision() -> None:
    x, sigmas = images(), torch.linspace(0.1, 2.0, 6)
    torch.testing.assert_close(augment.gray(x), tv.rgb_to_grayscale(x), atol=1e-6, rtol=0)
    blurred = augment.blur(x, sigmas)
    for i, sigma in enumerate(sigmas.tolist()):
        torch.testing.assert_close(blurred[i], tv.gaussian_blur(x[i], [3, 3], [sigma, sigma]), atol=1e-5, rtol=0)


def test_jitter_applies_torchvisions_operations_in_each_images_own_order() -> None:
    x, count = images(24, height=6, width=6), 24
    u = augment._draw(count, generator(3), x.device)
    ours = augment._jittered(x, 0.7, u)
    operations = [tv.adjust_brightness, tv.adjust_contrast, tv.adjust_saturation]
    places = u["hue_place"].argsort().argsort() * 4 // count
    for i in range(count):
        expected = x[i]
        if u["jitter"][i] < 0.7:
            spread = (2 * u["factors"][i] - 1) * torch.tensor([0.4, 0.4, 0.4, 0.1])
            sequence = [(operations[k], 1 + spread[k].item()) for k in u["order"][i].argsort().tolist()]
            sequence.insert(int(places[i]), (tv.adjust_hue, spread[3].item()))
            for operation, parameter in sequence:
                expected = operation(expected, parameter)
        torch.testing.assert_close(ours[i], expected, atol=2e-5, rtol=0)


def test_every_order_of_the_four_operations_is_equally_likely() -> None:
    count, orders = 24_000, torch.zeros(4, 6)
    u = augment._draw(count, generator(4), torch.device("cpu"))
    places = u["hue_place"].argsort().argsort() * 4 // count
    order = u["order"].argsort(1)
    for place, first, second in zip(places.tolist(), order[:, 0].tolist(), order[:, 1].tolist(), strict=True):
        orders[place, 2 * first + second - (second > first)] += 1
    assert stats.chisquare(orders.flatten()).pvalue > 1e-3


# What is drawn


@pytest.mark.parametrize("size", [(16, 16), (16, 24)])
def test_crop_boxes_are_distributed_as_torchvisions(size: tuple[int, int]) -> None:
    count, scale = 4000, 0.2
    u = augment._draw(count, generator(5), torch.device("cpu"))
    ours = augment.crop_boxes(u["area"], u["aspect"], u["corner"], size, scale)
    torch.manual_seed(6)
    transform, image = v2.RandomResizedCrop(size, scale=(scale, 1.0)), torch.zeros(3, *size)
    drawn = [transform.make_params([image]) for _ in range(count)]
    theirs = torch.tensor([[one[name] for name in ("top", "left", "height", "width")] for one in drawn]).float()
    for column in range(4):
        assert stats.ks_2samp(ours[:, column], theirs[:, column]).pvalue > 1e-3
    area, ratio = ours[:, 2] * ours[:, 3], ours[:, 3] / ours[:, 2]
    assert stats.ks_2samp(area, theirs[:, 2] * theirs[:, 3]).pvalue > 1e-3
    assert stats.ks_2samp(ratio, theirs[:, 3] / theirs[:, 2]).pvalue > 1e-3
    assert (ours[:, :2] >= 0).all()
    assert (ours[:, :2] + ours[:, 2:] <= torch.tensor(size)).all()


def test_the_first_fitting_try_is_taken_else_the_largest_central_box() -> None:
    whole, tall = 0.999999, 0.0  # the whole area at aspect 3/4 does not fit a square
    area = torch.tensor([[whole, 0.0, 0.5], [whole, whole, whole]])
    aspect = torch.tensor([[tall, 0.5, 0.5], [tall, tall, tall]])
    boxes = augment.crop_boxes(area, aspect, torch.zeros(2, 2), (20, 20), 0.25)
    assert boxes[0].tolist() == [0, 0, 10, 10]
    assert boxes[1].tolist() == [0, 0, 20, 20]
    narrow = augment.crop_boxes(area[1:], aspect[1:] + 0.999, torch.zeros(1, 2), (30, 10), 1.0)
    assert narrow[0].tolist() == [8, 0, 13, 10]  # torchvision: height round(10 / (3/4)), in the middle


def test_probabilities_and_ranges_are_the_settings() -> None:
    count = 4000
    x = pixels(count, side=4)
    flipped = view(x, Settings(flip=True), generator(7))
    changed = (flipped - augment.to_float(x)).abs().amax((1, 2, 3)) > 1e-3
    assert changed.float().mean().item() == pytest.approx(0.5, abs=0.03)
    for name, probability in (("grayscale", 0.2), ("jitter", 0.8), ("blur", 0.3)):
        changed = (view(x, Settings(**{name: probability}), generator(8)) - augment.to_float(x)).abs().amax((1, 2, 3))
        assert (changed > 1e-3).float().mean().item() == pytest.approx(probability, abs=0.03)


def test_rotation_and_shift_stay_in_range() -> None:
    dot = torch.zeros(2000, 21, 21, 1, dtype=torch.uint8)
    dot[:, 10, 20] = 255  # on the right, at the height of the middle
    rotated = view(dot, Settings(rotation=20.0), generator(9))[:, 0]
    rows = torch.arange(21.0).view(1, -1, 1) - 10
    columns = torch.arange(21.0).view(1, 1, -1) - 10
    weight = rotated.sum((1, 2))
    angle = torch.atan2(-(rotated * rows).sum((1, 2)) / weight, (rotated * columns).sum((1, 2)) / weight).rad2deg()
    assert angle.abs().max() < 21.5
    assert stats.kstest(angle[angle.abs() < 15].numpy() / 15, "uniform", (-1, 2)).pvalue > 1e-3

    middle = torch.zeros(2000, 9, 9, 1, dtype=torch.uint8)
    middle[:, 4, 4] = 255
    shifted = view(middle, Settings(padding=2), generator(10))[:, 0].flatten(1).argmax(1)
    places = torch.stack([shifted // 9 - 4, shifted % 9 - 4], 1)
    counts = torch.stack([((places == torch.tensor([i, j])).all(1)).sum() for i in range(-2, 3) for j in range(-2, 3)])
    assert counts.sum() == 2000
    assert stats.chisquare(counts).pvalue > 1e-3


# The whole


def test_a_view_is_a_function_of_the_generator_alone() -> None:
    x, everything = pixels(), dataclasses.replace(SIMCLR, rotation=10.0, padding=2, blur=0.5)
    first = view(x, everything, generator(11))
    torch.manual_seed(99)
    assert torch.equal(view(x, everything, generator(11)), first)
    assert not torch.equal(view(x, everything, generator(12)), first)


def test_no_global_random_state_is_touched() -> None:
    before = torch.get_rng_state()
    view(pixels(), SIMCLR, generator())
    assert torch.equal(torch.get_rng_state(), before)


def test_arms_that_differ_in_one_setting_share_the_other_draws() -> None:
    x, a, b = pixels(), generator(13), generator(13)
    with_flip, without = view(x, Settings(crop=True, flip=True), a), view(x, Settings(crop=True), b)
    same = (with_flip - without).abs().amax((1, 2, 3)) < 1e-4
    mirrored = (with_flip.flip(3) - without).abs().amax((1, 2, 3)) < 1e-4
    assert (same ^ mirrored).all()
    assert torch.equal(a.get_state(), b.get_state())


def test_two_views_are_stacked_and_differ() -> None:
    x = pixels(8)
    both = augment.two_views(x, SIMCLR, generator(14))
    assert both.shape == (16, 3, 12, 12)
    assert (both[:8] - both[8:]).abs().amax((1, 2, 3)).min() > 1e-3
    assert both.min() >= 0
    assert both.max() <= 1 + 1e-6


def test_defaults_change_nothing_and_grey_stays_grey() -> None:
    x = pixels()
    torch.testing.assert_close(view(x, Settings(), generator()), x.permute(0, 3, 1, 2) / 255, atol=1e-7, rtol=0)
    grey = x[..., :1].expand(-1, -1, -1, 3)
    seen = view(grey, SIMCLR, generator(15))
    torch.testing.assert_close(seen[:, 0], seen[:, 2], atol=1e-5, rtol=0)
    assert view(x[..., :1], SIMCLR, generator(16)).shape == (64, 1, 12, 12)


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_small_batches(count: int) -> None:
    assert view(pixels(count), SIMCLR, generator(17)).shape == (count, 3, 12, 12)


def test_normalise_equals_torchvision() -> None:
    x, mean, std = images(), (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
    torch.testing.assert_close(augment.normalise(x, mean, std), tv.normalize(x, mean, std), atol=1e-5, rtol=0)
    assert augment.normalise(x, (0.0,), (1.0,)) is x


@pytest.mark.parametrize(
    ("field", "value"),
    [("crop_scale", 0.0), ("padding", -1), ("rotation", 200.0), ("jitter", 1.5), ("padding_mode", "edge")],
)
def test_settings_out_of_range_are_refused(field: str, value: object) -> None:
    with pytest.raises(ConfigError, match=field):
        Settings(**{field: value})


@pytest.mark.gpu
def test_on_a_gpu_nothing_waits_for_the_host() -> None:
    everything = dataclasses.replace(SIMCLR, rotation=10.0, padding=2, blur=0.5)
    on_device = pixels().cuda()
    expected = view(pixels(), everything, generator(18))
    torch.testing.assert_close(view(on_device, everything, generator(18)).cpu(), expected, atol=1e-4, rtol=0)
    mine = torch.Generator("cuda").manual_seed(0)
    torch.cuda.set_sync_debug_mode("error")
    try:
        augment.normalise(view(on_device, everything, mine), (0.5,) * 3, (0.2,) * 3)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_framings_are_what_small_and_what_large_images_are_trained_with() -> None:
    assert augment.framed(4, flip=True) == Settings(padding=4, flip=True)
    assert augment.framed("resized", flip=False) == Settings(crop=True, crop_scale=v2.RandomResizedCrop(8).scale[0])
