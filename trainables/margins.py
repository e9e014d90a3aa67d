"""Open-set losses of one thesis: margins on the angle between feature and class centre, Entropic Open-Set and
Objectosphere losses for negatives, and their unions.

Paper: L. van den Bergh, Improved Losses for Open-Set Classification, master's thesis, University of Zurich, 2023. EOS
and Objectosphere are of Dhamija et al. (arXiv 1811.04110), ring loss of Zheng et al. (arXiv 1803.00130), the margins of
SphereFace (arXiv 1704.08063), CosFace (arXiv 1801.09414), ArcFace (arXiv 1801.07698) and SphereFace-R.
Repository: TwoDigitsOneNumber/openset-imagenet-comparison@e7faf79 (later commits cannot run EOS). In the fields below
[T] is printed in the thesis, [C] is read in its code, [D] is our decision.

Symbols: phi = deep feature, W = class centres (columns), theta_c = angle between phi and w_c, s = scale, m = margin,
lam = lambda, xi = s.

    z_c = r (cos theta_c + d_c),  r = s (hard feature normalisation, HFN) or ||phi|| (soft, SFN),
    loss = CE or EOS of z + lam * (RING, OSR or SOSR of ||phi||).

Heads that project overwrite W by its normalised columns at the start of every forward pass, outside autograd, in
training and in evaluation: the gradient is the plain one at the projected point, and the optimiser's step leaves the
sphere until the next forward pass. d_c is detached by default, so dz/dcos = r whatever the margin.

Deviations:
1. Eq 3.17 and 3.18 are followed as in the code: log p, and a leading minus. Cross-entropy is a mean over known rows, a
   regulariser over all rows handed to it (Eq 4.4 and 4.5 divide both by N; Eq 3.19 has sums).
2. A batch of negatives alone has cross-entropy 0; in the code it is NaN with gradient 0.
3. `sfn_norm` projects W, as the thesis says; its code does not, which is `sfn_norm_raw`.
4. `cos_eos_sfn` and `arc_eos_sfn` have r = ||phi||, as the thesis says; its runs had r = s: `*_eos_sfn_as_run`.
5. In validation the ring loss of methods that train without negatives leaves negatives out ([C] includes them, which
   is `validation_ring="all"`).
6. The last epoch is evaluated. No epoch is chosen by its confidence (the code stores one so, unused).
7. The ramped margin (`margin_warm_up`) is ours; nothing of the kind is in the thesis.
8. Images of folders are cut to squares before they are cropped: 256 x 256 and not 256 on the shorter side.
9. Evaluation projects a copy of W, so that how often one evaluates changes no weight; the code's overwrites W itself.

Expected, [T] Table 6.1 (toy protocol, closed-set accuracy / CCR at FPR 1e-2): CosFace 99.34 / 27.89, Cos-EOS
99.23 / 99.19, Cos-OS 99.39 / 95.03.

Shapes: B rows of a batch, K features, C known classes.
"""

import logging
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from trainables import lenetpp, loop, margin_exhibits, margin_scores, openset, oscr, seeding
from trainables.augment import to_float
from trainables.config import ConfigError, check_types, nearest, require
from trainables.data_protocols import NEGATIVE, PROTOCOLS, UNKNOWN
from trainables.datasets import Data
from trainables.protocol import Diverged, Epoch, State

log = logging.getLogger(__name__)

HALF_CLIP = 1e-5
"""Cosines are clipped by so much before arccos, whose slope is infinite at both ends."""

ZERO = 1e-12
"""Features shorter than that have no direction; all their cosines are about 0. They are left so, and said."""

Head = Literal["linear", "logit", "norm", "cos", "ang", "sphere"]
Magnitude = Literal["hard", "soft"]


# Heads


@torch.no_grad()
def project(W_KC: Tensor) -> None:
    """Overwrites the class centres by their directions. Outside autograd: no gradient passes the normalisation."""
    W_KC.copy_(F.normalize(W_KC, dim=0, eps=1e-12))


def linear_logits(phi_BK: Tensor, W_KC: Tensor, m: float = 0.0, labels_B: Tensor | None = None) -> Tensor:
    """W^T phi - m [c = y]: the linear head, and SM-Softmax's logit margin. Rows of negatives get no margin."""
    z_BC = phi_BK @ W_KC
    return z_BC if labels_B is None or m == 0 else z_BC - m * own_class(labels_B, z_BC)


def cosine_logits(
    phi_BK: Tensor,
    W_KC: Tensor,
    *,
    head: Literal["norm", "cos", "ang", "sphere"],
    m: float,
    s: float | None,
    labels_B: Tensor | None = None,
    detached: bool = True,
) -> Tensor:
    """Logits r (cos theta_c + d_c) for centres of length 1 (see `project`).

    Args:
        phi_BK: features.
        W_KC: unit columns.
        head: what d_c is at training.
        m: its margin; a factor for 'sphere'.
        s: r, for hard feature normalisation; None: r = ||phi||, which carries gradient.
        labels_B: classes, below 0 for rows without a margin; None: evaluation, d_c = 0.
        detached: whether d_c is held constant in the gradient.
    """
    cos_BC = F.normalize(phi_BK, dim=1, eps=1e-12) @ W_KC
    if labels_B is not None and head != "norm":
        if detached:
            with torch.no_grad():
                shift_BC = margin_shift(cos_BC, own_class(labels_B, cos_BC), head, m)
        else:
            shift_BC = margin_shift(cos_BC, own_class(labels_B, cos_BC), head, m)
        cos_BC = cos_BC + shift_BC
    return cos_BC * (torch.linalg.vector_norm(phi_BK, dim=1, keepdim=True) if s is None else s)


def margin_shift(cos_BC: Tensor, own_BC: Tensor, head: Literal["cos", "ang", "sphere"], m: float) -> Tensor:
    """d_c: what a margin adds to the cosines. `own_BC` is 1 at known rows' own classes and 0 elsewhere."""
    if head == "cos":
        return -m * own_BC
    theta_BC = torch.arccos(cos_BC.clamp(-1 + HALF_CLIP, 1 - HALF_CLIP))
    if head == "ang":
        # Only the upper clamp acts (theta + m > pi); it keeps the logit monotone in theta.
        return torch.cos((theta_BC + m * own_BC).clamp(HALF_CLIP, math.pi)) - cos_BC
    widened_BC = torch.where(own_BC > 0, m * theta_BC, theta_BC)
    k_BC = torch.floor(widened_BC.detach() / math.pi)
    return (1 - 2 * (k_BC % 2)) * torch.cos(widened_BC) - 2 * k_BC - cos_BC


def own_class(labels_B: Tensor, like_BC: Tensor) -> Tensor:
    """1 where c = y (B, C), in `like_BC`'s dtype; rows of negatives are 0."""
    classes_C = torch.arange(like_BC.shape[1], device=like_BC.device)
    return (labels_B[:, None] == classes_C).to(like_BC.dtype)


# Terms. Labels are 0..C-1 for known rows and -1 for negatives; every mean is over exactly the rows named.


def cross_entropy(z_BC: Tensor, labels_B: Tensor) -> Tensor:
    """Mean over known rows of -log p_y; 0 without one."""
    known = (labels_B >= 0).sum().clamp_min(1)
    return F.cross_entropy(z_BC, labels_B, ignore_index=-1, reduction="sum") / known


def entropic_open_set(z_BC: Tensor, labels_B: Tensor, negative_weight: float = 1.0) -> Tensor:
    """EOS: mean over all rows of -log p_y (known), or negative_weight * -(1 / C) sum_c log p_c (negative)."""
    negative_B1 = (labels_B < 0).to(z_BC.dtype)[:, None]
    target_BC = own_class(labels_B, z_BC) + negative_B1 * (negative_weight / z_BC.shape[1])
    total: Tensor = (target_BC * F.log_softmax(z_BC, dim=1)).sum()
    mean: Tensor = -total / len(z_BC)
    return mean


def ring(phi_BK: Tensor, s: float) -> Tensor:
    """RING: mean over all rows of (s - ||phi||)^2."""
    mean: Tensor = (s - torch.linalg.vector_norm(phi_BK, dim=1)).square().mean()
    return mean


def objectosphere(phi_BK: Tensor, labels_B: Tensor, xi: float) -> Tensor:
    """OSR: mean over all rows of max(0, xi - ||phi||)^2 (known) or ||phi||^2 (negative)."""
    known_B = F.relu(xi - torch.linalg.vector_norm(phi_BK, dim=1)).square()
    return torch.where(labels_B >= 0, known_B, phi_BK.square().sum(1)).mean()


def symmetric_objectosphere(phi_BK: Tensor, labels_B: Tensor, s: float) -> Tensor:
    """SOSR: mean over all rows of (s - ||phi||)^2 (known) or ||phi||^2 (negative)."""
    known_B = (s - torch.linalg.vector_norm(phi_BK, dim=1)).square()
    return torch.where(labels_B >= 0, known_B, phi_BK.square().sum(1)).mean()


def two_means(phi_BK: Tensor, labels_B: Tensor, s: float) -> Tensor:
    """RING over known rows plus the mean of ||phi||^2 over negative ones: SOSR with a mean for each group."""
    known_B = labels_B >= 0
    near_B = (s - torch.linalg.vector_norm(phi_BK, dim=1)).square()
    far_B = phi_BK.square().sum(1)
    none = torch.zeros_like(near_B)
    ring_known = torch.where(known_B, near_B, none).sum() / known_B.sum().clamp_min(1)
    return ring_known + torch.where(known_B, none, far_B).sum() / (~known_B).sum().clamp_min(1)


# Configuration


@dataclass(frozen=True, kw_only=True)
class Config:
    """What can be varied. Defaults are the toy protocol with softmax; `named` gives the thesis's losses.

    [T] printed in the thesis, [C] read in its code, [D] ours.
    """

    # Network and optimisation
    network: Literal["lenetpp", "resnet18", "resnet50"] = "lenetpp"
    """[T] LeNet++ on the toy protocol, ResNet-50 on ImageNet."""
    width: int = 32
    """Channels of the first stage: [C] 32 of LeNet++; 64 is a ResNet's own."""
    stem: Literal["small", "imagenet"] = "small"
    """A ResNet's first layers: 3x3 for small images, or 7x7 with stride 2 and pooling. LeNet++ has no other."""
    features: int | Literal["C-1", "C", "C+1", "2C"] = "C"
    """K, the bottleneck before the logits. [T] C, and 2 for pictures."""
    activation: Literal["none", "prelu"] = "none"
    """LeNet++ after each convolution. [C] none; [T] follows Wen et al., who have PReLU."""
    feature_bias: bool = True
    """Whether phi has a bias. [C] yes; [T] no."""
    epochs: int = 15
    """[T] 15 on the toy protocol, 120 on ImageNet."""
    batch: int = 32
    """Rows a step, known and negative mixed; the last may be shorter. [C] 32."""
    learning_rate: float = 1e-3
    """SGD's, constant. [T]"""
    momentum: float = 0.9
    """[T]"""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Of the network up to phi; logits and losses are fp32 always. [C] fp32."""
    crop: int | None = None
    """Side of random crops in training and of the centre crop in evaluation; [C] 224 of 256 on ImageNet."""
    flip: bool = False
    """Horizontal flip, p = 0.5, in training. [C] on ImageNet."""

    # Logits
    head: Head = "linear"
    """linear; logit (margin on the logit); norm (zero margin), cos, ang, sphere: on unit class centres."""
    magnitude: Magnitude = "soft"
    """r of heads on unit centres: hard = s (HFN), soft = ||phi|| (SFN). linear and logit are always soft."""
    margin: float = 0.0
    """m. [T] logit .3, cos .35, ang .5, sphere 1.2 (a factor)."""
    margin_warm_up: float = 0.0
    """Share of the epochs over which m rises linearly from none to its value. [D] for I2."""
    detached: bool = True
    """Whether the margin's shift is held constant in the gradient. [C] yes."""
    scale: float | None = None
    """s, and xi. None: the smallest integer that allows `probability`."""
    probability: float = 0.999995
    """p^ of the bound on s. [C] the smallest that rounds to 1 at five decimals."""

    # Objective
    loss: Literal["ce", "eos"] = "ce"
    """Cross-entropy of known rows, or Entropic Open-Set loss of all rows."""
    negative_weight: float = 1.0
    """w of negatives in EOS. [T] 1."""
    regulariser: Literal["none", "ring", "osr", "sosr", "two_means"] = "none"
    """On ||phi||: RING, Objectosphere's, its symmetric form, or that with one mean for each group ([D])."""
    lam: float = 0.01
    """lambda, weight of the regulariser. [T] 0.01."""
    negatives: bool = False
    """Whether negatives are trained on."""
    validation_ring: Literal["known", "all"] = "known"
    """Rows that RING counts in the validation loss when negatives are not trained on. [C] all."""

    # Evaluation
    score: Literal["softmax", "log_softmax", "logit", "norm"] = "softmax"
    """What is thresholded: max p, max log p in double, max z (appendix A of the thesis), or ||phi|| max p."""
    evaluate_every: int = 0
    """Epochs between evaluations; 0: after the last only."""

    def __post_init__(self) -> None:
        check_types(self)
        for field in ("width", "epochs", "batch"):
            require(getattr(self, field) >= 1, self, field, "at least 1")
        for field in ("learning_rate",):
            require(0 < getattr(self, field) < math.inf, self, field, "above 0 and finite")
        for field in ("momentum", "lam", "negative_weight", "margin"):
            require(0 <= getattr(self, field) < math.inf, self, field, "at least 0 and finite")
        require(isinstance(self.features, str) or self.features >= 1, self, "features", "at least 1, or 'C-1' to '2C'")
        require(self.scale is None or 0 < self.scale < math.inf, self, "scale", "none, or above 0 and finite")
        require(0.5 <= self.probability < 1, self, "probability", "from 0.5 up to but not including 1")
        require(self.crop is None or self.crop >= 8, self, "crop", "none, or at least 8")
        require(0 <= self.margin_warm_up <= 1, self, "margin_warm_up", "a share of the epochs, between 0 and 1")
        require(self.evaluate_every >= 0, self, "evaluate_every", "at least 0")
        _check_network(self)
        _check_head(self)


def _check_network(config: Config) -> None:
    """What a network does not have cannot be asked of it: it would be left out without a word."""
    lenet, of = config.network == "lenetpp", f"with network={config.network!r}"
    require(lenet or config.activation == "none", config, "activation", f"'none' {of}, which has its own")
    require(not lenet or config.stem == "small", config, "stem", f"'small' {of}, which has one of its own")
    fixed = config.stem == "imagenet"
    require(not fixed or config.width == 64, config, "width", f"64 {of} and stem='imagenet', which are torchvision's")


def _check_head(config: Config) -> None:
    plain = config.head in ("linear", "logit")
    require(not plain or config.magnitude == "soft", config, "magnitude", f"'soft' with head={config.head!r}")
    if config.head in ("linear", "norm"):
        require(config.margin == 0, config, "margin", f"0 with head={config.head!r}, which has none")
    if config.head == "sphere":
        require(config.margin >= 1, config, "margin", "at least 1 with head='sphere': it is a factor")
    require(
        config.loss != "eos" or config.negatives, config, "negatives", "true with loss='eos', which is about negatives"
    )
    needs = config.regulariser in ("osr", "sosr", "two_means")
    require(not needs or config.negatives, config, "negatives", f"true with regulariser={config.regulariser!r}")
    bound = {"ang": math.pi, "cos": 2.0}.get(config.head, math.inf)
    require(config.margin <= bound, config, "margin", f"at most {bound:.6g} with head={config.head!r}")


_HFN, _SFN = {"magnitude": "hard"}, {"magnitude": "soft"}
_COS, _ANG = {"head": "cos", "margin": 0.35}, {"head": "ang", "margin": 0.5}
_NORM = {"head": "norm"}
_RING = {"regulariser": "ring"}
_EOS = {"loss": "eos", "negatives": True}
_OS = {"regulariser": "osr", "negatives": True}
_SOS = {"regulariser": "sosr", "negatives": True}

LOSSES: Mapping[str, Mapping[str, Any]] = {
    "softmax": {},
    "sm_softmax": {"head": "logit", "margin": 0.3},
    "sphereface": {"head": "sphere", "margin": 1.2, **_HFN},
    "cosface": {**_COS, **_HFN},
    "arcface": {**_ANG, **_HFN},
    "sfn_norm": {**_NORM, **_SFN, **_RING},
    "sfn_norm_raw": {"head": "linear", **_RING},
    "cosface_sfn": {**_COS, **_SFN, **_RING},
    "arcface_sfn": {**_ANG, **_SFN, **_RING},
    "entropic": _EOS,
    "objectosphere": {**_EOS, **_OS},
    "softmax_os": {**_NORM, **_SFN, **_SOS},
    "cos_os": {**_COS, **_SFN, **_SOS},
    "arc_os": {**_ANG, **_SFN, **_SOS},
    "cos_os_non_symmetric": {**_COS, **_SFN, **_OS},
    "arc_os_non_symmetric": {**_ANG, **_SFN, **_OS},
    "norm_eos": {**_NORM, **_HFN, **_EOS},
    "cos_eos": {**_COS, **_HFN, **_EOS},
    "arc_eos": {**_ANG, **_HFN, **_EOS},
    "cos_eos_sfn": {**_COS, **_SFN, **_EOS, **_RING},
    "arc_eos_sfn": {**_ANG, **_SFN, **_EOS, **_RING},
    "cos_eos_sfn_as_run": {**_COS, **_HFN, **_EOS, **_RING},
    "arc_eos_sfn_as_run": {**_ANG, **_HFN, **_EOS, **_RING},
}
"""The thesis's losses as compositions: name -> fields of `Config`. `*_os` is its Margin-OS, `*_eos` its Margin-EOS."""


def named(loss: str, base: Config | None = None, **fields: Any) -> Config:
    """The config of a loss of the thesis, over `base` (the toy protocol's), with further fields changed.

    Raises:
        ConfigError: no such loss, with the nearest one.
    """
    if loss not in LOSSES:
        raise ConfigError(f"{loss!r} is no loss.{nearest(loss, LOSSES)} There are: {', '.join(LOSSES)}.")
    return replace(base or Config(), **(dict(LOSSES[loss]) | fields))


# One batch


def projects(config: Config) -> bool:
    """Whether the head's centres are unit vectors."""
    return config.head not in ("linear", "logit")


def logits(
    config: Config, phi_BK: Tensor, W_KC: Tensor, labels_B: Tensor | None = None, *, s: float, m: float | None = None
) -> Tensor:
    """Logits (B, C) of a forward pass: projects W in place where the head asks for it.

    Args:
        config: head, magnitude, detachment.
        phi_BK: features.
        W_KC: class centres.
        labels_B: for training; None in evaluation and validation, which have no margin.
        s: the scale of hard normalisation.
        m: the margin in force; None: the config's.
    """
    m = config.margin if m is None else m
    if config.head == "linear" or config.head == "logit":  # spelt out for the type checker, which narrows by this
        return linear_logits(phi_BK, W_KC, m if config.head == "logit" else 0.0, labels_B)
    project(W_KC)
    return cosine_logits(
        phi_BK,
        W_KC,
        head=config.head,
        m=m,
        s=s if config.magnitude == "hard" else None,
        labels_B=labels_B,
        detached=config.detached,
    )


def regulariser(config: Config, phi_BK: Tensor, labels_B: Tensor, s: float) -> Tensor | None:
    """The term on ||phi||, without its weight; None where the config has none."""
    if config.regulariser == "none":
        return None
    if config.regulariser == "ring":
        return ring(phi_BK, s)
    term = {"osr": objectosphere, "sosr": symmetric_objectosphere, "two_means": two_means}[config.regulariser]
    return term(phi_BK, labels_B, s)


def losses(config: Config, z_BC: Tensor, phi_BK: Tensor, labels_B: Tensor, s: float) -> dict[str, Tensor]:
    """'loss' and its parts: 'loss_class' (CE or EOS) and, where there is one, the unweighted regulariser 'loss_norm'.

    Args:
        config: objective.
        z_BC: logits.
        phi_BK: features.
        labels_B: 0..C-1 for known rows, -1 for negatives.
        s: scale; xi is the same.
    """
    if config.loss == "eos":
        terms = {"loss_class": entropic_open_set(z_BC, labels_B, config.negative_weight)}
    else:
        terms = {"loss_class": cross_entropy(z_BC, labels_B)}
    norm = regulariser(config, phi_BK, labels_B, s)
    if norm is None:
        return {"loss": terms["loss_class"]} | terms
    return {"loss": terms["loss_class"] + config.lam * norm} | terms | {"loss_norm": norm}


# Training


def train(config: Config, data: Data, *, seed: int, device: str, resume: State | None = None) -> Iterator[Epoch]:
    """Trains a network and its class centres and yields after every epoch; see `trainables.protocol`.

    The final state rebuilds the network, `lenetpp.rebuild(state["network"], state["weights"])`, and holds the outputs
    on all evaluated images, for `margin_scores`.

    Raises:
        ConfigError: negatives that the protocol does not have, a margin beyond its bound, labels outside the
            convention.
        Diverged: a loss, a weight or a deep feature is no longer finite.
    """
    pixels_NHWC, labels_N = _training_set(config, data, device)
    K, classes = bottleneck(config, len(data.classes)), len(data.classes)
    s = scale(config, classes)
    check_margin(config, classes, K)
    network = _network(config, data, K, seed).to(device)
    optimizer = torch.optim.SGD(
        network.parameters(), lr=config.learning_rate, momentum=config.momentum, **loop.fused(device)
    )
    done = 0
    if resume is not None:
        done = resume["epoch"]
        network.load_state_dict(resume["weights"])
        optimizer.load_state_dict(resume["optimizer"])
    for epoch in range(done, config.epochs):
        order_N = torch.randperm(len(labels_N), generator=seeding.torch_stream(seed, f"order/{epoch}")).to(device)
        views = seeding.torch_stream(seed, f"augment/{epoch}", device)
        m = ramped_margin(config, epoch)
        totals = loop.Totals()
        network.train()
        for order_B in order_N.split(config.batch):
            x_BCHW = augmented(config, to_float(pixels_NHWC[order_B]), views)
            labels_B = labels_N[order_B]
            with totals.step(device):
                phi_BK = deep_features(config, network, x_BCHW)
                z_BC = logits(config, phi_BK, network.centres, labels_B, s=s, m=m)
                terms = losses(config, z_BC, phi_BK, labels_B, s)
                optimizer.zero_grad(set_to_none=True)
                terms["loss"].backward()
                optimizer.step()
            totals.add(terms)
        metrics, more = totals.means(network, epoch + 1), {}
        if epoch + 1 == config.epochs or (config.evaluate_every and (epoch + 1) % config.evaluate_every == 0):
            more["outputs"] = outputs = evaluated(config, network, data, s, device)
            metrics |= margin_scores.measure(outputs, config.score) | _validated(config, outputs, s)
            metrics["centre_angle"] = centre_angle(network.centres)
        show = partial(exhibits, config, more["outputs"], network.centres, s) if more else None
        yield Epoch(epoch + 1, metrics, loop.captured(epoch + 1, network, optimizer, **more), show)


def bottleneck(config: Config, classes: int) -> int:
    """K for C known classes."""
    if isinstance(config.features, int):
        return config.features
    return max(1, {"C-1": classes - 1, "C": classes, "C+1": classes + 1, "2C": 2 * classes}[config.features])


def scale(config: Config, classes: int) -> float:
    """S for C known classes; warns where it is given below its bound."""
    bound = oscr.scale_bound(config.probability, classes) if classes > 1 else 0.0
    if config.scale is None:
        return float(max(1, math.ceil(bound)))
    uses = config.regulariser != "none" or (projects(config) and config.magnitude == "hard")
    if uses and config.scale < bound:
        log.warning(
            "scale=%g is below %.4g, the bound for %d classes: no probability can reach %g.",
            config.scale,
            bound,
            classes,
            config.probability,
        )
    return config.scale


def check_margin(config: Config, classes: int, K: int) -> None:
    """Raises ConfigError where C centres in K dimensions leave no room for the margin."""
    if config.head not in ("cos", "ang") or classes < 2:
        return
    bound = oscr.margin_bound("cos" if config.head == "cos" else "ang", classes, K)
    if config.margin > bound:
        raise ConfigError(
            f"margin={config.margin!r} is not allowed: with head={config.head!r}, {classes} classes in {K} dimensions "
            f"leave room for {bound:.5g} at most. Set margin to that or less, or features to at least "
            f"{max(3, classes - 1)}."
        )


def ramped_margin(config: Config, epoch: int) -> float:
    """M in the epoch with index `epoch`, from 0: over the warm-up it rises linearly from no margin (for sphere, 1)."""
    length = config.margin_warm_up * config.epochs
    if epoch >= length:
        return config.margin
    none = 1.0 if config.head == "sphere" else 0.0
    return none + (config.margin - none) * epoch / length


def augmented(config: Config, x_BCHW: Tensor, generator: torch.Generator) -> Tensor:
    """Random crops and flips, each image its own; the batch itself where neither is asked for."""
    if config.crop is not None and config.crop < x_BCHW.shape[2]:
        free, side = x_BCHW.shape[2] - config.crop + 1, torch.arange(config.crop, device=x_BCHW.device)
        corner_2B1 = torch.randint(free, (2, len(x_BCHW), 1), generator=generator, device=x_BCHW.device)
        rows_BH, columns_BW = corner_2B1 + side
        images_B = torch.arange(len(x_BCHW), device=x_BCHW.device)[:, None, None]
        x_BCHW = x_BCHW[images_B, :, rows_BH[:, :, None], columns_BW[:, None, :]].permute(0, 3, 1, 2)
    if config.flip:
        flipped_B = torch.rand(len(x_BCHW), generator=generator, device=x_BCHW.device) < 0.5
        x_BCHW = torch.where(flipped_B[:, None, None, None], x_BCHW.flip(3), x_BCHW)
    return x_BCHW


def deep_features(config: Config, network: lenetpp.Centred, x_BCHW: Tensor) -> Tensor:
    """Phi (B, K) in fp32, whatever the network computes in."""
    with torch.autocast(x_BCHW.device.type, dtype=torch.bfloat16, enabled=config.precision == "bf16"):
        phi_BK: Tensor = network(x_BCHW)
    return phi_BK.float()


# Evaluation


@torch.no_grad()
def evaluated(
    config: Config, network: lenetpp.Centred, data: Data, s: float, device: str, rows: int = 512
) -> dict[str, dict[str, Tensor]]:
    """Logits without a margin, norms, angles to the (normalised) centres and labels of every evaluated set, on the CPU.

    Raises:
        Diverged: a deep feature is not finite.
    """
    found = {}
    with openset.evaluation_mode(network):
        for name, images in {"test": data.test, **data.others}.items():
            if name not in (*margin_scores.SETS, *VALIDATION):
                continue
            parts = []
            for start in range(0, len(images.labels), rows):
                pixels_BHWC = torch.from_numpy(np.array(images.pixels[start : start + rows])).to(device)
                parts.append(deep_features(config, network, _centre(config, to_float(pixels_BHWC))))
            phi_NK = torch.cat(parts)
            if not bool(torch.isfinite(phi_NK).all()):
                raise Diverged(
                    f"the deep features of the {name} images are not finite; a lower learning rate may help."
                )
            norms_N = torch.linalg.vector_norm(phi_NK, dim=1)
            zero = int((norms_N < ZERO).sum())
            if zero:
                log.warning(
                    "%d of %d %s images have a deep feature of length 0: no direction.", zero, len(norms_N), name
                )
            # A copy: projected twice, centres may differ in their last bits, and training would go on from there.
            z_NC = logits(config, phi_NK, network.centres.clone(), s=s)
            cos_NC = F.normalize(phi_NK, dim=1) @ F.normalize(network.centres, dim=0)
            sample = {
                "logits": z_NC,
                "norms": norms_N,
                "angles": torch.arccos(cos_NC.clamp(-1, 1)),
                "labels": torch.from_numpy(np.array(images.labels, dtype=np.int64)),
            }
            if phi_NK.shape[1] == 2:
                sample["features"] = phi_NK
            found[name] = {key: values.cpu() for key, values in sample.items()}
    return found


def exhibits(
    config: Config, outputs: Mapping[str, Mapping[str, Tensor]], W_KC: Tensor, s: float
) -> dict[str, np.ndarray]:
    """What a network looks like: see `trainables.margin_exhibits`."""
    found = margin_scores.exhibits(outputs, config.score)
    if config.head != "linear" and config.head != "logit":  # spelt out for the type checker, which narrows by this
        found |= margin_exhibits.probabilities(config.head, s, W_KC.shape[1], config.margin)
    if len(W_KC) == 2:
        found |= margin_exhibits.features(outputs, W_KC)
    return found


VALIDATION = ("validation", "negative_validation")
"""Sets held out of training, known and negative."""


def _centre(config: Config, x_BCHW: Tensor) -> Tensor:
    if config.crop is None or config.crop >= x_BCHW.shape[2]:
        return x_BCHW
    start = (x_BCHW.shape[2] - config.crop) // 2
    return x_BCHW[:, :, start : start + config.crop, start : start + config.crop]


def _validated(config: Config, outputs: Mapping[str, Mapping[str, Tensor]], s: float) -> dict[str, float]:
    """The loss on what was held out of training, without a margin; nothing where nothing was.

    Class loss and regulariser need only norms, so features are stood in for by vectors of one element.
    """
    held = [outputs[name] for name in VALIDATION if name in outputs]
    if not held:
        return {}
    z_NC, norms_N, labels_N = (torch.cat([sample[key] for sample in held]) for key in ("logits", "norms", "labels"))
    counted_N = torch.ones_like(labels_N, dtype=torch.bool)
    if not config.negatives and config.validation_ring == "known":
        counted_N = labels_N >= 0
    objective = losses(replace(config, regulariser="none"), z_NC, norms_N[:, None], labels_N, s)["loss"]
    norm = regulariser(config, norms_N[counted_N][:, None], labels_N[counted_N], s)
    if norm is None:
        return {"validation_loss": float(objective)}
    parts = {"validation_loss_class": float(objective), "validation_loss_norm": float(norm)}
    return {"validation_loss": float(objective + config.lam * norm)} | parts


@torch.no_grad()
def centre_angle(W_KC: Tensor) -> float:
    """The smallest angle between two class centres."""
    if W_KC.shape[1] < 2:
        return math.pi
    directions_KC = F.normalize(W_KC.double(), dim=0)
    cos_CC = (directions_KC.T @ directions_KC).fill_diagonal_(-1)
    return float(torch.arccos(cos_CC.max().clamp(-1, 1)))


# What a trial starts from and leaves behind


def _training_set(config: Config, data: Data, device: str) -> tuple[Tensor, Tensor]:
    """Known and, where they are used, negative images on the device, with labels 0..C-1 and -1."""
    for name, images, allowed in (
        ("train", data.train, range(len(data.classes))),
        ("test", data.test, range(len(data.classes))),
        *((name, images, range(len(data.classes))) for name, images in data.others.items() if name == "validation"),
        *((name, images, (NEGATIVE,)) for name, images in data.others.items() if name.startswith("negative")),
        *((name, images, (UNKNOWN,)) for name, images in data.others.items() if name == "unknown"),
    ):
        wrong = set(np.unique(images.labels).tolist()) - set(allowed)
        if wrong:
            raise ConfigError(
                f"label {min(wrong)} in the {name} images of {data.spec.protocol!r} is not allowed: known classes are "
                f"0 to {len(data.classes) - 1}, negatives {NEGATIVE}, unknowns {UNKNOWN}."
            )
    pixels_NHWC, labels_N = loop.resident(data, 1, device)
    if not config.negatives:
        return pixels_NHWC, labels_N
    if "negative_train" not in data.others:
        having = ", ".join(name for name, protocol in PROTOCOLS.items() if protocol.negative is not None)
        raise ConfigError(
            f"negatives=True is not allowed: the protocol {data.spec.protocol!r} has no negative classes. Those that "
            f"have: {having}."
        )
    negative = data.others["negative_train"]
    more_NHWC = torch.from_numpy(np.array(negative.pixels)).to(device)
    more_N = torch.full((len(negative.labels),), NEGATIVE, dtype=torch.int64, device=device)
    return torch.cat([pixels_NHWC, more_NHWC]), torch.cat([labels_N, more_N])


def _network(config: Config, data: Data, K: int, seed: int) -> lenetpp.Centred:
    side = int(data.train.pixels.shape[1])
    return lenetpp.network(
        config.network,
        width=config.width,
        stem=config.stem,
        channels=int(data.train.pixels.shape[3]),
        side=side if config.crop is None else min(side, config.crop),
        features=K,
        classes=len(data.classes),
        activation=config.activation,
        bias=config.feature_bias,
        generator=seeding.torch_stream(seed, "init"),
    )
