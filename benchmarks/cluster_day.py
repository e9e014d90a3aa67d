"""A bad day of a cluster, in minutes: what the sweep lost, and whether its frame is the undisturbed one.

    python -m benchmarks.cluster_day [--study day] [--minute 60] [--home DIR]

Three Ray nodes of two CPUs each, a head that trains nothing and the machine of the person who asks, each with an
address of its own (`ray_nodes`); MLflow's server; a PostgreSQL for Optuna; an S3-compatible object store as home, which
fails one request in five all day. While the sweep runs, in this order: a worker node is killed; a node joins; a node's
network is cut for half a minute; MLflow, then PostgreSQL are down for a minute; the head is killed and started again,
with those nodes that gave up without it; the driver is killed, and `resume` goes on.

At the end: every trial ended once in the log, MLflow and Optuna have each once and nothing RUNNING, the frame equals
that of an undisturbed in-process sweep bit for bit (volatile columns aside), and no process of ours is left.
"""

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ablate import processes
from ablate.driver import run
from ablate.execution import Options
from ablate.home import Home
from ablate.plan import Plan, plan
from benchmarks import kill_sweep, ray_nodes, services
from tests.ablate import s3, walks

WORKERS = ("a", "b", "c")
CPUS = 2
SHARE = 0.2
"""Of the object store's requests that fail."""
LIMIT_S = 3600.0
GIVEN_UP_S = 120.0
"""By then a node that lost its head has given up: Ray lets it after 60 s."""


@dataclass
class Day:
    """All that runs, and what was done to it."""

    cluster: ray_nodes.Cluster
    store: s3.S3
    tracker: services.MLflow
    database: services.PostgreSQL
    folder: Path
    whole: Plan
    minute: float
    driver: "subprocess.Popen[bytes] | None" = None
    story: list[str] = field(default_factory=list)
    begun: float = field(default_factory=time.monotonic)
    starts: int = 0

    @property
    def home(self) -> str:
        """As `--home` takes it."""
        return "s3://day/home"

    def say(self, what: str) -> None:
        """One line of the story, with the second of the day."""
        self.story.append(f"{time.monotonic() - self.begun:.0f} s: {what}")
        print(self.story[-1], flush=True)

    def start(self, command: str) -> None:
        """Starts a driver on the machine of the person who asks."""
        # In the desk's network, but not among its processes: a node that gives up ends those.
        space = self.cluster.nodes["desk"].namespace
        words = ["ip", "netns", "exec", space] if space else []
        words += [sys.executable, "-m", "ablate", command, f"{walks.__file__}:{self.whole.study.name}"]
        words += ["--scale", "smoke", "--home", self.home]
        words += ["--address", self.cluster.address]
        words += ["--mlflow", self.tracker.uri, "--optuna", self.database.url, "--quiet"]
        with (self.folder / "driver.output").open("ab") as output:
            self.driver = subprocess.Popen(
                words, cwd=kill_sweep.ROOT, env=self.environment, stdout=output, stderr=output, start_new_session=True
            )
        self.starts += 1

    @property
    def environment(self) -> dict[str, str]:
        """The driver's: the cluster's token, the store's key."""
        places = {"ABLATE_CACHE": str(self.folder / "disks" / "desk"), "PYTHONPATH": str(kill_sweep.ROOT)}
        return os.environ | self.cluster.credentials | self.store.environment | places

    def join(self, name: str, cpus: int = CPUS) -> None:
        """A node with a disk of its own."""
        self._own_disk(name)
        self.cluster.join(name, cpus=cpus)

    def restart(self, name: str) -> None:
        """The same node again, its disk as it was."""
        self._own_disk(name)
        self.cluster.restart(name)

    def _own_disk(self, name: str) -> None:
        self.cluster.environment["ABLATE_CACHE"] = str(self.folder / "disks" / name)

    def ended(self) -> int:
        """Trials that the driver's copy of the log has as ended."""
        return sum(path.read_bytes().count(b'{"kind":"ended"') for path in self.folder.glob("disks/desk/*/log/*.jsonl"))

    def wait(self, share: float) -> None:
        """Until so large a share of the trials has ended.

        Raises:
            AssertionError: the driver ended before, or nothing moves.
        """
        deadline = time.monotonic() + LIMIT_S
        while self.ended() < share * len(self.whole.trials):
            assert self.driver is not None
            assert self.driver.poll() is None, self.last_words()
            assert time.monotonic() < deadline, f"{self.ended()} trials after {LIMIT_S:g} s"
            time.sleep(0.2)

    def last_words(self) -> str:
        """What the driver said."""
        return (self.folder / "driver.output").read_text()[-3000:]


# --- What happens on that day ---------------------------------------------------------------------------------------


def a_node_dies(day: Day) -> None:
    """Its power goes."""
    day.cluster.kill("a")
    day.say("node a killed")


def a_node_joins(day: Day) -> None:
    """One more of the same kind."""
    day.join("d")
    day.say("node d joined")


def a_cable_is_pulled(day: Day) -> None:
    """For half a minute; where nodes share a network, the node is stopped instead."""
    day.cluster.cut("b")
    time.sleep(day.minute / 2)
    day.cluster.mend("b")
    day.say(f"node b cut off for {day.minute / 2:g} s")
    _revive(day)


def tracking_is_down(day: Day) -> None:
    """MLflow's server is killed."""
    day.tracker.kill()
    time.sleep(day.minute)
    day.tracker.start()
    day.say(f"MLflow down for {day.minute:g} s")


def the_database_is_down(day: Day) -> None:
    """PostgreSQL goes with all connections."""
    day.database.kill()
    time.sleep(day.minute)
    day.database.start()
    day.say(f"PostgreSQL down for {day.minute:g} s")


def the_head_goes(day: Day) -> None:
    """And comes back ten seconds later, having forgotten everything; nodes that gave up are started again."""
    day.cluster.kill("head")
    time.sleep(day.minute / 6)
    day.restart("head")
    day.say("head killed and started again")
    _revive(day)


def the_driver_is_killed(day: Day) -> None:
    """SIGKILL; somebody says `resume`."""
    assert day.driver is not None
    os.killpg(day.driver.pid, 9)
    day.driver.wait()
    day.start("resume")
    day.say("driver killed, resumed")


DAY: tuple[tuple[float, Callable[[Day], None]], ...] = (
    (0.05, a_node_dies),
    (0.12, a_node_joins),
    (0.20, a_cable_is_pulled),
    (0.35, tracking_is_down),
    (0.50, the_database_is_down),
    (0.65, the_head_goes),
    (0.80, the_driver_is_killed),
)
"""From which share of the trials on, what."""


def _revive(day: Day) -> None:
    """Starts nodes again that gave up without a head, as whatever runs a cluster does; node a stays dead."""
    deadline = time.monotonic() + GIVEN_UP_S
    while time.monotonic() < deadline and day.ended() < len(day.whole.trials):
        for name in day.cluster.nodes:
            if name not in ("a", "head") and day.cluster.gone(name):
                day.restart(name)
                day.say(f"node {name} started again")
        time.sleep(1)


# --- Whether anything is left of it ----------------------------------------------------------------------------------


def check(day: Day, undisturbed: Home) -> None:
    """Nothing lost, nothing twice, the same bits, nothing left RUNNING.

    Raises:
        AssertionError: naming what differs.
    """
    from ablate import request

    disturbed = request.opened(day.home)
    kill_sweep.check(disturbed, undisturbed, day.whole, sinks=False)
    kill_sweep.check_mlflow(day.tracker.folder / "mlflow.db", day.whole)
    kill_sweep.check_optuna(day.database.url, day.whole)


@contextlib.contextmanager
def beginning(folder: Path, whole: Plan, minute: float, workers: Sequence[str] = WORKERS) -> Iterator[Day]:
    """Everything up, nothing asked yet."""
    with contextlib.ExitStack() as held:
        cluster = held.enter_context(ray_nodes.Cluster())
        store = held.enter_context(s3.serving(cluster.gateway))
        store.bucket("day")
        tracker = held.enter_context(services.mlflow(_made(folder / "mlflow"), cluster.gateway))
        database = held.enter_context(services.postgresql(folder / "postgresql"))
        cluster.environment |= store.environment  # keys do not travel: each node has its own
        day = Day(cluster, store, tracker, database, folder, whole, minute)
        cluster.head()
        for name in workers:
            day.join(name)
        day.join("desk", cpus=0)
        store.plan(share=SHARE)
        try:
            yield day
        finally:
            if day.driver is not None and day.driver.poll() is None:
                os.killpg(day.driver.pid, 9)


def orphans(folder: Path) -> list[int]:
    """Processes that still have to do with what ran in the folder."""
    found = []
    for process in processes.every():
        with contextlib.suppress(OSError):
            place = Path("/proc") / str(process.pid)
            if process.pid != os.getpid() and str(folder).encode() in (place / "environ").read_bytes():
                found.append(process.pid)
    return found


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder


def live(day: Day, events: tuple[tuple[float, Callable[[Day], None]], ...] = DAY) -> None:
    """Runs the sweep through the events to its end.

    Raises:
        AssertionError: the driver failed.
    """
    day.begun = time.monotonic()
    day.start("run")
    for share, event in events:
        day.wait(share)
        event(day)
    assert day.driver is not None
    assert day.driver.wait(LIMIT_S) == 0, day.last_words()
    day.say(f"all {len(day.whole.trials)} trials done")


def main() -> None:
    """See the top of the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", choices=("day", "hour"), default="day", help="60 trials of 48 s, or 12 of 5 s")
    parser.add_argument("--minute", type=float, default=60.0, help="how long servers are down, in seconds")
    parser.add_argument("--home", type=Path, help="kept; default: a temporary folder")
    args = parser.parse_args()
    folder = args.home or Path(tempfile.mkdtemp(prefix="day-"))
    undisturbed = Home(folder / "undisturbed")
    whole = plan(getattr(walks, args.study), "smoke")
    # They sleep, so twenty share a core.
    run(whole, Options(home=undisturbed, cpus_per_trial=0.1))
    with beginning(folder, whole, args.minute) as day:
        live(day)
        day.store.plan()
        os.environ |= day.store.environment | {"ABLATE_CACHE": str(folder / "disks" / "reader")}
        check(day, undisturbed)
    assert not orphans(folder), "something of it is still running"
    print(json.dumps({"story": day.story, "drivers": day.starts, "frame": "equal"}, indent=2))
    if not args.home:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
