"""sync and ui: the projections come back from the log alone."""

import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from tests.ablate.console import OFF, TOY, Shell


@pytest.fixture
def shell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(tmp_path / "home", capsys)


def count(database: Path, table: str) -> int:
    connection = sqlite3.connect(database)
    try:
        return int(connection.execute(f"SELECT COUNT(*) FROM {table}").fetchone()[0])
    finally:
        connection.close()


def test_optuna_is_rebuilt_from_the_log_and_nothing_is_added_twice(shell: Shell) -> None:
    shell.trains()
    database = shell.home / "optuna.db"
    assert not database.exists()
    first = shell("sync", f"{TOY}:toy", "--mlflow", "none")
    assert (first.code, "12 trials added" in first.out) == (0, True)
    again = shell("sync", "--mlflow", "none")
    assert (again.code, "0 trials added" in again.out) == (0, True)
    assert count(database, "trials") == 12


@pytest.mark.slow
def test_mlflow_is_rebuilt_from_the_log_and_its_pages_are_served(shell: Shell) -> None:
    shell.trains()
    synced = shell("sync", f"{TOY}:toy", "--optuna", "none")
    assert synced.code == 0, synced.err
    assert count(shell.home / "mlflow.db", "runs") == 1 + 12
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "ablate", "ui", "--home", str(shell.home), "--port", str(port)]
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    ) as process:
        try:
            assert b"MLflow" in page(f"http://127.0.0.1:{port}")
        finally:
            os.killpg(process.pid, signal.SIGINT)  # as Ctrl-C does


def page(url: str) -> bytes:
    """The page, once the server is up."""
    for _ in range(120):
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                return bytes(answer.read())
        except OSError:
            time.sleep(0.5)
    raise AssertionError(f"{url} did not answer")


def test_a_server_that_is_away_is_said(shell: Shell) -> None:
    shell.trains("toy", "--blocks", "1", *OFF)
    answer = shell("sync", f"{TOY}:toy", "--mlflow", "http://127.0.0.1:9")
    assert answer.code == 2
    assert "127.0.0.1:9" in answer.err
