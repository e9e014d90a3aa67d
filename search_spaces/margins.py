"""Ablations of open-set losses with margins: the tables of a thesis, and the questions its text and code leave open.

Paper: L. van den Bergh, Improved Losses for Open-Set Classification, master's thesis, University of Zurich, 2023. T1
and T4 to T8 ask what its chapters 6 and 7 claim, with the numbers of Table 6.1; I1 is Table 6.2 on ImageNet; T2, T3,
T9 to T11 and I2 vary what it fixes.

All arms of a size share blocks and settings, so a loss that several studies contain is trained once for all of them.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import Any, Literal

from search_spaces.study import Arm, Block, Contrast, Outcome, Published, Scale, Source, Study
from trainables.margin_scores import Config as Scoring
from trainables.margins import LOSSES, Config, named
from trainables.protocol import Needed

LABELS: Mapping[str, str] = {
    "softmax": "Softmax",
    "sm_softmax": "SM-Softmax",
    "sphereface": "SphereFace",
    "cosface": "CosFace",
    "arcface": "ArcFace",
    "sfn_norm": "SFN-Norm (centres normalised)",
    "sfn_norm_raw": "SFN-Norm (as run)",
    "cosface_sfn": "SFN-CosFace",
    "arcface_sfn": "SFN-ArcFace",
    "entropic": "EOS",
    "objectosphere": "Objectosphere",
    "softmax_os": "Norm-OS",
    "cos_os": "Cos-OS",
    "arc_os": "Arc-OS",
    "cos_os_non_symmetric": "Cos-OS (not symmetric)",
    "arc_os_non_symmetric": "Arc-OS (not symmetric)",
    "norm_eos": "Norm-EOS",
    "cos_eos": "Cos-EOS",
    "arc_eos": "Arc-EOS",
    "cos_eos_sfn": "Cos-EOS (SFN)",
    "arc_eos_sfn": "Arc-EOS (SFN)",
    "cos_eos_sfn_as_run": "Cos-EOS (SFN, as run: HFN)",
    "arc_eos_sfn_as_run": "Arc-EOS (SFN, as run: HFN)",
}
"""The thesis's names of its losses."""

# --- What is read ----------------------------------------------------------------------------------------------------

ACCURACY = Outcome(metric="accuracy", label="closed-set accuracy")
TABLE_ACCURACY = Outcome(metric="ccr_1", label="accuracy by the thesis's rule")
AUROC = Outcome(metric="auroc", label="AUROC")
CCR = {name: Outcome(metric=f"ccr_{name}", label=f"CCR at FPR {name}") for name in ("1e-4", "1e-3", "1e-2", "1e-1")}
"""Rates on unknowns."""
CCR_NEGATIVE = tuple(
    Outcome(metric=f"ccr_negative_{name}", label=f"CCR at FPR {name} on negatives") for name in ("1e-3", "1e-2", "1e-1")
)
FLOOR = Outcome(metric="fpr_floor", label="lowest FPR reached", higher_is_better=False)
SATURATED = Outcome(metric="saturated", label="scores equal to 1", higher_is_better=False)
COMMON = (ACCURACY, TABLE_ACCURACY, *CCR.values(), AUROC, *CCR_NEGATIVE)


def read(primary: Outcome, *more: Outcome) -> dict[str, Any]:
    """The outcome and the secondary ones, each once."""
    return {"outcome": primary, "secondary": tuple(each for each in (*COMMON, *more) if each != primary)}


def also(metric: str, label: str, higher_is_better: bool, unit: float = 1.0) -> Outcome:
    """A secondary outcome in its own unit: radians, or the length of features."""
    return Outcome(metric=metric, label=label, higher_is_better=higher_is_better, unit=unit)


NORM_TAIL = also("norm_unknown_tail", "norm of unknowns, 99th percentile", False)
NEAREST_NEGATIVE = also("theta_negative_min", "smallest angle of a negative to a centre", True)
CENTRES = also("centre_angle", "smallest angle between centres", True)
SKEW = also("theta_known_skew", "skew of angles to the own centre", False)

# --- Sizes -----------------------------------------------------------------------------------------------------------

SEEDS = range(42, 47)
SMALL_DIGITS = "6 classes of scikit-learn's digits are known, 2 negative, 2 unknown."


def blocks(dataset: str, splits: int = 1, seeds: Iterable[int] = SEEDS) -> tuple[Block, ...]:
    """All splits with the first seed, then all with the next."""
    return tuple(Block(dataset=dataset, split=split, seed=seed) for seed in seeds for split in range(splits))


SMOKE = Scale(
    name="smoke",
    blocks=blocks("digits-toy", splits=2, seeds=(42,)),
    settings={"width": 4, "epochs": 1, "batch": 16, "learning_rate": 0.01},
    data={"side": 16, "per_class": 8, "test_per_class": 6},
    seconds=0.3,
    note="Checks that everything runs. Its numbers mean nothing.",
)
LAPTOP = Scale(
    name="laptop",
    blocks=blocks("digits-toy", splits=5, seeds=(42, 43)),
    settings={"width": 8, "epochs": 20, "learning_rate": 0.01},
    data={"side": 16},
    seconds=4.0,
    note=f"{SMALL_DIGITS} Shown at 16 x 16 to LeNet++ of a quarter of the width. With 360 unknown images no rate below "
    "1 in 360 can be told apart: CCR at 1e-3 and 1e-4 is that at FPR 0.",
)
PICTURES = Scale(
    name="pictures",
    blocks=blocks("mnist-omniglot"),
    seconds=1800.0,
    note="The toy protocol with the thesis's network and schedule on all of MNIST; negatives and unknowns are "
    "Omniglot's characters in place of EMNIST's letters. There are 1,040 negative training images, 2% and not 47% of "
    "all, and 2,160 unknown ones. An epoch takes one core about two minutes, 85% of them convolutions; "
    "`--set epochs=2` and `--arms` keep a study within hours.",
)
GPU = Scale(
    name="gpu",
    blocks=blocks("toy-mnist"),
    gpus=0.2,
    cpus=2.0,
    note="The toy protocol as the thesis's code has it since June 2023: MNIST's digits, EMNIST's letters.",
)
PAPER = Scale(
    name="paper",
    blocks=blocks("toy"),
    gpus=0.2,
    cpus=2.0,
    note="The toy protocol as the thesis's text has it: EMNIST's digits (its split 'mnist') and letters, 15 epochs.",
)
TOY = (SMOKE, LAPTOP, PICTURES, GPU, PAPER)

# --- What all studies say in the same way ----------------------------------------------------------------------------

TABLE_6_1: Mapping[str, tuple[float | None, ...]] = {  # CCR at FPR 1e-3, 1e-2, 1e-1, and below 1, on unknowns
    "sm_softmax": (None, 0.2789, 0.8310, 0.9921),
    "sphereface": (0.0302, 0.1644, 0.8607, 0.9927),
    "cosface": (0.0361, 0.2789, 0.8900, 0.9934),
    "arcface": (0.0107, 0.1745, 0.8801, 0.9942),
    "cosface_sfn": (0.0322, 0.4377, 0.9030, 0.9947),
    "arcface_sfn": (0.0617, 0.5522, 0.9140, 0.9939),
    "cos_eos": (0.9849, 0.9919, 0.9923, 0.9923),
    "cos_eos_sfn_as_run": (0.9579, 0.9848, 0.9928, 0.9930),
    "arc_eos": (0.9853, 0.9933, 0.9933, 0.9933),
    "arc_eos_sfn_as_run": (0.9677, 0.9857, 0.9931, 0.9933),
    "cos_os": (0.8841, 0.9503, 0.9845, 0.9939),
    "cos_os_non_symmetric": (0.8548, 0.9498, 0.9842, 0.9933),
    "arc_os": (0.8779, 0.9483, 0.9851, 0.9936),
    "arc_os_non_symmetric": (0.8769, 0.9499, 0.9857, 0.9933),
}
EARLIER: Mapping[str, tuple[float | None, ...]] = {  # the same of a run that the thesis does not print
    "softmax": (None, 0.2159, 0.8278, 0.9921),
    "entropic": (0.9157, 0.9790, 0.9918, 0.9919),
    "objectosphere": (0.9365, 0.9849, 0.9912, 0.9912),
    "softmax_os": (0.9087, 0.9713, 0.9901, 0.9918),
    "norm_eos": (0.9867, 0.9917, 0.9918, 0.9918),
}
RATES = ("ccr_1e-3", "ccr_1e-2", "ccr_1e-1", "ccr_1")
"""The columns of its tables."""
NAMES: Mapping[Any, str] = {named(loss): loss for loss in LOSSES}
"""The config of every loss of the thesis -> its name. What a study compares it under differs."""


def printed(where: str) -> Source:
    """A part of the thesis."""
    return Source(
        paper="van den Bergh, Improved Losses for Open-Set Classification (University of Zurich, 2023)",
        where=where,
        repository="TwoDigitsOneNumber/openset-imagenet-comparison@e7faf79",
    )


def cells(losses: Mapping[str, str], dataset: str = "toy") -> Iterator[Published]:
    """What was printed, or only run, of arms on the toy protocol, in points.

    Args:
        losses: arm -> the loss of the thesis that it trains.
        dataset: the data that the thesis names.
    """
    for arm, loss in losses.items():
        where = "Table 6.1" if loss in TABLE_6_1 else "toy run committed on 2023-07-01 (s = 15), not in the thesis"
        row = TABLE_6_1.get(loss, EARLIER.get(loss, ()))
        yield from in_points(row, arm=arm, dataset=dataset, where=f"{where}, {LABELS[loss]}")


def in_points(row: Sequence[float | None], **of: str) -> Iterator[Published]:
    """The numbers of a table's row, printed as fractions; `of`: the other fields of each. A blank cell gives none."""
    for metric, value in zip(RATES, row, strict=False):
        if value is not None:
            yield Published(metric=metric, value=round(100 * value, 2), **of)


def losses_of(arms: Iterable[Arm]) -> dict[str, str]:
    """Arm -> loss of the thesis, of the arms that train one as it is, under whatever name."""
    return {arm.name: NAMES[arm.config] for arm in arms if arm.config in NAMES}


def arms_of(losses: Iterable[str]) -> tuple[Arm, ...]:
    """Losses of the thesis under their names."""
    return tuple(Arm(name=loss, label=LABELS[loss], config=named(loss)) for loss in losses)


def against(reference: str, arms: Iterable[Arm], **fields: Any) -> tuple[Contrast, ...]:
    """Every other arm against the reference."""
    return tuple(Contrast(arm=arm.name, reference=reference, **fields) for arm in arms if arm.name != reference)


ONE_SEED = "The thesis has one run of each loss (seed 42); an earlier run of its own differs by up to 0.17 at FPR 1e-2."
BLANK = "Where the thesis leaves a cell blank, the rate here is that at FPR 0, above every unknown score."
FRACTIONS = "The thesis prints fractions; its numbers are shown in points."
PRINTED = (ONE_SEED, BLANK, FRACTIONS)
"""Of every study with an arm that the thesis has."""


def study(
    name: str, question: str, where: str, arms: tuple[Arm, ...], baseline: str, outcomes: dict[str, Any], **fields: Any
) -> Study:
    """A study of the toy protocol."""
    defaults: dict[str, Any] = {
        "method": "margins",
        "scales": TOY,
        "contrasts": against(baseline, arms),
        "published": tuple(cells(losses_of(arms))),
        "notes": PRINTED,
        "figures": ("oscr", "angles"),
    }
    return Study(
        name=name,
        question=question,
        source=printed(where),
        arms=arms,
        baseline=baseline,
        **(defaults | outcomes | fields),
    )


# --- T1: margin types ------------------------------------------------------------------------------------------------

TYPES = study(
    "margins_types",
    "Which kind of margin helps, on known classes and on unknown ones, without negatives?",
    "section 6.1.1, Table 6.1; research question 1",
    arms_of(("softmax", "sm_softmax", "sphereface", "cosface", "arcface")),
    "softmax",
    read(ACCURACY, SKEW),
    claim="A margin raises closed-set accuracy; on unknowns its effect is mixed.",
)

# --- T2: margin values -----------------------------------------------------------------------------------------------

COSINES, ANGLES = (0.05, 0.1, 0.15, 0.2, 0.25, 0.35, 0.5), (0.1, 0.2, 0.3, 0.4, 0.5, 0.7)
FACTORS, LOGITS = (1.1, 1.2, 1.35, 1.5, 1.7), (0.1, 0.3, 0.5, 0.9)
FAMILIES: Mapping[str, tuple[str, str, str]] = {  # the losses with no margin, a cosine and an angular one
    "hfn": ("cosface", "cosface", "arcface"),
    "sfn": ("cosface_sfn", "cosface_sfn", "arcface_sfn"),
    "os": ("cos_os", "cos_os", "arc_os"),
    "eos": ("cos_eos", "cos_eos", "arc_eos"),
}


def value_arms() -> tuple[tuple[Arm, ...], tuple[Contrast, ...]]:
    """Each family with no margin, then its cosine and angular margins; factors and logit margins on their own."""
    arms: list[Arm] = []
    contrasts: list[Contrast] = []

    def add(family: str, kind: str, values: Iterable[float], loss: str) -> None:
        for m in values:
            arms.append(Arm(name=f"{family}_{kind}_{m:g}", config=named(loss, margin=m)))
            contrasts.append(Contrast(arm=arms[-1].name, reference=f"{family}_0", family=f"{family}, {kind}"))

    for family, (none, cos, ang) in FAMILIES.items():
        arms.append(Arm(name=f"{family}_0", config=named(none, head="norm", margin=0.0)))
        add(family, "cos", COSINES, cos)
        add(family, "ang", ANGLES, ang)
    add("hfn", "factor", FACTORS, "sphereface")
    arms.append(Arm(name="logit_0", config=named("softmax")))
    add("logit", "logit", LOGITS, "sm_softmax")
    return tuple(arms), tuple(contrasts)


VALUE_ARMS, VALUE_CONTRASTS = value_arms()
VALUE = study(
    "margins_value",
    "How large should the margin be?",
    "section 5.4: one value of each margin, taken from face recognition",
    VALUE_ARMS,
    "hfn_0",
    read(CCR["1e-1"], SKEW),
    contrasts=VALUE_CONTRASTS,
    notes=(
        "Not in the thesis but for one value of each. No margin is the head with unit centres alone, shared by both "
        "kinds of margin.",
        "Factors are varied with HFN, as SphereFace has it, and margins on logits with the linear head.",
        "Each family and kind is corrected for its own number of comparisons.",
        *PRINTED,
    ),
)

# --- T3: scale -------------------------------------------------------------------------------------------------------

PROBABILITIES = (0.9, 0.99, 0.999, 0.9999, 0.999995)
SCALES: tuple[tuple[str, Mapping[str, Any]], ...] = (
    *((f"p{p:g}", {"probability": p}) for p in PROBABILITIES),
    *((f"s{s:g}", {"scale": s}) for s in (30.0, 64.0)),
)
SCALE_ARMS = tuple(
    Arm(name=f"{loss}_{level}", label=f"{LABELS[loss]}, {level}", config=named(loss, **fields))
    for loss, (level, fields) in product(("cosface", "cos_eos"), SCALES)
)
SCALE = study(
    "margins_scale",
    "How large must the scale be, and how low a false positive rate does it still allow?",
    "section 3.2.2 and 5.4: the smallest s whose bound allows p = 0.999995",
    SCALE_ARMS,
    "cosface_p0.999995",
    read(FLOOR, SATURATED),
    contrasts=tuple(
        Contrast(arm=f"{loss}_{level}", reference=f"{loss}_p0.999995", family=LABELS[loss])
        for loss, (level, _) in product(("cosface", "cos_eos"), SCALES)
        if level != "p0.999995"
    ),
    claim="At the chosen s scores reach exactly 1 in float32, which bounds the false positive rate from below.",
    notes=(
        "The scale is the smallest integer at or above the bound for p: 4, 7, 9, 11, 13 for ten classes.",
        "At the chosen s, 13, no image is exactly 1 in float32: for ten classes that takes about 16.7 where all other "
        "centres are at right angles, and 15 where they form a simplex.",
        *PRINTED,
    ),
)

# --- T4: feature normalisation ---------------------------------------------------------------------------------------

NORM_CLASS = {"norm": {"head": "norm", "margin": 0.0}, "cos": dict(LOSSES["cosface"]), "ang": dict(LOSSES["arcface"])}
NORM_KINDS: Mapping[str, Mapping[str, Any]] = {
    "hfn": {"magnitude": "hard", "regulariser": "none"},
    "sfn": {"magnitude": "soft", "regulariser": "ring"},
    "sfn_free": {"magnitude": "soft", "regulariser": "none"},
}
NORM_LOSSES: Mapping[str, Mapping[str, Any]] = {"ce": {}, "eos": {"loss": "eos", "negatives": True}}
NORM_ARMS = (
    *(
        Arm(
            name=f"{head}_{loss}_{kind}", config=Config(**{**NORM_CLASS[head], **NORM_LOSSES[loss], **NORM_KINDS[kind]})
        )
        for loss, head, kind in product(NORM_LOSSES, NORM_CLASS, NORM_KINDS)
    ),
    *arms_of(("cos_eos_sfn_as_run", "arc_eos_sfn_as_run")),
)
NORM = study(
    "margins_norm",
    "Should features have a fixed length or a free one?",
    "sections 6.1 and 7.2: HFN against SFN, with and without negatives",
    NORM_ARMS,
    "norm_ce_hfn",
    read(CCR["1e-2"], also("norm_unknown", "norm of unknowns", False)),
    contrasts=(
        *(
            Contrast(arm=f"{head}_{loss}_{kind}", reference=f"{head}_{loss}_hfn", family=loss)
            for loss, head, kind in product(NORM_LOSSES, NORM_CLASS, ("sfn", "sfn_free"))
        ),
        *(
            Contrast(arm=f"{head}_eos_sfn_as_run", reference=f"{other}_eos_hfn", family="as run")
            for head, other in (("cos", "cos"), ("arc", "ang"))
        ),
    ),
    claim="HFN is better than SFN for Margin-EOS; without negatives SFN is better.",
    notes=(
        "What the thesis calls Margin-EOS (SFN) ran with r = s, so its logits did not depend on the features' length: "
        "those arms are '*_as_run', and the true ones are '*_eos_sfn'.",
        "SFN is with the ring loss, 'sfn_free' without it.",
        *PRINTED,
    ),
)

# --- T5: symmetry ----------------------------------------------------------------------------------------------------

OS_LOSSES = {"norm": "softmax_os", "cos": "cos_os", "arc": "arc_os"}
OS_NAMES = {
    ("cos", "osr"): "cos_os_non_symmetric",
    ("arc", "osr"): "arc_os_non_symmetric",
    **{(head, "sosr"): loss for head, loss in OS_LOSSES.items()},
}
OSREG_ARMS = tuple(
    Arm(
        name=OS_NAMES.get((head, term), f"{OS_LOSSES[head]}_{term}"),
        config=named(OS_LOSSES[head], regulariser=term),
        factors={"head": head, "regulariser": term},
    )
    for head, term in product(OS_LOSSES, ("osr", "sosr", "two_means"))
)
OSREG = study(
    "margins_osreg",
    "Should known features be pulled to a length from both sides or only from below?",
    "section 4.2, Eq 4.4, and 6.1: symmetric Objectosphere regularisation",
    OSREG_ARMS,
    "cos_os",
    read(CCR["1e-3"], NORM_TAIL),
    contrasts=tuple(
        Contrast(
            arm=OS_NAMES.get((head, "sosr"), ""),
            reference=OS_NAMES.get((head, term), f"{OS_LOSSES[head]}_{term}"),
            family=f"symmetric - {term}",
        )
        for term, head in product(("osr", "two_means"), OS_LOSSES)
    ),
    claim="The symmetric form is better: at FPR 1e-4 by about 20% of CCR.",
    notes=(
        "The 20% are read off a plot of one seed; in the tables the difference is below 0.03.",
        "'two_means' divides known and negative rows by their own numbers.",
        *PRINTED,
    ),
)

# --- T6 to T8 --------------------------------------------------------------------------------------------------------

LAMBDAS = (0.0, 0.0001, 0.001, 0.005, 0.01, 0.05, 0.1, 1.0)
LAMBDA_ARMS = tuple(
    Arm(name=f"{loss}_{lam:g}", label=f"{LABELS[loss]}, lambda = {lam:g}", config=named(loss, lam=lam))
    for loss, lam in product(("objectosphere", "cos_os", "cosface_sfn"), LAMBDAS)
)
LAMBDA = study(
    "margins_lambda",
    "How much weight should the regulariser of the features' length have?",
    "section 5.4: lambda = 0.01 throughout",
    LAMBDA_ARMS,
    "cos_os_0.01",
    read(CCR["1e-2"]),
    contrasts=tuple(
        Contrast(arm=f"{loss}_{lam:g}", reference=f"{loss}_0.01", family=LABELS[loss])
        for loss, lam in product(("objectosphere", "cos_os", "cosface_sfn"), LAMBDAS)
        if lam != 0.01
    ),
    notes=("Not in the thesis but for lambda = 0.01.", *PRINTED),
)

WIDTHS: tuple[tuple[str, Any], ...] = tuple((str(K), K) for K in (2, "C-1", "C", "C+1", "2C", 64, 512))
DIM_LOSSES = ("entropic", "cos_eos", "cos_os")


def at_width(loss: str, K: Any) -> Config:
    """In two dimensions the margin is the thesis's for them: 0.35 does not fit ten centres on a circle."""
    fields: dict[str, Any] = {"margin": 0.15} if K == 2 and loss != "entropic" else {}
    return named(loss, features=K, **fields)


DIM_ARMS = tuple(
    Arm(name=f"{loss}_K={name}", label=f"{LABELS[loss]}, K = {name}", config=at_width(loss, K))
    for loss, (name, K) in product(DIM_LOSSES, WIDTHS)
)
DIM = study(
    "margins_dim",
    "How many deep features should there be for C classes?",
    "section 7.3: K = C + 1 should leave room for negatives away from all centres",
    DIM_ARMS,
    "cos_eos_K=C",
    read(CCR["1e-2"], CENTRES, NEAREST_NEGATIVE),
    contrasts=tuple(
        Contrast(arm=f"{loss}_K={name}", reference=f"{loss}_K=C", family=LABELS[loss])
        for loss, (name, _) in product(DIM_LOSSES, WIDTHS)
        if name != "C"
    ),
    claim="Margin-EOS gains from K = C + 1.",
    notes=(
        "The thesis expects it and has run K = C alone.",
        "With K = 2 the margin is 0.15, as in the thesis's pictures.",
        *PRINTED,
    ),
    figures=("oscr", "angles", "features"),
)

CONTROL = study(
    "margins_control",
    "Is it the margin that helps SFN losses, or the unit centres that come with it?",
    "research question 1: SFN-Norm is the control for SFN-CosFace and SFN-ArcFace",
    arms_of(("softmax", "sfn_norm_raw", "sfn_norm", "cosface_sfn", "arcface_sfn")),
    "sfn_norm",
    read(CCR["1e-2"]),
    claim="A margin raises closed-set accuracy over the control without one.",
    notes=(
        "The thesis's control ran with raw centres, a linear head with a ring loss ('as run'); the true one never ran.",
        *PRINTED,
    ),
)

# --- T9 to T11 -------------------------------------------------------------------------------------------------------

DETACH_LOSSES: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "arc_hfn": ("arcface", {}),
    "arc_sfn": ("arcface_sfn", {}),
    "sphere_hfn": ("sphereface", {}),
    "sphere_sfn": ("sphereface", {"magnitude": "soft", "regulariser": "ring"}),
}
DETACH_ARMS = tuple(
    Arm(
        name=f"{name}_{'detached' if detached else 'full'}",
        config=named(loss, detached=detached, **fields),
        factors={"loss": name, "detached": detached},
    )
    for (name, (loss, fields)), detached in product(DETACH_LOSSES.items(), (True, False))
)
DETACH = study(
    "margins_detach",
    "Does it matter that the margin's own slope is left out of the gradient?",
    "the code of ArcFace and SphereFace heads: the margin's shift is detached",
    DETACH_ARMS,
    "arc_hfn_detached",
    read(CCR["1e-2"], SKEW),
    contrasts=tuple(Contrast(arm=f"{name}_full", reference=f"{name}_detached") for name in DETACH_LOSSES),
    notes=("All of the thesis is detached. A cosine margin has no slope of its own.", *PRINTED),
)

FLAG_ARMS = tuple(
    Arm(
        name=f"{activation}_{'bias' if bias else 'no_bias'}",
        config=named("cos_os", activation=activation, feature_bias=bias),
        factors={"activation": activation, "bias": bias},
    )
    for activation, bias in product(("none", "prelu"), (True, False))
)
FLAGS = study(
    "margins_flags",
    "How far do details move the numbers in which the thesis's text and code differ?",
    "section 5.3: LeNet++ after Wen et al. (PReLU) without a bias; the code has a bias and no activation",
    FLAG_ARMS,
    "none_bias",
    read(CCR["1e-2"]),
    scales=(SMOKE, LAPTOP, PICTURES, GPU, replace(PAPER, blocks=(*blocks("toy"), *blocks("toy-mnist")))),
    notes=(
        "All arms are Cos-OS; the thesis's numbers are with a bias and no activation.",
        "At paper scale half of the blocks have EMNIST's digits, half MNIST's.",
        *PRINTED,
    ),
)

SCORES: tuple[tuple[Literal["softmax", "logit", "norm"], str], ...] = (
    ("softmax", "max p"),
    ("logit", "max logit"),
    ("norm", "norm times max p"),
)
SCORE_ARMS = tuple(
    Arm(
        name=f"{loss}_{score}",
        label=f"{LABELS[loss]}, {label}",
        config=Scoring(network=Needed("margins", named(loss)), score=score),
        factors={"loss": loss, "score": score},
    )
    for loss, (score, label) in product(LOSSES, SCORES)
)
SCORE = study(
    "margins_score",
    "Which score should be thresholded?",
    "appendix A: logits in place of softmax scores",
    SCORE_ARMS,
    "softmax_softmax",
    read(CCR["1e-2"], FLOOR),
    method="margin_scores",
    contrasts=tuple(
        Contrast(arm=f"{loss}_{score}", reference=f"{loss}_softmax", family=LABELS[loss])
        for loss, score in product(LOSSES, ("logit", "norm"))
    ),
    notes=(
        "Nothing is trained here: the outputs of the other studies' networks are scored again, of every loss.",
        "Each loss is corrected for its own two comparisons.",
        *PRINTED,
    ),
    published=tuple(cells({f"{loss}_softmax": loss for loss in LOSSES})),
    figures=("oscr",),
)

# --- I1, I2: ImageNet ------------------------------------------------------------------------------------------------

MAIN = (
    "softmax",
    "entropic",
    "objectosphere",
    "sfn_norm_raw",
    "cosface_sfn",
    "arcface_sfn",
    "softmax_os",
    "cos_os",
    "arc_os",
    "norm_eos",
    "cos_eos",
    "arc_eos",
)
TABLE_6_2: Mapping[str, tuple[tuple[float | None, ...], ...]] = {  # P1, P2, P3: CCR at FPR 1e-3, 1e-2, 1e-1, below 1
    "softmax": ((0.1772, 0.4048, 0.5855, 0.6726), (0.0280, 0.1160, 0.3673, 0.6260), (None, 0.2238, 0.5163, 0.7574)),
    "entropic": ((0.2648, 0.4816, 0.6643, 0.6903), (None, 0.1073, 0.4013, 0.6253), (None, 0.2517, 0.5428, 0.7630)),
    "objectosphere": (
        (0.3095, 0.5214, 0.6666, 0.6843),
        (0.0347, 0.1607, 0.4093, 0.6320),
        (None, 0.2562, 0.5294, 0.7482),
    ),
    "sfn_norm_raw": (
        (0.1674, 0.3814, 0.5562, 0.6719),
        (0.0527, 0.1220, 0.3267, 0.6213),
        (0.0809, 0.2351, 0.5275, 0.7597),
    ),
    "cosface_sfn": ((0.1802, 0.4729, 0.6583, 0.7095), (None, 0.1100, 0.4020, 0.6653), (None, 0.0805, 0.5501, 0.7894)),
    "arcface_sfn": ((0.0503, 0.5005, 0.6809, 0.6945), (0.0407, 0.1493, 0.4220, 0.6733), (None, 0.0623, 0.5536, 0.7901)),
    "softmax_os": (
        (0.2897, 0.4986, 0.6612, 0.7029),
        (0.0660, 0.1853, 0.4420, 0.6800),
        (0.0411, 0.2185, 0.5832, 0.7768),
    ),
    "cos_os": ((0.1803, 0.5440, 0.6952, 0.7067), (0.0573, 0.2080, 0.4473, 0.6647), (None, 0.0877, 0.6044, 0.7952)),
    "arc_os": ((0.0000, 0.0000, 0.0009, 0.0126), (None, 0.1173, 0.4133, 0.6273), (None, 0.1159, 0.5874, 0.7858)),
    "norm_eos": (
        (0.2172, 0.4336, 0.6436, 0.6950),
        (0.0353, 0.1647, 0.4073, 0.6573),
        (0.0531, 0.2596, 0.5576, 0.7674),
    ),
    "cos_eos": (
        (0.2531, 0.5278, 0.6653, 0.7060),
        (0.0127, 0.1553, 0.4793, 0.6740),
        (0.0097, 0.1417, 0.5909, 0.7713),
    ),
    "arc_eos": (
        (0.1386, 0.5472, 0.6733, 0.7083),
        (0.0027, 0.1080, 0.4627, 0.6733),
        (0.0033, 0.0838, 0.5932, 0.7764),
    ),
}
IMAGENET = ("imagenet-p1", "imagenet-p2", "imagenet-p3")
RESNET50 = {
    "network": "resnet50",
    "stem": "imagenet",
    "width": 64,
    "epochs": 120,
    "crop": 224,
    "flip": True,
}
TINY = {"network": "resnet18", "width": 64, "epochs": 60, "batch": 64, "learning_rate": 0.01, "crop": 56, "flip": True}
ON_TINY = (*blocks("tinyimagenet-p2", seeds=(42, 43, 44)), *blocks("tinyimagenet-p3", seeds=(42, 43, 44)))
TINY_PICTURES = Scale(
    name="pictures",
    blocks=blocks("tinyimagenet-p3", seeds=(42, 43, 44)),
    settings={**TINY, "width": 8, "epochs": 15},
    seconds=600.0,
    note="P3's rule on TinyImageNet, 20 known classes at 64 x 64, an eighth of ResNet-18's width.",
)
TINY_GPU = Scale(
    name="gpu",
    blocks=ON_TINY,
    settings={**TINY, "precision": "bf16"},
    gpus=0.5,
    cpus=2.0,
    note="P2's and P3's rules on TinyImageNet, ResNet-18.",
)


def on_imagenet(losses: Mapping[str, str], datasets: Iterable[str]) -> Iterator[Published]:
    """What was printed of arms on ImageNet's protocols, in points; `losses` as in `cells`."""
    for (arm, loss), dataset in product(losses.items(), datasets):
        row = TABLE_6_2[loss][IMAGENET.index(dataset)]
        yield from in_points(row, arm=arm, dataset=dataset, where=f"Table 6.2, {LABELS[loss]}")


def imagenet(*where: Block, **settings: Any) -> Scale:
    """The thesis's ImageNet size over the given blocks."""
    return Scale(
        name="paper",
        blocks=where,
        settings={**RESNET50, **settings},
        gpus=1.0,
        cpus=8.0,
        note="ImageNet folders, ResNet-50, 120 epochs. Images are cut to 256 x 256 once, so crops are of the square.",
    )


PROTOCOLS = study(
    "margins_protocols",
    "Which open-set loss is best on natural images, near to and far from the known classes?",
    "section 6.2, Table 6.2",
    arms_of(MAIN),
    "softmax",
    read(CCR["1e-1"]),
    scales=(
        SMOKE,
        LAPTOP,
        TINY_PICTURES,
        TINY_GPU,
        imagenet(
            *blocks("imagenet-p2", seeds=(42, 43, 44)),
            Block(dataset="imagenet-p3", seed=42),
            Block(dataset="imagenet-p1", seed=42),
        ),
    ),
    published=tuple(on_imagenet({loss: loss for loss in MAIN}, IMAGENET)),
    claim="Margins help where many false positives can be tolerated and hurt where few can.",
    notes=(
        "The thesis's SFN-Norm ran with raw centres; so does the arm here.",
        "At paper and gpu scale the contrasts pool protocols; read the paired differences of each.",
        *PRINTED,
    ),
)

ARCOS = (0.1, 0.2, 0.3, 0.5)
ARCOS_ARMS = tuple(
    Arm(
        name=f"m={m:g}_lr={rate:g}_{ramp}",
        config=named("arc_os", margin=m, learning_rate=rate, margin_warm_up=share),
    )
    for m, rate, (ramp, share) in product(ARCOS, (1e-3, 3e-4), (("constant", 0.0), ("ramped", 1 / 12)))
)
SLOW = {"batch": 8, "epochs": 40}
"""Sizes of the embedded digits leave the learning rate alone, which the arms differ in."""
ARCOS_STUDY = study(
    "margins_arcos",
    "Why did Arc-OS fail on P1: the margin, the learning rate, or the margin's sudden start?",
    "Table 6.2a: Arc-OS has an accuracy of 1.26% on P1",
    ARCOS_ARMS,
    "m=0.5_lr=0.001_constant",
    read(ACCURACY, also("norm_known", "norm of known images", True)),
    scales=(
        replace(SMOKE, settings={"width": 4, "epochs": 1, "batch": 16}),
        replace(LAPTOP, settings={"width": 8, **SLOW}, seconds=20.0),
        PICTURES,
        replace(
            TINY_GPU, settings={name: value for name, value in TINY_GPU.settings.items() if name != "learning_rate"}
        ),
        imagenet(*blocks("imagenet-p1", seeds=(42, 43))),
    ),
    published=tuple(on_imagenet({"m=0.5_lr=0.001_constant": "arc_os"}, IMAGENET[:1])),
    notes=(
        "Of these arms the thesis has one.",
        "Ramped: the margin rises over the first twelfth of training, 10 of 120 epochs.",
        *PRINTED,
    ),
)

STUDIES: tuple[Study, ...] = (
    TYPES,
    VALUE,
    SCALE,
    NORM,
    OSREG,
    LAMBDA,
    DIM,
    CONTROL,
    DETACH,
    FLAGS,
    SCORE,
    PROTOCOLS,
    ARCOS_STUDY,
)
