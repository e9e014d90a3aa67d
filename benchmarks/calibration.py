"""How often the verdict is wrong: error rates, coverage and power of `analysis` by simulation.

    python -m benchmarks.calibration [--draws 10000] [--out results/calibration] [--autorank-draws 50]

Every number comes from the functions that decide a report: `analysis.verdict.p_difference_rows`,
`p_equivalence_rows` and `analysis.multiplicity.holm`, which work on rows so that a simulation can use them as they are.
Arms share blocks; the first arm is the reference of all contrasts, which form one family.

autorank is compared if it is installed: `pip install autorank`, in another environment if its pins get in the way.
Writes calibration.csv (one line a figure) and calibration.md into --out.
"""

import argparse
import contextlib
import csv
import io
import platform
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import astuple, dataclass, fields
from pathlib import Path

import numpy as np

from analysis import effects, significance, verdict
from analysis.multiplicity import holm
from analysis.significance import Floats

ALPHA = 0.05
BLOCKS = (5, 10, 20)
ARMS = range(2, 9)
SEED = 20_261_120
MARGIN_ERRORS = 4.0
"""Equivalence margin in standard errors of the mean difference: far enough that only one side of TOST can err."""
EXACT_DRAWS = 500
"""Draws for what is computed row by row: the sign-flip test."""
BOOTSTRAP_DRAWS = 200
"""Draws for what takes longer: BCa, and the sign-flip interval at 20 blocks."""
AUTORANK_SHAPES = ("normal", "heavy-tailed", "skewed", "unequal arms")
AUTORANK_ARMS = 4
EFFECT = 1.5
"""True difference in the power figures, in standard deviations of a run."""


def _normal(random: np.random.Generator, shape: tuple[int, int, int]) -> Floats:
    return random.standard_normal(shape)


def _heavy(random: np.random.Generator, shape: tuple[int, int, int]) -> Floats:
    return random.standard_t(3, shape) / np.sqrt(3)


def _skewed(random: np.random.Generator, shape: tuple[int, int, int]) -> Floats:
    return random.standard_exponential(shape) - 1


def _unequal_arms(random: np.random.Generator, shape: tuple[int, int, int]) -> Floats:
    return random.standard_normal(shape) * np.linspace(1, 4, shape[2])


def _unequal_blocks(random: np.random.Generator, shape: tuple[int, int, int]) -> Floats:
    return random.standard_normal(shape) * np.geomspace(0.25, 4, shape[1])[:, None]


def _ties(random: np.random.Generator, shape: tuple[int, int, int]) -> Floats:
    return np.round(random.standard_normal(shape))


def _coarse(random: np.random.Generator, shape: tuple[int, int, int]) -> Floats:
    return np.round(random.standard_normal(shape) / 2) * 2


def _outliers(random: np.random.Generator, shape: tuple[int, int, int]) -> Floats:
    return random.standard_normal(shape) * np.where(random.random(shape) < 0.1, 10, 1)


def _adverse(random: np.random.Generator, shape: tuple[int, int, int]) -> Floats:
    return (random.standard_exponential(shape) - 1) * np.linspace(1, 4, shape[2])


@dataclass(frozen=True)
class Shape:
    """One kind of noise. `promised`: paired differences are symmetric, which the verdict's error rates ask for."""

    draw: Callable[[np.random.Generator, tuple[int, int, int]], Floats]
    words: str
    promised: bool = True


SHAPES = {
    "normal": Shape(_normal, "normal"),
    "heavy-tailed": Shape(_heavy, "t with 3 degrees of freedom"),
    "skewed": Shape(_skewed, "exponential, alike in all arms"),
    "unequal arms": Shape(_unequal_arms, "normal, sd 1 in the reference to 4 in the last arm"),
    "unequal blocks": Shape(_unequal_blocks, "normal, sd 0.25 to 4 over the blocks"),
    "ties": Shape(_ties, "normal, rounded to whole sd"),
    "coarse": Shape(_coarse, "normal, rounded to two sd: two of three differences are zero"),
    "outliers": Shape(_outliers, "normal, one run in ten with sd 10"),
    "adverse": Shape(_adverse, "exponential, sd 1 in the reference to 4 in the last arm", promised=False),
}


@dataclass(frozen=True)
class Figure:
    """One line of calibration.csv."""

    measure: str
    shape: str
    promised: bool
    blocks: int
    arms: int
    method: str
    rate: float
    error: float
    """Standard error of the simulation."""
    draws: int


def _rate(measure: str, shape: str, n: int, arms: int, method: str, hits: np.ndarray) -> Figure:
    rate = float(np.mean(hits))
    error = float(np.sqrt(max(rate * (1 - rate), 1e-12) / hits.size))
    return Figure(measure, shape, SHAPES[shape].promised, n, arms, method, rate, error, hits.size)


def _differences(outcomes_RNA: Floats) -> Floats:
    """(R, A - 1, N): each arm minus the first."""
    return np.moveaxis(outcomes_RNA[:, :, 1:] - outcomes_RNA[:, :, :1], 2, 1)


def _verdict_p(differences_RAN: Floats) -> Floats:
    flat = verdict.p_difference_rows(differences_RAN.reshape(-1, differences_RAN.shape[-1]))
    return flat.reshape(differences_RAN.shape[:2])


def _plain_t_p(differences_RAN: Floats) -> Floats:
    """The t test alone; NaN, which rejects nothing, where a row does not vary."""
    flat = significance.paired_t_rows(differences_RAN.reshape(-1, differences_RAN.shape[-1]))
    return flat.reshape(differences_RAN.shape[:2])


def _flip_p(differences_RAN: Floats) -> Floats:
    rows = differences_RAN.reshape(-1, differences_RAN.shape[-1])
    return np.array([significance.sign_flip(row) for row in rows]).reshape(differences_RAN.shape[:2])


def _wrong_difference(shape: str, n: int, outcomes_RNA: Floats) -> Iterator[Figure]:
    """No arm differs: any 'better' or 'worse' is wrong."""
    differences = _differences(outcomes_RNA)
    p, p_plain, p_flip = _verdict_p(differences), _plain_t_p(differences), _flip_p(differences[:EXACT_DRAWS])
    for arms in ARMS:
        family = slice(0, arms - 1)
        any_wrong = (holm(p[:, family]) <= ALPHA).any(axis=1)
        yield _rate("wrong better/worse", shape, n, arms, "verdict (paired t, Holm)", any_wrong)
        uncorrected = (p_plain[:, family] <= ALPHA).any(axis=1)
        yield _rate("wrong better/worse", shape, n, arms, "paired t, uncorrected", uncorrected)
        flipped = (holm(p_flip[:, family]) <= ALPHA).any(axis=1)
        yield _rate("wrong better/worse", shape, n, arms, "sign-flip, Holm", flipped)


def _wrong_equivalence(shape: str, n: int, outcomes_RNA: Floats) -> Iterator[Figure]:
    """Every arm is one margin away: any 'equivalent' is wrong. Half of the arms lie above, half below."""
    differences = _differences(outcomes_RNA)
    sides = np.where(np.arange(differences.shape[1]) % 2, -1.0, 1.0)
    spread = differences.std(axis=(0, 2)).max()
    margin = MARGIN_ERRORS * spread / np.sqrt(n)
    shifted = differences + (margin * sides)[:, None]
    p = verdict.p_equivalence_rows(shifted.reshape(-1, n), margin).reshape(shifted.shape[:2])
    for arms in ARMS:
        any_wrong = (holm(p[:, : arms - 1]) <= ALPHA).any(axis=1)
        yield _rate("wrong equivalent", shape, n, arms, "verdict (TOST by t, Holm)", any_wrong)


def _coverage(shape: str, n: int, outcomes_RNA: Floats, random: np.random.Generator) -> Iterator[Figure]:
    """Intervals of the last arm's difference, whose true value is 0."""
    rows = _differences(outcomes_RNA)[:, -1]
    yield _rate("coverage", shape, n, 2, "paired t", significance.paired_t_rows(rows) > ALPHA)
    few = rows[:EXACT_DRAWS]
    found = [effects.sign_flip_interval(row, 1 - ALPHA) for row in few[:EXACT_DRAWS]]
    inside = np.array([interval.low <= 0 <= interval.high for interval in found])
    yield _rate("coverage", shape, n, 2, f"sign-flip (level {found[0].level:.4g})", inside)
    if n >= 10:
        boot = [effects.bca(row, 1 - ALPHA, generator=random) for row in few[:BOOTSTRAP_DRAWS]]
        inside = np.array([not interval.low > 0 and not interval.high < 0 for interval in boot])
        yield _rate("coverage", shape, n, 2, "BCa bootstrap", inside)


def _power(shape: str, n: int, outcomes_RNA: Floats, autorank: Callable | None, few: int) -> Iterator[Figure]:
    """The second arm is better by EFFECT, the others are not: how often is it found, and another said to differ?"""
    for arms in (2, 4, 8):
        outcomes = outcomes_RNA[:, :, :arms].copy()
        outcomes[:, :, 1] += EFFECT * outcomes_RNA[:, :, 1].std()
        p = _verdict_p(_differences(outcomes))
        p_plain = _plain_t_p(_differences(outcomes))
        p_flip = _flip_p(_differences(outcomes[:EXACT_DRAWS]))
        yield from _found("verdict (paired t, Holm)", shape, n, arms, holm(p) <= ALPHA)
        yield from _found("paired t, uncorrected", shape, n, arms, p_plain <= ALPHA)
        yield from _found("sign-flip, Holm", shape, n, arms, holm(p_flip) <= ALPHA)
        if autorank is not None and few and shape in AUTORANK_SHAPES and arms == AUTORANK_ARMS:
            yield from _found("autorank", shape, n, arms, np.array([autorank(draw) for draw in outcomes[:few]]))
            yield from _found("verdict, draws of autorank", shape, n, arms, holm(p[:few]) <= ALPHA)


def _found(method: str, shape: str, n: int, arms: int, rejected_RA: np.ndarray) -> Iterator[Figure]:
    yield _rate("power", shape, n, arms, method, rejected_RA[:, 0])
    if arms > 2:
        yield _rate("wrong beside a true effect", shape, n, arms, method, rejected_RA[:, 1:].any(axis=1))


def autorank_rule() -> Callable[[Floats], list[bool]] | None:
    """A function (blocks, arms) -> for each arm but the first, whether autorank says that it differs from the first.

    After its omnibus test: mean ranks further apart than its critical difference, or, where it chose Tukey's test,
    intervals that do not overlap, which is how its own message says to read them.
    """
    try:
        from autorank import autorank
    except ImportError:
        return None
    import matplotlib as mpl
    import pandas as pd

    mpl.use("Agg")  # it draws a figure to get at Tukey's intervals

    def decide(outcomes_NA: Floats) -> list[bool]:
        names = [f"a{i}" for i in range(outcomes_NA.shape[1])]
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")  # SciPy warns about small or tied samples on autorank's behalf
            result = autorank(pd.DataFrame(outcomes_NA, columns=names), alpha=ALPHA, verbose=False)
        table, first = result.rankdf, result.rankdf.loc["a0"]
        if not result.pvalue < ALPHA:
            return [False] * (len(names) - 1)
        if len(names) == 2:
            return [True]
        if result.cd is not None:
            return [bool(abs(table.loc[name].meanrank - first.meanrank) > result.cd) for name in names[1:]]
        rows = [table.loc[name] for name in names[1:]]
        return [bool(row.ci_lower > first.ci_upper or row.ci_upper < first.ci_lower) for row in rows]

    return decide


def simulate(draws: int, few: int, seed: int = SEED) -> Iterator[Figure]:
    """All figures, shape by shape. Each (shape, blocks) has its own stream."""
    autorank = autorank_rule()
    for index, (name, shape) in enumerate(SHAPES.items()):
        for n in BLOCKS:
            random = np.random.default_rng([seed, index, n])
            outcomes = shape.draw(random, (draws, n, max(ARMS)))
            yield from _wrong_difference(name, n, outcomes)
            yield from _wrong_equivalence(name, n, outcomes)
            yield from _coverage(name, n, outcomes, random)
            yield from _power(name, n, outcomes, autorank, few)


def holds(figure: Figure) -> bool | None:
    """Whether a promised figure keeps its promise within three standard errors; None where nothing is promised."""
    room = 3 * figure.error
    if not figure.promised:
        return None
    if figure.method.startswith("verdict") and figure.measure.startswith("wrong"):
        return figure.rate <= ALPHA + room
    if figure.measure == "coverage" and figure.method == "paired t" and figure.shape in EXACT:
        return 0.93 - room <= figure.rate <= 0.97 + room
    return None


EXACT = ("normal", "unequal arms")
"""Shapes with normal paired differences, where the t interval promises its coverage exactly."""


def errors_table(figures: list[Figure]) -> str:
    """Error rates, the worst case over 2 to 8 arms, and coverage; as Markdown."""
    lines = [
        "| noise | blocks | wrong better/worse: verdict | sign-flip, Holm | t, uncorrected "
        "| wrong equivalent: verdict | coverage: t | sign-flip | BCa |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for name, shape in SHAPES.items():
        for n in BLOCKS:
            own = [f for f in figures if f.shape == name and f.blocks == n]
            cells = [
                _worst(own, "wrong better/worse", "verdict"),
                _worst(own, "wrong better/worse", "sign-flip"),
                _worst(own, "wrong better/worse", "paired t, uncorrected"),
                _worst(own, "wrong equivalent", "verdict"),
                *(_worst(own, "coverage", method) for method in ("paired t", "sign-flip", "BCa")),
            ]
            label = name if shape.promised else f"{name} (no promise)"
            lines.append(f"| {label} | {n} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _worst(own: list[Figure], measure: str, method: str) -> str:
    rates = [f.rate for f in own if f.measure == measure and f.method.startswith(method)]
    return f"{max(rates):.3f}" if rates else ""


def power_table(figures: list[Figure]) -> str:
    """Power and wrong verdicts beside a true effect, on the same draws, as Markdown."""
    methods = (
        "verdict, draws of autorank",
        "autorank",
        "verdict (paired t, Holm)",
        "sign-flip, Holm",
        "paired t, uncor",
    )
    heads = ("verdict, autorank's draws", "autorank", "verdict", "sign-flip, Holm", "t, uncorrected")
    lines = ["| noise | blocks | " + " | ".join(heads) + " |", "|---|--:|" + "--:|" * len(heads)]
    for name in SHAPES:
        for n in BLOCKS:
            own = [f for f in figures if f.shape == name and f.blocks == n and f.arms == AUTORANK_ARMS]
            cells = []
            for method in methods:
                found, wrong = (_worst(own, m, method) for m in ("power", "wrong beside a true effect"))
                cells.append(f"{found} / {wrong}" if found else "")
            lines.append(f"| {name} | {n} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def page(figures: list[Figure], evidence: str) -> str:
    """calibration.md."""
    broken = [f for f in figures if holds(f) is False]
    kept = sum(holds(f) is True for f in figures)
    result = f"{kept} promised figures hold within three standard errors of the simulation; {len(broken)} do not."
    for measure in ("wrong better/worse", "wrong equivalent"):
        rates = [f for f in figures if f.promised and f.measure == measure and f.method.startswith("verdict")]
        worst = max(rates, key=lambda f: f.rate)
        result += (
            f" Highest promised rate of {measure}: {worst.rate:.4f} +- {worst.error:.4f} "
            f"({worst.shape}, {worst.blocks} blocks, {worst.arms} arms)."
        )
    failures = "".join(
        f"\n- broken: {f.measure}, {f.shape}, {f.blocks} blocks, {f.arms} arms, {f.method}: "
        f"{f.rate:.4f} +- {f.error:.4f}"
        for f in broken
    )
    shapes = "\n".join(f"- {name}: {shape.words}" for name, shape in SHAPES.items())
    return PAGE.format(
        evidence=evidence,
        result=result + failures,
        shapes=shapes,
        errors=errors_table(figures),
        power=power_table(figures),
        arms=AUTORANK_ARMS,
        effect=EFFECT,
    )


PAGE = """# How often the verdict is wrong

{evidence}

{result}

**Promised**, for paired differences that are symmetric: the chance of any wrong *better* or *worse* in a family
without differences is at most 5 %, and so is that of any wrong *equivalent* when every difference is at the margin. The
t interval promises 93 to 97 % where differences are normal; elsewhere its coverage is shown. **Not promised:** noise
that is skewed *and* much wider in one arm than in the other (the last rows). Differences are skewed then, few blocks do
not show it, and no test keeps its level over all such distributions: the verdict errs two to three times as often as it
says.

Each rate is the worst over families of 2 to 8 arms (the first is the reference of all contrasts). Every single figure
with its standard error is in `calibration.csv`. The sign-flip interval covers what it names: 93.75 % at 5 blocks.

{errors}

## Power, and what it costs

One of {arms} arms is better by {effect} standard deviations of a run. Each cell: how often that arm is found to
differ / how often one of the others is wrongly said to differ. autorank sees the first draws only, and "verdict,
autorank's draws" is the verdict on the same ones.

{power}

Noise:

{shapes}
"""


def _commit() -> str:
    """The commit, and whether the code that decides differs from it."""
    commit = subprocess.run(["git", "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=False)
    code = ["analysis/verdict.py", "analysis/significance.py", "analysis/equivalence.py", "analysis/multiplicity.py"]
    changed = subprocess.run(
        ["git", "status", "--porcelain", *code, __file__], capture_output=True, text=True, check=False
    )
    return commit.stdout.strip() + (" with changes" if changed.stdout.strip() else "")


def _evidence(command: str, commit: str, seconds: float) -> str:
    model = next((line.split(":")[1].strip() for line in _cpu() if line.startswith("model name")), platform.machine())
    return (
        f"Command: `{command}` · commit {commit} · "
        f"{model}, one core · Python {platform.python_version()}, numpy {np.__version__} · {seconds:.0f} s"
    )


def _cpu() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


def main() -> None:
    """Runs the simulation and writes both files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=10_000)
    parser.add_argument("--autorank-draws", type=int, default=50)
    parser.add_argument("--out", type=Path, default=Path("results/calibration"))
    options = parser.parse_args()
    start, commit = time.perf_counter(), _commit()
    figures = []
    for figure in simulate(options.draws, options.autorank_draws):
        if not figures or figures[-1].shape != figure.shape or figures[-1].blocks != figure.blocks:
            print(f"{time.perf_counter() - start:6.0f} s  {figure.shape}, {figure.blocks} blocks", file=sys.stderr)
        figures.append(figure)
    seconds = time.perf_counter() - start
    options.out.mkdir(parents=True, exist_ok=True)
    with (options.out / "calibration.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([field.name for field in fields(Figure)])
        writer.writerows([round(v, 5) if isinstance(v, float) else v for v in astuple(f)] for f in figures)
    command = f"python -m benchmarks.calibration --draws {options.draws} --autorank-draws {options.autorank_draws}"
    text = page(figures, _evidence(command, commit, seconds))
    (options.out / "calibration.md").write_text(text)
    print(text)
    if any(holds(figure) is False for figure in figures):
        sys.exit("a promised figure does not hold")


if __name__ == "__main__":
    main()
