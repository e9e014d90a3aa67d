"""Which finished trials are not what today's code or study would give, and the file or field that made them so."""

from collections.abc import Iterator, Mapping
from typing import Any

from ablate import provenance
from ablate.log import Entry
from ablate.plan import Plan, Trial, plan
from search_spaces.study import StudyError

GONE = object()


def stale(whole: Plan, entries: Mapping[str, Entry]) -> dict[str, list[str]]:
    """Trial id -> the files whose code, or the data, changed since it was recorded; only trials where some did."""
    digests: dict[str, Mapping[str, str]] = {}
    found = {}
    for trial in whole.trials:
        entry = entries.get(trial.id)
        if entry is None or entry.record is None:
            continue
        if trial.method not in digests:
            digests[trial.method] = _digests(trial.method, whole.study.origin)
        reasons = provenance.stale(entry.record, digests[trial.method])
        if reasons:
            found[trial.id] = reasons
    return found


def superseded(launched: Plan) -> dict[str, list[str]]:
    """Trial id -> the fields that the study of that name has otherwise by now, for a sweep as it was launched.

    Such trials stay true of the study as launched; `run` would train others in their place.
    """
    from search_spaces import catalogue

    if launched.study.origin:
        # Importing a user's file may cost seconds, and status reads files only.
        return {}
    try:
        now = plan(catalogue.load(launched.study.name), launched.scale.name)
    except StudyError:
        # The study is gone, or the scale was formed on the command line: nothing to compare with.
        return {}
    trials = {trial.id: trial for trial in (*launched.trials, *now.trials)}
    today = {(cell.arm, cell.block.name): cell.trial for cell in now.cells}
    declared = {arm.name for arm in now.study.arms}
    found = {}
    for cell in launched.cells:
        if launched.study.tuning is not None and cell.arm not in declared:
            continue  # a search's own: it declares its first arm only
        other = today.get((cell.arm, cell.block.name), GONE)
        if other is GONE:
            found[cell.trial] = ["the study has no such arm and block now"]
        elif other != cell.trial:
            found[cell.trial] = list(_differences(trials[cell.trial], trials[str(other)]))
    return found


def _differences(then: Trial, now: Trial) -> Iterator[str]:
    if then.method != now.method:
        yield f"method is {now.method} now, was {then.method}"
    for kind in ("config", "data"):
        before: Mapping[str, Any] = getattr(then, kind)
        after: Mapping[str, Any] = getattr(now, kind)
        for name in sorted(before.keys() | after.keys()):
            old, new = before.get(name, "absent"), after.get(name, "absent")
            if old != new:
                yield f"{name} is {new} now, was {old}"


def _digests(method: str, origin: str) -> Mapping[str, str]:
    try:
        return provenance.code_digests(method, origin)
    except (provenance.MethodUnknown, OSError, SyntaxError):
        # The file is gone or broken: then `run` says so; what was recorded stays readable.
        return {}
