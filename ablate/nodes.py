"""The nodes of a cluster: what a trial needs of one, how many trials they carry, and what each sees of our world.

Knows no Ray: `sweep` asks it for its nodes and runs `look` on each.
"""

import contextlib
import importlib.metadata
import os
import platform
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

NODE_ID = "ray.io/node-id"
"""The label that every node has."""
PACKAGES = ("ray", "torch", "numpy")
"""What all nodes should have alike: another version may give other numbers, or not talk to ours."""
ASKED = {"CPU": ("CPUs", "--cpus-per-trial"), "GPU": ("GPUs", "--gpus-per-trial")}
REACH_S = 5.0
GPU_S = 60.0
ALMOST = 1e-6
"""Fractions of a GPU add up to one but for this."""


@dataclass(frozen=True)
class Resources:
    """What each trial gets, and how many run at a time at most."""

    cpus: float
    gpus: float
    slots: int | None = None
    custom: Mapping[str, float] = field(default_factory=dict)
    """Resources that nodes were started with, by their names."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """Labels that a node must have; a value may be !other, in(a,b) or !in(a,b)."""
    elastic: bool = False
    """The cluster starts nodes when trials wait: it is asked for them, and they are waited for."""

    def bundle(self, gpus: float | None = None) -> dict[str, float]:
        """As Ray names them, those that are more than none."""
        asked = {"CPU": self.cpus, "GPU": self.gpus if gpus is None else gpus, **self.custom}
        return {name: amount for name, amount in asked.items() if amount > 0}


@dataclass(frozen=True)
class Node:
    """A living node."""

    id: str
    host: str
    address: str
    port: int
    """Where its raylet listens."""
    resources: Mapping[str, float]
    """All that it was started with, in use or not."""
    labels: Mapping[str, str]

    def fits(self, bundle: Mapping[str, float]) -> int:
        """How many such bundles it carries when idle."""
        shares = [self.resources.get(name, 0.0) / amount for name, amount in bundle.items()]
        return int(min(shares, default=0.0) + ALMOST)

    def has(self, labels: Mapping[str, str]) -> bool:
        """Whether its labels are as asked for."""
        return all(_is(self.labels.get(key), wanted) for key, wanted in labels.items())


def slots(nodes: Iterable[Node], resources: Resources) -> int:
    """How many trials the nodes carry at a time."""
    bundle = resources.bundle()
    fit = sum(node.fits(bundle) for node in nodes if node.has(resources.labels))
    return min(fit, resources.slots or sys.maxsize)


def room(nodes: Iterable[Node], resources: Resources, running: Iterable[float | None]) -> bool:
    """Whether one more hand finds a place, one like the last of those that run: its GPUs each (None: as every trial).

    Where hands differ it counts how many of the last one's kind the others are worth in what is scarcest.
    """
    gpus = list(running)
    if resources.slots is not None and len(gpus) >= resources.slots:
        return False
    bundle = resources.bundle(gpus[-1] if gpus else None)
    able = [node for node in nodes if node.has(resources.labels)]
    fit = sum(node.fits(bundle) for node in able)
    there = {name: sum(node.resources.get(name, 0.0) for node in able) / amount for name, amount in bundle.items()}
    scarce = min(there, key=lambda name: there[name])
    used = sum(resources.bundle(each).get(scarce, 0.0) / bundle[scarce] for each in gpus)
    return used + 1 <= fit + ALMOST


def too_little(nodes: Collection[Node], resources: Resources) -> str:
    """Why none of the nodes carries a trial, and how to mend it."""
    able = [node for node in nodes if node.has(resources.labels)]
    if not able:
        asked = ", ".join(f"{key}={value}" for key, value in resources.labels.items())
        return f"no node has the labels {asked}. Labels are given to `ray start --labels`; or leave --label out."
    whole = "the cluster has" if len(able) == 1 else "its largest node has"
    for name, wanted in resources.bundle().items():
        have = max(node.resources.get(name, 0.0) for node in able)
        if wanted > have:
            what, option = ASKED.get(name, (f"of {name}", f"--resource {name}=..."))
            return (
                f"{wanted:g} {what} a trial are asked for, and {whole} {have:g}. "
                f"Give at most that with {option}, or a scale that needs less."
            )
    asked = ", ".join(f"{amount:g} {name}" for name, amount in resources.bundle().items())
    return f"no single node has all that a trial asks for: {asked}."


def selector(labels: Mapping[str, str], avoid: Iterable[str]) -> dict[str, str]:
    """The labels that a node must have, as Ray's selectors write them."""
    shunned = sorted(avoid)
    return dict(labels) | ({NODE_ID: f"!in({','.join(shunned)})"} if shunned else {})


def _is(value: str | None, wanted: str) -> bool:
    wrong = wanted.startswith("!")
    wanted = wanted.removeprefix("!")
    among = re.fullmatch(r"in\((.*)\)", wanted)
    allowed = [each.strip() for each in among.group(1).split(",")] if among else [wanted]
    return (value in allowed) != wrong


def reachable(node: Node) -> bool:
    """Whether something still listens where its raylet did."""
    try:
        socket.create_connection((node.address, node.port), timeout=REACH_S).close()
    except OSError:
        return False
    return True


@dataclass(frozen=True)
class Question:
    """What is asked of a node."""

    folder: Path | None = None
    """A folder of the home that holds a file TOKEN; None: the home is none of files that nodes share."""
    store: str | None = None
    """URI of the home's object store."""
    data: Path | None = None
    services: tuple[tuple[str, str, int], ...] = ()
    """Name, host and port of servers that nodes should reach."""


TOKEN = "token"


@dataclass(frozen=True)
class Seen:
    """What a node answers."""

    node: str
    host: str
    home: str = ""
    """What is wrong with the home there; empty: it can be read and written."""
    data: str = ""
    """The same of the data folder."""
    versions: Mapping[str, str] = field(default_factory=dict)
    gpus: tuple[str, ...] = ()
    cores: int = 0
    unreachable: tuple[str, ...] = ()
    """Services."""
    clock: float | None = None
    """Seconds that its clock is ahead of ours; None: not compared."""
    why: str = ""
    """It could not be asked, and why; nothing else is known then."""

    @property
    def lack(self) -> str:
        """Why it can take no part in a sweep; empty: it can."""
        return self.why or self.home


def look(node: str, question: Question) -> Seen:
    """Answers, on the node itself. What `doctor` asks besides what a sweep must know costs no import of a framework."""
    return Seen(
        node=node,
        host=socket.gethostname(),
        home=_home(node, question),
        data="" if question.data is None or question.data.is_dir() else f"{question.data} is no folder there",
        versions=versions(),
        gpus=_gpus(),
        cores=os.cpu_count() or 0,
        unreachable=tuple(name for name, host, port in question.services if not _answers(host, port)),
    )


def now() -> float:
    """The time there."""
    return time.time()


def versions() -> dict[str, str]:
    """Of Python and of the packages that should be alike."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def ours(folder: Path, node: str) -> bool:
    """Whether what the node wrote arrived here: the same path may be another folder there."""
    return (folder / f"{TOKEN}-{node}").exists()


def _home(node: str, question: Question) -> str:
    if question.store is not None:
        return _stored(question.store)
    if question.folder is None:
        return ""
    try:
        if not (question.folder / TOKEN).is_file():
            return f"{question.folder.parent.parent} is not the folder there that it is here"
        (question.folder / f"{TOKEN}-{node}").write_text(str(time.time()))
    except OSError as error:
        return f"{question.folder.parent.parent} cannot be written there: {error.strerror or error}"
    return ""


def _stored(uri: str) -> str:
    """Asks the object store once; it says by itself what is wrong."""
    try:
        from ablate.store import Store

        Store(uri).check()
    except Exception as error:  # a missing package, a password that only we have, no way there
        return str(error) or type(error).__name__
    return ""


def _gpus() -> tuple[str, ...]:
    """Names of the GPUs, as their driver tells them: torch would take seconds."""
    if shutil.which("nvidia-smi") is None:
        return ()
    words = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"]
    try:
        found = subprocess.run(words, capture_output=True, text=True, timeout=GPU_S, check=True)
    except (OSError, subprocess.SubprocessError):
        return ("nvidia-smi fails",)
    return tuple(line.strip() for line in found.stdout.splitlines() if line.strip())


def _answers(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=REACH_S).close()
    except OSError:
        return False
    return True


def from_ray(row: Mapping[str, Any]) -> Node:
    """A row of `ray.nodes()`."""
    kept = {key: float(value) for key, value in row["Resources"].items()}
    return Node(
        row["NodeID"],
        row["NodeManagerHostname"],
        row["NodeManagerAddress"],
        int(row["NodeManagerPort"]),
        kept,
        dict(row.get("Labels") or {}),
    )
