"""Drawings of mixes: every tile is in its place, and what is said in words is what the arrays hold."""

import dataclasses
import re

import numpy as np
import pytest

from analysis import drawing, gallery, mixing_figures
from analysis.exhibits import Exhibit, Exhibits
from search_spaces.study import Study
from tests.analysis import samples


def arrays(images: int = 3, *, masks: bool = True, channels: int = 3) -> dict[str, np.ndarray]:
    """What a run of a made-up mix leaves: sources are flat, so that a tile is known by its value."""
    random = np.random.default_rng(0)
    weights = np.arange(images, 0, -1, dtype=np.float32)
    found = {
        "mix_sources": np.tile(
            (10 * np.arange(images)[:, None] + np.arange(3)).astype(np.uint8)[..., None, None, None],
            (1, 1, 8, 8, channels),
        ),
        "mix_ratios": weights / weights.sum(),
        "mix_epochs": np.array([1, 4] if masks else [4]),
        "mix_images": random.integers(100, 200, (2 if masks else 1, 3, 8, 8, channels), dtype=np.uint8),
    }
    return found | ({"mix_masks": random.integers(0, 255, (2, images, 3, 8, 8), dtype=np.uint8)} if masks else {})


@pytest.fixture(scope="module")
def study() -> Study:
    return dataclasses.replace(samples.study(), figures=("mixes",))


def tile(mosaic: np.ndarray, row: int, group: int, place: int, images: int) -> np.ndarray:
    """The tile in a row, of a set, at a place: 0 is the mixed image."""
    step = 8 + mixing_figures.GAP
    left = group * ((1 + images) * step + mixing_figures.GAP) + place * step
    return mosaic[row * step : row * step + 8, left : left + 8]


@pytest.mark.parametrize(("images", "sets"), [(2, 3), (3, 3), (4, 2), (5, 2)])
def test_every_tile_is_in_its_place(images, sets):
    held = arrays(images)
    mosaic = mixing_figures.mosaic(held)
    assert mixing_figures.sets_shown(held) == sets
    for s in range(sets):
        assert not tile(mosaic, 0, s, 0, images).any()
        for n in range(images):
            np.testing.assert_array_equal(tile(mosaic, 0, s, 1 + n, images)[..., :3], held["mix_sources"][n, s])
            for e in range(2):
                found = tile(mosaic, 1 + e, s, 1 + n, images)
                for colour in range(3):
                    np.testing.assert_array_equal(found[..., colour], held["mix_masks"][e, n, s])
                assert (found[..., 3] == 255).all()
        for e in range(2):
            np.testing.assert_array_equal(tile(mosaic, 1 + e, s, 0, images)[..., :3], held["mix_images"][e, s])
    step = 8 + mixing_figures.GAP
    assert mosaic.shape == (3 * step - 2, sets * (1 + images) * step - 2 + (sets - 1) * mixing_figures.GAP, 4)


def test_grey_images_are_drawn_grey_and_rules_have_no_masks():
    held = arrays(2, masks=False, channels=1)
    mosaic = mixing_figures.mosaic(held)
    for colour in range(3):
        np.testing.assert_array_equal(tile(mosaic, 1, 2, 0, 2)[..., colour], held["mix_images"][0, 2, ..., 0])
    assert not tile(mosaic, 1, 0, 1, 2).any()


def test_each_arm_has_a_picture_of_its_first_run_and_words_for_it(study):
    held = [arrays(), arrays(2, masks=False)]
    shown = [
        Exhibit(arm.name, f"digits/t{split}/s0", 4, held[index % 2])
        for index, arm in enumerate(study.arms[:2])
        for split in range(2)
    ]
    hung = gallery.hang(Exhibits(tuple(shown), done=4), study)
    assert not hung.notes
    assert [picture.name for picture in hung.pictures] == [f"mixes-{arm.name}" for arm in study.arms[:2]]
    masked, ruled = hung.pictures
    assert "50%, 33% and 17%" in masked.caption
    assert "after epochs 1 and 4" in masked.caption
    assert "Run digits/t0/s0" in masked.caption
    area = round(100 * held[0]["mix_masks"][1, 2].mean() / 255)
    assert re.search(rf"{area}% after epoch 4", masked.description)
    assert "the rule" in ruled.caption
    labels = [[text.get_text() for text in picture.draw().axes[0].texts] for picture in hung.pictures]
    assert labels == [["images", "epoch 1", "epoch 4"], ["images", "mixed"]]


def test_pictures_inside_a_page_keep_their_data(study):
    run = Exhibit(study.arms[0].name, "digits/t0/s0", 4, arrays())
    (picture,) = mixing_figures.mixes(Exhibits((run,), 1), study)
    rendered = drawing.render(picture)
    assert rendered == drawing.render(picture)
    assert re.search(r'<image xlink:href="data:image/png;base64,', rendered.inline)
    for reference in re.findall(r"url\(#([^)]+)\)", rendered.inline):
        assert f'id="{reference}"' in rendered.inline


def test_runs_that_show_no_mixes_have_no_picture(study):
    runs = (Exhibit(study.arms[0].name, "digits/t0/s0", 4, {"other": np.zeros(2)}),)
    assert mixing_figures.mixes(Exhibits(runs, 1), study) == ()
