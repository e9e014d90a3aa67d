"""Where numbers come from: commit, dirty diff, versions, and the code of a method by its syntax tree. Imports no torch.

Code is compared by what it does: comments, docstrings and layout do not count. A method's code is its own file and all
it imports from `trainables`, followed from file to file; of a study's own file only the definitions that the method
reaches, so that another arm there does not make old trials stale.
"""

import ast
import hashlib
import importlib.metadata
import importlib.util
import platform
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from ablate.log import Record

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("torch", "torchvision", "numpy", "scikit-learn", "ray", "optuna", "mlflow", "pyarrow")


class MethodUnknown(ValueError):
    """No file is known for a method."""


def collect() -> dict[str, Any]:
    """Commit, dirty, digest of the dirty diff, Python, platform, versions: flat, and without importing any of them."""
    found: dict[str, Any] = _git() | {"python": platform.python_version(), "platform": platform.platform()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = ""
    return found


def combined(digests: Mapping[str, str]) -> str:
    """One digest of a method's files, sixteen hex digits; empty for none."""
    if not digests:
        return ""
    text = "\n".join(f"{file} {digest}" for file, digest in sorted(digests.items()))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def stale(record: Record, digests: Mapping[str, str], data_digest: str | None = None) -> list[str]:
    """Why a finished trial may not be what today's code and data would give; empty when it is.

    Args:
        record: as logged, with "code/<file>" and "data_digest" in its provenance.
        digests: of the method's code now, `code_digests`.
        data_digest: of the data now, where it is known.
    """
    prefix = "code/"
    then = {key.removeprefix(prefix): value for key, value in record.provenance.items() if key.startswith(prefix)}
    if not then:
        return []
    reasons = [f"{file} changed" for file in sorted(then.keys() & digests.keys()) if then[file] != digests[file]]
    reasons += [f"{file} is used now" for file in sorted(digests.keys() - then.keys())]
    reasons += [f"{file} is no longer used" for file in sorted(then.keys() - digests.keys())]
    trained_on = record.provenance.get("data_digest")
    if data_digest and trained_on and data_digest != trained_on:
        reasons.append(f"the data of {record.data.get('protocol', 'its set')} changed")
    return reasons


def code_digests(method: str, origin: str = "") -> dict[str, str]:
    """File -> digest for all code that `method` runs: relative to the repository, or the name of the study's own file.

    Raises:
        MethodUnknown: the catalogue does not name the method, and there is no file of the study's own.
    """
    if origin:
        own = _from_origin(method, Path(origin))
        if own is not None:
            return own
    try:
        start = _catalogue_file(method)
    except MethodUnknown:
        if not origin:
            raise
        # METHODS is built or imported there, not written out: whatever the file has and imports may be the method's.
        start = Path(origin)
    return {_name(file): _digest(file) for file in _closure([start])}


def _from_origin(method: str, origin: Path) -> dict[str, str] | None:
    """The reachable definitions of the study's own file, and what they import from `trainables` or beside the file."""
    tree = _tree(origin)
    entry = _method_entry(tree, method)
    if entry is None:
        return None
    reached = _reachable(tree, _names(entry))
    files = [file for node in reached for file in _imported(node, origin.parent)]
    text = "\n".join([_dump(entry), *map(_dump, reached)])
    own = {origin.name: hashlib.sha256(text.encode()).hexdigest()[:16]}
    return own | {_name(file): _digest(file) for file in _closure(files)}


def _catalogue_file(method: str) -> Path:
    """The file that the catalogue's entry for `method` comes from: METHODS = {"x": Method(module.train, ...)}."""
    catalogue = ROOT / "trainables" / "catalogue.py"
    tree = _tree(catalogue)
    entry = _method_entry(tree, method)
    if entry is not None:
        names = _names(entry)
        for node in tree.body:
            if isinstance(node, ast.ImportFrom) and names & {alias.asname or alias.name for alias in node.names}:
                for alias in node.names:
                    if (alias.asname or alias.name) in names and alias.name != "Method":
                        for file in _modules([f"{node.module}.{alias.name}", str(node.module)], None):
                            return file
    for point in importlib.metadata.entry_points(group="ablate.methods"):
        if point.name == method:
            for file in _modules([point.module], None):
                return file
    raise MethodUnknown(f"no file is known for method {method!r}")


def _method_entry(tree: ast.Module, method: str) -> ast.expr | None:
    """The value at `method` in the file's literal METHODS dict."""
    for node in tree.body:
        targets = (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        )
        named = any(isinstance(target, ast.Name) and target.id == "METHODS" for target in targets)
        if named and isinstance(node.value, ast.Dict):  # type: ignore[attr-defined]
            for key, value in zip(node.value.keys, node.value.values, strict=True):  # type: ignore[attr-defined]
                if isinstance(key, ast.Constant) and key.value == method:
                    return value
    return None


def _reachable(tree: ast.Module, names: set[str]) -> list[ast.stmt]:
    """Top-level statements that define what `names` use, directly or through others, in file order."""
    wanted, reached = set(names), set()
    grew = True
    while grew:
        grew = False
        for position, node in enumerate(tree.body):
            if position not in reached and _defines(node) & wanted:
                reached.add(position)
                wanted |= _names(node)
                grew = True
    return [tree.body[position] for position in sorted(reached)]


def _defines(node: ast.stmt) -> set[str]:
    if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef):
        return {node.name}
    if isinstance(node, ast.Import | ast.ImportFrom):
        return {(alias.asname or alias.name).partition(".")[0] for alias in node.names}
    return {part.id for part in ast.walk(node) if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store)}


def _names(node: ast.AST) -> set[str]:
    return {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}


def _closure(files: Iterable[Path]) -> list[Path]:
    """The files and all files of `trainables` (or beside a file) that they import, anywhere in them, transitively."""
    waiting, seen = list(files), []
    while waiting:
        file = waiting.pop()
        if file in seen:
            continue
        seen.append(file)
        beside = None if file.is_relative_to(ROOT) else file.parent
        waiting.extend(_imported(_tree(file), beside))
    return sorted(seen)


def _imported(node: ast.AST, beside: Path | None) -> Iterator[Path]:
    """Files of ours that import statements in or under `node` name."""
    for part in ast.walk(node):
        if isinstance(part, ast.Import):
            yield from _modules((alias.name for alias in part.names), beside)
        elif isinstance(part, ast.ImportFrom) and part.module:
            yield from _modules([part.module, *(f"{part.module}.{alias.name}" for alias in part.names)], beside)


def _modules(names: Iterable[str], beside: Path | None) -> Iterator[Path]:
    """Files of those modules that lie under `trainables` or in the folder `beside`."""
    for name in names:
        path = Path(*name.split("."))
        for root in [ROOT] if path.parts[0] == "trainables" else [beside] if beside else []:
            file = (root / path).with_suffix(".py")
            if file.is_file():
                yield file


def _name(file: Path) -> str:
    return file.relative_to(ROOT).as_posix() if file.is_relative_to(ROOT) else file.name


def _digest(file: Path) -> str:
    return hashlib.sha256(_dump(_tree(file)).encode()).hexdigest()[:16]


def _tree(file: Path) -> ast.Module:
    return _parsed(file, file.stat().st_mtime_ns)


@lru_cache(maxsize=256)
def _parsed(file: Path, _modified: int) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"), filename=str(file))


def _dump(node: ast.AST) -> str:
    """The tree as text without positions and docstrings (any statement that is a bare string)."""
    lines: list[str] = []
    _write(node, lines)
    return "".join(lines)


def _write(value: Any, out: list[str]) -> None:
    if isinstance(value, ast.AST):
        out.append(f"({type(value).__name__}")
        for name, child in ast.iter_fields(value):
            # Fields that Python versions add or drop, always empty in our code, must not change a digest.
            if child is not None and child != [] and name not in ("type_comment", "kind"):
                out.append(f" {name}=")
                _write(child, out)
        out.append(")")
    elif isinstance(value, list):
        out.append("[")
        for item in value:
            if not _is_bare_string(item):
                _write(item, out)
        out.append("]")
    else:
        out.append(repr(value))


def _is_bare_string(node: Any) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _git() -> dict[str, Any]:
    """The commit, dirty, and the digest of the diff where dirty; nothing for a copy that was installed elsewhere."""
    top = _git_says("rev-parse", "--show-toplevel")
    commit = _git_says("rev-parse", "HEAD")
    if top is None or commit is None or Path(top.decode().strip()).resolve() != ROOT.resolve():
        return {"commit": "", "dirty": False, "diff_digest": ""}
    diff = _git_says("diff", "HEAD") or b""
    digest = hashlib.sha256(diff).hexdigest()[:16] if diff else ""
    return {"commit": commit.decode().strip(), "dirty": bool(diff), "diff_digest": digest}


def _git_says(*words: str) -> bytes | None:
    command = ["git", "-C", str(ROOT), *words]
    try:
        done = subprocess.run(command, capture_output=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
