"""A log in an object store: the same lines, whoever wrote them and wherever they stopped."""

import hashlib
import json
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ablate import segments
from ablate.home import Home
from ablate.log import CorruptLog, Log, read
from ablate.segments import Missing, Segment, chain
from tests.ablate import stores

SWEEP = "a@smoke"


@pytest.fixture
def faulty(monkeypatch):
    return stores.installed(monkeypatch)


@pytest.fixture
def here(tmp_path, faulty):
    return Home(tmp_path / "here", f"fake://{tmp_path}/store")


@pytest.fixture
def there(tmp_path, here):
    return Home(tmp_path / "there", here.remote)


def written(home, names, **more):
    """A driver appends lines, each synced, and leaves."""
    segments.pull(home, held=SWEEP)
    log = Log(home.log(SWEEP), segments.push(home, SWEEP), **more)
    for name in names:
        log.append("left", how=name)
        log.sync()
    return log


def names(home):
    segments.pull(home)
    return [line["how"] for _, line in read(home.log(SWEEP))] if home.log(SWEEP).exists() else []


def objects(home):
    return sorted((folder_of(home) / f"log/{SWEEP}.jsonl").iterdir())


def folder_of(home):
    return Path(home.remote.removeprefix("fake://"))


def segment(writer, first, end):
    return Segment(writer, first, end, "", f"{writer}/{first}")


def test_another_node_reads_what_was_acknowledged(here, there):
    log = written(here, ["one", "two"])
    assert names(there) == ["one", "two"], "before the driver left"
    assert log.close(1.0) == ""
    written(there, ["three"]).close(1.0)
    assert names(here) == ["one", "two", "three"]


def test_lines_that_nobody_waits_for_go_too(here, there, monkeypatch):
    monkeypatch.setattr(segments, "IDLE_S", 0.01)
    log = written(here, [])
    log.append("left", durable=False, how="one")
    for _ in range(500):
        if names(there):
            break
        log._elsewhere.thread.join(0.01)
    assert names(there) == ["one"]
    log.close(1.0)


def test_many_small_segments_become_one(here, there, monkeypatch):
    monkeypatch.setattr(segments, "MOST_SMALL", 8)
    log = written(here, [str(k) for k in range(30)])
    assert log.close(5.0) == ""
    assert len(objects(here)) < 8 + 1
    assert names(there) == [str(k) for k in range(30)]


def test_large_segments_stay(here, there, monkeypatch):
    monkeypatch.setattr(segments, "SMALL", 64)
    monkeypatch.setattr(segments, "MOST_SMALL", 4)
    log = written(here, [str(k) * 100 for k in range(10)])
    log.close(5.0)
    assert len(objects(here)) == 10
    assert names(there) == [str(k) * 100 for k in range(10)]


def test_a_line_longer_than_a_segment_goes_whole(here, there, monkeypatch):
    monkeypatch.setattr(segments, "LARGEST", 64)
    log = written(here, ["x" * 1000, "y"])
    assert log.close(5.0) == ""
    assert names(there) == ["x" * 1000, "y"]


def test_an_outage_is_waited_out(here, there, faulty, monkeypatch):
    monkeypatch.setattr(segments, "AGAIN_S", 0.001)
    log = written(here, ["one"])
    faulty.away = True
    log.append("left", how="two")
    log.sync()
    log.append("left", how="three")
    log.sync()
    faulty.away = False
    assert log.close(5.0) == ""
    assert names(there) == ["one", "two", "three"]


def test_what_an_outage_left_behind_is_said_and_delivered_later(here, there, faulty, monkeypatch):
    monkeypatch.setattr(segments, "AGAIN_S", 0.001)
    log = written(here, ["one"])
    faulty.away = True
    log.append("left", how="two")
    log.sync()
    said = log.close(0.05)
    for part in (str(here.log(SWEEP)), "`sync`", "is away"):
        assert part in said
    faulty.away = False
    assert names(there) == ["one"]
    assert segments.deliver(here, SWEEP, 5.0) == ""
    assert names(there) == ["one", "two"]


def test_a_driver_cut_off_from_the_store_cannot_change_the_log_of_the_next(here, there, tmp_path):
    log = written(here, ["one"])
    written(there, ["two"]).close(1.0)
    log.append("left", how="late")
    log.sync()
    log.close(1.0)
    other = Home(tmp_path / "third", here.remote)
    assert names(other) == names(there) == ["one", "two"]
    (note,) = segments.pull(here)
    assert "another driver" in note
    assert names(here) == ["one", "two"]
    (aside,) = here.logs.glob("*superseded*")
    assert json.loads(aside.read_text())["how"] == "late"
    written(here, ["three"]).close(1.0)
    assert names(there) == ["one", "two", "three"]


def test_a_hold_that_was_lost_stops_the_log(here):
    def lost():
        raise RuntimeError("lost")

    with pytest.raises(RuntimeError, match="lost"):
        written(here, ["one"], check=lost)
    assert here.log(SWEEP).read_bytes() == b""


def test_a_deleted_segment_is_said_with_its_bytes(here, there, monkeypatch):
    monkeypatch.setattr(segments, "AGAIN_S", 0.0)
    written(here, ["one", "two", "three"]).close(1.0)
    objects(here)[1].unlink()
    with pytest.raises(Missing, match=r"bytes \d+ to \d+ are missing.*resume"):
        segments.pull(there)


def test_a_damaged_segment_is_said_by_name(here, there):
    written(here, ["one", "two"]).close(1.0)
    victim = objects(here)[1]
    victim.write_bytes(victim.read_bytes().replace(b"two", b"owt"))
    with pytest.raises(CorruptLog, match=f"{victim.name} is corrupt"):
        segments.pull(there)


def test_a_foreign_object_among_the_segments_is_said(here, there):
    written(here, ["one"]).close(1.0)
    (folder_of(here) / f"log/{SWEEP}.jsonl/notes.txt").write_text("x")
    with pytest.raises(CorruptLog, match="notes"):
        segments.pull(there)


def test_what_a_node_has_is_not_fetched_again(here, there, faulty):
    written(here, ["one", "two", "three"]).close(1.0)
    segments.pull(there)
    faulty.requests = 0
    segments.pull(there)
    assert faulty.requests == 2, "two listings"


def test_a_torn_line_never_reaches_the_store(here, there):
    written(here, ["one"]).close(1.0)
    with here.log(SWEEP).open("ab") as file:
        file.write(b'{"kind": "le')
    assert names(there) == ["one"]
    written(here, ["two"]).close(1.0)
    assert names(there) == ["one", "two"]


@given(st.data())
def test_chain_equals_a_log_replayed_byte_by_byte(data):
    """Writers in turn each continue from a byte that they had read; a chain is what the last of each byte wrote."""
    truth: list[tuple[str, int]] = []
    made: list[Segment] = []
    for number in range(1, data.draw(st.integers(1, 4)) + 1):
        writer = f"{number:06d}-x"
        start = data.draw(st.integers(0, len(truth)))
        truth = truth[:start]
        for _ in range(data.draw(st.integers(1, 4))):
            length = data.draw(st.integers(1, 5))
            made.append(segment(writer, len(truth), len(truth) + length))
            truth += [(writer, len(truth) + k) for k in range(length)]
        if data.draw(st.booleans()):  # merged from its own start, the parts deleted or not
            own = [s for s in made if s.writer == writer]
            if data.draw(st.booleans()):
                made = [s for s in made if s.writer != writer]
            made.append(segment(writer, own[0].first, own[-1].end))
    random.Random(0).shuffle(made)
    found = [(piece.segment.writer, byte) for piece in chain(made) for byte in range(piece.first, piece.end)]
    assert found == truth


def test_chain_names_the_bytes_that_are_missing():
    with pytest.raises(Missing, match="bytes 4 to 6"):
        chain([segment("1", 0, 4), segment("1", 6, 9)])
    with pytest.raises(Missing, match="bytes 0 to 4"):
        chain([segment("1", 4, 9)])
    with pytest.raises(Missing, match="bytes 2 to 3"):
        chain([segment("1", 0, 2), segment("2", 3, 5)])
    assert chain([]) == []


def test_a_segment_is_named_for_what_it_holds(here):
    written(here, ["one"]).close(1.0)
    found = objects(here)[0]
    first, writer, digest = found.name.split(".")
    assert int(first) == 0
    assert writer.startswith("000001-")
    assert digest == hashlib.sha256(found.read_bytes()).hexdigest()[:16]
