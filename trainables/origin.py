"""A Python file of the user's own as a module: where a study from outside the catalogue and its methods come from."""

import hashlib
import importlib.util
import sys
import traceback
from pathlib import Path
from types import ModuleType


class OriginError(ImportError):
    """A file that is missing or cannot be imported. Says which, why, and how to mend."""


def module(file: str) -> ModuleType:
    """The file as a module, imported once a process under a name that no other file has.

    Its folder is importable afterwards, last in order, so that a study can keep its method in a file beside it.

    Raises:
        OriginError: no such file, no Python file, or one that raises while it is imported.
    """
    path = Path(file).expanduser().resolve()
    name = f"ablate_origin_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    if not path.is_file() or path.suffix != ".py":
        raise OriginError(f"{file} is no Python file here. Give the path of a .py file, for example ./my_study.py.")
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise OriginError(f"{file} cannot be imported as a Python module.")
    found = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up by name while they are made.
    sys.modules[name] = found
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    try:
        spec.loader.exec_module(found)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
        where = f" (line {lines[-1]})" if lines else ""  # the syntax's errors have theirs in the message
        raise OriginError(f"{file} cannot be imported: {type(error).__name__}: {error}{where}") from error
    return found
