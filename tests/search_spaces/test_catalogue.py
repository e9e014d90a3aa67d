"""Finding studies: by name, in a user's file, in an installed package; and never a stale index."""

import json
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from search_spaces import catalogue
from search_spaces.study import Study, StudyError
from trainables import catalogue as methods
from trainables.config import ConfigError
from trainables.origin import OriginError

ROOT = Path(__file__).parents[2]
OWN = """
from dataclasses import dataclass
from search_spaces.study import Arm, Block, Outcome, Scale, Source, Study
from trainables.protocol import Epoch, Method

@dataclass(frozen=True, kw_only=True)
class Config:
    rate: float = 0.1

def train(config, data, *, seed, device, resume=None):
    yield Epoch(1, {"accuracy": config.rate}, dict)

METHODS = {"own_method": Method(train, Config)}

def study(name):
    return Study(
        name=name, question="?", source=Source(paper="own", where="here"), method="own_method",
        arms=(Arm(name="one", config=Config()),), baseline="one",
        scales=(Scale(name="laptop", blocks=(Block(dataset="digits"),)),),
        outcome=Outcome(metric="accuracy", label="accuracy"),
    )

mine = study("my_study")
"""


@pytest.fixture
def own(tmp_path):
    file = tmp_path / "my_study.py"
    file.write_text(OWN, encoding="utf-8")
    return file


@pytest.fixture
def forget():
    """The catalogue as a new process sees it, before and after."""
    catalogue._own.cache_clear()
    yield
    catalogue._own.cache_clear()


def announce(monkeypatch, module, name, value, group):
    points = [EntryPoint(name=name, value=value, group=group)]
    monkeypatch.setattr(module, "entry_points", lambda **_: points)


def test_every_name_loads_as_itself():
    for name in catalogue.names():
        assert catalogue.load(name).name == name


def test_an_unknown_study_gives_the_nearest_name():
    with pytest.raises(StudyError, match=r"'gradmix_layer' is no study. Did you mean 'gradmix_layers'\?"):
        catalogue.load("gradmix_layer")


@pytest.mark.parametrize("name", ["", ":mine", ":my_study"])
def test_a_study_of_a_file_by_variable_by_name_or_alone(own, name):
    study = catalogue.load(f"{own}{name}")
    assert study.name == "my_study"
    assert study.origin == str(own.resolve())
    assert Study.from_plain(study.to_plain()).origin == study.origin


def test_a_file_relative_to_the_working_directory(own, monkeypatch):
    monkeypatch.chdir(own.parent)
    assert catalogue.load("./my_study.py:mine").origin == str(own.resolve())


def test_a_file_that_does_not_hold_the_study_says_what_it_holds(own):
    with pytest.raises(StudyError, match=r"no study 'min'. Did you mean 'mine'\? It has: mine"):
        catalogue.load(f"{own}:min")
    own.with_name("two.py").write_text(OWN + "other = study('other')\n", encoding="utf-8")
    with pytest.raises(StudyError, match=r"it has several: .*two.py:mine, .*two.py:other"):
        catalogue.load(str(own.with_name("two.py")))
    own.with_name("none.py").write_text("x = 1\n", encoding="utf-8")
    with pytest.raises(StudyError, match="it has none"):
        catalogue.load(str(own.with_name("none.py")))


def test_a_file_with_a_tuple_of_studies(own):
    many = own.with_name("many.py")
    many.write_text(OWN + "STUDIES = (mine, *(study(name) for name in ('b', 'c')))\n", encoding="utf-8")
    assert catalogue.load(f"{many}:c").name == "c"
    with pytest.raises(StudyError, match="it has several"):
        catalogue.load(str(many))


def test_files_that_are_missing_or_broken_are_named(own):
    with pytest.raises(OriginError, match="is no Python file here"):
        catalogue.load(str(own.with_name("missing.py")))
    own.with_name("broken.py").write_text("import nothing_of_that_name\n", encoding="utf-8")
    with pytest.raises(OriginError, match=r"broken\.py cannot be imported: ModuleNotFoundError"):
        catalogue.load(str(own.with_name("broken.py")))
    for number, (text, says) in enumerate([("tuple(3)", "TypeError.*"), ("raise SystemExit(3)", "SystemExit: 3")]):
        file = own.with_name(f"stopped{number}.py")
        file.write_text(f"import os\n\n\n{text}\n", encoding="utf-8")
        with pytest.raises(OriginError, match=rf"cannot be imported: {says} \(line 4\)"):
            catalogue.load(str(file))


def test_a_study_may_keep_its_parts_in_a_file_beside_it(own):
    own.with_name("parts_beside.py").write_text("NAME = 'from beside'\n", encoding="utf-8")
    file = own.with_name("apart.py")
    file.write_text(OWN + "from parts_beside import NAME\nmine = study(NAME)\n", encoding="utf-8")
    assert catalogue.load(str(file)).name == "from beside"


def test_an_installed_package_can_announce_a_study(monkeypatch, own):
    monkeypatch.syspath_prepend(own.parent)
    announce(monkeypatch, catalogue, "theirs", "my_study:mine", catalogue.GROUP)
    assert "theirs" in catalogue.names()
    assert catalogue.load("theirs").name == "my_study"
    announce(monkeypatch, catalogue, "theirs", "my_study:OWN_NUMBER", catalogue.GROUP)
    (own.parent / "my_study.py").write_text(OWN + "OWN_NUMBER = 3\n", encoding="utf-8")
    sys.modules.pop("my_study", None)
    with pytest.raises(StudyError, match="'theirs' gives a int"):
        catalogue.load("theirs")
    sys.modules.pop("my_study", None)


def test_methods_are_found_in_the_studys_file_in_the_catalogue_or_announced(monkeypatch, own):
    assert methods.find("gradmix") is methods.METHODS["gradmix"]
    mine = methods.find("own_method", str(own))
    assert next(mine.train(mine.config(rate=0.5), None, seed=0, device="cpu")).metrics == {"accuracy": 0.5}
    assert methods.find("gradmix", str(own)) is methods.METHODS["gradmix"]
    monkeypatch.syspath_prepend(own.parent)
    announce(monkeypatch, methods, "their_method", "trainables.catalogue:METHODS", methods.GROUP)
    with pytest.raises(ConfigError, match="'their_method' is a dict"):
        methods.find("their_method")


def test_methods_that_are_unknown_or_mean_two_things_are_refused(own):
    with pytest.raises(ConfigError, match=r"'gradmx' is no method. Did you mean 'gradmix'\?"):
        methods.find("gradmx")
    taken = own.with_name("taken.py")
    taken.write_text(OWN.replace("own_method", "gradmix"), encoding="utf-8")
    with pytest.raises(ConfigError, match="like one of the catalogue"):
        methods.find("gradmix", str(taken))


def test_a_true_index_is_read_and_any_other_is_not(monkeypatch, tmp_path, forget):
    index = tmp_path / "index.json"
    monkeypatch.setattr(catalogue, "INDEX", index)
    monkeypatch.setattr(catalogue, "imported", dict)
    assert catalogue.names() == ()
    for text in ("", "{", "[]", json.dumps({"digest": "0", "studies": {"old": {}}}), json.dumps({"studies": {}})):
        index.write_text(text, encoding="utf-8")
        catalogue._own.cache_clear()
        assert catalogue.names() == ()
    index.write_text(json.dumps({"digest": catalogue.digest(), "studies": {"true": {}}}), encoding="utf-8")
    catalogue._own.cache_clear()
    assert catalogue.names() == ("true",)


def test_the_committed_index_is_true():
    """After a change here or in trainables: python -m search_spaces.catalogue."""
    index = json.loads(catalogue.INDEX.read_text(encoding="utf-8"))
    assert index["studies"] == {name: study.to_plain() for name, study in catalogue.imported().items()}
    assert index["digest"] == catalogue.digest(), (
        "a file changed, though no study did: run python -m search_spaces.catalogue"
    )


def test_listing_the_catalogue_imports_no_framework():
    code = (
        "import sys; from search_spaces import catalogue;"
        "print([catalogue.load(name).question for name in catalogue.names()]);"
        "sys.exit(bool({'torch', 'ray', 'mlflow', 'optuna', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr or "a framework was imported"
    assert "ResNet layer" in done.stdout
