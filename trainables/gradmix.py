"""GradMix: patch the region a network already looks at, and train it to look elsewhere.  (body: to be written)"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from trainables.config import check_types, require
from trainables.protocol import Epoch, State

Layer = Literal["conv3_2", "conv4_2", "conv5_2"]


@dataclass(frozen=True, kw_only=True)
class Config:
    """What can be varied. Defaults are the profile `paper`; [P] printed in the paper, [C] the authors' code, [D] ours."""

    # Network and optimisation
    network: Literal["resnet18", "resnet34", "resnet50"] = "resnet18"
    """Encoder with the CIFAR stem, for all image sizes. [C] R1 networks; the paper says ResNet18."""
    width: int = 64
    """Channels of the first stage; the others have 2, 4, 8 times as many. [C] 64."""
    epochs: int = 600
    """[C] 600-800 for CIFAR-10; 600 by [D]."""
    batch: int = 256
    """Images per step, two views each. [P] section 4.5, [C]."""
    learning_rate: float = 1e-3
    """Adam's. [C]"""
    learning_rate_decay: float = 0.8
    """r: the cosine schedule ends near learning_rate * r**3. [C] 0.8."""
    optimizer: Literal["adam", "sgd"] = "adam"
    """[C] Adam without weight decay (the parsed 1e-4 is never passed). SGD is SupContrast's own default."""
    momentum: float = 0.9
    """For SGD only. SupContrast's default."""
    weight_decay: float = 0.0
    """[C] 0."""
    stages: Literal["single", "two"] = "single"
    """[P] one objective, Eq 8. [C] on CIFAR a long stage with theta = 0, then `final_epochs` of Eq 8 with a fresh Adam."""
    final_epochs: int = 10
    """Length of the second stage; used when stages = "two". [C] 10."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """[C] fp32."""
    channels_last: bool = False
    """Memory layout on the device."""
    compile: bool = False
    """torch.compile the encoder."""

    # Augmentation of the two views
    crop: bool = True
    """RandomResizedCrop(scale crop_scale to 1). [P] "standard SimCLR"; R1 has it commented out, R2 has it."""
    crop_scale: float = 0.2
    """Smallest area of the crop. SupContrast 0.2."""
    flip: bool = True
    """Horizontal flip, p = 0.5. [P], also on SVHN."""
    jitter: float = 0.8
    """Probability of ColorJitter(0.4, 0.4, 0.4, 0.1). SupContrast 0.8."""
    grayscale: float = 0.2
    """Probability of grey. SupContrast 0.2."""
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
    """Beta(alpha, alpha) of Mixup and CutMix. Levels not in the text; {0.1, 1, 10} by [D]."""
    mix_form: Literal["infonce", "clean_all", "mixed_batch"] = "infonce"
    """L_mix; [P] Eq 1 on mixed embeddings = infonce; [C] clean_all."""
    mix_weight: Literal["area", "one_minus_area", "effective", "constant"] = "area"
    """w. area = g**2, nominal [P]; one_minus_area = 1 - a [C]; effective = the clipped area of each sample. For mixup, lam of
    the draw, for cutmix 1 - area, whenever this is "area" or "one_minus_area" (as [C] weighs those arms)."""
    mix_weight_value: float = 0.1033
    """w when mix_weight = "constant". 0.1033 = E g**2 for g ~ U(0.1, 0.5): the matched-weight rerun of E3 [D]."""
    mix_supcon: bool = False
    """Adds the mix term to L_supcon too. R2 only."""
    map: Literal["layercam", "gradcam", "activation", "random"] = "layercam"
    """What decides where the patch goes. [P] layercam; activation and random are gradient-free controls [D]."""
    layers: tuple[Layer, ...] = ("conv5_2",)
    """Last blocks of the ResNet stages that give the map. [P] conv5_2 in the augmentation ablation; not stated elsewhere."""
    sign: Literal[1, -1] = 1
    """sigma: +dL/dA as in Eq 5-6 and the code; -1 asks for what lowers the loss."""
    map_loss: Literal["simclr", "eq3"] = "simclr"
    """Loss whose gradient gives the map. [C] L_simclr alone; [P] "the loss function used during training"."""
    map_every: int = 1
    """Steps between fresh maps' use: on other steps the patch is placed at random. [C] 1; [P] "after each epoch"."""
    map_mode: Literal["train", "eval"] = "train"
    """Batch norm mode of the pass that gives the map. [C] train: the clean graph itself; eval costs a pass of its own."""
    aggregation: Literal["batch_minmax_sum", "raw_sum", "per_image"] = "batch_minmax_sum"
    """How maps of several layers are added. R2 batch_minmax_sum; R1 raw_sum; the paper's A.2 is missing."""
    grid: Literal["upsampled", "lowres", "corner"] = "upsampled"
    """Where the argmax is taken: on the bilinearly upsampled map, or a low-resolution cell's centre or top-left corner."""
    tie: Literal["first", "centre"] = "first"
    """Of tied maxima: the first in row-major order, or the mean of their positions."""
    size_law: Literal["side", "area"] = "side"
    """g ~ U(size_range) is the patch's side ratio [P], or its area ratio [C]."""
    size_range: tuple[float, float] = (0.1, 0.5)
    """[P] gamma_min, gamma_max."""
    size_per_sample: bool = False
    """One g per batch [C], or one per image."""
    border: Literal["clip", "shift"] = "clip"
    """Patches over the margin are cut [C] or moved inside ([P]: they do not "exceed the image margins")."""
    content: Literal["image", "noise"] = "image"
    """A resized image of the batch [P], or one plane of uniform noise for all channels [C]."""
    views: Literal[1, 2] = 2
    """How many of the two views are patched. [P] silent; [C] view 1 only."""
    partner: Literal["other", "same"] = "other"
    """The patch comes from the partner image's other view [C] or from the same view."""

    # Self-supervised framework
    ssl: Literal["simclr", "moco"] = "simclr"
    """[P] SimCLR for open-set recognition; SimCLR and MoCo in section 4.5."""
    moco_queue: int = 8192
    """[C] 8192 (the paper's 8196 is a misprint)."""
    moco_momentum: float = 0.999
    """[C]."""
    moco_mix: Literal["query", "full"] = "query"
    """Mixed query against the clean key with the queue untouched [D], or a full second MoCo step [C]."""

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

    def __post_init__(self) -> None:
        check_types(self)
        require(self.epochs >= 1, self, "epochs", "at least 1")
        require(bool(self.layers) or self.map == "random", self, "layers", "at least one layer")


def train(
    config: Config, data: Any, *, seed: int, device: str, resume: State | None = None
) -> Iterator[Epoch]:
    raise NotImplementedError
