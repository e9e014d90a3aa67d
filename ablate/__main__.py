"""python -m ablate: parse, call, exit code.

Exit codes: 0 all trials done; 1 some failed; 2 wrong usage or input; 3 the sweep is held by another driver;
70 a fault of the program itself; 130 interrupted.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import NoReturn

from ablate import doctor, terminal
from ablate.commands import compare, listing, reproduce, resume, run, show, status, steer, sync, ui
from ablate.commands import report as report_command
from ablate.log import CorruptLog
from ablate.masking import keep_others_out
from ablate.request import UsageError
from ablate.store import StoreError
from search_spaces.study import StudyError
from trainables.config import ConfigError, nearest
from trainables.origin import OriginError

COMMANDS: dict[str, tuple[ModuleType, str]] = {
    "list": (listing, "the studies there are"),
    "show": (show, "a study's plan, cost and power, before anyone pays"),
    "run": (run, "run what is missing of a study, then answer its question"),
    "resume": (resume, "go on with a sweep as it was last launched"),
    "status": (status, "what is done, failed, running and stale; reads files only"),
    "steer": (steer, "pause, resume or cancel an arm, or add blocks, while it runs"),
    "report": (report_command, "table and report of what is there"),
    "compare": (compare, "several sweeps or homes side by side"),
    "sync": (sync, "rebuild MLflow and Optuna from the log"),
    "reproduce": (reproduce, "run one recorded trial again and compare bit for bit"),
    "ui": (ui, "browse every run in MLflow"),
    "doctor": (doctor, "check this machine, and say what to mend"),
}
FAULT = 70
INTERRUPTED = 130
EXIT_CODES = "exit codes: 0 all trials done, 1 some failed, 2 wrong usage, 3 held by another driver, 130 interrupted"


class Parser(argparse.ArgumentParser):
    """argparse, but it raises: every wrong input ends in the same one place."""

    def error(self, message: str) -> NoReturn:
        """Raises UsageError."""
        raise UsageError(f"{message}. See `{self.prog} --help`.")


def parser() -> tuple[Parser, dict[str, Parser]]:
    """The parser of everything, and each command's own."""
    top = Parser(
        prog="python -m ablate",
        description="Does this part of the method matter, and by how much?",
        epilog=EXIT_CODES,
        allow_abbrev=False,
    )
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True)
    own = {}
    for name, (module, help_text) in COMMANDS.items():
        own[name] = commands.add_parser(
            name, help=help_text, description=module.__doc__, epilog=EXIT_CODES, allow_abbrev=False
        )
        module.add(own[name])
    return top, own


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Raises UsageError, with the nearest name, for a command or an option that does not exist."""
    if argv and not argv[0].startswith("-") and argv[0] not in COMMANDS:
        raise UsageError(f"no command {argv[0]!r}.{nearest(argv[0], COMMANDS)} There are: {', '.join(COMMANDS)}.")
    top, own = parser()
    args, unknown = top.parse_known_args(argv)
    if unknown:
        options = [option for action in own[args.command]._actions for option in action.option_strings]
        name = unknown[0].partition("=")[0]
        kind = "option" if name.startswith("-") else "argument"
        raise UsageError(
            f"`{args.command}` has no {kind} {name!r}.{nearest(name, options)} "
            f"See `python -m ablate {args.command} --help`."
        )
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit code."""
    keep_others_out()
    terminal.spell()
    try:
        args = parse(sys.argv[1:] if argv is None else argv)
        return int(COMMANDS[args.command][0].run(args))
    except (UsageError, StudyError, ConfigError, OriginError, CorruptLog, StoreError) as error:
        if debugging():
            raise
        terminal.complain(str(error))
        return 2
    except PermissionError as error:
        if debugging():
            raise
        terminal.complain(f"{error.filename}: {error.strerror}. Mend its permissions, or name another place.")
        return 2
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        terminal.hush()  # not our failure; Python would complain again when it flushes at exit
        return 0
    except Exception as error:
        if debugging():
            raise
        terminal.complain(
            f"{type(error).__name__}: {error}\nThis is a fault of the program or its surroundings, not of your input. "
            f"Set ABLATE_DEBUG=1 and run it again for the traceback. Nothing recorded is lost."
        )
        return FAULT


def debugging() -> bool:
    """ABLATE_DEBUG=1: show tracebacks."""
    return os.environ.get("ABLATE_DEBUG", "") not in ("", "0")


if __name__ == "__main__":
    sys.exit(main())
