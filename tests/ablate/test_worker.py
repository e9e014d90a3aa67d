"""One trial: bit for bit the method's own run, resumed from anywhere; every failure a record with its reason."""

import dataclasses

import pytest
import torch

from ablate import checkpoint, worker
from ablate.home import Home
from ablate.lock import hold
from ablate.log import Record
from ablate.messages import Adopted, Back, Began, Hand, Job, Progress
from ablate.plan import Trial, plan
from ablate.worker import play, run_trial
from tests.ablate import walks
from trainables.data_protocols import DataSpec
from trainables.datasets import open_data
from trainables.protocol import Epoch, Method, Needed


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("home") / "data"


@pytest.fixture
def job(tmp_path, cache):
    (tmp_path / "data").symlink_to(cache)
    cache.mkdir(exist_ok=True)
    return Job(home=Home(tmp_path), origin=walks.__file__, code={"walk": {"walks.py": "1"}})


@pytest.fixture
def every_epoch(monkeypatch):
    monkeypatch.setattr(worker, "CHECKPOINT_EVERY_S", 0.0)
    monkeypatch.setattr(worker, "CHECKPOINT_SHARE", 1e9)


def trial_of(config, method="walk"):
    return plan(walks.study("one", {"only": config}, 1, method=method), "smoke").trials[-1]


def ended(trial, job, attempt=1):
    *_, record = run_trial(trial, job, attempt)
    assert isinstance(record, Record)
    return record


def metrics(record):
    return [dict(epoch["metrics"]) for epoch in record.epochs]


def test_record_holds_what_the_method_yields(job, cache):
    config = walks.Walk(drift=0.5)
    data = open_data(DataSpec(protocol="digits"), cache=cache)
    expected = [dict(epoch.metrics) for epoch in walks.train(config, data, seed=0, device="cpu")]
    record = ended(trial_of(config), job)
    assert metrics(record) == expected
    assert [epoch["epoch"] for epoch in record.epochs] == [1, 2, 3, 4, 5]
    assert (record.state, record.reason, record.attempts) == ("done", "", 1)
    assert record.provenance["data_digest"] == data.digest
    assert record.provenance["code/walks.py"] == "1"


@pytest.mark.usefixtures("every_epoch")
@pytest.mark.parametrize("epochs", [1, 2, 4, 5])
def test_resumed_run_equals_the_whole_one(job, tmp_path, epochs):
    trial = trial_of(walks.Walk())
    whole = ended(trial, dataclasses.replace(job, home=Home(tmp_path / "other")))
    running = run_trial(trial, job)
    for _ in range(epochs):
        next(running)
    running.close()
    again = list(run_trial(trial, job, 2))
    assert len(again) == 5 - epochs + 1
    assert metrics(again[-1]) == metrics(whole)
    assert again[-1].attempts == 2


def test_quick_epochs_are_not_each_written(job, monkeypatch):
    saved = []
    monkeypatch.setattr(checkpoint, "save", lambda _folder, state: saved.append(state.epochs[-1]["epoch"]))
    ended(trial_of(walks.Walk(epochs=50)), job)
    assert saved[-1] == 50
    assert len(saved) < 50


def test_a_run_that_stops_early_keeps_the_state_of_its_last_epoch(job):
    trial = trial_of(walks.Walk(epochs=50, stop=7))
    record = ended(trial, job)
    state = checkpoint.final_state(job.home.trial(trial.id), trial.id)
    assert [epoch["epoch"] for epoch in record.epochs] == [1, 2, 3, 4, 5, 6, 7]
    assert state["epoch"] == 7
    assert state["place"] == record.epochs[-1]["metrics"]["auroc"]


@pytest.mark.usefixtures("every_epoch")
def test_other_code_starts_over_and_says_so(job, tmp_path):
    trial = trial_of(walks.Walk())
    running = run_trial(trial, job)
    next(running), next(running)
    running.close()
    *progress, record = run_trial(trial, dataclasses.replace(job, code={"walk": {"walks.py": "2"}}), 2)
    assert len(progress) == 5
    assert record.notes == ("the code changed since the last checkpoint; trained from the start",)


@pytest.mark.usefixtures("every_epoch")
def test_a_corrupt_checkpoint_is_said_and_the_one_before_taken(job, tmp_path):
    trial = trial_of(walks.Walk())
    whole = ended(trial, dataclasses.replace(job, home=Home(tmp_path / "other")))
    running = run_trial(trial, job)
    for _ in range(3):
        next(running)
    running.close()
    state = job.home.trial(trial.id) / "state"
    state.write_bytes(state.read_bytes()[:-1])
    *progress, record = run_trial(trial, job, 2)
    assert len(progress) == 3
    assert metrics(record) == metrics(whole)
    assert record.notes[0].endswith("is corrupt: its checksum does not match")
    assert record.notes[1] == "continued from epoch 2 instead"


@pytest.mark.parametrize(
    ("fail", "reason", "words"),
    [
        ("error", "error", "ValueError: a bug of the method"),
        ("exit", "error", "SystemExit: no such folder"),
        ("diverge", "diverged", "loss is nan in epoch 2"),
        ("metric", "error", "auroc is inf in epoch 2"),
        ("memory", "out_of_memory", "CUDA out of memory"),
    ],
)
def test_failures_are_records_with_reason_and_traceback(job, fail, reason, words):
    trial = trial_of(walks.Walk(fail=fail))
    record = ended(trial, job)
    assert (record.state, record.reason) == ("failed", reason)
    assert words in record.error
    assert record.error.startswith("Traceback")
    assert len(record.epochs) == 1
    # What a retry may cure is not noted as an end.
    assert (checkpoint.ended(job.home.trial(trial.id), trial.id) is None) == (reason == "out_of_memory")


def test_what_rays_answer_to_sigterm_raises_is_no_end_of_the_trial(job, monkeypatch):
    """It comes out of whatever the method was doing, from a module of Ray's."""
    scope = {"__name__": "ray._private.utils"}
    exec("def handler(): raise SystemExit(1)", scope)

    def method(config, data, *, seed, device, resume=None):
        yield Epoch(1, {"auroc": 0.5}, dict)
        scope["handler"]()

    monkeypatch.setattr(worker, "_method", lambda *_names: Method(method, walks.Walk))
    trial = trial_of(walks.Walk())
    with pytest.raises(SystemExit):
        list(run_trial(trial, job))
    assert checkpoint.ended(job.home.trial(trial.id), trial.id) is None


@pytest.mark.parametrize(("indices", "words"), [((0, 1), "Epoch(index=0) first"), ((1, 1), "index=1) after epoch 1")])
def test_epochs_that_do_not_count_up_from_1_are_the_methods_mistake(job, monkeypatch, indices, words):
    def method(config, data, *, seed, device, resume=None):
        for index in indices:
            yield Epoch(index, {"auroc": 0.5}, dict)

    monkeypatch.setattr(worker, "_method", lambda *_names: Method(method, walks.Nothing))
    record = ended(trial_of(walks.Nothing(), "nothing"), job)
    assert (record.state, record.reason) == ("failed", "error")
    assert words in record.error


def test_an_end_that_was_not_logged_is_adopted(job):
    trial = trial_of(walks.Walk())
    record = ended(trial, job)
    assert list(run_trial(trial, job, 2)) == [Adopted(record)]


def test_a_trial_held_elsewhere_is_handed_back(job, monkeypatch):
    monkeypatch.setattr(worker, "LOCK_WAIT_S", 0.0)
    held, free = trial_of(walks.Walk()), trial_of(walks.Walk(drift=1.0))
    with hold(job.home.trial(held.id) / "lock"):
        said = list(play(Hand(1, ((held, 1), (free, 1))), job))
    assert Back((held.id,), busy=True) in said
    assert said[-1].trial == free.id
    assert said[-1].state == "done"


def test_a_hand_over_its_time_gives_the_rest_back(job):
    trials = [trial_of(walks.Walk(drift=float(k))) for k in range(3)]
    said = list(play(Hand(1, tuple((trial, 1) for trial in trials), budget_s=-1.0), job))
    assert [message.trial for message in said if isinstance(message, Record)] == [trials[0].id]
    assert said[-1] == Back((trials[1].id, trials[2].id))
    assert isinstance(said[0], Began)


def test_needed_state_reaches_the_trial_that_needs_it(job):
    study = walks.study("two", {"near": walks.Score(network=Needed("walk", walks.Walk()), scale=2.0)}, 1)
    walker, scorer = plan(study, "smoke").trials
    early = ended(scorer, job)
    assert (early.state, early.reason) == ("failed", "need")
    checkpoint.forget_end(job.home.trial(scorer.id))
    place = ended(walker, job).epochs[-1]["metrics"]["auroc"]
    assert ended(scorer, job).epochs[-1]["metrics"]["auroc"] == 2.0 * place


def test_threads_are_the_trials_own_and_the_process_gets_its_back(job, monkeypatch):
    def threads(config, data, *, seed, device, resume=None):
        yield Epoch(1, {"auroc": float(torch.get_num_threads())}, dict)

    monkeypatch.setattr(worker, "_method", lambda *_names: Method(threads, walks.Nothing))
    before = torch.get_num_threads()
    record = ended(trial_of(walks.Nothing(), "nothing"), dataclasses.replace(job, threads=before + 1))
    assert metrics(record) == [{"auroc": before + 1.0}]
    assert torch.get_num_threads() == before


def test_unknown_data_is_a_failure_not_a_crash(job):
    trial = trial_of(walks.Walk())
    wrong = Trial("w", trial.method, trial.config, {"protocol": "no-such-set"}, 0, {})
    record = ended(wrong, job)
    assert (record.state, record.reason) == ("failed", "error")
    assert "no-such-set" in record.error


def test_progress_carries_each_epoch_once(job):
    *progress, _ = run_trial(trial_of(walks.Walk()), job)
    assert all(isinstance(message, Progress) for message in progress)
    assert [epoch["epoch"] for message in progress for epoch in message.epochs] == [1, 2, 3, 4, 5]
