"""Who drives a sweep now, told from its lock and its log alone."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ablate import lease, lock, log
from ablate.home import Home


@dataclass(frozen=True)
class Driver:
    """The driver of a sweep, if one is alive, and what it did since it started."""

    alive: bool
    who: str = ""
    """What its lock says: process, host, start, command."""
    since: float | None = None
    """When it was launched, seconds since the epoch."""
    running: frozenset[str] = frozenset()
    """Trials started and not ended; empty unless alive."""
    ended: int = 0
    """Trials that ended since it was launched."""


def driver_of(home: Home, sweep: str) -> Driver:
    """Reads the sweep's lock and the part of its log that the last launch wrote."""
    who = holder(home, sweep)
    path = home.log(sweep)
    lines = [line for _, line in log.read(path)] if path.exists() else []
    starts = [index for index, line in enumerate(lines) if line["kind"] == "sweep"]
    if not starts:
        return Driver(alive=who is not None, who=who or "")
    own = lines[starts[-1] :]
    running = _running(own) if who is not None else frozenset()
    ended = sum(line["kind"] == "ended" for line in own)
    return Driver(who is not None, who or "", own[0]["time"], running, ended)


def _running(lines: list[dict[str, Any]]) -> frozenset[str]:
    running: set[str] = set()
    for line in lines:
        _follow(running, line)
    return frozenset(running)


def _follow(running: set[str], line: Mapping[str, Any]) -> None:
    if line["kind"] == "started":
        running.add(line["trial"])
    elif line["kind"] in ("ended", "lost"):
        running.discard(line["trial"])


def holder(home: Home, sweep: str) -> str | None:
    """What the lock, or the lease in an object store, says of its holder; None when nobody holds it."""
    path = home.lock(sweep)
    return lock.holder(path) or lease.holder(home, path)
