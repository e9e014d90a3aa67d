"""Exclusive holds on what several nodes see: the lock of the node and, where the home is an object store, a lease too.

An object store has no locks. A lease is a claim, an object of the holder's own beside those of others, which it writes
anew before it expires. Who wants to hold writes a claim and then lists them: whoever finds another living one takes its
own back and tries later. Of two that come together each wrote before it listed, so one sees the other at least, and
never do both hold. A store that reads its own writes is all this needs.

Claims expire by the store's clock: what it stamped on ours tells its time. A claim made on this node, by a process that
does not hold the node's lock any more, is dead at once. A holder that could not renew in time (an outage, a suspended
machine) looks whether another came meanwhile, and has then lost its hold: `Hold.check` says so.
"""

import contextlib
import json
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import SystemRandom

from ablate import lock, store
from ablate.home import Home
from ablate.lock import Locked
from ablate.store import ANSWER_S, Item, Store, StoreError

EXPIRES_S = 60.0
RENEW_S = 15.0
"""A claim is written anew so often."""
LATE_S = 30.0
"""Whoever renewed less than this ago cannot have been found expired."""
AGAIN_S = 1.0
"""About how long a claimant waits who found another."""
YIELD_S = 3.0
"""A claimant who finds another living claim takes back its own within this time."""
TRY_S = 5.0
"""How long one renewal tries; then the next one does."""
NODE = "node"
"""File of the cache that names this node's processes."""


class Hold:
    """A hold on something, which can only be lost where it is a lease."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lost_to: str | None = None

    def check(self) -> None:
        """Raises Locked, naming the new holder, when the hold was lost."""
        if self.lost_to is not None:
            raise Locked(self.path, self.lost_to)


@contextmanager
def hold(
    home: Home, path: Path, holder: str = "", *, wait_s: float = 0.0, patience_s: float = ANSWER_S
) -> Iterator[Hold]:
    """Holds `path`, a file of the home, exclusively within the block: on this node and on every other.

    A store that is away is waited for during `patience_s`.

    Raises:
        Locked: still held by another process after `wait_s` seconds.
        StoreError: the store cannot be reached or written.
    """
    with lock.hold(path, holder, wait_s=wait_s):
        remote = store.of(home, patience_s)
        if remote is None:
            yield Hold(path)
            return
        claims = _Claims(remote, path.relative_to(home.root).as_posix(), _node(home.root))
        lease = _acquired(claims, path, holder, time.monotonic() + wait_s)
        try:
            lease.renewing.start()
            yield lease
        finally:
            lease.end()


def holder(home: Home, path: Path) -> str | None:
    """Who holds `path` by a lease, as the living claim says; None without one. Judged by this machine's clock.

    Ask for the node's own lock before: while that is free, claims of this node are a dead process's.

    Raises:
        StoreError: the store cannot be reached.
    """
    remote = store.of(home)
    if remote is None:
        return None
    node = (home.root / NODE).read_text() if (home.root / NODE).exists() else ""
    claims = _Claims(remote, path.relative_to(home.root).as_posix(), node)
    recent = [item for item in claims.all() if time.time() - item.changed <= EXPIRES_S]
    living = [item for item in recent if not claims.is_dead(item)]
    return claims.holder(min(living, key=lambda item: item.changed)) if living else None


@dataclass(frozen=True)
class _Claims:
    """All claims on one thing."""

    store: Store
    place: str
    node: str

    def all(self) -> list[Item]:
        return self.store.list(self.place)

    def write(self, name: str, holder: str) -> float:
        """Writes a claim; returns a moment before it was written, by this machine's steady clock."""
        begun = time.monotonic()
        self.store.put(name, json.dumps({"holder": holder, "node": self.node}).encode())
        return begun

    def living(self, own: str) -> list[Item]:
        """Others' claims that count, those that are dead removed. `own` was written just before: it tells the time."""
        found = {item.name: item for item in self.all()}
        if own not in found:  # somebody took it for dead
            return list(found.values()) or [Item(own, 0, 0.0)]
        now = found.pop(own).changed
        living = []
        for item in found.values():
            if now - item.changed > EXPIRES_S or self.is_dead(item):
                self.store.delete(item.name)
            else:
                living.append(item)
        return living

    def holder(self, item: Item) -> str:
        return str(self._content(item).get("holder", ""))

    def is_dead(self, item: Item) -> bool:
        """Whether a process of this node claimed, which cannot live: it would hold the node's lock, and we do."""
        return bool(self.node) and self._content(item).get("node") == self.node

    def _content(self, item: Item) -> dict[str, str]:
        try:
            found: dict[str, str] = json.loads(self.store.get(item.name))
        except (FileNotFoundError, ValueError):  # given back meanwhile
            return {}
        return found


class _Lease(Hold):
    """A claim that is renewed until its holder lets go or dies."""

    def __init__(self, claims: _Claims, path: Path, name: str, holder: str, renewed: float) -> None:
        super().__init__(path)
        self.claims, self.name, self.holder, self.renewed = claims, name, holder, renewed
        self.ended = threading.Event()
        self.renewing = threading.Thread(target=self._renew, name=f"lease of {path.name}", daemon=True)

    def _renew(self) -> None:
        """Runs beside the holder."""
        brief = _Claims(self.claims.store.patient(TRY_S), self.claims.place, self.claims.node)
        while not self.ended.wait(RENEW_S):
            with contextlib.suppress(StoreError):  # away: the next turn looks whether it was for too long
                self._renew_once(brief)
            if self.lost_to is not None:
                return

    def _renew_once(self, claims: _Claims) -> None:
        begun = claims.write(self.name, self.holder)
        if begun - self.renewed > LATE_S or time.monotonic() - begun > LATE_S:
            others = {item.name for item in claims.living(self.name)}
            if others and not self.ended.wait(YIELD_S):
                stayed = [item for item in claims.living(self.name) if item.name in others]
                if stayed:
                    self.lost_to = claims.holder(stayed[0]) or "another process"
                    claims.store.delete(self.name)
                    return
        self.renewed = begun

    def end(self) -> None:
        """Gives the claim back; where the store is away it expires."""
        self.ended.set()
        self.renewing.join()  # it must not claim anew what is given back
        if self.lost_to is None:
            with contextlib.suppress(StoreError):
                self.claims.store.patient(TRY_S).delete(self.name)


def _acquired(claims: _Claims, path: Path, holder: str, deadline: float) -> _Lease:
    while True:
        name = f"{claims.place}/{secrets.token_hex(8)}"
        written = claims.write(name, holder)
        others = claims.living(name)
        if not others and time.monotonic() - written < LATE_S:
            return _Lease(claims, path, name, holder, written)
        claims.store.delete(name)
        if others and time.monotonic() >= deadline:
            raise Locked(path, claims.holder(others[0]) or "another process")
        time.sleep(AGAIN_S * SystemRandom().uniform(0.5, 1.5))


def _node(root: Path) -> str:
    """The name of this node's cache, drawn when it was made."""
    path = root / NODE
    if not path.exists():
        beside = path.with_name(f"{NODE}.{secrets.token_hex(4)}")
        beside.write_text(secrets.token_hex(16))
        with contextlib.suppress(FileExistsError):
            path.hardlink_to(beside)
        beside.unlink()
    return path.read_text()
