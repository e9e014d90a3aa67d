"""How causes are told apart, and that the table for people is the table that is followed."""

import errno
import re
from pathlib import Path

import pytest

from ablate.failures import PASSING, POLICY, Kernel, NeedMissing, loss_of, reason_of
from ablate.store import StoreError
from trainables.protocol import Diverged

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "how-it-works.md"
HOME = Path("/somewhere/home")


def raised_from(error, cause):
    try:
        raise error from cause
    except type(error) as chained:
        return chained


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (ValueError("shape"), "error"),
        (Diverged("loss is nan"), "diverged"),
        (NeedMissing("gone"), "need"),
        (RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"), "out_of_memory"),
        (RuntimeError("CUDA error: out of memory"), "out_of_memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"), "out_of_memory"),
        (MemoryError(), "out_of_memory"),
        (RuntimeError("CUDA error: uncorrectable ECC error encountered"), "device"),
        (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), "device"),
        (RuntimeError("No CUDA GPUs are available"), "device"),
        (ValueError("the words CUDA error in another error"), "error"),
        (OSError(errno.ENOSPC, "No space left on device"), "disk"),
        (OSError(errno.EDQUOT, "Disk quota exceeded", "/elsewhere/file"), "disk"),
        (OSError(errno.EROFS, "Read-only file system"), "disk"),
        (OSError(errno.EROFS, "Read-only file system", str(HOME / "trials/a")), "disk"),
        (OSError(errno.EROFS, "Read-only file system", "/usr/lib/a"), "error"),
        (OSError(errno.ENOENT, "No such file or directory", "data.bin"), "error"),
        (StoreError("The object store s3://bucket is away"), "store"),
        (raised_from(ValueError("the cache"), OSError(errno.ENOSPC, "No space left on device")), "disk"),
        (raised_from(ValueError("a field"), KeyError("other")), "error"),
    ],
)
def test_reasons(error, cause):
    assert reason_of(error, HOME) == cause


SIGKILLED = (
    "ActorDiedError: Worker unexpectedly exits with a connection error code 2. End of file. There are some potential "
    "root causes. (1) The process is killed by SIGKILL by OOM killer due to high memory usage."
)


@pytest.mark.parametrize(
    ("why", "how", "cause"),
    [
        (SIGKILLED, {}, "lost"),
        (SIGKILLED, {"killed": True}, "host_memory"),
        (SIGKILLED, {"others": True}, "among_others"),
        (SIGKILLED, {"others": True, "killed": True}, "among_others"),
        (SIGKILLED, {"node_died": True}, "node"),
        (SIGKILLED, {"whole_cluster": True, "node_died": True}, "cluster"),
        ("OutOfMemoryError: Memory on the node was 15.3GB / 15.8GB", {}, "host_memory"),
        ("RayTaskError(Spoiled): cuda: an illegal memory access was encountered", {"others": True}, "spoiled"),
    ],
)
def test_losses(why, how, cause):
    known = {"whole_cluster": False, "node_died": False, "others": False, "killed": False}
    assert loss_of(why, **(known | how)) == cause


def test_the_kernel_is_asked_for_what_it_killed_since(tmp_path):
    counters = tmp_path / "vmstat"
    counters.write_text("pgfault 12\noom_kill 3\nnr_free 1\n")
    kernel = Kernel(counters)
    assert not kernel.killed()
    counters.write_text("pgfault 12\noom_kill 4\nnr_free 1\n")
    assert kernel.killed()
    assert not kernel.killed()
    counters.unlink()
    assert not kernel.killed()


def test_the_document_has_the_table_that_is_followed():
    rows = re.findall(r"^\| `(\w+)` \| [^|]+ \| ([^|]+) \| ([^|]+) \| ([^|]+) \|$", DOCUMENT.read_text(), re.MULTILINE)
    words = {"retries": "twice", "always": "always", "never": "never", 1: "once", 2: "twice"}
    said = {cause: (f"`{policy.recorded}`" if policy.recorded else "") for cause, policy in POLICY.items()}
    assert {cause for cause, *_ in rows} == set(POLICY)
    for cause, recorded, again, blamed in rows:
        assert (re.findall(r"^`\w+`", recorded) or [""])[0] == said[cause], cause
        assert again.startswith(words[POLICY[cause].again]), cause
        assert POLICY[cause].blame in blamed, cause


def test_what_another_try_may_cure_does_not_stand():
    assert {"lost", "out_of_memory", "hung", "device"} == PASSING
