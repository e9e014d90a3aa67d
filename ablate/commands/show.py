"""`show`: what a study would run and could find, before anyone pays for it."""

import argparse
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ablate import masking, options, request, staleness, terminal, tuning
from ablate.log import Entry, ledger
from ablate.plan import Plan
from ablate.progress import Progress, expected_seconds, progress
from ablate.summary import load
from search_spaces.study import Contrast, Outcome, Tuning, config_fields

if TYPE_CHECKING:
    from analysis.findings import Design


def add(parser: argparse.ArgumentParser) -> None:
    """Adds the command's options."""
    options.add_study(parser)
    options.add_form(parser, scale=request.DEFAULT_SCALE)
    options.add_home(parser)
    options.add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Runs the command; returns its exit code."""
    home = request.home_of(args)
    entries = ledger(home)
    plan = tuning.grown(request.plan_of(args), {ident: end for ident in entries if (end := entries[ident].record)})
    stale = staleness.stale(plan, entries)
    if args.json:
        terminal.write_json(as_plain(plan, entries, stale))
        return 0
    out = terminal.console()
    state = progress(plan, entries, steered=load(home, plan.sweep).standing.steered.arms)
    study = plan.study
    out.print(terminal.heading(study.name))
    out.print(study.question)
    out.print()
    out.print(terminal.facts(_facts(plan)))
    out.print()
    out.print(terminal.heading(f"Arms, as differences from {study.baseline}"))
    out.print(_arms(plan, state, stale))
    if study.contrasts:
        out.print()
        out.print(terminal.heading("Declared contrasts"))
        out.print(_contrasts(plan))
    out.print()
    if study.tuning is None:
        out.print(terminal.heading("What this design can and cannot find"))
        design = design_of(plan)
        out.print(terminal.bullets(_limits(design)))
        out.print(_power(plan, design))
        out.print()
    out.print(terminal.facts([("Cost", cost_text(plan, entries)), ("Home", home.name)]))
    out.print()
    out.print(f"To run it:  {command(args, 'run')}", soft_wrap=True)
    return 0


def command(args: argparse.Namespace, name: str) -> str:
    """The same study in the same form, for another command."""
    words = ["python", "-m", "ablate", name, args.study]
    words += ["--scale", args.scale] if args.scale else []
    words += ["--dataset", args.dataset] if args.dataset else []
    words += ["--arms", ",".join(args.arms)] if args.arms else []
    words += ["--blocks", str(args.blocks)] if args.blocks else []
    words += [word for text in args.set for word in ("--set", text)]
    words += ["--home", args.home] if args.home else []
    return masking.typed(words)


def _fields(fields: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={_value(value)}" for name, value in fields.items())


def _facts(plan: Plan) -> list[tuple[str, str]]:
    study, scale = plan.study, plan.scale
    source = f"{study.source.paper}, {study.source.where}"
    blocks = list(dict.fromkeys(cell.block for cell in plan.cells))
    seen = {name: sum(block.dataset == name for block in blocks) for name in dict.fromkeys(b.dataset for b in blocks)}
    return [
        ("Source", source + (f"; code {study.source.repository}" if study.source.repository else "")),
        ("Claim", study.claim),
        ("Outcome", _outcome(study.outcome)),
        ("Also", ", ".join(outcome.label for outcome in study.secondary)),
        ("Scale", f"{scale.name}: {_fields({**scale.data, **scale.settings}) or 'as configured'}"),
        ("", scale.note),
        ("Blocks", ", ".join(f"{terminal.count(number, 'block')} of {name}" for name, number in seen.items())),
        *(("Needed", f"networks trained on {_fields(data)}") for data in scale.needed_data.values()),
        ("Search", _search(study.tuning, scale.name) if study.tuning else ""),
        *(("Note", note) for note in study.notes),
    ]


def _search(search: Tuning, scale: str) -> str:
    """How a tuning study looks for what it tries."""
    ranges = ", ".join(
        f"{parameter.name} in [{parameter.low:g}, {parameter.high:g}]{' (log)' if parameter.log else ''}"
        for parameter in search.parameters
    )
    pruned = (
        "" if search.pruner == "none" else f", pruned by the {search.pruner} after {search.short:.0%} of the epochs"
    )
    return (
        f"{search.configurations[scale]} configurations, the baseline first, then {search.round} at a time by "
        f"{search.sampler}{pruned}; for {' and '.join(search.objectives)}. {ranges}. Shown is what the "
        f"results so far call for; the rest follows from results."
    )


def _outcome(outcome: Outcome) -> str:
    direction = "higher is better" if outcome.higher_is_better else "lower is better"
    rule = {
        "last": "after the last epoch",
        "best_oracle": "at its best epoch, which looks at the test set",
        "median_last_10": "median of the last 10 epochs",
    }[outcome.select]
    return f"{outcome.label} ({outcome.metric}), {rule}; {direction}"


def _arms(plan: Plan, state: Progress, stale: Mapping[str, list[str]]) -> Any:
    rows = []
    for arm in state.arms:
        own = [cell.trial for cell in plan.cells if cell.arm == arm.arm]
        old = sum(trial in stale for trial in own)
        rows.append(
            [
                f"{arm.arm} ({arm.steered})" if arm.steered else arm.arm,
                "\n".join(differences(plan, arm.arm)) or "the baseline",
                str(arm.done),
                str(arm.pending),
                str(arm.failed) if arm.failed else "",
                str(old) if old else "",
            ]
        )
    return terminal.grid(["arm", "differs in", "done", "pending", "failed", "stale"], rows, numbers=[2, 3, 4, 5])


def differences(plan: Plan, arm: str) -> list[str]:
    """What sets an arm apart from the baseline, one 'field=value' each; empty for the baseline."""
    study = plan.study
    base, own = study.arm(study.baseline), study.arm(arm)
    found = [] if study.method_of(base) == study.method_of(own) else [f"method={study.method_of(own)}"]
    before = dict(_flat(config_fields(base.config), plan.scale.settings))
    after = dict(_flat(config_fields(own.config), plan.scale.settings))
    found += [f"{name}={_value(value)}" for name, value in after.items() if before.get(name, ...) != value]
    return found


def _flat(fields: Mapping[str, Any], settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(field, value), also of the configs of needed trials, as 'network.width'."""
    for name, value in fields.items():
        if isinstance(value, Mapping) and "needs" in value:
            yield f"{prefix}{name}", value["needs"]["method"]
            yield from _flat(value["needs"]["config"], settings, f"{prefix}{name}.")
        else:
            value = settings.get(name, value)
            yield f"{prefix}{name}", list(value) if isinstance(value, tuple) else value


def _value(value: Any) -> str:
    return "(" + ", ".join(map(_value, value)) + ")" if isinstance(value, list | tuple) else str(value)


def _contrasts(plan: Plan) -> Any:
    from analysis.display import quantity

    study = plan.study
    shown = quantity(study.outcome, ())
    wanted = {cell.arm for cell in plan.cells}

    def claim(contrast: Contrast) -> str:
        if contrast.margin is None:
            return contrast.claim
        return f"{contrast.claim}, margin {shown.margin(contrast.margin)}"

    rows = [
        [
            f"{contrast.arm} - {contrast.reference}" + (f" on {contrast.dataset}" if contrast.dataset else ""),
            claim(contrast),
            contrast.family,
            "" if {contrast.arm, contrast.reference} <= wanted else "not with these --arms",
        ]
        for contrast in study.contrasts_at(plan.scale.name)
    ]
    return terminal.grid(["arm - reference", "claim", f"family ({study.correction})", ""], rows)


def design_of(plan: Plan) -> "Design":
    """What so many blocks can decide."""
    from analysis import power

    return power.design(plan.study, plan.scale.name, len({cell.block for cell in plan.cells}))


def _limits(design: "Design") -> list[str]:
    blocks, contrasts = terminal.count(design.blocks, "block"), terminal.count(design.contrasts, "contrast")
    return [
        f"{blocks} and {contrasts} in the largest family: the p of an exact test is at least "
        f"{max(design.attainable.values()):.2g}, before correction.",
        *design.notes,
        "What a paired t test finds with power 0.8 at the strictest corrected level depends on a spread that nobody "
        "knows before the first blocks:",
    ]


def _power(plan: Plan, design: "Design") -> Any:
    """Power over a range of spreads: nobody knows the spread before the first run."""
    from analysis import display

    study = plan.study
    unit, points = study.outcome.unit, " (points)" if study.outcome.unit == 100 else ""
    columns = [f"SD of paired differences{points}", f"smallest difference found{points}"]
    if design.margin is not None:
        margin = f"{design.margin * unit:.6g}"
        columns += [f"chance to find a difference of {margin}", f"chance to show equivalence within {margin}"]

    def size(value: float) -> str:
        return f"{value * unit:.2f}" if math.isfinite(value) else display.MISSING

    def chance(value: float | None) -> list[str]:
        return [] if value is None else [display.percent(round(value, 2))]

    rows = [
        [size(row.sd), size(row.detectable), *chance(row.difference), *chance(row.equivalence)] for row in design.rows
    ]
    return terminal.grid(columns, rows, numbers=range(len(columns)))


def cost(plan: Plan, entries: Mapping[str, Entry]) -> dict[str, Any]:
    """Trials to run and what they take; seconds None where nothing is known."""
    todo = [trial for trial in plan.trials if (entry := entries.get(trial.id)) is None or entry.record is None]
    expected = expected_seconds(plan, entries)
    known = all(trial.method in expected for trial in todo)
    seconds = sum(expected[trial.method] for trial in todo) if known else None
    slots = 1 if plan.scale.gpus else max(1, int(len(os.sched_getaffinity(0)) // plan.scale.cpus))
    recorded = any(entry.record for trial in plan.trials if (entry := entries.get(trial.id)))
    return {
        "trials": len(todo),
        "seconds": seconds,
        "wall_seconds": None if seconds is None else seconds / max(1, min(slots, len(todo))),
        "at_a_time": slots,
        "from": "recorded trials" if recorded else "the scale's declaration",
    }


def cost_text(plan: Plan, entries: Mapping[str, Entry]) -> str:
    """The cost in words."""
    from analysis.display import seconds

    found, follow = cost(plan, entries), tuning.to_follow(plan)
    more = f"; then up to {terminal.count(follow, 'more configuration')}, as results call for" if follow else ""
    if not found["trials"]:
        return f"nothing left to train: `run` shows the answer at once{more}"
    if found["seconds"] is None:
        return f"{terminal.count(found['trials'], 'trial')} to train, of unknown length until the first is done{more}"
    each = found["seconds"] / found["trials"]
    return (
        f"{terminal.count(found['trials'], 'trial')} to train, about {seconds(each)} each by {found['from']}: "
        f"about {seconds(found['wall_seconds'])}, {found['at_a_time']} at a time{more}"
    )


def as_plain(plan: Plan, entries: Mapping[str, Entry], stale: Mapping[str, list[str]]) -> dict[str, Any]:
    """The same for a program."""
    study, state = plan.study, progress(plan, entries)
    return {
        "study": study.name,
        "question": study.question,
        "source": asdict(study.source),
        "claim": study.claim,
        "sweep": plan.sweep,
        "scale": plan.scale.name,
        "baseline": study.baseline,
        "outcome": asdict(study.outcome),
        "contrasts": [asdict(contrast) for contrast in study.contrasts],
        "arms": [
            asdict(arm) | {"pending": arm.pending, "differences": differences(plan, arm.arm)} for arm in state.arms
        ],
        "trials": {
            "total": state.total,
            "done": state.done,
            "failed": state.failed,
            "pending": state.pending,
            "stale": dict(stale),
        },
        "cells": [{"arm": cell.arm, "block": cell.block.name, "trial": cell.trial} for cell in plan.cells],
        "cost": cost(plan, entries),
        "design": asdict(design_of(plan)),
    }
