"""What the paper of R-Mix measures of the networks themselves: where they look. `rmix_localisation` is its Table 5.

Paper: R-Mix, arXiv 2212.04875, section 4.2. Its protocol is Co-Mixup's, see `trainables.localisation`.

PuzzleMix and Co-Mixup, which need the extra 'graphcut', are in a study of their own, `rmix_localisation_graph_cuts`;
the two share R-Mix's networks.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from search_spaces import rmix
from search_spaces.rmix import against, printed, seeds
from search_spaces.study import Arm, Block, Outcome, Published, Scale, Study
from trainables.localisation import Config
from trainables.protocol import Needed
from trainables.rmix import COMIXUP, IMAGENET, PUZZLEMIX, RMIX

ON_IMAGENET, TINY = "imagenet-closed", "tinyimagenet-closed"
PIPELINE: Mapping[str, Any] = {
    name: getattr(IMAGENET, name)
    for name in ("network", "epochs", "batch", "schedule", "decay_norms", "padding", "crop", "partner")
}
"""What all of Table 5 are trained with."""
SALIENT: Mapping[str, Any] = {"clean_weight": IMAGENET.clean_weight}
"""And those that look at the clean images first."""


def arm(name: str, label: str, config: Any, **on_imagenet: Any) -> Arm:
    """One row of Table 5."""
    return Arm(
        name=name,
        label=label,
        config=Config(network=Needed("rmix", config)),
        per_dataset={ON_IMAGENET: on_imagenet} if on_imagenet else {},
    )


ALPHA = IMAGENET.alpha
ARMS = (
    arm("vanilla", "Vanilla", replace(RMIX, mix="vanilla")),
    arm("mixup", "Input Mixup", replace(RMIX, mix="mixup"), alpha=ALPHA),
    arm("manifold", "Manifold Mixup", replace(RMIX, mix="manifold", alpha=2.0), alpha=ALPHA),
    arm("cutmix", "CutMix", replace(RMIX, mix="cutmix")),
    arm("rmix", "R-Mix", RMIX, alpha=ALPHA, **SALIENT),
)
CUT_ARMS = (
    ARMS[-1],
    arm("puzzlemix", "PuzzleMix", PUZZLEMIX, saliency_mode="train", **SALIENT),
    arm("comixup", "Co-Mixup", COMIXUP, alpha=1.0, **SALIENT),
)

# Seconds are of a trial with its share of the training: half of the trials evaluate alone.
SCALES = (
    replace(
        rmix.SMOKE,
        blocks=seeds("digits-boxes", 2),
        settings={**rmix.SMOKE.settings, "network": "wrn10_2", "width": 8},
        data={"per_class": 4, "test_per_class": 4, "boxes": True},
        seconds=0.5,
    ),
    replace(
        rmix.LAPTOP,
        blocks=tuple(Block(dataset="digits-boxes", split=split, seed=split) for split in range(5)),
        settings={**rmix.LAPTOP.settings, "network": "wrn10_2", "width": 32},
        data={"per_class": 60, "test_per_class": 60, "boxes": True},
        seconds=10.0,
        note="scikit-learn's digits, two or three times as large, somewhere on 32 x 32 pixels of noise; 60 images a "
        "class, a small Wide ResNet whose maps have 8 x 8 pixels, 12 epochs.",
    ),
    replace(
        rmix.PICTURES,
        blocks=tuple(Block(dataset="tinyimagenet", split=split, seed=split) for split in range(3)),
        data={"per_class": 250, "boxes": True},
        seconds=210.0,
        note="Real pictures without a GPU: twenty classes of Tiny-ImageNet, half of their training images, an eighth "
        "of the width, 10 epochs. Boxes come with its archive, not with Parquet files. Not measured.",
    ),
    replace(
        rmix.GPU,
        blocks=seeds(TINY, 3),
        data={"boxes": True},
        note="Tiny-ImageNet from its archive, PreActResNet-18, a tenth of the epochs, bf16, four trials to a GPU. Not "
        "measured.",
    ),
    Scale(
        name="paper",
        blocks=seeds(ON_IMAGENET, 5),
        settings=PIPELINE,
        data={"side": 224, "boxes": True},
        gpus=1.0,
        note="ImageNet with the boxes of its validation images, ResNet-50, 100 epochs of the fast schedule, 5 seeds, "
        "one image size of 224, at which its images take 193 GB of the GPU. Weeks on one that has so much.",
    ),
)
TABLE5 = {  # accuracy, localisation
    "vanilla": (75.97, 54.36),
    "mixup": (77.03, 55.07),
    "manifold": (76.70, 54.86),
    "cutmix": (77.08, 54.91),
    "puzzlemix": (77.51, 55.22),
    "comixup": (77.61, 55.32),
    "rmix": (77.39, 55.58),
}
QUOTED = {"puzzlemix": "PuzzleMix", "comixup": "Co-Mixup"}
"""Rows that a study without these arms quotes by these names."""


def table5(arms: tuple[Arm, ...]) -> tuple[Published, ...]:
    """Both columns of the rows that are arms, and of those that no study without the extra runs."""
    mine = {each.name for each in arms}
    rows = {name if name in mine else QUOTED[name]: TABLE5[name] for name in TABLE5 if name in mine | set(QUOTED)}
    return tuple(
        Published(arm=name, dataset=ON_IMAGENET, metric=metric, value=value, where=f"Table 5, {name}, {metric}")
        for name, row in rows.items()
        for metric, value in zip(("accuracy", "localisation"), row, strict=True)
    )


READ: Mapping[str, Any] = {
    "outcome": Outcome(metric="localisation", label="localisation: class and box right"),
    "secondary": (
        Outcome(metric="accuracy", label="top-1 accuracy"),
        Outcome(metric="localisation_right", label="box right where the class is"),
        Outcome(metric="localisation_known", label="box right, true class given"),
        Outcome(metric="localisation_best", label="box right at the best threshold, true class given"),
        Outcome(metric="localisation_whole", label="localisation with the whole image for a box"),
        Outcome(metric="box_iou", label="intersection over union, true class given"),
    ),
}
NOTES = (
    "Localisation counts an image only if its class is right too. In the paper it is 71.2 to 71.6% of the accuracy for "
    "six of seven methods and 71.8% for R-Mix, so most of what separates them is accuracy. "
    "`localisation_right` and `localisation_known` ask for the box alone.",
    "The threshold on the map, a quarter of its range, is the same for all, and need not suit all: "
    "`localisation_best` has each network's best one, chosen on the test images.",
    "The paper gives no code for this; the conventions are those of Co-Mixup's code, in `trainables/localisation.py`.",
    "Its other rows are quoted from Co-Mixup. With which alpha Input and Manifold Mixup were trained on ImageNet is "
    "not said: here 0.2, as R-Mix's, and 1 for CutMix. PuzzleMix and Co-Mixup have 1 there, as in their own code; the "
    "2 in Co-Mixup's configuration is read by nothing.",
)
LOCALISATION = Study(
    name="rmix_localisation",
    question="Do networks trained with R-Mix look at the object more than those trained with other mixes?",
    source=printed("section 4.2, Table 5"),
    method="localisation",
    arms=ARMS,
    baseline="rmix",
    scales=SCALES,
    **READ,
    contrasts=against("rmix", (each.name for each in ARMS)),
    published=table5(ARMS),
    claim="R-Mix localises best, 55.6%, a quarter of a point before Co-Mixup, whose accuracy is higher.",
    notes=(*NOTES, "PuzzleMix and Co-Mixup need an optional package; `rmix_localisation_graph_cuts` runs them."),
    figures=("boxes",),
)
CUTS = Study(
    name="rmix_localisation_graph_cuts",
    question="Do networks trained with R-Mix look at the object more than those trained with PuzzleMix or Co-Mixup?",
    source=printed("section 4.2, Table 5"),
    method="localisation",
    arms=CUT_ARMS,
    baseline="rmix",
    scales=tuple(replace(each, seconds=16.0) if each.name == "laptop" else each for each in SCALES),
    **READ,
    contrasts=against("rmix", (each.name for each in CUT_ARMS)),
    published=table5(CUT_ARMS),
    claim="A little: 55.6% against 55.2 and 55.3, at a lower accuracy.",
    notes=(*NOTES, "Its arms need an optional package: python -m pip install -e '.[graphcut]'."),
    figures=("boxes",),
)

STUDIES: tuple[Study, ...] = (LOCALISATION, CUTS)
