"""Ablations of GradMix: the experiments of the paper that need open-set evaluation, and the questions it leaves open.

Paper: Informed Mixing (GradMix), arXiv 2505.12803. E1 to E4 are its experiments, with the numbers of its Tables 1 and
2; A1 to A7 vary what the paper and the authors' code say differently, or only one of them says.

Studies of one scale share blocks and settings, so the arm that most of them contain (the paper's GradMix at conv5_2) is
one trial for all of them, and so is the baseline of Eq 3.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import product
from typing import Any

from search_spaces.study import Arm, Block, Contrast, Outcome, Published, Scale, Source, Study
from trainables import splits
from trainables.gradmix import Config, Layer
from trainables.knn_osr import Config as Scoring
from trainables.protocol import Needed

PerDataset = Mapping[str, Mapping[str, Any]]

GRADMIX = Config()
"""The paper's method: LayerCAM at conv5_2, patches of both views, weight g**2."""
EQ3 = replace(GRADMIX, mix="none")
"""SupCon + SimCLR without a mix term."""

AUROC = Outcome(metric="auroc", label="AUROC")
ACCURACY = Outcome(metric="accuracy", label="closed-set accuracy")
DIMENSION = Outcome(metric="intrinsic_dimension", label="intrinsic dimension", unit=1.0)

# --- Sizes: one set of blocks and settings for all studies -----------------------------------------------------------

ON_DIGITS = {"crop_scale": 0.4, "flip": False, "grayscale": 0.0, "jitter": 0.5, "batch": 64}
"""A mirrored digit is another one, and there is no colour."""
ONLY_ROTATED = {"crop": False, "flip": False, "jitter": 0.0, "grayscale": 0.0, "rotation": 5.0}
"""MNIST. [P]"""
ON_PAPER: PerDataset = {
    "mnist": {"epochs": 20, **ONLY_ROTATED},
    "svhn": {"epochs": 300},
    "tinyimagenet": {"epochs": 800},
}
"""Dataset -> what differs in every arm from the defaults, 600 epochs of CIFAR-10. From the authors' scripts."""
LAM: PerDataset = {"mnist": {"lam": 1.0}, "tinyimagenet": {"lam": 1.0}}
"""Dataset -> lambda where it is not 1.2, for arms that do not vary it."""
LAM_AND_MIX: PerDataset = {**LAM, "mnist": {"lam": 1.0, "mix": "none"}}
"""The same for arms with GradMix, which the paper leaves out on MNIST."""


KNOWN = {
    "mnist": splits.MNIST,
    "svhn": splits.SVHN,
    "cifar10": splits.CIFAR10,
    "cifar+10": splits.CIFAR_PLUS,
    "cifar+50": splits.CIFAR_PLUS,
    "tinyimagenet": splits.TINYIMAGENET,
}


def blocks(dataset: str, count: int, seeds: int = 1) -> tuple[Block, ...]:
    """`count` splits with the first seed, then all with the next: any first part is spread over the splits.

    The standard splits 0 and 1 of CIFAR-10 and of SVHN name the same known classes in another order, as do 1 and 2 of
    CIFAR+N. With one seed they would be the same run twice, so such a split takes the next seeds.
    """
    known = [frozenset(row) for row in KNOWN.get(dataset, ())]

    def earlier(split: int) -> int:
        return known[:split].count(known[split]) if known else 0

    return tuple(
        Block(dataset=dataset, split=split, seed=seed + seeds * earlier(split))
        for seed in range(seeds)
        for split in range(count)
    )


SMOKE = Scale(
    name="smoke",
    blocks=blocks("digits", 2),
    settings={**ON_DIGITS, "width": 4, "epochs": 1, "final_epochs": 1, "batch": 16},
    data={"side": 16, "per_class": 8, "test_per_class": 6},
    seconds=0.5,
    note="Checks that everything runs. Its numbers mean nothing.",
)
LAPTOP = Scale(
    name="laptop",
    blocks=blocks("digits", 5, seeds=2),
    settings={**ON_DIGITS, "width": 8, "epochs": 12, "final_epochs": 2, "learning_rate": 3e-3},
    data={"side": 16},
    seconds=8.0,
    note="scikit-learn's digits, 8 x 8 images shown at 16 x 16, six known classes of ten. A map is 8 x 8 at conv3_2, "
    "4 x 4 at conv4_2 and 2 x 2 at conv5_2, where a patch has only four places to go. Twelve epochs "
    "at three times the paper's learning rate: an answer for a small network on small pictures, not a replication.",
)
PICTURES = Scale(
    name="pictures",
    blocks=blocks("cifar10", 5),
    settings={"width": 8, "epochs": 8, "final_epochs": 2, "batch": 128, "learning_rate": 3e-3},
    data={"per_class": 1000, "test_per_class": 200},
    seconds=190.0,
    note="Real pictures without a GPU: CIFAR-10 at its own 32 x 32, an eighth of the paper's width, 1000 of 5000 "
    "training images a class, 8 epochs of 600, three times the learning rate. Features barely form: what needs long "
    "training cannot show; the maps have the paper's sizes.",
)
GPU = Scale(
    name="gpu",
    blocks=blocks("cifar10", 5),
    settings={"epochs": 20, "final_epochs": 2, "precision": "bf16", "channels_last": True},
    gpus=0.25,
    cpus=2.0,
    seconds=400.0,
    note="All of CIFAR-10 and the paper's network for 20 epochs, a tenth to a thirtieth of its own, bf16, four trials "
    "to a GPU. The cost is reckoned from the arithmetic (0.4 PFLOP an epoch with GradMix), not measured.",
)


def scales(*paper: Block) -> tuple[Scale, ...]:
    """The common sizes, and the paper's own over the given blocks."""
    datasets = {block.dataset for block in paper}
    own = {name: settings for name, settings in ON_PAPER.items() if name in datasets}
    note = "The paper's protocol in one stage, fp32. Days on one GPU."
    return SMOKE, LAPTOP, PICTURES, GPU, Scale(name="paper", blocks=paper, dataset_settings=own, gpus=1.0, note=note)


CIFAR10_AND_TINY = (*blocks("cifar10", 5), *blocks("tinyimagenet", 5))
PROTOCOLS = ("mnist", "svhn", "cifar10", "cifar+10", "cifar+50", "tinyimagenet")
ALL_PROTOCOLS = tuple(block for dataset in PROTOCOLS for block in blocks(dataset, 5))
THREE_SPLITS = blocks("cifar10", 3)

# --- What all studies say in the same way ----------------------------------------------------------------------------


def printed(where: str) -> Source:
    """An experiment of the paper."""
    return Source(
        paper="Informed Mixing (GradMix), arXiv 2505.12803",
        where=where,
        repository="gawainxu/comprehensive_osr@d18b920",
    )


def against(reference: str, arms: Iterable[Arm], **fields: Any) -> tuple[Contrast, ...]:
    """Every other arm against the reference."""
    return tuple(Contrast(arm=arm.name, reference=reference, **fields) for arm in arms if arm.name != reference)


PAIRED = (
    "Splits dominate the variance: read the paired differences, not the arms' own intervals. Of the standard splits, 0 "
    "and 1 of CIFAR-10 and of SVHN, and 1 and 2 of CIFAR+N, know the same classes in another order: one split twice."
)
NOT_PRINTED = "The paper shows this in a figure only, so there are no numbers to compare with."
UNPUBLISHED = "Not in the paper: the question comes from where its text and its authors' code disagree."


def gradmix(**fields: Any) -> Config:
    """GradMix with these fields changed."""
    return replace(GRADMIX, **fields)


def scoring(**fields: Any) -> Scoring:
    """How the network of the paper's GradMix is scored."""
    return Scoring(network=Needed("gradmix", GRADMIX), **fields)


# --- E4: layers ------------------------------------------------------------------------------------------------------

LAYER_SETS: tuple[tuple[Layer, ...], ...] = (
    ("conv4_2",),
    ("conv5_2",),
    ("conv3_2", "conv4_2"),
    ("conv4_2", "conv5_2"),
    ("conv3_2", "conv4_2", "conv5_2"),
)
LAYER_ARMS = tuple(
    Arm(name="+".join(layers), label=" + ".join(layers), config=gradmix(layers=layers), per_dataset=LAM)
    for layers in LAYER_SETS
)
LAYERS = Study(
    name="gradmix_layers",
    question="Does it matter which ResNet layer GradMix takes its activation map from?",
    source=printed("section 4.1, 'Selection of deep layers in GradMix', Figure 3"),
    method="gradmix",
    arms=LAYER_ARMS,
    baseline="conv5_2",
    scales=scales(*CIFAR10_AND_TINY),
    outcome=AUROC,
    secondary=(ACCURACY, DIMENSION),
    contrasts=against("conv5_2", LAYER_ARMS, claim="equivalence", margin=0.01),
    claim="Layers, and sums of layers, make no significant difference.",
    notes=(NOT_PRINTED, PAIRED),
)

# --- E3: augmentation ------------------------------------------------------------------------------------------------

ALPHAS = (0.1, 1.0, 10.0)


def augmentation_arms(base: Config) -> tuple[Arm, ...]:
    """No mix term, Mixup and CutMix at three strengths, GradMix with both maps, two controls without gradients."""
    configs = {"none": (replace(base, mix="none", mix_weight="area"), "none (Eq 3)")}
    for alpha in ALPHAS:
        configs[f"mixup_{alpha:g}"] = (replace(base, mix="mixup", mix_alpha=alpha), f"Mixup, alpha = {alpha:g}")
    for alpha in ALPHAS:
        configs[f"cutmix_{alpha:g}"] = (replace(base, mix="cutmix", mix_alpha=alpha), f"CutMix, alpha = {alpha:g}")
    configs["gradmix_gradcam"] = (replace(base, map="gradcam"), "GradMix, Grad-CAM")
    configs["gradmix"] = (base, "GradMix, LayerCAM")
    configs["control_activation"] = (replace(base, map="activation"), "control: largest activation")
    configs["control_random"] = (replace(base, map="random"), "control: random place")
    return tuple(
        Arm(name=name, config=config, label=label, per_dataset=LAM) for name, (config, label) in configs.items()
    )


def augmentation_contrasts(arms: tuple[Arm, ...]) -> tuple[Contrast, ...]:
    """Each arm against none; GradMix against the controls that place the same patch without a gradient."""
    controls = ("control_activation", "control_random")
    return against("none", arms) + tuple(
        Contrast(arm="gradmix", reference=control, family="against controls") for control in controls
    )


AUGMENTATION_ARMS = augmentation_arms(GRADMIX)
AUGMENTATION = Study(
    name="gradmix_augmentation",
    question="Is GradMix better at unknown classes than Mixup, CutMix or none, and is it the gradient that helps?",
    source=printed("section 4.1, 'Impact of different augmentation methods', Figure 2"),
    method="gradmix",
    arms=AUGMENTATION_ARMS,
    baseline="none",
    scales=scales(*CIFAR10_AND_TINY),
    outcome=AUROC,
    secondary=(ACCURACY, DIMENSION),
    contrasts=augmentation_contrasts(AUGMENTATION_ARMS),
    claim="Every mix term beats none, stronger ones by more, and GradMix is best: 3 AUROC points over none.",
    notes=(
        NOT_PRINTED,
        PAIRED,
        "The 3 points are the text's; by its Tables 1 and 2 they are 2.6 on CIFAR-10 and 4.4 on Tiny-ImageNet.",
        "The text prints no levels of alpha; 0.1, 1 and 10 are those in the authors' scripts, where 10 goes with beta "
        "= 0.3. Here all are Beta(alpha, alpha).",
        "The mix term's weight differs between arms by five times (g**2 has mean 0.10, Mixup's and CutMix's lam 0.5): "
        "gradmix_augmentation_matched repeats the study with one weight.",
        "The controls paste the same patch with the same weight where the activation is largest, or anywhere.",
    ),
)

MATCHED_ARMS = augmentation_arms(gradmix(mix_weight="constant"))
AUGMENTATION_MATCHED = replace(
    AUGMENTATION,
    name="gradmix_augmentation_matched",
    question="With one weight for every mix term, does it still matter where and what is mixed?",
    arms=MATCHED_ARMS,
    contrasts=augmentation_contrasts(MATCHED_ARMS),
    claim="",
    notes=(
        "Not in the paper: gradmix_augmentation with each mix term weighted 0.1033, the mean of g**2, g ~ U(0.1, 0.5).",
        PAIRED,
    ),
)

# --- E2: losses ------------------------------------------------------------------------------------------------------

LOSS_ARMS = (
    Arm(name="supcon", label="SupCon", config=replace(EQ3, lam=0.0)),
    Arm(name="supcon_simclr", label="SupCon + SimCLR", config=EQ3, per_dataset=LAM),
)
TABLE1 = {  # method: CIFAR10 dimension, CIFAR10 AUROC, TinyImageNet dimension, TinyImageNet AUROC
    "supcon": (8.07, 67.15, 10.04, 72.97),
    "supcon_simclr": (14.25, 88.75, 17.47, 77.48),
}
LOSS = Study(
    name="gradmix_loss",
    question="Does a self-supervised loss beside SupCon give richer features, and so better open-set recognition?",
    source=printed("section 1, Table 1"),
    method="gradmix",
    arms=LOSS_ARMS,
    baseline="supcon",
    scales=scales(*CIFAR10_AND_TINY),
    outcome=AUROC,
    secondary=(DIMENSION, ACCURACY),
    contrasts=against("supcon", LOSS_ARMS),
    published=tuple(
        Published(arm=arm, dataset=dataset, metric=metric, value=value, where=f"Table 1, {arm}, {dataset}")
        for arm, row in TABLE1.items()
        for (dataset, metric), value in zip(
            product(("cifar10", "tinyimagenet"), ("intrinsic_dimension", "auroc")), row, strict=True
        )
    ),
    claim="With SimCLR the features' intrinsic dimension rises from 8 to 14 and AUROC by 22 points on CIFAR-10.",
    notes=(
        "The paper's 67.15 for SupCon alone on CIFAR-10 is no better than cross-entropy: lower than SupCon usually is.",
        "The intrinsic dimension is TwoNN of the head's output on unaugmented training images, averaged over known "
        "classes; the paper names neither layer nor pooling.",
        PAIRED,
    ),
)

# --- E1: protocols ---------------------------------------------------------------------------------------------------

PROTOCOL_ARMS = (
    Arm(name="none", label="SupCon + SimCLR (Eq 3)", config=EQ3, per_dataset=LAM),
    Arm(name="gradmix", label="GradMix", config=GRADMIX, per_dataset=LAM_AND_MIX),
)
TABLE2: Mapping[str, tuple[float | None, ...]] = {  # AUROC in the order of PROTOCOLS
    "CrossEntropy": (97.8, 88.6, 67.7, 81.6, 80.5, 57.7),
    "OpenMax": (98.1, 89.4, 69.5, 81.7, 79.6, 57.6),
    "G-OpenMax": (98.4, 89.6, 67.5, 82.7, 81.9, 58.0),
    "OSRCI": (98.8, 90.1, 69.9, 83.8, 82.7, 58.6),
    "C2AE": (98.9, 92.2, 89.5, 95.5, 93.7, 74.8),
    "GRROSR": (None, 93.5, 80.7, 92.8, 92.6, 60.8),
    "PROSER": (None, 94.3, 89.1, 96.0, 95.3, 69.3),
    "ARPL": (99.6, 96.3, 90.1, 96.5, 94.3, 76.2),
    "ARPL-CS": (99.7, 96.7, 91.0, 97.1, 95.1, 78.2),
    "OpenAUC": (99.4, 95.0, 89.2, 95.2, 93.6, 75.9),
    "ConOSR": (99.7, 99.1, 94.2, 98.1, 97.3, 80.9),
    "MEDAF": (None, 95.7, 86.0, 96.0, 95.5, 80.0),
    "gradmix": (99.8, 94.7, 91.33, 98.62, 97.64, 81.92),
}
COMPARED = ("digits", "svhn", "cifar10", "cifar+10", "cifar+50", "tinyimagenet")
GPU_PROTOCOLS = tuple(block for dataset in PROTOCOLS if dataset != "tinyimagenet" for block in blocks(dataset, 3))
PROTOCOLS_STUDY = Study(
    name="gradmix_protocols",
    question="How well does GradMix tell unknown classes on six standard protocols, and what does the mix term add?",
    source=printed("section 4.1, Table 2"),
    method="gradmix",
    arms=PROTOCOL_ARMS,
    baseline="none",
    scales=tuple(
        replace(
            scale,
            blocks=GPU_PROTOCOLS,
            dataset_settings={"mnist": ONLY_ROTATED},
            note="All images of five protocols and the paper's network for 20 epochs: all that MNIST has there, a "
            "fifteenth or a thirtieth of what the others have. bf16, four trials to a GPU. The cost is reckoned for "
            "CIFAR-10 from the arithmetic, not measured.",
        )
        if scale is GPU
        else scale
        for scale in scales(*ALL_PROTOCOLS)
    ),
    outcome=AUROC,
    secondary=(ACCURACY, DIMENSION),
    contrasts=tuple(Contrast(arm="gradmix", reference="none", dataset=dataset) for dataset in COMPARED),
    published=(
        *(
            Published(arm=arm, dataset=dataset, metric="auroc", value=value, where=f"Table 2, {arm}, {dataset}")
            for arm, row in TABLE2.items()
            for dataset, value in zip(PROTOCOLS, row, strict=True)
            if value is not None
        ),
        Published(arm="none", dataset="cifar10", metric="auroc", value=88.75, where="Table 1, SupCon + SSL"),
        Published(arm="none", dataset="tinyimagenet", metric="auroc", value=77.48, where="Table 1, SupCon + SSL"),
    ),
    claim="GradMix is best on four of six protocols; on SVHN and CIFAR-10 another method is.",
    notes=(
        "On MNIST the paper trains without the mix term, so both arms are one trial there and no contrast is declared. "
        "(The authors' script says `--mixup_positive False`, which their parser, with `type=bool`, reads as true.)",
        "The other methods' numbers are those the paper quotes; they are not run here.",
        "Each protocol has its own contrast; the data sets are too different to be pooled.",
        PAIRED,
    ),
)

# --- A1 to A7 --------------------------------------------------------------------------------------------------------


def open_question(name: str, question: str, number: str, arms: tuple[Arm, ...], baseline: str, **fields: Any) -> Study:
    """A study of CIFAR-10 that the paper does not contain; every arm against the baseline unless told otherwise."""
    defaults: dict[str, Any] = {
        "method": "gradmix",
        "scales": scales(*THREE_SPLITS),
        "outcome": AUROC,
        "secondary": (ACCURACY, DIMENSION),
        "contrasts": against(baseline, arms),
        "notes": (UNPUBLISHED, PAIRED),
    }
    return Study(
        name=name, question=question, source=printed(number), arms=arms, baseline=baseline, **(defaults | fields)
    )


WEIGHTS = ((1.0, 0.0), (1.0, 0.5), (1.0, 1.0), (1.0, 1.2), (1.0, 2.0), (1.0, 3.0), (0.0, 1.0))
WEIGHT_ARMS = tuple(
    Arm(
        name=f"{theta:g}:{lam:g}",
        label=f"theta : lambda = {theta:g} : {lam:g}",
        # With lambda = 0 the mix term has no weight either: then this is SupCon alone, one trial with gradmix_loss.
        config=replace(GRADMIX if lam else EQ3, theta=theta, lam=lam),
    )
    for theta, lam in WEIGHTS
)
SIZES = {"0.1-0.5": (0.1, 0.5), "0.1-0.3": (0.1, 0.3), "0.3-0.5": (0.3, 0.5), "0.316-0.707": (0.316, 0.707)}
PATCH_WEIGHTS: Mapping[str, Mapping[str, Any]] = {
    "g2": {"mix_weight": "area"},
    "1-g2": {"mix_weight": "one_minus_area"},
    "1": {"mix_weight": "constant", "mix_weight_value": 1.0},
}
PATCH_ARMS = tuple(
    Arm(
        name=f"g={size},w={weight}",
        config=gradmix(size_range=SIZES[size], **PATCH_WEIGHTS[weight]),
        factors={"side ratio g": size, "weight w": weight},
    )
    for size, weight in product(SIZES, PATCH_WEIGHTS)
)
SIGN_ARMS = tuple(
    Arm(
        name=f"{kind}{'+' if sign > 0 else '-'}",
        label=f"{label}, {'+' if sign > 0 else '-'}dL/dA",
        config=gradmix(map=kind, sign=sign),
        factors={"map": kind, "sign": sign},
    )
    for (kind, label), sign in product((("layercam", "LayerCAM"), ("gradcam", "Grad-CAM")), (1, -1))
)
CONTENT_ARMS = tuple(
    Arm(
        name=f"{content}_{views}",
        label=f"{content}, {views} {'view' if views == 1 else 'views'}",
        config=gradmix(content=content, views=views),
        factors={"content": content, "views": views},
    )
    for content, views in product(("image", "noise"), (2, 1))
)
K_ARMS = tuple(
    Arm(
        name=f"k{k}_{score}",
        label=f"k = {k}, {score}",
        config=scoring(k=k, score=score),
        factors={"k": k, "score": score},
        per_dataset=LAM_AND_MIX,
    )
    for k, score in product((1, 3, 5, 10, 15, 20), ("raw", "normalised"))
)
SCHEDULE_ARMS = (
    Arm(name="single", label="one stage, Eq 8 throughout", config=GRADMIX),
    Arm(name="two", label="self-supervised, then Eq 8", config=gradmix(stages="two")),
)
SUPCON_ARMS = tuple(
    Arm(name=form, label=label, config=gradmix(supcon_form=form))
    for form, label in (
        ("out", "all other samples"),
        ("eq2", "negatives only (Eq 2 as printed)"),
        ("eq2_pos", "negatives and the positive"),
    )
)

STUDIES: tuple[Study, ...] = (
    LAYERS,
    AUGMENTATION,
    AUGMENTATION_MATCHED,
    LOSS,
    PROTOCOLS_STUDY,
    open_question(
        "gradmix_weights",
        "How much weight should the self-supervised loss have beside SupCon?",
        "Eq 3 and 8, weights theta and lambda, whose values are not printed",
        WEIGHT_ARMS,
        "1:1.2",
    ),
    open_question(
        "gradmix_patch",
        "How large should GradMix's patch be, and how should the mix term's weight follow from it?",
        "section 3.2 and Eq 8: the text says side ratio and weight g**2, the code area ratio and weight 1 - area",
        PATCH_ARMS,
        "g=0.1-0.5,w=g2",
    ),
    open_question(
        "gradmix_sign",
        "Should the patch cover what raises the loss or what lowers it?",
        "Eq 5 to 7: the gradient enters with a plus, though covering what was learned asks for a minus",
        SIGN_ARMS,
        "layercam+",
        contrasts=(
            Contrast(arm="layercam-", reference="layercam+"),
            Contrast(arm="gradcam-", reference="gradcam+"),
        ),
    ),
    open_question(
        "gradmix_content",
        "Must the patch show another image, and must both views have one?",
        "section 3.2: the text pastes an image, the code noise in one view",
        CONTENT_ARMS,
        "image_2",
    ),
    open_question(
        "gradmix_k",
        "How many neighbours should the open-set score count, and should it be normalised over classes?",
        "Algorithm 1: k = 10 and no division in the text, mostly k = 3 and a division in the code",
        K_ARMS,
        "k10_raw",
        method="knn_osr",
        scales=scales(*ALL_PROTOCOLS),
        secondary=(ACCURACY,),
        notes=(
            UNPUBLISHED,
            "Each network is trained once, shared with gradmix_layers and gradmix_protocols, and scored twelve times.",
            "The prediction does not depend on the division, so accuracy differs by k alone.",
            "At paper scale the contrasts pool six data sets.",
        ),
    ),
    open_question(
        "gradmix_schedule",
        "One objective throughout, or self-supervised training first?",
        "Eq 8: one objective in the text, two stages in the authors' CIFAR scripts",
        SCHEDULE_ARMS,
        "single",
        notes=(UNPUBLISHED, "The second stage comes on top: this arm trains a little longer.", PAIRED),
    ),
    open_question(
        "gradmix_supcon",
        "Which samples belong in SupCon's denominator?",
        "Eq 2: negatives only in the text, all other samples in the code",
        SUPCON_ARMS,
        "out",
    ),
)
