"""A table as strings ready to be shown, and its three printed forms: fixed-width text, Markdown, LaTeX (booktabs)."""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from analysis import display
from analysis.findings import Word


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


def text(table: Table, width: int | None = None) -> str:
    """The table in fixed-width columns, for a terminal or a log.

    Where it is wider than `width`, its last columns go until it fits or two are left, and a line says which.
    """
    kept = len(table.columns)
    while width is not None and kept > 2 and sum(_widths(table, kept)) + 2 * (kept - 1) > width:
        kept -= 1
    widths = _widths(table, kept)

    def line(cells: Sequence[str]) -> str:
        parts = []
        for cell, room, column in zip(map(one_line, cells), widths, table.columns, strict=False):
            pad = " " * (room - _width(cell))
            parts.append(cell + pad if column.align == "left" else pad + cell)
        return "  ".join(parts).rstrip()

    body = [line([column.head for column in table.columns]), "  ".join("─" * room for room in widths)]
    body += [line(row.cells) for row in table.rows]
    gone = [column.head for column in table.columns[kept:]]
    left_out = [f"(not shown at this width: {', '.join(gone)})"] if gone else []
    return "\n".join([*body, *left_out, *map(one_line, table.notes)])


def _widths(table: Table, kept: int) -> list[int]:
    lines = [[column.head for column in table.columns], *(row.cells for row in table.rows)]
    return [max(_width(one_line(cells[index])) for cells in lines) for index in range(kept)]


def _width(cell: str) -> int:
    """Columns of a terminal that the text takes."""
    wide = sum(unicodedata.east_asian_width(character) in "WF" for character in cell)
    return len(cell) + wide - sum(unicodedata.combining(character) > 0 for character in cell)


def markdown(table: Table) -> str:
    """The table in GitHub's Markdown, its notes beneath."""

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(escape_markdown(cell) for cell in cells) + " |"

    rules = ["---:" if column.align == "right" else ":---" for column in table.columns]
    rows = [line([column.head for column in table.columns]), "| " + " | ".join(rules) + " |"]
    rows += [line(row.cells) for row in table.rows]
    notes = [f"\n{escape_markdown(note)}" for note in table.notes]
    return "\n".join([*rows, *notes])


def escape_markdown(text: str) -> str:
    """Text that Markdown shows as it is."""
    return "".join("\\" + char if char in "\\`*_{}[]<>|#~$" else char for char in one_line(text))


LATEX_PAGE = r"""\documentclass{article}
\usepackage[margin=2cm]{geometry}
\usepackage{booktabs}
\begin{document}
\input{table}
\end{document}
"""
"""A page that shows table.tex alone."""


def latex(table: Table, study: str, note: str) -> str:
    """The table as a floating booktabs table, `note` in its caption."""
    spec = "".join(_latex_column(table, index) for index in range(len(table.columns)))
    lines = [
        r"\begin{table}[htbp]",
        r"\centering\small",
        rf"\caption{{{escape_latex(table.caption)} {escape_latex(note)}}}",
        rf"\label{{tab:{''.join(char if char.isascii() and char.isalnum() else '-' for char in study)}-{table.name}}}",
        r"\par\medskip",
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
    '"': "''",
    "[": "{[}",
    "]": "{]}",
    "-": "{-}",
    "`": r"\`{}",
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
        for greek, name in {
            "α": "alpha",
            "β": "beta",
            "γ": "gamma",
            "δ": "delta",
            "ε": "epsilon",
            "η": "eta",
            "θ": "theta",
            "κ": "kappa",
            "λ": "lambda",
            "μ": "mu",
            "ρ": "rho",
            "σ": "sigma",
            "τ": "tau",
            "φ": "phi",
            "χ": "chi",
            "ω": "omega",
            "Δ": "Delta",
            "Σ": "Sigma",
        }.items()
    },
}


def escape_latex(text: str) -> str:
    """Text as LaTeX shows it; a character that pdfLaTeX lacks becomes its code point, visibly."""
    return "".join(_latex_character(char) for char in one_line(text))


def _latex_character(char: str) -> str:
    if char in _LATEX:
        return _LATEX[char]
    if char.isascii():
        return char if char.isprintable() else ""
    base = unicodedata.normalize("NFKD", char)[0]
    if char.isalpha() and base.isascii() and base.isalpha():
        return char if ord(char) < 0x180 else base
    return rf"\texttt{{U+{ord(char):04X}}}"


def one_line(text: str) -> str:
    """The text on one line, without the characters that control a terminal."""
    return "".join(char for char in " ".join(text.split()) if unicodedata.category(char) not in ("Cc", "Cs"))
