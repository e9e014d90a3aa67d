"""Processes by what /proc says of them; on a system without /proc there are none, and Ray's own clean-up has to do."""

import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Process:
    """A living process; one that only waits to be reaped does not count."""

    pid: int
    name: str
    """At most 15 characters."""
    parent: int
    session: int


def look(pid: int) -> Process | None:
    """The process of that number, if it lives."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    name, _, rest = status.partition("(")[2].rpartition(")")
    state, parent, _, session, *_ = rest.split()
    return None if state in "ZX" else Process(pid, name, int(parent), int(session))


def every() -> Iterator[Process]:
    """All processes that can be seen."""
    for folder in Path("/proc").glob("[0-9]*"):
        process = look(int(folder.name))
        if process is not None:
            yield process


def end_session(session: int) -> None:
    """Kills every process of a session but the caller's own.

    A session keeps its number while any process of it lives, whoever their parents are by then.
    """
    for process in list(every()):
        if process.session == session and process.pid != os.getpid():
            try:
                os.kill(process.pid, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                continue
