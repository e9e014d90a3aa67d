"""Run what a plan still lacks: hold the sweep, read the truth, hand out trials, write the truth.

The driver is the only writer of a sweep's log. Every recovery is one sentence: read the logs of the home, drop what is
finished, run the rest; each trial continues from its own last checkpoint.
"""

import math
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Literal

from ablate import checkpoint, provenance
from ablate.executors import Cluster, Executor, InProcess, Lost, Refused, Resources, Unavailable
from ablate.home import Home
from ablate.lock import Locked, hold
from ablate.log import Entry, Log, Record, ledger
from ablate.plan import Plan, Trial
from ablate.worker import Back, Began, Hand, Job, Progress

if TYPE_CHECKING:
    from ablate.schedule import Scheduler

HAND_S = 1.0
"""Trials measured to be shorter than half of this are handed out several at a time, about so many seconds of them."""
RETRYABLE = ("lost", "out_of_memory")
"""Reasons that another try may cure; ends with one of these do not stand when a driver starts."""


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
    mlflow: str | None = None
    """Tracking URI; None: not tracked."""
    optuna: str | None = None
    """Storage URL that optuna-dashboard opens; None: kept in memory only."""
    retries: int = 2
    """How often a trial is tried again after a lost worker or a full device. Other failures are final."""
    retry_failed: bool = False
    """Run again what ended failed by an error or by divergence."""
    fresh: bool = False
    """Run again what other code or data made (`provenance.stale`), from the start."""
    command: str = ""
    """As typed; stored in the log and in the lock."""


@dataclass(frozen=True)
class Event:
    """What `watch` hears, in the driver's process, after the log has it."""

    kind: Literal["started", "epoch", "ended", "lost"]
    trial: str
    attempt: int = 1
    epoch: int = 0
    """For 'epoch': epochs completed, from 1."""
    metrics: Mapping[str, float] | None = None
    """For 'epoch'."""
    record: Record | None = None
    """For 'ended'."""
    why: str = ""
    """For 'lost'."""


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


def run(plan: Plan, options: Options, watch: Callable[[Event], None] = lambda event: None) -> Result:
    """Runs all trials of `plan` that no log of the home has finished, and returns where they stand.

    Raises:
        Held: another driver runs this sweep.
        Refused: the options cannot be met; nothing was written.
        tracking.TrackingError: the tracking server cannot be reached; nothing was trained.
    """
    with _held(plan, options), _stoppable():
        wanted = pending(plan, options.home, retry_failed=options.retry_failed, fresh=options.fresh)
        if not wanted:
            _check_sinks(options)
            return _result(plan, options.home)
        job = _job(plan, options)
        with _executor(plan, options, job) as executor:
            # Ray starts meanwhile, so what costs time here costs none.
            _check_sinks(options)
            drive = _Drive(plan, options, watch, wanted)
            return drive.run(executor)


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


class _Drive:
    """One driver at work: it holds the sweep, and something is left to run."""

    def __init__(self, plan: Plan, options: Options, watch: Callable[[Event], None], wanted: tuple[str, ...]) -> None:
        from ablate.schedule import Scheduler

        self.plan, self.options, self.watch = plan, options, watch
        self.entries = ledger(options.home)
        finished = {ident: entry.record for ident, entry in self.entries.items() if entry.record is not None}
        self.scheduler = Scheduler(plan, finished, wanted)
        self.trials = {trial.id: trial for trial in plan.trials}
        self.attempts = {ident: self.entries.get(ident, Entry()).attempts for ident in wanted}
        self.hands: dict[int, dict[str, None]] = {}
        self.begun: dict[str, float] = {}
        self.unsaid: dict[str, list[Mapping[str, Any]]] = {}
        self.settled: list[Record] = []
        self.losses: dict[str, int] = {}
        self.alone: set[str] = set()
        self.busy: list[str] = []
        self.pace = _Pace()
        self.slots, self.trained, self.number = 1, 0, 0

    def run(self, executor: Executor) -> Result:
        """Listens to the executor until nothing is left; the log is open and tracked meanwhile."""
        messages = executor.messages(self.take)
        self.slots = executor.slots()
        self.log = Log(self.options.home.log(self.plan.sweep))
        self.log.append("sweep", **_launch(self.plan, self.options))
        follower = _follower(self.plan, self.options)
        interrupted, message = False, ""
        try:
            for heard in messages:
                self.hear(heard)
                if not self.scheduler.left:
                    break
        except KeyboardInterrupt:
            interrupted, message = True, "Stopped. What was running continues from its last checkpoint."
        except Unavailable as error:
            interrupted, message = True, str(error)
        finally:
            messages.close()
            executor.stop()
        result = _result(self.plan, self.options.home)
        how = "interrupted" if interrupted else "failed" if result.failed else "done"
        self.log.append("left", how=how)
        self.log.close()
        delivered = follower.finish(_DELIVER_S) if follower else None
        message = " ".join(filter(None, [message, _projected(self.plan, self.options)]))
        return replace(result, interrupted=interrupted, trained=self.trained, message=message, delivered=delivered)

    # What the executor asks

    def take(self) -> Hand | None:
        """The next hand for a free worker; empty: later; None: nothing is left."""
        if not self.scheduler.left:
            return None
        trials = self._deal()
        if not trials and self.busy:
            self._ask_busy()
            trials = self._deal()
        for trial in trials:
            self.attempts[trial.id] += 1
            if self.entries.get(trial.id, Entry()).record is not None:
                checkpoint.forget_end(self.options.home.trial(trial.id))
        self.number += 1
        self.hands[self.number] = {trial.id: None for trial in trials}
        if trials:
            self._begin(trials[0].id)
        return Hand(self.number, tuple((trial, self.attempts[trial.id]) for trial in trials), HAND_S)

    def _deal(self) -> list[Trial]:
        size = 1 if self.options.local else self.pace.size(self.scheduler.left, self.slots)
        trials: list[Trial] = []
        while len(trials) < size and (trial := self.scheduler.next()) is not None:
            if trial.id in self.alone and trials:
                self.scheduler.again(trial.id)
                break
            trials.append(trial)
            if trial.id in self.alone:
                break
        return trials

    def _ask_busy(self) -> None:
        """Trials that another sweep's driver trains: done there is done here."""
        entries = ledger(self.options.home)
        for ident in self.busy:
            record = entries.get(ident, Entry()).record
            if record is not None and record.ended > self.entries.get(ident, Entry()).started:
                self._settle(record)
            else:
                self.scheduler.again(ident)
        self.busy.clear()

    # What the executor tells

    def hear(self, messages: Iterable[Any]) -> None:
        """Acts on messages that came together: first the log, on disk, then the scheduler and whoever watches."""
        for message in messages:
            if isinstance(message, Record):
                self._ended(message)
            elif isinstance(message, Progress):
                self._progress(message)
            elif isinstance(message, Began):
                self._begin(message.trial)
            elif isinstance(message, Back):
                self._back(message)
            elif isinstance(message, Lost):
                self._lost(message)
        self._conclude()

    def _begin(self, ident: str) -> None:
        if ident in self.begun:
            return
        self.begun[ident] = time.monotonic()
        where = f"{socket.gethostname()}/{_device(self.plan, self.options)}"
        self.log.append("started", durable=False, trial=ident, attempt=self.attempts[ident], where=where)
        self.watch(Event("started", ident, self.attempts[ident]))

    def _progress(self, progress: Progress) -> None:
        ident = progress.trial
        unsaid = self.unsaid.setdefault(ident, [])
        unsaid.extend(progress.epochs)
        if time.monotonic() - self.begun[ident] >= _SAY_S:
            self.log.append("epochs", durable=False, trial=ident, epochs=unsaid)
            self.begun[ident], self.unsaid[ident] = time.monotonic(), []
        for epoch in progress.epochs:
            self.watch(Event("epoch", ident, self.attempts[ident], epoch["epoch"], epoch["metrics"]))

    def _ended(self, record: Record) -> None:
        self._begin(record.trial)
        self._forget(record.trial)
        if record.reason == "out_of_memory" and self._may_retry(record.trial):
            self._try_again(record.trial, record.error.strip().rpartition("\n")[2])
            return
        if record.attempts == self.attempts[record.trial]:
            self.pace.note(record.seconds)
        self._settle(record)

    def _settle(self, record: Record) -> None:
        """Writes the trial's end; what follows from it waits until the line is on disk."""
        known = self.entries.get(record.trial, Entry()).record
        if known is None or not _same_numbers(known, record):
            self.log.append("ended", durable=False, trial=record.trial, record=record)
        self.settled.append(record)

    def _conclude(self) -> None:
        """Tells of the ends written since the last time, and of those that needed a failed one in vain."""
        while self.settled:
            self.log.sync()
            settled, self.settled = self.settled, []
            for record in settled:
                self.trained += 1
                hopeless = self.scheduler.tell(record)
                self.watch(Event("ended", record.trial, record.attempts, record=record))
                for ident in hopeless:
                    why = f"needed trial {record.trial} failed: {record.reason}"
                    self._settle(_failed(self.trials[ident], "need", why))

    def _back(self, back: Back) -> None:
        for ident in back.trials:
            self._forget(ident)
            self.begun.pop(ident, None)
            self.attempts[ident] -= 1
            if back.busy:
                self.busy.append(ident)
            else:
                self.scheduler.again(ident)

    def _lost(self, lost: Lost) -> None:
        """A hand of several says not whose fault it was: they are tried one by one, and only then it counts."""
        numbers = list(self.hands) if lost.hand is None else [lost.hand]
        for number in numbers:
            idents = list(self.hands.pop(number, {}))
            for ident in idents:
                blamed = lost.hand is not None and len(idents) == 1
                if blamed and not self._may_retry(ident):
                    record = _failed(self.trials[ident], "lost", lost.why, self.attempts[ident])
                    self._settle(record)
                elif ident in self.begun:
                    self._try_again(ident, lost.why)
                else:
                    self.attempts[ident] -= 1
                    self.scheduler.again(ident)
                self.alone.add(ident)

    def _may_retry(self, ident: str) -> bool:
        self.losses[ident] = self.losses.get(ident, 0) + 1
        return self.losses[ident] <= self.options.retries

    def _try_again(self, ident: str, why: str) -> None:
        self.begun.pop(ident, None)
        self.unsaid.pop(ident, None)
        self.log.append("lost", trial=ident, attempt=self.attempts[ident], why=why)
        self.scheduler.again(ident)
        self.watch(Event("lost", ident, self.attempts[ident], why=why))

    def _forget(self, ident: str) -> None:
        self.unsaid.pop(ident, None)
        for hand in self.hands.values():
            hand.pop(ident, None)


_SAY_S = 1.0
"""Epochs of a trial reach the log at most so often before its end."""
_DELIVER_S = 60.0
"""How long the driver waits for the tracking server at the end; what is late is delivered by `sync`."""


class _Pace:
    """How long trials take here, and so how many make a hand."""

    def __init__(self) -> None:
        self.mean_s: float | None = None

    def note(self, seconds: float) -> None:
        self.mean_s = seconds if self.mean_s is None else 0.7 * self.mean_s + 0.3 * seconds

    def size(self, left: int, slots: int) -> int:
        """One, unless trials are short; never so many that another worker would be idle at the end."""
        if self.mean_s is None or self.mean_s > HAND_S / 2:
            return 1
        fair = math.ceil(left / (2 * slots))
        return max(1, min(fair, int(HAND_S / max(self.mean_s, 0.002))))


def _again(record: Record, trial: Trial, wanted: set[str], retry_failed: bool) -> bool:
    """Whether an end does not stand: its cause may have passed, or what it needed will be tried again."""
    if record.state == "done":
        return any(ident in wanted for ident in trial.needs.values())
    if record.reason == "need":
        return retry_failed or any(ident in wanted for ident in trial.needs.values())
    return retry_failed or record.reason in RETRYABLE


def _stale(record: Record, plan: Plan, digests: dict[str, Mapping[str, str]]) -> bool:
    if record.method not in digests:
        digests[record.method] = provenance.code_digests(record.method, plan.study.origin)
    return bool(provenance.stale(record, digests[record.method]))


def _state_is_gone(home: Home, ident: str) -> bool:
    """Whether a needed trial's final state was removed from the home; it is trained again then, to the same bits."""
    return not checkpoint.is_kept(home.trial(ident))


def _same_numbers(one: Record, other: Record) -> bool:
    def numbers(record: Record) -> list[Any]:
        return [(epoch["epoch"], dict(epoch["metrics"])) for epoch in record.epochs]

    code = one.provenance.get("code_digest") == other.provenance.get("code_digest")
    return other.state == "done" and code and numbers(one) == numbers(other)


def _failed(trial: Trial, reason: Literal["lost", "need"], why: str, attempts: int = 0) -> Record:
    """The end of a trial that no worker could report."""
    return Record(
        trial=trial.id,
        method=trial.method,
        config=trial.config,
        data=trial.data,
        seed=trial.seed,
        state="failed",
        reason=reason,
        error=why,
        attempts=attempts,
        ended=time.time(),
        host=socket.gethostname(),
    )


def _result(plan: Plan, home: Home) -> Result:
    entries = ledger(home)
    found: dict[str, list[str]] = {"done": [], "failed": [], "pending": []}
    for trial in plan.trials:
        record = entries.get(trial.id, Entry()).record
        found[record.state if record else "pending"].append(trial.id)
    return Result(tuple(found["done"]), tuple(found["failed"]), tuple(found["pending"]))


def _launch(plan: Plan, options: Options) -> dict[str, Any]:
    """The sweep as it was launched: all that makes its plan again."""
    arms = list(dict.fromkeys(cell.arm for cell in plan.cells))
    blocks = len({cell.block for cell in plan.cells})
    return {
        "study": plan.study.to_plain(),
        "scale": plan.scale.name,
        "arms": None if len(arms) == len(plan.study.arms) else arms,
        "blocks": None if blocks == len(plan.scale.blocks) else blocks,
        "command": options.command,
        "provenance": provenance.collect(),
    }


def _job(plan: Plan, options: Options) -> Job:
    methods = sorted({trial.method for trial in plan.trials})
    return Job(
        home=Home(options.home.root.resolve()),
        data=options.data.resolve() if options.data else None,
        download=options.download,
        device=_device(plan, options),
        threads=max(1, int(_cpus(plan, options))),
        origin=plan.study.origin,
        provenance=provenance.collect(),
        code={method: provenance.code_digests(method, plan.study.origin) for method in methods},
    )


def _cpus(plan: Plan, options: Options) -> float:
    return plan.scale.cpus if options.cpus_per_trial is None else options.cpus_per_trial


def _gpus(plan: Plan, options: Options) -> float:
    return plan.scale.gpus if options.gpus_per_trial is None else options.gpus_per_trial


def _device(plan: Plan, options: Options) -> str:
    return "cuda" if _gpus(plan, options) > 0 else "cpu"


def _executor(plan: Plan, options: Options, job: Job) -> Executor:
    if options.local:
        if _gpus(plan, options) > 0:
            _require_gpus_here(_gpus(plan, options))
        return InProcess(job)
    resources = Resources(_cpus(plan, options), _gpus(plan, options), options.slots)
    return Cluster(job, resources, options.address or os.environ.get("RAY_ADDRESS") or None)


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


def _follower(plan: Plan, options: Options) -> Any:
    if options.mlflow is None:
        return None
    from ablate import tracking

    return tracking.start(options.home, plan.sweep, options.mlflow)


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
def _held(plan: Plan, options: Options) -> Iterator[None]:
    """Holds the sweep; a reader that asks who holds it may have its lock for an instant."""
    since = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
    me = f"process {os.getpid()} on {socket.gethostname()}, since {since}: {options.command or ' '.join(sys.argv)}"
    try:
        with hold(options.home.lock(plan.sweep), me, wait_s=1.0):
            yield
    except Locked as error:
        raise Held(
            f"{plan.sweep} in {options.home.root} is being run by {error.holder or 'another process'}. "
            f"Wait for it, stop it, or use another --home."
        ) from error


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
