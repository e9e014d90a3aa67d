"""Ends a trial that hangs: no epoch for a declared time. All stacks go into the trial's folder, and the worker ends.

A thread watches. Where it cannot run, because C code holds the interpreter's lock, `faulthandler` does it somewhat
later: its own thread needs no interpreter. In the driver's own process (`--local`) the trial is interrupted instead,
and the process ends only when that does not help.
"""

import contextlib
import faulthandler
import math
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

GRACE_S = 30.0
"""So long after the watching thread should have acted, the process ends without it."""
LOOK_S = 1.0
"""The thread looks so often."""
EXIT_CODE = 75
WAKE = signal.SIGUSR1
"""Interrupts a trial in the driver's own process. Not SIGINT: what a shell starts in the background is deaf to that."""


class Watchdog:
    """Over one attempt at a trial; a context manager. What a trial does while it `rests` is not its own time."""

    def __init__(
        self,
        folder: Path,
        attempt: int,
        after_s: float,
        *,
        apart: bool,
        tell: Callable[[], None] = lambda: None,
        grace_s: float = GRACE_S,
    ) -> None:
        """`apart`: the process is a worker's own and may end. `tell`: called once the stacks are written."""
        self.path, self.after_s, self.apart = stacks(folder, attempt), after_s, apart
        self.tell, self.grace_s = tell, grace_s
        self._since = time.monotonic()
        self._bitten = False
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._trial = threading.get_ident()
        self._wakes = not apart and threading.current_thread() is threading.main_thread()

    def __enter__(self) -> "Watchdog":
        if self._wakes:
            self._before = signal.signal(WAKE, signal.default_int_handler)
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._over.set()
        self._thread.join()
        if self._wakes:
            signal.signal(WAKE, self._before)
        if not self._bitten:
            self.path.unlink(missing_ok=True)

    def rest(self) -> None:
        """An epoch came, and is with whoever asked for it."""
        self._since = math.inf

    def go_on(self) -> None:
        """The next epoch is asked for."""
        self._since = time.monotonic()

    def _watch(self) -> None:
        # Nothing more for a trial that is over by then: a thousand of those come in a second.
        if self._over.wait(min(LOOK_S, self.after_s)):
            return
        with self.path.open("w") as file:
            file.write(f"no epoch for {self.after_s:g} s in attempt {self.path.suffix[1:]} on {socket.gethostname()}\n")
            file.flush()
            try:
                self._look(file.fileno())
            finally:
                faulthandler.cancel_dump_traceback_later()

    def _look(self, file: int) -> None:
        armed = -math.inf
        while time.monotonic() - self._since < self.after_s:
            if time.monotonic() - armed > self.grace_s / 2:
                armed = time.monotonic()
                faulthandler.dump_traceback_later(self.after_s + self.grace_s, exit=True, file=file)
            if self._over.wait(min(LOOK_S, self.after_s)):
                return
        self._bite(file)

    def _bite(self, file: int) -> None:
        self._bitten = True
        faulthandler.dump_traceback(file)
        with contextlib.suppress(Exception):  # what cannot be told is lost with this process; it ends all the same
            self.tell()
        if not self.apart:
            if self._wakes:
                signal.pthread_kill(self._trial, WAKE)
                if self._over.wait(self.grace_s):
                    return
            words = f"The trial in {self.path.parent} hangs and cannot be interrupted. Its stacks: {self.path}\n"
            os.write(2, words.encode())
        os._exit(EXIT_CODE)


def stacks(folder: Path, attempt: int) -> Path:
    """Where an attempt leaves its stacks if it hangs; there too, with one line, while it runs."""
    return folder / f"stacks.{attempt}"


def found(folder: Path, attempt: int) -> str:
    """What hung in that attempt: its stacks, and last what they mean; empty when it did not hang."""
    try:
        meaning, _, text = stacks(folder, attempt).read_text(errors="replace").partition("\n")
    except OSError:
        return ""
    return f"{text.strip()}\n{meaning}; above, where it stood (see --hang-after)" if text.strip() else ""
