"""A study and a method of a user's own for the tests of the command line: milliseconds a trial, and failures on demand.

Every number follows from arm, seed and epoch by `accuracy`, so that tests know it beforehand.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from search_spaces.study import Arm, Block, Contrast, Outcome, Scale, Source, Study
from trainables.config import check_types, require
from trainables.protocol import Diverged, Epoch, Method, State


@dataclass(frozen=True, kw_only=True)
class Config:
    """What can be varied."""

    epochs: int = 3
    gain: float = 0.0
    shape: str = "flat"
    diverges_at_seed: int = -1
    pause_s: float = 0.0

    def __post_init__(self) -> None:
        check_types(self)
        require(self.epochs >= 1, self, "epochs", "at least 1")


def accuracy(gain: float, seed: int, epoch: int) -> float:
    """Rises with the epochs; arms differ by their gain and a wiggle that differs from seed to seed."""
    return 0.8 + gain + 0.01 * epoch + 0.001 * ((seed * (7 + round(gain * 20))) % 5)


def train(config: Config, data: Any, *, seed: int, device: str, resume: State | None = None) -> Iterator[Epoch]:
    """Nothing is trained: the numbers are known."""
    for epoch in range((resume["epoch"] if resume else 0) + 1, config.epochs + 1):
        if seed == config.diverges_at_seed:
            raise Diverged("loss is nan in epoch 1")

        time.sleep(config.pause_s)

        def state(epoch: int = epoch) -> State:
            return {"epoch": epoch}

        yield Epoch(epoch, {"accuracy": accuracy(config.gain, seed, epoch), "loss": 1 / epoch}, state)


METHODS = {"toy": Method(train, Config)}

BASE = Config()


def scale(name: str, blocks: int, **settings: Any) -> Scale:
    """So many seeds on one split of the digits."""
    return Scale(
        name=name,
        blocks=tuple(Block(dataset="digits-closed", split=0, seed=seed) for seed in range(blocks)),
        settings=settings,
        seconds=2.0,
    )


toy = Study(
    name="toy",
    question="Does gain matter?",
    source=Source(paper="A paper, of 2020", where="Table 1"),
    method="toy",
    arms=(
        Arm(name="base", config=BASE),
        Arm(name="more", config=replace(BASE, gain=0.05), label="more gain"),
        Arm(name="less", config=replace(BASE, gain=-0.05)),
    ),
    baseline="base",
    outcome=Outcome(metric="accuracy", label="accuracy"),
    contrasts=(Contrast(arm="more", reference="base", margin=0.01), Contrast(arm="less", reference="base")),
    scales=(scale("smoke", 2, epochs=1), scale("laptop", 4)),
)

broken = replace(
    toy,
    name="broken",
    arms=(*toy.arms, Arm(name="unstable", config=replace(BASE, gain=0.01, diverges_at_seed=1))),
)

slow = replace(toy, name="slow", arms=tuple(replace(arm, config=replace(arm.config, pause_s=0.3)) for arm in toy.arms))
