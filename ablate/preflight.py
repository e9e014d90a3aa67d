"""What can be known to be wrong before any training is found before any training."""

import errno
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ablate import store
from ablate.home import Home
from ablate.plan import Plan, Trial
from ablate.request import UsageError
from trainables.protocol import Needed

ROOM = 1 << 16
"""Bytes that a home must take: less is no room for a log."""


def check_home(home: Home) -> None:
    """Makes the home where missing, and writes and removes a file in it, and an object where it is in a store.

    Raises:
        UsageError: it cannot be made or written.
        StoreError: it is in an object store that cannot be written.
    """
    check_folder(home)
    remote = store.of(home)
    if remote is not None:
        remote.check()


def check_folder(home: Home) -> None:
    """Makes the home's folder on this node where missing, and writes and removes a file in it.

    Raises:
        UsageError: it cannot be made or written.
    """
    try:
        home.root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=home.root) as file:
            file.write(bytes(ROOM))
    except OSError as error:
        what, name = ("The home", "--home or ABLATE_HOME")
        if home.remote is not None:
            what, name = (f"The cache of {home.name}", "ABLATE_CACHE")
        mend = "make room there" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "mend its permissions"
        raise UsageError(
            f"{what} {home.root} cannot be written: {error.strerror or error}. Give another with {name}, or {mend}."
        ) from error


def check_methods(plan: Plan) -> None:
    """Every method that a study of the user's own names can be found, and what needs another trial can use it.

    Methods of the catalogue's studies are tested; without needs there is nothing to look at, and torch is not imported.

    Raises:
        ConfigError, OriginError: it cannot.
    """
    if not plan.study.origin and not any(trial.needs for trial in plan.trials):
        return
    from trainables import catalogue
    from trainables.data_protocols import DataSpec

    trials = {trial.id: trial for trial in plan.trials}
    for trial in plan.trials:
        method = catalogue.find(trial.method, plan.study.origin)
        if method.check is not None:
            needed = {field: DataSpec(**trials[ident].data) for field, ident in trial.needs.items()}
            config = _typed(trial, trials, plan.study.origin)
            method.check(config, DataSpec(**trial.data), needed)


def _typed(trial: Trial, trials: Mapping[str, Trial], origin: str) -> Any:
    """The trial's config as its method is given it."""
    from trainables import catalogue
    from trainables.config import from_plain

    needed = {field: trials[ident] for field, ident in trial.needs.items()}
    placed = {field: Needed(each.method, _typed(each, trials, origin)) for field, each in needed.items()}
    return from_plain(catalogue.find(trial.method, origin).config, {**trial.config, **placed})


def check_data(plan: Plan, home: Home, source: Path | None) -> None:
    """Every data set of the plan can be opened, has the classes that its protocol needs, and is whole.

    Opening it decodes it once, into the home, where the trials find it.

    Raises:
        UsageError: missing, empty, truncated, or other classes.
    """
    from trainables.data_protocols import DataSpec
    from trainables.datasets import open_data
    from trainables.imageformats import DataError

    for fields in _distinct(plan):
        try:
            open_data(DataSpec(**fields), cache=home.data, source=source)
        except DataError as error:
            raise UsageError(str(error)) from error


def _distinct(plan: Plan) -> list[Mapping[str, Any]]:
    """One data specification for each protocol: its splits come from the same images."""
    found: dict[str, Mapping[str, Any]] = {}
    for trial in plan.trials:
        found.setdefault(trial.data["protocol"], trial.data)
    return list(found.values())
