"""Findings in sentences: the verdict of a study, the declared tests, the scale. Pure text, no markup."""

import math
from collections.abc import Iterable

from analysis import display, facts, search
from analysis.display import Quantity, listing
from analysis.findings import ArmSummary, ContrastResult, Findings, Word
from analysis.significance import sign_flip_attainable
from search_spaces.study import Study

WORDS: tuple[Word, ...] = ("better", "worse", "equivalent", "undecided")

SELECTION = {
    "last": "the last epoch counts",
    "best_oracle": "the best epoch on the test set counts (an oracle: it has looked at the test set)",
    "median_last_10": "the median of the last 10 epochs counts",
}

CORRECTION = {
    "holm": "corrected over each declared family by Holm's method",
    "hochberg": "corrected over each declared family by Hochberg's method",
    "benjamini-hochberg": "corrected over each declared family by Benjamini and Hochberg's method (false discoveries)",
    "none": "not corrected for several comparisons",
}


def headline(findings: Findings, study: Study) -> str:
    """The answer in one sentence."""
    finished, wanted = progress(findings)
    so_far = _so_far(findings)
    if not finished:
        runs = "the one run" if wanted == 1 else f"none of {wanted} runs"
        if any(arm.pending for arm in findings.arms):
            return (
                "Nothing can be said yet: no run is done."
                if wanted == 1
                else f"Nothing can be said yet: {runs} is done."
            )
        return f"Nothing can be said: {runs} gave {'no' if wanted == 1 else 'a'} value."
    if study.tuning is not None:
        return so_far + search.headline(findings, study)
    if not findings.contrasts and findings.left_out:
        return _sentence(f"{so_far}no declared comparison is between the arms of this sweep, so nothing is decided.")
    if not findings.contrasts:
        return _sentence(f"{so_far}no comparison was declared for this study, so nothing is decided.")
    if len(findings.contrasts) == 1 and findings.contrasts[0].verdict.sentence:
        return so_far + findings.contrasts[0].verdict.sentence
    return _sentence(so_far + "; ".join(_against(findings, study)) + ".")


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _so_far(findings: Findings) -> str:
    """What the answer lacks: runs that failed or are still to come."""
    failed = sum(len(arm.failed) for arm in findings.arms)
    pending = sum(len(arm.pending) for arm in findings.arms)
    wanted = progress(findings)[1]
    if pending:
        return f"So far, with {pending} of {wanted} runs to come" + (
            f" and no value from {failed}: " if failed else ": "
        )
    return f"With no value from {failed} of {wanted} runs: " if failed else ""


NAMED = 3
"""Arms with one verdict that the headline names; more are counted."""


def _against(findings: Findings, study: Study) -> list[str]:
    """One clause per reference: 'against X, A and B are better and C is undecided'."""
    named = {arm.name: arm.label or arm.name for arm in study.arms}
    shown = display.quantity(study.outcome, findings.arms, findings.contrasts)
    clauses = []
    for reference in dict.fromkeys(contrast.reference for contrast in findings.contrasts):
        own = [contrast for contrast in findings.contrasts if contrast.reference == reference]
        groups = [[contrast for contrast in own if contrast.verdict.word == word] for word in WORDS]
        parts = [_group(found, len(own), named, shown) for found in groups if found]
        clauses.append(f"against {quoted(named[reference])}, {listing(parts)}")
    return clauses


def _group(found: list[ContrastResult], of: int, named: dict[str, str], shown: Quantity) -> str:
    """'A and B are better', or 'all 5 arms are better' where they are many."""
    datasets = any(contrast.dataset for contrast in found)
    if len(found) <= NAMED:
        names = [quoted(named[c.arm]) + (f" on {c.dataset}" if c.dataset else "") for c in found]
        who = listing(names)
    else:
        who = f"{'all ' if len(found) == of else ''}{len(found)} {'comparisons' if datasets else 'arms'}"
    margins = {contrast.margin for contrast in found}
    margin = margins.pop() if len(margins) == 1 else None
    word = found[0].verdict.word
    within = f" within ±{shown.margin(margin)}" if word == "equivalent" and margin is not None else ""
    return f"{who} {'is' if len(found) == 1 else 'are'} {word}{within}"


def quoted(label: str) -> str:
    """The label, in quotation marks where its own punctuation would run into a sentence's."""
    return f"“{label}”" if any(mark in label for mark in (",", ":", ";", " + ", " and ")) else label


def progress(findings: Findings) -> tuple[int, int]:
    """Cells of the table that are done, and all of them."""
    finished = sum(arm.n for arm in findings.arms)
    return finished, finished + sum(len(arm.failed) + len(arm.pending) for arm in findings.arms)


def missing(arms: Iterable[ArmSummary]) -> tuple[str, ...]:
    """Which blocks the arms have no value for, and why; arms that wait for the same blocks in one sentence."""
    arms = list(arms)
    failed = [
        f"{arm.label}: " + "; ".join(f"failed on {block} ({reason})" for block, reason in arm.failed.items()) + "."
        for arm in arms
        if arm.failed
    ]
    waiting: dict[tuple[str, ...], list[str]] = {}
    for arm in arms:
        if arm.pending:
            waiting.setdefault(tuple(arm.pending), []).append(quoted(arm.label))
    pending = [f"Not run yet on {', '.join(blocks)}: {listing(labels)}." for blocks, labels in waiting.items()]
    return (*failed, *pending)


def tests(findings: Findings, study: Study) -> str:
    """Which tests were declared, at which level, corrected how, and what so few blocks can reach."""
    every = dict.fromkeys(contrast.test for contrast in findings.contrasts)
    names = "; ".join([*every, ""]).rstrip() if any(", as " in name for name in every) else f"{listing(every)},"
    families = {contrast.family: contrast.family_size for contrast in findings.contrasts}
    sizes = [f"{size} in the family {family!r}" for family, size in families.items()]
    sentence = (
        f"Declared before the run, on differences paired by block: {names} at level {study.alpha:g}, "
        f"{CORRECTION.get(study.correction, study.correction)}"
    )
    if study.correction != "none":
        sentence += f" ({listing(sizes)})"
    counts = {len(contrast.blocks) for contrast in findings.contrasts if len(contrast.blocks) > 1}
    least = sign_flip_attainable(min(counts, default=0))
    if counts and least > study.alpha:
        which = ", as the smallest comparison has," if len(counts) > 1 else ""
        sentence += (
            f". With {min(counts)} blocks{which} an exact two-sided sign-flip test cannot go below p = {least:.4g}, "
            f"so on its own it could not decide at this level"
        )
    return sentence + "."


def scale_note(findings: Findings, study: Study) -> str:
    """What the scale can and can't say."""
    scale = facts.size(study, findings.scale)
    if scale is None:
        gone = f"Scale: {findings.scale}, which the study no longer has."
        return f"{gone} This is not a replication of {study.source.paper}."
    note = f" {scale.note}" if scale.note else ""
    if scale.name == "paper":
        return f"Scale: paper, the protocol of {study.source.paper}.{note}"
    return f"Scale: {scale.name}. This is not a replication of {study.source.paper}.{note}"


def agreement(findings: Findings, study: Study) -> str:
    """How far the paper's numbers and ours point the same way."""
    found = findings.agreement
    if found is None:
        return ""
    parts = []
    if found.comparable:
        elsewhere = dict.fromkeys(pair.ours_on for pair in found.contrasts if pair.agree is not None and pair.ours_on)
        on = f", measured here on other data than the paper's ({listing(elsewhere)})" if elsewhere else ""
        parts.append(f"{found.agreed} of {found.comparable} comparable contrasts have the paper's sign{on}")
    else:
        parts.append("No declared contrast can be compared with the paper: it printed other data than were run here")
    if found.tau is not None:
        tau = f"Kendall's tau between printed and measured numbers is {display.fixed(found.tau.estimate, 2)}"
        if math.isfinite(found.tau.low) and math.isfinite(found.tau.high):
            level, low, high = found.tau.level, display.fixed(found.tau.low, 2), display.fixed(found.tau.high, 2)
            tau += f" ({display.percent(level)} interval {low} to {high})"
        parts.append(tau)
    also = (
        ""
        if findings.scale == "paper"
        else f" At scale {findings.scale} this is no replication of {study.source.paper}."
    )
    return ". ".join(parts) + "." + also
