"""A sweep killed at seeded moments and gone on with equals an undisturbed one. More of it: benchmarks/kill_sweep.py."""

import sys

import pytest

from ablate.driver import Options, run
from ablate.home import Home
from ablate.plan import plan
from benchmarks import kill_sweep

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="finds processes in /proc")


def test_killed_sweep_equals_an_undisturbed_one(tmp_path):
    whole = plan(kill_sweep.study(24), "smoke")
    disturbed, undisturbed = Home(tmp_path / "disturbed"), Home(tmp_path / "undisturbed")
    for home in (disturbed, undisturbed):
        home.root.mkdir()
    run(whole, Options(home=undisturbed, local=True))
    story = kill_sweep.disturb(disturbed, whole, kills=3, seed=1)
    kill_sweep.check(disturbed, undisturbed, whole)
    assert story.kills.total() == 3
    assert story.kills["driver"] >= 1


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
