"""The types of a study: what is compared, on what, and which comparisons were declared beforehand. Pure data.

A study is frozen, says everything before anything runs, and has a plain JSON form (`Study.to_plain`,
`Study.from_plain`) that carries all of it: the index of the catalogue, a study "as it was launched" in a home, and
reports need no torch.
"""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NoReturn, TypeVar

from trainables.config import ConfigError, field_types, nearest, to_plain
from trainables.protocol import Needed

SCALES = ("smoke", "laptop", "pictures", "gpu", "paper")
"""Sizes in order of cost; 'pictures' is for real pictures without a GPU. A study needs not have all."""


CORRECTIONS = ("holm", "hochberg", "benjamini-hochberg", "none")
"""Corrections that a study may declare; `analysis.multiplicity.CORRECTIONS` has each."""
TESTS = ("t", "sign-flip")
"""Paired tests that a contrast may declare."""
FIGURES = (
    "oscr",
    "angles",
    "features",
    "mixes",
    "corruptions",
    "occlusion",
    "reliability",
    "radii",
    "spread",
    "maps",
    "boxes",
)
"""Drawings of what trials show that a study may name; `analysis.gallery.DRAWINGS` has each."""


SHORT = "-short"
"""Ends the name of an arm that a search trains for a share of the epochs only."""


class StudyError(ValueError):
    """A study that contradicts itself. The message says what, where, what is allowed, how to mend."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where a claim, a number or an ablation comes from."""

    paper: str
    """Short citation, for example 'Informed Mixing (GradMix), arXiv 2505.12803'."""
    where: str
    """Section, table, figure or equation."""
    repository: str = ""
    """Official code as owner/name@commit."""


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One variant of the method: a full typed config (or its plain form, when read back)."""

    name: str
    config: Any
    method: str = ""
    """Catalogue name; empty: the study's method."""
    label: str = ""
    """For tables and plots; empty: the name."""
    factors: Mapping[str, Any] = field(default_factory=dict)
    """Levels of the study's factors in this arm, for designs of two factors and more."""
    per_dataset: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Dataset -> config fields that differ there in this arm alone, over the scale's settings."""


@dataclass(frozen=True, kw_only=True)
class Block:
    """What all arms share in one comparison: a dataset protocol, its split (trial number), and a seed."""

    dataset: str
    split: int = 0
    seed: int = 0

    @property
    def name(self) -> str:
        """dataset/t<split>/s<seed>."""
        return f"{self.dataset}/t{self.split}/s{self.seed}"


@dataclass(frozen=True, kw_only=True)
class Scale:
    """One size a study runs at."""

    name: str
    blocks: tuple[Block, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Config fields that this scale changes in every arm (and in the configs an arm needs) that has them."""
    dataset_settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Dataset -> config fields that this scale changes on it, over `settings`: protocols differ in epochs."""
    data: Mapping[str, Any] = field(default_factory=dict)
    """Fields of `trainables.data_protocols.DataSpec` besides protocol and split: side, per_class, test_per_class."""
    needed_data: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Name that a `Needed` gives as its data -> fields of `trainables.data_protocols.DataSpec`, with the protocol. The
    split is the block's where none is given."""
    cpus: float = 1.0
    gpus: float = 0.0
    """Per trial; `--gpus-per-trial` overrides."""
    seconds: float | None = None
    """Rough cost of one trial on the scale's intended machine, for the estimate of `show`; None: unknown."""
    hang_after: float | None = None
    """Seconds without an epoch after which a trial counts as hung; None: an hour. `--hang-after` overrides."""
    note: str = ""
    """What this scale can and cannot say."""

    @property
    def datasets(self) -> tuple[str, ...]:
        """The datasets of its blocks, each once, in order."""
        return tuple(dict.fromkeys(block.dataset for block in self.blocks))

    def settings_for(self, arm: Arm, dataset: str) -> dict[str, Any]:
        """All config fields that change in an arm on one dataset of this scale."""
        return {**self.settings, **self.dataset_settings.get(dataset, {}), **arm.per_dataset.get(dataset, {})}


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A metric that the study looks at."""

    metric: str
    """Column name, for example 'auroc'."""
    label: str
    higher_is_better: bool = True
    unit: float = 100.0
    """Multiply by this for display: 100 shows a fraction in points."""
    select: Literal["last", "best_oracle", "median_last_10"] = "last"
    """Which epoch counts. 'best_oracle' looks at the test set and is labelled so."""


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """Arm minus reference, over shared blocks, on the primary outcome. Declared before the run."""

    arm: str
    reference: str
    claim: Literal["difference", "equivalence"] = "difference"
    margin: float | None = None
    """For an equivalence claim, and optionally for a difference (then 'equivalent' can be concluded): in the metric's
    own unit, so 0.01 is one point."""
    family: str = "primary"
    """Contrasts of one family are corrected together."""
    test: Literal["t", "sign-flip"] = "t"
    """Which paired test decides; for an equivalence claim, which one TOST is made of. See `analysis.verdict`."""
    dataset: str = ""
    """Only over blocks of this dataset, and only at scales that have it; empty: over all blocks."""


@dataclass(frozen=True, kw_only=True)
class Published:
    """One number a paper printed."""

    arm: str
    """Arm of this study, or the name of a method that we do not run."""
    dataset: str
    metric: str
    value: float
    """As printed, in the unit of the table."""
    where: str
    """Table and cell."""


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """A float field of the config that a tuning study searches."""

    name: str
    low: float
    high: float
    log: bool = False
    """Whether it is searched on a logarithmic scale."""


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """How a study searches. Its one declared arm, the baseline, is the first configuration; the others are suggested.

    They come in rounds: all of a round see the results of the rounds before it, and of nothing else. So the search
    follows from the study and its results alone, whatever ended first, and whatever was killed.
    """

    parameters: tuple[Parameter, ...]
    objectives: tuple[str, ...]
    """One or two metrics: the outcome's, then one of the secondary ones."""
    configurations: Mapping[str, int]
    """Scale -> how many are tried, the baseline's included."""
    round: int = 4
    """How many are suggested at a time."""
    sampler: Literal["tpe", "random"] = "tpe"
    pruner: Literal["median", "none"] = "median"
    """'median': each is first trained for `short` of the epochs, and in full only where its first objective is then at
    least the median of the rounds before."""
    short: float = 1 / 3
    seed: int = 0
    """Of the sampler."""

    def values(self, config: Any) -> dict[str, float]:
        """A config's values of the parameters."""
        fields = config_fields(config)
        return {parameter.name: fields[parameter.name] for parameter in self.parameters}


@dataclass(frozen=True, kw_only=True)
class Study:
    """A question, and everything that was decided before the first run."""

    name: str
    question: str
    source: Source
    method: str
    arms: tuple[Arm, ...]
    baseline: str
    scales: tuple[Scale, ...]
    outcome: Outcome
    secondary: tuple[Outcome, ...] = ()
    contrasts: tuple[Contrast, ...] = ()
    correction: Literal["holm", "hochberg", "benjamini-hochberg", "none"] = "holm"
    """Of each family's p-values. The first two control the chance of any wrong verdict, the third the share of them."""
    alpha: float = 0.05
    published: tuple[Published, ...] = ()
    claim: str = ""
    """What the paper says about it, in our words."""
    notes: tuple[str, ...] = ()
    """Protocol differences and caveats that belong in every report."""
    figures: tuple[str, ...] = ()
    """Drawings of `FIGURES` that the report makes of what the trials show (`trainables.protocol.Epoch.exhibits`)."""
    tuning: Tuning | None = None
    """Set: the study searches for good values and compares nothing."""
    origin: str = ""
    """File of a study from outside the catalogue, where its methods are found too; never part of an identity."""

    def __post_init__(self) -> None:
        _check(self)

    def arm(self, name: str) -> Arm:
        """The arm of that name; StudyError with the nearest one otherwise."""
        return _named(self.arms, name, "arm", self.name)

    def scale(self, name: str) -> Scale:
        """The scale of that name; StudyError with the nearest one otherwise."""
        return _named(self.scales, name, "scale", self.name)

    def contrasts_at(self, scale: str) -> tuple[Contrast, ...]:
        """The declared contrasts that a scale has blocks for."""
        there = self.scale(scale).datasets
        return tuple(contrast for contrast in self.contrasts if not contrast.dataset or contrast.dataset in there)

    @property
    def objectives(self) -> tuple[Outcome, ...]:
        """What a search looks at; the outcome alone where nothing is tuned."""
        if self.tuning is None:
            return (self.outcome,)
        outcomes = {outcome.metric: outcome for outcome in (self.outcome, *self.secondary)}
        return tuple(outcomes[metric] for metric in self.tuning.objectives)

    def method_of(self, arm: Arm) -> str:
        """The catalogue name of the method that the arm runs."""
        return arm.method or self.method

    def to_plain(self) -> dict[str, Any]:
        """JSON values only; configs become plain field mappings."""

        def plain(value: Any) -> Any:
            if isinstance(value, Arm):
                arm = {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value) if f.name != "config"}
                return arm | {"config": config_fields(value.config)}
            if dataclasses.is_dataclass(value):
                return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
            if isinstance(value, Mapping):
                return {key: plain(item) for key, item in value.items()}
            if isinstance(value, tuple | list):
                return [plain(item) for item in value]
            return value

        return {f.name: plain(getattr(self, f.name)) for f in dataclasses.fields(self)}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> "Study":
        """The study back from its JSON form; arms keep their configs as plain mappings."""

        def many(kind: type, key: str) -> tuple[Any, ...]:
            return tuple(kind(**item) for item in plain[key])

        scales = tuple(
            Scale(**(item | {"blocks": tuple(Block(**block) for block in item["blocks"])})) for item in plain["scales"]
        )
        nested = {
            "source": Source(**plain["source"]),
            "arms": many(Arm, "arms"),
            "scales": scales,
            "outcome": Outcome(**plain["outcome"]),
            "secondary": many(Outcome, "secondary"),
            "contrasts": many(Contrast, "contrasts"),
            "published": many(Published, "published"),
            "notes": tuple(plain["notes"]),
            "figures": tuple(plain.get("figures", ())),
            "tuning": _tuning(plain.get("tuning")),
        }
        return cls(**(dict(plain) | nested))


def _tuning(plain: Mapping[str, Any] | None) -> Tuning | None:
    if plain is None:
        return None
    parameters = tuple(Parameter(**item) for item in plain["parameters"])
    return Tuning(**(dict(plain) | {"parameters": parameters, "objectives": tuple(plain["objectives"])}))


def config_fields(config: Any) -> Mapping[str, Any]:
    """A config's plain fields, whether it is typed or was read back from JSON."""
    return config if isinstance(config, Mapping) else to_plain(config)


Item = TypeVar("Item", Arm, Scale)


def _named(items: tuple[Item, ...], name: str, kind: str, study: str) -> Item:
    for item in items:
        if item.name == name:
            return item
    names = [item.name for item in items]
    raise StudyError(f"{study} has no {kind} {name!r}.{nearest(name, names)} It has: {', '.join(names)}.")


def _check(study: Study) -> None:
    def fail(what: str) -> NoReturn:
        raise StudyError(f"study {study.name!r}: {what}")

    for name in (study.name, *(scale.name for scale in study.scales)):
        if not name or name.startswith(".") or set(name) & set("/\\@\0\n"):
            fail(f"{name!r} cannot name a study or a scale: folders are named by both. No / \\ or @, nor a dot first.")
    if not 0 < study.alpha < 1:
        fail(f"alpha={study.alpha} must lie between 0 and 1.")
    if study.correction not in CORRECTIONS:
        fail(f"correction {study.correction!r} is unknown.{nearest(study.correction, CORRECTIONS)}")
    for figure in study.figures:
        if figure not in FIGURES:
            fail(f"figure {figure!r} is unknown.{nearest(figure, FIGURES)} There are: {', '.join(FIGURES)}.")
    _check_arms(study, fail)
    _check_contrasts(study, fail)
    _check_scales(study, fail)
    if study.tuning is not None:
        _check_tuning(study, study.tuning, fail)


def _check_tuning(study: Study, tuning: Tuning, fail: Callable[[str], NoReturn]) -> None:
    fields = config_fields(study.arm(study.baseline).config)
    metrics = [study.outcome.metric, *(outcome.metric for outcome in study.secondary)]
    if study.contrasts:
        fail("declares contrasts and tuning. What is chosen after looking proves nothing: compare it in another study.")
    if not tuning.parameters:
        fail("its tuning has no parameters.")
    for parameter in tuning.parameters:
        _check_parameter(study, parameter, fields, fail)
    if not 1 <= len(tuning.objectives) <= 2 or tuning.objectives[0] != study.outcome.metric:
        fail(f"tunes for {tuning.objectives}: name the outcome's metric, and at most one of the secondary ones.")
    for metric in tuning.objectives:
        if metric not in metrics:
            fail(f"tunes for {metric!r}, which is no outcome of it.{nearest(metric, metrics)}")
    for scale in study.scales:
        if tuning.configurations.get(scale.name, 0) < 1:
            fail(f"its tuning says not how many configurations scale {scale.name!r} tries; at least 1.")
    if tuning.round < 1 or not 0 < tuning.short < 1:
        fail(f"its tuning has round={tuning.round} and short={tuning.short}; round is at least 1, short within (0, 1).")
    if tuning.pruner != "none" and (not isinstance(fields.get("epochs"), int) or _trains_longer(fields)):
        fail("its tuning prunes by training for fewer `epochs`: its method must have that field, and one it needs not.")


def _check_parameter(
    study: Study, parameter: Parameter, fields: Mapping[str, Any], fail: Callable[[str], NoReturn]
) -> None:
    name, low, high = parameter.name, parameter.low, parameter.high
    if not isinstance(fields.get(name), float):
        fail(f"tunes {name!r}, which is no float field.{nearest(name, fields)}")
    if not low < high or (parameter.log and low <= 0):
        fail(f"tunes {name!r} from {low} to {high}; low must lie below high, and above 0 on a logarithmic scale.")
    if not low <= fields[name] <= high:
        fail(f"tunes {name!r} from {low} to {high}, which leaves its baseline's {fields[name]} out.")
    if any(name in scale.settings for scale in study.scales):
        fail(f"tunes {name!r}, which a scale sets too. Leave it out of the scale's settings.")


def _trains_longer(fields: Mapping[str, Any]) -> bool:
    """Whether a config that is needed has epochs too, so that fewer would shorten it as well."""
    needed = [value["needs"]["config"] for value in fields.values() if isinstance(value, Mapping) and "needs" in value]
    return any("epochs" in _settable(config) for config in needed)


def _check_arms(study: Study, fail: Callable[[str], NoReturn]) -> None:
    names = [arm.name for arm in study.arms]
    if not study.arms:
        fail("has no arms.")
    if len(set(names)) != len(names):
        fail(f"arm names repeat: {sorted(name for name in set(names) if names.count(name) > 1)}. Give each its own.")
    if study.baseline not in names:
        fail(f"its baseline {study.baseline!r} is no arm.{nearest(study.baseline, names)}")


def _check_contrasts(study: Study, fail: Callable[[str], NoReturn]) -> None:
    names = [arm.name for arm in study.arms]
    datasets = {dataset for scale in study.scales for dataset in scale.datasets}
    for contrast in study.contrasts:
        pair = f"{contrast.arm} - {contrast.reference}"
        for side in (contrast.arm, contrast.reference):
            if side not in names:
                fail(f"a contrast names {side!r}, which is no arm.{nearest(side, names)}")
        if contrast.arm == contrast.reference:
            fail(f"a contrast compares {contrast.arm!r} with itself.")
        if contrast.test not in TESTS:
            fail(f"{pair} names test {contrast.test!r}.{nearest(contrast.test, TESTS)} It may be: {', '.join(TESTS)}.")
        if contrast.claim == "equivalence" and not contrast.margin:
            fail(f"{pair} claims equivalence without a margin. State one above 0.")
        if contrast.margin is not None and contrast.margin <= 0:
            fail(f"{pair} has margin {contrast.margin}; it must be above 0.")
        if contrast.dataset and contrast.dataset not in datasets:
            fail(
                f"{pair} is declared on {contrast.dataset!r}, which no scale has.{nearest(contrast.dataset, datasets)}"
            )
    if len(set(study.contrasts)) != len(study.contrasts):
        fail("a contrast is declared twice.")


def _check_scales(study: Study, fail: Callable[[str], NoReturn]) -> None:
    names = [scale.name for scale in study.scales]
    if not study.scales or len(set(names)) != len(names):
        fail(f"scales must be at least one, each name once; got {names}.")
    for scale in study.scales:
        if not scale.blocks or len(set(scale.blocks)) != len(scale.blocks):
            fail(f"scale {scale.name!r} must have at least one block, and each once.")
        for block in scale.blocks:
            if type(block.seed) is not int or type(block.split) is not int or block.split < 0:
                fail(f"scale {scale.name!r} has {block}: a seed is an integer, and a split is one from 0 on.")
        for dataset in scale.dataset_settings:
            if dataset not in scale.datasets:
                fail(f"scale {scale.name!r} has settings for {dataset!r}, but no block of it.")
        for dataset in scale.datasets:
            _check_settings(study, scale, dataset, fail)
        _check_needed_data(study, scale, fail)


def _check_needed_data(study: Study, scale: Scale, fail: Callable[[str], NoReturn]) -> None:
    wanted = {name for arm in study.arms for name in _data_names(config_fields(arm.config))}
    for name in sorted(wanted):
        if "protocol" not in scale.needed_data.get(name, {}):
            fail(
                f"an arm needs a trial on {name!r} data, and scale {scale.name!r} does not say which those are."
                f"{nearest(name, scale.needed_data)} Give needed_data={{{name!r}: {{'protocol': ...}}}}."
            )
    for name in sorted(scale.needed_data):
        if name not in wanted:
            fail(f"scale {scale.name!r} has needed_data {name!r}, which no arm asks for.{nearest(name, wanted)}")


def _data_names(fields: Mapping[str, Any]) -> set[str]:
    """The data that needed trials name, at any depth."""
    needed = [value["needs"] for value in fields.values() if isinstance(value, Mapping) and "needs" in value]
    return {each["data"] for each in needed if each.get("data")}.union(*(_data_names(n["config"]) for n in needed))


def _check_settings(study: Study, scale: Scale, dataset: str, fail: Callable[[str], NoReturn]) -> None:
    known: set[str] = set()
    named: set[str] = set()
    for arm in study.arms:
        settings = scale.settings_for(arm, dataset)
        known |= _settable(config_fields(arm.config))
        named |= set(settings)
        if dataclasses.is_dataclass(arm.config):
            try:
                configured(arm.config, settings)
            except ConfigError as error:
                fail(f"arm {arm.name!r} at scale {scale.name!r}: {error}")
    for name in sorted(named):
        if name not in known:
            fail(f"scale {scale.name!r} sets {name!r}, which no arm's config has.{nearest(name, known)}")


def configured(config: Any, settings: Mapping[str, Any]) -> Any:
    """A typed config, and every config it needs, with those settings that are fields of it.

    Raises:
        ConfigError: a value of the wrong type or out of range, or an int where the field is a float: ids hash the text.
    """
    kinds = field_types(type(config))
    changes: dict[str, Any] = {}
    for name, kind in kinds.items():
        value = getattr(config, name)
        if isinstance(value, Needed):
            changes[name] = dataclasses.replace(value, config=configured(value.config, settings))
        elif name in settings:
            changes[name] = settings[name]
            if kind is float and isinstance(settings[name], int):
                raise ConfigError(f"{name}={settings[name]!r} is not allowed: write {float(settings[name])!r}.")
    return dataclasses.replace(config, **changes)


def _settable(fields: Mapping[str, Any]) -> set[str]:
    names = set(fields)
    for value in fields.values():
        if isinstance(value, Mapping) and "needs" in value:
            names |= _settable(value["needs"]["config"])
    return names
