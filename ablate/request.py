"""What a command line asks for: the home, the study, the plan. Everything is checked here; nothing is written."""

import argparse
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields as fields_of
from dataclasses import is_dataclass, replace
from pathlib import Path
from typing import Any

from ablate import masking, segments, store, terminal
from ablate.home import Home
from ablate.log import launched
from ablate.plan import Plan, plan
from search_spaces.study import Block, Scale, Study, config_fields
from trainables.config import ConfigError, field_types, from_plain, nearest, parse_setting
from trainables.protocol import Needed

DEFAULT_SCALE = "laptop"


class UsageError(ValueError):
    """Something asked for that cannot be had. Says what, where, what is allowed, how to mend. Exit code 2."""


def home_of(args: argparse.Namespace) -> Home:
    """`--home`, else ABLATE_HOME, else ./ablate-home; its logs as they are now. Need not exist where it is a folder."""
    return opened(named(args))


def named(args: argparse.Namespace) -> str:
    """The home as it was given."""
    return args.home or os.environ.get("ABLATE_HOME") or "ablate-home"


def opened(text: str) -> Home:
    """The home of that name: a folder, or the URI of an object store, whose logs are fetched.

    Raises:
        UsageError: it is a file, or its logs may not be read: a glob would say that there are none.
        StoreError: there is no such store, or it does not answer.
        CorruptLog: a log in the store is not whole.
    """
    home = Home.at(text)
    if home.root.exists() and not home.root.is_dir():
        raise UsageError(f"The home {home.root} is a file, not a folder. Give another with --home or ABLATE_HOME.")
    if home.logs.is_dir() and not os.access(home.logs, os.R_OK | os.X_OK):
        raise UsageError(f"The logs in {home.logs} cannot be read: Permission denied. Mend their permissions.")
    remote = store.of(home)
    if remote is not None:
        remote.require()
        for note in segments.pull(home):
            terminal.warn(note)
    return home


def data_of(args: argparse.Namespace) -> Path | None:
    """`--data`, else ABLATE_DATA, else None: what is embedded or can be downloaded."""
    given = args.data or os.environ.get("ABLATE_DATA")
    if not given:
        return None
    folder = Path(given).expanduser()
    if not folder.is_dir():
        source = "--data" if args.data else "ABLATE_DATA"
        what = "is a file, not a folder" if folder.exists() else "does not exist"
        raise UsageError(
            f"The data folder {folder} (from {source}) {what}. Name the one that holds the data sets, a folder each."
        )
    return folder


def study_of(reference: str) -> Study:
    """A study of the catalogue, of a file (./my_study.py:name) or of an installed package's entry point."""
    from search_spaces import catalogue

    return catalogue.load(reference)


def plan_of(args: argparse.Namespace) -> Plan:
    """The plan as the options form it: scale, data set, settings, then arms and blocks."""
    study, scale = formed(args)
    if args.arms and study.tuning is not None:
        raise UsageError(
            f"{study.name} is a search: which arms it has follows from results, so --arms has nothing to choose from. "
            f"Leave it out; `report` and `resume` take the arms that were tried."
        )
    check_blocks(study, scale, args.blocks)
    return plan(study, scale.name, arms=arms_of(study, args.arms), blocks=args.blocks)


def arms_of(study: Study, parts: Sequence[str] | None) -> tuple[str, ...] | None:
    """The arms that are named, each once; None: none was. Their names may hold commas, at which `parts` were parted.

    Raises:
        StudyError: unknown arm, with the nearest name.
    """
    names = {",".join(part.strip() for part in arm.name.split(",")): arm.name for arm in study.arms}
    found, rest = [], list(parts or ())
    while rest:
        counts = [count for count in range(len(rest), 0, -1) if ",".join(rest[:count]) in names]
        found.append(names[",".join(rest[: counts[0]])] if counts else study.arm(rest[0]).name)
        rest = rest[counts[0] :]
    return tuple(dict.fromkeys(found)) or None


def formed(args: argparse.Namespace) -> tuple[Study, Scale]:
    """The study and the scale as the options form them, with all arms and blocks."""
    study = study_of(args.study)
    original = study.scale(args.scale or DEFAULT_SCALE)
    scale = on_dataset(original, args.dataset) if args.dataset else original
    if args.set:
        study = typed(study)
        scale = with_settings(study, scale, args.set)
    if scale is original:
        return study, scale
    tuning = study.tuning
    if tuning is not None:
        counts = tuning.configurations
        tuning = replace(tuning, configurations={**counts, scale.name: counts[original.name]})
    return replace(study, scales=(*study.scales, scale), tuning=tuning), scale


def launched_plan(args: argparse.Namespace, home: Home) -> Plan | None:
    """The sweep of this study as it was last launched in the home; None when it never was.

    Without options that name one sweep of the study, the latest launched of all of them counts.
    """
    if forms_own_sweep(args):
        study, scale = formed(args)
        line = launched(home, plan(study, scale.name).sweep)
    else:
        lines = [launched(home, sweep) for sweep in sweeps_of(home, args.study)]
        line = max((line for line in lines if line), key=lambda line: line["time"], default=None)
        if line is None:
            study_of(args.study)
    return None if line is None else plan_from_line(line)


def narrowed(whole: Plan, args: argparse.Namespace) -> Plan:
    """The plan on the arms and blocks of the command line only, where given."""
    if not args.arms and not args.blocks:
        return whole
    check_blocks(whole.study, whole.scale, args.blocks)
    return plan(whole.study, whole.scale.name, arms=arms_of(whole.study, args.arms), blocks=args.blocks)


def sweeps_of(home: Home, reference: str | None, launches: Mapping[str, Mapping[str, Any]] | None = None) -> list[str]:
    """Names of the sweeps that were launched in the home, all or of one study; `launches`: their lines, where known."""
    names = [path.name.removesuffix(".jsonl") for path in sorted(home.logs.glob("*@*.jsonl"))]
    if reference is None:
        return names
    if ".py" not in reference:
        return [name for name in names if name.partition("@")[0] == reference]
    # By what was launched: importing the user's file may cost seconds.
    found = {name: launched(home, name) for name in names} if launches is None else launches
    own = [name for name in names if (line := found.get(name)) and _is_of(line["study"], reference)]
    return own or [name for name in names if name.partition("@")[0] == study_of(reference).name]


def _is_of(study: Mapping[str, Any], reference: str) -> bool:
    """Whether a launched study came from the file, and has the name, of ./file.py:name."""
    file, _, name = reference.partition(":")
    return (study["origin"], name or study["name"]) == (str(Path(file).expanduser().resolve()), study["name"])


def plan_from_line(line: Mapping[str, Any]) -> Plan:
    """The plan of a log's "sweep" line."""
    return plan(Study.from_plain(line["study"]), line["scale"], arms=line["arms"], blocks=line["blocks"])


def command(name: str, home: Home, plan: Plan | None = None, *, formed: bool = True) -> str:
    """What to type: the command for the home and, if given, the plan's study, in the plan's form unless told not to."""
    words = [] if plan is None else [reference_of(plan.study), *(form_of(plan) if formed else ())]
    place = [] if home.name == "ablate-home" else ["--home", home.name]
    return masking.typed(["python", "-m", "ablate", name, *words, *place])


def reference_of(study: Study) -> str:
    """What `study_of` finds the study by."""
    return f"{study.origin}:{study.name}" if study.origin else study.name


def form_of(plan: Plan) -> list[str]:
    """The options that name the plan's sweep: `formed` backwards."""
    scale, names = plan.scale, [scale.name for scale in plan.study.scales]
    base = min((name for name in names if f"{scale.name}+".startswith(f"{name}+")), key=len)
    datasets, label = scale.datasets, scale.name.removeprefix(base)
    words = ["--scale", base]
    if datasets != plan.study.scale(base).datasets:
        words += ["--dataset", datasets[0]]
        label = label.removeprefix(f"+{datasets[0]}")
    fields = [part.partition("=")[0] for part in label.split("+")[1:]]
    if any(field not in scale.settings for field in fields):
        return ["--scale", scale.name]  # declared with a plus in its name
    values = [(field, scale.settings[field]) for field in fields]
    return words + [
        word
        for field, value in values
        for word in ("--set", f"{field}={value if isinstance(value, str) else json.dumps(value)}")
    ]


def forms_own_sweep(args: argparse.Namespace) -> bool:
    """Whether options were given that name one sweep of the study rather than the latest."""
    return bool(args.scale or args.dataset or args.set)


def on_dataset(scale: Scale, dataset: str) -> Scale:
    """The scale on one data set: its own blocks of that name, or else all its splits and seeds moved there."""
    from trainables.data_protocols import PROTOCOLS

    if dataset not in PROTOCOLS:
        raise UsageError(
            f"--dataset {dataset!r} is no protocol.{nearest(dataset, PROTOCOLS)} "
            f"There are: {', '.join(sorted(PROTOCOLS))}."
        )
    if scale.datasets == (dataset,):
        return scale
    own = tuple(block for block in scale.blocks if block.dataset == dataset)
    moved = dict.fromkeys(Block(dataset=dataset, split=block.split, seed=block.seed) for block in scale.blocks)
    settings = {name: fields for name, fields in scale.dataset_settings.items() if name == dataset}
    return replace(
        scale, name=f"{scale.name}+{dataset}", blocks=own or tuple(moved), dataset_settings=settings, seconds=None
    )


def with_settings(study: Study, scale: Scale, texts: Iterable[str]) -> Scale:
    """The scale with the fields of `--set`, under a name of its own: other numbers never mix with the declared ones.

    Raises:
        UsageError: the field is what the arms differ in, so that setting it would make them one.
        ConfigError: unknown field or wrong type.
    """
    settings: dict[str, Any] = {}
    for text in texts:
        name, value = _setting(study, text)
        if name in settings and settings[name] != value:
            raise UsageError(f"--set gives {name} twice: {settings[name]!r} and {value!r}. Give it once.")
        if not _settled(scale, name) and _varied(study, name):
            raise UsageError(
                f"--set {text} would make the arms of {study.name} one: {name} is what they differ in. "
                f"Choose arms with --arms, or write a study of your own (see examples/)."
            )
        settings[name] = value
    label = "+".join(f"{name}={_label(value)}" for name, value in sorted(settings.items()))
    by_dataset = {
        dataset: {name: value for name, value in fields.items() if name not in settings}
        for dataset, fields in scale.dataset_settings.items()
    }
    return replace(
        scale, name=f"{scale.name}+{label}", settings={**scale.settings, **settings}, dataset_settings=by_dataset
    )


def _setting(study: Study, text: str) -> tuple[str, Any]:
    """Reads one field=value against every config type of the study that has the field."""
    name = text.partition("=")[0]
    types = _config_types(study)
    having = [kind for kind in types if name in field_types(kind)] or types
    try:
        found = [parse_setting(kind, text) for kind in having]
    except ConfigError as error:
        raise ConfigError(f"--set {text}: {error}") from error
    key, value = found[0]
    whole = isinstance(value, int) and not isinstance(value, bool)
    return key, float(value) if whole and field_types(having[0])[key] is float else value


def typed(study: Study) -> Study:
    """The study with its configs typed: building one checks its ranges, also at the study's scales."""
    arms = tuple(
        arm if is_dataclass(arm.config) else replace(arm, config=_typed(study, study.method_of(arm), arm.config))
        for arm in study.arms
    )
    return replace(study, arms=arms)


def _typed(study: Study, method: str, fields: Mapping[str, Any]) -> Any:
    from trainables import catalogue

    placed = dict(fields)
    for name, value in fields.items():
        if isinstance(value, Mapping) and "needs" in value:
            other = value["needs"]
            config = _typed(study, other["method"], other["config"])
            placed[name] = Needed(other["method"], config, other.get("data", ""))
    return from_plain(catalogue.find(method, study.origin).config, placed)


def _config_types(study: Study) -> list[type]:
    """The config type of every method that the study runs, also for trials that others need; the arms' own first."""
    types: dict[type, None] = {}

    def visit(config: Any) -> None:
        types.setdefault(type(config))
        for field in fields_of(config):
            value = getattr(config, field.name)
            if isinstance(value, Needed):
                visit(value.config)

    for arm in typed(study).arms:
        visit(arm.config)
    return list(types)


def _settled(scale: Scale, name: str) -> bool:
    """Whether the scale itself gives every arm the same value of the field."""
    return all(name in {**scale.settings, **scale.dataset_settings.get(data, {})} for data in scale.datasets)


def _varied(study: Study, name: str) -> bool:
    """Whether the arms differ in the field, on all data sets or on one."""
    if any(name in fields for arm in study.arms for fields in arm.per_dataset.values()):
        return True
    values = [fields[name] for arm in study.arms if name in (fields := config_fields(arm.config))]
    return any(value != values[0] for value in values)


def _label(value: Any) -> str:
    """A value as part of a file name."""
    text = ",".join(map(_label, value)) if isinstance(value, list | tuple) else str(value)
    return re.sub(r"[^A-Za-z0-9.,_-]", "_", text)[:40]


def check_blocks(study: Study, scale: Scale, blocks: int | None) -> None:
    """Raises UsageError for more blocks than the scale declares."""
    if blocks is not None and not 1 <= blocks <= len(scale.blocks):
        raise UsageError(
            f"--blocks {blocks} is not allowed: scale {scale.name!r} of {study.name} declares {len(scale.blocks)}, "
            f"so 1 to {len(scale.blocks)}. More blocks belong in the study itself, before the first run."
        )
