"""Name -> study, for the studies beside this file, those in a user's own file, and those of installed packages.

Configs live in their methods' files, and those import torch; commands that only read studies must not wait for it. So
the plain form of every study is kept in index.json, with a digest of all files that determine it. While the digest
fits, a study is read from there; otherwise its module is imported: slower, never wrong. The command
`python -m search_spaces.catalogue` writes the index anew.
"""

import dataclasses
import hashlib
import importlib
import json
import re
import sys
from collections.abc import Iterator, Mapping
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from search_spaces.study import Study, StudyError
from trainables import origin
from trainables.config import nearest

MODULES = (
    "adautomix",
    "adautomix_evaluations",
    "gradmix",
    "gradmix_evaluations",
    "gradmix_selfsupervised",
    "greg",
    "greg_comparisons",
    "greg_evaluations",
    "greg_imagenet",
    "margins",
    "rmix",
    "rmix_evaluations",
)
"""Files beside this one; each holds its studies in a tuple STUDIES. A new paper is one file and one name here."""
INDEX = Path(__file__).with_name("index.json")
GROUP = "ablate.studies"
"""Entry points of this group are studies: name -> a `Study`."""


def names() -> tuple[str, ...]:
    """Every study that can be loaded by its name alone: of this catalogue, then of installed packages."""
    return (*_own(), *(name for name in _announced() if name not in _own()))


def load(reference: str) -> Study:
    """The study that `reference` names: 'gradmix_layers', './my_study.py:name', or './my_study.py' if it holds one.

    A study of this catalogue may carry plain configs rather than typed ones; `ablate.plan` makes no difference.

    Raises:
        StudyError: no such study, with the nearest name; a file without one, or with several when none is named.
        OriginError: a file that is missing or cannot be imported.
    """
    match = re.fullmatch(r"(?P<file>.+\.py)(?::(?P<name>.*))?", reference)
    if match:
        return _of_file(match["file"], match["name"] or "")
    if reference in _own():
        study = _own()[reference]
        return study if isinstance(study, Study) else Study.from_plain(study)
    announced = _announced()
    if reference in announced:
        return _checked(announced[reference].load(), f"the entry point {reference!r}")
    raise StudyError(
        f"{reference!r} is no study.{nearest(reference, names())} There are: {', '.join(names())}. "
        "One of your own is given by its file: ./my_study.py:name."
    )


def _of_file(file: str, name: str) -> Study:
    found = dict(_studies_in(vars(origin.module(file))))
    by_name = {study.name: study for study in found.values()} | found
    if name and name not in by_name:
        has = ", ".join(sorted(found)) or "no study at all"
        raise StudyError(f"{file} holds no study {name!r}.{nearest(name, by_name)} It has: {has}.")
    if not name and len(set(map(id, found.values()))) != 1:
        has = f"several: {', '.join(f'{file}:{each}' for each in sorted(found))}" if found else "none"
        raise StudyError(f"{file} should hold one study, or name the one that is meant; it has {has}.")
    study = by_name[name] if name else next(iter(found.values()))
    return dataclasses.replace(study, origin=str(Path(file).expanduser().resolve()))


def _studies_in(values: Mapping[str, Any]) -> Iterator[tuple[str, Study]]:
    """Variable name -> study; those of a tuple STUDIES by their own names."""
    yield from ((name, value) for name, value in values.items() if isinstance(value, Study))
    alone = {id(value) for value in values.values() if isinstance(value, Study)}
    yield from ((study.name, study) for study in values.get("STUDIES", ()) if id(study) not in alone)


def _checked(found: Any, where: str) -> Study:
    if not isinstance(found, Study):
        raise StudyError(f"{where} gives a {type(found).__name__}: make it a search_spaces.study.Study.")
    return found


def _announced() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=GROUP)}


@lru_cache(maxsize=1)
def _own() -> Mapping[str, Study | Mapping[str, Any]]:
    """Name -> study of this catalogue, in plain form if the index is true."""
    try:
        index = json.loads(INDEX.read_text(encoding="utf-8"))
        if index["digest"] == digest():
            plain: Mapping[str, Mapping[str, Any]] = index["studies"]
            return plain
    except (OSError, ValueError, KeyError, TypeError):
        pass  # No index, or half of one: the modules below say the same, and say it slowly.
    return imported()


def imported() -> dict[str, Study]:
    """Name -> study with typed configs, from the modules themselves.

    Raises:
        StudyError: two studies of one name.
    """
    studies: dict[str, Study] = {}
    for module in MODULES:
        for study in importlib.import_module(f"search_spaces.{module}").STUDIES:
            if study.name in studies:
                raise StudyError(f"two studies of the catalogue are named {study.name!r}.")
            studies[study.name] = study
    return studies


def digest() -> str:
    """SHA-256 over the names and bytes of every file that a study's plain form can depend on."""
    root = Path(__file__).parent
    total = hashlib.sha256()
    for folder in (root, root.parent / "trainables"):
        for file in sorted(folder.glob("*.py")):
            content = hashlib.sha256(file.read_bytes()).hexdigest()
            total.update(f"{folder.name}/{file.name} {content}\n".encode())
    return total.hexdigest()


def write_index() -> None:
    """Writes index.json for the files as they are."""
    studies = {name: study.to_plain() for name, study in imported().items()}
    text = json.dumps({"digest": digest(), "studies": studies}, indent=1, ensure_ascii=False)
    INDEX.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    write_index()
    sys.stdout.write(f"{INDEX.name}: {len(imported())} studies\n")
