"""A trial that hangs: in a worker's own process (a real one, in C and in Python), and in the driver's."""

import dataclasses
import importlib
import math
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ablate import driver, watchdog
from ablate.execution import Options, job_of
from ablate.home import Home
from ablate.log import ledger, read
from ablate.plan import plan
from ablate.wanted import pending
from ablate.watchdog import Watchdog
from tests.ablate import walks

ROOT = Path(__file__).resolve().parents[2]
WORKER = """
import faulthandler, sys, time
from pathlib import Path
from ablate.watchdog import Watchdog

def hang_in_python():
    while True:
        time.sleep(0.01)

def hang_with_the_lock_held():
    # A match that backtracks for ever never lets another thread of Python run.
    import re
    re.match("(a*)*b", "a" * 64)

with Watchdog(Path(sys.argv[2]), 3, 0.2, apart=True, tell=lambda: print("told", flush=True), grace_s=0.4) as dog:
    dog.rest()
    time.sleep(0.5)
    print("rested", flush=True)
    dog.go_on()
    globals()[sys.argv[1]]()
"""


@pytest.mark.parametrize(
    ("how", "code", "said"),
    [("hang_in_python", watchdog.EXIT_CODE, "rested\ntold\n"), ("hang_with_the_lock_held", 1, "rested\n")],
)
def test_a_worker_that_hangs_leaves_its_stacks_and_ends(tmp_path, how, code, said):
    done = subprocess.run(
        [sys.executable, "-c", WORKER, how, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True, timeout=120
    )
    assert (done.returncode, done.stdout) == (code, said)
    found = watchdog.found(tmp_path, 3)
    assert f"in {how}" in found
    assert "no epoch for 0.2 s in attempt 3 on" in found.splitlines()[-1]
    assert watchdog.found(tmp_path, 2) == ""


def test_a_trial_that_ends_leaves_no_stacks(tmp_path, monkeypatch):
    monkeypatch.setattr(watchdog, "LOOK_S", 0.001)
    with Watchdog(tmp_path, 1, 600.0, apart=True):
        deadline = time.monotonic() + 60
        while not watchdog.stacks(tmp_path, 1).exists() and time.monotonic() < deadline:
            time.sleep(0.001)
        assert watchdog.stacks(tmp_path, 1).exists()
        assert watchdog.found(tmp_path, 1) == ""
    assert list(tmp_path.iterdir()) == []


STUDY = walks.study("hangs", {"hangs": walks.Walk(epochs=3, hang=2), "fine": walks.Walk()}, 1)


def test_in_one_process_a_hung_trial_is_interrupted_tried_once_more_and_failed(tmp_path, monkeypatch):
    monkeypatch.setattr(watchdog, "LOOK_S", 0.01)
    importlib.import_module("torch")  # an import that is interrupted cannot be made up for
    home, whole, heard = Home(tmp_path), plan(STUDY, "smoke"), []
    driver.run(plan(STUDY, "smoke", arms=["fine"]), Options(home=home, local=True))  # imports take their time
    result = driver.run(whole, Options(home=home, local=True, hang_after=2.0), heard.append)
    hung, fine = (ledger(home)[trial.id].record for trial in whole.trials)
    assert (hung.state, hung.reason, hung.attempts, len(hung.epochs)) == ("failed", "hung", 2, 1)
    assert "in _wait" in hung.error
    assert hung.error.splitlines()[-1].startswith("no epoch for 2 s in attempt 2 on ")
    assert (fine.state, len(result.failed), result.interrupted) == ("done", 1, False)
    (lost,) = [line for _, line in read(home.log(whole.sweep)) if line["kind"] == "lost"]
    assert lost["cause"] == "hung"
    kinds = [event.kind for event in heard if event.trial == hung.trial]
    assert kinds == ["started", "epoch", "lost", "started", "epoch", "ended"]
    assert pending(whole, Options(home=home)) == (hung.trial,), "the next run tries again"


def test_ctrl_c_is_no_hang(tmp_path):
    def interrupt(event):
        if event.kind == "epoch":
            raise KeyboardInterrupt

    result = driver.run(plan(STUDY, "smoke"), Options(home=Home(tmp_path), local=True), interrupt)
    assert result.interrupted
    assert (result.failed, result.trained) == ((), 0)


@pytest.mark.parametrize(("scale", "asked", "job"), [(None, None, 3600.0), (7.0, None, 7.0), (7.0, math.inf, math.inf)])
def test_how_long_is_said_by_the_option_then_the_scale(tmp_path, scale, asked, job):
    size = dataclasses.replace(STUDY.scales[0], hang_after=scale)
    whole = plan(dataclasses.replace(STUDY, scales=(size,)), "smoke")
    found = job_of(whole, Options(home=Home(tmp_path), hang_after=asked))
    assert (found.hang_after_s, found.apart) == (job, True)


@pytest.mark.slow
def test_through_ray_a_hung_worker_ends_and_its_trial_fails_as_hung(tmp_path):
    home, whole = Home(tmp_path), plan(STUDY, "smoke")
    driver.run(whole, Options(home=home, hang_after=20.0))  # a busy machine takes its time to the first epoch
    hung, fine = (ledger(home)[trial.id].record for trial in whole.trials)
    assert (hung.reason, hung.attempts, fine.state) == ("hung", 2, "done")
    assert "in _wait" in hung.error
