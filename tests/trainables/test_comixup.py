"""Co-Mixup: its objective against loops, one cut against all labellings, and what must hold of what it shows."""

import importlib.util
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch

from trainables import comixup
from trainables.comixup import SETTINGS

TINY = replace(SETTINGS, grid=2, part=3)
needs_cuts = pytest.mark.skipif(importlib.util.find_spec("maxflow") is None, reason="needs the extra 'graphcut'")


def slow_objective(z, cost, settings):
    """Line by line; every neighbour pair once, every ordered pair of outputs."""
    m, n = len(z), settings.grid
    total = 0.0
    for i, r, c in product(range(m), range(n), range(n)):
        total += float(cost[r, c] @ z[i, r, c])
        for down, right in ((1, 0), (0, 1)):
            if r + down < n and c + right < n:
                apart = z[i, r, c] - z[i, r + down, c + right]
                total += settings.smoothness / n**2 / 2 * float(apart @ apart)
    counts = z.sum((1, 2))
    for i, j in product(range(m), range(m)):
        if i != j:
            total += settings.diversity / n**2 * float(counts[i] @ counts[j])
    return total


def test_the_objective_is_the_equation():
    random = np.random.default_rng(0)
    z = np.eye(3)[random.integers(3, size=(3, 2, 2))]
    z[0, 0, 0] = [0.5, 0.5, 0]
    cost = random.standard_normal((2, 2, 3))
    assert comixup.objective(z, cost, TINY) == pytest.approx(slow_objective(z, cost, TINY))


@needs_cuts
@pytest.mark.parametrize("seed", range(6))
def test_a_cut_finds_what_is_best_for_one_output(seed):
    """Against all labellings: by single images, then with the mean of the two that are shown."""
    random = np.random.default_rng(seed)
    cost = 0.1 * random.standard_normal((2, 2, 3))
    plain = TINY.smoothness / 4

    def best(kinds, extra, penalty):
        found = []
        for labels in product(range(len(kinds)), repeat=4):
            value = sum(float(cost[p] @ kinds[label]) - extra[label] for p, label in zip(CELLS, labels, strict=True))
            value += sum(plain * penalty[labels[p]][labels[q]] for p, q in ((0, 1), (2, 3), (0, 2), (1, 3)))
            found.append((value, labels))
        return sorted(found)

    singles = np.eye(3)
    z = comixup.cut(cost, singles[[[0, 1], [2, 0]]], False, TINY)
    ranked = best(singles, [0, 0, 0], (1 - singles).tolist())
    assert [labels for _, labels in ranked].index(tuple(z.argmax(2).flat)) < len(ranked) // 20

    two = singles[[[0, 1], [1, 0]]]
    kinds = [*singles, np.array([0.5, 0.5, 0])]
    penalty = [[0, 1, 1, 0.25], [1, 0, 1, 0.25], [1, 1, 0, 1], [0.25, 0.25, 1, 0]]
    z = comixup.cut(cost, two, True, TINY)
    ranked = best(kinds, [0, 0, 0, SETTINGS.bonus], penalty)
    mine = tuple(next(k for k, kind in enumerate(kinds) if np.array_equal(kind, z[p])) for p in CELLS)
    assert [labels for _, labels in ranked].index(mine) < len(ranked) // 20


CELLS = ((0, 0), (0, 1), (1, 0), (1, 1))


def test_crowding_starts_above_the_threshold():
    found = comixup.crowding(np.array([0.0, 3.3, 3.4]), replace(TINY, threshold=0.83))
    np.testing.assert_allclose(found, [0, 0, 2 * 3.4 / 4])


def test_the_same_images_are_told_apart_and_a_single_one_is_let_be():
    shows = np.array([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 1, 0]], dtype=bool)
    wanted = np.zeros((4, 4))
    wanted[0, 0] = wanted[1, 1] = 1
    assert np.array_equal(comixup.told_apart(shows), wanted)


def test_distances_are_between_the_most_salient_windows():
    phi = torch.zeros(2, 16, 16)
    phi[0, :8, :8] = 1
    phi[1, 5:13, 8:] = 1
    assert comixup.distances(phi, 8).tolist() == [[0, 13], [13, 0]]


def test_similarity_is_nearly_the_identity_and_safe_where_all_peaks_agree():
    apart = np.array([[0.0, 2.0], [2.0, 0.0]])
    np.testing.assert_allclose(comixup.compatible(apart, SETTINGS), [[0.999, 0.001], [0.001, 0.999]])
    np.testing.assert_allclose(comixup.compatible(0 * apart, SETTINGS), 0.999 * np.eye(2))


def blobs(count, side=16):
    """Images whose saliency is a blob each, at different places."""
    random = torch.Generator().manual_seed(0)
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    centre = torch.rand(count, 2, 1, 1, generator=random) * side
    phi = (-((rows - centre[:, 0]) ** 2 + (columns - centre[:, 1]) ** 2) / 12).exp() + 0.01
    return torch.randn(count, 3, side, side, generator=random), phi


@needs_cuts
def test_labels_are_what_is_shown_and_parts_do_not_mix():
    x, phi = blobs(7)
    settings = replace(SETTINGS, part=4)
    random = np.random.default_rng(0)
    mixed, weights = comixup.comixup(x, phi, 2.0, random, settings)
    torch.testing.assert_close(weights.sum(1), torch.ones(7))
    assert bool((weights[:4, 4:] == 0).all())
    assert bool((weights[4:, :4] == 0).all())
    marked = torch.eye(7).view(7, 7, 1, 1).expand(7, 7, 16, 16)  # image i is 1 in channel i
    cells, _ = comixup.comixup(marked, phi, 2.0, np.random.default_rng(0), settings)
    torch.testing.assert_close(cells.mean((2, 3)), weights, atol=1e-6, rtol=0)
    torch.testing.assert_close(mixed, torch.einsum("oihw,ichw->ochw", cells, x))


@needs_cuts
def test_outputs_mix_more_than_one_image_and_use_all_alike():
    x, phi = blobs(20, side=32)
    _, weights = comixup.comixup(x, phi, 2.0, np.random.default_rng(0))
    assert float((weights > 0).sum(1).float().mean()) > 1.5
    assert float(weights.sum(0).max()) < 2.0
    assert float(weights.sum(0).min()) > 0.3


@needs_cuts
def test_every_round_lowers_the_objective_without_a_threshold():
    """With threshold 0, the identity and single images, a round is block descent on the objective."""
    random = np.random.default_rng(1)
    settings = replace(SETTINGS, threshold=0.0, compatibility=0.0, prior=0.0, rounds=1)
    s = random.random((5, 4, 4)) ** 4
    share = s / s.sum((1, 2), keepdims=True)
    z = comixup.labelled(s, np.eye(5), 2.0, np.random.default_rng(3), settings)
    again = np.random.default_rng(3)
    again.dirichlet([2.0] * 5)
    first = np.eye(5)[again.integers(5, size=(5, 4, 4))]
    cost = -share.transpose(1, 2, 0)
    assert comixup.objective(z, cost, settings) < comixup.objective(first, cost, settings)


@needs_cuts
def test_only_single_images_are_shown_after_the_first_round():
    s = np.random.default_rng(1).random((5, 4, 4)) ** 4
    first, last = (
        comixup.labelled(s, np.eye(5), 2.0, np.random.default_rng(3), replace(SETTINGS, rounds=rounds, bonus=0.01))
        for rounds in (1, 4)
    )
    assert set(np.unique(first)) == {0.0, 1.0}
    assert 0.5 in last


@needs_cuts
def test_outputs_are_told_apart_before_the_last_round(monkeypatch):
    """Here by a price on image 0, which nothing shows any more then."""
    asked = []

    def dear(shows_mm):
        asked.append(shows_mm.copy())
        extra_mm = np.zeros(shows_mm.shape)
        extra_mm[:, 0] = 100.0
        return extra_mm

    monkeypatch.setattr(comixup, "told_apart", dear)
    s = np.random.default_rng(1).random((5, 4, 4)) ** 4
    z = comixup.labelled(s, np.eye(5), 2.0, np.random.default_rng(3), replace(SETTINGS, rounds=2))
    assert len(asked) == 1
    assert asked[0][:, 0].any()
    assert not z[..., 0].any()


@needs_cuts
def test_a_strong_prior_decides_alone():
    s = np.random.default_rng(1).random((5, 4, 4))
    settings = replace(SETTINGS, prior=100.0, diversity=0.0)
    z = comixup.labelled(s, np.eye(5), 0.3, np.random.default_rng(3), settings)
    favourite = np.random.default_rng(3).dirichlet([0.3] * 5).argmax()
    assert bool((z.argmax(3) == favourite).all())


@needs_cuts
def test_a_mean_is_a_little_cheaper_than_what_it_is_of():
    shown = np.eye(2)[[[0, 1], [1, 0]]]
    z = comixup.cut(np.zeros((2, 2, 2)), shown, True, replace(TINY, smoothness=0.0))
    assert bool((z == 0.5).all())


def test_parts_are_solved_with_their_own_shares_of_saliency_and_distances(monkeypatch):
    heard = []

    def watched(s_mnn, similar_mm, alpha, random, settings):
        heard.append((s_mnn, similar_mm, alpha))
        return np.eye(len(s_mnn))[:, None, None].repeat(4, 1).repeat(4, 2)

    monkeypatch.setattr(comixup, "labelled", watched)
    x, phi = blobs(5)
    mixed, weights = comixup.comixup(x, phi, 0.7, np.random.default_rng(0), replace(SETTINGS, part=3))
    assert torch.equal(mixed, x)
    assert torch.equal(weights, torch.eye(5))
    cells = phi.double().reshape(5, 4, 4, 4, 4).mean((2, 4))
    for (s_mnn, similar_mm, alpha), part in zip(heard, (slice(0, 3), slice(3, 5)), strict=True):
        np.testing.assert_allclose(s_mnn, cells[part], rtol=1e-5)
        apart_mm = comixup.distances(phi[part], 8).double().numpy()
        wanted = 0.999 * np.eye(len(apart_mm)) + 0.001 * apart_mm * len(apart_mm) / apart_mm.sum()
        np.testing.assert_allclose(similar_mm, wanted)
        assert alpha == 0.7


@needs_cuts
def test_images_without_saliency_are_mixed_too():
    x, phi = blobs(4)
    mixed, weights = comixup.comixup(x, 0 * phi, 2.0, np.random.default_rng(0))
    assert bool(mixed.isfinite().all())
    torch.testing.assert_close(weights.sum(1), torch.ones(4))
