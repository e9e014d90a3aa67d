"""What head and loss add to a training step of their backbone, and how long an OSCR curve of a million scores takes.

    python -m benchmarks.margins_step                         one core, LeNet++ as in the thesis
    python -m benchmarks.margins_step --device cuda --batch 256

Timed in turn are a step with mean squared features as its loss, and the same step with each head and loss; the median
over the rounds of their ratio, less 1, is what they add. Processor time on the CPU. Bounds: 3%, and 2 s for the curve.
"""

import argparse
import statistics
import time

import numpy as np
import torch

from benchmarks import steps
from trainables import lenetpp, margins, oscr

BOUND, SECONDS = 0.03, 2.0
LOSSES = ("softmax", "cosface", "arcface", "sphereface", "objectosphere", "cos_os", "arc_os", "arc_eos")
CLASSES = 10


def arguments() -> argparse.Namespace:
    """What to measure, and on what."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=41)
    parser.add_argument("--scores", type=int, default=1_000_000)
    return parser.parse_args()


def network(chosen: argparse.Namespace) -> lenetpp.Centred:
    """LeNet++ for ten classes."""
    return lenetpp.network(
        "lenetpp",
        width=chosen.width,
        stem="small",
        channels=1,
        side=28,
        features=CLASSES,
        classes=CLASSES,
        activation="none",
        bias=True,
        generator=torch.Generator().manual_seed(0),
    ).to(chosen.device)


def main() -> int:
    """Prints both tables; exit code 1 when a bound is not kept."""
    chosen = arguments()
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    x_BCHW = torch.from_numpy(rng.random((chosen.batch, 1, 28, 28), dtype=np.float32)).to(chosen.device)
    labels_B = torch.from_numpy(rng.integers(-1, CLASSES, chosen.batch)).to(chosen.device)
    networks, now = {}, steps.clock(chosen.device)
    for name in ("backbone", *LOSSES):
        net = network(chosen)
        networks[name] = (net, torch.optim.SGD(net.parameters(), lr=1e-6, momentum=0.9))

    def step(name: str) -> float:
        net, optimizer = networks[name]
        begun = now()
        phi_BK = net(x_BCHW)
        if name == "backbone":
            loss = phi_BK.square().mean() + 0 * net.centres.sum()
        else:
            config = margins.named(name)
            z_BC = margins.logits(config, phi_BK, net.centres, labels_B, s=13.0)
            loss = margins.losses(config, z_BC, phi_BK, labels_B, 13.0)["loss"]
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        if chosen.device != "cpu":
            torch.cuda.synchronize()
        return now() - begun

    for name in networks:
        step(name)
        step(name)
    seconds: dict[str, list[float]] = {name: [] for name in networks}
    for _ in range(chosen.rounds):
        for name in networks:
            seconds[name].append(step(name))
    held = True
    print(f"{'step':16}{'ms':>8}{'adds':>9}")
    for name, values in seconds.items():
        added = steps.ratio(values, seconds["backbone"]).median - 1
        held &= added <= BOUND
        print(f"{name:16}{1000 * statistics.median(values):8.2f}{100 * added:8.1f}%")
    scores_NC = rng.random((chosen.scores, CLASSES), dtype=np.float32)
    labels_N = rng.integers(-2, CLASSES, chosen.scores)
    begun = time.perf_counter()
    curve = oscr.curve(scores_NC, labels_N)
    rates = [oscr.ccr_at(curve, 10.0**-power) for power in range(5)]
    taken = time.perf_counter() - begun
    print(f"OSCR of {chosen.scores:,} scores and {len(rates)} rates: {taken:.2f} s")
    held &= taken < SECONDS
    print("within the bounds" if held else f"OVER a bound ({100 * BOUND:g}% of a step, {SECONDS:g} s)")
    return 0 if held else 1


if __name__ == "__main__":
    raise SystemExit(main())
