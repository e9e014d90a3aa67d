"""Against statsmodels, numerical integration and simulation."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats
from statsmodels.stats.power import TTestPower

from analysis import power
from analysis.significance import paired_t_rows
from search_spaces.study import Block, Contrast, Scale
from tests.analysis.frames import small_study


@pytest.mark.parametrize("n", [3, 5, 10, 40])
@pytest.mark.parametrize("effect", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("alpha", [0.05, 0.0071])
def test_power_of_a_difference_is_that_of_statsmodels(n: int, effect: float, alpha: float) -> None:
    expected = TTestPower().power(effect, n, alpha)
    assert power.power_difference(n, 0.02 * effect, 0.02, alpha) == pytest.approx(expected, abs=1e-6)


def integrated(n: int, effect: float, alpha: float) -> float:
    """The chance that |t| is above its quantile, integrated over the sample standard deviation."""
    critical, root = stats.t.isf(alpha / 2, n - 1), math.sqrt(n - 1)

    def beyond(s: float) -> float:
        tails = stats.norm.sf(critical * s - effect * math.sqrt(n)) + stats.norm.cdf(
            -critical * s - effect * math.sqrt(n)
        )
        return stats.chi.pdf(s * root, n - 1) * root * tails

    return integrate.quad(beyond, 0, 1, limit=200)[0] + integrate.quad(beyond, 1, 12, limit=200)[0]


@pytest.mark.parametrize(("n", "effect"), [(2, 10.0), (5, 3.0), (10, 3.0), (40, 3.0), (18, 2.0)])
def test_power_of_a_large_difference_where_others_give_nan(n: int, effect: float) -> None:
    assert power.power_difference(n, effect, 1.0, 0.05) == pytest.approx(integrated(n, effect, 0.05), abs=1e-6)


def owen(n: int, margin: float, sd: float, alpha: float, effect: float) -> float:
    """Phillips (1990): the chance that the mean lies inside, integrated over the sample standard deviation."""
    critical, error = stats.t.ppf(1 - alpha, n - 1), sd / math.sqrt(n)

    def inside(s: float) -> float:
        room = margin - critical * s * error
        if room <= 0:
            return 0.0
        density = stats.chi.pdf(s * math.sqrt(n - 1), n - 1) * math.sqrt(n - 1)
        return density * (stats.norm.cdf((room - effect) / error) - stats.norm.cdf((-room - effect) / error))

    return integrate.quad(inside, 0, margin / (critical * error), epsabs=1e-10)[0]


@pytest.mark.parametrize(("n", "sd", "alpha", "effect"), [(5, 0.5, 0.05, 0), (10, 1, 0.05, 0.2), (20, 1.5, 0.01, 0.5)])
def test_power_of_equivalence_is_owens_integral(n: int, sd: float, alpha: float, effect: float) -> None:
    found = power.power_equivalence(n, 1.0, sd, alpha, effect)
    assert found == pytest.approx(owen(n, 1.0, sd, alpha, effect), abs=5e-4)


@given(st.integers(2, 40), st.floats(0.1, 3), st.floats(0.001, 0.2))
@settings(max_examples=50)
def test_at_the_margin_equivalence_is_found_at_most_alpha_often(n: int, sd: float, alpha: float) -> None:
    assert power.power_equivalence(n, 1.0, sd, alpha, effect=1.0) <= alpha + 1e-3


@given(st.integers(2, 60), st.floats(0.01, 3), st.floats(0.01, 0.1))
@settings(max_examples=50)
def test_more_blocks_and_less_noise_help(n: int, sd: float, alpha: float) -> None:
    more = power.power_difference(n + 5, 1.0, sd, alpha)
    assert more >= power.power_difference(n, 1.0, sd, alpha) - 1e-9
    assert power.power_equivalence(n, 1.0, sd / 2, alpha) >= power.power_equivalence(n, 1.0, sd, alpha) - 1e-3


@pytest.mark.parametrize("n", [2, 5, 20])
def test_detectable_effect_has_the_power_it_says(n: int) -> None:
    effect = power.detectable(n, 0.03, 0.01)
    assert integrated(n, effect / 0.03, 0.01) == pytest.approx(0.8, abs=1e-6)


def test_blocks_for_a_difference_is_the_first_that_is_enough() -> None:
    needed = power.blocks_for_difference(0.01, 0.02)
    assert needed == math.ceil(TTestPower().solve_power(0.5, power=0.8, alpha=0.05))  # 33.4
    assert power.power_difference(needed - 1, 0.01, 0.02) < 0.8


def test_blocks_for_equivalence_is_the_first_that_is_enough() -> None:
    needed = power.blocks_for_equivalence(0.01, 0.02, effect=0.002)
    assert owen(needed, 0.01, 0.02, 0.05, 0.002) >= 0.8 > owen(needed - 1, 0.01, 0.02, 0.05, 0.002)


def test_some_questions_no_number_of_blocks_decides() -> None:
    assert power.blocks_for_difference(0.0, 1.0) is None
    assert power.blocks_for_equivalence(0.01, 0.02, effect=0.01) is None


def test_simulated_power_is_the_computed_one() -> None:
    draws = np.random.default_rng(0).normal(0.8, 1.0, size=(20_000, 8))
    found = np.mean(paired_t_rows(draws) <= 0.05)
    assert found == pytest.approx(power.power_difference(8, 0.8, 1.0), abs=0.015)


def test_below_two_blocks_nothing_is_found() -> None:
    assert power.power_difference(1, 1.0, 0.1) == 0.0
    assert power.power_equivalence(1, 1.0, 0.1) == 0.0
    assert power.detectable(1, 0.1) == math.inf


def test_design_is_at_the_strictest_step_of_the_largest_family() -> None:
    found = power.design(small_study(arms=4, blocks=5), "smoke")
    assert (found.blocks, found.contrasts, found.margin) == (5, 3, 0.01)
    assert found.attainable["sign-flip"] == 0.0625
    row = next(row for row in found.rows if row.sd == 0.005)
    assert row.difference == pytest.approx(TTestPower().power(2.0, 5, 0.05 / 3), abs=1e-6)
    assert row.equivalence == pytest.approx(owen(5, 0.01, 0.005, 0.05 / 3, 0.0), abs=5e-4)
    assert "cannot go below p = 0.0625" in found.notes[0]
    assert "takes 7 blocks" in found.notes[0]


def test_design_says_at_which_level_an_exact_test_cannot_reject() -> None:
    """2 / 2^6 = 0.031 is below 0.05, but above a third of it; 2 / 2^5 is above both."""
    six, five = (power.design(small_study(arms=4, blocks=n), "smoke").notes[0] for n in (6, 5))
    assert "so it cannot reject at 0.017, the strictest step of the correction; that takes 7 blocks" in six
    assert "so it cannot reject at 0.05, nor at 0.017, the strictest step of the correction; that takes 7" in five
    one = power.design(small_study(arms=2, blocks=5), "smoke").notes[0]
    assert "so it cannot reject at 0.05; that takes 6 blocks" in one


def test_a_contrast_without_blocks_is_not_every_contrast() -> None:
    blocks = tuple(Block(dataset=name, seed=seed) for name in ("digits", "mnist") for seed in range(5))
    pair = tuple(Contrast(arm="a1", reference="a0", dataset=name) for name in ("digits", "mnist"))
    study = small_study(scales=(Scale(name="smoke", blocks=blocks),), contrasts=pair)
    found = power.design(study, "smoke", blocks=5)
    assert found.notes == ("A contrast has 0 of these blocks, too few for any test: its verdict will be 'undecided'.",)


def test_design_of_one_block_says_that_nothing_can_be_decided() -> None:
    found = power.design(small_study(), "smoke", blocks=1)
    assert found.notes == (
        "With fewer than 2 blocks no test and no interval is possible: every verdict will be 'undecided'.",
    )
    assert all(row.detectable == math.inf for row in found.rows)


def test_design_without_margin_says_that_equivalent_is_out_of_reach() -> None:
    study = small_study(contrasts=(Contrast(arm="a1", reference="a0"),), blocks=10)
    found = power.design(study, "smoke")
    assert found.margin is None
    assert all(row.difference is None for row in found.rows)
    assert found.notes == ("A contrast without a margin can end 'better', 'worse' or 'undecided', never 'equivalent'.",)
