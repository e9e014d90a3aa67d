"""GradMix: find the region that a contrastive loss already draws on, patch it over, and ask for the same embedding.

Paper: Informed Mixing - Improving Open Set Recognition via Attribution-based Augmentation (GradMix), Xu, Kao, Keuper,
arXiv 2505.12803 (body without appendix): Eq 1-3 and 8 (losses, `trainables.contrastive`), Eq 4-7 (maps), section 4.
Repositories: R1 = gawainxu/comprehensive_osr@d18b920, R2 = gawainxu/GradMix@b4f2ece. In the fields below [P] is printed
in the paper, [C] is read in their code, [D] is our decision. `PAPER` and `RELEASED` are the two readings as profiles.

Symbols: theta, lam = lambda, tau = temperature, g = gamma (patch side ratio), w = weight of L_mix, sigma = sign,
A = activation, G = dL/dA.

    L = theta L_supcon + lam (L_simclr + w L_mix)                                                            (Eq 8)

Deviations:
1. The map's gradients come from the graph of the training loss (one pass, `autograd.grad`). R1 and R2 run a second
   forward and backward pass, which updates batch norm twice and, in R2's main loop, leaks gradients into the update.
2. Maps belong to the batch in hand, as in the code; the paper's "after each epoch" cannot be aligned with random crops.
3. L_supcon is SupCon's L_out by default, as in the code; Eq 2 as printed is `supcon_form="eq2"`.
4. Patches are resized by an antialiased bilinear kernel written as two matrix products over the whole batch.
5. Mixup and CutMix always mix both views, each with the other view of the partner, as in the code.
6. Where lambda or a constant w is 0 the mixed views are not made at all, so batch norm does not see them.
7. MoCo has one query view, so only that is patched. Shuffling a batch between devices means nothing on one device and
   is left out. Its maps are those of `layers` (the code: always conv4_2); profile `MOCO`.
8. The last epoch is evaluated, and no epoch is chosen by its test score (the feature files of R1 are of many epochs).
9. Random placement (`map="random"`, and the steps between maps) is uniform over pixels under the same border rule.
10. w is of what is drawn: g**2, 1 - a, or lam of Mixup and CutMix. In the code the sides are cut to whole pixels first.
    CutMix's box is each view's own and of any side; in the code both views have one, and an odd side loses a pixel.

Cost of a step, in forward passes of the 2N views: 3 without mixing, 6 with it at conv5_2 (the released code: 9); at
conv4_2 and conv3_2 the backward pass through the later stages comes on top. Expected AUROC, [P] Table 2: MNIST 99.8,
SVHN 94.7, CIFAR10 91.33, CIFAR+10 98.62, CIFAR+50 97.64, TinyImageNet 81.92.

Shapes: N images, B = 2N views (all first ones, then all second ones), S steps, C channels, H rows, W columns.
"""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from trainables import attribution, augment, backbones, contrastive, loop, openset, patches, schedules, seeding
from trainables.config import check_types, require
from trainables.datasets import Data
from trainables.protocol import Epoch, State

Layer = Literal["conv2_2", "conv3_2", "conv4_2", "conv5_2"]


@dataclass(frozen=True, kw_only=True)
class Config:
    """What can be varied. Defaults are `PAPER`; [P] printed in the paper, [C] read in the authors' code, [D] ours."""

    # Network and optimisation
    network: Literal["resnet18", "resnet34", "resnet50"] = "resnet18"
    """Encoder with the CIFAR stem, for all image sizes. [C] R1 networks; the paper says ResNet18."""
    width: int = 64
    """Channels of the first stage; the others have 2, 4, 8 times as many. [C] 64."""
    head: Literal["mlp", "linear"] = "mlp"
    """Projection head: D to D, ReLU, to 128; or D to 128 ([C] for MoCo)."""
    epochs: int = 600
    """[C] 600-800 for CIFAR-10; 600 by [D]. With two stages, the length of the first."""
    batch: int = 256
    """Images per step, two views each. [P] section 4.5, [C]."""
    learning_rate: float = 1e-3
    """Adam's. [C]"""
    schedule: Literal["cosine", "steps"] = "cosine"
    """[C] cosine of each epoch; steps: a tenth after each of `milestones`."""
    learning_rate_decay: float = 0.8
    """r: the cosine schedule ends near learning_rate * r**3. [C] 0.8."""
    milestones: tuple[int, ...] = (120, 160)
    """Epochs, counted from 0, after which the steps schedule drops, [C]. MoCo v1 drops at them: an epoch earlier."""
    optimizer: Literal["adam", "sgd"] = "adam"
    """[C] Adam without weight decay (the parsed 1e-4 is never passed). SGD is SupContrast's own default."""
    momentum: float = 0.9
    """For SGD only. SupContrast's default."""
    weight_decay: float = 0.0
    """[C] 0."""
    stages: Literal["single", "two"] = "single"
    """[P] one objective, Eq 8. [C] on CIFAR a long stage of self-supervision, then `final_epochs` of Eq 8 with a fresh
    optimiser and schedule."""
    first_theta: float = 0.0
    """theta of the first of two stages. [C] 0."""
    first_lam: float = 1.0
    """lambda of the first of two stages. [C] 1."""
    final_epochs: int = 10
    """Length of the second of two stages. [C] 10."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Forward and backward passes of the network; losses and maps are always fp32. [C] fp32."""
    channels_last: bool = False
    """Memory layout on the device."""
    compile: bool = False
    """torch.compile the stages of the encoder."""

    # Augmentation of the two views
    crop: bool = True
    """RandomResizedCrop(scale crop_scale to 1). [P] "standard SimCLR"; R1 has it commented out, R2 has it after the
    colours are changed."""
    crop_scale: float = 0.2
    """Smallest area of the crop. SupContrast 0.2."""
    flip: bool = True
    """Horizontal flip, p = 0.5. [P], also on SVHN."""
    jitter: float = 0.8
    """Probability of ColorJitter(0.4, 0.4, 0.4, 0.1). SupContrast 0.8."""
    grayscale: float = 0.2
    """Probability of grey. SupContrast 0.2."""
    blur: float = 0.0
    """Probability of GaussianBlur(3). [C] only in an older file."""
    rotation: float = 0.0
    """Rotation by up to so many degrees. [P] 5 on MNIST, and there nothing else."""

    # Losses
    theta: float = 1.0
    """Weight of L_supcon in Eq 3. [C] 1; not printed in the paper."""
    lam: float = 1.2
    """lambda, weight of L_simclr (and of the mix term in it) in Eq 3 and 8. [C] 1.2; not printed."""
    temperature: float = 0.05
    """tau of both losses. [C] 0.05."""
    base_temperature: float | None = None
    """Multiplies the losses by tau / base_temperature. [C] 0.07; none by [D]: Adam does not see it, maps do."""
    supcon_form: Literal["out", "eq2", "eq2_pos", "in"] = "out"
    """Denominator of L_supcon. [C] out (SupContrast's L_out); [P] Eq 2 prints negatives only."""

    # The mix term
    mix: Literal["none", "mixup", "cutmix", "gradmix"] = "gradmix"
    """Which augmentation makes the mixed views. none = Eq 3."""
    mix_alpha: float = 1.0
    """Beta(alpha, alpha) of Mixup and CutMix, as in their papers. Levels not in the text; {0.1, 1, 10} by [D]; [C] has
    Beta(0.1, 0.1), Beta(1, 1) and Beta(10, 0.3)."""
    mix_form: Literal["infonce", "clean_all", "mixed_batch"] = "infonce"
    """L_mix; [P] Eq 1 on mixed embeddings = infonce; [C] clean_all."""
    mix_weight: Literal["area", "one_minus_area", "effective", "constant"] = "area"
    """w. area = g**2, nominal [P]; one_minus_area = 1 - a [C]; effective = the area of each patch as cut at the margin.
    Mixup and CutMix weigh by their draw's lam under both of the first two, as [C]; they have no effective area."""
    mix_weight_value: float = 0.1033
    """w when mix_weight = "constant". 0.1033 = E g**2 for g ~ U(0.1, 0.5): the matched-weight rerun of E3 [D]."""
    mix_supcon: bool = False
    """Adds w times the mix term to L_supcon too, its positives the mixed views of the anchor's class. [C] an option."""
    map: Literal["layercam", "gradcam", "activation", "random"] = "layercam"
    """What decides where the patch goes. [P] layercam; activation and random are gradient-free controls [D]."""
    layers: tuple[Layer, ...] = ("conv5_2",)
    """Last blocks of the ResNet stages that give the map. [P] conv5_2 in one ablation; not stated elsewhere."""
    sign: Literal[1, -1] = 1
    """sigma: +dL/dA as in Eq 5-6 and the code; -1 asks for what lowers the loss."""
    map_loss: Literal["simclr", "eq3"] = "simclr"
    """Loss whose gradient gives the map. [C] L_simclr alone; [P] "the loss function used during training"."""
    map_every: int = 1
    """A map every so many steps; on the others the patch is placed at random. [C] 1; [P] "after each epoch"."""
    map_mode: Literal["train", "eval"] = "train"
    """Batch norm mode of the map's pass. [C] train: the clean graph itself; eval costs a pass of its own."""
    aggregation: Literal["batch_minmax_sum", "raw_sum", "per_image"] = "batch_minmax_sum"
    """How maps of several layers are added. R2 batch_minmax_sum; R1 raw_sum; the paper's A.2 is missing."""
    grid: Literal["upsampled", "lowres", "corner"] = "upsampled"
    """Where the argmax is taken: on the upsampled map, or a low-resolution cell's centre or top-left corner ([C] of
    Grad-CAM)."""
    tie: Literal["first", "centre"] = "first"
    """Of tied maxima: the first in row-major order, or the mean of their positions."""
    size_law: Literal["side", "area"] = "side"
    """g ~ U(size_range) is the patch's side ratio [P], or its area ratio [C]."""
    size_range: tuple[float, float] = (0.1, 0.5)
    """[P] gamma_min, gamma_max."""
    size_per_sample: bool = False
    """One g per batch [C], or one per image."""
    border: Literal["clip", "shift", "halves"] = "clip"
    """Patches over the margin are cut, or moved inside ([P]: they do not "exceed the image margins"). halves: cut, and
    of side 2 (s // 2), so that an odd s loses a pixel [C]."""
    content: Literal["image", "noise"] = "image"
    """A resized image of the batch [P], or one plane of uniform noise for all channels [C]."""
    views: Literal[1, 2] = 2
    """How many views GradMix patches; the other enters the mixed batch as it is. [P] silent; [C] view 1 only."""
    partner: Literal["other", "same"] = "other"
    """The patch comes from the partner image's other view [C] or from the same view."""

    # Self-supervised framework
    ssl: Literal["simclr", "moco"] = "simclr"
    """[P] SimCLR for open-set recognition; SimCLR and MoCo in section 4.5."""
    moco_queue: int = 8192
    """[C] 8192 (the paper's 8196 is a misprint)."""
    moco_momentum: float = 0.999
    """[P], [C]."""
    moco_mix: Literal["query", "full"] = "query"
    """Mixed query, clean key, queue untouched [D]; or a full second MoCo step on the mixed batch [C]."""

    # Open-set evaluation
    k: int = 10
    """Neighbours per class in Algorithm 1. [P] 10 in the ablations; [C] mostly 3."""
    score: Literal["raw", "normalised"] = "raw"
    """max_c G_c [P, Algorithm 1], or divided by sum_c G_c [C]."""
    feature: Literal["head", "backbone"] = "head"
    """128-d head output [C], or the encoder's pooled features."""
    evaluate_every: int = 0
    """Epochs between evaluations; 0: after the last epoch only. No test-set selection is made either way [D]."""
    intrinsic_dimension: bool = True
    """Also report TwoNN of the head features of the training images [P] section 4.1."""
    linear_probe: bool = False
    """Also report a linear classifier's accuracy on the backbone features: the second column of a closed set [D]."""

    def __post_init__(self) -> None:
        check_types(self)
        _check_training(self)
        _check_mixing(self)
        if self.ssl == "moco":
            _check_moco(self)


def _check_training(config: Config) -> None:
    for field in ("width", "epochs", "batch", "final_epochs", "map_every", "moco_queue", "k"):
        require(getattr(config, field) >= 1, config, field, "at least 1")
    require(config.ssl == "moco" or config.batch >= 2, config, "batch", "at least 2: an image alone has no negatives")
    for field in ("temperature", "mix_alpha", "learning_rate"):
        require(0 < getattr(config, field) < float("inf"), config, field, "above 0 and finite")
    for field in ("theta", "lam", "first_theta", "first_lam", "weight_decay", "mix_weight_value"):
        require(0 <= getattr(config, field) < float("inf"), config, field, "at least 0 and finite")
    for field in ("jitter", "grayscale", "blur"):
        require(0 <= getattr(config, field) <= 1, config, field, "a probability, between 0 and 1")
    base = config.base_temperature
    require(base is None or 0 < base < float("inf"), config, "base_temperature", "above 0 and finite, or none")
    require(0 < config.learning_rate_decay <= 1, config, "learning_rate_decay", "above 0 and at most 1")
    require(0 <= config.momentum < 1, config, "momentum", "at least 0 and below 1")
    require(0 <= config.moco_momentum <= 1, config, "moco_momentum", "between 0 and 1")
    require(0 < config.crop_scale <= 1, config, "crop_scale", "above 0 and at most 1")
    require(0 <= config.rotation <= 180, config, "rotation", "between 0 and 180 degrees")
    rising = all(first < second for first, second in zip(config.milestones, config.milestones[1:], strict=False))
    require(rising and min(config.milestones, default=0) >= 0, config, "milestones", "rising epochs, from 0")
    require(config.evaluate_every >= 0, config, "evaluate_every", "at least 0")
    require(config.theta + config.lam > 0, config, "theta", "above 0 where lam is 0: nothing is left to train on")
    first = config.first_theta + config.first_lam
    require(config.stages == "single" or first > 0, config, "first_theta", "above 0 where first_lam is 0")


def _check_mixing(config: Config) -> None:
    low, high = config.size_range
    require(0 < low <= high <= 1, config, "size_range", "two ratios with 0 < smallest <= largest <= 1")
    require(bool(config.layers) or config.map == "random", config, "layers", "at least one layer")
    require(len(set(config.layers)) == len(config.layers), config, "layers", "different layers")
    shared = "one that needs no patch: mixup and cutmix have no patch cut at the margin"
    require(config.mix in ("none", "gradmix") or config.mix_weight != "effective", config, "mix_weight", shared)
    simclr = config.lam > 0 and (config.stages == "single" or config.first_lam > 0)
    alone = "false where lam or first_lam is 0: without L_simclr no mixed views are made"
    require(simclr or not config.mix_supcon, config, "mix_supcon", alone)


def _check_moco(config: Config) -> None:
    supervised = "0 with ssl='moco', which has no supervised term"
    require(config.theta == 0, config, "theta", supervised)
    require(config.stages == "single", config, "stages", "'single' with ssl='moco'")
    require(
        config.map_loss == "simclr", config, "map_loss", "'simclr', which stands for MoCo's own loss, with ssl='moco'"
    )
    require(
        config.mix_form == "infonce", config, "mix_form", "'infonce' with ssl='moco', whose negatives are its queue"
    )
    require(not config.mix_supcon, config, "mix_supcon", supervised)
    require(config.mix != "gradmix" or config.views == 1, config, "views", "1 with ssl='moco': the key view has no map")
    require(config.moco_queue >= config.batch, config, "moco_queue", "at least as long as a batch")


PAPER = Config()
"""The paper's text; what it leaves open as in the code, and what both leave open by our decision."""

RELEASED = Config(
    size_law="area",
    mix_weight="one_minus_area",
    border="halves",
    content="noise",
    views=1,
    mix_form="clean_all",
    base_temperature=0.07,
    layers=("conv4_2", "conv5_2"),
    stages="two",
    score="normalised",
    k=3,
)
"""The released code, for a parity run. R2 where the two differ: R1's scripts have conv3_2 and conv4_2, and R1 adds maps
by `raw_sum` and does not crop."""

MOCO = replace(
    PAPER,
    ssl="moco",
    head="linear",
    epochs=200,
    optimizer="sgd",
    learning_rate=0.03,
    weight_decay=1e-4,
    schedule="steps",
    theta=0.0,
    lam=1.0,
    layers=("conv4_2",),
    views=1,
)
"""Section 4.5 with MoCo. Queue, momentum, head, layer and schedule [C]; SGD as in MoCo v1 [D], where they have Adam."""


# What an epoch draws beforehand: on the CPU, so alike on every device, and moved in one go


@dataclass(frozen=True)
class Draws:
    """Random numbers of an epoch's S steps. Each has a stream of its own, so two arms share all that both use."""

    order_SN: Tensor
    """Images of each step."""
    partner_SN: Tensor
    """pi: each image's partner within the step; may be itself."""
    share_SN: Tensor
    """w of each image, before `mix_weight` asks for a constant or the effective area; Mixup's lam."""
    sides_SN2: Tensor
    """Rows and columns of each patch, pixels."""
    place_SB2: Tensor
    """Uniform in [0, 1): where patches go that no map places."""


def draw(config: Config, seed: int, epoch: int, images: int, size: tuple[int, int], device: str) -> Draws:
    """The draws of the epoch with index `epoch`, from 0."""

    def stream(name: str) -> torch.Generator:
        return seeding.torch_stream(seed, f"{name}/{epoch}")

    n = config.batch
    steps = images // n
    order_SN = torch.randperm(images, generator=stream("order"))[: steps * n].view(steps, n)
    partner_SN = torch.rand(steps, n, generator=stream("partner")).argsort(1)
    ratio_SN, share_SN = _ratios(config, seed, epoch, steps)
    law = config.size_law if config.mix == "gradmix" else "area"
    sides_SN2 = torch.stack([patches.patch_side(ratio_SN, law, extent) for extent in size], 2)
    place_SB2 = torch.rand(steps, 2 * n, 2, generator=stream("place"))
    drawn = (order_SN, partner_SN, share_SN, sides_SN2, place_SB2)
    return Draws(*(values.to(device, non_blocking=True) for values in drawn))


def _ratios(config: Config, seed: int, epoch: int, steps: int) -> tuple[Tensor, Tensor]:
    """Size ratios (float64) and weights (float32) of patches, each (S, N); of Mixup, lam is the weight."""
    rng = seeding.numpy_stream(seed, f"size/{epoch}")
    shape = (steps, config.batch if config.size_per_sample and config.mix == "gradmix" else 1)
    if config.mix == "gradmix":
        ratio = rng.uniform(*config.size_range, shape)
        covered = ratio**2 if config.size_law == "side" else ratio
        share = 1 - covered if config.mix_weight == "one_minus_area" else covered
    else:
        lam = rng.beta(config.mix_alpha, config.mix_alpha, shape)
        while config.mix == "cutmix" and (outside := (lam < 0.1) | (lam > 0.9)).any():
            lam[outside] = rng.beta(config.mix_alpha, config.mix_alpha, int(outside.sum()))
        ratio, share = 1 - lam, lam
    ratio_SN, share_SN = torch.from_numpy(ratio), torch.from_numpy(share).float()
    return ratio_SN.expand(steps, config.batch), share_SN.expand(steps, config.batch)


# Training


@dataclass(frozen=True)
class Stage:
    """Epochs first..first + epochs - 1 (from 0), trained with one objective, optimiser and schedule."""

    theta: float
    lam: float
    first: int
    epochs: int


def stages(config: Config) -> tuple[Stage, ...]:
    """One stage (the paper's Eq 8), or a self-supervised one before it (the code)."""
    if config.stages == "single":
        return (Stage(config.theta, config.lam, 0, config.epochs),)
    return (
        Stage(config.first_theta, config.first_lam, 0, config.epochs),
        Stage(config.theta, config.lam, config.epochs, config.final_epochs),
    )


@dataclass
class Moco:
    """What MoCo keeps besides the query network: the key network, the queue of keys, and where the next ones go."""

    network: backbones.Projected
    queue_KD: Tensor
    pointer: int = 0

    @torch.no_grad()
    def keys(self, query: backbones.Projected, x_NCHW: Tensor, config: Config) -> Tensor:
        """Moves the key network towards the query network and embeds the key views with it."""
        mine: list[Tensor] = list(self.network.parameters())
        theirs: list[Tensor] = list(query.parameters())
        torch._foreach_lerp_(mine, theirs, 1 - config.moco_momentum)
        return embed(self.network, x_NCHW, config)[0]

    def enqueue(self, keys_ND: Tensor) -> None:
        """Replaces the oldest keys. Out of place: the losses of this step still need the queue as it was."""
        place_N = (torch.arange(len(keys_ND), device=keys_ND.device) + self.pointer) % len(self.queue_KD)
        self.queue_KD = self.queue_KD.index_copy(0, place_N, keys_ND)
        self.pointer = (self.pointer + len(keys_ND)) % len(self.queue_KD)

    def state(self) -> State:
        """Its part of a trial's state; `_load` takes it back."""
        return {"keys": self.network.state_dict(), "queue": self.queue_KD, "pointer": self.pointer}


def embed(network: backbones.Projected, x_BCHW: Tensor, config: Config) -> tuple[Tensor, dict[str, Tensor]]:
    """Unit embeddings (B, 128) in fp32 and the encoder's activations."""
    if config.channels_last:
        x_BCHW = x_BCHW.contiguous(memory_format=torch.channels_last)
    with torch.autocast(x_BCHW.device.type, dtype=torch.bfloat16, enabled=config.precision == "bf16"):
        out_BD, _, activations = network(x_BCHW)
    return F.normalize(out_BD.float(), dim=1), activations


@dataclass(frozen=True)
class Step:
    """One step's inputs: normalised views, labels, the draws of this step, and where noise comes from."""

    x_BCHW: Tensor
    labels_N: Tensor
    partner_N: Tensor
    share_N: Tensor
    sides_N2: Tensor
    place_B2: Tensor
    noise: torch.Generator
    mapped: bool
    """Whether a map places this step's patches (`map_every`)."""


def places(config: Config, step: Step, loss: Tensor, activations: Mapping[str, Tensor]) -> Tensor:
    """Centres (B, 2) of GradMix's patches: where the maps of `loss`, whose graph stays usable, peak; or random ones."""
    size = (step.x_BCHW.shape[2], step.x_BCHW.shape[3])
    if not _maps(config, step):
        rows_B, columns_B = step.place_B2.unbind(1)
        return torch.stack([rows_B * size[0], columns_B * size[1]], 1).long()
    layers = [activations[layer] for layer in config.layers]
    with torch.no_grad():
        if config.map == "activation":
            maps = [attribution.activation_map(A_BKhw.float()) for A_BKhw in layers]
        else:
            cam = attribution.layercam if config.map == "layercam" else attribution.gradcam
            gradients = torch.autograd.grad(loss, layers, retain_graph=True)
            maps = [cam(A.float(), G.float(), config.sign) for A, G in zip(layers, gradients, strict=True)]
        return attribution.locate(maps, config.aggregation, config.grid, config.tie, size)


@torch.no_grad()
def mixed(config: Config, step: Step, centres_B2: Tensor) -> tuple[Tensor, Tensor]:
    """The mixed views (B, C, H, W) and w of each (B,).

    Args:
        config: how to mix.
        step: inputs.
        centres_B2: where GradMix's patches go; at least those of the views that it patches.
    """
    x_BCHW, count = step.x_BCHW, len(step.partner_N)
    size = (x_BCHW.shape[2], x_BCHW.shape[3])
    weights_B = step.share_N.repeat(2)
    other_BCHW = x_BCHW[_partners(step.partner_N, "other" if config.mix != "gradmix" else config.partner)]
    sides_B2 = step.sides_N2.repeat(2, 1)
    if config.mix == "mixup":
        lam_B111 = weights_B.view(-1, 1, 1, 1)
        mixed_BCHW = lam_B111 * x_BCHW + (1 - lam_B111) * other_BCHW
    elif config.mix == "cutmix":
        mixed_BCHW = patches.paste(x_BCHW, other_BCHW, patches.inner_boxes(step.place_B2, sides_B2, size))
    else:
        patched = count * config.views
        box_B4 = patches.boxes(centres_B2[:patched], sides_B2[:patched], size, config.border)
        target_BCHW = x_BCHW[:patched]
        if config.content == "noise":
            plane_B1HW = torch.rand((patched, 1, *size), generator=step.noise, device=x_BCHW.device)
            mixed_BCHW = patches.fill(target_BCHW, plane_B1HW, box_B4)
        else:
            mixed_BCHW = patches.paste(target_BCHW, other_BCHW[:patched], box_B4)
        mixed_BCHW = torch.cat([mixed_BCHW, x_BCHW[patched:]])
        if config.mix_weight == "effective":
            weights_B = F.pad(patches.area(box_B4, size), (0, len(x_BCHW) - patched))
    if config.mix_weight == "constant":
        weights_B = torch.full_like(weights_B, config.mix_weight_value)
    return mixed_BCHW, weights_B


def _partners(partner_N: Tensor, view: str) -> Tensor:
    """Rows (B,) of the partners' views: pi's other view, or its same view."""
    count = len(partner_N)
    first_N, second_N = partner_N, partner_N + count
    return torch.cat([second_N, first_N] if view == "other" else [first_N, second_N])


def mixes(config: Config, stage: Stage) -> bool:
    """Whether a stage has a mix term at all."""
    weightless = config.mix_weight == "constant" and config.mix_weight_value == 0
    return config.mix != "none" and stage.lam > 0 and not weightless


def clean_losses(config: Config, stage: Stage, z_BD: Tensor, labels_N: Tensor) -> dict[str, Tensor]:
    """Eq 3 of clean embeddings as 'loss', with the terms that its weights do not put out."""
    scale, terms = _scale(config), {}
    parts = []
    if stage.theta > 0:
        terms["loss_supcon"] = scale * contrastive.supcon(z_BD, labels_N, config.temperature, config.supcon_form)
        parts.append(stage.theta * terms["loss_supcon"])
    if stage.lam > 0:
        terms["loss_simclr"] = scale * contrastive.simclr(z_BD, config.temperature)
        parts.append(stage.lam * terms["loss_simclr"])
    return {"loss": torch.stack(parts).sum()} | terms


def contrastive_losses(config: Config, stage: Stage, network: backbones.Projected, step: Step) -> dict[str, Tensor]:
    """The terms of Eq 8 for one batch of SimCLR views. 'loss' is their weighted sum."""
    tau, scale = config.temperature, _scale(config)
    z_BD, activations = embed(network, step.x_BCHW, config)
    terms = clean_losses(config, stage, z_BD, step.labels_N)
    loss = terms["loss"]
    if mixes(config, stage):
        map_terms = terms
        if config.map_mode == "eval" and _maps(config, step):
            mapped_BD, activations = _embed_evaluated(config, network, step.x_BCHW)
            map_terms = clean_losses(config, stage, mapped_BD, step.labels_N)
        map_loss = map_terms["loss" if config.map_loss == "eq3" else "loss_simclr"]
        centres_B2 = places(config, step, map_loss, activations)
        mixed_BCHW, weights_B = mixed(config, step, centres_B2)
        mixed_BD, _ = embed(network, mixed_BCHW, config)
        per_sample_B = scale * contrastive.mix(z_BD, mixed_BD, tau, config.mix_form)
        loss = loss + stage.lam * (weights_B * per_sample_B).mean()
        terms["loss_mix"] = per_sample_B.mean()
        if config.mix_supcon and stage.theta > 0:
            added = contrastive.mix_supcon(z_BD, mixed_BD, step.labels_N, weights_B, tau, config.mix_form)
            loss = loss + stage.theta * scale * added
    return terms | {"loss": loss}


def _scale(config: Config) -> float:
    return 1.0 if config.base_temperature is None else config.temperature / config.base_temperature


def _maps(config: Config, step: Step) -> bool:
    """Whether this step's patches go where maps say."""
    return config.mix == "gradmix" and config.map != "random" and step.mapped


def _embed_evaluated(config: Config, network: backbones.Projected, x_BCHW: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """`embed` in eval mode, for the map alone: batch norm uses its running statistics and leaves them as they are."""
    network.eval()
    try:
        return embed(network, x_BCHW, config)
    finally:
        network.train()


def moco_losses(
    config: Config, stage: Stage, network: backbones.Projected, moco: Moco, step: Step
) -> dict[str, Tensor]:
    """The same with MoCo in SimCLR's place: first views are queries, second ones keys. Only queries carry gradients."""
    tau, scale = config.temperature, _scale(config)
    query_NCHW, key_NCHW = step.x_BCHW.chunk(2)
    query_ND, activations = embed(network, query_NCHW, config)
    keys_ND, queue_KD = moco.keys(network, key_NCHW, config), moco.queue_KD
    simclr = map_loss = scale * contrastive.infonce(query_ND, keys_ND, queue_KD, tau).mean()
    moco.enqueue(keys_ND)
    terms = {"loss": stage.lam * simclr, "loss_simclr": simclr}
    if not mixes(config, stage):
        return terms
    if config.map_mode == "eval" and _maps(config, step):
        mapped_ND, activations = _embed_evaluated(config, network, query_NCHW)
        map_loss = scale * contrastive.infonce(mapped_ND, keys_ND, queue_KD, tau).mean()
    centres_N2 = places(config, step, map_loss, activations)
    mixed_BCHW, weights_B = mixed(config, step, centres_N2)
    mixed_query_NCHW, mixed_key_NCHW = mixed_BCHW.chunk(2)
    mixed_ND, _ = embed(network, mixed_query_NCHW, config)
    if config.moco_mix == "full":
        keys_ND, queue_KD = moco.keys(network, mixed_key_NCHW, config), moco.queue_KD
        moco.enqueue(keys_ND)
    per_query_N = scale * contrastive.infonce(mixed_ND, keys_ND, queue_KD, tau)
    weighted = (weights_B[: len(per_query_N)] * per_query_N).mean()
    return terms | {"loss": terms["loss"] + stage.lam * weighted, "loss_mix": per_query_N.mean()}


def train(config: Config, data: Data, *, seed: int, device: str, resume: State | None = None) -> Iterator[Epoch]:
    """Trains an encoder and yields after every epoch; see `trainables.protocol`.

    The final state rebuilds the network: `backbones.rebuild(state["network"], state["weights"])`.

    Raises:
        ConfigError: a batch larger than the training set.
        Diverged: a loss or weight is no longer finite.
    """
    pixels_NHWC, labels_N = loop.resident(data, config.batch, device)
    network, moco = _networks(config, pixels_NHWC.shape[3], seed, device)
    if config.compile:
        network.encoder.compile_stages()
    optimizer, done = None, 0
    if resume is not None:
        done = resume["epoch"]
        _load(network, moco, resume)
    views = augment.Settings(**{name: getattr(config, name) for name in _VIEWS})
    size = (pixels_NHWC.shape[1], pixels_NHWC.shape[2])
    plan = stages(config)
    last = plan[-1].first + plan[-1].epochs
    for stage in plan:
        for epoch in range(max(done, stage.first), stage.first + stage.epochs):
            if optimizer is None or epoch == stage.first:
                optimizer = _optimizer(config, network, device)
                if resume is not None and epoch == done and epoch > stage.first:
                    optimizer.load_state_dict(resume["optimizer"])
            loop.set_learning_rate(optimizer, _learning_rate(config, stage, epoch))
            draws = draw(config, seed, epoch, len(labels_N), size, device)
            random = seeding.torch_stream(seed, f"augment/{epoch}", device)
            noise = seeding.torch_stream(seed, f"noise/{epoch}", device)
            totals = loop.Totals()
            network.train()
            for s, order_N in enumerate(draws.order_SN):
                x_BCHW = augment.two_views(pixels_NHWC[order_N], views, random)
                x_BCHW = augment.normalise(x_BCHW, data.mean, data.std)
                mapped = (epoch * len(draws.order_SN) + s) % config.map_every == 0
                drawn = (draws.partner_SN[s], draws.share_SN[s], draws.sides_SN2[s], draws.place_SB2[s])
                step = Step(x_BCHW, labels_N[order_N], *drawn, noise, mapped)
                with totals.step(device, compiled=config.compile):
                    if moco is not None:
                        terms = moco_losses(config, stage, network, moco, step)
                    else:
                        terms = contrastive_losses(config, stage, network, step)
                    optimizer.zero_grad(set_to_none=True)
                    terms["loss"].backward()
                    optimizer.step()
                totals.add(terms)
            metrics = totals.means(network, epoch + 1)
            if epoch + 1 == last or (config.evaluate_every and (epoch + 1) % config.evaluate_every == 0):
                metrics |= _evaluate(config, network, data, device)
            more = {} if moco is None else moco.state()
            yield Epoch(epoch + 1, metrics, loop.captured(epoch + 1, network, optimizer, **more))


_VIEWS = ("crop", "crop_scale", "flip", "jitter", "grayscale", "blur", "rotation")
"""Fields that are settings of the augmentation."""


def _networks(config: Config, channels: int, seed: int, device: str) -> tuple[backbones.Projected, Moco | None]:
    def fresh() -> backbones.Projected:
        init = seeding.torch_stream(seed, "init")
        network = backbones.projected(config.network, config.width, channels, config.head, init)
        if config.channels_last:
            network.to(memory_format=torch.channels_last)
        return network.to(device)

    if config.ssl == "simclr":
        return fresh(), None
    queue_KD = torch.randn(config.moco_queue, backbones.EMBEDDING, generator=seeding.torch_stream(seed, "queue"))
    return fresh(), Moco(fresh().requires_grad_(False).train(), F.normalize(queue_KD, dim=1).to(device))


def _optimizer(config: Config, network: backbones.Projected, device: str) -> torch.optim.Optimizer:
    options: dict[str, Any] = {"lr": config.learning_rate, "weight_decay": config.weight_decay} | loop.fused(device)
    if config.optimizer == "sgd":
        return torch.optim.SGD(network.parameters(), momentum=config.momentum, **options)
    return torch.optim.Adam(network.parameters(), **options)


def _learning_rate(config: Config, stage: Stage, epoch: int) -> float:
    if config.schedule == "steps":
        return schedules.steps(epoch - stage.first, config.learning_rate, config.milestones)
    floor = config.learning_rate * config.learning_rate_decay**3
    return schedules.cosine(epoch - stage.first, stage.epochs, config.learning_rate, floor)


def _evaluate(config: Config, network: backbones.Projected, data: Data, device: str) -> dict[str, float]:
    stance = torch.compiler.set_stance("force_eager") if config.compile else contextlib.nullcontext()
    with stance, openset.evaluation_mode(network):
        return openset.evaluate(
            network.embed,
            data,
            k=config.k,
            score=config.score,
            feature=config.feature,
            device=device,
            intrinsic_dimension=config.intrinsic_dimension,
            linear_probe=config.linear_probe,
        )


def _load(network: backbones.Projected, moco: Moco | None, state: State) -> None:
    network.load_state_dict(state["weights"])
    if moco is not None:
        moco.network.load_state_dict(state["keys"])
        moco.queue_KD = state["queue"].to(moco.queue_KD.device, copy=True)
        moco.pointer = state["pointer"]
