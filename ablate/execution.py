"""How a plan is run, never what: the options, and what follows from them for the workers and for what runs them."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from ablate import provenance
from ablate.executors import AWAY_S, Cluster, Executor, InProcess, Refused
from ablate.home import Home
from ablate.messages import Job
from ablate.nodes import Resources
from ablate.plan import Plan

HANG_AFTER_S = 3600.0
"""Without an epoch, the opening of the data and a needed state included; the longest seen anywhere is some minutes."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """How to run, never what: nothing here enters a trial's identity."""

    home: Home
    data: Path | None = None
    """Folder of data sets in the Hub's layout; None: embedded or downloaded."""
    download: bool = True
    """Whether data may be fetched."""
    local: bool = False
    """In this process, one trial after another, without Ray."""
    address: str | None = None
    """An existing Ray cluster; None: RAY_ADDRESS, else one of our own on this machine."""
    slots: int | None = None
    """At most so many trials at a time; None: as many as the CPUs and GPUs carry."""
    cpus_per_trial: float | None = None
    """None: as the scale says. Also the number of torch's threads."""
    gpus_per_trial: float | None = None
    """None: as the scale says. Above 0 trials train on "cuda", else on "cpu"."""
    resources: Mapping[str, float] = field(default_factory=dict)
    """Of each trial: resources that the cluster's nodes were started with."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """That a trial's node must have; a value may be !other, in(a,b) or !in(a,b)."""
    patience: float = AWAY_S
    """Seconds that a cluster may be away, or have no node for a trial, before the sweep stops."""
    elastic: bool = False
    """The cluster starts nodes when trials wait; it is asked for them."""
    mlflow: str | None = None
    """Tracking URI; None: not tracked."""
    optuna: str | None = None
    """Storage URL that optuna-dashboard opens; None: kept in memory only."""
    retries: int = 2
    """How often a trial is tried again after a lost worker or a full device (`failures.POLICY`)."""
    hang_after: float | None = None
    """Seconds without an epoch after which a trial hangs; None: as the scale says, else an hour; inf: never."""
    pack: bool = False
    """Trials share GPUs, as many as their measured memory allows. Off by default: their times then say little."""
    retry_failed: bool = False
    """Run again what ended failed by an error or by divergence."""
    fresh: bool = False
    """Run again what other code or data made (`provenance.stale`), from the start."""
    command: str = ""
    """As typed; stored in the log and in the lock."""


def job_of(plan: Plan, options: Options) -> Job:
    """What the workers are told beside their trials."""
    methods = sorted({trial.method for trial in plan.trials})
    return Job(
        home=replace(options.home, root=options.home.root.resolve()),
        data=options.data.resolve() if options.data else None,
        download=options.download,
        device=device(plan, options),
        threads=max(1, int(_cpus(plan, options))),
        origin=plan.study.origin,
        provenance=provenance.collect(),
        code={method: provenance.code_digests(method, plan.study.origin) for method in methods},
        hang_after_s=_hang_after_s(plan, options),
        apart=not options.local,
    )


def executor_of(plan: Plan, options: Options) -> Executor:
    """What runs the hands: Ray, or this process.

    Raises:
        Refused: in this process, with more GPUs than this machine has; an elastic cluster without an address.
    """
    job = job_of(plan, options)
    if options.local:
        if _gpus(plan, options) > 0:
            _require_gpus_here(_gpus(plan, options))
        return InProcess(job)
    cpus, gpus = _cpus(plan, options), _gpus(plan, options)
    address = _address(options)
    if options.elastic and address is None:
        raise Refused("--elastic asks a Ray cluster for nodes, and none is named: give --address, or leave it out.")
    resources = Resources(cpus, gpus, options.slots, options.resources, options.labels, options.elastic)
    return Cluster(job, resources, address, options.patience)


def check_packing(plan: Plan, options: Options) -> None:
    """Finds that trials cannot share GPUs as asked.

    Raises:
        Refused: there is one trial at a time, or a trial gets no GPU, a part of one or several.
    """
    gpus = _gpus(plan, options)
    if options.pack and (options.local or gpus != 1):
        found = "with --local there is one trial at a time" if options.local else f"a trial gets {gpus:g} of them"
        raise Refused(
            f"--pack shares GPUs by what a trial is measured to take of one, and {found}. Leave --pack out, or give "
            f"--gpus-per-trial 1 without --local."
        )


def device(plan: Plan, options: Options) -> str:
    """Where trials train, as torch names it."""
    return "cuda" if _gpus(plan, options) > 0 else "cpu"


def _cpus(plan: Plan, options: Options) -> float:
    return plan.scale.cpus if options.cpus_per_trial is None else options.cpus_per_trial


def _gpus(plan: Plan, options: Options) -> float:
    return plan.scale.gpus if options.gpus_per_trial is None else options.gpus_per_trial


def _hang_after_s(plan: Plan, options: Options) -> float:
    asked = plan.scale.hang_after if options.hang_after is None else options.hang_after
    return HANG_AFTER_S if asked is None else asked


def _address(options: Options) -> str | None:
    """Of the cluster to join; RAY_ADDRESS, as a submitted job finds it set, also says where 'auto' is."""
    named = os.environ.get("RAY_ADDRESS") or None
    return named or "auto" if options.address == "auto" else options.address or named


def _require_gpus_here(wanted: float) -> None:
    import torch

    count = torch.cuda.device_count()
    if wanted > max(count, 0):
        raise Refused(
            f"{wanted:g} GPUs a trial are asked for, and this machine has {count}. Use --gpus-per-trial 0 to train on "
            f"the CPU, or a scale that needs no GPU."
        )
