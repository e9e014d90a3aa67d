"""Heads, terms and named losses against golden numbers, and against properties that follow from their equations."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from trainables import margins
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
    "ce_ignore_neg": lambda z, phi, y: margins.cross_entropy(z, y),
    "eos_w1": lambda z, phi, y: margins.entropic_open_set(z, y),
    "eos_w0.5": lambda z, phi, y: margins.entropic_open_set(z, y, 0.5),
    "ring_s13": lambda z, phi, y: margins.ring(phi, 13.0),
    "os_xi13": lambda z, phi, y: margins.objectosphere(phi, y, 13.0),
    "os_sym_s13": lambda z, phi, y: margins.symmetric_objectosphere(phi, y, 13.0),
    "vast_os_xi13": lambda z, phi, y: margins.objectosphere(phi, y, 13.0),
}


@pytest.mark.parametrize("name", TERM)
def test_a_term_and_its_gradients_are_the_golden_ones(name):
    z, phi = tensor(TERMS["logits"]).requires_grad_(), tensor(TERMS["features"]).requires_grad_()
    value = TERM[name](z, phi, tensor(TERMS["labels"]))
    value.backward()
    close(value, TERMS[f"{name}/value"])
    for values, key in ((z, "grad_logits"), (phi, "grad_features")):
        close(torch.zeros_like(values) if values.grad is None else values.grad, TERMS[f"{name}/{key}"])
