"""What a report costs: drawn in one process that is warm, and as a process from nothing to the page.

Run from the root of the repository:

    python benchmarks/report.py

Claims: 8 arms on 20 blocks over 200 epochs in under 5 s; a small finished study in under 2.5 s with the interpreter's
start and all imports. The frames are synthetic; nothing is trained.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SIZES = {"small": (5, 10, 12), "large": (8, 20, 200)}
"""Name -> arms, blocks, epochs."""
REPEATS = 5


def build(name: str, folder: Path) -> dict[str, float]:
    """Makes the frame, then compares and writes; gives seconds of each part."""
    begun = time.perf_counter()
    from analysis import report
    from analysis.contrasts import compare
    from tests.analysis import samples

    imported = time.perf_counter()
    arms, blocks, epochs = SIZES[name]
    study = samples.study(arms, blocks)
    frame = samples.frame(study, epochs=epochs)
    ready = time.perf_counter()
    findings = compare(frame, study)
    compared = time.perf_counter()
    report.write(frame, study, folder, command="none", provenance={}, findings=findings)
    done = time.perf_counter()
    return {
        "imports": imported - begun,
        "compare": compared - ready,
        "write": done - compared,
        "in all": done - begun - (ready - imported),
    }


def process(name: str, folder: Path) -> float:
    """Seconds of a new process, the making of the synthetic frame included."""
    begun = time.perf_counter()
    code = f"from benchmarks import report; from pathlib import Path; report.build({name!r}, Path({str(folder)!r}))"
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | {"PYTHONPATH": "."})
    return time.perf_counter() - begun


def main() -> None:
    """Prints the best and the median of each measure."""
    with tempfile.TemporaryDirectory() as scratch:
        for name in SIZES:
            started = sorted(process(name, Path(scratch) / name) for _ in range(REPEATS))
            median = started[REPEATS // 2]
            print(f"{name:6} new process, frame's making included: best {started[0]:.2f} s, median {median:.2f} s")
        for name, size in SIZES.items():
            runs = [build(name, Path(scratch) / name) for _ in range(REPEATS)]
            for part in ("compare", "write"):
                seconds = sorted(run[part] for run in runs)
                print(f"{name:6} {part}, warm: best {seconds[0]:.2f} s, median {seconds[REPEATS // 2]:.2f} s")
            page = Path(scratch) / name / "report.html"
            print(f"{name:6} {size} arms, blocks, epochs: page of {page.stat().st_size // 1024} KiB")


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    main()
