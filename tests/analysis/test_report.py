"""The page says what the findings say, escapes what it is given, needs nothing from outside, repeats to the byte."""

import dataclasses
import itertools
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from analysis import drawing, figures, index_page, report, tables, wording
from analysis.contrasts import compare
from analysis.findings import Findings
from analysis.frame import Frame, FrameError
from search_spaces import catalogue
from search_spaces.study import Study
from tests.analysis import frames, samples
from tests.analysis.pages import Page

COMMAND = "python -m ablate reproduce 'a & b' --home <here>"


def written(folder: Path, study: Study, frame: Frame) -> tuple[Findings, Page, str]:
    findings = compare(frame, study)
    path = report.write(
        frame, study, folder, command=COMMAND, provenance={"python": "3.11", "note": samples.HOSTILE}, findings=findings
    )
    html = path.read_text(encoding="utf-8")
    return findings, Page(html), html


@pytest.fixture(scope="module")
def study() -> Study:
    return samples.study()


@pytest.fixture(scope="module")
def made(study: Study, tmp_path_factory: pytest.TempPathFactory) -> tuple[Findings, Page, str, Path]:
    folder = tmp_path_factory.mktemp("report")
    return *written(folder, study, samples.frame(study, failed=1)), folder


def squeezed(text: str) -> str:
    return " ".join(text.split())


def test_question_verdict_warnings_and_scale_come_first_and_in_this_order(study: Study, made: tuple) -> None:
    findings, page, *_ = made
    text = squeezed(page.text)
    places = [
        text.index(squeezed(part))
        for part in (
            study.question,
            wording.headline(findings, study),
            *findings.warnings,
            wording.scale_note(findings, study),
            "Arms Contrasts Learning and cost",
        )
    ]
    assert places == sorted(places)


def test_every_table_is_on_the_page_cell_by_cell(study: Study, made: tuple) -> None:
    findings, page, *_ = made
    shown = [[[squeezed(cell) for cell in row] for row in table] for table in page.tables]
    expected = [
        tables.arms(findings, study),
        tables.contrasts(findings, study),
        tables.blocks(findings, study),
        tables.settings(study),
        tables.further(findings, study),
        *tables.secondary(findings, study),
    ]
    for table in expected:
        rows = [list(row.cells) for row in table.rows]
        plain = [[[cell.removesuffix(" baseline") for cell in row] for row in found[1:]] for found in shown]
        assert [[squeezed(cell) for cell in row] for row in rows] in plain, table.name


def test_failures_paper_provenance_and_command_are_on_it(study: Study, made: tuple) -> None:
    _, page, *_ = made
    text = squeezed(page.text)
    for expected in ("diverged", study.claim, "Table 4, row 2", COMMAND, "a" * 40, "no replication of A paper, 2024"):
        assert squeezed(expected) in text
    assert ["width", "64", "16"] in [row for table in page.tables for row in table]


@pytest.mark.parametrize("kind", ["not_a_number", "no_epochs"])
def test_a_run_that_ended_without_a_value_is_among_the_failures(kind: str, tmp_path: Path) -> None:
    small = frames.small_study(blocks=2)
    findings, page, _ = written(tmp_path, small, frames.DEGENERATE[kind](small))
    assert "No run failed." not in page.text
    why = findings.arms[-1].failed["digits/t0/s0"]
    trial = trial_of(frames.DEGENERATE[kind](small), "a2", "digits/t0/s0")
    assert ["a2", "digits/t0/s0", "no value", why, "12", "1", trial] in [row for table in page.tables for row in table]


def trial_of(frame: Frame, arm: str, block: str) -> str:
    rows = frame.trials[(frame.trials["arm"] == arm) & (frame.trials["block"] == block)]
    return str(rows["trial"].iloc[0])


def test_it_needs_nothing_from_outside(made: tuple) -> None:
    _, page, html, folder = made
    for tag, attributes in page.tags:
        for name in ("src", "href", "xlink:href", "data", "action", "srcset"):
            link = attributes.get(name)
            if link is None:
                continue
            local = link.startswith(("#", "data:")) or (folder / link).exists()
            assert local, f"<{tag} {name}={link}>"
    assert "@import" not in html
    assert re.search(r"url\((?!#)", html) is None
    assert [attributes for attributes in page.named("script") if attributes] == []


def test_anchors_lead_somewhere_and_ids_are_unique(made: tuple) -> None:
    _, page, *_ = made
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    for attributes in page.named("a"):
        if (attributes.get("href") or "").startswith("#"):
            assert attributes["href"][1:] in ids
    for _, attributes in page.tags:
        if "aria-labelledby" in attributes:
            assert attributes["aria-labelledby"] in ids


def test_it_is_accessible(made: tuple) -> None:
    _, page, *_ = made
    assert page.named("html")[0]["lang"] == "en"
    assert all(attributes.get("scope") in ("col", "row") for attributes in page.named("th"))
    assert all(attributes.get("role") == "img" and attributes.get("aria-label") for attributes in page.named("svg"))
    scrolling = [a for _, a in page.tags if a.get("class") == "scroll"]
    assert all(a.get("tabindex") == "0" and a.get("aria-label") for a in scrolling)
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(later - earlier <= 1 for earlier, later in itertools.pairwise(levels))
    assert len(page.named("table")) == len(page.named("caption"))


def test_what_it_is_given_is_escaped(tmp_path: Path) -> None:
    study = samples.study(hostile=True)
    _, page, html = written(tmp_path, study, samples.frame(study, failed=1))
    assert "<script>alert" not in html
    assert len(page.named("script")) == 1
    assert squeezed(samples.HOSTILE) in squeezed(page.text)


def test_the_same_frame_gives_the_same_bytes(study: Study, tmp_path: Path) -> None:
    for name in ("one", "other"):
        frame = samples.frame(study, failed=1)
        report.write(frame, study, tmp_path / name, command=COMMAND, provenance={"python": "3.11"})
    files = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*") if path.is_file())
    assert len(files) > 15
    for file in files:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "other" / file).read_bytes(), file


def test_figures_of_an_earlier_report_go(study: Study, tmp_path: Path) -> None:
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "gone.svg").write_text("old")
    (tmp_path / "figures" / "notes.txt").write_text("a person's own")
    written(tmp_path, study, samples.frame(study))
    assert not (tmp_path / "figures" / "gone.svg").exists()
    assert (tmp_path / "figures" / "notes.txt").exists()


def test_pages_and_files_show_the_same_figures(study: Study, made: tuple) -> None:
    findings, page, _, folder = made
    names = {attributes["id"].removeprefix("figure-") for attributes in page.named("figure")}
    assert names == {path.stem for path in (folder / "figures").glob("*.svg")}
    assert names == {path.stem for path in (folder / "figures").glob("*.png")}
    assert names == {picture.name for picture in figures.pictures(samples.frame(study), study, findings)}


def test_json_holds_the_findings(made: tuple) -> None:
    findings, _, _, folder = made
    plain = json.loads((folder / "findings.json").read_text(encoding="utf-8"))
    assert [arm["mean"]["estimate"] for arm in plain["arms"]] == [arm.mean.estimate for arm in findings.arms]
    assert [c["verdict"]["word"] for c in plain["contrasts"]] == [c.verdict.word for c in findings.contrasts]


@pytest.mark.parametrize("kind", frames.DEGENERATE)
def test_every_degenerate_frame_renders_and_is_named(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = frames.small_study()
    coarse(monkeypatch)
    findings, page, _ = written(tmp_path, study, frames.DEGENERATE[kind](study))
    text = squeezed(page.text)
    for warning in findings.warnings:
        assert squeezed(warning) in text
    assert "nan" not in re.sub(r"loss is nan", "", text).lower().split()
    assert "inf" not in text.lower().split()
    tables.terminal(findings, study)


@pytest.mark.slow
@pytest.mark.parametrize("kind", frames.DEGENERATE)
@pytest.mark.parametrize("name", catalogue.names())
def test_every_study_of_the_catalogue_renders_every_degenerate_frame(
    name: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = catalogue.load(name)
    coarse(monkeypatch)
    frame = frames.DEGENERATE[kind](study)
    if frame.trials.empty:  # what is missing is the only arm of a search
        with pytest.raises(FrameError, match="has no trials"):
            written(tmp_path, study, frame)
        return
    findings, page, _ = written(tmp_path, study, frame)
    assert squeezed(wording.headline(findings, study)) in squeezed(page.text)


@pytest.mark.parametrize("name", catalogue.names())
def test_every_study_of_the_catalogue_renders(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = catalogue.load(name)
    coarse(monkeypatch)
    _, page, _ = written(tmp_path, study, frames.sound(study))
    for arm in study.arms:
        assert squeezed(arm.label or arm.name) in squeezed(page.text)


def coarse(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small PNGs: these tests are about the page."""
    render = drawing.render
    monkeypatch.setattr(drawing, "render", lambda picture: render(picture, dpi=30))


def test_a_scale_that_the_study_lost_still_reports(study: Study, tmp_path: Path) -> None:
    lost = dataclasses.replace(study, scales=study.scales[1:])
    findings, page, _ = written(tmp_path, lost, samples.frame(study))
    assert "no longer has" in squeezed(page.text)
    assert findings.scale == "laptop"


def test_the_index_lists_every_report_and_what_has_none(study: Study, tmp_path: Path) -> None:
    sweep = "sample_layers@laptop"
    findings, _, _ = written(tmp_path / sweep, study, samples.frame(study))
    entry = index_page.Entry(sweep, tmp_path / sweep / report.FILE, study, findings)
    path = index_page.write([entry], tmp_path, broken=[index_page.Broken("other@smoke", "corrupt <frame>")])
    page = Page(path.read_text(encoding="utf-8"))
    links = [attributes["href"] for attributes in page.named("a") if attributes.get("href") != "#main"]
    assert links == ["sample_layers%40laptop/report.html"]
    for expected in (study.question, wording.headline(findings, study), "other@smoke", "corrupt <frame>"):
        assert squeezed(expected) in squeezed(page.text)


def test_an_index_of_nothing_says_so(tmp_path: Path) -> None:
    assert "No sweep has run" in index_page.write([], tmp_path).read_text(encoding="utf-8")


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("dark", [False, True])
def test_a_browser_shows_it_without_complaint(made: tuple, tmp_path: Path, width: int, dark: bool) -> None:
    *_, folder = made
    picture = tmp_path / "page.png"
    command = [
        str(CHROMIUM),
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--enable-logging=stderr",
        f"--user-data-dir={tmp_path / 'profile'}",
        f"--window-size={width},2400",
        f"--blink-settings=preferredColorScheme={0 if dark else 1}",
        f"--screenshot={picture}",
        (folder / report.FILE).as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0
    assert "CONSOLE" not in done.stderr
    from PIL import Image

    with Image.open(picture) as shown:
        corner = shown.convert("RGB").getpixel((2, 2))
    assert corner == ((22, 24, 28) if dark else (255, 255, 255))
