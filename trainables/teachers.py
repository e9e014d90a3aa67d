"""A network and its teacher, the exponential moving average of its weights: how it follows, how both are judged.

Papers: Tarvainen and Valpola, Mean Teachers (arXiv 1703.01780); Adversarial AutoMixup, ICLR 2024, section A.2.
Repository: JinXins/Adversarial-AutoMixup, on Westlake-AI/openmixup. A momentum m moves a weight w' of the teacher to
m w' + (1 - m) w.

Deviations:
1. The released hook moves the momentum from a constant to the cosine as if that had begun at step 0, so it steps up a
   little; kept.

Shapes: N images, K classes.
"""

import contextlib
import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from trainables import augment, classification, loop, mixblock, openset, schedules, twoheads
from trainables.datasets import Data


class Trio(nn.Module):
    """A student, its teacher, which starts as a copy, and where masks are learned their generator.

    Attributes:
        description: with the weights, what `rebuild` needs.
    """

    def __init__(self, student: twoheads.TwoHeads, generator: nn.Module | None, description: Mapping[str, Any]) -> None:
        super().__init__()
        self.student, self.teacher, self.generator = student, copy.deepcopy(student), generator
        self.teacher.requires_grad_(False)
        self.description = dict(description)


def rebuild(description: Mapping[str, Any], weights: Mapping[str, Tensor]) -> Trio:
    """The networks of a final state: `rebuild(state["network"], state["weights"])`, in eval mode, on the CPU."""
    student, block = twoheads.build(description["student"]), description["generator"]
    trio = Trio(student, block and mixblock.build(block, student.map_channels), description)
    trio.load_state_dict(dict(weights))
    return trio.eval()


Norms = Literal["own", "average", "copy"]
NORM_MOMENTUM = 0.1
"""Of every batch norm here, as torch has it."""


def momentum(share: float, start: float, end: float, constant: float) -> float:
    """The teacher's momentum.

    Args:
        share: of all steps, how many are done.
        start: momentum at first.
        end: momentum at share 1, along half a cosine from share 0.
        constant: share before which it stays at `start`.
    """
    return start if share < constant else schedules.cosine_between(start, end, share)


@torch.no_grad()
def follow(student: nn.Module, teacher: nn.Module, momentum: float, norms: Norms) -> None:
    """The teacher's weights move towards the student's.

    Args:
        student: where to.
        teacher: of the same parts.
        momentum: how much of the teacher stays.
        norms: whether the running statistics move likewise, are copied, or are left alone ('own').
    """
    old, new = (list[Tensor](network.parameters()) for network in (teacher, student))
    torch._foreach_lerp_(old, new, 1 - momentum)
    if norms == "own":
        return
    old, new = ([part for part in network.buffers() if part.is_floating_point()] for network in (teacher, student))
    if old:
        torch._foreach_lerp_(old, new, 1.0 if norms == "copy" else 1 - momentum)


@contextlib.contextmanager
def norm_momentum(network: nn.Module, momentum: float) -> Iterator[None]:
    """While inside, batch norms take this part of a batch's statistics into their running ones."""
    norms = [part for part in network.modules() if isinstance(part, nn.BatchNorm2d)]
    try:
        for norm in norms:
            norm.momentum = momentum
        yield
    finally:
        for norm in norms:
            norm.momentum = NORM_MOMENTUM


def merged_momenta(clean: int) -> tuple[float, float]:
    """Batch norm's momenta of one pass of a batch and one of another that have the effect of more passes.

    Those are: the one batch, the other, and the one again `clean` times.
    """
    keep = 1 - NORM_MOMENTUM
    other = NORM_MOMENTUM * keep**clean
    return 1 - keep ** (clean + 2) / (1 - other), other


def evaluate(
    trio: Trio, data: Data, scored: Literal["teacher", "student"], device: str, *, attack: bool
) -> dict[str, float]:
    """'accuracy_<teacher or student>_<one or mix>' on the test images, and measures of the scored one's one-hot head.

    Args:
        trio: the networks; afterwards in the mode they were in.
        data: with test images.
        scored: whose one-hot head has all that `classification.measures` names.
        device: where the networks are.
        attack: whether 'fgsm_error' is among them.
    """
    metrics: dict[str, float] = {}
    judged = trio.teacher if scored == "teacher" else trio.student
    with openset.evaluation_mode(trio), loop.repeatable(device):
        for name, network in (("teacher", trio.teacher), ("student", trio.student)):
            one_NK, mix_NK, labels_N = logits(network, data, device)
            metrics[f"accuracy_{name}_one"] = classification.top_k(one_NK, labels_N, 1)
            metrics[f"accuracy_{name}_mix"] = classification.top_k(mix_NK, labels_N, 1)
            if network is judged:
                metrics |= classification.measures(one_NK, labels_N)
        if attack:
            metrics["fgsm_error"] = classification.fgsm_error(
                lambda x_BCHW: judged(x_BCHW).one_BK, data, data.mean, data.std, device=device
            )
    return metrics


@torch.no_grad()
def logits(network: twoheads.TwoHeads, data: Data, device: str, batch: int = 500) -> tuple[Tensor, Tensor, Tensor]:
    """Of both heads on the test images, (N, K) each, and the labels (N,)."""
    one, mix, labels = [], [], []
    for x_BCHW, labels_B in classification.batches(data.test, device, batch):
        seen = network(augment.normalise(x_BCHW, data.mean, data.std))
        one.append(seen.one_BK)
        mix.append(seen.mix_BK)
        labels.append(labels_B)
    return torch.cat(one), torch.cat(mix), torch.cat(labels)


LAST_EPOCHS = 10
"""Of the published protocol: the median of the accuracies in so many last epochs."""
HEADS = tuple(f"accuracy_{whose}_{head}" for whose in ("teacher", "student") for head in ("one", "mix"))
REMEMBERED = ("accuracy", "accuracy_top5", *HEADS)
"""What has a best and a median where student and teacher are judged."""


def remembered(
    history: dict[str, list[float]], epoch: int, metrics: Mapping[str, float], names: Sequence[str] = REMEMBERED
) -> dict[str, float]:
    """'<name>_best', the best so far on the test set, and '<name>_median10', of what was measured in ten epochs.

    Args:
        history: name -> all its values so far, and 'epoch'; gets this one's.
        epoch: from 1.
        metrics: of this epoch.
        names: of the metrics that have a best and a median.
    """
    history.setdefault("epoch", []).append(float(epoch))
    late = sum(then > epoch - LAST_EPOCHS for then in history["epoch"])
    found = {}
    for name in names:
        values = history.setdefault(name, [])
        values.append(metrics[name])
        found[f"{name}_best"], found[f"{name}_median10"] = max(values), float(np.median(values[-late:]))
    return found
