"""Every arm of R-Mix's studies, stopped after its first epoch, goes on to the bits of an uninterrupted run."""

import importlib.util
import io
from pathlib import Path

import pytest
import torch

from search_spaces.rmix import PK, STUDIES
from search_spaces.study import Study, configured
from trainables.catalogue import METHODS
from trainables.data_protocols import DataSpec
from trainables.datasets import Data, open_data

NEEDS_CUTS = {"puzzlemix", "comixup"}


def arms(studies: tuple[Study, ...]) -> dict[str, tuple[str, object, Study]]:
    """Study and arm -> its method and its config at smoke with two epochs; arms of one config once."""
    found: dict[object, tuple[str, str, Study]] = {}
    for study in studies:
        scale = study.scale("smoke")
        for arm in study.arms:
            config = configured(arm.config, scale.settings_for(arm, "digits-closed") | {"epochs": 2})
            found.setdefault((study.method_of(arm), config), (f"{study.name}-{arm.name}", study.method_of(arm), study))
    return {name: (method, config, study) for (_, config), (name, method, study) in found.items()}


FEW = arms(tuple(study for study in STUDIES if study is not PK))
MANY = {name: entry for name, entry in arms((PK,)).items() if entry[1] not in {config for _, config, _ in FEW.values()}}


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


def data_of(study: Study, cache: Path) -> Data:
    return open_data(DataSpec(protocol="digits-closed", **study.scale("smoke").data), cache=cache)


def saved(state: dict) -> dict:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


def leaves(value: object) -> list:
    if isinstance(value, dict):
        return [leaf for key in sorted(value, key=str) for leaf in leaves(value[key])]
    if isinstance(value, list | tuple):
        return [leaf for item in value for leaf in leaves(item)]
    return [value.tolist() if isinstance(value, torch.Tensor) else value]


def resumes(entry: tuple[str, object, Study], cache: Path) -> None:
    method, config, study = entry
    if getattr(config, "mix", "") in NEEDS_CUTS and importlib.util.find_spec("maxflow") is None:
        pytest.skip("the extra 'graphcut' is not installed")
    data, train = data_of(study, cache), METHODS[method].train
    first, second = ((dict(e.metrics), saved(e.state())) for e in train(config, data, seed=0, device="cpu"))
    ((metrics, state),) = (
        (dict(e.metrics), saved(e.state())) for e in train(config, data, seed=0, device="cpu", resume=first[1])
    )
    assert metrics == second[0]
    assert leaves(state) == leaves(second[1])


@pytest.mark.parametrize("name", FEW)
def test_every_arm_resumes_bit_for_bit(name, opened):
    resumes(FEW[name], opened)


@pytest.mark.slow
@pytest.mark.parametrize("name", MANY)
def test_every_cell_of_table_7_resumes_bit_for_bit(name, opened):
    resumes(MANY[name], opened)
