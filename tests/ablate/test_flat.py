"""What the driver keeps of a trial does not grow with their number; `benchmarks.flat` measures time too."""

import json
import subprocess
import sys
from pathlib import Path


def test_the_driver_keeps_as_much_of_the_last_trials_as_of_the_first():
    """In a process of its own: what earlier tests of this one leave behind is freed or grows while it counts."""
    words = ["--trials", "650", "--slots", "4", "--epochs", "3", "--step", "200"]
    command = [sys.executable, "-W", "error", "-m", "benchmarks.flat", *words]
    found = json.loads(subprocess.check_output(command, cwd=Path(__file__).parents[2], timeout=300))
    assert len(found["a trial, by thousands"]["blocks"]) == 3
    assert 0 < found["last over first"]["blocks"] <= 1.2
