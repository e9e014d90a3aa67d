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

Shapes: B grids, H rows, W columns, L labels.
"""

import importlib.util
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
    own = np.take_along_axis(cost_BHWL, labels_BHW[..., None], axis=3)[..., 0]
    below = down * penalty_LL[labels_BHW[:, :-1], labels_BHW[:, 1:]]
    beside = right * penalty_LL[labels_BHW[:, :, :-1], labels_BHW[:, :, 1:]]
    total: Floats = own.sum((1, 2)) + below.sum((1, 2)) + beside.sum((1, 2))
    return total


def swap(
    cost_BHWL: Floats, penalty_LL: Floats, down: Floats, right: Floats, labels_BHW: Labels | None = None
) -> Labels:
    """A labelling of each grid (B, H, W) that no swap of two labels improves.

    Args:
        cost_BHWL: D, of any sign.
        penalty_LL: V.
        down: w of a cell and the one below (B, H - 1, W), not negative.
        right: w of a cell and the one to its right (B, H, W - 1), not negative.
        labels_BHW: where to start; None: label 0 everywhere.
    """
    labels_BHW = np.zeros(cost_BHWL.shape[:3], dtype=np.int64) if labels_BHW is None else labels_BHW.copy()
    lowest_B = energy(labels_BHW, cost_BHWL, penalty_LL, down, right)
    slack = 1e-9 * (np.abs(cost_BHWL).sum() + down.sum() + right.sum())
    improved = True
    while improved:
        improved, present, gains = False, set(np.unique(labels_BHW).tolist()), dict[int, NDArray[np.bool_]]()
        for a, b in combinations(range(cost_BHWL.shape[3]), 2):
            if not {a, b} & present:
                continue
            if not {a, b} <= present:
                one, other = (a, b) if a in present else (b, a)
                if one not in gains:
                    gains[one] = _gains(labels_BHW, one, cost_BHWL, penalty_LL, down, right)
                if not gains[one][other]:
                    continue
            found_BHW = _best_swap(labels_BHW, a, b, cost_BHWL, penalty_LL, down, right)
            found_B = energy(found_BHW, cost_BHWL, penalty_LL, down, right)
            better_B = found_B < lowest_B - slack
            if better_B.any():
                labels_BHW = np.where(better_B[:, None, None], found_BHW, labels_BHW)
                lowest_B = np.where(better_B, found_B, lowest_B)
                improved, present, gains = True, set(np.unique(labels_BHW).tolist()), {}
    return labels_BHW


def _gains(labels: Labels, one: int, cost: Floats, penalty: Floats, down: Floats, right: Floats) -> NDArray[np.bool_]:
    """For each label that no cell has, whether some cell labelled `one` would gain by taking it (L,).

    If none would alone, no set of them does: together they are also parted from the rest of `one`.
    """
    paid = cost.copy()
    against = np.where((labels != one)[..., None], penalty[labels], 0.0)
    paid[:, :-1] += down[..., None] * against[:, 1:]
    paid[:, 1:] += down[..., None] * against[:, :-1]
    paid[:, :, :-1] += right[..., None] * against[:, :, 1:]
    paid[:, :, 1:] += right[..., None] * against[:, :, :-1]
    here = paid[labels == one]
    gaining: NDArray[np.bool_] = (here < here[:, [one]]).any(0)
    return gaining


def _costs(
    labels: Labels, a: int, b: int, cost: Floats, penalty: Floats, down: Floats, right: Floats
) -> tuple[Floats, Floats]:
    """What each cell (B, H, W) pays for a and for b: by itself, and against neighbours with any other label."""
    fixed = (labels != a) & (labels != b)
    both = []
    for label in (a, b):
        paid = cost[..., label].copy()
        against = np.where(fixed, penalty[label][labels], 0.0)
        paid[:, :-1] += down * against[:, 1:]
        paid[:, 1:] += down * against[:, :-1]
        paid[:, :, :-1] += right * against[:, :, 1:]
        paid[:, :, 1:] += right * against[:, :, :-1]
        both.append(paid)
    return both[0], both[1]


def _best_swap(labels: Labels, a: int, b: int, cost: Floats, penalty: Floats, down: Floats, right: Floats) -> Labels:
    """The labelling of least energy among those that differ by a swap: cells on the sink's side get b."""
    import maxflow  # type: ignore[import-untyped, import-not-found, unused-ignore]

    free = (labels == a) | (labels == b)
    cost_a, cost_b = _costs(labels, a, b, cost, penalty, down, right)
    least = np.minimum(cost_a, cost_b)
    graph = maxflow.GraphFloat(labels.size, down.size + right.size)
    nodes = graph.add_grid_nodes(labels.shape)
    graph.add_grid_tedges(nodes, np.where(free, cost_b - least, 0.0), np.where(free, cost_a - least, 0.0))
    for one, other, weights in (
        (np.s_[:, :-1], np.s_[:, 1:], down),
        (np.s_[:, :, :-1], np.s_[:, :, 1:], right),
    ):
        joined = free[one] & free[other]
        capacity = penalty[a, b] * weights[joined]
        graph.add_edges(nodes[one][joined], nodes[other][joined], capacity, capacity)
    graph.maxflow()
    return np.where(free, np.where(graph.get_grid_segments(nodes), b, a), labels)
