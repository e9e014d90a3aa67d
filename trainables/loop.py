"""What every training loop on a device does alike: hold the data there, repeat exactly, count its cost, read its losses
once an epoch, and leave a state behind.

Source: none; there is no paper here. Deviations: none known.
"""

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from trainables.config import ConfigError
from trainables.datasets import Data
from trainables.protocol import Diverged, State


def resident(data: Data, batch: int, device: str, field: str = "batch") -> tuple[Tensor, Tensor]:
    """The whole training set on the device: pixels (N, H, W, C) uint8, labels (N,) int64.

    On the CPU the pixels are data's own memory, where that is writable (torch knows no read-only tensors).

    Raises:
        ConfigError: `batch`, the config's `field`, is larger than the set.
    """
    pixels = data.train.pixels if data.train.pixels.flags.writeable else data.train.pixels.copy()
    if len(pixels) < batch:
        found = f"the training set of {data.spec.protocol!r} has {len(pixels)} images"
        raise ConfigError(f"{field}={batch} is not allowed: {found}; set {field} to at most that.")
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


class _Counter(TorchDispatchMode):
    """Counts with torch's own formulas. Its `FlopCounterMode` also follows modules, and fails at `autograd.grad`."""

    def __init__(self) -> None:
        super().__init__()
        from torch.utils.flop_counter import flop_registry

        self.formulas: Mapping[Any, Callable[..., int]] = flop_registry
        self.flops = 0

    def __torch_dispatch__(
        self, operator: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        out = operator(*args, **(kwargs or {}))
        formula = self.formulas.get(operator.overloadpacket)
        if formula is not None:
            self.flops += formula(*args, **(kwargs or {}), out_val=out)
        return out


class Totals:
    """Sums of named losses over an epoch, kept on the device, and what the epoch's steps computed."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.steps = 0
        self.flops: int | None = None

    @contextlib.contextmanager
    def step(self, device: str, *, compiled: bool = False) -> Iterator[None]:
        """One training step: `repeatable`, and the epoch's first one counted, unless it is compiled."""
        with repeatable(device, compiled=compiled):
            if self.steps or compiled:
                yield
                return
            with _Counter() as counter:
                yield
            self.flops = counter.flops

    def add(self, terms: Mapping[str, Tensor]) -> None:
        """Adds one step's losses; the same names at every step."""
        for name, value in terms.items():
            self.sums[name] = self.sums[name] + value.detach() if name in self.sums else value.detach()
        self.steps += 1

    def means(self, network: nn.Module, epoch: int) -> dict[str, float]:
        """Mean of each loss: the one moment of an epoch at which the host waits for the device.

        'flops' is the first step's times the number of steps, where it was counted: floating-point operations of
        convolutions and matrix products, forward and backward, a multiplication and an addition counted as two.

        Raises:
            Diverged: one of them, or a weight of `network`, is not finite after the epoch numbered `epoch`.
        """
        norm = torch.stack(torch._foreach_norm([weight.detach() for weight in network.parameters()])).sum()
        *sums, weights = torch.stack([*self.sums.values(), norm]).tolist()
        metrics = {name: value / self.steps for name, value in zip(self.sums, sums, strict=True)}
        for name, value in (metrics | {"norm of the weights": weights}).items():
            if not math.isfinite(value):
                raise Diverged(f"In epoch {epoch} the {name} became {value}; a lower learning rate may help.")
        return metrics if self.flops is None else metrics | {"flops": float(self.flops * self.steps)}


class Described(Protocol):
    """A network that says how to build itself anew, in words that load without executing code."""

    description: dict[str, Any]

    def state_dict(self) -> dict[str, Any]:
        """Its weights and buffers."""


def captured(epoch: int, network: Described, optimizer: torch.optim.Optimizer, **more: Any) -> Callable[[], State]:
    """What `Epoch.state` calls: copies of the network (and its `description`), the optimiser and what else there is.

    Random streams are not in it: each epoch derives its own from the seed.
    """

    def state() -> State:
        return {
            "epoch": epoch,
            "network": dict(network.description),
            "weights": copied(network.state_dict()),
            "optimizer": copied(optimizer.state_dict()),
        } | {name: copied(value) for name, value in more.items()}

    return state


def copied(value: Any) -> Any:
    """The same with every tensor copied to the CPU, so that training on does not change it."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, Mapping):
        return {key: copied(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(copied(item) for item in value)
    return value
