"""The contrastive losses against golden numbers, loops written from the equations, and pytorch-metric-learning."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from trainables import contrastive

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "gradmix" / "g1_losses.npz")
TAUS = [float(tau) for tau in GOLDEN["temperatures"]]
FORMS = ("infonce", "clean_all", "mixed_batch")


def stacked(array: np.ndarray) -> torch.Tensor:
    """(N, 2, D) by image and view -> (2N, D), first views first."""
    return torch.from_numpy(array).transpose(0, 1).reshape(-1, array.shape[2]).contiguous()


@pytest.fixture
def golden() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    z, mixed = stacked(GOLDEN["z"]).requires_grad_(), stacked(GOLDEN["z_mix"]).requires_grad_()
    return z, mixed, torch.from_numpy(GOLDEN["labels"])


def drawn(count: int = 5, classes: int = 3, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    z = F.normalize(torch.randn(2 * count, 4, generator=generator, dtype=torch.float64), dim=1)
    mixed = F.normalize(torch.randn(2 * count, 4, generator=generator, dtype=torch.float64), dim=1)
    return z, mixed, torch.randint(classes, (count,), generator=generator)


def close(actual: torch.Tensor, expected: object) -> None:
    torch.testing.assert_close(actual.detach(), torch.as_tensor(expected, dtype=actual.dtype), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("at", range(4))
def test_clean_losses_are_the_golden_ones(golden, at):
    z, _, labels = golden
    tau = TAUS[at]
    close(contrastive.simclr(z, tau), GOLDEN["simclr_ref"][at])
    close(contrastive.supcon(z, labels, tau), GOLDEN["supcon_ref"][at])
    close(contrastive.supcon(z, labels, tau, "eq2"), GOLDEN["eq2_literal"][at])
    close(contrastive.supcon(z, labels, tau, "eq2_pos"), GOLDEN["eq2_plus_pos"][at])
    close(contrastive.supcon(z, labels, tau, "in"), GOLDEN["supcon_in"][at])


def test_per_anchor_values_and_gradients_are_the_golden_ones(golden):
    z, _, labels = golden
    close(contrastive.simclr_anchors(z, 0.05), GOLDEN["simclr_per_anchor_T005"])
    close(contrastive.supcon_anchors(z, labels, 0.05), GOLDEN["supcon_per_anchor_T005"])
    (simclr,) = torch.autograd.grad(contrastive.simclr(z, 0.05), z)
    close(simclr, stacked(GOLDEN["grad_simclr_T005"]))
    (supcon,) = torch.autograd.grad(contrastive.supcon(z, labels, 0.05), z)
    close(supcon, stacked(GOLDEN["grad_supcon_T005"]))


@pytest.mark.parametrize(
    ("form", "name"), [("infonce", "infonce"), ("clean_all", "clean_all"), ("mixed_batch", "asym")]
)
def test_mix_terms_are_the_golden_ones(golden, form, name):
    z, mixed, _ = golden
    loss = contrastive.mix(z, mixed, 0.05, form).mean()
    close(loss, GOLDEN[f"mix_{name}_T005"])
    if name == "asym":
        return
    of_z, of_mixed = torch.autograd.grad(loss, [z, mixed])
    close(of_z, stacked(GOLDEN[f"mix_{name}_gz_T005"]))
    close(of_mixed, stacked(GOLDEN[f"mix_{name}_gzm_T005"]))


def test_both_readings_of_equation_8_are_the_golden_ones(golden):
    z, mixed, labels = golden
    theta, lam, gamma = GOLDEN["eq8_theta_lambda_gamma"]
    supcon, simclr = contrastive.supcon(z, labels, 0.05), contrastive.simclr(z, 0.05)
    paper, code = (contrastive.mix(z, mixed, 0.05, form).mean() for form in ("infonce", "clean_all"))
    close(theta * supcon + lam * (simclr + gamma**2 * paper), GOLDEN["eq8_paper"])
    close(theta * supcon + lam * (simclr + (1 - gamma**2) * code), GOLDEN["eq8_code_weight"])


def loop_supcon(z, labels, tau, form):
    s = (z @ z.T / tau).tolist()
    labels = labels.tolist() * 2
    rows, values = range(len(s)), []
    for a in rows:
        positives = [p for p in rows if p != a and labels[p] == labels[a]]
        everyone = sum(math.exp(s[a][k]) for k in rows if k != a)
        strangers = sum(math.exp(s[a][k]) for k in rows if labels[k] != labels[a])
        if form == "in":
            values.append(-math.log(sum(math.exp(s[a][p]) / everyone for p in positives) / len(positives)))
            continue
        if form == "eq2" and strangers == 0:
            continue
        below = {"out": lambda _, e=everyone: e, "eq2": lambda _, e=strangers: e}.get(
            form, lambda p, e=strangers, a=a: e + math.exp(s[a][p])
        )
        values.append(sum(-s[a][p] + math.log(below(p)) for p in positives) / len(positives))
    return sum(values) / len(values)


@pytest.mark.parametrize("form", ["out", "eq2", "eq2_pos", "in"])
@pytest.mark.parametrize("seed", range(3))
def test_supcon_is_the_loop_over_anchors_and_positives(form, seed):
    z, _, labels = drawn(seed=seed)
    close(contrastive.supcon(z, labels, 0.3, form), loop_supcon(z, labels, 0.3, form))


def loop_pairs(z, mixed, groups, tau, form):
    """-log share of each mixed positive p of each clean anchor a: {(a, p): loss}."""
    groups = groups.tolist() * 2
    rows, pairs = range(len(z)), {}
    for a in rows:
        for p in (p for p in rows if p != a and groups[p] == groups[a]):
            positive = math.exp(float(z[a] @ mixed[p]) / tau)
            others = [k for k in rows if (groups[k] != groups[a] if form == "infonce" else k != a)]
            below = sum(math.exp(float(z[a] @ z[k]) / tau) for k in others)
            pairs[a, p] = -math.log(positive / (below + positive if form == "infonce" else below))
    return pairs


@pytest.mark.parametrize("form", ["infonce", "clean_all"])
def test_mix_is_the_loop_over_clean_anchors(form):
    z, mixed, _ = drawn()
    pairs = loop_pairs(z, mixed, torch.arange(5), 0.3, form)
    expected = [pairs[(p + 5) % 10, p] for p in range(10)]
    close(contrastive.mix(z, mixed, 0.3, form), expected)


@pytest.mark.parametrize("form", ["infonce", "clean_all"])
def test_mix_supcon_is_the_loop_over_anchors_and_mixed_positives(form):
    z, mixed, labels = drawn()
    weights = torch.linspace(0.1, 1, 10, dtype=torch.float64)
    pairs = loop_pairs(z, mixed, labels, 0.3, form)
    rows = [[weights[p] * loss for (a, p), loss in pairs.items() if a == anchor] for anchor in range(10)]
    expected = sum(sum(row) / len(row) for row in rows) / 10
    close(contrastive.mix_supcon(z, mixed, labels, weights, 0.3, form), expected)


@pytest.mark.parametrize("form", FORMS)
def test_mix_supcon_is_the_mix_term_where_all_labels_differ(form):
    z, mixed, _ = drawn()
    weights = torch.linspace(0.1, 1, 5, dtype=torch.float64).repeat(2)
    alone = contrastive.mix_supcon(z, mixed, torch.arange(5), weights, 0.3, form)
    close(alone, (weights * contrastive.mix(z, mixed, 0.3, form)).mean())


def test_a_mixed_batch_is_two_ordinary_ones():
    z, mixed, labels = drawn()
    first, second = torch.cat([mixed[:5], z[5:]]), torch.cat([z[:5], mixed[5:]])
    ssl = (contrastive.simclr(first, 0.3) + contrastive.simclr(second, 0.3)) / 2
    close(contrastive.mix(z, mixed, 0.3, "mixed_batch").mean(), ssl)
    supervised = (contrastive.supcon(first, labels, 0.3) + contrastive.supcon(second, labels, 0.3)) / 2
    close(contrastive.mix_supcon(z, mixed, labels, torch.ones(10), 0.3, "mixed_batch"), supervised)


@pytest.mark.parametrize("tau", [0.05, 0.5])
def test_pytorch_metric_learning_agrees(tau):
    losses = pytest.importorskip("pytorch_metric_learning.losses")
    z, _, labels = drawn(count=8)
    close(contrastive.supcon(z, labels, tau), losses.SupConLoss(temperature=tau)(z, labels.repeat(2)))
    close(contrastive.simclr(z, tau), losses.NTXentLoss(temperature=tau)(z, torch.arange(8).repeat(2)))


@pytest.mark.parametrize("form", ["out", "in", "eq2_pos"])
def test_supcon_is_simclr_where_all_labels_differ(form):
    z, _, _ = drawn()
    close(contrastive.supcon(z, torch.arange(5), 0.1, form), contrastive.simclr(z, 0.1))


def test_equation_2_of_one_class_is_zero_with_a_gradient():
    z, _, _ = drawn()
    z.requires_grad_()
    loss = contrastive.supcon(z, torch.zeros(5, dtype=torch.int64), 0.1, "eq2")
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(z.grad, torch.zeros_like(z))


@pytest.mark.parametrize("form", ["out", "eq2", "eq2_pos", "in"])
def test_gradients_are_finite_in_single_precision_at_the_lowest_temperature(form):
    z, _, _ = drawn()
    z = F.normalize(z.float(), dim=1).requires_grad_()
    for labels in (torch.zeros(5, dtype=torch.int64), torch.arange(5)):
        (gradient,) = torch.autograd.grad(contrastive.supcon(z, labels, 0.01, form), z)
        assert gradient.isfinite().all()


def test_infonce_is_cross_entropy_with_the_key_in_first_place():
    z, keys, _ = drawn()
    queue = drawn(count=9, seed=1)[0]
    logits = torch.cat([(z * keys).sum(1, keepdim=True), z @ queue.T], 1) / 0.2
    expected = F.cross_entropy(logits, torch.zeros(10, dtype=torch.int64), reduction="none")
    close(contrastive.infonce(z, keys, queue, 0.2), expected)
