"""Ablations of GReg: detection of out-of-distribution images by an energy that is flat around training images.

Paper: Gradient-Regularized Out-of-Distribution Detection (GReg), arXiv 2404.12368. `greg_base` is its ablation table;
the others vary what it fixes, and where its text and its code differ.

All fine-tune networks that were pre-trained by cross-entropy, once for all arms of a block. Arms of one size share
blocks and settings, so energy training and GReg are one trial each for all studies, also those of
`search_spaces.greg_evaluations`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import product
from typing import Any

from search_spaces.study import Arm, Block, Contrast, Outcome, Parameter, Published, Scale, Source, Study, Tuning
from trainables import energy_sampling, greg, pretraining
from trainables.greg import ENERGY, GREG, OE, OE_GRAD, POEM, POEM_GRAD, Config
from trainables.protocol import Needed

# --- What is read ----------------------------------------------------------------------------------------------------

FPR = Outcome(metric="fpr95_id_positive", label="FPR95 (known positive)", higher_is_better=False)
AUROC = Outcome(metric="auroc", label="AUROC")
ACCURACY = Outcome(metric="accuracy", label="accuracy on known classes")
DETECTED = (
    AUROC,
    Outcome(metric="fpr95_ood_positive", label="FPR95 (unknown positive)", higher_is_better=False),
    Outcome(metric="aupr_in", label="AUPR-in"),
    Outcome(metric="aupr_out", label="AUPR-out"),
    ACCURACY,
    Outcome(metric="fpr95_id_positive_near", label="FPR95, near sets", higher_is_better=False),
    Outcome(metric="fpr95_id_positive_far", label="FPR95, far sets", higher_is_better=False),
    Outcome(metric="auroc_near", label="AUROC, near sets"),
    Outcome(metric="auroc_far", label="AUROC, far sets"),
)


def own(metric: str, label: str, higher_is_better: bool = False) -> Outcome:
    """A secondary outcome in its own unit."""
    return Outcome(metric=metric, label=label, higher_is_better=higher_is_better, unit=1.0)


STEEPNESS = tuple(
    own(f"grad_norm_{group}", f"slope of the energy, {name}")
    for group, name in (("id", "known"), ("auxiliary", "auxiliary"), ("ood", "out-of-distribution"))
)
READ: Mapping[str, Any] = {"outcome": FPR, "secondary": (*DETECTED, *STEEPNESS)}

# --- Sizes -----------------------------------------------------------------------------------------------------------

PAPER_DATA, SEEDS = "cifar10-random300k", (2, 42, 1234)
ON_DIGITS: Mapping[str, Any] = {"network": "wrn10_2", "flip": False, "padding": 1}
"""A mirrored digit is another one."""
DIGITS = (
    "6 classes of scikit-learn's digits are known. Auxiliary: 2 other digits, and patches of one photograph; near: the "
    "last 2 digits; far: patches of another photograph, and noise"
)
FROM_PICTURES = (
    "CIFAR-10 is known. Auxiliary: 132 classes of TinyImageNet that are unlike CIFAR-10's; near: 44 others; far: "
    "MNIST, Omniglot and noise"
)


def blocks(dataset: str, seeds: Iterable[int] = SEEDS) -> tuple[Block, ...]:
    """One block a seed."""
    return tuple(Block(dataset=dataset, seed=seed) for seed in seeds)


SMOKE = Scale(
    name="smoke",
    blocks=tuple(Block(dataset="digits-ood", split=split, seed=2) for split in range(2)),
    settings={
        **ON_DIGITS,
        "width": 4,
        "epochs": 1,
        "pretraining_epochs": 1,
        "batch": 16,
        "learning_rate": 0.01,
        "gradient_rows": 6,
    },
    data={"side": 16, "per_class": 6, "test_per_class": 4, "auxiliary": 200},
    seconds=0.3,
    note="Checks that everything runs. Its numbers mean nothing.",
)
LAPTOP = Scale(
    name="laptop",
    blocks=tuple(Block(dataset="digits-ood", split=split) for split in range(5)),
    settings={
        **ON_DIGITS,
        "width": 16,
        "epochs": 12,
        "pretraining_epochs": 20,
        "learning_rate": 0.005,
        "evaluate_every": 4,
        "gradient_rows": 64,
    },
    data={"side": 16, "test_per_class": 200},
    seconds=6.0,
    note=f"{DIGITS}, all at 16 x 16. WRN-10 of an eighth of the width; 12 epochs of 8 steps of fine-tuning at five "
    "times the learning rate.",
)
PICTURES = Scale(
    name="pictures",
    blocks=blocks("cifar10-ood"),
    settings={
        "network": "wrn10_2",
        "width": 32,
        "epochs": 6,
        "pretraining_epochs": 20,
        "learning_rate": 0.005,
        "evaluate_every": 3,
        "gradient_rows": 128,
    },
    data={"per_class": 500, "test_per_class": 50, "auxiliary": 30_000},
    seconds=300.0,
    note=f"Real pictures without a GPU. {FROM_PICTURES}. A tenth of CIFAR-10's training images, WRN-10 of half the "
    "width; 6 epochs of fine-tuning.",
)
GPU = Scale(
    name="gpu",
    blocks=blocks("cifar10-ood"),
    settings={"pretraining_epochs": 50, "precision": "bf16", "channels_last": True, "evaluate_every": 5},
    gpus=0.5,
    cpus=2.0,
    note=f"{FROM_PICTURES}. WRN-40-2, all of CIFAR-10, half of the pre-training, bf16, two trials to a GPU. Not "
    "measured.",
)
PAPER = Scale(
    name="paper",
    blocks=blocks(PAPER_DATA),
    gpus=1.0,
    note="CIFAR-10 with 300K RandomImages, WRN-40-2, 100 epochs of pre-training, 20 of fine-tuning; the six usual test "
    "sets, all far ones.",
)
SCALES = (SMOKE, LAPTOP, PICTURES, GPU, PAPER)


# --- What all studies say in the same way ----------------------------------------------------------------------------


def printed(where: str) -> Source:
    """A part of the paper, or of the specification that its code was read for."""
    return Source(paper="GReg, arXiv 2404.12368", where=where, repository="o4lc/Greg-OOD@6ea4ff0")


def tuned(config: Config, **fields: Any) -> Config:
    """A config that starts from a network pre-trained by cross-entropy."""
    shared = {name: fields[name] for name in ("network", "width") if name in fields}
    return replace(config, start=Needed("pretraining", pretraining.Config(**shared)), **fields)


def against(reference: str, arms: Iterable[Arm | str], **fields: Any) -> tuple[Contrast, ...]:
    """Every other arm against the reference."""
    names = (arm if isinstance(arm, str) else arm.name for arm in arms)
    return tuple(Contrast(arm=name, reference=reference, **fields) for name in names if name != reference)


def numbers(
    table: Mapping[str, tuple[float | None, ...]], where: str, dataset: str = PAPER_DATA
) -> tuple[Published, ...]:
    """FPR95 and AUROC as a table prints them, for CIFAR-10 unless another set is named: name -> per cent."""
    return tuple(
        Published(arm=name, dataset=dataset, metric=metric, value=value, where=f"{where}, {name}")
        for name, row in table.items()
        for metric, value in zip(("fpr95_id_positive", "auroc"), row, strict=False)
        if value is not None
    )


LAST = "The last epoch counts; the paper does not say which it reports."
SIX = "Printed numbers are means over Textures, SVHN, Places365, LSUN-C, LSUN-R and iSUN; small sizes have other sets."
TWO_FPRS = (
    "FPR95 with known images positive is the usual one, and the paper's; OpenOOD and pytorch-ood print the other one, "
    "which is another number. Both are given, never mixed."
)
APART = (
    "No class of known or evaluated images is in the auxiliary set, and no image either: both are checked when data "
    "are prepared, and what is found twice is left out or refused."
)
UNPUBLISHED = "Not in the paper: the question comes from what it fixes, or from where its text and its code differ."
RATE = "The paper gives no learning rate for fine-tuning; 0.001 is energy training's."
COMMON = (LAST, TWO_FPRS, APART)


def study(name: str, question: str, where: str, arms: tuple[Arm, ...], baseline: str, **fields: Any) -> Study:
    """A study of fine-tuned networks, every arm against the baseline."""
    defaults: dict[str, Any] = {
        "method": "greg",
        "scales": SCALES,
        "contrasts": against(baseline, arms),
        "notes": (UNPUBLISHED, *COMMON, RATE),
    }
    return Study(
        name=name,
        question=question,
        source=printed(where),
        arms=arms,
        baseline=baseline,
        **{**defaults, **READ, **fields},
    )


# --- G1: base losses -------------------------------------------------------------------------------------------------

TABLE_ABLATION = {
    "oe": (21.76, 95.80),
    "oe_grad": (18.79, 96.32),
    "energy": (11.26, 97.43),
    "energy_grad": (7.93, 98.12),
    "poem": (29.15, 94.18),
    "poem_grad": (23.87, 95.41),
}
BASES: Mapping[str, tuple[Config, str]] = {
    "oe": (OE, "OE"),
    "oe_grad": (OE_GRAD, "OE + Grad"),
    "energy": (ENERGY, "Energy"),
    "energy_grad": (GREG, "Energy + Grad (GReg)"),
    "poem": (POEM, "POEM"),
    "poem_grad": (POEM_GRAD, "POEM + Grad"),
}
BASE_SCALES = (
    SMOKE,
    replace(
        LAPTOP,
        blocks=tuple(Block(dataset="digits-ood", split=split, seed=seed) for seed in (0, 5) for split in range(5)),
    ),
    PICTURES,
    GPU,
    replace(
        PAPER,
        settings={"network": "densenet_bc_100_12"},
        note="CIFAR-10 with 300K RandomImages, DenseNet-BC-100-12: the ablation names no network, and its rows of "
        "energy training are those of DenseNet in the main table.",
    ),
)
BASE = study(
    "greg_base",
    "Does flattening the score around training images help, whatever the score is trained with?",
    "ablation table on CIFAR-10",
    tuple(
        Arm(
            name=name,
            label=label,
            config=tuned(config),
            factors={"base": name.removesuffix("_grad"), "gradient": name.endswith("_grad")},
        )
        for name, (config, label) in BASES.items()
    ),
    "energy",
    scales=BASE_SCALES,
    contrasts=tuple(Contrast(arm=f"{base}_grad", reference=base) for base in ("oe", "energy", "poem")),
    published=numbers(TABLE_ABLATION, "ablation table"),
    claim="Yes: FPR95 falls by 3.0 points with OE, 3.3 with energy, 5.3 with POEM.",
    notes=(
        *COMMON,
        SIX,
        RATE,
        "OE and POEM with a gradient term are not in the public code. Here OE's score is the largest probability, with "
        "no indicator; POEM is energy training on auxiliary images chosen by posterior sampling.",
        "How long the table's OE and POEM were trained is not said: here as long as energy training, from the same "
        "networks. POEM's own code trains from scratch.",
        "The code's gradient term is the paper's over the number of rows of a step (128 at batch 64), so its weight of "
        "1 is 1/128 in the paper's formula: `greg_normalisation`.",
    ),
)

# --- G2: lambda ------------------------------------------------------------------------------------------------------

LAM_SCORE, LAM_GRADIENT = (0.0, 0.01, 0.05, 0.1, 0.5, 1.0), (0.0, 0.1, 1.0, 10.0)


def lam_name(score: float, gradient: float) -> str:
    """Arm of one pair of weights."""
    return f"S={score:g};G={gradient:g}"


LAMBDA = study(
    "greg_lambda",
    "How much do hinges and gradient term have to weigh?",
    "implementation details: lambda_S = 0.1, lambda_gradS = 1",
    tuple(
        Arm(
            name=lam_name(score, gradient),
            config=tuned(replace(GREG if gradient else ENERGY, lam_score=score, lam_gradient=gradient)),
            factors={"lambda_S": score, "lambda_gradS": gradient},
        )
        for score, gradient in product(LAM_SCORE, LAM_GRADIENT)
    ),
    lam_name(0.1, 1.0),
)

# --- G3: normalisation -----------------------------------------------------------------------------------------------

PAPERS_WEIGHTS = {
    "0": 0.0,
    "1/1024": 1 / 1024,
    "1/192": 1 / 192,
    "1/128": 1 / 128,
    "1/32": 1 / 32,
    "0.1": 0.1,
    "1": 1.0,
    "10": 10.0,
}
NORMALISATION = study(
    "greg_normalisation",
    "How much does it matter that the code's gradient term is the paper's over the number of rows of a step?",
    "equation of the gradient term; its weight is 1 in the text and in the code",
    (
        Arm(name="code=1", label="code, 1", config=tuned(GREG)),
        *(
            Arm(
                name=f"paper={name}",
                label=f"paper, {name}",
                config=tuned(replace(GREG, reduction="paper", lam_gradient=value) if value else ENERGY),
            )
            for name, value in PAPERS_WEIGHTS.items()
        ),
    ),
    "code=1",
    notes=(
        UNPUBLISHED,
        *COMMON,
        RATE,
        "A step has 64 known and 64 auxiliary rows, so 1/128 in the paper's formula is what the code's 1 is, up to "
        "rounding; with two-way sampling (192 rows) it is 1/192.",
    ),
)

# --- G4: margins -----------------------------------------------------------------------------------------------------

M_IN, M_AUX = (-35.0, -30.0, -25.0, -20.0, -15.0), (-15.0, -10.0, -7.0, -5.0, -2.0)


def margin_name(m_in: float, m_aux: float) -> str:
    """Arm of one pair of margins."""
    return f"in={m_in:g};aux={m_aux:g}"


MARGINS = study(
    "greg_energy_margins",
    "How far apart should the energies of known and auxiliary images be driven?",
    "the code's margins, -25 and -7, for every data set; the text gives none",
    tuple(
        Arm(name=margin_name(m_in, m_aux), config=tuned(replace(GREG, m_in=m_in, m_aux=m_aux)))
        for m_in, m_aux in product(M_IN, M_AUX)
        if m_in < m_aux
    ),
    margin_name(-25.0, -7.0),
    secondary=(
        *DETECTED,
        own("hinge_id", "share of known rows within their margin"),
        own("hinge_auxiliary", "share of auxiliary rows within theirs"),
        own("indicator_id", "share of known rows whose gradient counts", True),
        own("indicator_auxiliary", "share of auxiliary rows whose gradient counts", True),
    ),
    notes=(
        UNPUBLISHED,
        *COMMON,
        RATE,
        "Energies are about -log K before training, so margins mean something else for other numbers of classes. The "
        "pair (-15, -15) leaves no room and is not run.",
    ),
)

# --- G5: indicator, norm, where --------------------------------------------------------------------------------------


def term_name(indicator: str, norm: str, where: str) -> str:
    """Arm of one form of the gradient term."""
    return f"{indicator};{norm};{where}"


FORMS: tuple[tuple[Any, Any, Any], ...] = tuple(
    product(("on", "off", "reversed"), ("l2", "l2_squared", "l1"), ("both", "id", "aux"))
)
INDICATOR = study(
    "greg_indicator",
    "Whose gradients should be small, and in which norm?",
    "equation of the gradient term: L2, of rows that are right already, of both groups",
    tuple(
        Arm(
            name=term_name(indicator, norm, where),
            config=tuned(replace(GREG, indicator=indicator, norm=norm, where=where)),
            factors={"indicator": indicator, "norm": norm, "where": where},
        )
        for indicator, norm, where in FORMS
    ),
    term_name("on", "l2", "both"),
    notes=(
        UNPUBLISHED,
        *COMMON,
        RATE,
        "The weight is the same for all norms, though their sizes differ by orders of magnitude.",
    ),
)

# --- G6: sampling ----------------------------------------------------------------------------------------------------

WAYS: tuple[greg.Sampling, ...] = ("one_way", "two_way")
CLUSTERS = (8, 16, 32, 64, 128)
REPRESENTATIONS: tuple[energy_sampling.Representation, ...] = ("raw", "dimension", "mean_norm")
"""Beside "norm"; a config can name two more."""
IMAGENET = (
    "On ImageNet with 10 known classes (`greg_imagenet`) the paper prints an FPR95 of 35.08 with sampling, and 47.26 "
    "without it, which is worse than energy training's 45.23."
)
SAMPLING = study(
    "greg_sampling",
    "Which auxiliary images should a step see?",
    "energy-based clustering",
    (
        Arm(name="random", label="random", config=tuned(GREG)),
        Arm(name="greedy", label="lowest energies", config=tuned(replace(GREG, sampling="greedy"))),
        *(
            Arm(
                name=f"{way};k={k}",
                label=f"{way.replace('_', '-')}, k = {k}",
                config=tuned(replace(GREG, sampling=way, clusters=k)),
            )
            for way, k in product(WAYS, CLUSTERS)
        ),
        *(
            Arm(
                name=f"{way};{kind}",
                label=f"{way.replace('_', '-')}, k = 64, {kind.replace('_', ' ')}",
                config=tuned(replace(GREG, sampling=way, clusters=64, representation=kind)),
            )
            for way, kind in product(WAYS, REPRESENTATIONS)
        ),
    ),
    "random",
    claim="Clusters keep what is sampled diverse; lowest and highest energies of each serve the two terms of the loss.",
    notes=(
        *COMMON,
        RATE,
        IMAGENET,
        "In the code all sampled rows go into both terms, which the hinge and the indicator sort out. Two-way sampling "
        "has twice as many rows.",
        "Features as they are and features divided by their mean length differ by one factor: the clusters are the "
        "same, so are the numbers.",
        "The paper has no such grid on CIFAR-10: its numbers for sampling are from scratch (`greg_scratch`).",
    ),
)

# --- G7: batch norm --------------------------------------------------------------------------------------------------

BN = study(
    "greg_bn",
    "Does it matter how batch norm behaves in the gradient's pass?",
    "unsaid in the text; the code's second pass is in training mode and moves the running statistics again",
    (
        Arm(name="train_twice", label="batch statistics, two updates (as released)", config=tuned(GREG)),
        Arm(name="train_once", label="batch statistics, one update", config=tuned(replace(GREG, updates="once"))),
        Arm(
            name="eval",
            label="running statistics",
            config=tuned(replace(GREG, gradient_batch_norm="eval", updates="once")),
        ),
    ),
    "train_twice",
)

# --- Tuning ----------------------------------------------------------------------------------------------------------


def for_tuning(scale: Scale) -> Scale:
    """The scale on seeds that no other study reports."""
    seen = [replace(block, seed=block.seed + 10_000) for block in scale.blocks]
    return replace(scale, blocks=tuple(seen[: 1 if scale.name == "smoke" else 2]))


TUNE = Study(
    name="greg_tune",
    question="Which weights and margins of GReg detect most without costing accuracy?",
    source=printed("the four weights that the paper fixes"),
    method="greg",
    arms=(Arm(name="paper", label="as in the paper", config=tuned(GREG)),),
    baseline="paper",
    scales=tuple(for_tuning(scale) for scale in SCALES),
    outcome=FPR,
    secondary=(ACCURACY, AUROC),
    tuning=Tuning(
        parameters=(
            Parameter(name="lam_score", low=0.01, high=1.0, log=True),
            Parameter(name="lam_gradient", low=0.01, high=100.0, log=True),
            Parameter(name="m_in", low=-35.0, high=-10.0),
            Parameter(name="m_aux", low=-9.0, high=-2.0),
        ),
        objectives=("fpr95_id_positive", "accuracy"),
        configurations={"smoke": 3, "laptop": 20, "pictures": 20, "gpu": 60, "paper": 60},
        round=4,
    ),
    notes=(
        "Not in the paper, which fixes these values. Its own come first.",
        "The seeds are none that another study reports, so what is found can be compared there.",
        "The gradient term's weight ranges from the code's normalisation to the paper's, which differ by the number of "
        "rows of a step.",
        *COMMON,
        RATE,
    ),
)

STUDIES = (BASE, LAMBDA, NORMALISATION, MARGINS, INDICATOR, SAMPLING, BN, TUNE)
