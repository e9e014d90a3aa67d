"""What a home in an object store has beside its logs, carried there and back: trials' folders, frames and reports.

A worker fetches its trial's folder before it trains, and sends what it saved: a checkpoint as well as it can (the next
one will do), an end for certain, before it tells of it. So another node can always go on from the last checkpoint that
got there, and a driver that lost its log's last lines finds every end in its folder.

While a folder has something that the store lacks it holds a mark; then the longer training of the two counts, and any
end in the store before both.
"""

import contextlib
import shutil
import tempfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ablate import checkpoint, store
from ablate.checkpoint import END, PREVIOUS, STATE
from ablate.home import Home
from ablate.store import ANSWER_S, PATIENCE_S, Away, Store, StoreError

UNSENT = "unsent"
"""File in a trial's folder: something in it did not reach the store yet."""
BRIEF_S = 10.0
"""How long training waits for a checkpoint to reach the store."""
EXHIBITS = "exhibits"
AT_A_TIME = 16
"""Requests, where many trials are asked for something small."""


class Folder:
    """One trial's folder, on this node and in the store. Where the home is a folder, nothing is to be done."""

    def __init__(self, home: Home, ident: str, patience_s: float = PATIENCE_S) -> None:
        self.path = home.trial(ident)
        self.store = store.of(home, patience_s)
        self.place = self.path.relative_to(home.root).as_posix()
        self.old: set[str] = set()
        """What of an attempt before lies in the store and is of no use after the end."""

    def fetch(self) -> None:
        """Brings the folder to where the trial stands. Hold the trial before.

        Raises:
            StoreError: the store cannot be used, for as long as a worker waits.
        """
        if self.store is None:
            return
        there = self._there(self.store)
        self.old = {name for name in there if name == PREVIOUS or name.startswith(f"{EXHIBITS}/")}
        if (self.path / UNSENT).exists() and END not in there:
            if STATE in there and not (self.path / END).exists():
                self._keep_longer(self.store)
            return
        for name in (STATE, PREVIOUS, END):
            (self.path / name).unlink(missing_ok=True)
        shutil.rmtree(self.path / EXHIBITS, ignore_errors=True)
        for name in there:
            if name in (STATE, PREVIOUS, END) or name.startswith(f"{EXHIBITS}/"):
                self.store.get_file(f"{self.place}/{name}", self.path / name)
        (self.path / UNSENT).unlink(missing_ok=True)

    def saved(self) -> None:
        """Sends the state that was just saved; where the store is away, a later one goes."""
        if self.store is None:
            return
        (self.path / UNSENT).touch()
        brief = self.store.patient(BRIEF_S)
        try:
            self._send_state(brief)
        except Away:
            return
        (self.path / UNSENT).unlink()

    def finished(self) -> None:
        """Sends everything that is left to send, the end last; returns when the store has it.

        Raises:
            StoreError: the store cannot be used, for as long as a worker waits.
        """
        if self.store is None:
            return
        if (self.path / UNSENT).exists() and (self.path / STATE).exists():
            self._send_state(self.store)
        (self.path / UNSENT).touch()
        shown = {f"{EXHIBITS}/{path.name}" for path in (self.path / EXHIBITS).glob("*.npz")}
        for name in sorted(shown):
            self.store.put_file(f"{self.place}/{name}", self.path / name)
        for name in sorted(self.old - shown):
            self.store.delete(f"{self.place}/{name}")
        self.store.put_file(f"{self.place}/{END}", self.path / END)
        (self.path / UNSENT).unlink()

    def owes(self) -> bool:
        """Whether an end is here that may not be in the store."""
        return self.store is not None and (self.path / UNSENT).exists()

    def fetch_end(self) -> None:
        """Brings what another trial needs of this one, unless it is here.

        Raises:
            StoreError: the store cannot be used, for as long as a worker waits.
        """
        if self.store is None or (self.path / UNSENT).exists():
            return
        try:
            end = self.store.get(f"{self.place}/{END}")
            if (self.path / END).exists() and (self.path / END).read_bytes() == end:
                return
            with contextlib.suppress(FileNotFoundError):  # a method without a state
                self.store.get_file(f"{self.place}/{STATE}", self.path / STATE)
            self.store.get_file(f"{self.place}/{END}", self.path / END)
        except FileNotFoundError:
            checkpoint.forget_end(self.path)

    def fetch_exhibits(self) -> None:
        """Brings the last of what the trial showed."""
        if self.store is None or any((self.path / EXHIBITS).glob("*.npz")):
            return
        names = [item.name for item in self.store.list(f"{self.place}/{EXHIBITS}") if item.name.endswith(".npz")]
        if names:
            newest = max(names, key=lambda name: (len(name), name))
            self.store.get_file(newest, self.path / EXHIBITS / newest.rpartition("/")[2])

    def send(self, name: str) -> None:
        """Sends one small file of the folder, if that can be done at once."""
        if self.store is not None:
            with contextlib.suppress(StoreError):
                self.store.patient(BRIEF_S).put_file(f"{self.place}/{name}", self.path / name)

    def bring(self, name: str) -> None:
        """Brings one small file of the folder, if it is there and can be had at once."""
        if self.store is not None:
            with contextlib.suppress(StoreError, FileNotFoundError):
                self.store.patient(BRIEF_S).get_file(f"{self.place}/{name}", self.path / name)

    def is_kept(self) -> bool:
        """Whether the home has what another trial would need of this one. Reads no state."""
        if self.store is None or (self.path / UNSENT).exists():
            return checkpoint.is_kept(self.path)
        names = self._there(self.store)
        if END not in names:
            return False
        with tempfile.TemporaryDirectory() as folder:
            self.store.get_file(f"{self.place}/{END}", Path(folder) / END)
            if STATE in names:
                (Path(folder) / STATE).touch()
            return checkpoint.is_kept(Path(folder))

    def forget_end(self) -> None:
        """Lets a trial that ended run again."""
        checkpoint.forget_end(self.path)
        if self.store is not None:
            self.store.delete(f"{self.place}/{END}")

    def _there(self, remote: Store) -> list[str]:
        return [item.name.removeprefix(f"{self.place}/") for item in remote.list(self.place)]

    def _send_state(self, remote: Store) -> None:
        if (self.path / PREVIOUS).exists():
            with contextlib.suppress(FileNotFoundError):  # the one before did not get there
                remote.copy(f"{self.place}/{STATE}", f"{self.place}/{PREVIOUS}")
                self.old.add(PREVIOUS)
        remote.put_file(f"{self.place}/{STATE}", self.path / STATE)

    def _keep_longer(self, remote: Store) -> None:
        """Takes the store's state where it is further than the one that was not sent."""
        other = self.path / "store"
        remote.get_file(f"{self.place}/{STATE}", other / STATE)
        if checkpoint.reached(other) > checkpoint.reached(self.path):
            (other / STATE).replace(self.path / STATE)
        shutil.rmtree(other)


def fetch_exhibits(home: Home, idents: Iterable[str]) -> None:
    """Brings the last of what each of the trials showed; nothing to do where the home is a folder.

    Raises:
        StoreError: the store cannot be read.
    """
    if home.remote is None:
        return
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        list(pool.map(lambda ident: Folder(home, ident, ANSWER_S).fetch_exhibits(), idents))


def send_or_warn(home: Home, *paths: Path) -> None:
    """Sends files, or folders of files, of the home as they are. What follows from the logs is not worth a failure."""
    remote = store.of(home)
    files = [path for given in paths for path in (sorted(given.rglob("*")) if given.is_dir() else [given])]
    try:
        for path in files if remote is not None else ():
            if path.is_file() and not path.name.startswith("."):
                assert remote is not None
                remote.put_file(path.relative_to(home.root).as_posix(), path)
    except StoreError as error:
        from ablate import terminal  # tables and colours: 50 ms of every worker's start

        terminal.warn(f"{error} It is in {paths[0]}.")
