"""Command-line options that several commands share."""

import argparse
from collections.abc import Callable

from search_spaces.study import SCALES

SCALE_NOTE = f"{', '.join(SCALES[:-1])} or {SCALES[-1]}"


def whole(least: int) -> Callable[[str], int]:
    """A reader of whole numbers from `least` on."""

    def read(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if value < least:
            raise argparse.ArgumentTypeError(f"{text!r} must be a whole number, {least} or more")
        return value

    return read


def amount(*, zero: bool) -> Callable[[str], float]:
    """A reader of finite numbers above 0, or from 0 on."""

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = -1.0
        if not (0 <= value < float("inf")) or (value == 0 and not zero):
            raise argparse.ArgumentTypeError(f"{text!r} must be a number {'from 0 on' if zero else 'above 0'}")
        return value

    return read


def pair(text: str) -> tuple[str, str]:
    """NAME=VALUE."""
    name, equals, value = (part.strip() for part in text.partition("="))
    if not (name and equals and value):
        raise argparse.ArgumentTypeError(f"{text!r} must be NAME=VALUE")
    return name, value


def share(text: str) -> tuple[str, float]:
    """NAME=AMOUNT of a resource that is not a CPU or GPU."""
    name, value = pair(text)
    if name.lower() in ("cpu", "gpu", "memory"):
        mend = "--cpus-per-trial or --gpus-per-trial" if name.lower() != "memory" else "a resource of your own name"
        raise argparse.ArgumentTypeError(f"{text!r}: give {mend} instead")
    return name, amount(zero=False)(value)


def names(text: str) -> tuple[str, ...]:
    """What stands between commas. Names may hold some themselves: `request.arms_of` puts those together again."""
    found = tuple(part.strip() for part in text.split(",") if part.strip())
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r} names nothing; write for example a,b")
    return found


def add_home(parser: argparse.ArgumentParser) -> None:
    """Adds --home."""
    parser.add_argument(
        "--home",
        metavar="DIR",
        help="where everything lies: a folder, or an object store as s3://bucket/prefix "
        "(ABLATE_HOME; default ./ablate-home)",
    )


def add_json(parser: argparse.ArgumentParser) -> None:
    """Adds --json."""
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")


def add_study(parser: argparse.ArgumentParser, *, optional: bool = False) -> None:
    """Adds the study, by name or as a file's."""
    parser.add_argument(
        "study",
        metavar="STUDY",
        nargs="?" if optional else None,
        help="name of the catalogue (see `list`), or ./file.py:name"
        + ("; default: all of the home" if optional else ""),
    )


def add_form(parser: argparse.ArgumentParser, *, scale: str) -> None:
    """Options that form the sweep: which trials it has."""
    group = parser.add_argument_group("what to run")
    group.add_argument("--scale", metavar="NAME", help=f"{SCALE_NOTE} (default: {scale})")
    group.add_argument("--arms", metavar="A,B", type=names, help="only these arms")
    group.add_argument("--blocks", metavar="N", type=whole(1), help="only the first N blocks")
    group.add_argument("--dataset", metavar="NAME", help="the same study on another data set, as a sweep of its own")
    group.add_argument(
        "--set",
        metavar="FIELD=VALUE",
        action="append",
        default=[],
        help="change a config field in every arm (repeatable); other trials, in a sweep of their own",
    )


def add_data(parser: argparse._ActionsContainer) -> None:
    """Adds --data."""
    parser.add_argument(
        "--data", metavar="DIR", help="folder of data sets (ABLATE_DATA); default: embedded or download"
    )


def add_sinks(parser: argparse._ActionsContainer) -> None:
    """Adds where MLflow and Optuna are."""
    parser.add_argument("--mlflow", metavar="URI", help="tracking server, or none (default: SQLite in the home)")
    parser.add_argument("--optuna", metavar="URL", help="storage, or none (default: SQLite in the home)")


def add_execution(parser: argparse.ArgumentParser) -> None:
    """Options of how and where trials run: none of them changes a number or an id."""
    group = parser.add_argument_group("how to run it (changes no number)")
    add_data(group)
    group.add_argument("--workers", metavar="N", type=whole(1), help="at most so many trials at a time")
    group.add_argument("--local", action="store_true", help="in this process, one trial after the other, without Ray")
    group.add_argument(
        "--address", metavar="ADDRESS", help="a running Ray cluster (RAY_ADDRESS); default: this machine"
    )
    group.add_argument("--cpus-per-trial", metavar="X", type=amount(zero=False), help="default: the scale's")
    group.add_argument("--gpus-per-trial", metavar="X", type=amount(zero=True), help="may be a fraction: 0.25")
    group.add_argument("--pack", action="store_true", help="trials share GPUs, as many as their memory allows")
    group.add_argument(
        "--resource",
        metavar="NAME=AMOUNT",
        type=share,
        action="append",
        default=[],
        help="of each trial: a resource that nodes were started with (repeatable)",
    )
    group.add_argument(
        "--label",
        metavar="KEY=VALUE",
        type=pair,
        action="append",
        default=[],
        help="only on nodes with this label; VALUE may be !x, in(x,y) or !in(x,y) (repeatable)",
    )
    group.add_argument(
        "--patience",
        metavar="SECONDS",
        type=amount(zero=True),
        help="how long to wait for a cluster that went away (default: 1800)",
    )
    group.add_argument(
        "--elastic",
        action="store_true",
        help="the cluster starts nodes when trials wait: ask it for them, and wait for the first, too",
    )
    group.add_argument(
        "--hang-after",
        metavar="SECONDS",
        type=amount(zero=True),
        help="a trial without an epoch for so long hangs and is tried again (default: the scale's, or 3600; 0: never)",
    )
    add_sinks(group)
    group.add_argument("--fresh", action="store_true", help="train stale trials again (see `status`)")
    group.add_argument("--retry-failed", action="store_true", help="train again what failed by an error or diverged")
    group.add_argument("--quiet", action="store_true", help="print the answer only, no progress")


def sink(value: str | None, default: str) -> str | None:
    """Where records are projected to: as given, the home's own by default, None for 'none'."""
    if value is None:
        return default
    return None if value.strip().lower() in ("none", "") else value
