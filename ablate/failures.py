"""What follows from which failure: one table of causes, and how a cause is told from what is seen of it.

`docs/how-it-works.md` prints the table for people; a test compares the two.
"""

import errno
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ablate.store import StoreError
from trainables.protocol import Diverged

Cause = Literal[
    "error",
    "diverged",
    "need",
    "out_of_memory",
    "crowded",
    "host_memory",
    "lost",
    "among_others",
    "node",
    "cluster",
    "hung",
    "device",
    "spoiled",
    "disk",
    "store",
]
"""Why a trial came to no end of its own. Those that a record can name are its `reason`."""
Blame = Literal["trial", "node", "packing", "home", "nobody"]
"""Whom a failure counts against."""


@dataclass(frozen=True)
class Policy:
    """What follows from one cause."""

    recorded: str
    """The record's reason once no more is tried; empty: it never ends a trial, which stays pending."""
    again: int | Literal["retries", "always", "never"]
    """How often the trial is tried again: so often, as often as the driver's option says, or always."""
    blame: Blame


POLICY: Mapping[Cause, Policy] = {
    "error": Policy("error", "never", "trial"),
    "diverged": Policy("diverged", "never", "trial"),
    "need": Policy("need", "never", "trial"),
    "out_of_memory": Policy("out_of_memory", "retries", "trial"),
    "crowded": Policy("out_of_memory", "always", "packing"),
    "host_memory": Policy("out_of_memory", "retries", "trial"),
    "lost": Policy("lost", "retries", "trial"),
    "among_others": Policy("", "always", "nobody"),
    "node": Policy("", "always", "node"),
    "cluster": Policy("", "always", "nobody"),
    "hung": Policy("hung", 1, "trial"),
    "device": Policy("device", 2, "node"),
    "spoiled": Policy("", "always", "nobody"),
    "disk": Policy("", "always", "node"),
    "store": Policy("", "always", "node"),
}
"""Of `crowded` there is one for each trial, as it is alone from then on; of `spoiled` one for each worker. `disk` and
`store` end the sweep where no other node can take the trial, `cluster` when Ray went away several times: see
`executors`."""

PASSING = frozenset(policy.recorded for policy in POLICY.values() if policy.recorded and policy.again != "never")
"""Reasons that another try may cure: ends with one of these do not stand when a driver starts."""

KEEPING: tuple[Cause, ...] = ("disk", "store")
"""What a trial came to cannot be kept where it ran: it has not ended."""
NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


class NeedMissing(RuntimeError):
    """The end or the final state of a trial that this one needs is gone from the home."""


class Spoiled(RuntimeError):
    """After a fault of its device a process gets no more sense out of it: the next trial needs another process."""


def reason_of(error: BaseException, home: Path | None = None) -> Cause:
    """The cause of an exception that a method or its checkpoint raised; `home` is where its checkpoints lie."""
    if isinstance(error, Diverged):
        return "diverged"
    if isinstance(error, NeedMissing):
        return "need"
    if isinstance(error, StoreError):
        return "store"
    if is_disk(error, home):
        return "disk"
    words = str(error).lower()
    memory = "out of memory" in words or "can't allocate memory" in words or "cannot allocate memory" in words
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or memory:
        return "out_of_memory"
    if isinstance(error, RuntimeError) and any(sign in words for sign in DEVICE_SIGNS):
        return "device"
    return "error"


DEVICE_SIGNS = ("cuda error", "cuda driver error", "cudnn_status_", "cublas_status_", "hip error", "no cuda gpus are")
"""Begin what torch says of a device that fails. A kernel's own assertion (a label out of range, say) says so too: then
the trial fails elsewhere as well."""


def is_disk(error: BaseException, home: Path | None = None) -> bool:
    """Whether there is no room, or the home can no longer be written. A file elsewhere that is read-only is a bug."""
    for cause in _causes(error):
        if isinstance(cause, OSError):
            if cause.errno in NO_ROOM:
                return True
            if cause.errno == errno.EROFS and (home is None or _is_in(cause.filename, home)):
                return True
    return False


def _is_in(file: object, home: Path) -> bool:
    """Whether the file is in the home; a write that names no file was to a checkpoint."""
    return file is None or home in Path(str(file)).parents


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: list[BaseException] = []
    found: BaseException | None = error
    while found is not None and found not in seen:
        yield found
        seen.append(found)
        found = found.__cause__ or found.__context__


def loss_of(why: str, *, whole_cluster: bool, node_died: bool, others: bool, killed: bool) -> Cause:
    """The cause of a worker's going away.

    Args:
        why: in Ray's words.
        whole_cluster: all workers went.
        node_died: with its whole node.
        others: it had several trials, so that none of them is the cause.
        killed: the kernel of this machine killed for want of memory since the last loss. Its SIGKILL looks like any.
    """
    if whole_cluster:
        return "cluster"
    if node_died:
        return "node"
    if Spoiled.__name__ in why:
        return "spoiled"
    if others:
        return "among_others"
    # Ray's own memory monitor. Its text on any killed process also suggests the kernel's "OOM killer".
    return "host_memory" if "OutOfMemoryError" in why or killed else "lost"


class Kernel:
    """Tells whether this machine's kernel killed a process for want of memory since it was last asked."""

    def __init__(self, counters: Path = Path("/proc/vmstat")) -> None:
        self._counters = counters
        self._before = self._count()

    def killed(self) -> bool:
        """Asks; also for processes that are not ours: beside a lost worker it is the likely cause."""
        now, before = self._count(), self._before
        self._before = now
        return now > before

    def _count(self) -> int:
        try:
            lines = self._counters.read_text().splitlines()
        except OSError:
            return 0
        return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)
