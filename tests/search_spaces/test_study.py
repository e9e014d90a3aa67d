"""What a study refuses, and what its plain form keeps."""

import json
from dataclasses import dataclass, replace

import pytest

from search_spaces.study import Arm, Block, Contrast, Outcome, Scale, Source, Study, StudyError, configured
from trainables.config import check_types, require
from trainables.protocol import Needed


@dataclass(frozen=True, kw_only=True)
class Config:
    rate: float = 0.1
    layers: tuple[str, ...] = ("a",)
    epochs: int = 5

    def __post_init__(self) -> None:
        check_types(self)
        require(self.epochs >= 1, self, "epochs", "at least 1")


@dataclass(frozen=True, kw_only=True)
class Reading:
    network: Needed
    k: int = 10


PAPER = Scale(name="paper", blocks=(Block(dataset="digits"), Block(dataset="mnist"), Block(dataset="digits", split=1)))
STUDY = Study(
    name="toy",
    question="Does the rate matter?",
    source=Source(paper="none", where="nowhere"),
    method="toy_method",
    arms=(
        Arm(name="slow", config=Config(rate=0.01), label="slower"),
        Arm(name="fast", config=Config(rate=1.0, layers=("a", "b")), factors={"rate": 1.0}),
        Arm(name="read", config=Reading(network=Needed("toy_method", Config())), method="reading"),
    ),
    baseline="slow",
    scales=(PAPER,),
    outcome=Outcome(metric="auroc", label="AUROC"),
    contrasts=(Contrast(arm="fast", reference="slow"),),
)


def changed(**fields: object) -> Study:
    return replace(STUDY, **fields)


def scaled(**fields: object) -> Study:
    return changed(scales=(replace(PAPER, **fields),))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: changed(arms=()), "has no arms"),
        (lambda: changed(arms=(STUDY.arms[0], STUDY.arms[0])), r"arm names repeat: \['slow'\]"),
        (lambda: changed(baseline="slo"), "'slo' is no arm. Did you mean 'slow'"),
        (lambda: changed(contrasts=(Contrast(arm="fats", reference="slow"),)), "no arm. Did you mean 'fast'"),
        (lambda: changed(contrasts=(Contrast(arm="fast", reference="fast"),)), "with itself"),
        (lambda: changed(contrasts=STUDY.contrasts * 2), "declared twice"),
        (lambda: changed(contrasts=(replace(STUDY.contrasts[0], claim="equivalence"),)), "without a margin"),
        (lambda: changed(contrasts=(replace(STUDY.contrasts[0], margin=-0.1),)), "must be above 0"),
        (lambda: changed(contrasts=(replace(STUDY.contrasts[0], dataset="digit"),)), "Did you mean 'digits'"),
        (lambda: changed(contrasts=(replace(STUDY.contrasts[0], test="wilcoxon"),)), "names test 'wilcoxon'"),
        (lambda: changed(alpha=1.0), "alpha=1.0 must lie between 0 and 1"),
        (lambda: changed(scales=()), "scales must be at least one"),
        (lambda: changed(scales=(PAPER, PAPER)), "each name once"),
        (lambda: scaled(blocks=()), "at least one block"),
        (lambda: scaled(blocks=PAPER.blocks + PAPER.blocks[:1]), "each once"),
        (lambda: scaled(blocks=(Block(dataset="digits", seed="a"),)), "seed='a'.*a seed is an integer"),
        (lambda: scaled(blocks=(Block(dataset="digits", seed=0.5),)), "seed=0.5.*a seed is an integer"),
        (lambda: scaled(blocks=(Block(dataset="digits", split=-1),)), "split=-1.*from 0 on"),
        (lambda: changed(name="../toy"), "'../toy' cannot name a study"),
        (lambda: changed(name=""), "'' cannot name a study"),
        (lambda: scaled(name="a/b"), "'a/b' cannot name a study or a scale"),
        (lambda: scaled(settings={"epoch": 3}), "'epoch', which no arm's config has. Did you mean 'epochs'"),
        (lambda: scaled(settings={"epochs": 0}), "arm 'slow' at scale 'paper': epochs=0"),
        (lambda: scaled(settings={"rate": 1}), "write 1.0"),
        (lambda: scaled(dataset_settings={"cifar10": {"epochs": 3}}), "'cifar10', but no block of it"),
        (lambda: scaled(dataset_settings={"mnist": {"epochs": 0}}), "epochs=0"),
    ],
)
def test_contradictions_are_refused(make, says):
    with pytest.raises(StudyError, match=says):
        make()


def test_settings_reach_what_an_arm_needs():
    reader = replace(STUDY.arms[2], config=Reading(network=Needed("toy_method", Config())))
    with pytest.raises(StudyError, match="epochs=-1"):
        replace(STUDY, arms=(reader,), baseline="read", contrasts=(), scales=(replace(PAPER, settings={"epochs": -1}),))


def test_the_narrower_setting_wins():
    arm = replace(STUDY.arms[0], per_dataset={"mnist": {"rate": 0.5}})
    scale = replace(PAPER, settings={"epochs": 2, "rate": 0.2}, dataset_settings={"mnist": {"epochs": 3, "rate": 0.3}})
    assert scale.settings_for(arm, "digits") == {"epochs": 2, "rate": 0.2}
    assert scale.settings_for(arm, "mnist") == {"epochs": 3, "rate": 0.5}


def test_contrasts_of_a_scale_are_those_it_has_blocks_for():
    contrasts = (*STUDY.contrasts, *(replace(STUDY.contrasts[0], dataset=name) for name in ("digits", "mnist")))
    study = changed(contrasts=contrasts, scales=(PAPER, Scale(name="smoke", blocks=(Block(dataset="digits"),))))
    assert study.contrasts_at("paper") == contrasts
    assert study.contrasts_at("smoke") == contrasts[:2]


def test_names_that_are_missing_give_the_nearest():
    with pytest.raises(StudyError, match=r"toy has no arm 'fas'. Did you mean 'fast'\? It has: slow, fast, read"):
        STUDY.arm("fas")
    with pytest.raises(StudyError, match="no scale 'papr'"):
        STUDY.scale("papr")


def test_plain_form_survives_json_twice():
    plain = json.loads(json.dumps(STUDY.to_plain()))
    again = Study.from_plain(plain)
    assert json.loads(json.dumps(again.to_plain())) == plain
    assert again.scales[0].blocks == PAPER.blocks
    assert again.contrasts == STUDY.contrasts
    assert again.arm("read").config["network"]["needs"]["config"]["epochs"] == 5


def elsewhere(**data: object) -> Study:
    """A study whose second reading needs a network that was trained on other data."""
    arms = (*STUDY.arms, Arm(name="moved", config=Reading(network=Needed("toy_method", Config(), data="before"))))
    return changed(arms=arms, scales=(replace(PAPER, **data),))


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ({}, r"needs a trial on 'before' data, .*needed_data=\{'before': \{'protocol': ...\}\}"),
        ({"before": {"side": 8}}, "needs a trial on 'before' data"),
        ({"befor": {"protocol": "mnist"}}, "Did you mean 'befor'"),
        ({"before": {"protocol": "mnist"}, "after": {"protocol": "mnist"}}, "'after', which no arm asks for"),
    ],
)
def test_data_of_needed_trials_are_explained_by_every_scale(data, says):
    with pytest.raises(StudyError, match=says):
        elsewhere(needed_data=data)


def test_data_of_needed_trials_survive_the_plain_form_and_a_scales_settings():
    study = elsewhere(needed_data={"before": {"protocol": "mnist", "side": 8}}, settings={"epochs": 2})
    again = Study.from_plain(json.loads(json.dumps(study.to_plain())))
    assert again.to_plain() == study.to_plain()
    assert again.arm("moved").config["network"]["needs"]["data"] == "before"
    assert "data" not in again.arm("read").config["network"]["needs"]
    moved = configured(study.arm("moved").config, study.scales[0].settings).network
    assert (moved.data, moved.config.epochs) == ("before", 2)
