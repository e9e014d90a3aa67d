"""A GReg step beside a step of energy training: same batch, network, device; epochs in turn, medians of ratios.

    python -m benchmarks.greg_step                           one core, a small network
    python -m benchmarks.greg_step --device cuda --network wrn40_2 --width 64 --batch 64 --steps 30

What is timed and how, `benchmarks/steps.py` says; sampling counts too. The bounds:
3.0 for the gradient term (about 2 by arithmetic: a pass forward, one back to the images, and one back through both),
1.25 for GReg+'s two-way cluster sampling on top of a step of as many rows. One-way sampling looks at as many candidates
for a step of two thirds of the rows, so its share is larger: it has no bound. Then scikit-learn's k-means beside ours.
"""

import statistics
from dataclasses import replace

import numpy as np
import torch

from benchmarks import steps
from trainables import energy_sampling, greg
from trainables.datasets import Data, Images

ARMS = {
    "greg": greg.GREG,
    "greg_eval": replace(greg.GREG, gradient_batch_norm="eval", updates="once"),
    "oe_grad": greg.OE_GRAD,
    "one_way": replace(greg.GREG, sampling="one_way"),
    "two_way": replace(greg.GREG, sampling="two_way"),
}
UNBOUND = float("inf")
BOUNDS = {"greg": ("energy", 3.0), "one_way": ("greg", UNBOUND), "two_way": ("greg, as many rows", 1.25)}
"""Arm -> what it is compared with, and how many times as long it may take. Others are compared with energy training."""


def noise(known: int, auxiliary: int, side: int) -> Data:
    """Random pictures of ten classes, and auxiliary ones."""
    every = steps.noise(known + auxiliary, side, 10)
    pixels, none = every.train.pixels, np.full(auxiliary, -1)
    others = {"auxiliary": Images(pixels[known:], none), "far_noise": Images(pixels[:2], np.full(2, -2))}
    return replace(every, train=Images(pixels[:known], every.train.labels[:known]), others=others)


def clustering(device: str) -> tuple[float, float]:
    """Seconds of our k-means and of scikit-learn's on 384 directions of 128 dimensions, 64 clusters; medians of 7."""
    from sklearn.cluster import KMeans

    points = torch.randn(384, 128, generator=torch.Generator().manual_seed(0)).relu()
    points = torch.nn.functional.normalize(points, dim=1).to(device)

    def ours() -> None:
        energy_sampling.clusters(points, 64, torch.Generator().manual_seed(0)).sum().item()

    def theirs() -> None:
        KMeans(64, n_init=3, random_state=0).fit_predict(points.cpu().numpy())

    found, now = [], steps.clock(device)
    for run in (ours, theirs):
        seconds = []
        for _ in range(7):
            begun = now()
            run()
            seconds.append(now() - begun)
        found.append(statistics.median(seconds))
    return found[0], found[1]


def main() -> int:
    """Prints the table; exit code 1 when a bound is not held."""
    chosen = steps.arguments(__doc__, ARMS, width=32, rounds=5, network="wrn10_2")
    known = chosen.batch * chosen.steps
    data = noise(known, 6 * known, chosen.side)  # as 300,000 random images are to CIFAR-10
    shared = steps.fields(chosen) | {"learning_rate": 1e-4, "evaluate_every": 0, "gradient_rows": 0}
    runs = {"energy": replace(greg.ENERGY, **shared)} | {name: replace(ARMS[name], **shared) for name in chosen.arms}
    arms = {name: greg.train(config, data, seed=0, device=chosen.device) for name, config in runs.items()}
    if "two_way" in chosen.arms:
        # Two-way sampling has b known rows and 2 b auxiliary ones; this has 3 b too, half of each kind.
        wider, rows = noise(known * 3 // 2, known * 3 // 2, chosen.side), chosen.batch * 3 // 2
        config = replace(greg.GREG, **{**shared, "batch": rows})
        arms["greg, as many rows"] = greg.train(config, wider, seed=0, device=chosen.device)
    seconds, held = steps.timed(arms, chosen), True
    print(steps.machine(chosen, chosen.network))
    print(f"{'arm':20}{steps.COLUMNS}  to")
    for name, values in seconds.items():
        reference, bound = BOUNDS.get(name, ("energy", UNBOUND))
        ratio = steps.ratio(values, seconds[reference])
        held &= ratio.median <= bound
        told = reference + (f", bound {bound}" if bound < UNBOUND else "")
        print(f"{name:20}{steps.milliseconds(values)}{ratio}  {told}")
    own, theirs = clustering(chosen.device)
    print(f"k-means of 384 points: {1000 * own:.1f} ms; scikit-learn's {1000 * theirs:.1f} ms")
    print("within the bounds" if held else "OVER a bound")
    return 0 if held else 1


if __name__ == "__main__":
    raise SystemExit(main())
