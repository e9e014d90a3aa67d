"""GReg: a detector of out-of-distribution images whose score is not only right on training images but flat around them.
And the detectors it is built on and compared with: energy-bounded training, outlier exposure, POEM, DOS.

Paper: Gradient-Regularized Out-of-Distribution Detection (GReg), arXiv 2404.12368. Repository: o4lc/Greg-OOD@6ea4ff0.
Base losses: Liu et al. (arXiv 2010.03759), Hendrycks et al. (arXiv 1812.04606), POEM (arXiv 2206.13687), DOS (arXiv
2306.02031). In the fields below [P] is printed in the paper, [C] is read in the code, [D] is our decision.

    S(x) = -log sum_k exp f_k(x)                                                  energy: low is in-distribution
    L = CE + lam_score L_S + lam_gradient L_grad
    L_S = mean_id max(0, S - m_in)^2 + mean_aux max(0, m_aux - S)^2               the hinges
    L_grad = mean_id || [S <= m_in] dS/dx || + mean_aux || [S >= m_aux] dS/dx ||  only what is right already   [P]

The code takes g = dJ/dx of J = -mean_id max(0, m_in - S) + mean_aux max(0, S - m_aux) and the mean of ||g_i|| over all
N = n_id + n_aux rows: g already holds 1/n_id or 1/n_aux, so its term is the paper's over N (`reduction_factor`), and
lam_gradient = 1 there is 1/128 or 1/192 here. With batch norm in training mode g_i holds what x_i does to all other
images, too.

GReg+ chooses the auxiliary images of each step among several times as many: `trainables.energy_sampling`.

Deviations:
1. The code computes the gradient term on a second forward pass. In training mode that gives the same activations, and
   moves the running statistics a second time by the same batch: here there is one pass, in which batch norm's momentum
   is 1 - (1 - m)^2. `gradient_batch_norm="eval"` needs, and has, a second pass. The code's training without the term
   takes the second pass too, to write the term down, and so moves the statistics twice; here once.
2. "paper" reduction in training mode: g = dJ/dx of sums in place of J's means, so that g_i is dS_i/dx_i and the cross
   terms. The paper's own formula has no cross terms, and would take a backward pass for each image.
3. OE and POEM with a gradient term are in the paper's table and not in its code. For OE the score is S = -max_k p_k
   without an indicator ([D]); POEM is energy-bounded training on images chosen by posterior sampling.
4. POEM's posterior is computed from training images and the last epoch's auxiliary images, as they are, by the current
   network. Its code keeps those of four epochs, augmented, with the known ones as often, and adds one draw of the noise
   to all targets. Its first epoch's detector is drawn from the prior alone, whose mean is 0; the code's is random and
   small.
5. DOS has K + 1 logits and trains from scratch.
6. SGD by default; the released script for clustered CIFAR runs has Adam at 0.1, the commands for ImageNet have Adam,
   too: `optimizer` can ask for it.
7. An epoch is as long as the shorter of the two data sets allows; the rest of either is dropped.
8. Dual ascent stops at a weight of 0; the code's weight could become negative.

Expected, [P] CIFAR-10, means of six test sets: FPR95 11.26 with energy, 7.93 with GReg (DenseNet); AUROC 97.43, 98.12.
Cost: the term differentiates a gradient, so a step costs about twice one without it (one pass forward, one back to the
images, one back through both).

Shapes: N rows of a step, the n_id known ones first; C channels, K classes (K + 1 logits for DOS), D features.
"""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainables import augment, classifiers, detection, energy_sampling, loop, openset, outside, schedules, seeding
from trainables.config import ConfigError, check_types, require
from trainables.data_protocols import PROTOCOLS, DataSpec, Protocol, protocol_of
from trainables.datasets import Data, Images
from trainables.protocol import Diverged, Epoch, Needed, State

Base = Literal["energy", "oe", "dos"]
Sampling = Literal["random", "greedy", "one_way", "two_way", "posterior"]


@dataclass(frozen=True, kw_only=True)
class Config:
    """What can be varied. Defaults are GReg on CIFAR-10: fine-tuning with random auxiliary images."""

    # Network and optimisation
    network: classifiers.Name = "wrn40_2"
    """[P] DenseNet-BC-100-12, WRN-40-2, ResNet-18 (stem of ImageNet, [C]); DenseNet-121 on ImageNet."""
    width: int = 64
    """64: the published network; others scale every stage."""
    start: Needed | None = None
    """The trial that trains what is fine-tuned; None: from scratch."""
    epochs: int = 20
    """[P] 20 of fine-tuning; GReg+ 60 from scratch."""
    batch: int = 64
    """Known images a step, and auxiliary ones; two-way sampling has twice as many of these. [C]"""
    optimizer: Literal["sgd", "adam"] = "sgd"
    """[P] SGD; Adam in [C] since 2024."""
    learning_rate: float = 1e-3
    """[D]; the paper gives none for fine-tuning, [C] 0.1 from scratch."""
    schedule: Literal["cosine", "steps"] = "cosine"
    """By the step to `floor` [P], or a tenth from each of `milestones` on [C]."""
    floor: float = 1e-6
    """Last learning rate of the cosine. [C]"""
    milestones: tuple[int, ...] = (50,)
    """Epochs. [C] 50 of GReg+, 50, 75 and 90 of DOS."""
    momentum: float = 0.9
    """Nesterov's, of SGD. [C]"""
    weight_decay: float = 1e-4
    """[C] with SGD. With Adam the code has none: 0."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Of the network's passes; losses are fp32. [C] fp32."""
    channels_last: bool = False
    """Memory layout on the device."""
    flip: bool = True
    """Horizontal flip, p = 0.5. [C]"""
    padding: augment.Framing = 4
    """Random crop after so many black pixels on all sides; 'resized': of a random part, on ImageNet. [C]"""

    # Detection
    base: Base = "energy"
    """Hinges on the energy; outlier exposure; a class of its own for auxiliary images (DOS)."""
    lam_score: float = 0.1
    """lambda_S, weight of the base's term. [P] 0.1; OE 0.5, DOS 1."""
    m_in: float = -25.0
    """Energy below which known images are at rest. [C]"""
    m_aux: float = -7.0
    """Energy above which auxiliary ones are. [C]"""

    # The gradient term
    lam_gradient: float = 1.0
    """lambda_gradS in the units of `reduction`; 0: none. [P] 1."""
    reduction: Literal["code", "paper"] = "code"
    """Mean over all rows of gradients of means, or the sum of two means: N times as much."""
    gradient_of: Literal["energy", "msp", "loss"] = "energy"
    """What is flattened: S [P]; -max p, without an indicator ([D] for OE); the base's loss itself ([C] for DOS)."""
    indicator: Literal["on", "off", "reversed"] = "on"
    """Rows beyond their margin [P]; all; rows that are not yet."""
    norm: Literal["l2", "l2_squared", "l1"] = "l2"
    """Of each image's gradient. [P] L2."""
    where: Literal["both", "id", "aux"] = "both"
    """Whose gradients. [P] both."""
    gradient_batch_norm: Literal["train", "eval"] = "train"
    """Batch statistics [C] or running ones in the pass of the gradient term."""
    updates: Literal["once", "twice"] = "twice"
    """How often a step moves the running statistics; [C] twice, as it has two passes in training mode."""
    dual: bool = False
    """Dual ascent: lam_gradient grows by 0.1 (term - 0.01) at every step, not below 0. An option of [C]."""

    # Auxiliary images
    sampling: Sampling = "random"
    """At random; the lowest scores of all candidates, of each cluster, lowest and highest; by posterior sampling."""
    clusters: int | None = None
    """K of k-means; None: 64, and at most `batch` [C]. Where it is above `batch`, the rest of the clusters is idle."""
    representation: energy_sampling.Representation = "norm"
    """What is clustered. [P] features of length 1; the others are options of [C]."""
    window: tuple[int, int] = (0, 10_000)
    """Places of the candidates, sorted by score, that are looked at. [C] all; DOS 16 to 384."""
    candidates: int | None = None
    """Of a step; None: the epoch's auxiliary images in equal parts. [C] 384 at batch 64."""
    pool: int | None = None
    """Auxiliary images that an epoch draws from; None: all. [P] 600,000 on ImageNet."""
    prior: float = 20.0
    """Posterior sampling: variance of a weight before anything is seen. POEM's."""
    noise: float = 0.5
    """Posterior sampling: variance of the targets, which are -3 and 3. POEM's."""

    # Evaluation
    evaluate_every: int = 1
    """Epochs between evaluations; 0: after the last only."""
    gradient_rows: int = 256
    """Images of each group whose gradients are measured after every epoch; 0: none."""

    def __post_init__(self) -> None:
        check_types(self)
        _check_training(self)
        _check_detection(self)


def _check_training(config: Config) -> None:
    for field in ("width", "epochs"):
        require(getattr(config, field) >= 1, config, field, "at least 1")
    require(config.batch >= 2, config, "batch", "at least 2: batch norm needs more than one image")
    for field in ("learning_rate", "prior", "noise"):
        require(0 < getattr(config, field) < float("inf"), config, field, "above 0 and finite")
    for field in ("weight_decay", "lam_score", "lam_gradient", "floor"):
        require(0 <= getattr(config, field) < float("inf"), config, field, "at least 0 and finite")
    require(0 < config.momentum < 1, config, "momentum", "above 0 and below 1")
    rising = all(first < second for first, second in zip(config.milestones, config.milestones[1:], strict=False))
    require(rising and min(config.milestones, default=0) >= 0, config, "milestones", "rising epochs, from 0")
    for field in ("evaluate_every", "gradient_rows"):
        require(getattr(config, field) >= 0, config, field, "at least 0")
    require(config.padding == "resized" or config.padding >= 0, config, "padding", "at least 0, or 'resized'")


def _check_detection(config: Config) -> None:
    finite = all(abs(m) < float("inf") for m in (config.m_in, config.m_aux))
    require(finite and config.m_in < config.m_aux, config, "m_in", f"finite and below m_aux={config.m_aux!r}")
    for field in ("candidates", "pool"):
        value = getattr(config, field)
        require(value is None or value >= config.batch, config, field, f"none, or at least batch={config.batch}")
    start, end = config.window
    require(0 <= start < end, config, "window", "two places, the first from 0 and below the second")
    require(config.clusters is None or config.clusters >= 1, config, "clusters", "none, or at least 1")
    if config.sampling in ("greedy", "one_way", "two_way"):
        room = end - start if config.candidates is None else max(0, min(end, config.candidates) - start)
        require(
            room >= config.batch, config, "window", f"such that batch={config.batch} candidates lie in it, not {room}"
        )
        fits = config.sampling == "greedy" or clusters_of(config) <= room
        require(fits, config, "clusters", f"at most the {room} candidates that are clustered")
    require(config.base != "dos" or config.start is None, config, "start", "none with base='dos': it has a class more")
    if config.lam_gradient == 0:
        require(not config.dual, config, "dual", "false where lam_gradient is 0")
        return
    of = {"energy": ("energy", "msp"), "oe": ("energy", "msp", "loss"), "dos": ("loss",)}[config.base]
    require(config.gradient_of in of, config, "gradient_of", f"one of {', '.join(of)} with base={config.base!r}")
    if config.gradient_of != "energy":
        require(config.indicator == "off", config, "indicator", "'off' where gradient_of is not 'energy': no margins")
    if config.gradient_of == "loss":
        require(config.where == "both", config, "where", "'both' where gradient_of is 'loss', which is of both groups")
        require(config.reduction == "code", config, "reduction", "'code' where gradient_of is 'loss', a sum of means")
    once = config.gradient_batch_norm == "train" or config.updates == "once"
    require(once, config, "updates", "'once' with gradient_batch_norm='eval', whose pass moves nothing")


def clusters_of(config: Config) -> int:
    """K of k-means."""
    return min(64, config.batch) if config.clusters is None else config.clusters


ENERGY = Config(lam_gradient=0.0, updates="once")
"""Energy-bounded training."""
GREG = Config()
"""Energy + Grad."""
OE = replace(ENERGY, base="oe", lam_score=0.5)
"""Outlier exposure."""
OE_GRAD = replace(OE, lam_gradient=1.0, gradient_of="msp", indicator="off", updates="twice")
POEM = replace(ENERGY, sampling="posterior")
"""Posterior sampling."""
POEM_GRAD = replace(GREG, sampling="posterior")
SCRATCH: Mapping[str, Any] = {"epochs": 60, "learning_rate": 0.1, "schedule": "steps", "milestones": (50,)}
"""Fields of the runs from scratch with sampling."""
GREG_PLUS = replace(GREG, sampling="two_way", **SCRATCH)
DOS = replace(
    ENERGY,
    base="dos",
    lam_score=1.0,
    sampling="one_way",
    window=(16, 384),
    epochs=100,
    learning_rate=0.1,
    schedule="steps",
    milestones=(50, 75, 90),
)
"""Diverse outlier sampling."""


# Scores and losses


def energy(logits_NK: Tensor) -> Tensor:
    """S (N,) = -log sum exp: low is in-distribution."""
    return -torch.logsumexp(logits_NK, dim=1)


def hinges(S_id: Tensor, S_aux: Tensor, m_in: float, m_aux: float) -> Tensor:
    """L_S: mean_id max(0, S - m_in)^2 + mean_aux max(0, m_aux - S)^2."""
    return F.relu(S_id - m_in).square().mean() + F.relu(m_aux - S_aux).square().mean()


def exposure(logits_aux: Tensor) -> Tensor:
    """Outlier exposure: cross-entropy of auxiliary images to the uniform distribution, less the constant log K."""
    return (torch.logsumexp(logits_aux, dim=1) - logits_aux.mean(dim=1)).mean()


def base_loss(config: Config, logits_NK: Tensor, n_id: int) -> Tensor:
    """The base's term for auxiliary images (and, with energy, for known ones), without its weight."""
    if config.base == "oe":
        return exposure(logits_NK[n_id:])
    if config.base == "dos":
        own_N = torch.full((len(logits_NK) - n_id,), logits_NK.shape[1] - 1, device=logits_NK.device)
        return F.cross_entropy(logits_NK[n_id:], own_N)
    S_N = energy(logits_NK)
    return hinges(S_N[:n_id], S_N[n_id:], config.m_in, config.m_aux)


def known_score(config: Config, logits_NK: Tensor) -> Tensor:
    """How in-distribution each image is (N,), high for known ones: -S; max p with OE; 1 - p_(K+1) with DOS."""
    if config.base == "oe":
        return logits_NK.softmax(1).amax(1)
    if config.base == "dos":
        return 1 - logits_NK.softmax(1)[:, -1].double()  # in float32 all probabilities below 6e-8 would tie
    return -energy(logits_NK)


# The gradient term


def reduction_factor(n_id: int, n_aux: int) -> int:
    """How many times the code's term the paper's is, without batch statistics: N, all rows of a step."""
    return n_id + n_aux


def objective(config: Config, logits_NK: Tensor, labels: Tensor, n_id: int) -> Tensor:
    """J, whose gradient with respect to the images is what the term measures.

    Rows of both groups have slope dJ/dS = +1 (over the number of rows in the "code" reduction) where the indicator
    counts them and 0 elsewhere; the signs matter only for the cross terms of batch norm. Indicators are strict.
    """
    if config.gradient_of == "loss":
        return F.cross_entropy(logits_NK[:n_id], labels) + config.lam_score * base_loss(config, logits_NK, n_id)
    if config.gradient_of == "msp":
        id_N, aux_N = (-part.softmax(1).amax(1) for part in (logits_NK[:n_id], logits_NK[n_id:]))
    else:
        S_N = energy(logits_NK)
        id_N, aux_N = _counted(config, S_N[:n_id], S_N[n_id:])
    parts = {"both": (id_N, aux_N), "id": (id_N,), "aux": (aux_N,)}[config.where]
    reduced = [part.mean() if config.reduction == "code" else part.sum() for part in parts]
    return torch.stack(reduced).sum()


def _counted(config: Config, S_id: Tensor, S_aux: Tensor) -> tuple[Tensor, Tensor]:
    """S of the rows that the indicator counts, less a constant; 0 of others."""
    if config.indicator == "off":
        return S_id, S_aux
    if config.indicator == "on":
        return -F.relu(config.m_in - S_id), F.relu(S_aux - config.m_aux)
    return F.relu(S_id - config.m_in), -F.relu(config.m_aux - S_aux)


def norms(gradient_NCHW: Tensor, norm: Literal["l2", "l2_squared", "l1"]) -> Tensor:
    """Of each image's gradient (N,), over channels and pixels."""
    flat_NP = gradient_NCHW.flatten(1)
    if norm == "l1":
        return flat_NP.abs().sum(1)
    if norm == "l2_squared":
        return flat_NP.square().sum(1)
    l2_N: Tensor = torch.linalg.vector_norm(flat_NP, dim=1)
    return l2_N


def gradient_term(config: Config, gradient_NCHW: Tensor, n_id: int) -> Tensor:
    """L_grad from g = dJ/dx, without its weight: the mean over all rows, or the sum of both groups' means."""
    norms_N = norms(gradient_NCHW.float() if gradient_NCHW.dtype == torch.bfloat16 else gradient_NCHW, config.norm)
    if config.reduction == "code":
        return norms_N.mean()
    return norms_N[:n_id].mean() + norms_N[n_id:].mean()


# A training step


def step_terms(
    config: Config, network: nn.Module, x_NCHW: Tensor, labels: Tensor, lam: Tensor | float
) -> dict[str, Tensor]:
    """The loss of one step, ready for `backward`, its parts, and what share of rows hinges and indicators concern.

    Args:
        config: objective.
        network: in training mode.
        x_NCHW: normalised images, known ones first.
        labels: of the known ones, (n_id,).
        lam: lam_gradient in force.
    """
    n_id, regularised = len(labels), config.lam_gradient > 0
    shared = regularised and config.gradient_batch_norm == "train"
    x_NCHW = x_NCHW.detach().requires_grad_(shared)
    with doubled_updates(network) if config.updates == "twice" and regularised else contextlib.nullcontext():
        logits_NK = logits_of(config, network, x_NCHW)
    loss_class, loss_score = F.cross_entropy(logits_NK[:n_id], labels), base_loss(config, logits_NK, n_id)
    loss = loss_class + config.lam_score * loss_score
    terms = {"loss_class": loss_class, "loss_score": loss_score}
    if regularised:
        again_NK = logits_NK
        if not shared:
            x_NCHW = x_NCHW.detach().requires_grad_()
            with openset.evaluation_mode(network):
                again_NK = logits_of(config, network, x_NCHW)
        J = objective(config, again_NK, labels, n_id)
        (gradient_NCHW,) = torch.autograd.grad(J, x_NCHW, create_graph=True)
        terms["gradient_term"] = gradient_term(config, gradient_NCHW, n_id)
        loss = loss + lam * terms["gradient_term"]
    return {"loss": loss} | terms | active_shares(config, logits_NK.detach(), n_id)


def active_shares(config: Config, logits_NK: Tensor, n_id: int) -> dict[str, Tensor]:
    """Mean energies; shares of rows on the wrong side of their margin ('hinge') and on the right one ('indicator')."""
    S_N = energy(logits_NK)
    S_id, S_aux = S_N[:n_id], S_N[n_id:]
    means = {"energy_id": S_id.mean(), "energy_auxiliary": S_aux.mean()}
    if config.base != "energy":
        return means
    shares = {
        "hinge_id": S_id > config.m_in,
        "hinge_auxiliary": S_aux < config.m_aux,
        "indicator_id": S_id < config.m_in,
        "indicator_auxiliary": S_aux > config.m_aux,
    }
    return means | {name: share.float().mean() for name, share in shares.items()}


def logits_of(config: Config, network: nn.Module, x_NCHW: Tensor) -> Tensor:
    """Logits, in fp32 where the network computes in less."""
    with torch.autocast(x_NCHW.device.type, torch.bfloat16, enabled=config.precision == "bf16"):
        logits_NK: Tensor = network(x_NCHW)
    return logits_NK.float() if config.precision == "bf16" else logits_NK


@contextlib.contextmanager
def doubled_updates(network: nn.Module) -> Iterator[None]:
    """While inside, a pass in training mode moves running statistics as far as two passes over its batch would."""
    before = [(part, part.momentum or 0.0) for part in network.modules() if isinstance(part, nn.BatchNorm2d)]
    try:
        for part, momentum in before:
            part.momentum = 1 - (1 - momentum) ** 2
        yield
    finally:
        for part, momentum in before:
            part.momentum = momentum


# Auxiliary images


@dataclass(frozen=True)
class Auxiliary:
    """Images to train against, on the device, and how many a step looks at."""

    pixels_MHWC: Tensor
    steps: int
    """Of an epoch."""
    candidates: int
    """Of a step."""


def check(config: Config, data: DataSpec, needed: Mapping[str, DataSpec]) -> None:
    """Refuses data without auxiliary images before anything runs, pre-training included.

    Raises:
        ConfigError: naming the protocol.
    """
    del config, needed
    if not _has_auxiliary(protocol_of(data)):
        raise ConfigError(_nothing_to_train_against(data))


def _has_auxiliary(protocol: Protocol) -> bool:
    return any(outside.role(name) == "auxiliary" for name in protocol.outside)


def _nothing_to_train_against(data: DataSpec) -> str:
    having = ", ".join(name for name, protocol in PROTOCOLS.items() if _has_auxiliary(protocol))
    return f"the protocol {data.protocol!r} has no auxiliary images. Those that have: {having}."


def auxiliary_of(config: Config, data: Data, known: int, device: str) -> Auxiliary:
    """All auxiliary sets of the protocol as one.

    Raises:
        ConfigError: none in the protocol; fewer images than a batch, than candidates, or than clusters.
    """
    sets = [images for name, images in data.others.items() if outside.role(name) == "auxiliary"]
    if not sets:
        raise ConfigError(_nothing_to_train_against(data.spec))
    pixels_MHWC = torch.cat([torch.from_numpy(np.array(images.pixels)) for images in sets]).to(device)
    images = min(len(pixels_MHWC), config.pool or len(pixels_MHWC))
    whole = f"the auxiliary set of {data.spec.protocol!r} has {len(pixels_MHWC)} images"
    if images < config.batch:
        raise ConfigError(f"batch={config.batch} is not allowed: {whole}; set batch to at most that.")
    if config.sampling in ("random", "posterior"):
        return Auxiliary(pixels_MHWC, min(known, images) // config.batch, config.batch)
    candidates = config.candidates or images * config.batch // known
    if candidates > images:
        kept = f", of which an epoch draws from pool={config.pool}" if images < len(pixels_MHWC) else ""
        raise ConfigError(f"candidates={candidates} is not allowed: {whole}{kept}; set candidates to at most {images}.")
    least = config.window[0] + max(config.batch, clusters_of(config) if config.sampling != "greedy" else 1)
    if candidates < least:
        raise ConfigError(
            f"{whole}, {candidates} for a step of {config.batch} known images; with "
            f"sampling={config.sampling!r}, {clusters_of(config)} clusters, window={config.window} there must be "
            f"{least}. Set candidates, or a smaller batch, or fewer clusters."
        )
    return Auxiliary(pixels_MHWC, min(known // config.batch, images // candidates), candidates)


def draw(auxiliary: Auxiliary, mined: Tensor | None, seed: int, epoch: int) -> Tensor:
    """Indices (steps, candidates) of an epoch's auxiliary images; of those mined for it, where any were."""
    generator = seeding.torch_stream(seed, f"auxiliary/{epoch}")
    every = len(auxiliary.pixels_MHWC) if mined is None else len(mined)
    order = torch.randperm(every, generator=generator)[: auxiliary.steps * auxiliary.candidates]
    if mined is not None:
        order = mined.cpu()[order]
    return order.view(auxiliary.steps, auxiliary.candidates).to(auxiliary.pixels_MHWC.device)


@torch.no_grad()
def sampled(config: Config, network: classifiers.Classifier, x_BCHW: Tensor, generator: torch.Generator) -> Tensor:
    """The auxiliary images of a step, chosen among its candidates."""
    if config.sampling in ("random", "posterior"):
        return x_BCHW
    with (
        openset.evaluation_mode(network),
        torch.autocast(x_BCHW.device.type, torch.bfloat16, enabled=config.precision == "bf16"),
    ):
        few = detection.rows_at_once(x_BCHW.device.type)
        features_BD = torch.cat([network.features(part_BCHW) for part_BCHW in x_BCHW.split(few)])
        logits_BK = network.linear(features_BD).float()
    weights_B = logits_BK.softmax(1)[:, -1] if config.base == "dos" else energy(logits_BK)
    if config.sampling == "greedy":
        return x_BCHW[energy_sampling.window(weights_B, *config.window)[: config.batch]]
    index = energy_sampling.clustered(
        weights_B,
        features_BD.float(),
        logits_BK[:, :-1] if config.base == "dos" else logits_BK,
        count=clusters_of(config),
        batch=config.batch,
        two_way=config.sampling == "two_way",
        representation=config.representation,
        start=config.window[0],
        end=config.window[1],
        generator=generator,
    )
    return x_BCHW[index]


CONFIDENCE = 3.0
"""POEM's targets: minus this for known images, plus for auxiliary ones."""


@torch.no_grad()
def mine(
    config: Config,
    network: classifiers.Classifier,
    data: Data,
    known_NHWC: Tensor,
    auxiliary: Auxiliary,
    mined: Tensor | None,
    seed: int,
    epoch: int,
) -> Tensor:
    """Indices of an epoch's auxiliary images: those nearest to the boundary of a detector drawn from the posterior.

    The posterior rests on the known images and on those mined before (`mined`); before there are any, on nothing.
    """
    pool = torch.randperm(len(auxiliary.pixels_MHWC), generator=seeding.torch_stream(seed, f"pool/{epoch}"))
    pool = pool[: config.pool].to(known_NHWC.device)
    with openset.evaluation_mode(network):
        pool_MD = _features(network, data, auxiliary.pixels_MHWC[pool])
        seen_ND, targets_N = pool_MD[:0], pool_MD[:0, 0]
        if mined is not None:
            parts = (_features(network, data, known_NHWC), _features(network, data, auxiliary.pixels_MHWC[mined]))
            seen_ND = torch.cat(parts)
            targets_N = torch.full((len(seen_ND),), CONFIDENCE, device=seen_ND.device)
            targets_N[: len(known_NHWC)] = -CONFIDENCE
    mean_D, covariance_DD = energy_sampling.posterior(seen_ND, targets_N, prior=config.prior, noise=config.noise)
    generator = seeding.torch_stream(seed, f"posterior/{epoch}")
    detector_D = energy_sampling.sampled_detector(mean_D, covariance_DD, generator)
    nearest = (pool_MD.double() @ detector_D).abs().argsort(stable=True)
    return pool[nearest[: auxiliary.steps * config.batch]]


def _features(network: classifiers.Classifier, data: Data, pixels_NHWC: Tensor) -> Tensor:
    few = detection.rows_at_once(pixels_NHWC.device.type)
    parts = (augment.normalise(augment.to_float(part), data.mean, data.std) for part in pixels_NHWC.split(few))
    return torch.cat([network.features(part).float() for part in parts])


# Training


def train(
    config: Config, data: Data, *, seed: int, device: str, resume: State | None = None, start: State | None = None
) -> Iterator[Epoch]:
    """Trains a classifier that detects, and yields after every epoch; see `trainables.protocol`.

    The final state rebuilds the network: `classifiers.rebuild(state["network"], state["weights"])`.

    Args:
        config: what is trained.
        data: a protocol with auxiliary sets.
        seed: of all streams.
        device: where.
        resume: a state of this method.
        start: final state of the trial that `config.start` needs.

    Raises:
        ConfigError: no auxiliary images, or too few; a batch larger than the training set.
        ValueError: a starting state that is missing, or of another network.
        Diverged: a loss, weight or score is no longer finite.
    """
    pixels_NHWC, labels_N = loop.resident(data, config.batch, device)
    auxiliary = auxiliary_of(config, data, len(labels_N), device)
    network = _network(config, data, seed, start).to(device)
    if config.channels_last:
        network.to(memory_format=torch.channels_last)
    optimizer = _optimizer(config, network, device)
    done, mined = 0, None
    lam = torch.tensor(config.lam_gradient, device=device)
    if resume is not None:
        done = resume["epoch"]
        network.load_state_dict(resume["weights"])
        optimizer.load_state_dict(resume["optimizer"])
        lam = resume["lam"].to(device)
        mined = resume["mined"].to(device) if len(resume["mined"]) else None
    views = augment.framed(config.padding, flip=config.flip)
    weights = list(network.parameters())
    for epoch in range(done, config.epochs):
        if config.sampling == "posterior":
            mined = mine(config, network, data, pixels_NHWC, auxiliary, mined, seed, epoch)
        order_N = torch.randperm(len(labels_N), generator=seeding.torch_stream(seed, f"order/{epoch}")).to(device)
        chosen_SB = draw(auxiliary, mined, seed, epoch)
        random = {name: seeding.torch_stream(seed, f"{name}/{epoch}", device) for name in ("augment", "augment aux")}
        sampling = seeding.torch_stream(seed, f"sampling/{epoch}")
        totals = loop.Totals()
        network.train()
        for s, (order_B, chosen_B) in enumerate(zip(order_N.split(config.batch), chosen_SB, strict=False)):
            loop.set_learning_rate(optimizer, _learning_rate(config, epoch, s, auxiliary.steps))
            known_BCHW = augment.view(pixels_NHWC[order_B], views, random["augment"])
            aux_BCHW = augment.view(auxiliary.pixels_MHWC[chosen_B], views, random["augment aux"])
            with totals.step(device):
                aux_BCHW = sampled(config, network, augment.normalise(aux_BCHW, data.mean, data.std), sampling)
                x_NCHW = torch.cat([augment.normalise(known_BCHW, data.mean, data.std), aux_BCHW])
                terms = step_terms(config, network, x_NCHW, labels_N[order_B], lam)
                optimizer.zero_grad(set_to_none=True)
                torch.autograd.backward(terms["loss"], inputs=weights)  # and not to the images, which hold a graph
                optimizer.step()
            if config.dual:
                lam = (lam + 0.1 * (terms["gradient_term"].detach() - 0.01)).clamp_min(0)
            totals.add(terms)
        metrics = totals.means(network, epoch + 1) | ({"lam_gradient": float(lam)} if config.dual else {})
        last = epoch + 1 == config.epochs
        if config.gradient_rows:
            metrics |= steepness(config, network, data, device)
        if last or (config.evaluate_every and (epoch + 1) % config.evaluate_every == 0):
            metrics |= evaluate(config, network, data, device)
        kept = mined if mined is not None else labels_N[:0]
        yield Epoch(epoch + 1, metrics, loop.captured(epoch + 1, network, optimizer, lam=lam, mined=kept))


def _network(config: Config, data: Data, seed: int, start: State | None) -> classifiers.Classifier:
    """From scratch, or as another trial left it."""
    channels, classes = int(data.train.pixels.shape[3]), len(data.classes)
    if config.start is None:
        classes += config.base == "dos"
        init = seeding.torch_stream(seed, "init")
        return classifiers.classifier(config.network, config.width, channels, classes, init)
    missing = [key for key in ("network", "weights") if key not in (start or {})]
    if start is None or missing:
        raise ValueError(
            f"there is no network to start from: the state of the pre-training has no {' and no '.join(missing)}. "
            "Give the final state of the trial that config.start needs."
        )
    wanted = {"network": config.network, "width": config.width, "channels": channels, "classes": classes}
    if dict(start["network"]) != wanted:
        raise ValueError(f"the pre-training left the network {dict(start['network'])}, and wanted is {wanted}.")
    return classifiers.rebuild(start["network"], start["weights"])


def _optimizer(config: Config, network: nn.Module, device: str) -> torch.optim.Optimizer:
    if config.optimizer == "adam":
        fused = loop.fused(device).get("fused", False)
        return torch.optim.Adam(
            network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, fused=fused
        )
    return torch.optim.SGD(
        network.parameters(),
        lr=config.learning_rate,
        momentum=config.momentum,
        nesterov=True,
        weight_decay=config.weight_decay,
        **loop.fused(device),
    )


def _learning_rate(config: Config, epoch: int, s: int, steps: int) -> float:
    if config.schedule == "steps":
        return schedules.multi_step(epoch, config.learning_rate, config.milestones)
    return schedules.cosine(epoch * steps + s, config.epochs * steps, config.learning_rate, config.floor)


# Evaluation


def evaluate(config: Config, network: classifiers.Classifier, data: Data, device: str) -> dict[str, float]:
    """Accuracy on known test images, and every measure of detection.

    Raises:
        Diverged: a score is not finite.
    """
    with openset.evaluation_mode(network), loop.repeatable(device):
        logits = {
            name: torch.cat([_logits(config, network, x_BCHW) for x_BCHW in detection.batches(images, data, device)])
            for name, images in detection.evaluated(data).items()
        }
    scores = detection.arrays({name: known_score(config, logits_NK) for name, logits_NK in logits.items()})
    truth_N = torch.from_numpy(np.array(data.test.labels, dtype=np.int64)).to(device)
    correct_N = logits["test"][:, : len(data.classes)].argmax(1) == truth_N
    return {"accuracy": float(correct_N.double().mean())} | detection.measure(scores)


def steepness(config: Config, network: classifiers.Classifier, data: Data, device: str) -> dict[str, float]:
    """Mean slopes of the energy around known, auxiliary and out-of-distribution images, in eval mode.

    Raises:
        Diverged: one is not finite.
    """
    groups: dict[str, list[Images]] = {"id": [data.test], "auxiliary": [], "ood": []}
    for name, images in data.others.items():
        groups["auxiliary" if outside.role(name) == "auxiliary" else "ood"].append(images)
    groups = {name: sets for name, sets in groups.items() if sets}
    with openset.evaluation_mode(network), loop.repeatable(device):
        found = detection.mean_gradient_norms(
            lambda x_BCHW: energy(logits_of(config, network, x_BCHW)), groups, data, device, config.gradient_rows
        )
    for name, value in found.items():
        if not np.isfinite(value):
            raise Diverged(f"the {name} is {value}; a lower learning rate may help.")
    return found


@torch.no_grad()
def _logits(config: Config, network: nn.Module, x_BCHW: Tensor) -> Tensor:
    return logits_of(config, network, x_BCHW)
