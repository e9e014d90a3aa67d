"""Choosing auxiliary images: selection and posterior against plain loops, clusters against scikit-learn's."""

import random

import numpy as np
import pytest
import torch

from trainables import energy_sampling as sampling


def plainly(labels, count, batch, two_way):
    """The released selection, cluster by cluster over candidates sorted by weight; without the top-up."""
    found = set()
    quota = 1 if count > batch else batch // count
    for cluster in range(min(count, batch)):
        members = [place for place, label in enumerate(labels) if label == cluster]
        if len(members) <= quota:
            found |= set(members)
            continue
        found |= set(members[:quota])
        if two_way:
            found |= set(members[-quota:])
    return found


@pytest.mark.parametrize("two_way", [False, True])
@pytest.mark.parametrize(("count", "batch"), [(8, 8), (8, 16), (8, 20), (5, 3), (1, 4)])
@pytest.mark.parametrize("seed", range(4))
def test_selection_is_the_plain_loops(two_way, count, batch, seed):
    rng = random.Random(seed)
    labels = [rng.choice(range(count)) for _ in range(40)]
    picked = sampling.chosen(torch.tensor(labels), count, batch, two_way=two_way)
    assert set(torch.nonzero(picked).flatten().tolist()) == plainly(labels, count, batch, two_way)


def test_a_cluster_of_one_is_taken_once_and_an_empty_one_adds_nothing():
    labels = torch.tensor([0, 0, 2, 0, 3, 3])
    picked = sampling.chosen(labels, 4, 4, two_way=True)
    assert picked.tolist() == [True, False, True, True, True, True]


def test_the_top_up_is_random_among_the_others_and_fills_up():
    labels = torch.arange(12) % 3
    picked = sampling.chosen(labels, 3, 3, two_way=False)
    orders = set()
    for seed in range(20):
        order = torch.rand(12, generator=torch.Generator().manual_seed(seed))
        places = sampling.topped_up(picked, labels, 8, order)
        assert len(set(places.tolist())) == 8
        assert places[:3].tolist() == [0, 1, 2]  # the lowest of each cluster, cluster by cluster
        orders.add(tuple(places[3:].tolist()))
    assert len(orders) > 15
    everything = sampling.topped_up(picked, labels, 100, torch.rand(12, generator=torch.Generator()))
    assert sorted(everything.tolist()) == list(range(12))


def test_the_window_is_by_ascending_weight():
    weights = torch.tensor([3.0, -1.0, 2.0, 0.0, 5.0])
    assert sampling.window(weights, 0, 100).tolist() == [1, 3, 2, 0, 4]
    assert sampling.window(weights, 1, 3).tolist() == [3, 2]


def test_representations_are_their_definitions():
    h = torch.randn(7, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    f = torch.randn(7, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    lengths = torch.tensor([float(row.square().sum()) ** 0.5 for row in h], dtype=torch.float64)
    columns = torch.stack([column / column.square().sum().sqrt() for column in h.T]).T
    shares = torch.stack([torch.exp(row) / torch.exp(row).sum() for row in f])
    wanted = {
        "norm": h / lengths[:, None],
        "mean_norm": h / lengths.mean(),
        "dimension": columns,
        "softmax": shares,
        "raw": h,
    }
    for kind, points in wanted.items():
        torch.testing.assert_close(sampling.represented(h, f, kind), points)
        torch.testing.assert_close(sampling.represented(h, f, kind, slice(2, 5)), points[2:5])


@pytest.mark.parametrize("shape", [(30, 5), (6, 9)])
def test_principal_components_are_scikit_learns(shape):
    from sklearn.decomposition import PCA

    h = torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    f = torch.zeros(shape[0], 2, dtype=torch.float64)
    theirs = PCA(3).fit_transform(h[1:].numpy())
    ours = sampling.principal(h[1:], 3).numpy()
    np.testing.assert_allclose(np.abs(ours), np.abs(theirs), atol=1e-9)
    kept = sampling.represented(h, f, "pca", slice(1, None))
    assert kept.shape == (shape[0] - 1, min(shape[0] - 1, shape[1]))
    # Turned, not bent: clusters by all components are those of the features.
    torch.testing.assert_close(torch.cdist(kept, kept), torch.cdist(h[1:], h[1:]))


def blobs(groups=6, each=20, seed=0):
    generator = torch.Generator().manual_seed(seed)
    centres = 10 * torch.randn(groups, 5, generator=generator)
    truth = torch.arange(groups).repeat_interleave(each)
    return centres[truth] + torch.randn(groups * each, 5, generator=generator), truth


def inertia(points, labels):
    total = 0.0
    for label in labels.unique():
        part = points[labels == label]
        total += float((part - part.mean(0)).square().sum())
    return total


def test_clusters_that_lie_apart_are_found_and_a_seed_repeats():
    points, truth = blobs()
    labels = sampling.clusters(points, 6, torch.Generator().manual_seed(1))
    assert inertia(points, labels) == pytest.approx(inertia(points, truth))
    assert torch.equal(labels, sampling.clusters(points, 6, torch.Generator().manual_seed(1)))
    pairs = {(int(one), int(other)) for one, other in zip(truth, labels, strict=True)}
    assert len(pairs) == 6


@pytest.mark.parametrize("seed", range(3))
def test_clusters_without_structure_are_about_as_tight_as_scikit_learns(seed):
    from sklearn.cluster import KMeans

    points = torch.rand(200, 8, generator=torch.Generator().manual_seed(seed))
    ours = inertia(points, sampling.clusters(points, 16, torch.Generator().manual_seed(seed)))
    theirs = KMeans(16, n_init=3, random_state=seed).fit(points.numpy()).inertia_
    assert ours < 1.08 * theirs


def test_no_global_generator_is_read_and_every_point_can_be_its_own_cluster():
    points, _ = blobs(groups=3, each=3)
    before = torch.get_rng_state()
    labels = sampling.clusters(points, 9, torch.Generator().manual_seed(0))
    assert torch.equal(torch.get_rng_state(), before)
    assert sorted(labels.tolist()) == list(range(9))
    same = torch.ones(5, 2)
    assert sampling.clusters(same, 3, torch.Generator().manual_seed(0)).shape == (5,)


def test_more_clusters_than_points_are_refused():
    with pytest.raises(ValueError, match="10 clusters of 9 points are not possible"):
        sampling.clusters(blobs(groups=3, each=3)[0], 10, torch.Generator())


def test_sampling_takes_low_weights_of_each_cluster_and_with_two_ways_high_ones_too():
    points, truth = blobs(groups=4, each=10)
    weights = torch.arange(40.0)[torch.randperm(40, generator=torch.Generator().manual_seed(2))]
    fields = {"count": 4, "batch": 4, "representation": "raw", "start": 0, "end": 1000}
    for two_way in (False, True):
        chosen = sampling.clustered(
            weights, points, points, two_way=two_way, generator=torch.Generator().manual_seed(0), **fields
        )
        wanted = set()
        for group in range(4):
            members = torch.nonzero(truth == group).flatten()
            wanted.add(int(members[weights[members].argmin()]))
            if two_way:
                wanted.add(int(members[weights[members].argmax()]))
        assert set(chosen.tolist()) == wanted


def test_the_posterior_is_bayes_rule_and_knows_its_prior():
    rng = np.random.default_rng(0)
    z, y = rng.normal(size=(30, 4)), rng.normal(size=30)
    mean, covariance = sampling.posterior(torch.tensor(z), torch.tensor(y), prior=2.0, noise=0.5)
    precision = np.eye(4) / 2.0
    linear = np.zeros(4)
    for row, target in zip(z, y, strict=True):
        precision += np.outer(row, row) / 0.5
        linear += row * target / 0.5
    np.testing.assert_allclose(mean.numpy(), np.linalg.solve(precision, linear))
    np.testing.assert_allclose(covariance.numpy(), 2.0 * np.linalg.inv(precision))
    nothing, wide = sampling.posterior(torch.zeros(0, 4), torch.zeros(0), prior=2.0, noise=0.5)
    assert not nothing.any()
    np.testing.assert_allclose(wide.numpy(), 4.0 * np.eye(4))


def test_detectors_are_drawn_from_their_mean_and_covariance():
    mean = torch.tensor([1.0, -2.0], dtype=torch.float64)
    covariance = torch.tensor([[2.0, 0.6], [0.6, 0.5]], dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    drawn = torch.stack([sampling.sampled_detector(mean, covariance, generator) for _ in range(4000)])
    torch.testing.assert_close(drawn.mean(0), mean, rtol=0, atol=0.1)
    torch.testing.assert_close(drawn.T.cov(), covariance, rtol=0, atol=0.15)
