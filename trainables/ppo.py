"""Proximal policy optimisation of several discrete choices at once: advantages, the clipped objective, one update.

Paper: Schulman et al., Proximal Policy Optimization Algorithms (arXiv 1707.06347), Eq 7 and 9; advantages: Schulman et
al. (arXiv 1506.02438), Eq 16. What is left open there is as in Stable-Baselines3 (DLR-RM/stable-baselines3, 2.9.2).

Why not that package itself: it drives the environment, and here the environment, a classifier in training, drives the
agent. And it draws from the global generators and saves no half-filled rollout, so that training could not go on from a
checkpoint bit for bit.

Deviations:
1. No entropy term, no clipping of values, no stop at a divergence: off by default there.

Shapes: T steps of a rollout, A choices at each, L levels to choose from.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from trainables.protocol import State

Policy = Callable[..., tuple[Tensor, Tensor]]
"""Observations, each (T, ...) -> logits of the choices (T, A, L) and values (T,)."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Of the update; defaults are Stable-Baselines3's."""

    minibatch: int = 64
    """Steps."""
    passes: int = 10
    """Over each rollout."""
    discount: float = 0.99
    trace: float = 0.95
    """Lambda of the advantages."""
    clip: float = 0.2
    """Of the ratio of probabilities."""
    value_weight: float = 0.5
    gradient_norm: float = 0.5
    """Largest norm of all gradients together."""


def sample(logits_AL: Tensor, generator: torch.Generator) -> Tensor:
    """One level for each choice (A,), by the probabilities; the host does not wait for the device."""
    race_AL = torch.empty_like(logits_AL).exponential_(generator=generator)
    return (logits_AL - race_AL.log()).argmax(1)


def log_probability(logits_TAL: Tensor, actions_TA: Tensor) -> Tensor:
    """Of all choices of a step together (T,): the sum over independent categorical distributions."""
    return logits_TAL.log_softmax(2).gather(2, actions_TA.unsqueeze(2)).sum((1, 2))


def advantages(
    rewards_T: NDArray[np.float32],
    values_T: NDArray[np.float32],
    starts_T: NDArray[np.bool_],
    last_value: float,
    settings: Settings,
) -> NDArray[np.float32]:
    """Generalised advantages (T,): sums of temporal differences, discounted by both factors, within an episode.

    Args:
        rewards_T: after each step.
        values_T: before it.
        starts_T: whether an episode starts with the step; the one before is then the last of its own.
        last_value: of the observation after the last step; 0 where that ended an episode.
        settings: `discount` and `trace`.
    """
    found_T = np.zeros_like(rewards_T)
    running, following, goes_on = 0.0, last_value, True
    for t in reversed(range(len(rewards_T))):
        difference = rewards_T[t] + (settings.discount * following if goes_on else 0.0) - values_T[t]
        running = difference + (settings.discount * settings.trace * running if goes_on else 0.0)
        found_T[t] = running
        following, goes_on = values_T[t], not starts_T[t]
    return found_T


def objective(
    logits_TAL: Tensor,
    values_T: Tensor,
    actions_TA: Tensor,
    before_T: Tensor,
    advantages_T: Tensor,
    returns_T: Tensor,
    settings: Settings,
) -> Tensor:
    """What is minimised over a minibatch: minus the clipped surrogate, plus the weighted squared error of the values.

    Args:
        logits_TAL: of the policy as it is.
        values_T: likewise.
        actions_TA: what was chosen.
        before_T: log-probability of that, when it was chosen.
        advantages_T: normalised here, over the minibatch.
        returns_T: what the values should be.
        settings: `clip` and `value_weight`.
    """
    advantages_T = (advantages_T - advantages_T.mean()) / (advantages_T.std() + 1e-8)
    ratio_T = (log_probability(logits_TAL, actions_TA) - before_T).exp()
    clipped_T = ratio_T.clamp(1 - settings.clip, 1 + settings.clip)
    surrogate = torch.minimum(advantages_T * ratio_T, advantages_T * clipped_T).mean()
    return settings.value_weight * (values_T - returns_T).square().mean() - surrogate


class Rollout:
    """A fixed number of steps, kept on the device: what was seen, chosen and earned.

    Attributes:
        count: steps so far.
    """

    def __init__(self, steps: int, device: str) -> None:
        self.steps, self.device, self.count = steps, device, 0
        self._columns: dict[str, Tensor] = {}

    @property
    def full(self) -> bool:
        """Whether an update is due."""
        return self.count == self.steps

    def add(self, **step: Tensor) -> None:
        """Appends one step; the same names each time."""
        for name, value in step.items():
            if name not in self._columns:
                empty = torch.empty((self.steps, *value.shape), dtype=value.dtype, device=self.device)
                self._columns[name] = empty
            self._columns[name][self.count] = value.detach()
        self.count += 1

    def __getitem__(self, name: str) -> Tensor:
        """One quantity of all steps so far, (T, ...)."""
        return self._columns[name][: self.count]

    def clear(self) -> None:
        """Forgets all steps."""
        self.count = 0

    def state(self) -> State:
        """What `restore` takes: the steps so far, as views of the device's memory."""
        return {name: self[name] for name in self._columns} if self.count else {}

    def restore(self, state: State) -> None:
        """The steps of a state, so that a run goes on in the middle of a rollout."""
        self.count = 0
        for name, value in state.items():
            self._columns[name] = torch.empty((self.steps, *value.shape[1:]), dtype=value.dtype, device=self.device)
            self._columns[name][: len(value)] = value
            self.count = len(value)


def update(
    policy: nn.Module,
    optimizer: torch.optim.Optimizer,
    rollout: Rollout,
    observed: tuple[str, ...],
    last_value: float,
    settings: Settings,
    random: np.random.Generator,
) -> None:
    """Several passes over a full rollout in minibatches, each a step of the optimiser.

    Args:
        policy: see `Policy`.
        optimizer: of its weights, at the learning rate wanted.
        rollout: with 'action' (A,), 'log_probability', 'value', 'reward' and 'start' besides what was observed.
        observed: names of the observations in it, in the order in which the policy takes them.
        last_value: see `advantages`.
        settings: see there.
        random: of the minibatches' order.
    """
    values_T = rollout["value"].cpu().numpy()
    gains_T = advantages(
        rollout["reward"].cpu().numpy(), values_T, rollout["start"].cpu().numpy(), last_value, settings
    )
    returns = torch.from_numpy(gains_T + values_T).to(rollout.device)
    gains = torch.from_numpy(gains_T).to(rollout.device)
    for _ in range(settings.passes):
        order = torch.from_numpy(random.permutation(rollout.count)).to(rollout.device)
        for picked in order.split(settings.minibatch):
            logits_TAL, found_T = policy(*(rollout[name][picked] for name in observed))
            before_T = rollout["log_probability"][picked]
            actions_TA = rollout["action"][picked]
            loss = objective(logits_TAL, found_T, actions_TA, before_T, gains[picked], returns[picked], settings)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(policy.parameters(), settings.gradient_norm)
            optimizer.step()
