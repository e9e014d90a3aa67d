"""What a trial shows, kept in its folder as `exhibits/<epoch>.npz`: whole or not at all, and read without running code.

Kept for people to look at. Nothing is computed from these files, so one that is damaged costs a picture.
"""

import io
import shutil
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ablate import mirror
from ablate.home import Home
from ablate.plan import Plan

if TYPE_CHECKING:
    import numpy as np

    from analysis.exhibits import Exhibits
    from analysis.frame import Frame

MOST_BYTES = 16 << 20
"""Of one epoch, before compression: pictures of a page, no data set."""


def save(folder: Path, epoch: int, arrays: Mapping[str, "np.ndarray"]) -> Path:
    """Writes the arrays of an epoch in place of those kept before, if any.

    Raises:
        ValueError: arrays of anything but numbers, or larger than `MOST_BYTES` together.
    """
    import numpy as np

    kept = {name: np.asarray(values) for name, values in arrays.items()}
    for name, values in kept.items():
        if values.dtype.kind not in "biuf":
            raise ValueError(f"the array {name!r} holds {values.dtype}: only numbers are kept")
    size = sum(values.nbytes for values in kept.values())
    if size > MOST_BYTES:
        raise ValueError(f"its arrays take {size >> 20} MiB; at most {MOST_BYTES >> 20} MiB are kept")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{epoch}.npz"
    beside = path.with_name(path.name + ".writing")
    with beside.open("wb") as file:
        np.savez_compressed(file, **kept)  # type: ignore[arg-type]
    beside.replace(path)
    return path


def forget(folder: Path) -> None:
    """Removes what a trial showed, before it is trained from the start."""
    shutil.rmtree(folder, ignore_errors=True)


def gather(home: Home, plan: Plan, frame: "Frame") -> "Exhibits":
    """What the done runs of the plan show in their last epoch that shows anything. Imports no framework."""
    from analysis.exhibits import Exhibit, Exhibits

    finished = set(frame.trials.loc[frame.trials["state"] == "done", "trial"])
    place = {arm.name: index for index, arm in enumerate(plan.study.arms)}
    done = sorted((cell for cell in plan.cells if cell.trial in finished), key=lambda cell: place[cell.arm])
    mirror.fetch_exhibits(home, dict.fromkeys(cell.trial for cell in done))
    shown, unreadable = [], []
    for cell in done:
        newest = max(home.exhibits(cell.trial).glob("*.npz"), key=_epoch, default=None)
        if newest is None:
            continue
        try:
            shown.append(Exhibit(cell.arm, cell.block.name, _epoch(newest), load(newest)))
        except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
            unreadable.append(f"{newest.name} of trial {cell.trial} cannot be read ({error or type(error).__name__})")
    return Exhibits(tuple(shown), len(done), tuple(dict.fromkeys(unreadable)))


def load(path: Path) -> dict[str, "np.ndarray"]:
    """The arrays of one file, their checksums tested.

    Raises:
        OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error: a file that is not whole, or that holds
            objects.
    """
    from numpy.lib import format as npy

    with zipfile.ZipFile(path) as archive:  # reads every member to its end, where its checksum is tested
        return {
            name.removesuffix(".npy"): npy.read_array(io.BytesIO(archive.read(name)), allow_pickle=False)
            for name in archive.namelist()
        }


def _epoch(path: Path) -> int:
    return int(path.stem) if path.stem.isdigit() else -1
