"""Pre-training learns, follows its cosine, and says how well the energy detects where there is something to detect."""

import math

import pytest
import torch
import torch.nn.functional as F

from tests.trainables.test_greg import detection_data
from tests.trainables.toys import open_set
from trainables import augment, classifiers, detection, metrics, ood_scores, pretraining, schedules, seeding
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


def test_training_is_a_plain_loop_of_nesterovs_steps_on_views_without_the_rest_of_the_epoch():
    data, seed, peak, floor = open_set(per_class=7), 4, 0.05, 0.01
    config = Config(
        **{**TINY, "flip": True, "padding": 1},
        pretraining_epochs=2,
        pretraining_rate=peak,
        floor=floor,
        momentum=0.8,
        weight_decay=0.02,
    )
    network = classifiers.classifier("wrn10_2", 8, 3, 3, seeding.torch_stream(seed, "init")).train()
    optimizer = torch.optim.SGD(network.parameters(), lr=1, momentum=0.8, nesterov=True, weight_decay=0.02)
    pixels, labels = torch.from_numpy(data.train.pixels), torch.from_numpy(data.train.labels)
    for step in range(6):  # three of six images in an epoch of 21
        if step % 3 == 0:
            order = torch.randperm(21, generator=seeding.torch_stream(seed, f"order/{step // 3}"))
            random = seeding.torch_stream(seed, f"augment/{step // 3}")
        here = order[6 * (step % 3) :][:6]
        x = augment.view(pixels[here], augment.Settings(padding=1, flip=True), random)
        optimizer.param_groups[0]["lr"] = floor + (peak - floor) * (1 + math.cos(math.pi * step / 6)) / 2
        optimizer.zero_grad()
        F.cross_entropy(network((x - 0.5) / 0.25), labels[here]).backward()
        optimizer.step()
    *_, last = pretraining.train(config, data, seed=seed, device="cpu")
    for name, values in last.state()["weights"].items():
        torch.testing.assert_close(values, network.state_dict()[name], rtol=1e-4, atol=1e-5)


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
