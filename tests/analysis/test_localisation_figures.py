"""Drawings of boxes: each lies where the arrays say, on the tile of its image."""

import dataclasses

import numpy as np
import pytest
from matplotlib.colors import to_hex

from analysis import drawing, gallery, localisation_figures, spread_figures
from analysis.exhibits import Exhibit, Exhibits
from search_spaces.study import Study
from tests.analysis import samples

SIDE, COUNT = 8, 3


def arrays(seed: int, channels: int = 3) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    true = np.sort(random.uniform(0, 1, (COUNT, 2, 2, 2)), axis=2).reshape(COUNT, 2, 4)
    true[1, 1] = np.nan
    return {
        "box_images": random.integers(0, 256, (COUNT, SIDE, SIDE, channels), dtype=np.uint8),
        "box_maps": random.integers(0, 256, (COUNT, SIDE, SIDE), dtype=np.uint8),
        "box_found": np.array([[0, 0, 1, 1], [0, 0, 0.5, 0.25], [0.25, 0.5, 0.75, 1]]),
        "box_true": true.astype(np.float32),
    }


@pytest.fixture(scope="module")
def study() -> Study:
    return dataclasses.replace(samples.study(), figures=("boxes",))


@pytest.fixture(scope="module")
def exhibits(study: Study) -> Exhibits:
    shown = [
        Exhibit(arm.name, f"digits-boxes/t{split}/s0", 1, arrays(10 * place + split, channels=1 + 2 * split))
        for place, arm in enumerate(study.arms)
        for split in range(2)
    ]
    return Exhibits(tuple(shown), done=len(shown))


def test_each_arm_has_a_picture_of_its_first_run(exhibits, study):
    pictures = gallery.hang(exhibits, study).pictures
    assert [each.name for each in pictures] == [f"boxes-{arm.name}" for arm in study.arms]
    covered = 100 * (1 + 0.125 + 0.25) / COUNT
    assert f"boxes found cover {covered:.0f}%" in pictures[0].description
    assert "digits-boxes/t0/s0" in pictures[0].caption
    assert all(drawing.render(picture).svg for picture in pictures)


def test_runs_without_boxes_are_passed_over(study):
    run = Exhibit(study.arms[0].name, "digits/t0/s0", 1, {"map_images": np.zeros((1, 2, 2, 1), dtype=np.uint8)})
    assert localisation_figures.boxes(Exhibits((run,), done=1), study) == ()


def test_boxes_lie_on_the_tiles_of_their_images(exhibits, study):
    picture = localisation_figures.boxes(exhibits, study)[0]
    held = exhibits.of(study.arms[0].name)[0].arrays
    (axes,) = picture.draw().axes
    (shown,) = axes.images
    assert np.array_equal(shown.get_array(), spread_figures.mosaic(held["box_images"], held["box_maps"]))
    # Left, right, top and bottom of the image; imshow puts the first pixel's edge at -0.5.
    assert shown.get_extent() == [-0.5, COUNT * SIDE + 2 * spread_figures.GAP - 0.5, 2 * SIDE + 2 - 0.5, -0.5]
    drawn = {(to_hex(each.get_edgecolor()), *np.round(each.get_bbox().extents, 4)) for each in axes.patches}
    wanted = set()
    for place in range(COUNT):
        for row in (0, 1):
            corner = np.array([10 * place - 0.5, 10 * row - 0.5] * 2)
            for box in held["box_true"][place]:
                if not np.isnan(box).any():
                    wanted.add((localisation_figures.TRUE, *np.round(SIDE * box.astype(float) + corner, 4)))
        wanted.add((localisation_figures.FOUND, *np.round(SIDE * held["box_found"][place] + corner, 4)))
    assert len(wanted) == 2 * 5 + 3
    assert drawn == wanted
