"""Detection by neighbours against scikit-learn, and what is refused."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve
from sklearn.neighbors import NearestNeighbors

from tests.trainables.toys import open_set
from trainables import backbones, detection, gradmix, knn_ood, openset, rmix
from trainables.config import ConfigError
from trainables.data_protocols import DataSpec
from trainables.datasets import Images
from trainables.protocol import Needed

OPEN = open_set()
FAR = Images(np.random.default_rng(1).integers(0, 256, (9, 16, 16, 3), dtype=np.uint8), np.full(9, -2))
DATA = replace(OPEN, others={"near_squares": OPEN.others["unknown"], "far_noise": FAR, "auxiliary": FAR})
MODEL = backbones.projected("resnet18", 4, 3, "mlp", torch.Generator().manual_seed(0)).eval()
NEEDED = Needed("gradmix", gradmix.Config())


def state_of(network) -> dict[str, object]:
    return {"network": dict(network.description), "weights": network.state_dict(), "epoch": 3}


def run(data=DATA, **fields):
    config = knn_ood.Config(**({"network": NEEDED, "k": 3} | fields))
    (epoch,) = knn_ood.train(config, data, seed=0, device="cpu", network=state_of(MODEL))
    return epoch


def known_scores(images: Images) -> np.ndarray:
    """Algorithm 1 with scikit-learn's neighbours."""
    with torch.no_grad():
        train, queries = (
            openset.embed_images(MODEL.embed, each, DATA, "cpu", 100)["head"].numpy() for each in (DATA.train, images)
        )
    by_class = []
    for label in range(3):
        neighbours = NearestNeighbors(n_neighbors=3, metric="cosine").fit(train[DATA.train.labels == label])
        by_class.append((1 - neighbours.kneighbors(queries)[0]).sum(1))
    return np.max(by_class, axis=0)


def test_each_set_is_measured_as_scikit_learn_does():
    found = run().metrics
    inside = known_scores(DATA.test)
    for name in ("near_squares", "far_noise"):
        outside = known_scores(DATA.others[name])
        truth = np.repeat([1, 0], [len(inside), len(outside)])
        scores = np.concatenate([inside, outside])
        fpr, tpr, _ = roc_curve(truth, scores, drop_intermediate=False)
        wanted = {
            "auroc": roc_auc_score(truth, scores),
            "tnr_at_tpr95": 1 - fpr[np.argmax(tpr >= 0.95)],
            "detection_accuracy": ((tpr + 1 - fpr) / 2).max(),
            "aupr_in": average_precision_score(truth, scores),
            "aupr_out": average_precision_score(1 - truth, -scores),
        }
        for measure, value in wanted.items():
            assert found[f"{measure}_{name}"] == pytest.approx(value, abs=1e-6), (measure, name)
    for measure in knn_ood.MEASURES:
        assert found[measure] == pytest.approx((found[f"{measure}_near_squares"] + found[f"{measure}_far_noise"]) / 2)
    assert not [name for name in found if "auxiliary" in name]
    assert found["accuracy"] == openset.evaluate(MODEL.embed, OPEN, k=3)["accuracy"]


def test_no_curve_allows_more_than_its_own_area():
    """What the paper's printed pairs of TNR and AUROC break: at any threshold AUROC is at least TPR x TNR."""
    found = run().metrics
    for name in ("near_squares", "far_noise"):
        assert found[f"auroc_{name}"] >= 0.95 * found[f"tnr_at_tpr95_{name}"]
        assert found[f"detection_accuracy_{name}"] >= 0.5


def test_ways_of_scoring_differ():
    assert run(score="normalised").metrics != run().metrics != run(feature="backbone").metrics


def test_a_finished_scoring_is_not_repeated():
    config = knn_ood.Config(network=NEEDED)
    again = knn_ood.train(config, DATA, seed=0, device="cpu", resume=run().state(), network=state_of(MODEL))
    assert list(again) == []


def test_data_without_sets_outside_are_refused_before_anything_runs():
    config, network = knn_ood.Config(network=NEEDED), {"network": DataSpec(protocol="digits-closed")}
    with pytest.raises(ConfigError, match=r"'digits-closed' has no out-of-distribution sets.*digits-ood, cifar10-ood"):
        detection.check(config, DataSpec(protocol="digits-closed"), network)
    detection.check(config, DataSpec(protocol="digits-ood"), network)


def test_what_cannot_be_scored_is_refused_by_name():
    with pytest.raises(ConfigError, match="'toys' has no out-of-distribution sets"):
        run(data=OPEN)
    with pytest.raises(ConfigError, match="'rmix', which trains a classifier"):
        run(network=Needed("rmix", rmix.Config()))
    with pytest.raises(ConfigError, match="'knn_osr', which trains no network"):
        run(network=Needed("knn_osr", None))
    with pytest.raises(ValueError, match="holds no classifier and no encoder"):
        next(knn_ood.train(knn_ood.Config(network=NEEDED), DATA, seed=0, device="cpu", network={"epoch": 1}))
    with pytest.raises(ConfigError, match="k must be at least 1"):
        run(k=0)
