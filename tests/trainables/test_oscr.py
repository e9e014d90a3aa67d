"""Open-set classification rates against golden numbers, a slow loop, and what must hold for any scores."""

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax

from trainables import oscr

GOLDEN = Path(__file__).parents[1] / "golden/openset"
CURVES = np.load(GOLDEN / "06_oscr.npz")
SCALES = np.load(GOLDEN / "08_scale_and_curves.npz")
GROUPS = {"neg": "negative", "unk": "unknown"}
PROTOCOLS = {"toy": (13, 10), "P1": (17, 116), "P2": (16, 30), "P3": (18, 151)}


@pytest.mark.parametrize("case", ["a", "b"])
@pytest.mark.parametrize("group", GROUPS)
def test_a_curve_and_its_rates_are_the_golden_ones(case, group):
    found = oscr.curve(CURVES[f"{case}_scores"], CURVES[f"{case}_gt"], GROUPS[group])
    key = f"{case}_{group}"
    assert found.threshold_T.dtype == CURVES[f"{case}_scores"].dtype
    np.testing.assert_array_equal(found.threshold_T, CURVES[f"{key}_tau"])
    np.testing.assert_allclose(found.ccr_T, CURVES[f"{key}_ccr"], rtol=0, atol=1e-12)
    np.testing.assert_allclose(found.fpr_T, CURVES[f"{key}_fpr"], rtol=0, atol=1e-12)
    rates = [oscr.ccr_at(found, fpr) for fpr in CURVES["fpr_queries"]]
    np.testing.assert_allclose(rates, CURVES[f"{key}_ccr_at"], rtol=0, atol=1e-12)


def test_closed_set_accuracy_is_the_golden_one_and_not_the_rate_below_fpr_1():
    scores, labels = CURVES["b_scores"], CURVES["b_gt"]
    assert oscr.accuracy(scores, labels) == CURVES["b_closed_set_acc"] == 0.64
    assert oscr.ccr_at(oscr.curve(scores, labels, "negative"), 1.0) == pytest.approx(0.635)


def slow(scores, labels, outside, tau):
    """Both rates at one threshold, row by row."""
    known = [(row, label) for row, label in zip(scores, labels, strict=True) if label >= 0]
    right = sum(int(np.argmax(row)) == label and row[label] >= tau for row, label in known)
    wrong = [max(row) >= tau for row, label in zip(scores, labels, strict=True) if label in outside]
    return right / len(known), sum(wrong) / len(wrong)


@given(seed=st.integers(0, 10_000), levels=st.integers(2, 50))
@settings(max_examples=60, deadline=None)
def test_any_curve_is_the_slow_loops_and_falls(seed, levels):
    rng = np.random.default_rng(seed)
    labels = np.concatenate([[0, -1, -2], rng.integers(-2, 4, 40)])
    scores = rng.integers(0, levels, (len(labels), 4)) / levels
    for outsiders, kinds in (("negative", {-1}), ("unknown", {-2}), ("pooled", {-1, -2})):
        found = oscr.curve(scores, labels, outsiders)
        for tau, ccr, fpr in zip(found.threshold_T, found.ccr_T, found.fpr_T, strict=True):
            assert (ccr, fpr) == pytest.approx(slow(scores, labels, kinds, tau))
        assert found.ccr_above == pytest.approx(slow(scores, labels, kinds, found.threshold_T[-1] + 1e-9)[0])
        assert found.fpr_T[0] == 1
        assert (np.diff(found.fpr_T) < 0).all()
        assert (np.diff(found.ccr_T) <= 0).all()
        assert oscr.fpr_floor(found) > 0


def test_rules_differ_only_where_the_rate_is_met_exactly():
    found = oscr.curve(CURVES["a_scores"], CURVES["a_gt"], "unknown")
    assert found.fpr_T.tolist() == [1, 0.5, 0.25]
    assert oscr.ccr_at(found, 0.5) == 0.2
    assert oscr.ccr_at(found, 0.5, "at_most") == 0.4
    assert oscr.ccr_at(found, 0.6) == oscr.ccr_at(found, 0.6, "at_most")


def test_below_the_curve_there_is_nothing_unless_it_is_completed():
    found = oscr.curve(CURVES["a_scores"], CURVES["a_gt"], "unknown")
    assert math.isnan(oscr.ccr_at(found, 0.1))
    assert oscr.ccr_at(found, 0.1, completed=True) == 0.2  # of five known rows one is right and above 0.8
    assert oscr.ccr_at(found, 0.26, completed=True) == oscr.ccr_at(found, 0.26)


def test_rates_depend_on_the_order_of_scores_alone():
    scores, labels = CURVES["a_scores"], CURVES["a_gt"]
    one, other = oscr.curve(scores, labels), oscr.curve(np.exp(5 * scores), labels)
    np.testing.assert_array_equal(one.ccr_T, other.ccr_T)
    np.testing.assert_array_equal(one.fpr_T, other.fpr_T)


def test_saturated_scores_bound_the_rate_from_below():
    scores = np.zeros((10, 2), dtype=np.float32)
    scores[:, 0] = [1, 1, 0.5, 0.4, 1, 1, 1, 0.9, 0.8, 0.7]
    labels = np.array([0, 0, 0, 0, -2, -2, -2, -2, -2, -2])
    found = oscr.curve(scores, labels)
    assert oscr.saturated(scores) == 0.5
    assert oscr.fpr_floor(found) == 0.5
    assert oscr.ccr_at(found, 0.1, completed=True) == 0


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 1, -3], "label -3 is not allowed"),
        ([0, 3, -2], "label 3 is not allowed: labels are 0 to 2"),
        ([0, 1, 1], "needs known rows and unknown ones"),
        ([-1, -2, -2], "needs known rows"),
        ([0, 1], r"must be \(N, C\)"),
    ],
)
def test_labels_outside_the_convention_are_refused(labels, message):
    with pytest.raises(ValueError, match=message):
        oscr.curve(np.eye(3), labels)


def test_scores_that_are_no_numbers_are_refused():
    with pytest.raises(ValueError, match="1 of 6 scores"):
        oscr.curve([[0.1, np.nan], [0.2, 0.3], [0, 1]], [0, 1, -2])


def test_confidence_is_the_mean_over_each_group():
    scores = np.array([[0.7, 0.2, 0.1], [0.1, 0.5, 0.4], [0.4, 0.3, 0.3], [1 / 3, 1 / 3, 1 / 3]])
    known, n, other, m = oscr.confidence(scores, [0, 2, -1, -2])
    assert (n, m) == (2, 2)
    assert known == pytest.approx((0.7 + 0.4) / 2)
    assert other == pytest.approx((1 + 1 / 3 - 0.4 + 1) / 2)
    assert oscr.confidence(scores, [0, 2, -1, -2], offset=0)[2] == pytest.approx((0.6 + 2 / 3) / 2)
    assert math.isnan(oscr.confidence(scores, [0, 1, 2, 0])[2])


def test_scale_bounds_are_the_golden_ones_and_give_the_printed_scales():
    for i, p in enumerate(SCALES["p_hat"]):
        for j, classes in enumerate(SCALES["C"]):
            assert oscr.scale_bound(p, classes) == pytest.approx(SCALES["s_cosface_bound"][i, j], rel=1e-9)
            assert oscr.scale_bound(p, classes, "adacos") == pytest.approx(SCALES["s_adacos_bound"][i, j], rel=1e-9)
    for s, classes in PROTOCOLS.values():
        assert oscr.scale(0.999995, classes) == s
    printed = {10: [4, 7, 9, 11, 13], 30: [6, 8, 10, 13, 16], 116: [7, 10, 12, 14, 17], 151: [8, 10, 12, 15, 18]}
    for classes, scales in printed.items():
        assert [oscr.scale(p, classes) for p in (0.9, 0.99, 0.999, 0.9999, 0.999995)] == scales


@pytest.mark.parametrize("classes", [2, 6, 10, 116])
def test_a_simplex_at_the_bound_reaches_the_probability(classes):
    cosines = np.full(classes, -1 / (classes - 1))
    cosines[0] = 1
    for p in (0.9, 0.999995):
        assert softmax(oscr.scale_bound(p, classes) * cosines)[0] == pytest.approx(p, abs=1e-12)


def test_margin_bounds_are_the_printed_ones_and_those_of_a_simplex():
    assert oscr.margin_bound("cos", 10, 2) == pytest.approx(0.19098, abs=5e-6)
    assert oscr.margin_bound("ang", 10, 2) == pytest.approx(0.62832, abs=5e-6)
    corners = np.eye(5) - 1 / 5
    corners /= np.linalg.norm(corners, axis=1, keepdims=True)
    assert oscr.margin_bound("cos", 5, 4) == pytest.approx(1 - corners[0] @ corners[1])
    assert oscr.margin_bound("ang", 5, 4) == pytest.approx(math.acos(corners[0] @ corners[1]))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_probability_curves_are_the_golden_ones(protocol):
    s, classes = PROTOCOLS[protocol]
    for name, m, kind in (("m0", 0, "cos"), ("cos0.35", 0.35, "cos"), ("ang0.5", 0.5, "ang")):
        found = oscr.probability_curve(SCALES["theta"], s, classes, m, kind)
        np.testing.assert_allclose(found, SCALES[f"{protocol}/curve_{name}"], rtol=1e-9, atol=0)


def test_angles_are_grouped_by_role_and_counted_in_99_bins():
    angles = np.array([[0.1, 1.0, 2.0], [1.5, 0.2, 1.1], [1.2, 1.3, 1.4], [0.9, 2.0, 1.0]])
    found = oscr.angle_groups(angles, [0, 1, -1, -2])
    expected = {
        "known_true": [0.1, 0.2],
        "known_smallest": [1.0, 1.1],
        "known_max": [2.0, 1.5],
        "known_avg": [1.5, 1.3],
        "negative_smallest": [1.2],
        "negative_max": [1.4],
        "negative_avg": [1.3],
        "unknown_smallest": [0.9],
        "unknown_max": [2.0],
        "unknown_avg": [1.3],
    }
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values)
    counts, density = oscr.histogram(angles)
    assert len(counts) == 99
    assert counts.sum() == 12
    assert (density * np.diff(oscr.EDGES)).sum() == pytest.approx(1)
    assert counts[int(0.1 // 0.03205)] == 1
