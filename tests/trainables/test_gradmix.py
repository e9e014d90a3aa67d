"""GradMix: a whole step against one written plainly from the equations, and what must hold of its training."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from tests.trainables.toys import open_set
from trainables import backbones, contrastive, gradmix, openset, seeding
from trainables.config import ConfigError
from trainables.gradmix import MOCO, PAPER, RELEASED, Config
from trainables.protocol import Diverged

TINY = Config(width=4, epochs=2, batch=8, k=3, intrinsic_dimension=False)
TINY_MOCO = replace(
    MOCO, width=4, epochs=2, batch=8, k=3, intrinsic_dimension=False, moco_queue=20, moco_momentum=0.9, milestones=(0,)
)


@pytest.fixture(scope="module")
def data():
    return open_set()


def run(config, data, *, seed=0, resume=None):
    """Metrics and state of every epoch."""
    return [
        (dict(epoch.metrics), epoch.state())
        for epoch in gradmix.train(config, data, seed=seed, device="cpu", resume=resume)
    ]


def same(first, second) -> bool:
    """Whether two states are equal bit for bit."""
    if isinstance(first, torch.Tensor):
        return torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(same, first, second))
    return first == second


def trained(state) -> dict[str, torch.Tensor]:
    """What the optimiser updates: the weights without batch norm's statistics."""
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    return {name: value for name, value in state["weights"].items() if not name.endswith(statistics)}


# Config


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 0}, "width=0 is not allowed: width must be at least 1"),
        ({"temperature": 0.0}, "temperature"),
        ({"learning_rate": math.inf}, "learning_rate"),
        ({"learning_rate": math.nan}, "learning_rate"),
        ({"theta": -1.0}, "theta"),
        ({"theta": 0.0, "lam": 0.0}, "nothing is left to train on"),
        ({"stages": "two", "first_lam": 0.0}, "first_theta"),
        ({"base_temperature": 0.0}, "base_temperature"),
        ({"jitter": 1.5}, "a probability"),
        ({"crop_scale": 0.0}, "crop_scale"),
        ({"size_range": (0.5, 0.1)}, "size_range"),
        ({"size_range": (0.0, 0.1)}, "size_range"),
        ({"size_range": (0.5, 1.1)}, "size_range"),
        ({"layers": ()}, "at least one layer"),
        ({"layers": ("conv5_2", "conv5_2")}, "different layers"),
        ({"layers": ("conv6_2",)}, "conv2_2"),
        ({"mix": "mixup", "mix_weight": "effective"}, "mix_weight"),
        ({"milestones": (160, 120)}, "milestones"),
        ({"sign": 0}, "sign"),
        ({"k": 0}, "k=0"),
        ({"batch": 1}, "an image alone has no negatives"),
        ({"base_temperature": math.inf}, "base_temperature"),
        ({"lam": 0.0, "mix_supcon": True}, "mix_supcon"),
        ({"stages": "two", "first_theta": 1.0, "first_lam": 0.0, "mix_supcon": True}, "mix_supcon"),
        ({"ssl": "moco"}, "theta"),
        ({"ssl": "moco", "theta": 0.0}, "views"),
        ({"ssl": "moco", "theta": 0.0, "views": 1, "mix_form": "clean_all"}, "mix_form"),
        ({"ssl": "moco", "theta": 0.0, "views": 1, "moco_queue": 255}, "moco_queue"),
        ({"ssl": "moco", "theta": 0.0, "views": 1, "stages": "two"}, "stages"),
    ],
)
def test_a_config_that_makes_no_sense_is_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        replace(PAPER, **changes)


def test_the_profiles_differ_exactly_as_the_paper_and_the_code_do():
    different = {
        field: (getattr(PAPER, field), getattr(RELEASED, field))
        for field in Config.__dataclass_fields__
        if getattr(PAPER, field) != getattr(RELEASED, field)
    }
    assert different == {
        "size_law": ("side", "area"),
        "mix_weight": ("area", "one_minus_area"),
        "border": ("clip", "halves"),
        "content": ("image", "noise"),
        "views": (2, 1),
        "mix_form": ("infonce", "clean_all"),
        "base_temperature": (None, 0.07),
        "layers": (("conv5_2",), ("conv4_2", "conv5_2")),
        "stages": ("single", "two"),
        "score": ("raw", "normalised"),
        "k": (10, 3),
    }


# One step, written plainly


def step_of(config: Config, side: int = 16, count: int = 8, seed: int = 0) -> gradmix.Step:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(2 * count, 3, side, side, generator=generator)
    drawn = gradmix.draw(replace(config, batch=count), seed, 0, count, (side, side), "cpu")
    return gradmix.Step(
        x,
        torch.randint(3, (count,), generator=generator),
        drawn.partner_SN[0],
        drawn.share_SN[0],
        drawn.sides_SN2[0],
        drawn.place_SB2[0],
        torch.Generator().manual_seed(5),
        True,
    )


def network_of(seed: int = 0) -> backbones.Projected:
    network = backbones.projected("resnet18", 4, 3, "mlp", torch.Generator().manual_seed(seed))
    with torch.no_grad():  # batch norm's shift at zero would leave exact ties
        for part in network.modules():
            if isinstance(part, torch.nn.BatchNorm2d):
                part.bias.uniform_(-0.3, 0.3, generator=torch.Generator().manual_seed(1))
    return network.train()


def plain_step(config: Config, network: backbones.Projected, step: gradmix.Step) -> torch.Tensor:
    """Eq 8, image by image, pasting with torch's own resizing; for one layer, upsampled maps and clipped boxes."""
    tau, count, side = config.temperature, len(step.labels_N), step.x_BCHW.shape[2]
    x = step.x_BCHW
    out, _, activations = network(x)
    z = out / out.norm(dim=1, keepdim=True)
    s = z @ z.T / tau
    simclr = torch.stack(
        [
            -s[a, (a + count) % (2 * count)] + s[a, [k for k in range(2 * count) if k != a]].logsumexp(0)
            for a in range(2 * count)
        ]
    ).mean()
    supcon = contrastive.supcon(z, step.labels_N, tau)
    A = activations[config.layers[0]]
    (G,) = torch.autograd.grad(simclr, A, retain_graph=True)
    centres = gradmix.places(config, step, simclr, activations).tolist()
    views = []
    for b in range(2 * count):
        if config.map == "gradcam":
            cam = (config.sign * G[b].mean((1, 2), keepdim=True) * A[b]).sum(0).relu()
        else:
            cam = ((config.sign * G[b]).relu() * A[b]).sum(0)
        up = F.interpolate(cam[None, None], size=(side, side), mode="bilinear", align_corners=False)[0, 0]
        cy, cx = centres[b]
        assert up[cy, cx] >= up.max() * (1 - 1e-6)  # along the margin several pixels are equal but for rounding
        image = x[b].clone()
        if b < count * config.views:
            length = int(step.sides_N2[b % count, 0])
            y0, x0 = cy - length // 2, cx - length // 2
            y1, x1 = min(y0 + length, side), min(x0 + length, side)
            y0, x0 = max(y0, 0), max(x0, 0)
            partner = int(step.partner_N[b % count])
            other = x[partner + count] if (b < count) == (config.partner == "other") else x[partner]
            rows = F.interpolate(other[None], size=(y1 - y0, side), mode="bilinear", antialias=True)
            image[:, y0:y1, x0:x1] = F.interpolate(rows, size=(y1 - y0, x1 - x0), mode="bilinear", antialias=True)[0]
        views.append(image.detach())
    out, _, _ = network(torch.stack(views))
    zm = out / out.norm(dim=1, keepdim=True)
    terms = []
    for a in range(2 * count):
        p = (a + count) % (2 * count)
        positive = z[a] @ zm[p] / tau
        negatives = s[a, [k for k in range(2 * count) if k % count != a % count]]
        terms.append(-positive + torch.cat([positive[None], negatives]).logsumexp(0))
    w = step.share_N.repeat(2).roll(count)
    return config.theta * supcon + config.lam * (simclr + (w * torch.stack(terms)).mean())


@pytest.mark.parametrize(
    "changes",
    [
        {"tie": "centre"},
        {"layers": ("conv2_2",), "size_per_sample": True},
        {"layers": ("conv4_2",), "tie": "centre", "sign": -1, "size_law": "area"},
        {"layers": ("conv2_2",), "map": "gradcam", "partner": "same"},
        {"layers": ("conv3_2",), "tie": "centre", "views": 1, "mix_weight": "one_minus_area"},
    ],
    ids=str,
)
def test_a_step_is_the_one_written_plainly(changes, monkeypatch):
    monkeypatch.setattr(torch.Tensor, "float", lambda tensor: tensor)  # stay in double precision: no rounding, no ties
    config = replace(TINY, **changes)
    step = step_of(config)
    step = replace(step, x_BCHW=step.x_BCHW.double(), share_N=step.share_N.double())
    ours, theirs = network_of().double(), network_of().double()
    loss = gradmix.contrastive_losses(config, gradmix.stages(config)[0], ours, step)["loss"]
    expected = plain_step(config, theirs, step)
    torch.testing.assert_close(loss, expected, rtol=1e-9, atol=0)
    loss.backward()
    expected.backward()
    for mine, yours in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, yours.grad, rtol=1e-6, atol=1e-9)


def test_the_nominal_weight_is_the_square_of_the_side_ratio_or_one_less_the_area():
    for changes, weight in [
        ({"size_range": (0.3, 0.3)}, 0.09),
        ({"size_range": (0.3, 0.3), "size_law": "area"}, 0.3),
        ({"size_range": (0.3, 0.3), "size_law": "area", "mix_weight": "one_minus_area"}, 0.7),
        ({"mix_weight": "constant", "mix_weight_value": 0.25}, 0.25),
    ]:
        config = replace(TINY, **changes)
        step = step_of(config)
        centres = torch.full((16, 2), 8)
        _, weights = gradmix.mixed(config, step, centres)
        torch.testing.assert_close(weights, torch.full((16,), weight))


def test_the_effective_weight_is_the_area_left_of_each_patch():
    config = replace(TINY, size_range=(0.5, 0.5), mix_weight="effective")
    step = step_of(config)
    centres = torch.tensor([[8, 8], [0, 8], [15, 15], [0, 0]] * 4)
    _, weights = gradmix.mixed(config, step, centres)
    torch.testing.assert_close(weights, torch.tensor([8 * 8, 4 * 8, 5 * 5, 4 * 4] * 4) / 256)
    _, weights = gradmix.mixed(replace(config, views=1), step, centres)
    assert weights[8:].eq(0).all()


@pytest.mark.parametrize("content", ["image", "noise"])
def test_pixels_outside_the_patch_are_the_clean_ones_bit_for_bit(content):
    config = replace(TINY, content=content, size_range=(0.4, 0.4), views=1)
    step = step_of(config)
    mixed, _ = gradmix.mixed(config, step, torch.full((16, 2), 8))
    changed = mixed != step.x_BCHW
    assert changed[:8, :, 5:11, 5:11].float().mean() > 0.99
    changed[:8, :, 5:11, 5:11] = False
    assert not changed.any()
    if content == "noise":
        patch = mixed[:8, :, 5:11, 5:11]
        assert torch.equal(patch[:, 0], patch[:, 2])
        assert not torch.equal(patch[0], patch[1])
        assert 0 <= patch.min() < 0.1 < 0.9 < patch.max() < 1


def test_mixup_and_cutmix_use_the_other_view_of_the_partner():
    mixup = replace(TINY, mix="mixup")
    step = step_of(mixup)
    views, weights = gradmix.mixed(mixup, step, None)
    lam, pi, x = step.share_N[0], step.partner_N, step.x_BCHW
    torch.testing.assert_close(views[:8], lam * x[:8] + (1 - lam) * x[8:][pi])
    torch.testing.assert_close(views[8:], lam * x[8:] + (1 - lam) * x[:8][pi])
    torch.testing.assert_close(weights, lam.expand(16))
    cutmix = replace(TINY, mix="cutmix", mix_alpha=0.1)
    step = step_of(cutmix)
    step = replace(step, x_BCHW=torch.arange(16.0).view(16, 1, 1, 1).expand(16, 3, 16, 16).contiguous())
    views, weights = gradmix.mixed(cutmix, step, None)
    side = math.floor(16 * math.sqrt(1 - step.share_N[0].item()))
    for b in range(16):
        partner = step.partner_N[b % 8] + (8 if b < 8 else 0)
        inside = (views[b] - partner).abs() < 1e-4
        expected = 3 * side**2 if partner != b else 3 * 256
        assert inside.sum() == expected
        assert (views[b] == b).sum() == 3 * 256 - (expected if partner != b else 0)
    assert 0.1 <= weights[0] <= 0.9


@pytest.mark.parametrize("alpha", [0.1, 1.0, 10.0])
def test_drawn_sizes_follow_their_laws(alpha):
    def ratios(**changes):
        config = replace(TINY, batch=2, mix_alpha=alpha, **changes)
        return gradmix.draw(config, 0, 0, 8000, (64, 64), "cpu")

    cutmix = ratios(mix="cutmix").share_SN
    assert 0.1 <= cutmix.min() < 0.2 < 0.8 < cutmix.max() <= 0.9
    lam = ratios(mix="mixup").share_SN
    assert lam.mean().item() == pytest.approx(0.5, abs=0.03)
    assert lam.var().item() == pytest.approx(0.25 / (2 * alpha + 1), rel=0.1)
    paper, released = ratios(), ratios(size_law="area", mix_weight="one_minus_area")
    assert paper.share_SN.mean().item() == pytest.approx(0.1033, abs=0.004)
    assert released.share_SN.mean().item() == pytest.approx(0.7, abs=0.008)
    assert paper.sides_SN2.unique().tolist() == list(range(6, 32))
    assert released.sides_SN2.unique().tolist() == list(range(20, 46))


def test_arms_share_every_draw_they_both_use():
    first, second = (
        gradmix.draw(config, 3, 1, 24, (16, 16), "cpu")
        for config in (TINY, replace(TINY, map="random", size_range=(0.2, 0.3), content="noise"))
    )
    for name in ("order_SN", "partner_SN", "place_SB2"):
        assert torch.equal(getattr(first, name), getattr(second, name))
    assert not torch.equal(first.order_SN, gradmix.draw(TINY, 3, 2, 24, (16, 16), "cpu").order_SN)
    assert first.order_SN.flatten().sort().values.tolist() == list(range(24))
    assert all(sorted(row) == list(range(8)) for row in first.partner_SN.tolist())


# The graph


def tracked(network) -> int:
    """Training passes that batch norm has seen."""
    return int(network.encoder.stages["conv2_2"][1].num_batches_tracked)


@pytest.mark.parametrize(
    ("changes", "passes"),
    [
        ({"mix": "none"}, 1),
        ({}, 2),
        ({"map_mode": "eval"}, 2),
        ({"map": "random"}, 2),
        ({"mix": "mixup"}, 2),
        ({"lam": 0.0}, 1),
    ],
    ids=str,
)
def test_batch_norm_sees_the_clean_views_once_and_the_mixed_ones_once(changes, passes):
    config, network = replace(TINY, **changes), network_of()
    gradmix.contrastive_losses(config, gradmix.stages(config)[0], network, step_of(config))
    assert tracked(network) == passes
    assert network.training


def test_the_map_leaves_no_gradient_behind_and_the_graph_intact():
    network, config = network_of(), replace(TINY, layers=("conv3_2", "conv4_2"))
    step = step_of(config)
    z, activations = gradmix.embed(network, step.x_BCHW, config)
    loss = contrastive.simclr(z, 0.05)
    gradmix.places(config, step, loss, activations)
    assert all(weight.grad is None for weight in network.parameters())
    loss.backward()
    alone = network_of()
    contrastive.simclr(gradmix.embed(alone, step.x_BCHW, config)[0], 0.05).backward()
    assert all(torch.equal(a.grad, b.grad) for a, b in zip(network.parameters(), alone.parameters(), strict=True))


@pytest.mark.parametrize("seed", [0, 1])
def test_a_mix_term_of_no_weight_changes_no_update(data, seed):
    nothing = replace(TINY, size_law="area", size_range=(1.0, 1.0), mix_weight="one_minus_area")
    without = run(replace(TINY, mix="none"), data, seed=seed)
    weightless = run(nothing, data, seed=seed)
    for (_, expected), (metrics, state) in zip(without, weightless, strict=True):
        assert metrics["loss_mix"] > 0
        assert same(trained(expected), trained(state))
    constant = run(replace(TINY, mix_weight="constant", mix_weight_value=0.0), data, seed=seed)
    assert same(constant[-1][1]["weights"], without[-1][1]["weights"])
    supervised = [run(replace(TINY, lam=0.0, mix=mix), data, seed=seed)[-1][1] for mix in ("none", "gradmix")]
    assert same(supervised[0], supervised[1])


def test_map_loss_is_simclr_or_equation_3(data):
    config = replace(TINY, layers=("conv3_2",))
    network, step = network_of(), step_of(config)
    z, activations = gradmix.embed(network, step.x_BCHW, config)
    terms = gradmix.clean_losses(config, gradmix.stages(config)[0], z, step.labels_N)
    by_simclr, by_both = (gradmix.places(config, step, terms[name], activations) for name in ("loss_simclr", "loss"))
    assert not torch.equal(by_simclr, by_both)
    torch.testing.assert_close(terms["loss"], config.theta * terms["loss_supcon"] + config.lam * terms["loss_simclr"])
    losses = {name: run(replace(config, map_loss=name), data)[0][0]["loss_mix"] for name in ("simclr", "eq3")}
    assert losses["simclr"] != losses["eq3"]


def test_between_maps_patches_lie_at_random(data):
    config = replace(TINY, map_every=2, epochs=1)
    step = step_of(config)
    network = network_of()
    z, activations = gradmix.embed(network, step.x_BCHW, config)
    loss = contrastive.simclr(z, 0.05)
    unmapped = gradmix.places(config, replace(step, mapped=False), loss, activations)
    assert torch.equal(unmapped, gradmix.places(replace(config, map="random"), step, loss, activations))
    assert torch.equal(unmapped, (step.place_B2 * 16).long())
    always, sometimes, never = (
        run(replace(TINY, epochs=1, **changes), data)[0][0]["loss_mix"]
        for changes in ({}, {"map_every": 2}, {"map": "random"})
    )
    assert len({always, sometimes, never}) == 3


def test_base_temperature_scales_every_loss():
    plain = replace(TINY, layers=("conv2_2",))  # whose map is not upsampled, so nothing ties but for rounding
    whole, half = (
        gradmix.contrastive_losses(config, gradmix.stages(config)[0], network_of(), step_of(config))
        for config in (plain, replace(plain, base_temperature=0.1))
    )
    assert whole.keys() == {"loss", "loss_supcon", "loss_simclr", "loss_mix"}
    for name, loss in whole.items():
        torch.testing.assert_close(half[name], loss / 2)


def test_the_mix_term_is_added_to_supcon_where_asked():
    config = replace(TINY, mix_supcon=True)
    step = step_of(config)
    stage = gradmix.stages(config)[0]
    network = network_of()
    added = gradmix.contrastive_losses(config, stage, network, step)["loss"]
    plain = gradmix.contrastive_losses(TINY, stage, network_of(), step)["loss"]
    network = network_of()
    z, activations = gradmix.embed(network, step.x_BCHW, config)
    centres = gradmix.places(config, step, contrastive.simclr(z, 0.05), activations)
    views, weights = gradmix.mixed(config, step, centres)
    zm, _ = gradmix.embed(network, views, config)
    expected = plain + config.theta * contrastive.mix_supcon(z, zm, step.labels_N, weights, 0.05)
    torch.testing.assert_close(added, expected)


# Training


def steps_of(config, data, monkeypatch) -> list[gradmix.Step]:
    """What the steps of a whole run were given."""
    seen, losses = [], gradmix.contrastive_losses

    def watched(config, stage, network, step):
        seen.append(step)
        return losses(config, stage, network, step)

    monkeypatch.setattr(gradmix, "contrastive_losses", watched)
    run(config, data, seed=4)
    return seen


def test_every_step_has_the_images_and_draws_of_its_own(data, monkeypatch):
    plain = replace(TINY, crop=False, flip=False, jitter=0.0, grayscale=0.0, map_every=2)
    seen = steps_of(plain, data, monkeypatch)
    draws = [gradmix.draw(plain, 4, epoch, 24, (16, 16), "cpu") for epoch in (0, 1)]
    assert [step.mapped for step in seen] == [True, False, True, False, True, False]
    for number, step in enumerate(seen):
        drawn, s = draws[number // 3], number % 3
        rows = drawn.order_SN[s].numpy()
        image = torch.from_numpy((data.train.pixels[rows] / 255 - 0.5) / 0.25).float().permute(0, 3, 1, 2)
        torch.testing.assert_close(step.x_BCHW, torch.cat([image, image]))
        assert step.labels_N.tolist() == data.train.labels[rows].tolist()
        for name, values in (
            ("partner_N", drawn.partner_SN),
            ("share_N", drawn.share_SN),
            ("sides_N2", drawn.sides_SN2),
            ("place_B2", drawn.place_SB2),
        ):
            assert torch.equal(getattr(step, name), values[s]), name
    assert len({float(step.share_N[0]) for step in seen}) == 6


def test_no_image_has_the_same_view_twice(data, monkeypatch):
    seen = steps_of(TINY, data, monkeypatch)
    views = torch.cat([step.x_BCHW for step in seen])
    assert len({view.numpy().tobytes() for view in views}) == len(views) == 2 * 24 * 2


def test_every_level_of_every_option_trains(data):
    levels = (
        [{"supcon_form": form} for form in ("eq2", "eq2_pos", "in")]
        + [{"mix_form": form} for form in ("clean_all", "mixed_batch")]
        + [
            {"map": "gradcam", "grid": "corner"},
            {"map": "activation", "map_mode": "eval"},
            {"layers": ("conv2_2", "conv3_2", "conv4_2", "conv5_2"), "grid": "lowres", "aggregation": "raw_sum"},
            {"aggregation": "per_image", "tie": "centre", "border": "shift", "mix_weight": "effective"},
            {"map_loss": "eq3", "map_mode": "eval", "map_every": 2},
            {"mix_supcon": True, "mix_form": "mixed_batch", "content": "noise"},
            {"optimizer": "sgd", "schedule": "steps", "milestones": (0,), "head": "linear"},
            {"precision": "bf16", "channels_last": True, "blur": 0.5, "rotation": 5.0},
            {"network": "resnet34"},
            {"network": "resnet50", "linear_probe": True, "feature": "backbone", "score": "normalised"},
        ]
    )
    seen = set()
    for changes in levels:
        ((metrics, _),) = run(replace(TINY, epochs=1, **changes), data)
        assert all(math.isfinite(value) for value in metrics.values())
        assert {"accuracy", "auroc", "loss", "loss_supcon", "loss_simclr", "loss_mix"} <= metrics.keys()
        seen.add(metrics["loss"])
    assert len(seen) == len(levels)


def test_channels_last_changes_rounding_alone(data):
    plain, other = (
        run(replace(TINY, epochs=1, mix="none", channels_last=flag), data)[0][0]["loss"] for flag in (False, True)
    )
    assert other == pytest.approx(plain, rel=1e-3)


def test_training_separates_the_classes(data):
    config = replace(TINY, width=8, epochs=12, crop=False, flip=False, jitter=0.5)
    epochs = run(config, data)
    assert epochs[-1][0]["loss_supcon"] < epochs[0][0]["loss_supcon"]
    assert epochs[-1][0]["accuracy"] > 0.9


def test_metrics_of_the_test_sets_come_at_the_end_and_where_asked(data):
    for every, expected in [(0, [False, False, True]), (2, [False, True, True])]:
        epochs = run(replace(TINY, epochs=3, evaluate_every=every), data)
        assert ["auroc" in metrics for metrics, _ in epochs] == expected
        assert same(epochs[-1][1], run(replace(TINY, epochs=3), data)[-1][1])


def test_the_final_state_rebuilds_the_network_that_was_scored(data):
    metrics, state = run(TINY, data)[-1]
    network = backbones.rebuild(state["network"], state["weights"])
    again = openset.evaluate(network.embed, data, k=TINY.k)
    assert again["auroc"] == metrics["auroc"]
    assert again["accuracy"] == metrics["accuracy"]


TWO = replace(TINY, stages="two", epochs=2, final_epochs=2)


def test_two_stages_are_one_after_the_other(data):
    whole = run(TWO, data)
    first = run(replace(TINY, theta=TWO.first_theta, lam=TWO.first_lam, epochs=2), data)
    assert ["loss_supcon" in metrics for metrics, _ in whole] == [False, False, True, True]
    assert same([state for _, state in whole[:2]], [state for _, state in first])
    # The second stage by itself: a run of its own objective, put at the boundary with the first one's weights. Its
    # schedule and optimiser begin there, whatever the first stage left behind.
    state = first[-1][1] | {"optimizer": None}
    second = run(TWO, data, resume=state)
    assert same([state for _, state in whole[2:]], [state for _, state in second])
    rates = [state["optimizer"]["param_groups"][0]["lr"] for _, state in whole]
    floor = 1e-3 * 0.8**3
    assert rates == [1e-3, pytest.approx((1e-3 + floor) / 2)] * 2
    steps = [state["optimizer"]["state"][0]["step"].item() for _, state in whole]
    assert steps == [3, 6, 3, 6]


@pytest.mark.parametrize(
    "config", [TWO, TINY_MOCO, replace(TINY, content="noise", optimizer="sgd")], ids=["two", "moco", "sgd"]
)
def test_a_resumed_run_yields_the_same_bits_from_every_epoch(data, config):
    whole = run(config, data)
    for done in range(1, len(whole) + 1):
        assert same(whole[done:], run(config, data, resume=whole[done - 1][1]))


def test_too_large_a_batch_is_refused(data):
    with pytest.raises(ConfigError, match="batch=64 is not allowed: the training set of 'toys' has 24 images"):
        next(gradmix.train(replace(TINY, batch=64), data, seed=0, device="cpu"))


def test_a_loss_that_is_no_number_stops_the_run(data):
    epochs = gradmix.train(replace(TINY, optimizer="sgd", learning_rate=1e30), data, seed=0, device="cpu")
    with pytest.raises(Diverged, match="In epoch 1 the "):
        list(epochs)


class HostReads(TorchDispatchMode):
    """Counts operations whose result or shape the host must know: on an accelerator it would wait for them."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        masks = func.overloadpacket in (torch.ops.aten.index, torch.ops.aten.index_put, torch.ops.aten.index_put_)
        if masks and any(part is not None and part.dtype == torch.bool for part in args[1]):
            self.seen.append(func)
        if func.overloadpacket in (
            torch.ops.aten._local_scalar_dense,
            torch.ops.aten.nonzero,
            torch.ops.aten.masked_select,
            torch.ops.aten._unique2,
            torch.ops.aten.equal,
        ):
            self.seen.append(func)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    "config",
    [
        replace(TINY, layers=("conv3_2", "conv5_2"), jitter=0.8, rotation=5.0),
        replace(TINY, supcon_form="eq2", mix_form="clean_all", content="noise", mix_weight="effective", tie="centre"),
        replace(TINY, mix="cutmix", mix_supcon=True, supcon_form="in"),
        TINY_MOCO,
    ],
)
def test_no_step_waits_for_the_host(data, config):
    epochs = gradmix.train(config, data, seed=0, device="cpu")
    with HostReads() as reads:
        next(epochs)
    assert not reads.seen
    with HostReads() as reads:
        bool(torch.ones(3).sum() > 2)
        torch.ones(3)[torch.ones(3) > 0]
    assert len(reads.seen) == 2


# MoCo


def moco_of(config: Config, seed: int = 9) -> gradmix.Moco:
    keys = network_of(seed).requires_grad_(False)
    queue = F.normalize(torch.randn(config.moco_queue, 128, generator=torch.Generator().manual_seed(2)), dim=1)
    return gradmix.Moco(keys, queue, pointer=16)


@pytest.mark.parametrize("form", ["query", "full"])
def test_a_moco_step_is_the_one_written_plainly(form):
    config = replace(TINY_MOCO, moco_mix=form)
    step, stage = step_of(config), gradmix.stages(config)[0]
    network, moco = network_of(), moco_of(config)
    queue = moco.queue_KD.clone()
    terms = gradmix.moco_losses(config, stage, network, moco, step)

    query_net, key_net = network_of(), moco_of(config).network

    def move_keys():
        with torch.no_grad():
            for key, query in zip(key_net.parameters(), query_net.parameters(), strict=True):
                key.copy_(0.9 * key + 0.1 * query)

    def keys_of(x):
        move_keys()
        return F.normalize(key_net(x)[0], dim=1)

    def loss_of(q, k, bank):
        logits = torch.cat([(q * k).sum(1, keepdim=True), q @ bank.T], 1) / config.temperature
        return F.cross_entropy(logits, torch.zeros(len(q), dtype=torch.int64))

    def enqueued(bank, k, pointer):
        bank = bank.clone()
        for offset, key in enumerate(k):
            bank[(pointer + offset) % len(bank)] = key
        return bank

    out, _, activations = query_net(step.x_BCHW[:8])
    q, k = F.normalize(out, dim=1), keys_of(step.x_BCHW[8:])
    clean = loss_of(q, k, queue)
    centres = gradmix.places(config, step, clean, activations)
    mixed, weights = gradmix.mixed(config, step, centres)
    qm = F.normalize(query_net(mixed[:8])[0], dim=1)
    bank = enqueued(queue, k, 16)
    if form == "full":
        km = keys_of(mixed[8:])
        mix, bank = loss_of(qm, km, bank), enqueued(bank, km, 24 % 20)
    else:
        mix = loss_of(qm, k, queue)
    torch.testing.assert_close(terms["loss_simclr"], clean)
    torch.testing.assert_close(terms["loss_mix"], mix)
    torch.testing.assert_close(terms["loss"], clean + weights[0] * mix)
    torch.testing.assert_close(moco.queue_KD, bank)
    assert moco.pointer == (16 + 8 * (2 if form == "full" else 1)) % 20
    for mine, yours in zip(moco.network.parameters(), key_net.parameters(), strict=True):
        torch.testing.assert_close(mine, yours)
    terms["loss"].backward()
    assert all(weight.grad is None for weight in moco.network.parameters())
    assert torch.equal(mixed[8:], step.x_BCHW[8:])


@pytest.mark.parametrize(
    "changes", [{"mix": "none"}, {"mix": "mixup"}, {"map_mode": "eval"}, {"moco_mix": "full"}], ids=str
)
def test_moco_trains_and_leaves_its_key_network_to_the_average(data, changes):
    config = replace(TINY_MOCO, **changes)
    metrics, state = run(config, data)[-1]
    assert all(math.isfinite(value) for value in metrics.values())
    start = backbones.projected("resnet18", 4, 3, "linear", seeding.torch_stream(0, "init")).state_dict()
    moved = {name: (state["keys"][name] - start[name]).norm() for name in trained(state)}
    ahead = {name: (state["weights"][name] - start[name]).norm() for name in trained(state)}
    assert all(0 < moved[name] < ahead[name] for name in moved)
    torch.testing.assert_close(state["queue"].norm(dim=1), torch.ones(20))


def test_shuffling_keys_within_the_batch_and_back_changes_nothing():
    """What the authors' code does: batch norm sees the same batch in another order."""
    config, step = TINY_MOCO, step_of(TINY_MOCO)
    order_N = torch.randperm(8, generator=torch.Generator().manual_seed(1))
    plain, shuffled = moco_of(config), moco_of(config)
    keys_ND = plain.keys(network_of(), step.x_BCHW[8:], config)
    torch.testing.assert_close(
        shuffled.keys(network_of(), step.x_BCHW[8:][order_N], config)[order_N.argsort()], keys_ND
    )
    for one, other in zip(plain.network.buffers(), shuffled.network.buffers(), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("config", [replace(TINY, theta=0.0), TINY_MOCO], ids=["simclr", "moco"])
def test_training_without_supervision_reads_no_label(data, config):
    config = replace(config, epochs=1, evaluate_every=0)
    other = replace(data, train=replace(data.train, labels=np.roll(data.train.labels, 7)))
    first, second = (run(config, each)[-1] for each in (data, other))
    assert same(first[1], second[1])
    losses = ("loss", "loss_simclr", "loss_mix")
    assert [first[0][name] for name in losses] == [second[0][name] for name in losses]
    supervised = [run(replace(TINY, epochs=1), each)[-1][1] for each in (data, other)]
    assert not same(*supervised), "the labels do differ"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the compiler's own imports, which differ by platform
@pytest.mark.parametrize("layers", [("conv5_2",), ("conv4_2",)])
def test_compiled_stages_train_alike(data, layers):
    config = replace(TINY, epochs=1, layers=layers)
    plain, compiled = (run(replace(config, compile=flag), data)[0][0] for flag in (False, True))
    # Rounding moves a patch now and then, where pixels of a map are all but equal.
    assert compiled["loss_simclr"] == pytest.approx(plain["loss_simclr"], rel=2e-3)
    assert compiled["loss_mix"] == pytest.approx(plain["loss_mix"], rel=5e-2)
