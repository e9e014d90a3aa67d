"""What the paper of GradMix measures besides open sets, on networks that `trainables.gradmix` trains on all classes.

Paper: Informed Mixing (GradMix), arXiv 2505.12803. `gradmix_corruptions` is its section 4.3 with Table 5.

Studies of one scale share blocks, settings and so the trained networks.
"""

from dataclasses import replace
from typing import Any

from search_spaces import gradmix
from search_spaces.gradmix import EQ3, GRADMIX, LAM, printed
from search_spaces.study import Arm, Block, Contrast, Outcome, Published, Scale, Study
from trainables.corruption_settings import CORRUPTIONS, SEVERITIES
from trainables.protocol import Needed
from trainables.stress import Config as Stress

CIFAR10, TINY = "cifar10-closed", "tinyimagenet-closed"
ACCURACY = Outcome(metric="accuracy", label="accuracy on clean images")


def closed(scale: Scale, blocks: tuple[Block, ...], **fields: Any) -> Scale:
    """A size of the open-set studies with all classes known."""
    return replace(scale, blocks=blocks, **fields)


def seeds(dataset: str, count: int) -> tuple[Block, ...]:
    """One block a seed: these data sets have one split into training and test images."""
    return tuple(Block(dataset=dataset, seed=seed) for seed in range(count))


SCALES = (
    closed(gradmix.SMOKE, seeds("digits-closed", 2)),
    closed(
        gradmix.LAPTOP,
        tuple(Block(dataset="digits-closed", split=split, seed=split) for split in range(5)),
        seconds=12.0,
        note="scikit-learn's digits at 16 x 16, all ten known, an eighth of the network's width, 12 epochs. "
        "Corruptions take their sizes in pixels from CIFAR, so at half its side they hit harder.",
    ),
    closed(
        gradmix.PICTURES,
        seeds(CIFAR10, 3),
        seconds=330.0,
        note="Real pictures without a GPU: CIFAR-10 at its own 32 x 32, an eighth of the width, a fifth of the "
        "training images, 8 epochs of 600: a network that knows little has little to lose.",
    ),
    closed(gradmix.GPU, seeds(CIFAR10, 5), seconds=700.0),
    Scale(
        name="paper",
        blocks=(*seeds(CIFAR10, 3), *seeds(TINY, 3)),
        dataset_settings={TINY: {"epochs": 800}},
        gpus=1.0,
        note="All of CIFAR-10 and Tiny-ImageNet, one stage, fp32, 3 seeds where the paper has one. Days on one GPU.",
    ),
)
LAM_OF_TINY = {TINY: LAM["tinyimagenet"]}
NETWORKS = (
    ("none", "SupCon + SimCLR (Eq 3)", EQ3),
    ("gradmix", "GradMix", GRADMIX),
)
"""The paper's two: arm, label, what trains the network."""

# --- E7: corruptions -------------------------------------------------------------------------------------------------

TABLE5 = {  # severity, "": mean -> CIFAR-10 none, CIFAR-10 GradMix, Tiny-ImageNet none, Tiny-ImageNet GradMix
    "_1": (7.01, 6.66, 22.61, 25.25),
    "_2": (11.18, 10.04, 37.02, 31.49),
    "_3": (15.93, 14.03, 39.43, 38.91),
    "_4": (23.01, 20.49, 46.23, 45.23),
    "_5": (33.29, 28.64, 49.31, 48.91),
    "": (18.08, 15.97, 38.81, 37.36),
}
CELLS = tuple((arm, dataset) for dataset in (CIFAR10, TINY) for arm in ("none", "gradmix"))
CORRUPTIONS_STUDY = Study(
    name="gradmix_corruptions",
    question="Do GradMix's features lose less accuracy when images are corrupted?",
    source=printed("section 4.3, Table 5 and Figure 4"),
    method="stress",
    arms=tuple(
        Arm(name=name, label=label, config=Stress(network=Needed("gradmix", config)), per_dataset=LAM_OF_TINY)
        for name, label, config in NETWORKS
    ),
    baseline="none",
    scales=SCALES,
    outcome=Outcome(metric="drop", label="accuracy lost to corruptions", higher_is_better=False),
    secondary=(
        ACCURACY,
        Outcome(metric="accuracy_corrupted", label="accuracy on corrupted images"),
        *(
            Outcome(metric=f"drop_{severity}", label=f"lost at severity {severity}", higher_is_better=False)
            for severity in SEVERITIES
        ),
        *(
            Outcome(metric=f"drop_{name}", label=f"lost to {name.replace('_', ' ')}", higher_is_better=False)
            for name in CORRUPTIONS
        ),
    ),
    contrasts=(Contrast(arm="gradmix", reference="none"),),
    published=tuple(
        Published(
            arm=arm, dataset=dataset, metric=f"drop{severity}", value=value, where=f"Table 5, {dataset}{severity}"
        )
        for severity, row in TABLE5.items()
        for (arm, dataset), value in zip(CELLS, row, strict=True)
    ),
    claim="GradMix loses two points less than SupCon + SimCLR on CIFAR-10, and one and a half less on Tiny-ImageNet.",
    notes=(
        "A network that is worse on clean images has less to lose: read the drop beside the accuracy on clean and on "
        "corrupted images.",
        "The paper's means over severities for Tiny-ImageNet, 38.81 and 37.36, are not the means of its own rows, "
        "38.92 and 37.96; at severity 1 GradMix loses more there.",
        "Images are corrupted here by the published settings; the frost's overlay and ImageMagick's motion blur are "
        "replaced, see `trainables/corruptions.py`. The authors judge every tenth image with k = 3.",
        "The paper calls the baseline SimCLR; by the names in its code it is SupCon + SimCLR without the mix term.",
        "CIFAR's settings are for 32 pixels, Tiny-ImageNet's for 64; the small sizes' digits take CIFAR's.",
    ),
    figures=("corruptions",),
)

STUDIES: tuple[Study, ...] = (CORRUPTIONS_STUDY,)
