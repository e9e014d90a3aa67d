"""ablate.memory against what the test itself allocates."""

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
