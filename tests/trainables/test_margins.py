"""Heads, terms and named losses against golden numbers, and against properties that follow from their equations."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.trainables.toys import open_set
from trainables import lenetpp, margins
from trainables.augment import to_float
from trainables.config import ConfigError
from trainables.datasets import Data, Images
from trainables.margins import LOSSES, Config, named

GOLDEN = Path(__file__).parents[1] / "golden/openset"
HEADS = np.load(GOLDEN / "01_heads.npz")
NAMED = np.load(GOLDEN / "02_named_losses_s13.npz")
TERMS = np.load(GOLDEN / "03_terms.npz")

AS_RUN = {
    "norm_sfn": "sfn_norm_raw",
    "cos_eos_sfn": "cos_eos_sfn_as_run",
    "arc_eos_sfn": "arc_eos_sfn_as_run",
}
"""Names in the golden file of what the thesis's code ran -> ours."""


def close(ours: torch.Tensor | float, golden: np.ndarray) -> None:
    values = ours.detach().numpy() if isinstance(ours, torch.Tensor) else ours
    np.testing.assert_allclose(values, golden, rtol=1e-9, atol=1e-9)


def tensor(golden: np.ndarray) -> torch.Tensor:
    return torch.tensor(golden)


def head_of(name: str) -> tuple[Config, float]:
    """The config of a golden head, and its s."""
    kind, *options = name.split("_")
    s = next((float(part[1:]) for part in options if part.startswith("s") and part != "sfn"), 1.0)
    m = next((float(part[1:]) for part in options if part.startswith("m")), 0.0)
    hard = {"magnitude": "hard"} if any(part.startswith("s1") for part in options) else {}
    heads = {"sphereface": "sphere", "cosface": "cos", "arcface": "ang", "cosinemargin": "cos", "angularmargin": "ang"}
    if kind == "linear":
        return Config(), s
    if kind == "logitmargin":
        plain = {"head": "logit", "margin": m} if "rawW" in options else {"head": "norm"}
        return Config(**plain, **hard), s
    return Config(head=heads[kind], margin=m, **hard), s


@pytest.mark.parametrize("name", sorted({key.split("/")[0] for key in HEADS.files if "/" in key}))
def test_a_heads_logits_gradients_and_projection_are_the_golden_ones(name):
    config, s = head_of(name)
    known_only = name.split("_")[0] in ("sphereface", "cosface", "arcface")
    rows = HEADS["known_rows"] if known_only else np.arange(10)
    phi = tensor(HEADS["features"][rows]).requires_grad_()
    W = tensor(HEADS["w_init"]).requires_grad_()
    z = margins.logits(config, phi, W, tensor(HEADS["labels"][rows]), s=s)
    (z * tensor(HEADS["cotangent"][rows])).sum().backward()
    close(z, HEADS[f"{name}/train_logits"])
    close(phi.grad, HEADS[f"{name}/grad_features"])
    close(W.grad, HEADS[f"{name}/grad_w"])
    close(W, HEADS[f"{name}/w_after"])
    fresh = tensor(HEADS["w_init"])
    close(margins.logits(config, tensor(HEADS["features"]), fresh, s=s), HEADS[f"{name}/eval_logits"])


@pytest.mark.parametrize("name", sorted({key.split("/")[0] for key in NAMED.files if "/" in key}))
def test_a_named_loss_its_gradients_and_validation_are_the_golden_ones(name):
    config = named(AS_RUN.get(name, name), scale=13.0, validation_ring="all")
    rows = NAMED[f"{name}/rows"]
    labels = tensor(NAMED["labels"][rows])
    assert config.negatives == bool((labels < 0).any())
    phi = tensor(NAMED["features"][rows]).requires_grad_()
    W = tensor(NAMED["w_init"]).requires_grad_()
    z = margins.logits(config, phi, W, labels, s=13.0)
    loss = margins.losses(config, z, phi, labels, 13.0)["loss"]
    loss.backward()
    close(z, NAMED[f"{name}/train_logits"])
    close(loss, NAMED[f"{name}/train_loss"])
    close(phi.grad, NAMED[f"{name}/grad_features"])
    close(W.grad, NAMED[f"{name}/grad_w"])
    every, W = tensor(NAMED["features"]), tensor(NAMED["w_init"])
    z = margins.logits(config, every, W, s=13.0)
    close(z, NAMED[f"{name}/val_logits"])
    close(margins.losses(config, z, every, tensor(NAMED["labels"]), 13.0)["loss"], NAMED[f"{name}/val_loss"])


def test_all_twenty_losses_of_the_golden_file_have_a_name_here():
    golden = {key.split("/")[0] for key in NAMED.files if "/" in key}
    assert len(golden) == 20
    assert {AS_RUN.get(name, name) for name in golden} <= set(LOSSES)


TERM = {
    "ce_ignore_neg": lambda z, _phi, y: margins.cross_entropy(z, y),
    "eos_w1": lambda z, _phi, y: margins.entropic_open_set(z, y),
    "eos_w0.5": lambda z, _phi, y: margins.entropic_open_set(z, y, 0.5),
    "ring_s13": lambda _z, phi, _y: margins.ring(phi, 13.0),
    "os_xi13": lambda _z, phi, y: margins.objectosphere(phi, y, 13.0),
    "os_sym_s13": lambda _z, phi, y: margins.symmetric_objectosphere(phi, y, 13.0),
    "vast_os_xi13": lambda _z, phi, y: margins.objectosphere(phi, y, 13.0),
}


@pytest.mark.parametrize("name", TERM)
def test_a_term_and_its_gradients_are_the_golden_ones(name):
    z, phi = tensor(TERMS["logits"]).requires_grad_(), tensor(TERMS["features"]).requires_grad_()
    value = TERM[name](z, phi, tensor(TERMS["labels"]))
    value.backward()
    close(value, TERMS[f"{name}/value"])
    for values, key in ((z, "grad_logits"), (phi, "grad_features")):
        close(torch.zeros_like(values) if values.grad is None else values.grad, TERMS[f"{name}/{key}"])


# Properties


def batch(dtype=torch.float64, rows=12, K=5, C=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    phi = torch.randn(rows, K, generator=generator, dtype=dtype) * 3
    W = torch.randn(K, C, generator=generator, dtype=dtype)
    return phi, W, torch.arange(rows) % (C + 1) - 1


@pytest.mark.parametrize("loss", ["cosface", "arcface", "sphereface", "cosface_sfn", "arcface_sfn"])
def test_a_margin_lowers_the_own_classes_logit_and_no_other(loss):
    phi, W, y = batch()
    config = named(loss)
    trained, plain = margins.logits(config, phi, W, y, s=9.0), margins.logits(config, phi, W, s=9.0)
    own = margins.own_class(y, plain).bool()
    assert (trained[own] < plain[own]).all()
    torch.testing.assert_close(trained[~own], plain[~own], rtol=0, atol=1e-4)


def test_hard_logits_do_not_depend_on_the_length_of_features_and_soft_ones_are_proportional():
    phi, W, y = batch()
    for loss, factor in (("cos_eos", 1), ("cos_eos_sfn_as_run", 1), ("cos_eos_sfn", 7), ("cos_os", 7)):
        one, long = (margins.logits(named(loss), scaled, W, y, s=13.0) for scaled in (phi, 7 * phi))
        torch.testing.assert_close(long, factor * one)


def test_the_full_gradient_of_an_angular_margin_is_its_slope():
    """d cos(theta + m) / d cos theta = sin(theta + m) / sin(theta); detached it is 1. Checked by differences."""
    theta = torch.tensor([[0.4, 1.0, 2.0]], dtype=torch.float64)
    own = torch.ones_like(theta)
    cos = torch.cos(theta).requires_grad_()
    (cos + margins.margin_shift(cos, own, "ang", 0.5)).sum().backward()
    torch.testing.assert_close(cos.grad, torch.sin(theta + 0.5) / torch.sin(theta))
    for head, m in (("ang", 0.5), ("sphere", 1.7)):
        phi, W, y = batch()
        config = Config(head=head, margin=m, magnitude="hard", detached=False)
        margins.project(W)
        assert torch.autograd.gradcheck(
            lambda phi, config=config, W=W, y=y: margins.cosine_logits(
                phi, W, head=config.head, m=config.margin, s=3.0, labels_B=y[:6], detached=False
            ),
            phi[:6].requires_grad_(),
        )


def test_detachment_changes_gradients_of_angles_and_not_values():
    for loss, same in (("arcface", False), ("sphereface", False), ("cosface", True)):
        grads = []
        for detached in (True, False):
            phi, W, y = batch()
            phi.requires_grad_()
            z = margins.logits(named(loss, detached=detached), phi, W, y, s=9.0)
            margins.cross_entropy(z, y).backward()
            grads.append((z.detach(), phi.grad))
        torch.testing.assert_close(grads[0][0], grads[1][0])
        assert torch.allclose(grads[0][1], grads[1][1]) == same


def test_projection_leaves_unit_columns_and_no_graph():
    phi, W, y = batch()
    W.requires_grad_()
    margins.logits(named("arcface"), phi, W, y, s=9.0)
    torch.testing.assert_close(W.detach().norm(dim=0), torch.ones(4, dtype=torch.float64))
    assert W.is_leaf
    raw = batch()[1]
    margins.logits(named("sfn_norm_raw"), phi, raw, y, s=9.0)
    torch.testing.assert_close(raw, batch()[1], rtol=0, atol=0)


def test_two_steps_with_momentum_leave_the_sphere_and_are_projected_without_carrying_the_momentum_along():
    """In NumPy: gradients at the projected centres, plain SGD with momentum from there."""
    phi, W, y = batch()
    y, s, rate = y.clamp_min(0), 7.0, 0.3
    centres = torch.nn.Parameter(W.clone())
    optimizer = torch.optim.SGD([centres], lr=rate, momentum=0.9)
    u = (phi / phi.norm(dim=1, keepdim=True)).numpy()
    own = np.eye(4)[y.numpy()]
    expected, velocity = W.numpy().copy(), 0.0
    for _ in range(2):
        expected /= np.linalg.norm(expected, axis=0)
        z = s * (u @ expected - 0.35 * own)
        p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
        velocity = 0.9 * velocity + s * u.T @ (p - own) / len(y)
        expected = expected - rate * velocity
        optimizer.zero_grad()
        margins.cross_entropy(margins.logits(named("cosface"), phi, centres, y, s=s), y).backward()
        optimizer.step()
        np.testing.assert_allclose(centres.detach().numpy(), expected, rtol=1e-12, atol=1e-12)
    assert (np.abs(np.linalg.norm(expected, axis=0) - 1) > 1e-3).all(), "the step leaves the sphere"


def test_a_batch_of_negatives_alone_has_no_class_loss_and_keeps_its_regulariser():
    phi, W, _ = batch()
    y = torch.full((12,), -1)
    phi.requires_grad_()
    terms = margins.losses(named("cos_os"), margins.logits(named("cos_os"), phi, W, y, s=13.0), phi, y, 13.0)
    assert terms["loss_class"] == 0
    assert terms["loss_norm"].item() == pytest.approx(phi.detach().square().sum(1).mean().item())
    terms["loss"].backward()
    torch.testing.assert_close(phi.grad, 0.01 * 2 * phi.detach() / 12)


def test_two_means_is_the_symmetric_term_where_groups_are_of_one_size():
    phi, _, _ = batch()
    y = torch.tensor([0, -1] * 6)
    both = margins.two_means(phi, y, 5.0)
    torch.testing.assert_close(both, 2 * margins.symmetric_objectosphere(phi, y, 5.0))
    known = torch.zeros(12, dtype=torch.int64)
    torch.testing.assert_close(margins.two_means(phi, known, 5.0), margins.ring(phi, 5.0))


def test_features_of_length_zero_have_finite_gradients_of_the_terms_on_length():
    phi = torch.zeros(2, 3, dtype=torch.float64, requires_grad=True)
    y = torch.tensor([0, -1])
    for term in (margins.ring(phi, 2.0), margins.objectosphere(phi, y, 2.0), margins.two_means(phi, y, 2.0)):
        (gradient,) = torch.autograd.grad(term, phi)
        assert torch.equal(gradient, torch.zeros_like(gradient))


def test_the_margin_rises_linearly_over_its_share_of_training():
    config = named("arcface", epochs=120, margin_warm_up=1 / 12)
    rising = [margins.ramped_margin(config, epoch) for epoch in range(120)]
    assert rising[:11] == pytest.approx([0.05 * epoch for epoch in range(11)])
    assert set(rising[10:]) == {0.5}
    assert margins.ramped_margin(named("sphereface", margin_warm_up=0.5, epochs=4), 0) == 1.0


# Crops and flips


def placed(count, side):
    """Grey images whose pixels say which image, row and column they are."""
    n, rows, columns = torch.meshgrid(*map(torch.arange, (count, side, side)), indexing="ij")
    return (n * side * side + rows * side + columns)[:, None].float()


def test_every_image_is_cropped_somewhere_of_its_own_and_half_are_flipped():
    side, crop, count = 12, 8, 600
    x = placed(count, side)
    found = margins.augmented(Config(crop=crop, flip=True), x, torch.Generator().manual_seed(0))
    corners, flips = set(), 0
    for n, image in enumerate(found):
        flipped = bool(image[0, 0, 0] > image[0, 0, 1])
        image = image.flip(2) if flipped else image
        row, column = divmod(int(image[0, 0, 0]) - n * side * side, side)
        assert torch.equal(image, x[n, :, row : row + crop, column : column + crop])
        corners.add((row, column))
        flips += flipped
    assert corners == {(row, column) for row in range(5) for column in range(5)}
    assert 240 < flips < 360
    assert margins.augmented(Config(), x, torch.Generator()) is x
    assert torch.equal(margins.augmented(Config(crop=side), x, torch.Generator()), x)


def test_the_middle_of_an_image_is_evaluated():
    data = open_set()
    middle = Images(data.test.pixels[:, 2:14, 2:14], data.test.labels)
    config = named("softmax", network="resnet18", width=4, crop=12, epochs=1, batch=8)
    (epoch,) = margins.train(config, data, seed=0, device="cpu")
    network = lenetpp.rebuild(epoch.state()["network"], epoch.state()["weights"])
    cut = Data(data.spec, data.classes, data.train, middle, {}, data.mean, data.std)
    for values, whole in zip(
        margins.evaluated(config, network, cut, 13.0, "cpu")["test"].values(),
        epoch.state()["outputs"]["test"].values(),
        strict=True,
    ):
        torch.testing.assert_close(values, whole, rtol=0, atol=0)


# LeNet++


def lenet(activation="none", bias=True, seed=0):
    return lenetpp.network(
        "lenetpp",
        width=32,
        stem="small",
        channels=1,
        side=28,
        features=10,
        classes=10,
        activation=activation,
        bias=bias,
        generator=torch.Generator().manual_seed(seed),
    )


def by_formula(network):
    """The golden file's parameters."""
    network.double()
    with torch.no_grad():
        for place, (name, values) in enumerate(list(network.body.named_parameters())):
            i = torch.arange(values.numel(), dtype=torch.float64)
            if values.ndim > 1:
                scale = math.sqrt(1 / values[0].numel())
                new = torch.sin(0.37 * i * (1 + 0.01 * place) + place) * scale
            elif name.endswith("weight"):
                new = 1 + 0.1 * torch.sin(0.9 * i + place)
            else:
                new = 0.05 * torch.cos(1.3 * i + place)
            values.copy_(new.view_as(values))
        i = torch.arange(100, dtype=torch.float64)
        network.centres.copy_(torch.cos(0.7 * i + 0.3).view(10, 10))
    return network


def test_lenetpp_is_the_golden_one_in_evaluation_and_training():
    golden = np.load(GOLDEN / "10_lenetpp.npz")
    network = by_formula(lenet())
    x, y = tensor(golden["images"]), tensor(golden["labels"])
    config = named("cos_os")
    network.eval()
    phi = network(x)
    close(network.body.stages(x), golden["eval_map"])
    close(phi, golden["eval_features"])
    close(margins.logits(config, phi, network.centres.data, s=13.0), golden["eval_logits"])
    cos = torch.nn.functional.normalize(phi, dim=1) @ torch.nn.functional.normalize(network.centres, dim=0)
    close(torch.arccos(cos), golden["eval_angles"])
    network.train()
    phi = network(x)
    close(phi, golden["train_features"])
    close(margins.logits(config, phi, network.centres.data, y, s=13.0), golden["train_logits"])
    norms = [part for part in network.modules() if isinstance(part, torch.nn.BatchNorm2d)]
    close(torch.cat([part.running_mean for part in norms]), golden["bn_running_mean_after"])
    close(torch.cat([part.running_var for part in norms]), golden["bn_running_var_after"])


def test_lenetpp_has_the_printed_number_of_parameters_and_its_options_change_them():
    def count(network):
        return sum(values.numel() for values in network.parameters())

    assert count(lenet()) == 806_926
    assert count(lenet(bias=False)) == 806_926 - 10
    assert count(lenet(activation="prelu")) == 806_926 + 2 * (32 + 64 + 128)


def test_weights_come_from_the_generator_alone_and_are_rebuilt():
    before = torch.get_rng_state()
    one, again, other = lenet(), lenet(), lenet(seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    state = one.state_dict()
    assert all(torch.equal(values, again.state_dict()[name]) for name, values in state.items())
    assert not torch.equal(one.centres, other.centres)
    assert float(one.centres.detach().std()) == pytest.approx(math.sqrt(2 / 20), rel=0.3)
    rebuilt = lenetpp.rebuild(one.description, state)
    x = torch.rand(2, 1, 28, 28)
    torch.testing.assert_close(rebuilt(x), one.eval()(x), rtol=0, atol=0)


# Bad input


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"head": "cos", "margin": -0.1}, "margin=-0.1 is not allowed"),
        ({"head": "ang", "margin": 3.2}, "margin must be at most 3.14159"),
        ({"head": "sphere", "margin": 0.5}, "margin must be at least 1 with head='sphere'"),
        ({"margin": 0.2}, "margin must be 0 with head='linear'"),
        ({"magnitude": "hard"}, "magnitude must be 'soft' with head='linear'"),
        ({"loss": "eos"}, "negatives must be true with loss='eos'"),
        ({"regulariser": "sosr"}, "negatives must be true with regulariser='sosr'"),
        ({"features": 0}, "features must be at least 1"),
        ({"features": "C+2"}, "features='C\\+2' is not allowed"),
        ({"probability": 1.0}, "probability must be from 0.5"),
        ({"scale": 0.0}, "scale must be none, or above 0"),
        ({"network": "resnet18", "activation": "prelu"}, "activation must be 'none' with network='resnet18'"),
        ({"stem": "imagenet"}, "stem must be 'small' with network='lenetpp'"),
        ({"network": "resnet50", "stem": "imagenet"}, "width must be 64 with network='resnet50' and stem='imagenet'"),
    ],
)
def test_configs_that_contradict_themselves_are_refused(fields, message):
    with pytest.raises(ConfigError, match=message):
        Config(**fields)


def test_an_unknown_loss_is_answered_with_the_nearest():
    with pytest.raises(ConfigError, match="Did you mean 'cosface'"):
        named("cosfac")


def test_a_margin_without_room_is_refused_and_the_thesiss_fits():
    margins.check_margin(named("cos_eos", margin=0.15), 10, 2)
    margins.check_margin(named("arc_eos", margin=0.4), 10, 2)
    with pytest.raises(ConfigError, match=r"10 classes in 2 dimensions leave room for 0\.19098 at most"):
        margins.check_margin(named("cos_eos"), 10, 2)
    with pytest.raises(ConfigError, match=r"leave room for 1\.1111"):
        margins.check_margin(named("cos_eos", margin=1.2), 10, 10)
    with pytest.raises(ConfigError, match="3 classes in 1 dimensions leave room for 0 at most"):
        margins.check_margin(named("arc_eos"), 3, 1)
    margins.check_margin(named("arc_eos"), 2, 1)


def test_a_scale_below_its_bound_is_warned_of_and_used(caplog):
    assert margins.scale(named("cosface"), 10) == 13
    assert not caplog.records
    assert margins.scale(named("cosface", scale=4.0), 10) == 4.0
    assert "below 12.96, the bound for 10 classes" in caplog.text


def negatives_data(**others):
    data = open_set()
    return Data(data.spec, data.classes, data.train, data.test, {**data.others, **others}, data.mean, data.std)


def test_data_that_does_not_suit_the_loss_is_refused():
    with pytest.raises(ConfigError, match=r"the protocol 'toys' has no negative classes.*digits-toy"):
        next(margins.train(named("cos_os", width=4), open_set(), seed=0, device="cpu"))
    test = open_set().test
    for name, label in (("negative_train", -3), ("negative", 0), ("validation", 3), ("unknown", -1)):
        wrong = negatives_data(**{name: Images(test.pixels, np.full(len(test.labels), label))})
        with pytest.raises(ConfigError, match=f"label {label} in the {name} images"):
            next(margins.train(named("cos_os", width=4), wrong, seed=0, device="cpu"))


def test_training_lowers_the_loss_and_separates_negatives_by_their_norm():
    test = open_set().test
    data = negatives_data(
        negative_train=Images(255 - test.pixels, np.full(len(test.labels), -1)),
        negative=Images(255 - test.pixels, np.full(len(test.labels), -1)),
    )
    config = named("softmax_os", width=4, epochs=25, batch=8, learning_rate=3e-3, evaluate_every=25)
    *_, last = margins.train(config, data, seed=0, device="cpu")
    first = next(margins.train(replace(config, evaluate_every=1), data, seed=0, device="cpu"))
    assert last.metrics["loss"] < 0.5 * first.metrics["loss"]
    assert last.metrics["norm_known"] > 2 * last.metrics["norm_negative"]
    outputs = last.state()["outputs"]["test"]
    rebuilt = lenetpp.rebuild(last.state()["network"], last.state()["weights"])
    x = to_float(torch.from_numpy(data.test.pixels))
    z = margins.logits(config, rebuilt(x).detach(), rebuilt.centres.data, s=8.0)
    torch.testing.assert_close(z, outputs["logits"])


def with_everything(evaluate_every):
    """Epochs of a loss with negatives, a margin that rises, crops and flips."""
    test = open_set().test
    held = Images(255 - test.pixels, np.full(len(test.labels), -1))
    data = negatives_data(negative_train=held, negative=held, validation=test, negative_validation=held)
    config = named("arc_os", width=4, batch=8, crop=12, flip=True, margin_warm_up=0.75, evaluate_every=evaluate_every)
    return lambda resume=None: margins.train(replace(config, epochs=4), data, seed=3, device="cpu", resume=resume)


def assert_same(one, other):
    assert one.keys() == other.keys()
    for name, values in one.items():
        assert torch.equal(values, other[name]), name


def test_negatives_margins_that_rise_crops_and_flips_are_resumed_exactly():
    start = with_everything(1)
    epochs = [(epoch.metrics, epoch.state()) for epoch in start()]
    (_, kept), *rest = epochs[1:]
    resumed = [(epoch.metrics, epoch.state()) for epoch in start(kept)]
    assert [metrics for metrics, _ in resumed] == [metrics for metrics, _ in rest]
    assert_same(resumed[-1][1]["weights"], rest[-1][1]["weights"])


def test_evaluating_more_often_changes_no_weight():
    *_, often = with_everything(1)()
    *_, once = with_everything(0)()
    assert_same(often.state()["weights"], once.state()["weights"])
    assert often.metrics == once.metrics


@pytest.mark.parametrize("ring", ["known", "all"])
def test_the_validation_loss_is_told_in_its_parts_and_says_whose_norms_it_counts(ring):
    test = open_set().test
    held = Images(255 - test.pixels, np.full(len(test.labels), -1))
    data = negatives_data(validation=test, negative_validation=held)
    config = named("cosface_sfn", width=4, epochs=1, batch=8, validation_ring=ring, margin=0.1)
    (epoch,) = margins.train(config, data, seed=0, device="cpu")
    outputs, s = epoch.state()["outputs"], margins.scale(config, 3)
    known, negative = outputs["validation"], outputs["negative_validation"]
    p = torch.softmax(known["logits"], dim=1)[torch.arange(len(known["labels"])), known["labels"]]
    counted = known["norms"] if ring == "known" else torch.cat([known["norms"], negative["norms"]])
    norm = float(((s - counted) ** 2).mean())
    found = epoch.metrics
    assert found["validation_loss_class"] == pytest.approx(float(-p.log().mean()), rel=1e-5)
    assert found["validation_loss_norm"] == pytest.approx(norm, rel=1e-5)
    assert found["validation_loss"] == pytest.approx(found["validation_loss_class"] + 0.01 * norm, rel=1e-5)


def test_features_without_a_direction_are_said(caplog):
    data = open_set()
    config = named("softmax", width=4, epochs=1, batch=8, feature_bias=False)
    (epoch,) = margins.train(config, data, seed=0, device="cpu")
    network = lenetpp.rebuild(epoch.state()["network"], epoch.state()["weights"])
    with torch.no_grad():
        network.body.bottleneck.weight.zero_()
    found = margins.evaluated(config, network, data, 13.0, "cpu")
    assert "12 of 12 test images have a deep feature of length 0" in caplog.text
    torch.testing.assert_close(found["test"]["angles"], torch.full((12, 3), math.pi / 2))
