"""A GReg step beside a step of energy training: same batch, network, device; epochs in turn, medians of ratios.

    python benchmarks/greg_step.py                           one core, a small network
    python benchmarks/greg_step.py --device cuda --network wrn40_2 --width 64 --batch 64 --steps 30

Timed are whole epochs of `greg.train` without evaluation, so augmentation, sampling, optimiser and reading the losses
count on both sides: processor time on the CPU, which a busy machine does not stretch, wall time elsewhere. The bounds:
3.0 for the gradient term (about 2 by arithmetic: a pass forward, one back to the images, and one back through both),
1.25 for cluster sampling on top of a step of as many rows. Then scikit-learn's k-means beside ours.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from trainables import energy_sampling, greg
from trainables.datasets import Data, DataSpec, Images

ARMS = {
    "greg": greg.GREG,
    "greg_eval": replace(greg.GREG, gradient_batch_norm="eval", updates="once"),
    "oe_grad": greg.OE_GRAD,
    "one_way": replace(greg.GREG, sampling="one_way"),
    "two_way": replace(greg.GREG, sampling="two_way"),
}
BOUNDS = {"greg": ("energy", 3.0), "one_way": ("greg", 1.25), "two_way": ("greg, as many rows", 1.25)}
"""Arm -> what it is compared with, and how many times as long it may take. Others are compared with energy training."""


def noise(known: int, auxiliary: int, side: int) -> Data:
    """Random pictures of ten classes, and auxiliary ones; their content does not matter here."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (known + auxiliary, side, side, 3), dtype=np.uint8)
    train, beside = Images(pixels[:known], np.arange(known) % 10), Images(pixels[known:], np.full(auxiliary, -1))
    test = Images(train.pixels[:2], train.labels[:2])
    others = {"auxiliary": beside, "far_noise": Images(beside.pixels[:2], np.full(2, -2))}
    return Data(DataSpec(protocol="noise"), tuple("0123456789"), train, test, others, (0.5,) * 3, (0.25,) * 3)


def arguments() -> argparse.Namespace:
    """Of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1, help="of torch, on the CPU")
    parser.add_argument("--network", default="wrn10_2")
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--side", type=int, default=32)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=2, help="of an epoch")
    parser.add_argument("--rounds", type=int, default=5, help="epochs of each arm")
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16"])
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument("--arms", nargs="*", default=list(ARMS), choices=list(ARMS))
    return parser.parse_args()


def clustering(device: str, clock: Callable[[], float]) -> tuple[float, float]:
    """Seconds of our k-means and of scikit-learn's on 384 directions of 128 dimensions, 64 clusters; medians of 7."""
    from sklearn.cluster import KMeans

    points = torch.randn(384, 128, generator=torch.Generator().manual_seed(0)).relu()
    points = torch.nn.functional.normalize(points, dim=1).to(device)

    def ours() -> None:
        energy_sampling.clusters(points, 64, torch.Generator().manual_seed(0)).sum().item()

    def theirs() -> None:
        KMeans(64, n_init=3, random_state=0).fit_predict(points.cpu().numpy())

    found = []
    for run in (ours, theirs):
        seconds = []
        for _ in range(7):
            begun = clock()
            run()
            seconds.append(clock() - begun)
        found.append(statistics.median(seconds))
    return found[0], found[1]


def main() -> int:
    """Prints the table; exit code 1 when a bound is not held."""
    chosen = arguments()
    torch.set_num_threads(chosen.threads)
    clock = time.process_time if chosen.device == "cpu" else time.perf_counter
    known = chosen.batch * chosen.steps
    data = noise(known, 6 * known, chosen.side)  # as 300,000 random images are to CIFAR-10
    shared = {
        "network": chosen.network,
        "width": chosen.width,
        "batch": chosen.batch,
        "epochs": chosen.rounds + 3,
        "learning_rate": 1e-4,
        "evaluate_every": 0,
        "gradient_rows": 0,
        "precision": chosen.precision,
        "channels_last": chosen.channels_last,
    }
    runs = {"energy": replace(greg.ENERGY, **shared)} | {name: replace(ARMS[name], **shared) for name in chosen.arms}
    epochs = {name: greg.train(config, data, seed=0, device=chosen.device) for name, config in runs.items()}
    if "two_way" in chosen.arms:
        # Two-way sampling has b known rows and 2 b auxiliary ones; this has 3 b too, half of each kind.
        wider, rows = noise(known * 3 // 2, known * 3 // 2, chosen.side), chosen.batch * 3 // 2
        config = replace(greg.GREG, **{**shared, "batch": rows})
        epochs["greg, as many rows"] = greg.train(config, wider, seed=0, device=chosen.device)
    for arm in epochs.values():
        next(arm)
        next(arm)
    seconds: dict[str, list[float]] = {name: [] for name in epochs}
    for _ in range(chosen.rounds):
        for name, arm in epochs.items():
            begun = clock()
            next(arm)
            seconds[name].append((clock() - begun) / chosen.steps)
    print(f"torch {torch.__version__}, {chosen.device}, {chosen.threads} of {os.cpu_count()} cores; ", end="")
    print(f"{chosen.network}, width {chosen.width}, {chosen.batch} known images of {chosen.side} x {chosen.side}")
    print(f"{'arm':20}{'ms a step':>10}{'ratio':>8}{'lowest':>8}{'highest':>8}  to")
    held = True
    for name, values in seconds.items():
        reference, bound = BOUNDS.get(name, ("energy", float("inf")))
        ratios = sorted(value / plain for value, plain in zip(values, seconds[reference], strict=True))
        ratio = statistics.median(ratios)
        held &= ratio <= bound
        told = f"{reference}" + (f", bound {bound}" if name in BOUNDS else "")
        print(f"{name:20}{1000 * statistics.median(values):10.1f}{ratio:8.2f}{ratios[0]:8.2f}{ratios[-1]:8.2f}  {told}")
    own, theirs = clustering(chosen.device, clock)
    print(f"k-means of 384 points: {1000 * own:.1f} ms; scikit-learn's {1000 * theirs:.1f} ms")
    print("within the bounds" if held else "OVER a bound")
    return 0 if held else 1


if __name__ == "__main__":
    raise SystemExit(main())
