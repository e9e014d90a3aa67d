"""Run what a plan still lacks: hold the sweep, read the truth, hand out trials, write the truth.

The driver is the only writer of a sweep's log. Every recovery is one sentence: read the logs of the home, drop what is
finished, run the rest; each trial continues from its own last checkpoint.
"""

import contextlib
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from ablate import masking, mirror, provenance, running, segments
from ablate.events import Event as Event
from ablate.executors import AWAY_S, Cluster, Executor, InProcess, Unavailable
from ablate.executors import Refused as Refused
from ablate.failures import PASSING
from ablate.home import Home
from ablate.lease import Hold, hold
from ablate.lock import Locked
from ablate.log import Entry, Log, Record, Unwritable, launched, ledger, left
from ablate.nodes import Resources
from ablate.plan import Plan, Trial
from ablate.steering import Steered, foreseen, withheld
from ablate.store import PATIENCE_S
from ablate.summary import Keeper, load
from ablate.worker import Job

if TYPE_CHECKING:
    from ablate.dispatch import Dispatch

DELIVER_S = 60.0
"""How long the driver waits for the tracking server at the end; what is late is delivered by `sync`."""
PARTING_S = 10.0
"""How long a driver that was stopped waits for an object store."""
HANG_AFTER_S = 3600.0
"""Without an epoch, the opening of the data and a needed state included; the longest seen anywhere is some minutes."""
STOPPED = "Stopped. What was running continues from its last checkpoint."


class Held(RuntimeError):
    """Another driver holds this sweep. The message names its process, host, start and command."""


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
    """Seconds that a cluster may be away before the sweep stops."""
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


@dataclass(frozen=True)
class Result:
    """Where the plan's trials stand when the driver leaves; ids in the plan's order."""

    done: tuple[str, ...]
    failed: tuple[str, ...]
    pending: tuple[str, ...]
    interrupted: bool = False
    """Ctrl-C, or the cluster went away for good; `message` says how to go on."""
    trained: int = 0
    """Trials that ended in this call."""
    message: str = ""
    delivered: Any = None
    """`tracking.Delivered` of this call, when tracked."""
    plan: Plan | None = None
    """As it stands now: a tuning study's grows."""


def run(
    plan: Plan,
    options: Options,
    watch: Callable[[Event], None] = lambda _event: None,
    check: Callable[[], None] = lambda: None,
    executor: "Callable[[Plan, Options], Executor] | None" = None,
) -> Result:
    """Runs all trials of `plan` that no log of the home has finished, and returns where they stand.

    Ctrl-C and SIGTERM stop it; then `Result.interrupted` is set.

    Args:
        plan: what to run.
        options: how.
        watch: hears of every event.
        check: raises where something else forbids training; called before any, while Ray starts, if there is any.
        executor: makes what runs the hands; None: as the options say, Ray or this process.

    Raises:
        Held: another driver runs this sweep.
        Refused: the options cannot be met; nothing was written.
        tracking.TrackingError: the tracking server cannot be reached; nothing was trained.
    """
    asked, plan = plan, _grown(_foreseen(plan, options)[0], options)
    _check_packing(plan, options)
    with _stoppable():
        try:
            if not _due(plan, options, _wanted(plan, options)):
                with _held(plan, options) as held:
                    _check_sinks(options)
                    return _nothing_to_do(plan, options, held)
            _refuse_if_held(plan, options)
            options.home.root.mkdir(parents=True, exist_ok=True)
            with (executor or _executor)(plan, options) as hands:
                # What costs time here costs none: Ray starts meanwhile. A refusal has written nothing.
                check()
                _check_sinks(options)
                with _held(plan, options) as held:
                    plan = _grown(_foreseen(plan, options)[0], options)  # another driver may have trained some by now
                    wanted = _wanted(plan, options)
                    if not _due(plan, options, wanted):
                        return _nothing_to_do(plan, options, held)
                    if plan is not asked:
                        watch(Event("grown", plan=plan))
                    return _drive(plan, options, wanted, watch, hands, held)
        except KeyboardInterrupt:
            return replace(_result(plan, options.home), interrupted=True, message=STOPPED)


def _grown(plan: Plan, options: Options, over: Collection[str] = ()) -> Plan:
    """With what the results so far call for, where the study is one of tuning. `over`: trials that ended in this call.

    What will be tried again calls for nothing yet: its next end may be another, and the search would have gone astray.
    """
    if plan.study.tuning is None:
        return plan
    from ablate import tuning

    digests: dict[str, Mapping[str, str]] = {}
    methods = {trial.method for trial in plan.trials}

    def stands(record: Record) -> bool:
        if record.trial in over:
            return True
        if record.state == "failed" and (options.retry_failed or record.reason in PASSING):
            return False
        return not (options.fresh and record.method in methods and _stale(record, plan, digests))

    records = [entry.record for entry in ledger(options.home).values() if entry.record is not None]
    return tuning.grown(plan, {record.trial: record for record in records if stands(record)})


def _wanted(plan: Plan, options: Options) -> tuple[str, ...]:
    return pending(plan, options.home, retry_failed=options.retry_failed, fresh=options.fresh)


def _due(plan: Plan, options: Options, wanted: tuple[str, ...]) -> bool:
    """Whether any of it is not cancelled."""
    return not withheld(plan, _foreseen(plan, options)[1].arms)[1].issuperset(wanted)


def _foreseen(plan: Plan, options: Options) -> tuple[Plan, Steered]:
    return foreseen(options.home, plan, load(options.home, plan.sweep).standing.steered)


def pending(plan: Plan, home: Home, *, retry_failed: bool = False, fresh: bool = False) -> tuple[str, ...]:
    """Ids of the plan's trials that `run` would train or adopt now, in order. Reads the logs only."""
    entries = ledger(home)
    digests: dict[str, Mapping[str, str]] = {}
    wanted: set[str] = set()
    for trial in plan.trials:  # those that others need come before them
        record = entries.get(trial.id, Entry()).record
        if record is None or _again(record, trial, wanted, retry_failed) or (fresh and _stale(record, plan, digests)):
            wanted.add(trial.id)
    for trial in reversed(plan.trials):
        if trial.id in wanted:
            wanted |= {ident for ident in trial.needs.values() if _state_is_gone(home, ident)}
    return tuple(trial.id for trial in plan.trials if trial.id in wanted)


def _drive(
    plan: Plan,
    options: Options,
    wanted: tuple[str, ...],
    watch: Callable[[Event], None],
    executor: Executor,
    held: Hold,
) -> Result:
    """Runs what is wanted; the log is open and tracked meanwhile."""
    from ablate.dispatch import Dispatch

    def grow(plan: Plan) -> tuple[Plan, tuple[str, ...]] | None:
        larger = _grown(plan, options, desk.over)
        return None if larger is plan else (larger, launch(larger))

    def launch(larger: Plan) -> tuple[str, ...]:
        log.append("sweep", **_launch(larger, options, executor.job.provenance), extends=True)
        return tuple(ident for ident in _wanted(larger, options) if ident not in desk.over)

    where, steered = _device(plan, options), load(options.home, plan.sweep).standing.steered
    desk = Dispatch(
        plan,
        options.home,
        wanted,
        watch,
        retries=options.retries,
        where=where,
        grow=grow,
        launch=launch,
        steered=steered,
        pack=options.pack,
    )
    try:
        slots = executor.slots()
    except Unavailable as error:
        raise Refused(str(error)) from error
    log, wait_s = _log(plan, options, held), PARTING_S
    try:
        log.append("sweep", **_launch(plan, options, executor.job.provenance))
        desk.open(log, slots)
        stopped, follower = _listen(desk, executor, plan, options)
        result = replace(_result(desk.plan, options.home), interrupted=bool(stopped), trained=len(desk.over))
        with contextlib.suppress(Unwritable):  # that is why it stopped
            log.append("left", how="interrupted" if stopped else "failed" if result.failed else "done")
        wait_s = PARTING_S if stopped else PATIENCE_S
    finally:
        late = log.close(wait_s)
    delivered = follower.finish(DELIVER_S) if follower else None
    message = " ".join(filter(None, [stopped, late, _projected(plan, options), _not_run(desk.plan, options, result)]))
    return replace(result, message=message, delivered=delivered)


def _log(plan: Plan, options: Options, held: Hold) -> Log:
    """The sweep's log, kept in the home's object store too where it has one, and its summary beside it."""
    home = options.home
    return Log(home.log(plan.sweep), segments.push(home, plan.sweep), held.check, Keeper(home, plan.sweep).hear)


def _listen(desk: "Dispatch", executor: Executor, plan: Plan, options: Options) -> tuple[str, Any]:
    """Lets the executor work until nothing is left; returns why it stopped before, and the tracking follower."""
    follower, stopped = None, ""
    messages = executor.messages(desk.take)
    try:
        for heard in messages:
            desk.hear(heard)
            if follower is None and options.mlflow is not None:
                # Only now: its start would have delayed the first trial's.
                follower = _follower(options.home, plan.sweep, options.mlflow)
            if not desk.left:
                break
    except KeyboardInterrupt:
        stopped = STOPPED
    except (Unavailable, Unwritable) as error:
        stopped = str(error)
    finally:
        messages.close()
        executor.stop()
    return stopped, follower


def _again(record: Record, trial: Trial, wanted: set[str], retry_failed: bool) -> bool:
    """Whether an end does not stand: its cause may have passed, or what it needed will be tried again."""
    if record.state == "done":
        return any(ident in wanted for ident in trial.needs.values())
    if record.reason == "need":
        return retry_failed or any(ident in wanted for ident in trial.needs.values())
    return retry_failed or record.reason in PASSING


def _stale(record: Record, plan: Plan, digests: dict[str, Mapping[str, str]]) -> bool:
    if record.method not in digests:
        digests[record.method] = provenance.code_digests(record.method, plan.study.origin)
    return bool(provenance.stale(record, digests[record.method]))


def _state_is_gone(home: Home, ident: str) -> bool:
    """Whether a needed trial's final state was removed from the home; it is trained again then, to the same bits."""
    return not mirror.Folder(home, ident).is_kept()


def _result(plan: Plan, home: Home) -> Result:
    entries = ledger(home)
    found: dict[str, list[str]] = {"done": [], "failed": [], "pending": []}
    for trial in plan.trials:
        record = entries.get(trial.id, Entry()).record
        found[record.state if record else "pending"].append(trial.id)
    return Result(tuple(found["done"]), tuple(found["failed"]), tuple(found["pending"]), plan=plan)


def _launch(plan: Plan, options: Options, known: Mapping[str, Any]) -> dict[str, Any]:
    """The sweep as it is launched: what, how and from where."""
    return _form(plan) | {"command": options.command, "provenance": known}


def _form(plan: Plan) -> dict[str, Any]:
    """All that makes the plan again."""
    arms = list(dict.fromkeys(cell.arm for cell in plan.cells))
    blocks = len({cell.block for cell in plan.cells})
    return {
        "study": plan.study.to_plain(),
        "scale": plan.scale.name,
        "arms": None if len(arms) == len(plan.study.arms) else arms,
        "blocks": None if blocks == len(plan.scale.blocks) else blocks,
    }


def _nothing_to_do(plan: Plan, options: Options, held: Hold) -> Result:
    """All of it has ended: other studies trained it, or a driver that was killed before it left.

    Then the log says so, and MLflow and Optuna are brought up to it.
    """
    form, before = _form(plan), launched(options.home, plan.sweep)
    new = before is None or any(before[key] != value for key, value in form.items())
    behind = new or not left(options.home, plan.sweep)
    result = _result(plan, options.home)
    log = _log(plan, options, held)
    try:
        if new:
            log.append("sweep", **_launch(plan, options, provenance.collect()))
        if behind:
            log.append("left", how="failed" if result.failed else "done")
    finally:
        late = log.close(PARTING_S)  # also of a driver before, whose last lines did not get there
    follower = _follower(options.home, plan.sweep, options.mlflow) if behind and options.mlflow else None
    delivered = follower.finish(DELIVER_S) if follower else None
    projected = _projected(plan, options) if behind else ""
    message = " ".join(filter(None, [late, projected, _not_run(plan, options, result)]))
    return replace(result, message=message, delivered=delivered)


def _not_run(plan: Plan, options: Options, result: Result) -> str:
    """What orders kept from being run, and how it comes back."""
    steered = _foreseen(plan, options)[1]
    cancelled = withheld(plan, steered.arms)[1].intersection(result.pending)
    if not cancelled:
        return ""
    return f"{steered.text}: {len(cancelled)} trials were not run. `steer STUDY resume ARM`, then `resume`, runs them."


def job_of(plan: Plan, options: Options) -> Job:
    """What the workers are told beside their trials."""
    methods = sorted({trial.method for trial in plan.trials})
    return Job(
        home=replace(options.home, root=options.home.root.resolve()),
        data=options.data.resolve() if options.data else None,
        download=options.download,
        device=_device(plan, options),
        threads=max(1, int(_cpus(plan, options))),
        origin=plan.study.origin,
        provenance=provenance.collect(),
        code={method: provenance.code_digests(method, plan.study.origin) for method in methods},
        hang_after_s=_hang_after_s(plan, options),
        apart=not options.local,
    )


def _cpus(plan: Plan, options: Options) -> float:
    return plan.scale.cpus if options.cpus_per_trial is None else options.cpus_per_trial


def _gpus(plan: Plan, options: Options) -> float:
    return plan.scale.gpus if options.gpus_per_trial is None else options.gpus_per_trial


def _hang_after_s(plan: Plan, options: Options) -> float:
    asked = plan.scale.hang_after if options.hang_after is None else options.hang_after
    return HANG_AFTER_S if asked is None else asked


def _device(plan: Plan, options: Options) -> str:
    return "cuda" if _gpus(plan, options) > 0 else "cpu"


def _executor(plan: Plan, options: Options) -> Executor:
    job = job_of(plan, options)
    if options.local:
        if _gpus(plan, options) > 0:
            _require_gpus_here(_gpus(plan, options))
        return InProcess(job)
    cpus, gpus = _cpus(plan, options), _gpus(plan, options)
    resources = Resources(cpus, gpus, options.slots, options.resources, options.labels)
    return Cluster(job, resources, _address(options), options.patience)


def _address(options: Options) -> str | None:
    """Of the cluster to join; RAY_ADDRESS, as a submitted job finds it set, also says where 'auto' is."""
    named = os.environ.get("RAY_ADDRESS") or None
    return named or "auto" if options.address == "auto" else options.address or named


def _check_packing(plan: Plan, options: Options) -> None:
    gpus = _gpus(plan, options)
    if options.pack and (options.local or gpus != 1):
        found = "with --local there is one trial at a time" if options.local else f"a trial gets {gpus:g} of them"
        raise Refused(
            f"--pack shares GPUs by what a trial is measured to take of one, and {found}. Leave --pack out, or give "
            f"--gpus-per-trial 1 without --local."
        )


def _require_gpus_here(wanted: float) -> None:
    import torch

    count = torch.cuda.device_count()
    if wanted > max(count, 0):
        raise Refused(
            f"{wanted:g} GPUs a trial are asked for, and this machine has {count}. Use --gpus-per-trial 0 to train on "
            f"the CPU, or a scale that needs no GPU."
        )


def _check_sinks(options: Options) -> None:
    """Finds an unreachable server or storage before anything is trained."""
    if options.optuna is not None:
        from ablate import schedule

        try:
            schedule.check(options.optuna)
        except schedule.StorageError as error:
            raise Refused(str(error)) from error
    if options.mlflow is not None:
        from ablate import tracking

        tracking.check(options.mlflow)


def _follower(home: Home, sweep: str, uri: str) -> Any:
    from ablate import tracking

    return tracking.start(home, sweep, uri)


def _projected(plan: Plan, options: Options) -> str:
    """Brings Optuna's storage up to the log; says so if it went away meanwhile."""
    if options.optuna is None:
        return ""
    from ablate import schedule

    try:
        schedule.project(options.home, plan.sweep, options.optuna)
    except schedule.StorageError as error:
        return f"{error} Run `sync` when it is back."
    return ""


@contextmanager
def _held(plan: Plan, options: Options) -> Iterator[Hold]:
    """Holds the sweep, its log as the home's object store has it; a reader may have its lock for an instant."""
    since = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
    me = f"process {os.getpid()} on {socket.gethostname()}, since {since}: {options.command or masking.typed(sys.argv)}"
    try:
        with hold(options.home, options.home.lock(plan.sweep), me, wait_s=1.0) as held:
            segments.pull(options.home, held=plan.sweep)
            yield held
    except Locked as error:
        raise _held_by(error.holder or "another process", plan, options) from error


def _refuse_if_held(plan: Plan, options: Options) -> None:
    """Before anything is started. `_held` is what counts."""
    holder = running.holder(options.home, plan.sweep)
    if holder is not None:
        raise _held_by(holder, plan, options)


def _held_by(holder: str, plan: Plan, options: Options) -> Held:
    return Held(
        f"{plan.sweep} in {options.home.name} is being run by {holder}. Wait for it, stop it, or use another --home."
    )


@contextmanager
def _stoppable() -> Iterator[None]:
    """SIGTERM, as a cluster's scheduler sends it, stops like Ctrl-C."""

    def stop(_signal: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
