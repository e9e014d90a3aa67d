"""A log in short, beside it: what `status` needs of ten thousand ended trials, read in a fraction of a second.

`<home>/log/<sweep>.summary`, one JSON object a line, written by whoever appends to the log, right after it and never
synced. It is a projection: where it is missing, cut short or of another log, the log is read instead. Lines:
    {"summary": VERSION, "log": digest of the log's first line}
    {"provenance": {...}}     said once; the ends name it by its place among these lines
    {"end": {...}}            how a trial ended, without its epochs: what its metrics came to
    {"at": byte, "ends": n, "before": checksum, ...}
        all else that the log says up to there (`Standing`), how many ends, and a checksum of the bytes before
"""

import contextlib
import hashlib
import json
import math
import os
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ablate import steering
from ablate.home import Home
from ablate.log import Entry, Record, read
from ablate.running import holder
from ablate.steering import Steered

VERSION = 1
MARK_BYTES = 1 << 18
"""The log grows by so much, at most, before the summary says again how things stand."""
TAIL_BYTES = 256
"""So much of a log before a mark tells it from another that begins alike: every line has its time."""
REMAKE_BYTES = 1 << 23
"""A reader that had to read so much of a log leaves a summary behind."""
RULES = (("last", True), ("median_last_10", True), ("best_oracle", True), ("best_oracle", False))
"""Ways to say what a metric came to, with whether higher is better, where that matters."""
KEPT = (
    "trial",
    "method",
    "data",
    "seed",
    "state",
    "reason",
    "error",
    "attempts",
    "seconds",
    "started",
    "ended",
    "host",
)
"""Fields of a record that an end in short has as they are; its config is the plan's."""


@dataclass
class Standing:
    """How a sweep stands by its log up to some byte, but for the ends."""

    launch: int = 0
    """Where the line of the last launch begins."""
    since: float | None = None
    """When the last driver started."""
    ended: int = 0
    """Trials that ended since."""
    running: dict[str, int] = field(default_factory=dict)
    """Trials started and not ended -> epochs that they came to."""
    steered: Steered = field(default_factory=Steered)

    def follow(self, line: Mapping[str, Any], start: int) -> None:
        """Takes in the line that begins at byte `start`."""
        kind = line["kind"]
        if kind == "sweep":
            self.launch = start
            if not line.get("extends"):
                self.since, self.ended, self.running = line["time"], 0, {}
        elif kind == "started":
            self.running[line["trial"]] = 0
        elif kind == "epochs":
            self.running[line["trial"]] = line["epochs"][-1]["epoch"]
        elif kind in ("ended", "lost", "stopped"):
            self.running.pop(line["trial"], None)
            self.ended += kind == "ended"
        elif kind == "ordered":
            self.steered = self.steered.after(steering.from_line(line))


@dataclass(frozen=True)
class Summary:
    """One sweep in short."""

    standing: Standing
    entries: Mapping[str, Entry]
    launch: Mapping[str, Any] | None
    """The line of the last launch; None: never launched."""


def load(home: Home, sweep: str) -> Summary:
    """What the sweep's log says, from its summary and the part of the log that is newer.

    Raises:
        CorruptLog: the part of the log that was read is damaged other than by a crash.
    """
    log = home.log(sweep)
    if not log.exists():
        return Summary(Standing(), {}, None)
    known = _read(home, sweep)
    if log.stat().st_size - known.at > REMAKE_BYTES and holder(home, sweep) is None:
        with contextlib.suppress(OSError), Keeper(home, sweep) as keeper:
            keeper.catch_up()
        known = _read(home, sweep)
    entries = {}
    for fields in known.ends:
        entries[fields["trial"]] = _entry(fields, known.provenances)
    start = known.at
    for end, line in read(log, known.at):
        known.standing.follow(line, start)
        if line["kind"] == "ended":
            entries[line["trial"]] = _entry(_in_short(line) | {"provenance": 0}, [line["record"]["provenance"]])
        start = end
    launch = next((line for _, line in read(log, known.standing.launch)), None)
    return Summary(known.standing, entries, launch if launch and launch["kind"] == "sweep" else None)


def merged(summaries: Iterable[Summary]) -> dict[str, Entry]:
    """Trial -> its latest end in any of the sweeps."""
    found: dict[str, Entry] = {}
    for summary in summaries:
        for ident, entry in summary.entries.items():
            if ident not in found or entry.logged >= found[ident].logged:
                found[ident] = entry
    return found


def reached(epochs: Sequence[Mapping[str, Any]]) -> dict[str, list[float]]:
    """Metric -> what it came to by each of `RULES`, once where all agree; only metrics of the last epoch."""
    from analysis.selection import select

    found = {}
    for name in epochs[-1]["metrics"] if epochs else ():
        curve = [row["metrics"].get(name, math.nan) for row in epochs]
        values = [select(curve, rule, higher) for rule, higher in RULES]
        if math.isfinite(values[0]):
            found[name] = values if len(set(values)) > 1 else values[:1]
    return found


def chosen(values: Sequence[float], rule: str, higher_is_better: bool) -> float:
    """What `reached` says by one rule."""
    return values[RULES.index((rule, higher_is_better or rule != "best_oracle"))] if len(values) > 1 else values[0]


class Keeper:
    """Keeps the summary of a log that grows. What keeps it from that is nobody's trouble: the log is the truth."""

    def __init__(self, home: Home, sweep: str) -> None:
        self.home, self.sweep, self.path = home, sweep, home.summary(sweep)
        self.standing = Standing()
        self.places: dict[str, int] = {}
        """Digest of a provenance -> where it stands among those that were said."""
        self.ends = self.marked = 0
        self.file: int | None = None
        self.failed = False

    def __enter__(self) -> "Keeper":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def hear(self, line: Mapping[str, Any], start: int, end: int) -> None:
        """Takes in a line of the log, which lies there from byte `start` to `end`."""
        if self.failed:
            return
        try:
            if self.file is None:
                self.catch_up()
            else:
                self._take(line, start, end)
        except OSError:
            self.failed = True  # a full disk: the file that is there is right as far as it goes

    def catch_up(self) -> None:
        """Opens the summary, made anew where it is not this log's, and takes in what the log has more."""
        known = _read(self.home, self.sweep)
        self.standing, self.marked, self.ends = known.standing, known.at, len(known.ends)
        self.places = {_digest(said): place for place, said in enumerate(known.provenances)}
        path = self.path
        if not known.size:
            path = self.path.with_name(f".{self.path.name}.{os.getpid()}")
            path.unlink(missing_ok=True)
        self.file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        os.ftruncate(self.file, known.size)
        if not known.size:
            self._write({"summary": VERSION, "log": _first_line(self.home.log(self.sweep))})
        start = known.at
        for end, line in read(self.home.log(self.sweep), known.at):
            self._take(line, start, end)
            start = end
        self._mark(start)
        path.replace(self.path)

    def close(self) -> None:
        """Keeps it no more."""
        if self.file is not None:
            os.close(self.file)
            self.file = None

    def _take(self, line: Mapping[str, Any], start: int, end: int) -> None:
        self.standing.follow(line, start)
        if line["kind"] == "ended":
            fields = _in_short(line)
            digest = _digest(fields["provenance"])
            if digest not in self.places:
                self.places[digest] = len(self.places)
                self._write({"provenance": fields["provenance"]})
            self._write({"end": fields | {"provenance": self.places[digest]}})
            self.ends += 1
        if end - self.marked >= MARK_BYTES or line["kind"] in ("sweep", "left"):
            self._mark(end)

    def _mark(self, end: int) -> None:
        steered = self.standing.steered
        how = vars(self.standing) | {"steered": {"arms": steered.arms, "taken": sorted(steered.taken)}}
        self._write({"at": end, "ends": self.ends, "before": _before(self.home.log(self.sweep), end)} | how)
        self.marked = end

    def _write(self, fields: Mapping[str, Any]) -> None:
        assert self.file is not None
        os.write(self.file, json.dumps(fields, separators=(",", ":")).encode() + b"\n")


@dataclass
class _Known:
    """What a summary's file says."""

    standing: Standing = field(default_factory=Standing)
    ends: list[dict[str, Any]] = field(default_factory=list)
    provenances: list[dict[str, Any]] = field(default_factory=list)
    at: int = 0
    before: int = 0
    size: int = 0
    """Of its whole lines, in bytes; 0: there is none that is right."""


def _read(home: Home, sweep: str) -> _Known:
    path, log = home.summary(sweep), home.log(sweep)
    known = _Known()
    try:
        with path.open("rb") as file:
            header = json.loads(file.readline())
            if (header["summary"], header["log"]) != (VERSION, _first_line(log)):
                return _Known()
            known.size = file.tell()
            for raw in file:
                if not raw.endswith(b"\n"):
                    break
                known.size += len(raw)
                _add(known, json.loads(raw))
        if known.at and _before(log, known.at) != known.before:
            return _Known()
    except (OSError, ValueError, KeyError, TypeError):
        return _Known()
    return known


def _add(known: _Known, fields: dict[str, Any]) -> None:
    """Takes in one line of the file.

    Raises:
        ValueError: an end is missing among those before.
    """
    if "end" in fields:
        known.ends.append(fields["end"])
    elif "provenance" in fields:
        known.provenances.append(fields["provenance"])
    else:
        known.at, known.before = fields.pop("at"), fields.pop("before")
        if fields.pop("ends") != len(known.ends):
            raise ValueError("an end is missing")
        steered = fields.pop("steered")
        known.standing = Standing(**fields, steered=Steered(steered["arms"], frozenset(steered["taken"])))


def _in_short(line: Mapping[str, Any]) -> dict[str, Any]:
    """A line "ended" without its epochs."""
    record = line["record"] if isinstance(line["record"], Mapping) else vars(line["record"])
    short = {name: record[name] for name in KEPT if name in record}
    short |= {"notes": list(record.get("notes", ())), "provenance": dict(record["provenance"])}
    return short | {"logged": line["time"], "reached": reached(record["epochs"])}


def _entry(short: Mapping[str, Any], provenances: Sequence[Mapping[str, Any]]) -> Entry:
    fields = {name: short[name] for name in KEPT if name in short}
    record = Record(**fields, config={}, provenance=provenances[short["provenance"]], notes=tuple(short["notes"]))
    return Entry(record=record, logged=short["logged"], reached=short["reached"])


def _digest(provenance: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(provenance, sort_keys=True).encode()).hexdigest()


def _first_line(log: Path) -> str:
    with log.open("rb") as file:
        return hashlib.sha256(file.readline()).hexdigest()[:16]


def _before(log: Path, at: int) -> int:
    """Checksum of the log's last bytes before that one."""
    with log.open("rb") as file:
        file.seek(max(0, at - TAIL_BYTES))
        return zlib.crc32(file.read(min(at, TAIL_BYTES)))
