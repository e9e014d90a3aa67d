"""Intrinsic dimension of trained networks' features: against the regression written out, and a space that is known."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import LinearRegression
from sklearn.neighbors import NearestNeighbors

from tests.trainables.toys import open_set
from trainables import backbones, classifiers, dimension, gradmix, judged, openset, rmix
from trainables.augment import normalise, to_float
from trainables.config import ConfigError
from trainables.datasets import Images
from trainables.protocol import Needed

DATA = open_set(per_class=12)
RANDOM = torch.Generator().manual_seed(0)
ENCODER = backbones.projected("resnet18", 4, 3, "mlp", RANDOM).eval()
CLASSIFIER = classifiers.classifier("wrn10_2", 8, 3, 3, RANDOM).eval()
GRADMIX, RMIX = Needed("gradmix", gradmix.Config()), Needed("rmix", rmix.Config())


def run(needed=GRADMIX, network=ENCODER, data=DATA, **fields):
    state = {"network": dict(network.description), "weights": network.state_dict(), "epoch": 3}
    config = dimension.Config(network=needed, **fields)
    (epoch,) = dimension.train(config, data, seed=0, device="cpu", network=state)
    return epoch.metrics


def two_nn(points, fraction=0.9):
    """scikit-learn's neighbours, and its regression through the origin."""
    distances, _ = NearestNeighbors(n_neighbors=3).fit(points).kneighbors(points)
    ratios = np.sort(distances[:, 2] / distances[:, 1])
    n = len(ratios)
    kept = int(n * fraction)
    x, y = np.log(ratios[:kept, None]), -np.log(1 - np.arange(1, kept + 1) / n)
    return float(LinearRegression(fit_intercept=False).fit(x, y).coef_[0])


@torch.no_grad()
def features(network):
    x = normalise(to_float(torch.from_numpy(DATA.train.pixels)), DATA.mean, DATA.std)
    return network(x)


@pytest.mark.parametrize("feature", ["head", "backbone"])
@pytest.mark.parametrize("over", ["classes", "all"])
def test_an_encoders_features_by_the_regression_written_out(feature, over):
    points = features(ENCODER.embed)[feature].double().numpy()
    labels = DATA.train.labels if over == "classes" else np.zeros(len(points))
    wanted = np.mean([two_nn(points[labels == label]) for label in np.unique(labels)])
    assert run(feature=feature, over=over)["intrinsic_dimension"] == pytest.approx(wanted, rel=1e-3)


def test_a_classifiers_features_are_what_its_last_layer_is_given():
    points = features(CLASSIFIER.features).double().numpy()
    found = run(RMIX, CLASSIFIER, feature="backbone", over="all", fraction=0.7)
    assert found["intrinsic_dimension"] == pytest.approx(two_nn(points, 0.7), rel=1e-3)


def test_by_default_it_is_what_gradmix_reports_itself():
    wanted = openset.evaluate(ENCODER.embed, DATA, k=3, intrinsic_dimension=True)
    found = run(k=3)
    assert found["intrinsic_dimension"] == pytest.approx(wanted["intrinsic_dimension"], rel=1e-6)
    assert found["accuracy"] == wanted["accuracy"]


def test_fewer_points_are_spread_evenly_over_the_images():
    rows = np.concatenate([np.flatnonzero(DATA.train.labels == label)[::2] for label in range(3)])
    few = replace(DATA, train=Images(DATA.train.pixels[rows], DATA.train.labels[rows]))
    assert run(points=6)["intrinsic_dimension"] == run(data=few)["intrinsic_dimension"]
    assert run(points=6)["intrinsic_dimension"] != run()["intrinsic_dimension"]
    # Images that come class by class, as these do: all classes are among the points.
    assert run(points=18, over="all")["intrinsic_dimension"] == run(data=few, over="all")["intrinsic_dimension"]


# What is refused


def test_too_few_different_images_are_refused():
    rows = np.array([0, 1, 12, 13, 24, 25])
    few = replace(DATA, train=Images(DATA.train.pixels[rows], DATA.train.labels[rows]))
    with pytest.raises(ConfigError, match="'toys' has too few different training images"):
        run(data=few)
    assert np.isfinite(run(data=few, over="all")["intrinsic_dimension"])


@pytest.mark.parametrize("method", sorted(judged.WITHOUT_NETWORK | judged.UNREADABLE))
def test_a_method_without_a_network_is_refused_before_anything_runs(method):
    with pytest.raises(ConfigError, match=f"network needs a trial of '{method}'"):
        dimension.Config(network=Needed(method, None))


def test_the_head_of_a_classifier_is_refused_before_anything_runs():
    with pytest.raises(ConfigError, match=r"'rmix', which trains a classifier.*feature='backbone'"):
        dimension.Config(network=RMIX)


def test_a_state_without_a_head_is_refused_where_one_is_asked_for():
    with pytest.raises(ValueError, match="only an encoder has a head"):
        run(GRADMIX, CLASSIFIER)


@pytest.mark.parametrize(("field", "value"), [("points", 2), ("fraction", 0.0), ("fraction", 1.1), ("k", 0)])
def test_configs_out_of_range_are_refused(field, value):
    with pytest.raises(ConfigError, match=field):
        dimension.Config(network=GRADMIX, **{field: value})
