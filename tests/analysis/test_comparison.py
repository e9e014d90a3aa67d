"""Sweeps side by side: each column is its own sweep's findings, and what else differs between them is said."""

import csv
from pathlib import Path

import pytest

from analysis import comparison, display, drawing
from analysis.comparison import ComparisonError, Side
from analysis.contrasts import compare
from analysis.frame import Frame
from search_spaces.study import Outcome, Study
from tests.analysis import frames, samples
from tests.analysis.pages import Page


def side(name: str, study: Study, frame: Frame) -> Side:
    return Side(name, frame, study, compare(frame, study))


@pytest.fixture(scope="module")
def sides() -> list[Side]:
    small, large = samples.study(3, 5), samples.study(4, 8)
    newer = samples.frame(large, effect=0.0, seed=3)
    newer.trials["commit"] = "b" * 40
    return [side("main", small, samples.frame(small)), side("branch <b>", large, newer)]


def test_each_cell_is_its_own_sweeps_number(sides: list[Side]) -> None:
    table = comparison.arms(sides)
    shown = comparison.quantity(sides)
    assert [column.head for column in table.columns] == ["arm", "main", "branch <b>"]
    assert [row.cells[0] for row in table.rows] == [f"map of layer {index}" for index in (1, 2, 3, 4)]
    for row, name in zip(table.rows, ("layer_1", "layer_2", "layer_3", "layer_4"), strict=True):
        for cell, own in zip(row.cells[1:], sides, strict=True):
            arm = next((arm for arm in own.findings.arms if arm.arm == name), None)
            assert cell.startswith(shown.value(arm.mean.estimate) if arm else "not in it")


def test_contrasts_are_matched_by_name(sides: list[Side]) -> None:
    table = comparison.contrasts(sides)
    assert len(table.rows) == 3
    assert table.rows[2].cells[1] == "not declared"
    for row, contrast in zip(table.rows, sides[1].findings.contrasts, strict=True):
        word = contrast.verdict.word
        assert row.cells[2].startswith(f"{display.SYMBOL[word]} {word}: ")


def test_a_declared_contrast_whose_arm_was_left_out_is_not_run() -> None:
    study = frames.small_study()
    whole, partly = frames.sound(study), frames.missing_arm(study)
    table = comparison.contrasts([side("whole", study, whole), side("partly", study, partly)])
    assert [row.cells[2] == "not run" for row in table.rows] == [False, True]


def test_only_what_differs_is_said_to_differ(sides: list[Side]) -> None:
    table = comparison.differing(sides)
    assert [row.cells[0] for row in table.rows] == ["blocks", "runs done", "commit"]
    assert table.rows[-1].cells[1:] == ("a" * 40, "b" * 40)


def test_the_figure_has_a_marker_for_each_side(sides: list[Side]) -> None:
    picture = comparison.figure(sides)
    assert picture is not None
    axes = picture.draw().axes[0]
    for own, marker in zip(sides, comparison.MARKERS, strict=False):
        places = [line.get_xdata()[0] for line in axes.lines if line.get_marker() == marker]
        assert places == pytest.approx([100 * c.interval.estimate for c in own.findings.contrasts[:2]])


def test_the_page_escapes_and_repeats(sides: list[Side], tmp_path: Path) -> None:
    first, second = (comparison.write(sides, tmp_path / name) for name in ("one", "other"))
    for file in ("comparison.html", "comparison.svg", "comparison.png", "comparison.md", "comparison.csv"):
        assert (first.parent / file).read_bytes() == (second.parent / file).read_bytes()
    page = Page(first.read_text(encoding="utf-8"))
    assert "branch <b>" in page.text
    assert page.named("b") == []
    assert len(page.tables) == 3


def test_csv_names_the_side(sides: list[Side], tmp_path: Path) -> None:
    text = (comparison.write(sides, tmp_path).parent / "comparison.csv").read_text(encoding="utf-8")
    rows = list(csv.DictReader(text.splitlines()))
    assert {row["side"] for row in rows} == {"main", "branch <b>"}
    assert sum(row["kind"] == "arm" for row in rows) == 7


@pytest.mark.parametrize("kind", frames.DEGENERATE)
def test_every_degenerate_frame_stands_beside_a_sound_one(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    render = drawing.render
    monkeypatch.setattr(drawing, "render", lambda picture: render(picture, dpi=30))
    study = frames.small_study()
    both = [side("sound", study, frames.sound(study)), side(kind, study, frames.DEGENERATE[kind](study))]
    assert comparison.write(both, tmp_path).exists()


class TestRefused:
    def test_one_alone(self, sides: list[Side]) -> None:
        with pytest.raises(ComparisonError, match="at least two"):
            comparison.check(sides[:1])

    def test_a_name_twice(self, sides: list[Side]) -> None:
        with pytest.raises(ComparisonError, match="names of their own"):
            comparison.check([sides[0], sides[0]])

    def test_other_outcomes(self, sides: list[Side]) -> None:
        other = frames.small_study(outcome=Outcome(metric="accuracy", label="Accuracy"), secondary=())
        with pytest.raises(ComparisonError, match="accuracy, auroc"):
            comparison.check([sides[0], side("other", other, frames.sound(other))])

    def test_nothing_in_common(self, sides: list[Side]) -> None:
        other = frames.small_study()
        with pytest.raises(ComparisonError, match="arm in common"):
            comparison.check([sides[0], side("other", other, frames.sound(other))])
