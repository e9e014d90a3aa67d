"""What is read off stored outputs, against loops over single images, SciPy and scikit-learn."""

import numpy as np
import pytest
import torch
from scipy import special, stats
from sklearn.metrics import roc_auc_score

from tests.trainables.test_margin_exhibits import outputs
from trainables import margin_scores, oscr
from trainables.config import ConfigError
from trainables.margin_scores import Config, log_probabilities, measure, scores
from trainables.protocol import Needed

SIZES = {"test": 300, "negative": 120, "unknown": 200}


def held(seed: int = 0) -> dict:
    """Random outputs whose known images lean to their own class."""
    found = outputs(np.random.default_rng(seed), SIZES)
    test = found["test"]
    test["logits"][torch.arange(len(test["labels"])), test["labels"]] += 6
    return found


def slow_ccr(score: dict[str, np.ndarray], labels: np.ndarray, group: str, fpr: float) -> float:
    """Tries every score of the group, and one above them all, as the threshold."""
    largest = score[group].max(axis=1)
    known = score["test"]
    right = known.argmax(axis=1) == labels
    best = (-1.0, float((right & (known.max(axis=1) > largest.max())).mean()))
    for tau in np.unique(largest):
        rate = float((largest >= tau).mean())
        if rate < fpr and rate > best[0]:
            best = rate, float((right & (known.max(axis=1) >= tau)).mean())
    return best[1]


@pytest.mark.parametrize("kind", ["softmax", "log_softmax", "logit", "norm"])
def test_rates_are_those_of_trying_every_threshold(kind):
    sets = held()
    found = measure(sets, kind)
    score = {name: scores(sample, kind)[0].numpy() for name, sample in sets.items()}
    labels = sets["test"]["labels"].numpy()
    for group, suffix in (("unknown", ""), ("negative", "_negative")):
        for name, fpr in margin_scores.RATES.items():
            assert found[f"ccr{suffix}_{name}"] == pytest.approx(slow_ccr(score, labels, group, fpr)), (group, name)
        outside = score[group].max(axis=1)
        everything = np.concatenate([score["test"].max(axis=1), outside])
        truth = np.repeat([1, 0], [len(labels), len(outside)])
        assert found[f"auroc{suffix}"] == pytest.approx(roc_auc_score(truth, everything))
        assert found[f"fpr_floor{suffix}"] == pytest.approx((outside == outside.max()).mean())
    assert found["accuracy"] == pytest.approx((sets["test"]["logits"].numpy().argmax(axis=1) == labels).mean())


def test_angles_norms_and_confidence_are_those_of_each_group():
    sets = held(1)
    found = measure(sets, "softmax")
    labels = sets["test"]["labels"].numpy()
    own = sets["test"]["angles"].numpy()[np.arange(len(labels)), labels].astype(float)
    assert found["theta_known"] == pytest.approx(own.mean())
    assert found["theta_known_std"] == pytest.approx(own.std())
    assert found["theta_known_skew"] == pytest.approx(stats.skew(own))
    nearest = sets["unknown"]["angles"].numpy().min(axis=1).astype(float)
    assert (found["theta_unknown"], found["theta_unknown_min"]) == pytest.approx((nearest.mean(), nearest.min()))
    assert found["norm_negative"] == pytest.approx(float(sets["negative"]["norms"].double().mean()))
    assert found["norm_unknown_tail"] == pytest.approx(
        np.quantile(sets["unknown"]["norms"].numpy().astype(float), 0.99)
    )
    p = special.softmax(sets["negative"]["logits"].numpy().astype(float), axis=1)
    assert found["confidence_negative"] == pytest.approx((1 + 1 / 5 - p.max(axis=1)).mean(), rel=1e-6)


def test_groups_that_a_protocol_lacks_are_left_out():
    sets = {name: sample for name, sample in held().items() if name != "negative"}
    assert not [name for name in measure(sets, "softmax") if "negative" in name]


def test_log_probabilities_are_exact_where_the_softmax_is_saturated():
    z = torch.tensor([[60.0, 0.0, 1.0], [100.0, 0.0, 0.0], [1.0, 1.0, 0.0], [-3.0, 2.0, 0.5]], dtype=torch.float64)
    found = log_probabilities(z)
    torch.testing.assert_close(found, torch.log_softmax(z, dim=1), rtol=1e-12, atol=1e-12)
    assert float(found[0, 0]) == pytest.approx(-(np.exp(-60.0) + np.exp(-59.0)), rel=1e-12)
    assert float(found[1, 0]) == pytest.approx(-2 * np.exp(-100.0), rel=1e-12)
    assert float(torch.log_softmax(z, dim=1)[1, 0]) == 0, "what it is for"


def test_thresholds_on_log_probabilities_part_what_float32_cannot():
    sets = held()
    for sample in sets.values():
        sample["logits"] = sample["logits"] * 20
    single, double = measure(sets, "softmax"), measure(sets, "log_softmax")
    assert single["saturated"] == double["saturated"] > 0.3
    assert single["fpr_floor"] > 0.3
    assert double["fpr_floor"] == pytest.approx(1 / SIZES["unknown"])
    assert double["accuracy"] == single["accuracy"]


def test_as_a_method_it_measures_what_the_needed_trial_stored_and_shows_it():
    config = Config(network=Needed("margins", {}), score="logit")
    sets = held()
    (epoch,) = margin_scores.train(config, None, seed=0, device="cpu", network={"outputs": sets})
    assert epoch.metrics == measure(sets, "logit")
    shown = epoch.exhibits()
    curve = oscr.curve(
        np.concatenate([sets[name]["logits"].numpy() for name in ("test", "unknown")]),
        np.concatenate([sets[name]["labels"].numpy() for name in ("test", "unknown")]),
    )
    assert set(shown["oscr_unknown_fpr"].tolist()) <= set(curve.fpr_T.astype(np.float32).tolist())
    assert list(margin_scores.train(config, None, seed=0, device="cpu", resume={"epoch": 1}, network={})) == []
    with pytest.raises(ValueError, match="no 'outputs'"):
        next(margin_scores.train(config, None, seed=0, device="cpu", network={"weights": {}}))


@pytest.mark.parametrize("method", ["rmix", "gradmix", "margin_scores"])
def test_a_trial_that_stores_no_outputs_is_refused_before_anything_runs(method):
    with pytest.raises(ConfigError, match=f"network needs a trial of '{method}'"):
        Config(network=Needed(method, {}))
