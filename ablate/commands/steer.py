"""`steer`: pause, resume or cancel an arm of a sweep, or give it more blocks or arms, while it runs; from any machine.

The driver of the sweep takes the order up within seconds, wherever it runs; trials that run give back after their
epoch, with their state kept. Without a driver the order waits for the next one.
"""

import argparse
from dataclasses import asdict

from ablate import options, request, steering, terminal
from ablate.home import Home
from ablate.plan import Plan
from ablate.running import holder
from ablate.steering import Order
from ablate.summary import load

DOING = {
    "pause": "hands out no more of the arm's trials, until resumed",
    "resume": "lets a paused or cancelled arm run",
    "cancel": "runs no more of the arm; what it has is kept and reported",
    "extend": "more blocks, or arms that were left out",
}


def add(parser: argparse.ArgumentParser) -> None:
    """Adds the command's options."""
    options.add_study(parser)
    parser.add_argument("do", metavar="ORDER", choices=tuple(DOING), help=f"one of {', '.join(DOING)}")
    parser.add_argument("arm", metavar="ARM", nargs="*", help="for pause, resume and cancel: the arm, or several")
    parser.add_argument("--blocks", metavar="N", type=options.whole(1), help="for extend: the first N blocks")
    parser.add_argument("--arms", metavar="A,B", type=options.names, help="for extend: these arms too")
    parser.add_argument("--scale", metavar="NAME", help="of the sweep (default: the last one launched)")
    options.add_home(parser)
    options.add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Runs the command; returns its exit code."""
    home = request.home_of(args)
    plan = _launched(args, home)
    order = _order(args, plan)
    given = steering.give(home, plan.sweep, order)
    driver = holder(home, plan.sweep)
    if args.json:
        terminal.write_json(asdict(given) | {"sweep": plan.sweep, "driver": driver})
        return 0
    out = terminal.console()
    out.print(f"{plan.sweep}: {given.text}.")
    when = "Its driver takes it up within seconds; `status` says so." if driver else "No driver runs it: `resume` will."
    out.print(when)
    return 0


def _launched(args: argparse.Namespace, home: Home) -> Plan:
    """The sweep that is meant, as it was last launched, or extended."""
    found = {name: load(home, name).launch for name in request.sweeps_of(home, None)}
    launches = {name: line for name, line in found.items() if line}
    names = [name for name in request.sweeps_of(home, args.study, launches) if name in launches]
    lines = [launches[name] for name in names if args.scale in (None, launches[name]["scale"])]
    if not lines:
        study = request.study_of(args.study)
        scale = f" at scale {args.scale!r}" if args.scale else ""
        raise request.UsageError(
            f"No sweep of {study.name}{scale} was launched in {home.name}, so there is nothing to steer. "
            f"See `python -m ablate status`."
        )
    return request.plan_from_line(max(lines, key=lambda line: float(line["time"])))


def _order(args: argparse.Namespace, plan: Plan) -> Order:
    """What is ordered, if the sweep can follow it.

    Raises:
        UsageError: it cannot.
        StudyError: an arm that the study does not have.
    """
    if args.do == "extend":
        if args.arm or not (args.blocks or args.arms):
            raise request.UsageError("extend takes --blocks N, --arms A,B or both, and nothing else.")
        order = Order(do="extend", arms=request.arms_of(plan.study, args.arms) or (), blocks=args.blocks)
    elif not args.arm or args.blocks or args.arms:
        raise request.UsageError(f"{args.do} takes the names of arms, and neither --blocks nor --arms.")
    else:
        order = Order(do=args.do, arms=tuple(dict.fromkeys(args.arm)))
    refused = steering.judged(order, plan).refused
    if refused:
        raise request.UsageError(f"{plan.sweep} cannot be steered so: {refused.removesuffix('.')}.")
    if order.do == "extend" and steering.extended(plan, order) is plan:
        raise request.UsageError(f"{plan.sweep} has these blocks and arms already: {_extent(plan)}.")
    return order


def _extent(plan: Plan) -> str:
    blocks = len({cell.block for cell in plan.cells})
    return f"{terminal.count(blocks, 'block')} of {', '.join(dict.fromkeys(cell.arm for cell in plan.cells))}"
