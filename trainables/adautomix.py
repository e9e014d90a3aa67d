"""AdAutoMix: a small network learns by which masks to mix N images so that the classifier finds them hard, and a slow
copy of the classifier still recognises them. And AutoMix and mixes by hand in the same frame.

Paper: Adversarial AutoMixup, ICLR 2024 (hal-04655281): Eq 1-16, Algorithm 1, sections 4 and A. Repositories:
JinXins/Adversarial-AutoMixup, on Westlake-AI/openmixup. In the fields below [P] is printed in the paper, [C] is read
in the code, [D] is our decision. The default is the code's CIFAR-100 run of ResNet-18.

The student is trained, the teacher is its exponential moving average, both have a one-hot and a mix head, and the
generator (`trainables.mixblock`) makes masks from the teacher's features. With a = alpha, b = beta and the teacher's
losses marked by ', on images mixed with ratios lam_n:

    AMCE = sum_n lam_n CE(mix head(x_mix), y_n)            MCE the same on sum_n lam_n x_n            (Eq 3, 4)
    ACE  = CE(one-hot head(x), y)                          cos = sum_n lam_n cosine(x_mix, x_n)       (Eq 2, 11)
    student:              AMCE + a MCE + (1 - a) ACE                                                  (Eq 14)
    generator, eq15:      -AMCE + b AMCE' - (1 - b) cos'                                              (Eq 15)
    generator, official:  -b AMCE' + (1 - b) cos' at even steps, AMCE' at odd ones                    [C]
    generator, cooperative: AMCE' at all steps, as in AutoMix

The paper's and the code's generator pull in opposite directions: which is meant is `generator_objective`. In the code
each network is updated once a step, by one backward pass: the masks that the student sees carry no gradient, and the
student never sees the generator's images. With eq15 both see the same images, and the one pass through the student
serves both, because the generator's images enter it as 2 stop(x) - x: the same pixels, the gradient's sign turned.

Deviations:
1. The code passes the clean batch through the teacher once for its features and once, permuted, for each of the N
   images. Here it passes once, and batch norm's running statistics take the steps of all those passes in two.
2. The code's test for nearly pure mixes sets the first three masks, whatever N. Here it sets all.
3. A permutation is drawn by sorting random numbers, on the CPU; images may stand for themselves, as in the code.
4. PuzzleMix, GridMix, DADA, ME-ADA and the spectral SAMix are not here; nor are RandAugment and stochastic depth
   (Swin-T and ConvNeXt-T), bicubic crops (these two and Tiny-ImageNet), the pretrained fine-grained runs, or ImageNet's
   batch norm in the block.
5. Mixes by hand have one head, one cross-entropy with the mixed label and no other loss, as in OpenMixup. Their teacher
   is there to be judged only.
6. With `updates="alternating"`, features are made once a step and masks anew at each inner step; batch norm's running
   statistics of the student take no part of the generator's inner steps.
7. In the code's runs of Swin-T and ConvNeXt-T the cosine moves by the step and the generator's rate does not rise at
   first; Swin-T's masks are made from what its last stage is given, normalised, here from what that stage makes.

Expected, [P] CIFAR-100 top-1 of ResNet-18, the teacher's one-hot head: 81.55 after 200 epochs, 82.32 after 800;
released logs put the student 7 points below. Cost in passes, a plain step being 3: N = 3 takes 12, N = 2 takes 9.

Shapes: B images, N mixed together, C channels, H rows, W columns, c x h x w a feature map, K classes, S steps.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from trainables import augment, loop, mix_exhibits, mixblock, mixes, openset, schedules, seeding, teachers, twoheads
from trainables.config import ConfigError, check_types, require
from trainables.datasets import Data
from trainables.protocol import Epoch, State
from trainables.teachers import Trio

Mix = Literal["adautomix", "automix", "vanilla", "mixup", "cutmix", "saliencymix", "fmix", "resizemix"]
Term = Literal["clean", "linear", "teacher", "cosine"]
MOST = 5
"""Images that can be mixed together."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """What can be varied. Defaults are the released CIFAR-100 run; [P] printed, [C] read in the code, [D] ours."""

    # Networks and optimisation
    network: twoheads.Name = "resnet18"
    """[P] ResNet-18, -34, -50 and ResNeXt-50 with the stem for small images; Swin-T, ConvNeXt-T."""
    width: int = 64
    """64: the published network; others scale every stage."""
    layer: int = 3
    """Stage whose output masks are made from. [P] 3; 4 for Swin-T at 224 pixels, whose maps have the code's size."""
    heads: Literal["two", "shared"] = "two"
    """One for one-hot and one for mixed labels [C], or one for both [P]."""
    epochs: int = 400
    """[C] 400 on CIFAR-100; [P] 800, and 200 for ablations."""
    batch: int = 100
    """[P] 100; the rest of an epoch is dropped."""
    optimizer: Literal["sgd", "adamw"] = "sgd"
    """[P] SGD; AdamW for Swin-T and ConvNeXt-T."""
    learning_rate: float = 0.1
    """At the start; [P] 0.1 on CIFAR-100, 0.2 on Tiny-ImageNet."""
    floor: float = 0.5
    """What the cosine, which moves by the epoch, ends at, as a share of the learning rate. [C] half on CIFAR-100, 0 for
    mixes by hand; [P] unsaid."""
    warmup: int = 0
    """Epochs over which the rate rises from 0, by the step. [C] 20 for Swin-T and ConvNeXt-T."""
    generator_rate: float | None = None
    """The generator's learning rate at the start; none: the same as the networks'. [C] so on CIFAR-100."""
    generator_floor: float | None = None
    """And its share at the end; none: the same as the networks'."""
    momentum: float = 0.9
    """Of SGD. [P]"""
    weight_decay: float = 1e-4
    """[P] 1e-4; 0.05 with AdamW. On the generator too [C]."""
    decay_norms: bool = True
    """Weight decay on normalisations and biases too. [C] for ResNets."""
    clip: float | None = None
    """Largest norm of all gradients together; [C] 10 for Swin-T."""
    label_smoothing: float = 0.0
    """Of the targets of all cross-entropies, the teacher's too; [C] 0.1 for Swin-T and ConvNeXt-T."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Of the networks' passes; masks, mixing and losses are fp32. [C] fp32."""
    channels_last: bool = False
    """Memory layout on the device."""

    # Images
    flip: bool = True
    """Horizontal flip, p = 0.5. [P]"""
    padding: int = 4
    """Random crop after so many pixels on all sides, mirrored. [P] 4, [C] mirrored."""
    crop: bool = False
    """RandomResizedCrop; [P] on Tiny-ImageNet."""
    crop_scale: float = 0.08
    """Smallest area of that crop, as a fraction."""

    # What is mixed
    mix: Mix = "adautomix"
    """Who makes the masks: AdAutoMix's block, AutoMix's, nobody, or a rule."""
    images: int = 3
    """N, images mixed together by AdAutoMix, 2 to 5. [P] 3, or 2."""
    any_count: bool = False
    """N anew at each step, uniformly from 2 to `images`. [C] for Swin-T."""
    concentration: float = 1.0
    """c of lam ~ Beta(c, c), and of ResizeMix's tau. [P] "lambda" = 1; 2 for AutoMix, by mix for those by hand."""
    lam_law: Literal["released", "dirichlet"] = "released"
    """For N > 2: Betas divided by their sum [C], or Dirichlet(c, ..., c). [P] only that they sum to 1."""
    margin: float = 0.03
    """Where a ratio is so near 0 or 1, the student's images are mixed by lam alone. [C] 0.03, AutoMix 0.08; [P] 0."""
    same_mix: bool = False
    """Generator and student have the same mixed images [P], or permutations of their own, for N = 2 lam too [C]."""

    # Masks
    embed_lam: bool = False
    """lam is a channel of the features [P]. [C] not on CIFAR-100 and Tiny-ImageNet with ResNets."""
    mask_scale: int = 4
    """Pixels of the image to one of the feature map. [C] 4, 16 with the stem of ImageNet, 32 for Swin-T."""
    upsampling: mixblock.Upsampling = "bilinear"
    """[C] bilinear for ResNets; nearest for AutoMix, Swin-T and ConvNeXt-T."""
    activation: Literal["relu", "linear"] = "relu"
    """After queries and keys. [C] ReLU; [P] none is shown."""
    softmax: Literal["after", "before"] = "after"
    """Over the N masks: after the upsampling [C] or before it [P]."""
    generator_std: float = 0.01
    """Standard deviation of the generator's first weights. [C] 0.01. A narrow network needs more: attention starts as
    the square of it times the channels."""
    area_weight: float = 0.1
    """Of AutoMix's loss of the masks' area. [C] 0.1."""

    # Losses
    generator_objective: Literal["official", "eq15", "cooperative"] = "official"
    """What the generator minimises: see above. [C] official, [P] eq15; cooperative: without an adversary."""
    adversarial_every: int = 2
    """Official objective: one in so many steps is adversarial, the others cooperative. [C] 2."""
    alpha: float = 0.5
    """Weight of linear against clean images in the student's loss. [P] 0.5."""
    beta: float = 0.3
    """Weight of the teacher's cross-entropy against the cosine. [P] 0.3; 0.4 on Tiny-ImageNet [C]."""
    terms: tuple[Term, ...] = ("clean", "linear", "teacher", "cosine")
    """Which of ACE, MCE, AMCE' and cos' there are beside AMCE."""
    pair_weights: Literal["released", "paper"] = "released"
    """For N = 2: AMCE + ACE [C], or the weights of the other N [P]."""
    cosine_of: Literal["logits", "features"] = "logits"
    """What is compared: the mix head's logits [C], or the pooled features [P]."""

    # Steps
    updates: Literal["joint", "alternating"] = "joint"
    """Student and generator by one backward pass [C], or in turn: T1 steps of one, T2 of the other [P]."""
    classifier_steps: int = 1
    """T1; [P] no number."""
    generator_steps: int = 1
    """T2; [P] no number."""

    # Teacher
    ema: float = 0.999
    """Its momentum at the start. [P] 0.999. A short run needs less: the average reaches back 1 / (1 - ema) steps."""
    ema_end: float = 0.999999
    """And at the end of a cosine. [P] 1; [C] 0.999999."""
    ema_constant: float = 0.1
    """Share of the steps before the cosine sets in. [C] 0.1; 0.25 for Swin-T."""
    teacher_norms: Literal["own", "average", "copy"] = "own"
    """Its batch norm's running statistics: from its own passes [C], or averaged or copied from the student. With mixes
    by hand, 'own' costs a pass of the clean images that nothing else needs."""

    # Evaluation
    scored: Literal["teacher", "student"] = "teacher"
    """Whose one-hot head `accuracy` and all measures but those by name belong to. [C] teacher; the student for mixes by
    hand."""
    evaluate_every: int = 1
    """Epochs between evaluations; 0: after the last only."""

    def __post_init__(self) -> None:
        check_types(self)
        _check_training(self)
        _check_generator(self)
        _check_losses(self)


def _check_training(config: Config) -> None:
    for field in ("width", "epochs", "classifier_steps", "generator_steps", "adversarial_every", "mask_scale"):
        require(getattr(config, field) >= 1, config, field, "at least 1")
    require(config.batch >= 2, config, "batch", "at least 2: an image alone has no partner")
    even = config.network not in twoheads.TRANSFORMER_LIKE or config.width % 2 == 0
    require(even, config, "width", f"even for {config.network}")
    require(1 <= config.layer <= twoheads.STAGES, config, "layer", f"a stage of {config.network}, 1 to 4")
    for field in ("learning_rate", "concentration", "generator_std"):
        require(0 < getattr(config, field) < math.inf, config, field, "above 0 and finite")
    for field in ("weight_decay", "area_weight"):
        require(0 <= getattr(config, field) < math.inf, config, field, "at least 0 and finite")
    require(0 <= config.floor <= 1, config, "floor", "a share of the learning rate, between 0 and 1")
    rate, share = config.generator_rate, config.generator_floor
    require(rate is None or 0 < rate < math.inf, config, "generator_rate", "above 0 and finite, or none")
    require(share is None or 0 <= share <= 1, config, "generator_floor", "a share between 0 and 1, or none")
    require(config.clip is None or 0 < config.clip < math.inf, config, "clip", "above 0 and finite, or none")
    for field in ("momentum", "label_smoothing", "ema_constant"):
        require(0 <= getattr(config, field) < 1, config, field, "at least 0 and below 1")
    for field in ("padding", "warmup", "evaluate_every"):
        require(getattr(config, field) >= 0, config, field, "at least 0")
    require(0 < config.crop_scale <= 1, config, "crop_scale", "above 0 and at most 1")
    require(0 <= config.ema <= config.ema_end, config, "ema", "at least 0 and at most ema_end")
    require(config.ema_end <= 1, config, "ema_end", "at most 1")


def _check_generator(config: Config) -> None:
    if not learned(config):
        return
    require(2 <= config.images <= MOST, config, "images", f"between 2 and {MOST}")
    require(config.images <= config.batch, config, "images", f"at most the batch, which is {config.batch}")
    require(config.mix == "adautomix" or config.images == 2, config, "images", "2 for AutoMix, which mixes pairs")
    require(0 <= config.margin < 0.5, config, "margin", "at least 0 and below 0.5")


def _check_losses(config: Config) -> None:
    require(0 <= config.alpha <= 1, config, "alpha", "between 0 and 1")
    require(0 <= config.beta <= 1, config, "beta", "between 0 and 1")
    require(len(set(config.terms)) == len(config.terms), config, "terms", "different terms")
    if not learned(config):
        return
    shared = "true with generator_objective 'eq15': student and generator have the same images there"
    require(config.same_mix or config.generator_objective != "eq15", config, "same_mix", shared)
    signal = (
        f"with 'teacher' where generator_objective is {config.generator_objective!r}: nothing else trains the masks"
    )
    require("teacher" in config.terms or config.generator_objective == "eq15", config, "terms", signal)


def learned(config: Config) -> bool:
    """Whether a generator makes the masks."""
    return config.mix in ("adautomix", "automix")


ADAUTOMIX = Config()
"""AdAutoMix on CIFAR-100 as released."""
EQ15: Mapping[str, Any] = {"generator_objective": "eq15", "same_mix": True, "margin": 0.0}
"""Fields of the paper's objective and its images."""
AUTOMIX = replace(
    ADAUTOMIX,
    mix="automix",
    images=2,
    concentration=2.0,
    margin=0.08,
    upsampling="nearest",
    generator_objective="cooperative",
)
"""AutoMix on CIFAR-100 as in OpenMixup."""
BY_HAND = replace(ADAUTOMIX, mix="vanilla", floor=0.0, scored="student", teacher_norms="average")
"""Mixes by hand as in OpenMixup: a plain network is trained and judged."""
SWIN: Mapping[str, Any] = {
    "network": "swin_t",
    "layer": 4,
    "mask_scale": 32,
    "embed_lam": True,
    "upsampling": "nearest",
    "any_count": True,
    "optimizer": "adamw",
    "learning_rate": 5e-4,
    "floor": 0.2,
    "generator_rate": 1e-3,
    "generator_floor": 0.1,
    "warmup": 20,
    "weight_decay": 0.05,
    "decay_norms": False,
    "clip": 10.0,
    "label_smoothing": 0.1,
    "padding": 0,
    "crop": True,
    "crop_scale": 0.8,
    "margin": 0.0,
    "ema_end": 0.99996,
    "ema_constant": 0.25,
    "epochs": 200,
}
"""Swin-T on CIFAR-100 at 224 pixels. [C]"""


# What an epoch draws beforehand: on the CPU, so alike on every device, and moved in one go


@dataclass(frozen=True)
class Draws:
    """Random numbers of an epoch's S steps, for `MOST` images mixed together, of which a step takes the first N.

    Each has a stream of its own, so two arms share all that both use.
    """

    order_SB: Tensor
    """Images of each step."""
    generator_SNB: Tensor
    """Who stands at which place of the generator's mixed images: permutations of the batch."""
    student_SNB: Tensor
    """The same for the student's; the first is the partner in mixes by hand."""
    generator_SN: Tensor
    """Ratios, 0 beyond N."""
    student_SN: Tensor
    first_S: tuple[float, ...]
    """The first of the student's ratios on the host: what decides the margin rule and the size of a box."""
    count_S: tuple[int, ...]
    """N."""


def draw(config: Config, seed: int, epoch: int, images: int, device: str) -> Draws:
    """The draws of the epoch with index `epoch`, from 0."""
    n = config.batch
    steps = images // n
    order = torch.randperm(images, generator=seeding.torch_stream(seed, f"order/{epoch}"))[: steps * n].view(steps, n)
    count = np.full(steps, config.images if learned(config) else 2)
    if config.any_count and learned(config):
        count = seeding.numpy_stream(seed, f"count/{epoch}").integers(2, config.images + 1, steps)
    places, lam = {}, {}
    for whose in ("generator", "student"):
        uniform = torch.rand(steps, MOST, n, generator=seeding.torch_stream(seed, f"{whose}/{epoch}"))
        places[whose] = uniform.argsort(2).to(device, non_blocking=True)
        lam[whose] = ratios(config, count, seeding.numpy_stream(seed, f"{whose}_lam/{epoch}"))
    shared = (count > 2)[:, None] | (config.same_mix and learned(config))
    student = np.where(shared, lam["generator"], lam["student"])
    return Draws(
        order_SB=order.to(device, non_blocking=True),
        generator_SNB=places["generator"],
        student_SNB=places["generator" if config.same_mix and learned(config) else "student"],
        generator_SN=torch.from_numpy(lam["generator"]).float().to(device, non_blocking=True),
        student_SN=torch.from_numpy(student).float().to(device, non_blocking=True),
        first_S=tuple(student[:, 0].tolist()),
        count_S=tuple(count.tolist()),
    )


def ratios(config: Config, count_S: NDArray[np.int64], random: np.random.Generator) -> NDArray[np.float64]:
    """The ratios of each step, (S, MOST): N that sum to 1, then zeros. For N = 2, Beta(c, c) and its complement."""
    size = (len(count_S), MOST)
    beta_SN, gamma_SN = (
        random.beta(*(config.concentration,) * 2, size),
        random.standard_gamma(config.concentration, size),
    )
    parts_SN = beta_SN if config.lam_law == "released" else gamma_SN
    parts_SN = np.where(np.arange(MOST) < count_S[:, None], parts_SN, 0.0)
    (lost,) = np.nonzero(~parts_SN.any(1))  # a small c: all too small for a float, and one alone has nearly everything
    parts_SN[lost, random.integers(0, count_S[lost])] = 1.0
    pair_SN = np.zeros(size)
    pair_SN[:, 0], pair_SN[:, 1] = beta_SN[:, 0], 1 - beta_SN[:, 0]
    return np.where((count_S == 2)[:, None], pair_SN, parts_SN / parts_SN.sum(1, keepdims=True))


@dataclass(frozen=True)
class Step:
    """A batch, normalised, and what was drawn for it."""

    x_BCHW: Tensor
    labels_B: Tensor
    generator_NB: Tensor
    student_NB: Tensor
    generator_N: Tensor
    """Ratios."""
    student_N: Tensor
    first: float
    """The first of the student's ratios, on the host."""
    adversarial: bool
    """Of the official objective: whether this step is."""
    random: np.random.Generator
    """On the host, for what else a mix by hand draws."""


def batches(config: Config, data: Data, pixels_NHWC: Tensor, labels_N: Tensor, seed: int, epoch: int) -> Iterator[Step]:
    """The steps of the epoch with index `epoch`: views of their images, and what is drawn for them."""
    device = str(pixels_NHWC.device)
    draws = draw(config, seed, epoch, len(labels_N), device)
    random = seeding.torch_stream(seed, f"augment/{epoch}", device)
    views = augment.Settings(
        flip=config.flip, padding=config.padding, padding_mode="reflect", crop=config.crop, crop_scale=config.crop_scale
    )
    own_B = torch.arange(config.batch, device=device)
    for s, order_B in enumerate(draws.order_SB):
        n = draws.count_S[s]
        generator_NB, student_NB = draws.generator_SNB[s, :n], draws.student_SNB[s, :n]
        if n == 2:
            generator_NB, student_NB = torch.stack([own_B, generator_NB[0]]), torch.stack([own_B, student_NB[0]])
        x_BCHW = augment.normalise(augment.view(pixels_NHWC[order_B], views, random), data.mean, data.std)
        if config.channels_last:
            x_BCHW = x_BCHW.contiguous(memory_format=torch.channels_last)
        yield Step(
            x_BCHW,
            labels_N[order_B],
            generator_NB,
            student_NB,
            draws.generator_SN[s, :n],
            draws.student_SN[s, :n],
            draws.first_S[s],
            (epoch * len(draws.order_SB) + s) % config.adversarial_every == 0,
            seeding.numpy_stream(seed, f"mix/{epoch}/{s}"),
        )


# Losses


def mixed_cross_entropy(logits_BK: Tensor, labels_NB: Tensor, lam_N: Tensor, smoothing: float = 0.0) -> Tensor:
    """sum_n lam_n CE(logits, y_n), mean over the batch (Eq 3); `smoothing` of each label is spread over all classes."""
    log_p_BK = logits_BK.log_softmax(1)
    y_NBK = labels_NB.unsqueeze(2) == torch.arange(logits_BK.shape[1], device=labels_NB.device)
    y_BK = (lam_N.view(-1, 1, 1) * y_NBK).sum(0)  # no gather: its gradient adds up in no fixed order on a GPU
    loss = -(y_BK * log_p_BK).sum(1).mean()
    return loss if smoothing == 0 else (1 - smoothing) * loss - smoothing * log_p_BK.mean()


def similarity(mixed_BD: Tensor, clean_BD: Tensor, index_NB: Tensor, lam_N: Tensor) -> Tensor:
    """sum_n lam_n cosine(mixed, clean_n), mean over the batch (Eq 11).

    Args:
        mixed_BD: the teacher's view of the mixed images.
        clean_BD: and of the batch.
        index_NB: which image of the batch stands at each place.
        lam_N: ratios.
    """
    return (F.cosine_similarity(mixed_BD, clean_BD[index_NB], dim=2).mean(1) * lam_N).sum()


def student_loss(config: Config, terms: Mapping[str, Tensor], count: int) -> Tensor:
    """Eq 14, of the terms 'loss_mix', 'loss_clean' and 'loss_linear' that there are.

    Args:
        config: alpha, and which weights N = 2 has.
        terms: see `student_terms`.
        count: N.
    """
    clean, linear = 1 - config.alpha, config.alpha
    if count == 2 and config.pair_weights == "released":
        clean, linear = 1.0, 0.0
    total = terms["loss_mix"]
    if "loss_clean" in terms:
        total = total + clean * terms["loss_clean"]
    if "loss_linear" in terms:
        total = total + linear * terms["loss_linear"]
    return total


def generator_loss(config: Config, terms: Mapping[str, Tensor], area: Tensor, *, adversarial: bool) -> Tensor:
    """What the generator minimises, but for the student's AMCE.

    Args:
        config: the objective and beta.
        terms: 'loss_teacher' and 'similarity', where there are.
        area: AutoMix's loss of the masks' area, weighted; else 0.
        adversarial: of the official objective, whether this step is.
    """
    if config.generator_objective == "cooperative" or (config.generator_objective == "official" and not adversarial):
        return area + terms["loss_teacher"]
    sign, total = -1 if config.generator_objective == "official" else 1, area
    if "loss_teacher" in terms:
        total = total + sign * config.beta * terms["loss_teacher"]
    if "similarity" in terms:
        total = total - sign * (1 - config.beta) * terms["similarity"]
    return total


# The networks


def trio_of(config: Config, channels: int, classes: int, seed: int) -> Trio:
    """Student, teacher and generator with their first weights."""
    shared = config.heads == "shared" or not learned(config)
    random = seeding.torch_stream(seed, "init")
    student = twoheads.two_heads(
        config.network, config.width, channels, classes, random, layer=config.layer, shared=shared
    )
    if not learned(config):
        return Trio(student, None, {"student": student.description, "generator": None})
    block: dict[str, Any] = {"kind": "pair", "scale": config.mask_scale, "upsampling": config.upsampling}
    if config.mix == "adautomix":
        given = {"linear": config.activation == "linear", "softmax_first": config.softmax == "before"}
        block |= {"kind": "any", "embed": config.embed_lam, **given}
    generator = mixblock.build(block, student.map_channels)
    mixblock.initialise(generator, seeding.torch_stream(seed, "init/generator"), config.generator_std)
    return Trio(student, generator, {"student": student.description, "generator": block})


def passed(config: Config, network: twoheads.TwoHeads, x_BCHW: Tensor) -> twoheads.Seen:
    """What a network sees, in single precision, whatever it computes in."""
    with torch.autocast(x_BCHW.device.type, torch.bfloat16, enabled=config.precision == "bf16"):
        seen = network(x_BCHW)
    return twoheads.Seen(*(part.float() for part in seen))


# A training step


def teacher_clean(config: Config, trio: Trio, step: Step) -> tuple[twoheads.Seen, float]:
    """The one pass of the clean images through the teacher, and batch norm's momentum of the mixed ones' pass."""
    again = step.generator_NB.shape[0] if config.mix == "adautomix" else 0
    momenta = teachers.merged_momenta(again) if learned(config) else (teachers.NORM_MOMENTUM, 0.0)
    if config.teacher_norms != "own":
        momenta = (0.0, 0.0)
    with torch.no_grad(), teachers.norm_momentum(trio.teacher, momenta[0]):
        return passed(config, trio.teacher, step.x_BCHW), momenta[1]


def teacher_terms(
    config: Config, trio: Trio, step: Step, x_BCHW: Tensor, clean: twoheads.Seen, momentum: float
) -> dict[str, Tensor]:
    """'loss_teacher', AMCE', and 'similarity', cos': the teacher's word on mixed images, where the config asks for it.

    Args:
        config: which terms.
        trio: the networks.
        step: labels and ratios.
        x_BCHW: the generator's images.
        clean: what the teacher sees on the batch.
        momentum: of batch norm's running statistics.
    """
    terms: dict[str, Tensor] = {}
    if not {"teacher", "cosine"} & set(config.terms):
        return terms
    with teachers.norm_momentum(trio.teacher, momentum):
        seen = passed(config, trio.teacher, x_BCHW)
    if "teacher" in config.terms:
        labels_NB = step.labels_B[step.generator_NB]
        terms["loss_teacher"] = mixed_cross_entropy(seen.mix_BK, labels_NB, step.generator_N, config.label_smoothing)
    if "cosine" in config.terms and config.mix == "adautomix":
        mine, theirs = (
            (seen.mix_BK, clean.mix_BK) if config.cosine_of == "logits" else (seen.pooled_BD, clean.pooled_BD)
        )
        terms["similarity"] = similarity(mine, theirs, step.generator_NB, step.generator_N)
    return terms


def generated(config: Config, trio: Trio, step: Step, features_Bchw: Tensor) -> tuple[Tensor, Tensor]:
    """The generator's images, and AutoMix's weighted loss of their masks' area, else 0."""
    assert trio.generator is not None
    masks_BNHW = trio.generator(features_Bchw, step.generator_NB, step.generator_N)
    x_BCHW = mixblock.mixed(step.x_BCHW, step.generator_NB, masks_BNHW)
    if config.mix == "adautomix":
        return x_BCHW, masks_BNHW.new_zeros(())
    return x_BCHW, config.area_weight * mixblock.area_loss(masks_BNHW, step.generator_N[0])


def plain(config: Config, step: Step) -> bool:
    """Whether the student's images are mixed by lam alone: one ratio has nearly everything, or nothing."""
    return step.first <= config.margin or step.first >= 1 - config.margin


@torch.no_grad()
def student_images(config: Config, trio: Trio, step: Step, features_Bchw: Tensor) -> Tensor:
    """Mixed images with masks of their own, or without where `plain`; constants for the generator."""
    if plain(config, step):
        return mixblock.linear(step.x_BCHW, step.student_NB, step.student_N)
    assert trio.generator is not None
    masks_BNHW = trio.generator(features_Bchw, step.student_NB, step.student_N)
    return mixblock.mixed(step.x_BCHW, step.student_NB, masks_BNHW)


def student_terms(config: Config, trio: Trio, step: Step, x_BCHW: Tensor) -> dict[str, Tensor]:
    """'loss_mix', AMCE, on those images; 'loss_clean', ACE; 'loss_linear', MCE: those that the config asks for."""
    labels_NB, smoothing = step.labels_B[step.student_NB], config.label_smoothing
    terms = {}  # in the order of the code's passes, which batch norm's running statistics remember
    if "clean" in config.terms:
        seen = passed(config, trio.student, step.x_BCHW)
        terms["loss_clean"] = F.cross_entropy(seen.one_BK, step.labels_B, label_smoothing=smoothing)
    pairs = len(step.student_NB) == 2 and config.pair_weights == "released"
    if "linear" in config.terms and not pairs:
        seen = passed(config, trio.student, mixblock.linear(step.x_BCHW, step.student_NB, step.student_N))
        terms["loss_linear"] = mixed_cross_entropy(seen.mix_BK, labels_NB, step.student_N, smoothing)
    seen = passed(config, trio.student, x_BCHW)
    terms["loss_mix"] = mixed_cross_entropy(seen.mix_BK, labels_NB, step.student_N, smoothing)
    return terms


def joint(config: Config, trio: Trio, optimizer: torch.optim.Optimizer, step: Step) -> dict[str, Tensor]:
    """One update of student and generator, by one backward pass; the losses it was made by."""
    clean, momentum = teacher_clean(config, trio, step)
    x_BCHW, area = generated(config, trio, step, clean.features_Bchw)
    judged = teacher_terms(config, trio, step, x_BCHW, clean, momentum)
    against = generator_loss(config, judged, area, adversarial=step.adversarial)
    opposed = config.generator_objective == "eq15" and not plain(config, step)
    if opposed:
        own_BCHW = 2 * x_BCHW.detach() - x_BCHW
    elif config.same_mix and not plain(config, step):
        own_BCHW = x_BCHW.detach()
    else:
        own_BCHW = student_images(config, trio, step, clean.features_Bchw)
    terms = student_terms(config, trio, step, own_BCHW)
    loss = student_loss(config, terms, len(step.student_NB))
    descend(config, trio, optimizer, loss + against)
    return reported(terms, judged, loss, against - terms["loss_mix"] if opposed else against)


def alternating(config: Config, trio: Trio, optimizer: torch.optim.Optimizer, step: Step) -> dict[str, Tensor]:
    """Algorithm 1: T1 updates of the student, then T2 of the generator; the losses of the last of each."""
    clean, momentum = teacher_clean(config, trio, step)
    for _ in range(config.classifier_steps):
        terms = student_terms(config, trio, step, student_images(config, trio, step, clean.features_Bchw))
        loss = student_loss(config, terms, len(step.student_NB))
        descend(config, trio, optimizer, loss)
    assert trio.generator is not None
    for _ in range(config.generator_steps):
        x_BCHW, area = generated(config, trio, step, clean.features_Bchw)
        judged = teacher_terms(config, trio, step, x_BCHW, clean, momentum)
        against = generator_loss(config, judged, area, adversarial=step.adversarial)
        if config.generator_objective == "eq15":
            with teachers.norm_momentum(trio.student, 0.0):
                seen = passed(config, trio.student, x_BCHW)
            labels_NB = step.labels_B[step.generator_NB]
            against = against - mixed_cross_entropy(seen.mix_BK, labels_NB, step.generator_N, config.label_smoothing)
        descend(config, trio, optimizer, against, only=list(trio.generator.parameters()))
    return reported(terms, judged, loss, against)


def by_hand(config: Config, trio: Trio, optimizer: torch.optim.Optimizer, step: Step) -> dict[str, Tensor]:
    """One update by a mix that needs no network, or by none."""
    if config.teacher_norms == "own":
        teacher_clean(config, trio, step)
    drawn = (step.first, config.concentration, step.random)
    x_BCHW, own = mixes.by_hand(config.mix, step.x_BCHW, step.student_NB[1], *drawn)
    lam = own if isinstance(own, Tensor) else torch.full((), own, device=x_BCHW.device)
    labels_NB, lam_N = step.labels_B[step.student_NB], torch.stack([lam, 1 - lam])
    logits_BK = passed(config, trio.student, x_BCHW).one_BK
    loss = mixed_cross_entropy(logits_BK, labels_NB, lam_N, config.label_smoothing)
    descend(config, trio, optimizer, loss)
    return {"loss": loss}


def descend(
    config: Config,
    trio: Trio,
    optimizer: torch.optim.Optimizer,
    loss: Tensor,
    only: Sequence[nn.Parameter] | None = None,
) -> None:
    """One step down a loss; of these weights alone, where named."""
    optimizer.zero_grad(set_to_none=True)
    loss.backward(inputs=only)
    if config.clip is not None:
        torch.nn.utils.clip_grad_norm_(trio.parameters(), config.clip)
    optimizer.step()


def reported(
    terms: Mapping[str, Tensor], judged: Mapping[str, Tensor], loss: Tensor, against: Tensor
) -> dict[str, Tensor]:
    """The losses that every step of a config has, whatever N is."""
    always = {name: value for name, value in terms.items() if name != "loss_linear"}
    return {"loss": loss, "loss_generator": against, **always, **judged}


def update(config: Config, trio: Trio, optimizer: torch.optim.Optimizer, step: Step) -> dict[str, Tensor]:
    """All updates of one step but the teacher's; the losses, as tensors on the device."""
    if not learned(config):
        return by_hand(config, trio, optimizer, step)
    if config.updates == "alternating":
        return alternating(config, trio, optimizer, step)
    return joint(config, trio, optimizer, step)


# Training


def train(config: Config, data: Data, *, seed: int, device: str, resume: State | None = None) -> Iterator[Epoch]:
    """Trains student, teacher and generator and yields after every epoch; see `trainables.protocol`.

    The final state rebuilds all three: `teachers.rebuild(state["network"], state["weights"])`.

    Raises:
        ConfigError: a batch larger than the training set; a mask scale that does not fit the images.
        Diverged: a loss or weight is no longer finite.
    """
    pixels_NHWC, labels_N = loop.resident(data, config.batch, device)
    steps = len(labels_N) // config.batch
    trio = trio_of(config, pixels_NHWC.shape[3], len(data.classes), seed)
    check_images(config, trio.student, pixels_NHWC.shape[1:])
    trio.to(device)
    if config.channels_last:
        trio.to(memory_format=torch.channels_last)
    optimizer = optimizer_of(config, trio, device)
    sources_NSHWC = mix_exhibits.sources(pixels_NHWC, config.images if config.mix == "adautomix" else 2, seed)
    done, history, shown = 0, {}, mix_exhibits.nothing()
    if resume is not None:
        done, history, shown = resume["epoch"], loop.copied(resume["history"]), loop.copied(resume["shown"])
        trio.load_state_dict(resume["weights"])
        optimizer.load_state_dict(resume["optimizer"])
    for epoch in range(done, config.epochs):
        totals = loop.Totals()
        trio.train()
        for s, step in enumerate(batches(config, data, pixels_NHWC, labels_N, seed, epoch)):
            set_rates(config, optimizer, epoch, s, steps)
            with totals.step(device):
                terms = update(config, trio, optimizer, step)
                share = (epoch * steps + s) / (config.epochs * steps)
                momentum = teachers.momentum(share, config.ema, config.ema_end, config.ema_constant)
                teachers.follow(trio.student, trio.teacher, momentum, config.teacher_norms)
            totals.add(terms)
        metrics = totals.means(trio, epoch + 1)
        last = epoch + 1 == config.epochs
        if last or (config.evaluate_every and (epoch + 1) % config.evaluate_every == 0):
            metrics |= teachers.evaluate(trio, data, config.scored, device, attack=last)
            metrics |= teachers.remembered(history, epoch + 1, metrics)
        show = mix_exhibits.look(shown, trio, config.mix, sources_NSHWC, data, seed, epoch + 1, config.epochs)
        state = loop.captured(epoch + 1, trio, optimizer, history=history, shown=shown)
        yield Epoch(epoch + 1, metrics, state, show)


def check_images(config: Config, student: twoheads.TwoHeads, shape: Sequence[int]) -> None:
    """Checks a config against images of that shape (H, W, C).

    Raises:
        ConfigError: masks would not have the images' size.
    """
    if not learned(config):
        return
    height, width, channels = shape
    with torch.no_grad(), openset.evaluation_mode(student):
        h, w = student(torch.zeros(1, channels, height, width)).features_Bchw.shape[2:]
    if (h * config.mask_scale, w * config.mask_scale) == (height, width):
        return
    fits = height % h == 0 and width % w == 0 and height // h == width // w
    cure = f"Set mask_scale to {height // h}" if fits else "Set another layer"
    raise ConfigError(
        f"mask_scale={config.mask_scale} is not allowed: stage {config.layer} of {config.network} makes maps of "
        f"{h} x {w} pixels from images of {height} x {width}, so masks would have {h * config.mask_scale} x "
        f"{w * config.mask_scale}. {cure}, or another side of the images."
    )


def optimizer_of(config: Config, trio: Trio, device: str) -> torch.optim.Optimizer:
    """Over the weights of student and generator, each in groups with and without weight decay."""
    groups: list[dict[str, Any]] = []
    for part in ("student", "generator"):
        network = getattr(trio, part)
        weights = [] if network is None else list(network.named_parameters())
        decayed = [weight for name, weight in weights if config.decay_norms or not _spared(name, weight)]
        plain_ones = [weight for name, weight in weights if not config.decay_norms and _spared(name, weight)]
        groups.append({"params": decayed, "weight_decay": config.weight_decay, "part": part})
        groups.append({"params": plain_ones, "weight_decay": 0.0, "part": part})
    groups = [group for group in groups if group["params"]]
    if config.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=config.learning_rate, fused=bool(loop.fused(device)))
    return torch.optim.SGD(groups, lr=config.learning_rate, momentum=config.momentum, **loop.fused(device))


def _spared(name: str, weight: Tensor) -> bool:
    """Scales, shifts and biases, those of attention and of whole layers included."""
    return weight.dim() == 1 or name.endswith(("relative_position_bias_table", "layer_scale"))


def set_rates(config: Config, optimizer: torch.optim.Optimizer, epoch: int, s: int, steps: int) -> None:
    """Learning rates of step s of an epoch of so many steps."""
    rise = min(1.0, (epoch * steps + s + 1) / (config.warmup * steps)) if config.warmup else 1.0
    for group in optimizer.param_groups:
        peak, floor = config.learning_rate, config.floor
        if group["part"] == "generator":
            peak = peak if config.generator_rate is None else config.generator_rate
            floor = floor if config.generator_floor is None else config.generator_floor
        group["lr"] = rise * schedules.cosine(epoch, config.epochs, peak, floor * peak)
