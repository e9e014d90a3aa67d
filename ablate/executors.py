"""Two ways to run hands of trials, one contract: messages come out, and hands are taken as workers fall free.

Neither decides anything: what runs next, what is tried again and what is written is the driver's.
"""

import contextlib
import multiprocessing
import os
import pickle
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ablate import processes
from ablate.failures import Spoiled
from ablate.lock import Locked, hold
from ablate.log import Record
from ablate.messages import Hand, Job, Message
from ablate.nodes import Question, Resources, Seen
from ablate.worker import play

Take = Callable[[], Hand | None]
"""Asks the driver for the next hand; one without trials means 'later', None that nothing is left."""

LATER_S = 0.2
"""Pause before asking again when all that is left is trained by another sweep's workers."""
START_S = 900.0
"""Ray starts within about 3 s; on a machine whose cores others hold it was seen to take minutes."""
STOP_S = 5.0
TICK_S = 1.0
"""The driver hears at least so often, if only that nobody said anything: then it looks for orders."""
ANSWER_S = 10.0
AWAY_S = 1800.0
"""How long a cluster's head may be away: a reboot, a machine that has to be found first."""
FIRST_PAUSE_S, LATER_PAUSE_S = 1.0, 10.0
"""Between looks whether it is back."""
KEPT = "Nothing that finished is lost: `resume` continues from the last checkpoints."
RESTARTS = 3
"""How often Ray is started again without a trial having ended in between."""
AWAY = "ablate-"
"""Begins the name of the folder around a session's, which is not in the home but where temporary files are."""
SOCKETS = len(f"/{AWAY}xxxxxxxx/ray/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store")
"""Characters of a socket's name behind the folder of temporary files; it may have 107 in all."""
LOCK = "lock"
"""Held in a sweep's scratch folder by its driver; says where the session's folder is."""


@dataclass(frozen=True)
class Lost:
    """A worker went away with its hand, or (None) all workers with all hands."""

    hand: int | None
    why: str
    node: str = ""
    """Id of the node where it was, where that is known."""
    node_died: bool = False
    """The whole node went, by a preemption or a cut cable: not the doing of the trials on it."""


@dataclass(frozen=True)
class Slots:
    """How many hands run at a time from now on: nodes came or went."""

    count: int
    hosts: tuple[str, ...]
    why: str = ""
    """With none: why no node carries a trial."""


@dataclass(frozen=True)
class Shut:
    """A node of the cluster that gets no hands, because it lacks something."""

    node: str
    host: str
    why: str


class Unavailable(RuntimeError):
    """There is nowhere to train any more. The log and the checkpoints are whole; `resume` continues."""


Said = Message | Lost | Slots | Shut
"""What an executor yields: what workers say, and what becomes of them."""


def of_workers(messages: Iterable[Said]) -> bool:
    """Whether any is a worker's own word: trials go on, then."""
    return not all(isinstance(message, Slots | Shut | Lost) for message in messages)


class Executor(Protocol):
    """Runs hands. A context manager: when the block is left, nothing of it trains any more."""

    job: Job

    def __enter__(self) -> "Executor": ...

    def __exit__(self, *exception: object) -> None: ...

    def slots(self) -> int:
        """How many hands run at a time; returns when workers can begin."""
        ...

    def messages(self, take: Take) -> Generator[list[Said], None, None]:
        """What workers say, several at once where they came together, until `take` gives None."""
        ...

    def stop(self) -> None:
        """Stops the workers now; what they were at is resumable."""
        ...


class InProcess:
    """One trial after another, in the driver's own process."""

    def __init__(self, job: Job) -> None:
        self.job = job

    def __enter__(self) -> "InProcess":
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def slots(self) -> int:
        """One."""
        return 1

    def messages(self, take: Take) -> Generator[list[Said], None, None]:
        """See `Executor`.

        Raises:
            Unavailable: after a fault of its device this process can train no more.
        """
        while (hand := take()) is not None:
            if not hand.trials:
                time.sleep(LATER_S)
            try:
                for message in play(hand, self.job):
                    yield [message]
            except Spoiled as error:
                raise Unavailable(f"{error}. A new process may fare better: `resume` goes on.") from error

    def stop(self) -> None:
        """Nothing runs beside the driver."""


class Refused(ValueError):
    """The options cannot be met (more GPUs than exist, an unreachable cluster or storage); nothing was started."""


class Cluster:
    """Ray Tune, in a process of its own that this one watches over.

    Ray, when one of its processes dies, takes its driver with it or lets it hang. Here that is a child, which is
    started again; the log, the lock and the scheduler are in the parent, which imports neither Ray nor torch.

    The child dies with its parent, however that dies: it holds the reading end of a pipe that closes then.
    """

    def __init__(self, job: Job, resources: Resources, address: str | None, patience_s: float = AWAY_S) -> None:
        """Args: `patience_s`: how long a cluster at an address may be away before that is the end."""
        self.job, self.resources, self.address, self.patience_s = job, resources, address, patience_s
        self.child: _Child | None = None
        self.failures = 0
        self.joined = False
        """The cluster was there once."""
        self.away_since: float | None = None
        self.bare_since: float | None = None
        """Since when no node of an elastic cluster carries a trial."""

    def __enter__(self) -> "Cluster":
        if self.address is not None:
            _require_somebody_at(self.address)
        self.child = self._start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def slots(self) -> int:
        """How many trials the cluster carries at a time. Waits until it is up.

        Raises:
            Refused: a trial asks for more than there is.
            Unavailable: it does not start, or does not come back.
        """
        while True:
            try:
                slots = self._child().ready()
            except (_Died, Refused) as error:
                if isinstance(error, Refused) and not self.joined:
                    raise
                self._restart(str(error))
            else:
                self.joined = True
                return slots

    def messages(self, take: Take) -> Generator[list[Said], None, None]:
        """See `Executor`. When Ray dies every hand is lost, and it is started again while that helps.

        Raises:
            Unavailable: Ray died several times without a trial ending in between, or a cluster stays away.
        """
        while True:
            try:
                for messages in self._child().messages(take):
                    if any(isinstance(message, Record) for message in messages):
                        self.failures = 0
                    if of_workers(messages):
                        self.away_since = None
                    self._note(messages)
                    yield messages
                return
            except _Died as error:
                why = str(error)
            waits = f"; waiting up to {self.patience_s:g} s for the cluster at {self.address}" if self.address else ""
            yield [Lost(None, why + waits)]
            self._restart(why)
            self.slots()

    def _note(self, messages: list[Said]) -> None:
        """Keeps account of how long an elastic cluster has had no node for a trial.

        Raises:
            Unavailable: for too long.
        """
        for message in messages:
            if isinstance(message, Slots):
                self.bare_since = None if message.count else time.monotonic()
        if self.resources.elastic and self.bare_since and time.monotonic() - self.bare_since > self.patience_s:
            waited = f"had no node for a trial for {self.patience_s:g} s, see --patience"
            raise Unavailable(f"the Ray cluster at {self.address} {waited}. {KEPT}")

    def stop(self) -> None:
        """See `Executor`."""
        if self.child is not None:
            self.child.stop()
            self.child = None

    def _child(self) -> "_Child":
        assert self.child is not None
        return self.child

    def _start(self) -> "_Child":
        return _Child(self.job, self.resources, self.address)

    def _restart(self, why: str) -> None:
        self.stop()
        if self.joined and self.address is not None:
            self._await(self.address, why)
        else:
            self.failures += 1
            if self.failures > RESTARTS:
                raise Unavailable(f"Ray went away {self.failures} times without finishing a trial ({why}). {KEPT}")
        self.child = self._start()

    def _await(self, address: str, why: str) -> None:
        """Returns when somebody answers at the address again; nothing has to be known there of what was."""
        pause = LATER_PAUSE_S
        if self.away_since is None:
            self.away_since, pause = time.monotonic(), FIRST_PAUSE_S
        while True:
            time.sleep(pause)
            if time.monotonic() - self.away_since > self.patience_s:
                waited = f"has been away for {self.patience_s:g} s, see --patience"
                raise Unavailable(f"the Ray cluster at {address} {waited} ({why}). {KEPT}")
            if _answers(address):
                return
            pause = min(2 * pause, LATER_PAUSE_S)


def survey(job: Job, address: str, services: tuple[tuple[str, str, int], ...]) -> list[Seen]:
    """What each node of a cluster sees of the job's home and data, and of servers (name, host, port).

    Raises:
        Refused: no cluster is there, or it cannot be joined.
    """
    _require_somebody_at(address)
    child = _Child(job, Question(data=job.data, services=services), address)
    try:
        return child.seen()
    except _Died as error:
        raise Refused(f"the Ray cluster at {address} cannot be asked: {error}") from error
    finally:
        child.stop()


def _require_somebody_at(address: str) -> None:
    """Finds in an instant what Ray would try for minutes.

    Raises:
        Refused: not of an address's form, or nobody listens there.
    """
    if address in ("auto", "local"):
        return
    allowed = (
        "Allowed are auto, host:port of a cluster's head, or no --address and no RAY_ADDRESS for this machine alone."
    )
    host, port = _host_and_port(address)
    if not (host and port.isdigit() and int(port) < 2**16):
        raise Refused(f"{address!r} is no address of a Ray cluster. {allowed}")
    try:
        socket.create_connection((host, int(port)), timeout=ANSWER_S).close()
    except OSError as error:
        raise Refused(f"nobody answers as a Ray cluster at {address}: {error}. {allowed}") from error


def _answers(address: str) -> bool:
    try:
        _require_somebody_at(address)
    except Refused:
        return False
    return True


def _host_and_port(address: str) -> tuple[str, str]:
    host, _, port = address.removeprefix("ray://").rpartition(":")
    return host.strip("[]"), port


class _Died(RuntimeError):
    """The child is gone, or does not answer."""


class _Child:
    """The process that holds Ray (`python -m ablate.sweep`), and the pipes to it."""

    def __init__(self, job: Job, wanted: Resources | Question, address: str | None) -> None:
        """Args: `wanted`: of each trial; or what to ask every node, and nothing else is done."""
        scratch = job.home.scratch
        scratch.mkdir(parents=True, exist_ok=True)
        clear_away(scratch)
        self.folder = Path(tempfile.mkdtemp(prefix="sweep-", dir=scratch))
        # Ray lets everybody write its session's folder: here it lies in one that only this user can enter, and not
        # in the home, whose file system may know no sockets.
        self.away = Path(tempfile.mkdtemp(prefix=AWAY, dir=temporary()))
        self.session = self.away / "ray"
        self.held = contextlib.ExitStack()
        self.held.enter_context(hold(self.folder / LOCK, str(self.away)))
        ours, theirs = multiprocessing.Pipe()
        ends, self.lifeline = os.pipe()
        with (self.folder / "output").open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "ablate.sweep", str(theirs.fileno()), str(ends)],
                pass_fds=(theirs.fileno(), ends),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=_environment(address),
                start_new_session=True,  # Ctrl-C is the driver's to hear
            )
        theirs.close()
        os.close(ends)
        self.connection = ours
        with contextlib.suppress(OSError):  # it died at once: `ready` says so
            ours.send((job, wanted, address, self.folder, self.session))

    def ready(self) -> int:
        """Slots; waits for Ray."""
        if not self.connection.poll(START_S):
            raise _Died(f"Ray did not start within {START_S:g} s")
        kind, content = self._receive()
        if kind == "refused":
            raise Refused(content)
        slots: int = content
        return slots

    def seen(self) -> list[Seen]:
        """What the nodes answer."""
        if not self.connection.poll(START_S):
            raise _Died(f"no answer within {START_S:g} s")
        kind, content = self._receive()
        if kind == "refused":
            raise Refused(content)
        found: list[Seen] = content
        return found

    def messages(self, take: Take) -> Generator[list[Said], None, None]:
        while True:
            if not self.connection.poll(TICK_S):
                yield []
                continue
            kind, content = self._receive()
            if kind == "take":
                self._send(take())
            elif kind == "said":
                yield pickle.loads(content)
            elif kind == "told":
                yield [content]
            else:
                return

    def stop(self) -> None:
        """Ends the process, and with it all that Ray started here; waits until it is gone."""
        os.close(self.lifeline)
        try:
            self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
        # It does so itself, unless it was killed; Ray's helpers outlive Ray for a minute otherwise.
        processes.end_session(self.process.pid)
        self.process.wait()
        self.connection.close()
        self.held.close()
        for folder in (self.folder, self.away):
            shutil.rmtree(folder, ignore_errors=True)

    def _receive(self) -> Any:
        try:
            return self.connection.recv()
        except (EOFError, OSError) as error:
            raise _Died(self._last_words()) from error

    def _send(self, hand: Hand | None) -> None:
        try:
            self.connection.send(hand)
        except OSError as error:
            raise _Died(self._last_words()) from error

    def _last_words(self) -> str:
        said = (self.folder / "output").read_text(errors="replace").strip().splitlines()
        return "Ray died" + (f": {said[-1][:300]}" if said else "")


def temporary() -> str:
    """Where temporary files are; /tmp where TMPDIR is too long for sockets, as on macOS and in many Slurm jobs."""
    found = tempfile.gettempdir()
    return "/tmp" if len(os.fsencode(found)) + SOCKETS > 107 and os.access("/tmp", os.W_OK | os.X_OK) else found


def clear_away(scratch: Path) -> None:
    """Removes what drivers that were killed left behind; what a living one holds stays."""
    for lock in scratch.glob(f"sweep-*/{LOCK}"):
        try:
            with hold(lock):
                away = Path(lock.read_text())
        except (Locked, OSError):
            continue
        for folder in (lock.parent, *([away] if away.name.startswith(AWAY) else [])):
            shutil.rmtree(folder, ignore_errors=True)


def _environment(address: str | None) -> dict[str, str]:
    """The child's: quiet, quick to start, bound to this machine unless there is a cluster; authentication as it is."""
    ours = {
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_CHDIR_TO_TRIAL_DIR": "0",
        "RAY_AIR_NEW_OUTPUT": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "RAY_OVERRIDE_JOB_RUNTIME_ENV": "1",  # what a submitted job brings is kept: `sweep` adds it to ours
        "TUNE_MAX_PENDING_TRIALS_PG": "100000",  # how many run is `census`'s
        "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
        "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
        "TUNE_GLOBAL_CHECKPOINT_S": "3600",
        "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    }
    if address is None:
        ours["RAY_worker_niceness"] = "0"  # Ray's 15 lets a trial starve beside whatever else the machine does
        ours["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # else whoever reaches this machine can run code in this Ray
    return {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"} | ours
