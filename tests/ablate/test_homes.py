"""A home that cannot be used, or that another uses: one clear message, and nothing in it is lost."""

import os
import subprocess

import pytest

from ablate import driver
from ablate.home import Home
from ablate.log import ledger, read
from tests.ablate.console import OFF, TOY, Shell, files, stopped_after

STUDY = f"{TOY}:toy"


@pytest.fixture
def shell(tmp_path, capsys):
    return Shell(tmp_path / "home", capsys)


@pytest.fixture
def begun(shell):
    """A sweep that was stopped after three of its twelve trials."""
    with stopped_after(3):
        assert shell.trains().code == 130
    return shell


@pytest.fixture
def read_only(begun, tmp_path):
    """The same home on a file system that takes nothing any more; for root too."""
    folder = str(begun.home)
    bind = [["mount", "--bind", folder, folder], ["mount", "-o", "remount,ro,bind", folder]]
    for command in bind:
        done = subprocess.run(command, capture_output=True, text=True) if os.geteuid() == 0 else None
        if done is None or done.returncode:
            pytest.skip("a read-only file system needs the right to mount" + (f": {done.stderr}" if done else ""))
    yield begun
    subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.mark.parametrize("words", [("run", STUDY, "--local", *OFF), ("resume", STUDY, "--local", *OFF), ("sync",)])
def test_a_home_that_cannot_be_written_is_refused(read_only, words):
    before = {name: (read_only.home / name).read_bytes() for name in files(read_only.home)}
    found = read_only(*words)
    assert (found.code, found.out) == (2, "")
    assert found.err.count("\n") == 1
    assert f"The home {read_only.home} cannot be written: Read-only file system." in found.err
    assert {name: (read_only.home / name).read_bytes() for name in files(read_only.home)} == before


def test_a_home_that_cannot_be_written_can_be_read(read_only):
    assert "3 of 12 done" in read_only("status").out
    assert read_only("show", STUDY).code == 0


def test_a_report_that_cannot_be_written_says_so_in_one_line(read_only):
    found = read_only("report", STUDY)
    assert (found.code, found.out) == (2, "")
    assert found.err.count("\n") == 1
    assert "cannot be written: Read-only file system" in found.err


def log_of(shell):
    return shell.home / "log" / "toy@laptop.jsonl"


@pytest.mark.parametrize("words", [("run", STUDY, "--local", *OFF), ("status",), ("report", STUDY), ("show", STUDY)])
def test_a_corrupt_tail_of_a_log_is_said_with_its_byte_and_left_as_it_is(begun, words):
    whole = log_of(begun).read_bytes()
    log_of(begun).write_bytes(whole + b"\0\0\0 not a line\n")
    found = begun(*words)
    assert (found.code, found.out) == (2, "")
    assert found.err.count("\n") == 1
    assert f"{log_of(begun)}, byte {len(whole)}: not a line of the log" in found.err
    assert log_of(begun).read_bytes() == whole + b"\0\0\0 not a line\n"


def test_a_log_that_was_cut_where_the_message_says_goes_on(begun):
    whole = log_of(begun).read_bytes()
    log_of(begun).write_bytes(whole + b"\0\0\0 not a line\n")
    begun.trains()
    with log_of(begun).open("rb+") as file:
        file.truncate(len(whole))
    assert begun.trains().code == 0
    ends = [line["trial"] for _, line in read(log_of(begun)) if line["kind"] == "ended"]
    assert len(ends) == len(set(ends)) == 12


def test_a_tail_that_a_crash_tore_is_cut_without_a_word(begun):
    whole = log_of(begun).read_bytes()
    last = whole.splitlines()[-1]
    with log_of(begun).open("ab") as file:
        file.write(last[: len(last) // 2])
    assert "3 of 12 done" in begun("status").out
    with stopped_after(2):
        assert begun.trains().code == 130
    assert sum(1 for _ in read(log_of(begun))) > len(whole.splitlines())


def test_of_two_drivers_at_once_one_is_told_who_the_other_is(shell, tmp_path):
    """The second comes while the first trains."""
    other, said, original = Shell(shell.home, shell._capsys), [], driver.run

    def meeting(plan, options, watch, check):
        def both(event):
            watch(event)
            if event.kind == "ended" and not said:
                with pytest.MonkeyPatch.context() as patch:
                    patch.setattr(driver, "run", original)
                    said.append(other.trains())

        return original(plan, options, both, check)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(driver, "run", meeting)
        assert shell.trains().code == 0
    (refused,) = said
    assert refused.code == 3
    assert refused.err.count("\n") == 1
    assert f"toy@laptop in {shell.home} is being run by process {os.getpid()} on " in refused.err
    assert len(ledger(Home(shell.home))) == 12
