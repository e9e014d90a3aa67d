"""Sharing GPUs: what is measured decides how many, nobody is lost to it, and the record says who was where."""

import dataclasses
import math

import pytest

from ablate import driver, memory, worker
from ablate.dispatch import Dispatch
from ablate.driver import Refused
from ablate.execution import Options
from ablate.home import Home
from ablate.log import Log, Record, ledger, read
from ablate.messages import Back, Began, Hand, Job, Measured, Progress
from ablate.packing import MARGIN, MOST, USABLE, Footprint, kind
from ablate.plan import Trial, plan
from ablate.worker import play
from tests.ablate import walks
from trainables.protocol import Needed

GIB = 2**30


@pytest.mark.parametrize(("peak", "share"), [(1, 8), (7, 8), (10, 6), (30, 2), (31, 1), (80, 1), (0, 8)])
def test_as_many_share_as_fit_with_a_margin(peak, share):
    assert Footprint(int(peak * GIB), 80 * GIB).share == share
    assert share in (1, MOST) or (share + 1) * peak * MARGIN > 80 * USABLE >= share * peak * MARGIN


def test_a_kind_is_what_shapes_memory():
    def trial(ident, **config):
        return Trial(ident, "m", {"batch": 32, "rate": 0.1, "mix": "cut"} | config, {"protocol": "digits"}, 0, {})

    base = trial("a")
    other = {"b": trial("b", batch=64), "c": trial("c")}
    assert kind(base, {}) == kind(dataclasses.replace(trial("b", rate=0.2), seed=7), {})
    assert kind(base, {}) == kind(dataclasses.replace(base, data={"protocol": "digits", "split": 3}), {})
    assert kind(base, {}) != kind(trial("b", mix="none"), {})
    assert kind(base, {}) != kind(dataclasses.replace(base, data={"protocol": "cifar10"}), {})
    needs = [trial("d", network={"trial": ident}) for ident in "bc"]
    assert kind(needs[0], other) != kind(needs[1], other)
    assert kind(needs[1], other) == kind(trial("e", network={"trial": "f"}), {"f": trial("f", rate=0.3)})


class Gpus:
    """A machine of GPUs that holds hands as Ray does, by their shares, and trials as they are, by their true peaks."""

    def __init__(self, desk, count, memory, peak):
        self.desk, self.memory, self.peak = desk, memory, peak
        self.gpus = [{} for _ in range(count)]
        """Each: number of a hand -> the hand."""
        self.most = 0
        self.probed = []
        """Whether each trial that was probed had its GPU to itself."""

    def run(self):
        """Fills the GPUs, lets every hand take one step, and so on until nothing is left."""
        while (hand := self.desk.take()) is not None:
            while hand is not None and hand.trials:
                self._place(hand)
                hand = self.desk.take() if min(map(used, self.gpus)) + hand.gpus <= 1 else None
            self.most = max(self.most, *map(len, self.gpus))
            for gpu in self.gpus:
                for running in list(gpu.values()):
                    self._step(running, gpu)

    def _place(self, hand):
        number = min(range(len(self.gpus)), key=lambda index: used(self.gpus[index]))
        if used(self.gpus[number]) + hand.gpus > 1:  # it waits until one is free
            for running in list(self.gpus[number].values()):
                self._step(running, self.gpus[number])
        self.gpus[number][hand.number] = hand
        (trial, _), *_ = hand.trials
        self.desk.hear([Began(trial.id, "n", "host", (str(number),))])
        if hand.probe:
            self.probed.append(len(self.gpus[number]) == 1)

    def _step(self, hand, gpu):
        (trial, attempt), *_ = hand.trials
        taken = sum(self.peak(running.trials[0][0], running.probe) for running in gpu.values())
        del gpu[hand.number]
        if taken > self.memory:
            self.desk.hear([record(trial, attempt, "failed", reason="out_of_memory", error="CUDA out of memory")])
        elif hand.probe:
            self.desk.hear([Measured(trial.id, self.peak(trial, True), self.memory), Back((trial.id,))])
        else:
            self.desk.hear([record(trial, attempt, "done")])


def used(gpu):
    return sum(hand.gpus for hand in gpu.values())


def record(trial, attempt, state, **more):
    epochs = ({"epoch": 1, "seconds": 9.0, "metrics": {"auroc": 1.0}},)
    return Record(
        trial.id,
        trial.method,
        trial.config,
        trial.data,
        trial.seed,
        state,
        epochs=epochs,
        seconds=9.0,
        attempts=attempt,
        **more,
    )


@pytest.fixture
def packed(tmp_path):
    """Trials of two kinds run through GPUs of 80 GiB; returns the machine and the records."""
    opened = []

    def run(count, peak):
        arms = {f"d{k}": walks.Walk(epochs=5 + k // 3, drift=float(k)) for k in range(6)}
        whole = plan(walks.study("packed", arms, 4), "smoke")
        home = Home(tmp_path / str(len(opened)))
        desk = Dispatch(
            whole, home, tuple(trial.id for trial in whole.trials), lambda _: None, retries=2, where="cuda", pack=True
        )
        desk.open(Log(home.log(whole.sweep)), slots=count)
        opened.append(desk)
        machine = Gpus(desk, count, 80 * GIB, peak)
        machine.run()
        lines = [line for _, line in read(home.log(whole.sweep))]
        return machine, {ident: entry.record for ident, entry in ledger(home).items()}, lines

    yield run
    for desk in opened:
        desk.log.close()


@pytest.mark.parametrize("count", [1, 3])
def test_one_of_each_kind_is_measured_alone_and_the_others_share(packed, count):
    machine, records, lines = packed(count, lambda trial, _: (18 if trial.config["epochs"] == 5 else 30) * GIB)
    assert {record.state for record in records.values()} == {"done"}
    assert len(records) == 24
    assert all(machine.probed)
    assert 2 <= len(machine.probed) <= 2 * count
    assert {(line["peak"] // GIB, line["share"]) for line in lines if line["kind"] == "measured"} == {(18, 3), (30, 2)}
    assert machine.most == {1: 3, 3: 2}[count]
    assert not [line for line in lines if line["kind"] == "lost"]


def test_the_record_says_who_shared_its_gpu(packed):
    _, records, _ = packed(1, lambda *_: 30 * GIB)
    shared = {ident: record.provenance["shared_with"].split() for ident, record in records.items()}
    assert {record.provenance["shared_gpu"] for record in records.values()} == {"host:0"}
    assert any(shared.values())
    for ident, others in shared.items():
        assert ident not in others
        assert all(ident in shared[other] for other in others)


def test_what_runs_out_of_memory_in_company_is_tried_alone_and_fewer_share(packed):
    """Later epochs take more than the first one did: two of 45 do not fit on 80."""
    machine, records, lines = packed(1, lambda _, probe: (25 if probe else 45) * GIB)
    assert {record.state for record in records.values()} == {"done"}
    crowded = {line["trial"] for line in lines if line["kind"] == "lost"}
    assert {line["cause"] for line in lines if line["kind"] == "lost"} == {"crowded"}
    assert 0 < len(crowded) < len(records) / 2
    for ident, record in records.items():
        said = [note for note in record.notes if "ran out of memory on a GPU that it shared" in note]
        assert bool(said) == (ident in crowded)
    assert not machine.desk.blame.counts


def test_what_does_not_fit_alone_fails_as_ever(packed):
    _, records, _ = packed(1, lambda trial, _: (90 if trial.config["drift"] == 2.0 else 20) * GIB)
    failed = [record for record in records.values() if record.state == "failed"]
    assert {(record.reason, record.config["drift"]) for record in failed} == {("out_of_memory", 2.0)}
    assert len(failed) == 4


@pytest.fixture
def job(tmp_path, monkeypatch):
    monkeypatch.setattr(worker, "CHECKPOINT_EVERY_S", 0.0)
    monkeypatch.setattr(memory, "footprint", lambda _: (3 * GIB, 80 * GIB))
    return Job(home=Home(tmp_path), origin=walks.__file__)


def test_a_probed_trial_is_given_back_after_its_first_epoch_and_goes_on(job, tmp_path):
    (trial,) = plan(walks.study("one", {"only": walks.Walk()}, 1), "smoke").trials
    said = list(play(Hand(1, ((trial, 1),), probe=True), job))
    assert [type(message) for message in said] == [Began, Progress, Measured, Back]
    assert said[2] == Measured(trial.id, 3 * GIB, 80 * GIB)
    *_, record = rest = list(play(Hand(2, ((trial, 1),)), job))
    assert sum(isinstance(message, Progress) for message in rest) == 4
    *_, whole = play(Hand(1, ((trial, 1),)), dataclasses.replace(job, home=Home(tmp_path / "other")))
    assert [epoch["metrics"] for epoch in record.epochs] == [epoch["metrics"] for epoch in whole.epochs]


def test_a_probed_trial_that_is_over_or_not_kept_is_not_given_back(job, monkeypatch):
    study = walks.study("two", {"net": walks.Score(network=Needed("walk", walks.Walk(epochs=1)))}, 1)
    short, score = plan(study, "smoke").trials
    for trial in (short, score):
        said = list(play(Hand(1, ((trial, 1),), probe=True), job))
        assert [type(message) for message in said] == [Began, Progress, Measured, Record]
    monkeypatch.setattr(worker, "CHECKPOINT_EVERY_S", math.inf)
    (long,) = plan(walks.study("one", {"only": walks.Walk(epochs=3)}, 1), "smoke").trials
    said = list(play(Hand(1, ((long, 1),), probe=True), job))
    assert [type(message) for message in said] == [Began, Progress, Measured, Progress, Progress, Record]


@pytest.mark.parametrize("how", [{}, {"gpus_per_trial": 0.5}, {"gpus_per_trial": 2.0}, {"local": True}])
def test_packing_needs_trials_of_one_gpu_each(tmp_path, how):
    with pytest.raises(Refused, match="--gpus-per-trial 1 without --local"):
        driver.run(plan(walks.walk, "smoke"), Options(home=Home(tmp_path), pack=True, **how))
    assert list(tmp_path.iterdir()) == []
