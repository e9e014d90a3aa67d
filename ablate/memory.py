"""How much memory a trial took at its most, by what the device or the system says; and that a process keeps what it
frees.

On a CUDA device: what torch held for tensors there. Elsewhere: the process's resident memory, libraries included, where
/proc tells it and lets it start anew; on other systems it is not measured.
"""

import ctypes
import sys
from pathlib import Path

_STATUS, _CLEAR, _CLEAR_PEAK = Path("/proc/self/status"), Path("/proc/self/clear_refs"), "5"

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Parameters of glibc's mallopt."""
_KEPT, _OWN = 2**31 - 1, 2**30
"""Bytes that may lie free at the heap's end; size from which an array gets pages of its own. The most that fit."""


def keep() -> bool:
    """Lets the process keep what it frees, where the C library is glibc; returns whether it does.

    Else the end of the heap goes back to the system whenever a few large arrays are freed, and is taken again, page by
    page, for the next ones. A training step on a CPU that differentiates a gradient does so all the time: 15,000 to
    26,000 pages and a fifth of the time of a small GReg step.
    """
    libc = _libc("mallopt")
    return libc is not None and bool(libc.mallopt(_MMAP_THRESHOLD, _OWN)) and bool(libc.mallopt(_TRIM_THRESHOLD, _KEPT))


def _libc(function: str) -> ctypes.CDLL | None:
    """The process's C library, if it has the function, which only glibc's do."""
    libc = ctypes.CDLL(None) if sys.platform.startswith("linux") else None
    return libc if hasattr(libc, function) else None


def reset(device: str) -> bool:
    """Starts the peak anew; returns whether `peak` then has an answer."""
    if _on_cuda(device):
        sys.modules["torch"].cuda.reset_peak_memory_stats(device)
        return True
    libc = _libc("malloc_trim")
    if libc is not None:
        libc.malloc_trim(0)  # what an earlier trial freed is none of this one's
    try:
        _CLEAR.write_text(_CLEAR_PEAK)
        return any(map(_tells, _STATUS.read_text().splitlines()))
    except OSError:
        return False


def peak(device: str) -> int:
    """Bytes, the most since `reset`."""
    if _on_cuda(device):
        return int(sys.modules["torch"].cuda.max_memory_allocated(device))
    line = next(filter(_tells, _STATUS.read_text().splitlines()))
    return int(line.split()[1]) * 1024


def footprint(device: str) -> tuple[int, int] | None:
    """Bytes of its GPU that a process with all of it has taken at its most, and all bytes; None where there is no GPU.

    What other people's processes hold there counts as its own, so that nobody is crowded out.
    """
    if not _on_cuda(device):
        return None
    cuda = sys.modules["torch"].cuda
    free, total = cuda.mem_get_info(device)
    beside = total - free - cuda.memory_reserved(device)
    return int(beside + cuda.max_memory_reserved(device)), int(total)


def spoiled(device: str) -> str:
    """Why this process gets no more sense out of its device: an earlier fault; empty where all is well."""
    if not _on_cuda(device) or not sys.modules["torch"].cuda.is_initialized():
        return ""
    try:
        sys.modules["torch"].cuda.synchronize(device)
    except RuntimeError as error:
        return f"{device}: {error}".splitlines()[0]
    return ""


def _tells(line: str) -> bool:
    """Whether it is the line with the peak, which sandboxes leave out."""
    return line.startswith("VmHWM:")


def _on_cuda(device: str) -> bool:
    return device.startswith("cuda") and "torch" in sys.modules
