"""Ray Tune runs hands of trials: the child of `executors.Cluster`. With `census` the only file that imports Ray.

Tune executes, and nothing more: what a Tune trial is given is a hand, whole; what it says goes to the parent, which
keeps the truth. A new Tuner at every start, actors reused, Tune's loggers off, its snapshots as good as off, never a
restore.

A Tune trial costs 13 to 20 ms, so short trials come several in a hand. A long one is a hand of its own, and its step
ends with an epoch.
"""

import json
import logging
import os
import pickle
import re
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import ray

from ablate import nodes, parcel, processes
from ablate.census import LOOK_S, Census, Demand, survey
from ablate.executors import LATER_S, Lost
from ablate.messages import Back, Began, Hand, Job, Message, Place
from ablate.nodes import Question
from ablate.worker import play

STEP_S = 0.5
"""A worker reports when it has something to say and so much time has passed since it did; at once where it is."""
WATCH_S = 0.5
DEATH_S = 3.0
"""A worker's death is known to the cluster's head within a second, on a busy machine a little later."""
JOINING = (
    "All machines need the same Ray; where a cluster asks for its token, RAY_AUTH_MODE=token and RAY_AUTH_TOKEN or "
    "RAY_AUTH_TOKEN_PATH must be set here too."
)
STRANDED_S = 300.0
"""A worker begins within a minute of there being room, also on a machine whose cores others hold."""
PASSED = ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_REGION", "AWS_DEFAULT_REGION")
"""Of our environment workers get what says where an object store is. Never what is secret: Ray shows it to all."""
MAIN = ("gcs_server", "raylet")
"""The processes that Ray cannot do without."""


def main(connection_fd: int, lifeline_fd: int) -> None:
    """Starts or joins Ray, runs hands until the parent has no more, and dies with the parent."""
    threading.Thread(target=_die_with_parent, args=(lifeline_fd,), daemon=True).start()
    connection = Connection(connection_fd)
    job, wanted, address, folder, session = connection.recv()
    # Tune's import takes as long as Ray's own start, which mostly waits for its processes.
    importing = threading.Thread(target=lambda: __import__("ray.tune"), daemon=True)
    importing.start()
    try:
        _start(address, session, job, folder)
        if isinstance(wanted, Question):
            connection.send(("seen", survey(_about_home(wanted, job, folder))))
            return
        census = Census(wanted, _about_home(Question(), job, folder) if address else None)
        if not census.slots and not wanted.elastic:
            raise TooLittle(census.too_little())
    except (TooLittle, parcel.TooLarge) as error:
        connection.send(("refused", str(error)))
        return
    except (ConnectionError, TimeoutError, ray.exceptions.AuthenticationError) as error:
        if address is None:
            raise
        connection.send(("refused", f"the Ray cluster at {address} cannot be joined: {error}. {JOINING}"))
        return
    connection.send(("ready", census.slots))
    importing.join()
    if address is None:
        _take_what_waits()
    else:
        threading.Thread(target=_die_with_use, args=(census,), daemon=True).start()
    _fit(connection, job, census, folder)
    connection.send(("finished", None))
    if address is not None:
        ray.shutdown()


def _about_home(question: Question, job: Job, folder: Path) -> Question:
    """Asks also for what a node must see to take part: the home."""
    if job.home.remote:
        return replace(question, store=job.home.remote)
    (folder / nodes.TOKEN).touch()
    return replace(question, folder=folder)


class TooLittle(ValueError):
    """A trial asks for more than the cluster has."""


def _start(address: str | None, session: Path, job: Job, folder: Path) -> None:
    if address is not None:
        ray.init(
            address=address,
            log_to_driver=False,
            logging_level=logging.ERROR,
            ignore_reinit_error=True,
            runtime_env=_environment(parcel.pack(job.origin, folder / "code")),
        )
        return
    _leave_out_what_serves_nobody()
    ray.init(
        address="local",
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        object_store_memory=80 * 2**20,
        _node_ip_address="127.0.0.1",
        _temp_dir=str(session),
    )
    threading.Thread(target=_die_with_ray, daemon=True).start()


def _environment(modules: list[str]) -> dict[str, Any]:
    """What workers find on their nodes: our code, what a submitted job brought, and where an object store is."""
    submitted = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR") or "{}").get("runtime_env") or {}
    passed = {name: value for name in PASSED if (value := os.environ.get(name))}
    return {
        "py_modules": [*modules, *submitted.get("py_modules", ())],
        "env_vars": {**submitted.get("env_vars", {}), **passed},
        "excludes": ["__pycache__"],
    }


def _leave_out_what_serves_nobody() -> None:
    """Ray on one machine without a dashboard, autoscaling or logs to read: three processes and 1 to 2 s less.

    `ray.init` has no option for it. Where a release names them otherwise they start as ever.
    """
    from ray._private.node import Node

    for service in ("start_api_server", "start_monitor", "start_log_monitor"):
        setattr(Node, service, lambda _self, **_options: None)


def _take_what_waits() -> None:
    """Lets Tune's actors have the processes that Ray started in advance.

    Tune passes some environment variables on to its actors, and an actor with an environment of its own gets a new
    process, a second later. Here they are in Ray's own environment already. Has no effect where Tune lists them
    elsewhere.
    """
    from ray.tune.execution import class_cache

    class_cache.DEFAULT_ENV_VARS, class_cache.ENV_VARS_TO_PROPAGATE = {}, set()


def _fit(connection: Connection, job: Job, census: Census, folder: Path) -> None:
    from ray import tune

    tuner = tune.Tuner(
        tune.with_resources(_crew(), _placement),
        tune_config=tune.TuneConfig(
            search_alg=_feed(connection, pickle.dumps(job), census),
            num_samples=-1,
            scheduler=_mouthpiece(connection, census),
            reuse_actors=True,
            trial_name_creator=_name,
            trial_dirname_creator=_name,
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=str(folder.resolve()),
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=0),
            checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=0, checkpoint_at_end=False),
        ),
    )
    tuner.fit()


def _placement(config: dict[str, Any]) -> Any:
    """Where the worker of a hand may be, and what it gets there."""
    from ray import tune

    bundle, labels = json.loads(config["place"])
    more: dict[str, Any] = {"bundle_label_selector": [labels]} if labels else {}
    return tune.PlacementGroupFactory([bundle], **more)


def _name(trial: Any) -> str:
    return f"hand-{trial.trial_id}"


def _crew() -> type:
    """The worker as Tune wants it. Made here because the base class costs Tune's import."""
    from ray import tune

    class Crew(tune.Trainable):
        """Plays one hand after another in one process."""

        def setup(self, config: dict[str, Any]) -> None:
            here = ray.get_runtime_context()
            self.place = Place(here.get_node_id(), gpus=tuple(map(str, ray.get_gpu_ids())))
            self.take_up(config)

        def reset_config(self, new_config: dict[str, Any]) -> bool:
            self.cleanup()
            self.take_up(new_config)
            return True

        def take_up(self, config: dict[str, Any]) -> None:
            hand, job = pickle.loads(config["hand"]), pickle.loads(config["job"])
            job = replace(job, origin=parcel.unpacked(job.origin))
            self.playing: Iterator[Message] = play(hand, job, self.place)
            self.single = len(hand.trials) == 1
            if config["token"] and not Path(config["token"]).exists():
                self.playing = _strayed(hand)

        def step(self) -> dict[str, Any]:
            said, begun = [], time.perf_counter()
            for message in self.playing:
                said.append(message)
                if time.perf_counter() - begun >= STEP_S or (self.single and isinstance(message, Began)):
                    return {"said": pickle.dumps(said), "node": self.place.node, "done": False}
            return {"said": pickle.dumps(said), "node": self.place.node, "done": True}

        def cleanup(self) -> None:
            self.playing.close()  # type: ignore[attr-defined]

    return Crew


def _strayed(hand: Hand) -> Iterator[Message]:
    """Of a node that was given a hand before it was found not to see the home."""
    time.sleep(LOOK_S)
    yield Back(tuple(trial.id for trial, _ in hand.trials))


def _feed(connection: Connection, job: bytes, census: Census) -> Any:
    """Tune's searcher: asks the parent, as often as there is room for one more worker."""
    from ray.tune.search import Searcher

    class Feed(Searcher):
        def __init__(self) -> None:
            super().__init__()
            self.live: dict[str, float | None] = {}
            """Tune's trial -> the GPUs of its hand."""
            self.demand, self.behind = Demand(census.resources), 1

        def suggest(self, trial_id: str) -> Any:
            while census.news:
                connection.send(("told", census.news.pop(0)))
            self.demand.want(min(self.behind, (census.resources.slots or sys.maxsize) - census.slots))
            if not census.room(self.live.values()):
                if not self.live:
                    time.sleep(LATER_S)
                return None
            connection.send(("take", None))
            hand: Hand | None = connection.recv()
            self.behind = 0 if hand is None else hand.behind
            if hand is None:
                return str(Searcher.FINISHED)
            if not hand.trials:
                if not self.live:
                    time.sleep(LATER_S)
                return None
            self.live[trial_id] = hand.gpus
            return {"number": hand.number, "hand": pickle.dumps(hand), "job": job} | _where_to(hand, census)

        def on_trial_complete(self, trial_id: str, *_rest: Any, **_more: Any) -> None:
            self.live.pop(trial_id, None)

        def save(self, checkpoint_path: str) -> None:
            """Nothing of it is needed again."""

        def restore(self, checkpoint_path: str) -> None:
            """Never called: a new one is made at every start."""

    return Feed()


def _where_to(hand: Hand, census: Census) -> dict[str, str]:
    """What a hand needs of its node, for `_placement`; and the file by which its worker knows the home."""
    resources, question = census.resources, census.question
    labels = nodes.selector(resources.labels, census.shut(hand.avoid))
    token = str(question.folder / nodes.TOKEN) if question is not None and question.folder is not None else ""
    return {"place": json.dumps([resources.bundle(hand.gpus), labels]), "token": token}


def _mouthpiece(connection: Connection, census: Census) -> Any:
    """Passes on what workers say, and that one is lost; schedules as Tune would.

    A scheduler, not a callback: at the first callback Tune imports the loggers that it knows of, MLflow's too (0.8 s).
    """
    from ray.tune.schedulers import FIFOScheduler

    class Mouthpiece(FIFOScheduler):
        def __init__(self) -> None:
            super().__init__()  # type: ignore[no-untyped-call]
            self.since: dict[str, float] = {}
            """Tune's trial that waits for a place -> since when."""

        def on_trial_result(self, _controller: Any, _trial: Any, result: dict[str, Any]) -> str:
            connection.send(("said", result["said"]))
            return FIFOScheduler.CONTINUE

        def on_trial_complete(self, _controller: Any, _trial: Any, result: dict[str, Any]) -> None:
            connection.send(("said", result["said"]))

        def choose_trial_to_run(self, controller: Any) -> Any:
            """The same choice as of the base class, which looks through all trials that ever were."""
            live = controller.get_live_trials()
            waiting = [trial for trial in live if trial.status == "PENDING"]
            self._forget_the_stranded(waiting, len(live) - len(waiting))
            return min(waiting, key=lambda trial: trial.config["number"], default=None)

        def _forget_the_stranded(self, waiting: list[Any], running: int) -> None:
            """A hand may wait for nodes that are gone, however much room there is by now: then all starts anew."""
            now = time.monotonic()
            self.since = {trial.trial_id: self.since.get(trial.trial_id, now) for trial in waiting}
            if running < census.slots and any(now - since > STRANDED_S for since in self.since.values()):
                sys.stderr.write("a trial's place in the cluster went before it began\n")
                sys.stderr.flush()
                _end(1)

        def on_trial_error(self, _controller: Any, trial: Any) -> None:
            error = _error_of(trial)
            why = f"{type(error).__name__}: {error}".strip() if error else "the worker went away"
            node, died = _where(trial, error, census)
            connection.send(("told", Lost(trial.config["number"], why[:2000], node, died)))

    return Mouthpiece()


def _error_of(trial: Any) -> Exception | None:
    """What Tune has just written of it beside its results; `get_error` looks where it will be copied to later."""
    try:
        return pickle.loads(Path(trial.pickled_error_file).read_bytes())  # type: ignore[no-any-return]
    except Exception:  # no such file, or an exception of a class that is not here
        return None


def _where(trial: Any, error: Exception | None, census: Census) -> tuple[str, bool]:
    """The node that a lost worker was on, and whether the node, or the way to it, is gone rather than the worker."""
    if not isinstance(error, ray.exceptions.RayActorError):
        return trial.last_result.get("node", ""), False
    named = re.search(r"\bip: (\S+)", str(error))
    place = trial.last_result.get("node") or (named and named.group(1)) or _host(error)
    node, gone = census.gone(place, error.preempted)
    return node, gone or (isinstance(error, ray.exceptions.ActorUnavailableError) and _lives(error))


def _host(error: ray.exceptions.RayActorError) -> str:
    """Id of the node of a worker that had said nothing yet, as the cluster's head has it; empty: it has not."""
    node = str(_known(error).get("Address", {}).get("NodeID", ""))
    return "" if not node.strip("f") else node


def _lives(error: ray.exceptions.RayActorError) -> bool:
    """Whether the worker is there although nothing comes from it: its cable was pulled, and no node is missed yet."""
    deadline = time.monotonic() + DEATH_S
    while (lives := _known(error).get("State") == "ALIVE") and time.monotonic() < deadline:
        time.sleep(WATCH_S)
    return lives


def _known(error: ray.exceptions.RayActorError) -> dict[str, Any]:
    """What the cluster's head has of the worker."""
    from ray._private import state

    return state.actors(error.actor_id) if error.actor_id else {}


def _die_with_parent(lifeline_fd: int) -> None:
    """Blocks until the parent is gone, or lets go; then this process ends at once, and Ray's with it."""
    os.read(lifeline_fd, 1)
    _end(0)


def _die_with_ray() -> None:
    """Ends this process soon after one of Ray's main processes; else Tune may wait for it for ever."""
    ours = [process for process in processes.every() if process.parent == os.getpid() and process.name in MAIN]
    while all(processes.look(process.pid) == process for process in ours):
        time.sleep(WATCH_S)
    gone = [process.name for process in ours if processes.look(process.pid) != process]
    sys.stderr.write(f"{gone[0]} is gone\n")
    sys.stderr.flush()
    _end(1)


def _die_with_use(census: Census) -> None:
    """Ends this process when the cluster has no more use for it, so that the parent starts another."""
    census.watch()
    sys.stderr.write("no node of the cluster carries a trial any more, or it forgot this one\n")
    sys.stderr.flush()
    _end(1)


def _end(code: int) -> None:
    """All that was started here is of this process's own session."""
    if os.getsid(0) == os.getpid():
        processes.end_session(os.getpid())
    os._exit(code)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
