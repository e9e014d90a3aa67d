"""What a network shows: thinned curves lie on the whole ones, counts are counts, and only what a head has is shown."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.trainables.toys import open_set
from trainables import margin_exhibits, margin_scores, margins, oscr
from trainables.margins import named


def outputs(random: np.random.Generator, sizes: dict[str, int], classes: int = 5) -> dict[str, dict[str, torch.Tensor]]:
    """Random logits and angles of evaluated sets."""
    labels = {"test": lambda n: random.integers(0, classes, n), "negative": lambda n: np.full(n, -1)}
    labels["unknown"] = lambda n: np.full(n, -2)
    return {
        name: {
            "logits": torch.from_numpy(random.normal(size=(n, classes)).astype(np.float32) * 4),
            "norms": torch.from_numpy(random.uniform(1, 9, n).astype(np.float32)),
            "angles": torch.from_numpy(random.uniform(0, math.pi, (n, classes)).astype(np.float32)),
            "labels": torch.from_numpy(labels[name](n)),
            "features": torch.from_numpy(random.normal(size=(n, 2)).astype(np.float32)),
        }
        for name, n in sizes.items()
    }


@pytest.mark.parametrize("score", ["softmax", "logit", "norm"])
def test_a_thinned_curve_keeps_the_ends_and_lies_on_the_whole_one(score):
    held = outputs(np.random.default_rng(0), {"test": 900, "negative": 40, "unknown": 3000})
    found = margin_scores.exhibits(held, score)
    for group in ("negative", "unknown"):
        both = {name: held[name] for name in ("test", group)}
        scores = np.concatenate([margin_scores.scores(sample, score)[0].numpy() for sample in both.values()])
        whole = oscr.curve(scores, np.concatenate([sample["labels"].numpy() for sample in both.values()]), group)
        fpr, ccr = found[f"oscr_{group}_fpr"], found[f"oscr_{group}_ccr"]
        assert len(fpr) == len(ccr) <= margin_exhibits.POINTS + 2
        assert fpr.dtype == ccr.dtype == np.float32
        assert (fpr[0], fpr[-1]) == (1, np.float32(whole.fpr_T[-1]))
        points = {(np.float32(x), np.float32(y)) for x, y in zip(whole.fpr_T, whole.ccr_T, strict=True)}
        assert set(zip(fpr, ccr, strict=True)) <= points
        for rate in (0.01, 0.1, 0.5):  # read off the picture, a rate is what the metrics say, to the picture's width
            shown = ccr[np.argmax(fpr <= rate)] if (fpr <= rate).any() else math.nan
            assert shown == pytest.approx(oscr.ccr_at(whole, rate, "at_most"), abs=0.03, nan_ok=True)


@given(st.lists(st.floats(1e-6, 1), min_size=1, max_size=400, unique=True), st.integers(2, 50))
@settings(max_examples=50, deadline=None)
def test_thinning_falls_and_is_no_longer_than_asked(rates, points):
    fpr = np.sort(np.array(rates))[::-1]
    kept = margin_exhibits.thinned(fpr, points)
    assert kept[0] == 0
    assert kept[-1] == len(fpr) - 1
    assert len(kept) <= points + 2
    assert (np.diff(fpr[kept]) < 0).all()


def test_every_angle_is_counted_once_known_ones_to_their_own_centre():
    held = outputs(np.random.default_rng(1), {"test": 70, "unknown": 33})
    found = margin_scores.exhibits(held, "softmax")
    own = held["test"]["angles"].numpy()[np.arange(70), held["test"]["labels"].numpy()]
    nearest = held["unknown"]["angles"].numpy().min(axis=1)
    edges = found["angles_edges"]
    for name, angles in (("known", own), ("unknown", nearest)):
        slow = [int(((edges[i] <= angles) & (angles < edges[i + 1])).sum()) for i in range(99)]
        assert found[f"angles_{name}"].tolist() == slow
        assert sum(slow) == len(angles)
    assert not [name for name in found if "negative" in name]


@pytest.mark.parametrize(
    ("loss", "shown"),
    [("softmax", set()), ("sm_softmax", set()), ("sfn_norm_raw", set()), ("norm_eos", {"test"})]
    + [(loss, {"test", "training"}) for loss in ("cosface", "arcface", "sphereface", "cos_eos_sfn")],
)
def test_probability_curves_are_given_for_unit_centres_with_the_margin_the_loss_has(loss, shown):
    config = named(loss)
    held = outputs(np.random.default_rng(2), {"test": 20, "negative": 20, "unknown": 20})
    found = margins.exhibits(config, held, torch.randn(7, 5), 13.0)
    assert {name for name in ("test", "training") if f"probability_{name}" in found} == shown
    assert not [name for name in found if name.startswith("features")]
    if "training" in shown:
        room = found["probability_theta"] + config.margin <= math.pi  # beyond, the thesis's angular curve turns
        assert (found["probability_training"] <= found["probability_test"] + 1e-12)[room].all()
        # The curve is the head's own softmax: at angle theta to its centre and a right angle to all others.
        theta = found["probability_theta"][10]
        phi = torch.zeros(1, 5, dtype=torch.float64)
        phi[0, 0], phi[0, 4] = math.cos(theta), math.sin(theta)
        centres = torch.eye(5, dtype=torch.float64)[:, :4]
        z = margins.cosine_logits(
            phi * 13, centres, head=config.head, m=config.margin, s=13.0, labels_B=torch.tensor([0])
        )
        four = oscr.probability_curve(theta, 13.0, 4, config.margin, config.head)
        assert float(torch.softmax(z, 1)[0, 0]) == pytest.approx(float(four), rel=1e-9)


def test_a_factor_of_1_is_no_margin_and_a_larger_one_falls_without_a_step():
    theta = np.linspace(0, math.pi, 2001)
    np.testing.assert_allclose(
        oscr.probability_curve(theta[:-1], 9, 10, 1.0, "sphere"), oscr.probability_curve(theta[:-1], 9, 10)
    )
    falling = oscr.probability_curve(theta, 9, 10, 1.7, "sphere")
    assert (np.diff(falling) <= 1e-12).all()
    assert np.abs(np.diff(falling)).max() < 0.02


def test_features_of_two_dimensions_are_thinned_with_their_labels():
    held = outputs(np.random.default_rng(3), {"test": 2500, "negative": 10, "unknown": 900})
    centres = torch.randn(2, 5)
    found = margin_exhibits.features(held, centres)
    assert found["features_known"].shape == (1000, 2)
    assert [len(found[f"features_{name}"]) for name in ("negative", "unknown")] == [10, 500]
    whole = zip(held["test"]["features"].tolist(), held["test"]["labels"].tolist(), strict=True)
    rows = {tuple(phi): label for phi, label in whole}
    pairs = zip(found["features_known"].tolist(), found["features_known_labels"], strict=True)
    assert all(rows[tuple(phi)] == label for phi, label in pairs)
    np.testing.assert_array_equal(found["centres"], centres.numpy())


def test_training_shows_what_it_evaluates_and_small_enough():
    config = named("softmax", width=4, epochs=2, batch=8, features=2)
    first, last = margins.train(config, open_set(), seed=0, device="cpu")
    assert first.exhibits is None
    found = last.exhibits()
    assert {"oscr_unknown_fpr", "angles_known", "features_known", "features_unknown", "centres"} <= found.keys()
    state = last.state()
    np.testing.assert_array_equal(found["centres"], state["weights"]["centres"].numpy())
    rescored = margin_scores.exhibits(state["outputs"], "softmax")
    for name, values in rescored.items():
        np.testing.assert_array_equal(found[name], values)
    wide = named("softmax", width=4, epochs=1, batch=8, features=3)
    (only,) = margins.train(wide, open_set(), seed=0, device="cpu")
    assert "features" not in only.state()["outputs"]["test"]
    assert sum(values.nbytes for values in only.exhibits().values()) < 20_000
