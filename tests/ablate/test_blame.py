"""Whom failures count against: a script of what happened where, and who is kept off in the end."""

import pytest

from ablate.blame import Blame
from ablate.failures import KEEPING


def blame(*steps, retries=2):
    """After steps like "a fails at x" or "a is done at x"; causes besides `lost` come last."""
    found = Blame(retries)
    for step in steps:
        trial, what, *_, node, cause = (*step.split(), "lost") if "(" not in step else step.replace("(", "").split()
        found.began(trial, node, f"host-{node}")
        if what == "fails":
            found.failed(trial, cause.strip(")"))
        elif what == "is":
            found.done(trial)
    return found


def test_a_trial_is_tried_again_as_often_as_its_cause_says():
    for cause, times in {"error": 0, "diverged": 0, "lost": 2, "host_memory": 2, "hung": 1, "device": 2}.items():
        found = Blame(2)
        assert [found.failed("a", cause)[0] for _ in range(4)] == [index < times for index in range(4)], cause
    found = Blame(2)
    assert all(found.failed("a", cause)[0] for cause in ("node", "cluster", "spoiled", "crowded") for _ in range(20))
    assert not found.counts


def test_causes_are_counted_apart():
    found = Blame(1)
    assert found.failed("a", "lost")[0]
    assert found.failed("a", "out_of_memory")[0]
    assert not found.failed("a", "lost")[0]


def test_a_node_with_three_failures_in_a_row_is_avoided():
    found = blame("c is done at y", "a fails at x", "b fails at x", "c fails at x")
    assert list(found.avoided) == ["x"]
    assert found.avoided["x"].host == "host-x"
    assert found.avoid(("d",)) == ("x",)


def test_not_if_something_was_done_there_meanwhile():
    found = blame("c is done at y", "a fails at x", "b fails at x", "d is done at x", "c fails at x")
    assert not found.avoided


def test_not_if_it_is_always_the_same_trial():
    found = blame("c is done at y", "a fails at x", "a fails at x", "a fails at x")
    assert not found.avoided


def test_not_for_bugs_of_methods():
    found = blame("c is done at y", *(f"{trial} fails at x (error)" for trial in "abdefg"))
    assert not found.avoided


def test_a_node_is_avoided_for_what_was_done_elsewhere():
    steps = ["a fails at x", "d is done at x", "b fails at x", "d is done at x", "a is done at y"]
    assert not blame(*steps).avoided
    found = blame(*steps, "b is done at y")
    assert list(found.avoided) == ["x"]
    assert "done elsewhere" in found.avoided["x"].why


def test_what_failed_everywhere_excuses_the_nodes():
    found = blame(*(f"{trial} fails at {node}" for trial in "ab" for node in "xy"))
    assert not found.avoided


def test_the_last_node_is_never_avoided():
    assert not blame("a fails at x", "b fails at x", "c fails at x").avoided
    found = blame(*(f"{trial} fails at {node}" for node in "xyz" for trial in "abcdef"))
    assert list(found.avoided) == ["y", "z"]  # x was there before there was another
    assert found.avoid(("a",)) == ("y", "z")


def test_a_trial_keeps_off_the_node_where_it_failed_while_there_is_another():
    assert blame("a fails at x").avoid(("a",)) == ()
    found = blame("a fails at x", "b is done at y")
    assert found.avoid(("a",)) == ("x",)
    assert found.avoid(("b",)) == ()
    assert blame("a fails at x", "b is done at y", "a fails at y").avoid(("a",)) == ()


def test_a_node_that_is_gone_is_no_alternative():
    found = blame("b fails at y (node)", "a fails at x", "b fails at x", "c fails at x")
    assert not found.avoided
    assert found.avoid(("a",)) == ()


@pytest.mark.parametrize("cause", KEEPING)
def test_where_nothing_can_be_kept_is_the_nodes_fault_while_there_is_another(cause):
    found = Blame(2)
    found.began("a", "x", "hx")
    found.began("b", "y", "hy")
    again, avoided = found.failed("a", cause)
    assert again
    assert [node.node for node in avoided] == ["x"]
    assert found.failed("b", cause) == (False, [])


def test_what_has_no_node_has_no_room_elsewhere():
    found = Blame(2)
    found.began("a", "")
    assert found.failed("a", "disk") == (False, [])
