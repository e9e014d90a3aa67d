"""ablate.memory against what the test itself allocates."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ablate import memory

pytestmark = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="this system has no /proc")
BLOCK = 64 * 2**20


def test_the_peak_rises_by_what_was_held_and_starts_anew():
    assert memory.reset("cpu")
    before = memory.peak("cpu")
    held = np.ones(BLOCK, dtype=np.uint8)
    high = memory.peak("cpu")
    assert 0.9 * BLOCK < high - before < 1.5 * BLOCK
    del held
    assert memory.peak("cpu") > high - 0.1 * BLOCK  # the kernel counts in batches
    assert memory.reset("cpu")
    assert memory.peak("cpu") < high - 0.5 * BLOCK


def test_a_system_that_does_not_let_it_start_anew_is_not_measured(monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "_CLEAR", tmp_path / "absent" / "clear_refs")
    assert not memory.reset("cpu")


def test_a_system_that_does_not_tell_its_peak_is_not_measured(monkeypatch, tmp_path):
    (tmp_path / "status").write_text("Name:\tpython\nVmRSS:\t1 kB\n")
    monkeypatch.setattr(memory, "_STATUS", tmp_path / "status")
    assert not memory.reset("cpu")


FAULTS = """
import resource, sys
import numpy as np
from ablate import memory

def pages():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    held = [np.ones(2**20, dtype=np.float32) for _ in range(8)]
    del held
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

if sys.argv[1] == "keep" and not memory.keep():
    sys.exit("no glibc")
print(*(pages() for _ in range(4)))
"""


@pytest.mark.parametrize("how", ["keep", "as it is"])
def test_what_is_freed_is_not_taken_from_the_system_again_page_by_page(how):
    """In processes of their own; the second shows that it needed to be asked for."""
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", FAULTS, how], capture_output=True, text=True, cwd=root)
    if done.stderr == "no glibc\n":
        pytest.skip("the C library is not glibc")
    first, *later = map(int, done.stdout.split())
    assert first > 2000
    assert max(later) < 100 if how == "keep" else min(later) > 2000
