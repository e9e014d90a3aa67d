"""Pictures of what trials show: lines are the arrays', every arm has its panel, a report lives without them."""

import dataclasses
import math
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch

from analysis import drawing, gallery, openset_figures, report
from analysis.exhibits import Exhibit, Exhibits
from search_spaces.study import FIGURES, Study, StudyError
from tests.analysis import samples
from tests.analysis.pages import Page

OPENSET = ("oscr", "angles", "features")
EDGES = np.linspace(0, math.pi, 21)


def arrays(random: np.random.Generator, K: int = 2) -> dict[str, np.ndarray]:
    """What a run of a made-up classifier of four classes leaves."""
    found: dict[str, np.ndarray] = {"angles_edges": EDGES, "probability_theta": np.linspace(0, math.pi, 50)}
    found["probability_test"] = np.linspace(1, 0, 50)
    found["probability_training"] = np.linspace(0.9, 0, 50)
    for group in ("known", "negative", "unknown"):
        found[f"angles_{group}"] = random.integers(0, 9, 20)
        if K == 2:
            found[f"features_{group}"] = random.normal(size=(700, 2)).astype(np.float32)
        if group != "known":
            fpr = np.unique(random.uniform(0.002, 1, 30))
            found[f"oscr_{group}_fpr"] = np.append(fpr, 1.0)[::-1].astype(np.float32)
            found[f"oscr_{group}_ccr"] = np.sort(random.uniform(0, 0.9, len(fpr) + 1))[::-1].astype(np.float32)
    if K == 2:
        found["features_known_labels"] = random.integers(0, 4, 700).astype(np.int16)
        found["centres"] = random.normal(size=(2, 4)).astype(np.float32)
    return found


@pytest.fixture(scope="module")
def study() -> Study:
    return dataclasses.replace(samples.study(), figures=OPENSET)


@pytest.fixture(scope="module")
def exhibits(study: Study) -> Exhibits:
    random = np.random.default_rng(3)
    shown = [
        Exhibit(arm.name, f"digits/t{split}/s0", 15, arrays(random, K=2 if index else 5))
        for index, arm in enumerate(study.arms)
        for split in range(3)
    ]
    return Exhibits(tuple(shown), done=len(shown))


def figure_of(name: str, exhibits: Exhibits, study: Study) -> Figure:
    (picture,) = [picture for picture in gallery.hang(exhibits, study).pictures if picture.name == name]
    return picture.draw()


def test_a_study_can_name_every_drawing_and_no_other() -> None:
    assert tuple(gallery.DRAWINGS) == FIGURES
    with pytest.raises(StudyError, match=r"figure 'oscar' is unknown\. Did you mean 'oscr'"):
        dataclasses.replace(samples.study(), figures=("oscar",))


def test_a_study_s_figures_survive_its_plain_form_and_older_forms_have_none(study: Study) -> None:
    plain = study.to_plain()
    assert Study.from_plain(plain).figures == OPENSET
    del plain["figures"]
    assert Study.from_plain(plain).figures == ()


def slow_ccr(held: dict[str, np.ndarray], group: str, rate: float) -> float:
    """At the largest stored rate that is no larger than `rate`."""
    pairs = zip(held[f"oscr_{group}_fpr"].tolist(), held[f"oscr_{group}_ccr"].tolist(), strict=True)
    below = [(fpr, ccr) for fpr, ccr in pairs if fpr <= rate * (1 + 1e-6)]
    return max(below)[1] if below else math.nan


def test_curves_are_the_mean_and_the_range_of_the_runs(study: Study, exhibits: Exhibits) -> None:
    figure = figure_of("oscr", exhibits, study)
    assert [axes.get_title(loc="left") for axes in figure.axes] == [arm.label for arm in study.arms]
    for arm, axes in zip(study.arms, figure.axes, strict=True):
        runs = exhibits.of(arm.name)
        *_, line = axes.lines
        assert axes.get_xscale() == "log"
        for rate, value in list(zip(line.get_xdata(), line.get_ydata(), strict=True))[::17]:
            expected = np.mean([slow_ccr(dict(run.arrays), "unknown", rate) for run in runs])
            assert value == pytest.approx(expected, nan_ok=True)
        last = [slow_ccr(dict(run.arrays), "unknown", 1.0) for run in runs]
        band = axes.collections[-1].get_paths()[0].vertices
        at_one = band[np.isclose(band[:, 0], 1.0), 1]
        assert (at_one.min(), at_one.max()) == (pytest.approx(min(last)), pytest.approx(max(last)))


def test_a_baseline_that_was_left_out_is_not_in_the_legend(study: Study, exhibits: Exhibits) -> None:
    def legend(of: Exhibits) -> list[str]:
        return [text.get_text() for each in figure_of("oscr", of, study).legends for text in each.get_texts()]

    without = dataclasses.replace(exhibits, shown=tuple(run for run in exhibits.shown if run.arm != study.baseline))
    assert legend(exhibits) == ["unknown", "negative", "baseline, unknown"]
    assert legend(without) == ["unknown", "negative"]


def test_a_rate_that_was_stored_in_single_precision_is_found_again() -> None:
    held = {"oscr_unknown_fpr": np.float32([1, 0.1, 0.01]), "oscr_unknown_ccr": np.float32([0.9, 0.5, 0.25])}
    found = openset_figures.ccr(held, "unknown", np.array([1.0, 0.5, 0.1, 0.01, 0.001]))
    np.testing.assert_array_equal(found, [np.float32(0.9), 0.5, 0.5, 0.25, np.nan])


def test_histograms_are_the_first_run_s_to_one_height_with_both_scores(study: Study, exhibits: Exhibits) -> None:
    figure = figure_of("angles", exhibits, study)
    for arm, axes in zip(study.arms, figure.axes, strict=True):
        held = exhibits.of(arm.name)[0].arrays
        share = {
            group: held[f"angles_{group}"] / held[f"angles_{group}"].sum() for group in ("known", "negative", "unknown")
        }
        highest = max(values.max() for values in share.values())
        np.testing.assert_allclose(axes.patches[0].get_data().values, share["known"] / highest)
        negative, unknown, tested, trained = axes.lines
        np.testing.assert_allclose(negative.get_ydata()[::2], share["negative"] / highest)
        np.testing.assert_allclose(unknown.get_ydata()[::2], share["unknown"] / highest)
        np.testing.assert_allclose(unknown.get_xdata()[::2], EDGES[:-1])
        np.testing.assert_allclose(tested.get_ydata(), held["probability_test"])
        np.testing.assert_allclose(trained.get_ydata(), held["probability_training"])


def dots(figure: Figure, axes: int) -> int:
    return sum(len(patch.get_path()) // 2 for patch in figure.axes[axes].patches if isinstance(patch, PathPatch))


def test_features_are_drawn_for_arms_of_two_dimensions_as_in_the_thesis(study: Study, exhibits: Exhibits) -> None:
    names = [picture.name for picture in gallery.hang(exhibits, study).pictures]
    assert names == ["oscr", "angles", *(f"features-{arm.name}" for arm in study.arms[1:])]
    figure = figure_of(names[-1], exhibits, study)
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles == ["known", "known and negative", "known and unknown", "known, as directions"]
    most = openset_figures.DOTS
    assert [dots(figure, index) for index in range(4)] == [most, 2 * most, 2 * most, most]
    centres = exhibits.of(study.arms[-1].name)[0].arrays["centres"].astype(float)
    ends = [(line.get_xdata()[1], line.get_ydata()[1]) for line in figure.axes[3].lines]
    np.testing.assert_allclose(ends, (centres / np.linalg.norm(centres, axis=0)).T)
    assert [text.get_text() for text in figure.axes[3].texts] == ["0", "1", "2", "3"]


def test_arms_whose_names_look_alike_as_files_keep_their_own_pictures() -> None:
    study = samples.study()
    arms = tuple(dataclasses.replace(arm, name=f"K{sign}1") for arm, sign in zip(study.arms, "+/= ", strict=True))
    study = dataclasses.replace(
        study, arms=arms, baseline=arms[0].name, contrasts=(), published=(), figures=("features",)
    )
    random = np.random.default_rng(0)
    shown = Exhibits(tuple(Exhibit(arm.name, "digits/t0/s0", 1, arrays(random)) for arm in arms), done=4)
    names = [picture.name for picture in gallery.hang(shown, study).pictures]
    assert names == ["features-K-1", "features-K-1-1", "features-K-1-2", "features-K-1-3"]


def test_runs_on_several_datasets_are_not_pooled(exhibits: Exhibits, study: Study) -> None:
    moved = tuple(
        dataclasses.replace(each, block=each.block.replace("digits", "cifar+10")) if "/t2/" in each.block else each
        for each in exhibits.shown
    )
    hung = {p.name: p for p in gallery.hang(Exhibits(moved, len(moved)), study).pictures if "features" not in p.name}
    assert list(hung) == ["oscr-digits", "oscr-cifar-10", "angles-digits", "angles-cifar-10"]
    assert hung["oscr-cifar-10"].title == "Open-set classification rate on cifar+10"
    *_, line = hung["oscr-cifar-10"].draw().axes[0].lines
    (only,) = [each for each in moved if each.arm == study.arms[0].name and "cifar" in each.block]
    expected = [slow_ccr(dict(only.arrays), "unknown", rate) for rate in line.get_xdata()]
    assert list(line.get_ydata()) == pytest.approx(expected, nan_ok=True)


def test_many_arms_go_on_further_pictures() -> None:
    study = dataclasses.replace(samples.study(arms=openset_figures.PANELS + 3), figures=("oscr",))
    random = np.random.default_rng(0)
    shown = tuple(Exhibit(arm.name, "digits/t0/s0", 1, arrays(random)) for arm in study.arms)
    hung = gallery.hang(Exhibits(shown, len(shown)), study).pictures
    assert [picture.name for picture in hung] == ["oscr", "oscr-2"]
    assert [len(picture.draw().axes) for picture in hung] == [openset_figures.PANELS, 3]
    assert [picture.title.endswith(f"({n} of 2)") for n, picture in enumerate(hung, 1)] == [True, True]


@pytest.mark.parametrize("lack", ["negative", "unknown", "probability", "features"])
def test_runs_that_lack_a_group_are_drawn_without_it(study: Study, exhibits: Exhibits, lack: str) -> None:
    cut = [
        dataclasses.replace(each, arrays={name: held for name, held in each.arrays.items() if lack not in name})
        for each in exhibits.shown
    ]
    hung = gallery.hang(dataclasses.replace(exhibits, shown=tuple(cut)), study).pictures
    for picture in hung:
        drawing.render(picture)
    assert ("oscr" in [picture.name for picture in hung]) == (lack != "unknown")


def written(folder: Path, study: Study, exhibits: Exhibits | None) -> tuple[str, Page]:
    path = report.write(samples.frame(study), study, folder, command="run", provenance={}, exhibits=exhibits)
    html = path.read_text(encoding="utf-8")
    return html, Page(html)


def test_a_report_shows_the_pictures_in_words_too_and_as_files(
    study: Study, exhibits: Exhibits, tmp_path: Path
) -> None:
    html, page = written(tmp_path, study, exhibits)
    hung = gallery.hang(exhibits, study).pictures
    labels = [attributes["aria-label"] for attributes in page.named("svg")]
    for picture in hung:
        assert f"{picture.title}. {picture.description}" in labels
        for suffix in (".svg", ".png"):
            assert (tmp_path / "figures" / f"{picture.name}{suffix}").stat().st_size > 1000
    assert "#shown" in [attributes.get("href") for attributes in page.named("a")]
    ids = [attributes["id"] for _, attributes in page.tags if attributes.get("id")]
    assert len(ids) == len(set(ids))
    assert re.search(r"(fill|stroke): ?#(2f6fb6|a9630a)", html) is None, "a colour that dark pages cannot change"


def test_a_report_without_exhibits_says_so_in_one_line(study: Study, tmp_path: Path) -> None:
    _, page = written(tmp_path, study, None)
    assert page.text.count("No done run left anything to look at.") == 1
    _, odd = written(tmp_path, study, Exhibits((Exhibit("layer_1", "digits/t0/s0", 1, {"other": EDGES}),), done=1))
    assert odd.text.count("No done run left anything that the study's drawings know.") == 1
    _, plain = written(tmp_path, samples.study(), None)
    assert "What the trials show" not in plain.text


def test_what_was_left_out_is_said(study: Study, exhibits: Exhibits, tmp_path: Path) -> None:
    some = Exhibits(
        exhibits.shown[:4], done=12, unreadable=("4.npz of trial ab cannot be read (File is not a zip file)",)
    )
    _, page = written(tmp_path, study, some)
    assert "4 of 12 done runs left something to look at" in page.text
    assert "Left out: 4.npz of trial ab cannot be read" in page.text


def test_drawing_needs_no_framework() -> None:
    code = "import sys, analysis.gallery, ablate.exhibits; print(*{'torch', 'ray', 'mlflow'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
