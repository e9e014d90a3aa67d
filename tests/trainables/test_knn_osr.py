"""Scoring a trained network elsewhere says what the trial that trained it says."""

import numpy as np
import pytest
import torch

from trainables import backbones, knn_osr, openset
from trainables.config import ConfigError
from trainables.data_protocols import DataSpec
from trainables.datasets import Data, Images
from trainables.protocol import Needed
from trainables.seeding import torch_stream


@pytest.fixture(scope="module")
def data() -> Data:
    rng = np.random.default_rng(0)

    def images(count: int) -> Images:
        labels = np.arange(count) % 3
        return Images(
            rng.integers(0, 180, (count, 8, 8, 1)).astype(np.uint8) + 30 * labels[:, None, None, None], labels
        )

    return Data(DataSpec(protocol="toy"), ("a", "b", "c"), images(30), images(15), {"unknown": images(12)})


@pytest.fixture(scope="module")
def network() -> backbones.Projected:
    return backbones.projected("resnet18", 2, 1, "mlp", torch_stream(0, "init")).eval()


def state_of(network: backbones.Projected) -> dict[str, object]:
    return {"network": dict(network.description), "weights": network.state_dict(), "epoch": 3}


def config(**fields: object) -> knn_osr.Config:
    return knn_osr.Config(network=Needed("gradmix", None), **fields)


@pytest.mark.parametrize(
    "fields", [{}, {"k": 3, "score": "normalised"}, {"k": 2, "feature": "backbone"}, {"linear_probe": True}]
)
def test_one_epoch_with_the_scores_of_the_network_itself(data, network, fields):
    (epoch,) = knn_osr.train(config(**fields), data, seed=0, device="cpu", network=state_of(network))
    assert epoch.index == 1
    assert epoch.metrics == openset.evaluate(network.embed, data, **fields)


def test_ways_of_scoring_differ(data, network):
    def score(**fields: object) -> tuple[float, ...]:
        (epoch,) = knn_osr.train(config(**fields), data, seed=0, device="cpu", network=state_of(network))
        return tuple(epoch.metrics.values())

    assert len({score(k=1), score(k=10), score(k=10, feature="backbone")}) == 3


def test_a_finished_scoring_is_not_repeated(data, network):
    (epoch,) = knn_osr.train(config(), data, seed=0, device="cpu", network=state_of(network))
    again = knn_osr.train(config(), data, seed=0, device="cpu", resume=epoch.state(), network=state_of(network))
    assert list(again) == []


def test_a_state_without_a_network_is_named(data):
    with pytest.raises(ValueError, match="holds no classifier and no encoder"):
        next(knn_osr.train(config(), data, seed=0, device="cpu", network={"epoch": 1}))


def test_what_has_no_head_is_refused_before_anything_runs():
    with pytest.raises(ConfigError, match="'rmix', which trains a classifier"):
        knn_osr.Config(network=Needed("rmix", None))
    with pytest.raises(ConfigError, match="'stress', which trains no network"):
        knn_osr.Config(network=Needed("stress", None))


def test_a_network_of_other_images_is_refused(data):
    colour = backbones.projected("resnet18", 2, 3, "mlp", torch_stream(0, "init"))
    with pytest.raises(ValueError, match="has 3 channels, and the images of 'toy' have 1"):
        next(knn_osr.train(config(), data, seed=0, device="cpu", network=state_of(colour)))


def test_no_global_generator_is_read_or_written(data, network):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    list(knn_osr.train(config(), data, seed=0, device="cpu", network=state_of(network)))
    assert torch.equal(before, torch.get_rng_state())


def test_config_refuses_no_neighbours():
    with pytest.raises(ConfigError, match="k must be at least 1"):
        config(k=0)
