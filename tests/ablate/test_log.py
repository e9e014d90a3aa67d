"""The log keeps whole lines through crashes, and says where it is damaged."""

import json

import pytest

from ablate import log
from ablate.home import Home
from ablate.log import CorruptLog, Log, Record, ledger

RECORD = Record(
    trial="t1",
    method="walk",
    config={"drift": 0.1},
    data={"protocol": "digits"},
    seed=0,
    state="done",
    epochs=({"epoch": 1, "seconds": 0.5, "metrics": {"auroc": 0.1 + 0.2}},),
)


def lines(path):
    return [line for _, line in log.read(path)]


def test_a_record_comes_back_bit_for_bit(tmp_path):
    home = Home(tmp_path)
    sink = Log(home.log("a@smoke"))
    sink.append("ended", trial="t1", record=RECORD)
    sink.close()
    assert ledger(home)["t1"].record == RECORD
    assert ledger(home)["t1"].record.epochs[0]["metrics"]["auroc"] == 0.30000000000000004


@pytest.mark.parametrize("cut", [1, 5, 40])
def test_a_torn_last_line_finishes_nothing_and_the_next_one_is_whole(tmp_path, cut):
    path = tmp_path / "a.jsonl"
    sink = Log(path)
    sink.append("started", trial="t1", attempt=1, where="x")
    sink.append("ended", trial="t1", record=RECORD)
    sink.close()
    path.write_bytes(path.read_bytes()[:-cut])
    assert [line["kind"] for line in lines(path)] == ["started"]
    again = Log(path)
    again.append("left", how="done")
    again.close()
    assert [line["kind"] for line in lines(path)] == ["started", "left"]


def test_a_torn_line_longer_than_a_read_is_dropped_whole(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"kind":"left","how":"done"}\n{"kind":"ended","x":"' + b"y" * 10_000)
    Log(path).close()
    assert [line["kind"] for line in lines(path)] == ["left"]


@pytest.mark.parametrize("damage", [b"not json\n", b"[1, 2]\n", b'{"trial": "t1"}\n'])
def test_damage_inside_is_named_with_file_and_byte(tmp_path, damage):
    path = tmp_path / "a.jsonl"
    first = b'{"kind":"left","how":"done"}\n'
    path.write_bytes(first + damage + first)
    with pytest.raises(CorruptLog, match=rf"a\.jsonl, byte {len(first)}:"):
        lines(path)


def test_reading_goes_on_from_an_offset(tmp_path):
    path = tmp_path / "a.jsonl"
    sink = Log(path)
    sink.append("started", trial="t1", attempt=1, where="x")
    offset = path.stat().st_size
    sink.append("started", trial="t2", attempt=1, where="x")
    sink.close()
    assert [line["trial"] for _, line in log.read(path, offset)] == ["t2"]


def test_ledger_joins_the_sweeps_of_a_home(tmp_path):
    home = Home(tmp_path)
    for sweep, kind, fields in (
        ("a@smoke", "started", {"trial": "t1", "attempt": 1, "where": "x"}),
        ("b@smoke", "started", {"trial": "t1", "attempt": 2, "where": "x"}),
        ("b@smoke", "ended", {"trial": "t1", "record": RECORD}),
    ):
        sink = Log(home.log(sweep))
        sink.append(kind, **fields)
        sink.close()
    entry = ledger(home)["t1"]
    assert (entry.attempts, entry.record) == (2, RECORD)


def test_epochs_said_again_after_a_resume_count_once():
    entries = {}
    for first, last in ((1, 4), (3, 5)):
        epochs = [{"epoch": k, "seconds": 0.0, "metrics": {"loss": float(first)}} for k in range(first, last + 1)]
        log.note(entries, {"kind": "epochs", "trial": "t1", "epochs": epochs})
    assert [(epoch["epoch"], epoch["metrics"]["loss"]) for epoch in entries["t1"].progress] == [
        (1, 1.0),
        (2, 1.0),
        (3, 3.0),
        (4, 3.0),
        (5, 3.0),
    ]


def test_launched_is_the_last_launch(tmp_path):
    home = Home(tmp_path)
    assert log.launched(home, "a@smoke") is None
    sink = Log(home.log("a@smoke"))
    for command in ("first", "second"):
        sink.append("sweep", command=command)
    sink.append("left", how="done")
    sink.close()
    assert log.launched(home, "a@smoke")["command"] == "second"


def test_lines_are_plain_json(tmp_path):
    sink = Log(tmp_path / "a.jsonl")
    sink.append("ended", trial="t1", record=RECORD)
    sink.close()
    line = json.loads((tmp_path / "a.jsonl").read_text())
    assert line["record"]["config"] == {"drift": 0.1}
    assert isinstance(line["time"], float)
