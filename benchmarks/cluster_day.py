"""A bad day of a cluster, in minutes: what the sweep lost, and whether its frame is the undisturbed one.

    python -m benchmarks.cluster_day [--study day] [--minute 60] [--home DIR]

Three Ray nodes of two CPUs each, a head that trains nothing and the machine of the person who asks, each with an
address of its own (`ray_nodes`); MLflow's server; a PostgreSQL for Optuna; an S3-compatible object store as home, which
fails one request in five all day. While the sweep runs, in this order: a worker node is killed; a node joins; a node's
network is cut for half a minute (where nodes have networks of their own); MLflow, then PostgreSQL are down for a
minute; the head is killed and started again; the driver is killed, and `resume` goes on. All day long nodes that gave
up without their head are started again, as whatever runs a cluster does.

At the end: every trial ended once in the log, MLflow and Optuna have each once and nothing RUNNING, the frame equals
that of an undisturbed in-process sweep bit for bit (volatile columns aside), and no process of ours is left.
"""

import argparse
import contextlib
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

from ablate import processes
from ablate.driver import run
from ablate.execution import Options
from ablate.home import Home
from ablate.plan import Plan, plan
from benchmarks import kill_sweep, ray_nodes, services
from tests.ablate import s3, walks
from trainables import origin

WORKERS = ("a", "b", "c")
SHARE = 0.2
"""Of the object store's requests that fail."""
LIMIT_S = 3600.0
PARTING_S = 60.0
"""What a killed driver started is gone by then, or is ended."""


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
    """How long servers are down, in seconds."""
    cut_s: float
    """How long a node is cut off."""
    cpus: int
    """Of a node, a trial on each."""
    limit_s: float
    """By then the day is over, or failed."""
    driver: "subprocess.Popen[bytes] | None" = None
    story: list[str] = field(default_factory=list)
    begun: float = field(default_factory=time.monotonic)
    starts: int = 0
    away: set[str] = field(default_factory=set)
    """Nodes that were taken away: nobody starts them."""

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

    def join(self, name: str, cpus: int, *, wait: bool = True) -> None:
        """A node with a disk of its own."""
        self._own_disk(name)
        self.cluster.join(name, cpus=cpus, wait=wait)

    def restart(self, name: str, *, wait: bool = True) -> None:
        """The same node again, its disk as it was."""
        self._own_disk(name)
        self.cluster.restart(name, wait=wait)
        self.away.discard(name)

    def take_away(self, name: str) -> None:
        """The node's power goes."""
        self.away.add(name)
        self.cluster.kill(name)

    def supervise(self) -> None:
        """Starts nodes again that gave up, as whatever runs a cluster does; one that does not start is tried again."""
        gone = [name for name in self.cluster.nodes if name not in self.away and self.cluster.gone(name)]
        for name in gone:
            self.restart(name, wait=False)
        for name in gone:
            with contextlib.suppress(RuntimeError):
                self.cluster.await_up(name)
                self.say(f"node {name} had given up and was started again")

    def _own_disk(self, name: str) -> None:
        self.cluster.environment["ABLATE_CACHE"] = str(self.folder / "disks" / name)

    def ended(self) -> int:
        """Trials that the driver's copy of the log has as ended."""
        return sum(path.read_bytes().count(b'{"kind":"ended"') for path in self.folder.glob("disks/desk/*/log/*.jsonl"))

    def wait(self, count: int) -> None:
        """Until so many trials have ended.

        Raises:
            AssertionError: the driver ended before, or nothing moves.
        """
        while self.ended() < count:
            assert self._running(), f"the driver ended: {self.last_words()}"

    def finish(self) -> None:
        """Until the driver has ended.

        Raises:
            AssertionError: it failed, or nothing moves.
        """
        while self._running():
            pass
        assert self.driver is not None
        assert self.driver.returncode == 0, self.last_words()

    def _running(self) -> bool:
        """Whether the driver still is, a little later."""
        assert self.driver is not None
        assert time.monotonic() - self.begun < self.limit_s, f"not over in {self.limit_s:g} s: {self.last_words()}"
        self.supervise()
        time.sleep(0.2)
        return self.driver.poll() is None

    def last_words(self) -> str:
        """How far it came, and what the driver said."""
        story = "; ".join(self.story)
        said = (self.folder / "driver.output").read_text()[-3000:]
        return f"{self.ended()} of {len(self.whole.trials)} trials; {story}\n{said}"


# --- What happens on that day ---------------------------------------------------------------------------------------


def a_node_dies(day: Day) -> None:
    """And does not come back."""
    day.take_away("a")
    day.say("node a killed")


def a_node_joins(day: Day) -> None:
    """One more of the same kind."""
    day.join("d", day.cpus)
    day.say("node d joined")


def a_cable_is_pulled(day: Day) -> None:
    """For some time: nothing goes in or out, and nobody is told. Needs nodes with networks of their own."""
    day.cluster.cut("b")
    time.sleep(day.cut_s)
    day.cluster.mend("b")
    day.say(f"node b cut off for {day.cut_s:g} s")


def tracking_is_down(day: Day) -> None:
    """MLflow's server is killed, and takes its time to come back."""
    day.tracker.kill()
    time.sleep(day.minute)
    day.tracker.start(wait=False)
    day.say(f"MLflow down for {day.minute:g} s, now starting")


def the_database_is_down(day: Day) -> None:
    """PostgreSQL goes with all connections."""
    day.database.kill()
    time.sleep(day.minute)
    day.database.start()
    day.say(f"PostgreSQL down for {day.minute:g} s")


def the_head_goes(day: Day) -> None:
    """And comes back ten seconds later, having forgotten everything: nodes that knew it give up, now or soon."""
    day.take_away("head")
    time.sleep(day.minute / 6)
    day.restart("head")
    day.say("head killed and started again")


def the_driver_is_killed(day: Day) -> None:
    """SIGKILL, once the sweep has gone on after what was before; somebody says `resume`."""
    day.wait(day.ended() + 1)
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


def undisturbed(whole: Plan, home: Home) -> None:
    """The same sweep in this process, where walks do not pause: no number comes from a clock."""
    with mock.patch.object(origin.module(whole.study.origin), "time", SimpleNamespace(sleep=lambda _seconds: None)):
        run(whole, Options(home=home, local=True))


@contextlib.contextmanager
def beginning(
    folder: Path,
    whole: Plan,
    minute: float,
    *,
    cut_s: float,
    workers: Sequence[str] = WORKERS,
    cpus: int = 2,
    limit_s: float = LIMIT_S,
    isolated: bool | None = None,
    settings: Mapping[str, str] | None = None,
) -> Iterator[Day]:
    """Everything up, nothing asked yet; in the end nothing of it is left, however it ends.

    Args:
        folder: for all that it keeps.
        whole: the sweep.
        minute: how long servers are down, in seconds.
        cut_s: how long a node is cut off.
        workers: names of the nodes there are at first.
        cpus: of each, a trial on each.
        limit_s: how long it may take.
        isolated: nodes have networks of their own (default: where they may).
        settings: of Ray, as environment variables of every node.

    Raises:
        AssertionError: all went well, and yet something outlived it.
    """
    try:
        with contextlib.ExitStack() as held:
            cluster = held.enter_context(ray_nodes.Cluster(isolated=isolated, environment=settings))
            store, tracker, database = _servers(held, folder, cluster)
            day = Day(cluster, store, tracker, database, folder, whole, minute, cut_s, cpus, limit_s)
            cluster.head()
            for name in workers:
                day.join(name, cpus, wait=False)
            day.join("desk", 0, wait=False)
            tracker.start()  # meanwhile
            cluster.await_up(*workers, "desk")
            store.plan(share=SHARE)
            held.callback(_kill_driver, day)
            yield day
    except BaseException:
        _end_what_is_left(folder)
        raise
    assert not orphans(folder), "something of it is still running"


def _servers(
    held: contextlib.ExitStack, folder: Path, cluster: ray_nodes.Cluster
) -> tuple[s3.S3, services.MLflow, services.PostgreSQL]:
    """The object store and PostgreSQL, up; MLflow's server, to be started. The nodes will have the store's key."""
    store = held.enter_context(s3.serving(cluster.gateway))
    store.bucket("day")
    cluster.environment |= store.environment  # keys do not travel
    (folder / "mlflow").mkdir(parents=True)
    tracker = services.MLflow(folder / "mlflow", cluster.gateway)
    held.callback(tracker.kill)
    # As root PostgreSQL is another user, who may lose its way into the folder when the next pytest begins.
    return store, tracker, held.enter_context(services.postgresql(cluster.folder / "postgresql"))


def _kill_driver(day: Day) -> None:
    if day.driver is not None and day.driver.poll() is None:
        os.killpg(day.driver.pid, 9)
        day.driver.wait()


def _end_what_is_left(folder: Path) -> None:
    """Of a day that failed; what a killed driver started ends by itself in time."""
    deadline = time.monotonic() + PARTING_S
    while orphans(folder) and time.monotonic() < deadline:
        time.sleep(0.2)
    for pid in orphans(folder):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, 9)


def orphans(folder: Path) -> list[int]:
    """Processes that still have to do with what ran in the folder."""
    found = []
    for process in processes.every():
        with contextlib.suppress(OSError):
            place = Path("/proc") / str(process.pid)
            if process.pid != os.getpid() and str(folder).encode() in (place / "environ").read_bytes():
                found.append(process.pid)
    return found


def live(day: Day, events: tuple[tuple[float, Callable[[Day], None]], ...] = DAY) -> None:
    """Runs the sweep through the events to its end.

    Raises:
        AssertionError: the driver failed, or the limit is over.
    """
    day.begun = time.monotonic()
    day.start("run")
    for share, event in events:
        if event is not a_cable_is_pulled or day.cluster.isolated:
            day.wait(math.ceil(share * len(day.whole.trials)))
            event(day)
    day.finish()
    day.say(f"all {len(day.whole.trials)} trials done")


def main() -> None:
    """See the top of the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", choices=("day", "hour"), default="day", help="60 trials of 48 s, or 16 of 7 s")
    parser.add_argument("--minute", type=float, default=60.0, help="how long servers are down, in seconds")
    parser.add_argument("--home", type=Path, help="kept; default: a temporary folder")
    args = parser.parse_args()
    folder = args.home or Path(tempfile.mkdtemp(prefix="day-"))
    same, whole = Home(folder / "undisturbed"), plan(getattr(walks, args.study), "smoke")
    undisturbed(whole, same)
    with beginning(folder, whole, args.minute, cut_s=args.minute / 2) as day:
        live(day)
        day.store.plan()
        os.environ |= day.store.environment | {"ABLATE_CACHE": str(folder / "disks" / "reader")}
        check(day, same)
    print(json.dumps({"story": day.story, "drivers": day.starts, "frame": "equal"}, indent=2))
    if not args.home:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
