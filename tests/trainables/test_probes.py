"""Probes against scikit-learn, a loop written out and a count of neighbours; what they leave alone, and refuse."""

import math

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from tests.trainables.toys import open_set
from trainables import augment, backbones, classifiers, gradmix, judged, probes, rmix, seeding
from trainables.config import ConfigError
from trainables.data_protocols import DataSpec
from trainables.datasets import Data, Images
from trainables.protocol import Needed

NEEDED = Needed("gradmix", gradmix.Config(width=4, crop_scale=0.5, rotation=5.0, blur=0.1))
CLASSES = 4
TOYS = open_set()


def pixels_themselves(x_BCHW):
    """Features that are the pixels, twice as large for the head."""
    return {"backbone": x_BCHW.flatten(1), "head": 2 * x_BCHW.flatten(1)}


def clusters(noise: float, seed: int = 0) -> Data:
    """Images of 2 x 2 grey pixels about a centre of their class."""
    rng = np.random.default_rng(seed)
    centres = rng.uniform(60, 190, (CLASSES, 2, 2, 1))

    def drawn(count):
        labels = np.arange(count) % CLASSES
        pixels = centres[labels] + noise * rng.normal(size=(count, 2, 2, 1))
        return Images(pixels.clip(0, 255).astype(np.uint8), labels)

    return Data(DataSpec(protocol="toys"), tuple("abcd"), drawn(60), drawn(200), {}, (0.5,), (0.25,))


def features(images: Images) -> np.ndarray:
    return (images.pixels.reshape(len(images.labels), -1) / 255 - 0.5) / 0.25


@pytest.fixture
def of_pixels(monkeypatch):
    """Makes probes be of pixels, and runs one: the epochs' metrics and states."""
    monkeypatch.setattr(judged, "embedding", lambda *_: pixels_themselves)

    def run(data, resume=None, **fields):
        config = probes.Config(**({"network": NEEDED, "probe_views": "none", "k": 3} | fields))
        epochs = probes.train(config, data, seed=0, device="cpu", resume=resume, network={"network": {"head": "mlp"}})
        return [(dict(epoch.metrics), epoch.state()) for epoch in epochs]

    return run


@pytest.mark.parametrize("noise", [4.0, 60.0], ids=["separable", "overlapping"])
@pytest.mark.parametrize("bias", [False, True])
def test_a_probe_in_one_batch_ends_at_logistic_regression(of_pixels, noise, bias):
    data, decay = clusters(noise), 0.05
    metrics, state = of_pixels(
        data, probe_epochs=300, probe_batch=1000, probe_rate=0.3, probe_weight_decay=decay, bias=bias
    )[-1]
    # Scikit-learn sums the losses, so C = 1 / (N decay); a column of ones is an intercept that decays, as ours does.
    train, test = (
        np.hstack([features(images), np.ones((len(images.labels), int(bias)))]) for images in (data.train, data.test)
    )
    theirs = LogisticRegression(C=1 / (60 * decay), fit_intercept=False, max_iter=5000, tol=1e-9)
    theirs.fit(train, data.train.labels)
    ours = np.hstack([state["weights"]["weight_KD"].numpy(), *([state["weights"]["bias_K"][:, None]] if bias else [])])
    np.testing.assert_allclose(ours, theirs.coef_, atol=2e-3)
    assert metrics["accuracy"] == pytest.approx(theirs.score(test, data.test.labels), abs=0.011)
    assert (metrics["accuracy"] > 0.99) == (noise == 4.0)
    assert metrics["accuracy_top5"] == 1.0, "there are four classes"


def test_an_epoch_is_the_one_written_out(of_pixels):
    data = clusters(60.0)
    found = of_pixels(data, probe_epochs=2, probe_batch=25, probe_rate=0.2, probe_momentum=0.8, bias=False)
    x_ND, labels_N = features(data.train), data.train.labels
    weights, velocity = np.zeros((CLASSES, 4)), np.zeros((CLASSES, 4))
    for epoch in range(2):
        rate = 0.1 * (1 + math.cos(math.pi * epoch / 2))
        order = torch.randperm(60, generator=seeding.torch_stream(0, f"probe/order/{epoch}")).numpy()
        losses = []
        for rows in (order[:25], order[25:50], order[50:]):
            logits = x_ND[rows] @ weights.T
            share = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
            wanted = np.eye(CLASSES)[labels_N[rows]]
            losses.append(-np.log((share * wanted).sum(1)).mean())
            velocity = 0.8 * velocity + (share - wanted).T @ x_ND[rows] / len(rows)
            weights = weights - rate * velocity
        metrics, state = found[epoch]
        assert metrics["loss"] == pytest.approx(np.mean(losses), rel=1e-5)
        np.testing.assert_allclose(state["weights"]["weight_KD"].numpy(), weights, atol=1e-5)


def test_neighbours_are_counted_after_the_last_epoch_alone(of_pixels):
    data = clusters(60.0)
    first, last = of_pixels(data, probe_epochs=2, feature="head")
    assert "knn_accuracy" not in first[0]
    train, test = (features(images) for images in (data.train, data.test))
    train, test = (each / np.linalg.norm(each, axis=1, keepdims=True) for each in (train, test))
    right = 0
    for image, label in zip(test, data.test.labels, strict=True):
        scores = [np.sort(train[data.train.labels == c] @ image)[-3:].sum() for c in range(CLASSES)]
        right += int(np.argmax(scores) == label)
    assert last[0]["knn_accuracy"] == right / 200
    assert 0.3 < right / 200 < 1.0
    assert last[0]["knn_accuracy_top5"] == 1.0


def test_features_computed_once_resume_to_the_same_bits(of_pixels):
    data = clusters(60.0)
    whole = of_pixels(data, probe_epochs=3, probe_batch=25, probe_optimizer="adam")
    for done in (1, 2, 3):
        again = of_pixels(data, probe_epochs=3, probe_batch=25, probe_optimizer="adam", resume=whole[done - 1][1])
        assert [metrics for metrics, _ in again] == [metrics for metrics, _ in whole[done:]]
        for (_, one), (_, other) in zip(again, whole[done:], strict=True):
            assert all(torch.equal(one["weights"][name], other["weights"][name]) for name in one["weights"])


def test_the_released_settings_drop_the_rate_by_tens(of_pixels):
    config = probes.released(NEEDED)
    assert (config.epochs, config.probe_optimizer, config.probe_views, config.bias) == (
        20,
        "adam",
        "pretraining",
        False,
    )
    fields = ("probe_epochs", "probe_optimizer", "probe_rate", "probe_schedule", "bias")
    states = of_pixels(clusters(60.0), **{name: getattr(config, name) for name in fields})
    rates = [state["optimizer"]["param_groups"][0]["lr"] for _, state in states]
    assert rates == pytest.approx([1e-2] * 5 + [1e-3] * 5 + [1e-4] * 5 + [1e-5] * 5)


def test_views_are_those_of_the_pretraining_in_whole_or_in_part():
    def of(kind):
        return probes.views(probes.Config(network=NEEDED, probe_views=kind))

    whole = augment.Settings(crop=True, crop_scale=0.5, flip=True, jitter=0.8, grayscale=0.2, blur=0.1, rotation=5.0)
    assert of("pretraining") == whole
    assert of("moved") == augment.Settings(crop=True, crop_scale=0.5, flip=True, rotation=5.0)
    assert of("none") is None


def state_of(network):
    return {"network": dict(network.description), "weights": network.state_dict(), "epoch": 3}


def encoder():
    return backbones.projected("resnet18", 4, 3, "linear", torch.Generator().manual_seed(0))


def test_the_network_stays_as_it_is_and_in_eval_mode(monkeypatch):
    seen = []
    rebuilt = judged.trained

    def watched(*args):
        seen.append(rebuilt(*args))
        return seen[-1]

    monkeypatch.setattr(judged, "trained", watched)
    state, data = state_of(encoder()), open_set()
    config = probes.Config(network=NEEDED, probe_epochs=2, probe_batch=10, probe_rate=1.0)
    *_, last = probes.train(config, data, seed=0, device="cpu", network=state)
    assert not any(part.training for part in seen[0].modules())
    after = seen[0].state_dict()
    assert all(torch.equal(value, after[name]) for name, value in state["weights"].items())
    assert all(weight.grad is None for weight in seen[0].parameters())
    assert last.state()["weights"]["weight_KD"].abs().sum() > 0
    assert set(last.state()["weights"]) == {"weight_KD", "bias_K"}


def test_features_of_a_classifier_are_what_its_last_layer_is_given():
    network = classifiers.classifier("preactresnet18", 4, 3, 7, torch.Generator().manual_seed(0)).eval()
    data, wanted = open_set(), Needed("rmix", rmix.Config(colour="released"))
    config = probes.Config(network=wanted, probe_epochs=1, probe_views="none", k=3)
    (epoch,) = probes.train(config, data, seed=0, device="cpu", network=state_of(network))
    x_BCHW = augment.normalise(
        augment.to_float(torch.from_numpy(data.test.pixels)), rmix.RELEASED_MEAN, rmix.RELEASED_STD
    )
    with torch.no_grad():
        features_QD = network.features(x_BCHW)
    state = epoch.state()["weights"]
    predicted_Q = (features_QD @ state["weight_KD"].T + state["bias_K"]).argmax(1).numpy()
    assert epoch.metrics["accuracy"] == np.mean(predicted_Q == data.test.labels)
    assert state["weight_KD"].shape == (3, features_QD.shape[1])


def test_what_has_no_features_is_refused_by_name():
    for method in ("knn_osr", "probes"):
        with pytest.raises(ConfigError, match=f"'{method}', which trains no network"):
            probes.Config(network=Needed(method, None))
    with pytest.raises(ConfigError, match="'margins', whose network is neither"):
        probes.Config(network=Needed("margins", None))
    with pytest.raises(ConfigError, match=r"'rmix', which trains a classifier\. Its features are feature='backbone'"):
        probes.Config(network=Needed("rmix", rmix.Config()), feature="head")


def test_states_that_hold_no_features_are_refused():
    def start(state, data=TOYS, **fields):
        next(probes.train(probes.Config(network=NEEDED, **fields), data, seed=0, device="cpu", network=state))

    with pytest.raises(ValueError, match="holds no classifier and no encoder"):
        start({"epoch": 1})
    with pytest.raises(ValueError, match="has 3 channels, and the images of 'toys' have 1"):
        start(state_of(encoder()), open_set(channels=1))
    network = classifiers.classifier("wrn10_2", 4, 3, 3, torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match="only an encoder has a head"):
        start(state_of(network), feature="head")


@pytest.mark.parametrize(
    "fields",
    [
        {"probe_epochs": 0},
        {"probe_batch": 0},
        {"probe_rate": 0.0},
        {"probe_rate": math.nan},
        {"probe_momentum": 1.0},
        {"probe_weight_decay": -1.0},
        {"probe_milestones": (10, 5)},
        {"probe_milestones": (0,)},
        {"feature": "pixels"},
        {"k": 0},
    ],
    ids=str,
)
def test_configs_that_mean_nothing_are_refused(fields):
    with pytest.raises(ConfigError, match=next(iter(fields))):
        probes.Config(network=NEEDED, **fields)
