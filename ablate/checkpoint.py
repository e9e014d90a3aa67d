"""A trial's own folder: its last state, the one before, and its end. Atomic, checksummed, loaded without running code.

A file is one line of header {"schema", "sha256"} and a body that the digest covers. A state's body is one line of JSON
(epochs so far, times), and the state: JSON where it is plain, else `torch.save`, read back with weights_only=True.
A new state is written beside, synced, and renamed; the one before stays until then, so a crash at any moment leaves one
that is whole. The last state of a finished trial stays: other trials may need it.
"""

import hashlib
import io
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from ablate.log import Record

SCHEMA_VERSION = 1
STATE, PREVIOUS, END = "state", "state.previous", "end.json"


class Corrupt(RuntimeError):
    """A file that is not whole, or of another schema version. Says which and why."""


@dataclass(frozen=True)
class Checkpoint:
    """Where a trial stands after an epoch."""

    trial: str
    epochs: tuple[Mapping[str, Any], ...]
    """{"epoch": k, "seconds": s, "metrics": {...}} for k = 1, 2, ..."""
    seconds: float
    """Training time so far, over all attempts."""
    started: float
    """First start, UTC, seconds since the epoch."""
    state: Mapping[str, Any]
    """What the method captured; goes back to it as `resume`."""
    basis: Mapping[str, str] = field(default_factory=dict)
    """What the state rests on beyond the trial's identity: code, data, device, threads."""
    notes: tuple[str, ...] = ()
    """What went wrong on the way here, for the record."""


def save(folder: Path, checkpoint: Checkpoint) -> None:
    """Puts the checkpoint in place of the last one; returns when it is on disk."""
    meta = {name: value for name, value in vars(checkpoint).items() if name != "state"}
    plain = _is_plain(checkpoint.state)
    first_line = json.dumps(meta | {"form": "json" if plain else "torch"}, separators=(",", ":")).encode() + b"\n"
    payload = json.dumps(checkpoint.state).encode() if plain else _torch_bytes(checkpoint.state)
    current = folder / STATE
    written = _write_beside(current, first_line, payload, sync=True)
    if current.exists():
        current.replace(folder / PREVIOUS)
    written.replace(current)


def load(folder: Path, trial: str) -> tuple[Checkpoint | None, tuple[str, ...]]:
    """The last whole checkpoint of `trial`, or None, and what was found wrong with a later one."""
    notes: list[str] = []
    for name in (STATE, PREVIOUS):
        path = folder / name
        if not path.exists():
            continue
        try:
            found = _read_state(path, trial)
        except Corrupt as error:
            notes.append(str(error))
            continue
        if notes:
            notes.append(f"continued from epoch {found.epochs[-1]['epoch'] if found.epochs else 0} instead")
        return replace(found, notes=found.notes + tuple(notes)), tuple(notes)
    if notes:
        notes.append("trained from the start instead")
    return None, tuple(notes)


def finish(folder: Path, record: Record, *, stateless: bool) -> None:
    """Notes the trial's end in its folder, for a driver that died before it could log it.

    `stateless`: the method captured nothing, so there is no last state beside it, and none is missing.
    """
    body = json.dumps({"stateless": stateless, "record": asdict(record)}, separators=(",", ":")).encode()
    # Not synced: after a loss of power the digest shows what is missing, and the trial continues from its last state.
    _write_beside(folder / END, body, b"", sync=False).replace(folder / END)
    (folder / PREVIOUS).unlink(missing_ok=True)


def ended(folder: Path, trial: str) -> Record | None:
    """The end noted in the folder, if it is whole and of this schema."""
    found = _read_end(folder)
    if found is None:
        return None
    fields = found["record"]
    record = Record(**(fields | {"epochs": tuple(fields["epochs"]), "notes": tuple(fields["notes"])}))
    return record if record.trial == trial else None


def final_state(folder: Path, trial: str) -> Mapping[str, Any] | None:
    """What the trial's last epoch captured; None when it has not ended, or the state was removed or is corrupt."""
    end = _read_end(folder)
    if end is None or end["stateless"]:
        return None if end is None else {}
    found, _ = load(folder, trial)
    return None if found is None else found.state


def is_kept(folder: Path) -> bool:
    """Whether an ended trial's folder still holds what another trial would need of it. Reads no state."""
    end = _read_end(folder)
    return end is not None and (end["stateless"] or (folder / STATE).exists())


def reached(folder: Path) -> int:
    """The epoch of the last state, by its head alone; 0 where there is none. Whether it is whole, `load` finds out."""
    try:
        with (folder / STATE).open("rb") as file:
            file.readline()
            epochs = json.loads(file.readline())["epochs"]
    except (OSError, ValueError, KeyError, TypeError):
        return 0
    return int(epochs[-1]["epoch"]) if epochs else 0


def forget_end(folder: Path) -> None:
    """Lets a trial that ended run again."""
    (folder / END).unlink(missing_ok=True)


def _read_end(folder: Path) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = json.loads(_read(folder / END))
    except (FileNotFoundError, Corrupt):
        return None
    return found


def _read_state(path: Path, trial: str) -> Checkpoint:
    body = _read(path)
    first_line, _, payload = body.partition(b"\n")
    meta = json.loads(first_line)
    if meta["trial"] != trial:
        raise Corrupt(f"{path.name} in {path.parent.name} belongs to trial {meta['trial']}")
    form = meta.pop("form")
    state = json.loads(payload) if form == "json" else _torch_state(payload, path)
    return Checkpoint(**(meta | {"epochs": tuple(meta["epochs"]), "notes": tuple(meta["notes"]), "state": state}))


def _read(path: Path) -> bytes:
    """The body, its digest checked.

    Raises:
        Corrupt: cut short, altered, or written by another schema version.
    """
    raw = path.read_bytes()
    header, _, body = raw.partition(b"\n")
    where = f"{path.name} of trial {path.parent.name}"
    try:
        fields = json.loads(header)
        schema, digest = fields["schema"], fields["sha256"]
    except (ValueError, TypeError, KeyError) as error:
        raise Corrupt(f"{where} has no readable header") from error
    if schema != SCHEMA_VERSION:
        raise Corrupt(f"{where} has schema version {schema}, this program writes and reads {SCHEMA_VERSION}")
    if hashlib.sha256(body).hexdigest() != digest:
        raise Corrupt(f"{where} is corrupt: its checksum does not match")
    return body


def _write_beside(path: Path, first: bytes, second: bytes | memoryview, *, sync: bool) -> Path:
    digest = hashlib.sha256(first)
    digest.update(second)
    header = json.dumps({"schema": SCHEMA_VERSION, "sha256": digest.hexdigest()}).encode() + b"\n"
    beside = path.with_name(path.name + ".writing")
    with beside.open("wb") as file:
        file.write(header)
        file.write(first)
        file.write(second)
        if sync:
            file.flush()
            os.fsync(file.fileno())
    return beside


def _is_plain(value: Any) -> bool:
    """Whether JSON gives the value back exactly: no tensors, bytes, tuples, or keys that are no strings."""
    if isinstance(value, dict):
        return all(type(key) is str and _is_plain(item) for key, item in value.items())
    if isinstance(value, list):
        return all(_is_plain(item) for item in value)
    return value is None or type(value) in (bool, int, float, str)


def _torch_bytes(state: Mapping[str, Any]) -> memoryview:
    import torch

    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getbuffer()


def _torch_state(payload: bytes, path: Path) -> Mapping[str, Any]:
    import torch

    try:
        state: Mapping[str, Any] = torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
    except Exception as error:  # the digest held, so this is a state that torch's safe loader refuses
        raise Corrupt(f"{path.name} of trial {path.parent.name} cannot be loaded: {error}") from error
    return state
