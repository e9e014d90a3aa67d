"""Run one trial: data, method, epochs, checkpoints, end. Imports no framework; torch comes with the method.

The same generator runs in the driver's process (`--local`) and in Ray's: whoever pulls it decides when.
"""

import math
import socket
import sys
import time
import traceback
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from ablate import checkpoint, exhibits, memory, steering
from ablate.checkpoint import Checkpoint
from ablate.failures import KEEPING, PASSING, NeedMissing, Spoiled, reason_of
from ablate.home import Home
from ablate.lease import hold
from ablate.lock import Locked
from ablate.log import Record
from ablate.masking import keep_others_out, redact
from ablate.messages import Adopted, Back, Began, Hand, Job, Measured, Message, Place, Progress
from ablate.mirror import Folder
from ablate.plan import Trial
from ablate.provenance import combined
from ablate.store import PATIENCE_S, StoreError
from ablate.watchdog import Watchdog, stacks
from ablate.watchdog import found as hung_in
from trainables.config import from_plain
from trainables.protocol import Diverged, Epoch, Method, Needed, State

CHECKPOINT_EVERY_S = 1.0
"""Epochs that follow each other faster are checkpointed together: resuming from any of them gives the same bits."""
CHECKPOINT_SHARE = 0.1
"""And a checkpoint waits until training has taken this many times longer than writing the last one did: 1 / share."""
LOCK_WAIT_S = 5.0
"""A worker whose driver was killed lets go of its trial within about a second."""


def play(hand: Hand, job: Job, place: Place | None = None) -> Iterator[Message]:
    """Runs the hand's trials in order. Closing the generator leaves the current one resumable.

    Raises:
        Spoiled: the process has lost its device to an earlier trial's fault; none of the hand was begun.
    """
    place, job = place or Place(), replace(job, home=job.home.here())
    keep_others_out()
    begun = time.perf_counter()
    if why := memory.spoiled(job.device):
        raise Spoiled(why)
    for position, (trial, attempt) in enumerate(hand.trials):
        if position and (time.perf_counter() - begun > hand.budget_s or memory.spoiled(job.device)):
            yield Back(tuple(trial.id for trial, _ in hand.trials[position:]))
            return
        if steering.stop_asked(job.home, trial.id, hand.token, saving=False):
            yield Back((trial.id,), stopped=True)
            continue
        try:
            yield Began(trial.id, place.node, place.host, place.gpus)
            yield from (_probe if hand.probe else run_trial)(trial, job, attempt, hand.token)
        except Locked:
            yield Back((trial.id,), busy=True)
        except Stopped:
            yield Back((trial.id,), stopped=True)


def _probe(trial: Trial, job: Job, attempt: int, token: str) -> Iterator[Message]:
    """The trial until it is known what it takes and its state is kept; then it is given back, unless it is over."""
    measured = False
    with closing(run_trial(trial, job, attempt, token)) as running:
        for message in running:
            yield message
            if not isinstance(message, Progress):
                continue
            if not measured and (found := memory.footprint(job.device)) is not None:
                measured = True
                yield Measured(trial.id, *found)
            epoch = message.epochs[-1]["epoch"]
            if measured and epoch < trial.config.get("epochs", 0) and _is_kept(job, trial, epoch):
                break
        else:
            return
    yield Back((trial.id,))


def _is_kept(job: Job, trial: Trial, epoch: int) -> bool:
    folder = job.home.trial(trial.id)
    return (folder / checkpoint.STATE).exists() and checkpoint.reached(folder) == epoch


def run_trial(
    trial: Trial, job: Job, attempt: int = 1, token: str = ""
) -> Generator[Progress | Record | Adopted, None, None]:
    """Trains `trial` from its last checkpoint on, or adopts its end; yields progress, and its record last.

    Closing the generator leaves the trial resumable and lets go of it. `token`: what a stop file must say.

    Raises:
        lock.Locked: another process trains this trial.
        Stopped: the driver asked for it back.
    """
    run = _Run(trial, job, attempt, Folder(job.home, trial.id), token)
    try:
        with hold(job.home, run.folder / "lock", wait_s=LOCK_WAIT_S, patience_s=PATIENCE_S) as held:
            yield from _taken_up(run, held.check)
    except (OSError, StoreError) as error:  # what the method raises is in its record: this is the folder, or its end
        if reason_of(error) not in KEEPING:
            raise
        yield run.failed(error)


def _taken_up(run: "_Run", check: Callable[[], None]) -> Iterator[Progress | Record | Adopted]:
    """The trial's folder is held; `check` raises when it is not any more."""
    run.copy.fetch()
    found = checkpoint.ended(run.folder, run.trial.id)
    if found is not None:
        if run.copy.owes():
            run.copy.finished()
        yield Adopted(found)
        return
    for message in run.steps():
        check()
        yield message


class _Run:
    """One attempt at a trial, the trial's folder held."""

    def __init__(self, trial: Trial, job: Job, attempt: int, copy: Folder, token: str) -> None:
        self.trial, self.job, self.attempt, self.copy, self.folder = trial, job, attempt, copy, copy.path
        self.token = token
        self.last: Checkpoint | None = None
        self.notes: tuple[str, ...] = ()
        self.captured = 0
        self.stateless = False
        self.measured = False
        self.epochs: list[Mapping[str, Any]] = []
        self.started, self.begun = time.time(), time.perf_counter()
        self.before_s = 0.0
        code = job.code.get(trial.method, {})
        self.provenance: dict[str, Any] = dict(job.provenance) | {"device": job.device, "threads": job.threads}
        self.provenance |= {"data_digest": "", "code_digest": combined(code)}
        self.provenance |= {f"code/{file}": digest for file, digest in code.items()}

    def steps(self) -> Iterator[Progress | Record]:
        try:
            yield from self._watched()
            record = self._record("done")
        except KeyboardInterrupt:
            hung = hung_in(self.folder, self.attempt)
            if not hung:
                raise
            record = self._record("failed", "hung", hung)
        except Stopped:
            raise
        except (
            Exception,
            SystemExit,
        ) as error:  # whatever a method raises is this trial's result, and the sweep goes on
            if isinstance(error, SystemExit) and _sent(error):
                raise
            record = self.failed(error)
        if record.reason not in PASSING and record.reason not in KEEPING:
            checkpoint.finish(self.folder, record, stateless=self.stateless)
            self.copy.finished()
        yield record

    def failed(self, error: Exception | SystemExit) -> Record:
        """The end that an exception makes."""
        reason = reason_of(error, self.job.home.root)
        return self._record("failed", reason, "".join(traceback.format_exception(error)))

    def _watched(self) -> Iterator[Progress]:
        """The epochs, watched where that is asked for; not while whoever asked for one is busy with it."""
        if self.job.hang_after_s == math.inf:
            yield from (Progress(self.trial.id, (epoch,)) for epoch in self._trained())
            return
        tell = partial(self.copy.send, stacks(self.folder, self.attempt).name)
        with Watchdog(self.folder, self.attempt, self.job.hang_after_s, apart=self.job.apart, tell=tell) as watchdog:
            for epoch in self._trained():
                watchdog.rest()
                yield Progress(self.trial.id, (epoch,))
                watchdog.go_on()

    def _trained(self) -> Iterator[Mapping[str, Any]]:
        """Epochs as the record stores them, those of earlier attempts not repeated."""
        method = _method(self.trial.method, self.job.origin)
        config = from_plain(method.config, self._placed())
        data = _opened(self.job.home.data, self.job.data, self.job.download, tuple(sorted(self.trial.data.items())))
        self.provenance["data_digest"] = data.digest
        self._continue()
        if self.last is None:
            exhibits.forget(self.job.home.exhibits(self.trial.id))
        needs = {name: _final_state(self.job.home, ident) for name, ident in self.trial.needs.items()}
        memory.keep()
        self.measured = memory.reset(self.job.device)
        with _threads(self.job.threads):
            length = getattr(config, "epochs", None)
            while True:
                training = method.train(
                    config, data, seed=self.trial.seed, device=self.job.device, resume=self._resume(), **needs
                )
                yield from self._epochs(training, length if isinstance(length, int) else 0)
                if self.epochs and self.captured == self.epochs[-1]["epoch"]:
                    return
                if not self.epochs:
                    raise RuntimeError(f"method {self.trial.method!r} yielded no epoch")
                # It stopped before config.epochs, at an epoch whose state was not captured: go there once more.
                self.epochs, length = list(self.last.epochs) if self.last else [], None

    def _continue(self) -> None:
        """Takes up the last checkpoint, unless it was made by other code or on other data."""
        found, self.notes = checkpoint.load(self.folder, self.trial.id)
        if found is None:
            return
        for name, now in self._basis().items():
            before = found.basis.get(name, "")
            if before != now and name in ("code", "data"):
                self.notes = (*found.notes, f"the {name} changed since the last checkpoint; trained from the start")
                return
            if before != now:
                found = replace(found, notes=(*found.notes, f"continued on {name} {now}, begun on {before}"))
        self.last, self.notes = found, found.notes
        self.epochs, self.started, self.before_s = list(found.epochs), found.started, found.seconds
        self.captured = self.epochs[-1]["epoch"]

    def _basis(self) -> dict[str, str]:
        """What the bits of a trial rest on, beyond its identity."""
        names = {"code": "code_digest", "data": "data_digest", "device": "device", "threads": "threads"}
        return {name: str(self.provenance[key]) for name, key in names.items()}

    def _epochs(self, training: Iterator[Epoch], length: int | None) -> Iterator[Mapping[str, Any]]:
        """Pulls epochs and checkpoints them: all, or with a known `length` by the rules at the top and at the end."""
        saved_at, write_s = time.perf_counter(), 0.0
        lap = saved_at
        for epoch in training:
            now = time.perf_counter()
            self._check(epoch)
            row = {"epoch": epoch.index, "seconds": now - lap, "metrics": _finite(epoch)}
            self.epochs.append(row)
            self._show(epoch)
            wait_s = max(CHECKPOINT_EVERY_S, write_s / CHECKPOINT_SHARE)
            last = length is not None and 0 < length <= epoch.index
            due = not length or last or now - saved_at >= wait_s
            stop = not last and steering.stop_asked(self.job.home, self.trial.id, self.token, saving=due)
            if due or stop:
                if self.measured:
                    row["peak_memory_bytes"] = memory.peak(self.job.device)
                self._save(epoch)
                saved_at = time.perf_counter()
                write_s = saved_at - now
            yield row
            if stop:
                raise Stopped
            lap = time.perf_counter()

    def _check(self, epoch: Epoch) -> None:
        before = self.epochs[-1]["epoch"] if self.epochs else 0
        if epoch.index <= before:
            after = f"after epoch {before}" if before else "first"
            raise ValueError(
                f"method {self.trial.method!r} yielded Epoch(index={epoch.index}) {after}. An index is the number of "
                "epochs completed: the first is 1, and every further one is larger."
            )

    def _show(self, epoch: Epoch) -> None:
        """Keeps what the epoch shows. What goes wrong is a note: no number depends on it."""
        if epoch.exhibits is None:
            return
        try:
            exhibits.save(self.job.home.exhibits(self.trial.id), epoch.index, epoch.exhibits())
        except Exception as error:  # a method's own, a full disk: none is worth a trial
            self.notes = (*self.notes, f"what epoch {epoch.index} shows was not kept: {error or type(error).__name__}")

    def _save(self, epoch: Epoch) -> None:
        seconds = self.before_s + time.perf_counter() - self.begun
        state = epoch.state()
        self.captured, self.stateless = epoch.index, not state
        if self.stateless:  # nothing to continue from, so nothing to write
            return
        self.last = Checkpoint(
            self.trial.id, tuple(self.epochs), seconds, self.started, state, self._basis(), self.notes
        )
        checkpoint.save(self.folder, self.last)
        self.copy.saved()

    def _resume(self) -> State | None:
        return dict(self.last.state) if self.last else None

    def _placed(self) -> dict[str, Any]:
        """The config with what it needs named as the method's own types name it."""
        config = dict(self.trial.config)
        for name, ident in self.trial.needs.items():
            Folder(self.job.home, ident).fetch_end()
            other = checkpoint.ended(self.job.home.trial(ident), ident)
            if other is None:
                raise NeedMissing(f"{name} needs trial {ident}, whose end is not in the home")
            config[name] = Needed(other.method, other.config)
        return config

    def _record(self, state: str, reason: str = "", error: str = "") -> Record:
        trial = self.trial
        return Record(
            trial=trial.id,
            method=trial.method,
            config=trial.config,
            data=trial.data,
            seed=trial.seed,
            state=state,  # type: ignore[arg-type]
            reason=reason,
            error=redact(error),
            epochs=tuple(self.epochs),
            attempts=self.attempt,
            seconds=self.before_s + time.perf_counter() - self.begun,
            started=self.started,
            ended=time.time(),
            host=socket.gethostname(),
            provenance=self.provenance,
            notes=tuple(map(redact, self.notes)),
        )


class Stopped(Exception):
    """The driver asked for the trial back; its state after the last epoch is kept."""


class NotFinite(RuntimeError):
    """A metric, not a loss, that is no number: the method measures something undefined."""


@lru_cache(maxsize=32)
def _sent(error: SystemExit) -> bool:
    """Whether a signal's handler of Ray raised it, wherever the method was, and not the method by `sys.exit`."""
    *_, (frame, _line) = traceback.walk_tb(error.__traceback__)
    return str(frame.f_globals.get("__name__", "")).partition(".")[0] in ("ray", "ablate")


def _method(name: str, origin: str) -> Method:
    from trainables import catalogue

    return catalogue.find(name, origin)


@lru_cache(maxsize=4)
def _opened(cache: Path, source: Path | None, download: bool, data: tuple[tuple[str, Any], ...]) -> Any:
    """The data of a trial, kept open for the process's next ones; its arrays are mapped, not copied."""
    from trainables.data_protocols import DataSpec
    from trainables.datasets import open_data

    return open_data(DataSpec(**dict(data)), cache=cache, source=source, download=download)


def _final_state(home: Home, ident: str) -> Mapping[str, Any]:
    found = checkpoint.final_state(home.trial(ident), ident)
    if found is None:
        raise NeedMissing(f"the final state of needed trial {ident} is gone from the home. `resume` trains it again.")
    return found


def _finite(epoch: Epoch) -> dict[str, float]:
    """The epoch's metrics as floats.

    Raises:
        Diverged: a loss is not finite.
        NotFinite: another metric is not.
    """
    metrics = {name: float(value) for name, value in epoch.metrics.items()}
    wrong = {name: value for name, value in metrics.items() if not math.isfinite(value)}
    losses = [name for name in wrong if name.startswith("loss")]
    if losses:
        raise Diverged(f"{losses[0]} is {wrong[losses[0]]} in epoch {epoch.index}")
    for name, value in wrong.items():
        raise NotFinite(f"{name} is {value} in epoch {epoch.index}; a method must leave out what it cannot measure")
    return metrics


class _threads:
    """Sets torch's threads within the block, and gives the process its own back: sums depend on how many add them."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __enter__(self) -> None:
        torch = sys.modules.get("torch")
        self.before = torch.get_num_threads() if torch else None
        if torch and self.before != self.count:
            torch.set_num_threads(self.count)

    def __exit__(self, *exception: object) -> None:
        if self.before is not None and self.before != self.count:
            sys.modules["torch"].set_num_threads(self.before)
