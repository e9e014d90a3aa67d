"""Run what a plan still lacks: hold the sweep, read the truth, hand out trials, write the truth.

The driver is the only writer of a sweep's log. Every recovery is one sentence: read the logs of the home, drop what is
finished, run the rest; each trial continues from its own last checkpoint.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ablate.home import Home
from ablate.log import Record
from ablate.plan import Plan


class Held(RuntimeError):
    """Another driver holds this sweep. The message names its process, host, start and command."""


class Refused(ValueError):
    """The options cannot be met (more GPUs than exist, an unreachable cluster or storage); nothing was started."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """How to run, never what: nothing here enters a trial's identity."""

    home: Home
    data: Path | None = None
    """Folder of data sets in the Hub's layout; None: embedded or downloaded."""
    download: bool = True
    """Whether data may be fetched."""
    local: bool = False
    """In this process, one trial after another, without Ray."""
    address: str | None = None
    """An existing Ray cluster; None: RAY_ADDRESS, else one of our own on this machine."""
    slots: int | None = None
    """At most so many trials at a time; None: as many as the CPUs and GPUs carry."""
    cpus_per_trial: float | None = None
    """None: as the scale says. Also the number of torch's threads."""
    gpus_per_trial: float | None = None
    """None: as the scale says. Above 0 trials train on "cuda", else on "cpu"."""
    mlflow: str | None = None
    """Tracking URI; None: not tracked."""
    optuna: str | None = None
    """Storage URL that optuna-dashboard opens; None: kept in memory only."""
    retries: int = 2
    """How often a trial is tried again after a lost worker or a full device. Other failures are final."""
    retry_failed: bool = False
    """Run again what ended failed by an error or by divergence."""
    command: str = ""
    """As typed; stored in the log and in the lock."""


@dataclass(frozen=True)
class Event:
    """What `watch` hears, in the driver's process, after the log has it."""

    kind: Literal["started", "epoch", "ended", "lost"]
    trial: str
    attempt: int = 1
    epoch: int = 0
    """For 'epoch': epochs completed, from 1."""
    metrics: Mapping[str, float] | None = None
    """For 'epoch'."""
    record: Record | None = None
    """For 'ended'."""
    why: str = ""
    """For 'lost'."""


@dataclass(frozen=True)
class Result:
    """Where the plan's trials stand when the driver leaves; ids in the plan's order."""

    done: tuple[str, ...]
    failed: tuple[str, ...]
    pending: tuple[str, ...]
    interrupted: bool = False
    """Ctrl-C, or the cluster went away for good; `message` says how to go on."""
    trained: int = 0
    """Trials that ended in this call."""
    message: str = ""
    delivered: Any = None
    """`tracking.Delivered` of this call, when tracked."""


def run(plan: Plan, options: Options, watch: Callable[[Event], None] = lambda event: None) -> Result:
    """Runs all trials of `plan` that no log of the home has finished, and returns where they stand.

    Raises:
        Held: another driver runs this sweep.
        Refused: the options cannot be met; nothing was written.
        tracking.TrackingError: the tracking server or the storage cannot be reached; nothing was trained.
    """
    raise NotImplementedError


def pending(plan: Plan, home: Home, *, retry_failed: bool = False) -> tuple[str, ...]:
    """Ids of the plan's trials that `run` would train or adopt now, in order. Reads the logs only."""
    raise NotImplementedError
