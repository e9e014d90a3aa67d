"""Trials whose folders lie in an object store: any node goes on where another stopped; an outage costs no result."""

import dataclasses
from contextlib import contextmanager
from pathlib import Path

import pytest

from ablate import checkpoint, driver, exhibits, lease, mirror, segments, worker
from ablate.driver import run
from ablate.execution import Options
from ablate.home import Home
from ablate.log import ledger, read
from ablate.messages import Adopted, Back, Hand, Job
from ablate.mirror import UNSENT, Folder
from ablate.plan import plan
from ablate.worker import run_trial
from tests.ablate import stores, walks
from trainables.protocol import Needed

WALK = plan(walks.walk, "smoke")
TRIAL = WALK.trials[0]


@pytest.fixture
def faulty(monkeypatch, tmp_path_factory):
    stores.impatient(monkeypatch, tmp_path_factory.getbasetemp() / "data")
    monkeypatch.setattr(segments, "SYNC_S", 0.05)
    return stores.installed(monkeypatch)


@pytest.fixture
def node(tmp_path, faulty):
    """Homes in one store, each the cache of another node."""

    def named(name):
        home = Home(tmp_path / name, f"fake://{tmp_path}/store")
        home.root.mkdir(exist_ok=True)
        return home

    return named


@pytest.fixture
def alone(tmp_path, faulty):
    """What the trial comes to undisturbed."""
    *_, record = run_trial(TRIAL, job(Home(tmp_path / "alone")))
    return metrics(record)


def job(home):
    return Job(home=home, origin=walks.__file__, code={"walk": {"walks.py": "1"}, "score": {"walks.py": "1"}})


def metrics(record):
    return [epoch["metrics"] for epoch in record.epochs]


def begun(home, epochs):
    """Trains so many epochs and is gone, as if its node were."""
    running = run_trial(TRIAL, job(home))
    for _ in range(epochs):
        next(running)
    running.close()


def kept(home, name=""):
    return Path(home.remote.removeprefix("fake://")) / Folder(home, TRIAL.id).place / name


def test_another_node_goes_on_from_the_last_checkpoint(node, alone):
    begun(node("one"), 3)
    assert not kept(node("one"), "end.json").exists()
    *progress, record = run_trial(TRIAL, job(node("two")), 2)
    assert len(progress) == 2
    assert metrics(record) == alone
    (adopted,) = run_trial(TRIAL, job(node("three")))
    assert adopted == Adopted(record)


def test_a_damaged_state_in_the_store_gives_way_to_the_one_before(node, alone):
    begun(node("one"), 3)
    kept(node("one"), "state").write_bytes(kept(node("one"), "state").read_bytes()[:-1])
    *progress, record = run_trial(TRIAL, job(node("two")), 2)
    assert len(progress) == 3
    assert metrics(record) == alone
    assert record.notes[0].endswith("is corrupt: its checksum does not match")
    assert record.notes[1] == "continued from epoch 2 instead"


def test_what_is_of_no_use_after_the_end_is_removed(node):
    begun(node("one"), 3)
    assert kept(node("one"), "state.previous").exists()
    list(run_trial(TRIAL, job(node("two")), 2))
    assert sorted(path.name for path in kept(node("one")).rglob("*") if path.is_file()) == ["end.json", "state"]


def test_a_checkpoint_that_finds_the_store_away_does_not_stop_training(node, faulty, monkeypatch, alone):
    home = node("one")
    running = run_trial(TRIAL, job(home))
    next(running)
    faulty.away = True
    next(running), next(running)
    assert (home.trial(TRIAL.id) / UNSENT).exists()
    faulty.away = False
    *_, record = running
    assert metrics(record) == alone
    assert not (home.trial(TRIAL.id) / UNSENT).exists()
    (adopted,) = run_trial(TRIAL, job(node("two")))
    assert adopted.record == record


def test_what_was_not_sent_counts_where_it_is_further(node, faulty, alone):
    home = node("one")
    running = run_trial(TRIAL, job(home))
    next(running)
    faulty.away = True
    next(running), next(running)
    running.close()
    faulty.away = False
    stores.aged(kept(home), lease.EXPIRES_S + 1)
    *progress, record = run_trial(TRIAL, job(home), 2)
    assert len(progress) == 2, "epochs 4 and 5"
    assert metrics(record) == alone


def test_what_was_not_sent_gives_way_where_another_node_is_further(node, faulty, alone):
    home = node("one")
    running = run_trial(TRIAL, job(home))
    next(running)
    faulty.away = True
    next(running)
    running.close()
    faulty.away = False
    stores.aged(kept(home), lease.EXPIRES_S + 1)
    begun(node("two"), 3)
    *progress, record = run_trial(TRIAL, job(home), 3)
    assert len(progress) == 1, "epoch 5: the other node came to 4"
    assert metrics(record) == alone


def test_an_end_that_was_not_sent_is_sent_by_whoever_comes_next(node, faulty, monkeypatch):
    home, (*_, record) = node("one"), run_trial(TRIAL, job(node("one")))
    (home.trial(TRIAL.id) / UNSENT).touch()
    kept(home, "end.json").unlink()
    (adopted,) = run_trial(TRIAL, job(home))
    assert adopted.record == record
    assert kept(home, "end.json").exists()


def test_a_stale_cache_is_no_end(node, alone):
    """Trained again elsewhere: what this node still has of the first time is not taken for the second."""
    one, two = node("one"), node("two")
    list(run_trial(TRIAL, job(one)))
    Folder(two, TRIAL.id).forget_end()
    *progress, _ = run_trial(TRIAL, job(one), 2)
    assert not progress, "the state of the last epoch was there: it only ends again"
    assert kept(one, "end.json").exists()


def test_a_trial_that_another_node_trains_is_handed_back(node):
    running = run_trial(TRIAL, job(node("one")))
    next(running)
    hand = Hand(1, ((TRIAL, 1),))
    said = list(worker.play(hand, dataclasses.replace(job(node("two")), home=Elsewhere(node("two")))))
    assert isinstance(said[-1], Back)
    assert said[-1].busy
    running.close()


class Elsewhere(Home):
    """A home that is on its node already."""

    def __init__(self, home):
        super().__init__(home.root, home.remote)

    def here(self):
        return self


def test_a_needed_state_comes_from_the_node_that_trained_it(node):
    whole = plan(walks.study("two", {"a": walks.Score(network=Needed("walk", walks.Walk()))}, 1), "smoke")
    first, second = whole.trials
    *_, trained = run_trial(first, job(node("one")))
    *_, scored = run_trial(second, job(node("two")))
    assert scored.state == "done"
    assert scored.epochs[0]["metrics"]["auroc"] == trained.epochs[-1]["metrics"]["auroc"]


def test_a_needed_state_that_was_trained_again_is_fetched_again(node):
    home = node("two")
    list(run_trial(TRIAL, job(node("one"))))
    Folder(home, TRIAL.id).fetch_end()
    assert checkpoint.is_kept(home.trial(TRIAL.id))
    (home.trial(TRIAL.id) / "state").unlink()
    end = kept(home, "end.json")
    end.write_bytes(end.read_bytes() + b"\n")
    Folder(home, TRIAL.id).fetch_end()
    assert (home.trial(TRIAL.id) / "state").exists()
    end.unlink()
    Folder(home, TRIAL.id).fetch_end()
    assert not checkpoint.is_kept(home.trial(TRIAL.id))


def test_whether_a_needed_state_is_kept_is_asked_of_the_store(node):
    one, two = node("one"), node("two")
    assert not Folder(two, TRIAL.id).is_kept()
    list(run_trial(TRIAL, job(one)))
    assert Folder(two, TRIAL.id).is_kept()
    kept(one, "state").unlink()
    assert not Folder(two, TRIAL.id).is_kept()
    assert not Folder(one, TRIAL.id).is_kept()


def test_what_trials_show_is_fetched_for_the_report(node):
    shown = plan(walks.study("shown", {"a": walks.Walk(show="place")}, 2), "smoke")
    for trial in shown.trials:
        list(run_trial(trial, job(node("one"))))
    home = node("two")
    mirror.fetch_exhibits(home, [trial.id for trial in shown.trials])
    for trial in shown.trials:
        (file,) = home.exhibits(trial.id).glob("*.npz")
        assert file.name == "4.npz", "the last that shows anything"
        assert exhibits.load(file)["place"].shape == (1,)


def test_a_sweep_whose_store_went_for_good_stops_and_says_so_once(node, faulty, monkeypatch, tmp_path):
    """Nothing fails by it: what was trained is in the cache, and the next driver takes it over."""
    monkeypatch.setattr(Home, "here", lambda home: home)
    home, original = node("one"), checkpoint.finish
    ends = []

    def finishing(*given, **more):
        ends.append(given)
        faulty.away = len(ends) >= 3
        original(*given, **more)

    monkeypatch.setattr(checkpoint, "finish", finishing)
    stopped = run(WALK, Options(home=home, local=True))
    assert stopped.interrupted
    assert (len(stopped.done), stopped.failed) == (2, ())
    assert stopped.message.count("No node can keep anything in") == 1
    faulty.away, ends = False, []
    monkeypatch.undo()
    stores.installed(monkeypatch)
    monkeypatch.setattr(Home, "here", lambda home: home)
    again = run(WALK, Options(home=home, local=True))
    assert (len(again.done), again.trained) == (6, 4)
    there = node("two")
    segments.pull(there)
    lines = [line for _, line in read(there.log(WALK.sweep))]
    assert sorted(line["trial"] for line in lines if line["kind"] == "ended") == sorted(t.id for t in WALK.trials)
    run(WALK, Options(home=Home(tmp_path / "alone"), local=True))
    assert {i: metrics(e.record) for i, e in ledger(there).items()} == {
        i: metrics(e.record) for i, e in ledger(Home(tmp_path / "alone")).items()
    }


def test_a_driver_whose_hold_was_lost_stops_and_says_who_has_it(node, monkeypatch):
    """How a lease is lost: tests/ablate/test_lease.py. What it would have logged after that, nobody reads."""
    holds = []

    @contextmanager
    def holding(*given, **more):
        with lease.hold(*given, **more) as held:
            holds.append(held)
            yield held

    def watch(event):
        if event.kind == "ended":
            holds[0].lost_to = "process 7 on two"

    monkeypatch.setattr(driver, "hold", holding)
    monkeypatch.setattr(Home, "here", lambda home: home)
    with pytest.raises(driver.Held, match="is being run by process 7 on two"):
        run(WALK, Options(home=node("one"), local=True), watch)
    ends = [line for _, line in read(node("one").log(WALK.sweep)) if line["kind"] == "ended"]
    assert len(ends) == 1
