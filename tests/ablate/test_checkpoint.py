"""Whatever a crash or a bad disk leaves, the last whole state is found, and what was wrong is said."""

import dataclasses
import json

import pytest
import torch

from ablate import checkpoint
from ablate.checkpoint import Checkpoint
from ablate.log import Record

EPOCH = {"epoch": 1, "seconds": 0.1, "metrics": {"loss": 0.1 + 0.2}}
TENSORS = {
    "weight": torch.randn(3, 2, generator=torch.Generator().manual_seed(0)),
    "half": torch.tensor([1.0, -0.0, float("inf")], dtype=torch.bfloat16),
    "random": torch.Generator().manual_seed(7).get_state(),
    "nested": ({"step": 3, "bytes": b"\x00\xff"}, [1.5, None, True]),
}
RECORD = Record("t1", "walk", {}, {}, 0, "done", epochs=(EPOCH,))


def at(epoch, state):
    epochs = tuple(dict(EPOCH, epoch=k) for k in range(1, epoch + 1))
    return Checkpoint("t1", epochs, 2.5, 100.0, state, {"code": "abc"}, ("a note",))


def same(one, other):
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one.view(torch.uint8), other.view(torch.uint8))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return type(one) is type(other) and all(same(x, y) for x, y in zip(one, other, strict=True))
    return one == other and type(one) is type(other)


@pytest.mark.parametrize("state", [TENSORS, {"place": 0.1, "big": 2**127, "list": [1, "x", None]}, {"tuple": (1, 2)}])
def test_a_state_comes_back_as_it_was(tmp_path, state):
    checkpoint.save(tmp_path, at(2, state))
    found, notes = checkpoint.load(tmp_path, "t1")
    assert notes == ()
    assert same(found.state, state)
    assert dataclasses.replace(found, state={}) == dataclasses.replace(at(2, {}), state={})


def test_plain_states_are_stored_without_torch(tmp_path):
    checkpoint.save(tmp_path, at(1, {"place": 0.5}))
    assert json.loads((tmp_path / "state").read_bytes().splitlines()[2]) == {"place": 0.5}


def damage_cut(raw):
    return raw[: len(raw) // 2]


def damage_bit(raw):
    return raw[:-3] + bytes([raw[-3] ^ 1]) + raw[-2:]


def damage_schema(raw):
    return raw.replace(b'"schema": 1', b'"schema": 0', 1)


def damage_empty(_raw):
    return b""


@pytest.mark.parametrize("damage", [damage_cut, damage_bit, damage_schema, damage_empty])
@pytest.mark.parametrize("state", [TENSORS, {"place": 0.5}])
def test_a_damaged_state_gives_the_one_before_and_says_so(tmp_path, damage, state):
    checkpoint.save(tmp_path, at(1, state))
    checkpoint.save(tmp_path, at(2, state))
    path = tmp_path / "state"
    path.write_bytes(damage(path.read_bytes()))
    found, notes = checkpoint.load(tmp_path, "t1")
    assert len(found.epochs) == 1
    assert notes[-1] == "continued from epoch 1 instead"
    (tmp_path / "state.previous").write_bytes(b"gone")
    found, notes = checkpoint.load(tmp_path, "t1")
    assert found is None
    assert notes[-1] == "trained from the start instead"


def test_a_crash_between_the_two_renames_leaves_the_one_before(tmp_path):
    checkpoint.save(tmp_path, at(1, {"place": 0.5}))
    (tmp_path / "state").rename(tmp_path / "state.previous")
    (tmp_path / "state.writing").write_bytes(b"half a file")
    found, _ = checkpoint.load(tmp_path, "t1")
    assert len(found.epochs) == 1
    checkpoint.save(tmp_path, at(2, {"place": 0.7}))
    assert len(checkpoint.load(tmp_path, "t1")[0].epochs) == 2


def test_another_trials_state_is_refused(tmp_path):
    checkpoint.save(tmp_path, at(1, {"place": 0.5}))
    found, notes = checkpoint.load(tmp_path, "t2")
    assert found is None
    assert "belongs to trial t1" in notes[0]


def test_loading_runs_no_code(tmp_path):
    class Trap:
        def __reduce__(self):
            return (tmp_path.joinpath("sprung").touch, ())

    checkpoint.save(tmp_path, at(1, {"trap": Trap()}))
    found, notes = checkpoint.load(tmp_path, "t1")
    assert found is None
    assert "cannot be loaded" in notes[0]
    assert not tmp_path.joinpath("sprung").exists()


def test_an_end_is_found_whole_or_not_at_all(tmp_path):
    assert checkpoint.ended(tmp_path, "t1") is None
    checkpoint.finish(tmp_path, RECORD, stateless=True)
    assert checkpoint.ended(tmp_path, "t1") == RECORD
    assert checkpoint.ended(tmp_path, "t2") is None
    path = tmp_path / "end.json"
    path.write_bytes(path.read_bytes().replace(b'"done"', b'"dome"'))
    assert checkpoint.ended(tmp_path, "t1") is None


def test_final_state_is_there_only_after_the_end(tmp_path):
    checkpoint.save(tmp_path, at(1, {"place": 0.5}))
    assert checkpoint.final_state(tmp_path, "t1") is None
    checkpoint.finish(tmp_path, RECORD, stateless=False)
    assert checkpoint.final_state(tmp_path, "t1") == {"place": 0.5}
    assert checkpoint.is_kept(tmp_path)
    (tmp_path / "state").unlink()
    assert checkpoint.final_state(tmp_path, "t1") is None
    assert not checkpoint.is_kept(tmp_path)


def test_a_method_without_state_needs_none_to_be_complete(tmp_path):
    checkpoint.finish(tmp_path, RECORD, stateless=True)
    assert checkpoint.is_kept(tmp_path)
    assert checkpoint.final_state(tmp_path, "t1") == {}
