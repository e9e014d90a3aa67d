"""Metrics against scikit-learn, slow loops written from the definitions, and properties of every ROC curve.

The openness values are golden: computed from the protocols' class counts by their two published formulas.
"""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.linear_model import LinearRegression
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve
from sklearn.neighbors import NearestNeighbors

from trainables import metrics

SCORES = hnp.arrays(np.float64, st.integers(1, 30), elements=st.integers(-5, 5).map(float))
"""Few distinct values, so that ties are common."""


def scores(seed: int, digits: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    known, unknown = rng.normal(1, 1, 400), rng.normal(0, 1.3, 300)
    return (known, unknown) if digits is None else (known.round(digits), unknown.round(digits))


def both(known: np.ndarray, unknown: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.repeat([1, 0], [len(known), len(unknown)]), np.concatenate([known, unknown])


def one_by_one(known: np.ndarray, unknown: np.ndarray) -> list[tuple[int, int]]:
    """ARPL's walk: reject the lowest score; a known one goes before an unknown one of the same score."""
    known, unknown = sorted(known), sorted(unknown)
    points = [(len(known), len(unknown))]
    while known or unknown:
        if known and (not unknown or known[0] <= unknown[0]):
            known.pop(0)
        else:
            unknown.pop(0)
        points.append((len(known), len(unknown)))
    return points


@given(SCORES, SCORES)
def test_auroc_counts_pairs_with_ties_as_one_half(known, unknown):
    won = (known[:, None] > unknown).mean() + (known[:, None] == unknown).mean() / 2
    assert metrics.auroc(known, unknown) == pytest.approx(won, abs=1e-12)


@pytest.mark.parametrize("digits", [None, 1, 0])
def test_ranking_metrics_agree_with_scikit_learn(digits):
    known, unknown = scores(0, digits)
    truth, score = both(known, unknown)
    assert metrics.auroc(known, unknown) == pytest.approx(roc_auc_score(truth, score), abs=1e-12)
    assert metrics.aupr_in(known, unknown) == pytest.approx(average_precision_score(truth, score), abs=1e-12)
    assert metrics.aupr_out(known, unknown) == pytest.approx(average_precision_score(1 - truth, -score), abs=1e-12)


@pytest.mark.parametrize("digits", [None, 1])
def test_rates_agree_with_scikit_learns_curve(digits):
    known, unknown = scores(1, digits)
    fpr, tpr, _ = roc_curve(*both(known, unknown), drop_intermediate=False)
    assert metrics.tnr_at_tpr95(known, unknown) == pytest.approx(1 - fpr[np.argmax(tpr >= 0.95)], abs=1e-12)
    assert metrics.detection_accuracy(known, unknown) == pytest.approx(((tpr + 1 - fpr) / 2).max(), abs=1e-12)


@given(SCORES, SCORES)
@settings(deadline=None)
def test_the_arpl_variants_follow_its_walk(known, unknown):
    points = one_by_one(known, unknown)
    n, m = points[0]
    nearest = min(points, key=lambda point: abs(point[0] / n - 0.95))
    assert metrics.tnr_at_tpr95(known, unknown, "arpl") == pytest.approx(1 - nearest[1] / m, abs=1e-12)
    inside = [(1.0, 0.5), *((tp / n, tp / (tp + fp)) for tp, fp in points if tp + fp), (0.0, 0.0)]
    outside = [(0.0, 0.0), *((1 - fp / m, (m - fp) / (n + m - tp - fp)) for tp, fp in points[1:]), (1.0, 0.5)]
    assert metrics.aupr_in(known, unknown, "arpl") == pytest.approx(-trapezoid(inside), abs=1e-12)
    assert metrics.aupr_out(known, unknown, "arpl") == pytest.approx(trapezoid(outside), abs=1e-12)


def trapezoid(points: list[tuple[float, float]]) -> float:
    pairs = itertools.pairwise(points)
    return sum((right[0] - left[0]) * (left[1] + right[1]) / 2 for left, right in pairs)


@given(SCORES, SCORES)
def test_no_roc_curve_beats_its_own_area(known, unknown):
    area = metrics.auroc(known, unknown)
    assert metrics.detection_accuracy(known, unknown) >= 0.5
    for threshold in np.concatenate([known, unknown]):
        assert area >= (known >= threshold).mean() * (unknown < threshold).mean() - 1e-12


@given(SCORES, SCORES)
def test_swapping_the_classes_and_negating_mirrors(known, unknown):
    assert metrics.auroc(-unknown, -known) == pytest.approx(metrics.auroc(known, unknown), abs=1e-12)
    assert metrics.aupr_out(-unknown, -known) == pytest.approx(metrics.aupr_in(known, unknown), abs=1e-12)


@pytest.mark.parametrize("metric", [metrics.auroc, metrics.tnr_at_tpr95, metrics.detection_accuracy, metrics.aupr_in])
def test_scores_that_are_missing_or_no_numbers_are_refused(metric):
    with pytest.raises(ValueError, match="no unknown scores"):
        metric([1.0], [])
    with pytest.raises(ValueError, match="1 of 2 known scores are not numbers"):
        metric([1.0, float("nan")], [0.0])


def test_the_released_ood_routine_is_impossible_on_honest_scores():
    known, unknown = scores(2)
    inside, outside = known + 3, unknown + 3
    dtacc, tnr = metrics.legacy_gradmix_ood(inside, outside)
    assert (dtacc, tnr) == pytest.approx(released(inside, outside), abs=1e-12)
    assert dtacc > metrics.detection_accuracy(inside, outside) + 0.1
    assert metrics.auroc(inside, outside) < 2 * dtacc - 1, "an AUROC below TPR * TNR of a curve with that DTACC"


def released(inside: np.ndarray, outside: np.ndarray) -> tuple[float, float]:
    """The faulty arithmetic of section 4.3's routine, one threshold after the other."""
    best, nearest, tnr, tn, fp = 0.0, 1000.0, 0.0, 0, 0
    low, reach = min(inside), 2 * np.mean(outside)
    for threshold in np.linspace(low - reach, low + reach, num=500):
        tp, fn = sum(outside <= threshold), sum(outside > threshold)
        tn, fp = tn + sum(inside >= threshold), fp + sum(inside < threshold)
        best = max(best, (tp + tn) / (tp + tn + fn + fp))
        if abs(tp / (fp + fn) - 0.95) < nearest:
            nearest, tnr = abs(tp / (fp + fn) - 0.95), tn / (tp + tn)
    return best, tnr


@pytest.mark.parametrize(
    ("known", "total", "paper", "scheirer"),
    [(6, 10, 0.2254, 0.1340), (4, 14, 0.4655, 0.3333), (4, 54, 0.7278, 0.6286), (20, 200, 0.6838, 0.5736)],
)
def test_openness_of_the_standard_protocols(known, total, paper, scheirer):
    assert metrics.openness(known, total) == pytest.approx(paper, abs=5e-5)
    assert metrics.openness(known, total, "scheirer") == pytest.approx(scheirer, abs=5e-5)


@pytest.mark.parametrize("fraction", [0.5, 0.9, 1.0])
def test_twonn_is_the_regression_it_says(fraction):
    points = np.random.default_rng(3).normal(size=(300, 4))
    distances = NearestNeighbors(n_neighbors=3).fit(points).kneighbors(points)[0]
    mu = np.sort(distances[:, 2] / distances[:, 1])
    used = min(int(300 * fraction), 298)
    empirical = np.arange(1, 301) / 300
    line = LinearRegression(fit_intercept=False).fit(np.log(mu[:used, None]), -np.log(1 - empirical[:used]))
    assert metrics.intrinsic_dimension(points, fraction) == pytest.approx(line.coef_[0], rel=1e-9)


@pytest.mark.parametrize("dimension", [1, 2, 5])
def test_twonn_finds_the_dimension_of_a_flat_cube_in_any_space(dimension):
    rng = np.random.default_rng(4)
    points = rng.uniform(size=(2000, dimension)) @ np.linalg.qr(rng.normal(size=(20, 20)))[0][:dimension]
    assert metrics.intrinsic_dimension(points) == pytest.approx(dimension, rel=0.1)


def test_twonn_does_not_see_scale_place_or_rotation():
    rng = np.random.default_rng(5)
    points = rng.normal(size=(1500, 6))
    turned = 1e-3 * points @ np.linalg.qr(rng.normal(size=(6, 6)))[0] + 7
    assert metrics.intrinsic_dimension(turned) == pytest.approx(metrics.intrinsic_dimension(points), rel=1e-6)


def test_twonn_leaves_duplicates_out():
    points = np.random.default_rng(6).normal(size=(200, 3))
    far = points + np.array([1000.0, 0.0, 0.0])
    pairs = np.concatenate([far, far[:50]])
    alone = metrics.intrinsic_dimension(far)
    assert metrics.intrinsic_dimension(pairs) == pytest.approx(alone, rel=0.3)
    assert np.isnan(metrics.intrinsic_dimension(np.repeat(points[:1], 10, axis=0)))
    assert np.isnan(metrics.intrinsic_dimension(points[:2]))


def test_twonn_refuses_points_that_are_not_finite():
    with pytest.raises(ValueError, match="not finite"):
        metrics.intrinsic_dimension([[0.0, np.inf], [1.0, 2.0], [3.0, 4.0]])
