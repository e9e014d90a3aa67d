"""How much memory a trial took at its most, by what the device or the system says.

On a CUDA device: what torch held for tensors there. Elsewhere: the process's resident memory, libraries included, where
/proc tells it and lets it start anew; on other systems it is not measured.
"""

import sys
from pathlib import Path

_STATUS, _CLEAR, _CLEAR_PEAK = Path("/proc/self/status"), Path("/proc/self/clear_refs"), "5"


def reset(device: str) -> bool:
    """Starts the peak anew; returns whether `peak` then has an answer."""
    if _on_cuda(device):
        sys.modules["torch"].cuda.reset_peak_memory_stats(device)
        return True
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


def _tells(line: str) -> bool:
    """Whether it is the line with the peak, which sandboxes leave out."""
    return line.startswith("VmHWM:")


def _on_cuda(device: str) -> bool:
    return device.startswith("cuda") and "torch" in sys.modules
