"""What the benchmarks of training steps do alike: options, pictures, and epochs of all arms in turn.

Timed are whole epochs of a method without evaluation, so augmentation, optimiser and reading the losses count on both
sides of a ratio: processor time on the CPU, which a busy machine does not stretch, wall time elsewhere. Every round has
one epoch of each arm; a ratio is the median over the rounds.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ablate import memory
from trainables.data_protocols import DataSpec
from trainables.datasets import Data, Images

WARM_UP = 2
"""Epochs before the clock runs."""


def arguments(description: str, arms: Iterable[str], *, width: int = 16, rounds: int = 7, network: str = "") -> Any:
    """The command line's options; `network` is one where a default is given."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1, help="of torch, on the CPU")
    if network:
        parser.add_argument("--network", default=network)
    parser.add_argument("--width", type=int, default=width)
    parser.add_argument("--side", type=int, default=32)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=4, help="of an epoch, whose first one is counted, too")
    parser.add_argument("--rounds", type=int, default=rounds, help="epochs of each arm")
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16"])
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument("--arms", nargs="*", default=list(arms), choices=list(arms))
    return parser.parse_args()


def fields(chosen: Any) -> dict[str, Any]:
    """The config fields that the options name, for every arm."""
    shared = {name: getattr(chosen, name) for name in ("width", "batch", "precision", "channels_last")}
    if hasattr(chosen, "network"):
        shared["network"] = chosen.network
    return shared | {"epochs": WARM_UP + chosen.rounds + 1}  # one more, as the last is followed by an evaluation


def noise(count: int, side: int, classes: int) -> Data:
    """Random pictures; their content does not matter here."""
    rng = np.random.default_rng(0)
    train = Images(rng.integers(0, 256, (count, side, side, 3), dtype=np.uint8), np.arange(count) % classes)
    test = Images(train.pixels[:2], train.labels[:2])
    names = tuple(str(number) for number in range(classes))
    return Data(DataSpec(protocol="noise"), names, train, test, {}, (0.5,) * 3, (0.25,) * 3)


def clock(device: str) -> Callable[[], float]:
    """Seconds: of the processor on the CPU, else by the wall."""
    return time.process_time if device == "cpu" else time.perf_counter


def timed(arms: Mapping[str, Iterator[Any]], chosen: Any) -> dict[str, list[float]]:
    """Seconds a step of every arm, by round; `arms` are trainings that have not begun."""
    torch.set_num_threads(chosen.threads)
    memory.keep()  # as workers do
    now = clock(chosen.device)
    for arm in arms.values():
        for _ in range(WARM_UP):
            next(arm)
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    for _ in range(chosen.rounds):
        for name, arm in arms.items():
            begun = now()
            next(arm)
            seconds[name].append((now() - begun) / chosen.steps)
    return seconds


@dataclass(frozen=True)
class Ratio:
    """How many times as long one arm takes as another, over the rounds."""

    median: float
    lowest: float
    highest: float

    def __str__(self) -> str:
        return "".join(f"{number:8.2f}" for number in (self.median, self.lowest, self.highest))


COLUMNS = f"{'ms a step':>10}{'ratio':>8}{'lowest':>8}{'highest':>8}"


def ratio(seconds: Sequence[float], reference: Sequence[float]) -> Ratio:
    """Of two arms' seconds, round by round."""
    found = sorted(one / other for one, other in zip(seconds, reference, strict=True))
    return Ratio(statistics.median(found), found[0], found[-1])


def milliseconds(seconds: Sequence[float]) -> str:
    """Their median, as the column of that name wants it."""
    return f"{1000 * statistics.median(seconds):10.1f}"


def machine(chosen: Any, what: str) -> str:
    """The line above a table."""
    where = f"torch {torch.__version__}, {chosen.device}, {chosen.threads} of {os.cpu_count()} cores"
    images = f"{chosen.batch} images of {chosen.side} x {chosen.side}, {chosen.precision}"
    return f"{where}; {what}, width {chosen.width}, {images}"
