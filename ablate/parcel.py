"""The code that travels to the nodes of a cluster: our packages, and what a study of the user's own consists of.

Nodes need Python, Ray, torch and the other dependencies; none of our code, in whatever version.
"""

import hashlib
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

PACKAGES = ("ablate", "analysis", "search_spaces", "trainables")
OWN = "ablate_study_"
"""Begins the name of the folder that holds a user's study."""
LARGEST_BYTES = 20 * 2**20


class TooLarge(ValueError):
    """What lies beside a study's file is more than code."""


def pack(origin: str, folder: Path) -> list[str]:
    """Folders to send, each a module: our packages where they lie, and in `folder` a copy of the user's own.

    Of a user's folder go the Python files beside the study's, and the packages beside it whole.

    Raises:
        TooLarge: those are more than `LARGEST_BYTES`.
    """
    found = [str(_place(name)) for name in PACKAGES]
    if not origin:
        return found
    file, size = Path(origin), 0
    target = folder / _name(file)
    for path in _beside(file):
        size += path.stat().st_size
        if size > LARGEST_BYTES:
            raise TooLarge(
                f"What lies beside {file} is more than {LARGEST_BYTES >> 20} MB, and all of it would travel to each "
                f"node. Keep the study in a folder of its own, and data out of its packages."
            )
        copy = target / path.relative_to(file.parent)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
    return [*found, str(target)]


def unpacked(origin: str) -> str:
    """The study's file as it arrived on this node; as it was named where nothing arrived."""
    if origin:
        file = Path(origin)
        for entry in sys.path:
            arrived = Path(entry) / _name(file) / file.name
            if arrived.is_file():
                return str(arrived)
    return origin


def _place(name: str) -> Path:
    """Where a package lies, found without importing it."""
    spec = find_spec(name)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent


def _beside(file: Path) -> list[Path]:
    packages = [entry for entry in file.parent.iterdir() if (entry / "__init__.py").is_file()]
    inside = [path for package in packages for path in package.rglob("*") if "__pycache__" not in path.parts]
    return sorted(path for path in [*file.parent.glob("*.py"), *inside] if path.is_file())


def _name(file: Path) -> str:
    """Of the folder on the nodes; another study's never has it."""
    return OWN + hashlib.sha256(str(file).encode()).hexdigest()[:12]
