"""What MLflow should show of a sweep: the log's lines as runs. Pure: nothing here talks to a server.

A sweep is one parent run, each of its trials a child. Everything about a run, its times included, follows from the
log, so that a deleted store is rebuilt with the same metrics, params and tags, and a run that is already there is
recognised by the digest of what it should be (tag `ablate.digest`).

Names that MLflow refuses are rewritten by one rule (`name`), and values it would store wrongly are left out (`points`).
"""

import hashlib
import json
import math
import posixpath
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ablate.home import Home
from ablate.log import Record, read
from ablate.plan import Cell, Plan, Trial, plan
from search_spaces.study import Study, StudyError

LONGEST = {"name": 250, "param": 6000, "tag": 8000}
"""MLflow's limits, in characters."""

PROJECTION = 1
"""Raised when the same record is to look otherwise in MLflow; then runs already there are mended."""

Status = Literal["RUNNING", "FINISHED", "FAILED", "KILLED"]


@dataclass(frozen=True)
class Point:
    """One metric of one epoch."""

    name: str
    value: float
    time_ms: int
    epoch: int


@dataclass(frozen=True)
class Run:
    """A child run as it should be."""

    trial: str
    name: str
    status: Status
    start: float
    end: float | None
    tags: Mapping[str, str]
    params: Mapping[str, str]
    epochs: tuple[Mapping[str, Any], ...]
    data: Mapping[str, Any]
    """Data specification; with `data_digest` it becomes the run's dataset."""
    data_digest: str = ""
    error: str = ""
    """Whole traceback of a failed trial."""

    @property
    def points(self) -> tuple[Point, ...]:
        """All metrics of all epochs."""
        return points(self.start, self.epochs)

    @property
    def digest(self) -> str:
        """Digest of all the above: two runs of one digest look the same in MLflow."""
        text = json.dumps([PROJECTION, *vars(self).values()], sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:32]


@dataclass(frozen=True)
class Standing:
    """Trials that the last launch wants, by how they stand."""

    done: int
    failed: int
    pending: int

    @property
    def state(self) -> str:
        """How the sweep stands once its driver has left."""
        return "interrupted" if self.pending else "failed" if self.failed else "done"


@dataclass
class Sweep:
    """A sweep as its log tells it so far; `read` goes on where it stopped."""

    home: Home
    name: str
    ident: str = ""
    """Digest of the log's first line: tells this sweep from one of the same name in another home."""
    launches: list[Mapping[str, Any]] = field(default_factory=list)
    plan: Plan | None = None
    """Of the last launch."""
    records: dict[str, Record] = field(default_factory=dict)
    first_ms: int = 0
    last_ms: int = 0
    _offset: int = 0
    _cells: dict[str, list[Cell]] = field(default_factory=dict)
    _trials: dict[str, Trial] = field(default_factory=dict)
    _starts: dict[str, float] = field(default_factory=dict)
    stopped: set[str] = field(default_factory=set)
    """Trials given back because of an order; they run again when it is lifted."""
    _progress: dict[str, dict[int, Mapping[str, Any]]] = field(default_factory=dict)

    def read(self) -> list[str]:
        """Reads what the log has grown by; returns the trials that ended, in order.

        Raises:
            CorruptLog: a log of the home was damaged other than by a crash.
        """
        path, launched, ended = self.home.log(self.name), False, []
        if not path.exists():
            return []
        if not self._offset:
            self.ident = _first_line(path)
        for offset, line in read(path, self._offset):
            self._offset = offset
            self.last_ms = int(line["time"] * 1000)
            self.first_ms = self.first_ms or self.last_ms
            if line["kind"] == "sweep":
                self._launch(line)
                launched = True
            elif self._note(line):
                ended.append(line["trial"])
        return ended + (self._adopt() if launched else [])

    @property
    def wanted(self) -> list[str]:
        """Trials of the last launch, in the plan's order."""
        return [trial.id for trial in self.plan.trials] if self.plan else []

    def running(self, now: float, after: float) -> list[str]:
        """Trials that started at least `after` seconds ago and have not ended."""
        started = self._starts.items()
        out = self.records.keys() | self.stopped
        return [t for t, start in started if t in self._trials and t not in out and now - start >= after]

    def standing(self) -> Standing:
        """How many of the wanted trials are done, failed, pending."""
        states = [self.records[trial].state if trial in self.records else "pending" for trial in self.wanted]
        return Standing(states.count("done"), states.count("failed"), states.count("pending"))

    def run(self, trial: str, *, leaving: bool = False) -> Run:
        """The run of a trial that ended, or of one that is running (KILLED when its driver is `leaving`)."""
        record = self.records.get(trial)
        if record is None:
            return self._open(trial, "KILLED" if leaving else "RUNNING")
        start = self._starts.get(trial) or record.started or record.ended
        tags = self._tags(trial, record.data, record.seed) | _outcome(record) | _left_out(record.epochs)
        return Run(
            trial=trial,
            name=self._title(trial, record),
            status="FINISHED" if record.state == "done" else "FAILED",
            start=start,
            end=max(record.ended, start),
            tags=tags | {"mlflow.note.content": _note(record)},
            params=params(record.config, record.data),
            epochs=record.epochs,
            data=record.data,
            data_digest=str(record.provenance.get("data_digest") or ""),
            error=record.error,
        )

    def _open(self, trial: str, status: Status) -> Run:
        known, start, rows = self._trials[trial], self._starts[trial], self._progress.get(trial, {})
        epochs = tuple(rows[epoch] for epoch in sorted(rows))
        return Run(
            trial=trial,
            name=self._title(trial),
            status=status,
            start=start,
            end=start + sum(row.get("seconds") or 0.0 for row in epochs) if status == "KILLED" else None,
            tags=self._tags(trial, known.data, known.seed)
            | {"state": "running" if status == "RUNNING" else "interrupted", "method": known.method},
            params=params(known.config, known.data),
            epochs=epochs,
            data=known.data,
        )

    def _launch(self, line: Mapping[str, Any]) -> None:
        self.launches.append(line)
        try:
            self.plan = plan(Study.from_plain(line["study"]), line["scale"], arms=line["arms"], blocks=line["blocks"])
        except (StudyError, KeyError, TypeError):
            return  # Written by another release: its trials are shown, by what their records say of them.
        for trial in self.plan.trials:
            self._trials[trial.id] = trial
        for cell in self.plan.cells:
            cells = self._cells.setdefault(cell.trial, [])
            if cell not in cells:
                cells.append(cell)

    def _note(self, line: Mapping[str, Any]) -> bool:
        """Notes a line about a trial; returns whether it ended it."""
        kind, trial = line["kind"], line.get("trial", "")
        if kind == "started":
            if trial in self.records:  # A failed one is tried again: what it was before no longer counts.
                del self.records[trial]
                self._starts.pop(trial, None)
                self._progress.pop(trial, None)
            self._starts.setdefault(trial, line["time"])
            self.stopped.discard(trial)
        elif kind == "epochs":
            self._progress.setdefault(trial, {}).update({row["epoch"]: row for row in line["epochs"]})
        elif kind == "stopped":
            self.stopped.add(trial)
        elif kind == "ended":
            self.records[trial] = _record(line)
            self._progress.pop(trial, None)
        return bool(kind == "ended")

    def _adopt(self) -> list[str]:
        """Takes over what other sweeps of the home finished and this one wants."""
        missing = {trial for trial in self.wanted if trial not in self.records or self.records[trial].state == "failed"}
        others = [path for path in sorted(self.home.logs.glob("*.jsonl")) if path != self.home.log(self.name)]
        adopted = []
        for path in others if missing else ():
            for _, line in read(path):
                if line["kind"] == "ended" and line["trial"] in missing and _better(self.records, line):
                    self.records[line["trial"]] = _record(line)
                    adopted.append(line["trial"])
        return list(dict.fromkeys(adopted))

    def _title(self, trial: str, record: Record | None = None) -> str:
        if cells := self._cells.get(trial):
            return f"{cells[0].arm} {cells[0].block.name}"
        if trial in self._trials:
            return self._trials[trial].label
        return f"{record.method if record else 'trial'} {trial}"

    def _tags(self, trial: str, data: Mapping[str, Any], seed: int) -> dict[str, str]:
        """What a trial is, for filtering and grouping."""
        cells = self._cells.get(trial, [])
        dataset, split = str(data.get("protocol", "")), str(data.get("split", 0))
        also = ", ".join(f"{cell.arm} {cell.block.name}" for cell in cells[1:])
        study, _, scale = self.name.rpartition("@")
        return {
            "study": study,
            "scale": scale,
            "role": "trial" if cells else "needed",
            "arm": cells[0].arm if cells else "",
            "block": cells[0].block.name if cells else f"{dataset}/t{split}/s{seed}",
            "dataset": dataset,
            "split": split,
            "seed": str(seed),
            "trial": trial,
            "ablate.sweep": self.ident,
            "mlflow.source.name": "ablate",
            "mlflow.source.type": "LOCAL",
        } | ({"also": cut(also, LONGEST["tag"])} if also else {})


def name(text: str, taken: Iterable[str] = ()) -> str:
    """A metric's or param's name as MLflow takes it.

    The rule: `@` becomes `_at_`, `%` becomes `_percent`; any other character than ASCII letters, digits, `_ - . / :`
    and space becomes `_`; so does `/` where the name is no clean path. A name that is then among `taken`, or too long,
    ends in `-` and eight hex digits of its SHA-256.
    """
    made = re.sub(r"[^A-Za-z0-9_\-. /:]", "_", text.replace("@", "_at_").replace("%", "_percent"))
    if posixpath.normpath(made) != made or made in (".", "..") or made.startswith(("/", "../")):
        made = re.sub(r"^\.+", "_", made.replace("/", "_")) or "_"
    if len(made) > LONGEST["name"] or made in taken:
        mark = hashlib.sha256(text.encode()).hexdigest()[:8]
        made = f"{made[: LONGEST['name'] - 9]}-{mark}"
    return made


def names(texts: Iterable[str]) -> dict[str, str]:
    """Each text's `name`; those that need no rewriting keep theirs."""
    texts = sorted(set(texts))
    made = {text: text for text in texts if name(text) == text}
    for text in texts:
        if text not in made:
            made[text] = name(text, made.values())
    return made


def cut(text: str, length: int) -> str:
    """`text`, or where it is longer its beginning and the SHA-256 of the whole."""
    if len(text) <= length:
        return text
    mark = f" ... sha256:{hashlib.sha256(text.encode()).hexdigest()}"
    return text[: length - len(mark)] + mark


def params(config: Mapping[str, Any], data: Mapping[str, Any]) -> dict[str, str]:
    """Config fields, and what the data specification has besides protocol and split as `data.<field>`."""
    fields = dict(config) | {f"data.{key}": value for key, value in data.items() if key not in ("protocol", "split")}
    made = names(fields)
    return {made[key]: cut(_text(value), LONGEST["param"]) for key, value in fields.items()}


def points(start: float, rows: Iterable[Mapping[str, Any]]) -> tuple[Point, ...]:
    """Metrics of all epochs, and the memory, at the start plus the training time so far.

    NaN is kept; MLflow would store an infinity as 1.8e308, so it is left out and the run's tag `infinite` says where.
    """
    rows = list(rows)
    measured = [dict(row["metrics"]) | {key: row[key] for key in ("peak_memory_bytes",) if key in row} for row in rows]
    made = names(key for values in measured for key in values)
    found, seconds = [], 0.0
    for row, values in zip(rows, measured, strict=True):
        seconds += row.get("seconds") or 0.0
        time_ms = int((start + seconds) * 1000)
        for key, value in values.items():
            if not math.isinf(value):
                found.append(Point(made[key], float(value), time_ms, row["epoch"]))
    return tuple(found)


def _left_out(rows: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    found = [f"{key} at {row['epoch']}" for row in rows for key, value in row["metrics"].items() if math.isinf(value)]
    return {"infinite": cut(", ".join(found), 500)} if found else {}


def _outcome(record: Record) -> dict[str, str]:
    """How a trial ended and on what, as tags."""
    known = record.provenance
    kept = ("commit", "dirty", "code_digest", "data_digest", "device", "threads", "torch")
    tags = {key: _text(known[key]) for key in kept if known.get(key) not in (None, "")}
    tags |= {"state": record.state, "method": record.method, "attempts": str(record.attempts), "host": record.host}
    tags["seconds"] = f"{record.seconds:.3f}"
    if record.state == "failed":
        last = next(reversed(record.error.strip().splitlines()), "")
        tags |= {"reason": record.reason, "error": cut(last, 500)}
    if "commit" in tags:
        tags["mlflow.source.git.commit"] = tags["commit"]
    return tags


def _note(record: Record) -> str:
    """The run's description: how to get it again, and why it failed."""
    lines = [f"Run it again: `python -m ablate reproduce {record.trial}`"]
    if record.state == "failed":
        lines = [f"Failed: {record.reason}", "```", record.error.strip()[-4000:], "```", *lines]
    return "\n".join(lines)


def _record(line: Mapping[str, Any]) -> Record:
    record: Mapping[str, Any] = line["record"]
    return Record(**{**record, "epochs": tuple(record["epochs"])})


def _better(records: Mapping[str, Record], line: Mapping[str, Any]) -> bool:
    return line["trial"] not in records or line["record"]["state"] == "done"


def _first_line(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.sha256(file.readline()).hexdigest()[:16]


def _text(value: Any) -> str:
    if isinstance(value, Mapping) and set(value) == {"trial"}:
        return f"trial {value['trial']}"
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)
