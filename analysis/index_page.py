"""The index of a home: every report with its question and its answer, by name."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from analysis import wording
from analysis.findings import Findings
from analysis.report import environment, replace
from search_spaces.study import Study

FILE = "index.html"


@dataclass(frozen=True)
class Entry:
    """One sweep of a home."""

    sweep: str
    """study@scale."""
    report: Path
    """Its report.html."""
    study: Study
    findings: Findings


@dataclass(frozen=True)
class Broken:
    """A sweep that no report could be made of."""

    sweep: str
    why: str


def write(entries: Sequence[Entry], folder: Path, *, broken: Sequence[Broken] = ()) -> Path:
    """Writes index.html to `folder`, which holds the reports' folders, and returns its path.

    Raises:
        ValueError: a report that does not lie under `folder`.
    """
    rows = [
        {
            "sweep": entry.sweep,
            "link": entry.report.resolve().relative_to(folder.resolve()).as_posix(),
            "question": entry.study.question,
            "headline": wording.headline(entry.findings, entry.study),
            "runs": wording.progress(entry.findings),
            "failed": sum(len(arm.failed) for arm in entry.findings.arms),
            "warnings": len(entry.findings.warnings),
            "words": [contrast.verdict.word for contrast in entry.findings.contrasts],
        }
        for entry in sorted(entries, key=lambda entry: entry.sweep)
    ]
    page = environment().get_template("index.html.j2").render(rows=rows, broken=broken, order=wording.WORDS)
    folder.mkdir(parents=True, exist_ok=True)
    replace(folder / FILE, page)
    return folder / FILE
