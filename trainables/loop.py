"""What every training loop on a device does alike: hold the data there, repeat exactly, read its losses once an epoch.

Source: none; there is no paper here. Deviations: none known.
"""

import contextlib
import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from trainables.config import ConfigError
from trainables.datasets import Data
from trainables.protocol import Diverged


def resident(data: Data, batch: int, device: str) -> tuple[Tensor, Tensor]:
    """The whole training set on the device: pixels (N, H, W, C) uint8, labels (N,) int64.

    On the CPU the pixels are data's own memory, where that is writable (torch knows no read-only tensors).

    Raises:
        ConfigError: `batch` is larger than the set.
    """
    pixels = data.train.pixels if data.train.pixels.flags.writeable else data.train.pixels.copy()
    if len(pixels) < batch:
        found = f"the training set of {data.spec.protocol!r} has {len(pixels)} images"
        raise ConfigError(f"batch={batch} is not allowed: {found}; set batch to at most that.")
    return torch.from_numpy(pixels).to(device), torch.tensor(data.train.labels, dtype=torch.int64, device=device)


def fused(device: str) -> dict[str, bool]:
    """The optimiser option for one kernel over all weights, where torch has it."""
    return {"fused": True} if torch.device(device).type in ("cpu", "cuda") else {}


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """The same for all groups."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate


@contextlib.contextmanager
def repeatable(device: str, *, compiled: bool = False) -> Iterator[None]:
    """While inside: deterministic kernels of cuDNN; and what is compiled can be differentiated more than once."""
    with contextlib.ExitStack() as stack:
        if torch.device(device).type == "cuda":
            stack.enter_context(torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True))
        if compiled:
            import torch._functorch.config as functorch

            stack.enter_context(functorch.patch(donated_buffer=False))
        yield


class Totals:
    """Sums of named losses over an epoch, kept on the device."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.steps = 0

    def add(self, terms: Mapping[str, Tensor]) -> None:
        """Adds one step's losses; the same names at every step."""
        for name, value in terms.items():
            self.sums[name] = self.sums[name] + value.detach() if name in self.sums else value.detach()
        self.steps += 1

    def means(self, network: nn.Module, epoch: int) -> dict[str, float]:
        """Mean of each loss: the one moment of an epoch at which the host waits for the device.

        Raises:
            Diverged: one of them, or a weight of `network`, is not finite after the epoch numbered `epoch`.
        """
        norm = torch.stack(torch._foreach_norm([weight.detach() for weight in network.parameters()])).sum()
        *sums, weights = torch.stack([*self.sums.values(), norm]).tolist()
        metrics = {name: value / self.steps for name, value in zip(self.sums, sums, strict=True)}
        for name, value in (metrics | {"norm of the weights": weights}).items():
            if not math.isfinite(value):
                raise Diverged(f"In epoch {epoch} the {name} became {value}; a lower learning rate may help.")
        return metrics


def copied(value: Any) -> Any:
    """The same with every tensor copied to the CPU, so that training on does not change it."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, Mapping):
        return {key: copied(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(copied(item) for item in value)
    return value
