"""Code counts by what it does, and the file that changed is named."""

import dataclasses
import subprocess
import sys

import pytest

from ablate import provenance
from ablate.log import Record

SOURCE = '''
"""Doc."""
from math import sin
from search_spaces.study import Study
from trainables.protocol import Method

RATE = 0.1


def used(x):
    return sin(x) * RATE


class Config:
    """Doc."""


def train(config, data):
    """Doc."""
    return used(1)  # why


def unused():
    return 1


METHODS = {"own": Method(train, Config)}
study = Study(1)
'''


def digest(tmp_path, text):
    file = tmp_path / "own_study.py"
    file.write_text(text)
    return provenance.code_digests("own", str(file))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("# why", "# another reason"),
        ('"""Doc."""\n    return', '"""Other words."""\n    return'),
        ("return used(1)", "return (\n        used(1)\n    )"),
        ("study = Study(1)", "study = Study(2)"),
        ("    return 1\n", "    return 2\n"),
        ("class Config:\n", "\n\nclass Config:\n    # empty\n"),
    ],
)
def test_what_does_nothing_does_not_count(tmp_path, old, new):
    assert old in SOURCE
    assert digest(tmp_path, SOURCE.replace(old, new)) == digest(tmp_path, SOURCE)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("RATE = 0.1", "RATE = 0.2"),
        ("sin(x)", "-sin(x)"),
        ("used(1)", "used(1.0)"),
        ("from math import sin", "from math import cos as sin"),
        ("Method(train, Config)", "Method(unused, Config)"),
    ],
)
def test_what_does_something_counts(tmp_path, old, new):
    assert old in SOURCE
    before, after = digest(tmp_path, SOURCE), digest(tmp_path, SOURCE.replace(old, new))
    assert {file for file in before if before[file] != after[file]} == {"own_study.py"}


def test_files_beside_the_study_and_of_trainables_are_followed(tmp_path):
    (tmp_path / "beside.py").write_text("from deeper import y\nx = 1\n")
    (tmp_path / "deeper.py").write_text("y = 1\n")
    found = digest(tmp_path, SOURCE.replace("from math import sin", "from beside import x as sin"))
    assert {"own_study.py", "beside.py", "deeper.py", "trainables/protocol.py"} <= found.keys()


def test_a_method_of_the_catalogue_names_its_files():
    found = provenance.code_digests("gradmix")
    assert {"trainables/gradmix.py", "trainables/protocol.py", "trainables/seeding.py"} <= found.keys()
    assert "trainables/catalogue.py" not in found
    assert "trainables/knn_osr.py" not in found


def test_methods_that_are_not_written_out_depend_on_all_of_the_file(tmp_path):
    (tmp_path / "beside.py").write_text("METHODS = {}\n")
    file = tmp_path / "study_of_mine.py"
    file.write_text("from beside import METHODS\nx = 1\n")
    before = provenance.code_digests("mine", str(file))
    assert set(before) == {"study_of_mine.py", "beside.py"}
    (tmp_path / "beside.py").write_text("METHODS = dict(mine=1)\n")
    after = provenance.code_digests("mine", str(file))
    assert {name for name in before if before[name] != after[name]} == {"beside.py"}


def test_unknown_method_is_said():
    with pytest.raises(provenance.MethodUnknown, match="'nothing-of-the-kind'"):
        provenance.code_digests("nothing-of-the-kind")


def record(**found):
    return Record("t", "own", {}, {"protocol": "digits"}, 0, "done", provenance=found)


@pytest.mark.parametrize(
    ("then", "now", "reasons"),
    [
        ({"a.py": "1", "b.py": "1"}, {"a.py": "1", "b.py": "1"}, []),
        ({"a.py": "1", "b.py": "1"}, {"a.py": "2", "b.py": "1"}, ["a.py changed"]),
        ({"a.py": "1"}, {"a.py": "1", "b.py": "1"}, ["b.py is used now"]),
        ({"a.py": "1", "b.py": "1"}, {"a.py": "1"}, ["b.py is no longer used"]),
    ],
)
def test_stale_names_the_file(then, now, reasons):
    assert provenance.stale(record(**{f"code/{file}": value for file, value in then.items()}), now) == reasons


def test_stale_names_the_data():
    old = dataclasses.replace(record(data_digest="1"), provenance={"data_digest": "1", "code/a.py": "1"})
    assert provenance.stale(old, {"a.py": "1"}, "2") == ["the data of digits changed"]
    assert provenance.stale(old, {"a.py": "1"}, "1") == []


def test_collecting_imports_neither_torch_nor_ray():
    code = (
        "import sys; from ablate import provenance; found = provenance.collect(); provenance.code_digests('gradmix');"
        "assert found['torch'] and found['python'];"
        "assert not {'torch', 'ray', 'mlflow', 'optuna'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=provenance.ROOT)


def test_dirty_follows_the_working_tree(tmp_path, monkeypatch):
    def git(*words):
        subprocess.run(["git", "-C", str(tmp_path), "-c", "user.name=t", "-c", "user.email=t@t", *words], check=True)

    git("init", "-q")
    (tmp_path / "a.py").write_text("x = 1\n")
    git("add", "a.py")
    git("commit", "-qm", "first")
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    clean = provenance.collect()
    (tmp_path / "a.py").write_text("x = 2\n")
    dirty = provenance.collect()
    assert (clean["dirty"], clean["diff_digest"]) == (False, "")
    assert dirty["dirty"]
    assert dirty["diff_digest"]
    assert clean["commit"] == dirty["commit"] != ""


def test_a_copy_inside_somebody_elses_repository_has_no_commit(tmp_path, monkeypatch):
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    inner = tmp_path / "site-packages"
    inner.mkdir()
    monkeypatch.setattr(provenance, "ROOT", inner)
    assert provenance.collect()["commit"] == ""
