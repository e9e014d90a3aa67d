"""The tracking process as its two ends see it: the driver's handle, and what the process hears and says.

``python -m ablate.tracking`` reads its job from standard input, one JSON line, because the tracking URI in it may hold
a password; a second line tells a following process to finish, and the end of the input that its driver is gone. It
answers by JSON lines. MLflow's settings (telemetry off, short time-outs, no retries of its own) are made in its
environment only.
"""

import contextlib
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

from ablate.home import Home
from ablate.masking import redact
from ablate.projection import Sweep
from ablate.reach import absolute

_PARTING = 60.0
"""Seconds that a tracker whose driver died goes on trying."""
_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_ENABLE_ASYNC_LOGGING": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "GIT_PYTHON_REFRESH": "quiet",
    "OMP_NUM_THREADS": "1",
}


@dataclass(frozen=True)
class Delivered:
    """What MLflow has of a sweep."""

    runs: int
    """Child runs that show how their trial ended."""
    pending: int
    """Ended trials that are in the log only; `ablate sync` delivers them."""
    error: str = ""
    """Why, in one line."""


@dataclass
class Follower:
    """The driver's handle on its tracking process."""

    process: "subprocess.Popen[bytes]"
    home: Home
    sweep: str
    uri: str
    _latest: dict[str, Any] = field(default_factory=lambda: {"runs": 0, "pending": 0, "error": ""})
    _buffer: bytes = b""

    def poll(self) -> Delivered:
        """What the tracker last said, without waiting: it speaks when deliveries begin to fail or succeed again."""
        assert self.process.stdout is not None
        while select.select([self.process.stdout], [], [], 0)[0]:
            chunk = os.read(self.process.stdout.fileno(), 65536)
            if not chunk:
                break
            self._buffer += chunk
        *lines, self._buffer = self._buffer.split(b"\n")
        for line in lines:
            self._latest = json.loads(line)
        return Delivered(self._latest["runs"], self._latest["pending"], self._latest["error"])

    def finish(self, timeout: float) -> Delivered:
        """Waits until all records are delivered, at most `timeout` seconds, and ends the tracker.

        Call it after the log's last line. A tracker that was killed meanwhile is made up for by a `sync`.
        """
        deadline = time.monotonic() + timeout
        with contextlib.suppress(BrokenPipeError):
            assert self.process.stdin is not None
            self.process.stdin.write(json.dumps({"finish": timeout}).encode() + b"\n")
            self.process.stdin.close()
        try:
            self.process.wait(timeout + 5.0)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.poll()
        if not self._latest.get("final"):
            remaining = max(1.0, deadline - time.monotonic())
            self._latest = ask({"do": "sync", "leaving": True}, self.home, self.sweep, self.uri, timeout=remaining)
            if not self._latest["ok"]:
                self._latest["pending"] = self._undelivered()
        assert self.process.stdout is not None
        self.process.stdout.close()
        return Delivered(self._latest["runs"], self._latest["pending"], self._latest["error"])

    def _undelivered(self) -> int:
        """Ended trials in the log that the tracker is not known to have delivered."""
        sweep = Sweep(self.home, self.sweep)
        sweep.read()
        return len(sweep.records) - int(self._latest["runs"])


def spawn(job: Mapping[str, Any], home: Home, sweep: str, uri: str) -> "subprocess.Popen[bytes]":
    """The tracking process, with its job written to it; in a session of its own, so that Ctrl-C spares it."""
    here = str(Path(__file__).resolve().parent.parent)
    path = os.pathsep.join(part for part in (here, os.environ.get("PYTHONPATH")) if part)
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "ablate.tracking", sweep],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=os.environ | _ENVIRONMENT | {"PYTHONPATH": path},
        start_new_session=True,
    )
    assert process.stdin is not None
    where = {"home": str(home.root.resolve()), "remote": home.remote, "sweep": sweep, "uri": absolute(uri)}
    full = {**job, **where, "driver": os.getpid()}
    process.stdin.write(json.dumps(full).encode() + b"\n")
    process.stdin.flush()
    return process


def ask(job: Mapping[str, Any], home: Home, sweep: str, uri: str, timeout: float | None = None) -> dict[str, Any]:
    """Runs one job to its end and returns its answer."""
    process = spawn(job, home, sweep, uri)
    answer: dict[str, Any] = {"ok": False, "runs": 0, "pending": 0}
    try:
        output, _ = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return answer | {"error": f"{redact(uri)}: not done within {timeout:.0f} s. Run `ablate sync` later."}
    lines = output.splitlines()
    if not lines:
        how = f"ended with code {process.returncode}"
        return answer | {"error": f"the tracking process {how} and said nothing. Run `ablate sync` again."}
    answer.update(json.loads(lines[-1]))
    return answer


class Orders:
    """What the driver says on standard input, and whether it still lives."""

    def __init__(self, source: IO[bytes], driver: int) -> None:
        self._source, self._driver, self._buffer = source, driver, b""
        self.deadline: float | None = None

    def job(self) -> dict[str, Any]:
        """The first line: what to do."""
        while b"\n" not in self._buffer:
            self._buffer += os.read(self._source.fileno(), 65536)
        line, _, self._buffer = self._buffer.partition(b"\n")
        job: dict[str, Any] = json.loads(line)
        self._driver = job["driver"]
        return job

    def wait(self, seconds: float) -> None:
        """Waits for a word, at most `seconds`; sets the deadline when told to finish or when the driver is gone."""
        if self.deadline is not None:
            time.sleep(seconds)
            return
        if select.select([self._source], [], [], seconds)[0]:
            chunk = os.read(self._source.fileno(), 65536)
            self._buffer += chunk
            line, newline, self._buffer = self._buffer.partition(b"\n")
            if newline:
                self.deadline = time.monotonic() + json.loads(line)["finish"]
            elif not chunk:
                self.deadline = time.monotonic() + _PARTING
        elif os.getppid() != self._driver:
            self.deadline = time.monotonic() + _PARTING


def say(answer: Delivered, **more: Any) -> None:
    """Writes an answer for the driver, who may be gone. Past `sys.stdout`, which MLflow prints to."""
    assert sys.__stdout__ is not None
    with contextlib.suppress(BrokenPipeError):
        sys.__stdout__.write(json.dumps(asdict(answer) | more) + "\n")
        sys.__stdout__.flush()
