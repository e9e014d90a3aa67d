"""How long the commands take as whole processes, from the shell and back.

    python -m benchmarks.commands [--repeats 5] [--trials 10000] [--epochs 200]

Each command runs in a process of its own on a home with one finished sweep of the default study's size (its numbers are
invented: what a command costs does not depend on them). Beside each stands a bare `python -c pass` and
`python -c "import torch"` of the same run, since machines differ. Limits: --help and list 0.5 s, the others 2.5 s.

Then `status` on a long sweep that a driver holds: so many ended trials of so many epochs. Limit 1 s.
"""

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ablate import provenance
from ablate.home import Home
from ablate.lock import hold
from ablate.log import Log, Record
from ablate.plan import Plan, Trial, plan
from ablate.summary import Keeper
from benchmarks import overhead_study
from search_spaces import catalogue

STUDY = "gradmix_layers"
ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    """Prints one line a command: median, spread, limit."""
    parser = argparse.ArgumentParser(description="times the commands as whole processes")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--trials", type=int, default=10_000, help="of the long sweep")
    parser.add_argument("--epochs", type=int, default=200, help="of each of them")
    args = parser.parse_args()
    print(f"{'python ...':<34}{'median s':>10}{'least':>8}{'most':>8}{'CPU s':>8}{'limit':>8}")
    with tempfile.TemporaryDirectory() as folder:
        study = catalogue.load(STUDY)
        write_sweep(Home(Path(folder)), plan(study, "laptop"), None)
        at = ["--home", folder]
        commands = [
            (["-c", "pass"], None),
            (["-c", "import torch"], None),
            (["-m", "ablate", "--help"], 0.5),
            (["-m", "ablate", "list"], 0.5),
            (["-m", "ablate", "show", STUDY, *at], 2.5),
            (["-m", "ablate", "status", *at], 2.5),
            (["-m", "ablate", "report", STUDY, *at], 2.5),
        ]
        for words, limit in commands:
            measure(words, limit, args.repeats)
    with tempfile.TemporaryDirectory() as folder:
        home, long = Home(Path(folder)), plan(overhead_study.noops(args.trials), "smoke")
        write_sweep(home, long, args.epochs)
        log = home.log(long.sweep)
        print(f"{args.trials} trials of {args.epochs} epochs: a log of {log.stat().st_size / 1e6:.0f} MB")
        with hold(home.lock(long.sweep), "process 1 on here"):
            for words in (["status"], ["status", "--json"]):
                measure(["-m", "ablate", *words, "--home", folder], 1.0, args.repeats)


def measure(words: list[str], limit: float | None, repeats: int) -> None:
    """Prints the line of one command."""
    run(words)  # reads the files from disk once
    walls, cpus = zip(*(run(words) for _ in range(repeats)), strict=True)
    name = " ".join(words[: words.index("--home")] if "--home" in words else words)
    bound = "" if limit is None else f"{limit:.1f}"
    cells = [statistics.median(walls), min(walls), max(walls), statistics.median(cpus)]
    print(f"{name:<34}{cells[0]:>10.2f}" + "".join(f"{cell:>8.2f}" for cell in cells[1:]) + f"{bound:>8}", flush=True)


def run(words: list[str]) -> tuple[float, float]:
    """Seconds that `python words` takes, and those that processors worked for it: on a busy machine they are apart."""
    begin, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *words], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    worked = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.perf_counter() - begin, worked


def write_sweep(home: Home, whole: Plan, epochs: int | None) -> None:
    """A finished sweep, as its driver would have logged it; so many epochs, or as many as configs say."""
    keeper = Keeper(home, whole.sweep)
    log = Log(home.log(whole.sweep), heard=keeper.hear)
    launch = {"study": whole.study.to_plain(), "scale": whole.scale.name, "arms": None, "blocks": None}
    log.append("sweep", **launch, command="", provenance={})
    known = provenance.collect() | {"device": "cpu", "threads": 1, "data_digest": "0" * 16}
    for number, trial in enumerate(whole.trials):
        record = invented(trial, number, epochs or trial.config["epochs"], known)
        log.append("started", durable=False, trial=trial.id, attempt=1, where="here/cpu")
        log.append("ended", durable=False, trial=trial.id, record=record)
    log.append("left", how="done")
    log.close()
    keeper.close()


def invented(trial: Trial, number: int, count: int, known: Mapping[str, Any]) -> Record:
    """A record with as many numbers as a real one has."""
    epochs = [
        {
            "epoch": epoch,
            "seconds": 0.5,
            "metrics": {"loss": 5 / epoch, "loss_supcon": 3 / epoch, "loss_mix": 2 / epoch, "flops": 1e9 * epoch},
        }
        for epoch in range(1, count + 1)
    ]
    epochs[-1]["metrics"] |= {
        "auroc": 0.9 + 0.001 * (number * 7 % 11),
        "accuracy": 0.95 + 0.001 * (number * 5 % 7),
        "intrinsic_dimension": 6.0 + 0.1 * (number * 3 % 5),
    }
    return Record(
        trial=trial.id,
        method=trial.method,
        config=trial.config,
        data=trial.data,
        seed=trial.seed,
        state="done",
        epochs=tuple(epochs),
        seconds=6.0,
        started=time.time() - 6.0,
        ended=time.time(),
        host="here",
        provenance=known,
    )


if __name__ == "__main__":
    main()
