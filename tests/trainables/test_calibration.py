"""Calibration against hand cases, golden numbers, scikit-learn and SciPy."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.optimize import minimize_scalar
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss

from trainables import calibration, classification

GOLDEN = Path(__file__).parents[1] / "golden" / "mixing"


def golden(case: int) -> tuple[torch.Tensor, torch.Tensor, np.lib.npyio.NpzFile]:
    held = np.load(GOLDEN / "E1_ece.npz")
    return torch.from_numpy(held[f"logits_{case}"]), torch.from_numpy(held[f"labels_{case}"]), held


def of_confidence(values, right) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of two classes with these confidences in class 0, and labels that make `right` ones right."""
    p = torch.tensor(values, dtype=torch.float64)
    return torch.stack([p.log(), (1 - p).log()], 1), torch.tensor([0 if each else 1 for each in right])


@pytest.mark.parametrize("case", [0, 1])
def test_the_variant_with_sorted_bins_is_the_released_one(case):
    logits, labels, held = golden(case)
    assert calibration.sorted_error(logits, labels, 10) == pytest.approx(
        float(held[f"official_sorted_ece10_{case}"]), abs=1e-6
    )


def test_bins_of_equal_size_by_hand():
    logits, labels = of_confidence([0.6, 0.7, 0.8, 0.9], [True, False, False, True])
    # Two bins: accuracies 1/2 and 1/2, confidences 0.65 and 0.85.
    assert calibration.adaptive_error(logits, labels, 2) == pytest.approx((2 * 0.15 + 2 * 0.35) / 4)
    # Of three bins the first has two images.
    wanted = abs(1 - 1.3) + abs(0 - 0.8) + abs(1 - 0.9)
    assert calibration.adaptive_error(logits, labels, 3) == pytest.approx(wanted / 4)


def test_one_bin_is_the_difference_of_means():
    logits, labels, _ = golden(0)
    confidence = logits.double().softmax(1).max(1).values.mean()
    wanted = abs(float(confidence) - classification.top_k(logits, labels, 1))
    assert calibration.adaptive_error(logits, labels, 1) == pytest.approx(wanted)


def test_more_bins_than_images_are_bins_of_one():
    logits, labels = of_confidence([0.6, 0.9], [True, False])
    assert calibration.adaptive_error(logits, labels, 15) == pytest.approx((0.4 + 0.9) / 2)


@pytest.mark.parametrize("case", [0, 1])
def test_reliability_is_scikit_learns_curve_and_holds_the_calibration_error(case):
    logits, labels, held = golden(case)
    shown = calibration.reliability(logits, labels, 15)
    confidence, predicted = logits.double().softmax(1).max(1)
    accuracy, mean = calibration_curve((predicted == labels).numpy(), confidence.numpy(), n_bins=15)
    filled = shown["share"] > 0
    assert np.allclose(shown["accuracy"][filled], accuracy)
    assert np.allclose(shown["confidence"][filled], mean)
    assert np.isnan(shown["accuracy"][~filled]).all()
    assert shown["share"].sum() == pytest.approx(1)
    error = np.nansum(shown["share"] * np.abs(shown["accuracy"] - shown["confidence"]))
    assert error == pytest.approx(float(held[f"standard_ece15_{case}"]), abs=1e-6)


def test_the_brier_score_is_scikit_learns_summed_over_classes():
    logits, labels, _ = golden(0)
    p = logits.double().softmax(1).numpy()
    wanted = sum(brier_score_loss((labels == c).numpy(), p[:, c]) for c in range(p.shape[1]))
    assert calibration.brier(logits, labels) == pytest.approx(wanted)
    assert calibration.brier(torch.tensor([[1000.0, 0.0]]), torch.tensor([1])) == pytest.approx(2)


@pytest.mark.parametrize("case", [0, 1])
@pytest.mark.parametrize("scale", [0.3, 1.0, 7.0])
def test_the_temperature_is_the_minimum_that_scipy_finds(case, scale):
    logits, labels, _ = golden(case)
    logits = scale * logits.double()

    def nll(log_temperature: float) -> float:
        return float(F.cross_entropy(logits / np.exp(log_temperature), labels))

    found = minimize_scalar(nll, bounds=(-6, 6), method="bounded", options={"xatol": 1e-9})
    assert calibration.temperature(logits, labels) == pytest.approx(np.exp(found.x), rel=1e-4)


def test_a_network_that_is_always_right_or_always_wrong_has_a_temperature_at_an_end():
    logits = torch.tensor([[2.0, 0.0], [0.0, 2.0]])
    assert calibration.temperature(logits, torch.tensor([0, 1])) == pytest.approx(1e-3)
    assert calibration.temperature(logits, torch.tensor([1, 0])) == pytest.approx(1e3)


def test_each_half_is_scaled_by_what_the_other_calls_for():
    logits, labels, _ = golden(0)
    half = torch.arange(len(labels)) % 2 == 0
    scaled, mean = calibration.cross_fitted(logits, labels, half)
    first, second = (calibration.temperature(logits[part], labels[part]) for part in (half, ~half))
    torch.testing.assert_close(scaled[half], logits[half].double() / second)
    torch.testing.assert_close(scaled[~half], logits[~half].double() / first)
    assert mean == pytest.approx((first + second) / 2)
    assert F.cross_entropy(scaled, labels) < F.cross_entropy(logits.double(), labels)
    assert torch.equal(scaled.argmax(1), logits.argmax(1))
