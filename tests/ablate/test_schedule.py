"""Optuna hands out the plan in order, once each; its storage is a projection that can be made again."""

import optuna
import pytest
from optuna.trial import TrialState

from ablate import schedule
from ablate.driver import run
from ablate.execution import Options
from ablate.home import Home
from ablate.log import Record, ledger
from ablate.plan import plan
from ablate.schedule import Scheduler
from tests.ablate import walks
from trainables.protocol import Needed

WALK = plan(walks.walk, "smoke")
CHAIN = plan(
    walks.study(
        "chain", {"near": walks.Score(network=Needed("walk", walks.Walk())), "walker": walks.Walk(drift=1.0)}, 2
    ),
    "smoke",
)


def end(trial, state="done", value=1.0):
    epochs = ({"epoch": 1, "seconds": 0.0, "metrics": {"auroc": value}},)
    return Record(trial.id, trial.method, trial.config, trial.data, trial.seed, state, epochs=epochs)


def ids(whole):
    return [trial.id for trial in whole.trials]


def test_everything_once_in_the_plans_order():
    scheduler = Scheduler(WALK, {}, ids(WALK))
    handed = []
    while scheduler.left:
        trial = scheduler.next()
        handed.append(trial.id)
        assert scheduler.tell(end(trial)) == []
    assert handed == ids(WALK)
    assert scheduler.next() is None
    assert [trial.user_attrs["trial"] for trial in scheduler.study.trials] == ids(WALK)
    assert {trial.state for trial in scheduler.study.trials} == {TrialState.COMPLETE}


def test_the_study_is_rebuilt_from_what_is_finished():
    finished = {trial.id: end(trial, value=float(k)) for k, trial in enumerate(WALK.trials[:4])}
    scheduler = Scheduler(WALK, finished, ids(WALK)[4:])
    assert [trial.value for trial in scheduler.study.trials] == [0.0, 1.0, 2.0, 3.0]
    assert [scheduler.next().id, scheduler.next().id, scheduler.next()] == [*ids(WALK)[4:], None]
    assert scheduler.left == 2


def test_needed_trials_first_even_when_workers_are_free():
    scheduler = Scheduler(CHAIN, {}, ids(CHAIN))
    first, second = CHAIN.trials[0], CHAIN.trials[1]
    assert second.needs == {"network": first.id}
    handed = [scheduler.next() for _ in range(5)]
    assert [trial.method for trial in handed if trial] == ["walk"] * 4
    assert handed[-1] is None
    scheduler.tell(end(first))
    assert scheduler.next() == second


def test_a_need_that_is_done_already_blocks_nothing():
    first, second = CHAIN.trials[:2]
    assert Scheduler(CHAIN, {first.id: end(first)}, [second.id]).next() == second


def test_a_failed_need_ends_those_that_need_it():
    scheduler = Scheduler(CHAIN, {}, ids(CHAIN)[:2])
    first, second = CHAIN.trials[:2]
    scheduler.next()
    assert scheduler.tell(end(first, "failed")) == [second.id]
    assert scheduler.tell(end(second, "failed")) == []
    assert scheduler.left == 0
    assert {trial.state for trial in scheduler.study.trials} == {TrialState.FAIL}


def test_a_trial_that_came_back_is_next_and_the_same_for_optuna():
    scheduler = Scheduler(WALK, {}, ids(WALK))
    first, second = scheduler.next(), scheduler.next()
    scheduler.again(first.id)
    assert scheduler.next() == first
    scheduler.tell(end(second))
    scheduler.tell(end(first))
    assert len(scheduler.study.trials) == 2


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """A home with a done and a failed arm, and the projection of them."""
    home = Home(tmp_path_factory.mktemp("home"))
    study = walks.study("swept", {"fine": walks.Walk(), "bug": walks.Walk(fail="error")}, 2)
    run(plan(study, "smoke"), Options(home=home, local=True, optuna=home.optuna))
    return home, plan(study, "smoke")


def stored(home, whole):
    return optuna.load_study(study_name=whole.sweep, storage=home.optuna).trials


def test_storage_holds_what_the_log_holds(swept):
    home, whole = swept
    trials = {trial.user_attrs["trial"]: trial for trial in stored(home, whole)}
    entries = ledger(home)
    assert trials.keys() == set(ids(whole))
    for cell in whole.cells:
        trial, record = trials[cell.trial], entries[cell.trial].record
        assert trial.params == {
            "arm": cell.arm,
            "block": cell.block.name,
            "fail": {"fine": "", "bug": "error"}[cell.arm],
        }
        if cell.arm == "fine":
            assert trial.state == TrialState.COMPLETE
            assert trial.value == record.epochs[-1]["metrics"]["auroc"]
        else:
            assert trial.state == TrialState.FAIL


def test_projecting_again_adds_nothing_and_a_deleted_storage_comes_back(swept, tmp_path):
    home, whole = swept
    before = stored(home, whole)
    assert schedule.project(home, whole.sweep, home.optuna) == 0
    assert len(stored(home, whole)) == len(before) == 4
    other = f"sqlite:///{tmp_path}/other.db"
    assert schedule.project(home, whole.sweep, other) == 4
    again = optuna.load_study(study_name=whole.sweep, storage=other).trials
    assert [(t.params, t.values, t.state, t.user_attrs) for t in again] == [
        (t.params, t.values, t.state, t.user_attrs) for t in before
    ]


def test_more_blocks_and_arms_reach_a_storage_that_knew_fewer(tmp_path):
    home = Home(tmp_path / "home")
    for arms, blocks in ((["near"], 1), (None, 1), (None, 2)):
        whole = plan(CHAIN.study, "smoke", arms=arms, blocks=blocks)
        result = run(whole, Options(home=home, local=True, optuna=home.optuna))
        assert result.message == ""
        found = optuna.load_study(study_name=whole.sweep, storage=home.optuna).trials
        assert sorted(trial.user_attrs["trial"] for trial in found) == sorted(ids(whole))


def test_unlaunched_sweep_projects_nothing(tmp_path):
    assert schedule.project(Home(tmp_path), "never@smoke", f"sqlite:///{tmp_path}/o.db") == 0


@pytest.mark.parametrize("url", ["sqlite:////no/such/folder/o.db", "nonsense", "mydb://host/x"])
def test_unreachable_storage_is_said(url):
    with pytest.raises(schedule.StorageError, match="cannot be opened"):
        schedule.check(url)
