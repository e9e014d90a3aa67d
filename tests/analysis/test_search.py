"""analysis.search: the Pareto front against a slow loop, and what table, headline and figure say of a search."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis import designs, search, wording
from analysis.contrasts import compare
from search_spaces.study import Parameter, Tuning
from tests.analysis import samples

POINTS = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=12)


@given(POINTS, st.tuples(st.booleans(), st.booleans()))
def test_the_front_is_what_nothing_dominates(points, higher):
    def beats(one, other):
        gains = [(a - b) * (1 if up else -1) for a, b, up in zip(one, other, higher, strict=True)]
        return all(gain >= 0 for gain in gains) and any(gain > 0 for gain in gains)

    expected = [not any(beats(other, one) for other in points) for one in points]
    assert search.front(points, higher) == expected


def searched():
    """Four configurations in six arms, one of them pruned; AUROC rises with the arm's number."""
    study = samples.study(6, 3, equivalence=False)
    names = ["paper", "t01", "t01-short", "t02", "t02-short", "t03-short"]
    arms = tuple(
        replace(arm, name=name, label="", config={"layers": 1, "epochs": 6, "weight": 0.1 * index})
        for index, (arm, name) in enumerate(zip(study.arms, names, strict=True))
    )
    tuning = Tuning(
        parameters=(Parameter(name="weight", low=0.0, high=1.0),),
        objectives=("auroc", "loss"),
        configurations={"laptop": 4, "paper": 4},
    )
    scales = tuple(replace(scale, settings={}) for scale in study.scales)
    return replace(
        study,
        arms=arms,
        baseline="paper",
        contrasts=(),
        published=(),
        scales=scales,
        tuning=tuning,
        secondary=study.secondary,
    )


@pytest.fixture(scope="module")
def found():
    study = searched()
    frame = samples.frame(study, effect=0.02)
    return study, frame, compare(frame, study)


def test_each_configuration_is_there_once_as_it_was_trained_longest(found):
    study, _, findings = found
    made = search.candidates(findings, study)
    assert [(one.arm, one.pruned) for one in made] == [
        ("paper", False),
        ("t01", False),
        ("t02", False),
        ("t03", True),
    ]
    assert [one.values["weight"] for one in made] == pytest.approx([0.0, 0.1, 0.3, 0.5])
    means = {arm.arm: arm.mean.estimate for arm in findings.arms}
    losses = {arm.arm: arm.mean.estimate for arm in findings.secondary["loss"]}
    assert made[2].objectives == (means["t02"], losses["t02"])
    assert made[3].objectives == (means["t03-short"], losses["t03-short"])
    whole = [one for one in made if not one.pruned]
    assert [one.best for one in whole] == search.front([one.objectives for one in whole], (True, False))
    assert not made[3].best, "a short run is no result"


def asked(found):
    study, _, findings = found
    return search.candidates(findings, study), search.quantities(findings, study)


def test_the_headline_warns_and_no_test_is_made(found):
    study, _, findings = found
    said = wording.headline(findings, study)
    best = max((one for one in search.candidates(findings, study) if not one.pruned), key=lambda one: one.objectives[0])
    assert f"Of 4 configurations tried, {best.arm} has the best AUROC" in said
    assert said.count(" has ") == len({top.arm for top in search.tops(*asked(found))})
    assert "fresh seeds" in said
    assert findings.ranks is None
    assert findings.contrasts == ()


def test_the_table_has_a_row_for_each_and_says_which_were_pruned(found):
    study, _, findings = found
    table = search.table(findings, study)
    assert [row.cells[0] for row in table.rows] == ["paper", "t01", "t02", "t03"]
    assert table.rows[3].cells[-1] == "pruned: short run"
    assert search.table(findings, samples.study()) is None


def test_the_figure_has_a_point_for_each(found):
    study, _, findings = found
    picture = designs.found(findings, study)
    axes = picture.draw().axes[0]
    drawn = sorted(tuple(np.ravel(line.get_xydata())) for line in axes.lines)
    shown = search.quantities(findings, study)
    expected = sorted(
        tuple(value * quantity.unit for value, quantity in zip(one.objectives, shown, strict=True))
        for one in search.candidates(findings, study)
    )
    np.testing.assert_allclose(drawn, expected)
    assert designs.found(findings, samples.study()) is None
