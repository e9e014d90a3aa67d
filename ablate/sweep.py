"""Ray Tune runs hands of trials. The only file that imports Ray; it is the child of `executors.Cluster`.

Tune executes, and nothing more: what a Tune trial is given is a hand, whole; what it says goes to the parent, which
keeps the truth. A new Tuner at every start, actors reused, Tune's loggers off, its snapshots as good as off, never a
restore.

A Tune trial costs 13 to 20 ms, so short trials come several in a hand. A long one is a hand of its own, and its step
ends with an epoch.
"""

import logging
import os
import pickle
import sys
import threading
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import ray

from ablate import processes
from ablate.executors import LATER_S, Resources
from ablate.worker import Hand, Job, Message, play

STEP_S = 0.5
"""A worker reports when it has something to say and so much time has passed since it did."""
WATCH_S = 0.5
MAIN = ("gcs_server", "raylet")
"""The processes that Ray cannot do without."""


def main(connection_fd: int, lifeline_fd: int) -> None:
    """Starts or joins Ray, runs hands until the parent has no more, and dies with the parent."""
    threading.Thread(target=_die_with_parent, args=(lifeline_fd,), daemon=True).start()
    connection = Connection(connection_fd)
    job, resources, address, folder, session = connection.recv()
    # Tune's import takes as long as Ray's own start, which mostly waits for its processes.
    importing = threading.Thread(target=lambda: __import__("ray.tune"), daemon=True)
    importing.start()
    try:
        _start(address, session)
        slots = _slots(resources)
    except TooLittle as error:
        connection.send(("refused", str(error)))
        return
    except (ConnectionError, TimeoutError) as error:
        if address is None:
            raise
        connection.send(("refused", f"the Ray cluster at {address} cannot be reached: {error}"))
        return
    connection.send(("ready", slots))
    importing.join()
    if address is None:
        _take_what_waits()
    _fit(connection, job, resources, slots, folder)
    connection.send(("finished", None))
    if address is not None:
        ray.shutdown()


class TooLittle(ValueError):
    """A trial asks for more than the cluster has."""


def _start(address: str | None, session: Path) -> None:
    if address is not None:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, ignore_reinit_error=True)
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


def _leave_out_what_serves_nobody() -> None:
    """Ray on one machine without a dashboard, autoscaling or logs to read: three processes and 1 to 2 s less.

    `ray.init` has no option for it. Where a release names them otherwise they start as ever.
    """
    from ray._private.node import Node

    for service in ("start_api_server", "start_monitor", "start_log_monitor"):
        setattr(Node, service, lambda _self, **_options: None)


def _slots(resources: Resources) -> int:
    """How many trials fit at a time.

    Raises:
        TooLittle: not one.
    """
    there: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    fit = []
    for name, word, wanted in (("CPU", "CPUs", resources.cpus), ("GPU", "GPUs", resources.gpus)):
        have = there.get(name, 0.0)
        if wanted > have:
            raise TooLittle(
                f"{wanted:g} {word} a trial are asked for, and the cluster has {have:g}. "
                f"Give at most that with --{name.lower()}s-per-trial, or a scale that needs less."
            )
        if wanted > 0:
            fit.append(int(have / wanted + 1e-6))
    return max(1, min([*fit, resources.slots or sys.maxsize]))


def _take_what_waits() -> None:
    """Lets Tune's actors have the processes that Ray started in advance.

    Tune passes some environment variables on to its actors, and an actor with an environment of its own gets a new
    process, a second later. Here they are in Ray's own environment already. Has no effect where Tune lists them
    elsewhere.
    """
    from ray.tune.execution import class_cache

    class_cache.DEFAULT_ENV_VARS, class_cache.ENV_VARS_TO_PROPAGATE = {}, set()


def _fit(connection: Connection, job: Job, resources: Resources, slots: int, folder: Path) -> None:
    from ray import tune

    trainable = tune.with_resources(_crew(), {"cpu": resources.cpus, "gpu": resources.gpus})
    tuner = tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(
            search_alg=_feed(connection, pickle.dumps(job)),
            num_samples=-1,
            scheduler=_mouthpiece(connection),
            max_concurrent_trials=slots,
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


def _name(trial: Any) -> str:
    return f"hand-{trial.trial_id}"


def _crew() -> type:
    """The worker as Tune wants it. Made here because the base class costs Tune's import."""
    from ray import tune

    class Crew(tune.Trainable):
        """Plays one hand after another in one process."""

        def setup(self, config: dict[str, Any]) -> None:
            self.take_up(config)

        def reset_config(self, new_config: dict[str, Any]) -> bool:
            self.cleanup()
            self.take_up(new_config)
            return True

        def take_up(self, config: dict[str, Any]) -> None:
            self.playing: Iterator[Message] = play(pickle.loads(config["hand"]), pickle.loads(config["job"]))

        def step(self) -> dict[str, Any]:
            said, begun = [], time.perf_counter()
            for message in self.playing:
                said.append(message)
                if time.perf_counter() - begun >= STEP_S:
                    return {"said": pickle.dumps(said), "done": False}
            return {"said": pickle.dumps(said), "done": True}

        def cleanup(self) -> None:
            self.playing.close()  # type: ignore[attr-defined]

    return Crew


def _feed(connection: Connection, job: bytes) -> Any:
    """Tune's searcher: asks the parent."""
    from ray.tune.search import Searcher

    class Feed(Searcher):
        def __init__(self) -> None:
            super().__init__()
            self.live: set[str] = set()

        def suggest(self, trial_id: str) -> Any:
            connection.send(("take", None))
            hand: Hand | None = connection.recv()
            if hand is None:
                return str(Searcher.FINISHED)
            if not hand.trials:
                if not self.live:
                    time.sleep(LATER_S)
                return None
            self.live.add(trial_id)
            return {"number": hand.number, "hand": pickle.dumps(hand), "job": job}

        def on_trial_complete(self, trial_id: str, *_rest: Any, **_more: Any) -> None:
            self.live.discard(trial_id)

        def save(self, checkpoint_path: str) -> None:
            """Nothing of it is needed again."""

        def restore(self, checkpoint_path: str) -> None:
            """Never called: a new one is made at every start."""

    return Feed()


def _mouthpiece(connection: Connection) -> Any:
    """Passes on what workers say, and that one is lost; schedules as Tune would.

    A scheduler, not a callback: at the first callback Tune imports the loggers that it knows of, MLflow's too (0.8 s).
    """
    from ray.tune.schedulers import FIFOScheduler

    class Mouthpiece(FIFOScheduler):
        def on_trial_result(self, _controller: Any, _trial: Any, result: dict[str, Any]) -> str:
            connection.send(("said", result["said"]))
            return FIFOScheduler.CONTINUE

        def on_trial_complete(self, _controller: Any, _trial: Any, result: dict[str, Any]) -> None:
            connection.send(("said", result["said"]))

        def on_trial_error(self, _controller: Any, trial: Any) -> None:
            error = trial.get_error()
            why = f"{type(error).__name__}: {error}".strip() if error else "the worker went away"
            connection.send(("lost", (trial.config["number"], why[:2000])))

    return Mouthpiece()  # type: ignore[no-untyped-call]


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


def _end(code: int) -> None:
    """All that was started here is of this process's own session."""
    if os.getsid(0) == os.getpid():
        processes.end_session(os.getpid())
    os._exit(code)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
