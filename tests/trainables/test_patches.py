"""Patch boxes against golden ones, pasting against torch's own resizing image by image."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from trainables import patches

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "gradmix" / "g3_boxes.npz")


def golden_boxes(border: str, law: str) -> list[list[int]]:
    found = []
    for height, y, x, g in GOLDEN["HWyxg"]:
        ratio = torch.tensor([g if law == "side" else g**2], dtype=torch.float64)
        side = patches.patch_side(ratio, law, int(height))
        centre = torch.tensor([[int(y), int(x)]])
        box = patches.boxes(centre, torch.stack([side, side], 1), (int(height), int(height)), border)
        found.append(box[0].tolist())
    return found


@pytest.mark.parametrize(("border", "array"), [("clip", "box_clip"), ("shift", "box_shift")])
def test_boxes_are_the_golden_ones(border, array):
    assert golden_boxes(border, "side") == GOLDEN[array].tolist()


def test_boxes_of_the_released_code_are_the_golden_ones():
    # The released rule takes the side as int(H sqrt(1 - lam)) with lam = 1 - g**2 rounded, so g**2 itself may differ.
    for row, (height, y, x, g) in zip(GOLDEN["box_released_code"], GOLDEN["HWyxg"], strict=True):
        area = torch.tensor([1 - (1 - g**2)], dtype=torch.float64)
        side = patches.patch_side(area, "area", int(height))
        centre = torch.tensor([[int(y), int(x)]])
        box = patches.boxes(centre, torch.stack([side, side], 1), (int(height), int(height)), "halves")
        assert [*box[0].tolist(), int(side) ** 2] == row.tolist()


def test_areas_are_the_golden_ones():
    sides = GOLDEN["HWyxg"][:, 0]
    found = [
        float(patches.area(torch.tensor([box]), (int(side), int(side)))[0])
        for box, side in zip(golden_boxes("clip", "side"), sides, strict=True)
    ]
    np.testing.assert_allclose(found, GOLDEN["area_frac_clip"], rtol=1e-6)


def random_boxes(count: int, size: tuple[int, int], seed: int = 0) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    rows, columns = (np.sort(rng.permuted(np.tile(np.arange(side + 1), (count, 1)), axis=1)[:, :2]) for side in size)
    boxes = np.stack([rows[:, 0], rows[:, 1], columns[:, 0], columns[:, 1]], 1)
    boxes[0] = 0, size[0], 0, size[1]
    boxes[1] = 3, 4, size[1] - 1, size[1]
    return torch.from_numpy(boxes)


def test_paste_is_torchs_antialiased_resizing_and_leaves_the_rest_bit_for_bit():
    generator = torch.Generator().manual_seed(0)
    x, content = (torch.randn(40, 3, 16, 12, generator=generator) for _ in range(2))
    boxes = random_boxes(40, (16, 12))
    pasted = patches.paste(x, content, boxes)
    for image, source, (y0, y1, x0, x1), result in zip(x, content, boxes.tolist(), pasted, strict=True):
        expected = image.clone()
        # One axis after the other: both at once, torch 2.15 is wrong for a single column (and Pillow is not).
        rows = F.interpolate(source[None], size=(y1 - y0, 12), mode="bilinear", antialias=True)
        resized = F.interpolate(rows, size=(y1 - y0, x1 - x0), mode="bilinear", antialias=True)[0]
        expected[:, y0:y1, x0:x1] = resized
        torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-5)
        outside = torch.ones_like(image, dtype=torch.bool)
        outside[:, y0:y1, x0:x1] = False
        assert torch.equal(result[outside], image[outside])


def test_a_patch_without_pixels_changes_nothing():
    x = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    empty = torch.tensor([[3, 3, 5, 5], [0, 0, 0, 0]])
    assert torch.equal(patches.paste(x, x.flip(0), empty), x)


def test_a_patch_of_a_constant_image_is_constant():
    x, content = torch.zeros(30, 1, 16, 16), torch.full((30, 1, 16, 16), 3.0)
    boxes = random_boxes(30, (16, 16))
    covered = (patches.paste(x, content, boxes) / 3).mean((1, 2, 3))
    torch.testing.assert_close(covered, patches.area(boxes, (16, 16)))


def test_sides_are_floored_and_never_empty():
    ratios = torch.tensor([0.0001, 0.1, 0.25, 0.5, 1.0], dtype=torch.float64)
    assert patches.patch_side(ratios, "side", 32).tolist() == [1, 3, 8, 16, 32]
    assert patches.patch_side(ratios, "area", 32).tolist() == [1, 10, 16, 22, 32]


def test_inner_boxes_keep_their_sides_and_reach_every_corner():
    sides = torch.tensor([[5, 3]]).repeat(4, 1)
    place = torch.tensor([[0.0, 0.0], [0.999, 0.0], [0.0, 0.999], [0.999, 0.999]])
    boxes = patches.inner_boxes(place, sides, (8, 6))
    assert boxes.tolist() == [[0, 5, 0, 3], [3, 8, 0, 3], [0, 5, 3, 6], [3, 8, 3, 6]]
