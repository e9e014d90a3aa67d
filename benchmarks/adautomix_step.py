"""A step of AdAutoMix and AutoMix beside a plain step: same batch, network, device; epochs in turn, medians of ratios.

    python -m benchmarks.adautomix_step                           one core, a small network
    python -m benchmarks.adautomix_step --device cuda --width 64 --batch 100 --steps 50

What is timed and how, `benchmarks/steps.py` says; here with the teacher's average too.

The floor is what the passes cost, a forward one counted as 1, a full backward one as 2, one back to the images as 1: a
plain step is 3. The student makes 3 full passes (2 where two images are mixed), the teacher 2 forward and 1 back, so
the floors are 12 / 3 and 9 / 3. The bound: 1.1 times the floor.
"""

from dataclasses import replace

from benchmarks import steps
from trainables import adautomix

ARMS = {
    "N=2": (replace(adautomix.ADAUTOMIX, images=2), 3.0),
    "N=3": (adautomix.ADAUTOMIX, 4.0),
    "N=4": (replace(adautomix.ADAUTOMIX, images=4), 4.0),
    "N=5": (replace(adautomix.ADAUTOMIX, images=5), 4.0),
    "eq15": (replace(adautomix.ADAUTOMIX, **adautomix.EQ15), 4.0),
    "automix": (adautomix.AUTOMIX, 3.0),
}
"""Name -> config and floor."""
SLACK = 1.1
"""Of the bound, times the floor."""


def main() -> int:
    """Prints the table; exit code 1 when a bound is not held."""
    chosen = steps.arguments(__doc__, ARMS, network="resnet18")
    data = steps.noise(chosen.batch * chosen.steps, chosen.side, 100)
    shared = steps.fields(chosen) | {"learning_rate": 0.01, "evaluate_every": 0}
    runs = {"vanilla": replace(adautomix.BY_HAND, **shared)}
    runs |= {name: replace(ARMS[name][0], **shared) for name in chosen.arms}
    arms = {name: adautomix.train(config, data, seed=0, device=chosen.device) for name, config in runs.items()}
    seconds, held = steps.timed(arms, chosen), True
    print(steps.machine(chosen, chosen.network))
    print(f"{'arm':10}{steps.COLUMNS}{'floor':>8}{'bound':>8}")
    for name, values in seconds.items():
        ratio, floor = steps.ratio(values, seconds["vanilla"]), ARMS[name][1] if name in ARMS else 1.0
        held &= ratio.median <= SLACK * floor
        print(f"{name:10}{steps.milliseconds(values)}{ratio}{floor:8.2f}{SLACK * floor:8.2f}")
    print("within the bounds" if held else "OVER a bound")
    return 0 if held else 1


if __name__ == "__main__":
    raise SystemExit(main())
