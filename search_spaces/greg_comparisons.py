"""GReg beside energy training and DOS, on other networks and from scratch.

Paper: Gradient-Regularized Out-of-Distribution Detection (GReg), arXiv 2404.12368. `greg_architectures` is its CIFAR-10
table, `greg_scratch` has its GReg+. Natural images: `search_spaces.greg_imagenet`.

`greg_optimizer` and `greg_scratch` start from new networks, and not from ones pre-trained by cross-entropy.
"""

from collections.abc import Mapping
from dataclasses import replace
from itertools import product
from typing import Any

from search_spaces.greg import (
    COMMON,
    FROM_PICTURES,
    GPU,
    IMAGENET,
    LAPTOP,
    PAPER,
    PICTURES,
    RATE,
    SCALES,
    SIX,
    SMOKE,
    UNPUBLISHED,
    numbers,
    study,
    tuned,
)
from search_spaces.study import Arm, Contrast, Scale
from trainables import greg
from trainables.greg import DOS, ENERGY, GREG, GREG_PLUS, Config

# --- The CIFAR-10 table: architectures -------------------------------------------------------------------------------

ARCHITECTURES: Mapping[str, tuple[Any, str]] = {
    "resnet": ("resnet18_imagenet", "ResNet-18"),
    "resnet_small_stem": ("resnet18", "ResNet-18, stem for small images"),
    "wrn": ("wrn40_2", "WRN-40-2"),
    "densenet": ("densenet_bc_100_12", "DenseNet-BC-100-12"),
}
SHALLOW = {"wrn": "wrn10_2", "densenet": "densenet_bc_22_12"}
"""Stand-ins on digits."""
TABLE_CIFAR10: Mapping[str, tuple[float | None, ...]] = {
    "resnet_energy": (11.14, 97.53),
    "resnet_greg": (7.90, 97.95),
    "wrn_energy": (13.11,),
    "wrn_greg": (7.95,),
    "densenet_energy": (11.26,),
    "densenet_greg": (7.93,),
    "OpenMix, ResNet": (22.24, 96.26),
    "OpenMix, WRN": (21.92,),
    "OpenMix, DenseNet": (22.86,),
}


def architecture_arms() -> tuple[Arm, ...]:
    """Both losses on each network; on digits, shallow stand-ins."""
    losses: Mapping[str, tuple[Config, str]] = {"energy": (ENERGY, "Energy"), "greg": (GREG, "GReg")}
    return tuple(
        Arm(
            name=f"{key}_{name}",
            label=f"{label}, {text}",
            config=tuned(config, network=network),
            factors={"network": key, "loss": name},
            per_dataset={"digits-ood": {"network": SHALLOW[key]}} if key in SHALLOW else {},
        )
        for (key, (network, label)), (name, (config, text)) in product(ARCHITECTURES.items(), losses.items())
    )


ARCHITECTURE_SCALES = tuple(
    replace(scale, settings={name: value for name, value in scale.settings.items() if name != "network"})
    for scale in (
        SMOKE,
        LAPTOP,
        replace(
            PICTURES,
            settings={**PICTURES.settings, "width": 16, "epochs": 3, "pretraining_epochs": 10},
            seconds=600.0,
            note=f"Real pictures without a GPU. {FROM_PICTURES}. A tenth of CIFAR-10's training images, networks of "
            "their own depth and a quarter of their width; 3 epochs of fine-tuning after 10. Not measured.",
        ),
        GPU,
        PAPER,
    )
)
"""The networks are what differs, so no size sets them."""
ARCHITECTURE = study(
    "greg_architectures",
    "Does GReg help on every network?",
    "CIFAR-10 table",
    architecture_arms(),
    "wrn_energy",
    scales=ARCHITECTURE_SCALES,
    contrasts=tuple(Contrast(arm=f"{key}_greg", reference=f"{key}_energy") for key in ARCHITECTURES),
    published=numbers(TABLE_CIFAR10, "CIFAR-10 table"),
    claim="Yes: FPR95 falls by 3.2 points on ResNet, 5.2 on WRN, 3.3 on DenseNet.",
    notes=(
        *COMMON,
        SIX,
        RATE,
        "The released ResNet-18 has the stem of ImageNet on images of 32 x 32; the other stem is ours.",
    ),
)

# --- Optimiser -------------------------------------------------------------------------------------------------------

OPTIMIZERS: Mapping[str, Mapping[str, Any]] = {
    "sgd_0.1": {"optimizer": "sgd", "learning_rate": 0.1},
    "adam_1e-3": {"optimizer": "adam", "learning_rate": 1e-3, "weight_decay": 0.0},
    "adam_0.1": {"optimizer": "adam", "learning_rate": 0.1, "weight_decay": 0.0},
}
FROM_SCRATCH: Mapping[str, Mapping[str, Any]] = {
    "smoke": {"epochs": 1, "milestones": (1,)},
    "laptop": {"epochs": 24, "milestones": (20,)},
    "pictures": {"epochs": 20, "milestones": (17,)},
    "gpu": {},
    "paper": {},
}
"""Length and steps of training from scratch, by scale."""


def from_scratch(*fields: str) -> tuple[Scale, ...]:
    """Sizes for training from scratch, with each config's own learning rate, and without these fields."""
    return tuple(
        replace(
            scale,
            settings={
                name: value
                for name, value in {**scale.settings, **FROM_SCRATCH[scale.name]}.items()
                if name not in ("learning_rate", "pretraining_epochs", *fields)
            },
            note=scale.note.split(";")[0].rstrip(".") + ". From scratch.",
        )
        for scale in SCALES
    )


OPTIMIZER = study(
    "greg_optimizer",
    "Should GReg+ be trained by SGD or by Adam?",
    "SGD in the text; the released script for CIFAR with clusters has Adam at 0.1 since 2024",
    tuple(
        Arm(name=name, label=name.replace("_", ", "), config=replace(GREG_PLUS, **fields))
        for name, fields in OPTIMIZERS.items()
    ),
    "sgd_0.1",
    scales=from_scratch(),
    notes=(
        UNPUBLISHED,
        *COMMON,
        "The scripts for CIFAR are older than the change of the optimiser. Adam has no weight decay there, nor here.",
    ),
)

# --- From scratch ----------------------------------------------------------------------------------------------------

SCRATCH_ARMS = (
    Arm(name="energy", label="Energy", config=replace(ENERGY, **greg.SCRATCH)),
    Arm(name="greg", label="GReg, random", config=replace(GREG, **greg.SCRATCH)),
    Arm(name="greg_plus", label="GReg+", config=GREG_PLUS),
    Arm(name="dos", label="DOS", config=DOS),
)
SCRATCH = study(
    "greg_scratch",
    "Does GReg+ detect better than energy training and DOS, all from scratch?",
    "GReg+ in the main tables; DOS as in its code",
    SCRATCH_ARMS,
    "greg_plus",
    scales=from_scratch(),
    notes=(
        *COMMON,
        IMAGENET,
        "GReg+ has 60 epochs, DOS 100; the small sizes have as many for both.",
    ),
)

STUDIES = (ARCHITECTURE, OPTIMIZER, SCRATCH)
