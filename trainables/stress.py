"""Tests of a network that another trial trained: common corruptions. One epoch.

Papers: GradMix (arXiv 2505.12803), section 4.3 and Table 5 (corruptions).
Official repository: gawainxu/comprehensive_osr@d18b920.

The drop at a corruption and severity is the accuracy on clean test images less that on corrupted ones; `drop` is its
mean over the fifteen corruptions and five severities, `drop_<severity>` and `drop_<corruption>` are means over the
other. An encoder is judged by its nearest neighbours.

Deviations:
1. Corrupted images are made here, see `trainables.corruptions`; all test images are judged, not every tenth.

Shapes: see `trainables.judged`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from torch import Tensor

from trainables import corruptions, judged, loop, seeding
from trainables.config import check_types, require
from trainables.corruption_settings import CORRUPTIONS, EXTRA, SEVERITIES
from trainables.datasets import Data
from trainables.judged import Judged
from trainables.protocol import Epoch, Needed, State

Test = Literal["corruptions", "extra"]


@dataclass(frozen=True, kw_only=True)
class Config:
    """Which network is put to which tests. [P] printed in a paper, [C] read in its code, [D] ours."""

    network: Needed
    """The trial that trains the network; its final state holds 'network' (a description) and 'weights'."""
    tests: tuple[Test, ...] = ("corruptions",)
    """The fifteen common corruptions, the four extra ones."""
    k: int = 10
    """Neighbours per class, of an encoder. [P] 10 in GradMix's ablations; [C] 3."""

    def __post_init__(self) -> None:
        check_types(self)
        judged.check_needed(self.network, "network")
        require(bool(self.tests) and len(set(self.tests)) == len(self.tests), self, "tests", "different tests")
        require(self.k >= 1, self, "k", "at least 1")


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
        ValueError: a state that describes no network, or one that does not fit the data.
        Diverged: an encoder's features are not finite.
    """
    if resume is not None:
        return
    metrics: dict[str, float] = {}
    with loop.repeatable(device):
        subject = judged.judged(config.network, network, data, device, config.k)
        metrics["accuracy"] = judged.accuracy(subject.scores, data.test, device)
        for test, names in (("corruptions", CORRUPTIONS), ("extra", EXTRA)):
            if test in config.tests:
                metrics |= corrupted(subject, data, names, seed, device)
    if "corruptions" in config.tests:
        metrics |= drops(metrics)
    yield Epoch(1, metrics, lambda: {"epoch": 1}, lambda: exhibits(metrics))


def corrupted(subject: Judged, data: Data, names: tuple[str, ...], seed: int, device: str) -> dict[str, float]:
    """'accuracy_<corruption>_<severity>' on the test images."""
    found = {}
    for name in names:
        for severity in SEVERITIES:
            generator = seeding.torch_stream(seed, f"{name}/{severity}", device)

            def change(pixels_BHWC: Tensor, name: str = name, severity: int = severity) -> Tensor:
                return corruptions.corrupt(pixels_BHWC, name, severity, generator)  # noqa: B023 (used up in this turn)

            found[f"accuracy_{name}_{severity}"] = judged.accuracy(subject.scores, data.test, device, change)
    return found


def drops(metrics: Mapping[str, float]) -> dict[str, float]:
    """What the corruptions take from the accuracy: in the mean, by severity, by corruption."""
    drop_KS = np.array(
        [[metrics["accuracy"] - metrics[f"accuracy_{name}_{s}"] for s in SEVERITIES] for name in CORRUPTIONS]
    )
    return {
        "accuracy_corrupted": metrics["accuracy"] - float(drop_KS.mean()),
        "drop": float(drop_KS.mean()),
        **{f"drop_{s}": float(value) for s, value in zip(SEVERITIES, drop_KS.mean(0), strict=True)},
        **{f"drop_{name}": float(value) for name, value in zip(CORRUPTIONS, drop_KS.mean(1), strict=True)},
    }


def exhibits(metrics: Mapping[str, float]) -> dict[str, np.ndarray]:
    """For `analysis.stress_figures`: 'clean' (1), 'corrupted_<corruption>' (5), accuracies."""
    found = {"clean": np.array([metrics["accuracy"]])}
    for name in (*CORRUPTIONS, *EXTRA):
        if f"accuracy_{name}_1" in metrics:
            found[f"corrupted_{name}"] = np.array([metrics[f"accuracy_{name}_{s}"] for s in SEVERITIES])
    return found
