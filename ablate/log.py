"""The append-only log: the truth about every trial.

One file per sweep under `<home>/log`, one JSON object per line, written by the one driver that holds the sweep's lock,
and fsynced where losing the line would repeat or lose work. A trial finished in any sweep of the home is finished in
all. MLflow, Optuna, Parquet and reports are projections of these files.

Lines, all with "time" (UTC, seconds since the epoch):
    {"kind": "sweep", "study": {...}, "scale": ..., "arms": [...]|null, "blocks": n|null, "command": ...,
     "provenance": {...}}
        a driver started; with "extends": true it went on, with more arms or blocks. The last one of a file is the
        sweep as it was launched.
    {"kind": "started", "trial": id, "attempt": n, "where": host/device}
    {"kind": "epochs", "trial": id, "epochs": [{"epoch": k, "seconds": s, "metrics": {...}}, ...]}
        progress of a long trial, not fsynced, for the live view only; repeated in the end line.
    {"kind": "ended", "trial": id, "record": {...}}     see `Record`; the only line that finishes a trial.
    {"kind": "lost", "trial": id, "attempt": n, "why": ..., "cause": ...}
        it failed, or its worker went away, by a cause of `failures.POLICY`; it will be tried again.
    {"kind": "slots", "count": n, "hosts": [...]}   nodes of the cluster came or went; so many trials run at a time.
    {"kind": "avoided", "node": id, "host": ..., "why": ...}   the node gets no trials from now on.
    {"kind": "ordered", "order": name, "do": ..., "arms": [...], "blocks": n|null, "by": ..., "refused": ...}
        the driver took up what somebody ordered (`ablate.steering`); the arms' states follow from these lines.
    {"kind": "stopped", "trial": id, "attempt": n}   given back after an epoch because of an order.
    {"kind": "measured", "trial": id, "peak": bytes, "total": bytes, "share": n}
        what a trial took of a GPU; so many of its kind share one from now on (`packing`).
    {"kind": "left", "how": done|failed|interrupted}   the driver ended by itself.
"""

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from ablate.home import Home

LEFT_BYTES = 512
"""More than the line of a driver that leaves is long."""


@dataclass(frozen=True)
class Record:
    """How a trial ended, with all that it measured."""

    trial: str
    method: str
    config: Mapping[str, Any]
    data: Mapping[str, Any]
    seed: int
    state: Literal["done", "failed"]
    reason: str = ""
    """diverged | out_of_memory | error | lost | need | hung | device (`failures.POLICY`); empty when done."""
    error: str = ""
    """Traceback of the failure, whole."""
    epochs: tuple[Mapping[str, Any], ...] = ()
    """{"epoch": k, "seconds": s, "metrics": {...}} for k = 1, 2, ...; "peak_memory_bytes" where a state was kept."""
    attempts: int = 1
    seconds: float = 0.0
    started: float = 0.0
    ended: float = 0.0
    host: str = ""
    provenance: Mapping[str, Any] = field(default_factory=dict)
    """Flat: commit, dirty, code_digest, data_digest, device, threads, versions."""
    notes: tuple[str, ...] = ()
    """What a reader should know, for example that a corrupt checkpoint was found and from where training went on."""


@dataclass
class Entry:
    """What the logs of a home say of one trial."""

    record: Record | None = None
    """The latest end that any sweep of the home logged."""
    logged: float = 0.0
    """When that was, by the log's clock."""
    attempts: int = 0
    started: float = 0.0
    progress: list[Mapping[str, Any]] = field(default_factory=list)
    reached: Mapping[str, Sequence[float]] | None = None
    """Where the record came from a summary, without epochs: what its metrics came to (`summary.reached`)."""


class Elsewhere(Protocol):
    """Where a log is kept beside this node's disk (`segments.Push`)."""

    def sync(self) -> None:
        """Returns when it has every line so far, or is away."""
        ...

    def close(self, wait_s: float) -> str:
        """Waits so long for it to have everything; returns what is wrong if it has not."""
        ...


class Log:
    """The log of one sweep, open for appending. Hold the sweep's lock before opening."""

    def __init__(
        self,
        path: Path,
        elsewhere: Elsewhere | None = None,
        check: Callable[[], None] = lambda: None,
        heard: Callable[[Mapping[str, Any], int, int], None] = lambda *_line: None,
    ) -> None:
        """A log to append to.

        Args:
            path: its file.
            elsewhere: where it is kept too.
            check: raises where the sweep is not held any more; asked before every line.
            heard: told of every line, and of its bytes in the file, from and to.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path, self._elsewhere, self._check, self._heard = path, elsewhere, check, heard
        self._cut_torn_line()
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def append(self, kind: str, *, durable: bool = True, **fields: Any) -> None:
        """Writes one line whole; returns when it is on disk (`durable`) or with the kernel.

        Raises:
            Unwritable: the disk took none of it, or part, which is taken back.
        """
        self._check()
        said = {"kind": kind, "time": time.time()} | fields
        line = json.dumps(said, separators=(",", ":"), default=_plain).encode() + b"\n"
        start, left = os.fstat(self._file).st_size, memoryview(line)
        try:
            while left:  # a full disk takes part of a line, and raises at the next call
                left = left[os.write(self._file, left) :]
        except OSError as error:
            os.ftruncate(self._file, start)
            raise Unwritable(self.path, error) from error
        if durable:
            self.sync()
        self._heard(said, start, start + len(line))

    def sync(self) -> None:
        """Returns when every line so far is on disk, and elsewhere unless that is away.

        Raises:
            Unwritable: it does not get to the disk.
        """
        try:
            os.fsync(self._file)
        except OSError as error:
            raise Unwritable(self.path, error) from error
        if self._elsewhere is not None:
            self._elsewhere.sync()

    def close(self, wait_s: float = 0.0) -> str:
        """Appends no more. Returns what is wrong if after `wait_s` not all of it is elsewhere."""
        os.close(self._file)
        return "" if self._elsewhere is None else self._elsewhere.close(wait_s)

    def _cut_torn_line(self) -> None:
        """A line that a crash cut short finishes nothing; drops it so that the next one starts on its own line."""
        if not self.path.exists():
            return
        with self.path.open("rb+") as file:
            content_end = file.seek(0, os.SEEK_END)
            position = content_end
            while position > 0:
                step = min(4096, position)
                position -= step
                file.seek(position)
                newline = file.read(step).rfind(b"\n")
                if newline >= 0:
                    position += newline + 1
                    break
            if position < content_end:
                file.truncate(position)


def read(path: Path, offset: int = 0) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields (offset after the line, line) for each whole line from byte `offset` on.

    Raises:
        CorruptLog: a whole line that is no JSON object, with file and byte.
    """
    with path.open("rb") as file:
        file.seek(offset)
        for raw in file:
            if not raw.endswith(b"\n"):
                return
            start, offset = offset, offset + len(raw)
            try:
                line = json.loads(raw)
                line["kind"]
            except (ValueError, TypeError, KeyError) as error:
                raise CorruptLog(
                    f"{path}, byte {start}: not a line of the log ({error}). Lines before it are intact; move the file "
                    f"away or cut it at that byte, and `run` trains what is missing."
                ) from error
            yield offset, line


class Unwritable(RuntimeError):
    """The log takes no more lines: a full disk, most likely. Those before are whole."""

    def __init__(self, path: Path, error: OSError) -> None:
        super().__init__(
            f"The log {path} can no longer be written ({error.strerror or error}). Make room or mend the disk. What "
            f"finished is kept, in the log or in its trial's folder."
        )


class CorruptLog(RuntimeError):
    """A log that was damaged other than by a crash of its writer."""


def ledger(home: Home) -> dict[str, Entry]:
    """Trial id -> what all logs of the home say of it."""
    entries: dict[str, Entry] = {}
    for path in sorted(home.logs.glob("*.jsonl")):
        for _, line in read(path):
            note(entries, line)
    return entries


def note(entries: dict[str, Entry], line: Mapping[str, Any]) -> None:
    """Adds one line to the entries."""
    if "trial" not in line:
        return
    entry = entries.setdefault(line["trial"], Entry())
    if line["kind"] == "started":
        entry.attempts += 1
        entry.started = line["time"]
    elif line["kind"] == "epochs":
        # After a resume epochs repeat from the last checkpoint on.
        first = line["epochs"][0]["epoch"]
        entry.progress = [epoch for epoch in entry.progress if epoch["epoch"] < first] + list(line["epochs"])
    elif line["kind"] == "ended" and line["time"] >= entry.logged:
        # Files are read one after another: a sweep's newer end counts, whatever its name.
        record, entry.logged = line["record"], line["time"]
        entry.record = Record(**(record | {"epochs": tuple(record["epochs"]), "notes": tuple(record.get("notes", ()))}))


def launched(home: Home, sweep: str) -> dict[str, Any] | None:
    """The last "sweep" line: the study as it was launched, or None when the sweep never ran here."""
    path = home.log(sweep)
    found = None
    if path.exists():
        for _, line in read(path):
            if line["kind"] == "sweep":
                found = line
    return found


def left(home: Home, sweep: str) -> bool:
    """Whether the sweep's last driver said that it left; one that was killed did not."""
    with home.log(sweep).open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - LEFT_BYTES))
        last = file.read().removesuffix(b"\n").rpartition(b"\n")[2]
    try:
        return bool(json.loads(last)["kind"] == "left")
    except (ValueError, TypeError, KeyError):  # a longer line, or a torn one
        return False


def _plain(value: Any) -> Any:
    return asdict(value) if hasattr(value, "__dataclass_fields__") else dict(value)
