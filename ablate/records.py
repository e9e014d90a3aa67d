"""Parquet: the tidy frame that analysis reads, built from the log and written beside it.

`frame` joins a plan with what the logs of a home say: one row a cell, finished or not. `write` and `read` keep it as
two files, `trials.parquet` and `epochs.parquet`, plain enough for pandas, polars and DuckDB:

* columns, their order and their types are fixed (`schema`); metric columns follow, sorted by name;
* rows stand in the plan's order, so that equal results give equal files (`analysis.frame.VOLATILE` aside);
* the schema's version and each column's meaning are in the files' metadata; trials.parquet also holds a digest of its
  own values and of its epochs.parquet, so that files of two sweeps, or a damaged one, are never read as one frame.

Both tables pass through Arrow on their way to pandas, computed or read: their types are the same by construction.
"""

import hashlib
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from ablate.home import Home
from ablate.log import Entry, Record, ledger
from ablate.plan import Cell, Plan
from analysis.frame import EPOCH_KEYS, SCHEMA_VERSION, TRIAL_COLUMNS, Frame

_KINDS = {"split": pa.int64(), "seed": pa.int64(), "epoch": pa.int64(), "epochs": pa.int64(), "threads": pa.int64()} | {
    "attempts": pa.int64(),
    "dirty": pa.bool_(),
    "seconds": pa.float64(),
}
_VERSION_KEY, _DOC_KEY = b"ablate.schema_version", b"description"
_VALUES_KEY, _PAIR_KEY = b"ablate.trials_sha256", b"ablate.epochs_sha256"
_EPOCH_DOCS = {"epoch": "epochs completed, from 1", "seconds": "training and evaluation time of this epoch, seconds"}

_MEMORY = "peak_memory_bytes"
RESERVED = frozenset(EPOCH_KEYS) | {"seconds"}
"""Names that no metric can have: they are columns of the epochs table. The memory is one where it was measured."""


class FrameError(RuntimeError):
    """A frame that can't be built, or files that can't be read. Says what, where and how to mend."""


def frame(home: Home, plan: Plan) -> Frame:
    """The frame of `plan`, from all logs of the home.

    Raises:
        FrameError: a metric has the name of a column.
        CorruptLog: a log that was damaged other than by a crash.
    """
    entries = ledger(home)
    found = [entries.get(cell.trial, Entry()) for cell in plan.cells]
    return Frame(_pandas(_trials(plan, found)), _pandas(_epochs(plan, found)))


def write(frame: Frame, folder: Path) -> None:
    """Writes trials.parquet and epochs.parquet, each whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    metrics = [name for name in frame.epochs.columns if name not in RESERVED]
    epochs = pa.Table.from_pandas(frame.epochs, schema("epochs", metrics), preserve_index=False)
    trials = pa.Table.from_pandas(frame.trials, schema("trials"), preserve_index=False)
    version = {_VERSION_KEY: str(SCHEMA_VERSION).encode()}
    digest = _replace(folder / "epochs.parquet", epochs.replace_schema_metadata(version))
    own = {_VALUES_KEY: _values(trials).encode(), _PAIR_KEY: digest.encode()}
    _replace(folder / "trials.parquet", trials.replace_schema_metadata(version | own))


def read(folder: Path) -> Frame:
    """The frame back, bit for bit as it was written.

    Raises:
        FrameError: no frame there, a damaged or foreign file, or one of another schema version.
    """
    trials, epochs = _read(folder / "trials.parquet"), _read(folder / "epochs.parquet")
    if trials.schema.metadata.get(_VALUES_KEY, b"").decode() != _values(trials):
        raise _broken(folder / "trials.parquet", "its values are not those that were written")
    if trials.schema.metadata.get(_PAIR_KEY, b"").decode() != _sha256(folder / "epochs.parquet"):
        raise _broken(folder / "epochs.parquet", "it is not the file that trials.parquet was written with")
    metrics = [name for name in epochs.column_names if name not in RESERVED]
    for name, table, wanted in (("trials", trials, schema("trials")), ("epochs", epochs, schema("epochs", metrics))):
        if not table.schema.equals(wanted):
            raise _broken(folder / f"{name}.parquet", "its columns are not those of schema version " + _version(table))
    return Frame(_pandas(trials), _pandas(epochs))


def schema(table: str, metrics: Iterable[str] = ()) -> pa.Schema:
    """Arrow schema of 'trials' or 'epochs', each field with its meaning."""
    if table == "trials":
        return pa.schema([_field(name, doc) for name, doc in TRIAL_COLUMNS.items()])
    docs = TRIAL_COLUMNS | _EPOCH_DOCS
    keys = [_field(name, docs[name]) for name in (*EPOCH_KEYS, "seconds")]
    doc = {_DOC_KEY: b"metric; null or NaN: not measured or not a number"}
    return pa.schema(keys + [pa.field(name, pa.float64(), metadata=doc) for name in sorted(metrics)])


def _field(name: str, doc: str) -> pa.Field:
    return pa.field(name, _KINDS.get(name, pa.string()), metadata={_DOC_KEY: doc.encode()})


def _trials(plan: Plan, found: Sequence[Entry]) -> pa.Table:
    """One row a cell."""
    trials = {trial.id: trial for trial in plan.trials}
    rows = []
    for cell, entry in zip(plan.cells, found, strict=True):
        trial = trials[cell.trial]
        row = _cell(plan, cell) | {"method": trial.method, "config": _json(trial.config), "data": _json(trial.data)}
        rows.append(row | _outcome(entry))
    columns = {name: [row[name] for row in rows] for name in TRIAL_COLUMNS}
    return pa.table(columns, schema=schema("trials"))


def _cell(plan: Plan, cell: Cell) -> dict[str, Any]:
    """What the plan knows of a cell: the keys of both tables."""
    block = cell.block
    return {
        "study": plan.study.name,
        "scale": plan.scale.name,
        "arm": cell.arm,
        "block": block.name,
        "dataset": block.dataset,
        "split": block.split,
        "seed": block.seed,
        "trial": cell.trial,
    }


def _outcome(entry: Entry) -> dict[str, Any]:
    """What the log knows of a trial."""
    record = entry.record or Record("", "", {}, {}, 0, "failed")
    known = record.provenance
    return {
        "state": record.state if entry.record else "pending",
        "reason": record.reason,
        "error": next(reversed(record.error.strip().splitlines()), ""),
        "epochs": len(record.epochs),
        "data_digest": known.get("data_digest") or "",
        "code_digest": known.get("code_digest") or "",
        "commit": known.get("commit") or "",
        "dirty": bool(known.get("dirty", False)),
        "device": known.get("device") or "",
        "threads": int(known.get("threads") or 0),
        "torch": known.get("torch") or "",
        "attempts": record.attempts if entry.record else entry.attempts,
        "seconds": float(record.seconds),
        "started": _iso(record.started or entry.started),
        "ended": _iso(record.ended),
        "host": record.host,
    }


def _epochs(plan: Plan, found: Sequence[Entry]) -> pa.Table:
    """One row a cell and epoch of a finished trial. What a running one measured so far is in the log only."""
    measured = [entry.record.epochs if entry.record else () for entry in found]
    counts = [len(epochs) for epochs in measured]
    rows = [epoch for epochs in measured for epoch in epochs]
    names = {name for row in rows for name in row["metrics"]}
    taken = RESERVED | {_MEMORY}
    if clash := names & taken:
        raise FrameError(
            f"{plan.sweep}: a method measures {sorted(clash)}, which the epochs table has as columns of its own. "
            f"Rename the metric in the method; it can't be any of: {', '.join(sorted(taken))}."
        )
    if any(_MEMORY in row for row in rows):
        names.add(_MEMORY)
    where = np.repeat(np.arange(len(counts)), counts)
    cells = [_cell(plan, cell) for cell in plan.cells]
    columns = {
        name: pa.array([cell[name] for cell in cells], _KINDS.get(name, pa.string())).take(pa.array(where))
        for name in EPOCH_KEYS
        if name != "epoch"
    }
    columns["epoch"] = pa.array([row["epoch"] for row in rows], pa.int64())
    columns["seconds"] = pa.array([row.get("seconds", math.nan) for row in rows], pa.float64())
    values = [{_MEMORY: float(row.get(_MEMORY, math.nan))} | row["metrics"] for row in rows]
    for name in sorted(names):
        columns[name] = pa.array(np.array([row.get(name, math.nan) for row in values], dtype=np.float64))
    return pa.table(columns, schema=schema("epochs", names))


def _pandas(table: pa.Table) -> pd.DataFrame:
    made: pd.DataFrame = table.replace_schema_metadata(None).to_pandas()
    return made


def _json(value: Mapping[str, Any]) -> str:
    return json.dumps(value, sort_keys=True)


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds") if seconds else ""


def _replace(path: Path, table: pa.Table) -> str:
    """Writes `table` to `path` by way of a file beside it; returns the file's SHA-256."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        pq.write_table(table, beside, compression="zstd", write_page_checksum=True)
        with beside.open("rb") as file:
            os.fsync(file.fileno())
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
    return digest


def _values(table: pa.Table) -> str:
    """SHA-256 of a table's values, whatever bytes hold them."""
    return hashlib.sha256(json.dumps(table.to_pydict(), separators=(",", ":")).encode()).hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read(path: Path) -> pa.Table:
    """The table of one file, its page checksums verified and its version known to be ours."""
    if not path.exists():
        raise _broken(path, "there is no such file")
    try:
        version = (pq.read_schema(path).metadata or {}).get(_VERSION_KEY)
        if version is None:
            raise _broken(path, "it was not written by ablate")
        if version.decode() != str(SCHEMA_VERSION):
            raise _broken(path, f"it has schema version {version.decode()}, and this release reads {SCHEMA_VERSION}")
        return pq.ParquetFile(path, page_checksum_verification=True).read()
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise _broken(path, f"it can't be read as Parquet ({str(error).splitlines()[0]})") from error


def _version(table: pa.Table) -> str:
    return str(table.schema.metadata[_VERSION_KEY].decode())


def _broken(path: Path, why: str) -> FrameError:
    return FrameError(f"{path}: {why}. The log has everything: `ablate report` writes the frame anew from it.")
