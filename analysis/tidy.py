"""Findings as flat records of plain numbers in the metric's own unit, for CSV and Parquet."""

import csv
import io
from collections.abc import Callable, Sequence
from typing import Any

from analysis.findings import ArmSummary, ContrastResult, Findings, Interval
from analysis.tables import deciding
from search_spaces.study import Outcome, Study


def records(findings: Findings, study: Study) -> list[dict[str, Any]]:
    """Every summary and contrast as a flat record, numbers in the metric's own unit, for CSV and Parquet."""
    found = [_arm_record(arm, study.outcome, "arm", findings) for arm in findings.arms]
    for outcome in study.secondary:
        found += [
            _arm_record(arm, outcome, "secondary", findings) for arm in findings.secondary.get(outcome.metric, ())
        ]
    found += [_middle_record(arm, mean, findings) for arm, mean in findings.interquartile.items()]
    return found + [_contrast_record(contrast, findings) for contrast in findings.contrasts]


RECORD: dict[str, type] = {
    "study": str,
    "scale": str,
    "kind": str,
    "metric": str,
    "arm": str,
    "reference": str,
    "dataset": str,
    "n": int,
    "estimate": float,
    "low": float,
    "high": float,
    "level": float,
    "method": str,
    "sd": float,
    "failed": int,
    "pending": int,
    "claim": str,
    "margin": float,
    "family": str,
    "test": str,
    "p": float,
    "p_adjusted": float,
    "p_difference": float,
    "p_equivalence": float,
    "p_attainable": float,
    "verdict": str,
    "blocks_needed": float,
}
"""Columns of table.csv and findings.parquet. `kind`: arm, secondary, interquartile or contrast; gaps stay empty.

`dataset`: the one that a contrast was declared on; empty: all. `p`: of what the contrast claims; `p_adjusted`: that one
corrected. `p_difference` and `p_equivalence`: the corrected ones of both questions; the verdict rests on these.
"""


def _blank(findings: Findings) -> dict[str, Any]:
    empty: dict[type, Any] = {str: "", int: 0, float: float("nan")}
    return {name: empty[kind] for name, kind in RECORD.items()} | {"study": findings.study, "scale": findings.scale}


def _arm_record(arm: ArmSummary, outcome: Outcome, kind: str, findings: Findings) -> dict[str, Any]:
    return _blank(findings) | {
        "kind": kind,
        "metric": outcome.metric,
        "arm": arm.arm,
        "n": arm.n,
        "estimate": arm.mean.estimate,
        "low": arm.mean.low,
        "high": arm.mean.high,
        "level": arm.mean.level,
        "method": arm.mean.method,
        "sd": arm.sd,
        "failed": len(arm.failed),
        "pending": len(arm.pending),
    }


def _middle_record(arm: str, mean: Interval, findings: Findings) -> dict[str, Any]:
    runs = next(each.n for each in findings.arms if each.arm == arm)
    return _blank(findings) | {
        "kind": "interquartile",
        "metric": findings.outcome,
        "arm": arm,
        "n": runs,
        "estimate": mean.estimate,
        "low": mean.low,
        "high": mean.high,
        "level": mean.level,
        "method": mean.method,
    }


def _contrast_record(contrast: ContrastResult, findings: Findings) -> dict[str, Any]:
    def number(value: float | None) -> float:
        return float("nan") if value is None else float(value)

    p_difference, p_equivalence = deciding(contrast)
    return _blank(findings) | {
        "kind": "contrast",
        "metric": findings.outcome,
        "arm": contrast.arm,
        "reference": contrast.reference,
        "dataset": contrast.dataset,
        "n": len(contrast.blocks),
        "estimate": contrast.interval.estimate,
        "low": contrast.interval.low,
        "high": contrast.interval.high,
        "level": contrast.interval.level,
        "method": contrast.interval.method,
        "claim": contrast.claim,
        "margin": number(contrast.margin),
        "family": contrast.family,
        "test": contrast.test,
        "p": contrast.p,
        "p_adjusted": contrast.p_adjusted,
        "p_difference": p_difference,
        "p_equivalence": p_equivalence,
        "p_attainable": contrast.p_attainable,
        "verdict": contrast.verdict.word,
        "blocks_needed": number(contrast.verdict.blocks_needed),
    }


def as_csv(records: Sequence[dict[str, Any]], columns: Sequence[str] = tuple(RECORD)) -> str:
    """Records as CSV with a head line; floats in full, NaN as an empty cell."""
    out = io.StringIO()
    writer = csv.DictWriter(out, list(columns), lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: _csv_cell(value) for key, value in record.items()} for record in records)
    return out.getvalue()


def _csv_cell(value: Any) -> Any:
    if isinstance(value, float):
        return "" if value != value else repr(value)
    return value


def as_parquet(records: Sequence[dict[str, Any]]) -> bytes:
    """Records as one Parquet file with the columns of `RECORD`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    kinds: dict[type, Callable[[], Any]] = {str: pa.string, int: pa.int64, float: pa.float64}
    schema = pa.schema([(name, kinds[kind]()) for name, kind in RECORD.items()])
    out = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(list(records), schema=schema), out)
    return out.getvalue()
