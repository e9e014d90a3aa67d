"""doctor: each finding follows from what is there, and says how to mend what is not."""

import importlib.metadata
import json
from pathlib import Path

import pytest

from ablate import doctor
from tests.ablate.console import OFF, Shell


@pytest.fixture
def shell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(tmp_path / "home", capsys)


def versions(monkeypatch: pytest.MonkeyPatch, known: dict[str, str], requires: dict[str, list[str]]) -> None:
    def version(name: str) -> str:
        if name not in known:
            raise importlib.metadata.PackageNotFoundError(name)
        return known[name]

    monkeypatch.setattr(importlib.metadata, "version", version)
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: requires.get(name, []))


def test_a_machine_in_order_has_no_failure(shell: Shell) -> None:
    answer = shell("doctor", *OFF, "--json")
    found = json.loads(answer.out)
    states = {finding["name"]: finding["state"] for finding in found}
    assert answer.code == (2 if "fail" in states.values() else 0)
    assert states["Python"] == states["home"] == "ok"
    assert all(finding["mend"] for finding in found if finding["state"] == "warn")
    assert "home" in shell("doctor", *OFF).out


def test_missing_and_old_packages_are_named_with_their_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    needs = ["torch>=2.6", "ray[tune]>=2.50", "mlflow<4,>=3.17", 'pytest>=8; extra == "test"']
    versions(monkeypatch, {"torch": "2.15.0+cpu", "ray": "2.9.3"}, {"ablate": needs})
    found = {finding.found: finding for finding in doctor.packages()}
    assert found["missing: mlflow"].state == "fail"
    assert found["too old: ray 2.9.3 (needs 2.50)"].state == "fail"
    assert not any("pytest" in text for text in found)


@pytest.mark.parametrize(
    ("torch", "vision", "pinned", "state"),
    [
        ("2.15.0", "0.30.0", "2.15.0", "ok"),
        ("2.15.0+cpu", "0.30.0+cpu", "2.15.0", "ok"),
        ("2.14.0", "0.30.0", "2.15.0", "fail"),
        ("2.15.0+cpu", "0.30.0", "2.15.0", "warn"),
    ],
)
def test_torch_and_torchvision_must_match(
    monkeypatch: pytest.MonkeyPatch, torch: str, vision: str, pinned: str, state: str
) -> None:
    versions(monkeypatch, {"torch": torch, "torchvision": vision}, {"torchvision": ["numpy", f"torch=={pinned}"]})
    (finding,) = doctor.torch_pair()
    assert finding.state == state
    assert bool(finding.mend) == (state != "ok")


def test_what_cannot_be_used_fails_with_exit_code_2(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    broken = Shell(tmp_path / "file" / "home", shell._capsys)
    answer = broken("doctor", "--mlflow", "http://127.0.0.1:9", "--optuna", "nonsense", "--data", "/nowhere", "--json")
    found = {finding["name"]: finding["state"] for finding in json.loads(answer.out)}
    assert answer.code == 2
    assert (found["home"], found["MLflow"], found["Optuna"], found["data"]) == ("fail",) * 4
