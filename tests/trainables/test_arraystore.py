"""A folder of arrays is made once, appears whole or not at all, and is made again when damaged."""

import json
import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from trainables.arraystore import Writer, array_digest, open_stored


class Builds:
    """A build function that counts its calls."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, writer: Writer) -> None:
        self.count += 1
        writer.put("a", np.arange(12).reshape(4, 3))
        writer.stream("b", (np.full((n, 2), n, dtype=np.uint8) for n in (1, 2, 3)))
        writer.notes["told"] = ["x", 1]


def test_made_once_and_mapped(tmp_path: Path) -> None:
    build = Builds()
    first, second = open_stored(tmp_path / "s", build), open_stored(tmp_path / "s", build)
    assert build.count == 1
    for stored in (first, second):
        assert isinstance(stored.arrays["a"], np.memmap)
        np.testing.assert_array_equal(stored.arrays["a"], np.arange(12).reshape(4, 3))
        assert stored.notes == {"told": ["x", 1]}
        assert stored.digests["a"] == array_digest(np.arange(12).reshape(4, 3))


def test_streamed_rows_are_one_array_that_numpy_reads(tmp_path: Path) -> None:
    stored = open_stored(tmp_path / "s", Builds())
    expected = np.repeat(np.array([1, 2, 3], dtype=np.uint8), [1, 2, 3])[:, None].repeat(2, 1)
    np.testing.assert_array_equal(np.load(tmp_path / "s" / "b.npy"), expected)
    assert stored.arrays["b"].dtype == np.uint8


def test_streamed_rows_of_two_shapes_are_refused_and_nothing_is_left(tmp_path: Path) -> None:
    def build(writer: Writer) -> None:
        writer.stream("b", iter([np.zeros((1, 2)), np.zeros((1, 3))]))

    with pytest.raises(ValueError, match="after"):
        open_stored(tmp_path / "s", build)
    assert [path.name for path in tmp_path.iterdir()] == ["s.lock"]


def test_writing_to_a_mapped_array_reaches_neither_the_file_nor_other_processes(tmp_path: Path) -> None:
    stored = open_stored(tmp_path / "s", Builds())
    stored.arrays["a"][0, 0] = 99
    assert np.load(tmp_path / "s" / "a.npy")[0, 0] == 0


def flip_a_byte(folder: Path) -> None:
    raw = bytearray((folder / "a.npy").read_bytes())
    raw[-1] ^= 1
    (folder / "a.npy").write_bytes(raw)


def cut_short(folder: Path) -> None:
    raw = (folder / "a.npy").read_bytes()
    (folder / "a.npy").write_bytes(raw[: len(raw) // 2])


def half_written_meta(folder: Path) -> None:
    (folder / "meta.json").write_text((folder / "meta.json").read_text()[:40])


def other_version(folder: Path) -> None:
    meta = json.loads((folder / "meta.json").read_text())
    (folder / "meta.json").write_text(json.dumps({**meta, "schema": 0}))


def removed(folder: Path) -> None:
    (folder / "b.npy").unlink()


def no_meta(folder: Path) -> None:
    (folder / "meta.json").unlink()


def no_arrays_listed(folder: Path) -> None:
    (folder / "meta.json").write_text('{"schema": 1}')


@pytest.mark.parametrize(
    "damage", [flip_a_byte, cut_short, half_written_meta, other_version, removed, no_meta, no_arrays_listed]
)
def test_damage_is_found_said_and_mended(tmp_path: Path, caplog: pytest.LogCaptureFixture, damage) -> None:
    build = Builds()
    before = open_stored(tmp_path / "s", build).digests
    damage(tmp_path / "s")
    with caplog.at_level(logging.WARNING):
        after = open_stored(tmp_path / "s", build)
    assert build.count == 2
    assert after.digests == before
    assert "is damaged" in caplog.text
    assert "made again" in caplog.text


def test_a_file_that_was_only_touched_is_verified_once_and_kept(tmp_path: Path, monkeypatch) -> None:
    build = Builds()
    open_stored(tmp_path / "s", build)
    raw = (tmp_path / "s" / "a.npy").read_bytes()
    (tmp_path / "s" / "a.npy").write_bytes(raw)
    open_stored(tmp_path / "s", build)
    monkeypatch.setattr("trainables.arraystore.array_digest", None)  # from here on nothing is hashed
    open_stored(tmp_path / "s", build)
    assert build.count == 1


def test_what_a_killed_process_left_is_swept_away(tmp_path: Path) -> None:
    (tmp_path / "s.partial").mkdir()
    (tmp_path / "s.partial" / "c.npy").write_bytes(b"half")
    stored = open_stored(tmp_path / "s", Builds())
    assert set(stored.arrays) == {"a", "b"}
    assert not (tmp_path / "s.partial").exists()


def test_a_failed_build_leaves_nothing(tmp_path: Path) -> None:
    def build(writer: Writer) -> None:
        writer.put("a", np.zeros(3))
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        open_stored(tmp_path / "s", build)
    assert [path.name for path in tmp_path.iterdir()] == ["s.lock"]


def test_a_link_is_the_same_file(tmp_path: Path) -> None:
    open_stored(tmp_path / "s", Builds())
    open_stored(tmp_path / "t", lambda writer: writer.link("a", tmp_path / "s" / "a.npy"))
    assert (tmp_path / "t" / "a.npy").samefile(tmp_path / "s" / "a.npy")


_CHILD = """
import sys, time
from pathlib import Path
import numpy as np
from trainables.arraystore import open_stored
folder, name = Path(sys.argv[1]), sys.argv[2]
def build(writer):
    print("built")
    time.sleep(0.2)
    writer.put("a", np.arange(1000))
(folder / f"ready{name}").touch()
while not (folder / "go").exists():
    pass
stored = open_stored(folder / "s", build)
assert stored.arrays["a"].sum() == 499500
"""


def test_of_four_processes_at_the_same_moment_one_builds(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    children = [
        subprocess.Popen(
            [sys.executable, "-c", _CHILD, str(tmp_path), str(i)], cwd=root, stdout=subprocess.PIPE, text=True
        )
        for i in range(4)
    ]
    while len(list(tmp_path.glob("ready*"))) < 4:
        assert all(child.poll() is None for child in children)
    (tmp_path / "go").touch()
    said = [child.communicate(timeout=60)[0] for child in children]
    assert [child.returncode for child in children] == [0] * 4
    assert "".join(said).count("built") == 1
