"""Against statsmodels and slow loops."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis import factorial
from search_spaces.study import Arm
from tests.analysis.frames import small_study


def tidy(y_NIJ: np.ndarray) -> pd.DataFrame:
    n, i, j = np.indices(y_NIJ.shape)
    return pd.DataFrame({"y": y_NIJ.ravel(), "block": n.ravel(), "a": i.ravel(), "b": j.ravel()})


def outcomes(seed: int = 0, shape: tuple[int, int, int] = (6, 3, 2)) -> np.ndarray:
    random = np.random.default_rng(seed)
    effect = np.linspace(0, 1, shape[1])[:, None] * np.linspace(0.5, 1, shape[2])
    return random.normal(size=shape) + random.normal(size=(shape[0], 1, 1)) + effect


@pytest.mark.parametrize("shape", [(6, 3, 2), (4, 2, 5)])
def test_anova_is_that_of_statsmodels(shape: tuple[int, int, int]) -> None:
    import statsmodels.formula.api as smf
    from statsmodels.stats.anova import anova_lm

    y = outcomes(shape=shape)
    expected = anova_lm(smf.ols("y ~ C(block) + C(a) * C(b)", tidy(y)).fit())["PR(>F)"]
    assert factorial.anova(y) == pytest.approx(expected[["C(a)", "C(b)", "C(a):C(b)"]].to_numpy())


def test_aligned_ranks_are_built_cell_by_cell() -> None:
    from scipy import stats

    y = outcomes(1)
    grand, cell, block = y.mean(), y.mean(axis=0), y.mean(axis=(1, 2))
    aligned = np.empty_like(y)
    for n, i, j in np.ndindex(y.shape):
        residual = y[n, i, j] - cell[i, j] - block[n] + grand
        aligned[n, i, j] = residual + cell[i, j] - y[:, i].mean() - y[:, :, j].mean() + grand
    ranks = stats.rankdata(aligned).reshape(y.shape)
    assert factorial.aligned_ranks(y)[2] == pytest.approx(factorial.anova(ranks)[2])


def test_aligned_ranks_of_one_effect_leave_the_others_alone() -> None:
    """Shifting whole rows moves the first factor only: the aligned ranks of the others do not see it."""
    y = outcomes(2)
    moved = y + np.array([0.0, 5.0, -3.0])[:, None]
    before, after = factorial.aligned_ranks(y), factorial.aligned_ranks(moved)
    assert after[1:] == pytest.approx(before[1:])
    assert after[0] < before[0]


def test_block_levels_do_not_matter() -> None:
    y = outcomes(3)
    moved = y + 100 * np.arange(6)[:, None, None]
    assert factorial.anova(moved) == pytest.approx(factorial.anova(y))
    assert factorial.aligned_ranks(moved) == pytest.approx(factorial.aligned_ranks(y))


@given(st.integers(0, 999), st.integers(-4, 4), st.sampled_from([0.25, 2.0]))
def test_order_unit_and_block_levels_do_not_matter_and_factors_swap(seed: int, shift: int, unit: float) -> None:
    y = outcomes(seed)
    random = np.random.default_rng(seed)
    other = unit * y[random.permutation(6)][:, random.permutation(3)] + shift * np.arange(6)[:, None, None]
    for test in (factorial.anova, factorial.aligned_ranks):
        before = test(y)
        assert test(other) == pytest.approx(before, rel=1e-6, abs=1e-12)
        rows, columns, both = test(y.transpose(0, 2, 1))
        assert (columns, rows, both) == pytest.approx(before, rel=1e-6, abs=1e-12)


def test_error_rate_of_the_interaction_tests() -> None:
    random = np.random.default_rng(0)
    y = random.standard_t(3, size=(800, 6, 2, 3)) + np.array([0.0, 3.0])[:, None]
    plain = np.mean([factorial.anova(draw)[2] <= 0.05 for draw in y])
    ranked = np.mean([factorial.aligned_ranks(draw)[2] <= 0.05 for draw in y])
    assert plain <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 800)
    assert ranked <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 800)


def test_nothing_varying_has_no_p() -> None:
    y = np.broadcast_to(np.arange(6.0).reshape(2, 3), (4, 2, 3))
    assert np.isnan(factorial.anova(y)).all()


def slow_shares(means: np.ndarray) -> list[float]:
    rows, columns = means.shape
    grand = sum(means.flat) / means.size
    total = sum((x - grand) ** 2 for x in means.flat) / means.size
    first = sum((sum(means[i]) / columns - grand) ** 2 for i in range(rows)) / rows
    second = sum((sum(means[:, j]) / rows - grand) ** 2 for j in range(columns)) / columns
    return [first / total, second / total, (total - first - second) / total]


@given(st.integers(2, 4), st.integers(2, 4), st.integers(0, 999))
def test_variance_shares_are_the_slow_loop_and_add_to_one(rows: int, columns: int, seed: int) -> None:
    means = np.random.default_rng(seed).normal(size=(rows, columns))
    found = factorial.variance_shares(means)
    assert found == pytest.approx(slow_shares(means))
    assert sum(found) == pytest.approx(1)


def test_variance_shares_of_an_additive_table_have_no_interaction() -> None:
    found = factorial.variance_shares(np.array([[0.0], [1.0]]) + np.array([0.0, 0.0, 0.0]))
    assert found == pytest.approx((1, 0, 0))


def _crossed(levels: tuple[tuple[object, ...], tuple[object, ...]] = ((0.1, 0.5), (2, 4, 8))) -> tuple[Arm, ...]:
    return tuple(
        Arm(name=f"p{p}k{k}", config={"width": 8}, factors={"p": p, "k": k}) for p in levels[0] for k in levels[1]
    )


def _values(arms: tuple[Arm, ...], y: np.ndarray) -> dict[str, dict[str, float]]:
    flat = y.reshape(len(y), -1)
    return {arm.name: {f"b{n}": float(flat[n, i]) for n in range(len(y))} for i, arm in enumerate(arms)}


def test_analysis_of_a_crossed_study() -> None:
    arms = _crossed()
    y = outcomes(4, (5, 2, 3))
    study = small_study(arms=3, blocks=5)
    study = type(study)(**{**vars(study), "arms": (*study.arms, *arms)})
    values = {**{arm.name: {} for arm in study.arms}, **_values(arms, y)}
    found = factorial.analyse(values, study)
    assert found.factors == ("p", "k")
    assert found.levels == (("0.1", "0.5"), ("2", "4", "8"))
    assert found.cells["0.5", "8"] == "p0.5k8"
    assert found.means["0.5", "8"] == pytest.approx(y[:, 1, 2].mean())
    assert found.marginal["k"]["4"].estimate == pytest.approx(y[:, :, 1].mean())
    assert [effect.name for effect in found.effects] == ["p", "k", "p:k"]
    assert tuple(effect.p for effect in found.effects) == pytest.approx(factorial.anova(y))


def test_a_cell_that_failed_on_a_block_takes_the_block_out_for_all() -> None:
    arms = _crossed()
    values = _values(arms, outcomes(5, (5, 2, 3)))
    del values[arms[-1].name]["b0"]
    study = small_study(contrasts=(), secondary=())
    study = type(study)(**{**vars(study), "arms": arms, "baseline": arms[0].name})
    assert factorial.analyse(values, study).n == 4


def test_no_analysis_of_a_table_with_a_hole() -> None:
    arms = _crossed()[:-1]
    study = small_study(contrasts=(), secondary=())
    study = type(study)(**{**vars(study), "arms": arms, "baseline": arms[0].name})
    assert factorial.analyse(_values(_crossed(), outcomes(6, (5, 2, 3))), study) is None
    assert factorial.analyse({"a0": {}}, small_study()) is None
