"""What a mix shows: mixed images are their sources by their masks, at the epochs that are named, resumed or not."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.trainables.toys import open_set
from trainables import adautomix, mix_exhibits, teachers
from trainables.adautomix import ADAUTOMIX, AUTOMIX, BY_HAND
from trainables.augment import normalise, to_float

SMALL = {"width": 4, "epochs": 5, "batch": 8, "ema": 0.5, "ema_end": 0.9}


def shows(config, resume=None):
    """Epoch -> its arrays, and the last epoch."""
    found = {}
    for epoch in adautomix.train(config, open_set(), seed=1, device="cpu", resume=resume):
        last = epoch
        if epoch.exhibits is not None:
            found[epoch.index] = {name: values.copy() for name, values in epoch.exhibits().items()}
    return found, last


@pytest.mark.parametrize("images", [2, 3, 5])
def test_mixed_images_are_their_sources_by_their_masks(images):
    found, last = shows(replace(ADAUTOMIX, **SMALL, images=images, generator_rate=1.0, generator_std=1.0))
    assert list(found) == [1, 2, 3, 5]
    arrays = found[5]
    assert arrays["mix_epochs"].tolist() == [1, 2, 3, 5]
    assert arrays["mix_ratios"].sum() == pytest.approx(1)
    sources, masks = arrays["mix_sources"].astype(float), arrays["mix_masks"].astype(float) / 255
    assert sources.shape[:2] == (images, mix_exhibits.SETS)
    wanted = np.einsum("enshw,nshwc->eshwc", masks, sources)
    np.testing.assert_allclose(arrays["mix_images"], wanted, atol=3)
    np.testing.assert_allclose(masks.sum(1), 1, atol=0.02)
    assert all(values.dtype.kind in "uif" for values in arrays.values())
    state, data = last.state(), open_set()
    trio = teachers.rebuild(state["network"], state["weights"])
    x = normalise(to_float(torch.from_numpy(arrays["mix_sources"]).flatten(0, 1)), data.mean, data.std)
    index = torch.arange(len(x)).view(images, -1)
    with torch.no_grad():
        wanted = trio.generator(trio.teacher(x).features_Bchw, index, mix_exhibits.ratios(images)).transpose(0, 1)
    np.testing.assert_allclose(masks[-1], wanted, atol=0.003, err_msg="made from what the teacher sees")
    train = {image.tobytes() for image in open_set().train.pixels}
    assert {image.tobytes() for image in arrays["mix_sources"].reshape(-1, 16, 16, 3)} <= train


def test_automix_shows_two_masks():
    arrays = shows(replace(AUTOMIX, **SMALL))[0][5]
    assert arrays["mix_masks"].shape == (4, 2, mix_exhibits.SETS, 16, 16)


@pytest.mark.parametrize("mix", ["mixup", "cutmix", "saliencymix", "fmix", "resizemix"])
def test_a_rule_shows_its_images_once(mix):
    found, _ = shows(replace(BY_HAND, **SMALL, mix=mix))
    assert list(found) == [5]
    assert "mix_masks" not in found[5]
    mixed, sources = found[5]["mix_images"][0].astype(float), found[5]["mix_sources"].astype(float)
    if mix == "mixup":
        np.testing.assert_allclose(mixed, 2 / 3 * sources[0] + 1 / 3 * sources[1], atol=1)
    if mix == "cutmix":
        assert ((mixed == sources[0]) | (mixed == sources[1])).all()
        assert (mixed != sources[0]).any()


def test_no_mix_shows_nothing():
    assert shows(replace(BY_HAND, **SMALL))[0] == {}


def test_looking_changes_nothing_and_a_resumed_run_shows_the_same():
    config = replace(ADAUTOMIX, **SMALL)
    states = [epoch.state() for epoch in adautomix.train(config, open_set(), seed=1, device="cpu")]
    whole, last = shows(config)
    assert all(map(torch.equal, states[-1]["weights"].values(), last.state()["weights"].values()))
    again, _ = shows(config, resume=states[1])
    assert again.keys() == {3, 5}
    for name, values in whole[5].items():
        np.testing.assert_array_equal(again[5][name], values)


def test_arms_of_one_seed_show_the_same_images():
    pixels = torch.from_numpy(open_set().train.pixels)
    three, two = (mix_exhibits.sources(pixels, count, 1) for count in (3, 2))
    assert torch.equal(three[:2], two)
    assert not torch.equal(two, mix_exhibits.sources(pixels, 2, 2))
    few = mix_exhibits.sources(pixels[:4], 5, 1)
    assert few.shape == (5, mix_exhibits.SETS, 16, 16, 3)


@pytest.mark.parametrize(("count", "wanted"), [(1, (1,)), (2, (1, 2)), (30, (1, 8, 15, 30)), (200, (1, 50, 100, 200))])
def test_epochs_that_are_shown(count, wanted):
    assert mix_exhibits.epochs(count) == wanted
