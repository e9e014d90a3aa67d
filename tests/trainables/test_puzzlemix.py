"""PuzzleMix: the energy and every border against loops, masks against all there are, the transport as an auction."""

import importlib.util
import math
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trainables import graphcuts, puzzlemix
from trainables.config import ConfigError
from trainables.puzzlemix import SETTINGS

needs_cuts = pytest.mark.skipif(importlib.util.find_spec("maxflow") is None, reason="needs the extra 'graphcut'")
STD = (0.25, 0.3, 0.2)


def batch(seed, count=2, side=8):
    random = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 3, side, side, generator=random)
    return x, torch.rand(count, side, side, generator=random) ** 3, torch.arange(count - 1, -1, -1)


def slow_differences(one, other, n, border):
    """(p, q) -> mean |one at p's side - other at q's| along the border of two neighbouring cells."""
    side = one.shape[1]
    square = min(border, side // n)
    means = [
        torch.tensor(
            [
                [
                    [float(image[c, i : i + square, j : j + square].mean()) for j in range(0, side, square)]
                    for i in range(0, side, square)
                ]
                for c in range(3)
            ]
        )
        for image in (one, other)
    ]
    each, found = side // n // square, {}
    for i, j in product(range(n), range(n)):
        for di, dj in ((1, 0), (0, 1)):
            if i + di == n or j + dj == n:
                continue
            total = 0.0
            for along in range(each):
                row, column = (i * each + each - 1, j * each + along) if di else (i * each + along, j * each + each - 1)
                apart = (means[0][:, row, column] - means[1][:, row + di, column + dj]).abs()
                total += float(apart.mean()) / each
            found[(i, j), (i + di, j + dj)] = total
    return found


def slow_energy(z, x, phi, partner, b, lam, n):
    """E of the module's docstring for z in {0, 1}, term by term."""
    own, other = x[b] * torch.tensor(STD).view(3, 1, 1), x[partner[b]] * torch.tensor(STD).view(3, 1, 1)
    each = x.shape[2] // n
    share = {}
    for name, image in ((1, b), (0, int(partner[b]))):
        cells = phi[image].reshape(n, each, n, each).mean((1, 3))
        share[name] = cells / cells.sum()
    total = 0.0
    for i, j in product(range(n), range(n)):
        total += float(share[1 - int(z[i, j])][i, j])
        total -= SETTINGS.prior / n**2 * math.log((lam**2 if z[i, j] else (1 - lam) ** 2) + 1e-8)
    d = {
        (a, c): slow_differences({1: own, 0: other}[a], {1: own, 0: other}[c], n, SETTINGS.border)
        for a, c in product((0, 1), (0, 1))
    }
    for p, q in d[0, 0]:
        a, c = int(z[p]), int(z[q])
        total += SETTINGS.smoothness / 16 / n * ((a - c) ** 2 + SETTINGS.data_smoothness * d[a, c][p, q])
    return total


def terms(x, phi, partner, lam, n):
    small = puzzlemix._small(x, n, STD, SETTINGS)
    return puzzlemix.terms(puzzlemix.salient(phi, n), small, partner, lam)


@pytest.mark.parametrize("n", [2, 4])
def test_the_energy_is_the_papers_for_masks_without_halves(n):
    """The solver's form differs from the equation by a constant."""
    x, phi, partner = batch(0)
    random, apart = np.random.default_rng(0), []
    costs, down, right = terms(x, phi, partner, 0.3, n)
    for _ in range(12):
        z = random.integers(2, size=(2, n, n))
        solver = graphcuts.energy(2 * (1 - z), costs, puzzlemix.PENALTY, down, right)
        apart.append([solver[b] - slow_energy(z[b], x, phi, partner, b, 0.3, n) for b in range(2)])
    np.testing.assert_allclose(np.ptp(apart, axis=0), 0, atol=1e-6)


def test_a_half_costs_the_mean_of_both_and_its_own_prior():
    x, phi, partner = batch(1)
    costs, down, right = terms(x, phi, partner, 0.3, 4)
    prior = -SETTINGS.prior / 16 * np.log(np.array([0.09, 0.42, 0.49]) + 1e-8)
    plain = costs - prior
    np.testing.assert_allclose(plain[..., 1], (plain[..., 0] + plain[..., 2]) / 2)
    assert puzzlemix.PENALTY.tolist() == [[0, 0.25, 1], [0.25, 0, 0.25], [1, 0.25, 0]]
    beta = SETTINGS.smoothness / 64
    assert min(down.min(), right.min()) > beta * (1 - 2 * SETTINGS.data_smoothness)


@needs_cuts
@given(seed=st.integers(0, 200), lam=st.floats(0.05, 0.95))
@settings(max_examples=8, deadline=None)
def test_masks_are_the_best_there_are_on_a_tiny_grid(seed, lam):
    x, phi, partner = batch(seed)
    found = puzzlemix.masks(x, phi, partner, lam, 2, STD)
    costs, down, right = terms(x, phi, partner, lam, 2)
    labels = (2 * (1 - found)).long().numpy()
    every = np.array(list(product(range(3), repeat=4))).reshape(-1, 2, 2)
    for b in range(2):
        one = slice(b, b + 1)
        repeated = [np.repeat(part[one], len(every), 0) for part in (costs, down, right)]
        energies = graphcuts.energy(every, repeated[0], puzzlemix.PENALTY, *repeated[1:])
        mine = graphcuts.energy(labels[one], costs[one], puzzlemix.PENALTY, down[one], right[one])[0]
        assert mine <= np.sort(energies)[2] + 1e-9, "a swap's minimum, not always the least of all"


@needs_cuts
def test_the_salient_image_is_shown_and_lam_decides_where_neither_is():
    x, phi, _ = batch(0, side=16)
    phi = torch.full((2, 16, 16), 1e-3)
    phi[0, :8], phi[1, 8:] = 1.0, 1.0
    partner = torch.tensor([1, 0])
    mask = puzzlemix.masks(0 * x, phi, partner, 0.5, 2, STD)
    assert mask.tolist() == [[[1.0, 1.0], [0.0, 0.0]], [[0.0, 0.0], [1.0, 1.0]]]
    flat = torch.ones(2, 16, 16)
    assert puzzlemix.masks(0 * x, flat, partner, 0.99, 4, STD).mean() == 1.0
    assert puzzlemix.masks(0 * x, flat, partner, 0.01, 4, STD).mean() == 0.0
    assert puzzlemix.masks(0 * x, flat, partner, 0.5, 4, STD).mean() == 0.5


@needs_cuts
@pytest.mark.parametrize("transport", [False, True])
def test_images_and_labels_follow_the_mask(transport):
    x, phi, partner = batch(3, count=4, side=16)
    chosen = replace(SETTINGS, transport=transport)
    mixed, own = puzzlemix.puzzlemix(x, phi, partner, 0.5, 4, STD, chosen)
    mask = puzzlemix.masks(x, phi, partner, 0.5, 4, STD)
    torch.testing.assert_close(own[:, 0], mask.mean((1, 2)))
    if not transport:
        large = mask.repeat_interleave(4, 1).repeat_interleave(4, 2).unsqueeze(1)
        torch.testing.assert_close(mixed, large * x + (1 - large) * x[partner])


def slow_transport(shown, s, price):
    """The auction patch by patch; offers below 0 alone can win, since who does not bid offers 0."""
    t = len(s)
    cells = list(product(range(t), range(t)))
    cost = {
        (p, q): price * ((p[0] - q[0]) ** 2 + (p[1] - q[1]) ** 2) / (t - 1) ** 2 - float(s[p]) * float(shown[q] > 0)
        for p in cells
        for q in cells
    }
    for _ in range(t):
        bids = {p: min(cells, key=lambda q, p=p: (cost[p, q], cells.index(q))) for p in cells}
        winner = {}
        for p, q in bids.items():
            if cost[p, q] < 0 and (q not in winner or cost[p, q] < cost[winner[q], q]):
                winner[q] = p
        for p, q in bids.items():
            if winner.get(q) != p:
                cost[p, q] += 1
    return [cells.index(winner[q]) if q in winner else -1 for q in cells]


@given(seed=st.integers(0, 200), price=st.sampled_from([0.001, 0.1, 0.8]))
@settings(max_examples=15, deadline=None)
def test_the_transport_is_the_auction(seed, price):
    random = torch.Generator().manual_seed(seed)
    s = puzzlemix.salient(torch.rand(2, 4, 4, generator=random, dtype=torch.float64) ** 4, 4)
    shown = torch.randint(3, (2, 4, 4), generator=random) / 2
    found = puzzlemix.transport(shown, s, price)
    for b in range(2):
        assert found[b].tolist() == slow_transport(shown[b], s[b], price)


@needs_cuts
@pytest.mark.parametrize("price", [0.01, 0.8])
def test_each_image_is_moved_by_its_own_saliency_to_where_it_is_shown(price):
    """Masks of 2 cells a side, patches of 4 pixels: the auction on 4 x 4, image by image, patch by patch."""
    x, phi, partner = batch(3, count=4, side=16)
    x, phi, n, t = x.double(), phi.double(), 2, 4
    mixed, _ = puzzlemix.puzzlemix(x, phi, partner, 0.5, n, STD, replace(SETTINGS, transport_cost=price))
    mask = puzzlemix.masks(x, phi, partner, 0.5, n, STD)

    def moved(image, shown):
        s = phi[image].reshape(t, 4, t, 4).mean((1, 3))
        out = torch.zeros_like(x[image])
        for cell, patch in enumerate(slow_transport(shown, s / s.sum(), price)):
            if patch >= 0:
                (i, j), (k, m) = divmod(cell, t), divmod(patch, t)
                out[:, 4 * i : 4 * i + 4, 4 * j : 4 * j + 4] = x[image][:, 4 * k : 4 * k + 4, 4 * m : 4 * m + 4]
        return out

    for b in range(4):
        shown = mask[b].repeat_interleave(2, 0).repeat_interleave(2, 1)
        own = shown.repeat_interleave(4, 0).repeat_interleave(4, 1)
        wanted = own * moved(b, shown) + (1 - own) * moved(int(partner[b]), 1 - shown)
        torch.testing.assert_close(mixed[b], wanted)


def test_patches_go_where_they_are_sent():
    x = torch.arange(2 * 3 * 16.0).view(2, 3, 4, 4)
    source = torch.tensor([[3, 0, -1, 2], [0, 1, 2, 3]])
    found = puzzlemix.moved(x, source)
    assert torch.equal(found[1], x[1])
    assert torch.equal(found[0, :, :2, :2], x[0, :, 2:, 2:])
    assert torch.equal(found[0, :, :2, 2:], x[0, :, :2, :2])
    assert torch.equal(found[0, :, 2:, 2:], x[0, :, 2:, :2])
    assert bool((found[0, :, 2:, :2] == 0).all())


def test_what_is_shown_stays_where_moving_is_dear():
    random = torch.Generator().manual_seed(0)
    s = puzzlemix.salient(torch.rand(1, 8, 8, generator=random), 8)
    assert puzzlemix.transport(torch.ones(1, 8, 8), s, 1e3).tolist() == [list(range(64))]


def test_images_without_saliency_are_salient_everywhere():
    assert torch.equal(puzzlemix.salient(torch.zeros(1, 4, 4), 2), torch.full((1, 2, 2), 0.25))


@needs_cuts
@pytest.mark.parametrize("side", [12, 20, 24, 28, 40, 48])
def test_every_grid_that_fits_mixes_and_one_that_does_not_is_not_drawn(side):
    """Cells of 5, 6, 7 or 10 pixels hold no whole number of squares of 4."""
    x, phi, partner = batch(0, side=side)
    fitting = puzzlemix.fitting(SETTINGS, side)
    assert fitting == tuple(n for n in (2, 4, 8, 16) if side / n in {1, 2, 3, 4, 8, 12, 16, 20, 24})
    for n in fitting:
        mixed, own = puzzlemix.puzzlemix(x, phi, partner, 0.5, n, STD)
        assert mixed.shape == x.shape
        assert bool(((own >= 0) & (own <= 1)).all())
    if not fitting:
        with pytest.raises(ConfigError, match=rf"images of {side} x {side} pixels.*at most 4 pixels or of a multiple"):
            puzzlemix.check_images(SETTINGS, side, side)


def test_grids_are_those_that_divide_the_images():
    for side in (16, 32, 64, 128):
        assert puzzlemix.fitting(SETTINGS, side) == (2, 4, 8, 16)
    assert puzzlemix.fitting(SETTINGS, 224) == (2, 4, 8)
    for sides in ((9, 9), (32, 16)):
        with pytest.raises(ConfigError, match="a square of 2 or 4 or 8 or 16 cells a side"):
            puzzlemix.check_images(SETTINGS, *sides)
