"""What a training step would make the host wait for on an accelerator, seen on the CPU."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class Watched(TorchDispatchMode):
    """What a step makes the host wait for on an accelerator; convolutions, forward and with which gradients back.

    Counted are convolutions whose kernels have at least `side` rows.
    """

    def __init__(self, side=1):
        super().__init__()
        self.side = side
        self.reads, self.forward, self.back = [], 0, []

    @property
    def asked(self):
        """Whether each convolution on the way back was asked for its weights' gradient."""
        return [weights for _, weights in self.back]

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        aten = torch.ops.aten
        if func.overloadpacket in (aten._local_scalar_dense, aten.nonzero, aten.masked_select, aten.equal):
            self.reads.append(func)
        if func.overloadpacket is aten.index and any(part is not None and part.dtype == torch.bool for part in args[1]):
            self.reads.append(func)
        if func.overloadpacket is aten.convolution and args[1].shape[2] >= self.side:
            self.forward += 1
        if func.overloadpacket is aten.convolution_backward and args[2].shape[2] >= self.side:
            self.back.append(tuple(args[-1][:2]))
        return func(*args, **(kwargs or {}))
