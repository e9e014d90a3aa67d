"""The report of one sweep: a page that stands alone, the same figures and tables as files, the findings as data.

Everything said was computed by `analysis.contrasts` from the frame; this file only sets it. The same frame, study,
command and provenance give the same bytes.
"""

import dataclasses
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from analysis import display, drawing, facts, figures, gallery, search, tables, tidy, typeset, wording
from analysis.exhibits import Exhibits
from analysis.findings import Findings
from analysis.frame import Frame
from search_spaces.study import Study

FILE = "report.html"
_TEMPLATES = Path(__file__).parent / "templates"


def write(
    frame: Frame,
    study: Study,
    folder: Path,
    *,
    command: str,
    provenance: Mapping[str, Any],
    findings: Findings | None = None,
    exhibits: Exhibits | None = None,
) -> Path:
    """Writes report.html, figures (SVG, PNG), tables (Markdown, LaTeX, CSV) and findings (JSON, Parquet) to `folder`.

    Args:
        frame: what the sweep measured.
        study: the study as it was launched.
        folder: made where missing; files of an earlier report there are replaced, each at once.
        command: what a person types to get these numbers again.
        provenance: flat facts about the machine and the versions that made the report.
        findings: what `analysis.contrasts.compare` says of the frame; computed here where not given.
        exhibits: what the trials left to look at; none: the report says that it has no pictures of them.

    Returns:
        The path of report.html.
    """
    if findings is None:
        from analysis.contrasts import compare

        findings = compare(frame, study)
    shown = gallery.hang(exhibits or Exhibits(), study)
    every = (*figures.pictures(frame, study, findings), *shown.pictures)
    pictures = {picture.name: drawing.render(picture) for picture in every}
    folder = Path(folder)
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    for stale in (folder / "figures").iterdir():
        if stale.stem not in pictures and stale.suffix in (".svg", ".png"):
            stale.unlink()
    for name, picture in pictures.items():
        replace(folder / "figures" / f"{name}.svg", picture.svg)
        replace(folder / "figures" / f"{name}.png", picture.png)
    records = tidy.records(findings, study)
    files: dict[str, str | bytes] = {
        "table.md": tables.markdown(findings, study),
        "table.tex": tables.latex(findings, study),
        "table-page.tex": typeset.LATEX_PAGE,
        "table.csv": tidy.as_csv(records),
        "findings.json": as_json(findings),
        "findings.parquet": tidy.as_parquet(records),
        FILE: _page(frame, study, findings, pictures, shown, command, provenance),
    }
    for name, content in files.items():
        replace(folder / name, content)
    return folder / FILE


def as_json(findings: Findings) -> str:
    """The findings as JSON; a number that is not finite becomes null."""
    return json.dumps(_jsonable(dataclasses.asdict(findings)), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _jsonable(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {" / ".join(key) if isinstance(key, tuple) else key: _jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_jsonable(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value.item() if hasattr(value, "item") else value


def replace(path: Path, content: str | bytes) -> None:
    """Writes the file whole or not at all: a reader never sees half of it."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    partial.write_bytes(content.encode(errors="replace") if isinstance(content, str) else content)
    partial.replace(path)


def environment() -> Environment:
    """Templates of the product's pages; everything put into them is escaped unless marked."""
    made = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["p"] = display.p_value
    made.globals["symbol"] = display.SYMBOL
    made.globals["css"] = Markup((_TEMPLATES / "page.css").read_text(encoding="utf-8"))
    made.globals["theme"] = Markup(drawing.css())
    return made


def _page(
    frame: Frame,
    study: Study,
    findings: Findings,
    pictures: Mapping[str, drawing.Rendered],
    shown: gallery.Gallery,
    command: str,
    provenance: Mapping[str, Any],
) -> str:
    finished, wanted = wording.progress(findings)
    return (
        environment()
        .get_template("report.html.j2")
        .render(
            study=study,
            findings=findings,
            headline=wording.headline(findings, study),
            finished=finished,
            wanted=wanted,
            scale_note=wording.scale_note(findings, study),
            protocol=protocol(study, findings, frame),
            departures=tables.departures(facts.departures(study, findings.scale)),
            found=search.table(findings, study),
            arms=tables.arms(findings, study),
            interquartile=tables.interquartile(findings, study),
            blocks=tables.blocks(findings, study),
            settings=tables.settings(study),
            contrasts=tables.contrasts(findings, study),
            contrast_details=tables.further(findings, study),
            tests=wording.tests(findings, study),
            sentences=[(c.verdict.word, c.verdict.sentence) for c in findings.contrasts if c.verdict.sentence],
            secondary=tables.secondary(findings, study),
            ranks=tables.ranks(findings, study),
            factors=tables.factors(findings),
            marginal=tables.marginal(findings, study),
            published=tables.published(findings, study),
            published_contrasts=tables.published_contrasts(findings, study),
            agreement=wording.agreement(findings, study),
            costs=tables.costs(facts.costs(frame, study), study),
            failures=tables.failures(facts.failures(frame, findings, study)),
            pictures=pictures,
            shown=[picture.name for picture in shown.pictures],
            shown_notes=shown.notes,
            sections=_sections(findings, study),
            command=command,
            made=facts.made(frame),
            provenance={str(name): str(value) for name, value in provenance.items()},
        )
    )


def _sections(findings: Findings, study: Study) -> list[tuple[str, str]]:
    """Anchors and names of the sections that this report has, in order."""
    every = (
        ("search", "Search", study.tuning is not None),
        ("arms", "Arms", True),
        ("contrasts", "Contrasts", bool(findings.contrasts)),
        ("factors", "Two factors", findings.factorial is not None),
        ("shown", "What the trials show", bool(study.figures)),
        ("learning", "Learning and cost", True),
        ("secondary", "Other outcomes", any(arm.n for arms in findings.secondary.values() for arm in arms)),
        ("paper", "The paper", True),
        ("failures", "Failures", True),
        ("protocol", "Protocol", True),
        ("provenance", "Provenance", True),
    )
    return [(anchor, name) for anchor, name, shown in every if shown]


def protocol(study: Study, findings: Findings, frame: Frame) -> dict[str, str]:
    """What was run, as term and text."""
    scale = facts.size(study, findings.scale)
    shown = tables.primary(findings, study)
    blocks = list(dict.fromkeys(frame.trials["block"]))
    source = f"{study.source.paper}, {study.source.where}"
    if study.source.repository:
        source += f" ({study.source.repository})"
    left_out = f" of {len(study.arms)}" if findings.left_out else ""
    said = {
        "Source": source,
        "Claim": study.claim,
        "Method": study.method,
        "Scale": findings.scale,
        "Arms": f"{len(findings.arms)}{left_out}; baseline: {tables.labels(study)[study.baseline]}",
        "Blocks": f"{len(blocks)} (dataset/split/seed), shared by all arms: {', '.join(blocks)}",
        "Outcome": f"{shown.name}, {shown.direction}; {wording.SELECTION[study.outcome.select]}",
        "Settings at this scale": ", ".join(f"{name} = {text}" for name, text in facts.settings(scale).items()),
    }
    return {term: text for term, text in said.items() if text}
