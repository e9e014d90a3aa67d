"""Committed results are what today's analysis says of the committed frames: a mend there that changes them is seen."""

import json
import math
from pathlib import Path

import pytest

from ablate import records
from analysis.contrasts import compare
from search_spaces import catalogue

RESULTS = Path(__file__).parents[1] / "results"
FRAMES = sorted(path.parent.name for path in RESULTS.glob("*/trials.parquet"))


def test_there_are_results():
    assert len(FRAMES) >= 9


@pytest.mark.parametrize("name", FRAMES)
def test_committed_findings_are_those_of_the_committed_frame(name):
    said = json.loads((RESULTS / name / "findings.json").read_text())
    found = compare(records.read(RESULTS / name), catalogue.load(said["study"]))
    assert [arm.arm for arm in found.arms] == [arm["arm"] for arm in said["arms"]]
    for now, then in zip(found.arms, said["arms"], strict=True):
        assert now.n == then["n"]
        assert close(now.mean.estimate, then["mean"]["estimate"])
    assert len(found.contrasts) == len(said["contrasts"])
    for now, then in zip(found.contrasts, said["contrasts"], strict=True):
        assert (now.arm, now.reference, now.verdict.word) == (then["arm"], then["reference"], then["verdict"]["word"])
        assert close(now.interval.low, then["interval"]["low"])
        assert close(now.p_adjusted, then["p_adjusted"])


@pytest.mark.parametrize("name", FRAMES)
def test_committed_pages_name_every_verdict(name):
    said = json.loads((RESULTS / name / "findings.json").read_text())
    table = (RESULTS / name / "table.md").read_text()
    for word in {contrast["verdict"]["word"] for contrast in said["contrasts"]}:
        expected = sum(contrast["verdict"]["word"] == word for contrast in said["contrasts"])
        assert sum(f" {word} |" in line for line in table.splitlines()) == expected


def close(one: float, other: float | None) -> bool:
    return other is None if math.isnan(one) else math.isclose(one, other, rel_tol=1e-9, abs_tol=1e-12)
