"""Detectors read off a trained network: against pytorch-ood where it is installed, and against their definitions."""

import sys
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.trainables.test_greg import TINY, detection_data
from trainables import classifiers, detection, greg, ood_radius, ood_scores
from trainables.config import ConfigError
from trainables.ood_scores import Config
from trainables.protocol import Needed

OURS = ("msp", "max_logit", "energy", "odin", "react", "dice")
NEEDED = Needed("greg", greg.Config())


@pytest.fixture(scope="module")
def data():
    return detection_data()


@pytest.fixture(scope="module")
def trained(data):
    """The last epoch of a short training."""
    config = replace(greg.ENERGY, **{**TINY, "epochs": 25}, lam_score=0.01, evaluate_every=0)
    *_, last = greg.train(config, data, seed=0, device="cpu")
    assert last.metrics["accuracy"] > 0.8
    return last


@pytest.fixture(scope="module")
def network(trained):
    state = trained.state()
    return classifiers.rebuild(state["network"], state["weights"])


def batch(data, count=8):
    return next(detection.batches(data.test, data, "cpu"))[:count]


def scored(name, network, data, **fields):
    config = Config(network=NEEDED, detector=name, **fields)
    return ood_scores.detector(config, network, data, "cpu")(batch(data))


def theirs_of(name, network, data):
    """The outlier scores of pytorch-ood for six detectors, through its own interface."""
    detectors = pytest.importorskip("pytorch_ood.detector", reason="pytorch-ood is an optional extra")
    x, train = batch(data), torch.cat(list(detection.batches(data.train, data, "cpu")))
    loader = [(train, torch.from_numpy(data.train.labels))]
    linear = network.linear
    if name == "vim":
        made = detectors.ViM(network.features, d=8, w=linear.weight.detach(), b=linear.bias.detach())
        made.to("cpu").fit(loader)
    elif name == "odin":
        made = detectors.ODIN(network, eps=0.0014, temperature=1000.0, norm_std=list(data.std))
    elif name == "react":
        made = detectors.ReAct(network.features, linear, percentile=0.9).to("cpu").fit(loader)
    elif name == "dice":
        made = detectors.DICE(network.features, linear.weight, linear.bias, p=0.9).to("cpu").fit(loader)
    else:
        made = {"msp": detectors.MaxSoftmax, "max_logit": detectors.MaxLogit, "energy": detectors.EnergyBased}[name](
            network
        )
    return made.predict(x).detach()


@pytest.mark.parametrize("name", [*OURS, "vim"])
def test_a_detector_is_pytorch_oods_with_its_sign_turned(name, network, data):
    ours, theirs = scored(name, network, data, principal=8), theirs_of(name, network, data)
    torch.testing.assert_close(ours, -theirs.to(ours.dtype), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", [name for name in get_args(ood_scores.Detector) if name not in (*OURS, "vim")])
def test_a_borrowed_detector_tells_far_images_from_known_ones(name, network, data):
    pytest.importorskip("pytorch_ood", reason="pytorch-ood is an optional extra")
    config = Config(network=NEEDED, detector=name, neighbours=5, principal=8)
    score = ood_scores.detector(config, network, data, "cpu")
    known, far = (
        torch.cat([score(x) for x in detection.batches(each, data, "cpu")])
        for each in (data.test, data.others["far_noise"])
    )
    assert known.shape == (12,)
    assert float(known.double().median()) > float(far.double().median())


def test_an_energy_scored_afterwards_is_what_the_training_reported(trained, data):
    config = Config(network=NEEDED, detector="energy")
    (epoch,) = ood_scores.train(config, data, seed=0, device="cpu", network=trained.state())
    for name, value in epoch.metrics.items():
        assert value == trained.metrics[name], name


def test_odin_steps_towards_the_prediction_by_epsilon_of_a_pixel_and_counts_a_slope_of_zero_as_up():
    class Line(nn.Module):
        def forward(self, x):
            return torch.stack([3 * x[:, 0, 0, 0], -x[:, 0, 0, 0]], dim=1)

    seen = []
    line = Line()
    line.register_forward_hook(lambda _m, inputs, _o: seen.append(inputs[0].detach().clone()))
    x = torch.tensor([[[[0.5, 0.5]]]])
    found = ood_scores.odin(line, x, 10.0, 0.1, (0.25,))
    # The loss falls where the first pixel rises, by 0.1 / 0.25; the second has no slope, and sign(0) is +1: it falls.
    torch.testing.assert_close(seen[1], torch.tensor([[[[0.9, 0.1]]]]))
    torch.testing.assert_close(found, F.softmax(torch.tensor([[2.7, -0.9]]) / 10, dim=1)[:, 0])


def test_react_without_clipping_and_dice_without_dropping_are_the_energy(network, data):
    energy = scored("energy", network, data)
    everything = torch.cat([network.features(x).detach() for x in detection.batches(data.test, data, "cpu")])
    clipped = scored("react", network, data, clipped=0.999999)
    below = everything[:8].amax(1) <= np.quantile(
        torch.cat([network.features(x).detach() for x in detection.batches(data.train, data, "cpu")]).numpy(), 0.999999
    )
    assert below.any()
    torch.testing.assert_close(clipped[below], energy[below])
    random = torch.Generator().manual_seed(0)
    weight, mean = torch.randn(3, 7, generator=random), torch.rand(7, generator=random)
    kept = ood_scores.sparsified(weight, mean, 0.0)
    assert (kept != weight).sum() == 1  # the least of all is not above the quantile 0
    tenth = ood_scores.sparsified(weight, mean, 0.88)
    assert (tenth != 0).sum() == 3  # of 21 weights 0.88 lies between the 18th and the 19th
    assert (weight * mean)[tenth != 0].min() > (weight * mean)[tenth == 0].max()


def test_without_pytorch_ood_the_message_says_what_there_is(network, data, monkeypatch):
    monkeypatch.setitem(sys.modules, "pytorch_ood", None)
    monkeypatch.setitem(sys.modules, "pytorch_ood.detector", None)
    with pytest.raises(ConfigError, match=r"needs pytorch-ood.*ablate\[detectors\].*msp, max_logit"):
        scored("knn", network, data)


@pytest.mark.parametrize(
    ("method", "words"),
    [("gradmix", "no plain classifier"), ("adautomix", "no plain classifier"), ("stress", "which trains no network")],
)
@pytest.mark.parametrize("config", [Config, ood_radius.Config])
def test_what_trains_no_plain_classifier_is_refused_before_anything_runs(config, method, words):
    with pytest.raises(ConfigError, match=f"network needs a trial of '{method}'.* {words}"):
        config(network=Needed(method, None))


def test_a_state_without_a_network_is_refused(data):
    with pytest.raises(ValueError, match="no 'network' and no 'weights'"):
        next(ood_scores.train(Config(network=NEEDED), data, seed=0, device="cpu", network={"epoch": 1}))


@pytest.mark.parametrize(
    ("fields", "message"),
    [({"clipped": 1.0}, "clipped must be a share"), ({"temperature": 0.0}, "temperature must be above 0")],
)
def test_parameters_out_of_range_are_refused(fields, message):
    with pytest.raises(ConfigError, match=message):
        Config(network=NEEDED, **fields)
