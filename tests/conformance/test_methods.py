"""What every method of the catalogue must keep, whatever it trains. A method enters by being listed there."""

import functools
import io
import json
import math
import random
import warnings

import numpy as np
import pytest
import torch

from trainables.catalogue import METHODS
from trainables.config import field_types, from_plain, to_plain
from trainables.data_protocols import DataSpec
from trainables.datasets import open_data
from trainables.metrics import DIRECTION
from trainables.protocol import Epoch, Needed

SMALL = {
    "width": 4,
    "epochs": 3,
    "pretraining_epochs": 3,
    "transfer_epochs": 3,
    "transfer_batch": 16,
    "probe_epochs": 3,
    "final_epochs": 1,
    "batch": 16,
    "k": 3,
}
"""Fields that make any method small, where it has them."""
OWN = {method: {"network": "wrn10_2"} for method in ("greg", "pretraining")} | {
    "rlmix": {"rollout": 4, "minibatch": 2, "features": 16}  # its policy is updated inside epochs and across them
}
"""The same for one method alone."""
NEEDED = {
    "dimension": "gradmix",
    "knn_ood": "gradmix",
    "knn_osr": "gradmix",
    "localisation": "rmix",
    "margin_scores": "margins",
    "ood_radius": "greg",
    "ood_scores": "pretraining",
    "probes": "gradmix",
    "spread": "gradmix",
    "stress": "gradmix",
    "transfer": "pretraining",
}
"""Method -> what trains the network that it asks for."""
WITHOUT_RANDOMNESS = {"dimension", "knn_ood", "knn_osr", "localisation", "margin_scores", "ood_radius", "ood_scores"}
"""Methods whose numbers the seed does not change."""


def small(method: str):
    """The method's default config, made small; what it needs likewise."""
    kinds = field_types(METHODS[method].config)
    fields = {name: value for name, value in (SMALL | OWN.get(method, {})).items() if name in kinds}
    fields |= {name: Needed(NEEDED[method], small(NEEDED[method])) for name, kind in kinds.items() if kind is Needed}
    return METHODS[method].config(**fields)


AGAINST = {"greg", "knn_ood", "ood_radius", "ood_scores"}
"""Methods that train against auxiliary images, or judge what was, and so need a protocol that has them."""


PROTOCOL = {"localisation": "digits-boxes"}
"""Methods that need boxes, and the data that have them."""


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """A function that opens the data of a method."""
    cache = tmp_path_factory.mktemp("data")

    @functools.cache
    def of(protocol):
        few = {"side": 16, "per_class": 8, "test_per_class": 6, "auxiliary": 100}
        return open_data(DataSpec(protocol=protocol, boxes=protocol in PROTOCOL.values(), **few), cache=cache)

    return lambda method: of(PROTOCOL.get(method, "digits-ood" if method in AGAINST else "digits"))


@pytest.fixture
def data(opened, start):
    return opened(start.method)


def saved(state):
    """Through a file, as a checkpoint goes, reading nothing that could run code."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


@pytest.fixture(scope="module")
def final_states():
    """Needed config, as text -> its final state."""
    return {}


@pytest.fixture(params=sorted(METHODS))
def start(request, opened, final_states):
    """A function that starts the method: (seed, resume) -> generator."""
    config, data = small(request.param), opened(request.param)
    needs = {}
    for name, kind in field_types(type(config)).items():
        if kind is Needed:
            needed = getattr(config, name)
            key = repr(needed)
            if key not in final_states:
                *_, last = METHODS[needed.method].train(needed.config, data, seed=0, device="cpu")
                final_states[key] = saved(last.state())
            needs[name] = final_states[key]

    def begin(seed=0, resume=None):
        return METHODS[request.param].train(config, data, seed=seed, device="cpu", resume=resume, **needs)

    begin.method = request.param
    return begin


def run(epochs):
    """(metrics, saved state) of every epoch."""
    return [(dict(epoch.metrics), saved(epoch.state())) for epoch in epochs]


def same(first, second) -> bool:
    """Equal bit for bit, types included."""
    if type(first) is not type(second):
        return False
    if isinstance(first, torch.Tensor):
        return first.dtype == second.dtype and torch.equal(first, second)
    if isinstance(first, dict):
        return list(first) == list(second) and all(same(first[key], second[key]) for key in first)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(same, first, second))
    return first == second


def test_epochs_count_from_one_and_report_known_finite_numbers(start):
    epochs = list(start())
    assert [epoch.index for epoch in epochs] == list(range(1, len(epochs) + 1))
    for epoch in epochs:
        assert isinstance(epoch, Epoch)
        unknown = epoch.metrics.keys() - DIRECTION.keys()
        assert not unknown, f"trainables.metrics.DIRECTION does not know {unknown}"
        for value in epoch.metrics.values():
            assert type(value) is float
            assert math.isfinite(value)
    assert "accuracy" in epochs[-1].metrics


def test_resuming_from_any_epoch_gives_the_same_bits(start):
    whole = run(start())
    for done in range(1, len(whole) + 1):
        again = run(start(resume=whole[done - 1][1]))
        assert same(again, whole[done:]), f"resumed after epoch {done}"


def test_a_state_that_is_not_asked_for_changes_nothing(start):
    without = [dict(epoch.metrics) for epoch in start()]
    assert without == [metrics for metrics, _ in run(start())]


def test_a_captured_state_stays_as_it_was(start):
    epochs = start()
    captured = next(epochs).state()
    before = saved(captured)
    list(epochs)
    assert same(saved(captured), before)


def test_seeds_differ_and_repeat(start):
    first, again, other = run(start(seed=0)), run(start(seed=0)), run(start(seed=1))
    assert same(first, again)
    assert same(first, other) == (start.method in WITHOUT_RANDOMNESS)


def test_runs_at_the_same_time_do_not_meet(start):
    alone = [dict(epoch.metrics) for epoch in start(seed=0)]
    together = [dict(first.metrics) for first, _ in zip(start(seed=0), start(seed=1), strict=True)]
    assert together == alone


def test_no_global_state_is_read_or_written(start):
    def everything():
        state = np.random.get_state()  # noqa: NPY002 (the global generator is what is watched)
        flags = (torch.get_default_dtype(), torch.is_grad_enabled(), torch.are_deterministic_algorithms_enabled())
        return (
            torch.get_rng_state().tolist(),
            random.getstate(),
            state[1].tolist(),
            state[2:],
            flags,
            torch.get_num_threads(),
        )

    torch.manual_seed(1)
    first = run(start())
    before = everything()
    torch.manual_seed(2)
    np.random.seed(3)  # noqa: NPY002
    random.seed(4)
    moved = everything()
    second = run(start())
    assert everything() == moved != before
    assert same(first, second)


def test_a_run_can_be_left_half_way(start):
    epochs = start()
    next(epochs)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        epochs.close()


def test_the_training_data_stays_as_it_was(start, data):
    before = [part.pixels.copy() for part in (data.train, data.test, *data.others.values())]
    list(start())
    after = [part.pixels for part in (data.train, data.test, *data.others.values())]
    assert all(np.array_equal(first, second) for first, second in zip(before, after, strict=True))


def placed(value):
    """A plain value with what it needs as a typed config again, as a plan's reader does."""
    if not isinstance(value, dict):
        return value
    method, config = value["needs"]["method"], value["needs"]["config"]
    return Needed(method, from_plain(METHODS[method].config, {name: placed(part) for name, part in config.items()}))


@pytest.mark.parametrize("method", sorted(METHODS))
def test_configs_survive_their_plain_form(method):
    config = small(method)
    plain = json.loads(json.dumps(to_plain(config)))
    assert from_plain(type(config), {name: placed(value) for name, value in plain.items()}) == config


@pytest.mark.parametrize("method", sorted(METHODS))
def test_configs_are_frozen_hashable_and_documented(method):
    config = small(method)
    assert hash(config) == hash(small(method))
    with pytest.raises(AttributeError):
        setattr(config, next(iter(field_types(type(config)))), 0)
    module = __import__(type(config).__module__, fromlist=["__doc__"])
    assert "Deviations" in module.__doc__
