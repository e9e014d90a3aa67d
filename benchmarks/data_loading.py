"""Data for many small trials: mapped arrays and batched views beside the usual ways, in one run.

    python benchmarks/data_loading.py [DIR]

DIR holds CIFAR-10 as Parquet (see the README on `--data`); without it, 60,000 random pictures are written in that form.
Prints times on this machine and their ratios; look at the ratios.

1. Opening CIFAR-10 (split 0): the first trial of a node decodes, every later one maps. Beside it: np.load into
   memory, and decoding the Parquet file again, as a trial that prepares its own data does.
2. Memory: of the pages that two processes map while both read all pixels, how many the second has to itself.
3. Two SimCLR views of a batch of 256: one batched call beside torchvision's transforms image by image (what a
   DataLoader worker does), both on one thread.
"""

import io
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from trainables.data_protocols import DataSpec
from trainables.datasets import open_data

SPEC = DataSpec(protocol="cifar10")


def seconds(call: Callable[[], object], repeats: int = 1) -> float:
    """The shortest of `repeats` times."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


def line(name: str, value: float, base: float) -> None:
    """One row: milliseconds, and how many times the base."""
    print(f"  {name:<58}{value * 1e3:>12.2f} ms{value / base:>12.1f} x")


def made_up(folder: Path) -> Path:
    """60,000 random pictures as Parquet in the Hub's layout."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from PIL import Image

    random = np.random.default_rng(0)
    (folder / "cifar10").mkdir(parents=True)
    for part, count in (("train", 50_000), ("test", 10_000)):
        rows = []
        for coarse in random.integers(0, 256, (count, 4, 4, 3), dtype=np.uint8):
            buffer = io.BytesIO()
            Image.fromarray(coarse).resize((32, 32)).save(buffer, "PNG")
            rows.append({"bytes": buffer.getvalue(), "path": None})
        kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        table = pa.table({"image": pa.array(rows, kind), "label": pa.array(np.arange(count) % 10)})
        pq.write_table(table, folder / "cifar10" / f"{part}-00000-of-00001.parquet", row_group_size=2000)
    return folder


def opening(source: Path, cache: Path) -> None:
    """Part 1."""
    first = seconds(lambda: open_data(SPEC, cache=cache, source=source, download=False))
    mapped = seconds(lambda: open_data(SPEC, cache=cache, source=source, download=False), 20)

    def read_all() -> None:
        opened = open_data(SPEC, cache=cache, source=source, download=False)
        for images in (opened.train, opened.test, *opened.others.values()):
            images.pixels.max()

    data = open_data(SPEC, cache=cache, source=source, download=False)
    parts = [Path(images.pixels.filename) for images in (data.train, data.test, *data.others.values())]
    loaded = seconds(lambda: [np.load(path) for path in parts], 5)
    again = seconds(lambda: open_data(SPEC, cache=cache / "own", source=source, download=False))
    print("Opening CIFAR-10, split 0")
    line("second trial: open_data", mapped, mapped)
    line("second trial: open_data and every pixel read once", seconds(read_all, 5), mapped)
    line("np.load of the same arrays into memory", loaded, mapped)
    line("first trial: open_data, decodes the Parquet files", first, mapped)
    line("a trial that decodes for itself", again, mapped)


_READER = """
import sys
from pathlib import Path
from trainables.datasets import open_data
from trainables.data_protocols import DataSpec
data = open_data(DataSpec(protocol="cifar10"), cache=Path(sys.argv[1]), source=Path(sys.argv[2]), download=False)
pages = dict.fromkeys(("Rss", "Pss", "Private_Dirty"), 0)
data.train.pixels.max()
print("read", flush=True)
sys.stdin.readline()
inside = False
for row in open("/proc/self/smaps"):
    if "-" in row.split(":")[0].split(" ")[0]:
        inside = "train.pixels.npy" in row
    elif inside and row.split(":")[0] in pages:
        pages[row.split(":")[0]] += int(row.split()[1])
print(*pages.values(), data.train.pixels.nbytes // 1024, flush=True)
sys.stdin.readline()
"""


def memory(source: Path, cache: Path) -> None:
    """Part 2; needs Linux's /proc."""
    if not Path("/proc/self/smaps").exists():
        return
    command = [sys.executable, "-c", _READER, str(cache), str(source)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    readers = [subprocess.Popen(command, **pipes) for _ in range(2)]
    for reader in readers:
        reader.stdout.readline()
    told = []
    for reader in readers:
        reader.stdin.write("\n")
        reader.stdin.flush()
        told.append([int(number) / 1024 for number in reader.stdout.readline().split()])
    for reader in readers:
        reader.communicate("\n")
    resident, share, own, size = told[1]
    print("Memory of the second process that has read all training pixels, MiB")
    print(f"  {size:.0f} of pixels: {resident:.0f} mapped, {share:.0f} its share of them, {own:.0f} of its own")


def views(source: Path, cache: Path) -> None:
    """Part 3."""
    import torch
    from torchvision.transforms import v2

    from trainables import augment

    torch.set_num_threads(1)
    pixels = torch.from_numpy(open_data(SPEC, cache=cache, source=source, download=False).train.pixels[:256])
    generator = torch.Generator().manual_seed(0)
    theirs = v2.Compose(
        [
            v2.RandomResizedCrop(32, scale=(0.2, 1.0), antialias=True),
            v2.RandomHorizontalFlip(),
            v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8),
            v2.RandomGrayscale(0.2),
            v2.ToDtype(torch.float32, scale=True),
        ]
    )
    images = list(pixels.permute(0, 3, 1, 2))
    batched = seconds(lambda: augment.two_views(pixels, augment.SIMCLR, generator), 10)
    single = seconds(lambda: torch.stack([theirs(image) for _ in range(2) for image in images]), 3)
    print("Two SimCLR views of 256 CIFAR-10 images, one thread")
    line("trainables.augment.two_views", batched, batched)
    line("torchvision's transforms, image by image", single, batched)


def main() -> None:
    """Runs all three parts in a temporary cache."""
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder) / "cache"
        source = Path(sys.argv[1]) if len(sys.argv) > 1 else made_up(Path(folder) / "made-up")
        opening(source, cache)
        memory(source, cache)
        views(source, cache)


if __name__ == "__main__":
    main()
