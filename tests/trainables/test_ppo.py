"""PPO: advantages and objective against loops written from the papers' equations, a whole update against
Stable-Baselines3's; what an update must do; a rollout."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from torch import nn

from trainables import ppo
from trainables.ppo import Settings

GOLDEN = Path(__file__).parents[1] / "golden" / "mixing"


def slow_advantages(rewards, values, starts, last_value, gamma, lam):
    """Eq 16 of generalised advantages: the sum of (gamma lambda)^l delta_{t+l}, up to the episode's end."""
    count, found = len(rewards), []
    ends = [t + 1 < count and starts[t + 1] for t in range(count)]
    for t in range(count):
        total, weight = 0.0, 1.0
        for k in range(t, count):
            after = 0.0 if ends[k] else (values[k + 1] if k + 1 < count else last_value)
            total += weight * (rewards[k] + gamma * after - values[k])
            if ends[k]:
                break
            weight *= gamma * lam
        found.append(total)
    return np.array(found)


@given(seed=st.integers(0, 1000), gamma=st.floats(0, 1), lam=st.floats(0, 1))
@examples(max_examples=30, deadline=None)
def test_advantages_are_the_discounted_sum_within_each_episode(seed, gamma, lam):
    random = np.random.default_rng(seed)
    rewards, values = random.standard_normal((2, 9)).astype(np.float32)
    starts = random.random(9) < 0.3
    found = ppo.advantages(rewards, values, starts, 0.7, Settings(discount=gamma, trace=lam))
    np.testing.assert_allclose(found, slow_advantages(rewards, values, starts, 0.7, gamma, lam), atol=1e-5)


def test_without_trace_they_are_one_step_errors_and_with_it_returns():
    rewards, values = np.array([1.0, 2.0, 3.0], np.float32), np.array([0.5, 0.5, 0.5], np.float32)
    none = np.zeros(3, bool)
    one = ppo.advantages(rewards, values, none, 4.0, Settings(discount=0.5, trace=0.0))
    np.testing.assert_allclose(one, [1 + 0.25 - 0.5, 2 + 0.25 - 0.5, 3 + 2 - 0.5])
    whole = ppo.advantages(rewards, values, none, 4.0, Settings(discount=1.0, trace=1.0))
    np.testing.assert_allclose(whole + values, [10.0, 9.0, 7.0])


def case(seed=0, steps=5, choices=3, levels=4):
    random = torch.Generator().manual_seed(seed)
    logits = torch.randn(steps, choices, levels, generator=random)
    actions = torch.randint(levels, (steps, choices), generator=random)
    numbers = torch.randn(4, steps, generator=random)
    return logits, actions, *numbers


def test_the_objective_is_equations_7_and_9():
    logits, actions, values, before, gains, returns = case()
    before = ppo.log_probability(logits, actions) + 0.3 * before
    wanted = 0.0
    mean, deviation = float(gains.mean()), float(gains.std())
    for t in range(5):
        probability = 1.0
        for a in range(3):
            odds = [math.exp(float(logit)) for logit in logits[t, a]]
            probability *= odds[int(actions[t, a])] / sum(odds)
        ratio = probability / math.exp(float(before[t]))
        gain = (float(gains[t]) - mean) / (deviation + 1e-8)
        wanted -= min(ratio * gain, max(0.8, min(1.2, ratio)) * gain) / 5
        wanted += 0.5 * (float(values[t]) - float(returns[t])) ** 2 / 5
    found = ppo.objective(logits, values, actions, before, gains, returns, Settings())
    assert float(found) == pytest.approx(wanted, abs=1e-5)


def test_probabilities_of_all_choices_sum_to_one():
    logits = case(steps=1, choices=2, levels=3)[0]
    every = torch.cartesian_prod(torch.arange(3), torch.arange(3))
    total = ppo.log_probability(logits.expand(9, 2, 3), every).exp().sum()
    assert float(total) == pytest.approx(1.0, abs=1e-6)


def test_draws_have_the_policys_probabilities():
    logits = torch.tensor([[0.0, 1.0, 2.0]]).expand(20000, 3)
    drawn = ppo.sample(logits, torch.Generator().manual_seed(0))
    share = torch.bincount(drawn, minlength=3) / 20000
    torch.testing.assert_close(share, logits[0].softmax(0), atol=0.015, rtol=0)


class Towers(nn.Module):
    """Stable-Baselines3's policy for plain vectors: a network of two tanh layers each for the choices and the value."""

    def __init__(self):
        super().__init__()
        self.policy_net, self.value_net_ = (self.tower() for _ in range(2))
        self.action_net, self.value_net = nn.Linear(8, 20), nn.Linear(8, 1)

    def tower(self):
        return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh())

    def forward(self, seen):
        return self.action_net(self.policy_net(seen)).unflatten(1, (5, 4)), self.value_net(self.value_net_(seen))[:, 0]

    def named(self, g, when):
        """The weights of the golden file, under the names here."""
        theirs = {"policy_net": "mlp_extractor.policy_net", "value_net_": "mlp_extractor.value_net"}
        return {
            name: torch.from_numpy(g[f"{when}.{theirs.get(head, head)}.{rest}"])
            for name in self.state_dict()
            for head, rest in [name.split(".", 1)]
        }


class Given:
    """Orders that were drawn elsewhere."""

    def __init__(self, orders):
        self.orders = iter(orders)

    def permutation(self, _):
        return next(self.orders)


def test_an_update_is_stable_baselines3s():
    with np.load(GOLDEN / "ppo_update.npz") as file:
        g = {name: file[name] for name in file.files}
    settings = Settings(minibatch=10)
    gains = ppo.advantages(g["reward"], g["value"], g["start"], float(g["last_value"]), settings)
    np.testing.assert_allclose(gains, g["advantages"], atol=1e-6)
    rollout = ppo.Rollout(40, "cpu")
    for t in range(40):
        names = ("observation", "action", "reward", "start", "value", "log_probability")
        rollout.add(**{name: torch.as_tensor(g[name][t]) for name in names})
    policy = Towers()
    policy.load_state_dict(policy.named(g, "before"))
    optimizer = torch.optim.Adam(policy.parameters(), lr=3e-4, eps=1e-5)
    ppo.update(policy, optimizer, rollout, ("observation",), float(g["last_value"]), settings, Given(g["order"]))
    for name, wanted in policy.named(g, "after").items():
        torch.testing.assert_close(policy.state_dict()[name], wanted, atol=1e-6, rtol=0)
    moved = [g[f"after.{name}"] - g[f"before.{name}"] for name in ("action_net.weight", "value_net.weight")]
    assert min(np.abs(change).max() for change in moved) > 1e-3


class Bandit(nn.Module):
    """One weight for each level of each choice, whatever is seen."""

    def __init__(self):
        super().__init__()
        self.preference = nn.Parameter(torch.zeros(2, 3))
        self.value = nn.Parameter(torch.zeros(()))

    def forward(self, seen):
        return self.preference.expand(len(seen), 2, 3), self.value.expand(len(seen))


def filled(policy, steps, generator):
    """Every step pays 1 for each choice of level 2."""
    rollout = ppo.Rollout(steps, "cpu")
    while not rollout.full:
        seen = torch.zeros(1)
        with torch.no_grad():
            logits, value = policy(seen.unsqueeze(0))
            action = ppo.sample(logits[0], generator)
            probability = ppo.log_probability(logits, action.unsqueeze(0))[0]
        reward = (action == 2).float().sum()
        start = torch.tensor(True)
        rollout.add(seen=seen, action=action, log_probability=probability, value=value[0], reward=reward, start=start)
    return rollout


def test_the_policy_learns_what_pays():
    policy, generator = Bandit(), torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(policy.parameters(), lr=0.02)
    for round_ in range(12):
        rollout = filled(policy, 64, generator)
        ppo.update(policy, optimizer, rollout, ("seen",), 0.0, Settings(minibatch=16), np.random.default_rng(round_))
    chances = policy.preference.softmax(1)
    assert bool((chances[:, 2] > 0.9).all())
    assert float(policy.value.detach()) == pytest.approx(2.0, abs=0.4)


def test_an_update_is_passes_times_minibatches_of_clipped_steps(monkeypatch):
    policy, generator = Bandit(), torch.Generator().manual_seed(0)
    optimizer, rollout, sizes = torch.optim.SGD(policy.parameters(), lr=0.1), filled(policy, 10, generator), []
    plain = ppo.objective

    def watched(logits, *rest):
        sizes.append(len(logits))
        return 1e6 * plain(logits, *rest)

    monkeypatch.setattr(ppo, "objective", watched)
    moves = []

    def remember(*_):
        moves.append(math.sqrt(sum(float(weight.grad.square().sum()) for weight in policy.parameters())))

    optimizer.register_step_pre_hook(remember)
    settings = replace(Settings(minibatch=4, passes=3), gradient_norm=0.5)
    ppo.update(policy, optimizer, rollout, ("seen",), 0.0, settings, np.random.default_rng(0))
    assert sizes == [4, 4, 2] * 3
    assert moves == pytest.approx([0.5] * 9, abs=1e-3)


def test_a_rollout_goes_on_from_its_state():
    rollout = ppo.Rollout(3, "cpu")
    assert rollout.state() == {}
    rollout.add(reward=torch.tensor(1.0), seen=torch.tensor([1.0, 2.0]))
    again = ppo.Rollout(3, "cpu")
    again.restore({name: value.clone() for name, value in rollout.state().items()})
    for each in (rollout, again):
        each.add(reward=torch.tensor(3.0), seen=torch.tensor([3.0, 4.0]))
        assert each["seen"].tolist() == [[1.0, 2.0], [3.0, 4.0]]
        assert not each.full
        each.clear()
        assert each.state() == {}
