"""Exclusive holds on files: one driver a sweep, one worker a trial. They end with the process, however that ends."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class Locked(RuntimeError):
    """Somebody else holds the file. `holder` is what they wrote into it, or empty."""

    def __init__(self, path: Path, holder: str) -> None:
        super().__init__(f"{path.name} is held by {holder or 'another process'}")
        self.holder = holder


@contextmanager
def hold(path: Path, holder: str = "", *, wait_s: float = 0.0) -> Iterator[None]:
    """Holds `path` exclusively within the block, and writes `holder` into it for others to read.

    Raises:
        Locked: still held by another process after `wait_s` seconds.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        _take(descriptor, path, time.monotonic() + wait_s)
        if holder:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, holder.encode(), 0)
        yield
    finally:
        os.close(descriptor)


def holder(path: Path) -> str | None:
    """What the one who holds `path` wrote into it; None when nobody on this node holds it.

    A shared lock is asked for and given back at once: two readers do not disturb each other, and whoever wants to hold
    it in that instant waits rather than fails.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return path.read_text(errors="replace").strip() or "a driver that has not said its name"
    finally:
        os.close(descriptor)
    return None


def _take(descriptor: int, path: Path, deadline: float) -> None:
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise Locked(path, path.read_text(errors="replace").strip()) from None
            time.sleep(0.05)
