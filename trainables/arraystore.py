"""Arrays on disk that are made once and then shared: a folder of .npy files that processes map into memory.

However many processes ask at the same moment, one makes the folder and the others wait (a file lock). It appears under
its name only when it is complete (written beside, flushed, renamed), with the SHA-256 of each array. Opening it later
costs a few `stat` calls: the checksums are computed again only when a file's size, time or inode has changed. What is
damaged is made again, and a warning says so.
"""

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

SCHEMA = 1
"""Version of the folder's layout; another version is made again."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Stored:
    """An opened folder: arrays by name, mapped copy-on-write; what `build` noted; SHA-256 by array name."""

    arrays: Mapping[str, np.ndarray]
    notes: Mapping[str, Any]
    digests: Mapping[str, str]
    folder: Path


@dataclass(frozen=True)
class Writer:
    """What `build` fills: arrays by name, and notes that must be plain JSON values."""

    folder: Path
    notes: dict[str, Any] = field(default_factory=dict)

    def path(self, name: str) -> Path:
        """The file of an array."""
        return self.folder / f"{name}.npy"

    def put(self, name: str, array: np.ndarray) -> None:
        """Writes a whole array."""
        np.save(self.path(name), array, allow_pickle=False)

    def stream(self, name: str, rows: Iterable[np.ndarray]) -> None:
        """Writes an array part by part along its first axis, so that it never has to fit in memory.

        The header is written again at the end, with the length: NumPy leaves room in it for the first axis to grow.
        """
        length, first = 0, None
        with self.path(name).open("wb") as handle:
            for part in rows:
                if first is None:
                    first = part[:0]
                    _write_header(handle, first.dtype, first.shape)
                if part.shape[1:] != first.shape[1:] or part.dtype != first.dtype:
                    raise ValueError(f"{name}: {part.dtype} {part.shape[1:]} after {first.dtype} {first.shape[1:]}")
                handle.write(np.ascontiguousarray(part).data)
                length += len(part)
            if first is not None:
                handle.seek(0)
                _write_header(handle, first.dtype, (length, *first.shape[1:]))

    def link(self, name: str, other: Path) -> None:
        """The same array as another folder's file, without a second copy where the file system can."""
        try:
            os.link(other, self.path(name))
        except OSError:
            shutil.copyfile(other, self.path(name))


def open_stored(folder: Path, build: Callable[[Writer], None]) -> Stored:
    """Opens `folder`, after making it with `build` if it is not there or damaged.

    Args:
        folder: where it lies; its parent is created.
        build: fills the writer; called at most once at a time for a folder, on one process of those that ask.

    Raises:
        OSError: the place cannot be written.
    """
    meta, problem = _read(folder)
    if meta is None:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with locked(folder.with_name(folder.name + ".lock")):
            meta, problem = _read(folder)
            if meta is None:
                if problem:
                    log.warning("%s is damaged (%s); it is made again.", folder, problem)
                meta = _make(folder, build)
    arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="c") for name in meta["arrays"]}
    digests = {name: entry["sha256"] for name, entry in meta["arrays"].items()}
    return Stored(arrays, meta["notes"], digests, folder)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds an exclusive lock on `path` across processes; the system releases it however the process ends."""
    with path.open("a") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def array_digest(array: np.ndarray) -> str:
    """SHA-256 of an array's type, shape and values."""
    digest = hashlib.sha256(f"{array.dtype.str} {array.shape}".encode())
    rows = max(1, (1 << 24) // max(1, array[:1].nbytes))
    for start in range(0, len(array), rows):
        digest.update(np.ascontiguousarray(array[start : start + rows]).data)
    return digest.hexdigest()


def _read(folder: Path) -> tuple[dict[str, Any] | None, str]:
    """The folder's meta data, or None and what is wrong with it (nothing, when it is not there)."""
    try:
        meta = json.loads((folder / "meta.json").read_text())
    except FileNotFoundError:
        return None, "no meta.json" if folder.exists() else ""
    except (OSError, ValueError) as error:
        return None, str(error)
    if meta.get("schema") != SCHEMA:
        return None, f"layout version {meta.get('schema')}, this is {SCHEMA}"
    try:
        stamps = {name: _stamp(folder / f"{name}.npy") for name in meta["arrays"]}
        touched = [name for name, entry in meta["arrays"].items() if entry["stamp"] != stamps[name]]
        for name in touched:
            if array_digest(np.load(folder / f"{name}.npy", mmap_mode="r")) != meta["arrays"][name]["sha256"]:
                return None, f"{name}.npy does not have its checksum"
    except (OSError, ValueError, KeyError, EOFError) as error:
        return None, str(error)
    for name in touched:
        meta["arrays"][name]["stamp"] = stamps[name]
    if touched:
        with contextlib.suppress(OSError):  # a cache that cannot be written is still good to read
            _write_meta(folder, meta)
    return meta, ""


def _make(folder: Path, build: Callable[[Writer], None]) -> dict[str, Any]:
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)  # of a process that was killed: we hold the lock
    partial.mkdir()
    try:
        writer = Writer(partial)
        build(writer)
        entries = {}
        for path in sorted(partial.glob("*.npy")):
            with path.open("rb") as handle:
                os.fsync(handle.fileno())
            entries[path.stem] = {"sha256": array_digest(np.load(path, mmap_mode="r")), "stamp": _stamp(path)}
        meta = {"schema": SCHEMA, "arrays": entries, "notes": writer.notes}
        _write_meta(partial, meta)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)
    return meta


def _write_meta(folder: Path, meta: Mapping[str, Any]) -> None:
    beside = folder / f"meta.json.{os.getpid()}"
    with beside.open("w") as handle:
        json.dump(meta, handle)
        handle.flush()
        os.fsync(handle.fileno())
    beside.replace(folder / "meta.json")


def _write_header(handle: BinaryIO, dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(handle, header)


def _stamp(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns, status.st_ino]
