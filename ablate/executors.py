"""Two ways to run hands of trials, one contract: messages come out, and hands are taken as workers fall free.

Neither decides anything: what runs next, what is tried again and what is written is the driver's.
"""

import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Protocol

from ablate.worker import Hand, Job, Message, play

Take = Callable[[], Hand | None]
"""Asks the driver for the next hand; one without trials means 'later', None that nothing is left."""

LATER_S = 0.2
"""Pause before asking again when all that is left is trained by another sweep's workers."""


@dataclass(frozen=True)
class Lost:
    """A worker went away with its hand, or (None) all workers with all hands."""

    hand: int | None
    why: str


class Unavailable(RuntimeError):
    """There is nowhere to train any more. The log and the checkpoints are whole; `resume` continues."""


class Executor(Protocol):
    """Runs hands. A context manager: when the block is left, nothing of it trains any more."""

    def __enter__(self) -> "Executor": ...

    def __exit__(self, *exception: object) -> None: ...

    def slots(self) -> int:
        """How many hands run at a time; returns when workers can begin."""
        ...

    def messages(self, take: Take) -> Generator[list[Lost | Message], None, None]:
        """What workers say, several at once where they came together, until `take` gives None."""
        ...

    def stop(self) -> None:
        """Stops the workers now; what they were at is resumable."""
        ...


class InProcess:
    """One trial after another, in the driver's own process."""

    def __init__(self, job: Job) -> None:
        self.job = job

    def __enter__(self) -> "InProcess":
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def slots(self) -> int:
        """One."""
        return 1

    def messages(self, take: Take) -> Generator[list[Lost | Message], None, None]:
        """See `Executor`."""
        while (hand := take()) is not None:
            if not hand.trials:
                time.sleep(LATER_S)
            for message in play(hand, self.job):
                yield [message]

    def stop(self) -> None:
        """Nothing runs beside the driver."""
