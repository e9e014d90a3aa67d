"""The types of a study: what is compared, on what, and which comparisons were declared beforehand. Pure data.

A study is frozen, says everything before anything runs, and has a plain JSON form (`Study.to_plain`, `Study.from_plain`)
that carries all of it: the index of the catalogue, a study "as it was launched" in a home, and reports need no torch.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

from trainables.config import ConfigError, nearest, to_plain

SCALES = ("smoke", "laptop", "gpu", "paper")


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


@dataclass(frozen=True, kw_only=True)
class Block:
    """What all arms share in one comparison: a dataset protocol, its split (trial number), and a seed."""

    dataset: str
    split: int = 0
    seed: int = 0

    @property
    def name(self) -> str:
        return f"{self.dataset}/t{self.split}/s{self.seed}"


@dataclass(frozen=True, kw_only=True)
class Scale:
    """One size a study runs at."""

    name: str
    blocks: tuple[Block, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Config fields that this scale changes in every arm (and in the configs an arm needs) that has them."""
    data: Mapping[str, Any] = field(default_factory=dict)
    """Fields of `trainables.datasets.DataSpec` besides protocol and split: side, per_class, test_per_class."""
    cpus: float = 1.0
    gpus: float = 0.0
    """Per trial; `--gpus-per-trial` overrides."""
    seconds: float | None = None
    """Rough cost of one trial on the scale's intended machine, for the estimate of `show`; None: unknown."""
    note: str = ""
    """What this scale can and cannot say."""


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
    """For an equivalence claim, and optionally for a difference (then 'equivalent' can be concluded): in the metric's own
    unit, so 0.01 is one point."""
    family: str = "primary"
    """Contrasts of one family are corrected together."""


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
    correction: Literal["holm", "none"] = "holm"
    alpha: float = 0.05
    published: tuple[Published, ...] = ()
    claim: str = ""
    """What the paper says about it, in our words."""
    notes: tuple[str, ...] = ()
    """Protocol differences and caveats that belong in every report."""
    origin: str = ""
    """File of a study from outside the catalogue, where its methods are found too; never part of an identity."""

    def __post_init__(self) -> None:
        _check(self)

    def arm(self, name: str) -> Arm:
        return _named(self.arms, name, "arm", self.name)

    def scale(self, name: str) -> Scale:
        return _named(self.scales, name, "scale", self.name)

    def method_of(self, arm: Arm) -> str:
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

        return plain(self)

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
        }
        return cls(**(dict(plain) | nested))


def config_fields(config: Any) -> Mapping[str, Any]:
    """A config's plain fields, whether it is typed or was read back from JSON."""
    return config if isinstance(config, Mapping) else to_plain(config)


def _named(items: tuple[Any, ...], name: str, kind: str, study: str) -> Any:
    for item in items:
        if item.name == name:
            return item
    names = [item.name for item in items]
    raise StudyError(f"{study} has no {kind} {name!r}.{nearest(name, names)} It has: {', '.join(names)}.")


def _check(study: Study) -> None:
    def fail(what: str) -> None:
        raise StudyError(f"study {study.name!r}: {what}")

    names = [arm.name for arm in study.arms]
    if not study.arms:
        fail("has no arms.")
    if len(set(names)) != len(names):
        fail(f"arm names repeat: {sorted(name for name in set(names) if names.count(name) > 1)}. Give each its own.")
    if study.baseline not in names:
        fail(f"its baseline {study.baseline!r} is no arm.{nearest(study.baseline, names)}")
    for contrast in study.contrasts:
        for side in (contrast.arm, contrast.reference):
            if side not in names:
                fail(f"a contrast names {side!r}, which is no arm.{nearest(side, names)}")
        if contrast.arm == contrast.reference:
            fail(f"a contrast compares {contrast.arm!r} with itself.")
        if contrast.claim == "equivalence" and not contrast.margin:
            fail(f"{contrast.arm} - {contrast.reference} claims equivalence without a margin. State one above 0.")
        if contrast.margin is not None and contrast.margin <= 0:
            fail(f"{contrast.arm} - {contrast.reference} has margin {contrast.margin}; it must be above 0.")
    if not 0 < study.alpha < 1:
        fail(f"alpha={study.alpha} must lie between 0 and 1.")
    scale_names = [scale.name for scale in study.scales]
    if not study.scales or len(set(scale_names)) != len(scale_names):
        fail(f"scales must be at least one, each name once; got {scale_names}.")
    for scale in study.scales:
        if not scale.blocks or len(set(scale.blocks)) != len(scale.blocks):
            fail(f"scale {scale.name!r} must have at least one block, and each once.")
        _check_settings(study, scale, fail)


def _check_settings(study: Study, scale: Scale, fail: Any) -> None:
    known: set[str] = set()
    for arm in study.arms:
        known |= _settable(config_fields(arm.config))
        if dataclasses.is_dataclass(arm.config):
            own = {name: value for name, value in scale.settings.items() if hasattr(arm.config, name)}
            try:
                dataclasses.replace(arm.config, **own)  # type: ignore[type-var]
            except ConfigError as error:
                fail(f"arm {arm.name!r} at scale {scale.name!r}: {error}")
    for name in scale.settings:
        if name not in known:
            fail(f"scale {scale.name!r} sets {name!r}, which no arm's config has.{nearest(name, known)}")


def _settable(fields: Mapping[str, Any]) -> set[str]:
    names = set(fields)
    for value in fields.values():
        if isinstance(value, Mapping) and "needs" in value:
            names |= _settable(value["needs"]["config"])
    return names


NOTHING: Mapping[str, Any] = MappingProxyType({})
