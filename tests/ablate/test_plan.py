"""Ids hash what determines the numbers and nothing else; the plan is complete, without repeats, and in order."""

import dataclasses
import hashlib
import json

import pytest

from ablate.plan import plan, trial_id
from search_spaces.study import Arm, Block, Scale, StudyError
from tests.ablate import walks
from trainables.protocol import Needed

SCORED = walks.study("scored", {"near": walks.Score(network=Needed("walk", walks.Walk())), "walker": walks.Walk()}, 2)


def test_id_is_the_digest_of_canonical_json():
    found = trial_id("walk", {"b": (1, 2.5), "a": None}, {"protocol": "digits", "split": 0}, 3)
    text = (
        '{"config":{"a":null,"b":[1,2.5]},"data":{"protocol":"digits","split":0},"method":"walk","schema":1,"seed":3}'
    )
    assert found == hashlib.sha256(text.encode()).hexdigest()[:16]


@pytest.mark.parametrize(
    "change",
    [
        {"method": "other"},
        {"config": {"drift": 0.5}},
        {"data": {"protocol": "digits", "split": 1}},
        {"seed": 1},
    ],
)
def test_id_changes_with_all_that_matters(change):
    same = {"method": "walk", "config": {"drift": 0.0}, "data": {"protocol": "digits", "split": 0}, "seed": 0}
    assert trial_id(**same) != trial_id(**(same | change))


def test_same_trial_in_two_studies_has_one_id():
    other = dataclasses.replace(walks.walk, name="other", question="?", arms=walks.walk.arms[::-1])
    assert {t.id for t in plan(walks.walk, "smoke").trials} == {t.id for t in plan(other, "smoke").trials}


def test_order_is_block_major_and_each_cell_is_there_once():
    whole = plan(walks.walk, "smoke")
    cells = [(cell.block.seed, cell.arm) for cell in whole.cells]
    assert cells == [(seed, arm) for seed in range(3) for arm in ("still", "right")]
    assert [cell.trial for cell in whole.cells] == [trial.id for trial in whole.trials]


def test_needed_trial_comes_first_and_is_shared_with_the_arm_that_is_the_same():
    whole = plan(SCORED, "smoke")
    assert len(whole.trials) == 4
    for walker, scorer in zip(whole.trials[::2], whole.trials[1::2], strict=True):
        assert (walker.method, scorer.method) == ("walk", "score")
        assert scorer.needs == {"network": walker.id}
        assert scorer.config["network"] == {"trial": walker.id}


def test_scale_settings_reach_the_needed_config_too():
    scale = Scale(name="laptop", blocks=(Block(dataset="digits"),), settings={"epochs": 9})
    study = dataclasses.replace(SCORED, scales=(*SCORED.scales, scale))
    walker, scorer = plan(study, "laptop").trials
    assert walker.config["epochs"] == 9
    assert "epochs" not in scorer.config


def test_arms_and_blocks_narrow_the_plan_without_changing_ids():
    whole, part = plan(walks.walk, "smoke"), plan(walks.walk, "smoke", arms=["right"], blocks=2)
    assert [cell.arm for cell in part.cells] == ["right", "right"]
    assert {trial.id for trial in part.trials} < {trial.id for trial in whole.trials}


def test_plan_survives_the_studys_json_form():
    again = type(SCORED).from_plain(json.loads(json.dumps(SCORED.to_plain())))
    assert plan(again, "smoke").trials == plan(SCORED, "smoke").trials


def test_unknown_arm_names_the_nearest():
    with pytest.raises(StudyError, match="Did you mean 'right'"):
        plan(walks.walk, "smoke", arms=["rigth"])


OTHERS = dataclasses.replace(SCORED.scales[0], needed_data={"before": {"protocol": "digits-known", "side": 16}})


def on_others(scale: Scale):
    """The plan of a study whose one arm scores walks on other data."""
    arm = Arm(name="near", method="score", config=walks.Score(network=Needed("walk", walks.Walk(), data="before")))
    return plan(dataclasses.replace(SCORED, arms=(arm,), contrasts=(), scales=(scale,)), "smoke")


def test_a_needed_trial_may_have_other_data_with_the_blocks_seed_and_split():
    block = Block(dataset="digits-others", split=3, seed=7)
    walker, scorer = on_others(dataclasses.replace(OTHERS, blocks=(block,))).trials
    assert walker.data == {"protocol": "digits-known", "split": 3, "side": 16}
    assert scorer.data == {"protocol": "digits-others", "split": 3}
    assert (walker.seed, scorer.seed) == (7, 7)
    assert scorer.config["network"] == {"trial": walker.id}
    fixed = dataclasses.replace(OTHERS, blocks=(block,), needed_data={"before": {"protocol": "mnist", "split": 0}})
    assert on_others(fixed).trials[0].data["split"] == 0


def test_needed_data_are_part_of_the_identity_and_survive_the_json_form():
    one, other = on_others(OTHERS), on_others(dataclasses.replace(OTHERS, needed_data={"before": {"protocol": "svhn"}}))
    assert {t.id for t in one.trials}.isdisjoint(t.id for t in other.trials)
    again = type(one.study).from_plain(json.loads(json.dumps(one.study.to_plain())))
    assert plan(again, "smoke").trials == one.trials


def test_trials_on_one_data_set_are_shared_by_blocks_on_several():
    blocks = (Block(dataset="digits"), Block(dataset="digits-others"))
    trials = on_others(dataclasses.replace(OTHERS, blocks=blocks)).trials
    assert [trial.method for trial in trials] == ["walk", "score", "score"]
