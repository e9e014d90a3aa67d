"""Labellings of grids of low energy, by alpha-beta swaps: the solver behind PuzzleMix and Co-Mixup.

Paper: Boykov, Veksler and Zabih, Fast Approximate Energy Minimization via Graph Cuts (PAMI 2001), section 3. Package:
PyMaxflow (pmneila/PyMaxflow, 1.3.2), for the cut; the extra 'graphcut' installs it. It is under the GPL, which is why
nothing else here needs it.

    E(f) = sum_p D_p(f_p) + sum_{p~q} w_pq V(f_p, f_q)

A swap of labels a and b lets every cell that has one of them keep it or take the other: the best way to do so is a
smallest cut. A labelling that no swap improves is returned. V must be symmetric, not negative and 0 for equal labels;
it need not keep the triangle inequality.

Deviations:
1. The grids of a batch are one graph without edges between them, so that one call cuts them all.
2. Energies are floats; the released methods round to integers, as their solver (gco) wants.
3. A swap with a label that no cell has is left out where no single cell would gain by it: then none can.

Shapes: B grids, H rows, W columns, L labels, P cells of all grids, E pairs of neighbours.
"""

import importlib.util
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from trainables.config import ConfigError

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]


def require_package(mix: str) -> None:
    """Asks for the optional package before anything is trained.

    Raises:
        ConfigError: it is not installed.
    """
    if importlib.util.find_spec("maxflow") is None:
        raise ConfigError(
            f"mix={mix!r} needs graph cuts, and PyMaxflow is not installed. Install the extra 'graphcut', "
            "`python -m pip install -e '.[graphcut]'` (PyMaxflow is under the GPL), or choose another mix."
        )


def energy(labels_BHW: Labels, cost_BHWL: Floats, penalty_LL: Floats, down: Floats, right: Floats) -> Floats:
    """E of each grid (B,); arguments as of `swap`."""
    return _energy(_joined(cost_BHWL, penalty_LL, down, right), labels_BHW.ravel())


def swap(cost_BHWL: Floats, penalty_LL: Floats, down: Floats, right: Floats) -> Labels:
    """A labelling of each grid (B, H, W) that no swap of two labels improves; from label 0 everywhere.

    Args:
        cost_BHWL: D, of any sign.
        penalty_LL: V.
        down: w of a cell and the one below (B, H - 1, W), not negative.
        right: w of a cell and the one to its right (B, H, W - 1), not negative.
    """
    grids = _joined(cost_BHWL, penalty_LL, down, right)
    labels_P = np.zeros(len(grids.cost_PL), dtype=np.int64)
    lowest_B, state = _energy(grids, labels_P), _State.of(grids, labels_P)
    slack = 1e-9 * (np.abs(grids.cost_PL).sum() + grids.weight_E.sum())
    improved = True
    while improved:
        improved = False
        for a, b in combinations(range(len(penalty_LL)), 2):
            if not state.may_gain(grids, a, b):
                continue
            found_P = _best_swap(grids, state, a, b)
            if np.array_equal(found_P, labels_P):
                continue
            found_B = _energy(grids, found_P)
            better_B = found_B < lowest_B - slack
            if better_B.any():
                labels_P = np.where(better_B[grids.grid_P], found_P, labels_P)
                lowest_B, state, improved = np.where(better_B, found_B, lowest_B), _State.of(grids, labels_P), True
    return labels_P.reshape(cost_BHWL.shape[:3])


@dataclass(frozen=True)
class _Grids:
    """All grids as one graph: P cells, E pairs of neighbours."""

    cost_PL: Floats
    penalty_LL: Floats
    first_E: Labels
    second_E: Labels
    weight_E: Floats
    grid_P: Labels
    """Which grid a cell is of."""


def _joined(cost_BHWL: Floats, penalty_LL: Floats, down: Floats, right: Floats) -> _Grids:
    count, height, width, labels = cost_BHWL.shape
    cells = np.arange(count * height * width).reshape(count, height, width)
    return _Grids(
        cost_BHWL.reshape(-1, labels),
        penalty_LL,
        np.concatenate([cells[:, :-1].ravel(), cells[:, :, :-1].ravel()]),
        np.concatenate([cells[:, 1:].ravel(), cells[:, :, 1:].ravel()]),
        np.concatenate([down.ravel(), right.ravel()]),
        np.repeat(np.arange(count), height * width),
    )


def _energy(grids: _Grids, labels_P: Labels) -> Floats:
    own_P = grids.cost_PL[np.arange(len(labels_P)), labels_P]
    pairs_E = grids.weight_E * grids.penalty_LL[labels_P[grids.first_E], labels_P[grids.second_E]]
    count = int(grids.grid_P[-1]) + 1
    alone_B = np.bincount(grids.grid_P, own_P, count)
    return np.asarray(alone_B + np.bincount(grids.grid_P[grids.first_E], pairs_E, count), dtype=np.float64)


@dataclass(frozen=True)
class _State:
    """A labelling, and what follows from it for every swap."""

    labels_P: Labels
    present: frozenset[int]
    near_PL: Floats
    """Weights of a cell's neighbours, by their labels."""
    paid_PL: Floats
    """What a cell would pay for each label, if its neighbours kept theirs."""
    gains: dict[int, NDArray[np.bool_]]
    """Label that cells have -> for each that none has, whether one of those cells would gain by it; as asked for."""

    @classmethod
    def of(cls, grids: _Grids, labels_P: Labels) -> "_State":
        """The state of a labelling."""
        cells, labels = grids.cost_PL.shape
        near_N = np.zeros(cells * labels)
        for one_E, other_E in ((grids.first_E, grids.second_E), (grids.second_E, grids.first_E)):
            near_N += np.bincount(one_E * labels + labels_P[other_E], grids.weight_E, cells * labels)
        near_PL = near_N.reshape(cells, labels)
        present = frozenset(np.flatnonzero(np.bincount(labels_P, minlength=labels)).tolist())
        return cls(labels_P, present, near_PL, grids.cost_PL + near_PL @ grids.penalty_LL, {})

    def may_gain(self, grids: _Grids, a: int, b: int) -> bool:
        """Whether a swap can lower the energy: it may if there are cells of both, or if one cell gains by itself.

        If none gains alone, no set of cells with one label does: together they are also parted from the rest of them.
        """
        if a in self.present and b in self.present:
            return True
        if a not in self.present and b not in self.present:
            return False
        one, other = (a, b) if a in self.present else (b, a)
        if one not in self.gains:
            here = self.labels_P == one
            alone = self.paid_PL[here] - self.near_PL[here, one][:, None] * grids.penalty_LL[one]
            self.gains[one] = (alone < self.paid_PL[here, one][:, None]).any(0)
        return bool(self.gains[one][other])


def _best_swap(grids: _Grids, state: _State, a: int, b: int) -> Labels:
    """The labelling of least energy among those that differ by a swap: cells on the sink's side get b."""
    import maxflow  # type: ignore[import-untyped, import-not-found, unused-ignore]

    labels_P = state.labels_P
    free_P = (labels_P == a) | (labels_P == b)
    between = grids.penalty_LL[a, b]
    gain_P = (state.paid_PL[:, a] - state.near_PL[:, b] * between) - (
        state.paid_PL[:, b] - state.near_PL[:, a] * between
    )
    gain_P = np.where(free_P, gain_P, 0.0)
    joined_E = free_P[grids.first_E] & free_P[grids.second_E]
    capacity = between * grids.weight_E[joined_E]
    graph = maxflow.GraphFloat(len(labels_P), len(capacity))
    nodes = graph.add_grid_nodes(len(labels_P))
    graph.add_grid_tedges(nodes, np.maximum(-gain_P, 0.0), np.maximum(gain_P, 0.0))
    graph.add_edges(grids.first_E[joined_E], grids.second_E[joined_E], capacity, capacity)
    graph.maxflow()
    return np.where(free_P, np.where(graph.get_grid_segments(nodes), b, a), labels_P)
