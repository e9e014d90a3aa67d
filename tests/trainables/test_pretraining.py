"""Pre-training learns, follows its cosine, and says how well the energy detects where there is something to detect."""

import pytest
import torch

from tests.trainables.test_greg import detection_data
from tests.trainables.toys import open_set
from trainables import classifiers, detection, metrics, ood_scores, pretraining, schedules
from trainables.config import ConfigError
from trainables.pretraining import Config

TINY = {"network": "wrn10_2", "width": 8, "batch": 6, "flip": False, "padding": 0}


def test_training_learns_the_classes_and_its_state_is_a_network():
    data = detection_data()
    config = Config(**TINY, pretraining_epochs=12, pretraining_rate=0.05)
    epochs = [(epoch.metrics, epoch.state()) for epoch in pretraining.train(config, data, seed=0, device="cpu")]
    last, state = epochs[-1]
    assert last["loss"] < 0.5 * epochs[0][0]["loss"]
    assert last["accuracy"] > 0.8
    network = classifiers.rebuild(state["network"], state["weights"])
    assert ood_scores.accuracy(network, data, "cpu") == last["accuracy"]
    energies = {
        name: torch.cat([network(x).logsumexp(1) for x in detection.batches(images, data, "cpu")])
        for name, images in detection.evaluated(data).items()
    }
    scores = detection.arrays(energies)
    assert last["auroc_far_noise"] == metrics.auroc(scores["test"], scores["far_noise"])


def test_without_out_of_distribution_sets_the_classifier_alone_is_judged():
    config = Config(**TINY, pretraining_epochs=1)
    (epoch,) = pretraining.train(config, open_set(), seed=0, device="cpu")
    assert "accuracy" in epoch.metrics
    assert "auroc" not in epoch.metrics


def test_the_learning_rate_falls_along_a_cosine_by_the_step():
    config = Config(**TINY, pretraining_epochs=3)
    states = [epoch.state() for epoch in pretraining.train(config, open_set(), seed=0, device="cpu")]
    for number, state in enumerate(states, 1):
        (group,) = state["optimizer"]["param_groups"]
        assert group["lr"] == schedules.cosine(4 * number - 1, 12, 0.1, 1e-6)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"pretraining_epochs": 0}, "pretraining_epochs must be at least 1"),
        ({"pretraining_rate": 0.0}, "pretraining_rate must be above 0"),
        ({"batch": 1}, "batch must be at least 2"),
    ],
)
def test_configs_out_of_range_are_refused(fields, message):
    with pytest.raises(ConfigError, match=message):
        Config(**fields)
