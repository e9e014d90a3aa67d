"""What a driver and its workers say to each other: the job and its hands one way, what becomes of them the other."""

import math
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ablate.home import Home
from ablate.log import Record
from ablate.plan import Trial


@dataclass(frozen=True)
class Job:
    """What is the same for every trial of a sweep. Nothing here changes a number beyond what the design allows."""

    home: Home
    data: Path | None = None
    download: bool = True
    device: str = "cpu"
    threads: int = 1
    origin: str = ""
    provenance: Mapping[str, Any] = field(default_factory=dict)
    """Of the sweep; a record adds what only the worker knows: data_digest, device, threads."""
    code: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Method -> file -> digest of what its numbers depend on (`provenance.code_digests`)."""
    hang_after_s: float = math.inf
    """A trial without an epoch for so long hangs."""
    apart: bool = False
    """The worker's process is its own, not the driver's, and may end when its trial hangs."""


@dataclass(frozen=True)
class Hand:
    """Trials that one worker runs one after another: a single long one, or several short ones."""

    number: int
    trials: tuple[tuple[Trial, int], ...]
    """With the number of the attempt that this is, from 1."""
    budget_s: float = math.inf
    """What was not begun by then is handed back, so that no worker waits for another's leftovers."""
    gpus: float | None = None
    """What its worker gets, may be a fraction; None: as every trial."""
    avoid: tuple[str, ...] = ()
    """Ids of nodes where it must not be run."""
    token: str = ""
    """What a stop file must say to be meant for this hand."""
    probe: bool = False
    """Its trials have a GPU to themselves until it is known what they take of it; then they are handed back."""
    behind: int = 0
    """How many more like it are waiting."""


@dataclass(frozen=True)
class Place:
    """Where a worker is."""

    node: str = ""
    """Its node's id in the cluster; empty in the driver's own process."""
    host: str = field(default_factory=socket.gethostname)
    gpus: tuple[str, ...] = ()
    """Those that it was given, as CUDA_VISIBLE_DEVICES names them on that host."""


@dataclass(frozen=True)
class Began:
    """A trial was taken up, and where: see `Place`."""

    trial: str
    node: str = ""
    host: str = ""
    gpus: tuple[str, ...] = ()


@dataclass(frozen=True)
class Progress:
    """Epochs of a trial that came to an end since the last one."""

    trial: str
    epochs: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True)
class Measured:
    """What a trial took of the GPU that it had to itself, after its first epoch."""

    trial: str
    peak_bytes: int
    total_bytes: int


@dataclass(frozen=True)
class Adopted:
    """A trial that had ended before, as its folder says: another driver died before it could log that, or will yet."""

    record: Record


@dataclass(frozen=True)
class Back:
    """Trials handed back as they were: not begun, or (`busy`) held by another sweep's worker, or (`stopped`) because
    their driver asked for it, with the state after their last epoch kept.
    """

    trials: tuple[str, ...]
    busy: bool = False
    stopped: bool = False


Message = Began | Progress | Record | Adopted | Back | Measured
"""What a worker tells its driver."""
