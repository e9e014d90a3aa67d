"""Facts of a sweep that need no statistics: failures, costs, configurations, versions, what differs from the paper."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from analysis.findings import Findings
from analysis.frame import Frame
from search_spaces.study import Arm, Scale, Study, config_fields

COSTS: dict[str, tuple[str, str]] = {
    "seconds": ("time of a run", "s"),
    "flops": ("compute of a run", "FLOP"),
    "peak_memory_bytes": ("peak memory", "B"),
}
"""Column -> (label, unit). `seconds` is in every frame; the others are shown where they were measured.

`flops` are those of an epoch's training steps; a run's are the sum. `peak_memory_bytes` is the most up to an epoch.
"""


@dataclass(frozen=True)
class Failure:
    """One cell of the table that has no value, and why."""

    arm: str
    block: str
    trial: str
    reason: str
    error: str
    epochs: int
    attempts: int


@dataclass(frozen=True)
class Cost:
    """One kind of cost of one arm: mean over its finished runs, with the smallest and the largest."""

    arm: str
    kind: str
    n: int
    mean: float
    low: float
    high: float
    times: float
    """How many times the baseline's on the blocks that both finished; NaN without any."""


def size(study: Study, scale: str) -> Scale | None:
    """The scale as the study has it now; None where it was renamed or dropped since the run."""
    return next((size for size in study.scales if size.name == scale), None)


def failures(frame: Frame, findings: Findings, study: Study) -> tuple[Failure, ...]:
    """Cells that failed, or were done and have no value of the outcome; in the frame's order."""
    lost = {(arm.arm, block): why for arm in findings.arms for block, why in arm.failed.items()}
    named = {arm.name: arm.label or arm.name for arm in study.arms}
    found = []
    for row in frame.trials.to_dict("records"):
        failed, why = row["state"] == "failed", lost.get((row["arm"], row["block"]))
        if failed or why:
            found.append(
                Failure(
                    named.get(row["arm"], row["arm"]),
                    row["block"],
                    row["trial"],
                    (row["reason"] or "unknown") if failed else "no value",
                    (row["error"] if failed else why) or "",
                    int(row["epochs"]),
                    int(row["attempts"]),
                )
            )
    return tuple(found)


def costs(frame: Frame, study: Study) -> tuple[Cost, ...]:
    """What each arm's finished runs took: seconds of the trials, the sum of all epochs' flops, the largest memory."""
    finished = frame.trials[frame.trials["state"] == "done"]
    tables = {"seconds": finished[["arm", "block", "seconds"]]}
    for kind in COSTS:
        if kind in frame.epochs and kind != "seconds":
            epochs = frame.epochs.merge(finished[["arm", "block"]], on=["arm", "block"])
            cells = epochs.groupby(["arm", "block"], sort=False)[kind]
            whole = cells.sum(min_count=1) if kind == "flops" else cells.max()
            tables[kind] = whole.reset_index()
    found = []
    for kind, table in tables.items():
        taken: dict[str, dict[str, float]] = {arm.name: {} for arm in study.arms}
        for arm, block, value in table.itertuples(index=False):
            if arm in taken and math.isfinite(value):
                taken[arm][block] = float(value)
        for name, values in taken.items():
            if values:
                mean = math.fsum(values.values()) / len(values)
                times = _times(values, taken[study.baseline])
                found.append(Cost(name, kind, len(values), mean, min(values.values()), max(values.values()), times))
    return tuple(found)


def _times(values: Mapping[str, float], baseline: Mapping[str, float]) -> float:
    both = values.keys() & baseline.keys()
    whole = math.fsum(baseline[block] for block in both)
    return math.fsum(values[block] for block in both) / whole if whole else math.nan


def differing(study: Study) -> tuple[tuple[str, ...], dict[str, tuple[str, ...]]]:
    """Config fields that differ between arms, and each arm's values of them, as text."""
    flat = {arm.name: _flat(_whole(study, arm)) for arm in study.arms}
    names = list(dict.fromkeys(name for fields in flat.values() for name in fields))
    missing = "(none)"
    varied = tuple(
        name
        for name in names
        if len({_text(fields[name]) if name in fields else missing for fields in flat.values()}) > 1
    )
    return varied, {
        arm: tuple(_text(fields[name]) if name in fields else "" for name in varied) for arm, fields in flat.items()
    }


def _whole(study: Study, arm: Arm) -> dict[str, Any]:
    return {"method": study.method_of(arm)} | dict(config_fields(arm.config))


def _flat(fields: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in fields.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def _text(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(_text(item) for item in value)
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


@dataclass(frozen=True)
class Departure:
    """One thing that this scale does otherwise than the study's paper scale."""

    what: str
    paper: str
    here: str


def departures(study: Study, scale: str) -> tuple[Departure, ...]:
    """What this scale does otherwise than the study's paper scale; empty at the paper scale, or without one."""
    here, paper = size(study, scale), size(study, "paper")
    if paper is None or here is None or paper.name == here.name:
        return ()
    baseline = study.arm(study.baseline)
    base = config_fields(baseline.config)
    pairs: list[tuple[str, Any, Any]] = [
        ("data", paper.datasets, here.datasets),
        ("blocks (split and seed)", len(paper.blocks), len(here.blocks)),
    ]
    ours, theirs = _shared_settings(here, here), _shared_settings(paper, here)
    for name in dict.fromkeys([*theirs, *ours]):
        own = "as published" if name.startswith("data: ") else _text(base.get(name, "(none)"))
        pairs.append((name, theirs.get(name, own), ours.get(name, own)))
    return tuple(Departure(what, _text(a), _text(b)) for what, a, b in pairs if _text(a) != _text(b))


def settings(scale: Scale | None) -> dict[str, str]:
    """What a scale sets: config fields, those of one dataset ('epochs on mnist'), fields of the data ('data: side')."""
    if scale is None:
        return {}
    own = {name: _text(value) for name, value in scale.settings.items()}
    for dataset, fields in scale.dataset_settings.items():
        own |= {f"{name} on {dataset}": _text(value) for name, value in fields.items()}
    return own | {f"data: {name}": _text(value) for name, value in scale.data.items()}


def _shared_settings(scale: Scale, here: Scale) -> dict[str, str]:
    """A scale's settings, without those of datasets that the other scale does not run on."""
    elsewhere = tuple(f" on {dataset}" for dataset in scale.dataset_settings if dataset not in here.datasets)
    return {name: text for name, text in settings(scale).items() if not name.endswith(elsewhere)}


MADE = {
    "commit": "commit",
    "dirty": "uncommitted changes",
    "device": "device",
    "threads": "threads",
    "torch": "torch",
    "code_digest": "code",
    "data_digest": "data",
    "host": "machine",
}


def made(frame: Frame) -> dict[str, str]:
    """How the runs were made: each distinct value, with the count of runs where there are several."""
    started = frame.trials[frame.trials["state"] != "pending"].drop_duplicates("trial")
    facts = {label: _distinct(started[column]) for column, label in MADE.items() if column in started}
    times = [text for column in ("started", "ended") for text in started[column] if isinstance(text, str) and text]
    if times:
        facts["first start"], facts["last end"] = min(times), max(times)
    return {label: text for label, text in facts.items() if text}


def _distinct(values: "pd.Series[Any]") -> str:
    counts: dict[str, int] = {}
    for value in values:
        text = _text(None if pd.isna(value) else value)
        text = text[:12] if len(text) == 64 else text
        counts[text] = counts.get(text, 0) + 1
    known = {text: count for text, count in counts.items() if text not in ("", "none")}
    if len(known) == 1:
        return next(iter(known))
    return "; ".join(f"{text} ({count} runs)" for text, count in known.items())
