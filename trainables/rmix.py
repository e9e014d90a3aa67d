"""R-Mix: mix two images patch by patch, where a random share of each one's most salient patches is kept whole. And the
methods it is compared with, trained and judged alike: one classifier, one field `mix`.

Paper: Expeditious Saliency-guided Mix-up through Random Gradient Thresholding (R-Mix), arXiv 2212.04875: Eq 2-7,
section 4. Repository: minhlong94/Random-Mixup, on snu-mllab/Co-Mixup. In the fields below [P] is printed in the
paper, [C] is read in the code, [D] is our decision. The default is the code's CIFAR path.

    phi = sqrt(mean_C (dL/dx)^2)        saliency of a pixel                                                  (Eq 2)
    z = avgpool(phi) / sum avgpool(phi) p x p patches                                                        (Eq 3)
    m = [z >= quantile_q(z)]            q from a grid of K levels in [0, 0.99]
    e = [m = m'], ' the partner         both salient, or both not
    x~ = e (lam x + (1 - lam) x') + (1 - e) (m x + m' x')                                                    (Eq 6)
    y~ = the same weights, averaged over the image                                                           (Eq 7)

Where e = 0 one of m, m' is 1, so an image's own weight is w = e lam + (1 - e) m at every pixel, x~ = w x + (1 - w) x'
and y~ = mean(w) Y + (1 - mean(w)) Y': that is how it is computed.

Paper and code disagree, or one of them is silent, about what p counts (`patch_unit`), the order in Eq 3 (`pool_first`),
the loss (`loss`), the one that saliency is the gradient of (`saliency_of`), batch norm in that pass (`saliency_mode`,
`clean_pass`), the clean gradient (`clean_weight`), how many q and lam a batch has (`quantile_per`, `lam_per`), who is
mixed with whom (`partner`), the largest and the last learning rate (`learning_rate`, `end_divisor`), momentum
(`cycle_momentum`), `padding`, `alpha`, the `epochs` of WRN-28-10, which patches are kept (`keep`), what CutMix+ is
(`probability`, `loss`), when MultiStep steps (`milestones`), and which accuracy is reported (here last and best).

Deviations:
1. Pooling comes before the division, as in the code; `pool_first=False` is the paper's order. The masks are the same.
2. A map of zeros counts as uniform; the code divides by zero.
3. The saliency pass asks for the images' gradient alone, unless `clean_weight` wants the weights' too. The code
   computes all and throws them away.
4. The other methods have no such pass; in the released loop all have it, `vanilla` too, with its update of batch norm:
   `clean_pass`.
5. CutMix and FMix may give an image itself for partner; OpenMixup draws again.
6. PuzzleMix and Co-Mixup have settings of their own, in their files; here the released ones. RL-Mix, which chooses the
   percentiles by a policy, is `trainables.rlmix`.
7. The ImageNet path (`IMAGENET`) has one image size, in training and evaluation, and one batch; the released one grows
   its crops from 128 to 224 pixels, and evaluates the middle 224 of 256. There a step's learning rate is the schedule's
   at its end, here at its beginning.
8. Cross-entropies of two labels are written as one of a soft label.
9. With `keep="least"` labels follow the pixels; in the code they stay those of the patches that are not shown.
10. The paper validates on "100k" images of ImageNet. So many are in its test part, whose labels are not published; as
    in the code, it is the validation part's 50,000 here, and no option.

Expected, [P] Table 4, CIFAR-100 top-1: PreActResNet-18 81.49, WRN-16-8 82.32, WRN-28-10 85.00, ResNeXt-29 83.02.
Cost: two passes forward and back, the first without weight gradients: 5/3 of a plain step.

Shapes: B images, C channels, H rows, W columns, p patches a side, K classes, S steps.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from trainables import (
    augment,
    classification,
    classifiers,
    comixup,
    graphcuts,
    loop,
    mixes,
    openset,
    puzzlemix,
    schedules,
    seeding,
)
from trainables.config import ConfigError, check_types, require
from trainables.datasets import Data
from trainables.protocol import Epoch, State

Mix = Literal[
    "vanilla",
    "mixup",
    "manifold",
    "cutmix",
    "saliencymix",
    "fmix",
    "resizemix",
    "gridmix",
    "puzzlemix",
    "comixup",
    "rmix",
]


@dataclass(frozen=True, kw_only=True)
class Config:
    """What can be varied. Defaults are the released CIFAR-100 runs; [P] printed, [C] read in the code, [D] ours."""

    # Network and optimisation
    network: classifiers.Name = "preactresnet18"
    """[P] PreActResNet-18, WRN-16-8, WRN-28-10, ResNeXt-29 4x24; ResNet-50 for ImageNet."""
    width: int = 64
    """64: the published network; others scale every stage."""
    epochs: int = 300
    """[P] 300; 400 for WRN-28-10 (its default in the code: 300)."""
    batch: int = 100
    """[P] 100; the rest of an epoch is dropped [C]."""
    learning_rate: float = 0.29947526988779305
    """The largest. [C]; [P] 0.3. 0.2 with `multi_step` [C]. Not read by `imagenet_fast`, which has its own."""
    schedule: Literal["one_cycle", "multi_step", "imagenet_fast"] = "one_cycle"
    """[P] OneCycle, by the step; MultiStep and Co-Mixup's fast schedule for the comparisons."""
    end_divisor: float = 1e4
    """OneCycle's first learning rate over its last. [C] 1e4, so it ends at 3e-7; 100 gives the 3e-5 [P]."""
    cycle_momentum: bool = True
    """OneCycle moves momentum too: 0.95, 0.85 at the peak, 0.95. [C], by torch's default; unsaid in the paper."""
    momentum: float = 0.9
    """Where it is not cycled. [C]"""
    milestones: tuple[int, ...] = (100, 200)
    """Of MultiStep, epochs. (100, 200) are Co-Mixup's, whose numbers the paper quotes; [C] (150, 225)."""
    nesterov: bool = True
    """[C]"""
    weight_decay: float = 1e-4
    """[C]"""
    decay_norms: bool = True
    """Weight decay on batch norms too. [C] on CIFAR; not on ImageNet."""
    loss: Literal["ce", "bce"] = "ce"
    """Soft-label cross-entropy [C], or binary cross-entropy of the softmax, averaged over classes ([P] wording)."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Of the network's passes; losses, maps and mixing are fp32. [C] fp32."""
    channels_last: bool = False
    """Memory layout on the device."""

    # Images
    flip: bool = True
    """Horizontal flip, p = 0.5. [P]"""
    padding: int = 2
    """Random crop after so many black pixels on all sides. [C] 2, the paper gives no number; 4 is usual elsewhere."""
    crop: float = 1.0
    """Smallest area of a random resized crop, as a share of the image's; 1: none. [C] 0.08 on ImageNet."""
    colour: Literal["protocol", "released"] = "protocol"
    """Constants of the normalisation: the protocol's, or those in the code, for CIFAR-100."""

    # Mixing
    mix: Mix = "rmix"
    """What is done to a batch. 'puzzlemix' and 'comixup' need the extra 'graphcut'."""
    probability: float = 1.0
    """Share of batches that are mixed. [C] 0.5 for CutMix+, 1 for all others."""
    alpha: float = 1.0
    """lam ~ Beta(alpha, alpha), ResizeMix's tau, Co-Mixup's Dirichlet. [P] 1 on CIFAR, 0.2 on ImageNet."""
    lam_per: Literal["batch", "sample"] = "batch"
    """One lam for the batch [C], or one an image; Mixup, Manifold Mixup and R-Mix only."""
    partner: Literal["random", "flip"] = "random"
    """A permutation of the batch [P], or the batch reversed ([C] on ImageNet)."""
    box: Literal["integer", "real"] = "integer"
    """CutMix's box: centre and half sides in whole pixels [C], or real until the corners are cut (PuzzleMix)."""
    patches: tuple[int, ...] = (2, 4)
    """R-Mix: patches a side, one of these for each batch. [P] {2, 4}."""
    patch_unit: Literal["per_side", "pixels"] = "per_side"
    """R-Mix: whether `patches` are numbers of patches a side ([P] "p x p"), or of pixels ([P] Eq 3, "kernel size")."""
    pool_first: bool = True
    """R-Mix: maps are pooled and then divided by their sums [C], or the other way round ([P] Eq 3): the same masks."""
    levels: int = 10
    """R-Mix: K, how many percentiles there are between 0 and 0.99. [P] 10."""
    quantile_per: Literal["sample", "batch"] = "sample"
    """R-Mix: a percentile for each image [C], or one for the batch ([P] "a value q")."""
    keep: Literal["most", "least"] = "most"
    """R-Mix: where only one of two patches is salient, that is kept whole [P], or the other, an option of the code."""
    saliency_of: Literal["ce", "training"] = "ce"
    """What saliency is the gradient of: cross-entropy [C], or the training loss ([P]), which differs with 'bce'."""
    saliency_mode: Literal["train", "eval", "frozen"] = "train"
    """Batch norm in the saliency pass: batch statistics, which update the running ones [C]; the running ones; batch
    statistics that update nothing."""
    clean_pass: bool = False
    """Without saliency: whether batch norm sees the clean images before the mixed ones. [C] It does, in CutMix+ too."""
    clean_weight: float = 0.0
    """Weight of the clean images' own gradient in the update, of their cross-entropy; of that times 2 / K with 'bce'.
    [C] 0 on CIFAR, 1 on ImageNet; Co-Mixup's is 1 with 'bce'."""

    # Evaluation
    evaluate_every: int = 1
    """Epochs between evaluations; 0: after the last only. [C] 1. The best is reported beside the last, never chosen."""

    def __post_init__(self) -> None:
        check_types(self)
        _check_training(self)
        _check_mixing(self)


def _check_training(config: Config) -> None:
    for field in ("width", "epochs"):
        require(getattr(config, field) >= 1, config, field, "at least 1")
    require(config.batch >= 2, config, "batch", "at least 2: an image alone has no partner")
    for field in ("learning_rate", "end_divisor", "alpha"):
        require(0 < getattr(config, field) < float("inf"), config, field, "above 0 and finite")
    for field in ("weight_decay", "clean_weight"):
        require(0 <= getattr(config, field) < float("inf"), config, field, "at least 0 and finite")
    require(0 <= config.momentum < 1, config, "momentum", "at least 0 and below 1")
    uses_momentum = config.momentum > 0 or (config.schedule == "one_cycle" and config.cycle_momentum)
    require(not config.nesterov or uses_momentum, config, "nesterov", "false where momentum is 0")
    rising = all(first < second for first, second in zip(config.milestones, config.milestones[1:], strict=False))
    require(rising and min(config.milestones, default=0) >= 0, config, "milestones", "rising epochs, from 0")
    require(config.padding >= 0, config, "padding", "at least 0")
    require(0 < config.crop <= 1, config, "crop", "above 0 and at most 1")
    require(config.evaluate_every >= 0, config, "evaluate_every", "at least 0")


def _check_mixing(config: Config) -> None:
    require(0 <= config.probability <= 1, config, "probability", "a probability, between 0 and 1")
    require(config.levels >= 2, config, "levels", "at least 2")
    require(bool(config.patches), config, "patches", "at least one number of patches a side")
    require(min(config.patches) >= 1, config, "patches", "numbers of at least 1")
    require(len(set(config.patches)) == len(config.patches), config, "patches", "different numbers")
    one_lam = "'batch' for a mix that cuts boxes or masks: they have one lam for the batch"
    require(config.lam_per == "batch" or config.mix in _LAM_OF_ITS_OWN, config, "lam_per", one_lam)
    clean = f"0 where there is no saliency pass: mix is not one of {', '.join(map(repr, _BY_SALIENCY))}"
    require(config.clean_weight == 0 or config.mix in _BY_SALIENCY, config, "clean_weight", clean)
    seen = f"false where there is a saliency pass: mix is one of {', '.join(map(repr, _BY_SALIENCY))}"
    require(not config.clean_pass or config.mix not in _BY_SALIENCY, config, "clean_pass", seen)
    eval_clean = "'train' or 'frozen' where clean_weight is above 0: the weights' gradient needs batch statistics"
    require(config.clean_weight == 0 or config.saliency_mode != "eval", config, "saliency_mode", eval_clean)


_LAM_OF_ITS_OWN = ("vanilla", "mixup", "manifold", "rmix")
"""Mixes that can have one lam for each image."""
_BY_SALIENCY = ("rmix", "puzzlemix", "comixup")
"""Mixes that ask the network first where to look."""
_BY_GRAPH_CUT = ("puzzlemix", "comixup")

RMIX = Config()
"""R-Mix on CIFAR-100 as released."""
CUTMIX_PLUS = replace(RMIX, mix="cutmix", probability=0.5)
"""CutMix in R-Mix's pipeline. [P] "CutMix+"; the probability is in the code alone."""
QUOTED: dict[str, Any] = {"schedule": "multi_step", "learning_rate": 0.2, "loss": "bce", "box": "real"}
"""Fields of the pipeline whose published numbers the paper quotes for Vanilla, Input, Manifold and CutMix."""
PUZZLEMIX = replace(RMIX, mix="puzzlemix", saliency_mode="eval")
"""PuzzleMix in R-Mix's pipeline; its own has MultiStep and binary cross-entropy."""
COMIXUP = replace(RMIX, mix="comixup", alpha=2.0, clean_weight=1.0)
"""Co-Mixup likewise."""
IMAGENET = replace(
    RMIX,
    network="resnet50",
    epochs=100,
    batch=448,
    schedule="imagenet_fast",
    decay_norms=False,
    padding=0,
    crop=0.08,
    alpha=0.2,
    partner="flip",
    clean_weight=1.0,
)
"""The ImageNet path, at one image size."""
RELEASED_MEAN = (129.3 / 255, 124.1 / 255, 112.4 / 255)
RELEASED_STD = (68.2 / 255, 65.4 / 255, 70.4 / 255)
"""Normalisation in the code, for CIFAR-100. [C]"""


# R-Mix: saliency, masks, mixing


def saliency_loss(logits_BK: Tensor, labels_B: Tensor) -> Tensor:
    """What saliency is the gradient of: mean cross-entropy times 2 / K, a factor that leaves no trace in maps."""
    return 2 * F.cross_entropy(logits_BK, labels_B) / logits_BK.shape[1]


def saliency(gradient_BCHW: Tensor) -> Tensor:
    """Root of the mean square over channels of an input gradient: phi (B, H, W), Eq 2."""
    return gradient_BCHW.square().mean(1).sqrt()


def pooled(phi_BHW: Tensor, p: int) -> Tensor:
    """Mean saliency of p x p patches, (B, p, p). The sides must be multiples of p."""
    height, width = phi_BHW.shape[1:]
    return F.avg_pool2d(phi_BHW.unsqueeze(1), (height // p, width // p)).squeeze(1)


def normalised(maps_Bpp: Tensor) -> Tensor:
    """Each map divided by its sum; uniform where that is 0."""
    total_B11 = maps_Bpp.sum((1, 2), keepdim=True)
    uniform = torch.full_like(maps_Bpp, 1 / (maps_Bpp.shape[1] * maps_Bpp.shape[2]))
    return torch.where(total_B11 > 0, maps_Bpp / total_B11, uniform)


def maps(phi_BHW: Tensor, p: int, *, pool_first: bool = True) -> Tensor:
    """Maps z (B, p, p) that sum to 1; without `pool_first`, to p^2 / (H W), which no mask sees."""
    return normalised(pooled(phi_BHW, p)) if pool_first else pooled(normalised(phi_BHW), p)


def levels(count: int) -> NDArray[np.float32]:
    """The grid of percentiles, as fractions: `count` from 0 to 0.99."""
    return np.linspace(0, 0.99, count).astype(np.float32)


def thresholds(z_Bpp: Tensor, q_B: Tensor) -> Tensor:
    """The q-th quantile of each map (B,), interpolated linearly between its sorted values."""
    sorted_BN = z_Bpp.flatten(1).sort(1).values
    rank_B1 = (q_B * (sorted_BN.shape[1] - 1)).unsqueeze(1)
    below_B1, above_B1 = rank_B1.floor(), rank_B1.ceil()
    low_B1, high_B1 = sorted_BN.gather(1, below_B1.long()), sorted_BN.gather(1, above_B1.long())
    return torch.lerp(low_B1, high_B1, rank_B1 - below_B1).squeeze(1)


def masks(z_Bpp: Tensor, q_B: Tensor) -> Tensor:
    """Masks m (B, p, p): 1 for patches at or above the threshold; ties count as above."""
    return (z_Bpp >= thresholds(z_Bpp, q_B).view(-1, 1, 1)).to(z_Bpp.dtype)


def own_weights(
    m_Bpp: Tensor, partner_B: Tensor, lam: Tensor | float, keep: Literal["most", "least"] = "most"
) -> Tensor:
    """Weights w (B, p, p): lam where an image's mask and its partner's agree, the image's own mask elsewhere (Eq 6).

    Args:
        m_Bpp: masks.
        partner_B: index of each image's partner.
        lam: a number, or one for each image (B, 1, 1).
        keep: 'least' turns the mask round where it decides.
    """
    lam = torch.as_tensor(lam, dtype=m_Bpp.dtype, device=m_Bpp.device)
    return torch.where(m_Bpp == m_Bpp[partner_B], lam, m_Bpp if keep == "most" else 1 - m_Bpp)


def mixed_images(x_BCHW: Tensor, partner_B: Tensor, own_Bpp: Tensor) -> Tensor:
    """x~: each patch a weighted mean of an image and its partner (Eq 6)."""
    height, width = x_BCHW.shape[2:]
    rows, columns = height // own_Bpp.shape[1], width // own_Bpp.shape[2]
    own_BHW = own_Bpp.repeat_interleave(rows, 1).repeat_interleave(columns, 2)
    return torch.lerp(x_BCHW[partner_B], x_BCHW, own_BHW.unsqueeze(1))


def mixed_labels(labels_B: Tensor, partner_B: Tensor, own: Tensor | float, classes: int) -> Tensor:
    """y~ (B, K): the own label's weight, and the rest for the partner's (Eq 7); rows sum to 1.

    Args:
        labels_B: classes.
        partner_B: index of each image's partner.
        own: weight of an image's own label: a number, or one for each (B, 1).
        classes: K.
    """
    y_BK = (labels_B.unsqueeze(1) == torch.arange(classes, device=labels_B.device)).float()
    return own * y_BK + (1 - own) * y_BK[partner_B]


def rmix(
    x_BCHW: Tensor,
    labels_B: Tensor,
    z_Bpp: Tensor,
    q_B: Tensor,
    lam: Tensor | float,
    partner_B: Tensor,
    classes: int,
    keep: Literal["most", "least"] = "most",
) -> tuple[Tensor, Tensor]:
    """x~ and y~ from maps, percentiles, lam (a number, or (B, 1, 1)) and partners."""
    own_Bpp = own_weights(masks(z_Bpp, q_B), partner_B, lam, keep)
    own_B1 = own_Bpp.mean((1, 2)).unsqueeze(1)
    return mixed_images(x_BCHW, partner_B, own_Bpp), mixed_labels(labels_B, partner_B, own_B1, classes)


# Losses


def soft_cross_entropy(logits_BK: Tensor, targets_BK: Tensor) -> Tensor:
    """Mean over the batch of -sum_k y_k log softmax_k."""
    return -(targets_BK * logits_BK.log_softmax(1)).sum(1).mean()


def binary_cross_entropy(logits_BK: Tensor, targets_BK: Tensor) -> Tensor:
    """Binary cross-entropy of softmax probabilities against soft labels, mean over all B K entries."""
    return F.binary_cross_entropy(logits_BK.softmax(1), targets_BK)


# What an epoch draws beforehand: on the CPU, so alike on every device, and moved in one go


@dataclass(frozen=True)
class Draws:
    """Random numbers of an epoch's S steps; each has a stream of its own, so two arms share all that both use."""

    order_SB: Tensor
    """Images of each step."""
    partner_SB: Tensor
    """Index within the step of each image's partner; may be itself."""
    q_SB: Tensor
    """Percentiles, as fractions."""
    lam_SB: Tensor
    """(S, B), or (S, 1) where the batch has one."""
    lam_S: NDArray[np.float64]
    """The same on the host, of each step's first image: what decides the size of a box."""
    p_S: tuple[int, ...]
    """One of `patches` each."""
    mixed_S: tuple[bool, ...]
    """Whether the batch is mixed at all."""


def draw(config: Config, seed: int, epoch: int, images: int, device: str) -> Draws:
    """The draws of the epoch with index `epoch`, from 0."""
    n = config.batch
    steps = images // n
    order = torch.randperm(images, generator=seeding.torch_stream(seed, f"order/{epoch}"))[: steps * n].view(steps, n)
    partner = torch.rand(steps, n, generator=seeding.torch_stream(seed, f"partner/{epoch}")).argsort(1)
    if config.partner == "flip":
        partner = torch.arange(n - 1, -1, -1).expand(steps, n)
    level = seeding.numpy_stream(seed, f"q/{epoch}").integers(config.levels, size=(steps, n))
    if config.quantile_per == "batch":
        level = np.repeat(level[:, :1], n, axis=1)
    q = torch.from_numpy(levels(config.levels)[level])
    count = n if config.lam_per == "sample" else 1
    lam = seeding.numpy_stream(seed, f"lam/{epoch}").beta(config.alpha, config.alpha, (steps, count))
    p = seeding.numpy_stream(seed, f"p/{epoch}").integers(len(config.patches), size=steps)
    mixed = seeding.numpy_stream(seed, f"mixed/{epoch}").random(steps) < config.probability
    return Draws(
        order_SB=order.to(device, non_blocking=True),
        partner_SB=partner.to(device, non_blocking=True),
        q_SB=q.to(device, non_blocking=True),
        lam_SB=torch.from_numpy(lam).float().to(device, non_blocking=True),
        lam_S=lam[:, 0],
        p_S=tuple(config.patches[index] for index in p),
        mixed_S=tuple(mixed.tolist()),
    )


@dataclass(frozen=True)
class Step:
    """A batch, normalised, and what was drawn for it."""

    x_BCHW: Tensor
    labels_B: Tensor
    partner_B: Tensor
    q_B: Tensor
    lam_B: Tensor
    """(B,), or (1,) where the batch has one."""
    lam: float
    p: int
    mixed: bool
    random: np.random.Generator
    """On the host, for what else a mix draws: boxes, masks, layers."""
    std: Sequence[float] = (1.0,)
    """Of the normalisation, a number or one for each channel."""


# A training step


def step_loss(config: Config, network: classifiers.Classifier, step: Step, classes: int) -> dict[str, Tensor]:
    """The loss of one step, ready for `backward`; where `clean_weight` asks for it, with the clean images' own."""
    loss = soft_cross_entropy if config.loss == "ce" else binary_cross_entropy
    if config.mix in _BY_SALIENCY and step.mixed:
        return _salient_loss(config, network, step, classes, loss)
    if config.clean_pass:
        with torch.no_grad():
            logits_of(config, network, step.x_BCHW)
    if config.mix == "manifold" and step.mixed:
        after, lam_B111 = int(step.random.integers(3)), step.lam_B.view(-1, 1, 1, 1)
        targets_BK = mixed_labels(step.labels_B, step.partner_B, step.lam_B.view(-1, 1), classes)

        def mixing(a_BCHW: Tensor) -> Tensor:
            return mixes.mixup(a_BCHW, step.partner_B, lam_B111.to(a_BCHW.dtype))

        return {"loss": loss(logits_of(config, network, step.x_BCHW, mixing, after), targets_BK)}
    x_BCHW, own = _without_network(config, step)
    targets_BK = mixed_labels(step.labels_B, step.partner_B, own, classes)
    return {"loss": loss(logits_of(config, network, x_BCHW), targets_BK)}


def _salient_loss(
    config: Config,
    network: classifiers.Classifier,
    step: Step,
    classes: int,
    loss: Callable[[Tensor, Tensor], Tensor],
) -> dict[str, Tensor]:
    phi_BHW, clean, _ = saliency_pass(config, network, step)
    with torch.no_grad():
        mixed_BCHW, targets_BK = _by_saliency(config, step, phi_BHW, classes)
    total = loss(logits_of(config, network, mixed_BCHW), targets_BK)
    if config.clean_weight > 0:
        total = total + config.clean_weight * clean * (classes / 2 if config.loss == "ce" else 1)
    return {"loss": total}


def _by_saliency(config: Config, step: Step, phi_BHW: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Mixed images and soft labels."""
    x_BCHW, labels_B, partner_B = step.x_BCHW, step.labels_B, step.partner_B
    if config.mix == "rmix":
        z_Bpp, lam_B11 = maps(phi_BHW, step.p, pool_first=config.pool_first), step.lam_B.view(-1, 1, 1)
        return rmix(x_BCHW, labels_B, z_Bpp, step.q_B, lam_B11, partner_B, classes, config.keep)
    if config.mix == "puzzlemix":
        n = int(step.random.choice(puzzlemix.fitting(puzzlemix.SETTINGS, x_BCHW.shape[2])))
        mixed_BCHW, own_B1 = puzzlemix.puzzlemix(x_BCHW, phi_BHW, partner_B, step.lam, n, step.std)
        return mixed_BCHW, mixed_labels(labels_B, partner_B, own_B1, classes)
    mixed_BCHW, weights_BB = comixup.comixup(x_BCHW, phi_BHW, config.alpha, step.random)
    return mixed_BCHW, weights_BB @ F.one_hot(labels_B, classes).to(weights_BB.dtype)


def saliency_pass(config: Config, network: classifiers.Classifier, step: Step) -> tuple[Tensor, Tensor, Tensor]:
    """Saliency phi (B, H, W) of the clean images, the loss it is the gradient of, and their logits (B, K)."""
    x_BCHW = step.x_BCHW.detach().requires_grad_()
    with batch_norm_mode(network, config.saliency_mode):
        logits_BK = logits_of(config, network, x_BCHW)
        if config.saliency_of == "training" and config.loss == "bce":
            clean = binary_cross_entropy(
                logits_BK, mixed_labels(step.labels_B, step.partner_B, 1.0, logits_BK.shape[1])
            )
        else:
            clean = saliency_loss(logits_BK, step.labels_B)
    (gradient_BCHW,) = torch.autograd.grad(clean, x_BCHW, retain_graph=config.clean_weight > 0)
    return saliency(gradient_BCHW.float()), clean, logits_BK.detach()


def _without_network(config: Config, step: Step) -> tuple[Tensor, Tensor | float]:
    """Mixed images, and the weight of an image's own label."""
    x_BCHW, partner_B, random = step.x_BCHW, step.partner_B, step.random
    if config.mix in ("vanilla", "rmix", "manifold") or not step.mixed:
        return x_BCHW, 1.0
    if config.mix == "mixup":
        return mixes.mixup(x_BCHW, partner_B, step.lam_B.view(-1, 1, 1, 1)), step.lam_B.view(-1, 1)
    if config.mix == "cutmix" and config.box == "real":
        size = (x_BCHW.shape[2], x_BCHW.shape[3])
        return mixes.cutmix(x_BCHW, partner_B, mixes.real_box(step.lam, tuple(random.random(2) * size), size))
    return mixes.by_hand(config.mix, x_BCHW, partner_B, step.lam, config.alpha, random)


def logits_of(
    config: Config,
    network: classifiers.Classifier,
    x_BCHW: Tensor,
    mixing: classifiers.Mixing | None = None,
    after: int = 0,
) -> Tensor:
    """The network's outputs (B, K) in single precision, whatever it computes in."""
    with torch.autocast(x_BCHW.device.type, torch.bfloat16, enabled=config.precision == "bf16"):
        logits_BK: Tensor = network(x_BCHW, mixing, after)
    return logits_BK.float()


@contextlib.contextmanager
def batch_norm_mode(network: nn.Module, mode: Literal["train", "eval", "frozen"]) -> Iterator[None]:
    """While inside, batch norms of a network in training: as they are; by running statistics; without updating them."""
    norms = [part for part in network.modules() if isinstance(part, nn.BatchNorm2d)]
    try:
        for norm in norms:
            norm.training = mode != "eval"
            norm.track_running_stats = mode != "frozen"
        yield
    finally:
        for norm in norms:
            norm.training, norm.track_running_stats = True, True


# Training


def train(config: Config, data: Data, *, seed: int, device: str, resume: State | None = None) -> Iterator[Epoch]:
    """Trains a classifier and yields after every epoch; see `trainables.protocol`.

    The final state rebuilds the network: `classifiers.rebuild(state["network"], state["weights"])`.

    Raises:
        ConfigError: a batch larger than the training set; patches that do not divide the images' sides; PyMaxflow is
            wanted and not installed.
        Diverged: a loss or weight is no longer finite.
    """
    if config.mix in _BY_GRAPH_CUT:
        graphcuts.require_package(config.mix)
    pixels_NHWC, labels_N = loop.resident(data, config.batch, device)
    check_images(config, pixels_NHWC.shape[1:])
    classes, steps = len(data.classes), len(labels_N) // config.batch
    init = seeding.torch_stream(seed, "init")
    network = classifiers.classifier(config.network, config.width, pixels_NHWC.shape[3], classes, init).to(device)
    if config.channels_last:
        network.to(memory_format=torch.channels_last)
    optimizer = optimizer_of(config, network, device)
    done, best = 0, {}
    if resume is not None:
        done, best = resume["epoch"], dict(resume["best"])
        network.load_state_dict(resume["weights"])
        optimizer.load_state_dict(resume["optimizer"])
    for epoch in range(done, config.epochs):
        totals = loop.Totals()
        network.train()
        for s, step in enumerate(batches(config, data, pixels_NHWC, labels_N, seed, epoch)):
            set_rates(config, optimizer, epoch, s, steps)
            with totals.step(device):
                terms = step_loss(config, network, step, classes)
                optimizer.zero_grad(set_to_none=True)
                terms["loss"].backward()
                optimizer.step()
            totals.add(terms)
        metrics = totals.means(network, epoch + 1)
        last = epoch + 1 == config.epochs
        if last or (config.evaluate_every and (epoch + 1) % config.evaluate_every == 0):
            metrics |= evaluate(config, network, data, device, attack=last)
            best = {name: max(metrics[name], best.get(name, 0.0)) for name in ("accuracy", "accuracy_top5")}
            metrics |= {f"{name}_best": value for name, value in best.items()}
        yield Epoch(epoch + 1, metrics, loop.captured(epoch + 1, network, optimizer, best=best))


def batches(config: Config, data: Data, pixels_NHWC: Tensor, labels_N: Tensor, seed: int, epoch: int) -> Iterator[Step]:
    """The batches of the epoch with index `epoch`: views of their images, and what is drawn for them."""
    device = str(pixels_NHWC.device)
    draws = draw(config, seed, epoch, len(labels_N), device)
    random = seeding.torch_stream(seed, f"augment/{epoch}", device)
    views = augment.Settings(crop=config.crop < 1, crop_scale=config.crop, padding=config.padding, flip=config.flip)
    colours = constants(config, data)
    for s, order_B in enumerate(draws.order_SB):
        x_BCHW = augment.normalise(augment.view(pixels_NHWC[order_B], views, random), *colours)
        if config.channels_last:
            x_BCHW = x_BCHW.contiguous(memory_format=torch.channels_last)
        drawn = (draws.partner_SB[s], draws.q_SB[s], draws.lam_SB[s], float(draws.lam_S[s]))
        host = seeding.numpy_stream(seed, f"mix/{epoch}/{s}")
        p = draws.p_S[s] if config.patch_unit == "per_side" else x_BCHW.shape[2] // draws.p_S[s]
        yield Step(x_BCHW, labels_N[order_B], *drawn, p, draws.mixed_S[s], host, colours[1])


def constants(config: Config, data: Data) -> tuple[Sequence[float], Sequence[float]]:
    """Mean and standard deviation of each channel, for normalisation."""
    return (RELEASED_MEAN, RELEASED_STD) if config.colour == "released" else (data.mean, data.std)


def check_images(config: Config, shape: Sequence[int]) -> None:
    """Checks a config against images of that shape (H, W, C).

    Raises:
        ConfigError: patches or grids that do not divide the sides; constants for other channels.
    """
    height, width, channels = shape
    for p in config.patches if config.mix == "rmix" else ():
        if height % p or width % p:
            divisors = ", ".join(str(n) for n in range(1, height + 1) if height % n == 0 and width % n == 0)
            raise ConfigError(
                f"patches={config.patches!r} is not allowed: {p} does not divide images of {height} x {width} pixels. "
                f"Set patches to numbers among {divisors}, or another side of the images."
            )
    if config.mix == "puzzlemix":
        puzzlemix.check_images(puzzlemix.SETTINGS, height, width)
    if config.mix == "comixup":
        comixup.check_images(comixup.SETTINGS, height, width)
    if config.colour == "released" and channels != len(RELEASED_MEAN):
        raise ConfigError(
            f"colour='released' is not allowed: its constants are for {len(RELEASED_MEAN)} channels, and these images "
            f"have {channels}. Set colour to 'protocol'."
        )


def optimizer_of(config: Config, network: nn.Module, device: str) -> torch.optim.Optimizer:
    """SGD over all weights, with or without decay of batch norms."""
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for part in network.modules():
        spared = isinstance(part, nn.BatchNorm2d) and not config.decay_norms
        (plain if spared else decayed).extend(part.parameters(recurse=False))
    groups: list[dict[str, Any]] = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    return torch.optim.SGD(
        [group for group in groups if group["params"]],
        lr=config.learning_rate,
        momentum=0.9,  # any but 0, which Nesterov's form refuses: every step sets its own, see `set_rates`
        nesterov=config.nesterov,
        **loop.fused(device),
    )


def set_rates(config: Config, optimizer: torch.optim.Optimizer, epoch: int, s: int, steps: int) -> None:
    """Learning rate and momentum of step s of an epoch of so many steps."""
    momentum = config.momentum
    if config.schedule == "one_cycle":
        step, total = epoch * steps + s, config.epochs * steps
        rate = schedules.one_cycle(step, total, config.learning_rate, end_divisor=config.end_divisor)
        momentum = schedules.one_cycle_momentum(step, total) if config.cycle_momentum else momentum
    elif config.schedule == "multi_step":
        rate = schedules.multi_step(epoch, config.learning_rate, config.milestones)
    else:
        rate = schedules.imagenet_fast((epoch + s / steps) * 100 / config.epochs)
    for group in optimizer.param_groups:
        group["lr"], group["momentum"] = rate, momentum


def evaluate(
    config: Config, network: classifiers.Classifier, data: Data, device: str, *, attack: bool
) -> dict[str, float]:
    """How the network does on the test images as it is; with `attack`, by FGSM too."""
    mean, std = constants(config, data)
    with openset.evaluation_mode(network), loop.repeatable(device):
        metrics = classification.evaluate(network, data, mean, std, device=device)
        if attack:
            metrics["fgsm_error"] = classification.fgsm_error(network, data, mean, std, device=device)
    return metrics
