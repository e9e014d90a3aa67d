"""GReg's losses against golden numbers of the released code, its gradient term against slow loops, and its training."""

import functools
import itertools
import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.trainables.toys import images, open_set
from trainables import augment, classifiers, energy_sampling, greg, pretraining, seeding
from trainables.catalogue import METHODS
from trainables.config import ConfigError
from trainables.data_protocols import PROTOCOLS, DataSpec
from trainables.datasets import Data, Images
from trainables.greg import GREG, Config
from trainables.protocol import Diverged, Needed

GOLDEN = np.load(Path(__file__).parents[1] / "golden/openset/11_greg_loss.npz")
TAGS = ("nobn", "nobn_default_margins", "bn_train", "bn_eval")
N_ID = int(GOLDEN["num_id"])


class Small(nn.Module):
    """The golden file's network."""

    def __init__(self, normed: bool) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4, 5)
        self.bn = nn.BatchNorm2d(4) if normed else None
        self.double()
        self.load_state_dict(
            {name: tensor(GOLDEN[f"param/{name}"]) for name, _ in self.named_parameters()}, strict=False
        )

    def forward(self, x):
        h = self.conv(x)
        return self.fc(F.relu(h if self.bn is None else self.bn(h)).mean((2, 3)))


def tensor(golden):
    return torch.tensor(golden)


def golden_case(tag):
    """The network, its images, and the config with the golden margins."""
    m_in, m_aux = GOLDEN[f"{tag}/m_in_m_out"]
    network = Small("bn" in tag.split("_")).train(tag != "bn_eval")
    return network, tensor(GOLDEN["data"]), tensor(GOLDEN["target_id"]), replace(GREG, m_in=m_in, m_aux=m_aux)


def close(ours, golden):
    np.testing.assert_allclose(ours.detach().numpy(), golden, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("tag", TAGS)
def test_energies_losses_and_parameter_gradients_are_the_golden_ones(tag):
    network, x, labels, config = golden_case(tag)
    logits = network(x)
    close(logits, GOLDEN[f"{tag}/logits"])
    close(greg.energy(logits)[:N_ID], GOLDEN[f"{tag}/energy_in"])
    close(greg.energy(logits)[N_ID:], GOLDEN[f"{tag}/energy_out"])
    network, x, labels, config = golden_case(tag)
    terms = greg.step_terms(config, network, x, labels, 1.0)
    close(terms["loss_class"], GOLDEN[f"{tag}/ce"])
    close(0.1 * terms["loss_score"], GOLDEN[f"{tag}/energy_term_times_beta"])
    close(terms["gradient_term"], GOLDEN[f"{tag}/grad_term"])
    close(terms["loss"], GOLDEN[f"{tag}/total"])
    for key, name in (("dgradterm", "gradient_term"), ("dtotal", "loss")):
        gradients = torch.autograd.grad(terms[name], list(network.parameters()), retain_graph=True, allow_unused=True)
        for (parameter, weight), gradient in zip(network.named_parameters(), gradients, strict=True):
            close(torch.zeros_like(weight) if gradient is None else gradient, GOLDEN[f"{tag}/{key}/{parameter}"])


@pytest.mark.parametrize("tag", TAGS)
def test_the_objective_and_its_input_gradients_are_the_golden_ones(tag):
    network, x, labels, config = golden_case(tag)
    x.requires_grad_()
    J = greg.objective(config, network(x), labels, N_ID)
    (gradient,) = torch.autograd.grad(J, x)
    close(J, GOLDEN[f"{tag}/jac_scalar_objective"])
    close(gradient, GOLDEN[f"{tag}/jac_input_grad"])
    close(greg.norms(gradient, "l2"), GOLDEN[f"{tag}/jac_norm_per_sample"])


def own_norms(network, x):
    """|| dS_i / dx_i || one image at a time, whatever batch norm adds to other images."""
    x = x.detach().requires_grad_()
    S = greg.energy(network(x))
    rows = [torch.autograd.grad(S[i], x, retain_graph=True)[0][i].flatten() for i in range(len(x))]
    return torch.linalg.vector_norm(torch.stack(rows), dim=1), S.detach()


@pytest.mark.parametrize("tag", TAGS)
def test_the_papers_formula_is_the_golden_one_and_n_times_the_codes_without_batch_statistics(tag):
    network, x, labels, config = golden_case(tag)
    norms, S = own_norms(network, x)
    close(norms, GOLDEN[f"{tag}/derived_score_grad_norm_own_sample"])
    literal = (norms[:N_ID] * (S[:N_ID] <= config.m_in)).mean() + (norms[N_ID:] * (S[N_ID:] >= config.m_aux)).mean()
    close(literal, GOLDEN[f"{tag}/derived_paper_grad_term"])
    if tag == "bn_train":  # a step cannot leave the cross terms out there
        return
    term = greg.step_terms(replace(config, reduction="paper"), network, x, labels, 1.0)["gradient_term"]
    close(term, GOLDEN[f"{tag}/derived_paper_grad_term"])
    factor = greg.reduction_factor(N_ID, len(x) - N_ID)
    assert factor == 14
    close(term, factor * GOLDEN[f"{tag}/grad_term"])


def test_running_statistics_in_the_gradients_pass_leave_no_cross_terms():
    network, x, labels, config = golden_case("bn_train")
    config = replace(config, reduction="paper", gradient_batch_norm="eval", updates="once", m_in=-3.5, m_aux=-3.0)
    term = greg.step_terms(config, network, x, labels, 1.0)["gradient_term"]
    assert network.training
    norms, S = own_norms(network.eval(), x)  # the step's own pass has moved the statistics by now
    right = (norms[:N_ID] * (S[:N_ID] < -3.5)).mean() + (norms[N_ID:] * (S[N_ID:] > -3.0)).mean()
    assert float(right) > 0
    close(term, right.numpy())


def literal_term(config, network, x):
    """The gradient term without batch statistics, image by image from its definition."""
    total = {"id": [], "aux": []}
    for i in range(len(x)):
        one = x[i : i + 1].detach().requires_grad_()
        S = greg.energy(network(one))[0]
        group, right = ("id", S.item() < config.m_in) if i < N_ID else ("aux", S.item() > config.m_aux)
        counted = {"on": right, "off": True, "reversed": not right}[config.indicator]
        (gradient,) = torch.autograd.grad(S, one)
        size = 1 if config.reduction == "paper" else (N_ID if group == "id" else len(x) - N_ID)
        g = gradient.flatten() / size
        norm = {"l2": g.norm(), "l1": g.abs().sum(), "l2_squared": g.square().sum()}[config.norm]
        total[group].append(float(norm) if counted and config.where in ("both", group) else 0.0)
    if config.reduction == "code":
        return sum(total["id"] + total["aux"]) / len(x)
    return sum(total["id"]) / N_ID + sum(total["aux"]) / (len(x) - N_ID)


@pytest.mark.parametrize(
    ("indicator", "norm", "where"),
    list(itertools.product(("on", "off", "reversed"), ("l2", "l2_squared", "l1"), ("both", "id", "aux"))),
)
@pytest.mark.parametrize("reduction", ["code", "paper"])
def test_every_option_of_the_term_is_its_definition_image_by_image(indicator, norm, where, reduction):
    network, x, labels, config = golden_case("nobn")
    config = replace(config, indicator=indicator, norm=norm, where=where, reduction=reduction)
    term = greg.step_terms(config, network, x, labels, 1.0)["gradient_term"]
    assert float(term.detach()) == pytest.approx(literal_term(config, network, x), rel=1e-10)


def test_the_minus_in_the_objective_matters_with_batch_statistics_alone():
    for tag, same in (("nobn", True), ("bn_train", False)):
        network, x, _, config = golden_case(tag)
        x.requires_grad_()
        S = greg.energy(network(x))
        right, slip = -F.relu(config.m_in - S[:N_ID]).mean(), F.relu(config.m_in - S[:N_ID]).mean()
        aux = F.relu(S[N_ID:] - config.m_aux).mean()
        one, other = (
            greg.norms(torch.autograd.grad(id_part + aux, x, retain_graph=True)[0], "l2") for id_part in (right, slip)
        )
        assert torch.allclose(one, other) == same


@pytest.mark.parametrize("updates", ["once", "twice"])
def test_one_pass_is_what_the_codes_two_passes_are(updates):
    """A second forward pass for the gradient, as released: same loss, same gradients, same running statistics."""
    network, x, labels, config = golden_case("bn_train")
    config = replace(config, updates=updates)
    terms = greg.step_terms(config, network, x, labels, 1.0)
    ours = torch.autograd.grad(terms["loss"], list(network.parameters()))
    slow, *_ = golden_case("bn_train")
    first = slow(x)
    loss = F.cross_entropy(first[:N_ID], labels) + 0.1 * greg.base_loss(config, first, N_ID)
    statistics = {name: values.clone() for name, values in slow.named_buffers()}
    again = x.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(greg.objective(config, slow(again), labels, N_ID), again, create_graph=True)
    loss = loss + gradient.flatten(1).norm(dim=1).mean()
    theirs = torch.autograd.grad(loss, list(slow.parameters()))
    torch.testing.assert_close(terms["loss"], loss)
    torch.testing.assert_close(ours, theirs)
    wanted = dict(slow.named_buffers()) if updates == "twice" else statistics
    for name in ("bn.running_mean", "bn.running_var"):
        torch.testing.assert_close(dict(network.named_buffers())[name], wanted[name])
    assert network.bn.momentum == 0.1


def test_outlier_exposure_is_cross_entropy_to_the_uniform_distribution_less_a_constant():
    logits = torch.randn(6, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    uniform = torch.full((6, 5), 0.2, dtype=torch.float64)
    torch.testing.assert_close(greg.exposure(logits), F.cross_entropy(logits, uniform))
    flat = torch.zeros(2, 5, dtype=torch.float64)
    assert float(greg.exposure(flat)) == pytest.approx(math.log(5))


def test_hinges_are_zero_where_both_groups_are_beyond_their_margins_and_grow_by_squares():
    S_id, S_aux = torch.tensor([-30.0, -26.0]), torch.tensor([-6.0, 0.0])
    assert greg.hinges(S_id, S_aux, -25.0, -7.0) == 0
    assert greg.hinges(torch.tensor([-22.0, -26.0]), torch.tensor([-9.0]), -25.0, -7.0) == 9 / 2 + 4


def test_each_base_scores_by_its_own_measure():
    logits = torch.tensor([[3.0, 3.0, 3.0], [2.0, -9.0, -9.0], [-1.0, -1.0, -4.0]])
    bases = {"energy": greg.ENERGY, "oe": greg.OE, "dos": greg.DOS}
    scores = {name: greg.known_score(config, logits).tolist() for name, config in bases.items()}
    assert scores["energy"] == pytest.approx([3 + math.log(3), 2, -1 + math.log(2 + math.exp(-3))], abs=1e-4)
    assert scores["oe"] == pytest.approx([1 / 3, 1, 1 / (2 + math.exp(-3))], abs=1e-4)
    assert scores["dos"] == pytest.approx([2 / 3, 1, 2 / (2 + math.exp(-3))], abs=1e-4)


def test_images_that_are_surely_known_are_told_apart_by_a_class_of_its_own_as_in_the_code():
    """It subtracts Python's numbers from 1, so probabilities of 1e-9 and 1e-8 are two scores."""
    p = torch.tensor([1e-12, 1e-9, 1e-8, 1e-7, 0.5])
    scores = greg.known_score(greg.DOS, torch.stack([torch.log1p(-p), p.log()], dim=1))
    assert scores.unique().tolist() == scores.flip(0).tolist()
    np.testing.assert_allclose(1 - scores.numpy(), p.numpy(), rtol=1e-3)


def test_the_gradient_of_the_loss_itself_is_the_codes_for_a_class_of_its_own():
    network, x, labels, _ = golden_case("nobn")
    labels = labels % 4
    config = replace(greg.DOS, lam_gradient=1.0, gradient_of="loss", indicator="off", updates="twice")
    term = greg.step_terms(config, network, x, labels, 1.0)["gradient_term"]
    again = x.detach().requires_grad_()
    logits = network(again)
    loss = F.cross_entropy(logits[:N_ID], labels) + F.cross_entropy(logits[N_ID:], torch.full((8,), 4))
    (gradient,) = torch.autograd.grad(loss, again)
    close(term, gradient.flatten(1).norm(dim=1).mean().numpy())


# Training


def detection_data(auxiliary=60, near=6, seed=1):
    """Three known classes; auxiliary, near and far images of noise with other statistics."""
    data, rng = open_set(), np.random.default_rng(seed)
    dark = Images(rng.integers(0, 60, (auxiliary, 16, 16, 3), dtype=np.uint8), np.full(auxiliary, -1))
    others = {
        "auxiliary": dark,
        "near_digits": Images(images(np.full(near, 3), 16, 3, rng), np.full(near, -2)),
        "far_noise": Images(rng.integers(0, 60, (12, 16, 16, 3), dtype=np.uint8), np.full(12, -2)),
    }
    return Data(data.spec, data.classes, data.train, data.test, others, data.mean, data.std)


TINY = {
    "network": "wrn10_2",
    "width": 8,
    "batch": 6,
    "epochs": 6,
    "learning_rate": 0.02,
    "flip": False,
    "padding": 0,
    "clusters": 4,
}


@pytest.mark.parametrize("sampling", ["random", "greedy", "one_way", "two_way", "posterior"])
def test_training_tells_auxiliary_images_from_known_ones_and_what_resembles_them(sampling):
    config = Config(**TINY, sampling=sampling, evaluate_every=0)
    epochs = [epoch.metrics for epoch in greg.train(config, detection_data(), seed=0, device="cpu")]
    assert epochs[-1]["loss"] < 0.6 * epochs[0]["loss"]
    assert epochs[-1]["energy_id"] < epochs[-1]["energy_auxiliary"] - 3
    assert epochs[-1]["auroc_far_noise"] > 0.95
    assert "auroc" not in epochs[0]
    assert all(epoch["grad_norm_ood"] > 0 for epoch in epochs)


def test_the_gradient_term_makes_the_energy_flatter():
    data, last = detection_data(), {}
    for lam in (0.0, 30.0):
        config = Config(**TINY, lam_gradient=lam, updates="once", indicator="off")
        *_, epoch = greg.train(config, data, seed=0, device="cpu")
        last[lam] = epoch.metrics
    assert last[30.0]["grad_norm_id"] < 0.8 * last[0.0]["grad_norm_id"]


def plainly_trained(config, data, seed, rate, optimizer):
    """The released loop, two passes a step, over the same images in the same order; rate: (epoch, step) -> its own."""
    network = classifiers.classifier(config.network, config.width, 3, 3, seeding.torch_stream(seed, "init")).train()
    optimizer = optimizer(network.parameters())
    known, aux = (torch.from_numpy(each.pixels) for each in (data.train, data.others["auxiliary"]))
    truth, views = torch.from_numpy(data.train.labels), augment.Settings(padding=config.padding, flip=config.flip)
    for epoch in range(config.epochs):
        stream = {
            name: seeding.torch_stream(seed, f"{name}/{epoch}")
            for name in ("order", "auxiliary", "augment", "augment aux")
        }
        order, others = (torch.randperm(n, generator=stream[name]) for n, name in ((24, "order"), (60, "auxiliary")))
        for step in range(4):
            here = slice(6 * step, 6 * step + 6)
            parts = ((known[order[here]], "augment"), (aux[others[here]], "augment aux"))
            x = torch.cat([(augment.view(pixels, views, stream[name]) - 0.5) / 0.25 for pixels, name in parts])
            f = network(x)
            S = -f.exp().sum(1).log()
            loss = F.cross_entropy(f[:6], truth[order[here]])
            too_high, too_low = (S[:6] - config.m_in).clamp_min(0), (config.m_aux - S[6:]).clamp_min(0)
            loss = loss + config.lam_score * ((too_high**2).mean() + (too_low**2).mean())
            again = x.clone().requires_grad_()
            S = -network(again).exp().sum(1).log()
            J = (S[6:] - config.m_aux).clamp_min(0).mean() - (config.m_in - S[:6]).clamp_min(0).mean()
            (gradient,) = torch.autograd.grad(J, again, create_graph=True)
            loss = loss + config.lam_gradient * gradient.square().sum((1, 2, 3)).sqrt().mean()
            for group in optimizer.param_groups:
                group["lr"] = rate(epoch, step)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return network.state_dict()


LOOPED = {**TINY, "epochs": 2, "flip": True, "padding": 1, "m_in": -1.4, "m_aux": -1.21, "evaluate_every": 0}


@pytest.mark.parametrize(
    ("fields", "rate", "optimizer"),
    [
        (
            {"lam_score": 0.5, "lam_gradient": 3.0, "weight_decay": 0.01, "floor": 0.004},
            lambda epoch, step: 0.004 + 0.016 * (1 + math.cos(math.pi * (4 * epoch + step) / 8)) / 2,
            functools.partial(torch.optim.SGD, lr=1, momentum=0.9, nesterov=True, weight_decay=0.01),
        ),
        (
            {"schedule": "steps", "milestones": (1,), "optimizer": "adam", "weight_decay": 0.1, "learning_rate": 1e-3},
            lambda epoch, _step: (1e-3, 1e-4)[epoch],
            functools.partial(torch.optim.Adam, weight_decay=0.1),
        ),
    ],
    ids=["SGD along a cosine", "Adam in steps"],
)
def test_training_is_the_released_loop(fields, rate, optimizer):
    config, data = Config(**(LOOPED | fields)), detection_data()
    *_, last = greg.train(config, data, seed=4, device="cpu")
    assert 0 < last.metrics["indicator_id"] < 1
    assert 0 < last.metrics["indicator_auxiliary"] < 1
    ours, theirs = last.state()["weights"], plainly_trained(config, data, 4, rate, optimizer)
    for name, values in theirs.items():
        if not name.endswith("num_batches_tracked"):
            torch.testing.assert_close(ours[name], values, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "config",
    [
        Config(**TINY, sampling="two_way", dual=True, optimizer="adam"),
        Config(**TINY, sampling="posterior", schedule="steps", milestones=(3,)),
        replace(greg.DOS, **TINY, window=(2, 12)),
    ],
    ids=["two-way, dual, adam", "posterior", "dos"],
)
def test_resuming_gives_the_same_bits(config):
    data = detection_data()
    whole = [(epoch.metrics, epoch.state()) for epoch in greg.train(config, data, seed=3, device="cpu")]
    again = [(e.metrics, e.state()) for e in greg.train(config, data, seed=3, device="cpu", resume=whole[2][1])]
    assert [metrics for metrics, _ in again] == [metrics for metrics, _ in whole[3:]]
    for name, values in again[-1][1]["weights"].items():
        assert torch.equal(values, whole[-1][1]["weights"][name])


def nearest_first(features, w, chosen):
    """Whether no image that was left out is nearer to the boundary of a linear detector than a chosen one."""
    near = (features @ w).abs()
    others = torch.ones(len(features), dtype=torch.bool)
    others[chosen] = False
    return bool(near[chosen].max() <= near[others].min() + 1e-5)


def test_mined_images_are_those_nearest_to_the_boundary_of_a_drawn_detector():
    data, config = detection_data(), Config(**TINY, sampling="posterior")
    network = classifiers.classifier("wrn10_2", 8, 3, 3, torch.Generator().manual_seed(0))
    known = torch.from_numpy(data.train.pixels)
    auxiliary = greg.auxiliary_of(config, data, len(known), "cpu")
    assert (auxiliary.steps, auxiliary.candidates) == (4, 6)
    first = greg.mine(config, network, data, known, auxiliary, None, 5, 0)
    assert len(set(first.tolist())) == 24
    network.eval()
    with torch.no_grad():
        sets = (data.others["auxiliary"], data.train)
        features, seen = (network.features(normalised(each)).double() for each in sets)
    # Before anything is seen every direction is as likely, and its length does not matter.
    w = torch.randn(16, generator=seeding.torch_stream(5, "posterior/0"), dtype=torch.float64)
    assert nearest_first(features, w, first)
    # Then known images should give -3, auxiliary ones 3, with a variance of 0.5; a weight's is 20 before.
    z, y = torch.cat([seen, features[first]]), torch.tensor([-3.0] * 24 + [3.0] * 24, dtype=torch.float64)
    inverse = torch.linalg.inv(z.T @ z / 0.5 + torch.eye(16) / 20)
    again = greg.mine(config, network, data, known, auxiliary, first, 5, 1)
    stream = seeding.torch_stream(5, "posterior/1")
    w = energy_sampling.sampled_detector(inverse @ (z.T @ y) / 0.5, 20 * inverse, stream)
    assert nearest_first(features, w, again)
    assert not nearest_first(features, w, first)
    few = greg.mine(replace(config, pool=24), network, data, known, auxiliary, None, 5, 0)
    pool = torch.randperm(60, generator=seeding.torch_stream(5, "pool/0"))[:24]
    assert sorted(few.tolist()) == sorted(pool.tolist())
    drawn = greg.draw(auxiliary, again, 5, 1)
    assert sorted(drawn.flatten().tolist()) == sorted(again.tolist())


@pytest.mark.parametrize(
    ("fields", "weights"),
    [
        ({"sampling": "greedy"}, "energy"),
        ({"sampling": "one_way"}, "energy"),
        ({"sampling": "two_way"}, "energy"),
        ({"sampling": "one_way", "base": "dos", "lam_gradient": 0.0}, "probability"),
    ],
)
def test_a_step_gets_the_ends_of_the_window_of_candidates_as_the_network_scores_them_in_eval_mode(fields, weights):
    """One cluster: the lowest, and with two ways the highest, of all between the third and the eighteenth."""
    config = Config(**(TINY | {"clusters": 1, "window": (2, 18)} | fields))
    network = classifiers.classifier("wrn10_2", 8, 3, 4, torch.Generator().manual_seed(0)).train()
    x = torch.randn(20, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * torch.linspace(0.2, 3, 20).view(
        -1, 1, 1, 1
    )
    chosen = greg.sampled(config, network, x, torch.Generator().manual_seed(2))
    assert all(part.training for part in network.modules())
    with torch.no_grad():
        logits = torch.cat([network.eval()(one[None]) for one in x])
    low_first = {"energy": -logits.logsumexp(1), "probability": logits.softmax(1)[:, -1]}[weights].argsort()
    wanted = low_first[2:8].tolist() + (low_first[12:18].tolist() if config.sampling == "two_way" else [])
    rows = [int((x == one).flatten(1).all(1).nonzero()) for one in chosen]
    assert sorted(rows) == sorted(wanted)


def normalised(images):
    return (torch.from_numpy(images.pixels).permute(0, 3, 1, 2) / 255 - 0.5) / 0.25


def test_slopes_are_those_of_each_groups_first_images_in_eval_mode():
    data, config = detection_data(), Config(**TINY, gradient_rows=4)
    network = classifiers.classifier("wrn10_2", 8, 3, 3, torch.Generator().manual_seed(0)).train()
    found = greg.steepness(config, network, data, "cpu")
    assert all(part.training for part in network.modules())
    ood = torch.cat([normalised(data.others[name])[:2] for name in ("near_digits", "far_noise")])
    groups = {"id": normalised(data.test)[:4], "auxiliary": normalised(data.others["auxiliary"])[:4], "ood": ood}
    for name, x in groups.items():
        assert found[f"grad_norm_{name}"] == pytest.approx(float(own_norms(network.eval(), x)[0].mean()), rel=1e-4)


def test_accuracy_is_of_the_known_classes_though_a_class_of_its_own_is_likelier():
    data = detection_data()
    network = classifiers.classifier("wrn10_2", 8, 3, 4, torch.Generator().manual_seed(0)).eval()
    with torch.no_grad():
        network.linear.bias[3] = 100
        predicted = network(normalised(data.test))[:, :3].argmax(1).numpy()
    right = float((predicted == data.test.labels).mean())
    assert right > 0
    assert greg.evaluate(greg.DOS, network, data, "cpu")["accuracy"] == pytest.approx(right)


@pytest.mark.parametrize(("base", "known"), [("energy", 4), ("dos", 3)])
def test_what_is_clustered_is_as_the_config_says_and_of_known_classes(base, known, monkeypatch):
    seen = {}

    def clustered(weights, features, logits, **given):
        seen.update(given, logits=logits, features=features)
        return torch.arange(6)

    monkeypatch.setattr(greg.energy_sampling, "clustered", clustered)
    config = Config(**TINY, base=base, lam_gradient=0.0, sampling="two_way", representation="softmax")
    network = classifiers.classifier("wrn10_2", 8, 3, 4, torch.Generator().manual_seed(0)).eval()
    x = torch.randn(20, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    greg.sampled(config, network, x, torch.Generator())
    with torch.no_grad():
        torch.testing.assert_close(seen["logits"], network(x)[:, :known])
        torch.testing.assert_close(seen["features"], network.features(x))
    assert (seen["representation"], seen["count"], seen["batch"]) == ("softmax", 4, 6)


def test_candidates_of_an_epoch_are_all_different_and_their_number_is_the_released_ones():
    config = replace(GREG, sampling="two_way")
    many = Images(np.zeros((3000, 4, 4, 3), dtype=np.uint8), np.full(3000, -1))
    data = detection_data()
    data = Data(data.spec, data.classes, data.train, data.test, {"auxiliary": many}, data.mean, data.std)
    auxiliary = greg.auxiliary_of(config, data, 500, "cpu")
    assert auxiliary.candidates == 384  # 300,000 * 64 / 50,000
    assert auxiliary.steps == 7
    drawn = greg.draw(auxiliary, None, 0, 0)
    assert drawn.shape == (7, 384)
    assert len(set(drawn.flatten().tolist())) == 7 * 384
    half = greg.auxiliary_of(replace(config, pool=1500), data, 500, "cpu")
    assert (half.candidates, half.steps) == (192, 7)
    assert greg.auxiliary_of(replace(config, sampling="random", pool=300), data, 500, "cpu").steps == 4


def test_shares_are_of_rows_on_either_side_of_their_margin():
    logits = torch.tensor([[30.0], [26.0], [20.0], [9.0], [6.0], [5.0], [4.0], [-1.0]])
    found = greg.active_shares(GREG, logits, 3)
    assert {name: round(float(value), 4) for name, value in found.items()} == {
        "energy_id": -25.3333,
        "energy_auxiliary": -4.6,
        "hinge_id": 0.3333,
        "hinge_auxiliary": 0.2,
        "indicator_id": 0.6667,
        "indicator_auxiliary": 0.8,
    }


def test_detection_is_measured_every_so_many_epochs_and_at_the_end():
    config = Config(**(TINY | {"epochs": 5}), evaluate_every=2)
    epochs = greg.train(config, detection_data(), seed=0, device="cpu")
    assert ["auroc" in epoch.metrics for epoch in epochs] == [False, True, False, True, True]


def test_dual_ascent_moves_the_weight_by_how_far_the_term_is_from_its_target():
    config = Config(**TINY, dual=True, indicator="off", evaluate_every=0)
    first = next(greg.train(config, detection_data(), seed=0, device="cpu")).metrics
    steps = 4
    assert first["lam_gradient"] == pytest.approx(1 + 0.1 * steps * (first["gradient_term"] - 0.01), rel=1e-5)


def test_fine_tuning_starts_from_what_another_trial_left():
    data = detection_data()
    first = pretraining.Config(network="wrn10_2", width=8, batch=6, pretraining_epochs=3, flip=False, padding=0)
    *_, trained = pretraining.train(first, data, seed=0, device="cpu")
    state = trained.state()
    config = Config(**{**TINY, "epochs": 1, "learning_rate": 1e-9, "floor": 1e-9}, start=Needed("pretraining", first))
    tuned = next(greg.train(config, data, seed=0, device="cpu", start=state)).state()
    network = classifiers.rebuild(tuned["network"], tuned["weights"])
    for name, weight in network.named_parameters():
        torch.testing.assert_close(weight, state["weights"][name])
    assert (
        next(iter(greg.train(config, data, seed=0, device="cpu", start=state))).metrics["accuracy"]
        == (trained.metrics["accuracy"])
    )


def test_a_start_that_is_missing_or_of_another_network_is_refused():
    config = Config(**TINY, start=Needed("pretraining", pretraining.Config()))
    with pytest.raises(ValueError, match="no network to start from"):
        next(greg.train(config, detection_data(), seed=0, device="cpu"))
    other = classifiers.classifier("wrn10_2", 4, 3, 3, torch.Generator().manual_seed(0))
    state = {"network": other.description, "weights": other.state_dict()}
    with pytest.raises(ValueError, match="'width': 4"):
        next(greg.train(config, detection_data(), seed=0, device="cpu", start=state))


# Bad input

OF_THE_LOSS = {"base": "oe", "gradient_of": "loss", "indicator": "off"}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"m_in": -7.0}, "m_in must be finite and below m_aux"),
        ({"m_in": -5.0}, "m_in must be finite and below m_aux"),
        ({"m_in": -math.inf}, "m_in must be finite"),
        ({"clusters": 65, "candidates": 64, "sampling": "one_way"}, "clusters must be at most the 64 candidates"),
        ({"window": (10, 10)}, "window must be two places"),
        ({"window": (10, 73), "sampling": "greedy"}, "batch=64 candidates lie in it, not 63"),
        ({"window": (90, 500), "candidates": 80, "sampling": "two_way"}, "window must be such that .* not 0"),
        ({"candidates": 10}, "candidates must be none, or at least batch=64"),
        ({"base": "dos"}, "gradient_of must be one of loss"),
        ({"gradient_of": "msp"}, "indicator must be 'off'"),
        ({**OF_THE_LOSS, "where": "id"}, "where must be 'both' where gradient_of is 'loss'"),
        ({**OF_THE_LOSS, "reduction": "paper"}, "reduction must be 'code' where gradient_of is 'loss'"),
        ({"gradient_batch_norm": "eval"}, "updates must be 'once'"),
        ({"lam_gradient": 0.0, "dual": True}, "dual must be false"),
        ({"base": "dos", "lam_gradient": 0.0, "start": Needed("pretraining", pretraining.Config())}, "start must be"),
        ({"learning_rate": 0.0}, "learning_rate must be above 0"),
        ({"gradient_rows": -1}, "gradient_rows must be at least 0"),
        ({"sampling": "one_way", "clusters": 0}, "clusters must be none, or at least 1"),
    ],
)
def test_configs_that_contradict_themselves_are_refused(fields, message):
    with pytest.raises(ConfigError, match=message):
        Config(**fields)


def test_data_without_auxiliary_images_are_refused_before_a_network_is_pretrained_on_them():
    check = METHODS["greg"].check
    assert check is not None
    for name, protocol in PROTOCOLS.items():
        given = {"start": DataSpec(protocol=name)}
        if any(each.startswith("auxiliary") for each in protocol.outside):
            check(GREG, DataSpec(protocol=name), given)
            continue
        with pytest.raises(
            ConfigError, match=rf"'{re.escape(name)}' has no auxiliary images\. .*: digits-ood, cifar10"
        ):
            check(GREG, DataSpec(protocol=name), given)


def test_auxiliary_sets_that_do_not_suit_are_refused():
    config = Config(**TINY)
    with pytest.raises(ConfigError, match=r"no auxiliary images\. Those that have: digits-ood"):
        next(greg.train(config, open_set(), seed=0, device="cpu"))
    with pytest.raises(ConfigError, match="has 4 images; set batch to at most that"):
        next(greg.train(config, detection_data(auxiliary=4), seed=0, device="cpu"))
    many = replace(config, sampling="two_way", candidates=61)
    with pytest.raises(ConfigError, match="has 60 images; set candidates to at most 60"):
        next(greg.train(many, detection_data(), seed=0, device="cpu"))
    with pytest.raises(ConfigError, match=r"60 images, of which an epoch draws from pool=20; .* at most 20"):
        next(greg.train(replace(many, pool=20), detection_data(), seed=0, device="cpu"))
    few = replace(config, sampling="one_way", clusters=30)
    with pytest.raises(ConfigError, match=r"15 for a step of 6 known images; .* there must be 30"):
        next(greg.train(few, detection_data(), seed=0, device="cpu"))


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"sampling": "greedy"},
        {"sampling": "two_way"},
        {"sampling": "two_way", "representation": "pca"},
        {"sampling": "posterior"},
    ],
    ids=lambda fields: " ".join(fields.values()) or "random",
)
def test_energies_that_are_not_finite_end_the_training(fields):
    config = Config(**{**TINY, "learning_rate": 1e18}, **fields)
    with pytest.raises(Diverged, match="a lower learning rate may help"):
        list(greg.train(config, detection_data(), seed=0, device="cpu"))
