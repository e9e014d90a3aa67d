"""Graph cuts: energies against loops, labellings against all there are, and what must hold of swaps."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainables import graphcuts

pytest.importorskip("maxflow", reason="the extra 'graphcut' is not installed")

THREE = np.array([[0, 0.25, 1], [0.25, 0, 0.25], [1, 0.25, 0]])
"""PuzzleMix's penalties: no triangle inequality."""


def problem(seed, grids, height, width, labels, smoothness):
    random = np.random.default_rng(seed)
    cost = random.standard_normal((grids, height, width, labels))
    down = smoothness * random.random((grids, height - 1, width))
    right = smoothness * random.random((grids, height, width - 1))
    return cost, down, right


def slow_energy(labels, cost, penalty, down, right):
    total = 0.0
    height, width = labels.shape
    for i, j in product(range(height), range(width)):
        total += cost[i, j, labels[i, j]]
        if i + 1 < height:
            total += down[i, j] * penalty[labels[i, j], labels[i + 1, j]]
        if j + 1 < width:
            total += right[i, j] * penalty[labels[i, j], labels[i, j + 1]]
    return total


def every(height, width, labels):
    for chosen in product(range(labels), repeat=height * width):
        yield np.array(chosen).reshape(height, width)


@given(seed=st.integers(0, 1000))
@settings(max_examples=10, deadline=None)
def test_the_energy_is_the_equation(seed):
    cost, down, right = problem(seed, 3, 4, 5, 3, 1.0)
    labels = np.random.default_rng(seed).integers(3, size=(3, 4, 5))
    found = graphcuts.energy(labels, cost, THREE, down, right)
    wanted = [slow_energy(labels[n], cost[n], THREE, down[n], right[n]) for n in range(3)]
    np.testing.assert_allclose(found, wanted)


@given(seed=st.integers(0, 1000), smoothness=st.floats(0, 3))
@settings(max_examples=15, deadline=None)
def test_with_two_labels_the_labelling_is_the_best_there_is(seed, smoothness):
    cost, down, right = problem(seed, 2, 3, 3, 2, smoothness)
    penalty = 1 - np.eye(2)
    labels = graphcuts.swap(cost, penalty, down, right)
    for n in range(2):
        found = slow_energy(labels[n], cost[n], penalty, down[n], right[n])
        best = min(slow_energy(each, cost[n], penalty, down[n], right[n]) for each in every(3, 3, 2))
        assert found == pytest.approx(best)


@given(seed=st.integers(0, 1000), smoothness=st.floats(0, 3))
@settings(max_examples=10, deadline=None)
def test_with_three_no_swap_improves_it_and_few_labellings_are_better(seed, smoothness):
    cost, down, right = problem(seed, 1, 2, 3, 3, smoothness)
    labels = graphcuts.swap(cost, THREE, down, right)[0]
    found = slow_energy(labels, cost[0], THREE, down[0], right[0])
    energies = [(slow_energy(each, cost[0], THREE, down[0], right[0]), each) for each in every(2, 3, 3)]
    for a, b in ((0, 1), (0, 2), (1, 2)):
        free = np.isin(labels, (a, b))
        swaps = [each for _, each in energies if (each == labels)[~free].all() and np.isin(each[free], (a, b)).all()]
        assert found <= min(slow_energy(each, cost[0], THREE, down[0], right[0]) for each in swaps) + 1e-9
    assert sum(value < found - 1e-9 for value, _ in energies) <= len(energies) // 20


def test_many_labels_are_swapped_only_where_something_is_gained(monkeypatch):
    cost, down, right = problem(0, 1, 4, 4, 20, 0.5)
    penalty = 1 - np.eye(20)
    cuts = []
    plain = graphcuts._best_swap
    monkeypatch.setattr(graphcuts, "_best_swap", lambda *args: cuts.append(args[2:]) or plain(*args))
    labels = graphcuts.swap(cost, penalty, down, right)
    few = len(cuts)
    monkeypatch.setattr(graphcuts._State, "may_gain", lambda *_: True)
    assert np.array_equal(graphcuts.swap(cost, penalty, down, right), labels)
    assert few < (len(cuts) - few) / 2


def test_grids_of_a_batch_do_not_meet():
    cost, down, right = problem(5, 4, 5, 5, 3, 1.0)
    together = graphcuts.swap(cost, THREE, down, right)
    for n in range(4):
        one = slice(n, n + 1)
        alone = graphcuts.swap(cost[one], THREE, down[one], right[one])
        assert np.array_equal(together[one], alone)


def test_without_smoothness_each_cell_is_cheapest_and_with_much_all_are_alike():
    cost, down, right = problem(1, 2, 4, 4, 3, 1.0)
    assert np.array_equal(graphcuts.swap(cost, THREE, 0 * down, 0 * right), cost.argmin(3))
    labels = graphcuts.swap(cost, THREE, 1e3 + down, 1e3 + right)
    assert [len(set(grid.flat)) for grid in labels] == [1, 1]
