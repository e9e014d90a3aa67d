"""Activation spread against a loop over pixels and a gradient written out, and what is refused."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tests.trainables.toys import open_set
from trainables import augment, backbones, gradmix, openset, rmix, spread
from trainables.config import ConfigError, to_plain
from trainables.protocol import Needed

DATA = open_set()
MODEL = backbones.projected("resnet18", 4, 3, "mlp", torch.Generator().manual_seed(0)).eval()
NEEDED = Needed("gradmix", gradmix.Config(width=4, crop=False, jitter=0.0))


def state_of(network) -> dict[str, object]:
    return {"network": dict(network.description), "weights": network.state_dict(), "epoch": 3}


def run(seed=0, **fields):
    config = spread.Config(**({"network": NEEDED, "together": 8, "images": 16, "k": 3} | fields))
    (epoch,) = spread.train(config, DATA, seed=seed, device="cpu", network=state_of(MODEL))
    return epoch


@pytest.fixture(scope="module")
def epoch():
    return run()


def test_the_map_is_that_of_both_losses_at_their_scale():
    config = spread.Config(network=NEEDED, layer="conv3_2")
    x = torch.rand(8, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    labels = torch.tensor([0, 1, 2, 0])
    found = spread.maps(config, MODEL, x, labels)
    seen = {}
    handle = MODEL.encoder.stages["conv3_2"].register_forward_hook(lambda _, __, out: seen.setdefault("A", out))
    z = F.normalize(MODEL(x)[0], dim=1)
    handle.remove()
    total = torch.zeros(())
    for a in range(8):  # each anchor and positive by itself
        others = [k for k in range(8) if k != a]
        rest = torch.logsumexp(torch.stack([z[a] @ z[k] / 0.05 for k in others]), 0)
        alike = [k for k in others if labels[k % 4] == labels[a % 4]]
        supcon = torch.stack([rest - z[a] @ z[k] / 0.05 for k in alike]).mean()
        total = total + (supcon + rest - z[a] @ z[(a + 4) % 8] / 0.05) / 8
    gradient = torch.autograd.grad(0.05 / 0.07 * total, seen["A"])[0]
    wanted = (gradient.clamp(min=0) * seen["A"]).sum(1).clamp(min=0)
    torch.testing.assert_close(found, wanted.detach(), rtol=1e-4, atol=1e-8)
    assert found.max() > 0


def test_maps_are_of_training_images_with_their_own_labels(monkeypatch):
    seen = []
    monkeypatch.setattr(spread, "maps", lambda _, __, x, labels: seen.append((x, labels)) or torch.zeros(len(x), 4, 4))
    still = Needed("gradmix", gradmix.Config(width=4, crop=False, flip=False, jitter=0.0, grayscale=0.0))
    run(network=still, images=20)
    assert [len(x) for x, _ in seen] == [16, 16], "twice eight images, the rest of 20 left out"
    rows = []
    for x, labels in seen:
        torch.testing.assert_close(x[:8], x[8:])
        pixels = (255 * (0.25 * x[:8] + 0.5)).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
        found = [int(np.flatnonzero((DATA.train.pixels == image).all((1, 2, 3)))[0]) for image in pixels]
        assert labels.tolist() == DATA.train.labels[found].tolist()
        rows += found
    assert len(set(rows)) == 16


def test_spread_is_the_share_of_pixels_above_a_threshold():
    maps = torch.tensor([[[0.0, 2e-5], [5e-4, 2e-3]], [[0.0, 0.0], [0.0, 0.0]]])
    found = spread.spreads(maps)
    for name, t in zip(spread.NAMES, spread.THRESHOLDS, strict=True):
        assert found[name] == sum(float(value) > t for value in maps.flatten()) / 8
    assert found["spread"] == pytest.approx(np.mean([found[name] for name in spread.NAMES]))
    # 0.1 of the first map's largest is 2e-4; a map of zeros has nothing above its own maximum.
    assert found["spread_of_max_0.1"] == 2 / 8
    assert found["spread_of_max_0.5"] == 1 / 8


def test_shares_of_the_maximum_do_not_depend_on_the_scale():
    maps = torch.rand(5, 4, 4, generator=torch.Generator().manual_seed(0))
    one, other = spread.spreads(maps), spread.spreads(1e-4 * maps)
    assert all(one[f"spread_of_max_{share}"] == other[f"spread_of_max_{share}"] for share in spread.SHARES)
    assert one["spread"] > other["spread"]


def test_one_epoch_with_the_encoders_own_accuracy(epoch):
    assert epoch.index == 1
    assert epoch.metrics["accuracy"] == openset.evaluate(MODEL.embed, DATA, k=3)["accuracy"]
    values = [epoch.metrics[name] for name in spread.NAMES]
    assert values == sorted(values, reverse=True)
    assert 0 < epoch.metrics["spread"] < 1


def test_what_is_shown_are_views_and_their_maps(epoch):
    shown = epoch.exhibits()
    assert shown["map_images"].shape == (6, 16, 16, 3)
    assert shown["map_images"].dtype == np.uint8
    assert shown["map_values"].shape == (6, 4, 4)
    assert shown["spread_shares"].tolist() == [epoch.metrics[name] for name in spread.NAMES]
    trained = {image.tobytes() for image in DATA.train.pixels}
    trained |= {image[:, ::-1].tobytes() for image in DATA.train.pixels}
    grey = [image for image in shown["map_images"] if image.tobytes() not in trained]
    assert all((image[..., 0] == image[..., 1]).all() for image in grey), "a view that its trial would not make"


@pytest.mark.parametrize("plain", [False, True])
def test_views_are_those_of_the_needed_trial(plain):
    config = gradmix.Config(crop_scale=0.4, flip=False, rotation=5.0)
    found = spread.views(Needed("gradmix", to_plain(config) if plain else config))
    assert (found.crop, found.crop_scale, found.flip, found.rotation) == (True, 0.4, False, 5.0)
    assert found.padding == augment.Settings().padding


def test_the_seed_draws_images_and_views(epoch):
    assert run().metrics == epoch.metrics
    assert run(seed=1).metrics != epoch.metrics


def test_a_finished_measurement_is_not_repeated(epoch):
    config = spread.Config(network=NEEDED)
    again = spread.train(config, DATA, seed=0, device="cpu", resume=epoch.state(), network=state_of(MODEL))
    assert list(again) == []


def test_fewer_images_than_are_taken_together_are_taken_at_once():
    assert 0 < run(together=256, images=2048).metrics["spread"] <= 1


def test_what_has_no_head_is_refused():
    with pytest.raises(ConfigError, match="'rmix', which trains a classifier"):
        spread.Config(network=Needed("rmix", rmix.Config()))
    with pytest.raises(ConfigError, match="'knn_osr', which trains no network"):
        spread.Config(network=Needed("knn_osr", None))
    with pytest.raises(ValueError, match="holds no classifier and no encoder"):
        next(spread.train(spread.Config(network=NEEDED), DATA, seed=0, device="cpu", network={"epoch": 1}))


@pytest.mark.parametrize("fields", [{"sign": 0}, {"tau": 0.0}, {"together": 1}, {"images": 100}, {"layer": "conv1"}])
def test_configs_that_mean_nothing_are_refused(fields):
    with pytest.raises(ConfigError):
        spread.Config(network=NEEDED, **fields)
