"""Objects under one URI: an object store or a folder, through pyarrow's file systems. The only file that imports them.

Every call is tried again, ever more slowly, through what may pass: a refused connection, a busy server, a request that
failed on its way. What will not pass (no such bucket, no right to write) is said at once.

An object is there whole or not at all. pyarrow takes seconds to import, so it is imported by the first call.
"""

import contextlib
import errno
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from random import SystemRandom
from typing import IO, Any, TypeVar
from urllib.parse import urlsplit

from ablate.home import Home, shown

ANSWER_S = 30.0
"""How long a command waits for a store that does not answer."""
PATIENCE_S = 1800.0
"""How long a worker with a result, and a driver that is done, wait for it."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 5.0
CHUNK = 8 << 20
WRITING = ".writing"
"""Ends the name of a file that is being written where a store is a folder."""
KNOWN = ("s3", "gs", "gcs", "abfs", "abfss", "hdfs", "file")
FINAL = re.compile(
    r"NO_SUCH_BUCKET|ACCESS_DENIED|INVALID_ACCESS_KEY_ID|SIGNATURE_DOES_NOT_MATCH|INVALID_CLIENT_TOKEN_ID"
    r"|MISSING_AUTHENTICATION_TOKEN|UNRECOGNIZED_CLIENT|PERMISSION_DENIED|UNAUTHENTICATED|HTTP status 40[13]"
)
"""Causes that another try does not cure, as the file systems write them."""
FINAL_ERRNO = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.ENOSPC, errno.EDQUOT)
Found = TypeVar("Found")


class StoreError(RuntimeError):
    """A store that cannot be used. Says what, where and how to mend; never a password."""


class Away(StoreError):
    """It did not answer for as long as the caller would wait; it may be back later."""


@dataclass(frozen=True)
class Item:
    """One object."""

    name: str
    """Relative to the store's URI."""
    size: int
    """Bytes."""
    changed: float
    """When it was last written, by the store's own clock: seconds since the epoch."""


@dataclass(frozen=True)
class Store:
    """What lies under `uri`, and for how long a call tries."""

    uri: str
    patience_s: float = ANSWER_S

    def patient(self, seconds: float) -> "Store":
        """The same, whose calls try for so long."""
        return replace(self, patience_s=seconds)

    @property
    def name(self) -> str:
        """For people: without user, password and options."""
        return shown(self.uri)

    def put(self, name: str, content: bytes) -> None:
        """Writes an object in place of the one of that name."""
        self._through("written", name, lambda: _write(*self._at(name), lambda file: file.write(content)))

    def put_file(self, name: str, path: Path) -> None:
        """Writes a local file as an object.

        Raises:
            FileNotFoundError: there is no such file.
        """
        with path.open("rb") as source:

            def copy(file: IO[bytes]) -> None:
                source.seek(0)
                shutil.copyfileobj(source, file, CHUNK)

            self._through("written", name, lambda: _write(*self._at(name), copy))

    def get(self, name: str) -> bytes:
        """An object's content.

        Raises:
            FileNotFoundError: there is no such object.
        """
        return self._through("read", name, lambda: _read(*self._at(name)))

    def get_file(self, name: str, path: Path) -> None:
        """Writes an object's content to a local file, whole or not at all.

        Raises:
            FileNotFoundError: there is no such object.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(f"{path.name}.{secrets.token_hex(4)}{WRITING}")

        def copy() -> None:
            files, place = self._at(name)
            with files.open_input_stream(place) as source, beside.open("wb") as file:
                shutil.copyfileobj(source, file, CHUNK)

        try:
            self._through("read", name, copy)
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)

    def copy(self, name: str, other: str) -> None:
        """Makes `other` the same as `name`, within the store.

        Raises:
            FileNotFoundError: there is no such object.
        """

        def copy() -> None:
            files, place = self._at(name)
            files.copy_file(place, self._at(other)[1])

        self._through("copied", name, copy)

    def exists(self, name: str) -> bool:
        """Whether there is such an object."""

        def look() -> bool:
            files, place = self._at(name)
            return bool(files.get_file_info(place).is_file)

        return self._through("looked for", name, look)

    def list(self, under: str = "") -> list[Item]:
        """Every object whose name begins with `under` and a slash, by name."""
        return self._through("listed", under, lambda: sorted(_items(*self._at(under), under), key=lambda i: i.name))

    def delete(self, name: str) -> None:
        """Removes an object, if it is there."""

        def delete() -> None:
            files, place = self._at(name)
            with contextlib.suppress(FileNotFoundError):
                files.delete_file(place)

        self._through("deleted", name, delete)

    def require(self) -> None:
        """Finds a bucket that does not exist: a listing would call it empty.

        Raises:
            StoreError: so it is, or the store is away.
        """

        def look() -> bool:
            files, place = self._at("")
            return files.type_name == "local" or bool(files.get_file_info(place.partition("/")[0]).type.value)

        if not self._through("looked for", "", look):
            raise StoreError(f"The object store {self.name}: there is no such bucket. Make it, or name another --home.")

    def check(self) -> None:
        """Writes, reads, lists and deletes an object.

        Raises:
            StoreError: one of them cannot be done.
        """
        self.require()
        name, content = f"probe/{secrets.token_hex(8)}", secrets.token_bytes(16)
        self.put(name, content)
        if self.get(name) != content or name not in [item.name for item in self.list("probe")]:
            raise StoreError(
                f"The object store {self.name} does not give back what was just written to it. ablate needs one that "
                f"reads its own writes, as S3, Google Cloud Storage and MinIO do: name another --home."
            )
        self.delete(name)

    def _at(self, name: str) -> tuple[Any, str]:
        files, base = _opened(self.uri)
        return files, "/".join(part for part in (base.rstrip("/"), name) if part)

    def _through(self, done: str, name: str, action: Callable[[], Found]) -> Found:
        """Does it, again and again while the cause may pass."""
        begun, pause = time.monotonic(), FIRST_PAUSE_S
        what = f"The object store {self.name}: {name or 'it'} cannot be {done}"
        while True:
            try:
                return action()
            except OSError as error:
                missing = isinstance(error, FileNotFoundError) or "NO_SUCH_KEY" in str(error)
                if missing and done not in ("written", "listed"):
                    raise FileNotFoundError(errno.ENOENT, f"{what}: there is no such object") from None
                if _is_final(error) or (missing and done == "written"):  # of a listing, an object went meanwhile
                    raise StoreError(f"{what} ({_why(error)}). {_mend(error)}") from None
                waited = time.monotonic() - begun
                if waited + pause > self.patience_s:
                    raise Away(
                        f"{what} ({_why(error)}), tried for {waited:.0f} s. Check the network, and the endpoint if "
                        f"AWS_ENDPOINT_URL names one; nothing that was recorded is lost."
                    ) from None
            # Not from a generator that a method's numbers could depend on.
            time.sleep(pause * SystemRandom().uniform(0.5, 1.5))
            pause = min(2 * pause, LONGEST_PAUSE_S)


def of(home: Home, patience_s: float = ANSWER_S) -> Store | None:
    """The store that the home is a cache of; None where the home is a folder."""
    return None if home.remote is None else Store(home.remote, patience_s)


@lru_cache(maxsize=8)
def _opened(uri: str) -> tuple[Any, str]:
    """The file system for the URI, and the place in it.

    Raises:
        StoreError: no URI of a file system.
        OSError: the store did not answer where the file system asks it at once.
    """
    import pyarrow
    from pyarrow import fs

    kind = urlsplit(uri).scheme
    # Small objects by one request instead of three; and no waiting within a call, which the caller cannot bound.
    mark = {"s3": "allow_delayed_open=true", "gs": "retry_limit_seconds=5", "gcs": "retry_limit_seconds=5"}.get(kind)
    full = uri if mark is None or mark.partition("=")[0] in uri else f"{uri}{'&' if '?' in uri else '?'}{mark}"
    try:
        files, base = fs.FileSystem.from_uri(full)
    except (pyarrow.ArrowInvalid, pyarrow.ArrowNotImplementedError) as error:
        said = _why(error).replace(full, shown(uri)).replace(uri, shown(uri))
        raise StoreError(
            f"--home {shown(uri)}: not a place that ablate can use ({said}). Allowed: a folder, s3://bucket/prefix, "
            f"gs://bucket/prefix, or another URI that pyarrow's file systems take."
        ) from None
    if not base.strip("/"):
        raise StoreError(f"--home {uri}: names no bucket. Write for example {kind}://bucket/prefix.")
    return files, base


def _write(files: Any, place: str, fill: Callable[[Any], object]) -> None:
    if files.type_name != "local":
        with files.open_output_stream(place) as file:
            fill(file)
        return
    files.create_dir(place.rpartition("/")[0], recursive=True)
    beside = f"{place}.{secrets.token_hex(4)}{WRITING}"
    try:
        with files.open_output_stream(beside) as file:
            fill(file)
        files.move(beside, place)
    except OSError:
        with contextlib.suppress(OSError):
            files.delete_file(beside)
        raise


def _read(files: Any, place: str) -> bytes:
    with files.open_input_stream(place) as file:
        return bytes(file.read())


def _items(files: Any, place: str, under: str) -> Iterator[Item]:
    from pyarrow import fs

    for found in files.get_file_info(fs.FileSelector(place, recursive=True, allow_not_found=True)):
        name = found.path[len(place) :].lstrip("/")
        if found.is_file and not name.endswith(WRITING):
            full = f"{under}/{name}" if under else name
            yield Item(full, found.size or 0, found.mtime_ns / 1e9 if found.mtime_ns else 0.0)


def _is_final(error: OSError) -> bool:
    return error.errno in FINAL_ERRNO or FINAL.search(str(error)) is not None


def _why(error: Exception) -> str:
    """The cause in one line, without the request's number."""
    said = str(error).splitlines()[0].partition(" error_info=")[0]
    aws = re.search(r"AWS Error ([A-Z_]+)[^:]*: *(.*?)(?: *\(Request ID.*)?$", said)
    if aws is None:
        return (os.strerror(error.errno) if isinstance(error, OSError) and error.errno else said)[:300]
    return f"{aws[1].lower().replace('_', ' ')}: {aws[2]}".rstrip(": ")[:300]


def _mend(error: OSError) -> str:
    if "NO_SUCH_BUCKET" in str(error):
        return "Make the bucket, or name another --home."
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "Make room, or name another --home."
    if error.errno:
        return "Mend its path or its permissions, or name another --home."
    return (
        "Give credentials that may list, read, write and delete there (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or "
        "~/.aws), or name another --home."
    )
