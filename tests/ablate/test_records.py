"""The Parquet frame: what it says of each cell, that it comes back bit for bit, and what it refuses to read."""

import json
import math
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ablate import records
from ablate.home import Home
from ablate.log import Log, Record
from ablate.plan import Plan, plan
from analysis.frame import EPOCH_KEYS, SCHEMA_VERSION, TRIAL_COLUMNS, VOLATILE, Frame
from search_spaces.study import Arm, Block, Outcome, Scale, Source, Study

STUDY = Study(
    name="patience",
    question="Does it pay to wait?",
    source=Source(paper="none", where="nowhere"),
    method="plain",
    arms=(
        Arm(name="short", config={"epochs": 2, "lr": 0.1}),
        Arm(name="long", config={"epochs": 3, "lr": 0.1}),
        Arm(name="same_as_short", config={"epochs": 2, "lr": 0.1}),
    ),
    baseline="short",
    scales=(Scale(name="smoke", blocks=(Block(dataset="digits"), Block(dataset="digits", seed=1))),),
    outcome=Outcome(metric="auroc", label="AUROC"),
)


def epochs(*auroc: float, seconds: float = 0.5) -> tuple[dict[str, object], ...]:
    return tuple({"epoch": k, "seconds": seconds, "metrics": {"auroc": v}} for k, v in enumerate(auroc, start=1))


def record(plan: Plan, label: str, **fields: object) -> Record:
    trial = next(trial for trial in plan.trials if trial.label == label)
    return Record(trial.id, trial.method, trial.config, trial.data, trial.seed, **fields)  # type: ignore[arg-type]


def sweep(home: Home, *, seconds: float = 0.5, order: int = 1) -> Plan:
    """Two trials done, one failed after an epoch, one never run; `order` -1 ends them the other way round."""
    planned = plan(STUDY, "smoke")
    known = {"commit": "abc", "dirty": True, "device": "cpu", "threads": 1, "torch": "2.15", "data_digest": "d1"}
    ends = [
        record(
            planned, "short digits/t0/s0", state="done", epochs=epochs(0.5, 0.75, seconds=seconds), provenance=known
        ),
        record(planned, "long digits/t0/s0", state="done", epochs=epochs(0.1 + 0.2, 0.6, math.nan, seconds=seconds)),
        record(
            planned,
            "short digits/t0/s1",
            state="failed",
            reason="error",
            error="Traceback ...\nValueError: no\n",
            epochs=({"epoch": 1, "seconds": seconds, "metrics": {"auroc": 0.25, "loss": 7.0}},),
        ),
    ]
    log = Log(home.log(planned.sweep))
    for end in ends[::order]:
        log.append("started", trial=end.trial, attempt=1)
        log.append("ended", trial=end.trial, record=asdict(replace(end, started=1e9, ended=1e9 + seconds)))
    log.close()
    return planned


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def test_one_row_a_cell_in_the_plans_order_finished_or_not(home: Home) -> None:
    planned = sweep(home)
    trials = records.frame(home, planned).trials
    assert list(trials.columns) == list(TRIAL_COLUMNS)
    assert list(zip(trials.arm, trials.block, trials.state, trials.epochs, strict=True)) == [
        ("short", "digits/t0/s0", "done", 2),
        ("long", "digits/t0/s0", "done", 3),
        ("same_as_short", "digits/t0/s0", "done", 2),
        ("short", "digits/t0/s1", "failed", 1),
        ("long", "digits/t0/s1", "pending", 0),
        ("same_as_short", "digits/t0/s1", "failed", 1),
    ]
    assert trials.trial.nunique() == 4
    assert trials.trial[0] == trials.trial[2]


def test_a_row_says_what_plan_and_record_say(home: Home) -> None:
    planned = sweep(home)
    rows = records.frame(home, planned).trials.to_dict("records")
    done, failed, pending = rows[0], rows[3], rows[4]
    assert json.loads(done["config"]) == {"epochs": 2, "lr": 0.1}
    assert json.loads(done["data"]) == {"protocol": "digits", "split": 0}
    assert (done["commit"], done["dirty"], done["threads"], done["torch"]) == ("abc", True, 1, "2.15")
    assert (done["started"], done["ended"]) == ("2001-09-09T01:46:40.000+00:00", "2001-09-09T01:46:40.500+00:00")
    assert (failed["reason"], failed["error"], failed["commit"]) == ("error", "ValueError: no", "")
    assert (pending["attempts"], pending["seconds"], pending["started"]) == (0, 0.0, "")


def test_epochs_has_a_column_a_metric_and_only_what_finished_trials_measured(home: Home) -> None:
    planned = sweep(home)
    log = Log(home.log(planned.sweep))
    log.append("epochs", trial=planned.trials[-1].id, epochs=list(epochs(0.9)))
    log.close()
    table = records.frame(home, planned).epochs
    assert list(table.columns) == [*EPOCH_KEYS, "seconds", "auroc", "loss"]
    assert list(table.arm) == ["short"] * 2 + ["long"] * 3 + ["same_as_short"] * 2 + ["short", "same_as_short"]
    assert list(table.epoch) == [1, 2, 1, 2, 3, 1, 2, 1, 1]
    np.testing.assert_array_equal(table.auroc, [0.5, 0.75, 0.1 + 0.2, 0.6, np.nan, 0.5, 0.75, 0.25, 0.25])
    np.testing.assert_array_equal(table.loss, [np.nan] * 7 + [7.0, 7.0])


def steady(table: pd.DataFrame) -> pd.DataFrame:
    return table.drop(columns=list(VOLATILE), errors="ignore")


def test_equal_results_make_equal_frames_whatever_the_order_and_the_times(tmp_path: Path) -> None:
    one, other = Home(tmp_path / "one"), Home(tmp_path / "other")
    first = records.frame(one, sweep(one))
    second = records.frame(other, sweep(other, seconds=0.9, order=-1))
    pd.testing.assert_frame_equal(steady(first.trials), steady(second.trials), check_exact=True)
    pd.testing.assert_frame_equal(
        first.epochs.drop(columns="seconds"), second.epochs.drop(columns="seconds"), check_exact=True
    )
    assert not first.epochs.seconds.equals(second.epochs.seconds)


def test_read_gives_back_what_was_written_and_the_same_bytes_twice(home: Home, tmp_path: Path) -> None:
    made = records.frame(home, sweep(home))
    for folder in ("a", "b"):
        records.write(made, tmp_path / folder)
    back = records.read(tmp_path / "a")
    pd.testing.assert_frame_equal(made.trials, back.trials, check_exact=True)
    pd.testing.assert_frame_equal(made.epochs, back.epochs, check_exact=True)
    for name in ("trials.parquet", "epochs.parquet"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["epochs.parquet", "trials.parquet"]


def test_a_sweep_without_a_finished_trial_is_a_frame_too(home: Home, tmp_path: Path) -> None:
    made = records.frame(home, plan(STUDY, "smoke"))
    records.write(made, tmp_path / "f")
    back = records.read(tmp_path / "f")
    assert set(back.trials.state) == {"pending"}
    assert list(back.epochs.columns) == [*EPOCH_KEYS, "seconds"]
    pd.testing.assert_frame_equal(made.epochs, back.epochs)


def test_files_say_their_schema_version_and_every_columns_meaning(home: Home, tmp_path: Path) -> None:
    records.write(records.frame(home, sweep(home)), tmp_path / "f")
    trials = pq.read_schema(tmp_path / "f" / "trials.parquet")
    assert trials.metadata[b"ablate.schema_version"] == str(SCHEMA_VERSION).encode()
    assert {field.name: field.metadata[b"description"].decode() for field in trials} == TRIAL_COLUMNS
    epochs_schema = pq.read_schema(tmp_path / "f" / "epochs.parquet")
    assert all(field.metadata[b"description"] for field in epochs_schema)
    assert epochs_schema.field("auroc").type == pa.float64()


def test_a_metric_named_as_a_column_is_refused(home: Home) -> None:
    planned = plan(STUDY, "smoke")
    log = Log(home.log(planned.sweep))
    rows = ({"epoch": 1, "seconds": 0.1, "metrics": {"seconds": 3.0}},)
    log.append(
        "ended",
        trial=planned.trials[0].id,
        record=asdict(record(planned, planned.trials[0].label, state="done", epochs=rows)),
    )
    log.close()
    with pytest.raises(records.FrameError, match=r"measures \['seconds'\].*Rename the metric"):
        records.frame(home, planned)


@pytest.fixture
def written(home: Home, tmp_path: Path) -> Path:
    records.write(records.frame(home, sweep(home)), tmp_path / "frame")
    return tmp_path / "frame"


MEND = r"`ablate report` writes the frame anew"


@pytest.mark.parametrize("name", ["trials.parquet", "epochs.parquet"])
def test_no_flipped_byte_changes_a_value_unseen(written: Path, name: str) -> None:
    path = written / name
    whole, good = path.read_bytes(), records.read(written)
    refused = 0
    for place in np.random.default_rng(0).choice(len(whole), size=150, replace=False):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
        try:
            back = records.read(written)
        except records.FrameError:
            refused += 1
        else:  # A byte that no value depends on, in a description or a page's statistics.
            pd.testing.assert_frame_equal(back.trials, good.trials, check_exact=True)
            pd.testing.assert_frame_equal(back.epochs, good.epochs, check_exact=True)
    assert refused == 150 if name == "epochs.parquet" else refused > 30


@pytest.mark.parametrize("name", ["trials.parquet", "epochs.parquet"])
def test_a_truncated_or_missing_file_is_refused(written: Path, name: str) -> None:
    path = written / name
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(records.FrameError, match=f"{name}.*can't be read as Parquet.*{MEND}"):
        records.read(written)
    path.unlink()
    with pytest.raises(records.FrameError, match=f"{name}: there is no such file.*{MEND}"):
        records.read(written)


def test_another_schema_version_a_foreign_file_and_mixed_frames_are_refused(written: Path, home: Home) -> None:
    path = written / "trials.parquet"
    table = pq.read_table(path)
    pq.write_table(table.replace_schema_metadata(table.schema.metadata | {b"ablate.schema_version": b"99"}), path)
    with pytest.raises(records.FrameError, match="schema version 99, and this release reads"):
        records.read(written)
    pq.write_table(table.replace_schema_metadata(None), path)
    with pytest.raises(records.FrameError, match="not written by ablate"):
        records.read(written)
    pq.write_table(table, path)
    made = records.frame(home, plan(STUDY, "smoke"))
    records.write(Frame(made.trials, made.epochs.head(1)), written / "other")
    (written / "epochs.parquet").write_bytes((written / "other" / "epochs.parquet").read_bytes())
    with pytest.raises(records.FrameError, match=r"not the file that trials\.parquet was written with"):
        records.read(written)


def test_memory_is_a_column_where_it_was_measured(home: Home) -> None:
    planned = sweep(home)
    log = Log(home.log(planned.sweep))
    first, second = epochs(0.5, 0.75)
    again = record(planned, "short digits/t0/s0", state="done", epochs=(first, second | {"peak_memory_bytes": 5}))
    log.append("ended", trial=again.trial, record=asdict(again))
    log.close()
    table = records.frame(home, planned).epochs
    assert list(table.columns)[len(EPOCH_KEYS) :] == ["seconds", "auroc", "loss", "peak_memory_bytes"]
    measured = table[(table.trial == again.trial) & (table.arm == "short")].set_index("epoch").peak_memory_bytes
    assert measured[2] == 5.0
    assert table.peak_memory_bytes.count() == 2, "two arms want that trial"
    assert math.isnan(measured[1])
