"""How every figure is drawn: its canvas, its palette in light and dark, and its bytes as SVG and PNG.

Figures are 5 inches wide with 9 point type, so that they read on a phone and in one column of a paper. Only
Matplotlib's object interface: no pyplot, and no setting of a user's own reaches a figure.
"""

import io
import re
import textwrap
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch
from matplotlib.path import Path
from numpy.typing import NDArray

from analysis.findings import Word

WIDTH_IN = 5.0
TEXT, SMALL = 9.5, 8.8
"""Sizes of type in points: labels; ticks and axes."""

INK, MUTED, RULE, BAND = "#1c1d21", "#5c6068", "#d3d5da", "#eceef1"
ARM, OTHER = "#1f5fa8", "#8a8f99"
WORD: dict[Word, str] = {"better": "#00695f", "worse": "#b23a0a", "equivalent": "#4b4bb8", "undecided": "#62666e"}
OUTSIDE = "#a9630a"
"""Images of no known class that were trained on; unseen ones are drawn in ink."""
CLASSES = (
    *("#2f6fb6", "#ba5926", "#298453", "#b8456b", "#7a5bb5"),
    *("#8a6a2f", "#0e8091", "#c04a3f", "#6b7b1e", "#a34fa8"),
)
"""Colours of known classes, begun again after the last."""
MARKER: dict[Word, str] = {"better": "^", "worse": "v", "equivalent": "s", "undecided": "o"}

_THEME = {
    "ink": (INK, "#eceef2"),
    "muted": (MUTED, "#a8adb8"),
    "rule": (RULE, "#41454e"),
    "band": (BAND, "#292c33"),
    "arm": (ARM, "#7fb2f0"),
    "other": (OTHER, "#868c98"),
    "better": (WORD["better"], "#4fd0bd"),
    "worse": (WORD["worse"], "#ff9b6b"),
    "equivalent": (WORD["equivalent"], "#aeb0ff"),
    "undecided": (WORD["undecided"], "#b2b6bf"),
    "outside": (OUTSIDE, "#f0ae52"),
    **{
        f"class-{index}": (light, dark)
        for index, (light, dark) in enumerate(
            zip(
                CLASSES,
                (
                    *("#79aeea", "#f2965f", "#63c492", "#ee86a8", "#b49cee"),
                    *("#c9a862", "#57c4d4", "#f28a7f", "#adbe58", "#da8fde"),
                ),
                strict=True,
            )
        )
    },
}
"""Name -> (light, dark). An inline figure takes the colour of the reader's scheme; a file has the light one."""

_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "ablate",
    "text.parse_math": False,
    "font.family": ["DejaVu Sans"],
    "font.size": TEXT,
    "axes.unicode_minus": True,
    "path.simplify": True,
    "path.simplify_threshold": 0.2,
}


@dataclass(frozen=True)
class Picture:
    """A figure not drawn yet, and what is said of it."""

    name: str
    title: str
    caption: str
    """How to read it, shown beneath."""
    description: str
    """What it shows, in words, for those who can't see it."""
    draw: Callable[[], Figure]


@dataclass(frozen=True)
class Rendered:
    """A drawn figure: files' bytes, and the SVG to set inside a page."""

    picture: Picture
    svg: bytes
    png: bytes
    inline: str


def css() -> str:
    """The palette as CSS variables, light and dark."""
    light = "".join(f"--{name}:{pair[0]};" for name, pair in _THEME.items())
    dark = "".join(f"--{name}:{pair[1]};" for name, pair in _THEME.items())
    return f":root{{color-scheme:light dark;{light}}}@media screen and (prefers-color-scheme:dark){{:root{{{dark}}}}}"


@contextmanager
def _style() -> Iterator[None]:
    ours: dict[Any, Any] = dict(mpl.rcParamsDefault)
    ours = {key: value for key, value in ours.items() if not key.startswith(("backend", "toolbar"))} | _STYLE
    with mpl.rc_context(ours), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from", category=UserWarning)
        yield


def render(picture: Picture, *, dpi: int = 180) -> Rendered:
    """Draws the picture once and gives it in all forms; equal pictures give equal bytes."""
    with _style():
        figure = picture.draw()
        svg, png = io.BytesIO(), io.BytesIO()
        figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None, "Title": picture.title})
        figure.savefig(png, format="png", dpi=dpi, metadata={"Software": None, "Title": None})
    return Rendered(picture, svg.getvalue(), png.getvalue(), _inline(picture, svg.getvalue().decode()))


def _inline(picture: Picture, svg: str) -> str:
    """The SVG for a page: no prologue, ids of its own, colours by name, paths to a hundredth of a point, a title and a
    description that are read out.
    """
    svg = svg[svg.index("<svg ") :]
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<title>.*?</title>\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\b(id="|xlink:href="#|href="#)', rf"\1{picture.name}-", svg)  # pictures inside have data: addresses
    svg = svg.replace("url(#", f"url(#{picture.name}-")
    for name, (light, _) in _THEME.items():
        svg = svg.replace(light, f"var(--{name})")
    svg = svg.replace("#ffffff", "var(--paper)")
    svg = re.sub(r"<g id=\"[\w-]*patch_1\">.*?</g>\s*", "", svg, count=1, flags=re.DOTALL)
    svg = re.sub(r' d="[^"]*"', lambda path: re.sub(r"(\.\d\d)\d+", r"\1", path[0]), svg)
    svg = re.sub(r"\s*\n\s*", "\n", svg)
    end = svg.index(">")
    head = re.sub(r' (width|height|version|xmlns:xlink|xmlns)="[^"]*"', "", svg[:end])
    words = f"<title>{escape(picture.title)}</title><desc>{escape(picture.description)}</desc>"
    return (
        f'{head} role="img" aria-label="{escape(picture.title)}. {escape(picture.description)}">{words}{svg[end + 1 :]}'
    )


def canvas(height_in: float, *, width_in: float = WIDTH_IN) -> Figure:
    """An empty white figure."""
    return Figure(figsize=(width_in, height_in), facecolor="white")


def panel(figure: Figure, left_in: float, bottom_in: float, width_in: float, height_in: float) -> Axes:
    """Axes at a place in inches, with one rule beneath and quiet ticks."""
    wide, high = figure.get_size_inches()
    axes = figure.add_axes((left_in / wide, bottom_in / high, width_in / wide, height_in / high), facecolor="none")
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(RULE)
    axes.tick_params(colors=MUTED, labelcolor=MUTED, length=2.5, width=0.6, labelsize=SMALL)
    return axes


def dots(axes: Axes, xy_N2: NDArray[np.floating], colour: str, size: float) -> None:
    """Points of `size` points' width as one path: in a page they take half the bytes of markers, and no picture."""
    left, right = axes.get_xlim()
    step_2 = np.array([1e-4 * (right - left), 0.0])  # a stroke of no length is not drawn
    ends_N22 = np.stack([xy_N2, xy_N2 + step_2], axis=1)
    path = Path(ends_N22.reshape(-1, 2), np.tile([Path.MOVETO, Path.LINETO], len(xy_N2)))
    path.should_simplify = False
    axes.add_patch(PathPatch(path, fill=False, ec=colour, lw=size, capstyle="round", snap=False))


def row_labels(axes: Axes, labels: Sequence[str], emphasised: Sequence[bool] = ()) -> None:
    """Names the rows 0, 1, ... from the top down, at the left of the axes."""
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.set_yticks([])
    for row, label in enumerate(labels):
        bold = bool(emphasised) and emphasised[row]
        axes.annotate(
            label,
            (0, row),
            xycoords=("axes fraction", "data"),
            xytext=(-8, 0),
            textcoords="offset points",
            ha="right",
            va="center",
            color=INK,
            fontsize=TEXT,
            fontweight="bold" if bold else "normal",
            linespacing=1.05,
        )


def wrap(text: str, width: int, lines: int = 3) -> str:
    """The text on at most `lines` lines of about `width` characters; what is cut off ends in an ellipsis."""
    clean = " ".join(text.split())
    if lines == 1:
        return clean if len(clean) <= width else clean[: width - 1].rstrip() + "…"
    found = textwrap.wrap(clean, width) or [""]
    if len(found) > lines:
        found = [*found[: lines - 1], found[lines - 1][: width - 1].rstrip() + "…"]
    return "\n".join(found)


def label_width_in(labels: Sequence[str]) -> float:
    """Room that the wrapped labels take, in inches, at `TEXT` points."""
    longest = max((len(line) for label in labels for line in label.split("\n")), default=0)
    return 0.2 + longest * 0.083


def label_height_in(labels: Sequence[str], least: float = 0.3) -> float:
    """Height of one row, in inches."""
    return max([least, *(0.15 * (label.count("\n") + 1) + 0.1 for label in labels)])
