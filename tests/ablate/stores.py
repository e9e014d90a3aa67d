"""Stores for tests: a folder that needs no pyarrow, where every request can be made to fail or to be the last."""

import os
import shutil
import stat
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from ablate import lease, segments, store, worker
from ablate.home import Home
from ablate.store import Away, Item, Store


class Plan:
    """What becomes of requests: `strike` is asked before and after each."""

    def __init__(self) -> None:
        self.requests = 0
        self.away = False
        self.strike: Callable[[int, str], None] = lambda _number, _when: None


@dataclass(frozen=True)
class FolderStore(Store):
    """Objects as files of the folder after `fake://`."""

    plan: Plan = field(default_factory=Plan)

    def put(self, name: str, content: bytes) -> None:
        def write(path: Path) -> None:
            path.parent.mkdir(parents=True, exist_ok=True)
            beside = path.with_name(f".{path.name}")
            beside.write_bytes(content)
            beside.replace(path)

        self._ask(name, write)

    def put_file(self, name: str, path: Path) -> None:
        self.put(name, path.read_bytes())

    def get(self, name: str) -> bytes:
        return self._ask(name, lambda path: path.read_bytes())

    def get_file(self, name: str, path: Path) -> None:
        content = self.get(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    def copy(self, name: str, other: str) -> None:
        self._ask(name, lambda path: shutil.copyfile(path, self._at(other)[1]))

    def exists(self, name: str) -> bool:
        return self._ask(name, lambda path: path.is_file())

    def list(self, under: str = "") -> list[Item]:
        def look(folder: Path) -> list[Item]:
            base, found = Path(self._at("")[1]), []
            for path in sorted(folder.rglob("[!.]*")):
                with suppress(FileNotFoundError):  # deleted meanwhile
                    seen = path.stat()
                    if stat.S_ISREG(seen.st_mode):
                        found.append(Item(path.relative_to(base).as_posix(), seen.st_size, seen.st_mtime))
            return found

        return self._ask(under, look)

    def delete(self, name: str) -> None:
        self._ask(name, lambda path: path.unlink(missing_ok=True))

    def require(self) -> None:
        """There are no buckets."""

    def _at(self, name: str) -> tuple[None, str]:
        return None, str(Path(self.uri.removeprefix("fake://")) / name)

    def _ask(self, name: str, action: Callable[[Path], Any]) -> Any:
        self.plan.requests += 1
        number = self.plan.requests
        if self.plan.away:
            time.sleep(0.005)
            raise Away(f"{self.name} is away")
        self.plan.strike(number, "before")
        found = action(Path(self._at(name)[1]))
        self.plan.strike(number, "after")
        return found


def impatient(monkeypatch: pytest.MonkeyPatch, data: Path) -> None:
    """Every epoch is checkpointed, nobody waits long, and all nodes have decoded the data, which lies there."""
    monkeypatch.setattr(Home, "data", property(lambda _home: data))
    monkeypatch.setattr(worker, "CHECKPOINT_EVERY_S", 0.0)
    monkeypatch.setattr(worker, "CHECKPOINT_SHARE", 1e9)
    monkeypatch.setattr(worker, "LOCK_WAIT_S", 0.0)
    monkeypatch.setattr(lease, "AGAIN_S", 0.001)
    monkeypatch.setattr(segments, "AGAIN_S", 0.001)


def installed(patch: pytest.MonkeyPatch) -> Plan:
    """From now on homes in a store are in a `FolderStore`."""
    plan = Plan()

    def of(home: Home, patience_s: float = store.ANSWER_S) -> Store | None:
        return None if home.remote is None else FolderStore(home.remote, patience_s, plan)

    patch.setattr(store, "of", of)
    return plan


def aged(folder: Path, seconds: float) -> None:
    """Everything in the store was written so much earlier: what a pause would have shown."""
    for path in folder.rglob("*"):
        if path.is_file():
            stamp = path.stat().st_mtime - seconds
            os.utime(path, (stamp, stamp))
