"""A sweep killed at seeded moments and gone on with equals an undisturbed one. More of it: benchmarks/kill_sweep.py."""

import sys
from collections import Counter

import pytest

from ablate.driver import run
from ablate.execution import Options
from ablate.home import Home
from ablate.log import ledger
from ablate.plan import plan
from benchmarks import kill_sweep

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="finds processes in /proc")


@pytest.fixture
def homes(tmp_path):
    """One to be disturbed, and one to compare with."""
    pair = Home(tmp_path / "disturbed"), Home(tmp_path / "undisturbed")
    for home in pair:
        home.root.mkdir()
    return pair


def test_killed_sweep_equals_an_undisturbed_one(homes):
    disturbed, undisturbed = homes
    whole = plan(kill_sweep.study(24), "smoke")
    run(whole, Options(home=undisturbed, local=True))
    story = kill_sweep.disturb(disturbed, whole, kill_sweep.in_turn(3), seed=1)
    kill_sweep.check(disturbed, undisturbed, whole)
    assert story.kills.total() == 3
    assert story.kills["driver"] >= 1


def survived(homes, whole, during, after, sinks):
    """Strikes while the trial that the others share is trained, and after; compares with a sweep left alone."""
    disturbed, undisturbed = homes
    run(whole, Options(home=undisturbed, local=True))
    strikes = kill_sweep.around(whole, during, after)
    story = kill_sweep.disturb(disturbed, whole, strikes, seed=1, sinks=sinks)
    kill_sweep.check(disturbed, undisturbed, whole, sinks=sinks)
    assert story.kills == Counter((*during, *after))
    entry = ledger(disturbed)[strikes[0].during]
    assert entry.attempts == 1 + len(during), "the shared trial was begun anew after each strike, and never again"
    assert entry.record.state == "done"


def test_trials_that_share_a_pretraining_survive_kills(homes):
    """Default run: two kills while it is trained and two after; all eight: below."""
    whole = plan(kill_sweep.named("pretrained"), "smoke")
    survived(homes, whole, ("driver", "worker"), ("raylet", "gcs_server"), sinks=False)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pretrained", "greg_base"])
def test_trials_that_share_a_pretraining_survive_every_kill(homes, name):
    whole = plan(kill_sweep.named(name), "smoke")
    # A third loss of one trial within one driver's life would count as its own fault: the driver goes in between.
    survived(
        homes,
        whole,
        ("worker", "raylet", "driver", "gcs_server"),
        ("worker", "driver", "raylet", "gcs_server"),
        sinks=True,
    )


def test_the_check_sees_a_difference(tmp_path):
    """The comparison above must be able to fail: here one sweep has other numbers under the same ids."""
    whole = plan(kill_sweep.study(8), "smoke")
    one, other = Home(tmp_path / "one"), Home(tmp_path / "other")
    for home in (one, other):
        run(whole, Options(home=home, local=True))
    path = one.log(whole.sweep)
    text = path.read_text()
    assert '"loss":' in text
    path.write_text(text.replace('"loss":', '"loss":1', 1))
    with pytest.raises(AssertionError, match="different"):
        kill_sweep.check(one, other, whole, sinks=False)
