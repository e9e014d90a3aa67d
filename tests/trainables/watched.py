"""What a training step would make the host wait for on an accelerator, seen on the CPU."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class Watched(TorchDispatchMode):
    """What a step makes the host wait for on an accelerator, and which convolutions ask for gradients of weights."""

    def __init__(self):
        super().__init__()
        self.reads, self.asked = [], []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        aten = torch.ops.aten
        if func.overloadpacket in (aten._local_scalar_dense, aten.nonzero, aten.masked_select, aten.equal):
            self.reads.append(func)
        if func.overloadpacket is aten.index and any(part is not None and part.dtype == torch.bool for part in args[1]):
            self.reads.append(func)
        if func.overloadpacket is aten.convolution_backward:
            self.asked.append(args[-1][1])
        return func(*args, **(kwargs or {}))
