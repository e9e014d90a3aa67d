"""An S3-compatible server on loopback whose requests fail by plan: `moto`'s, in a process of its own.

Run as a program it serves until its parent is gone: python tests/ablate/s3.py HOST PORT PARENT
"""

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

START_S = 300.0
"""Generous: a machine whose cores others hold was seen to take minutes."""
CONTROL = "/-/plan"
"""Path of requests that set what becomes of the others."""

DENIED = b"<?xml version='1.0'?><Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"


def free_port(host: str = "127.0.0.1") -> int:
    """A port that nobody listens on now."""
    with contextlib.closing(socket.create_server((host, 0))) as server:
        port: int = server.getsockname()[1]
    return port


@dataclass
class S3:
    """The server, as tests see it."""

    host: str = "127.0.0.1"
    port: int = field(default_factory=free_port)
    process: "subprocess.Popen[bytes] | None" = None

    @property
    def endpoint(self) -> str:
        """As AWS_ENDPOINT_URL takes it."""
        return f"http://{self.host}:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        """What a client needs to find it, with a key that it takes."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": "tester",
            "AWS_SECRET_ACCESS_KEY": "planted-secret",
            "AWS_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def start(self) -> None:
        """Returns when it answers."""
        command = [sys.executable, "-W", "ignore", str(Path(__file__)), self.host, str(self.port), str(os.getpid())]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + START_S
        while True:
            try:
                return self.plan()
            except OSError:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    raise
                time.sleep(0.1)

    def kill(self) -> None:
        """Ends it, and with it all that it held."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def plan(self, share: float = 0.0, *, away: bool = False, read_only: bool = False) -> None:
        """From now on so large a share of requests fails; or every connection is cut; or nobody may write."""
        self._ask("POST", CONTROL, json.dumps({"share": share, "away": away, "read_only": read_only}).encode())

    def bucket(self, name: str) -> None:
        """Makes a bucket."""
        self._ask("PUT", f"/{name}")

    def _ask(self, method: str, path: str, body: bytes | None = None) -> None:
        request = urllib.request.Request(self.endpoint + path, body, method=method)
        with urllib.request.urlopen(request, timeout=30):
            pass


@contextlib.contextmanager
def serving(host: str = "127.0.0.1") -> Iterator[S3]:
    """A server that runs within the block."""
    server = S3(host)
    server.start()
    try:
        yield server
    finally:
        server.kill()


Start = Callable[..., Any]
App = Callable[[Mapping[str, Any], Start], Iterable[bytes]]


def faulty(app: App, seed: int) -> App:
    """The application, some of whose requests fail before it hears of them, and some after it did."""
    chance, plan = random.Random(seed), {"share": 0.0, "away": False, "read_only": False}
    lock = threading.Lock()

    def serve(environ: Mapping[str, Any], start: Start) -> Iterable[bytes]:
        if environ["PATH_INFO"] == CONTROL:
            plan.update(json.loads(environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))))
            start("200 OK", [("Content-Length", "0")])
            return [b""]
        with lock:
            fails, late = chance.random() < plan["share"], chance.random() < 0.5
        if plan["away"]:
            environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
            return []
        if plan["read_only"] and environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
            start("403 Forbidden", [("Content-Type", "application/xml"), ("Content-Length", str(len(DENIED)))])
            return [DENIED]
        if fails and late:
            list(app(environ, lambda *_answer: None))
        if fails:
            start("503 Slow Down", [("Content-Length", "0"), ("Connection", "close")])
            return [b""]
        return app(environ, start)

    return serve


def main(host: str, port: int, parent: int) -> None:
    """Serves until the parent is gone."""
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()
    app = faulty(DomainDispatcherApplication(create_backend_app), seed=1)
    make_server(host, port, app, threaded=True).serve_forever()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
