"""What analysis concludes, as frozen records: the only thing that tables, figures and reports show."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Word = Literal["better", "worse", "equivalent", "undecided"]


@dataclass(frozen=True)
class Interval:
    """Estimate with a two-sided interval, in the metric's own unit (fractions stay fractions)."""

    estimate: float
    low: float
    high: float
    level: float
    method: str
    """For example 'paired t', 'BCa bootstrap (10000)', 'sign-flip'."""


@dataclass(frozen=True)
class ArmSummary:
    """One arm over the blocks it finished."""

    arm: str
    label: str
    n: int
    mean: Interval
    sd: float
    """Sample standard deviation (n - 1); NaN for n = 1."""
    values: Mapping[str, float]
    """Block name -> outcome at the selected epoch."""
    failed: Mapping[str, str]
    """Block name -> reason, for blocks whose trial failed."""
    pending: tuple[str, ...] = ()


@dataclass(frozen=True)
class Verdict:
    """What the declared rule says, in one word and one sentence."""

    word: Word
    sentence: str
    blocks_needed: int | None = None
    """Undecided: how many blocks in all would likely decide (power 0.8 at the observed variance); None if not finite."""


@dataclass(frozen=True)
class ContrastResult:
    """Arm minus reference over shared blocks."""

    arm: str
    reference: str
    claim: Literal["difference", "equivalence"]
    margin: float | None
    family: str
    blocks: tuple[str, ...]
    """Blocks both arms finished, in plan order."""
    dropped: Mapping[str, str]
    """Block -> why it is not in the comparison (which arm failed or is pending)."""
    differences: tuple[float, ...]
    interval: Interval
    """Paired t, level 1 - alpha."""
    test: str
    """The declared primary test, named."""
    p: float
    p_adjusted: float
    """Corrected over the family."""
    p_attainable: float
    """Smallest p that the exact sign-flip test can reach with so many blocks."""
    other_p: Mapping[str, float] = field(default_factory=dict)
    """Further tests, uncorrected, for the reader's cross-check: 'sign-flip', 'wilcoxon', 'tost t', ..."""
    effects: Mapping[str, float] = field(default_factory=dict)
    """Hedges' g for pairs, matched rank-biserial, probability of superiority, ..."""
    intervals: Mapping[str, Interval] = field(default_factory=dict)
    """Further intervals: 'bca', 'sign-flip', 'tost' (level 1 - 2 alpha), 'nadeau-bengio'."""
    verdict: Verdict = Verdict("undecided", "")


@dataclass(frozen=True)
class Findings:
    """Everything a report says that was computed."""

    study: str
    scale: str
    outcome: str
    arms: tuple[ArmSummary, ...]
    contrasts: tuple[ContrastResult, ...]
    secondary: Mapping[str, tuple[ArmSummary, ...]]
    """Metric -> arm summaries; descriptive, never tested."""
    warnings: tuple[str, ...]
    """What a reader must know before believing: failures, dropped blocks, mixed commits, stale trials, ties, n too small."""
    omnibus: Mapping[str, float] = field(default_factory=dict)
    """Friedman over all arms: 'statistic', 'p', 'n', 'k'; empty when not applicable."""
