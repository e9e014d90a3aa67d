"""Against R's printed values, SciPy, slow loops and limits."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from analysis import effects
from analysis.significance import sign_flip
from tests.analysis.test_significance import DARWIN, SLEEP

samples = st.lists(st.integers(-40, 40), min_size=3, max_size=9, unique=True).map(lambda xs: np.array(xs) / 8)


def test_mean_t_is_rs_for_students_example() -> None:
    found = effects.mean_t(SLEEP)
    assert (found.estimate, found.low, found.high) == pytest.approx((-1.58, -2.4598858, -0.7001142), abs=5e-8)


@given(samples, st.floats(0.5, 0.999))
def test_mean_t_is_scipys(values: np.ndarray, level: float) -> None:
    expected = stats.ttest_1samp(values, 0).confidence_interval(level)
    found = effects.mean_t(values, level)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


@pytest.mark.parametrize("values", [[], [0.5], [0.5, 0.5, 0.5]])
def test_mean_t_has_no_bounds_without_variation(values: list[float]) -> None:
    found = effects.mean_t(values)
    assert math.isnan(found.low)
    assert math.isnan(found.high)
    assert math.isnan(found.estimate) == (not values)


@given(samples, st.sampled_from([0.5, 0.8, 0.9]))
def test_sign_flip_interval_holds_exactly_the_shifts_that_the_test_keeps(values: np.ndarray, level: float) -> None:
    """Inverted by brute force: just inside a bound the two one-sided tests keep the shift, just outside one rejects."""
    found = effects.sign_flip_interval(values, level)
    alpha, step = 1 - found.level, 1e-6

    def kept(shift: float) -> bool:
        sides = (sign_flip(values, shift, "greater"), sign_flip(values, shift, "less"))
        return min(sides) > alpha / 2 + 1e-12

    assert kept(found.low + step)
    assert kept(found.high - step)
    assert not kept(found.low - step)
    assert not kept(found.high + step)


def test_sign_flip_interval_says_which_level_five_differences_allow() -> None:
    found = effects.sign_flip_interval([0.1, 0.4, -0.2, 0.3, 0.25])
    assert (found.low, found.high, found.level) == (-0.2, 0.4, 0.9375)


def test_sign_flip_interval_is_near_t_for_normal_values() -> None:
    values = np.random.default_rng(0).normal(1, 1, 18)
    found, expected = effects.sign_flip_interval(values), effects.mean_t(values)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=0.08)


def test_random_subsets_are_near_all_subsets(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(1).normal(0, 1, 16)
    exact = effects.sign_flip_interval(values)
    monkeypatch.setattr(effects, "SUBSETS_LIMIT", 10)
    sampled = effects.sign_flip_interval(values, generator=np.random.default_rng(0))
    assert (sampled.low, sampled.high) == pytest.approx((exact.low, exact.high), abs=0.02)
    assert "random subsets" in sampled.method


def test_random_subsets_need_a_generator() -> None:
    with pytest.raises(ValueError, match="pass a generator"):
        effects.sign_flip_interval(np.arange(25.0))


def slow_bca(values: np.ndarray, resamples: np.ndarray) -> tuple[float, float]:
    """Efron and Tibshirani, An Introduction to the Bootstrap (1993), equations 14.9 to 14.15."""
    means = np.sort(values[resamples].mean(axis=1))
    bias = stats.norm.ppf(np.mean(means < values.mean()))
    jack = np.array([np.delete(values, i).mean() for i in range(values.size)])
    lean = jack.mean() - jack
    skew = (lean**3).sum() / (6 * (lean**2).sum() ** 1.5)

    def bound(z: float) -> float:
        return float(np.quantile(means, stats.norm.cdf(bias + (bias + z) / (1 - skew * (bias + z)))))

    return bound(stats.norm.ppf(0.025)), bound(stats.norm.ppf(0.975))


def test_bca_is_the_textbooks_up_to_resampling() -> None:
    values = np.random.default_rng(0).exponential(size=30)
    found = effects.bca(values, generator=np.random.default_rng(1))
    expected = slow_bca(values, np.random.default_rng(2).integers(0, 30, size=(40_000, 30)))
    assert (found.low, found.high) == pytest.approx(expected, abs=0.02)


def test_bca_repeats_with_its_generator_and_moves_with_the_data() -> None:
    one = effects.bca(DARWIN, generator=np.random.default_rng(0))
    again = effects.bca(DARWIN + 100, generator=np.random.default_rng(0))
    assert (one.low + 100, one.high + 100) == pytest.approx((again.low, again.high))


@settings(max_examples=15, deadline=None)
@given(samples, st.sampled_from([0.125, 1.0, 8.0]), st.integers(-8, 8))
def test_bca_moves_and_stretches_with_the_data_and_narrows_with_the_level(
    values: np.ndarray, unit: float, shift: int
) -> None:
    wide = effects.bca(values, generator=np.random.default_rng(0))
    moved = effects.bca(unit * values + shift, generator=np.random.default_rng(0))
    narrow = effects.bca(values, 0.5, generator=np.random.default_rng(0))
    assert (moved.low, moved.high) == pytest.approx((unit * wide.low + shift, unit * wide.high + shift), abs=1e-9)
    assert values.min() <= wide.low <= narrow.low <= narrow.high <= wide.high <= values.max()


def test_bca_has_no_bounds_without_variation() -> None:
    assert math.isnan(effects.bca(np.full(12, 0.3), generator=np.random.default_rng(0)).low)


def test_nadeau_bengio_is_the_formula() -> None:
    # Nadeau and Bengio (2003), equation 9, and its use for r-times k-fold in Bouckaert and Frank (2004).
    interval, p = effects.nadeau_bengio(DARWIN, 1 / 9)
    t = DARWIN.mean() / math.sqrt((1 / 15 + 1 / 9) * np.var(DARWIN, ddof=1))
    assert p == pytest.approx(2 * stats.t.sf(t, 14))
    assert interval.high - interval.low == pytest.approx(2 * stats.t.ppf(0.975, 14) * DARWIN.mean() / t)


@given(samples)
def test_nadeau_bengio_without_overlap_is_paired_t(values: np.ndarray) -> None:
    corrected, p = effects.nadeau_bengio(values, 1e-12)
    plain = effects.mean_t(values)
    assert (corrected.low, corrected.high) == pytest.approx((plain.low, plain.high), rel=1e-6)
    assert p == pytest.approx(stats.ttest_1samp(values, 0).pvalue, rel=1e-6)


def test_nadeau_bengio_needs_a_ratio() -> None:
    with pytest.raises(ValueError, match="test_to_train must be above 0"):
        effects.nadeau_bengio(DARWIN, 0.0)


def test_hedges_g_is_cohens_dz_corrected() -> None:
    # d_z of Student's data is -1.2846 (t / sqrt n); J(9) = 0.9139 to four digits, near 1 - 3 / (4 * 9 - 1) = 0.9143.
    assert effects.hedges_g(SLEEP) == pytest.approx(-4.0621 / math.sqrt(10) * 0.9139, abs=2e-4)


def test_hedges_g_is_unbiased() -> None:
    random = np.random.default_rng(0)
    found = [effects.hedges_g(row) for row in random.normal(0.5, 1, size=(20_000, 5))]
    assert np.mean(found) == pytest.approx(0.5, abs=4 * np.std(found) / math.sqrt(20_000))


@given(samples, st.floats(0.1, 10))
def test_effect_sizes_have_no_unit_and_turn_their_sign(values: np.ndarray, unit: float) -> None:
    for effect in (effects.hedges_g, effects.rank_biserial):
        assert effect(-unit * values) == pytest.approx(-effect(values), rel=1e-9, abs=1e-12)
    assert effects.superiority(-unit * values) == pytest.approx(1 - effects.superiority(values))


def test_rank_biserial_is_kerbys_example() -> None:
    # Kerby (2014): favourable less unfavourable share of the rank sum. Ranks 1..9, of R's example: V = 40 of 45.
    from tests.analysis.test_significance import DEPRESSION

    assert effects.rank_biserial(DEPRESSION) == pytest.approx((40 - 5) / 45)
    assert effects.rank_biserial(np.zeros(4)) == 0.0


@given(samples)
def test_superiority_is_a_count(values: np.ndarray) -> None:
    wins = sum(1.0 if value > 0 else 0.5 if value == 0 else 0.0 for value in values)
    assert effects.superiority(values) == pytest.approx(wins / len(values))


@given(st.integers(1, 4), st.integers(0, 99))
@settings(max_examples=10)
def test_interquartile_mean_is_the_mean_of_the_middle_half(datasets: int, seed: int) -> None:
    scores = np.random.default_rng(seed).normal(size=(8, datasets))
    ordered = sorted(itertools.chain.from_iterable(scores.tolist()))
    middle = ordered[2 * datasets : 6 * datasets]
    found = effects.interquartile_mean(scores, generator=np.random.default_rng(0))
    assert found.estimate == pytest.approx(sum(middle) / len(middle))
    assert found.low < found.estimate < found.high


def test_interquartile_mean_resamples_within_datasets_only() -> None:
    scores = np.tile([0.1, 0.5, 0.9, 0.2], (6, 1))
    found = effects.interquartile_mean(scores, generator=np.random.default_rng(0))
    assert (found.low, found.high) == pytest.approx((found.estimate, found.estimate))


def test_one_run_a_dataset_has_no_interval() -> None:
    found = effects.interquartile_mean([[0.1, 0.5, 0.9, 0.2]], generator=np.random.default_rng(0))
    assert found.estimate == pytest.approx(0.35)
    assert math.isnan(found.low)
    assert math.isnan(found.high)


def test_interquartile_mean_refuses_holes() -> None:
    with pytest.raises(ValueError, match="finite"):
        effects.interquartile_mean([[0.1, np.nan]], generator=np.random.default_rng(0))
