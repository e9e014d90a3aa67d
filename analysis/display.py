"""How a number looks to a person: unit, decimals, sign, interval, p. Used by every table, figure and page alike."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from analysis.findings import LEVELS, ArmSummary, ContrastResult, Interval, Word
from search_spaces.study import Outcome

MISSING = "–"
"""Stands where there is no number: never measured, or not defined for so few blocks."""

MINUS = "\N{MINUS SIGN}"

SYMBOL: dict[Word, str] = {"better": "▲", "worse": "▼", "equivalent": "=", "undecided": "?"}
"""A shape beside each verdict's colour, for those who can't tell the colours apart."""


@dataclass(frozen=True)
class Quantity:
    """One metric as shown: `unit` multiplies, `decimals` rounds."""

    label: str
    unit: float
    decimals: int
    higher_is_better: bool = True

    @property
    def name(self) -> str:
        """Head of a column of values, for example 'AUROC (%)'."""
        return f"{self.label} (%)" if self.unit == 100 else self.label

    @property
    def step(self) -> str:
        """What a difference counts: 'points' for fractions shown in per cent, else nothing."""
        return "points" if self.unit == 100 else ""

    @property
    def direction(self) -> str:
        """'higher is better' or 'lower is better'."""
        return "higher is better" if self.higher_is_better else "lower is better"

    def value(self, number: float) -> str:
        """A value of the metric."""
        return fixed(number * self.unit, self.decimals)

    def difference(self, number: float) -> str:
        """A difference of two values, always with its sign."""
        text = self.value(abs(number))
        if text == MISSING or not text.strip("0."):
            return text
        return (MINUS if number < 0 else "+") + text

    def interval(self, interval: Interval, *, signed: bool = False) -> str:
        """'[low, high]', or the sign for missing where it is not defined."""
        if not (math.isfinite(interval.low) and math.isfinite(interval.high)):
            return MISSING
        show = self.difference if signed else self.value
        return f"[{show(interval.low)}, {show(interval.high)}]"

    def margin(self, margin: float) -> str:
        """A declared margin with its unit, for example '1 point'."""
        text = f"{margin * self.unit:.6g}"
        return f"{text} {'point' if text == '1' else 'points'}" if self.step else text


def quantity(outcome: Outcome, arms: Iterable[ArmSummary], contrasts: Iterable[ContrastResult] = ()) -> Quantity:
    """The outcome with as many decimals as its intervals deserve: two digits of the typical half width."""
    widths = [(arm.mean.high - arm.mean.low) / 2 for arm in arms], [_width(contrast) for contrast in contrasts]
    decimals = [_decimals([outcome.unit * width for width in some]) for some in widths]
    known = [number for number in decimals if number is not None]
    fallback = 2 if outcome.unit == 100 else 4
    least = 1 if outcome.unit == 100 else 0
    shown = max(known) if known else fallback
    return Quantity(outcome.label, outcome.unit, min(max(shown, least), 6), outcome.higher_is_better)


def _width(contrast: ContrastResult) -> float:
    """Half the interval; the difference itself where it does not vary: what is said to be apart is not shown as 0."""
    interval = contrast.interval
    if len(contrast.blocks) > 1 and not math.isfinite(interval.low):
        return abs(interval.estimate)
    return (interval.high - interval.low) / 2


def _decimals(half_widths: list[float]) -> int | None:
    known = sorted(half for half in half_widths if math.isfinite(half) and half > 0)
    if not known:
        return None
    return 1 - math.floor(math.log10(known[len(known) // 2]))


def fixed(number: float, decimals: int) -> str:
    """The number with a true minus sign; never '-0.00'."""
    if not math.isfinite(number):
        return MISSING
    text = f"{number:.{decimals}f}"
    if not text.strip("-0."):
        return text.lstrip("-")
    return text.replace("-", MINUS)


def p_value(p: float) -> str:
    """Three decimals; below 0.001 the bound, and '>0.050' where rounding would put p at a level that it is above."""
    if not math.isfinite(p):
        return MISSING
    if p < 0.001:
        return "<0.001"
    text = f"{min(p, 1.0):.3f}"
    return f">{text}" if float(text) in LEVELS and p > float(text) else text


def p_equals(p: float) -> str:
    """'p = 0.031', or 'p < 0.001'."""
    text = p_value(p)
    return f"p {text[0]} {text[1:]}" if text[0] in "<>" else f"p = {text}"


def percent(fraction: float) -> str:
    """0.95 -> '95%'."""
    return f"{fraction * 100:.4g}%"


def seconds(value: float) -> str:
    """A duration in the largest unit that leaves a number above 1."""
    if not math.isfinite(value):
        return MISSING
    for size, unit in ((86400.0, "d"), (3600.0, "h"), (60.0, "min")):
        if value >= 1.5 * size:
            return f"{value / size:.1f} {unit}"
    return f"{value:.1f} s" if value >= 0.095 else f"{value * 1000:.0f} ms"


def amount(value: float, unit: str = "") -> str:
    """A large count with an SI prefix: 1.8e12 FLOP -> '1.80 TFLOP'."""
    if not math.isfinite(value):
        return MISSING
    for factor, prefix in ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= factor:
            return f"{value / factor:.3g} {prefix}{unit}"
    return f"{value:.3g} {unit}".rstrip()


def listing(names: Iterable[str]) -> str:
    """'a', 'a and b', 'a, b and c'."""
    names = list(names)
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
