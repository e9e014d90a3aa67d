"""SIGKILL a sweep at random moments, go on until it is done, and compare with a sweep that nobody disturbed.

    python -m benchmarks.kill_sweep [--study kills] [--trials 200] [--kills 20] [--seed 0] [--home DIR]

Kills, in turn and at seeded moments: the driver's whole process group, one Ray worker, Ray's raylet, Ray's GCS. After
each kill of the driver nothing of it may live on. At the end: the frame equals that of an undisturbed in-process sweep
bit for bit (volatile columns aside), every trial ended once in the log, Optuna's storage and MLflow have each once and
none RUNNING.

Where the trials of the study go on from one that they share (`--study pretrained`, or one of the catalogue as
`greg_base`, at `smoke`), the first kills strike while that one is trained.

Only processes that descend from the driver started here are killed.
"""

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from ablate import processes
from ablate.driver import Result, run
from ablate.execution import Options
from ablate.home import Home
from ablate.log import read
from ablate.plan import Plan, plan
from analysis.frame import VOLATILE
from search_spaces import catalogue
from search_spaces.study import Study
from trainables.protocol import Needed

ROOT = Path(__file__).resolve().parent.parent
REPOSITORY = ("commit", "dirty")
"""Not compared: somebody may commit to the repository while the sweeps run."""
VICTIMS = ("driver", "worker", "driver", "raylet", "worker", "driver", "gcs_server")


@dataclass(frozen=True)
class Strike:
    """Whom to kill, and when."""

    victim: str
    during: str = ""
    """Id of the trial that is being trained then; '': after some more ends, whatever is trained."""
    attempt: int = 1
    """Which attempt at that trial is struck."""
    after: str = ""
    """Id of a trial that has ended by then."""


def in_turn(kills: int) -> list[Strike]:
    """So many at any moment."""
    return [Strike(VICTIMS[k % len(VICTIMS)]) for k in range(kills)]


def around(whole: Plan, during: Iterable[str], after: Iterable[str]) -> list[Strike]:
    """Each attempt at the first trial that others need is struck down in turn; and some more, when it has ended."""
    shared = next(ident for trial in whole.trials for ident in trial.needs.values())
    first = [Strike(victim, shared, attempt) for attempt, victim in enumerate(during, start=1)]
    return [*first, *(Strike(victim, after=shared) for victim in after)]


@dataclass
class Story:
    """What was done to a sweep."""

    kills: Counter[str] = field(default_factory=Counter)
    starts: int = 0
    orphans_s: float = 0.0
    """Longest time that anything lived on after its driver was killed."""


def study(trials: int, epochs: int = 6, pause: float = 0.06) -> Study:
    """Random walks: so many trials, each a few epochs of a few hundredths of a second."""
    from tests.ablate import walks

    arms = {f"d{k}": walks.Walk(drift=0.1 * k, epochs=epochs, pause=pause) for k in range(8)}
    return walks.study("kills", arms, blocks=trials // 8)


def pretrained() -> Study:
    """Six short random walks that go on from the end of a long one."""
    from tests.ablate import walks

    start = Needed("walk", walks.Walk(epochs=12, pause=0.25))
    arms = {f"d{k}": walks.Walk(drift=0.1 * k, epochs=3, pause=0.1, start=start) for k in range(6)}
    return walks.study("pretrained", arms, blocks=1)


def named(name: str, trials: int = 0) -> Study:
    """The study that a driver is started for: one of those above, or the first block of one of the catalogue, whose
    trials are made long enough to be struck.
    """
    if name in ("kills", "pretrained"):
        return study(trials) if name == "kills" else pretrained()
    found = catalogue.load(name)
    smoke = found.scale("smoke")
    longer = replace(
        smoke, blocks=smoke.blocks[:1], settings={**smoke.settings, "pretraining_epochs": 60, "epochs": 12}
    )
    return replace(found, scales=(longer,))


def drive(home: Path, what: Study, sinks: bool) -> Result:
    """One driver, in this process."""
    place = Home(home)
    options = Options(home=place, optuna=place.optuna, mlflow=place.mlflow) if sinks else Options(home=place)
    return run(plan(what, "smoke"), options)


def disturb(
    home: Home, whole: Plan, strikes: Iterable[Strike], seed: int, *, sinks: bool = True, limit_s: float = 1800.0
) -> Story:
    """Starts drivers until the sweep is done, and strikes meanwhile.

    Args:
        home: of the sweep.
        whole: of one of the studies that `named` knows.
        strikes: in their order.
        seed: of the moments.
        sinks: with MLflow and Optuna's storage.
        limit_s: after which it counts as hung.

    Raises:
        AssertionError: something outlived its driver, or a driver failed or hung.
    """
    chance, story, waiting = random.Random(seed), Story(), list(strikes)
    deadline, step = time.monotonic() + limit_s, len(whole.trials) / (len(waiting) + 2)
    while True:
        driver = _start(home, whole, sinks)
        story.starts += 1
        while driver.poll() is None:
            assert time.monotonic() < deadline, f"not done in {limit_s:g} s: {story}"
            if waiting and _moment(home, driver, chance, waiting[0], step):
                strike = waiting.pop(0)
                if _kill(driver, strike.victim, chance, story):
                    story.kills[strike.victim] += 1
                else:
                    waiting.insert(0 if strike.during else len(waiting), strike)
        if driver.returncode == 0:
            return story
        assert driver.returncode == -signal.SIGKILL, (driver.returncode, _said(home))


def _start(home: Home, whole: Plan, sinks: bool) -> subprocess.Popen[bytes]:
    what = ["--study", whole.study.name, "--trials", str(len(whole.trials))]
    command = [sys.executable, "-m", "benchmarks.kill_sweep", "--drive", str(home.root), *what]
    with (home.root / "driver.output").open("ab") as output:
        return subprocess.Popen(
            command + (["--sinks"] if sinks else []),
            cwd=ROOT,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def _moment(home: Home, driver: subprocess.Popen[bytes], chance: random.Random, strike: Strike, step: float) -> bool:
    """Waits for a moment to strike: so many trials further on, or while one is trained, and a little; False if the
    driver ended first.
    """
    # A driver is struck now and then while it starts, too.
    further = 0 if strike.victim == "driver" and chance.random() < 0.3 else chance.randint(1, max(1, int(step)))
    target, pause = _ended(home) + further, 0.3 * chance.random()
    while not _due(home, strike, target):
        if driver.poll() is not None:
            return False
        time.sleep(0.02)
    time.sleep(pause)
    return driver.poll() is None


def _kill(driver: subprocess.Popen[bytes], victim: str, chance: random.Random, story: Story) -> bool:
    """Kills one; False if there is none now."""
    family = list(descendants(driver.pid))
    if victim == "driver":
        os.killpg(driver.pid, signal.SIGKILL)
        driver.wait()
        story.orphans_s = max(story.orphans_s, _gone(family))
        return True
    # A worker's name is that of its class while it waits, and of Tune's wrapper around it while it trains.
    names = ("ray::Crew", "ray::Resource") if victim == "worker" else (victim,)
    named = sorted(process.pid for process in family if process.name.startswith(names))
    if not named:
        return False
    try:
        os.kill(chance.choice(named), signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def _gone(family: list[processes.Process], limit_s: float = 60.0) -> float:
    """Seconds until all of those processes are gone."""
    begun = time.monotonic()
    while left := [process for process in family if processes.look(process.pid) is not None]:
        assert time.monotonic() - begun < limit_s, f"still alive {limit_s:g} s after their driver: {left}"
        time.sleep(0.05)
    return time.monotonic() - begun


def descendants(pid: int) -> Iterator[processes.Process]:
    """All processes that come from `pid`, itself not counted."""
    children: dict[int, list[processes.Process]] = {}
    for process in processes.every():
        children.setdefault(process.parent, []).append(process)
    waiting = list(children.get(pid, []))
    while waiting:
        process = waiting.pop()
        waiting.extend(children.get(process.pid, []))
        yield process


def _ended(home: Home) -> int:
    return sum(path.read_bytes().count(b'{"kind":"ended"') for path in home.logs.glob("*.jsonl"))


def _due(home: Home, strike: Strike, target: int) -> bool:
    if strike.during:
        return _trained_now(home, strike)
    return _ended(home) >= target and (not strike.after or strike.after in _ends(home))


def _ends(home: Home) -> set[str]:
    return {line["trial"] for path in home.logs.glob("*.jsonl") for _, line in read(path) if line["kind"] == "ended"}


def _trained_now(home: Home, strike: Strike) -> bool:
    """Whether that attempt was begun since the last driver started, and has neither ended nor been lost since."""
    attempts, begun = 0, False
    for path in home.logs.glob("*.jsonl"):
        for _, line in read(path):
            attempts += line["kind"] == "started" and line["trial"] == strike.during
            if line["kind"] == "sweep" or line.get("trial") == strike.during:
                begun = line["kind"] in ("started", "epochs")
    return begun and attempts >= strike.attempt


def _said(home: Home) -> str:
    return (home.root / "driver.output").read_text()[-3000:]


def check(disturbed: Home, undisturbed: Home, whole: Plan, *, sinks: bool = True) -> None:
    """Nothing lost, nothing twice, the same bits, nothing left RUNNING.

    Raises:
        AssertionError: naming what differs.
    """
    import pandas as pd

    from ablate import records

    ends = Counter(
        line["trial"] for path in disturbed.logs.glob("*.jsonl") for _, line in read(path) if line["kind"] == "ended"
    )
    wanted = {trial.id for trial in whole.trials}
    assert set(ends) == wanted, f"{len(wanted - set(ends))} trials lost"
    assert set(ends.values()) == {1}, f"trials that ended twice: {[ident for ident, n in ends.items() if n > 1]}"
    one, other = records.frame(disturbed, whole), records.frame(undisturbed, whole)
    for name in ("trials", "epochs"):
        left, right = (getattr(frame, name) for frame in (one, other))
        volatile = [column for column in left.columns if column in (*VOLATILE, *REPOSITORY)]
        assert len(left) > 0
        pd.testing.assert_frame_equal(left.drop(columns=volatile), right.drop(columns=volatile), check_exact=True)
    if sinks:
        check_optuna(disturbed.optuna, whole)
        check_mlflow(disturbed.root / "mlflow.db", whole)


def check_optuna(url: str, whole: Plan) -> None:
    """The storage has every trial once, complete.

    Raises:
        AssertionError: naming what differs.
    """
    import optuna

    wanted = {trial.id for trial in whole.trials}
    storage = optuna.storages.RDBStorage(url)
    stored = optuna.load_study(study_name=whole.sweep, storage=storage).get_trials(deepcopy=False)
    storage.remove_session()
    storage.engine.dispose()  # else its connection is open when the server goes
    found = Counter(trial.user_attrs["trial"] for trial in stored)
    assert set(found) == wanted, "Optuna's trials are not the log's"
    assert set(found.values()) == {1}, "a trial is twice in Optuna's storage"
    states = {trial.state for trial in stored}
    assert states == {optuna.trial.TrialState.COMPLETE}, states


def check_mlflow(file: Path, whole: Plan) -> None:
    """The store has a run for every trial and one for the sweep, all finished.

    Reads the file itself: importing MLflow costs seconds, and warnings that are not ours.

    Raises:
        AssertionError: naming what differs.
    """
    wanted = {trial.id for trial in whole.trials}
    with contextlib.closing(sqlite3.connect(file)) as store:
        runs = dict(store.execute("SELECT run_uuid, status FROM runs WHERE lifecycle_stage = 'active'").fetchall())
        tags = store.execute("SELECT run_uuid, value FROM tags WHERE key = 'trial'").fetchall()
    children = Counter(trial for ident, trial in tags if ident in runs)
    assert set(children) == wanted, "MLflow's trials are not the log's"
    assert set(children.values()) == {1}, "a trial is twice in MLflow"
    assert len(runs) == len(wanted) + 1, f"{len(runs) - len(wanted)} parents in MLflow"
    assert set(runs.values()) == {"FINISHED"}, Counter(runs.values())


def main() -> None:
    """See the top of the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", default="kills", help="kills, pretrained, or a name of the catalogue")
    parser.add_argument("--trials", type=int, default=200, help="of `kills`: a multiple of 8")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--home", type=Path, help="kept; default: a temporary one")
    parser.add_argument("--drive", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--sinks", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.drive:
        result = drive(args.drive, named(args.study, args.trials), args.sinks)
        print(result.message)
        sys.exit(0 if not result.pending and not result.failed else 1)
    root = args.home or Path(tempfile.mkdtemp(prefix="kill-sweep-"))
    disturbed, undisturbed = Home(root / "disturbed"), Home(root / "undisturbed")
    for home in (disturbed, undisturbed):
        home.root.mkdir(parents=True)
    whole = plan(named(args.study, args.trials), "smoke")
    turn = [VICTIMS[k % len(VICTIMS)] for k in range(args.kills)]
    shares = any(trial.needs for trial in whole.trials)
    strikes = around(whole, turn[: args.kills // 2], turn[args.kills // 2 :]) if shares else in_turn(args.kills)
    begun = time.monotonic()
    run(whole, Options(home=undisturbed, local=True))
    undisturbed_s = time.monotonic() - begun
    story = disturb(disturbed, whole, strikes, args.seed)
    check(disturbed, undisturbed, whole)
    numbers = {
        "trials": len(whole.trials),
        "kills": dict(story.kills),
        "drivers started": story.starts,
        "longest life after the driver, s": round(story.orphans_s, 2),
        "undisturbed, one at a time, s": round(undisturbed_s, 1),
        "disturbed, s": round(time.monotonic() - begun - undisturbed_s, 1),
        "frame": "equal",
    }
    print(json.dumps(numbers, indent=2))
    if not args.home:
        shutil.rmtree(root)


if __name__ == "__main__":
    main()
