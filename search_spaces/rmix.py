"""Ablations of R-Mix: the tables of the paper, and the questions where its text and its code differ.

Paper: Expeditious Saliency-guided Mix-up through Random Gradient Thresholding (R-Mix), arXiv 2212.04875. `rmix_pk`,
`rmix_alpha`, `rmix_methods`, `rmix_schedulers`, `rmix_calibration` and `rmix_rl` are its Tables 7, 8, 4, 1 with 2, 6
and 9; `rmix_loss`, `rmix_bn` and `rmix_q` vary what it leaves open.

Arms of one size share blocks and settings, so R-Mix as released is one trial for all studies but `rmix_pk`, whose
patches need images of 32 pixels.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from search_spaces.study import Arm, Block, Contrast, Outcome, Published, Scale, Source, Study
from trainables.rlmix import RLMIX
from trainables.rmix import COMIXUP, CUTMIX_PLUS, PUZZLEMIX, QUOTED, RMIX, Config

ACCURACY = Outcome(metric="accuracy", label="top-1 accuracy")
BEST = Outcome(metric="accuracy_best", label="top-1 accuracy, best epoch on the test set")
TOP5 = Outcome(metric="accuracy_top5", label="top-5 accuracy")
TOP5_BEST = Outcome(metric="accuracy_top5_best", label="top-5 accuracy, best epoch on the test set")
NLL = Outcome(metric="nll", label="negative log-likelihood", higher_is_better=False, unit=1.0)
ECE15 = Outcome(metric="ece_15", label="calibration error, 15 bins", higher_is_better=False)
ECE10 = Outcome(metric="ece_10", label="calibration error, 10 bins", higher_is_better=False)
FGSM = Outcome(metric="fgsm_error", label="error after FGSM", higher_is_better=False)

# --- Sizes: one set of blocks and settings for all studies -----------------------------------------------------------

CIFAR100 = "cifar100-closed"
ON_DIGITS: Mapping[str, Any] = {"flip": False, "padding": 1}
"""A mirrored digit is another one."""


def seeds(dataset: str, count: int) -> tuple[Block, ...]:
    """One block a seed: these data sets have one split into training and test images."""
    return tuple(Block(dataset=dataset, seed=seed) for seed in range(count))


SMOKE = Scale(
    name="smoke",
    blocks=seeds("digits-closed", 2),
    settings={**ON_DIGITS, "width": 4, "epochs": 1, "batch": 16, "learning_rate": 0.05, "milestones": (1,)},
    data={"side": 16, "per_class": 4, "test_per_class": 4},
    seconds=0.3,
    note="Checks that everything runs. Its numbers mean nothing.",
)
LAPTOP = Scale(
    name="laptop",
    blocks=tuple(Block(dataset="digits-closed", split=split, seed=split) for split in range(5)),
    settings={**ON_DIGITS, "width": 8, "epochs": 12, "batch": 32, "learning_rate": 0.05, "milestones": (4, 8)},
    data={"side": 16, "per_class": 40, "test_per_class": 60},
    seconds=7.0,
    note="scikit-learn's digits at 16 x 16, 40 images a class, and an eighth of the network's width. Twelve epochs at "
    "a sixth of the learning rate: mixing pays off late, and regularisation costs accuracy in so short a run.",
)
PICTURES = Scale(
    name="pictures",
    blocks=seeds("cifar10-closed", 3),
    settings={"width": 8, "epochs": 10, "learning_rate": 0.1, "milestones": (3, 7)},
    data={"per_class": 500, "test_per_class": 200},
    seconds=100.0,
    note="Real pictures without a GPU: CIFAR-10 at its own 32 x 32, a tenth of the training images, an eighth of the "
    "width, a thirtieth of the epochs, a third of the learning rate: early training of a small network.",
)
GPU = Scale(
    name="gpu",
    blocks=seeds("cifar10-closed", 5),
    settings={"epochs": 30, "milestones": (10, 20), "precision": "bf16", "channels_last": True},
    gpus=0.25,
    cpus=2.0,
    note="All of CIFAR-10 and the paper's network for a tenth of its epochs, bf16, four trials to a GPU. Not measured.",
)
PAPER = Scale(
    name="paper",
    blocks=seeds(CIFAR100, 10),
    settings={"colour": "released"},
    gpus=1.0,
    note="CIFAR-100, PreActResNet-18, 300 epochs, 10 seeds, as the code runs it.",
)
SCALES = (SMOKE, LAPTOP, PICTURES, GPU, PAPER)
AT_32 = (
    replace(SMOKE, data={"side": 32, "per_class": 2, "test_per_class": 2}),
    replace(
        LAPTOP,
        blocks=LAPTOP.blocks[:3],
        settings={**LAPTOP.settings, "width": 4, "epochs": 8, "milestones": (3, 5)},
        data={"side": 32, "per_class": 30, "test_per_class": 60},
        note="scikit-learn's digits enlarged to 32 x 32, 30 images a class, a sixteenth of the network's width, eight "
        "epochs: patches below 4 pixels see interpolation, and the networks are far from trained.",
    ),
    *SCALES[2:],
)
"""The same with digits of 32 x 32, so that there can be 32 patches a side; smaller otherwise, for 32 arms."""

# --- What all studies say in the same way ----------------------------------------------------------------------------


def printed(where: str) -> Source:
    """An experiment of the paper."""
    return Source(paper="R-Mix, arXiv 2212.04875", where=where, repository="minhlong94/Random-Mixup")


def against(reference: str, names: Iterable[str], **fields: Any) -> tuple[Contrast, ...]:
    """Every other arm against the reference."""
    return tuple(Contrast(arm=name, reference=reference, **fields) for name in names if name != reference)


def numbers(rows: Mapping[str, float], table: str, metric: str = "accuracy") -> tuple[Published, ...]:
    """What a table prints for CIFAR-100 and PreActResNet-18: name -> per cent."""
    return tuple(
        Published(arm=name, dataset=CIFAR100, metric=metric, value=value, where=f"{table}, {name}")
        for name, value in rows.items()
    )


NETWORKS = ("WRN-16-8", "WRN-28-10", "ResNeXt-29")
"""The other networks of Tables 2, 4 and 9."""


def elsewhere(rows: Mapping[str, tuple[float | None, ...]], table: str) -> tuple[Published, ...]:
    """What a table prints for CIFAR-100 and the other networks, which scale 'paper' does not run: name -> per cent."""
    return tuple(
        Published(
            arm=f"{name}, {network}", dataset=CIFAR100, metric="accuracy", value=value, where=f"{table}, {network}"
        )
        for name, values in rows.items()
        for network, value in zip(NETWORKS, values, strict=True)
        if value is not None
    )


LAST = "The paper does not say which epoch it reports; the code keeps the best on the test set. Here: the last."
CIFAR100_ONLY = "Printed numbers are for CIFAR-100, means of 10 runs; the small sizes use other data."
UNPUBLISHED = "Not in the paper: the question comes from where its text and its code differ."
QUOTED_NOTE = (
    "Vanilla, Input, Manifold and CutMix are quoted in the paper from another pipeline (MultiStep, learning rate 0.2, "
    "binary cross-entropy, CutMix's box at real coordinates): scale 'paper' trains them so. At all other sizes every "
    "arm has R-Mix's pipeline, so that mixing alone differs."
)
READ: Mapping[str, Any] = {"outcome": ACCURACY, "secondary": (BEST, TOP5, TOP5_BEST, NLL, ECE15, ECE10, FGSM)}


def rmix(**fields: Any) -> Config:
    """R-Mix as released, with these fields changed."""
    return replace(RMIX, **fields)


# --- Table 7: patches and levels -------------------------------------------------------------------------------------

PATCHES = ((2, 4), (4, 8), (8, 16), (16, 32), (2, 32), (2, 4, 8), (4, 8, 16), (8, 16, 32))
LEVELS = (5, 10, 16, 20)
TABLE7 = (  # rows: PATCHES, columns: LEVELS
    (81.22, 81.49, 81.35, 81.18),
    (80.98, 80.80, 80.30, 80.54),
    (79.94, 80.33, 79.29, 79.50),
    (79.60, 79.06, 78.86, 79.20),
    (79.64, 79.69, 79.21, 79.64),
    (80.87, 80.34, 80.04, 80.94),
    (80.12, 80.37, 80.34, 80.41),
    (79.53, 79.12, 79.55, 79.67),
)


def pk_name(patches: tuple[int, ...], levels: int) -> str:
    """Arm of one cell of Table 7."""
    return f"p={','.join(map(str, patches))};K={levels}"


PK_ARMS = tuple(
    Arm(
        name=pk_name(patches, levels),
        label=f"p in {{{', '.join(map(str, patches))}}}, K = {levels}",
        config=rmix(patches=patches, levels=levels),
        factors={"p": ",".join(map(str, patches)), "K": levels},
    )
    for patches in PATCHES
    for levels in LEVELS
)
PK = Study(
    name="rmix_pk",
    question="How fine should R-Mix's patches be, and how many percentiles should there be to draw from?",
    source=printed("Table 7"),
    method="rmix",
    arms=PK_ARMS,
    baseline=pk_name((2, 4), 10),
    scales=AT_32,
    **READ,
    contrasts=(
        *against(pk_name((2, 4), 10), (pk_name(patches, 10) for patches in PATCHES), family="patches"),
        *against(pk_name((2, 4), 10), (pk_name((2, 4), levels) for levels in LEVELS), family="levels"),
    ),
    published=numbers(
        {
            pk_name(patches, levels): value
            for patches, row in zip(PATCHES, TABLE7, strict=True)
            for levels, value in zip(LEVELS, row, strict=True)
        },
        "Table 7",
    ),
    claim="Coarse patches are best: {2, 4} with K = 10, and finer ones lose up to two and a half points; K matters "
    "little.",
    notes=(
        LAST,
        CIFAR100_ONLY,
        "p is the number of patches a side; Eq 3 can be read as the pooling kernel's side instead.",
    ),
)

# --- Table 8: alpha --------------------------------------------------------------------------------------------------

TABLE8 = {0.2: 81.29, 0.5: 81.40, 1.0: 81.49, 2.0: 81.01}
ALPHA_ARMS = tuple(
    Arm(name=f"alpha={alpha:g}", label=f"alpha = {alpha:g}", config=rmix(alpha=alpha)) for alpha in TABLE8
)
ALPHA = Study(
    name="rmix_alpha",
    question="How much does R-Mix depend on the Beta distribution of its mixing weight?",
    source=printed("Table 8"),
    method="rmix",
    arms=ALPHA_ARMS,
    baseline="alpha=1",
    scales=SCALES,
    **READ,
    contrasts=against("alpha=1", (arm.name for arm in ALPHA_ARMS)),
    published=numbers({f"alpha={alpha:g}": value for alpha, value in TABLE8.items()}, "Table 8"),
    claim="Little: four values within half a point, 1 the best.",
    notes=(LAST, CIFAR100_ONLY),
)

# --- Table 4: methods ------------------------------------------------------------------------------------------------

BY_THE_PAPER = {CIFAR100: QUOTED}
METHOD_ARMS = (
    Arm(name="vanilla", label="Vanilla", config=rmix(mix="vanilla"), per_dataset=BY_THE_PAPER),
    Arm(name="mixup", label="Input Mixup", config=rmix(mix="mixup"), per_dataset=BY_THE_PAPER),
    Arm(name="manifold", label="Manifold Mixup", config=rmix(mix="manifold", alpha=2.0), per_dataset=BY_THE_PAPER),
    Arm(name="cutmix", label="CutMix", config=rmix(mix="cutmix"), per_dataset=BY_THE_PAPER),
    Arm(name="rmix", label="R-Mix", config=RMIX),
)
"""Of Tables 4 and 6."""
MORE_ARMS = (
    Arm(name="cutmix_plus", label="CutMix+", config=CUTMIX_PLUS),
    Arm(name="saliencymix", label="SaliencyMix", config=rmix(mix="saliencymix", alpha=0.2)),
    Arm(name="fmix", label="FMix", config=rmix(mix="fmix", alpha=0.2)),
    Arm(name="resizemix", label="ResizeMix", config=rmix(mix="resizemix")),
    Arm(name="gridmix", label="GridMix", config=rmix(mix="gridmix", alpha=0.2)),
)
TABLE4 = {
    "vanilla": 76.41,
    "mixup": 77.57,
    "manifold": 78.36,
    "cutmix": 78.71,
    "PuzzleMix": 79.38,
    "Co-Mixup": 80.13,
    "cutmix_plus": 80.60,
    "rmix": 81.49,
}
TABLE4_ELSEWHERE: Mapping[str, tuple[float | None, ...]] = {  # columns: NETWORKS; None: not printed
    "Vanilla": (78.30, 78.86, 78.21),
    "Input Mixup": (79.92, 81.73, 78.30),
    "Manifold Mixup": (79.45, 82.60, 77.72),
    "CutMix": (79.86, 82.50, 78.14),
    "PuzzleMix": (80.76, 84.05, 78.88),
    "Co-Mixup": (80.85, None, 80.22),
    "CutMix+": (81.79, 83.97, 82.30),
    "R-Mix": (82.32, 85.00, 83.02),
}
METHODS = Study(
    name="rmix_methods",
    question="Is R-Mix more accurate than other ways of mixing images?",
    source=printed("Table 4, PreActResNet-18"),
    method="rmix",
    arms=METHOD_ARMS + MORE_ARMS,
    baseline="rmix",
    scales=SCALES,
    **READ,
    contrasts=against("rmix", (arm.name for arm in METHOD_ARMS + MORE_ARMS)),
    published=numbers(TABLE4, "Table 4, PreActResNet-18") + elsewhere(TABLE4_ELSEWHERE, "Table 4"),
    claim="R-Mix is best: nearly a point over CutMix+, five over no mixing.",
    notes=(
        LAST,
        CIFAR100_ONLY,
        QUOTED_NOTE,
        "PuzzleMix and Co-Mixup need an optional package; `rmix_graph_cuts` runs them. Here are the quoted numbers.",
        "SaliencyMix, FMix, ResizeMix and GridMix are not in the paper; their alphas are OpenMixup's.",
        "The repository lists its released CutMix+ at 81.62, above R-Mix's 81.45.",
        "The table's other networks: `--set network=wrn16_8`, `wrn28_10` (with epochs=400), `resnext29_4x24`.",
        "The quoted pipeline trained WRN-28-10 with learning rate 0.1 and milestones 200 and 300.",
    ),
)

# --- Tables 1 and 2: schedulers --------------------------------------------------------------------------------------

SCHEDULES: Mapping[str, Mapping[str, Any]] = {
    "multi_step": {"schedule": "multi_step", "learning_rate": 0.2},
    "one_cycle": {"schedule": "one_cycle"},
}
SCHEDULED = {"vanilla": rmix(mix="vanilla"), "cutmix": CUTMIX_PLUS, "rmix": RMIX}


def scheduled(mix: str, schedule: str) -> Arm:
    """One cell. CutMix with MultiStep is quoted from another pipeline, so the scale 'paper' trains it so."""
    quoted = (mix, schedule) == ("cutmix", "multi_step")
    return Arm(
        name=f"{mix}_{schedule}",
        label=f"{mix}, {'MultiStep' if schedule == 'multi_step' else 'OneCycle'}",
        config=replace(SCHEDULED[mix], **SCHEDULES[schedule]),
        factors={"mix": mix, "schedule": schedule},
        per_dataset={CIFAR100: {**QUOTED, "probability": 1.0}} if quoted else {},
    )


SCHEDULERS = Study(
    name="rmix_schedulers",
    question="How much of R-Mix's lead over published numbers is its learning rate schedule?",
    source=printed("Tables 1 and 2"),
    method="rmix",
    arms=tuple(scheduled(mix, schedule) for mix in SCHEDULED for schedule in SCHEDULES),
    baseline="cutmix_multi_step",
    scales=SCALES,
    **READ,
    contrasts=tuple(Contrast(arm=f"{mix}_one_cycle", reference=f"{mix}_multi_step") for mix in SCHEDULED),
    published=(
        *numbers({"cutmix_multi_step": 78.71, "cutmix_one_cycle": 80.60}, "Table 1, CutMix, 300 epochs"),
        *numbers(
            {
                "PuzzleMix, MultiStep": 79.38,
                "PuzzleMix, OneCycle": 79.75,
                "Co-Mixup, MultiStep": 80.13,
                "Co-Mixup, OneCycle": 79.79,
            },
            "Table 1, 300 epochs",
        ),
        *elsewhere(
            {
                "CutMix, MultiStep": TABLE4_ELSEWHERE["CutMix"],
                "PuzzleMix, MultiStep": TABLE4_ELSEWHERE["PuzzleMix"],
                "Co-Mixup, MultiStep": TABLE4_ELSEWHERE["Co-Mixup"],
                "CutMix, OneCycle": TABLE4_ELSEWHERE["CutMix+"],
            },
            "Table 2",
        ),
    ),
    claim="CutMix gains two points from OneCycle alone; PuzzleMix and Co-Mixup gain little or lose.",
    notes=(
        LAST,
        CIFAR100_ONLY,
        "The paper says that only the scheduler differs. CutMix+ also mixes half of the batches, and its loss and box "
        "differ from the quoted CutMix: scale 'paper' has all of that, the other sizes the schedule alone.",
    ),
)

# --- Tables 1, 4 and 6: PuzzleMix and Co-Mixup, which need the extra 'graphcut' ---------------------------------------

CUT = {"puzzlemix": ("PuzzleMix", PUZZLEMIX), "comixup": ("Co-Mixup", COMIXUP)}
CUT_ARMS = (
    Arm(name="rmix", label="R-Mix", config=RMIX),
    *(
        Arm(
            name=f"{mix}_{schedule}",
            label=f"{label}, {'MultiStep' if schedule == 'multi_step' else 'OneCycle'}",
            config=replace(config, **fields),
            per_dataset=BY_THE_PAPER if schedule == "multi_step" else {},
        )
        for mix, (label, config) in CUT.items()
        for schedule, fields in SCHEDULES.items()
    ),
)
CUTS = Study(
    name="rmix_graph_cuts",
    question="Is R-Mix more accurate than PuzzleMix and Co-Mixup, which solve a graph cut for every image?",
    source=printed("Tables 1, 4 and 6, PreActResNet-18"),
    method="rmix",
    arms=CUT_ARMS,
    baseline="rmix",
    scales=tuple(replace(each, seconds=30.0) if each is LAPTOP else each for each in SCALES),
    **READ,
    contrasts=(
        *against("rmix", (arm.name for arm in CUT_ARMS)),
        *(Contrast(arm=f"{mix}_one_cycle", reference=f"{mix}_multi_step", family="schedule") for mix in CUT),
    ),
    published=(
        *numbers(
            {"rmix": 81.49, "puzzlemix_multi_step": 79.38, "comixup_multi_step": 80.13}, "Table 4, PreActResNet-18"
        ),
        *elsewhere({name: TABLE4_ELSEWHERE[name] for name in ("PuzzleMix", "Co-Mixup", "R-Mix")}, "Table 4"),
        *numbers({"puzzlemix_one_cycle": 79.75, "comixup_one_cycle": 79.79}, "Table 1, 300 epochs"),
        *numbers({"rmix": 3.73, "puzzlemix_multi_step": 8.22, "comixup_multi_step": 5.83}, "Table 6, ECE", "ece_15"),
        *numbers(
            {"rmix": 77.08, "puzzlemix_multi_step": 78.70, "comixup_multi_step": 77.61}, "Table 6, FGSM", "fgsm_error"
        ),
        *numbers(
            {
                "PuzzleMix, MultiStep, 1200 epochs": 80.36,
                "PuzzleMix, OneCycle, 1200 epochs": 80.48,
                "Co-Mixup, MultiStep, 1200 epochs": 80.47,
                "Co-Mixup, OneCycle, 1200 epochs": 80.30,
            },
            "Table 1",
        ),
    ),
    claim="R-Mix is best, also where the others train four times as long; OneCycle helps them little or not at all.",
    notes=(
        LAST,
        CIFAR100_ONLY,
        "A study of its own, because its arms need an optional package: python -m pip install -e '.[graphcut]'.",
        "With MultiStep, scale 'paper' has the binary cross-entropy of the pipeline those numbers are quoted from; "
        "which loss the OneCycle numbers were trained with is not said, and here it is R-Mix's.",
        "The cuts are made on the CPU, one trial in one process; the released code uses several.",
    ),
)

# --- Table 6: calibration and robustness -----------------------------------------------------------------------------

TABLE6 = {  # method: ECE, FGSM error
    "vanilla": (10.25, 87.12),
    "mixup": (18.50, 81.30),
    "manifold": (7.60, 80.29),
    "cutmix": (18.41, 86.96),
    "PuzzleMix": (8.22, 78.70),
    "Co-Mixup": (5.83, 77.61),
    "rmix": (3.73, 77.08),
}
CALIBRATION = Study(
    name="rmix_calibration",
    question="Are networks trained with R-Mix better calibrated, and harder to fool by one adversarial step?",
    source=printed("Table 6"),
    method="rmix",
    arms=METHOD_ARMS,
    baseline="rmix",
    scales=SCALES,
    outcome=ECE15,
    secondary=(FGSM, ECE10, NLL, ACCURACY, BEST),
    contrasts=against("rmix", (arm.name for arm in METHOD_ARMS)),
    published=(
        *numbers({name: row[0] for name, row in TABLE6.items()}, "Table 6, ECE", "ece_15"),
        *numbers({name: row[1] for name, row in TABLE6.items()}, "Table 6, FGSM", "fgsm_error"),
    ),
    claim="R-Mix has the lowest calibration error, 3.7%, and the lowest error after FGSM.",
    notes=(
        LAST,
        CIFAR100_ONLY,
        QUOTED_NOTE,
        "The paper gives no number of bins and no code for either measure: 15 bins (and 10), FGSM of 8/255 on pixels.",
    ),
)

# --- Table 9: RL-Mix -------------------------------------------------------------------------------------------------

ROLLOUTS: Mapping[str, Mapping[str, Any]] = {
    "smoke": {"rollout": 2, "minibatch": 2, "passes": 2, "features": 16},
    "laptop": {"rollout": 24, "minibatch": 6},
    "pictures": {"rollout": 100, "minibatch": 25},
}
"""Two epochs each, but for smoke's one, in four minibatches: as on CIFAR-100, where that is 1000 steps."""
RL_ARMS = (
    Arm(name="cutmix", label="CutMix", config=rmix(mix="cutmix"), per_dataset=BY_THE_PAPER),
    Arm(name="cutmix_plus", label="CutMix+", config=CUTMIX_PLUS),
    Arm(name="rmix", label="R-Mix", config=RMIX),
    Arm(name="rmix_p8", label="R-Mix, p = 8", config=rmix(patches=(8,))),
    Arm(name="rlmix", label="RL-Mix", config=RLMIX, method="rlmix"),
    Arm(name="rlmix_p24", label="RL-Mix, p in {2, 4}", config=replace(RLMIX, patches=(2, 4)), method="rlmix"),
)
RL = Study(
    name="rmix_rl",
    question="Does a policy that learns to choose R-Mix's percentiles choose better than chance?",
    source=printed("Table 9, PreActResNet-18"),
    method="rmix",
    arms=RL_ARMS,
    baseline="rmix",
    scales=tuple(replace(each, settings={**each.settings, **ROLLOUTS.get(each.name, {})}) for each in SCALES),
    **READ,
    contrasts=(
        *against("rmix", ("cutmix", "cutmix_plus", "rlmix")),
        Contrast(arm="rlmix", reference="rmix_p8", family="same masks"),
        Contrast(arm="rlmix_p24", reference="rmix", family="same masks"),
    ),
    published=(
        *numbers({"cutmix": 78.71, "cutmix_plus": 80.60, "rmix": 81.49, "rlmix": 80.75}, "Table 9, PreActResNet-18"),
        *elsewhere(
            {name: TABLE4_ELSEWHERE[name] for name in ("CutMix", "CutMix+", "R-Mix")}
            | {"RL-Mix": (82.16, 84.90, 82.43)},
            "Table 9",
        ),
    ),
    claim="No: RL-Mix is between CutMix+ and R-Mix, at twice the cost of R-Mix.",
    notes=(
        LAST,
        CIFAR100_ONLY,
        QUOTED_NOTE,
        "The paper's RL-Mix differs from its R-Mix in two things: the policy, and p = 8 instead of {2, 4}. Two arms "
        "that are not in the paper take them apart: R-Mix with p = 8, and RL-Mix with p in {2, 4}, as released.",
        "Small sizes shorten the policy's rollouts to two of their epochs; it is then updated 6 times (laptop) or 5 "
        "(pictures), on the paper's size 150 times.",
    ),
)

# --- What the paper leaves open --------------------------------------------------------------------------------------


def open_question(name: str, question: str, where: str, arms: Mapping[str, tuple[Config, str]], note: str) -> Study:
    """A study of one field, against R-Mix as released, which is the first arm."""
    baseline = next(iter(arms))
    return Study(
        name=name,
        question=question,
        source=printed(where),
        method="rmix",
        arms=tuple(Arm(name=arm, config=config, label=label) for arm, (config, label) in arms.items()),
        baseline=baseline,
        scales=SCALES,
        **READ,
        contrasts=against(baseline, arms),
        notes=(UNPUBLISHED, LAST, note),
    )


STUDIES = (
    PK,
    ALPHA,
    METHODS,
    SCHEDULERS,
    CUTS,
    CALIBRATION,
    RL,
    open_question(
        "rmix_loss",
        "Does it matter whether R-Mix trains with soft or with binary cross-entropy?",
        "section 4: 'multi-label' binary cross-entropy in the text, soft-label cross-entropy in the code",
        {"ce": (RMIX, "soft cross-entropy"), "bce": (rmix(loss="bce"), "binary cross-entropy of the softmax")},
        "At one learning rate the binary loss takes much smaller steps, by about half the number of classes.",
    ),
    open_question(
        "rmix_bn",
        "Does it matter how batch norm behaves in R-Mix's saliency pass?",
        "section 3: unsaid in the text; in the code the pass updates the running statistics",
        {
            "train": (RMIX, "batch statistics, updating"),
            "eval": (rmix(saliency_mode="eval"), "running statistics"),
            "frozen": (rmix(saliency_mode="frozen"), "batch statistics, not updating"),
        },
        "As released, running statistics are of clean and mixed images in equal parts.",
    ),
    open_question(
        "rmix_q",
        "Does it matter whether R-Mix draws a percentile for each image or one for the batch?",
        "section 3: 'a value q' in the text, one for each image in the code",
        {"sample": (RMIX, "one for each image"), "batch": (rmix(quantile_per="batch"), "one for the batch")},
        "With one percentile for the batch all masks of a batch have as many patches.",
    ),
)
