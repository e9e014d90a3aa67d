"""Studies for `benchmarks.overhead`: a method that does nothing, and one that computes for a stated while."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from search_spaces.study import Arm, Block, Outcome, Scale, Source, Study
from trainables.config import check_types
from trainables.protocol import Epoch, Method, State


@dataclass(frozen=True, kw_only=True)
class Noop:
    """Nothing to do."""

    value: float = 0.0
    """What it measures."""

    def __post_init__(self) -> None:
        check_types(self)


def noop(config: Noop, data: Any, *, seed: int, device: str, resume: State | None = None) -> Iterator[Epoch]:  # noqa: ARG001
    """One epoch, no state."""
    if resume is None:
        yield Epoch(1, {"auroc": config.value}, dict)


@dataclass(frozen=True, kw_only=True)
class Busy:
    """Matrix products, one after another."""

    products: int = 1000
    """So many of 192 x 192."""
    value: float = 0.0
    """What it measures."""

    def __post_init__(self) -> None:
        check_types(self)


def busy(config: Busy, data: Any, *, seed: int, device: str, resume: State | None = None) -> Iterator[Epoch]:  # noqa: ARG001
    """One epoch of them, on one core."""
    if resume is None:
        compute(config.products)
        yield Epoch(1, {"auroc": config.value}, dict)


def compute(products: int) -> None:
    """Multiplies so often."""
    a = np.full((192, 192), 0.5)
    for _ in range(products):
        a = a @ a / 96.0


METHODS = {"noop": Method(noop, Noop), "busy": Method(busy, Busy)}


def study(name: str, method: str, configs: list[Any], blocks: int) -> Study:
    """Those configs as arms, over so many seeds."""
    return Study(
        name=name,
        question="What does a trial cost that costs nothing?",
        source=Source(paper="none", where="benchmarks"),
        method=method,
        arms=tuple(Arm(name=f"v{k}", config=config) for k, config in enumerate(configs)),
        baseline="v0",
        scales=(Scale(name="smoke", blocks=tuple(Block(dataset="digits", seed=seed) for seed in range(blocks))),),
        outcome=Outcome(metric="auroc", label="value"),
        origin=__file__,
    )


def noops(trials: int) -> Study:
    """Ten arms that do nothing."""
    return study(f"noop_{trials}", "noop", [Noop(value=float(k)) for k in range(10)], trials // 10)


def busies(products: int) -> Study:
    """24 trials that compute."""
    return study("busy", "busy", [Busy(products=products, value=float(k)) for k in range(4)], 6)


few = noops(20)
