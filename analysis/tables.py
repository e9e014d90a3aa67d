"""Findings as tables: one content, shown as terminal text, Markdown, LaTeX and HTML, and as data in CSV and Parquet.

A `Table` holds strings ready to be shown; `rows` holds the same findings as plain numbers in the metric's own unit.
"""

import csv
import io
import textwrap
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from analysis import display, wording
from analysis.display import Quantity
from analysis.findings import ArmSummary, ContrastResult, Findings, Word
from search_spaces.study import Outcome, Study


@dataclass(frozen=True)
class Column:
    """One column: its head, and whether it holds words (left) or numbers (right)."""

    head: str
    align: Literal["left", "right"] = "right"


@dataclass(frozen=True)
class Row:
    """One row: a cell for each column; the first one names the row."""

    cells: tuple[str, ...]
    word: Word | None = None
    """The verdict that the row ends in, for its colour."""
    baseline: bool = False


@dataclass(frozen=True)
class Table:
    """A table as a person reads it."""

    name: str
    caption: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()


def primary(findings: Findings, study: Study) -> Quantity:
    """How the primary outcome is shown."""
    return display.quantity(study.outcome, findings.arms, findings.contrasts)


def labels(study: Study) -> dict[str, str]:
    """Arm name -> label."""
    return {arm.name: arm.label or arm.name for arm in study.arms}


def arms(findings: Findings, study: Study) -> Table:
    """Every arm: blocks finished, mean with its interval, standard deviation."""
    shown = primary(findings, study)
    return _arms(findings.arms, shown, study, "arms", f"{shown.name} of every arm; {shown.direction}.")


def secondary(findings: Findings, study: Study) -> tuple[Table, ...]:
    """Every secondary outcome that was measured; described, never tested."""
    tables = []
    for outcome in study.secondary:
        summaries = findings.secondary.get(outcome.metric, ())
        if any(arm.n for arm in summaries):
            shown = display.quantity(outcome, summaries)
            caption = f"{shown.name} of every arm; {shown.direction}. Described, not tested."
            tables.append(_arms(summaries, shown, study, outcome.metric, caption))
    return tuple(tables)


def _arms(summaries: Sequence[ArmSummary], shown: Quantity, study: Study, name: str, caption: str) -> Table:
    level = next((display.percent(arm.mean.level) for arm in summaries if arm.n > 1), "95%")
    columns = (
        Column("arm", "left"),
        Column("n"),
        Column(shown.name),
        Column(f"{level} interval"),
        Column("SD"),
    )
    rows = tuple(
        Row(
            (
                arm.label,
                str(arm.n),
                shown.value(arm.mean.estimate),
                shown.interval(arm.mean),
                shown.value(arm.sd),
            ),
            baseline=arm.arm == study.baseline,
        )
        for arm in summaries
    )
    notes = [wording.missing(arm) for arm in summaries if arm.failed or arm.pending]
    return Table(name, caption, columns, rows, tuple(notes))


def contrasts(findings: Findings, study: Study) -> Table:
    """Every declared contrast: difference, interval, corrected p, verdict."""
    shown = primary(findings, study)
    named = labels(study)
    level = display.percent(findings.contrasts[0].interval.level) if findings.contrasts else "95%"
    columns = (
        Column("arm", "left"),
        Column("against", "left"),
        Column("claim", "left"),
        Column("n"),
        Column(f"difference ({shown.step})" if shown.step else "difference"),
        Column(f"{level} interval"),
        Column("p"),
        Column("p corrected"),
        Column("verdict", "left"),
    )
    rows = tuple(
        Row(
            (
                named[contrast.arm],
                named[contrast.reference],
                wording.claim(contrast, shown),
                str(len(contrast.blocks)),
                shown.difference(contrast.interval.estimate),
                shown.interval(contrast.interval, signed=True),
                display.p_value(contrast.p),
                display.p_value(contrast.p_adjusted),
                f"{display.SYMBOL[contrast.verdict.word]} {contrast.verdict.word}",
            ),
            contrast.verdict.word,
        )
        for contrast in findings.contrasts
    )
    caption = f"Paired differences in {shown.label}, arm minus reference, over shared blocks; {shown.direction}."
    return Table("contrasts", caption, columns, rows)


def text(table: Table) -> str:
    """The table in fixed-width columns, for a terminal or a log."""
    grid = [[column.head for column in table.columns], *([*row.cells] for row in table.rows)]
    widths = [max(_width(line[index]) for line in grid) for index in range(len(table.columns))]

    def line(cells: Sequence[str]) -> str:
        parts = []
        for cell, width, column in zip(cells, widths, table.columns, strict=True):
            pad = " " * (width - _width(cell))
            parts.append(cell + pad if column.align == "left" else pad + cell)
        return "  ".join(parts).rstrip()

    body = [line(grid[0]), "  ".join("─" * width for width in widths), *(line(cells) for cells in grid[1:])]
    return "\n".join([*body, *table.notes])


def _width(cell: str) -> int:
    """Columns of a terminal that the text takes."""
    wide = sum(unicodedata.east_asian_width(character) in "WF" for character in cell)
    return len(cell) + wide - sum(unicodedata.combining(character) > 0 for character in cell)


def terminal(findings: Findings, study: Study, *, width: int = 100) -> str:
    """The whole answer for a terminal: verdict, arms, contrasts with their sentences, warnings. No control codes."""

    def wrapped(sentence: str, first: str = "", rest: str | None = None) -> str:
        indent = " " * len(first) if rest is None else rest
        clean = _one_line(sentence)
        return textwrap.fill(clean, width, initial_indent=first, subsequent_indent=indent, break_on_hyphens=False)

    parts = [wrapped(study.question), wrapped(wording.headline(findings, study)), text(arms(findings, study))]
    if findings.contrasts:
        sentences = [
            wrapped(contrast.verdict.sentence, f"{display.SYMBOL[contrast.verdict.word]} ")
            for contrast in findings.contrasts
            if contrast.verdict.sentence
        ]
        parts += [text(contrasts(findings, study)), "\n".join(sentences), wrapped(wording.tests(findings, study))]
    if findings.warnings:
        parts.append("\n".join(wrapped(warning, "! ") for warning in findings.warnings))
    parts.append(wrapped(wording.scale_note(findings, study)))
    return "\n\n".join(part for part in parts if part)


def markdown(findings: Findings, study: Study) -> str:
    """Arms and contrasts as GitHub tables, with the question, the verdict, the warnings and the scale around them."""
    parts = [
        f"### {_markdown_cell(study.question)}",
        f"**{_markdown_cell(wording.headline(findings, study))}**",
        _markdown_table(arms(findings, study)),
    ]
    if findings.contrasts:
        parts += [_markdown_table(contrasts(findings, study)), _markdown_cell(wording.tests(findings, study))]
    if findings.warnings:
        parts.append("\n".join(f"- {_markdown_cell(warning)}" for warning in findings.warnings))
    parts.append(_markdown_cell(wording.scale_note(findings, study)))
    return "\n\n".join(parts) + "\n"


def _markdown_table(table: Table) -> str:
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(_markdown_cell(cell) for cell in cells) + " |"

    rules = ["---:" if column.align == "right" else ":---" for column in table.columns]
    rows = [line([column.head for column in table.columns]), "| " + " | ".join(rules) + " |"]
    rows += [line(row.cells) for row in table.rows]
    notes = [f"\n{_markdown_cell(note)}" for note in table.notes]
    return "\n".join([*rows, *notes])


def _markdown_cell(text: str) -> str:
    """Text that Markdown shows as it is."""
    return "".join("\\" + char if char in "\\`*_{}[]<>|#~$" else char for char in _one_line(text))


def latex(findings: Findings, study: Study) -> str:
    """Arms and contrasts as booktabs tables, to be read in with \\input."""
    header = "% Needs \\usepackage{booktabs} and LaTeX's default UTF-8 input; \\input this file.\n"
    tables = [arms(findings, study)]
    if findings.contrasts:
        tables.append(contrasts(findings, study))
    notes = {"contrasts": wording.tests(findings, study)}
    body = [_latex_table(table, study.name, notes.get(table.name, wording.headline(findings, study))) for table in tables]
    return header + "\n".join(body)


LATEX_PAGE = r"""\documentclass{article}
\usepackage[margin=2cm]{geometry}
\usepackage{booktabs}
\begin{document}
\input{table}
\end{document}
"""
"""A page that shows table.tex alone."""


def _latex_table(table: Table, study: str, note: str) -> str:
    spec = "".join(_latex_column(table, index) for index in range(len(table.columns)))
    lines = [
        r"\begin{table}[htbp]",
        r"\centering\small",
        rf"\caption{{{escape_latex(table.caption)} {escape_latex(note)}}}",
        rf"\label{{tab:{''.join(char if char.isascii() and char.isalnum() else '-' for char in study)}-{table.name}}}",
        r"\setlength{\tabcolsep}{4pt}",
        rf"\begin{{tabular}}{{@{{}}{spec}@{{}}}}",
        r"\toprule",
        " & ".join(escape_latex(column.head) for column in table.columns) + r" \\",
        r"\midrule",
        *(" & ".join(escape_latex(_without_symbol(cell)) for cell in row.cells) + r" \\" for row in table.rows),
        r"\bottomrule",
        r"\end{tabular}",
        *(rf"\par\smallskip {escape_latex(note)}" for note in table.notes),
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _latex_column(table: Table, index: int) -> str:
    longest = max((len(row.cells[index]) for row in table.rows), default=0)
    if table.columns[index].align == "right":
        return "r"
    return r"p{0.2\linewidth}" if longest > 28 else "l"


def _without_symbol(cell: str) -> str:
    symbol, space, word = cell.partition(" ")
    return word if space and symbol in display.SYMBOL.values() else cell


_LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "[": "{[}",
    "]": "{]}",
    "-": "{-}",
    "`": r"\textasciigrave{}",
    "'": "'",
    display.MINUS: "$-$",
    "–": "--",
    "—": "---",
    "±": r"$\pm$",
    "×": r"$\times$",
    "·": r"$\cdot$",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    "→": r"$\rightarrow$",
    "…": r"\ldots{}",
    "’": "'",
    "“": "``",
    "”": "''",
    **{
        greek: f"$\\{name}$"
        for greek, name in zip(
            "αβγδεζηθικλμνξπρστυφχψω",
            "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi pi rho sigma tau upsilon phi chi "
            "psi omega".split(),
            strict=True,
        )
    },
}


def escape_latex(text: str) -> str:
    """Text as LaTeX shows it; a character that pdfLaTeX lacks becomes its code point, visibly."""
    return "".join(_latex_character(char) for char in _one_line(text))


def _latex_character(char: str) -> str:
    if char in _LATEX:
        return _LATEX[char]
    if char.isascii():
        return char if char.isprintable() else ""
    base = unicodedata.normalize("NFKD", char)[0]
    if char.isalpha() and base.isascii() and base.isalpha():
        return char if ord(char) < 0x180 else base
    return rf"\texttt{{U+{ord(char):04X}}}"


def _one_line(text: str) -> str:
    return " ".join(text.split())


def rows(findings: Findings, study: Study) -> list[dict[str, Any]]:
    """Arms, secondary outcomes and contrasts as flat records, numbers in the metric's own unit, for CSV and Parquet."""
    found = [_arm_record(arm, study.outcome, "arm", findings) for arm in findings.arms]
    for outcome in study.secondary:
        found += [
            _arm_record(arm, outcome, "secondary", findings) for arm in findings.secondary.get(outcome.metric, ())
        ]
    return found + [_contrast_record(contrast, findings) for contrast in findings.contrasts]


RECORD: dict[str, type] = {
    "study": str,
    "scale": str,
    "kind": str,
    "metric": str,
    "arm": str,
    "reference": str,
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
    "p_attainable": float,
    "verdict": str,
    "blocks_needed": float,
}
"""Columns of table.csv and findings.parquet. `kind`: arm, secondary or contrast; what a kind has not stays empty."""


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


def _contrast_record(contrast: ContrastResult, findings: Findings) -> dict[str, Any]:
    def number(value: float | None) -> float:
        return float("nan") if value is None else float(value)

    return _blank(findings) | {
        "kind": "contrast",
        "metric": findings.outcome,
        "arm": contrast.arm,
        "reference": contrast.reference,
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
