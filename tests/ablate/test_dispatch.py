"""What a lost worker costs and whom: the desk against a script of messages, no process and no clock."""

import dataclasses
import socket

import pytest

from ablate.dispatch import Dispatch, Pace
from ablate.executors import Lost, Shut, Slots, Unavailable
from ablate.home import Home
from ablate.log import Log, Record, read
from ablate.messages import Back, Began
from ablate.plan import plan
from tests.ablate import walks

WHOLE = plan(walks.study("many", {f"d{k}": walks.Walk(drift=float(k)) for k in range(8)}, 2), "smoke")
IDS = tuple(trial.id for trial in WHOLE.trials)


@pytest.fixture
def desk(tmp_path):
    home, heard = Home(tmp_path), []
    desk = Dispatch(WHOLE, home, IDS, heard.append, retries=2, where="cpu")
    desk.open(Log(home.log(WHOLE.sweep)), slots=2)
    desk.heard = heard
    yield desk
    desk.log.close()


def done(trial, seconds=0.01):
    epochs = ({"epoch": 1, "seconds": seconds, "metrics": {"auroc": 1.0, "loss": 0.0}},)
    return Record(trial.id, trial.method, trial.config, trial.data, trial.seed, "done", epochs=epochs, seconds=seconds)


def play(desk, hand):
    desk.hear([message for trial, _ in hand.trials for message in (Began(trial.id), done(trial))])


def taught(desk):
    """The desk after one short trial: from then on hands hold several."""
    play(desk, desk.take())
    return desk


def lines(desk, kind):
    return [line for _, line in read(desk.log.path) if line["kind"] == kind]


def ids(hand):
    return [trial.id for trial, _ in hand.trials]


def test_long_trials_come_one_by_one_and_short_ones_together(desk):
    assert ids(desk.take()) == [IDS[0]]
    assert ids(desk.take()) == [IDS[1]]
    desk.hear([done(WHOLE.trials[0])])
    assert ids(desk.take()) == list(IDS[2:6])  # a quarter of the 15 that are left, rounded up


def test_hands_shrink_to_the_end_and_everything_ends_once(desk):
    sizes = []
    while (hand := desk.take()) is not None:
        sizes.append(len(hand.trials))
        play(desk, hand)
    assert sizes == [1, 4, 3, 2, 2, 1, 1, 1, 1]
    assert [line["trial"] for line in lines(desk, "ended")] == list(IDS)
    assert [line["trial"] for line in lines(desk, "started")] == list(IDS)


def test_a_lost_hand_of_several_counts_against_none_and_then_each_is_alone(desk):
    hand = taught(desk).take()
    first, second, third, _ = hand.trials
    desk.hear([Began(first[0].id), done(first[0]), Began(second[0].id)])
    desk.hear([Lost(hand.number, "killed")])
    assert [line["trial"] for line in lines(desk, "lost")] == [second[0].id]
    assert ids(desk.take()) == [second[0].id]
    assert ids(desk.take()) == [third[0].id]
    assert not desk.blame.counts


def test_a_trial_that_loses_its_worker_alone_is_failed_after_the_retries(desk):
    for _ in range(3):
        hand = desk.take()
        assert ids(hand) == [IDS[0]]
        desk.hear([Lost(hand.number, "killed")])
    record = next(event.record for event in desk.heard if event.kind == "ended")
    assert (record.state, record.reason, record.attempts, record.error) == ("failed", "lost", 3, "killed")
    assert [line["attempt"] for line in lines(desk, "lost")] == [1, 2]
    assert ids(desk.take()) == [IDS[1]]


def test_when_all_of_ray_goes_no_trial_is_to_blame(desk):
    for _ in range(5):
        hands = [desk.take(), desk.take()]
        assert [ids(hand) for hand in hands] == [[IDS[0]], [IDS[1]]]
        desk.hear([Lost(None, "raylet is gone")])
    assert not desk.blame.counts
    assert desk.left == len(IDS)


def at(desk, hand, node):
    desk.hear([Began(trial.id, node, f"host-{node}", ()) for trial, _ in hand.trials])
    return hand


def test_a_node_that_goes_costs_its_trials_no_try(desk):
    for _ in range(5):
        hand = at(desk, desk.take(), "x")
        assert ids(hand) == [IDS[0]]
        desk.hear([Lost(hand.number, "ActorDiedError: preempted", "x", node_died=True)])
    assert not desk.blame.counts
    assert {line["cause"] for line in lines(desk, "lost")} == {"node"}


def test_a_node_that_fails_what_others_do_gets_no_more_and_the_log_says_so(desk):
    good = at(desk, desk.take(), "good")
    for hand in [at(desk, desk.take(), "bad") for _ in range(3)]:
        assert hand.avoid == ()
        desk.hear([Lost(hand.number, "killed", "bad")])
    fresh = [hand for hand in (desk.take() for _ in range(5)) if ids(hand)[0] in IDS[4:]]
    assert [hand.avoid for hand in fresh] == [("bad",)] * 2
    (line,) = lines(desk, "avoided")
    assert (line["node"], line["host"]) == ("bad", "host-bad")
    assert "3 failures in a row there" in line["why"]
    assert "host-bad gets no more trials" in next(event.why for event in desk.heard if event.kind == "avoided")
    play(desk, good)


def test_memory_of_the_host_is_recorded_as_memory(desk):
    for _ in range(3):
        hand = desk.take()
        desk.hear([Lost(hand.number, "OutOfMemoryError: Memory on the node was 15.3GB / 15.8GB", "x")])
    record = next(event.record for event in desk.heard if event.kind == "ended")
    assert (record.state, record.reason, record.attempts) == ("failed", "out_of_memory", 3)


@pytest.mark.parametrize(("host", "reason"), [(socket.gethostname(), "out_of_memory"), ("another", "lost")])
def test_the_kernel_s_kills_count_where_it_is_the_worker_s_kernel(desk, monkeypatch, host, reason):
    monkeypatch.setattr(desk.kernel, "killed", lambda: True)
    for _ in range(3):
        hand = desk.take()
        desk.hear([Began(IDS[0], "x", host)])
        desk.hear([Lost(hand.number, "killed", "x")])
    assert next(event.record for event in desk.heard if event.kind == "ended").reason == reason


def test_a_full_disk_stops_the_sweep_after_what_came_with_it(desk):
    hands = [desk.take(), desk.take()]
    (first, _), (second, _) = (hand.trials[0] for hand in hands)
    full = dataclasses.replace(done(first), state="failed", reason="disk", error="OSError: No space left on device")
    with pytest.raises(Unavailable, match="No space left on device"):
        desk.hear([Began(first.id), full, Began(second.id), done(second)])
    assert desk.over == {second.id}
    assert [line["trial"] for line in lines(desk, "ended")] == [second.id]
    assert [(line["trial"], line["cause"]) for line in lines(desk, "lost")] == [(first.id, "disk")]


def test_a_full_disk_of_one_node_of_two_is_kept_off(desk):
    one, other = at(desk, desk.take(), "x"), at(desk, desk.take(), "y")
    (trial, _), *_ = one.trials
    desk.hear([dataclasses.replace(done(trial), state="failed", reason="disk", error="OSError: No space left")])
    again = desk.take()
    assert (ids(again), again.avoid) == ([trial.id], ("x",))
    play(desk, other)


def test_what_comes_back_unbegun_was_no_attempt(desk):
    hand = taught(desk).take()
    first, *rest = [trial for trial, _ in hand.trials]
    desk.hear([Began(first.id), done(first), Back(tuple(trial.id for trial in rest))])
    again = desk.take()
    assert ids(again)[: len(rest)] == [trial.id for trial in rest]
    assert {attempt for _, attempt in again.trials} == {1}


def test_nothing_to_hand_out_while_others_run_is_not_the_end(desk):
    hands = []
    while (hand := desk.take()).trials:
        hands.append(hand)
    assert sum(len(hand.trials) for hand in hands) == len(IDS)
    assert desk.take().trials == ()
    for hand in hands:
        play(desk, hand)
    assert desk.take() is None


def test_the_same_end_again_is_not_logged_again(desk):
    """A needed trial's state was removed: it is trained again, to the same numbers."""
    trial = WHOLE.trials[0]
    desk.take()
    desk.entries[trial.id] = dataclasses.replace(desk._entry(trial.id), record=done(trial))
    desk.hear([done(trial)])
    assert lines(desk, "ended") == []
    assert len(desk.over) == 1


@pytest.mark.parametrize(
    ("seconds", "left", "slots", "size"),
    [(None, 1000, 2, 1), (0.6, 1000, 2, 1), (0.1, 1000, 2, 10), (0.0, 1000, 2, 250), (0.0, 3, 2, 1), (0.0, 9, 2, 3)],
)
def test_pace(seconds, left, slots, size):
    pace = Pace()
    if seconds is not None:
        pace.note(seconds)
    assert pace.size(left, slots) == size


def test_nodes_that_come_go_or_lack_something_are_logged(desk):
    desk.hear([Shut("n1", "far", "the home is not there"), Slots(3, ("near",))])
    (told,) = (event.why for event in desk.heard if event.kind == "avoided")
    assert told == "far gets no trials: the home is not there"
    assert [(line["node"], line["host"]) for line in lines(desk, "avoided")] == [("n1", "far")]
    assert [(line["count"], line["hosts"]) for line in lines(desk, "slots")] == [(3, ["near"])]
    assert desk.slots == 3


def test_what_is_waited_for_is_said_where_nothing_that_runs_tells_it(desk):
    desk.hear([Slots(0, ("near",), "1 CPUs a trial are asked for"), Slots(1, ("near",))])
    desk.hear([Lost(None, "the head is gone; waiting up to 9 s")])
    desk.take()
    desk.hear([Lost(None, "it is gone again")])
    told = [event.why for event in desk.heard if event.kind == "waiting"]
    assert told == [
        "for a node that can take a trial: 1 CPUs a trial are asked for",
        "the head is gone; waiting up to 9 s",
    ]
    assert [event.why for event in desk.heard if event.kind == "lost"] == ["it is gone again"]


def test_a_hand_says_how_many_like_it_could_be_taken_now(desk):
    assert [desk.take().behind for _ in range(3)] == [15, 14, 13]
    desk.scheduler.withhold(frozenset(IDS[8:]), frozenset())
    assert desk.take().behind == 4
