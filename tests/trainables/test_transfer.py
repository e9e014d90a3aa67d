"""Fine-tuning: what is carried over and what is new, one step against the equations, and what is refused."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.trainables.toys import open_set
from trainables import (
    adautomix,
    augment,
    backbones,
    classification,
    classifiers,
    finetuned,
    gradmix,
    judged,
    pretraining,
    rmix,
    seeding,
    stress,
    transfer,
)
from trainables.augment import normalise, to_float
from trainables.config import ConfigError
from trainables.data_protocols import DataSpec
from trainables.protocol import Needed

DATA = open_set()
RANDOM = torch.Generator().manual_seed(0)
CLASSIFIER = classifiers.classifier("wrn10_2", 4, 3, 7, RANDOM)
ENCODER = backbones.projected("resnet18", 4, 3, "mlp", RANDOM)
TRIO = adautomix.trio_of(adautomix.Config(width=4), 3, 5, seed=0)
with torch.no_grad():
    for weight in TRIO.teacher.parameters():
        weight.mul_(1.5)

RMIX, GRADMIX = Needed("rmix", rmix.Config()), Needed("gradmix", gradmix.Config())
TEACHER = Needed("adautomix", adautomix.Config(width=4))
STUDENT = Needed("adautomix", adautomix.Config(width=4, scored="student"))
FIXED = {"flip": False, "crop": False}
"""Views that are the images."""


def state_of(network) -> dict[str, object]:
    return {"network": dict(network.description), "weights": network.state_dict(), "epoch": 3}


def run(needed, network, seed=0, resume=None, **fields):
    config = transfer.Config(network=needed, **{"transfer_epochs": 1, "transfer_batch": 12, **fields})
    return list(transfer.train(config, DATA, seed=seed, device="cpu", resume=resume, network=state_of(network)))


def images():
    return normalise(to_float(torch.from_numpy(DATA.test.pixels)), DATA.mean, DATA.std)


def start(needed, network, **fields):
    config = transfer.Config(network=needed, **fields)
    return transfer.network_of(config, DATA, 0, state_of(network)).eval()


@torch.no_grad()
@pytest.mark.parametrize(
    ("needed", "network", "features"),
    [
        (RMIX, CLASSIFIER, lambda x: CLASSIFIER.eval().features(x)),
        (GRADMIX, ENCODER, lambda x: ENCODER.eval().embed(x)["backbone"]),
        (TEACHER, TRIO, lambda x: TRIO.teacher.eval()(x).pooled_BD),
        (STUDENT, TRIO, lambda x: TRIO.student.eval()(x).pooled_BD),
    ],
    ids=["classifier", "encoder", "teacher", "student"],
)
def test_features_are_carried_over_and_the_last_layer_is_new(needed, network, features):
    tuned = start(needed, network)
    wanted_BD = features(images())
    assert torch.equal(tuned.body(images()), wanted_BD)
    assert tuned.head.weight.shape == (3, wanted_BD.shape[1])
    assert torch.equal(tuned(images()), wanted_BD @ tuned.head.weight.T)
    assert not tuned.head.bias.any()
    assert 0 < tuned.head.weight.abs().max() <= wanted_BD.shape[1] ** -0.5


@pytest.mark.parametrize(("needed", "network"), [(RMIX, CLASSIFIER), (GRADMIX, ENCODER), (TEACHER, TRIO)])
def test_from_scratch_is_the_same_network_with_other_weights(needed, network):
    trained, scratch = start(needed, network), start(needed, network, start="scratch")
    assert trained.description == scratch.description
    for name, weight in trained.named_parameters():
        other = dict(scratch.named_parameters())[name]
        assert weight.shape == other.shape
    weights = [nn.utils.parameters_to_vector(each.body.parameters()) for each in (trained, scratch)]
    assert not torch.equal(*weights)


@pytest.mark.parametrize(("needed", "network"), [(RMIX, CLASSIFIER), (GRADMIX, ENCODER), (TEACHER, TRIO)])
def test_the_final_state_rebuilds_the_network_and_is_judged_as_it_was(needed, network):
    (epoch,) = run(needed, network)
    state = epoch.state()
    rebuilt = finetuned.rebuild(state["network"], state["weights"])
    assert classification.evaluate(rebuilt, DATA, DATA.mean, DATA.std)["accuracy"] == epoch.metrics["accuracy"]
    config = stress.Config(network=Needed("transfer", transfer.Config(network=needed)), tests=("fgsm",))
    (tested,) = stress.train(config, DATA, seed=0, device="cpu", network=state)
    assert tested.metrics["accuracy"] == epoch.metrics["accuracy"]


def test_what_was_tuned_can_be_tuned_again():
    (epoch,) = run(RMIX, CLASSIFIER)
    state = epoch.state()
    again = transfer.Config(network=Needed("transfer", transfer.Config(network=RMIX)))
    tuned = transfer.network_of(again, DATA, 1, state).eval()
    with torch.no_grad():
        assert torch.equal(tuned.body(images()), finetuned.rebuild(state["network"], state["weights"]).body(images()))
    scratch = transfer.network_of(replace(again, start="scratch"), DATA, 1, state)
    assert scratch.state_dict().keys() == tuned.state_dict().keys()


def test_training_is_sgd_on_the_cross_entropy():
    """Two epochs of two steps against torch's own optimiser and a rate computed by hand."""
    fields = {"transfer_epochs": 2, "transfer_rate": 0.1, "transfer_floor": 0.2, "head_factor": 3.0, **FIXED}
    *_, last = run(RMIX, CLASSIFIER, **fields)
    tuned = start(RMIX, CLASSIFIER).train()
    pixels = normalise(to_float(torch.from_numpy(DATA.train.pixels)), DATA.mean, DATA.std)
    labels = torch.from_numpy(DATA.train.labels)
    velocity = {name: torch.zeros_like(weight) for name, weight in tuned.named_parameters()}
    for epoch, rate in enumerate((0.1, 0.06)):
        order = torch.randperm(24, generator=seeding.torch_stream(0, f"order/{epoch}"))
        for rows in order.view(2, 12):
            gradients = torch.autograd.grad(F.cross_entropy(tuned(pixels[rows]), labels[rows]), tuned.parameters())
            with torch.no_grad():
                for (name, weight), gradient in zip(tuned.named_parameters(), gradients, strict=True):
                    velocity[name].mul_(0.9).add_(gradient + 5e-4 * weight)
                    weight.sub_(velocity[name] * rate * (3.0 if name.startswith("head") else 1.0))
    found = last.state()["weights"]
    for name, weight in tuned.named_parameters():
        torch.testing.assert_close(found[name], weight.detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "changes",
    [
        *({"flip": False}, {"crop": False}, {"crop_scale": 0.9}, {"crop": False, "padding": 2}, {"precision": "bf16"}),
        *({"momentum": 0.5}, {"weight_decay": 0.1}),
    ],
    ids=str,
)
def test_every_option_changes_the_training(changes):
    before, after = (run(RMIX, CLASSIFIER, **fields)[-1].state()["weights"] for fields in ({}, changes))
    assert not all(map(torch.equal, before.values(), after.values()))


def test_each_epoch_sees_the_images_anew(monkeypatch):
    seeds, real = [], augment.view
    monkeypatch.setattr(augment, "view", lambda *given: seeds.append(given[2].initial_seed()) or real(*given))
    run(RMIX, CLASSIFIER, transfer_epochs=3)
    assert len(seeds) == 6, "two steps an epoch"
    assert len(set(seeds)) == 3


def test_what_is_known_helps():
    """Places are learned from classes of one half; the few images of another task are then enough, and not alone."""
    before = pretraining.Config(network="wrn10_2", width=8, pretraining_epochs=6, batch=8, flip=False, padding=0)
    *_, epoch = pretraining.train(before, open_set(per_class=24), seed=0, device="cpu")
    state = epoch.state()
    few = replace(DATA, train=open_set(per_class=4).train)
    fields = {"transfer_epochs": 4, "transfer_batch": 6, "transfer_rate": 0.02, **FIXED}

    def accuracy(start):
        config = transfer.Config(network=Needed("pretraining", before), start=start, **fields)
        *_, last = transfer.train(config, few, seed=0, device="cpu", network=state)
        return last.metrics["accuracy"]

    assert accuracy("trained") > 0.9 > accuracy("scratch")


def test_evaluations_are_as_rare_as_asked_and_the_last_is_always_there():
    epochs = run(RMIX, CLASSIFIER, transfer_epochs=3, evaluate_every=2)
    assert ["accuracy" in epoch.metrics for epoch in epochs] == [False, True, True]
    two = [epochs[1].metrics["accuracy"], epochs[2].metrics["accuracy"]]
    assert epochs[2].metrics["accuracy_median10"] == pytest.approx(sum(two) / 2)
    assert epochs[2].metrics["accuracy_best"] == max(two)


def test_the_needed_state_stays_as_it_was():
    state = {name: weight.clone() for name, weight in CLASSIFIER.state_dict().items()}
    run(RMIX, CLASSIFIER, transfer_rate=0.5)
    for name, weight in CLASSIFIER.state_dict().items():
        assert torch.equal(weight, state[name])


# What is refused


@pytest.mark.parametrize("method", sorted(judged.WITHOUT_NETWORK | judged.UNREADABLE))
def test_a_method_without_a_network_is_refused_before_anything_runs(method):
    with pytest.raises(ConfigError, match=f"network needs a trial of '{method}'"):
        transfer.Config(network=Needed(method, None))


def test_images_that_the_network_cannot_see_are_refused_before_anything_runs():
    config = transfer.Config(network=RMIX)
    grey, colour = DataSpec(protocol="digits-others"), DataSpec(protocol="cifar10-closed")
    with pytest.raises(ConfigError, match=r"'digits-others', whose images are grey, .* 'cifar10-closed'.* in colour"):
        judged.check_images(config, colour, {"network": grey})
    judged.check_images(config, colour, {"network": DataSpec(protocol="svhn-closed")})


def test_a_state_of_other_channels_is_refused():
    grey = classifiers.classifier("wrn10_2", 4, 1, 7, RANDOM)
    with pytest.raises(ValueError, match="has 1 channels, and the images of 'toys' have 3"):
        run(RMIX, grey)


@pytest.mark.parametrize("state", [{"epoch": 1}, {"network": {"network": "lenet"}, "weights": {}}])
def test_a_state_without_a_known_network_is_refused(state):
    with pytest.raises(ValueError, match="holds no classifier and no encoder"):
        next(transfer.train(transfer.Config(network=RMIX, transfer_batch=4), DATA, seed=0, device="cpu", network=state))


def test_weights_of_another_architecture_are_refused():
    state = state_of(CLASSIFIER) | {"weights": ENCODER.state_dict()}
    with pytest.raises(ValueError, match="weights are not those of the network that its final state describes"):
        next(transfer.train(transfer.Config(network=RMIX, transfer_batch=4), DATA, seed=0, device="cpu", network=state))


def test_a_batch_larger_than_the_set_names_its_field():
    with pytest.raises(ConfigError, match="transfer_batch=64 is not allowed"):
        run(RMIX, CLASSIFIER, transfer_batch=64)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("transfer_epochs", 0), ("transfer_batch", 1), ("transfer_rate", 0.0), ("head_factor", 0.0)),
        *(("transfer_floor", 1.5), ("momentum", 1.0), ("weight_decay", -1.0), ("crop_scale", 0.0), ("padding", -1)),
        *(("start", "elsewhere"), ("evaluate_every", -1)),
    ],
)
def test_configs_out_of_range_are_refused(field, value):
    with pytest.raises(ConfigError, match=field):
        transfer.Config(network=RMIX, **{field: value})
