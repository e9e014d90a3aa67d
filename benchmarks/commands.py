"""How long the commands take as whole processes, from the shell and back.

    python benchmarks/commands.py [--repeats 5]

Each command runs in a process of its own on a home with one finished sweep of the default study's size (its numbers are
invented: what a command costs does not depend on them). Beside each stands a bare `python -c pass` and
`python -c "import torch"` of the same run, since machines differ. Limits: --help and list 0.5 s, the others 2.5 s.
"""

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from ablate.home import Home
from ablate.log import Log, Record
from ablate.plan import Trial, plan
from search_spaces import catalogue

STUDY = "gradmix_layers"
ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    """Prints one line a command: median, spread, limit."""
    parser = argparse.ArgumentParser(description="times the commands as whole processes")
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    with tempfile.TemporaryDirectory() as folder:
        home = Home(Path(folder))
        write_sweep(home)
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
        print(f"{'python ...':<34}{'median s':>10}{'least':>8}{'most':>8}{'CPU s':>8}{'limit':>8}")
        for words, limit in commands:
            run(words)  # reads the files from disk once
            walls, cpus = zip(*(run(words) for _ in range(repeats)), strict=True)
            name = " ".join(word for word in words if word not in at)
            bound = "" if limit is None else f"{limit:.1f}"
            cells = [statistics.median(walls), min(walls), max(walls), statistics.median(cpus)]
            print(f"{name:<34}{cells[0]:>10.2f}" + "".join(f"{cell:>8.2f}" for cell in cells[1:]) + f"{bound:>8}")


def run(words: list[str]) -> tuple[float, float]:
    """Seconds that `python words` takes, and those that processors worked for it: on a busy machine they are apart."""
    begin, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *words], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    worked = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.perf_counter() - begin, worked


def write_sweep(home: Home) -> None:
    """A finished sweep of the study at laptop scale, as its driver would have logged it."""
    study = catalogue.load(STUDY)
    whole = plan(study, "laptop")
    log = Log(home.log(whole.sweep))
    launch = {"study": study.to_plain(), "scale": "laptop", "arms": None, "blocks": None}
    log.append("sweep", **launch, command="", provenance={})
    for number, trial in enumerate(whole.trials):
        log.append("started", durable=False, trial=trial.id, attempt=1, where="here/cpu")
        log.append("ended", durable=False, trial=trial.id, record=invented(trial, number))
    log.append("left", how="done")
    log.close()


def invented(trial: Trial, number: int) -> Record:
    """A record with as many numbers as a real one has."""
    epochs = [
        {
            "epoch": epoch,
            "seconds": 0.5,
            "metrics": {"loss": 5 / epoch, "loss_supcon": 3 / epoch, "loss_mix": 2 / epoch},
        }
        for epoch in range(1, trial.config["epochs"] + 1)
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
        provenance={"commit": "0" * 40, "dirty": False, "device": "cpu", "threads": 1, "torch": "0"},
    )


if __name__ == "__main__":
    main()
