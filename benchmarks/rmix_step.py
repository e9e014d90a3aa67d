"""A step of each mix beside a plain step: same batch, network, device; epochs in turn, medians of ratios.

    python benchmarks/rmix_step.py                           one core, a small network
    python benchmarks/rmix_step.py --device cuda --width 64 --batch 100 --steps 50

Timed are whole epochs of `rmix.train` without evaluation, so augmentation, mixing, optimiser and reading the losses
count on both sides: processor time on the CPU, which a busy machine does not stretch, wall time elsewhere. The bounds:
1.8 for R-Mix (5/3 by arithmetic, as its first pass needs no weight gradients; the paper says 2), 1.05 for CutMix+.
Then the mixing itself, without the network, as a share of an R-Mix step: under 5%.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from trainables import rmix
from trainables.datasets import Data, DataSpec, Images

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


def noise(count: int, side: int) -> Data:
    """Random pictures of a hundred classes; their content does not matter here."""
    rng = np.random.default_rng(0)
    train = Images(rng.integers(0, 256, (count, side, side, 3), dtype=np.uint8), np.arange(count) % 100)
    test = Images(train.pixels[:2], train.labels[:2])
    names = tuple(str(number) for number in range(100))
    return Data(DataSpec(protocol="noise"), names, train, test, {}, (0.5,) * 3, (0.25,) * 3)


def arguments() -> argparse.Namespace:
    """Of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1, help="of torch, on the CPU")
    parser.add_argument("--network", default="preactresnet18")
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--side", type=int, default=32)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=2, help="of an epoch")
    parser.add_argument("--rounds", type=int, default=7, help="epochs of each arm")
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16"])
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument("--arms", nargs="*", default=list(ARMS), choices=list(ARMS))
    return parser.parse_args()


def mixing_seconds(chosen: argparse.Namespace, clock: Callable[[], float]) -> float:
    """Of `rmix.rmix` with its map: everything between the saliency pass and the second pass; median of 20."""
    random = torch.Generator(chosen.device).manual_seed(0)
    size = (chosen.batch, 3, chosen.side, chosen.side)
    x, gradient = (torch.randn(size, generator=random, device=chosen.device) for _ in range(2))
    labels, partner = (torch.arange(chosen.batch, device=chosen.device) % count for count in (100, chosen.batch))
    q = torch.rand(chosen.batch, generator=random, device=chosen.device)
    lam = torch.full((1, 1, 1), 0.3, device=chosen.device)
    seconds = []
    for _ in range(20):
        begun = clock()
        with torch.no_grad():
            z = rmix.normalised(rmix.pooled(rmix.saliency(gradient), 4))
            rmix.rmix(x, labels, z, q, lam, partner, 100)
        if chosen.device != "cpu":
            torch.cuda.synchronize()
        seconds.append(clock() - begun)
    return statistics.median(seconds)


def main() -> int:
    """Prints the table; exit code 1 when a bound is not held."""
    chosen = arguments()
    torch.set_num_threads(chosen.threads)
    clock = time.process_time if chosen.device == "cpu" else time.perf_counter
    data = noise(chosen.batch * chosen.steps, chosen.side)
    shared = {
        "network": chosen.network,
        "width": chosen.width,
        "batch": chosen.batch,
        "epochs": chosen.rounds + 3,
        "learning_rate": 0.01,
        "evaluate_every": 0,
        "precision": chosen.precision,
        "channels_last": chosen.channels_last,
    }
    runs = {"vanilla": replace(rmix.RMIX, mix="vanilla", **shared)}
    runs |= {name: replace(ARMS[name], **shared) for name in chosen.arms}
    epochs = {name: rmix.train(config, data, seed=0, device=chosen.device) for name, config in runs.items()}
    for arm in epochs.values():
        next(arm)
        next(arm)
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(chosen.rounds):
        for name, arm in epochs.items():
            begun = clock()
            next(arm)
            seconds[name].append((clock() - begun) / chosen.steps)
    print(f"torch {torch.__version__}, {chosen.device}, {chosen.threads} of {os.cpu_count()} cores; ", end="")
    print(f"{chosen.network}, width {chosen.width}, {chosen.batch} images of {chosen.side} x {chosen.side}")
    print(f"{'arm':16}{'ms a step':>10}{'ratio':>8}{'lowest':>8}{'highest':>8}")
    held = True
    for name, values in seconds.items():
        ratios = sorted(value / plain for value, plain in zip(values, seconds["vanilla"], strict=True))
        ratio = statistics.median(ratios)
        held &= ratio <= BOUNDS.get(name, float("inf"))
        bound = f"  bound {BOUNDS[name]}" if name in BOUNDS else ""
        print(f"{name:16}{1000 * statistics.median(values):10.1f}{ratio:8.2f}{ratios[0]:8.2f}{ratios[-1]:8.2f}{bound}")
    if "rmix" in seconds:
        share = mixing_seconds(chosen, clock) / statistics.median(seconds["rmix"])
        held &= share <= MIXING_BOUND
        print(f"mixing itself: {share:.1%} of an R-Mix step  bound {MIXING_BOUND:.0%}")
    print("within the bounds" if held else "OVER a bound")
    return 0 if held else 1


if __name__ == "__main__":
    raise SystemExit(main())
