"""What trials show: kept whole beside their checkpoints, read without running code; damaged files are left out."""

import pickle
from pathlib import Path

import numpy as np
import pytest

from ablate import exhibits, records
from ablate.home import Home
from ablate.log import Record
from ablate.messages import Job
from ablate.plan import Plan, Trial, plan
from ablate.worker import run_trial
from analysis.frame import Frame
from tests.ablate import walks


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home") / "data"


@pytest.fixture
def job(tmp_path: Path, cache: Path) -> Job:
    cache.mkdir(exist_ok=True)
    (tmp_path / "data").symlink_to(cache)
    return Job(home=Home(tmp_path), origin=walks.__file__, code={"walk": {"walks.py": "1"}})


def ended(trial: Trial, job: Job) -> Record:
    *_, record = run_trial(trial, job)
    assert isinstance(record, Record)
    return record


def swept(job: Job, **arms: walks.Walk) -> tuple[Plan, Frame]:
    """Every cell run, and the frame that says so, without a driver."""
    made = plan(walks.study("shown", arms, 2), "smoke")
    states = {trial.id: ended(trial, job).state for trial in made.trials}
    frame = records.frame(job.home, made)
    frame.trials["state"] = frame.trials["trial"].map(states)
    return made, frame


ARRAYS = {"curve": np.linspace(0, 1, 7, dtype=np.float32), "counts": np.arange(6).reshape(2, 3), "on": np.array(True)}


def test_arrays_come_back_as_they_went(tmp_path: Path) -> None:
    found = exhibits.load(exhibits.save(tmp_path / "new", 3, ARRAYS))
    assert found.keys() == ARRAYS.keys()
    for name, values in ARRAYS.items():
        np.testing.assert_array_equal(found[name], values)
        assert found[name].dtype == values.dtype
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["3.npz"]


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"names": np.array(["a", None])}, "'names' holds object: only numbers are kept"),
        ({"words": np.array(["a"])}, "'words' holds <U1"),
        ({"large": np.zeros(exhibits.MOST_BYTES // 8 + 1)}, "at most 16 MiB"),
    ],
)
def test_what_is_no_picture_is_refused_and_leaves_nothing(tmp_path: Path, arrays: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        exhibits.save(tmp_path / "new", 1, arrays)
    assert not list(tmp_path.rglob("*.npz*"))


def test_a_write_that_is_cut_short_leaves_the_file_before_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = exhibits.save(tmp_path, 1, {"place": np.array([1.0])})

    def cut(file, **arrays):
        file.write(b"PK")
        raise OSError("no space left on device")

    monkeypatch.setattr(np, "savez_compressed", cut)
    with pytest.raises(OSError, match="no space"):
        exhibits.save(tmp_path, 1, {"place": np.array([2.0])})
    assert exhibits.load(path)["place"] == [1.0]


def test_a_trial_keeps_what_it_shows_and_a_report_finds_the_last(job: Job) -> None:
    made, frame = swept(job, still=walks.Walk(show="place"), right=walks.Walk(show="place", drift=1.0))
    found = exhibits.gather(job.home, made, frame)
    assert [(each.arm, each.block, each.epoch) for each in found.shown] == [
        (arm, f"digits/t0/s{seed}", 4) for arm in ("still", "right") for seed in (0, 1)
    ]
    assert (found.done, found.unreadable) == (4, ())
    final = {cell.trial: ended_place(job, cell.trial) for cell in made.cells}
    shown = {(each.arm, each.block): float(each.arrays["place"][0]) for each in found.shown}
    assert shown == {(cell.arm, cell.block.name): final[cell.trial] for cell in made.cells}


def ended_place(job: Job, trial: str) -> float:
    """Where the walk stood in epoch 4, as its record says."""
    from ablate import checkpoint

    record = checkpoint.ended(job.home.trial(trial), trial)
    assert record is not None
    return next(epoch["metrics"]["auroc"] for epoch in record.epochs if epoch["epoch"] == 4)


@pytest.mark.parametrize("how", ["flipped", "cut", "empty", "text", "pickle"])
def test_a_damaged_file_is_named_and_left_out(job: Job, how: str) -> None:
    made, frame = swept(job, only=walks.Walk(show="place"))
    trial = made.cells[0].trial
    path = job.home.exhibits(trial) / "4.npz"
    whole = path.read_bytes()
    middle = whole.index(b"place.npy") + 60  # within the first member's data
    flipped = whole[:middle] + bytes([whole[middle] ^ 255]) + whole[middle + 1 :]
    bad = {"flipped": flipped, "cut": whole[:-20], "empty": b"", "text": b"not an archive"}
    path.write_bytes(bad.get(how, pickle.dumps({"place": 1})))
    found = exhibits.gather(job.home, made, frame)
    assert [each.block for each in found.shown] == ["digits/t0/s1"]
    assert len(found.unreadable) == 1
    assert f"4.npz of trial {trial} cannot be read" in found.unreadable[0]


def test_runs_that_are_not_done_and_runs_that_show_nothing_are_not_shown(job: Job) -> None:
    made, frame = swept(job, loud=walks.Walk(show="place"), mute=walks.Walk(), lost=walks.Walk(fail="error"))
    found = exhibits.gather(job.home, made, frame)
    assert {each.arm for each in found.shown} == {"loud"}
    assert found.done == 4


@pytest.mark.parametrize(("how", "words"), [("fail", "a bug of the picture"), ("objects", "only numbers are kept")])
def test_a_picture_that_fails_costs_a_note_and_no_trial(job: Job, how: str, words: str) -> None:
    trial = plan(walks.study("one", {"only": walks.Walk(show=how)}, 1), "smoke").trials[0]
    record = ended(trial, job)
    assert (record.state, len(record.epochs)) == ("done", 5)
    assert [note for note in record.notes if words in note and "epoch 2" in note]
    assert not job.home.exhibits(trial.id).exists()


def test_what_a_trial_showed_is_forgotten_when_it_starts_over(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    trial = plan(walks.study("one", {"only": walks.Walk(show="place")}, 1), "smoke").trials[0]
    stale = exhibits.save(job.home.exhibits(trial.id), 99, {"place": np.zeros(1)})
    ended(trial, job)
    assert not stale.exists()
    assert sorted(path.name for path in stale.parent.iterdir()) == ["2.npz", "4.npz"]


def test_numbers_do_not_depend_on_whether_anything_is_shown(job: Job) -> None:
    first, second = (
        ended(plan(walks.study("one", {"only": walks.Walk(show=show)}, 1), "smoke").trials[0], job)
        for show in ("", "place")
    )
    assert [epoch["metrics"]["auroc"] for epoch in first.epochs] == [
        epoch["metrics"]["auroc"] for epoch in second.epochs
    ]
