"""The worked example runs as its README says, and its method keeps the contract."""

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch

from ablate.__main__ import main
from ablate.home import Home
from search_spaces.catalogue import load
from trainables.data_protocols import DataSpec
from trainables.datasets import Data, open_data
from trainables.origin import module
from trainables.protocol import Diverged

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
FILE = EXAMPLES / "my_study.py"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    return open_data(DataSpec(protocol="digits-closed", per_class=20), cache=tmp_path_factory.mktemp("data"))


def test_it_runs_to_a_verdict_at_smoke_scale_and_trains_nothing_the_second_time(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = ["run", f"{FILE}:smoothing", "--scale", "smoke", "--local", "--mlflow", "none", "--home", str(tmp_path)]
    assert main(run) == 0
    assert "Does label smoothing help" in capsys.readouterr().out
    log = Home(tmp_path).log("smoothing@smoke")
    ended = [line for line in map(json.loads, log.read_text().splitlines()) if line["kind"] == "ended"]
    assert {line["record"]["state"] for line in ended} == {"done"}
    assert len(ended) == 6
    assert main(run) == 0
    assert log.read_text().count('"kind":"ended"') == 6


def test_a_run_continued_from_any_epoch_gives_the_same_bits(data: Data) -> None:
    method = module(str(FILE))
    config = method.Config(epochs=4, hidden=8)
    whole, states = [], {}
    for epoch in method.train(config, data, seed=3, device="cpu"):
        whole.append((epoch.index, dict(epoch.metrics)))
        states[epoch.index] = copied(epoch.state())
    for start, state in states.items():
        rest = method.train(config, data, seed=3, device="cpu", resume=state)
        assert [(epoch.index, dict(epoch.metrics)) for epoch in rest] == whole[start:]


def copied(value: object) -> object:
    """As a checkpoint would hold it: later steps must not change it."""
    if isinstance(value, torch.Tensor):
        return value.clone()
    if isinstance(value, dict):
        return {key: copied(item) for key, item in value.items()}
    return [copied(item) for item in value] if isinstance(value, list) else value


def test_the_loss_is_smoothed_cross_entropy_as_section_7_writes_it(data: Data) -> None:
    method = module(str(FILE))
    config = method.Config(epochs=1, hidden=8, smoothing=0.1, learning_rate=1e-12, batch=10_000)
    (epoch,) = method.train(config, data, seed=0, device="cpu")
    network = method.perceptron(data.train.pixels[0].size, 8, len(data.classes), seed=0)
    pixels = np.asarray(data.train.pixels, dtype=np.float64).reshape(len(data.train.labels), -1) / 255
    first, last = (layer.double() for layer in (network[0], network[2]))
    hidden = np.maximum(pixels @ first.weight.detach().numpy().T + first.bias.detach().numpy(), 0)
    logits = hidden @ last.weight.detach().numpy().T + last.bias.detach().numpy()
    losses = []
    for row, label in zip(logits, data.train.labels, strict=True):
        log_p = row - np.log(np.exp(row).sum())
        target = np.full(len(row), 0.1 / len(row))
        target[label] += 0.9
        losses.append(-(target * log_p).sum())
    assert epoch.metrics["loss"] == pytest.approx(np.mean(losses), rel=1e-5)


def test_it_learns_and_says_when_it_diverges(data: Data) -> None:
    method = module(str(FILE))
    *_, last = method.train(method.Config(epochs=20), data, seed=0, device="cpu")
    assert last.metrics["accuracy"] > 0.8
    with pytest.raises(Diverged, match="not finite"):
        list(method.train(method.Config(epochs=20, learning_rate=1e20), data, seed=0, device="cpu"))


def test_the_commands_of_the_readme_name_a_study_that_exists() -> None:
    text = (EXAMPLES / "README.md").read_text()
    commands = [shlex.split(line) for line in re.findall(r"^    python -m ablate (.*)$", text, flags=re.MULTILINE)]
    assert [words[0] for words in commands] == ["show", "run"]
    for _, reference in commands:
        assert load(str(EXAMPLES.parent / reference)).name == "smoothing"
