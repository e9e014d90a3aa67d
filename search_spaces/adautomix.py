"""Ablations of AdAutoMix: the tables and figures of the paper, and where its text and its code differ.

Paper: Adversarial AutoMixup, ICLR 2024 (hal-04655281). `adautomix_n`, `adautomix_lambda`, `adautomix_alpha` and
`adautomix_beta`, `adautomix_losses`, `adautomix_adversarial` and `adautomix_methods` are its Tables 10 and 9, Figure 6,
Tables 5 and 8, Figure 10, Tables 1 and 11; `adautomix_objective` and `adautomix_embedding` vary what differs.

Arms of one size share blocks and settings, so AdAutoMix as released is one trial for all studies; at the paper's size
`adautomix_methods` has more epochs.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Any

from search_spaces.study import Arm, Block, Contrast, Outcome, Published, Scale, Source, Study
from trainables.adautomix import ADAUTOMIX, AUTOMIX, BY_HAND, EQ15, Config, Mix

MEDIAN = Outcome(metric="accuracy_median10", label="top-1 accuracy, median of the last ten epochs")
LAST = Outcome(metric="accuracy", label="top-1 accuracy, last epoch")
BEST = Outcome(metric="accuracy_best", label="top-1 accuracy, best epoch on the test set")
TOP5 = Outcome(metric="accuracy_top5_median10", label="top-5 accuracy, median of the last ten epochs")
NLL = Outcome(metric="nll", label="negative log-likelihood", higher_is_better=False, unit=1.0)
ECE15 = Outcome(metric="ece_15", label="calibration error, 15 bins", higher_is_better=False)
HEADS = tuple(
    Outcome(metric=f"accuracy_{whose}_{head}_median10", label=f"{whose}, {head} head, median of the last ten epochs")
    for whose in ("teacher", "student")
    for head in ("one", "mix")
)
READ: Mapping[str, Any] = {
    "outcome": MEDIAN,
    "secondary": (LAST, BEST, TOP5, *HEADS, NLL, ECE15),
    "figures": ("mixes",),
}

# --- Sizes: one set of blocks and settings for all studies -----------------------------------------------------------

CIFAR100 = "cifar100-closed"
TINY = "tinyimagenet-closed"
ON_DIGITS: Mapping[str, Any] = {"flip": False, "padding": 1}
"""A mirrored digit is another one."""


def seeds(dataset: str, count: int) -> tuple[Block, ...]:
    """One block a seed: these data sets have one split into training and test images."""
    return tuple(Block(dataset=dataset, seed=seed) for seed in range(count))


SHORT = (
    "The teacher's memory is cut to the run's length, and the generator starts with larger weights: as released, the "
    "teacher would stay where it began, and all masks even."
)
QUICK: Mapping[str, Any] = {"generator_rate": 0.1, "generator_std": 0.1}
"""For a narrow network, whose features give little attention to begin with, and hundreds of steps instead of 100,000.
Seen on digits: with the released values masks are still even after 30 epochs; at thrice this rate AutoMix's become all
of one image."""
SMOKE = Scale(
    name="smoke",
    blocks=seeds("digits-closed", 2),
    settings={**ON_DIGITS, "width": 4, "epochs": 1, "batch": 16, "learning_rate": 0.05, "ema": 0.5, "ema_end": 0.9},
    data={"side": 16, "per_class": 4, "test_per_class": 4},
    seconds=0.5,
    note="Checks that everything runs. Its numbers mean nothing.",
)
LAPTOP = Scale(
    name="laptop",
    blocks=tuple(Block(dataset="digits-closed", split=split, seed=split) for split in range(5)),
    settings={
        **{**ON_DIGITS, **QUICK, "ema": 0.9, "ema_end": 0.999},
        **{"width": 8, "epochs": 30, "batch": 32, "learning_rate": 0.05},
    },
    data={"side": 16, "per_class": 40, "test_per_class": 60},
    seconds=21.0,
    note="scikit-learn's digits at 16 x 16, 40 images a class, and an eighth of the network's width, 30 epochs at half "
    "the learning rate: mixing pays off late, and here nearly every method ends above 95%. " + SHORT,
)
PICTURES = Scale(
    name="pictures",
    blocks=seeds("cifar10-closed", 3),
    settings={
        **{**QUICK, "ema": 0.99, "ema_end": 0.9999},
        **{"width": 8, "epochs": 15, "learning_rate": 0.1, "evaluate_every": 3},
    },
    data={"per_class": 500, "test_per_class": 200},
    seconds=400.0,
    note="Real pictures without a GPU: CIFAR-10 at its own 32 x 32, a tenth of the training images, an eighth of the "
    "width, a thirteenth of the epochs: early training of a small network. " + SHORT,
)
GPU = Scale(
    name="gpu",
    blocks=seeds("cifar10-closed", 5),
    settings={"epochs": 30, "ema": 0.993, "ema_end": 0.99999, "precision": "bf16", "channels_last": True},
    gpus=0.25,
    cpus=2.0,
    note="All of CIFAR-10 and the paper's network for a seventh of its epochs, bf16, four trials to a GPU. Not "
    "measured. The teacher's memory is cut to the run's length.",
)
PAPER = Scale(
    name="paper",
    blocks=seeds(CIFAR100, 3),
    settings={"epochs": 200},
    gpus=1.0,
    note="CIFAR-100, ResNet-18, 200 epochs, 3 seeds, as the code runs it.",
)
SCALES = (SMOKE, LAPTOP, PICTURES, GPU, PAPER)

# --- What all studies say in the same way ----------------------------------------------------------------------------


def printed(where: str) -> Source:
    """An experiment of the paper."""
    return Source(
        paper="AdAutoMix, Adversarial AutoMixup, ICLR 2024", where=where, repository="JinXins/Adversarial-AutoMixup"
    )


def against(reference: str, names: Iterable[str], **fields: Any) -> tuple[Contrast, ...]:
    """Every other arm against the reference."""
    return tuple(Contrast(arm=name, reference=reference, **fields) for name in names if name != reference)


def numbers(
    rows: Mapping[str, float], table: str, metric: str = "accuracy_median10", dataset: str = CIFAR100
) -> tuple[Published, ...]:
    """What a table prints: name -> per cent."""
    return tuple(
        Published(arm=name, dataset=dataset, metric=metric, value=value, where=f"{table}, {name}")
        for name, value in rows.items()
    )


PROTOCOL = (
    "As in the released runs, AdAutoMix and AutoMix are judged by the teacher's one-hot head, mixes by hand by the "
    "plain network, all by the median of the last ten epochs (of so many as were evaluated). Released logs put the "
    "student seven points below its teacher. The other networks, heads, the last and the best epoch stand beside it."
)
CIFAR100_ONLY = "Printed numbers are for CIFAR-100, means of 3 runs; the small sizes use other data."
ABLATED = (
    "The text says that ablations have 200 epochs, and so has scale 'paper'; 82.32 and 78.04 are the values after 800 "
    "epochs of the main table."
)
UNPUBLISHED = "Not in the paper: the question comes from where its text and its code differ."


def adautomix(**fields: Any) -> Config:
    """AdAutoMix as released, with these fields changed."""
    return replace(ADAUTOMIX, **fields)


# --- Table 10: how many images ---------------------------------------------------------------------------------------

TABLE10 = {  # N: top-1, top-5
    "N=1": (78.04, 94.60),
    "N=2": (82.16, 95.88),
    "N=3": (82.32, 95.92),
    "N=4": (81.78, 95.68),
    "N=5": (80.79, 95.80),
}
N_ARMS = (
    Arm(name="N=1", label="N = 1: no mixing", config=BY_HAND),
    *(Arm(name=f"N={n}", label=f"N = {n}", config=adautomix(images=n)) for n in (2, 3, 4, 5)),
)
IMAGES = Study(
    name="adautomix_n",
    question="How many images should AdAutoMix mix together?",
    source=printed("Table 10"),
    method="adautomix",
    arms=N_ARMS,
    baseline="N=3",
    scales=SCALES,
    **READ,
    contrasts=against("N=3", (arm.name for arm in N_ARMS)),
    published=(
        *numbers({name: row[0] for name, row in TABLE10.items()}, "Table 10"),
        *numbers({name: row[1] for name, row in TABLE10.items()}, "Table 10, top-5", "accuracy_top5_median10"),
    ),
    claim="Three, a little ahead of two; more images lose up to a point and a half, and all gain over none.",
    notes=(
        PROTOCOL,
        CIFAR100_ONLY,
        ABLATED,
        "N = 2 differs from the others in the code in more than N: it has no linear mixes and weighs the clean images "
        "twice as much.",
        "Printed seconds an iteration are 1.13 (N = 2) and 1.53 (N = 3) times those without mixing. By the number of "
        "passes through the networks the floors are 3.0 and 4.0, so the printed run without mixing must have waited "
        "for its data loader.",
    ),
)

# --- Table 9: the law of lambda --------------------------------------------------------------------------------------

TABLE9 = {0.2: (82.27, 84.22), 1.0: (82.32, 84.40), 2.0: (81.73, 83.99), 5.0: (80.02, 84.31), 10.0: (81.05, 83.63)}
LAMBDA_ARMS = tuple(
    Arm(name=f"lambda={c:g}", label=f"lambda = {c:g}", config=adautomix(concentration=c)) for c in TABLE9
)
LAMBDA = Study(
    name="adautomix_lambda",
    question="How much does AdAutoMix depend on the Beta distribution of its mixing ratios?",
    source=printed("Table 9"),
    method="adautomix",
    arms=LAMBDA_ARMS,
    baseline="lambda=1",
    scales=SCALES,
    **READ,
    contrasts=against("lambda=1", (arm.name for arm in LAMBDA_ARMS)),
    published=(
        *numbers({f"lambda={c:g}": row[0] for c, row in TABLE9.items()}, "Table 9, ResNet-18"),
        *numbers({f"ResNeXt-50, lambda={c:g}": row[1] for c, row in TABLE9.items()}, "Table 9"),
    ),
    claim="1 is best; ResNet-18 loses more than two points at 5, ResNeXt-50 less than one anywhere.",
    notes=(
        PROTOCOL,
        CIFAR100_ONLY,
        ABLATED,
        "ResNeXt-50's numbers are of 200 epochs, ResNet-18's of 800, by the authors' own tables. "
        "`--set network=resnext50` runs the former.",
        "The ratios of three images are independent Betas divided by their sum, which is no Dirichlet distribution.",
    ),
)

# --- Figure 6: alpha and beta ----------------------------------------------------------------------------------------

SWEPT = (0.1, 0.3, 0.5, 0.7, 0.9)
IN_A_FIGURE = "The values are in a figure alone, and are not quoted here."


def sweep(field: str, default: float, question: str, claim: str, note: str) -> Study:
    """A study of one weight."""
    arms = tuple(
        Arm(name=f"{field}={value:g}", label=f"{field} = {value:g}", config=adautomix(**{field: value}))
        for value in SWEPT
    )
    baseline = f"{field}={default:g}"
    return Study(
        name=f"adautomix_{field}",
        question=question,
        source=printed("Figure 6"),
        method="adautomix",
        arms=arms,
        baseline=baseline,
        scales=SCALES,
        **READ,
        contrasts=against(baseline, (arm.name for arm in arms)),
        claim=claim,
        notes=(PROTOCOL, IN_A_FIGURE, note),
    )


ALPHA = sweep(
    "alpha",
    0.5,
    "How should AdAutoMix weigh linear mixes against clean images?",
    "Equally: alpha = 0.5.",
    "alpha weighs linear mixes, 1 - alpha clean images; generated images always count 1.",
)
BETA = sweep(
    "beta",
    0.3,
    "How should AdAutoMix's generator weigh the teacher's cross-entropy against the cosine?",
    "beta = 0.3.",
    "In the code beta acts at every second step alone: at the others the generator minimises the teacher's "
    "cross-entropy, whatever beta is.",
)

# --- Tables 5 and 8: which losses ------------------------------------------------------------------------------------

LOSSES: Mapping[str, tuple[str, tuple[str, ...], float]] = {  # arm: label, terms, printed
    "base": ("mixed images only", (), 79.38),
    "clean": ("and clean images", ("clean",), 79.98),
    "linear": ("and linear mixes", ("clean", "linear"), 80.04),
    "teacher": ("and the teacher's cross-entropy", ("clean", "linear", "teacher"), 81.32),
    "cosine": ("and the cosine", ("clean", "linear", "teacher", "cosine"), 81.55),
}
STEPS = tuple(LOSSES)
LOSS_TERMS = Study(
    name="adautomix_losses",
    question="What does each loss of AdAutoMix add?",
    source=printed("Tables 5 and 8"),
    method="adautomix",
    arms=tuple(
        Arm(name=name, label=label, config=adautomix(**EQ15, terms=terms)) for name, (label, terms, _) in LOSSES.items()
    ),
    baseline="base",
    scales=SCALES,
    **READ,
    contrasts=(
        *(Contrast(arm=after, reference=before, family="each step") for before, after in pairwise(STEPS[1:])),
        *against("base", STEPS),
    ),
    published=numbers({name: value for name, (_, _, value) in LOSSES.items()}, "Table 8, ResNet-18, 200 epochs"),
    claim="Clean images and linear mixes add 0.7 points, the teacher's cross-entropy 1.3, the cosine another 0.2.",
    notes=(
        PROTOCOL,
        CIFAR100_ONLY,
        "With the paper's objective (eq15), where the student's loss alone can train the generator. The released code "
        "cannot run the first three arms: its generator has no signal but the teacher's, and its clean loss cannot be "
        "left out. So the printed numbers are of an objective that the released code does not have.",
        "Table 5 prints three of the five.",
    ),
)

# --- Figure 10: the adversary ----------------------------------------------------------------------------------------

ADVERSARIAL = Study(
    name="adautomix_adversarial",
    question="Does it help that AdAutoMix's generator works against the classifier?",
    source=printed("Figure 10"),
    method="adautomix",
    arms=(
        Arm(name="every_other", label="adversarial at every other step", config=ADAUTOMIX),
        Arm(name="never", label="cooperative", config=adautomix(generator_objective="cooperative")),
        Arm(name="always", label="adversarial at every step", config=adautomix(adversarial_every=1)),
    ),
    baseline="never",
    scales=SCALES,
    **READ,
    contrasts=against("never", ("every_other", "always")),
    claim="With the adversary accuracy is higher throughout training.",
    notes=(
        PROTOCOL,
        IN_A_FIGURE,
        "In the code the adversary is the teacher's loss, never the student's, and every second step is cooperative. "
        "An adversary at every step is in neither the paper nor the code.",
    ),
)

# --- Tables 1 and 11: methods ----------------------------------------------------------------------------------------

TABLE1 = {  # CIFAR-100 with 800 epochs, Tiny-ImageNet with 400; ResNet-18
    "vanilla": (78.04, 61.68),
    "mixup": (79.12, 63.86),
    "cutmix": (78.17, 65.53),
    "saliencymix": (79.12, 64.60),
    "fmix": (79.69, 63.47),
    "PuzzleMix": (81.13, 65.81),
    "resizemix": (80.01, 63.74),
    "automix": (82.04, 67.33),
    "adautomix": (82.32, 69.19),
}
TABLE11 = {
    "Baseline, 200 epochs": 76.42,
    "MixUp, 200 epochs": 78.52,
    "DADA, 200 epochs": 78.86,
    "ME-ADA, 200 epochs": 77.45,
    "SAMix (spectral), 200 epochs": 54.01,
    "AdAutoMix, 200 epochs": 81.55,
}
CONTROL: Mapping[str, Any] = {"floor": 0.5, "scored": "teacher", "teacher_norms": "own"}
"""What AdAutoMix has beside its images: the teacher is judged, and the learning rate ends at half."""


def by_hand(mix: Mix, label: str, concentration: float = 1.0) -> Arm:
    """A mix that needs no network, as in OpenMixup."""
    return Arm(name=mix, label=label, config=replace(BY_HAND, mix=mix, concentration=concentration))


METHOD_ARMS = (
    by_hand("vanilla", "Vanilla"),
    by_hand("mixup", "MixUp"),
    by_hand("cutmix", "CutMix", 0.2),
    by_hand("saliencymix", "SaliencyMix", 0.2),
    by_hand("fmix", "FMix", 0.2),
    by_hand("resizemix", "ResizeMix"),
    Arm(
        name="automix",
        label="AutoMix",
        config=AUTOMIX,
        per_dataset={TINY: {"floor": 0.25, "generator_rate": 0.1, "generator_floor": 0.01}},
    ),
    Arm(
        name="adautomix",
        label="AdAutoMix",
        config=ADAUTOMIX,
        per_dataset={TINY: {"beta": 0.4, "floor": 0.0, "generator_rate": 0.1, "generator_floor": 0.0}},
    ),
    Arm(
        name="vanilla_teacher",
        label="Vanilla, its average judged",
        config=replace(BY_HAND, **CONTROL),
        per_dataset={TINY: {"floor": 0.0}},
    ),
    Arm(
        name="mixup_teacher",
        label="MixUp, its average judged",
        config=replace(BY_HAND, mix="mixup", **CONTROL),
        per_dataset={TINY: {"floor": 0.0}},
    ),
)
METHODS = Study(
    name="adautomix_methods",
    question="Is AdAutoMix more accurate than other mixes, and how much of that is its averaged teacher?",
    source=printed("Tables 1 and 11, ResNet-18"),
    method="adautomix",
    arms=METHOD_ARMS,
    baseline="adautomix",
    scales=(
        *SCALES[:-1],
        replace(
            PAPER,
            blocks=(*seeds(CIFAR100, 3), *seeds(TINY, 3)),
            settings={},
            dataset_settings={
                CIFAR100: {"epochs": 800},
                TINY: {"epochs": 400, "learning_rate": 0.2, "padding": 0, "crop": True},
            },
            note="CIFAR-100 with 800 epochs and Tiny-ImageNet with 400, ResNet-18, 3 seeds, as the code runs them.",
        ),
    ),
    **READ,
    contrasts=(
        *against("adautomix", (arm.name for arm in METHOD_ARMS)),
        Contrast(arm="vanilla_teacher", reference="vanilla", family="teacher"),
        Contrast(arm="mixup_teacher", reference="mixup", family="teacher"),
    ),
    published=(
        *numbers({name: row[0] for name, row in TABLE1.items()}, "Table 1, ResNet-18, 800 epochs"),
        *numbers({name: row[1] for name, row in TABLE1.items()}, "Table 1, ResNet-18, 400 epochs", dataset=TINY),
        *numbers(TABLE11, "Table 11, ResNet-18"),
    ),
    claim="AdAutoMix is best, 0.3 points over AutoMix and four over no mixing on CIFAR-100; the others lie between.",
    notes=(
        PROTOCOL,
        "The paper compares averaged teachers of two methods with the plain networks of the others. Two arms that are "
        "not in the paper judge the averages of Vanilla and MixUp, trained with AdAutoMix's learning rates.",
        "PuzzleMix, DADA, ME-ADA and the spectral SAMix are not run here; their numbers are the paper's. OpenMixup's "
        "SAMix is another method.",
        "`--set epochs=200` trains what Table 11 prints.",
        "The table's other networks: `--set network=resnext50`; Swin-T and ConvNeXt-T differ in many fields, see SWIN "
        "in `trainables/adautomix.py`.",
        "Tiny-ImageNet's crops are bilinear here and bicubic in the code.",
    ),
)

# --- What the text and the code leave open ---------------------------------------------------------------------------


def open_question(
    name: str, question: str, where: str, arms: Mapping[str, tuple[Config, str]], notes: tuple[str, ...]
) -> Study:
    """A study against AdAutoMix as released, which is the first arm."""
    baseline = next(iter(arms))
    return Study(
        name=name,
        question=question,
        source=printed(where),
        method="adautomix",
        arms=tuple(Arm(name=arm, config=config, label=label) for arm, (config, label) in arms.items()),
        baseline=baseline,
        scales=SCALES,
        **READ,
        contrasts=against(baseline, arms),
        notes=(UNPUBLISHED, PROTOCOL, *notes),
    )


OBJECTIVE = open_question(
    "adautomix_objective",
    "Does it matter what AdAutoMix's generator is trained for: the paper's objective, the code's, or no adversary?",
    "Eq 15 and Algorithm 1 against the released code",
    {
        "official": (ADAUTOMIX, "as in the code"),
        "official_same": (adautomix(same_mix=True, margin=0.0), "as in the code, on the student's images"),
        "eq15": (adautomix(**EQ15), "Eq 15, in one step"),
        "eq15_loops": (adautomix(**EQ15, updates="alternating"), "Eq 15, in turn"),
        "cooperative": (adautomix(generator_objective="cooperative"), "cooperative, as AutoMix"),
    },
    (
        "The two pull in opposite directions: Eq 15 has the generator raise the student's loss while the teacher still "
        "recognises the images; in the code it raises the teacher's loss at every second step and lowers the likeness "
        "to the clean images, and the student's loss has no part in it.",
        "Eq 15 needs the student's own images, so it shares them; official_same shares them with the code's objective.",
        "The paper gives no numbers of inner steps: one of each.",
    ),
)
EMBEDDING = open_question(
    "adautomix_embedding",
    "Does AdAutoMix's generator need to be told the mixing ratios?",
    "section 3.2 (always embedded) against the released CIFAR-100 and Tiny-ImageNet configs (not)",
    {
        "off": (ADAUTOMIX, "not told"),
        "on": (adautomix(embed_lam=True), "a channel of the features"),
    },
    ("Without it masks do not depend on the ratios, though the labels do.",),
)

STUDIES = (IMAGES, LAMBDA, ALPHA, BETA, LOSS_TERMS, ADVERSARIAL, METHODS, OBJECTIVE, EMBEDDING)
