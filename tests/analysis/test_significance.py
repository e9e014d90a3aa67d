"""Against SciPy, scikit-posthocs, slow loops and printed values; each with one property."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from analysis import significance
from search_spaces.study import TESTS

# Student, Biometrika 6 (1908): additional hours of sleep, drug 1 minus drug 2 (R's data set `sleep`).
SLEEP = np.array([0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]) - np.array(
    [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]
)
# Darwin's maize, cross- minus self-fertilised, eighths of an inch: Fisher, Design of Experiments (1935), section 17.
DARWIN = np.array([49, -67, 8, 16, 6, 23, 28, 41, 14, 29, 56, 24, 75, 60, -48], dtype=float)
# Hollander and Wolfe (1973), p. 29: depression scale, first minus second visit (example of R's wilcox.test).
DEPRESSION = np.array([1.83, 0.50, 1.62, 2.48, 1.68, 1.88, 1.55, 3.06, 1.30]) - np.array(
    [0.878, 0.647, 0.598, 2.05, 1.06, 1.29, 1.06, 3.14, 1.29]
)
# Hollander and Wolfe (1973), p. 140: seconds to round first base, 22 players, 3 methods (example of R's friedman.test).
# fmt: off
ROUNDING = np.array(
    [
        [5.40, 5.50, 5.55],
        [5.85, 5.70, 5.75],
        [5.20, 5.60, 5.50],
        [5.55, 5.50, 5.40],
        [5.90, 5.85, 5.70],
        [5.45, 5.55, 5.60],
        [5.40, 5.40, 5.35],
        [5.45, 5.50, 5.35],
        [5.25, 5.15, 5.00],
        [5.85, 5.80, 5.70],
        [5.25, 5.20, 5.10],
        [5.65, 5.55, 5.45],
        [5.60, 5.35, 5.45],
        [5.05, 5.00, 4.95],
        [5.50, 5.50, 5.40],
        [5.45, 5.55, 5.50],
        [5.55, 5.55, 5.35],
        [5.45, 5.50, 5.55],
        [5.50, 5.45, 5.25],
        [5.65, 5.60, 5.40],
        [5.70, 5.65, 5.55],
        [6.30, 6.30, 6.25],
    ]
)
# fmt: on

samples = st.lists(st.integers(-40, 40), min_size=2, max_size=9).map(lambda xs: np.array(xs) / 8)


def brute_sign_flip(values: np.ndarray, side: str) -> float:
    sums = np.array([np.dot(signs, np.abs(values)) for signs in itertools.product((-1, 1), repeat=len(values))])
    seen = values.sum()
    near = 1e-9
    upper, lower = np.mean(sums >= seen - near), np.mean(sums <= seen + near)
    return {"greater": upper, "less": lower, "two-sided": np.mean(np.abs(sums) >= abs(seen) - near)}[side]


def test_paired_t_is_students_own_example() -> None:
    assert significance.paired_t(SLEEP) == pytest.approx(0.002833, abs=5e-7)  # R: t = -4.0621, df = 9


@pytest.mark.parametrize("side", ["two-sided", "greater", "less"])
@pytest.mark.parametrize("shift", [0.0, 0.5])
def test_paired_t_is_scipys(side: str, shift: float) -> None:
    expected = stats.ttest_1samp(DARWIN, shift, alternative=side).pvalue
    assert significance.paired_t(DARWIN, shift, side) == pytest.approx(expected, rel=1e-12)


def test_paired_t_has_no_answer_without_variation() -> None:
    assert np.isnan(significance.paired_t([0.1 + 0.2, 0.3, 0.3]))


@given(samples, st.floats(0.1, 100))
def test_paired_t_does_not_depend_on_unit_or_direction(values: np.ndarray, unit: float) -> None:
    p = significance.paired_t(values)
    assert significance.paired_t(-values * unit) == pytest.approx(p, rel=1e-9, nan_ok=True)


def test_sign_flip_is_fishers_count() -> None:
    # Fisher (1935), section 21: 863 of the 32,768 sums reach 314, so 1,726 in both directions.
    assert significance.sign_flip(DARWIN) == 1726 / 32768
    assert significance.sign_flip(DARWIN, side="greater") == 863 / 32768


@given(samples, st.sampled_from(["two-sided", "greater", "less"]))
def test_sign_flip_counts_all_sign_vectors(values: np.ndarray, side: str) -> None:
    assert significance.sign_flip(values, side=side) == pytest.approx(brute_sign_flip(values, side), abs=1e-12)


@given(samples, st.floats(0.01, 100))
def test_sign_flip_does_not_depend_on_unit_order_or_direction(values: np.ndarray, unit: float) -> None:
    assert significance.sign_flip(-unit * values[::-1]) == pytest.approx(significance.sign_flip(values), abs=1e-12)


def test_sign_flip_at_thirty_differences_is_near_scipys_monte_carlo() -> None:
    values = np.random.default_rng(3).normal(0.25, 1, 30)
    reference = stats.permutation_test(
        (values,), np.sum, permutation_type="samples", n_resamples=20_000, rng=np.random.default_rng(4)
    ).pvalue
    assert significance.sign_flip(values) == pytest.approx(reference, abs=4 * np.sqrt(reference / 20_000))


def test_sign_flip_beyond_the_exact_limit_repeats_and_is_near_t() -> None:
    values = np.random.default_rng(5).normal(0.3, 1, 60)
    first = significance.sign_flip(values, generator=np.random.default_rng(0))
    assert first == significance.sign_flip(values, generator=np.random.default_rng(0))
    assert first == pytest.approx(significance.paired_t(values), rel=0.1)


def test_sign_flip_beyond_the_exact_limit_asks_for_a_generator() -> None:
    with pytest.raises(ValueError, match="pass a generator"):
        significance.sign_flip(np.ones(41))


@pytest.mark.parametrize("n", [1, 3, 5, 10])
def test_smallest_attainable_p_is_that_of_equal_signs(n: int) -> None:
    values = np.linspace(1, 2, n)
    assert significance.sign_flip(values) == significance.sign_flip_attainable(n)
    assert significance.wilcoxon(values) == significance.sign_flip_attainable(n)


def test_wilcoxon_is_the_printed_value() -> None:
    assert significance.wilcoxon(DEPRESSION, "greater") == pytest.approx(0.01953, abs=5e-6)  # R: V = 40


@given(st.lists(st.integers(1, 10_000), min_size=2, max_size=20, unique=True), st.integers(0, 2**20))
def test_wilcoxon_without_ties_is_scipys(sizes: list[int], signs: int) -> None:
    values = np.array([size * (1 if signs >> i & 1 else -1) for i, size in enumerate(sizes)], dtype=float)
    for side in ("two-sided", "greater", "less"):
        expected = stats.wilcoxon(values, alternative=side, method="exact").pvalue
        assert significance.wilcoxon(values, side) == pytest.approx(expected, abs=1e-12)


@given(samples)
def test_wilcoxon_with_ties_and_zeros_is_a_sign_flip_of_pratts_ranks(values: np.ndarray) -> None:
    ranks = stats.rankdata(np.abs(values))
    signed = np.where(values == 0, 0.0, ranks * np.sign(values))
    for side in ("greater", "less"):
        assert significance.wilcoxon(values, side) == pytest.approx(brute_sign_flip(signed, side), abs=1e-12)


def test_wilcoxon_of_zeros_says_nothing() -> None:
    assert significance.wilcoxon(np.zeros(8)) == 1.0


def slow_bayesian(values: np.ndarray, rope: float, weights: np.ndarray) -> np.ndarray:
    z = [0.0, *values]
    wins = np.zeros(3)
    for w in weights:
        mass = np.zeros(3)
        for i, j in itertools.product(range(len(z)), repeat=2):
            region = 0 if z[i] + z[j] < -2 * rope else 2 if z[i] + z[j] > 2 * rope else 1
            mass[region] += w[i] * w[j]
        wins[np.argmax(mass)] += 1
    return wins / len(weights)


def test_bayesian_signed_rank_is_the_slow_loop() -> None:
    values, draws = DARWIN[:6] / 50, 200
    found = significance.bayesian_signed_rank(values, 0.2, generator=np.random.default_rng(1), draws=draws)
    weights = np.random.default_rng(1).dirichlet([0.5, *[1.0] * 6], size=draws)
    assert (found.below, found.within, found.above) == pytest.approx(slow_bayesian(values, 0.2, weights))


def test_bayesian_signed_rank_limits() -> None:
    random = np.random.default_rng(2)
    assert significance.bayesian_signed_rank(DARWIN, 1e6, generator=random).within == 1.0
    assert significance.bayesian_signed_rank(np.full(30, 5.0), 0.0, generator=random).above == 1.0


def test_bayesian_signed_rank_mirrors() -> None:
    one = significance.bayesian_signed_rank(SLEEP, 0.1, generator=np.random.default_rng(0))
    other = significance.bayesian_signed_rank(-SLEEP, 0.1, generator=np.random.default_rng(0))
    assert (one.below, one.within, one.above) == (other.above, other.within, other.below)


@settings(max_examples=25, deadline=None)
@given(samples, st.floats(0, 3), st.floats(0.25, 4))
def test_bayesian_signed_rank_has_no_unit_and_a_wider_region_holds_more(
    values: np.ndarray, rope: float, unit: float
) -> None:
    def found(scale: float, width: float) -> tuple[float, float, float]:
        posterior = significance.bayesian_signed_rank(
            scale * values, scale * width, generator=np.random.default_rng(0), draws=200
        )
        return posterior.below, posterior.within, posterior.above

    assert sum(found(1.0, rope)) == pytest.approx(1)
    assert found(2.0, rope) == found(1.0, rope), "a power of two rounds nothing"
    assert found(1.0, rope + unit)[1] >= found(1.0, rope)[1]


def _named(table: np.ndarray) -> dict[str, np.ndarray]:
    return {f"a{i}": column for i, column in enumerate(table.T)}


def test_friedman_is_the_printed_value() -> None:
    found = significance.ranks(_named(ROUNDING), higher_is_better=False)
    assert found is not None
    assert (found.statistic, found.p) == pytest.approx((11.143, 0.003805), abs=5e-4)  # R: df = 2
    assert found.n == 22


def test_post_hoc_tests_are_those_of_scikit_posthocs() -> None:
    import scikit_posthocs
    from statsmodels.stats.multitest import multipletests

    table = np.random.default_rng(7).normal(size=(9, 4)).round(1) + np.array([0, 0.5, 1, 0])
    found = significance.ranks(_named(table))
    assert found is not None
    first, second = np.triu_indices(4, 1)
    conover = scikit_posthocs.posthoc_conover_friedman(table).to_numpy()[first, second]
    nemenyi = scikit_posthocs.posthoc_nemenyi_friedman(table).to_numpy()[first, second]
    assert [pair.conover for pair in found.pairs] == pytest.approx(multipletests(conover, method="holm")[1], rel=1e-6)
    assert [pair.nemenyi for pair in found.pairs] == pytest.approx(nemenyi, abs=1e-6)


def test_critical_difference_is_demsars() -> None:
    # Demsar, JMLR 7 (2006), section 3.2.2: 4 classifiers on 14 data sets, q = 2.569, CD = 1.25; with alpha 0.10: 1.12.
    table = _named(np.random.default_rng(0).normal(size=(14, 4)))
    assert significance.ranks(table).critical_difference == pytest.approx(1.25, abs=0.005)
    assert significance.ranks(table, alpha=0.10).critical_difference == pytest.approx(1.12, abs=0.005)


@given(st.lists(st.lists(st.integers(-5, 5), min_size=3, max_size=3), min_size=2, max_size=8))
@settings(max_examples=25)
def test_ranks_do_not_depend_on_scale_or_on_blocks_level(rows: list[list[int]]) -> None:
    table = np.array(rows, dtype=float)
    moved = np.exp(table / 5) * 3 + 10 * np.arange(len(rows))[:, None]
    assert repr(significance.ranks(_named(table))) == repr(significance.ranks(_named(moved)))  # NaN is not itself


def test_ranks_of_perfect_order_and_of_ties() -> None:
    perfect = significance.ranks(_named(np.tile([3.0, 2.0, 1.0], (5, 1))))
    assert perfect.mean == {"a0": 1.0, "a1": 2.0, "a2": 3.0}
    assert perfect.p == pytest.approx(stats.chi2.sf(10, 2))
    assert all(np.isnan(pair.conover) for pair in perfect.pairs), "no noise, no t: not p = 0 of 5 blocks"
    gap = np.sqrt(3 * 4 / (6 * 5))
    assert perfect.pairs[1].nemenyi == pytest.approx(stats.studentized_range.sf(2 / gap * np.sqrt(2), 3, np.inf))
    level = significance.ranks(_named(np.ones((5, 3))))
    assert (level.statistic, level.p) == (0.0, 1.0)
    assert all(pair.conover == 1.0 for pair in level.pairs)


@pytest.mark.parametrize("shape", [(5, 2), (1, 4)])
def test_ranks_need_three_arms_and_two_blocks(shape: tuple[int, int]) -> None:
    assert significance.ranks(_named(np.zeros(shape))) is None


def test_differences_must_be_finite() -> None:
    with pytest.raises(ValueError, match="1 of 3 differences are not finite"):
        significance.paired_t([1.0, np.nan, 2.0])


def test_differences_must_be_one_dimensional() -> None:
    with pytest.raises(ValueError, match=r"shape \(2, 2\)"):
        significance.sign_flip(np.ones((2, 2)))


def test_every_test_that_a_contrast_may_declare_is_here() -> None:
    assert set(significance.PRIMARY) == set(TESTS)
