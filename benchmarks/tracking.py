"""What tracking costs: our trailing process beside MLflow's own client called once an epoch, in one run.

    python benchmarks/tracking.py [--trials 100] [--epochs 30] [--metrics 5]

Three sweeps of such trials (no training: each trial only reports), each into an empty SQLite store:

* log: the driver's log alone, the floor;
* ablate: the log, and the tracking process that trails it. `driver` is what the sweep waits for, `all` is until MLflow
  has everything, `cpu` is what the tracking process used, which runs beside the training;
* client: `MlflowClient.log_batch` once an epoch in the sweep's process, as loggers in a training loop do; on at most
  100 trials, as it is linear and slow.

Prints milliseconds a trial and ratios; keeps nothing.
"""

import argparse
import os
import resource
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ablate import tracking
from ablate.home import Home
from ablate.log import Log, Record
from ablate.plan import Plan, plan
from search_spaces.study import Arm, Block, Outcome, Scale, Source, Study


def sweep(trials: int) -> Plan:
    """A plan of so many trials of one arm, with 20 config fields."""
    study = Study(
        name="bench",
        question="What does tracking cost?",
        source=Source(paper="none", where="here"),
        method="nothing",
        arms=(Arm(name="a", config={f"field_{k}": k for k in range(20)}),),
        baseline="a",
        scales=(Scale(name="smoke", blocks=tuple(Block(dataset="none", seed=k) for k in range(trials))),),
        outcome=Outcome(metric="m0", label="m0"),
    )
    return plan(study, "smoke")


def rows(epochs: int, metrics: int) -> tuple[dict[str, Any], ...]:
    """What each trial reports."""
    return tuple(
        {"epoch": k, "seconds": 0.01, "metrics": {f"m{j}": j + 1 / k for j in range(metrics)}}
        for k in range(1, epochs + 1)
    )


def write_log(home: Home, planned: Plan, measured: tuple[dict[str, Any], ...]) -> float:
    """Writes the sweep's log as the driver does; returns the seconds it took."""
    log, start = Log(home.log(planned.sweep)), time.perf_counter()
    known = {"commit": "0" * 40, "dirty": False, "device": "cpu", "data_digest": "0" * 64}
    launch = {"study": planned.study.to_plain(), "scale": "smoke", "arms": None, "blocks": None}
    log.append("sweep", **launch, command="benchmark", provenance=known)
    for trial in planned.trials:
        log.append("started", trial=trial.id, attempt=1, where="here", durable=False)
        now = time.time()
        record = Record(
            trial.id,
            trial.method,
            trial.config,
            trial.data,
            trial.seed,
            "done",
            epochs=measured,
            started=now,
            ended=now + 1,
        )
        log.append("ended", trial=trial.id, record=asdict(record) | {"provenance": known})
    log.append("left", how="done")
    log.close()
    return time.perf_counter() - start


def ours(home: Home, planned: Plan, measured: tuple[dict[str, Any], ...]) -> tuple[float, float, float]:
    """Seconds in the driver, until all is delivered, and of the tracking process's CPU."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    follower = tracking.start(home, planned.sweep, home.mlflow)
    driver = write_log(home, planned, measured)
    delivered = follower.finish(3600)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert delivered == tracking.Delivered(len(planned.trials), 0), delivered
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return driver, time.perf_counter() - start, cpu


def client(uri: str, planned: Plan, measured: tuple[dict[str, Any], ...]) -> float:
    """Seconds of MLflow's own client, one log_batch an epoch."""
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Param

    store = MlflowClient(uri)
    experiment = store.create_experiment("bench")
    start = time.perf_counter()
    for trial in planned.trials:
        run = store.create_run(experiment, run_name=trial.label, tags={"trial": trial.id}).info.run_id
        store.log_batch(run, params=[Param(name, str(value)) for name, value in trial.config.items()])
        for row in measured:
            now = int(time.time() * 1000)
            store.log_batch(run, [Metric(name, value, now, row["epoch"]) for name, value in row["metrics"].items()])
        store.set_terminated(run)
    return time.perf_counter() - start


def main() -> None:
    """Measures all three and prints them side by side."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("trials", 100), ("epochs", 30), ("metrics", 5)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    os.environ.update(MLFLOW_DISABLE_TELEMETRY="true", DO_NOT_TRACK="true")
    planned, measured = sweep(options.trials), rows(options.epochs, options.metrics)
    each = 1000 / options.trials
    with tempfile.TemporaryDirectory() as folder:
        floor = write_log(Home(Path(folder) / "log"), planned, measured) * each
        driver, whole, cpu = (seconds * each for seconds in ours(Home(Path(folder) / "ours"), planned, measured))
        few = sweep(min(options.trials, 100))
        theirs = client(f"sqlite:///{folder}/client.db", few, measured) * 1000 / len(few.trials)
    print(f"{options.trials} trials, {options.epochs} reports of {options.metrics} metrics; ms a trial")
    print(f"  log alone                   {floor:8.1f}")
    print(f"  ablate, driver waits        {driver:8.1f}   {driver - floor:+.1f} over the log alone")
    print(f"  ablate, all in MLflow       {whole:8.1f}   of the tracking process, cpu: {cpu:.1f}")
    print(f"  MLflow client, each epoch   {theirs:8.1f}   {theirs / whole:.1f} times ours in all")


if __name__ == "__main__":
    main()
