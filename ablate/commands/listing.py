"""`list`: the studies of the catalogue."""

import argparse

from ablate import options, terminal
from search_spaces.study import Study


def add(parser: argparse.ArgumentParser) -> None:
    """Adds the command's options."""
    options.add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Runs the command; returns its exit code."""
    from search_spaces import catalogue

    studies = [catalogue.load(name) for name in catalogue.names()]
    if args.json:
        terminal.write_json([_plain(study) for study in studies])
        return 0
    out = terminal.console()
    out.print(terminal.grid(["study", "question", "arms", "scales"], [_row(study) for study in studies], numbers=[2]))
    out.print()
    out.print("The plan of one, before anything runs:  python -m ablate show STUDY", soft_wrap=True)
    return 0


def _row(study: Study) -> list[str]:
    return [study.name, study.question, str(len(study.arms)), " ".join(scale.name for scale in study.scales)]


def _plain(study: Study) -> dict[str, object]:
    return {
        "name": study.name,
        "question": study.question,
        "method": study.method,
        "source": {"paper": study.source.paper, "where": study.source.where, "repository": study.source.repository},
        "arms": [arm.name for arm in study.arms],
        "baseline": study.baseline,
        "scales": {scale.name: len(study.arms) * len(scale.blocks) for scale in study.scales},
        "outcome": study.outcome.metric,
    }
