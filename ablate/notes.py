"""What MLflow shows in words: the Markdown of an experiment (the study) and of a parent run (the sweep)."""

from collections.abc import Mapping
from typing import Any

from ablate.plan import Plan
from search_spaces.study import Contrast, Study, config_fields


def experiment(study: Study) -> str:
    """The study: its question, where it comes from, its arms."""
    source = ", ".join(part for part in (study.source.paper, study.source.where, study.source.repository) if part)
    lines = [f"**{study.question}**", "", f"Source: {source}"]
    if study.claim:
        lines += ["", f"The paper: {study.claim}"]
    lines += ["", f"Outcome: `{study.outcome.metric}` ({study.outcome.label}), epoch: {study.outcome.select}.", ""]
    lines += [*_arms(study), "", "One parent run a sweep, one child a trial. Group by the tag `arm` to compare arms."]
    return "\n".join(lines)


def sweep(plan: Plan, launch: Mapping[str, Any], results: str = "") -> str:
    """The sweep: results first, once there are any, then the plan and how it was launched."""
    study, scale = plan.study, plan.scale
    blocks = list(dict.fromkeys(cell.block.name for cell in plan.cells))
    arms = list(dict.fromkeys(cell.arm for cell in plan.cells))
    lines = [f"**{study.question}**", ""]
    if results:
        lines += ["### Results", "", results.strip(), "", "More in the artifact `report.html`.", ""]
    lines += [
        f"### Plan at scale `{scale.name}`",
        "",
        f"{len(arms)} arms on {len(blocks)} blocks: {len(plan.cells)} cells, {len(plan.trials)} distinct trials.",
        scale.note,
        "",
        f"Blocks: {', '.join(f'`{block}`' for block in blocks)}",
        "",
        *_arms(study, arms),
        "",
        "Contrasts, declared before the run:",
        *(f"- {_contrast(contrast)}" for contrast in study.contrasts_at(scale.name)),
    ]
    if scale.settings:
        changed = ", ".join(f"`{name}={value}`" for name, value in sorted(scale.settings.items()))
        lines += ["", f"The scale sets {changed}."]
    commit = (launch.get("provenance") or {}).get("commit")
    lines += ["", f"Launched by `{launch.get('command') or 'ablate'}`" + (f" at commit `{commit}`." if commit else ".")]
    return "\n".join(lines)


def _arms(study: Study, wanted: list[str] | None = None) -> list[str]:
    """A table of the arms and of the fields in which each differs from the baseline."""
    base = config_fields(study.arm(study.baseline).config)
    lines = ["| arm | label | differs from the baseline in |", "|---|---|---|"]
    for arm in study.arms:
        if wanted is not None and arm.name not in wanted:
            continue
        fields = config_fields(arm.config)
        changed = [f"`{name}={value}`" for name, value in fields.items() if name not in base or base[name] != value]
        what = "(the baseline)" if arm.name == study.baseline else ", ".join(changed).replace("|", "\\|")
        lines.append(f"| `{arm.name}` | {arm.label or arm.name} | {what} |")
    return lines


def _contrast(contrast: Contrast) -> str:
    margin = f", margin {contrast.margin:g}" if contrast.margin else ""
    where = f" on {contrast.dataset}" if contrast.dataset else ""
    return f"`{contrast.arm}` - `{contrast.reference}`{where}: {contrast.claim}{margin}"
