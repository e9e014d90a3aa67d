"""Orders to a running sweep: what is withheld, what comes back, and that the numbers stay what they were."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest

from ablate import projection, steering, worker
from ablate.dispatch import Dispatch
from ablate.driver import run
from ablate.execution import Options
from ablate.home import Home
from ablate.log import Log, Record, ledger, read
from ablate.messages import Back, Began, Hand, Job, Progress
from ablate.plan import plan
from ablate.steering import Order, give, given, stop_asked, withheld
from ablate.summary import load
from ablate.worker import play
from search_spaces.study import StudyError
from tests.ablate import toy, walks
from tests.ablate.console import OFF, TOY, Shell
from trainables.protocol import Needed

ROOT = Path(__file__).resolve().parents[2]
STUDY = walks.study("many", {f"d{k}": walks.Walk(drift=float(k)) for k in range(3)}, 4)
WHOLE = plan(STUDY, "smoke")
NEEDING = walks.study(
    "needing",
    {
        "walk": walks.Walk(),
        "near": walks.Score(network=Needed("walk", walks.Walk())),
        "far": walks.Score(network=Needed("walk", walks.Walk(drift=9.0))),
        "farther": walks.Score(network=Needed("walk", walks.Walk(drift=9.0)), scale=2.0),
    },
    2,
)


@pytest.fixture(autouse=True)
def _at_once(monkeypatch):
    monkeypatch.setattr(steering, "LOOK_S", 0.0)
    monkeypatch.setattr(steering, "LOOK_FAR_S", 0.0)


@pytest.fixture(params=["folder", "store"])
def home(request, tmp_path, monkeypatch):
    """A folder, and an object store as another machine sees it: nothing is shared but the store."""
    if request.param == "folder":
        return Home(tmp_path / "home")
    (tmp_path / "bucket").mkdir()
    monkeypatch.setenv("ABLATE_CACHE", str(tmp_path / "cache"))
    return Home.at(f"file://{tmp_path}/bucket")


@pytest.fixture
def elsewhere(home, tmp_path, monkeypatch):
    """The same home from another machine."""
    return home if home.remote is None else dataclasses.replace(home, root=tmp_path / "other cache")


class Desk(Dispatch):
    """A dispatch with what it said, over a plan of which some blocks were launched."""

    def __init__(self, home, whole):
        self.heard = []
        super().__init__(
            whole,
            home,
            tuple(trial.id for trial in whole.trials),
            self.heard.append,
            retries=2,
            where="cpu",
            launch=lambda larger: tuple(t.id for t in larger.trials if t.id not in self.over),
        )
        self.open(Log(home.log(whole.sweep)), slots=2)

    def lines(self, kind):
        return [line for _, line in read(self.log.path) if line["kind"] == kind]


def done(trial):
    epochs = ({"epoch": 1, "seconds": 1.0, "metrics": {"auroc": 1.0, "loss": 0.0}},)
    return Record(trial.id, trial.method, trial.config, trial.data, trial.seed, "done", epochs=epochs, seconds=9.0)


def arm_of(whole, trial):
    return next(cell.arm for cell in whole.cells if cell.trial == trial.id)


def finish(desk):
    """Plays every hand there is; returns the trials that ended, in order."""
    ended = []
    while (hand := desk.take()) is not None and hand.trials:
        for trial, _ in hand.trials:
            desk.hear([Began(trial.id), done(trial)])
            ended.append(trial.id)
    return ended


def order(do, *arms, **more):
    return Order(do=do, arms=arms, **more)


def trials_of(whole, *arms):
    return [cell.trial for cell in whole.cells if cell.arm in arms]


def test_a_paused_arm_is_not_handed_out_until_it_is_resumed(home, elsewhere):
    desk = Desk(home, WHOLE)
    give(elsewhere, WHOLE.sweep, order("pause", "d1"))
    assert finish(desk) == trials_of(WHOLE, "d0", "d2")
    assert desk.left == 4
    hand = desk.take()
    assert hand is not None
    assert hand.trials == (), "later: a paused arm may be resumed"
    give(elsewhere, WHOLE.sweep, order("resume", "d1"))
    assert finish(desk) == trials_of(WHOLE, "d1")
    assert desk.take() is None
    assert [(line["do"], line["arms"]) for line in desk.lines("ordered")] == [("pause", ["d1"]), ("resume", ["d1"])]


def test_a_cancelled_arm_ends_the_sweep_without_it(home, elsewhere):
    desk = Desk(home, WHOLE)
    give(elsewhere, WHOLE.sweep, order("cancel", "d0", "d2"))
    assert finish(desk) == trials_of(WHOLE, "d1")
    assert (desk.left, desk.take()) == (0, None)


def test_what_runs_is_called_back_and_later_goes_on(home, elsewhere):
    desk = Desk(home, WHOLE)
    hands = [desk.take(), desk.take()]
    first, second = (hand.trials[0][0] for hand in hands)
    desk.hear([Began(first.id), Began(second.id)])
    give(elsewhere, WHOLE.sweep, order("pause", "d0"))
    desk.hear([])
    assert stop_asked(elsewhere, first.id, hands[0].token, saving=True)
    assert not stop_asked(elsewhere, second.id, hands[1].token, saving=True)
    assert not stop_asked(elsewhere, first.id, hands[1].token, saving=True), "meant for another hand"
    desk.hear([Back((first.id,), stopped=True)])
    assert not stop_asked(elsewhere, first.id, hands[0].token, saving=True)
    assert [line["trial"] for line in desk.lines("stopped")] == [first.id]
    give(elsewhere, WHOLE.sweep, order("resume", "d0"))
    again = desk.take()
    assert again.trials == ((first, 2),)
    assert [event.kind for event in desk.heard] == ["started", "started", "ordered", "stopped", "ordered", "started"]


def test_a_pause_that_is_lifted_at_once_stops_nobody(home):
    desk = Desk(home, WHOLE)
    hand = desk.take()
    give(home, WHOLE.sweep, order("pause", "d0"))
    desk.hear([])
    give(home, WHOLE.sweep, order("resume", "d0"))
    desk.hear([])
    assert not stop_asked(home, hand.trials[0][0].id, hand.token, saving=True)


def test_a_cancelled_trial_that_ended_first_is_kept(home):
    desk = Desk(home, WHOLE)
    hand = desk.take()
    trial = hand.trials[0][0]
    give(home, WHOLE.sweep, order("cancel", "d0"))
    desk.hear([])
    desk.hear([done(trial)])
    assert not stop_asked(home, trial.id, hand.token, saving=True)
    assert trial.id in desk.over
    assert len(finish(desk)) == 8


def test_more_blocks_and_arms_while_trials_run(home, elsewhere):
    desk = Desk(home, plan(STUDY, "smoke", arms=["d0", "d1"], blocks=2))
    running = desk.take()
    desk.hear([Began(running.trials[0][0].id)])
    give(elsewhere, WHOLE.sweep, order("extend", "d2", blocks=3))
    ended = finish(desk)
    larger = plan(STUDY, "smoke", blocks=3)
    assert ended == [trial.id for trial in larger.trials if trial.id != running.trials[0][0].id]
    desk.hear([done(running.trials[0][0])])
    assert (desk.left, desk.take()) == (0, None)
    assert next(event.plan for event in desk.heard if event.kind == "grown").cells == larger.cells
    starts = [(line["trial"], line["attempt"]) for line in desk.lines("started")]
    assert sorted(starts) == sorted((trial.id, 1) for trial in larger.trials)


def test_what_another_arm_needs_is_not_withheld():
    whole = plan(NEEDING, "smoke")
    method = {trial.id: (trial.method, trial.config.get("drift")) for trial in whole.trials}
    for arms, off in (
        ({"walk": "paused"}, []),
        ({"near": "paused"}, ["score"]),
        ({"near": "paused", "walk": "paused"}, ["score", "walk"]),
        ({"far": "cancelled"}, ["score"]),
        ({"far": "cancelled", "farther": "cancelled"}, ["score", "score", "walk"]),
    ):
        found = withheld(whole, arms)
        assert sorted(method[ident][0] for ident in found[0] | found[1]) == sorted(off * 2)
        assert bool(found[1]) == ("cancelled" in arms.values())
    paused, cancelled = withheld(whole, {"far": "paused", "farther": "cancelled"})
    assert sorted(method[ident] for ident in paused) == [("score", None)] * 2 + [("walk", 9.0)] * 2
    assert sorted(method[ident] for ident in cancelled) == [("score", None)] * 2


def test_a_cancelled_arm_takes_what_waits_for_its_need_with_it(home):
    whole = plan(NEEDING, "smoke")
    desk = Desk(home, whole)
    give(home, whole.sweep, order("cancel", "far", "farther"))
    assert len(finish(desk)) == 4
    assert (desk.left, desk.take()) == (0, None)
    give(home, whole.sweep, order("resume", "farther"))
    assert len(finish(desk)) == 4


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (order("pause", "d9"), "d9"),
        (order("extend", "d9"), "d9"),
        (order("extend", blocks=99), "99 blocks are more than the 4"),
        (order("fly", "d0"), "no order 'fly'"),
    ],
)
def test_an_order_that_cannot_be_followed_is_said_and_changes_nothing(home, wrong, words):
    desk = Desk(home, WHOLE)
    give(home, WHOLE.sweep, wrong)
    assert len(finish(desk)) == 12
    (line,) = desk.lines("ordered")
    assert words in line["refused"]
    assert desk.helm.steered.arms == {}


@pytest.mark.parametrize("text", ["", "{", "[]", '"x"', '{"do": "pause"}', '{"do": "pause", "arms": "d0", "more": 1}'])
def test_a_file_that_is_no_order_is_refused_once(tmp_path, text):
    home = Home(tmp_path)
    home.orders(WHOLE.sweep).mkdir(parents=True)
    (home.orders(WHOLE.sweep) / "1").write_text(text)
    desk = Desk(home, WHOLE)
    assert len(finish(desk)) == 12
    assert ["holds no order" in line["refused"] for line in desk.lines("ordered")] == [True]


def test_a_search_is_neither_cancelled_nor_extended(tmp_path):
    home, whole = Home(tmp_path), plan(walks.search, "smoke")
    for wrong in (order("cancel", "paper"), order("extend", blocks=2)):
        assert "is a search" in steering.judged(wrong, whole).refused
    assert steering.judged(order("pause", "paper"), whole).refused == ""
    assert given(home, whole.sweep) == []


@pytest.mark.parametrize("epochs", [1, 3])
def test_a_worker_gives_back_after_its_epoch_and_loses_nothing(home, tmp_path, epochs):
    """To the bit: the whole run's numbers."""
    trial = WHOLE.trials[0]
    job = Job(home=home, origin=walks.__file__)
    *_, whole = play(Hand(1, ((trial, 1),)), Job(home=Home(tmp_path / "whole"), origin=walks.__file__))
    said = []
    for message in play(Hand(1, ((trial, 1),), token="me/1"), job):
        said.append(message)
        if sum(isinstance(m, Progress) for m in said) == epochs:
            steering._put(home, home.trial(trial.id) / steering.STOP, "me/1")
    # In an object store it is looked at with the next checkpoint only; these epochs are too quick for one.
    if home.remote is None:
        assert said[-1] == Back((trial.id,), stopped=True)
        assert [m.epochs[0]["epoch"] for m in said if isinstance(m, Progress)] == list(range(1, epochs + 2))
        *progress, last = play(Hand(2, ((trial, 2),), token="me/2"), job)
        assert len(progress) == 1 + 5 - epochs - 1
    else:
        last = said[-1]
    assert [row["metrics"] for row in last.epochs] == [row["metrics"] for row in whole.epochs]


def test_in_an_object_store_the_flag_is_seen_with_a_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setenv("ABLATE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(worker, "CHECKPOINT_EVERY_S", 0.0)
    monkeypatch.setattr(worker, "CHECKPOINT_SHARE", 1e9)
    (tmp_path / "bucket").mkdir()
    home, trial = Home.at(f"file://{tmp_path}/bucket"), WHOLE.trials[0]
    steering._put(home, home.trial(trial.id) / steering.STOP, "me/1")
    said = list(play(Hand(1, ((trial, 1),), token="me/1"), Job(home=home, origin=walks.__file__)))
    assert said[-1] == Back((trial.id,), stopped=True)
    assert sum(isinstance(message, Progress) for message in said) == 1


def test_a_trial_that_is_called_back_before_it_begins_is_not_begun(tmp_path):
    home, (first, second) = Home(tmp_path), WHOLE.trials[:2]
    steering._put(home, home.trial(first.id) / steering.STOP, "me/1")
    said = list(play(Hand(1, ((first, 1), (second, 1)), token="me/1"), Job(home=home, origin=walks.__file__)))
    assert said[0] == Back((first.id,), stopped=True)
    assert said[-1].trial == second.id


def test_a_sweep_that_was_steered_all_along_has_the_numbers_of_one_that_was_not(home, tmp_path):
    """Through the driver: paused in the middle of a trial, extended, resumed, to the same frame."""
    other = Home(tmp_path / "undisturbed")
    run(WHOLE, Options(home=other, local=True))
    heard = []

    def meddle(event):
        heard.append(event)
        if event.kind == "epoch" and (event.trial, event.epoch) == (WHOLE.trials[0].id, 2):
            give(home, WHOLE.sweep, order("pause", "d0"))
        if event.kind == "ended" and event.trial == WHOLE.trials[2].id:
            give(home, WHOLE.sweep, order("extend", blocks=4))
            give(home, WHOLE.sweep, order("resume", "d0"))

    part = plan(STUDY, "smoke", blocks=2)
    result = run(part, Options(home=home, local=True), meddle)
    assert (len(result.done), result.pending, result.message) == (12, (), "")
    assert "ordered" in {event.kind for event in heard}
    entries, undisturbed = ledger(home), ledger(other)
    for trial in WHOLE.trials:
        numbers = [row["metrics"] for row in entries[trial.id].record.epochs]
        assert numbers == [row["metrics"] for row in undisturbed[trial.id].record.epochs]
    ends = [line["trial"] for _, line in read(home.log(WHOLE.sweep)) if line["kind"] == "ended"]
    assert sorted(ends) == sorted(trial.id for trial in WHOLE.trials)
    assert load(home, WHOLE.sweep).standing.steered.arms == {}


def test_an_order_given_without_a_driver_waits_for_one(home, elsewhere):
    give(elsewhere, WHOLE.sweep, order("cancel", "d0"))
    give(elsewhere, WHOLE.sweep, order("cancel", "d1"))
    first = run(WHOLE, Options(home=home, local=True))
    assert set(first.done) == set(trials_of(WHOLE, "d2"))
    assert first.message.startswith("cancelled: d0, d1: 8 trials were not run.")
    second = run(WHOLE, Options(home=home, local=True))
    assert (second.trained, second.message) == (0, first.message)
    give(elsewhere, WHOLE.sweep, order("resume", "d0"))
    assert run(WHOLE, Options(home=home, local=True)).trained == 4


def test_mlflow_shows_a_trial_that_was_given_back_as_killed_and_later_as_finished(tmp_path):
    home, trial = Home(tmp_path), WHOLE.trials[0]
    log = Log(home.log(WHOLE.sweep))
    form = {"study": STUDY.to_plain(), "scale": "smoke", "arms": None, "blocks": None}
    log.append("sweep", **form, command="", provenance={})
    log.append("started", trial=trial.id, attempt=1, where="here")
    log.append("stopped", trial=trial.id, attempt=1)
    sweep = projection.Sweep(home, WHOLE.sweep)
    sweep.read()
    assert sweep.running(1e12, 0.0) == []
    assert sweep.stopped == {trial.id}
    assert sweep.run(trial.id, leaving=True).status == "KILLED"
    log.append("started", trial=trial.id, attempt=2, where="here")
    sweep.read()
    assert sweep.running(1e12, 0.0) == [trial.id]
    log.append("ended", trial=trial.id, record=done(trial))
    log.close()
    sweep.read()
    assert (sweep.stopped, sweep.run(trial.id).status) == (set(), "FINISHED")


@pytest.fixture
def shell(tmp_path, capsys):
    return Shell(tmp_path / "home", capsys)


def test_steering_what_does_not_run_or_exist_is_refused(shell):
    toys = f"{TOY}:toy"
    refused = shell("steer", toys, "pause", "more")
    assert (refused.code, "nothing to steer" in refused.err) == (2, True)
    shell.trains("toy", "--blocks", "2", "--arms", "base,more")
    for words, said in (
        (["pause", "mere"], "Did you mean 'more'"),
        (["pause", "less"], "less is no arm of this sweep"),
        (["pause"], "takes the names of arms"),
        (["extend"], "takes --blocks N"),
        (["extend", "--blocks", "9"], "more than the 4"),
        (["extend", "--blocks", "2"], "has these blocks and arms already: 2 blocks of base, more"),
        (["fly", "more"], "invalid choice"),
    ):
        refused = shell("steer", toys, *words)
        assert (refused.code, said in refused.err) == (2, True), refused.err
    assert not Home(shell.home).orders("toy@laptop").exists()


def test_status_and_report_know_what_was_steered(shell):
    toys = f"{TOY}:toy"
    shell.trains("toy", "--blocks", "1")
    assert shell("steer", toys, "cancel", "more", "less").code == 0
    given = shell("steer", toys, "extend", "--blocks", "3")
    assert "extend to 3 blocks, ordered by" in given.out
    assert "No driver runs it" in given.out
    waiting = shell("status")
    assert "when the sweep is run on: cancel arms more, less" in waiting.out
    # `run --blocks 1` has nothing to do but for the order.
    assert shell("resume", toys, "--local", *OFF).code == 0
    after = shell("status")
    assert "5 of 9 done, 4 cancelled" in after.out
    assert "less (cancelled)" in after.out
    said = json.loads(shell("status", "--json").out)[0]
    steered = {arm["arm"]: arm["steered"] for arm in said["arms"]}
    assert steered == {"base": "", "more": "cancelled", "less": "cancelled"}
    assert (said["trials"]["cancelled"], said["orders"]) == (4, [])
    shown = shell("show", toys, "--blocks", "3")
    assert "more (cancelled)" in shown.out
    reported = shell("report", toys)
    page = (shell.home / "reports" / "toy@laptop" / "report.html").read_text()
    assert "cancelled: more, less" in reported.out
    assert "cancelled: more, less" in page


def test_a_driver_in_its_own_process_is_steered_from_another(shell):
    """For real: `run` in one process, `steer` and `status` from here, no clock but the driver's."""
    toys = f"{TOY}:slow"
    command = [sys.executable, "-m", "ablate", "run", toys, "--local", *OFF, "--blocks", "2", "--home", str(shell.home)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as driver:
        try:
            assert "done" in driver.stdout.readline()
            assert shell("steer", toys, "cancel", "less").code == 0
            assert "takes it up within seconds" in shell("steer", toys, "extend", "--blocks", "3").out
            said = driver.stdout.read()
            assert driver.wait() == 0, said
        finally:
            driver.kill()
    assert "ordered  cancel arm less, ordered by" in said
    state = json.loads(shell("status", "--json").out)[0]
    assert state["trials"]["done"] + state["trials"]["cancelled"] == 9
    assert state["trials"]["cancelled"] >= 2
    assert {arm["arm"]: arm["done"] for arm in state["arms"] if arm["arm"] != "less"} == {"base": 3, "more": 3}
    with pytest.raises(StudyError):
        toy.slow.arm("fly")
