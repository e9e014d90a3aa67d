"""What analysis concludes, as frozen records: the only thing that tables, figures and reports show."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Word = Literal["better", "worse", "equivalent", "undecided"]
LEVELS = (0.01, 0.05, 0.1)
"""Usual levels of a test: a p above one is never shown as that one, rounded."""


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
    """Undecided: blocks in all that would likely decide (power 0.8 at the observed variance); None if not finite."""


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
    """Corrected over the family. NaN, as p, where no test can be made (fewer than 2 blocks)."""
    p_attainable: float
    """Smallest p that the exact two-sided sign-flip test can reach with so many blocks; TOST reaches half of it."""
    other_p: Mapping[str, float] = field(default_factory=dict)
    """Further tests, uncorrected, for the reader's cross-check: 'sign-flip', 'wilcoxon', 'tost t', ..."""
    effects: Mapping[str, float] = field(default_factory=dict)
    """Hedges' g for pairs, matched rank-biserial, probability of superiority, ..."""
    intervals: Mapping[str, Interval] = field(default_factory=dict)
    """Further intervals: 'bca', 'sign-flip', 'tost' (level 1 - 2 alpha), 'nadeau-bengio'."""
    verdict: Verdict = Verdict("undecided", "")
    dataset: str = ""
    """The contrast was declared over blocks of this dataset only; empty: over all."""
    family_size: int = 1
    """Contrasts that were declared in its family and corrected for, those with arms left out of the sweep included."""


@dataclass(frozen=True)
class RankPair:
    """Two arms compared by their ranks, after Friedman; p-values are corrected over all pairs."""

    arm: str
    other: str
    conover: float
    """Conover's test, Holm-corrected. NaN where all blocks rank alike."""
    nemenyi: float


@dataclass(frozen=True)
class Ranks:
    """Friedman's test over the blocks that every arm finished. Rank 1 is the best; ties share their mean rank."""

    mean: Mapping[str, float]
    """Arm -> mean rank."""
    n: int
    """Blocks."""
    statistic: float
    p: float
    critical_difference: float
    """Nemenyi: mean ranks further apart than this differ at the study's alpha."""
    pairs: tuple[RankPair, ...]


@dataclass(frozen=True)
class FactorEffect:
    """One line of a two-factor analysis: a factor, or the interaction 'a:b'."""

    name: str
    p: float
    test: str
    share: float
    """Share of the variance between cell means, fANOVA; all shares add to 1. NaN where nothing varies."""
    other_p: Mapping[str, float] = field(default_factory=dict)
    """Further tests, for the reader's cross-check: 'aligned ranks'."""


@dataclass(frozen=True)
class Factorial:
    """A design of two factors, over the blocks that every cell finished."""

    factors: tuple[str, str]
    levels: tuple[tuple[str, ...], tuple[str, ...]]
    """Levels of each factor, as text, in the study's order."""
    cells: Mapping[tuple[str, str], str]
    """(level, level) -> arm."""
    means: Mapping[tuple[str, str], float]
    """(level, level) -> mean outcome over the blocks used."""
    marginal: Mapping[str, Mapping[str, Interval]]
    """Factor -> level -> mean over the other factor's levels, t interval over blocks."""
    effects: tuple[FactorEffect, ...]
    n: int
    """Blocks."""


@dataclass(frozen=True)
class PublishedRow:
    """A printed number and ours, both in the unit of the printed table."""

    arm: str
    dataset: str
    metric: str
    where: str
    published: float
    ours: float | None
    """Mean over our blocks of that dataset; None where we have none."""
    n: int


@dataclass(frozen=True)
class PublishedContrast:
    """A declared contrast as printed and as measured here, both in the unit of the printed table."""

    arm: str
    reference: str
    dataset: str
    published: float
    ours: float | None
    agree: bool | None
    """Same sign; None where ours is missing or either is exactly zero."""
    ours_on: str = ""
    """Datasets of our blocks, where none is of the paper's dataset: a weaker comparison, to be shown as such."""


@dataclass(frozen=True)
class Agreement:
    """The paper beside ours. Agreement of a small run with a paper is no replication: see the study's notes."""

    rows: tuple[PublishedRow, ...]
    contrasts: tuple[PublishedContrast, ...]
    agreed: int
    """Contrasts with the same sign."""
    comparable: int
    """Contrasts where both signs are known."""
    tau: Interval | None
    """Kendall's tau-b between printed and measured numbers of the arms, averaged over datasets; None below 3 arms."""


@dataclass(frozen=True)
class PowerRow:
    """What the design finds if the paired differences have standard deviation `sd` (the metric's own unit)."""

    sd: float
    difference: float | None
    """Power to find a true difference of one margin; None without a margin."""
    equivalence: float | None
    """Power to show equivalence when the true difference is zero; None without a margin."""
    detectable: float
    """Smallest true difference found with power 0.8."""


@dataclass(frozen=True)
class Design:
    """What `show` prints before the run."""

    blocks: int
    contrasts: int
    """Size of the largest family; its correction is taken at its strictest step."""
    alpha: float
    margin: float | None
    attainable: Mapping[str, float]
    """Exact test -> smallest two-sided p that so many blocks can give, uncorrected."""
    rows: tuple[PowerRow, ...]
    notes: tuple[str, ...]
    """In words: what the design cannot decide."""


@dataclass(frozen=True)
class Findings:
    """Everything a report says that was computed."""

    study: str
    scale: str
    outcome: str
    arms: tuple[ArmSummary, ...]
    """Of the sweep: the study's, but for those left out."""
    contrasts: tuple[ContrastResult, ...]
    """The declared ones between them."""
    secondary: Mapping[str, tuple[ArmSummary, ...]]
    """Metric -> arm summaries; descriptive, never tested."""
    warnings: tuple[str, ...]
    """What a reader must know first: failures, dropped blocks, mixed commits, changed study, ties, few blocks."""
    omnibus: Mapping[str, float] = field(default_factory=dict)
    """Friedman over all arms: 'statistic', 'p', 'n', 'k'; empty when not applicable."""
    ranks: Ranks | None = None
    """Mean ranks, for the critical-difference diagram; None below 3 arms or 2 complete blocks."""
    factorial: Factorial | None = None
    """Two-factor analysis; None unless the study's arms span two factors completely."""
    agreement: Agreement | None = None
    """None without published numbers."""
    interquartile: Mapping[str, Interval] = field(default_factory=dict)
    """Arm -> mean of the middle half of all outcomes, stratified bootstrap; empty unless several datasets are complete
    and have equally many blocks."""
    left_out: tuple[str, ...] = ()
    """Arms of the study that are not in the frame. Contrasts with them count as p = 1 in their families."""
