"""What a method knows to be impossible is said before any trial runs."""

from dataclasses import replace

import pytest

from ablate import preflight
from ablate.plan import plan
from search_spaces.study import Arm
from tests.ablate import walks
from trainables import origin
from trainables.config import ConfigError
from trainables.data_protocols import DataSpec
from trainables.protocol import Method, Needed


@pytest.fixture
def scored():
    """A study of two blocks whose score reads a walk on other data."""
    arm = Arm(name="near", config=walks.Score(network=Needed("walk", walks.Walk(drift=2.0), data="before")))
    (scale,) = walks.walk.scales
    scale = replace(scale, blocks=scale.blocks[:2], needed_data={"before": {"protocol": "digits-known"}})
    arm = replace(arm, method="score")
    return replace(walks.walk, name="scored", arms=(arm,), baseline="near", contrasts=(), scales=(scale,))


def checked_by(monkeypatch, check):
    methods = walks.METHODS | {"score": Method(walks.score, walks.Score, check)}
    monkeypatch.setattr(origin.module(walks.__file__), "METHODS", methods)


def test_a_method_is_asked_with_its_config_and_all_data(scored, monkeypatch):
    asked = []
    checked_by(monkeypatch, lambda *given: asked.append(given))
    preflight.check_methods(plan(scored, "smoke"))
    assert [(data, needed) for _, data, needed in asked] == [
        (DataSpec(protocol="digits"), {"network": DataSpec(protocol="digits-known")})
    ] * 2
    assert [config.network.config.drift for config, _, _ in asked] == [2.0] * 2


def test_what_it_refuses_is_said(scored, monkeypatch):
    def refuse(config, data, needed):
        raise ConfigError(f"{data.protocol} after {needed['network'].protocol}: no.")

    checked_by(monkeypatch, refuse)
    with pytest.raises(ConfigError, match="digits after digits-known: no"):
        preflight.check_methods(plan(scored, "smoke"))
