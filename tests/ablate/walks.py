"""Studies for the tests of the orchestrator: a method without a network, quick, and with all its chance in its state.

`walk` is a random walk; its generator's state travels in the checkpoint, so that a run resumed wrongly shows at once.
"""

import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from search_spaces.study import Arm, Block, Contrast, Outcome, Parameter, Scale, Source, Study, Tuning
from trainables.config import check_types
from trainables.protocol import Epoch, Method, Needed, State


@dataclass(frozen=True, kw_only=True)
class Walk:
    epochs: int = 5
    drift: float = 0.0
    pause: float = 0.0
    """Seconds of sleep an epoch."""
    stop: int = 0
    """Ends after so many epochs, before `epochs`; 0: not."""
    fail: str = ""
    """How to fail in epoch 2: '' | error | diverge | memory | metric | kill."""
    hang: int = 0
    """Never comes to the end of this epoch; 0: always."""
    show: str = ""
    """What to leave to look at after even epochs: '' nothing | place | objects | fail."""
    start: Needed | None = None
    """The walk that this one goes on from; None: from a place of its own."""

    def __post_init__(self) -> None:
        check_types(self)


def train(
    config: Walk, data: Any, *, seed: int, device: str, resume: State | None = None, start: State | None = None
) -> Iterator[Epoch]:
    random = np.random.default_rng(seed)
    begin = float(data.train.labels[0]) if start is None else start["place"]
    state: State = {"epoch": 0, "place": begin, "random": random.bit_generator.state}
    if resume is not None:
        state = resume
        random.bit_generator.state = state["random"]
    place = state["place"]
    for index in range(state["epoch"] + 1, (config.stop or config.epochs) + 1):
        time.sleep(config.pause)
        if index == config.hang:
            _wait()
        place += config.drift + float(random.normal())
        metrics = {"auroc": place, "loss": abs(place)}
        if index == 2 and config.fail:
            metrics |= _failure(config.fail)
        show = partial(_shown, config.show, place) if config.show and index % 2 == 0 else None
        yield Epoch(index, metrics, partial(_state, index, place, random), show)


def _wait() -> None:
    while True:
        time.sleep(0.01)


def _shown(how: str, place: float) -> dict[str, np.ndarray]:
    if how == "fail":
        raise ValueError("a bug of the picture")
    return {"place": np.array([place])} | ({"names": np.array(["a", None])} if how == "objects" else {})


def _state(index: int, place: float, random: np.random.Generator) -> State:
    return {"epoch": index, "place": place, "random": random.bit_generator.state}


def _failure(how: str) -> dict[str, float]:
    if how == "error":
        raise ValueError("a bug of the method")
    if how == "exit":
        sys.exit("no such folder")
    if how == "memory":
        raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
    if how == "kill":
        os.kill(os.getpid(), 9)
    return {"loss": float("nan")} if how == "diverge" else {"auroc": float("inf")}


@dataclass(frozen=True, kw_only=True)
class Score:
    """An evaluation of another trial's final place."""

    network: Needed
    scale: float = 1.0

    def __post_init__(self) -> None:
        check_types(self)


def score(
    config: Score, data: Any, *, seed: int, device: str, resume: State | None = None, network: State | None = None
) -> Iterator[Epoch]:
    assert network is not None
    if resume is None:
        yield Epoch(1, {"auroc": network["place"] * config.scale}, dict)


@dataclass(frozen=True, kw_only=True)
class Nothing:
    value: float = 0.0


def nothing(config: Nothing, data: Any, *, seed: int, device: str, resume: State | None = None) -> Iterator[Epoch]:
    if resume is None:
        yield Epoch(1, {"auroc": config.value}, dict)


METHODS = {"walk": Method(train, Walk), "score": Method(score, Score), "nothing": Method(nothing, Nothing)}


def study(name: str, arms: dict[str, Any], blocks: int, method: str = "walk", **more: Any) -> Study:
    """A study of those arms, the first the baseline, over so many seeds."""
    scale = Scale(name="smoke", blocks=tuple(Block(dataset="digits", seed=seed) for seed in range(blocks)))
    return Study(
        name=name,
        question="Where does a drunkard get?",
        source=Source(paper="none", where="tests"),
        method=method,
        arms=tuple(
            Arm(name=key, config=value, method="score" if isinstance(value, Score) else method)
            for key, value in arms.items()
        ),
        baseline=next(iter(arms)),
        scales=(scale,),
        outcome=Outcome(metric="auroc", label="place"),
        contrasts=tuple(Contrast(arm=key, reference=next(iter(arms))) for key in list(arms)[1:]),
        origin=__file__,
        **more,
    )


walk = study("walk", {"still": Walk(), "right": Walk(drift=1.0)}, blocks=3)
kills = study("kills", {f"d{k}": Walk(drift=0.1 * k, epochs=6, pause=0.02) for k in range(8)}, blocks=25)
day = study("day", {f"d{k}": Walk(drift=0.1 * k, epochs=12, pause=4.0) for k in range(4)}, blocks=15)
hour = study("hour", {f"d{k}": Walk(drift=0.1 * k, epochs=12, pause=0.6) for k in range(4)}, blocks=4)
trivial = study("trivial", {f"v{k}": Nothing(value=float(k)) for k in range(10)}, blocks=100, method="nothing")


def tuned(count: int, **more: Any) -> Study:
    """Drift and pause of a walk searched, two seeds each; the second objective is better when lower."""
    size = replace(walk.scales[0], blocks=walk.scales[0].blocks[:2], settings={"epochs": 6})
    return replace(
        walk,
        name="tuned",
        arms=(Arm(name="paper", config=Walk(drift=0.0, pause=0.001)),),
        baseline="paper",
        scales=(size,),
        secondary=(Outcome(metric="loss", label="distance", higher_is_better=False),),
        contrasts=(),
        tuning=Tuning(
            parameters=(
                Parameter(name="drift", low=-1.0, high=1.0),
                Parameter(name="pause", low=1e-4, high=1e-2, log=True),
            ),
            objectives=("auroc", "loss"),
            configurations={"smoke": count},
            **more,
        ),
    )


search = replace(tuned(4, round=2), name="search")
