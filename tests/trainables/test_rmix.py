"""R-Mix: golden numbers of the released code, the step written plainly from the equations, properties, bad input."""

import importlib.util
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tests.trainables.toys import open_set
from tests.trainables.watched import Watched
from trainables import classifiers, rmix
from trainables.config import ConfigError
from trainables.protocol import Diverged
from trainables.rmix import Config

GOLDEN = Path(__file__).parents[1] / "golden" / "mixing"
TINY = Config(width=4, epochs=2, batch=8)
MIXES = ("vanilla", "mixup", "manifold", "cutmix", "saliencymix", "fmix", "resizemix", "gridmix", "rmix")
CUTS = ("puzzlemix", "comixup")
"""Mixes that need the extra 'graphcut'."""
INSTALLED = pytest.mark.skipif(importlib.util.find_spec("maxflow") is None, reason="needs the extra 'graphcut'")


def golden(name: str) -> dict[str, torch.Tensor]:
    with np.load(GOLDEN / f"{name}.npz") as file:
        return {key: torch.from_numpy(np.array(file[key])) for key in file.files}


def close(found, wanted) -> None:
    torch.testing.assert_close(found, wanted.to(found.dtype), atol=1e-5, rtol=0)


# Golden numbers


class Released(nn.Module):
    """The network of R1."""

    def __init__(self, g):
        super().__init__()
        self.conv, self.bn, self.fc = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Linear(256, 7)
        self.load_state_dict({name[6:].replace("_", ".", 1): value for name, value in g.items() if "model_" in name})

    def forward(self, x):
        return self.fc(F.avg_pool2d(torch.tanh(self.bn(self.conv(x))), 4).flatten(1))


def test_saliency_and_maps_are_those_of_the_released_code():
    g = golden("R1_rmix_saliency")
    network = Released(g).train()
    x = g["x"].requires_grad_()
    logits = network(x)
    loss = rmix.saliency_loss(logits, g["y"])
    phi = rmix.saliency(torch.autograd.grad(loss, x)[0])
    close(logits, g["logits_train_mode"])
    close(loss, g["saliency_loss"])
    close(phi, g["saliency_raw"])
    torch.testing.assert_close(phi, g["saliency_raw"], atol=0, rtol=1e-3)
    for kernel, name in ((8, "sal_pool_norm_k8"), (16, "sal_pool_norm_k16"), (4, "agent_saliency_norm_k4")):
        close(rmix.normalised(rmix.pooled(phi, 32 // kernel)), g[name])
    torch.testing.assert_close(rmix.pooled(phi, 8), g["original_saliency_pool_k4_unnormalised"], atol=0, rtol=1e-3)
    close(rmix.normalised(rmix.pooled(phi, 4)), 64 * g["paper_order_k8"])
    close(network.bn.running_mean, g["bn_running_mean_after"])
    close(network.bn.running_var, g["bn_running_var_after"])


def test_mixing_is_that_of_the_released_code():
    g = golden("R2_rmix_mix_p4")
    close(rmix.thresholds(g["saliency"], g["q"]), g["quantile"])
    assert torch.equal(rmix.masks(g["saliency"], g["q"]), g["mask"])
    x, y = rmix.rmix(g["x"], g["y"], g["saliency"], g["q"], g["lam"], g["perm"], 5)
    close(x, g["mixed_x"])
    close(y, g["mixed_y"])


def test_losses_are_those_of_the_released_code():
    g = golden("R5_rmix_losses")
    close(rmix.soft_cross_entropy(g["logits"], g["soft_targets"]), g["soft_ce"])
    close(rmix.binary_cross_entropy(g["logits"], g["soft_targets"]), g["bce_on_softmax"])


# The maths, against loops and limits


def test_thresholds_are_torchs_quantiles():
    z = torch.rand(10, 4, 4, generator=torch.Generator().manual_seed(0))
    z[3] = 0.25
    for q in rmix.levels(10).tolist():
        wanted = torch.stack([torch.quantile(each.flatten(), q) for each in z])
        torch.testing.assert_close(rmix.thresholds(z, torch.full((10,), q)), wanted, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("p", "active"), [(2, (4, 3, 3, 3, 2, 2, 2, 1, 1, 1)), (4, (16, 14, 12, 11, 9, 7, 6, 4, 2, 1))]
)
def test_how_many_patches_are_salient_at_each_level(p, active):
    z = torch.rand(1, p, p, generator=torch.Generator().manual_seed(1)).expand(10, p, p)
    found = rmix.masks(z, torch.from_numpy(rmix.levels(10))).sum((1, 2))
    assert tuple(found.int().tolist()) == active


def test_levels_include_both_ends():
    for count in (2, 5, 10, 16, 20):
        grid = rmix.levels(count)
        assert grid.dtype == np.float32
        np.testing.assert_allclose(grid, [0.99 * i / (count - 1) for i in range(count)], rtol=1e-6)


def test_a_map_of_zeros_is_uniform_and_wholly_salient():
    z = rmix.normalised(torch.zeros(2, 4, 4))
    assert torch.equal(z, torch.full((2, 4, 4), 1 / 16))
    assert bool((rmix.masks(z, torch.tensor([0.0, 0.99])) == 1).all())


def slow_mix(x, y, mask, lam, partner, classes):
    """Eq 6 and 7, pixel by pixel."""
    count, _, height, width = x.shape
    size = height // mask.shape[1]
    mixed, labels = torch.zeros_like(x), torch.zeros(count, classes)
    for b in range(count):
        other = int(partner[b])
        for i in range(height):
            for j in range(width):
                mine, theirs = float(mask[b, i // size, j // size]), float(mask[other, i // size, j // size])
                own, rest = (lam, 1 - lam) if mine == theirs else (mine, theirs)
                mixed[b, :, i, j] = own * x[b, :, i, j] + rest * x[other, :, i, j]
                labels[b, y[b]] += own / (height * width)
                labels[b, y[other]] += rest / (height * width)
    return mixed, labels


@given(seed=st.integers(0, 1000), p=st.sampled_from([1, 2, 4, 8]), lam=st.floats(0, 1))
@settings(max_examples=15, deadline=None)
def test_mixing_is_equations_6_and_7(seed, p, lam):
    random = torch.Generator().manual_seed(seed)
    x, y = torch.rand(4, 2, 8, 8, generator=random), torch.randint(3, (4,), generator=random)
    z, q = torch.rand(4, p, p, generator=random), torch.rand(4, generator=random)
    partner = torch.randperm(4, generator=random)
    found_x, found_y = rmix.rmix(x, y, z, q, lam, partner, 3)
    wanted_x, wanted_y = slow_mix(x, y, rmix.masks(z, q), lam, partner, 3)
    torch.testing.assert_close(found_x, wanted_x, atol=1e-6, rtol=0)
    torch.testing.assert_close(found_y, wanted_y, atol=1e-5, rtol=0)
    torch.testing.assert_close(found_y.sum(1), torch.ones(4), atol=1e-6, rtol=0)


def test_percentile_zero_is_mixup_and_an_own_partner_changes_nothing():
    random = torch.Generator().manual_seed(3)
    x, y = torch.rand(6, 3, 8, 8, generator=random), torch.arange(6)
    z, q, partner = torch.rand(6, 4, 4, generator=random), torch.rand(6, generator=random), torch.arange(5, -1, -1)
    mixed, labels = rmix.rmix(x, y, z, torch.zeros(6), 0.3, partner, 6)
    torch.testing.assert_close(mixed, 0.3 * x + 0.7 * x[partner])
    torch.testing.assert_close(labels, 0.3 * torch.eye(6) + 0.7 * torch.eye(6)[partner])
    mixed, labels = rmix.rmix(x, y, z, q, 0.3, y, 6)
    assert torch.equal(mixed, x)
    torch.testing.assert_close(labels, torch.eye(6))


# What is drawn


def test_an_epochs_draws_are_of_the_right_kind():
    config = replace(TINY, patches=(2, 4, 8), probability=0.5)
    draws = rmix.draw(config, 0, 0, 8 * 200 + 3, "cpu")
    everyone = torch.arange(8).expand(200, 8)
    assert torch.equal(draws.order_SB.flatten().unique(), draws.order_SB.flatten().sort().values)
    assert torch.equal(draws.partner_SB.sort(1).values, everyone)
    torch.testing.assert_close(draws.q_SB.unique(), torch.from_numpy(rmix.levels(10)))
    assert draws.lam_SB.shape == (200, 1)
    np.testing.assert_allclose(draws.lam_SB[:, 0], draws.lam_S, atol=1e-6)
    assert set(draws.p_S) == {2, 4, 8}
    assert 60 < sum(draws.mixed_S) < 140
    fixed = rmix.draw(replace(config, partner="flip", lam_per="sample", quantile_per="batch"), 0, 0, 1600, "cpu")
    assert torch.equal(fixed.partner_SB, everyone.flip(1))
    assert fixed.lam_SB.shape == (200, 8)
    assert bool((fixed.q_SB == fixed.q_SB[:, :1]).all())
    assert torch.equal(fixed.q_SB[:, 0], rmix.draw(config, 0, 0, 1600, "cpu").q_SB[:, 0])


def test_streams_are_each_ones_own():
    """Two arms that differ in one draw share all others; another epoch shares none."""
    one = rmix.draw(TINY, 0, 0, 80, "cpu")
    other = rmix.draw(replace(TINY, levels=5, alpha=0.2, patches=(1, 2, 4)), 0, 0, 80, "cpu")
    assert torch.equal(one.order_SB, other.order_SB)
    assert torch.equal(one.partner_SB, other.partner_SB)
    later = rmix.draw(TINY, 0, 1, 80, "cpu")
    assert not torch.equal(one.order_SB, later.order_SB)
    assert not torch.equal(one.lam_SB, later.lam_SB)


# A step


def a_step(config, *, count=6, side=16, classes=4):
    random = torch.Generator().manual_seed(5)
    network = classifiers.classifier("preactresnet18", 4, 3, classes, random).train()
    draws = rmix.draw(replace(config, batch=count), 0, 0, count, "cpu")
    step = rmix.Step(
        torch.randn(count, 3, side, side, generator=random),
        torch.randint(classes, (count,), generator=random),
        draws.partner_SB[0],
        draws.q_SB[0],
        draws.lam_SB[0],
        float(draws.lam_S[0]),
        draws.p_S[0],
        True,
        np.random.default_rng(0),
    )
    return network, step


@pytest.mark.parametrize("clean", [0.0, 1.0])
def test_a_step_is_the_two_passes_of_the_released_loop(clean):
    """Clean pass, map, masks, mixed pass: with `backward` and `zero_grad` as there, and torch's own parts."""
    network, step = a_step(TINY)
    twin, _ = a_step(TINY)
    config = replace(TINY, clean_weight=clean)
    rmix.step_loss(config, network, step, 4)["loss"].backward()

    x = step.x_BCHW.clone().requires_grad_()
    F.cross_entropy(twin(x), step.labels_B).backward()
    phi = (x.grad**2).mean(1).sqrt()
    if not clean:
        twin.zero_grad()
    z = F.adaptive_avg_pool2d(phi, step.p)
    z = z / z.sum((1, 2), keepdim=True)
    cut = torch.stack([torch.quantile(one.flatten(), float(q)) for one, q in zip(z, step.q_B, strict=True)])
    mask = (z >= cut.view(-1, 1, 1)).float()
    mixed, labels = slow_mix(step.x_BCHW, step.labels_B, mask, step.lam, step.partner_B, 4)
    F.cross_entropy(twin(mixed), labels).backward()

    for one, other in zip(network.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, atol=1e-5, rtol=1e-4)
    for one, other in zip(network.buffers(), twin.buffers(), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize(("loss", "share"), [("ce", 1.0), ("bce", 2 / 4)])
def test_the_clean_images_add_their_cross_entropy_or_as_comixup_has_it(loss, share):
    """Of four classes."""
    found = []
    for clean in (0.0, 1.0):
        network, step = a_step(TINY)
        config = replace(TINY, loss=loss, clean_weight=clean)
        found.append(float(rmix.step_loss(config, network, step, 4)["loss"].detach()))
    network, step = a_step(TINY)
    added = share * float(F.cross_entropy(network(step.x_BCHW), step.labels_B).detach())
    assert found[1] - found[0] == pytest.approx(added, abs=1e-5)


@pytest.mark.parametrize("mix", [*MIXES, *CUTS])
def test_a_batch_that_is_not_mixed_is_trained_as_it_is(mix):
    config = replace(TINY, mix=mix)
    network, step = a_step(config)
    loss = rmix.step_loss(config, network, replace(step, mixed=False), 4)["loss"]
    twin, _ = a_step(config)
    torch.testing.assert_close(loss, F.cross_entropy(twin(step.x_BCHW), step.labels_B))


def test_mixes_are_told_what_was_drawn_and_chosen(monkeypatch):
    heard = {}

    def cut(x, phi, partner, lam, n, std):
        heard["puzzlemix"] = (lam, std)
        return x, torch.ones(len(x), 1)

    def joined(x, phi, alpha, random):
        heard["comixup"] = alpha
        return x, torch.eye(len(x))

    def by_hand(mix, x, partner, lam, alpha, random):
        heard[mix] = (lam, alpha)
        return x, 1.0

    monkeypatch.setattr(rmix.puzzlemix, "puzzlemix", cut)
    monkeypatch.setattr(rmix.comixup, "comixup", joined)
    monkeypatch.setattr(rmix.mixes, "by_hand", by_hand)
    for mix in ("puzzlemix", "comixup", "resizemix"):
        config = replace(TINY, mix=mix, alpha=0.7)
        network, step = a_step(config)
        rmix.step_loss(config, network, replace(step, std=(0.2, 0.3, 0.4)), 4)
    assert heard == {"puzzlemix": (step.lam, (0.2, 0.3, 0.4)), "comixup": 0.7, "resizemix": (step.lam, 0.7)}


def statistics(network):
    return [part.running_mean.clone() for part in network.modules() if isinstance(part, nn.BatchNorm2d)]


def test_the_saliency_pass_updates_batch_norm_as_asked():
    after = {}
    for mode in ("train", "eval", "frozen"):
        network, step = a_step(TINY)
        with rmix.batch_norm_mode(network, mode):
            before, logits = statistics(network), network(step.x_BCHW)
            changed = any(not torch.equal(a, b) for a, b in zip(before, statistics(network), strict=True))
        after[mode] = logits
        assert changed == (mode == "train")
        assert all(p.training and p.track_running_stats for p in network.modules() if isinstance(p, nn.BatchNorm2d))
    assert torch.equal(after["train"], after["frozen"])
    assert not torch.allclose(after["train"], after["eval"])


def test_a_clean_pass_moves_batch_norm_twice_and_nothing_else():
    config = replace(TINY, mix="cutmix")
    network, step = a_step(config)
    twin, _ = a_step(config)
    loss = rmix.step_loss(replace(config, clean_pass=True), network, step, 4)["loss"]
    twin(step.x_BCHW)
    again = rmix.step_loss(config, twin, replace(step, random=np.random.default_rng(0)), 4)["loss"]
    assert torch.equal(loss, again)
    assert all(torch.equal(one, other) for one, other in zip(network.buffers(), twin.buffers(), strict=True))
    assert {int(part.num_batches_tracked) for part in network.modules() if isinstance(part, nn.BatchNorm2d)} == {2}


def test_manifold_mixup_at_the_input_is_mixup():
    network, step = a_step(replace(TINY, mix="manifold"))
    layer = {int(np.random.default_rng(seed).integers(3)): seed for seed in range(30)}
    losses = {}
    for after, seed in sorted(layer.items()):
        at = replace(step, random=np.random.default_rng(seed))
        losses[after] = float(rmix.step_loss(replace(TINY, mix="manifold"), network, at, 4)["loss"].detach())
    mixup = float(rmix.step_loss(replace(TINY, mix="mixup"), network, step, 4)["loss"].detach())
    assert set(losses) == {0, 1, 2}
    assert losses[0] == pytest.approx(mixup, abs=1e-6)
    assert len(set(losses.values())) == 3


@pytest.mark.parametrize("mix", MIXES)
def test_a_step_never_waits_for_the_device(mix):
    config = replace(TINY, mix=mix)
    network, step = a_step(config)
    with Watched() as watched:
        rmix.step_loss(config, network, step, 4)["loss"].backward()
    assert not watched.reads


def test_the_saliency_pass_asks_for_no_gradients_of_weights():
    network, step = a_step(TINY)
    convolutions = sum(isinstance(part, nn.Conv2d) for part in network.modules())
    with Watched() as watched:
        rmix.step_loss(TINY, network, step, 4)["loss"].backward()
    assert watched.asked == [False] * convolutions + [True] * convolutions


# Config and training


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"patches": ()}, "at least one number"),
        ({"patches": (0,)}, "numbers of at least 1"),
        ({"patches": (2, 2)}, "different numbers"),
        ({"levels": 1}, "levels=1 is not allowed: levels must be at least 2"),
        ({"alpha": 0.0}, "alpha must be above 0"),
        ({"alpha": -1.0}, "alpha must be above 0"),
        ({"alpha": math.nan}, "alpha"),
        ({"batch": 1}, "an image alone has no partner"),
        ({"probability": 1.5}, "a probability"),
        ({"mix": "cutmix", "lam_per": "sample"}, "one lam for the batch"),
        ({"mix": "mixup", "clean_weight": 1.0}, "no saliency pass"),
        ({"clean_pass": True}, "clean_pass must be false where there is a saliency pass"),
        ({"saliency_mode": "eval", "clean_weight": 1.0}, "saliency_mode"),
        ({"mix": "puzzle"}, "mix must be one of"),
        ({"mix": "puzzlemix", "lam_per": "sample"}, "one lam for the batch"),
        ({"learning_rate": math.inf}, "learning_rate"),
        ({"milestones": (200, 100)}, "milestones"),
        ({"momentum": 0.0, "cycle_momentum": False}, "nesterov"),
        ({"padding": -1}, "padding"),
        ({"crop": 0.0}, "crop must be above 0"),
        ({"width": 0}, "width=0"),
    ],
)
def test_a_bad_config_says_what_is_allowed(changes, message):
    with pytest.raises(ConfigError, match=message):
        replace(Config(), **changes)


@pytest.mark.parametrize("patches", [(3,), (2, 32)])
def test_patches_that_do_not_divide_the_images_say_which_do(patches):
    with pytest.raises(ConfigError, match=r"does not divide images of 16 x 16 pixels.*1, 2, 4, 8, 16"):
        next(rmix.train(replace(TINY, patches=patches), open_set(), seed=0, device="cpu"))


def test_constants_for_three_channels_are_refused_on_grey_images():
    with pytest.raises(ConfigError, match="have 1"):
        next(rmix.train(replace(TINY, colour="released"), open_set(channels=1), seed=0, device="cpu"))


@pytest.mark.parametrize("mix", [*MIXES, *(pytest.param(mix, marks=INSTALLED) for mix in CUTS)])
def test_every_mix_trains_and_resumes_to_the_same_numbers(mix):
    config = replace(TINY, mix=mix, loss="bce" if mix == "cutmix" else "ce")
    data = open_set()
    first, second = ((dict(e.metrics), e.state()) for e in rmix.train(config, data, seed=1, device="cpu"))
    ((again, state),) = (
        (e.metrics, e.state()) for e in rmix.train(config, data, seed=1, device="cpu", resume=first[1])
    )
    assert again == second[0]
    assert all(torch.equal(state["weights"][name], weight) for name, weight in second[1]["weights"].items())
    assert second[0]["accuracy_best"] == max(first[0]["accuracy"], second[0]["accuracy"])
    assert "fgsm_error" in second[0]
    assert "fgsm_error" not in first[0]


@pytest.mark.parametrize("mix", CUTS)
def test_without_its_package_a_graph_cut_names_the_extra(mix, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=rf"mix='{mix}' needs graph cuts.*the extra 'graphcut'.*\.\[graphcut\]"):
        next(rmix.train(replace(TINY, mix=mix), open_set(), seed=0, device="cpu"))


@INSTALLED
@pytest.mark.parametrize(("mix", "side"), [("puzzlemix", 7), ("comixup", 10), ("comixup", 4)])
def test_images_that_a_grid_does_not_fit_say_so(mix, side):
    with pytest.raises(ConfigError, match=rf"is not defined for images of {side} x {side} pixels.*multiple of"):
        next(rmix.train(replace(TINY, mix=mix, patches=(1,)), open_set(side=side), seed=0, device="cpu"))


def test_mixes_train_different_networks():
    data, config = open_set(), replace(TINY, epochs=1)
    losses = {mix: next(rmix.train(replace(config, mix=mix), data, seed=0, device="cpu")).metrics for mix in MIXES}
    assert len({metrics["loss"] for metrics in losses.values()}) == len(MIXES)


@pytest.mark.parametrize(
    "changes",
    [
        {"schedule": "multi_step", "milestones": (1,)},
        {"schedule": "imagenet_fast", "decay_norms": False},
        {"lam_per": "sample"},
        {"quantile_per": "batch"},
        {"partner": "flip"},
        {"crop": 0.3},
        {"patch_unit": "pixels"},
        {"keep": "least"},
        {"saliency_mode": "eval"},
        {"saliency_mode": "frozen"},
        {"clean_weight": 1.0},
        {"cycle_momentum": False},
        {"precision": "bf16"},
        {"mix": "cutmix", "box": "real"},
        {"mix": "cutmix", "clean_pass": True},
        {"probability": 0.0},
    ],
)
def test_every_option_changes_the_training(changes):
    base = replace(TINY, mix=changes.get("mix", "rmix"))
    *_, plain = rmix.train(base, open_set(), seed=0, device="cpu")
    *_, varied = rmix.train(replace(base, **changes), open_set(), seed=0, device="cpu")
    assert plain.metrics != varied.metrics


def test_saliency_of_the_training_loss_is_another_one_with_binary_cross_entropy_alone():
    for loss, same in (("ce", True), ("bce", False)):
        found = []
        for of in ("ce", "training"):
            config = replace(TINY, loss=loss, saliency_of=of, epochs=1)
            found.append(next(rmix.train(config, open_set(), seed=0, device="cpu")).metrics)
        assert (found[0] == found[1]) == same
    network, step = a_step(TINY)
    phi, clean, logits = rmix.saliency_pass(replace(TINY, loss="bce", saliency_of="training"), network, step)
    hot = F.one_hot(step.labels_B, 4).float()
    assert float(clean.detach()) == pytest.approx(float(F.binary_cross_entropy(logits.softmax(1), hot)), abs=1e-6)
    assert phi.shape == (6, 16, 16)


def test_the_order_of_pooling_and_dividing_leaves_no_trace_in_masks():
    random = torch.Generator().manual_seed(0)
    phi, q = torch.rand(20, 16, 16, generator=random), torch.from_numpy(rmix.levels(20))
    for p in (1, 2, 4, 8):
        first, then = rmix.maps(phi, p), rmix.maps(phi, p, pool_first=False)
        torch.testing.assert_close(then * (16 / p) ** 2, first)
        assert torch.equal(rmix.masks(first, q), rmix.masks(then, q))


def test_the_least_salient_patches_and_their_labels_can_be_kept():
    x = torch.stack([torch.zeros(1, 2, 2), torch.ones(1, 2, 2)])
    z = torch.tensor([[[0.7, 0.1], [0.1, 0.1]], [[0.1, 0.1], [0.1, 0.7]]])
    q, partner = torch.tensor([0.99, 0.99]), torch.tensor([1, 0])
    most, labels = rmix.rmix(x, torch.tensor([0, 1]), z, q, 0.5, partner, 2)
    assert most[0, 0].tolist() == [[0.0, 0.5], [0.5, 1.0]]
    least, swapped = rmix.rmix(x, torch.tensor([0, 1]), z, q, 1.0, partner, 2, "least")
    assert least[0, 0].tolist() == [[1.0, 0.0], [0.0, 0.0]]
    assert labels[0].tolist() == [0.5, 0.5]
    assert swapped[0].tolist() == [0.75, 0.25]


@pytest.mark.parametrize(("patches", "pixels"), [((2,), (8,)), ((4,), (4,)), ((16,), (1,))])
def test_patches_can_be_given_by_their_pixels(patches, pixels):
    data = open_set()
    one = [e.metrics for e in rmix.train(replace(TINY, patches=patches), data, seed=0, device="cpu")]
    other = replace(TINY, patches=pixels, patch_unit="pixels")
    assert [e.metrics for e in rmix.train(other, data, seed=0, device="cpu")] == one


def test_a_network_learns_and_its_state_rebuilds_it():
    data = open_set(per_class=24)
    config = replace(TINY, mix="vanilla", epochs=8, learning_rate=0.05, flip=False, padding=0)
    *_, last = rmix.train(config, data, seed=0, device="cpu")
    assert last.metrics["accuracy"] > 0.9
    state = last.state()
    network = classifiers.rebuild(state["network"], state["weights"])
    x, labels = next(rmix.classification.batches(data.test, "cpu", 500))
    predicted = network(rmix.augment.normalise(x, data.mean, data.std)).argmax(1)
    assert float((predicted == labels).double().mean()) == last.metrics["accuracy"]


@pytest.mark.parametrize("end_divisor", [1e4, 100.0])
@pytest.mark.parametrize("cycle", [True, False])
def test_a_run_has_torchs_rates_at_every_step(end_divisor, cycle):
    config = replace(TINY, epochs=4, end_divisor=end_divisor, cycle_momentum=cycle)
    weight = nn.Parameter(torch.zeros(1))
    theirs = torch.optim.SGD([weight], lr=1.0, momentum=0.9, nesterov=True)
    options = {"total_steps": 4 * 5, "div_factor": 100, "final_div_factor": end_divisor, "cycle_momentum": cycle}
    scheduler = torch.optim.lr_scheduler.OneCycleLR(theirs, max_lr=config.learning_rate, **options)
    ours = rmix.optimizer_of(config, nn.Linear(2, 2), "cpu")
    for n in range(20):
        rmix.set_rates(config, ours, n // 5, n % 5, 5)
        for name in ("lr", "momentum", "nesterov"):
            assert ours.param_groups[0][name] == pytest.approx(theirs.param_groups[0][name], rel=1e-9), (n, name)
        theirs.step()
        if n < 19:
            scheduler.step()
    assert not rmix.optimizer_of(replace(TINY, nesterov=False), nn.Linear(2, 2), "cpu").defaults["nesterov"]


def test_the_fast_schedule_is_stretched_to_the_runs_epochs():
    """Of 50 epochs the 2nd, 4th and 20th begin where the 4th, 8th and 40th of 100 do; half a step further on, too."""
    config = replace(TINY, schedule="imagenet_fast", epochs=50)
    optimizer, found = rmix.optimizer_of(config, nn.Linear(2, 2), "cpu"), []
    for epoch, s in ((0, 0), (2, 0), (4, 0), (20, 0), (1, 2)):
        rmix.set_rates(config, optimizer, epoch, s, 4)
        found.append(optimizer.param_groups[0]["lr"])
    assert found == pytest.approx([0.5, 0.75, 1.0, 0.02, 0.5 + 0.5 * 3 / 8])


def test_released_colours_are_those_of_the_code_and_show_the_same_pixels():
    data = open_set()
    pixels, labels = rmix.loop.resident(data, TINY.batch, "cpu")
    plain, released = (
        next(rmix.batches(replace(TINY, colour=colour), data, pixels, labels, 0, 0))
        for colour in ("protocol", "released")
    )
    mean, std = (torch.tensor(each).view(3, 1, 1) / 255 for each in ((129.3, 124.1, 112.4), (68.2, 65.4, 70.4)))
    torch.testing.assert_close(released.x_BCHW * std + mean, plain.x_BCHW * 0.25 + 0.5)
    assert plain.std == data.std
    assert released.std == pytest.approx(std.flatten().tolist())


def test_weights_that_blow_up_are_reported():
    config = replace(TINY, mix="vanilla", learning_rate=1e30, schedule="multi_step")
    with pytest.raises(Diverged, match="In epoch"):
        list(rmix.train(config, open_set(), seed=0, device="cpu"))


def test_batch_norms_are_spared_where_asked():
    network = classifiers.classifier("wrn16_8", 4, 3, 4, torch.Generator().manual_seed(0))
    decayed, plain = rmix.optimizer_of(replace(TINY, decay_norms=False), network, "cpu").param_groups
    norms = [weight for part in network.modules() if isinstance(part, nn.BatchNorm2d) for weight in part.parameters()]
    assert {id(weight) for weight in plain["params"]} == {id(weight) for weight in norms}
    assert (decayed["weight_decay"], plain["weight_decay"]) == (1e-4, 0.0)
    (everything,) = rmix.optimizer_of(TINY, network, "cpu").param_groups
    assert len(everything["params"]) == len(decayed["params"]) + len(plain["params"])
