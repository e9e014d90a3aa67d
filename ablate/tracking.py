"""MLflow: a projection of the log, made by a process of its own that trails the driver. The only file importing mlflow.

The driver only writes its log. `start` spawns ``python -m ablate.tracking``, which reads the log as it grows and keeps
MLflow in step: one experiment a study, one parent run a sweep, one child a trial. Training never waits for it: if the
server goes away, the log keeps all records and they are delivered when it is back, or by `sync`, which does the same
from the first line on and can be repeated at will. What a run is to hold follows from the log alone
(`ablate.projection`); a run that is there and differs is mended or replaced, so any crash leaves one child a trial.
"""

import contextlib
import fcntl
import json
import logging
import math
import os
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ablate import notes, projection, running
from ablate.follower import Delivered, Follower, Orders, ask, say, spawn
from ablate.home import Home
from ablate.log import CorruptLog
from ablate.masking import redact
from ablate.reach import TrackingError, check, sqlite_path

__all__ = ["Delivered", "Follower", "TrackingError", "attach", "check", "start", "sync"]

LIVE_AFTER = 20.0
"""Seconds after which a running trial is shown with its curve so far; shorter ones appear when they end."""
_LIVE_EVERY = 5.0
_IDLE = 0.2
"""Seconds between two looks at the log."""
_BATCH = 1000
"""Metrics, params and tags that MLflow takes in one call; at most 100 of them params, 100 tags."""


def start(home: Home, sweep: str, uri: str) -> "Follower":
    """Starts the process that trails the sweep's log; returns at once."""
    return Follower(spawn({"do": "follow"}, home, sweep, uri), home, sweep, uri)


def sync(home: Home, sweep: str, uri: str) -> Delivered:
    """Brings MLflow in step with the log, from its first line on; does nothing where nothing is missing.

    Raises:
        TrackingError: `uri` can't be reached, or the sweep's driver is delivering it right now.
    """
    answer = ask({"do": "sync"}, home, sweep, uri)
    if not answer["ok"]:
        raise TrackingError(answer["error"])
    return Delivered(answer["runs"], answer["pending"], answer["error"])


def attach(home: Home, sweep: str, uri: str, folder: Path) -> None:
    """Puts a report's files on the sweep's parent run: as artifacts, its table in the run's description too.

    Raises:
        TrackingError: `uri` can't be reached.
    """
    answer = ask({"do": "attach", "folder": str(folder)}, home, sweep, uri)
    if not answer["ok"]:
        raise TrackingError(answer["error"])


@dataclass
class _Known:
    """A child run that MLflow has."""

    run_id: str
    digest: str
    status: str
    shown: int = 0
    """Last epoch that this process logged while the trial runs."""


class Store:
    """One sweep's runs in MLflow. Every call either did what it says or raised; repeating it is harmless."""

    def __init__(self, sweep: projection.Sweep, uri: str) -> None:
        from mlflow import MlflowClient

        self.sweep = sweep
        self.client = MlflowClient(tracking_uri=uri)
        self.uri = uri
        self.known: dict[str, _Known] = {}
        self.parent = ""
        self.experiment = ""

    def open(self) -> None:
        """Finds or makes the experiment and the parent, and lists the children there are, each trial once."""
        self.experiment = self._experiment()
        self.parent, self.known = "", {}
        for run in self._runs():
            tags = run.data.tags
            known = _Known(run.info.run_id, tags.get("ablate.digest", ""), run.info.status)
            if tags.get("role") == "sweep" and not self.parent:
                self.parent = known.run_id
            elif tags.get("role") == "sweep" or tags.get("trial", "") in self.known:
                self.client.delete_run(known.run_id)  # A request that was answered too late and sent again.
            else:
                self.known[tags.get("trial", "")] = known
        self.describe()
        for trial, known in self.known.items():
            if self.children_of.get(trial) != self.parent:
                self.client.set_tag(known.run_id, "mlflow.parentRunId", self.parent)

    def _runs(self) -> Iterator[Any]:
        self.children_of: dict[str, str] = {}
        query, token = f"tags.`ablate.sweep` = '{self.sweep.ident}'", None
        while True:
            page = self.client.search_runs([self.experiment], query, max_results=1000, page_token=token)
            for run in page:
                self.children_of.setdefault(run.data.tags.get("trial", ""), run.data.tags.get("mlflow.parentRunId", ""))
                yield run
            token = page.token
            if not token:
                return

    def _experiment(self) -> str:
        from mlflow.exceptions import MlflowException

        name = f"ablate/{self.sweep.name.rpartition('@')[0]}"
        found = self.client.get_experiment_by_name(name)
        if found is None:
            place = (self.sweep.home.mlflow_artifacts / name).resolve().as_uri()
            with contextlib.suppress(MlflowException):  # Another sweep of the study made it meanwhile.
                self.client.create_experiment(name, artifact_location=None if self.uri.startswith("http") else place)
            found = self.client.get_experiment_by_name(name)
            assert found is not None
        if found.lifecycle_stage == "deleted":
            self.client.restore_experiment(found.experiment_id)
        wanted = {"mlflow.experimentKind": "custom_model_development"}
        if self.sweep.plan:
            study = self.sweep.plan.study
            wanted["mlflow.note.content"] = projection.cut(notes.experiment(study), 5000)
            wanted["mlflow.experiment.primaryMetric.name"] = projection.name(study.outcome.metric)
        for key, value in wanted.items():
            if found.tags.get(key) != value:
                self.client.set_experiment_tag(found.experiment_id, key, value)
        return str(found.experiment_id)

    def describe(self, state: str = "running", results: Mapping[str, str] | None = None) -> None:
        """Makes the parent run, or brings its tags and status up to date."""
        sweep, standing = self.sweep, self.sweep.standing()
        study, _, scale = sweep.name.rpartition("@")
        tags = {"study": study, "scale": scale, "role": "sweep", "ablate.sweep": sweep.ident, "state": state}
        tags["trials"] = f"{standing.done} done, {standing.failed} failed, {standing.pending} pending"
        tags |= {"mlflow.source.name": "ablate", "mlflow.source.type": "LOCAL"}
        results = dict(results or {})
        table = results.pop("", "")
        if sweep.plan and sweep.launches:
            tags["mlflow.note.content"] = projection.cut(notes.sweep(sweep.plan, sweep.launches[-1], table), 7900)
            for key, value in (sweep.launches[-1].get("provenance") or {}).items():
                if key in ("commit", "dirty") and value not in (None, ""):
                    tags[key] = value if isinstance(value, str) else json.dumps(value)
        if not self.parent:
            run = self.client.create_run(
                self.experiment, start_time=sweep.first_ms, tags=tags, run_name=f"{scale} sweep"
            )
            self.parent = run.info.run_id
            stored, status = tags, "RUNNING"
        else:
            run = self.client.get_run(self.parent)
            stored, status = run.data.tags, run.info.status
            if not table and "### Results" in stored.get(
                "mlflow.note.content", ""
            ):  # An earlier report put them there.
                tags.pop("mlflow.note.content", None)
        self._tag(self.parent, {**tags, **results}, stored)
        wanted = {"running": "RUNNING", "done": "FINISHED", "failed": "FAILED", "interrupted": "KILLED"}[state]
        if wanted != "RUNNING":
            self.client.set_terminated(self.parent, wanted, sweep.last_ms)
        elif status != "RUNNING":
            self.client.update_run(self.parent, status="RUNNING")

    def deliver(self, run: projection.Run) -> None:
        """Makes the child run of a trial, or makes the one that is there what it should be."""
        known = self.known.get(run.trial)
        if known and known.digest == run.digest and known.status == run.status:
            return
        if known is None:
            self._create(run)
        elif not self._mend(known, run):
            self.client.delete_run(known.run_id)
            del self.known[run.trial]
            self._create(run)

    def show(self, run: projection.Run) -> None:
        """Brings the child of a running trial up to date."""
        known = self.known.get(run.trial)
        if known is None or known.status != "RUNNING" or not known.shown:
            self.deliver(run)
            self.known[run.trial].shown = max((row["epoch"] for row in run.epochs), default=0)
            return
        new = [point for point in run.points if point.epoch > known.shown]
        self._log(known.run_id, {}, new)
        known.shown = max((point.epoch for point in new), default=known.shown)

    def attach(self, folder: Path, results: Mapping[str, str], state: str) -> None:
        """A report's files on the parent; its table and means in the parent's description and tags."""
        self.client.log_artifacts(self.parent, str(folder))
        self.describe(state, results)

    def _create(self, run: projection.Run) -> None:
        tags = {**run.tags, "mlflow.parentRunId": self.parent, "ablate.digest": run.digest}
        made = self.client.create_run(
            self.experiment, start_time=int(run.start * 1000), tags=tags, run_name=run.name
        ).info.run_id
        self.known[run.trial] = known = _Known(made, run.digest, "RUNNING")
        self._fill(known, run, run.params, list(run.points))

    def _mend(self, known: _Known, run: projection.Run) -> bool:
        """Adds to a run what it lacks; False where it holds something that it shouldn't."""
        stored = self.client.get_run(known.run_id)
        held, wanted = stored.data.params, {_key(point): point for point in run.points}
        there = set()
        for name in stored.data.metrics:
            for metric in self.client.get_metric_history(known.run_id, name):
                there.add((name, metric.step, metric.timestamp, repr(float(metric.value))))
        if stored.info.start_time != int(run.start * 1000) or not there <= set(wanted):
            return False
        if any(name not in run.params or run.params[name] != value for name, value in held.items()):
            return False
        for key in ("reason", "error", "infinite", "also"):
            if key in stored.data.tags and key not in run.tags:
                self.client.delete_tag(known.run_id, key)
        if stored.info.run_name != run.name:
            self.client.update_run(known.run_id, name=run.name)
        self._tag(known.run_id, {**run.tags, "ablate.digest": run.digest}, stored.data.tags)
        params = {name: value for name, value in run.params.items() if name not in held}
        self._fill(known, run, params, [point for key, point in wanted.items() if key not in there])
        return True

    def _fill(
        self, known: _Known, run: projection.Run, params: Mapping[str, str], points: list[projection.Point]
    ) -> None:
        """Params, metrics, dataset, traceback; the status last, since a final one says that all the rest is there."""
        self._log(known.run_id, params, points)
        if run.data_digest:
            self.client.log_inputs(known.run_id, [_dataset(run)])
        if run.error:
            self._artifact(known.run_id, run.error)
        if run.end is not None:
            self.client.set_terminated(known.run_id, run.status, int(run.end * 1000))
        elif known.status != "RUNNING":
            self.client.update_run(known.run_id, status="RUNNING")
        known.status, known.digest = run.status, run.digest

    def _artifact(self, run_id: str, error: str) -> None:
        """The traceback as a file; its end is in the description too, for servers whose artifacts we can't write."""
        from mlflow.exceptions import MlflowException

        with contextlib.suppress(MlflowException, OSError, ImportError):
            self.client.log_text(run_id, error, "traceback.txt")

    def _log(self, run_id: str, params: Mapping[str, str], points: list[projection.Point]) -> None:
        from mlflow.entities import Metric, Param

        settings = [Param(name, value) for name, value in params.items()]
        metrics = [Metric(point.name, point.value, point.time_ms, point.epoch) for point in points]
        while settings or metrics:
            some, settings = settings[:100], settings[100:]
            room = _BATCH - len(some)
            batch, metrics = metrics[:room], metrics[room:]
            self.client.log_batch(run_id, metrics=batch, params=some)

    def _tag(self, run_id: str, tags: Mapping[str, str], stored: Mapping[str, str]) -> None:
        from mlflow.entities import RunTag

        new = [RunTag(key, value) for key, value in tags.items() if stored.get(key) != value]
        for first in range(0, len(new), 100):
            self.client.log_batch(run_id, tags=new[first : first + 100])


def _key(point: projection.Point) -> tuple[str, int, int, str]:
    return (point.name, point.epoch, point.time_ms, repr(point.value))


def _dataset(run: projection.Run) -> Any:
    """The run's data as MLflow's dataset input: our digest (its first 36 digits: MLflow's limit) and specification."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    specification = json.dumps(run.data, sort_keys=True)
    name = f"{run.data.get('protocol', 'data')}/t{run.data.get('split', 0)}"
    dataset = Dataset(name, run.data_digest[:36], "local", specification, profile=specification)
    return DatasetInput(dataset, [InputTag("mlflow.data.context", "training and evaluation")])


class Projector:
    """Keeps a `Store` in step with a log, through outages."""

    def __init__(self, home: Home, sweep: str, uri: str) -> None:
        self.sweep = projection.Sweep(home, sweep)
        self.uri = uri
        self.error = ""
        self._store: Store | None = None
        self._waiting: dict[str, None] = {}
        self._refused: dict[str, str] = {}
        self._launches = 0
        self._shown = 0.0
        self._pause = 0.0
        self._again = 0.0

    @property
    def delivered(self) -> Delivered:
        pending = len(self._waiting) + len(self._refused)
        error = self.error or next(iter(self._refused.values()), "")
        return Delivered(len(self.sweep.records) - pending, pending, error)

    @property
    def settled(self) -> bool:
        """Whether MLflow shows all that the log has, but for what it refuses."""
        return not self._waiting and not self.error and self._store is not None

    def advance(self, now: float, *, budget: float = 0.5) -> None:
        """Reads on and delivers for about `budget` seconds. An outage is noted in `error` and tried again later."""
        for trial in self.sweep.read():
            self._waiting[trial] = None
            self._refused.pop(trial, None)
        if self.sweep.ident and now >= self._again:
            with self._outages(now):
                self._deliver(now, budget)

    def close(self, now: float, *, leaving: bool) -> None:
        """Says of everything still open how it stands; with no driver left (`leaving`) nothing stays RUNNING."""
        if self._store is None:
            return
        with self._outages(now):
            for trial in self.sweep.running(math.inf, 0.0) if leaving else ():
                self._store.deliver(self.sweep.run(trial, leaving=True))
            for trial, known in self._store.known.items() if leaving else ():
                if known.status == "RUNNING" and trial not in self.sweep.records:
                    self._store.client.set_terminated(known.run_id, "KILLED", self.sweep.last_ms)
            self._store.describe(self.sweep.standing().state if leaving else "running")

    def attach(self, folder: Path, now: float) -> None:
        """A report's files on the parent, which keeps its status."""
        with self._outages(now):
            if self._store is not None:
                state = self._store.client.get_run(self._store.parent).data.tags.get("state", "running")
                self._store.attach(folder, _results(folder), state)

    def _deliver(self, now: float, budget: float) -> None:
        from mlflow.exceptions import MlflowException

        if self._store is None:
            store = Store(self.sweep, self.uri)
            store.open()
            self._store = store
        elif len(self.sweep.launches) != self._launches:
            self._store.open()
        if len(self.sweep.launches) != self._launches:  # Names and arms may be others now: look at every run again.
            self._waiting = dict.fromkeys([*self.sweep.records, *self._waiting])
            self._launches = len(self.sweep.launches)
        until = time.monotonic() + budget
        while self._waiting and time.monotonic() < until:
            trial = next(iter(self._waiting))
            if trial in self.sweep.records:
                try:
                    self._store.deliver(self.sweep.run(trial))
                except MlflowException as error:
                    if error.error_code != "INVALID_PARAMETER_VALUE":
                        raise
                    self._refused[trial] = f"MLflow refuses trial {trial}: {_reason(error)}"
            del self._waiting[trial]
        if now - self._shown >= _LIVE_EVERY:
            self._shown = now
            for trial in self.sweep.running(now, LIVE_AFTER):
                self._store.show(self.sweep.run(trial))
            for trial in self.sweep.stopped & self._store.known.keys():
                self._store.deliver(self.sweep.run(trial, leaving=True))

    @contextlib.contextmanager
    def _outages(self, now: float) -> Iterator[None]:
        """Notes that the store can't be reached, and when to try again: after 1, 2, 4, ... 30 seconds."""
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError

        try:
            yield
        except (MlflowException, SQLAlchemyError, OSError) as error:
            self._store = None  # What a lost request did is unknown: look again before the next.
            self._launches = 0
            self._pause = min(30.0, max(1.0, 2 * self._pause))
            self._again = now + self._pause
            self.error = f"{redact(self.uri)}: {_reason(error)}"
        else:
            self.error, self._pause = "", 0.0


def _reason(error: Exception) -> str:
    text = redact(str(error)).strip().splitlines() or [""]
    return f"{type(error).__name__}: {text[0][:300]}"


def _results(folder: Path) -> dict[str, str]:
    """A report's table (under the empty key) and each arm's mean with its interval, as tags."""
    table, findings = folder / "table.md", folder / "findings.json"
    results = {"": table.read_text() if table.exists() else ""}
    if findings.exists():
        known = json.loads(findings.read_text())
        for arm in known["arms"]:
            mean = arm["mean"]
            if mean and mean["estimate"] is not None:
                low, high = (("?" if mean[key] is None else f"{mean[key]:.4f}") for key in ("low", "high"))
                value = f"{mean['estimate']:.4f} [{low}, {high}], n = {arm['n']}"
                results[projection.name(f"{known['outcome']} of {arm['arm']}")] = value
    return results


@contextlib.contextmanager
def _alone(home: Home, sweep: str, patience: float) -> Iterator[bool]:
    """Holds the sweep's place as the one process that projects it; yields False after `patience` seconds in vain."""
    path = home.logs / f"{sweep}.mlflow.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        until, held = time.monotonic() + patience, False
        while not held:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                held = True
            except BlockingIOError:
                if time.monotonic() > until:
                    break
                time.sleep(_IDLE)
        yield held


def _prepare(uri: str) -> None:
    """Makes the SQLite store where there is none, whole or not at all: MLflow's own way is no transaction."""
    if not uri.startswith("sqlite:"):
        return
    path = sqlite_path(uri)
    if path.exists() and path.stat().st_size:
        return
    from mlflow import MlflowClient

    path.parent.mkdir(parents=True, exist_ok=True)
    for rest in ("-journal", "-wal", "-shm"):  # Of a store that was deleted: SQLite would play it into the new one.
        path.with_name(path.name + rest).unlink(missing_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        MlflowClient(f"sqlite:///{beside}").search_experiments(max_results=1)
        with contextlib.suppress(FileExistsError):  # Another sweep of the home was first.
            path.unlink(missing_ok=True) if path.exists() and not path.stat().st_size else None
            os.link(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def _follow(home: Home, job: Mapping[str, Any], orders: Orders) -> None:
    """Trails the log until told to finish, or until the driver is gone."""
    projector, said = Projector(home, job["sweep"], job["uri"]), ""
    with contextlib.ExitStack() as stack:
        held = prepared = False
        while True:
            held = held or _hold(stack, home, job["sweep"])
            if held and not prepared:
                with projector._outages(time.time()):
                    _prepare(job["uri"])
                    prepared = True
            if prepared:
                projector.advance(time.time())
            if projector.error != said:
                said = projector.error
                say(projector.delivered)
            late = orders.deadline is not None and time.monotonic() >= orders.deadline
            if late or (orders.deadline is not None and (projector.settled or not projector.sweep.ident)):
                break
            orders.wait(0.0 if projector._waiting and not projector.error else _IDLE)
        projector.close(time.time(), leaving=True)
        say(projector.delivered, final=True)


def _hold(stack: contextlib.ExitStack, home: Home, sweep: str) -> bool:
    """Tries once for the place of the sweep's projecting process."""
    attempt = contextlib.ExitStack()
    if attempt.enter_context(_alone(home, sweep, 0.0)):
        stack.push(attempt.pop_all())
        return True
    attempt.close()
    return False


def _once(home: Home, job: Mapping[str, Any]) -> None:
    """One pass over the whole log, and the report's files where there are any."""
    sweep = job["sweep"]
    with _alone(home, sweep, 10.0) as held:
        if not held:
            error = f"{sweep}: its driver is delivering to MLflow right now; nothing to do by hand."
            return say(Delivered(0, 0, error), ok=False)
        projector = Projector(home, sweep, job["uri"])
        with projector._outages(time.time()):
            _prepare(job["uri"])
        if not projector.error:
            projector.advance(time.time(), budget=float("inf"))
        if not projector.error and not projector.sweep.ident:
            return say(Delivered(0, 0, f"{sweep}: never ran in {home.root}; nothing to deliver."), ok=False)
        if not projector.error:  # Looking at the parent opened it again.
            leaving = bool(job.get("leaving")) or running.holder(home, sweep) is None
            projector.close(time.time(), leaving=leaving)
        folder = Path(job.get("folder") or home.report(sweep))
        if folder.is_dir() and not projector.error:
            projector.attach(folder, time.time())
        say(projector.delivered, ok=not projector.error)


def _spare_the_disk(home: Home) -> None:
    """No fsync for the store in the home: the log is on disk, and `ablate sync` makes the store anew from it.

    MLflow commits eight times a run; where each waits for a disk, that is most of what tracking costs. A crash of any
    process harms nothing; after a power failure SQLite may find the store damaged. Stores elsewhere stay as they are.
    """
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    inside = str(home.root.resolve()) + os.sep

    def relax(connection: Any, _record: Any) -> None:
        if type(connection).__module__.startswith("sqlite3"):
            file = connection.execute("PRAGMA database_list").fetchone()[2]
            if file.startswith(inside):
                connection.execute("PRAGMA synchronous=OFF")

    event.listen(Engine, "connect", relax)


def main() -> None:
    """Runs the job that comes in by standard input."""
    orders = Orders(sys.stdin.buffer, os.getppid())
    job = orders.job()
    home = Home(Path(job["home"]), job["remote"])
    os.nice(5)
    _spare_the_disk(home)
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(sys.stderr):  # MLflow prints; our standard output carries answers only.
            if job["do"] == "follow":
                _follow(home, job, orders)
            else:
                _once(home, job)
    except (CorruptLog, TrackingError, ImportError) as error:
        say(Delivered(0, 0, f"{job['sweep']}: {_reason(error)}"), ok=False, final=True)


if __name__ == "__main__":
    main()
