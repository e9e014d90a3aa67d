"""`compare`: several sweeps side by side: two commits, two machines, two scales. Described, never tested."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ablate import mirror, options, preflight, request, terminal
from ablate.home import Home
from ablate.log import launched
from trainables.config import nearest

if TYPE_CHECKING:
    from analysis.comparison import Side


def add(parser: argparse.ArgumentParser) -> None:
    """Adds the command's options."""
    parser.add_argument(
        "sides",
        metavar="SIDE",
        nargs="+",
        help="a sweep as `status` names it (study@scale), of another home as DIR:study@scale, "
        "with a column name of its own as NAME=study@scale",
    )
    parser.add_argument("--out", metavar="DIR", help="where the page goes (default: reports/comparison in the home)")
    options.add_home(parser)
    options.add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Runs the command; returns its exit code."""
    from analysis import comparison, typeset

    home = request.home_of(args)
    sides = [side(text, home) for text in args.sides]
    folder = Path(args.out).expanduser() if args.out else home.root / "reports" / "comparison"
    if not args.out:
        preflight.check_folder(home)
    try:
        page = comparison.write(sides, folder)
        if not args.out:
            mirror.send_or_warn(home, folder)
    except comparison.ComparisonError as error:
        raise request.UsageError(str(error)) from error
    if args.json:
        terminal.write_json({"page": str(page), "sides": [side.name for side in sides]})
        return 0
    out = terminal.console()
    for table in (comparison.arms(sides), comparison.contrasts(sides), comparison.differing(sides)):
        if table.rows:
            out.print(typeset.text(table, width=min(out.width, 120)) + "\n", soft_wrap=True)
    out.print(f"Page       {page}", soft_wrap=True)
    return 0


def side(text: str, home: Home) -> "Side":
    """One side from `[NAME=][DIR:]STUDY@SCALE`.

    Raises:
        UsageError: no such home, or no such sweep in it; names the nearest one.
    """
    from ablate import records
    from analysis import comparison, contrasts

    before, _, sweep = text.rpartition(":")
    name, named, folder = before.partition("=")
    if not named or "/" in name:
        name, folder = "", before
    if not before:
        name, named, rest = sweep.partition("=")
        # `laptop+epochs=5` is part of a sweep's name: a column's name has no @.
        name, sweep = (name, rest) if named and "@" not in name else ("", sweep)
    where = request.opened(folder) if folder else home
    there = request.sweeps_of(where, None)
    line = launched(where, sweep) if sweep in there else None
    if line is None:
        raise request.UsageError(
            f"{where.name} has no sweep {sweep!r}.{nearest(sweep, there)} It has: {', '.join(there) or 'none'}."
        )
    plan = request.plan_from_line(line)
    frame = records.frame(where, plan)
    label = name or (f"{sweep} ({Path(where.name).name})" if folder else sweep)
    return comparison.Side(label, frame, plan.study, contrasts.compare(frame, plan.study))
