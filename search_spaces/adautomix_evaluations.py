"""What the paper of AdAutoMix measures besides accuracy, on the networks that its other studies train.

Paper: Adversarial AutoMixup, ICLR 2024 (hal-04655281). `adautomix_robustness`, `adautomix_transfer`,
`adautomix_calibration` and `adautomix_occlusion` are its Tables 4, 3, 6 and 7.

Arms train what the arms of `adautomix_methods` train, so at the small sizes their networks are those of that study; the
digits of `adautomix_transfer` are trained on six classes.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from search_spaces.adautomix import (
    BEST,
    CIFAR100_ONLY,
    GPU,
    LAPTOP,
    LAST,
    MEDIAN,
    METHOD_ARMS,
    PAPER,
    PICTURES,
    PROTOCOL,
    SCALES,
    SMOKE,
    TOP5,
    against,
    numbers,
    printed,
    seeds,
)
from search_spaces.study import Arm, Block, Contrast, Outcome, Scale, Study
from trainables import calibration
from trainables.adautomix import SWIN
from trainables.protocol import Needed
from trainables.stress import Config, Test
from trainables.transfer import Config as Transfer

ACCURACY = Outcome(metric="accuracy", label="top-1 accuracy, last epoch")
SMALL: Mapping[str, float] = {"smoke": 0.6, "laptop": 22.0, "pictures": 430.0}
"""Scale -> seconds of a trial with its share of the training."""
SIZES = tuple(replace(scale, seconds=SMALL.get(scale.name, scale.seconds)) for scale in SCALES)


def arms(tests: tuple[Test, ...], *names: str, **fields: Any) -> tuple[Arm, ...]:
    """Arms of `adautomix_methods`, their networks put to these tests."""
    trained = {arm.name: arm for arm in METHOD_ARMS}
    return tuple(
        replace(trained[name], config=Config(network=Needed("adautomix", trained[name].config), tests=tests, **fields))
        for name in names
    )


def lower(metric: str, label: str, **fields: Any) -> Outcome:
    """An outcome that is better where it is lower."""
    return Outcome(metric=metric, label=label, higher_is_better=False, **fields)


NOT_PUZZLEMIX = "PuzzleMix is not run here; its numbers are the paper's."
CONTROL = (
    "The arm 'Vanilla, its average judged' is not in the paper: the average of an ordinary network's weights, trained "
    "with AdAutoMix's learning rates. Averages alone change calibration and robustness."
)

# --- Table 4: corruptions and FGSM -----------------------------------------------------------------------------------

ROBUST = ("vanilla", "mixup", "cutmix", "fmix", "automix", "adautomix", "vanilla_teacher")
ROBUSTNESS_ARMS = arms(("corruptions", "extra", "fgsm", "pgd"), *ROBUST)
ROBUSTNESS = Study(
    name="adautomix_robustness",
    question="Does AdAutoMix stand corrupted and attacked images better than other mixes?",
    source=printed("Table 4"),
    method="stress",
    arms=ROBUSTNESS_ARMS,
    baseline="adautomix",
    scales=SIZES,
    outcome=Outcome(metric="accuracy_corrupted_19", label="accuracy on corrupted images, 19 kinds"),
    secondary=(
        ACCURACY,
        Outcome(metric="accuracy_corrupted", label="accuracy on corrupted images, the usual 15 kinds"),
        lower("drop", "accuracy lost to corruptions"),
        lower("fgsm_error", "error after FGSM, 8/255"),
        lower("fgsm_error_released", "error after the released step in normalised values"),
        lower("pgd_linf_error", "error after PGD, L-infinity, 8/255"),
        lower("pgd_l2_error", "error after PGD, L2, 0.5"),
    ),
    contrasts=against("adautomix", ROBUST),
    claim="AdAutoMix is 1.53 points ahead of AutoMix on clean images of CIFAR-100, and 0.40 on corrupted ones; after "
    "FGSM it is far ahead of all others.",
    notes=(
        PROTOCOL,
        "The table's rows are not quoted here: only its text's two differences to AutoMix are at hand.",
        "As in the paper, the mean is over 19 corruptions, four of them meant for choosing by; the usual fifteen stand "
        "beside it. They are made by the published settings, see `trainables/corruptions.py`.",
        "FGSM moves pixels by 8/255. The released code moves normalised values by as much and then cuts them to "
        "[0, 1], which destroys the image; the error after that is measured too, and is what the table's are.",
        "PGD is not in the paper: ten steps from a random start tell robustness from a gradient that points nowhere.",
        "PuzzleMix, which the table has too, is not run here.",
        CONTROL,
    ),
    figures=("corruptions",),
)

# --- Table 6: calibration --------------------------------------------------------------------------------------------

TABLE6 = {"mixup": 15.3, "cutmix": 4.4, "fmix": 8.9, "GridMix": 6.5, "PuzzleMix": 3.7, "automix": 3.4, "adautomix": 3.2}
TABLE6_SWIN = {
    **{"MixUp": 13.4, "CutMix": 10.1, "FMix": 9.2, "GridMix": 9.3, "PuzzleMix": 16.7, "AutoMix": 10.5},
    "AdAutoMix": 9.2,
}
CALIBRATED = ("vanilla", "mixup", "cutmix", "fmix", "automix", "adautomix", "vanilla_teacher")
NAMES = {"ece_10": "calibration error, 10 bins", "ece_adaptive_15": "calibration error, 15 bins of equal size"}
NAMES |= {"ece_sorted_10": "released formula with sorted bins", "brier": "Brier score"}
UNIT = {"nll": 1.0, "brier": 1.0}
CALIBRATION = Study(
    name="adautomix_calibration",
    question="Is a network trained with AdAutoMix as sure of its answers as it should be?",
    source=printed("Table 6"),
    method="stress",
    arms=arms(("calibration",), *CALIBRATED),
    baseline="adautomix",
    scales=SIZES,
    outcome=lower("ece_15", f"calibration error, {calibration.BINS} bins"),
    secondary=(
        ACCURACY,
        *(lower(name, label, unit=UNIT.get(name, 100.0)) for name, label in NAMES.items()),
        lower("nll", "negative log-likelihood", unit=1.0),
        lower("ece_15_scaled", "calibration error, 15 bins, after a temperature"),
        lower("nll_scaled", "negative log-likelihood after a temperature", unit=1.0),
        lower("temperature", "temperature", unit=1.0),
    ),
    contrasts=against("adautomix", CALIBRATED),
    published=(
        *numbers(TABLE6, "Table 6, ResNet-18", "ece_sorted_10"),
        *numbers({f"Swin-T, {name}": value for name, value in TABLE6_SWIN.items()}, "Table 6, Swin-T", "ece_sorted_10"),
    ),
    claim="AdAutoMix is best calibrated: 3.2, after AutoMix's 3.4; MixUp's 15.3 is worst.",
    notes=(
        CIFAR100_ONLY,
        "The released code sorts the bins' accuracies and confidences apart before it takes their differences, so the "
        "printed numbers are no calibration errors. The formula is computed too, to compare with them; on made-up "
        "logits it gives 0.084 where the error is 0.302.",
        "Soft labels can make a network underconfident, as hard ones make it overconfident; one temperature, fitted on "
        "one half of the test images for the other, shows how much of an error is no more than that.",
        "PuzzleMix and GridMix are not run here; their numbers are the paper's.",
        CONTROL,
    ),
    figures=("reliability",),
)

# --- Table 7: occlusion ----------------------------------------------------------------------------------------------

TABLE7 = {  # per cent covered: 0, 10, ..., 90; Swin-T at 224 pixels on CIFAR-100
    "mixup": (76.82, 74.54, 71.88, 67.98, 63.18, 55.26, 44.20, 30.07, 15.69, 6.14),
    "PuzzleMix": (80.45, 78.98, 77.52, 75.47, 71.16, 64.42, 53.40, 38.53, 21.39, 7.91),
    "automix": (82.68, 81.40, 79.05, 75.44, 70.61, 64.30, 55.25, 40.92, 23.09, 9.73),
    "adautomix": (84.33, 82.41, 80.16, 76.84, 72.09, 66.74, 58.09, 46.48, 28.02, 9.91),
}
COVERED = ("vanilla", "mixup", "cutmix", "automix", "adautomix", "vanilla_teacher")
SWIN_PAPER = Scale(
    name="paper",
    blocks=PAPER.blocks,
    settings={**SWIN, "occlusion_grid": 14},
    data={"side": 224},
    gpus=1.0,
    note="Swin-T on CIFAR-100 at 224 pixels, 200 epochs, 14 x 14 patches, 3 seeds. All arms take AdAutoMix's rates and "
    "warm-up, AutoMix its margin too, and mixes by hand ResNet-18's laws of lambda; OpenMixup tunes those of each mix. "
    "RandAugment and stochastic depth are not here.",
)
OCCLUSION = Study(
    name="adautomix_occlusion",
    question="Does a network trained with AdAutoMix recognise images whose patches are covered?",
    source=printed("Table 7"),
    method="stress",
    arms=arms(("occlusion",), *COVERED),
    baseline="adautomix",
    scales=(*SIZES[:-1], SWIN_PAPER),
    outcome=Outcome(metric="accuracy_occluded", label="accuracy, mean over 0 to 90% covered"),
    secondary=tuple(
        Outcome(metric=f"accuracy_occluded_{percent}", label=f"accuracy with {percent}% covered")
        for percent in range(0, 100, 10)
    ),
    contrasts=against("adautomix", COVERED),
    published=tuple(
        number
        for place in range(10)
        for number in numbers(
            {name: row[place] for name, row in TABLE7.items()},
            f"Table 7, Swin-T, {10 * place}%",
            f"accuracy_occluded_{10 * place}",
        )
    ),
    claim="At every share AdAutoMix is best; at half the patches covered 66.7% against AutoMix's 64.3%.",
    notes=(
        "Printed numbers are Swin-T's at 224 pixels; the smaller sizes have ResNet-18 and 8 x 8 patches.",
        "The same patches are covered for every arm of a block, more at each share; the code draws them by batch.",
        "The paper's rows for CUB-200 are of ResNet-50s trained with mixes on those birds, from ImageNet's weights; not"
        " here.",
        NOT_PUZZLEMIX,
        CONTROL,
    ),
    figures=("occlusion",),
)

# --- Table 3: transfer -----------------------------------------------------------------------------------------------

BIRDS, CARS = "cub200-closed", "cars-closed"
TABLE3 = {  # CUB-200, Stanford Cars; ResNet-50
    "vanilla": (81.76, 88.88),
    "mixup": (82.79, 89.45),
    "cutmix": (81.67, 88.99),
    "PuzzleMix": (82.59, 89.37),
    "automix": (82.93, 88.71),
    "adautomix": (83.36, 89.65),
}
ON_IMAGENET: Mapping[str, Mapping[str, Any]] = {
    "automix": {"generator_rate": 0.1, "generator_floor": 0.01},
    "adautomix": {"images": 2, "beta": 0.1, "embed_lam": True, "generator_rate": 0.1, "generator_floor": 0.01},
}
"""Arm -> how it is trained on ImageNet, besides what all have. [C]"""
MOVED = ("vanilla", "mixup", "cutmix", "automix", "adautomix", "vanilla_teacher")


def moved(arm: Arm, **fields: Any) -> Arm:
    """The network of an arm of `adautomix_methods` goes on with other images."""
    own = ON_IMAGENET.get(arm.name, {})
    needed = Needed("adautomix", arm.config, data="before")
    return replace(arm, config=Transfer(network=needed, **fields), per_dataset={BIRDS: own, CARS: own})


TRAINED = {arm.name: arm for arm in METHOD_ARMS}
TRANSFER_ARMS = (
    *(moved(TRAINED[name]) for name in MOVED),
    replace(moved(TRAINED["vanilla"], start="scratch"), name="scratch", label="no training before"),
)


def going_on(scale: Scale, blocks: tuple[Block, ...], before: str, data: Mapping[str, Any], **fields: Any) -> Scale:
    """A size of the other studies, whose networks are trained on its data and go on with others."""
    own = {"crop": False, **fields.pop("settings")}
    known = {"protocol": before, **scale.data}
    return replace(
        scale, blocks=blocks, settings={**scale.settings, **own}, data=data, needed_data={"before": known}, **fields
    )


TRANSFER_SCALES = (
    going_on(
        SMOKE,
        tuple(Block(dataset="digits-others", split=split, seed=split) for split in range(2)),
        "digits-known",
        SMOKE.data,
        settings={"transfer_epochs": 1, "transfer_batch": 4},
        seconds=0.4,
    ),
    going_on(
        LAPTOP,
        tuple(Block(dataset="digits-others", split=split, seed=split) for split in range(5)),
        "digits-known",
        {"side": 16, "per_class": 5},
        settings={"transfer_epochs": 15, "transfer_batch": 5, "transfer_rate": 0.01},
        seconds=6.0,
        note="scikit-learn's digits at 16 x 16: six classes are learned from 40 images each, the other four then from "
        "five each. An eighth of the network's width, ten times the paper's learning rate, 15 epochs of 100.",
    ),
    going_on(
        PICTURES,
        seeds("tinyimagenet100-closed", 3),
        "cifar10-closed",
        {"side": 32, "per_class": 50, "test_per_class": 20},
        settings={"transfer_epochs": 10, "transfer_batch": 50, "transfer_rate": 0.02},
        seconds=250.0,
        note="Real pictures without a GPU: small networks of CIFAR-10, those of adautomix_methods, go on with 100 "
        "classes of Tiny-ImageNet at 32 x 32, from 50 images each, for 10 epochs.",
    ),
    going_on(
        GPU,
        seeds("cifar100-closed", 5),
        "cifar10-closed",
        {"per_class": 50},
        settings={"transfer_epochs": 30, "transfer_batch": 50, "transfer_rate": 0.01},
        seconds=None,
        note="The networks of adautomix_methods, trained on all of CIFAR-10, go on with CIFAR-100, from a tenth of its "
        "images, for 30 epochs. Not measured.",
    ),
    Scale(
        name="paper",
        blocks=(*seeds(BIRDS, 3), *seeds(CARS, 3)),
        settings={
            **{"network": "resnet50_imagenet", "epochs": 100, "batch": 256, "learning_rate": 0.1, "floor": 0.0},
            **{"mask_scale": 16, "ema_end": 0.99999, "padding": 0, "crop": True, "evaluate_every": 10},
            "channels_last": True,
        },
        data={"side": 224},
        needed_data={"before": {"protocol": "imagenet128-closed"}},
        gpus=1.0,
        note="ResNet-50, 100 epochs of ImageNet, then 100 of CUB-200 or Stanford Cars at 224 pixels, 3 seeds. ImageNet "
        "is seen at 128 pixels, where its images take 63 GB of the GPU; at 224 they would take 193. Weeks on one GPU.",
    ),
)
TRANSFER = Study(
    name="adautomix_transfer",
    question="Do features that were learned with AdAutoMix transfer better to other kinds of things?",
    source=printed("section 4.5, Table 3"),
    method="transfer",
    arms=TRANSFER_ARMS,
    baseline="adautomix",
    scales=TRANSFER_SCALES,
    outcome=MEDIAN,
    secondary=(LAST, BEST, TOP5, lower("nll", "negative log-likelihood", unit=1.0)),
    contrasts=(
        *against("adautomix", MOVED),
        Contrast(arm="vanilla_teacher", reference="vanilla", family="teacher"),
        Contrast(arm="vanilla", reference="scratch", family="does anything transfer"),
    ),
    published=tuple(
        number
        for dataset, place in ((BIRDS, 0), (CARS, 1))
        for number in numbers({name: row[place] for name, row in TABLE3.items()}, "Table 3", dataset=dataset)
    ),
    claim="AdAutoMix is best: 83.36 on CUB-200, 0.4 over AutoMix and 1.6 over no mixing; 89.65 on Stanford Cars, 0.2 "
    "over MixUp and 0.8 over none.",
    notes=(
        "Mixes train the first network alone; it then goes on by plain cross-entropy. Which of AdAutoMix's networks "
        "goes on is not printed: here the one that its other studies judge, which is its averaged teacher.",
        "Two arms are not in the paper: the average of an ordinary network's weights, and the same network from "
        "scratch, which says whether anything transfers.",
        "With the settings of section 4.1.2 but for 100 epochs. Table 2's vanilla ResNet-50, whose first network is "
        "torchvision's, has 82.38 on CUB-200 after 200.",
        "The paper's test images are the middle 224 pixels of 256; here the whole square is seen at 224.",
        NOT_PUZZLEMIX,
    ),
)

STUDIES: tuple[Study, ...] = (ROBUSTNESS, TRANSFER, CALIBRATION, OCCLUSION)
