"""Figures show the findings' own numbers, only where there is something to show, and the same way twice."""

import dataclasses
import math
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from itertools import pairwise

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from analysis import curves, designs, drawing, facts, figures, tables
from analysis.contrasts import compare
from analysis.drawing import Picture
from analysis.findings import Findings
from analysis.frame import Frame
from search_spaces.study import Study
from tests.analysis import samples


@pytest.fixture(scope="module")
def study() -> Study:
    return samples.study()


@pytest.fixture(scope="module")
def frame(study: Study) -> Frame:
    return samples.frame(study)


@pytest.fixture(scope="module")
def findings(study: Study, frame: Frame) -> Findings:
    return compare(frame, study)


def drawn(picture: Picture | None) -> Figure:
    assert picture is not None
    return picture.draw()


def points(figure: Figure, marker: str, axes: int = 0) -> list[list[float]]:
    """Horizontal places of every line drawn with this marker."""
    return [list(line.get_xdata()) for line in figure.axes[axes].lines if line.get_marker() == marker]


def test_every_run_and_every_mean_is_a_point(study: Study, findings: Findings) -> None:
    figure = drawn(figures.arms(findings, study))
    runs = points(figure, "|")
    assert [sorted(places) for places in runs] == [
        pytest.approx(sorted(100 * value for value in arm.values.values())) for arm in findings.arms
    ]
    assert [places[0] for places in points(figure, "o")] == pytest.approx(
        [100 * arm.mean.estimate for arm in findings.arms]
    )


def test_differences_stand_with_interval_and_word(study: Study, findings: Findings) -> None:
    figure = drawn(figures.differences(findings, study))
    places = [list(line.get_xdata()) for line in figure.axes[0].lines]
    for contrast in findings.contrasts:
        assert pytest.approx([100 * value for value in contrast.differences]) in places
        assert pytest.approx([100 * contrast.interval.low, 100 * contrast.interval.high]) in places
        assert [pytest.approx(100 * contrast.interval.estimate)] in places
    words = [text.get_text() for text in figure.axes[0].texts]
    assert [text.split()[1] for text in words if text[0] in "▲▼=?"] == [c.verdict.word for c in findings.contrasts]


def test_slopes_join_the_same_block(study: Study, findings: Findings) -> None:
    figure = drawn(figures.slopes(findings, study))
    assert len(figure.axes) == len(findings.contrasts)
    values = {arm.arm: arm.values for arm in findings.arms}
    for axes, contrast in zip(figure.axes, findings.contrasts, strict=True):
        lines = [list(line.get_ydata()) for line in axes.lines]
        pairs = [[100 * values[contrast.reference][b], 100 * values[contrast.arm][b]] for b in contrast.blocks]
        assert lines[:-1] == [pytest.approx(pair) for pair in pairs]
        assert lines[-1] == pytest.approx([sum(side) / len(pairs) for side in zip(*pairs, strict=True)])


def test_curves_are_mean_and_range_over_the_blocks(study: Study, frame: Frame) -> None:
    name = study.arms[1].name
    epochs, mean, low, high = curves.bands(frame, name, "auroc")
    own = frame.epochs[frame.epochs["arm"] == name]
    for index, epoch in enumerate(epochs):
        values = [float(value) for value in own.loc[own["epoch"] == epoch, "auroc"]]
        assert (mean[index], low[index], high[index]) == pytest.approx((np.mean(values), min(values), max(values)))
    assert list(epochs) == [1, 2, 3, 4, 5, 6]


def test_one_measured_epoch_is_no_curve(study: Study, frame: Frame) -> None:
    """Where only the last of several epochs is measured, an axis of epochs says nothing."""
    last = frame.epochs["epoch"] == frame.epochs["epoch"].max()
    once = Frame(frame.trials, frame.epochs.assign(auroc=frame.epochs["auroc"].where(last)))
    assert curves.curves(frame, compare(frame, study), study) is not None
    assert curves.curves(once, compare(once, study), study) is None


def test_long_curves_are_thinned_from_first_to_last() -> None:
    study = samples.study(2, 2)
    epochs, *_ = curves.bands(samples.frame(study, epochs=257), study.arms[0].name, "auroc")
    assert epochs.size == curves.POINTS
    assert (epochs[0], epochs[-1]) == (1, 257)


def test_cost_is_the_mean_over_finished_runs(study: Study) -> None:
    frame = samples.frame(study, failed=2)
    last = study.arms[-1].name
    figure = drawn(curves.cost(frame, compare(frame, study), study))
    done = frame.trials[(frame.trials["arm"] == last) & (frame.trials["state"] == "done")]
    assert len(done) == 3
    assert points(figure, "o", axes=1)[-1] == [pytest.approx(done["seconds"].mean())]


def test_computation_and_memory_get_a_panel_where_measured(study: Study, frame: Frame) -> None:
    more = Frame(frame.trials, frame.epochs.assign(flops=2e12, peak_memory_bytes=3e9))
    figure = drawn(curves.cost(more, compare(more, study), study))
    names = [" ".join(axes.get_xlabel().split()) for axes in figure.axes[2:]]
    assert names == ["compute of a run (TFLOP)", "peak memory (GB)"]
    FigureCanvasAgg(figure).draw()
    boxes = [axes.xaxis.label.get_window_extent() for axes in figure.axes]
    assert all(one.x1 <= other.x0 for one, other in pairwise(boxes)), "labels of neighbours overlap"
    assert boxes[-1].x1 <= figure.bbox.x1


def test_a_runs_computation_is_the_sum_of_its_epochs_and_its_memory_the_most(study: Study, frame: Frame) -> None:
    epoch = frame.epochs["epoch"].to_numpy(float)
    more = Frame(frame.trials, frame.epochs.assign(flops=1e9 * epoch, peak_memory_bytes=1e6 * epoch))
    last = int(epoch.max())
    found = {cost.kind: cost.mean for cost in facts.costs(more, study)}
    assert found["flops"] == pytest.approx(1e9 * last * (last + 1) / 2)
    assert found["peak_memory_bytes"] == pytest.approx(1e6 * last)


@pytest.mark.parametrize(
    ("means", "critical", "expected"),
    [
        ([1.0, 2.0, 3.0], 5.0, [(0, 2)]),
        ([1.0, 2.0, 3.0], 1.5, [(0, 1), (1, 2)]),
        ([1.0, 2.0, 3.0], 0.5, []),
        ([1.0, 1.1, 3.0, 3.1], 1.0, [(0, 1), (2, 3)]),
    ],
)
def test_bars_join_what_the_critical_difference_cannot_part(
    means: list[float], critical: float, expected: list[tuple[int, int]]
) -> None:
    assert designs.groups(means, critical) == expected


def test_ranks_are_named_with_their_means(study: Study, findings: Findings) -> None:
    picture = designs.ranks(findings, study)
    words = " ".join(" ".join(text.get_text().split()) for text in drawn(picture).axes[0].texts)
    assert findings.ranks is not None
    for arm, mean in findings.ranks.mean.items():
        assert f"{tables.labels(study)[arm]} {mean:.2f}" in words


def test_two_factors_fill_the_heat_map() -> None:
    study = samples.study(6, 5, factors=True)
    findings = compare(samples.frame(study), study)
    texts = [text.get_text() for text in drawn(designs.factors(findings, study)).axes[0].texts]
    assert findings.factorial is not None
    for value in findings.factorial.means.values():
        assert f"{100 * value:.2f}" in texts


def test_the_paper_stands_beside_ours(study: Study, findings: Findings) -> None:
    figure = drawn(figures.paper(findings, study))
    assert findings.agreement is not None
    printed = [pair.published for pair in findings.agreement.contrasts]
    assert [places[0] for places in points(figure, "D")] == pytest.approx(printed)


def test_only_opposite_signs_are_joined_by_a_dotted_line(study: Study, findings: Findings) -> None:
    agreement = findings.agreement
    assert agreement is not None
    pairs = [dataclasses.replace(agreement.contrasts[0], agree=agree) for agree in (True, None, False)]
    shown = dataclasses.replace(findings, agreement=dataclasses.replace(agreement, contrasts=tuple(pairs)))
    lines = [line for line in drawn(figures.paper(shown, study)).axes[0].lines if line.get_marker() == "None"]
    rows = [{row} for row in range(3)]
    assert [line.get_linestyle() for line in lines if set(line.get_ydata()) in rows] == ["-", "-", ":"]


def test_no_picture_without_something_to_show(study: Study, frame: Frame, findings: Findings) -> None:
    nan = dataclasses.replace(findings.arms[0].mean, estimate=math.nan, low=math.nan, high=math.nan)
    empty = dataclasses.replace(
        findings,
        arms=tuple(dataclasses.replace(arm, n=0, mean=nan, sd=math.nan, values={}) for arm in findings.arms),
        contrasts=(),
        ranks=None,
        agreement=None,
    )
    nothing = Frame(frame.trials.assign(state="pending"), frame.epochs.iloc[:0])
    assert figures.pictures(nothing, study, empty) == ()


def test_equal_pictures_give_equal_bytes(study: Study, frame: Frame, findings: Findings) -> None:
    for first, second in zip(
        figures.pictures(frame, study, findings), figures.pictures(frame, study, findings), strict=True
    ):
        once, again = drawing.render(first, dpi=50), drawing.render(second, dpi=50)
        assert (once.svg, once.png, once.inline) == (again.svg, again.png, again.inline)


def test_a_users_settings_reach_no_figure_and_are_left_as_they_were(study: Study, findings: Findings) -> None:
    picture = figures.arms(findings, study)
    assert picture is not None
    before = drawing.render(picture, dpi=50).svg
    with mpl.rc_context({"font.size": 30, "lines.linewidth": 9, "svg.fonttype": "path", "axes.facecolor": "red"}):
        assert drawing.render(picture, dpi=50).svg == before
        assert mpl.rcParams["font.size"] == 30


def test_svg_is_sound_and_its_texts_are_texts(study: Study, frame: Frame, findings: Findings) -> None:
    seen: set[str] = set()
    for picture in figures.pictures(frame, study, findings):
        rendered = drawing.render(picture, dpi=50)
        ET.fromstring(rendered.svg)
        inline = ET.fromstring(rendered.inline.replace("xlink:href", "href"))
        assert inline.find("title") is not None
        assert inline.attrib["role"] == "img"
        ids = {element.attrib["id"] for element in inline.iter() if "id" in element.attrib}
        assert not ids & seen
        seen |= ids
        assert set(re.findall(r"url\(#([^)]+)\)", rendered.inline)) <= ids
        assert drawing.INK not in rendered.inline
        assert "var(--ink)" in rendered.inline


def test_markup_and_mathematics_in_labels_are_text() -> None:
    study = samples.study(hostile=True)
    findings = compare(samples.frame(study), study)
    for picture in figures.pictures(samples.frame(study), study, findings):
        root = ET.fromstring(drawing.render(picture, dpi=50).inline.replace("xlink:href", "href"))
        assert "script" not in {element.tag for element in root.iter()}
    picture = figures.arms(findings, study)
    assert picture is not None
    assert "50% of $x_i$" in "".join(ET.fromstring(drawing.render(picture, dpi=50).svg).itertext())


def test_pyplot_is_never_imported() -> None:
    code = "import sys, analysis.report, analysis.comparison; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_colours_can_be_read_in_both_schemes() -> None:
    papers = {"light": "#ffffff", "dark": "#16181c"}
    for name, (light, dark) in drawing._THEME.items():
        if name in ("rule", "band", "other"):
            continue
        assert contrast_ratio(light, papers["light"]) >= 4.5, name
        assert contrast_ratio(dark, papers["dark"]) >= 4.5, name


def contrast_ratio(one: str, other: str) -> float:
    """WCAG 2.1, 'contrast ratio'."""

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    bright, dim = sorted((luminance(one), luminance(other)), reverse=True)
    return (bright + 0.05) / (dim + 0.05)


def test_a_long_name_of_an_axis_stays_within_the_figure(study: Study) -> None:
    long = dataclasses.replace(
        study,
        outcome=dataclasses.replace(
            study.outcome, label="top-1 accuracy, median of the last ten epochs of the teacher"
        ),
    )
    frame = samples.frame(long)
    figure = drawn(figures.differences(compare(frame, long), long))
    FigureCanvasAgg(figure).draw()
    box = figure.axes[0].xaxis.label.get_window_extent()
    assert figure.bbox.x0 <= box.x0
    assert figure.bbox.y0 <= box.y0
