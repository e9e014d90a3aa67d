"""`doctor`: what this machine has and lacks for a sweep, each with how to mend it."""

# Imports stay inside functions: this file is read whenever any command starts.

import argparse
import os
import platform
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Literal
from urllib.parse import SplitResult, urlsplit

from rich.text import Text

from ablate import options, preflight, request, terminal
from ablate.home import Home
from ablate.masking import redact
from ablate.store import StoreError

if TYPE_CHECKING:
    from ablate.nodes import Seen

LEAST_DISK_GB = 5.0
LEAST_PYTHON = (3, 11)
CLOCK_TOLERANCE_S = 30.0
STYLE = {"ok": "green", "warn": "bold yellow", "fail": "bold red"}


@dataclass(frozen=True)
class Finding:
    """One thing looked at."""

    name: str
    state: Literal["ok", "warn", "fail"]
    found: str
    mend: str = ""


def add(parser: argparse.ArgumentParser) -> None:
    """Adds the command's options."""
    options.add_home(parser)
    options.add_data(parser)
    options.add_sinks(parser)
    parser.add_argument("--address", metavar="ADDRESS", help="also ask each node of that Ray cluster (RAY_ADDRESS)")
    parser.add_argument("--ray", action="store_true", help="also start and stop a Ray of its own (seconds)")
    options.add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Runs the command; returns its exit code."""
    home = Home.at(request.named(args))
    findings = list(examine(args, home))
    failed = any(finding.state == "fail" for finding in findings)
    if args.json:
        terminal.write_json([asdict(finding) for finding in findings])
        return 2 if failed else 0
    rows: list[list[str | Text]] = []
    for finding in findings:
        text = finding.found + (f"\n-> {finding.mend}" if finding.mend else "")
        rows.append([Text(finding.state, style=STYLE[finding.state]), finding.name, text])
    terminal.console().print(terminal.grid(["", "what", "found"], rows))
    return 2 if failed else 0


def examine(args: argparse.Namespace, home: Home) -> Iterator[Finding]:
    """Everything, cheapest first; one failure hides no other."""
    yield python()
    yield from packages()
    yield from torch_pair()
    yield from devices()
    yield cores()
    yield writable(home)
    yield disk(home)
    yield from data(args)
    yield from sinks(args, home)
    address = args.address or os.environ.get("RAY_ADDRESS")
    if address:
        yield from cluster(args, home, address)
    if args.ray:
        yield ray_starts(home)


def python() -> Finding:
    """Its version."""
    version = platform.python_version()
    if sys.version_info[:2] < LEAST_PYTHON:
        return Finding("Python", "fail", version, "install Python 3.11 or later")
    return Finding("Python", "ok", f"{version} on {platform.system()} {platform.machine()}")


def packages() -> Iterator[Finding]:
    """The dependencies as this installation declares them: there, and not older than their lower bounds."""
    import importlib.metadata

    try:
        requirements = importlib.metadata.requires("ablate") or []
    except importlib.metadata.PackageNotFoundError:
        yield Finding("ablate", "warn", "not installed, run from its source", "python -m pip install -e .")
        requirements = []
    declared = [text for text in requirements if "extra ==" not in text]
    missing, old, there = [], [], []
    for name, least in map(_requirement, declared or ["torch", "torchvision", "ray", "optuna", "mlflow", "pyarrow"]):
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            missing.append(name)
            continue
        there.append(f"{name} {version}")
        if least and _numbers(version) < _numbers(least):
            old.append(f"{name} {version} (needs {least})")
    yield Finding("packages", "ok" if there else "fail", ", ".join(there) or "none")
    mend = "python -m pip install -e . in this environment"
    if missing:
        yield Finding("packages", "fail", f"missing: {', '.join(missing)}", mend)
    if old:
        yield Finding("packages", "fail", f"too old: {', '.join(old)}", mend)


def torch_pair() -> Iterator[Finding]:
    """Whether torchvision was built for this torch: each release pins one, and both are CPU-only or both are not."""
    import importlib.metadata

    try:
        torch, vision = importlib.metadata.version("torch"), importlib.metadata.version("torchvision")
    except importlib.metadata.PackageNotFoundError:
        return
    pinned = next(
        (text for text in importlib.metadata.requires("torchvision") or [] if re.match(r"torch\s*\(?==", text)), ""
    )
    wanted = re.sub(r"[^0-9.]", "", pinned.partition("==")[2].partition(";")[0])
    if wanted and _numbers(torch)[:2] != _numbers(wanted)[:2]:
        mend = f"python -m pip install torch=={wanted} torchvision=={vision}"
        yield Finding(
            "torch and torchvision", "fail", f"torchvision {vision} needs torch {wanted}, found {torch}", mend
        )
    elif torch.partition("+")[2] != vision.partition("+")[2]:
        mend = "install both from the same place"
        yield Finding("torch and torchvision", "warn", f"torch {torch} beside torchvision {vision}: other builds", mend)
    else:
        yield Finding("torch and torchvision", "ok", f"{torch} and {vision} belong together")


def devices() -> Iterator[Finding]:
    """Accelerators that torch can use."""
    import importlib.util

    if importlib.util.find_spec("torch") is None:
        return
    try:
        import torch
    except Exception as error:  # a broken installation raises anything
        yield Finding("torch", "fail", f"does not import: {error}", "install torch and torchvision again, together")
        return
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            device = torch.cuda.get_device_properties(index)
            yield Finding(f"cuda:{index}", "ok", f"{device.name}, {device.total_memory / 2**30:.0f} GiB")
    elif shutil.which("nvidia-smi"):
        mend = "the driver may be older than this torch's CUDA: see `nvidia-smi` and torch's install page"
        yield Finding("GPU", "warn", f"nvidia-smi is there but torch {torch.__version__} sees no GPU", mend)
    else:
        yield Finding("GPU", "ok", "none: trials run on the CPU; scales smoke and laptop are made for that")


def cores() -> Finding:
    """How many this process may use."""
    number = len(os.sched_getaffinity(0))
    return Finding("cores", "ok" if number > 1 else "warn", terminal.count(number, "core") + " usable")


def writable(home: Home) -> Finding:
    """Whether the home can be made and written."""
    try:
        preflight.check_home(home)
    except (request.UsageError, StoreError) as error:
        return Finding("home", "fail", str(error))
    where = home.root.resolve() if home.remote is None else f"{home.name} (here: {home.root})"
    return Finding("home", "ok", f"{where} can be written")


def disk(home: Home) -> Finding:
    """Room where the home lies."""
    place = next(folder for folder in (home.root.resolve(), *home.root.resolve().parents) if folder.exists())
    free = shutil.disk_usage(place).free / 1e9
    if free < LEAST_DISK_GB:
        mend = "checkpoints and decoded data need room: free some, or set --home"
        return Finding("disk", "warn", f"{free:.1f} GB free at {place}", mend)
    return Finding("disk", "ok", f"{free:.0f} GB free at {place}")


def data(args: argparse.Namespace) -> Iterator[Finding]:
    """What lies in the data folder."""
    try:
        folder = request.data_of(args)
    except request.UsageError as error:
        yield Finding("data", "fail", str(error))
        return
    if folder is None:
        yield Finding("data", "ok", "no folder given: digits are embedded, others are downloaded when first needed")
        return
    sets = sorted(path.name for path in folder.iterdir() if path.is_dir())
    if not sets:
        yield Finding("data", "fail", f"{folder} has no folders", "name the folder that holds the data sets, one each")
    else:
        yield Finding("data", "ok", f"{folder}: {', '.join(sets)}")


def sinks(args: argparse.Namespace, home: Home) -> Iterator[Finding]:
    """MLflow and Optuna answer; a server's clock agrees with ours."""
    mlflow, optuna = options.sink(args.mlflow, home.mlflow), options.sink(args.optuna, home.optuna)
    if mlflow is not None:
        from ablate import tracking

        yield _answers("MLflow", mlflow, lambda: tracking.check(mlflow))
        if mlflow.startswith(("http://", "https://")):
            yield from clock(mlflow)
    if optuna is not None:
        from ablate import schedule

        yield _answers("Optuna", optuna, lambda: schedule.check(optuna))


def clock(url: str) -> Iterator[Finding]:
    """Times of two machines are compared in logs; a clock that is off makes them lie."""
    import urllib.error
    import urllib.request
    from email.utils import parsedate_to_datetime

    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            said = answer.headers.get("Date")
    except (urllib.error.URLError, OSError, ValueError):
        return
    if not said:
        return
    off = abs(parsedate_to_datetime(said).timestamp() - time.time())
    if off > CLOCK_TOLERANCE_S:
        yield Finding("clock", "warn", f"{off:.0f} s away from {redact(url)}'s", "synchronise both (NTP)")
    else:
        yield Finding("clock", "ok", f"within {CLOCK_TOLERANCE_S:.0f} s of the server's")


def cluster(args: argparse.Namespace, home: Home, address: str) -> Iterator[Finding]:
    """What each node of the cluster sees of the home, the data and the servers, and how it differs from here."""
    from ablate.executors import Refused, survey
    from ablate.messages import Job
    from ablate.nodes import versions

    job = Job(home=replace(home, root=home.root.resolve()), data=request.data_of(args))
    servers = {"MLflow": options.sink(args.mlflow, home.mlflow), "Optuna": options.sink(args.optuna, home.optuna)}
    services = [(name, parts.hostname, _port(parts)) for name, url in servers.items() if (parts := urlsplit(url or ""))]
    asked = tuple((name, host, port) for name, host, port in services if host and port)
    try:
        seen = survey(job, address, asked)
    except Refused as error:
        yield Finding("cluster", "fail", redact(str(error)), "see docs/cluster.md")
        return
    yield Finding("cluster", "ok", f"{redact(address)}: {terminal.count(len(seen), 'node')}")
    here = versions()
    for each in seen:
        yield from node(each, here)


def node(seen: "Seen", here: Mapping[str, str]) -> Iterator[Finding]:
    """One node of a cluster, beside the versions `here`."""
    name = f"node {seen.host} {seen.node[:6]}"
    if seen.why:
        mend = "it needs the same Python and Ray as here, and what `pip install` of ablate brings, torch too"
        yield Finding(name, "fail", seen.why, mend)
        return
    if seen.home:
        mend = "a sweep gives it no trials: put the home where all nodes see it, or into an object store (--home s3://)"
        yield Finding(name, "fail", redact(seen.home), mend)
    if seen.data:
        yield Finding(name, "fail", seen.data, "put the data there, at the same place, or leave --data out")
    for package, version in here.items():
        there = seen.versions.get(package, "missing")
        if there != version:
            state: Literal["warn", "fail"] = "fail" if there == "missing" or package == "ray" else "warn"
            yield Finding(name, state, f"{package} {there}, here {version}", "install the same everywhere")
    if seen.clock is not None and abs(seen.clock) > CLOCK_TOLERANCE_S:
        way = "ahead of" if seen.clock > 0 else "behind"
        yield Finding(name, "warn", f"its clock is {abs(seen.clock):.0f} s {way} ours", "synchronise both (NTP)")
    for service in seen.unreachable:
        mend = "only a driver needs it: matters where `ray job submit` may start one there"
        yield Finding(name, "warn", f"does not reach {service}", mend)
    gpus = ", ".join(seen.gpus) or "no GPU"
    drift = "" if seen.clock is None else f", clock within {max(abs(seen.clock), 0.1):.1f} s"
    yield Finding(name, "ok", f"{terminal.count(seen.cores, 'core')}, {gpus}{drift}")


def _port(parts: SplitResult) -> int | None:
    usual = {"http": 80, "https": 443, "postgresql": 5432, "mysql": 3306}
    return parts.port or usual.get(parts.scheme.partition("+")[0])


def ray_starts(home: Home) -> Finding:
    """A Ray of our own starts and stops."""
    from ablate.executors import Cluster, Refused, Unavailable
    from ablate.messages import Job
    from ablate.nodes import Resources

    begin = time.perf_counter()
    try:
        with Cluster(Job(home=home), Resources(cpus=1.0, gpus=0.0), None) as cluster:
            slots = cluster.slots()
    except (Refused, Unavailable) as error:
        return Finding("Ray", "fail", f"does not start: {error}", "--local runs without Ray")
    took = time.perf_counter() - begin
    return Finding("Ray", "ok", f"is up in {took:.1f} s, {terminal.count(slots, 'trial')} of one CPU at a time")


def _answers(name: str, address: str, check: Callable[[], object]) -> Finding:
    try:
        check()
    except (RuntimeError, ValueError, OSError) as error:
        return Finding(name, "fail", redact(str(error)))
    return Finding(name, "ok", f"{redact(address)} answers")


def _requirement(text: str) -> tuple[str, str]:
    """Name and lower bound of a requirement such as 'ray[tune]>=2.50,<3'."""
    name = re.match(r"[A-Za-z0-9._-]+", text)
    least = re.search(r">=\s*([0-9.]+)", text)
    return (name.group() if name else text), (least.group(1) if least else "")


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version.partition("+")[0])[:3])
