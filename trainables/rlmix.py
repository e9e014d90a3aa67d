"""RL-Mix: R-Mix whose percentiles are chosen, image by image, by a policy that learns beside the classifier.

Paper: Expeditious Saliency-guided Mix-up through Random Gradient Thresholding (R-Mix), arXiv 2212.04875, section 5.2.
Repository: minhlong94/Random-Mixup (`environment.py`, `policy_network.py`), on Stable-Baselines3. In the fields below
[P] is printed in the paper, [C] read in the code, [SB3] that package's default, [D] our decision.

    observation   of the batch about to be mixed: z (B, g, g), its maps as in R-Mix, and its logits (B, K)
    action        for each image one of L percentiles; R-Mix draws them uniformly
    reward        cos(phi, phi~) after the classifier's step, one number for the batch
                  phi: pooled saliency of the clean images; phi~: of the mixed ones, from the training pass
    episode       an epoch

The step itself is `trainables.rmix`'s, and so are all that trains and judges the classifier; the policy's update is
`trainables.ppo`'s.

Deviations:
1. The policy's learning rate is undefined in the code. [D] 3e-4, the package's.
2. As released, masks have p in {2, 4} while the policy sees 8 x 8; the paper says p = 8. [P] is the default here, the
   other is `patches=(2, 4)`.
3. The paper follows a study of hyperparameters; the code has the package's own, also 10 passes where an argument says
   15. [C].

Expected, [P] Table 9, CIFAR-100 top-1: PreActResNet-18 80.75, WRN-16-8 82.16, WRN-28-10 84.90, ResNeXt-29 82.43: less
than R-Mix. Cost there: twice R-Mix's.

Shapes: B images of a batch, H rows, W columns, g cells a side of what the policy sees, K classes, L levels, T steps.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainables import classifiers, loop, ppo, rmix, seeding
from trainables.config import ConfigError, check_types, require
from trainables.datasets import Data
from trainables.protocol import Diverged, Epoch, State


@dataclass(frozen=True, kw_only=True)
class Config:
    """What can be varied. What R-Mix has too means the same there, and has its default unless said."""

    # Network and optimisation, images, evaluation: R-Mix's
    network: classifiers.Name = "preactresnet18"
    """[P]"""
    width: int = 64
    """64: the published network."""
    epochs: int = 300
    """[P]; 400 for WRN-28-10."""
    batch: int = 100
    """[C] The policy is built for this number of images."""
    learning_rate: float = 0.29947526988779305
    """[C]"""
    schedule: Literal["one_cycle", "multi_step", "imagenet_fast"] = "one_cycle"
    """[P]"""
    end_divisor: float = 1e4
    """[C]"""
    cycle_momentum: bool = True
    """[C]"""
    momentum: float = 0.9
    """[C]"""
    milestones: tuple[int, ...] = (100, 200)
    """Of MultiStep, epochs."""
    nesterov: bool = True
    """[C]"""
    weight_decay: float = 1e-4
    """[C]"""
    decay_norms: bool = True
    """[C]"""
    loss: Literal["ce", "bce"] = "ce"
    """[C]"""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Of the classifier's passes; the policy's are fp32."""
    channels_last: bool = False
    """Memory layout on the device."""
    flip: bool = True
    """[P]"""
    padding: int = 2
    """[C]"""
    colour: Literal["protocol", "released"] = "protocol"
    """[C] released, for CIFAR-100."""
    evaluate_every: int = 1
    """Epochs between evaluations; 0: after the last only."""

    # Mixing
    alpha: float = 1.0
    """[P]"""
    lam_per: Literal["batch", "sample"] = "batch"
    """[C]"""
    partner: Literal["random", "flip"] = "random"
    """[P]"""
    patches: tuple[int, ...] = (8,)
    """Patches a side of the masks. [P] 8; the code draws from {2, 4} for each batch."""
    levels: int = 10
    """Percentiles to choose from, between 0 and 0.99. [C]"""
    saliency_mode: Literal["train", "eval", "frozen"] = "train"
    """Batch norm in the clean pass. [C]"""

    # Policy
    grid: int = 8
    """Cells a side of the maps that the policy sees, and that the reward compares. [P]"""
    reward: Literal["pooled", "pixels"] = "pooled"
    """Whether the reward compares saliency cell by cell [C], or pixel by pixel ([P], read literally)."""
    features: int = 256
    """Width of what policy and value share. [C]"""
    rollout: int = 1000
    """Steps between updates of the policy; a shorter run never updates it. [C] 1000, two epochs there."""
    minibatch: int = 250
    """Steps. [C]"""
    passes: int = 10
    """Over each rollout. [SB3]"""
    policy_rate: float = 3e-4
    """Learning rate of the policy (Adam) at the start. [SB3]"""
    policy_decay: float = 0.9
    """The rate is multiplied by the share of steps that remain, to this power. [C]"""
    discount: float = 0.99
    """[SB3]"""
    trace: float = 0.95
    """Lambda of the advantages. [SB3]"""
    clip: float = 0.2
    """Of the ratio of probabilities. [SB3]"""
    value_weight: float = 0.5
    """[SB3]"""
    gradient_norm: float = 0.5
    """Largest, of the policy. [SB3]"""

    def __post_init__(self) -> None:
        check_types(self)
        of_classifier(self)
        _check_policy(self)


def _check_policy(config: Config) -> None:
    require(config.grid >= 4, config, "grid", "at least 4: two convolutions without padding look at it")
    for field in ("features", "minibatch", "passes"):
        require(getattr(config, field) >= 1, config, field, "at least 1")
    require(config.rollout >= 2, config, "rollout", "at least 2: advantages are compared with each other")
    fitting = f"at least 2 and, with rollout={config.rollout}, leave no remainder of 1"
    require(config.minibatch >= 2 and config.rollout % config.minibatch != 1, config, "minibatch", fitting)
    require(0 < config.policy_rate < math.inf, config, "policy_rate", "above 0 and finite")
    for field in ("policy_decay", "value_weight"):
        require(0 <= getattr(config, field) < math.inf, config, field, "at least 0 and finite")
    for field in ("discount", "trace"):
        require(0 <= getattr(config, field) <= 1, config, field, "between 0 and 1")
    for field in ("clip", "gradient_norm"):
        require(0 < getattr(config, field) < math.inf, config, field, "above 0 and finite")


def of_classifier(config: Config) -> rmix.Config:
    """The same config as R-Mix has it; R-Mix's own checks are made by building it.

    Raises:
        ConfigError: a field of both that is out of range.
    """
    names = {field.name for field in fields(rmix.Config)} & {field.name for field in fields(config)}
    return rmix.Config(**{name: getattr(config, name) for name in sorted(names)})


RLMIX = Config()
"""RL-Mix on CIFAR-100 as printed, and as the code runs it where the paper is silent."""


# Policy


class Policy(nn.Module):
    """What a batch's maps and logits say about its percentiles, and about the reward to come.

    The images of a batch are the channels of the maps' convolutions: the policy knows them by their place.

    Attributes:
        levels: L.
    """

    def __init__(self, batch: int, grid: int, classes: int, levels: int, features: int) -> None:
        super().__init__()
        self.levels = levels
        self.maps = nn.Sequential(nn.Conv2d(batch, 150, 3), nn.ReLU(), nn.Conv2d(150, 100, 2), nn.ReLU(), nn.Flatten())
        self.each = nn.Linear(classes, features)
        self.joint = nn.Linear(100 * (grid - 3) ** 2 + batch * features, features)
        self.actor, self.critic = _tower(features, batch * levels), _tower(features, 1)

    def forward(self, z_TBgg: Tensor, logits_TBK: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of the choices (T, B, L), and values (T,)."""
        seen = torch.cat([self.maps(z_TBgg), self.each(logits_TBK).flatten(1)], dim=1)
        shared = F.relu(self.joint(seen))
        return self.actor(shared).unflatten(1, (-1, self.levels)), self.critic(shared).squeeze(1)


def _tower(features: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(features, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, outputs))


@torch.no_grad()
def policy_of(config: Config, classes: int, generator: torch.Generator) -> Policy:
    """A policy with orthogonal weights [SB3]: choices nearly uniform at first, values of unit gain; biases 0."""
    with torch.device("meta"):  # torch's own first weights would be drawn from the global generator
        policy = Policy(config.batch, config.grid, classes, config.levels, config.features)
    policy.to_empty(device="cpu")
    gains = {policy.actor[-1]: 0.01, policy.critic[-1]: 1.0}
    for part in policy.modules():
        if isinstance(part, nn.Conv2d | nn.Linear):
            nn.init.orthogonal_(part.weight, gains.get(part, math.sqrt(2)), generator=generator)
            if part.bias is not None:
                part.bias.zero_()
    return policy


def similarity(phi_BHW: Tensor, mixed_phi_BHW: Tensor) -> Tensor:
    """The reward: the cosine between two batches' saliency, each as one long vector; 0 where one of them is."""
    return F.cosine_similarity(phi_BHW.flatten(), mixed_phi_BHW.flatten(), dim=0, eps=1e-12)


@dataclass(frozen=True)
class Agent:
    """A policy, what updates it, and what it has lived through since the last update."""

    policy: Policy
    optimizer: torch.optim.Optimizer
    rollout: ppo.Rollout
    settings: ppo.Settings
    flags: tuple[Tensor, Tensor]
    """True and False on the device, so that neither is sent there at every step."""


OBSERVED = ("maps", "logits")
"""What the policy takes, in this order."""


def agent_of(config: Config, classes: int, seed: int, device: str) -> Agent:
    """An agent that has seen nothing yet."""
    policy = policy_of(config, classes, seeding.torch_stream(seed, "policy")).to(device)
    optimizer = torch.optim.Adam(
        policy.parameters(), lr=config.policy_rate, eps=1e-5, fused=bool(loop.fused(device)) or None
    )
    names = ("minibatch", "passes", "discount", "trace", "clip", "value_weight", "gradient_norm")
    settings = ppo.Settings(**{name: getattr(config, name) for name in names})
    flags = (torch.tensor(True, device=device), torch.tensor(False, device=device))
    return Agent(policy, optimizer, ppo.Rollout(config.rollout, device), settings, flags)


def learn(config: Config, agent: Agent, last_value: float, done: int, total: int, seed: int) -> None:
    """Updates the policy by a full rollout, and forgets that.

    Args:
        config: the policy's learning rate.
        agent: what learns.
        last_value: of the observation that follows; 0 where the episode has ended.
        done: the classifier's steps so far.
        total: of the whole run.
        seed: of the trial.

    Raises:
        Diverged: a weight of the policy is no longer finite.
    """
    loop.set_learning_rate(agent.optimizer, config.policy_rate * (1 - done / total) ** config.policy_decay)
    order = seeding.numpy_stream(seed, f"minibatches/{done}")
    ppo.update(agent.policy, agent.optimizer, agent.rollout, OBSERVED, last_value, agent.settings, order)
    agent.rollout.clear()
    norm = float(torch.stack(torch._foreach_norm([weight.detach() for weight in agent.policy.parameters()])).sum())
    if not math.isfinite(norm):
        raise Diverged(
            f"In step {done} the norm of the policy's weights became {norm}; a lower learning_rate or policy_rate may "
            "help."
        )


# A training step


def observe(config: Config, phi_BHW: Tensor, logits_BK: Tensor) -> dict[str, Tensor]:
    """What the policy sees of a batch."""
    return {"maps": rmix.normalised(rmix.pooled(phi_BHW, config.grid)), "logits": logits_BK}


@torch.no_grad()
def choose(agent: Agent, seen: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
    """The action (B,), its log-probability and the value of what was seen."""
    choices_TBL, value_T = agent.policy(*(seen[name].unsqueeze(0) for name in OBSERVED))
    action_B = ppo.sample(choices_TBL[0], generator)
    probability_T = ppo.log_probability(choices_TBL, action_B.unsqueeze(0))
    return {"action": action_B, "log_probability": probability_T[0], "value": value_T[0]}


@torch.no_grad()
def value_of(agent: Agent, seen: dict[str, Tensor]) -> float:
    """What the policy expects from here on."""
    return float(agent.policy(*(seen[name].unsqueeze(0) for name in OBSERVED))[1][0])


def mixed_loss(
    config: rmix.Config, network: classifiers.Classifier, step: rmix.Step, phi_BHW: Tensor, classes: int
) -> tuple[Tensor, Tensor]:
    """The loss of the batch mixed by `step.q_B`, and the mixed images, whose gradient is wanted."""
    with torch.no_grad():
        z_Bpp = rmix.normalised(rmix.pooled(phi_BHW, step.p))
        lam_B11 = step.lam_B.view(-1, 1, 1)
        mixed = rmix.rmix(step.x_BCHW, step.labels_B, z_Bpp, step.q_B, lam_B11, step.partner_B, classes)
    mixed_BCHW, targets_BK = mixed[0].requires_grad_(), mixed[1]
    loss = rmix.soft_cross_entropy if config.loss == "ce" else rmix.binary_cross_entropy
    return loss(rmix.logits_of(config, network, mixed_BCHW), targets_BK), mixed_BCHW


# Training


def train(config: Config, data: Data, *, seed: int, device: str, resume: State | None = None) -> Iterator[Epoch]:
    """Trains a classifier and its policy, and yields after every epoch; see `trainables.protocol`.

    The final state rebuilds the network as R-Mix's does; with it are the policy, its optimiser and what a rollout that
    is not yet full holds.

    Raises:
        ConfigError: a batch larger than the training set; patches or a grid that do not divide the images' sides.
        Diverged: a loss or weight is no longer finite.
    """
    base = of_classifier(config)
    pixels_NHWC, labels_N = loop.resident(data, config.batch, device)
    _check_images(config, base, pixels_NHWC)
    classes, steps = len(data.classes), len(labels_N) // config.batch
    init = seeding.torch_stream(seed, "init")
    network = classifiers.classifier(config.network, config.width, pixels_NHWC.shape[3], classes, init).to(device)
    if config.channels_last:
        network.to(memory_format=torch.channels_last)
    optimizer, agent = rmix.optimizer_of(base, network, device), agent_of(config, classes, seed, device)
    grid, total = torch.from_numpy(rmix.levels(config.levels)).to(device), config.epochs * steps
    done, best = 0, {}
    if resume is not None:
        done, best = resume["epoch"], dict(resume["best"])
        network.load_state_dict(resume["weights"])
        optimizer.load_state_dict(resume["optimizer"])
        _restore(agent, resume)
    for epoch in range(done, config.epochs):
        totals = loop.Totals()
        network.train()
        choices = seeding.torch_stream(seed, f"action/{epoch}", device)
        for s, step in enumerate(rmix.batches(base, data, pixels_NHWC, labels_N, seed, epoch)):
            rmix.set_rates(base, optimizer, epoch, s, steps)
            with totals.step(device):
                phi_BHW, _, logits_BK = rmix.saliency_pass(base, network, step)
                seen = observe(config, phi_BHW, logits_BK)
                if agent.rollout.full:
                    learn(config, agent, value_of(agent, seen), epoch * steps + s, total, seed)
                chosen = choose(agent, seen, choices)
                step = replace(step, q_B=grid[chosen["action"]])
                loss, mixed_BCHW = mixed_loss(base, network, step, phi_BHW, classes)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                assert mixed_BCHW.grad is not None, "the mixed images are a leaf that asks for its gradient"
                reward = _reward(config, phi_BHW, rmix.saliency(mixed_BCHW.grad.float()))
                agent.rollout.add(**seen, **chosen, reward=reward, start=agent.flags[0 if s == 0 else 1])
            totals.add({"loss": loss, "reward": reward})
        if agent.rollout.full:
            with loop.repeatable(device):
                learn(config, agent, 0.0, (epoch + 1) * steps, total, seed)
        metrics = totals.means(network, epoch + 1)
        last = epoch + 1 == config.epochs
        if last or (config.evaluate_every and (epoch + 1) % config.evaluate_every == 0):
            metrics |= rmix.evaluate(base, network, data, device, attack=last)
            best = {name: max(metrics[name], best.get(name, 0.0)) for name in ("accuracy", "accuracy_top5")}
            metrics |= {f"{name}_best": value for name, value in best.items()}
        yield Epoch(epoch + 1, metrics, loop.captured(epoch + 1, network, optimizer, best=best, **_kept(agent)))


def _reward(config: Config, phi_BHW: Tensor, mixed_phi_BHW: Tensor) -> Tensor:
    if config.reward == "pixels":
        return similarity(phi_BHW, mixed_phi_BHW)
    return similarity(rmix.pooled(phi_BHW, config.grid), rmix.pooled(mixed_phi_BHW, config.grid))


def _check_images(config: Config, base: rmix.Config, pixels_NHWC: Tensor) -> None:
    rmix.check_images(base, pixels_NHWC.shape[1:])
    height, width = pixels_NHWC.shape[1:3]
    if height % config.grid or width % config.grid:
        divisors = [str(n) for n in range(4, height + 1) if height % n == 0 and width % n == 0]
        cure = f"Set grid to one of {', '.join(divisors)}" if divisors else "Set another side of the images"
        found = f"it does not divide images of {height} x {width} pixels"
        raise ConfigError(f"grid={config.grid} is not allowed: {found}. {cure}.")


def _kept(agent: Agent) -> dict[str, Any]:
    """What of an agent belongs in a state."""
    return {
        "policy": agent.policy.state_dict(),
        "policy_optimizer": agent.optimizer.state_dict(),
        "rollout": agent.rollout.state(),
    }


def _restore(agent: Agent, state: State) -> None:
    agent.policy.load_state_dict(state["policy"])
    agent.optimizer.load_state_dict(state["policy_optimizer"])
    agent.rollout.restore(state["rollout"])
