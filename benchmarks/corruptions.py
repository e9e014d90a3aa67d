"""All fifteen corruptions at five severities: how long 10,000 images of CIFAR's size take, estimated from fewer.

    python -m benchmarks.corruptions                         200 images, one core
    python -m benchmarks.corruptions --images 10000 --device cuda

Images are smooth noise of 32 x 32 pixels; what they show hardly matters, but to JPEG. Processor time on the CPU, which
a busy machine does not stretch, wall time elsewhere. The bound is four minutes, and meant for two cores.
"""

import argparse
import time

import torch
import torch.nn.functional as F

from trainables import seeding
from trainables.corruption_settings import CORRUPTIONS, EXTRA, SEVERITIES
from trainables.corruptions import corrupt

ALL_IMAGES = 10_000
BOUND_S = 240


def images(count: int, side: int, device: str) -> torch.Tensor:
    """uint8 (count, side, side, 3)."""
    coarse = torch.rand(count, 3, 8, 8, generator=seeding.torch_stream(0, "images"))
    fine = F.interpolate(coarse, size=side, mode="bicubic").clamp(0, 1)
    return (fine * 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous().to(device)


def seconds(pixels_BHWC: torch.Tensor, name: str) -> float:
    """Time of all severities of one corruption."""
    device = str(pixels_BHWC.device)
    clock = time.process_time if device == "cpu" else time.perf_counter
    start = clock()
    for severity in SEVERITIES:
        corrupted = corrupt(pixels_BHWC, name, severity, seeding.torch_stream(0, f"{name}/{severity}", device))
    float(corrupted.float().mean())  # waits for the device
    return clock() - start


def arguments() -> argparse.Namespace:
    """Of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--side", type=int, default=32)
    parser.add_argument("--threads", type=int, default=1, help="of torch, on the CPU")
    parser.add_argument("--device", default="cpu")
    return parser.parse_args()


def main() -> None:
    """Measures and prints."""
    asked = arguments()
    torch.set_num_threads(asked.threads)
    pixels_BHWC = images(asked.images, asked.side, asked.device)
    scale = ALL_IMAGES / asked.images
    total = 0.0
    for name in (*CORRUPTIONS, *EXTRA):
        seconds(pixels_BHWC[:8], name)  # what is done once is not counted
        found = seconds(pixels_BHWC, name) * scale
        total += found if name in CORRUPTIONS else 0.0
        print(f"{name:20}{found:8.1f} s for {ALL_IMAGES:,} images at 5 severities")
    print(f"all {len(CORRUPTIONS)}: {total:.0f} s; bound {BOUND_S} s: {'kept' if total < BOUND_S else 'missed'}")


if __name__ == "__main__":
    main()
