"""GradMix in self-supervised learning: encoders that `trainables.gradmix` trains without labels, probed when frozen.

Paper: Informed Mixing (GradMix), arXiv 2505.12803, section 4.5. `gradmix_ssl` and `gradmix_ssl_networks` are Figure 5,
left: the first with ResNet-18, the second with all three networks. `gradmix_ssl_epochs` is its right half, on the
networks of the first: their own epochs hold a linear probe at every so many, so one training serves all three.
"""

from collections.abc import Mapping
from dataclasses import replace
from itertools import product
from typing import Any, Literal

from search_spaces import gradmix
from search_spaces.gradmix import printed
from search_spaces.gradmix_evaluations import TINY, closed, seeds
from search_spaces.study import Arm, Contrast, Outcome, Scale, Study
from trainables.gradmix import MOCO, PAPER, Config
from trainables.probes import Config as Probe
from trainables.protocol import Needed

Mix = Literal["none", "cutmix", "gradmix"]
Network = Literal["resnet18", "resnet34", "resnet50"]

PROBED: Mapping[str, Any] = {"intrinsic_dimension": False, "linear_probe": True, "evaluate_every": 40}
"""What the pre-training itself measures: neighbours and a linear probe after every 40 epochs, as in Figure 5, right."""
FRAMEWORKS = {
    "simclr": ("SimCLR", replace(PAPER, theta=0.0, lam=1.0, epochs=200, **PROBED)),
    "moco": ("MoCo", replace(MOCO, **PROBED)),
}
MIXES: Mapping[Mix, str] = {"none": "no mixing", "cutmix": "CutMix", "gradmix": "GradMix"}
NETWORKS: Mapping[Network, str] = {"resnet18": "ResNet-18", "resnet34": "ResNet-34", "resnet50": "ResNet-50"}


def pretraining(framework: str, network: Network, mix: Mix) -> Config:
    """How an arm's encoder is trained."""
    return replace(FRAMEWORKS[framework][1], network=network, mix=mix)


# --- Sizes -----------------------------------------------------------------------------------------------------------

SMOKE = closed(
    gradmix.SMOKE,
    seeds("digits-closed", 2),
    settings={
        **gradmix.SMOKE.settings,
        "moco_queue": 32,
        "moco_momentum": 0.9,
        "milestones": (0,),
        "probe_epochs": 2,
        "probe_batch": 16,
    },
    data={"side": 16, "per_class": 4, "test_per_class": 4},
    seconds=0.3,
)
LAPTOP = Scale(
    name="laptop",
    blocks=gradmix.blocks("digits-closed", 5, seeds=2),
    settings={
        **gradmix.ON_DIGITS,
        "width": 8,
        "epochs": 12,
        "evaluate_every": 2,
        "moco_queue": 512,
        "moco_momentum": 0.99,
        "milestones": (7, 10),
        "probe_epochs": 60,
        "probe_batch": 64,
        "probe_views": "none",
    },
    data={"side": 16},
    seconds=7.5,
    note="scikit-learn's digits at 16 x 16, an eighth of the networks' width, 12 epochs of 200; MoCo's queue and "
    "average are shorter in proportion. The probe sees images as they are, so their features are computed once.",
)
PICTURES = closed(
    gradmix.PICTURES,
    seeds("cifar10-closed", 3),
    settings={
        "width": 8,
        "epochs": 10,
        "evaluate_every": 2,
        "batch": 128,
        "moco_queue": 2048,
        "moco_momentum": 0.99,
        "milestones": (6, 8),
        "probe_epochs": 60,
        "probe_views": "none",
    },
    seconds=150.0,
    note="Real pictures without a GPU: CIFAR-10 at its own 32 x 32, an eighth of the width, a fifth of the training "
    "images, 10 epochs of 200. Features barely form without labels in so short a time.",
)
GPU = closed(
    gradmix.GPU,
    seeds("cifar10-closed", 5),
    settings={
        **gradmix.GPU.settings,
        "evaluate_every": 4,
        "moco_queue": 4096,
        "moco_momentum": 0.99,
        "milestones": (12, 16),
        "probe_epochs": 30,
    },
    seconds=400.0,
)
SIZES = (
    SMOKE,
    LAPTOP,
    PICTURES,
    GPU,
    Scale(
        name="paper",
        blocks=seeds(TINY, 3),
        gpus=1.0,
        note="All 200 classes of Tiny-ImageNet, 200 epochs, fp32, 3 seeds where the paper has one. Days on one GPU.",
    ),
)

# --- E8: linear evaluation -------------------------------------------------------------------------------------------

SECONDARY = (
    Outcome(metric="accuracy_top5", label="linear probe, top-5"),
    Outcome(metric="knn_accuracy", label="nearest neighbours, top-1"),
    Outcome(metric="knn_accuracy_top5", label="nearest neighbours, top-5"),
)
CLAIM = "Both mixes raise top-1 and top-5 accuracy for every framework and network, GradMix by more than CutMix."
PROBES = (
    "The probe is alike for all arms: SGD at 0.1 along a cosine for 100 epochs, crops and flips, its last epoch. The "
    "authors' script has Adam, changes colours, too, and reports the best epoch by test accuracy; "
    "`trainables.probes.released` has its settings.",
    "The term of CutMix weighs 1 less its patch's area, that of GradMix its patch's area: five times less on average. "
    "gradmix_augmentation_matched shows what that alone does.",
    "SimCLR's maps are conv5_2's; MoCo's conv4_2's and of the query alone, as in its code. MoCo is trained by SGD on "
    "its own paper's schedule; the code pairs that schedule with Adam.",
    "The code shuffles MoCo's keys within the batch before the key network sees them, and back. On one device, where "
    "batch norm sees the whole batch, that changes nothing, and is left out.",
)


def contrasts(prefixes: tuple[str, ...]) -> tuple[Contrast, ...]:
    """Each mix against none, and GradMix against CutMix, within each framework and network."""
    pairs = (("cutmix", "none"), ("gradmix", "none"), ("gradmix", "cutmix"))
    return tuple(
        Contrast(arm=f"{prefix}_{arm}", reference=f"{prefix}_{other}") for prefix in prefixes for arm, other in pairs
    )


ARMS = tuple(
    Arm(
        name=f"{framework}_{mix}",
        label=f"{FRAMEWORKS[framework][0]}, {MIXES[mix]}",
        config=Probe(network=Needed("gradmix", pretraining(framework, "resnet18", mix))),
        factors={"framework": framework, "mix": mix},
    )
    for framework, mix in product(FRAMEWORKS, MIXES)
)
SSL = Study(
    name="gradmix_ssl",
    question="Does GradMix make features better that are learned without labels?",
    source=printed("section 4.5, Figure 5, left"),
    method="probes",
    arms=ARMS,
    baseline="simclr_none",
    scales=SIZES,
    outcome=Outcome(metric="accuracy", label="linear probe, top-1"),
    secondary=SECONDARY,
    contrasts=contrasts(tuple(FRAMEWORKS)),
    claim=CLAIM,
    notes=(
        gradmix.NOT_PRINTED,
        *PROBES,
        "ResNet-18 alone. gradmix_ssl_networks has ResNet-34 and ResNet-50 beside it, on fewer blocks.",
    ),
)

NETWORK_ARMS = tuple(
    Arm(
        name=f"{framework}_{network}_{mix}",
        label=f"{FRAMEWORKS[framework][0]}, {NETWORKS[network]}, {MIXES[mix]}",
        config=Probe(network=Needed("gradmix", pretraining(framework, network, mix))),
        factors={"framework": framework, "network": network, "mix": mix},
    )
    for framework, network, mix in product(FRAMEWORKS, NETWORKS, MIXES)
)
FEWER: Mapping[str, Mapping[str, Any]] = {
    "laptop": {
        "blocks": LAPTOP.blocks[:2],
        "seconds": 14.0,
        "note": f"{LAPTOP.note} Two blocks, in ten minutes: enough to see all networks train, and to decide nothing.",
    },
    "pictures": {"blocks": PICTURES.blocks[:2], "seconds": 320.0},
    "gpu": {"blocks": GPU.blocks[:3], "seconds": 1000.0},
}
"""Scale -> what differs where networks are deeper: ResNet-34 takes twice as long, ResNet-50 three to four times."""
SSL_NETWORKS = replace(
    SSL,
    name="gradmix_ssl_networks",
    question="Does what GradMix does without labels depend on the network?",
    arms=NETWORK_ARMS,
    baseline="simclr_resnet18_none",
    scales=tuple(replace(scale, **FEWER.get(scale.name, {})) for scale in SIZES),
    contrasts=contrasts(tuple(f"{framework}_{network}" for framework, network in product(FRAMEWORKS, NETWORKS))),
    notes=(
        gradmix.NOT_PRINTED,
        *PROBES,
        "The arms with ResNet-18 are those of gradmix_ssl, and trained once for both. All have batches of 256; the "
        "authors' scripts have 64 and 200 with ResNet-50, too.",
    ),
)

# --- E9: over the epochs of the pre-training -------------------------------------------------------------------------


def trained_alone(scale: Scale) -> Scale:
    """The same size without what it says of the probes, which are other trials."""
    kept = {name: value for name, value in scale.settings.items() if not name.startswith("probe_")}
    return replace(scale, settings=kept)


SSL_EPOCHS = Study(
    name="gradmix_ssl_epochs",
    question="Does GradMix make features better sooner, where they are learned without labels?",
    source=printed("section 4.5, Figure 5, right"),
    method="gradmix",
    arms=tuple(
        Arm(name=mix, label=f"SimCLR, {label}", config=pretraining("simclr", "resnet18", mix))
        for mix, label in MIXES.items()
    ),
    baseline="none",
    scales=tuple(trained_alone(scale) for scale in SIZES),
    outcome=Outcome(metric="linear_accuracy", label="linear probe, top-1"),
    secondary=(Outcome(metric="accuracy", label="nearest neighbours on the head's output"),),
    contrasts=tuple(
        Contrast(arm=arm, reference=other)
        for arm, other in (("cutmix", "none"), ("gradmix", "none"), ("gradmix", "cutmix"))
    ),
    claim="Longer training helps all; GradMix's accuracy grows more, and sooner.",
    notes=(
        gradmix.NOT_PRINTED,
        "The networks are those of gradmix_ssl: nothing is trained twice. Contrasts are of the last epoch; the figure "
        "of accuracy by epoch is the paper's.",
        "The probe within the training is logistic regression on features of images as they are, fitted in up to 200 "
        "steps of L-BFGS; that of gradmix_ssl is trained by SGD on moved views. Their numbers differ a little.",
    ),
)

STUDIES: tuple[Study, ...] = (SSL, SSL_NETWORKS, SSL_EPOCHS)
