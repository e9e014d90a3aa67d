"""Does a trial cost the driver as much after ten thousand as at first? Without Ray, or through it.

    python -m benchmarks.flat [--trials 10000] [--slots 16] [--epochs 1]
    python -m benchmarks.flat --ray --trials 2000 --slots 2

Everything of the driver's is as in a sweep: the plan, Optuna's queue, the log with its summary, on disk before anything
else happens. Without Ray, workers are simulated: what they would say comes at once, of some slot in turn. With `--ray`
trials are walks of 20 ms: those of no work go out hundreds in a hand, and what the driver holds of a hand would be most
of what is seen. Time and memory are of the driver's process, by thousands of trials; the first thousand begins when
fifty have ended, so that it holds no imports. Memory is what the process has for itself (USS): what it would give back
by ending; with `--ray` also that of its child, which holds Ray and Tune. `status` is a process of its own, asked
meanwhile and not counted in.
"""

import argparse
import gc
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ablate import driver, processes
from ablate.driver import Event
from ablate.execution import Options, job_of
from ablate.executors import Said, Take
from ablate.home import Home
from ablate.log import Record
from ablate.messages import Began, Hand, Job, Message, Progress
from ablate.plan import Plan, Trial
from ablate.plan import plan as make_plan
from benchmarks import kill_sweep, overhead_study
from search_spaces.study import Study

ROOT = Path(__file__).resolve().parent.parent
WARM = 50
STEP = 1000
PAUSE_S = 0.02


class Simulated:
    """Slots whose trials end the moment they begin; an executor as the driver wants one."""

    def __init__(self, job: Job, slots: int, epochs: int) -> None:
        self.job, self.count, self.epochs = job, slots, epochs

    def __enter__(self) -> "Simulated":
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def slots(self) -> int:
        """As asked for."""
        return self.count

    def messages(self, take: Take) -> Generator[list[Said], None, None]:
        """Of one slot after another, in an order drawn once for all."""
        draw, hands = random.Random(0), list[Hand]()
        while (hand := take()) is not None:
            if hand.trials:
                hands.append(hand)
            if len(hands) == self.count or not hand.trials:
                yield list(self._played(hands.pop(draw.randrange(len(hands)))))
        for hand in hands:
            yield list(self._played(hand))

    def stop(self) -> None:
        """Nothing runs."""

    def _played(self, hand: Hand) -> Generator[Message, None, None]:
        for trial, attempt in hand.trials:
            yield Began(trial.id)
            record = self._record(trial, attempt)
            yield Progress(trial.id, record.epochs)
            yield record

    def _record(self, trial: Trial, attempt: int) -> Record:
        metrics = {"auroc": float(trial.config["value"]), "loss": 0.5}
        epochs = tuple({"epoch": k, "seconds": 0.001, "metrics": metrics} for k in range(1, self.epochs + 1))
        fields = (trial.id, trial.method, trial.config, trial.data, trial.seed)
        now = time.time()
        return Record(
            *fields, "done", epochs=epochs, attempts=attempt, seconds=1.0, started=now, ended=now, provenance=KNOWN
        )


KNOWN = {"code_digest": "c" * 16, "data_digest": "d" * 64, "device": "cpu", "threads": 1, "torch": "2.0"}


@dataclass
class Mark:
    """The driver after so many ends."""

    ended: int
    wall_s: float
    cpu_s: float
    own_bytes: int
    blocks: int
    """Objects that Python holds memory for."""
    child_bytes: int
    """Of the process that holds Ray; 0 without."""


class Meter:
    """Watches the sweep: marks at every thousandth end, and asks for its status at some."""

    def __init__(self, home: Home, trials: int, step: int = STEP, *, ask: bool = True) -> None:
        self.home, self.ended, self.total, self.away_s = home, 0, trials, 0.0
        self.at = [WARM, *range(WARM + step, trials - step, step), trials - step, trials]
        self.asked = (WARM, self.at[len(self.at) // 2], trials) if ask else ()
        self.marks: list[Mark] = []
        self.status: dict[int, dict[str, float]] = {}
        """After so many ends: seconds that `status` took, by the clock and of the processor."""

    def watch(self, event: Event) -> None:
        """Goes to `driver.run`."""
        self.ended += event.kind == "ended"
        if event.kind == "ended" and self.ended in self.at:
            self._mark()

    def _mark(self) -> None:
        begun = time.perf_counter()
        gc.collect()
        cpu, blocks = time.process_time(), sys.getallocatedblocks()
        child = sum(own_bytes(pid) for pid in _children())
        self.marks.append(Mark(self.ended, begun - self.away_s, cpu, own_bytes(os.getpid()), blocks, child))
        if self.ended in self.asked:
            self.status[self.ended] = self._status()
        self.away_s += time.perf_counter() - begun

    def _status(self) -> dict[str, float]:
        command = [sys.executable, "-m", "ablate", "status", "--home", str(self.home.root), "--json"]
        begun, before = time.perf_counter(), os.times()
        done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True, text=True)
        wall, after = time.perf_counter() - begun, os.times()
        (sweep,) = json.loads(done.stdout)
        assert 0 < sweep["trials"]["done"] <= sweep["trials"]["total"] == self.total
        cpu = after.children_user + after.children_system - before.children_user - before.children_system
        return {"wall s": round(wall, 2), "cpu s": round(cpu, 2)}


def own_bytes(pid: int) -> int:
    """Memory that the process shares with no other."""
    lines = (line.split() for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:])
    return sum(
        1024 * int(words[1]) for words in lines if words[0].startswith("Private_") and words[0] != "Private_Hugetlb:"
    )


def _children() -> Iterator[int]:
    """The process that holds Ray, where there is one."""
    for process in processes.every():
        if process.parent == os.getpid() and b"ablate.sweep" in Path(f"/proc/{process.pid}/cmdline").read_bytes():
            yield process.pid


def measure(
    trials: int, slots: int, epochs: int, step: int = STEP, *, ask: bool = True, ray: bool = False
) -> dict[str, Any]:
    """Figures of one sweep, by so many trials; `ask`: for its status too; `ray`: through Ray."""
    with tempfile.TemporaryDirectory(prefix="flat-") as folder:
        home, whole = Home(Path(folder)), make_plan(_study(trials, epochs, ray), "smoke")
        meter = Meter(home, len(whole.trials), step, ask=ask)

        def simulated(plan: Plan, options: Options) -> Simulated:
            return Simulated(job_of(plan, options), slots, epochs)

        begun, options = time.perf_counter(), Options(home=home, slots=slots if ray else None, cpus_per_trial=0.5)
        result = driver.run(whole, options, meter.watch, executor=None if ray else simulated)
        seconds = time.perf_counter() - begun
        assert len(result.done) == len(whole.trials) == meter.ended
        size = home.log(whole.sweep).stat().st_size
    return {"trials": trials, "seconds": round(seconds, 1), "log MB": round(size / 1e6, 1)} | _figures(meter)


def _study(trials: int, epochs: int, ray: bool) -> Study:
    return kill_sweep.study(trials, epochs, PAUSE_S) if ray else overhead_study.noops(trials)


def _figures(meter: Meter) -> dict[str, Any]:
    """By thousand: milliseconds and kilobytes a trial; and the last over the first."""
    pairs = list(zip(meter.marks, meter.marks[1:], strict=False))
    rows = {
        "wall ms": [1e3 * (b.wall_s - a.wall_s) / (b.ended - a.ended) for a, b in pairs],
        "cpu ms": [1e3 * (b.cpu_s - a.cpu_s) / (b.ended - a.ended) for a, b in pairs],
        "driver kB": [(b.own_bytes - a.own_bytes) / (b.ended - a.ended) / 1e3 for a, b in pairs],
        "blocks": [(b.blocks - a.blocks) / (b.ended - a.ended) for a, b in pairs],
        "child kB": [(b.child_bytes - a.child_bytes) / (b.ended - a.ended) / 1e3 for a, b in pairs],
    }
    ratios = {name: round(values[-1] / values[0], 2) for name, values in rows.items() if values[0] > 0}
    rounded = {name: [round(value, 3) for value in values] for name, values in rows.items()}
    return {"a trial, by thousands": rounded, "last over first": ratios, "status, after so many": meter.status}


def main() -> None:
    """See the top of the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--slots", type=int, default=16)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--step", type=int, default=STEP, help="trials in what is here called a thousand")
    parser.add_argument("--ray", action="store_true", help="through Ray")
    args = parser.parse_args()
    load = os.getloadavg()[0]
    found = measure(args.trials, args.slots, args.epochs, args.step, ray=args.ray)
    print(json.dumps(found | {"load before": load}, indent=2))


if __name__ == "__main__":
    main()
