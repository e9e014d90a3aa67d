"""The driver in one process: exactly once, whatever happens, and said."""

import dataclasses
import os
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from ablate import driver, records, worker
from ablate.driver import Held, Refused, run
from ablate.execution import Options, job_of
from ablate.executors import InProcess, Slots
from ablate.home import Home
from ablate.log import ledger, read
from ablate.plan import plan
from ablate.wanted import pending
from analysis.frame import VOLATILE
from tests.ablate import walks
from trainables.protocol import Needed

ROOT = Path(__file__).resolve().parents[2]
WALK = plan(walks.walk, "smoke")
MIXED = walks.study(
    "mixed",
    {
        "fine": walks.Walk(),
        "bug": walks.Walk(fail="error"),
        "on fine": walks.Score(network=Needed("walk", walks.Walk())),
        "on bug": walks.Score(network=Needed("walk", walks.Walk(fail="error"))),
    },
    2,
)


@pytest.fixture
def home(tmp_path):
    return Home(tmp_path / "home")


def local(home, **more):
    return Options(home=home, local=True, **more)


def kinds(home, kind):
    return [line for path in sorted(home.logs.glob("*.jsonl")) for _, line in read(path) if line["kind"] == kind]


def equal_frames(one, other, whole):
    for name in ("trials", "epochs"):
        left, right = (getattr(records.frame(home, whole), name) for home in (one, other))
        keep = [column for column in left.columns if column not in (*VOLATILE, "commit", "dirty")]
        pd.testing.assert_frame_equal(left[keep], right[keep], check_exact=True)


def test_all_done_then_nothing_to_do(home):
    first = run(WALK, local(home))
    assert first.done == tuple(trial.id for trial in WALK.trials)
    assert (first.failed, first.pending, first.interrupted, first.trained) == ((), (), False, 6)
    before = home.log(WALK.sweep).read_bytes()
    heard = []
    second = run(WALK, local(home), heard.append)
    assert second == dataclasses.replace(first, trained=0)
    assert heard == []
    assert home.log(WALK.sweep).read_bytes() == before


def test_killed_after_the_last_end_what_it_owed_is_delivered(home):
    """The log is whole but for the driver's farewell; Optuna's storage was never written."""
    import optuna

    run(WALK, local(home))
    log = home.log(WALK.sweep)
    log.write_bytes(
        b"".join(line for line in log.read_bytes().splitlines(keepends=True) if b'"kind":"left"' not in line)
    )
    again = run(WALK, local(home, optuna=home.optuna))
    assert (again.trained, again.pending) == (0, ())
    stored = optuna.load_study(study_name=WALK.sweep, storage=home.optuna).get_trials(deepcopy=False)
    assert {trial.user_attrs["trial"] for trial in stored} == set(again.done)
    assert [line["how"] for line in kinds(home, "left")] == ["done"]
    before = log.read_bytes()
    run(WALK, local(home, optuna=home.optuna))
    assert log.read_bytes() == before


def test_killed_while_it_delivers_it_has_not_left(home, monkeypatch):
    import optuna

    from ablate import schedule

    class Killed(BaseException):
        """As SIGKILL comes: nobody handles it."""

    def kill(*_):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(schedule, "project", kill)
        with pytest.raises(Killed):
            run(WALK, local(home, optuna=home.optuna))
        with pytest.raises(Killed):  # and the one that was to make up for it
            run(WALK, local(home, optuna=home.optuna))
    again = run(WALK, local(home, optuna=home.optuna))
    assert (again.trained, len(again.done)) == (0, len(WALK.trials))
    stored = optuna.load_study(study_name=WALK.sweep, storage=home.optuna).get_trials(deepcopy=False)
    assert sorted(trial.user_attrs["trial"] for trial in stored) == sorted(again.done)
    assert [line["how"] for line in kinds(home, "left")] == ["done"]


def test_watchers_hear_each_trial_begin_run_and_end(home):
    heard = []
    run(WALK, local(home), heard.append)
    for trial in WALK.trials:
        own = [event for event in heard if event.trial == trial.id]
        assert [event.kind for event in own] == ["started", *["epoch"] * 5, "ended"]
        assert [event.epoch for event in own[1:-1]] == [1, 2, 3, 4, 5]
        assert own[-1].record == ledger(home)[trial.id].record


def test_what_one_study_trained_another_uses(home):
    run(WALK, local(home))
    wider = walks.study("wider", {"still": walks.Walk(), "left": walks.Walk(drift=-1.0)}, 4)
    whole = plan(wider, "smoke")
    result = run(whole, local(home))
    assert result.trained == 4 + 1
    assert len(result.done) == 8
    assert len({line["trial"] for line in kinds(home, "ended")}) == len(kinds(home, "ended"))


def test_failures_are_results_and_the_sweep_goes_on(home):
    whole = plan(MIXED, "smoke")
    result = run(whole, local(home))
    entries = ledger(home)
    found = {cell.arm: entries[cell.trial].record for cell in whole.cells}
    assert {arm: (record.state, record.reason) for arm, record in found.items()} == {
        "fine": ("done", ""),
        "bug": ("failed", "error"),
        "on fine": ("done", ""),
        "on bug": ("failed", "need"),
    }
    bug = whole.cells[1].trial
    assert f"needed trial {bug} failed: error" in [entries[cell.trial].record.error for cell in whole.cells]
    assert (len(result.done), len(result.failed)) == (4, 4)
    assert pending(whole, local(home)) == ()
    assert len(pending(whole, local(home, retry_failed=True))) == 4


def test_retrying_failed_trials_runs_them_again(home):
    whole = plan(MIXED, "smoke")
    run(whole, local(home))
    again = run(whole, local(home, retry_failed=True))
    assert again.trained == 4
    assert len(again.failed) == 4


def test_a_full_device_is_tried_again_so_often_and_then_failed(home):
    whole = plan(walks.study("full", {"full": walks.Walk(fail="memory")}, 1), "smoke")
    heard = []
    result = run(whole, local(home, retries=2), heard.append)
    assert [event.kind for event in heard if event.kind != "epoch"] == ["started", "lost"] * 2 + ["started", "ended"]
    record = ledger(home)[result.failed[0]].record
    assert (record.reason, record.attempts) == ("out_of_memory", 3)
    assert pending(whole, local(home)) == result.failed


def test_an_interrupted_sweep_goes_on_to_the_same_frame(home, tmp_path, monkeypatch):
    monkeypatch.setattr(worker, "CHECKPOINT_EVERY_S", 0.0)
    monkeypatch.setattr(worker, "CHECKPOINT_SHARE", 1e9)
    other = Home(tmp_path / "other")
    run(WALK, local(other))

    def interrupt(event):
        if event.kind == "epoch" and event.epoch == 3 and event.trial == WALK.trials[2].id:
            raise KeyboardInterrupt

    first = run(WALK, local(home), interrupt)
    assert first.interrupted
    assert (len(first.done), len(first.pending)) == (2, 4)
    assert kinds(home, "left")[-1]["how"] == "interrupted"
    heard = []
    second = run(WALK, local(home), heard.append)
    assert not second.interrupted
    assert [event.epoch for event in heard if event.trial == WALK.trials[2].id][1:-1] == [4, 5]
    equal_frames(home, other, WALK)


def test_an_end_that_a_dead_driver_did_not_log_is_adopted(home):
    run(WALK, local(home))
    path = home.log(WALK.sweep)
    lines = path.read_bytes().splitlines(keepends=True)
    at = max(index for index, line in enumerate(lines) if b'"kind":"ended"' in line)
    record = ledger(home)[WALK.trials[-1].id].record
    path.write_bytes(b"".join(lines[:at]))
    heard = []
    result = run(WALK, local(home), heard.append)
    assert result.trained == 1
    assert "epoch" not in [event.kind for event in heard]
    assert ledger(home)[WALK.trials[-1].id].record == record


def test_a_needed_state_that_is_gone_is_trained_again_but_ends_once(home):
    whole = plan(MIXED, "smoke", arms=["fine"])
    run(whole, local(home))
    for trial in whole.trials:
        (home.trial(trial.id) / "state").unlink()
    wider = plan(MIXED, "smoke", arms=["fine", "on fine"])
    result = run(wider, local(home))
    assert (len(result.done), result.trained) == (4, 4)
    ended = [line["trial"] for line in kinds(home, "ended")]
    assert sorted(ended) == sorted(trial.id for trial in wider.trials)


def test_stale_trials_run_again_only_when_asked(home, tmp_path):
    copy = tmp_path / "copied_walks.py"
    text = Path(walks.__file__).read_text()
    copy.write_text(text)
    study = dataclasses.replace(walks.walk, origin=str(copy))
    whole = plan(study, "smoke")
    run(whole, local(home))
    copy.write_text(text.replace("place += config.drift +", "place += 1.0 + config.drift +"))
    assert pending(whole, local(home)) == ()
    assert len(pending(whole, local(home, fresh=True))) == 6
    before = ledger(home)[whole.trials[0].id].record
    # A process imports the file once; the changed code is another driver's.
    code = (
        "import sys; from pathlib import Path; from ablate.driver import run; from ablate.execution import Options;"
        "from ablate.home import Home;"
        "from ablate.plan import plan; from tests.ablate import walks; import dataclasses;"
        f"study = dataclasses.replace(walks.walk, origin={str(copy)!r});"
        f"run(plan(study, 'smoke'), Options(home=Home(Path({str(home.root)!r})), local=True, fresh=True))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
    after = ledger(home)[whole.trials[0].id].record
    assert after.epochs[0]["metrics"]["auroc"] == pytest.approx(before.epochs[0]["metrics"]["auroc"] + 1.0)
    assert after.provenance["code_digest"] != before.provenance["code_digest"]
    assert pending(whole, local(home, fresh=True)) == ()


def test_a_second_driver_says_who_holds_the_sweep(home):
    code = (
        "import time; from pathlib import Path; from ablate.driver import run; from ablate.execution import Options;"
        "from ablate.home import Home;"
        "from ablate.plan import plan; from tests.ablate import walks;"
        f"run(plan(walks.walk, 'smoke'), Options(home=Home(Path({str(home.root)!r})), local=True, command='the first'),"
        " lambda event: (print('up', flush=True), time.sleep(60)))"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=ROOT) as first:
        try:
            assert first.stdout.readline() == b"up\n"
            with pytest.raises(Held, match=rf"process {first.pid} on .*: the first"):
                run(WALK, local(home))
        finally:
            first.kill()
    # The kernel let go of the lock with the process.
    assert len(run(WALK, local(home)).done) == 6


def test_another_sweeps_running_trial_is_waited_for_not_trained_twice(home):
    """Two studies want one trial at a time: the second takes the first one's end."""
    slow = {"slow": walks.Walk(epochs=4, pause=0.2)}
    one, two = plan(walks.study("one", slow, 1), "smoke"), plan(walks.study("two", slow, 1), "smoke")
    code = (
        "from pathlib import Path; from ablate.driver import run; from ablate.execution import Options;"
        "from ablate.home import Home;"
        "from ablate.plan import plan; from tests.ablate import walks;"
        "study = walks.study('one', {'slow': walks.Walk(epochs=4, pause=0.2)}, 1);"
        f"run(plan(study, 'smoke'), Options(home=Home(Path({str(home.root)!r})), local=True),"
        " lambda event: print(event.kind, flush=True))"
    )
    assert one.trials == two.trials
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=ROOT) as first:
        while first.stdout.readline() != b"epoch\n":
            time.sleep(0)
        heard = []
        result = run(two, local(home), heard.append)
    assert len(result.done) == 1
    assert "epoch" not in [event.kind for event in heard]
    assert len(kinds(home, "ended")) == 1


def test_more_gpus_than_exist_are_refused_before_anything_is_written(home):
    with pytest.raises(Refused, match="999 GPUs a trial are asked for"):
        run(WALK, local(home, gpus_per_trial=999.0))
    assert kinds(home, "sweep") == []


def test_an_unreachable_storage_is_refused_before_any_training(home):
    with pytest.raises(Refused, match="Optuna storage sqlite:////no/such"):
        run(WALK, local(home, optuna="sqlite:////no/such/o.db"))
    assert kinds(home, "started") == []


def test_sigterm_stops_like_ctrl_c(home):
    def terminate(event):
        if event.kind == "epoch":
            os.kill(os.getpid(), 15)

    assert run(WALK, local(home), terminate).interrupted


def test_launch_line_makes_the_same_plan_again(home):
    part = plan(walks.walk, "smoke", arms=["right"], blocks=2)
    run(part, local(home, command="as typed"))
    line = kinds(home, "sweep")[-1]
    again = plan(type(part.study).from_plain(line["study"]), line["scale"], arms=line["arms"], blocks=line["blocks"])
    assert again.trials == part.trials
    assert line["command"] == "as typed"


def test_driver_and_commands_need_neither_torch_nor_ray_until_they_train():
    code = (
        "import sys, ablate.driver, ablate.worker; assert not {'torch', 'ray', 'optuna', 'mlflow'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


@pytest.mark.parametrize("trains", [True, False])
def test_mlflow_is_not_told_before_a_trial_has_begun_and_in_the_end_always(home, monkeypatch, trains):
    said = []

    class Slow(InProcess):
        """Says what a cluster says while its workers start."""

        def messages(self, take):
            for message in ([], [Slots(1, ("here",))]):
                yield message
                said.append("waiting")
            yield from super().messages(take) if trains else ()

    class Follower:
        def finish(self, _timeout_s):
            said.append("finished")

    def follower(*_where):
        said.append("follower")
        return Follower()

    monkeypatch.setattr(driver, "_follower", follower)
    monkeypatch.setattr(driver, "_check_sinks", lambda _options: None)
    options = local(home, mlflow="sqlite:///nowhere.db")
    run(WALK, options, executor=lambda whole, how: Slow(job_of(whole, how)))
    assert said == ["waiting", "waiting", "follower", "finished"]
