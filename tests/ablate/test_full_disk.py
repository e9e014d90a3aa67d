"""A disk that is full, or that became read-only: one clear message, nothing lost. A small tmpfs stands for the disk."""

import contextlib
import errno
import os
import subprocess
from pathlib import Path

import pytest

from ablate import checkpoint, driver, worker
from ablate.execution import Options
from ablate.home import Home
from ablate.log import Log, Unwritable, ledger, read
from ablate.plan import plan
from tests.ablate import walks
from tests.ablate.console import Shell

WALK = plan(walks.walk, "smoke")


@pytest.fixture
def disk(tmp_path):
    """A file system of one megabyte, of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "ablate-test", str(folder)]
    done = subprocess.run(mount, capture_output=True, text=True) if os.geteuid() == 0 else None
    if done is None or done.returncode:
        pytest.skip("mounting a small file system needs the right to mount" + (f": {done.stderr}" if done else ""))
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """Leaves no room at all."""
    filler = folder / "filler"
    with filler.open("ab", buffering=0) as file, contextlib.suppress(OSError):
        for size in (4096, 1):
            while True:
                file.write(b"x" * size)
    return filler


def test_the_log_takes_a_line_whole_or_not_at_all(disk):
    log = Log(disk / "log" / "a.jsonl")
    log.append("left", how="done")
    before = log.path.read_bytes()
    filler = fill(disk)
    with pytest.raises(Unwritable, match=r"a\.jsonl can no longer be written \(No space left on device\)"):
        log.append("left", how="x" * 10_000)
    assert log.path.read_bytes() == before
    filler.unlink()
    log.append("left", how="again")
    log.close()
    assert [line["how"] for _, line in read(log.path)] == ["done", "again"]


@pytest.mark.parametrize("epoch", [1, 3])
def test_a_home_that_fills_up_stops_the_sweep_and_resume_goes_on(disk, tmp_path, monkeypatch, epoch):
    """It is full when the third trial's epoch comes: what ended before is kept, the rest is trained later."""
    monkeypatch.setattr(worker, "CHECKPOINT_EVERY_S", 0.0)
    home, filled = Home(disk), []

    def watch(event):
        if event.kind == "epoch" and event.trial == WALK.trials[2].id and event.epoch == epoch and not filled:
            filled.append(fill(disk))

    stopped = driver.run(WALK, Options(home=home, local=True), watch)
    assert stopped.interrupted
    assert (len(stopped.done), stopped.failed) == (2, ())
    assert "No space left on device" in stopped.message
    filled[0].unlink()
    again = driver.run(WALK, Options(home=home, local=True))
    assert (len(again.done), again.trained) == (6, 4)
    alone = Home(tmp_path / "alone")
    driver.run(WALK, Options(home=alone, local=True))
    ends = [line["trial"] for _, line in read(home.log(WALK.sweep)) if line["kind"] == "ended"]
    assert sorted(ends) == sorted(trial.id for trial in WALK.trials)
    for trial in WALK.trials:
        one, other = (ledger(place)[trial.id].record for place in (home, alone))
        assert [epoch["metrics"] for epoch in one.epochs] == [epoch["metrics"] for epoch in other.epochs]


def test_a_full_disk_at_the_start_is_one_line(disk, capsys):
    fill(disk)
    answered = Shell(disk / "new", capsys).trains()
    assert (answered.code, answered.out) == (2, "")
    assert "cannot be written: No space left on device" in answered.err


def refusing(number):
    """A function that raises this error."""

    def write(*_arguments, **_more):
        raise OSError(number, os.strerror(number))

    return write


@pytest.mark.parametrize(("part", "number"), [("save", errno.EDQUOT), ("finish", errno.EDQUOT), ("save", errno.EROFS)])
def test_a_trial_whose_checkpoint_cannot_be_written_has_not_ended(tmp_path, monkeypatch, part, number):
    monkeypatch.setattr(checkpoint, part, refusing(number))
    result = driver.run(WALK, Options(home=Home(tmp_path), local=True))
    assert (result.done, result.failed, result.interrupted) == ((), (), True)
    assert os.strerror(number) in result.message
    assert "make room" in result.message
    monkeypatch.undo()
    assert len(driver.run(WALK, Options(home=Home(tmp_path), local=True)).done) == 6


def test_a_log_that_does_not_reach_the_disk_stops_the_sweep(tmp_path, monkeypatch):
    home, sync = Home(tmp_path), os.fsync

    def fsync(descriptor):
        file = Path(f"/proc/self/fd/{descriptor}").readlink()
        if file.suffix == ".jsonl" and len(list(home.root.glob("trials/*/*"))) > 2:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    stopped = driver.run(WALK, Options(home=home, local=True))
    assert stopped.interrupted
    assert "can no longer be written (Input/output error)" in stopped.message
    monkeypatch.undo()
    assert len(driver.run(WALK, Options(home=home, local=True)).done) == 6
