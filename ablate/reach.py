"""Whether a tracking URI can be used, found out before any training and without importing MLflow."""

import contextlib
import os
import sqlite3
import tempfile
from pathlib import Path
from urllib.parse import urlsplit

from ablate.masking import redact

_REACH = 4.0
"""Seconds to wait for a server."""


class TrackingError(RuntimeError):
    """A tracking URI that can't be used or reached. Says what, where and how to mend; never a password."""


def check(uri: str) -> None:
    """Finds out before any training whether `uri` can be tracked to; takes at most about five seconds.

    Raises:
        TrackingError: no such kind of store, a folder or file that can't be written, a server that doesn't answer.
    """
    kind = urlsplit(uri).scheme.partition("+")[0]
    if kind == "sqlite":
        _check_sqlite(sqlite_path(uri))
    elif kind in ("http", "https"):
        _check_server(uri)
    elif kind in ("postgresql", "mysql", "mssql"):
        _check_database(uri, kind)
    else:
        raise TrackingError(
            f"--mlflow {redact(uri)}: not a tracking URI that ablate knows. Allowed: "
            "sqlite:////absolute/path/mlflow.db, http(s)://host:port of an MLflow server, postgresql://..., "
            "mysql://... (MLflow itself no longer writes to plain folders)."
        )


def absolute(uri: str) -> str:
    """`uri`, with the path of a SQLite file made absolute: the tracking process may stand elsewhere."""
    return f"sqlite:///{sqlite_path(uri)}" if uri.startswith("sqlite:") else uri


def sqlite_path(uri: str) -> Path:
    """The absolute path of the file that a SQLite URI names.

    Raises:
        TrackingError: it names none.
    """
    text = uri.partition(":///")[2].partition("?")[0]
    if not text or text == ":memory:":
        raise TrackingError(f"--mlflow {redact(uri)}: names no file. Write sqlite:////absolute/path/mlflow.db.")
    return Path(text).resolve()


def _check_sqlite(path: Path) -> None:
    """A file that is an SQLite database with or without MLflow's tables, or a place where one can be made."""
    mend = (
        "Name another file with --mlflow sqlite:////absolute/path/mlflow.db, or turn tracking off with --mlflow none."
    )
    if path.is_dir():
        raise TrackingError(f"--mlflow: {path} is a folder, not a database file. {mend}")
    nearest = next(parent for parent in path.parents if parent.exists())
    if not os.access(path if path.exists() else nearest, os.W_OK) or not os.access(nearest, os.W_OK):
        raise TrackingError(f"--mlflow: {path} can't be written. {mend}")
    if not path.exists():
        try:  # permissions say yes to root in places where nothing can be made
            with tempfile.TemporaryFile(dir=nearest):
                return
        except OSError as error:
            raise TrackingError(f"--mlflow: {path} can't be made ({error.strerror}). {mend}") from error
    try:
        with contextlib.closing(sqlite3.connect(path, timeout=_REACH)) as connection:
            tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    except sqlite3.DatabaseError as error:
        raise TrackingError(f"--mlflow: {path} is no usable SQLite database ({error}). {mend}") from error
    if tables and "alembic_version" not in tables:
        raise TrackingError(f"--mlflow: {path} is a database of something else ({sorted(tables)[0]}, ...). {mend}")


def _check_server(uri: str) -> None:
    """A server that answers as MLflow does to the request that delivery begins with."""
    import requests

    token = os.environ.get("MLFLOW_TRACKING_TOKEN")
    user, password = os.environ.get("MLFLOW_TRACKING_USERNAME"), os.environ.get("MLFLOW_TRACKING_PASSWORD")
    mend = "Check the address and that the server runs, or turn tracking off with --mlflow none."
    try:
        answer = requests.post(
            f"{uri.rstrip('/')}/api/2.0/mlflow/experiments/search",
            json={"max_results": 1},
            timeout=_REACH,
            auth=(user, password) if user and password else None,
            headers={"Authorization": f"Bearer {token}"} if token else {},
        )
    except (requests.RequestException, ValueError) as error:
        reason = redact(str(getattr(error, "args", [error])[0])).splitlines()[0]
        raise TrackingError(f"--mlflow {redact(uri)}: no answer ({type(error).__name__}: {reason}). {mend}") from None
    if answer.status_code in (401, 403):
        raise TrackingError(
            f"--mlflow {redact(uri)}: the server refuses us (HTTP {answer.status_code}). Give the password by "
            f"MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD; a server of MLflow 3 must also list its own host "
            f"in --allowed-hosts."
        )
    if answer.status_code != 200 or not answer.headers.get("content-type", "").startswith("application/json"):
        raise TrackingError(
            f"--mlflow {redact(uri)}: something answers (HTTP {answer.status_code}), but no MLflow server. {mend}"
        )


def _check_database(uri: str, kind: str) -> None:
    import sqlalchemy

    timeouts = {"postgresql": "connect_timeout", "mysql": "connect_timeout", "mssql": "timeout"}
    try:
        engine = sqlalchemy.create_engine(uri, connect_args={timeouts[kind]: int(_REACH)})
        with engine.connect():
            pass
        engine.dispose()
    except (sqlalchemy.exc.SQLAlchemyError, ImportError) as error:
        reason = redact(str(error)).splitlines()[0]
        raise TrackingError(
            f"--mlflow {redact(uri)}: can't connect ({reason}). Check address, password and that its Python driver is "
            f"installed, or turn tracking off with --mlflow none."
        ) from None
