"""A step of each mix beside a plain step: same batch, network, device; epochs in turn, medians of ratios.

    python -m benchmarks.rmix_step                           one core, a small network
    python -m benchmarks.rmix_step --device cuda --width 64 --batch 100 --steps 50

What is timed and how, `benchmarks/steps.py` says. The bounds: 1.8 for R-Mix (5/3 by arithmetic, as its first pass needs
no weight gradients; the paper says 2), 1.05 for CutMix+. Then the mixing itself, without the network, as a share of an
R-Mix step: under 5%.
"""

import statistics
from dataclasses import replace
from typing import Any

import torch

from benchmarks import steps
from trainables import rmix

BOUNDS = {"rmix": 1.8, "cutmix_plus": 1.05}
MIXING_BOUND = 0.05
ARMS = {
    "rmix": rmix.RMIX,
    "cutmix_plus": rmix.CUTMIX_PLUS,
    **{
        mix: replace(rmix.RMIX, mix=mix)
        for mix in ("mixup", "manifold", "cutmix", "saliencymix", "fmix", "resizemix", "gridmix")
    },
}


def mixing_seconds(chosen: Any) -> float:
    """Of `rmix.rmix` with its map: everything between the saliency pass and the second pass; median of 20."""
    random = torch.Generator(chosen.device).manual_seed(0)
    size = (chosen.batch, 3, chosen.side, chosen.side)
    x, gradient = (torch.randn(size, generator=random, device=chosen.device) for _ in range(2))
    labels, partner = (torch.arange(chosen.batch, device=chosen.device) % count for count in (100, chosen.batch))
    q = torch.rand(chosen.batch, generator=random, device=chosen.device)
    lam = torch.full((1, 1, 1), 0.3, device=chosen.device)
    seconds, now = [], steps.clock(chosen.device)
    for _ in range(20):
        begun = now()
        with torch.no_grad():
            z = rmix.normalised(rmix.pooled(rmix.saliency(gradient), 4))
            rmix.rmix(x, labels, z, q, lam, partner, 100)
        if chosen.device != "cpu":
            torch.cuda.synchronize()
        seconds.append(now() - begun)
    return statistics.median(seconds)


def main() -> int:
    """Prints the table; exit code 1 when a bound is not held."""
    chosen = steps.arguments(__doc__, ARMS, network="preactresnet18")
    data = steps.noise(chosen.batch * chosen.steps, chosen.side, 100)
    shared = steps.fields(chosen) | {"learning_rate": 0.01, "evaluate_every": 0}
    runs = {"vanilla": replace(rmix.RMIX, mix="vanilla", **shared)}
    runs |= {name: replace(ARMS[name], **shared) for name in chosen.arms}
    arms = {name: rmix.train(config, data, seed=0, device=chosen.device) for name, config in runs.items()}
    seconds, held = steps.timed(arms, chosen), True
    print(steps.machine(chosen, chosen.network))
    print(f"{'arm':16}{steps.COLUMNS}")
    for name, values in seconds.items():
        ratio = steps.ratio(values, seconds["vanilla"])
        held &= ratio.median <= BOUNDS.get(name, float("inf"))
        bound = f"  bound {BOUNDS[name]}" if name in BOUNDS else ""
        print(f"{name:16}{steps.milliseconds(values)}{ratio}{bound}")
    if "rmix" in seconds:
        share = mixing_seconds(chosen) / statistics.median(seconds["rmix"])
        held &= share <= MIXING_BOUND
        print(f"mixing itself: {share:.1%} of an R-Mix step  bound {MIXING_BOUND:.0%}")
    print("within the bounds" if held else "OVER a bound")
    return 0 if held else 1


if __name__ == "__main__":
    raise SystemExit(main())
