"""Tests of a network that another trial trained: corruptions, occlusion, attacks, calibration. One epoch.

Papers: GradMix (arXiv 2505.12803), section 4.4 and Table 5, for corruptions; AdAutoMix (ICLR 2024), Tables 4, 6 and 7,
for corruptions, attacks, calibration and occlusion.
Official repositories: gawainxu/comprehensive_osr@d18b920, JinXins/Adversarial-AutoMixup.

The drop at a corruption and severity is the accuracy on clean test images less that on corrupted ones; `drop` is its
mean over the fifteen corruptions and five severities, `drop_<severity>` and `drop_<corruption>` are means over the
other. `accuracy_corrupted` is the mean accuracy on the fifteen, `accuracy_corrupted_19` on the extra ones too. An
encoder is judged by its nearest neighbours, which have neither gradients nor probabilities.

The tests 'published' and 'published_extra' are 'corruptions' and 'extra' on the published files, which the protocols
'cifar10-c', 'cifar100-c' and 'tinyimagenet-c' have beside the images of 'cifar10-closed' and so on.

Deviations:
1. But for 'published', corrupted images are made here, see `trainables.corruptions`; all test images are judged, not
   GradMix's every tenth.
2. Attacks move pixels. AdAutoMix's code moves normalised values by 8/255, which is about 1.6/255 of a pixel's range,
   and then cuts them to [0, 1], which destroys the image: `fgsm_error_released`, for comparison with its table.
3. `ece_sorted_10` is what AdAutoMix's code prints, for comparison with its table; the others are calibration errors.
4. Patches cover with the mean colour, 0 after normalisation, as there; how many and where, see `trainables.occlusion`.

Shapes: N images, B of a batch, K classes, S severities.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from trainables import (
    attacks,
    calibration,
    classification,
    corrupted_files,
    corruptions,
    judged,
    loop,
    occlusion,
    seeding,
)
from trainables.augment import to_float
from trainables.config import ConfigError, check_types, require
from trainables.corruption_settings import CORRUPTIONS, EXTRA, SEVERITIES
from trainables.data_protocols import PROTOCOLS, DataSpec, protocol_of
from trainables.datasets import Data, Images
from trainables.judged import Judged
from trainables.protocol import Epoch, Needed, State
from trainables.sources import SOURCES

Test = Literal["corruptions", "extra", "published", "published_extra", "occlusion", "fgsm", "pgd", "calibration"]
Metrics = dict[str, float]
Shown = dict[str, np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Config:
    """Which network is put to which tests. [P] printed in a paper, [C] read in its code, [D] ours."""

    network: Needed
    """The trial that trains the network; its final state holds 'network' (a description) and 'weights'."""
    tests: tuple[Test, ...] = ("corruptions",)
    """The fifteen common corruptions, the four extra ones, either made here or as published; occlusion, attacks in one
    and in many steps, calibration."""
    k: int = 10
    """Neighbours per class, of an encoder. [P] 10 in GradMix's ablations; [C] 3."""
    occlusion_grid: int = 8
    """Patches a side. [P] 14 at 224 pixels; 8 at 32 [D]."""
    radius_linf: float = attacks.RADIUS["linf"]
    """Of PGD, in units of a pixel's range. FGSM's is 8/255 [P]."""
    radius_l2: float = attacks.RADIUS["l2"]
    """Of PGD in L2 [D]."""
    steps: int = attacks.STEPS
    """Of PGD; their lengths grow with the radius."""

    def __post_init__(self) -> None:
        check_types(self)
        judged.check_needed(self.network, "network")
        require(bool(self.tests) and len(set(self.tests)) == len(self.tests), self, "tests", "different tests")
        for made, given in (("corruptions", "published"), ("extra", "published_extra")):
            one = f"without {made!r} or without {given!r}: both are measured by the same names"
            require(not {made, given} <= set(self.tests), self, "tests", one)
        for field in ("k", "occlusion_grid", "steps"):
            require(getattr(self, field) >= 1, self, field, "at least 1")
        for field in ("radius_linf", "radius_l2"):
            require(0 < getattr(self, field) < float("inf"), self, field, "above 0 and finite")
        wanting = [test for test in self.tests if test in OF_LOGITS]
        if wanting and self.network.method in judged.ENCODERS:
            raise ConfigError(
                f"tests={self.tests!r} is not allowed: {' and '.join(map(repr, wanting))} need a classifier's logits, "
                f"and {self.network.method!r} trains an encoder. Leave them out, or name a method that classifies."
            )


def check(config: Config, data: DataSpec, needed: Mapping[str, DataSpec]) -> None:
    """Refuses, before anything runs, published corruptions where there are none, and networks for other images.

    Raises:
        ConfigError: naming the field.
    """
    judged.check_classes(data, needed)
    there = protocol_of(data).corrupted
    for test, names in PUBLISHED.items():
        if test in config.tests and not set(names) <= set(SOURCES[there].parts if there else ()):
            have = [
                name
                for name, each in PROTOCOLS.items()
                if each.corrupted and set(names) <= set(SOURCES[each.corrupted].parts)
            ]
            raise ConfigError(
                f"tests={config.tests!r} is not allowed: {data.protocol!r} has no published files of "
                f"{', '.join(names[:2])}, ... Protocols that have them: {', '.join(have)}; or name the test that makes "
                f"them here, {MADE[test]!r}."
            )


def train(
    config: Config, data: Data, *, seed: int, device: str, resume: State | None = None, network: State
) -> Iterator[Epoch]:
    """Tests the network of another trial on the data it was trained on; yields one epoch.

    Args:
        config: the tests.
        data: the protocol's data.
        seed: of what is random in the tests.
        device: where the network runs.
        resume: a state of this method; it was finished then, so nothing is yielded.
        network: final state of the needed trial.

    Raises:
        ValueError: a state that describes no network, one that does not fit the data, or an encoder where logits are
            needed.
        Diverged: an encoder's features are not finite.
    """
    if resume is not None:
        return
    shown: Shown = {}
    with loop.repeatable(device):
        subject = judged.judged(config.network, network, data, device, config.k)
        accuracy = judged.accuracy(subject.scores, data.test, device)
        metrics = {"accuracy": accuracy}
        for test in config.tests:
            if test in OF_LOGITS and not subject.logits:
                raise ValueError(f"{test!r} needs a classifier's logits, and the needed trial trained an encoder.")
            found, arrays = TESTS[test](config, subject, data, seed, device)
            metrics |= found
            shown |= arrays
    kinds = {MADE.get(test, test) for test in config.tests}
    if "corruptions" in kinds:
        metrics |= drops(metrics)
    if {"corruptions", "extra"} <= kinds:
        metrics["accuracy_corrupted_19"] = _mean(metrics, (*CORRUPTIONS, *EXTRA))
    if "corruptions" in kinds or "extra" in kinds:
        shown["clean"] = np.array([accuracy])
    yield Epoch(1, metrics, lambda: {"epoch": 1}, (lambda: shown) if shown else None)


def corrupted(names: tuple[str, ...], subject: Judged, data: Data, seed: int, device: str) -> tuple[Metrics, Shown]:
    """'accuracy_<corruption>_<severity>' on the test images."""
    metrics, shown = {}, {}
    for name in names:
        for severity in SEVERITIES:
            change = _corruption(name, severity, seed, device)
            metrics[f"accuracy_{name}_{severity}"] = judged.accuracy(subject.scores, data.test, device, change)
        shown[f"corrupted_{name}"] = np.array([metrics[f"accuracy_{name}_{severity}"] for severity in SEVERITIES])
    return metrics, shown


def published(names: tuple[str, ...], subject: Judged, data: Data, device: str) -> tuple[Metrics, Shown]:
    """The same on published corrupted images.

    Raises:
        ConfigError: the data have none.
    """
    metrics, shown = {}, {}
    for name in names:
        images = data.others.get(corrupted_files.SET.format(name))
        if images is None:
            raise ConfigError(f"{data.spec.protocol!r} has no published images of {name!r}.")
        once = len(images.labels) // len(SEVERITIES)
        for place, severity in enumerate(SEVERITIES):
            rows = slice(place * once, (place + 1) * once)
            part = Images(images.pixels[rows], images.labels[rows])
            metrics[f"accuracy_{name}_{severity}"] = judged.accuracy(subject.scores, part, device)
        shown[f"corrupted_{name}"] = np.array([metrics[f"accuracy_{name}_{severity}"] for severity in SEVERITIES])
    return metrics, shown


def _corruption(name: str, severity: int, seed: int, device: str) -> Callable[[Tensor], Tensor]:
    generator = seeding.torch_stream(seed, f"{name}/{severity}", device)
    return lambda pixels_BHWC: to_float(corruptions.corrupt(pixels_BHWC, name, severity, generator))


def drops(metrics: Mapping[str, float]) -> Metrics:
    """What the corruptions take from the accuracy: in the mean, by severity, by corruption."""
    rows = [[metrics[f"accuracy_{name}_{severity}"] for severity in SEVERITIES] for name in CORRUPTIONS]
    drop_KS = metrics["accuracy"] - np.array(rows)
    return {
        "accuracy_corrupted": _mean(metrics, CORRUPTIONS),
        "drop": float(drop_KS.mean()),
        **{f"drop_{severity}": float(each) for severity, each in zip(SEVERITIES, drop_KS.mean(0), strict=True)},
        **{f"drop_{name}": float(each) for name, each in zip(CORRUPTIONS, drop_KS.mean(1), strict=True)},
    }


def _mean(metrics: Mapping[str, float], names: tuple[str, ...]) -> float:
    """Accuracy over these corruptions at all severities."""
    return float(np.mean([metrics[f"accuracy_{name}_{severity}"] for name in names for severity in SEVERITIES]))


def _occluded(config: Config, subject: Judged, data: Data, seed: int, device: str) -> tuple[Metrics, Shown]:
    """'accuracy_occluded_<per cent>', and their mean; the same patches for every network of a seed."""
    found = []
    mean, _ = judged.colours(config.network, data)
    for share in occlusion.SHARES:
        generator = seeding.torch_stream(seed, "occlusion", device)

        def cover(pixels_BHWC: Tensor, share: float = share, generator: torch.Generator = generator) -> Tensor:
            return occlusion.occlude(to_float(pixels_BHWC), share, config.occlusion_grid, mean, generator)

        found.append(judged.accuracy(subject.scores, data.test, device, cover))
    metrics = {f"accuracy_occluded_{round(100 * s)}": each for s, each in zip(occlusion.SHARES, found, strict=True)}
    shown = {"occluded_shares": np.array(occlusion.SHARES), "occluded_accuracy": np.array(found)}
    return metrics | {"accuracy_occluded": float(np.mean(found))}, shown


def _fgsm(config: Config, subject: Judged, data: Data, seed: int, device: str) -> tuple[Metrics, Shown]:
    """'fgsm_error': one step of 8/255; 'fgsm_error_released': AdAutoMix's step, in normalised values."""
    del seed
    plain = (0.0,), (1.0,)  # the scores take pixels, and normalise by themselves
    colours = judged.colours(config.network, data)
    wrong = torch.zeros((), dtype=torch.int64, device=device)
    for x_BCHW, labels_B in classification.batches(data.test, device, judged.BATCH):
        moved_BCHW = attacks.released_fgsm(subject.scores, x_BCHW, labels_B, *colours)
        with torch.no_grad():
            wrong += (subject.scores(moved_BCHW).argmax(1) != labels_B).sum()
    return {
        "fgsm_error": classification.fgsm_error(subject.scores, data, *plain, device=device),
        "fgsm_error_released": float(wrong) / len(data.test.labels),
    }, {}


def _pgd(config: Config, subject: Judged, data: Data, seed: int, device: str) -> tuple[Metrics, Shown]:
    """'pgd_linf_error' and 'pgd_l2_error': share of test images misclassified after the last step."""
    radii: dict[attacks.Norm, float] = {"linf": config.radius_linf, "l2": config.radius_l2}
    metrics = {}
    for norm, radius in radii.items():
        step = attacks.STEP[norm] * radius / attacks.RADIUS[norm]
        generator = seeding.torch_stream(seed, f"pgd/{norm}", device)
        wrong = torch.zeros((), dtype=torch.int64, device=device)
        for x_BCHW, labels_B in classification.batches(data.test, device, judged.BATCH):
            moved_BCHW = attacks.pgd(
                subject.scores,
                x_BCHW,
                labels_B,
                norm,
                radius=radius,
                step=step,
                steps=config.steps,
                generator=generator,
            )
            with torch.no_grad():
                wrong += (subject.scores(moved_BCHW).argmax(1) != labels_B).sum()
        metrics[f"pgd_{norm}_error"] = float(wrong) / len(data.test.labels)
    return metrics, {}


def _calibrated(config: Config, subject: Judged, data: Data, seed: int, device: str) -> tuple[Metrics, Shown]:
    """Measures of calibration, those with a temperature as '<name>_scaled', and the temperature."""
    del config
    parts = list(classification.batches(data.test, device, judged.BATCH))
    with torch.no_grad():
        logits_NK = torch.cat([subject.scores(x_BCHW).float() for x_BCHW, _ in parts])
    labels_N = torch.cat([labels_B for _, labels_B in parts])
    order_N = torch.randperm(len(labels_N), generator=seeding.torch_stream(seed, "halves")).to(device)
    half_N = torch.zeros_like(labels_N, dtype=torch.bool)
    half_N[order_N[: len(labels_N) // 2]] = True
    scaled_NK, temperature = calibration.cross_fitted(logits_NK, labels_N, half_N)
    scaled = {f"{name}_scaled": value for name, value in calibration.measures(scaled_NK, labels_N).items()}
    shown = {f"reliability_{name}": each for name, each in calibration.reliability(logits_NK, labels_N).items()}
    return calibration.measures(logits_NK, labels_N) | scaled | {"temperature": temperature}, shown


Tested = Callable[[Config, Judged, Data, int, str], tuple[Metrics, Shown]]
TESTS: Mapping[str, Tested] = {
    "corruptions": lambda config, *rest: corrupted(CORRUPTIONS, *rest),  # noqa: ARG005
    "extra": lambda config, *rest: corrupted(EXTRA, *rest),  # noqa: ARG005
    "published": lambda config, subject, data, seed, device: published(CORRUPTIONS, subject, data, device),  # noqa: ARG005
    "published_extra": lambda config, subject, data, seed, device: published(EXTRA, subject, data, device),  # noqa: ARG005
    "occlusion": _occluded,
    "fgsm": _fgsm,
    "pgd": _pgd,
    "calibration": _calibrated,
}
"""Test -> (config, network, data, seed, device) -> its metrics, and arrays for `analysis.stress_figures`."""
PUBLISHED: Mapping[str, tuple[str, ...]] = {"published": CORRUPTIONS, "published_extra": EXTRA}
"""Test of published files -> their corruptions."""
MADE: Mapping[str, str] = {"published": "corruptions", "published_extra": "extra"}
"""The same -> the test whose images are made here."""
OF_LOGITS = ("fgsm", "pgd", "calibration")
"""Tests that need logits."""
