"""A sweep's log in an object store: segments, objects that each hold a stretch of its lines.

A segment is named for its first byte, its writer and its digest: written again it is the same object, and a damaged one
shows. A driver writes under a number above all writers before it, and begins where what it had read ends: what an
earlier one, cut off from the store, writes at or after that byte counts no more. Many small segments are merged into
one, by the same rule, and then deleted.

    log/<sweep>.jsonl/<first byte>.<writer>.<SHA-256, first 16 digits>

The node's own log is whole and on disk first. `pull` brings it up to the store, for whoever reads; `Push` brings the
store up to it, beside a driver, and waits where the store is away: the log itself is the spool.
"""

import hashlib
import json
import os
import secrets
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ablate import lock, store
from ablate.home import Home
from ablate.lease import hold
from ablate.lock import Locked
from ablate.log import CorruptLog
from ablate.store import Store, StoreError

LARGEST = 8 << 20
"""Bytes of one segment as it is first written."""
SMALL = 1 << 20
MOST_SMALL = 32
"""So many segments below `SMALL` at the end of a log are merged."""
SYNC_S = 5.0
"""How long the driver waits for the store before it goes on with what is on its disk."""
IDLE_S = 5.0
"""Lines that nobody waits for reach the store by then."""
AGAIN_S = 1.0
TRY_S = 5.0
PULL_S = 300.0
"""How long one waits for another of this node to have pulled."""
READS = 3
"""A listing taken while segments are merged may miss some; so many are taken."""


@dataclass(frozen=True, order=True)
class Segment:
    """One object of a log."""

    writer: str
    """Number of the driver that wrote it, and a token in case two took the same."""
    first: int
    """Its first byte's place in the log."""
    end: int
    digest: str
    name: str

    @classmethod
    def of(cls, name: str, size: int) -> "Segment":
        """Raises ValueError for a name that no segment has."""
        first, writer, digest = name.rpartition("/")[2].split(".")
        return cls(writer, int(first), int(first) + size, digest, name)


@dataclass(frozen=True)
class Piece:
    """Bytes `first` to `end` of a log, which `segment` holds."""

    first: int
    end: int
    segment: Segment


class Missing(CorruptLog):
    """A stretch of the log that no segment holds."""


def chain(segments: Sequence[Segment], where: str = "the log") -> list[Piece]:
    """What the segments make of the log, in order, from byte 0.

    Raises:
        Missing: a stretch between two of them is not there.
    """
    pieces: list[Piece] = []
    for writer in sorted({segment.writer for segment in segments}):
        own = sorted((s for s in segments if s.writer == writer), key=lambda s: (s.first, -s.end))
        begin = own[0].first
        pieces = [Piece(p.first, min(p.end, begin), p.segment) for p in pieces if p.first < begin]
        for segment in own:
            first = max(begin, segment.first)
            if segment.end > first:
                pieces.append(Piece(first, segment.end, segment))
                begin = segment.end
    end = 0
    for piece in pieces:
        if piece.first != end:
            raise Missing(
                f"{where}: bytes {end} to {piece.first} are missing: a segment was deleted. {_mend(where, end)}"
            )
        end = piece.end
    return pieces


def _mend(where: str, byte: int) -> str:
    return (
        f"The machine that drove the sweep may have them in its cache: `resume` there. Else delete the segments of "
        f"{where} from byte {byte} on: `resume` takes over what finished trials left in their folders, runs the rest."
    )


def pull(home: Home, *, held: str = "") -> list[str]:
    """Brings the node's logs up to the store; returns what a person should know. Does nothing for a home in a folder.

    `held`: the sweep that the caller holds. One that another process of this node drives is ahead of the store.

    Raises:
        CorruptLog: a segment is missing or damaged.
        StoreError: the store cannot be read.
    """
    remote = store.of(home)
    if remote is None:
        return []
    notes: list[str] = []
    with lock.hold(home.root / "pull.lock", wait_s=PULL_S):  # a driver that starts meanwhile pulls, so it waits
        for sweep in sorted(_listed(remote)):
            if sweep == held or lock.holder(home.lock(sweep)) is None:
                notes += _pull_one(remote, home, sweep)
    return notes


def _listed(remote: Store, under: str = "log") -> dict[str, list[Segment]]:
    """Sweep -> its segments."""
    found: dict[str, list[Segment]] = {}
    for item in remote.list(under):
        folder, _, _ = item.name.rpartition("/")
        if folder.endswith(".jsonl"):
            sweep = folder.rpartition("/")[2].removesuffix(".jsonl")
            try:
                found.setdefault(sweep, []).append(Segment.of(item.name, item.size))
            except ValueError:
                raise CorruptLog(
                    f"{remote.name}/{item.name}: no segment of a log has such a name. Move it away."
                ) from None
    return found


def _pull_one(remote: Store, home: Home, sweep: str) -> list[str]:
    """Brings one log up to the store, again where segments were merged meanwhile."""
    folder = f"log/{sweep}.jsonl"
    for attempt in range(READS):
        if attempt:
            time.sleep(AGAIN_S)
        try:
            pieces = chain(_listed(remote, folder).get(sweep, []), f"{remote.name}/{folder}")
            return _Copy(home, sweep).follow(remote, pieces)
        except (Missing, FileNotFoundError):
            if attempt == READS - 1:
                raise
    raise AssertionError


class _Copy:
    """The node's copy of a log, and beside it which segments it is known to hold."""

    def __init__(self, home: Home, sweep: str) -> None:
        self.path = home.log(sweep)
        self.note = home.logs / f"{sweep}.pulled"
        self.size = self.path.stat().st_size if self.path.exists() else 0
        try:
            self.known = {(first, end, digest) for first, end, digest in json.loads(self.note.read_text())}
        except (OSError, ValueError):
            self.known = set()

    def follow(self, remote: Store, pieces: Sequence[Piece]) -> list[str]:
        """Fetches what it lacks; returns notes."""
        notes, seen = [], []
        for piece in pieces:
            mark = (piece.segment.first, piece.segment.end, piece.segment.digest)
            if not (piece.end <= self.size and (mark in self.known or self._holds(piece.segment))):
                notes += self._take(piece, _fetched(remote, piece.segment))
            seen.append(mark)
        if set(seen) != self.known:
            beside = self.note.with_name(f"{self.note.name}.{secrets.token_hex(4)}")
            beside.write_text(json.dumps(seen))
            beside.replace(self.note)
        return notes

    def _holds(self, segment: Segment) -> bool:
        if segment.end > self.size:
            return False
        with self.path.open("rb") as file:
            file.seek(segment.first)
            return _digest(file.read(segment.end - segment.first)) == segment.digest

    def _take(self, piece: Piece, content: bytes) -> list[str]:
        """Puts the piece in its place. What this node has there of a driver that lost its hold is set aside."""
        content = content[piece.first - piece.segment.first : piece.end - piece.segment.first]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        notes = []
        with self.path.open("ab+") as file:
            file.seek(piece.first)
            ours = file.read()
            if not content.startswith(ours):
                self.path.with_suffix(".summary").unlink(missing_ok=True)
                aside = self.path.with_name(f"{self.path.stem}.superseded-{secrets.token_hex(4)}")
                aside.write_bytes(ours)
                notes = [
                    f"{self.path.stem}: {len(ours)} bytes of log that never reached the store give way to another "
                    f"driver's; they are kept in {aside}. Trials that finished are in their folders."
                ]
            file.truncate(piece.first)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        self.size = piece.end
        return notes


def _fetched(remote: Store, segment: Segment) -> bytes:
    content = remote.get(segment.name)
    if _digest(content) != segment.digest:
        where = f"{remote.name}/{segment.name.rpartition('/')[0]}"
        raise CorruptLog(
            f"{remote.name}/{segment.name} is corrupt: it is not what its name's checksum says. "
            f"{_mend(where, segment.first)}"
        )
    return content


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


class Push:
    """Brings the store up to a log that a driver writes, from a thread of its own."""

    def __init__(self, remote: Store, sweep: str, path: Path) -> None:
        """Hold the sweep, and `pull` it, before.

        Raises:
            CorruptLog: a segment is missing.
            StoreError: the store cannot be read.
        """
        self.store, self.path, self.folder = remote, path, f"log/{sweep}.jsonl"
        segments = _listed(remote, self.folder).get(sweep, [])
        self.pieces = chain(segments, f"{remote.name}/{self.folder}")
        last = max((int(segment.writer.partition("-")[0]) for segment in segments), default=0)
        self.writer = f"{last + 1:06d}-{secrets.token_hex(4)}"
        self.pushed = self.pieces[-1].end if self.pieces else 0
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        assert path.stat().st_size >= self.pushed, "pull comes first"
        self.trouble = ""
        """Why the store does not take the log now; empty while it does."""
        self.wanted, self.ending = False, False
        self.changed = threading.Condition()
        self.thread = threading.Thread(target=self._run, name=f"log of {sweep}", daemon=True)
        self.thread.start()

    def sync(self) -> None:
        """Returns when the store has every line so far, or is away: then they are on this node's disk."""
        self._wait(SYNC_S)

    def close(self, wait_s: float) -> str:
        """Waits until the store has everything, at most so long; returns what is wrong if it has not."""
        done = self._wait(wait_s, through=True)
        with self.changed:
            self.ending = True
            self.changed.notify_all()
        self.thread.join(2 * TRY_S)
        if done:
            return ""
        return (
            f"The last {self.path.stat().st_size - self.pushed} bytes of the log are in {self.path} only: "
            f"{self.trouble or 'the store took too long'}. `sync` or `resume` on this machine delivers them."
        )

    def _wait(self, seconds: float, *, through: bool = False) -> bool:
        """Whether everything was pushed in that time; trouble ends the wait unless it is to be waited `through`."""
        target = self.path.stat().st_size
        with self.changed:
            self.wanted = True
            self.changed.notify_all()
            self.changed.wait_for(
                lambda: self.pushed >= target or not self.thread.is_alive() or (self.trouble and not through), seconds
            )
            return self.pushed >= target

    def _run(self) -> None:
        remote = self.store.patient(TRY_S)
        while True:
            with self.changed:
                self.changed.wait_for(lambda: self.wanted or self.ending, IDLE_S)
                if self.ending:
                    return
                self.wanted = False
            while (content := self._next()) and not self.ending:
                try:
                    self._push(remote, content)
                except StoreError as error:
                    self._say(str(error))
                    time.sleep(AGAIN_S)

    def _next(self) -> bytes:
        """Whole lines that the store lacks."""
        with self.path.open("rb") as file:
            file.seek(self.pushed)
            content = file.read(LARGEST)
            whole = content.rfind(b"\n") + 1
            while not whole and len(content) >= LARGEST:  # a line longer than a segment
                more = file.read(LARGEST)
                if not more:
                    return b""
                content += more
                whole = content.rfind(b"\n") + 1
        return content[:whole]

    def _push(self, remote: Store, content: bytes) -> None:
        self._write(remote, self.pushed, content)
        with self.changed:
            self.pushed += len(content)
            self.trouble = ""
            self.changed.notify_all()
        small = self._small()
        if len(small) >= MOST_SMALL:
            self._merge(remote, small)

    def _write(self, remote: Store, first: int, content: bytes) -> None:
        digest = _digest(content)
        name = f"{self.folder}/{first:015d}.{self.writer}.{digest}"
        remote.put(name, content)
        end = first + len(content)
        self.pieces = [piece for piece in self.pieces if piece.first < first]
        self.pieces.append(Piece(first, end, Segment(self.writer, first, end, digest, name)))

    def _small(self) -> list[Piece]:
        """The small pieces at the log's end."""
        found: list[Piece] = []
        for piece in reversed(self.pieces):
            if piece.end - piece.first >= SMALL:
                break
            found.append(piece)
        return found[::-1]

    def _merge(self, remote: Store, small: list[Piece]) -> None:
        """Writes them as one, then deletes them; whoever stops in between leaves the log as it was."""
        first, end = small[0].first, small[-1].end
        with self.path.open("rb") as file:
            file.seek(first)
            content = file.read(end - first)
        self._write(remote, first, content)
        for piece in small:
            if piece.segment.first >= first:
                remote.delete(piece.segment.name)

    def _say(self, trouble: str) -> None:
        with self.changed:
            self.trouble = trouble
            self.changed.notify_all()


def push(home: Home, sweep: str) -> Push | None:
    """What brings the store up to the sweep's log; None for a home in a folder. Hold and `pull` the sweep before."""
    remote = store.of(home)
    return None if remote is None else Push(remote, sweep, home.log(sweep))


def deliver(home: Home, sweep: str, wait_s: float) -> str:
    """Brings the store up to what a driver of this node could not deliver; returns what is wrong, else nothing.

    Raises:
        CorruptLog: a segment is missing or damaged.
        StoreError: the store cannot be read.
    """
    if home.remote is None:
        return ""
    try:
        with hold(home, home.lock(sweep), f"`sync` on {os.uname().nodename}"):
            pull(home, held=sweep)
            pushing = push(home, sweep)
            return pushing.close(wait_s) if pushing else ""
    except Locked:
        return ""  # its driver delivers
