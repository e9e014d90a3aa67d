"""What every study of the catalogue must keep, entered by being listed. Nothing is trained here."""

import dataclasses
import json
from collections.abc import Iterator

import pytest

from ablate.plan import Plan, plan
from search_spaces import catalogue
from search_spaces.study import SCALES, Block, Study, configured
from trainables import catalogue as methods
from trainables.config import from_plain
from trainables.data_protocols import PROTOCOLS, DataSpec
from trainables.metrics import DIRECTION
from trainables.protocol import Needed

STUDIES = catalogue.imported()
AT_SCALES = [(name, scale.name) for name, study in STUDIES.items() for scale in study.scales]

every_study = pytest.mark.parametrize("study", STUDIES.values(), ids=STUDIES.keys())
at_every_scale = pytest.mark.parametrize(("name", "scale"), AT_SCALES)


@pytest.fixture(scope="module")
def plans() -> dict[tuple[str, str], Plan]:
    return {(name, scale): plan(STUDIES[name], scale) for name, scale in AT_SCALES}


@every_study
def test_a_study_has_the_scales_in_order_of_cost(study):
    names = [scale.name for scale in study.scales]
    assert names == [name for name in SCALES if name in names]
    assert {"smoke", "laptop", "gpu", "paper"} <= set(names)
    assert all(scale.note for scale in study.scales)


@every_study
def test_a_study_says_where_it_comes_from_and_what_it_asks(study):
    assert study.question.endswith("?")
    assert study.source.paper
    assert study.source.where
    assert bool(study.contrasts) != bool(study.tuning), "a study compares, or it searches"


@every_study
def test_metrics_are_ones_that_are_reported_and_point_the_right_way(study):
    for outcome in (study.outcome, *study.secondary):
        assert DIRECTION[outcome.metric] == outcome.higher_is_better
    assert {number.metric for number in study.published} <= set(DIRECTION)


@every_study
def test_contrasts_are_declared_once_and_compare_arms_that_differ(study):
    pairs = [(frozenset((contrast.arm, contrast.reference)), contrast.dataset) for contrast in study.contrasts]
    assert len(set(pairs)) == len(pairs)
    for scale in study.scales:
        for contrast in study.contrasts_at(scale.name):
            for dataset in [contrast.dataset] if contrast.dataset else scale.datasets:
                arms = [study.arm(name) for name in (contrast.arm, contrast.reference)]
                one, other = (configured(arm.config, scale.settings_for(arm, dataset)) for arm in arms)
                assert one != other, f"{contrast.arm} and {contrast.reference} are one trial on {dataset}"


@every_study
def test_every_scale_has_a_contrast_with_at_least_two_blocks(study):
    for scale in study.scales:
        shared = [
            [block for block in scale.blocks if contrast.dataset in ("", block.dataset)]
            for contrast in study.contrasts_at(scale.name)
        ]
        assert bool(shared) != bool(study.tuning)
        assert all(len(own) >= 2 for own in shared)


@every_study
def test_published_numbers_name_an_arm_or_a_method_that_is_not_run_here(study):
    arms = {arm.name for arm in study.arms}
    cells = [(number.arm, number.dataset, number.metric) for number in study.published]
    assert len(set(cells)) == len(cells)
    for number in study.published:
        assert number.where
        assert number.dataset in PROTOCOLS
        assert number.metric == "intrinsic_dimension" or 0 <= number.value <= 100
        assert number.arm in arms or number.arm.lower() not in {arm.lower() for arm in arms}
    printed = {number.dataset for number in study.published if number.arm in arms}
    assert printed <= {dataset for scale in study.scales for dataset in scale.datasets}


@every_study
def test_factors_are_complete_and_tell_the_arms_apart(study):
    levels = [tuple(arm.factors.items()) for arm in study.arms]
    if any(levels):
        assert len({tuple(arm.factors) for arm in study.arms}) == 1
        assert len(set(levels)) == len(study.arms)


@at_every_scale
def test_blocks_are_splits_that_exist(name, scale):
    size = STUDIES[name].scale(scale)
    for block in size.blocks:
        assert block.dataset in PROTOCOLS
        DataSpec(protocol=block.dataset, split=block.split, **size.data)
        assert block.split in range(5)


def typed(method: str, plan_: Plan, config: dict) -> object:
    """A planned trial's config as the worker will build it: checks every field."""
    by_id = {trial.id: trial for trial in plan_.trials}
    placed = dict(config)
    for field, value in config.items():
        if isinstance(value, dict) and "trial" in value:
            needed = by_id[value["trial"]]
            placed[field] = Needed(needed.method, typed(needed.method, plan_, needed.config))
    return from_plain(methods.find(method).config, placed)


@at_every_scale
def test_every_planned_config_is_valid_and_complete(plans, name, scale):
    found = plans[name, scale]
    for trial in found.trials:
        config = typed(trial.method, found, dict(trial.config))
        assert {field.name for field in dataclasses.fields(config)} == set(trial.config)


@at_every_scale
def test_cells_are_one_trial_only_where_the_arms_agree(plans, name, scale):
    """A trial fills two cells where two arms have one config: on MNIST in gradmix_protocols, nowhere else."""
    found = plans[name, scale]
    assert len({(cell.arm, cell.block) for cell in found.cells}) == len(found.cells)
    shared = [cell for cell in found.cells if sum(other.trial == cell.trial for other in found.cells) > 1]
    assert {cell.block.dataset for cell in shared} <= ({"mnist"} if name == "gradmix_protocols" else set())


@at_every_scale
def test_a_study_read_back_plans_the_same_trials(plans, name, scale):
    again = Study.from_plain(json.loads(json.dumps(STUDIES[name].to_plain())))
    assert [(t.id, t.config) for t in plan(again, scale).trials] == [
        (t.id, json.loads(json.dumps(t.config))) for t in plans[name, scale].trials
    ]


@at_every_scale
def test_needed_trials_come_first_and_any_first_blocks_are_balanced(plans, name, scale):
    found = plans[name, scale]
    seen: set[str] = set()
    for trial in found.trials:
        assert set(trial.needs.values()) <= seen
        seen.add(trial.id)
    arms = [arm.name for arm in STUDIES[name].arms]
    assert [cell.arm for cell in found.cells] == arms * len(STUDIES[name].scale(scale).blocks)


def trials_of(plans: dict[tuple[str, str], Plan], name: str, scale: str, arm: str) -> dict[Block, str]:
    return {cell.block: cell.trial for cell in plans[name, scale].cells if cell.arm == arm}


@pytest.mark.parametrize("scale", ["smoke", "laptop", "pictures", "gpu", "paper"])
def test_studies_share_the_trials_they_have_in_common(plans, scale):
    layers = trials_of(plans, "gradmix_layers", scale, "conv5_2")
    none = trials_of(plans, "gradmix_augmentation", scale, "none")
    assert trials_of(plans, "gradmix_augmentation", scale, "gradmix") == layers
    assert trials_of(plans, "gradmix_augmentation_matched", scale, "none") == none
    assert trials_of(plans, "gradmix_loss", scale, "supcon_simclr") == none
    for name, arm in (
        ("gradmix_weights", "1:1.2"),
        ("gradmix_patch", "g=0.1-0.5,w=g2"),
        ("gradmix_sign", "layercam+"),
        ("gradmix_content", "image_2"),
        ("gradmix_schedule", "single"),
        ("gradmix_supcon", "out"),
    ):
        base = trials_of(plans, name, scale, arm)
        assert base == {block: layers[block] for block in base}, name
    scored = {trial.needs["network"] for trial in plans["gradmix_k", scale].trials if trial.needs}
    trained = set(trials_of(plans, "gradmix_protocols", scale, "gradmix").values()) | set(layers.values())
    assert scored <= trained


def leaves(value: object) -> Iterator[object]:
    if isinstance(value, dict):
        for item in value.values():
            yield from leaves(item)
    elif isinstance(value, list):
        for item in value:
            yield from leaves(item)
    else:
        yield value


@every_study
def test_the_plain_form_is_json_without_machine_paths(study):
    text = json.dumps(study.to_plain(), allow_nan=False)
    assert not [leaf for leaf in leaves(json.loads(text)) if isinstance(leaf, str) and leaf.startswith(("/", "~"))]


def test_the_papers_protocols_are_the_papers(plans):
    """Epochs, lambda, mix term and augmentation by data set, as the authors' scripts have them."""
    found = plans["gradmix_protocols", "paper"]
    by_id = {trial.id: trial for trial in found.trials}
    fields = ("epochs", "lam", "theta", "mix", "rotation", "crop", "width", "batch", "stages", "precision")
    rows = {
        cell.block.dataset: tuple(by_id[cell.trial].config[field] for field in fields)
        for cell in found.cells
        if cell.arm == "gradmix"
    }
    common = (0.0, True, 64, 256, "single", "fp32")
    assert rows == {
        "mnist": (20, 1.0, 1.0, "none", 5.0, False, *common[2:]),
        "svhn": (300, 1.2, 1.0, "gradmix", *common),
        "cifar10": (600, 1.2, 1.0, "gradmix", *common),
        "cifar+10": (600, 1.2, 1.0, "gradmix", *common),
        "cifar+50": (600, 1.2, 1.0, "gradmix", *common),
        "tinyimagenet": (800, 1.0, 1.0, "gradmix", *common),
    }
    assert all(trial.data.keys() == {"protocol", "split"} for trial in found.trials)
