"""Measures of detection: two conventions of FPR95 against loops and other people's code, means over sets, gradients."""

import numpy as np
import pytest
import torch

from tests.trainables.test_greg import detection_data
from trainables import detection, metrics
from trainables.protocol import Diverged


def cases():
    rng = np.random.default_rng(0)
    yield rng.normal(1, 1, 300), rng.normal(0, 1, 200)
    yield rng.integers(0, 6, 150) / 5 + 0.2, rng.integers(0, 6, 90) / 5
    yield rng.normal(0, 1, 7), rng.normal(0, 1, 5)
    yield np.full(40, 0.5), np.full(30, 0.5)


CASES = list(cases())


def closest_recall(known, unknown):
    """Every threshold that is a score, from the lowest at which all known ones pass upwards: the first closest."""
    best = None
    for threshold in sorted({*known, *unknown}):
        if threshold > known.min():
            recall = np.mean(known >= threshold)
        elif threshold == known.min():
            recall = 1.0
        else:
            continue
        if best is None or abs(recall - 0.95) < best[0] - 1e-15:
            best = (abs(recall - 0.95), float(np.mean(unknown >= threshold)))
    return best[1]


@pytest.mark.parametrize("case", range(len(CASES)))
def test_fpr95_with_known_ones_positive_is_the_loops(case):
    known, unknown = CASES[case]
    assert metrics.fpr95_id_positive(known, unknown) == pytest.approx(closest_recall(known, unknown))


@pytest.mark.parametrize("case", range(len(CASES)))
def test_fpr95_with_unknown_ones_positive_is_pytorch_oods(case):
    theirs = pytest.importorskip("pytorch_ood.metrics", reason="pytorch-ood is an optional extra")
    known, unknown = CASES[case]
    measured = theirs.FPRAtTPR()
    labels = np.concatenate([np.zeros(len(known)), np.full(len(unknown), -1)])
    measured.update(torch.tensor(-np.concatenate([known, unknown])), torch.tensor(labels))
    assert metrics.fpr95_ood_positive(known, unknown) == pytest.approx(measured.compute()["FPR95TPR"], abs=1e-6)


def test_the_two_conventions_are_two_numbers():
    rng = np.random.default_rng(2)
    known, unknown = rng.normal(2, 2, 400), rng.normal(0, 1, 300)  # the wider one costs more to keep whole
    assert metrics.fpr95_id_positive(known, unknown) > metrics.fpr95_ood_positive(known, unknown) + 0.1
    apart = np.arange(10.0) + 100
    for measure in (metrics.fpr95_id_positive, metrics.fpr95_ood_positive):
        assert measure(apart, np.arange(10.0)) == 0


def test_of_thresholds_that_keep_95_per_cent_the_lowest_counts_and_none_below_the_lowest_known_score():
    known = np.arange(20.0)
    # 19 / 20 are kept from just above 0 up to 1: at 0.25 all three unknown ones above pass, at 1 one of them.
    assert metrics.fpr95_id_positive(known, np.array([-1.0, 0.25, 0.5, 5.5])) == 3 / 4
    # Two known ones are both kept, or one is, which is farther from 95%: at 0 what lies below is out.
    assert metrics.fpr95_id_positive(known[:2], np.array([-1.0, -0.5, 0.0, 0.5])) == 2 / 4


def test_means_are_over_sets_and_apart_for_near_and_far_ones():
    rng = np.random.default_rng(1)
    scores = {"test": rng.normal(2, 1, 50)}
    scores |= {name: rng.normal(shift, 1, 30) for name, shift in (("near_a", 1), ("far_a", 0), ("far_b", -2))}
    found = detection.measure(scores)
    each = {name: metrics.auroc(scores["test"], scores[name]) for name in ("near_a", "far_a", "far_b")}
    assert found["auroc"] == pytest.approx(np.mean(list(each.values())))
    assert found["auroc_near"] == found["auroc_near_a"] == each["near_a"]
    assert found["auroc_far"] == pytest.approx((each["far_a"] + each["far_b"]) / 2)
    without = detection.measure({name: values for name, values in scores.items() if name != "near_a"})
    assert "auroc_near" not in without
    assert without["auroc"] == without["auroc_far"]


def test_scores_that_are_not_finite_are_refused():
    with pytest.raises(Diverged, match="scores of the far_a images are not finite"):
        detection.arrays({"far_a": torch.tensor([0.0, torch.nan])})


def test_gradient_norms_are_each_images_own_and_means_weigh_sets_alike():
    data = detection_data()
    weight = torch.randn(3, 16, 16, generator=torch.Generator().manual_seed(0))

    def score(x_BCHW):
        return (x_BCHW * weight).sum((1, 2, 3)).square() / 2

    x = next(detection.batches(data.test, data, "cpu"))
    slopes = (x * weight).sum((1, 2, 3)).abs() * weight.norm()
    torch.testing.assert_close(detection.gradient_norms(score, x), slopes, rtol=1e-4, atol=1e-3)
    groups = {"id": [data.test], "ood": [data.others["near_digits"], data.others["far_noise"]]}
    found = detection.mean_gradient_norms(score, groups, data, "cpu", 4)
    parts = [next(detection.batches(images, data, "cpu"))[:2] for images in groups["ood"]]
    assert found["grad_norm_id"] == pytest.approx(float(slopes[:4].double().mean()), rel=1e-4)
    assert found["grad_norm_ood"] == pytest.approx(float(detection.gradient_norms(score, torch.cat(parts)).mean()))


def test_every_protocols_sets_have_names_for_their_metrics():
    from trainables import outside
    from trainables.data_protocols import PROTOCOLS

    sets = {name for each in PROTOCOLS.values() for name in each.outside if outside.role(name) in detection.METERED}
    assert sets == set(metrics.OUTSIDE_SETS)
