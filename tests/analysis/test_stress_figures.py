"""Drawings of stress tests: bars and lines are the arrays', and what is said in words is what they hold."""

import dataclasses

import numpy as np
import pytest

from analysis import drawing, gallery, stress_figures
from analysis.exhibits import Exhibit, Exhibits
from search_spaces.study import Study
from tests.analysis import samples

NAMES = ("fog", "snow", "gaussian_noise")
FIGURES = ("corruptions", "occlusion", "reliability", "radii")


def arrays(seed: int) -> dict[str, np.ndarray]:
    """What a made-up run leaves; the last bin of confidence is empty."""
    random = np.random.default_rng(seed)
    found = {f"corrupted_{name}": random.uniform(0.2, 0.8, 5) for name in NAMES}
    share = np.append(random.dirichlet(np.ones(9)), 0.0)
    radius = np.where(random.uniform(size=40) < 0.2, np.nan, random.uniform(0, 1, 40))
    return found | {
        "radii_estimated": np.minimum(radius, 0.5),
        "radii_searched": np.minimum(0.8 * radius, 0.5),
        "radii_certified": 1e-6 * radius,
        "attacked_radii": np.array([0, 0.05, 0.1, 0.25, 0.5]),
        "attacked_right": np.array([0.8, 0.7, 0.6, 0.3, 0.1]),
        "clean": np.array([0.9]),
        "occluded_shares": np.arange(10) / 10,
        "occluded_accuracy": np.sort(random.uniform(0, 1, 10))[::-1],
        "reliability_edges": np.linspace(0, 1, 11),
        "reliability_share": share,
        "reliability_confidence": np.where(share > 0, np.arange(10) / 10 + 0.05, np.nan),
        "reliability_accuracy": np.where(share > 0, random.uniform(0, 1, 10), np.nan),
    }


@pytest.fixture(scope="module")
def study() -> Study:
    return dataclasses.replace(samples.study(), figures=FIGURES)


@pytest.fixture(scope="module")
def exhibits(study: Study) -> Exhibits:
    shown = [
        Exhibit(arm.name, f"{dataset}/t0/s{seed}", 1, arrays(10 * place + seed))
        for place, arm in enumerate(study.arms)
        for dataset in ("digits-closed", "cifar10-closed")
        for seed in range(2)
    ]
    return Exhibits(tuple(shown), done=len(shown))


def picture(exhibits, study, name):
    (found,) = (each for each in gallery.hang(exhibits, study).pictures if each.name == name)
    return found


def test_each_dataset_has_a_picture_of_each_kind(exhibits, study):
    names = [each.name for each in gallery.hang(exhibits, study).pictures]
    assert names == [f"{kind}-{dataset}" for kind in FIGURES for dataset in ("digits-closed", "cifar10-closed")]


def test_bars_are_the_mean_loss_of_all_runs(exhibits, study):
    (axes,) = picture(exhibits, study, "corruptions-digits-closed").draw().axes
    for container, arm in zip(axes.containers, study.arms, strict=True):
        runs = [run for run in exhibits.of(arm.name) if run.block.startswith("digits")]
        for bar, name in zip(container, NAMES, strict=True):
            wanted = np.mean([90 - 100 * run.arrays[f"corrupted_{name}"].mean() for run in runs])
            assert bar.get_width() == pytest.approx(wanted)
    assert [text.get_text() for text in axes.texts] == ["fog", "snow", "gaussian noise"]


def test_lines_are_the_mean_accuracy_of_all_runs(exhibits, study):
    found = picture(exhibits, study, "occlusion-cifar10-closed")
    (axes,) = found.draw().axes
    for line, arm in zip(axes.lines, study.arms, strict=True):
        runs = [run for run in exhibits.of(arm.name) if run.block.startswith("cifar10")]
        wanted = np.mean([run.arrays["occluded_accuracy"] for run in runs], axis=0)
        assert np.allclose(line.get_ydata(), 100 * wanted)
        assert f"{arm.label or arm.name}: {100 * wanted[5]:.1f}% with 50% covered" in found.description


def test_reliability_joins_runs_by_their_images(exhibits, study):
    arm = study.arms[0]
    one, two = [run for run in exhibits.of(arm.name) if run.block.startswith("digits")]
    share, confidence, accuracy = stress_figures.joined([one, two])
    a, b = one.arrays, two.arrays
    total = a["reliability_share"][3] + b["reliability_share"][3]
    right = sum(each["reliability_share"][3] * each["reliability_accuracy"][3] for each in (a, b))
    assert share.sum() == pytest.approx(1)
    assert accuracy[3] == pytest.approx(right / total)
    assert confidence[3] == pytest.approx(0.35)
    assert np.isnan(accuracy[9])
    assert np.isnan(confidence[9])
    found = picture(exhibits, study, "reliability-digits-closed").draw()
    assert len(found.axes) == len(study.arms)
    heights = [patch.get_height() for patch in found.axes[0].containers[0]]
    assert np.allclose(heights, np.nan_to_num(accuracy))


def test_radii_are_the_share_of_images_that_are_right_and_as_far_from_the_boundary(exhibits, study):
    estimates, certificates = picture(exhibits, study, "radii-digits-closed").draw().axes
    assert (estimates.get_title(loc="left"), certificates.get_title(loc="left")) == ("estimated", "certified")
    assert [label.get_text() for label in certificates.get_xticklabels()] == ["1e-6", "1e-7", "1e-8"]
    lines = {"estimated": estimates.lines[::3], "searched": estimates.lines[1::3], "certified": certificates.lines}
    for place, arm in enumerate(study.arms):
        runs = [run for run in exhibits.of(arm.name) if run.block.startswith("digits")]
        for kind, drawn in lines.items():
            x, y = drawn[place].get_data()
            for r, share in zip(x[::20], y[::20], strict=True):
                counted = [sum(value >= r for value in run.arrays[f"radii_{kind}"]) / 40 for run in runs]
                assert share == pytest.approx(100 * sum(counted) / 2)
        assert estimates.lines[3 * place + 2].get_ydata() == pytest.approx([80, 70, 60, 30, 10])


def test_networks_without_any_certificate_are_drawn_at_zero(study):
    none = {name: np.where(name.startswith("radii"), 0 * each, each) for name, each in arrays(0).items()}
    shown = Exhibits((Exhibit(study.arms[0].name, "digits/t0/s0", 1, none),), done=1)
    found = picture(shown, study, "radii-digits")
    assert found.description.endswith("and certified for none")
    _, certificates = found.draw().axes
    assert not certificates.lines[0].get_ydata().any()


def test_a_run_that_is_perfectly_calibrated_has_no_error():
    edges = np.linspace(0, 1, 5)
    middles = (edges[:-1] + edges[1:]) / 2
    held = {"reliability_share": np.full(4, 0.25), "reliability_confidence": middles, "reliability_accuracy": middles}
    assert stress_figures.error(*stress_figures.joined([Exhibit("a", "b", 1, held)])) == 0


def test_runs_that_show_nothing_of_the_kind_have_no_picture(study):
    shown = Exhibits((Exhibit(study.arms[0].name, "digits/t0/s0", 1, {"mix_epochs": np.zeros(1)}),), done=1)
    assert not gallery.hang(shown, study).pictures


@pytest.mark.parametrize("kind", FIGURES)
def test_pictures_are_drawn_alike_twice(exhibits, study, kind):
    found = picture(exhibits, study, f"{kind}-digits-closed")
    first, again = drawing.render(found), drawing.render(found)
    assert first.svg == again.svg
    assert found.description in first.inline
