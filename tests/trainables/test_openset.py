"""Algorithm 1 against golden scores, a slow loop and its limits; the evaluation against scikit-learn on made-up data.

Golden: golden/gradmix/g4_osr_scores.npz, from scikit-learn's NearestNeighbors and roc_auc_score on fixed features.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import nn

from trainables import metrics, openset
from trainables.data_protocols import DataSpec
from trainables.datasets import Data, Images
from trainables.protocol import Diverged

GOLDEN = np.load(Path(__file__).parents[1] / "golden/gradmix/g4_osr_scores.npz")


def golden_scores(queries: str, k: int) -> torch.Tensor:
    names = (queries, "Xtr", "ytr")
    return openset.class_scores(*(torch.from_numpy(GOLDEN[name]) for name in names), classes=4, k=k)


@pytest.mark.parametrize("k", [1, 3, 10])
def test_golden_scores_predictions_and_areas(k):
    known, unknown = golden_scores("Xk", k), golden_scores("Xu", k)
    np.testing.assert_allclose(known.numpy(), GOLDEN[f"S_known_k{k}"], rtol=1e-9)
    np.testing.assert_allclose(unknown.numpy(), GOLDEN[f"S_unknown_k{k}"], rtol=1e-9, atol=1e-14)
    predicted = known.argmax(dim=1).numpy()
    np.testing.assert_array_equal(predicted, GOLDEN[f"pred_known_k{k}"])
    assert (predicted == GOLDEN["yk"]).mean() == pytest.approx(float(GOLDEN[f"acc_k{k}"]), rel=1e-9)
    for score in ("raw", "normalised"):
        area = metrics.auroc(*(openset.known_score(each, score).numpy() for each in (known, unknown)))
        assert area == pytest.approx(float(GOLDEN[f"auroc_{score}_k{k}"]), rel=1e-9)


def test_golden_scores_when_a_class_has_fewer_than_k():
    np.testing.assert_allclose(golden_scores("Xk", 20).numpy(), GOLDEN["S_known_k20_min"], rtol=1e-9)


def made_up(seed: int = 0, queries: int = 7, exemplars: int = 31, classes: int = 3) -> tuple[torch.Tensor, ...]:
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(exemplars) % classes)
    arrays = rng.normal(size=(queries, 5)), rng.normal(size=(exemplars, 5)), labels
    return tuple(torch.from_numpy(array) for array in arrays)


@pytest.mark.parametrize("k", [1, 4, 100])
def test_class_scores_are_the_sums_they_say(k):
    queries, exemplars, labels = made_up()
    expected = np.zeros((7, 3))
    for row, x in enumerate(queries.numpy()):
        for label in range(3):
            cosines = [
                x @ e / np.linalg.norm(x) / np.linalg.norm(e) for e in exemplars.numpy()[labels.numpy() == label]
            ]
            expected[row, label] = sum(sorted(cosines, reverse=True)[:k])
    np.testing.assert_allclose(openset.class_scores(queries, exemplars, labels, 3, k), expected, rtol=1e-12, atol=1e-14)


def test_with_every_neighbour_the_score_is_the_sum_over_the_class():
    queries, exemplars, labels = made_up()
    units = [nn.functional.normalize(each, dim=1) for each in (queries, exemplars)]
    whole = units[0] @ units[1].T @ nn.functional.one_hot(labels).double()
    torch.testing.assert_close(openset.class_scores(queries, exemplars, labels, 3, 1000), whole, rtol=1e-12, atol=1e-14)


def test_scores_do_not_depend_on_order_length_or_memory(monkeypatch):
    queries, exemplars, labels = made_up()
    expected = openset.class_scores(queries, exemplars, labels, 3, 4)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    moved = openset.class_scores(5 * queries, 0.1 * exemplars[order], labels[order], 3, 4)
    torch.testing.assert_close(moved, expected, rtol=1e-12, atol=1e-14)
    monkeypatch.setattr(openset, "SIMILARITIES_AT_ONCE", 40)
    torch.testing.assert_close(openset.class_scores(queries, exemplars, labels, 3, 4), expected)


def test_class_scores_refuse_what_has_no_answer():
    queries, exemplars, labels = made_up()
    with pytest.raises(ValueError, match="class 3 has no exemplars"):
        openset.class_scores(queries, exemplars, labels, 4, 1)
    with pytest.raises(ValueError, match="k must be at least 1"):
        openset.class_scores(queries, exemplars, labels, 3, 0)


def toy(unknown: bool = True) -> Data:
    """Three classes of 6 x 6 pictures, each brighter in a third of its columns; unknown ones are grey noise."""
    rng = np.random.default_rng(1)

    def images(count: int, known: bool = True) -> Images:
        labels = np.arange(count) % 3
        pixels = rng.integers(40, 160, (count, 6, 6, 1))
        if known:
            for row, label in enumerate(labels):
                pixels[row, :, 2 * label : 2 * label + 2] += 25
        return Images(pixels.astype(np.uint8), labels if known else np.full(count, -2))

    others = {"unknown": images(50, known=False)} if unknown else {}
    train, test = images(90), images(60)
    return Data(DataSpec(protocol="toy"), ("a", "b", "c"), train, test, others, mean=(0.4,), std=(0.2,))


class Pixels(nn.Module):
    """An embedding that is the picture itself, and every second pixel of it; in train mode useless."""

    def forward(self, x_BCHW: torch.Tensor) -> dict[str, torch.Tensor]:
        flat = x_BCHW.flatten(1) * (0.0 if self.training else 1.0)
        return {"head": flat, "backbone": flat[:, ::2]}


def normalised(images: Images) -> np.ndarray:
    return ((images.pixels / 255 - 0.4) / 0.2).reshape(len(images.labels), -1)


def test_evaluate_reports_what_its_parts_say():
    data = toy()
    with openset.evaluation_mode(Pixels()) as model:
        found = openset.evaluate(model, data, k=5, intrinsic_dimension=True, linear_probe=True, batch=17)
    train, test, unknown = (
        torch.from_numpy(normalised(each)) for each in (data.train, data.test, data.others["unknown"])
    )
    labels = torch.from_numpy(data.train.labels)
    known, other = (openset.class_scores(each, train, labels, 3, 5) for each in (test, unknown))
    assert found["accuracy"] == (known.argmax(dim=1).numpy() == data.test.labels).mean()
    assert found["auroc"] == pytest.approx(metrics.auroc(known.amax(dim=1), other.amax(dim=1)), abs=1e-3)
    dimensions = [metrics.intrinsic_dimension(train[labels == label]) for label in range(3)]
    assert found["intrinsic_dimension"] == pytest.approx(np.mean(dimensions), rel=1e-3)
    linear = [
        openset.linear_accuracy(train[:, ::step], labels, test[:, ::step], torch.from_numpy(data.test.labels))
        for step in (1, 2)
    ]
    assert found["linear_accuracy"] == pytest.approx(linear[1], abs=0.02)
    assert linear[0] - linear[1] > 0.1, "the head's features would do better"
    assert 0.6 < found["auroc"] < 1.0


def test_evaluate_leaves_out_what_is_not_defined_or_not_asked_for():
    with openset.evaluation_mode(Pixels()) as model:
        assert set(openset.evaluate(model, toy(unknown=False))) == {"accuracy"}


def test_evaluate_reports_features_that_are_not_finite_as_divergence():
    with pytest.raises(Diverged, match="backbone features"):
        openset.evaluate(lambda x: {"head": x.flatten(1), "backbone": x.flatten(1) / 0}, toy())


def test_evaluation_mode_gives_every_part_its_own_mode_back():
    model = nn.Sequential(nn.BatchNorm2d(1), nn.Dropout())
    model[0].eval()
    with openset.evaluation_mode(model):
        assert not model.training
        assert not model[1].training
    assert [part.training for part in model.modules()] == [True, False, True]


def test_the_linear_probe_is_logistic_regression():
    rng = np.random.default_rng(2)
    labels, truth = np.arange(120) % 4, np.arange(400) % 4
    centres = rng.normal(size=(4, 6))
    train, test = (centres[each] + rng.normal(size=(len(each), 6)) for each in (labels, truth))
    scaler = StandardScaler().fit(train)
    # Scikit-learn sums the losses and halves the penalty: C = 1 / (2 n penalty).
    reference = LogisticRegression(C=1 / (2 * 120 * 1e-4), max_iter=5000, tol=1e-10)
    expected = reference.fit(scaler.transform(train), labels).score(scaler.transform(test), truth)
    found = openset.linear_accuracy(*(torch.from_numpy(each) for each in (train, labels, test, truth)))
    assert found == pytest.approx(expected, abs=0.01)
    assert 0.5 < found < 0.95
