"""Which auxiliary images a step trains on: the hardest of each cluster, of all, or those a random detector doubts.

Papers: GReg+ (arXiv 2404.12368), energy-based clustering; DOS (arXiv 2306.02031) for the window and one-way selection;
POEM (arXiv 2206.13687) for posterior sampling. Repositories: o4lc/Greg-OOD, deeplearning-wisc/poem.

An image's weight is its energy, with DOS the probability of the class of auxiliary images: low where the detector
would take it for in-distribution, so low is hard.

Deviations:
1. K-means runs in torch, on the device of the features, seeded; the code calls scikit-learn's, unseeded. Seeding is
   k-means++ with one draw a centre, Lloyd's steps end at convergence or after `STEPS`; an emptied cluster keeps its
   centre, and contributes nothing.
2. The top-up is drawn from a named stream of each step; in the code from Python's global generator.
3. 'softmax' leaves out the class of auxiliary images where there is one (DOS); the code leaves out the last class of
   any network.
4. The code can also cluster the principal components of features of length 1.

Shapes: B candidates, W of them in the window, D features, K clusters, R restarts.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from trainables.protocol import Diverged

Representation = Literal["norm", "raw", "dimension", "mean_norm", "pca", "softmax"]

RESTARTS = 3
"""Runs of k-means, of which the one with the least inertia counts. [C]"""
STEPS = 30
"""Of Lloyd's algorithm, at most; a few hundred points converge in about ten."""
COMPONENTS = 64
"""Principal components, at most. [C]"""


def represented(features_BD: Tensor, logits_BK: Tensor, kind: Representation, part: slice = slice(None)) -> Tensor:
    """What is clustered of the candidates in `part`: each one's direction ('norm'), the features themselves ('raw'),
    each dimension divided by its length over all candidates ('dimension'), all divided by the mean length of all
    candidates ('mean_norm'), the principal components of the part ('pca'), the probabilities of the known classes
    ('softmax').
    """
    if kind == "norm":
        return F.normalize(features_BD, dim=1)[part]
    if kind == "dimension":
        return F.normalize(features_BD, dim=0)[part]
    if kind == "mean_norm":
        length: Tensor = torch.linalg.vector_norm(features_BD, dim=1).mean()
        return (features_BD / length.clamp_min(1e-12))[part]
    if kind == "pca":
        return principal(features_BD[part], COMPONENTS)
    if kind == "softmax":
        return logits_BK[part].softmax(1)
    return features_BD[part]


def principal(points_WD: Tensor, count: int) -> Tensor:
    """The coordinates (W, at most `count`) of the points along the directions in which they vary most.

    Raises:
        Diverged: a point is not finite, and has no such directions.
    """
    centred_WD = points_WD - points_WD.mean(0)
    if not torch.isfinite(centred_WD).all():
        raise Diverged("the features of the auxiliary images are not finite; a lower learning rate may help.")
    directions_RD = torch.linalg.svd(centred_WD, full_matrices=False)[2]
    coordinates: Tensor = centred_WD @ directions_RD[:count].T
    return coordinates


def window(weights_B: Tensor, start: int, end: int) -> Tensor:
    """Indices (W,) of the candidates by ascending weight, from place `start` up to but not including `end`."""
    return weights_B.argsort(stable=True)[start:end]


# Clusters


def clusters(points_WD: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Labels (W,) in 0..count-1 by k-means, the best of `RESTARTS` runs.

    Args:
        points_WD: on any device.
        count: clusters.
        generator: on the CPU, so that all devices draw alike.

    Raises:
        ValueError: more clusters than points.
    """
    total = len(points_WD)
    if not 1 <= count <= total:
        raise ValueError(f"{count} clusters of {total} points are not possible: there must be 1 to {total}.")
    centres_RKD = _seeds(points_WD, count, generator)
    length_W = points_WD.square().sum(1)
    labels_RW = _nearest(points_WD, length_W, centres_RKD)[1]
    for step in range(STEPS):
        member_RKW = F.one_hot(labels_RW, count).to(points_WD.dtype).transpose(1, 2)
        size_RK1 = member_RKW.sum(2, keepdim=True)
        mean_RKD = member_RKW @ points_WD / size_RK1.clamp_min(1)
        centres_RKD = torch.where(size_RK1 > 0, mean_RKD, centres_RKD)
        before_RW, labels_RW = labels_RW, _nearest(points_WD, length_W, centres_RKD)[1]
        # Asking makes the host wait for an accelerator: there it is asked seldom. Steps after convergence do nothing.
        if (points_WD.device.type == "cpu" or step % 8 == 7) and torch.equal(before_RW, labels_RW):
            break
    inertia_R = _nearest(points_WD, length_W, centres_RKD)[0].sum(1)
    return labels_RW[inertia_R.argmin()]


def _seeds(points_WD: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """k-means++: each next centre is a point drawn in proportion to its squared distance to the nearest one so far."""
    total = len(points_WD)
    uniform_KRW = torch.rand(count, RESTARTS, total, generator=generator, dtype=torch.float64).clamp_min(1e-300)
    # The largest of log(p) + Gumbel noise is a draw from p: no running sum, which accelerators add up in any order.
    noise_KRW = -torch.log(-torch.log(uniform_KRW)).to(points_WD.device)
    chosen_R = noise_KRW[0].argmax(1)
    centres = [points_WD[chosen_R]]
    distance_RW = torch.full((RESTARTS, total), torch.inf, dtype=points_WD.dtype, device=points_WD.device)
    for noise_RW in noise_KRW[1:]:
        latest_RW = (points_WD - centres[-1][:, None]).square().sum(2)
        distance_RW = torch.minimum(distance_RW, latest_RW)
        chosen_R = (distance_RW.double().log() + noise_RW).argmax(1)
        centres.append(points_WD[chosen_R])
    return torch.stack(centres, dim=1)


def _nearest(points_WD: Tensor, length_W: Tensor, centres_RKD: Tensor) -> tuple[Tensor, Tensor]:
    """Squared distance to the nearest centre, and which that is; (R, W) each."""
    inner_RWK = points_WD @ centres_RKD.transpose(1, 2)
    squared_RWK = length_W[:, None] - 2 * inner_RWK + centres_RKD.square().sum(2)[:, None]
    nearest_RW, labels_RW = squared_RWK.min(2)
    return nearest_RW, labels_RW


# Selection


def chosen(labels_W: Tensor, count: int, batch: int, *, two_way: bool) -> Tensor:
    """Whether each candidate is selected (W,), given the clusters of candidates that are sorted by ascending weight.

    Of each of the first min(count, batch) clusters the q lowest, and with `two_way` the q highest too, where q is
    batch // count, at least 1; all of a cluster that is no larger than q.

    Args:
        labels_W: cluster of each candidate, by ascending weight.
        count: K.
        batch: how many are wanted; twice as many with `two_way`.
        two_way: whether the highest are selected too.
    """
    quota = max(1, batch // count)
    sizes_K = (labels_W[:, None] == torch.arange(count, device=labels_W.device)).sum(0)
    by_cluster_W = labels_W.argsort(stable=True)
    first_K = sizes_K.cumsum(0) - sizes_K
    rank_W = torch.empty_like(labels_W)
    rank_W[by_cluster_W] = torch.arange(len(labels_W), device=labels_W.device) - first_K[labels_W[by_cluster_W]]
    picked_W = rank_W < quota
    if two_way:
        picked_W |= rank_W >= sizes_K[labels_W] - quota
    return picked_W & (labels_W < batch)


def topped_up(picked_W: Tensor, labels_W: Tensor, wanted: int, random_W: Tensor) -> Tensor:
    """Places of the selected candidates, cluster by cluster, and then of others at random, min(`wanted`, W) in all.

    Args:
        picked_W: from `chosen`.
        labels_W: likewise sorted.
        wanted: how many.
        random_W: uniform numbers in [0, 1), the order of the others.
    """
    last = labels_W.max() + 1
    key_W = torch.where(picked_W, labels_W.double(), last + random_W.to(labels_W.device).double())
    return key_W.argsort(stable=True)[:wanted]


def clustered(
    weights_B: Tensor,
    features_BD: Tensor,
    logits_BK: Tensor,
    *,
    count: int,
    batch: int,
    two_way: bool,
    representation: Representation,
    start: int,
    end: int,
    generator: torch.Generator,
) -> Tensor:
    """Indices of the selected candidates: the window by weight, its clusters, the extremes of each, a top-up.

    Args:
        weights_B: of the candidates.
        features_BD: of the candidates, before the last layer.
        logits_BK: of the candidates, for the known classes.
        count: clusters; at most `batch` are looked at.
        batch: how many are wanted, twice as many with `two_way`.
        two_way: lowest and highest of each cluster.
        representation: what is clustered.
        start: of the window.
        end: of the window.
        generator: on the CPU.
    """
    order_B = window(weights_B, 0, len(weights_B))
    order_W = order_B[start:end]
    points_WD = represented(features_BD[order_B], logits_BK[order_B], representation, slice(start, end))
    labels_W = clusters(points_WD, count, generator)
    random_W = torch.rand(len(order_W), generator=generator)
    picked_W = chosen(labels_W, count, batch, two_way=two_way)
    return order_W[topped_up(picked_W, labels_W, 2 * batch if two_way else batch, random_W)]


# Posterior sampling


def posterior(features_ND: Tensor, targets_N: Tensor, *, prior: float, noise: float) -> tuple[Tensor, Tensor]:
    """Mean (D,) and covariance (D, D), in float64, of a linear detector's weights after seeing features and targets.

    Bayesian regression with prior N(0, prior I) and noise of variance `noise`. As in the code, the covariance is the
    inverse precision times `prior`. So it is before anything is seen, where the code has the prior's: detectors differ
    by their length then, which no order of images depends on.

    Args:
        features_ND: N may be 0.
        targets_N: what the detector should say.
        prior: variance of each weight.
        noise: variance of the targets.
    """
    z_ND, y_N = features_ND.double(), targets_N.double()
    eye_DD = torch.eye(z_ND.shape[1], dtype=torch.float64, device=z_ND.device)
    inverse_DD = torch.linalg.inv(z_ND.T @ z_ND / noise + eye_DD / prior)
    return inverse_DD @ (z_ND.T @ y_N) / noise, prior * inverse_DD


def sampled_detector(mean_D: Tensor, covariance_DD: Tensor, generator: torch.Generator) -> Tensor:
    """Weights (D,) drawn from a normal distribution; the generator is on the CPU."""
    values_D, vectors_DD = torch.linalg.eigh((covariance_DD + covariance_DD.T) / 2)
    normal_D = torch.randn(len(mean_D), generator=generator, dtype=torch.float64).to(mean_D.device)
    drawn_D: Tensor = mean_D + vectors_DD @ (values_D.clamp_min(0).sqrt() * normal_D)
    return drawn_D
