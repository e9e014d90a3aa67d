"""`ui`: every run of the home, in MLflow's own pages, on this machine only."""

import argparse
import os
import shutil
import socket
import sys
from typing import NoReturn

from ablate import options, request, terminal
from ablate.masking import redact


def add(parser: argparse.ArgumentParser) -> None:
    """Adds the command's options."""
    options.add_home(parser)
    parser.add_argument("--port", metavar="N", type=options.whole(1), default=5000, help="default 5000")
    parser.add_argument("--mlflow", metavar="URI", help="another store than the home's")


def run(args: argparse.Namespace) -> int:
    """Runs the command; returns its exit code."""
    home = request.home_of(args)
    store = args.mlflow or home.mlflow
    if args.mlflow is None and not (home.root / "mlflow.db").is_file():
        raise request.UsageError(
            f"There is no MLflow store in {home.name} yet. Run a study first, or rebuild it:  "
            f"{request.command('sync', home)}"
        )
    if store.startswith(("http://", "https://")):
        terminal.console().print(f"That is a server; open it in a browser: {redact(store)}", soft_wrap=True)
        return 0
    check_port(args.port)
    out = terminal.console()
    out.print(f"MLflow:  http://127.0.0.1:{args.port}   (Ctrl-C ends it)", soft_wrap=True)
    out.print("         ablate/<study> > Training runs; + beside a sweep unfolds its trials.", soft_wrap=True)
    if shutil.which("optuna-dashboard"):
        out.print(f"Optuna:  optuna-dashboard {home.optuna}", soft_wrap=True)
    else:
        out.print(f"Optuna:  pip install optuna-dashboard, then: optuna-dashboard {home.optuna}", soft_wrap=True)
    serve(store, args.port)


def check_port(port: int) -> None:
    """Raises UsageError where nobody can listen: MLflow would say so among its own lines, and end with 0."""
    with socket.socket() as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tried.bind(("127.0.0.1", port))
        except (OSError, OverflowError) as error:
            raise request.UsageError(
                f"Nothing can listen on port {port} of this machine ({error}). If another `ui` runs there, open "
                f"http://127.0.0.1:{port}; else name another, up to 65535:  --port {port % 60000 + 1}"
            ) from None


def serve(store: str, port: int) -> NoReturn:
    """Becomes MLflow's server, for one person: one worker, and none of the eight processes of its job queue."""
    sys.stdout.flush()
    address = ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command = [sys.executable, "-m", "mlflow", "ui", *address]
    # Not as an argument: those of a process can be read by everybody on the machine.
    ours = {"MLFLOW_BACKEND_STORE_URI": store, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    os.execve(sys.executable, command, os.environ | ours)
