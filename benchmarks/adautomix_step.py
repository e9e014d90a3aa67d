"""A step of AdAutoMix and AutoMix beside a plain step: same batch, network, device; epochs in turn, medians of ratios.

    python benchmarks/adautomix_step.py                           one core, a small network
    python benchmarks/adautomix_step.py --device cuda --width 64 --batch 100 --steps 50

Timed are whole epochs of `adautomix.train` without evaluation, so augmentation, masks, optimiser, the teacher's average
and reading the losses count: processor time on the CPU, which a busy machine does not stretch, wall time elsewhere.

The floor is what the passes cost, a forward one counted as 1, a full backward one as 2, one back to the images as 1: a
plain step is 3. The student makes 3 full passes (2 where two images are mixed), the teacher 2 forward and 1 back, so
the floors are 12 / 3 and 9 / 3. The bound: 1.1 times the floor.
"""

import argparse
import os
import statistics
import time
from dataclasses import replace

import numpy as np
import torch

from trainables import adautomix
from trainables.datasets import Data, DataSpec, Images

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
    parser.add_argument("--network", default="resnet18")
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--side", type=int, default=32)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=2, help="of an epoch")
    parser.add_argument("--rounds", type=int, default=7, help="epochs of each arm")
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16"])
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument("--arms", nargs="*", default=list(ARMS), choices=list(ARMS))
    return parser.parse_args()


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
    runs = {"vanilla": replace(adautomix.BY_HAND, **shared)}
    runs |= {name: replace(ARMS[name][0], **shared) for name in chosen.arms}
    epochs = {name: adautomix.train(config, data, seed=0, device=chosen.device) for name, config in runs.items()}
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
    print(f"{'arm':10}{'ms a step':>10}{'ratio':>8}{'lowest':>8}{'highest':>8}{'floor':>8}{'bound':>8}")
    held = True
    for name, values in seconds.items():
        ratios = sorted(value / plain for value, plain in zip(values, seconds["vanilla"], strict=True))
        ratio, floor = statistics.median(ratios), ARMS[name][1] if name in ARMS else 1.0
        held &= ratio <= SLACK * floor
        row = "".join(f"{number:8.2f}" for number in (ratio, ratios[0], ratios[-1], floor, SLACK * floor))
        print(f"{name:10}{1000 * statistics.median(values):10.1f}{row}")
    print("within the bounds" if held else "OVER a bound")
    return 0 if held else 1


if __name__ == "__main__":
    raise SystemExit(main())
