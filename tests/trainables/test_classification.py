"""Evaluation of classifiers: golden calibration errors, accuracies by hand, FGSM on a linear model."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import top_k_accuracy_score

from tests.trainables.toys import open_set
from trainables import classification

GOLDEN = Path(__file__).parents[1] / "golden" / "mixing"


@pytest.mark.parametrize("case", [0, 1])
@pytest.mark.parametrize("bins", [10, 15])
def test_calibration_error_is_the_golden_one(case, bins):
    with np.load(GOLDEN / "E1_ece.npz") as g:
        logits, labels = torch.from_numpy(g[f"logits_{case}"]), torch.from_numpy(g[f"labels_{case}"])
        wanted = float(g[f"standard_ece{bins}_{case}"])
    assert classification.calibration_error(logits, labels, bins) == pytest.approx(wanted, abs=1e-6)


def test_full_confidence_counts():
    logits, labels = torch.tensor([[1000.0, 0.0], [1000.0, 0.0]]), torch.tensor([0, 1])
    assert classification.calibration_error(logits, labels, 15) == pytest.approx(0.5)


def test_top_k_is_scikit_learns():
    random = torch.Generator().manual_seed(0)
    logits, labels = torch.rand(200, 10, generator=random), torch.randint(10, (200,), generator=random)
    for k in (1, 5):
        wanted = top_k_accuracy_score(labels.numpy(), logits.numpy(), k=k, labels=range(10))
        assert classification.top_k(logits, labels, k) == pytest.approx(wanted)
    assert classification.top_k(logits[:, :3], labels % 3, 5) == 1.0


def test_fgsm_on_a_linear_model_is_the_formula():
    random = torch.Generator().manual_seed(0)
    weight, x = torch.randn(5, 12, generator=random), torch.rand(6, 3, 2, 2, generator=random)
    labels, mean, std = torch.arange(6) % 5, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
    m, s = torch.tensor(mean).view(1, 3, 1, 1), torch.tensor(std).view(1, 3, 1, 1)
    logits = ((x - m) / s).flatten(1) @ weight.T
    by_logit = logits.softmax(1) - F.one_hot(labels, 5)
    gradient = (by_logit @ weight).view_as(x) / s
    wanted = (x + 8 / 255 * gradient.sign()).clamp(0, 1)
    found = classification.fgsm(lambda images: images.flatten(1) @ weight.T, x, labels, mean, std)
    torch.testing.assert_close(found, wanted)


def test_evaluation_of_a_known_answer_in_batches_of_any_size():
    data = open_set()
    labels = torch.from_numpy(data.test.labels)
    seen = iter(range(0, 100, 5))

    def network(x):
        start = next(seen)
        return 10.0 * F.one_hot((labels[start : start + len(x)] + (torch.arange(len(x)) == 0)) % 3, 3).float()

    found = classification.evaluate(network, data, data.mean, data.std, batch=5)
    assert found["accuracy"] == pytest.approx(9 / 12)
    assert found["accuracy_top5"] == 1.0
    sure = float(torch.tensor([10.0, 0, 0]).double().softmax(0)[0])
    assert found["ece_15"] == found["ece_10"] == pytest.approx(sure - 0.75)
    assert found["nll"] == pytest.approx(-np.log(sure) + 3 / 12 * 10)


def test_fgsm_error_is_that_of_moved_images():
    data = open_set()

    def network(x):
        quarter = x.mean(1)
        half = quarter.shape[-1] // 2
        places = [quarter[:, :half, :half], quarter[:, :half, half:], quarter[:, half:, :half]]
        return 50 * torch.stack([place.mean((1, 2)) for place in places], 1)

    assert classification.evaluate(network, data, (0.0,) * 3, (1.0,) * 3)["accuracy"] == 1.0
    small = classification.fgsm_error(network, data, (0.0,) * 3, (1.0,) * 3, batch=5)
    assert small == 0.0, "a step of 8/255 does not hide squares of 120/255"


def test_fgsm_error_is_counted_after_the_step():
    """Bright or dark by one threshold: what is bright gets darker by a step, what is dark brighter, within [0, 1]."""
    data = open_set()
    pixels, labels = torch.from_numpy(data.test.pixels).double() / 255, torch.from_numpy(data.test.labels)
    brightness = pixels.mean((1, 2, 3))
    threshold = float(brightness.median()) + 0.01

    def network(x):
        return torch.stack([x.mean((1, 2, 3)), x.new_full((len(x),), threshold), x.new_full((len(x),), -9.0)], 1)

    def error(bright):
        return float((torch.where(bright > threshold, 0, 1) != labels).double().mean())

    step = torch.where(labels == 0, -8 / 255, 8 / 255).view(-1, 1, 1, 1)
    wanted = error((pixels + step).clamp(0, 1).mean((1, 2, 3)))
    assert wanted > error(brightness)
    found = classification.fgsm_error(network, data, (0.0,) * 3, (1.0,) * 3, batch=5)
    assert found == pytest.approx(wanted)
