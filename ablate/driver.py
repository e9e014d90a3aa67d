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
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import FrameType
from typing import TYPE_CHECKING, Any

from ablate import masking, provenance, running, segments
from ablate.events import Event as Event
from ablate.execution import Options, check_packing, device, executor_of
from ablate.executors import Executor, Unavailable, of_workers
from ablate.executors import Refused as Refused
from ablate.home import Home
from ablate.lease import Hold, hold
from ablate.lock import Locked
from ablate.log import Entry, Log, Unwritable, ledger, left
from ablate.plan import Plan
from ablate.steering import Steered, withheld
from ablate.store import PATIENCE_S
from ablate.summary import Keeper
from ablate.wanted import Wanted, grown, look, pending

if TYPE_CHECKING:
    from ablate.dispatch import Dispatch

DELIVER_S = 60.0
"""How long the driver waits for the tracking server at the end; what is late is delivered by `sync`."""
PARTING_S = 10.0
"""How long a driver that was stopped waits for an object store."""
STOPPED = "Stopped. What was running continues from its last checkpoint."


class Held(RuntimeError):
    """Another driver holds this sweep. The message names its process, host, start and command."""


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

    Ctrl-C, SIGTERM and SIGHUP stop it; then `Result.interrupted` is set.

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
    asked, wanted = plan, look(plan, options)
    check_packing(wanted.plan, options)
    with _stoppable():
        try:
            if not wanted.due:
                with _held(plan, options) as held:
                    _check_sinks(options)
                    return _nothing_to_do(wanted, options, held)
            _refuse_if_held(plan, options)
            options.home.root.mkdir(parents=True, exist_ok=True)
            with (executor or executor_of)(wanted.plan, options) as hands:
                # What costs time here costs none: Ray starts meanwhile. A refusal has written nothing.
                check()
                _check_sinks(options)
                with _held(plan, options) as held:
                    wanted = look(wanted.plan, options)  # another driver may have trained some by now
                    if not wanted.due:
                        return _nothing_to_do(wanted, options, held)
                    if wanted.plan is not asked:
                        watch(Event("grown", plan=wanted.plan))
                    return _drive(wanted, options, watch, hands, held)
        except KeyboardInterrupt:
            return replace(_result(wanted.plan, options.home), interrupted=True, message=STOPPED)


def _drive(
    wanted: Wanted,
    options: Options,
    watch: Callable[[Event], None],
    executor: Executor,
    held: Hold,
) -> Result:
    """Runs what is wanted; the log is open and tracked meanwhile."""
    from ablate.dispatch import Dispatch

    plan = wanted.plan

    def grow(plan: Plan) -> tuple[Plan, tuple[str, ...]] | None:
        larger = grown(plan, options, desk.over)
        return None if larger is plan else (larger, launch(larger))

    def launch(larger: Plan) -> tuple[str, ...]:
        log.append("sweep", **_launch(larger, options, executor.job.provenance), extends=True)
        return tuple(ident for ident in pending(larger, options) if ident not in desk.over)

    desk = Dispatch(
        plan,
        options.home,
        wanted.trials,
        watch,
        retries=options.retries,
        where=device(plan, options),
        grow=grow,
        launch=launch,
        steered=wanted.summary.standing.steered,
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
        projected = _projected(plan, options)  # a driver that is killed now has not left, and is made up for
        with contextlib.suppress(Unwritable):  # that is why it stopped
            log.append("left", how="interrupted" if stopped else "failed" if result.failed else "done")
        wait_s = PARTING_S if stopped else PATIENCE_S
    finally:
        late = log.close(wait_s)
    delivered = follower.finish(DELIVER_S) if follower else None
    unwanted = _not_run(desk.plan, desk.helm.steered, result)
    message = " ".join(filter(None, [stopped, late, projected, unwanted]))
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
            if follower is None and options.mlflow is not None and of_workers(heard):
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
    if follower is None and options.mlflow is not None:
        follower = _follower(options.home, plan.sweep, options.mlflow)
    return stopped, follower


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


def _nothing_to_do(wanted: Wanted, options: Options, held: Hold) -> Result:
    """All of it has ended: other studies trained it, or a driver that was killed before it left.

    Then the log says so, and MLflow and Optuna are brought up to it.
    """
    plan, before = wanted.plan, wanted.summary.launch
    form = _form(plan)
    new = before is None or any(before[key] != value for key, value in form.items())
    behind = new or not left(options.home, plan.sweep)
    result = _result(plan, options.home)
    log = _log(plan, options, held)
    try:
        if new:
            log.append("sweep", **_launch(plan, options, provenance.collect()))
        follower = _follower(options.home, plan.sweep, options.mlflow) if behind and options.mlflow else None
        projected = _projected(plan, options) if behind else ""
        if behind:
            log.append("left", how="failed" if result.failed else "done")
    finally:
        late = log.close(PARTING_S)  # also of a driver before, whose last lines did not get there
    delivered = follower.finish(DELIVER_S) if follower else None
    message = " ".join(filter(None, [late, projected, _not_run(plan, wanted.steered, result)]))
    return replace(result, message=message, delivered=delivered)


def _not_run(plan: Plan, steered: Steered, result: Result) -> str:
    """What orders kept from being run, and how it comes back."""
    cancelled = withheld(plan, steered.arms)[1].intersection(result.pending)
    if not cancelled:
        return ""
    return f"{steered.text}: {len(cancelled)} trials were not run. `steer STUDY resume ARM`, then `resume`, runs them."


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
    """SIGTERM, as a cluster's scheduler sends it, and SIGHUP, as a terminal does that is closed, stop like Ctrl-C;
    SIGHUP not where it is ignored, as `nohup` has it.
    """

    def stop(_signal: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    names = [name for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]  # Windows has no SIGHUP
    numbers = [number for name in names if signal.getsignal(number := getattr(signal, name)) != signal.SIG_IGN]
    before = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
