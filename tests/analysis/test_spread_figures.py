"""Drawings of maps: lines are the arrays', tiles are in their places."""

import dataclasses
from html import escape

import numpy as np
import pytest

from analysis import drawing, gallery, spread_figures
from analysis.exhibits import Exhibit, Exhibits
from search_spaces.study import Study
from tests.analysis import samples


def arrays(seed: int, channels: int = 3) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    return {
        "spread_thresholds": np.geomspace(1e-5, 1e-3, 9),
        "spread_shares": np.sort(random.uniform(0, 1, 9))[::-1],
        "map_images": random.integers(0, 256, (6, 8, 8, channels), dtype=np.uint8),
        "map_values": random.uniform(0, 1e-4, (6, 2, 2)).astype(np.float32),
    }


@pytest.fixture(scope="module")
def study() -> Study:
    return dataclasses.replace(samples.study(), figures=("spread", "maps"))


@pytest.fixture(scope="module")
def exhibits(study: Study) -> Exhibits:
    shown = [
        Exhibit(arm.name, f"digits/t{split}/s0", 1, arrays(10 * place + split))
        for place, arm in enumerate(study.arms)
        for split in range(2)
    ]
    return Exhibits(tuple(shown), done=len(shown))


def test_lines_are_means_of_all_runs_and_each_arm_has_its_maps(exhibits, study):
    pictures = gallery.hang(exhibits, study).pictures
    assert [each.name for each in pictures] == ["spread-digits", *(f"maps-{arm.name}" for arm in study.arms)]
    (axes,) = pictures[0].draw().axes
    for line, arm in zip(axes.lines, study.arms, strict=True):
        mean = np.mean([run.arrays["spread_shares"] for run in exhibits.of(arm.name)], axis=0)
        assert np.allclose(line.get_ydata(), 100 * mean)
        assert f"{arm.label or arm.name}: {100 * mean[4]:.1f}% above 1e-04" in pictures[0].description


@pytest.mark.parametrize("channels", [1, 3])
def test_tiles_are_images_and_their_maps(channels):
    held = arrays(0, channels)
    pixels = spread_figures.mosaic(held["map_images"], held["map_values"])
    assert pixels.shape == (2 * 8 + 2, 6 * 10 - 2, 4)
    for place, (image, values) in enumerate(zip(held["map_images"], held["map_values"], strict=True)):
        tile, below = pixels[:8, 10 * place : 10 * place + 8], pixels[10:, 10 * place : 10 * place + 8]
        assert np.array_equal(tile[..., :3], np.broadcast_to(image, (8, 8, 3)))
        for row, column in ((0, 0), (3, 4), (7, 7)):
            share = 0.75 * values[row // 4, column // 4] / values.max()
            wanted = (1 - share) * image[row, column].mean() + share * spread_figures.HEAT
            assert np.allclose(below[row, column, :3], wanted, atol=0.51)
    assert not pixels[:, 8:10].any()


def test_a_map_of_zeros_tints_nothing():
    images = np.full((1, 4, 4, 3), 90, np.uint8)
    assert np.array_equal(spread_figures.mosaic(images, np.zeros((1, 2, 2)))[6:, :, :3], images[0])


def test_pictures_are_drawn_alike_twice(exhibits, study):
    for picture in gallery.hang(exhibits, study).pictures[:2]:
        first, again = drawing.render(picture), drawing.render(picture)
        assert first.svg == again.svg
        assert escape(picture.description) in first.inline
