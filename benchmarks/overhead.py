"""What our orchestration costs, side by side with Ray Tune's own ways, in one run on one machine.

    python -m benchmarks.overhead [trials] [flat] [tracked] [start] [two-seconds] [--repeats 3]

trials       a no-op trial, 1,000 of them 2 at a time, log and Parquet on, against Ray Tune by its function trainables,
             with reused actors, and with reused actors and its loggers off
flat         the same for 5,000: what a trial costs there over what it costs at 1,000
tracked      1,000 no-op trials with MLflow on SQLite too, until it has them all
start        from the shell command to the first trial's begin
two-seconds  24 trials of about 2 s, 2 at a time, over the same trials in two bare processes

Other load on the machine makes every absolute number worse; the ratios suffer less. Run it alone.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ablate.log import read
from benchmarks import overhead_study

ROOT = Path(__file__).resolve().parent.parent
PARTS = ("trials", "flat", "tracked", "start", "two-seconds")
TUNE = {"function trainables": 20, "reused actors": 300, "reused actors, loggers off": 300}


def trials(repeats: int) -> dict[str, Any]:
    """Milliseconds a trial, each way; the second number leaves out what comes before the first end."""
    found: dict[str, Any] = {"ours, 1000": [_ours(1000) for _ in range(repeats)]}
    for way, count in TUNE.items():
        found[f"Ray Tune, {way}, {count}"] = [_fresh("_tune", way, count) for _ in range(1 if count < 100 else repeats)]
    return {name: _median(runs) for name, runs in found.items()}


def flat(repeats: int) -> dict[str, Any]:
    """Milliseconds a trial at 1,000 and at 5,000, and their ratio."""
    small = _median([_ours(1000) for _ in range(repeats)])
    large = _median([_ours(5000) for _ in range(repeats)])
    return {"ours, 1000": small, "ours, 5000": large, "ratio": round(large["marginal ms"] / small["marginal ms"], 2)}


def tracked(repeats: int) -> dict[str, Any]:
    """Milliseconds a trial with MLflow on."""
    return {"ours, 1000, MLflow": _median([_fresh("_sweep", "noop", 1000, True) for _ in range(repeats)])}


def start(repeats: int) -> dict[str, Any]:
    """Seconds from the shell command to the begin of the first trial in its worker."""
    return {"first trial, s": round(statistics.median(_first_trial() for _ in range(repeats)), 2)}


def two_seconds(repeats: int) -> dict[str, Any]:
    """Wall time of 24 trials of about 2 s over two bare processes of 12 each, by turns, and the turns' ratio."""
    products = _products_of(2.0)
    turns = [(_bare(products), _fresh("_sweep", "busy", products)["wall s"]) for _ in range(repeats)]
    bare, ours = zip(*turns, strict=True)
    ratio = statistics.median(own / other for other, own in turns)
    return {"bare, s": _rounded(bare), "ours, s": _rounded(ours), "ratio": round(ratio, 2)}


def _ours(count: int) -> dict[str, float]:
    found: dict[str, float] = _fresh("_sweep", "noop", count)
    return found


def _fresh(function: str, *arguments: Any) -> Any:
    """The function's result from a new process, as a user's command has one."""
    code = f"import json; from benchmarks import overhead; print(json.dumps(overhead.{function}(*{arguments!r})))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, check=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def _sweep(kind: str, size: int, mlflow: bool = False) -> dict[str, float]:
    """Our whole way: plan, driver, Ray, log, Parquet; and MLflow, if asked for."""
    begun = time.perf_counter()
    from ablate import records
    from ablate.driver import Event, run
    from ablate.execution import Options
    from ablate.home import Home
    from ablate.plan import plan

    ends: list[float] = []

    def watch(event: Event) -> None:
        if event.kind == "ended":
            ends.append(time.perf_counter())

    study = overhead_study.noops(size) if kind == "noop" else overhead_study.busies(size)
    with tempfile.TemporaryDirectory(prefix="overhead-") as folder:
        home, whole = Home(Path(folder)), plan(study, "smoke")
        result = run(whole, Options(home=home, slots=2, mlflow=home.mlflow if mlflow else None), watch)
        records.write(records.frame(home, whole), home.frames(whole.sweep))
        wall = time.perf_counter() - begun
    assert len(result.done) == len(whole.trials)
    assert not mlflow or (result.delivered.pending, result.delivered.error) == (0, "")
    return _numbers(wall, ends[0] - begun, len(whole.trials))


def _tune(way: str, count: int) -> dict[str, float]:
    """Ray Tune alone, as its documentation has it."""
    begun = time.perf_counter()
    if way.endswith("loggers off"):
        os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"
    from ray import init, tune

    ends: list[float] = []

    class Ends(tune.Callback):
        def on_trial_complete(self, **_info: Any) -> None:
            ends.append(time.perf_counter())

    def objective(config: dict[str, float]) -> None:
        tune.report({"loss": (config["x"] - 2.0) ** 2})

    init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
    with tempfile.TemporaryDirectory(prefix="overhead-") as folder:
        tuner = tune.Tuner(
            tune.with_resources(objective, {"cpu": 1}),
            param_space={"x": tune.grid_search([float(k) for k in range(count)])},
            tune_config=tune.TuneConfig(reuse_actors=way.startswith("reused"), max_concurrent_trials=2),
            run_config=tune.RunConfig(storage_path=folder, verbose=0, callbacks=[Ends()]),
        )
        results = tuner.fit()
        wall = time.perf_counter() - begun
    assert len(results) == count
    return _numbers(wall, ends[0] - begun, count)


def _numbers(wall: float, first: float, count: int) -> dict[str, float]:
    marginal = 1e3 * (wall - first) / (count - 1)
    return {"ms": 1e3 * wall / count, "marginal ms": marginal, "wall s": wall, "first end s": first}


def _median(runs: list[dict[str, float]]) -> dict[str, float]:
    return {name: round(statistics.median(run[name] for run in runs), 2) for name in runs[0]}


def _rounded(values: Sequence[float]) -> list[float]:
    return [round(value, 2) for value in values]


def _first_trial() -> float:
    with tempfile.TemporaryDirectory(prefix="overhead-") as folder:
        study = f"{Path(overhead_study.__file__)}:few"
        command = [sys.executable, "-m", "ablate", "run", study, "--scale", "smoke", "--home", folder, "--quiet"]
        begun = time.time()
        subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL, check=True)
        (path,) = Path(folder, "log").glob("*.jsonl")
        return min(line["record"]["started"] for _, line in read(path) if line["kind"] == "ended") - begun


def _products_of(seconds: float) -> int:
    """How many products take so long on one core, both cores at it."""
    count = 500
    code = f"from benchmarks.overhead_study import compute; compute({count})"
    empty = "from benchmarks.overhead_study import compute"
    spent = _pair(code) - _pair(empty)
    return max(1, round(count * seconds / spent))


def _pair(code: str) -> float:
    """Wall time of two bare processes that run the code at a time."""
    one_core = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    begun = time.perf_counter()
    both = [subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env=os.environ | one_core) for _ in range(2)]
    for process in both:
        assert process.wait() == 0
    return time.perf_counter() - begun


def _bare(products: int) -> float:
    """12 trials in each of two processes, with nothing around them."""
    code = (
        "from benchmarks import overhead_study as s; from trainables.datasets import open_data;"
        "from trainables.data_protocols import DataSpec;"
        "import tempfile; from pathlib import Path;"
        "data = open_data(DataSpec(protocol='digits'), cache=Path(tempfile.mkdtemp()));"
        f"[list(s.busy(s.Busy(products={products}), data, seed=k, device='cpu')) for k in range(12)]"
    )
    return _pair(code)


def main() -> None:
    """See the top of the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; default: all")
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    measure: dict[str, Callable[[int], dict[str, Any]]] = {
        "trials": trials,
        "flat": flat,
        "tracked": tracked,
        "start": start,
        "two-seconds": two_seconds,
    }
    for part in args.parts or PARTS:
        print(json.dumps({part: measure[part](args.repeats), "load before": os.getloadavg()[0]}, indent=2), flush=True)


if __name__ == "__main__":
    main()
