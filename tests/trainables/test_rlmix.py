"""RL-Mix: the released code's sizes, the loop as Stable-Baselines3 would run it, resuming, bad input."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.trainables.toys import open_set
from tests.trainables.watched import Watched
from trainables import classifiers, ppo, rlmix, rmix
from trainables.config import ConfigError
from trainables.protocol import Diverged
from trainables.rlmix import Config

TINY = Config(width=4, epochs=3, batch=8, rollout=4, minibatch=2, passes=2, features=16, patches=(4,))
"""Three steps an epoch of 24 images: rollouts of 4 end inside one epoch and are half full at the end of others."""


def test_the_reward_is_one_cosine_of_the_whole_batch():
    one, other = torch.tensor([[[3.0]], [[0.0]]]), torch.tensor([[[3.0]], [[4.0]]])
    assert float(rlmix.similarity(one, other)) == pytest.approx(0.6)
    assert float(rlmix.similarity(one, 7 * one)) == pytest.approx(1.0)
    assert float(rlmix.similarity(one, torch.zeros_like(one))) == 0.0


def test_the_policy_has_the_released_sizes():
    policy = rlmix.policy_of(replace(rlmix.RLMIX), 100, torch.Generator().manual_seed(0))
    extractor = [policy.maps, policy.each, policy.joint]
    assert sum(weight.numel() for part in extractor for weight in part.parameters()) == 7_414_962
    logits, value = policy(torch.rand(2, 100, 8, 8), torch.randn(2, 100, 100))
    assert logits.shape == (2, 100, 10)
    assert value.shape == (2,)


def test_first_weights_are_orthogonal_and_choices_nearly_uniform():
    policy = rlmix.policy_of(TINY, 3, torch.Generator().manual_seed(0))
    weight = policy.critic[0].weight
    torch.testing.assert_close(weight.T @ weight, 2 * torch.eye(16), atol=1e-5, rtol=0)
    logits, _ = policy(torch.rand(5, 8, 8, 8), torch.randn(5, 8, 3))
    assert float(logits.detach().softmax(2).sub(0.1).abs().max()) < 0.01
    assert float(policy.critic[-1].weight.detach().norm()) == pytest.approx(1.0), "gain 1, not the square root of 2"
    assert all(bool((part.bias == 0).all()) for part in policy.modules() if isinstance(part, nn.Conv2d | nn.Linear))


def test_the_policy_sees_maps_that_sum_to_one_and_raw_logits():
    phi, logits = torch.rand(8, 16, 16), torch.randn(8, 3)
    seen = rlmix.observe(TINY, phi, logits)
    wanted = F.avg_pool2d(phi, 2)
    torch.testing.assert_close(seen["maps"], wanted / wanted.sum((1, 2), keepdim=True))
    assert torch.equal(seen["logits"], logits)


def test_the_gradient_of_the_mixed_images_is_that_of_the_training_loss():
    base, random = rlmix.of_classifier(TINY), torch.Generator().manual_seed(0)
    network = classifiers.classifier("preactresnet18", 4, 3, 3, random).train()
    draws = rmix.draw(base, 0, 0, 8, "cpu")
    step = rmix.Step(
        torch.randn(8, 3, 16, 16, generator=random),
        torch.randint(3, (8,), generator=random),
        draws.partner_SB[0],
        draws.q_SB[0],
        draws.lam_SB[0],
        float(draws.lam_S[0]),
        4,
        True,
        np.random.default_rng(0),
    )
    phi = torch.rand(8, 16, 16, generator=random)
    loss, mixed = rlmix.mixed_loss(base, network, step, phi, 3)
    loss.backward()
    z = rmix.normalised(rmix.pooled(phi, 4))
    lam = step.lam_B.view(-1, 1, 1)
    wanted, labels = rmix.rmix(step.x_BCHW, step.labels_B, z, step.q_B, lam, step.partner_B, 3)
    torch.testing.assert_close(mixed.detach(), wanted)
    torch.testing.assert_close(loss, F.cross_entropy(network(wanted), labels))
    x = wanted.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(F.cross_entropy(network(x), labels), x)
    torch.testing.assert_close(mixed.grad, gradient)


def test_a_step_waits_for_the_device_only_where_the_policy_is_updated(monkeypatch):
    """Nine steps, updated twice: each time the value that follows, and what goes to the host for the advantages."""
    waited = []

    def watched(*args):
        waited.append(len(watch.reads))
        plain(*args)
        waited.append(len(watch.reads))

    plain = rlmix.learn
    monkeypatch.setattr(rlmix, "learn", watched)
    config = replace(TINY, evaluate_every=0)
    with Watched() as watch:
        epochs = rlmix.train(config, open_set(), seed=0, device="cpu")
        for _ in range(2):
            next(epochs)
        epochs.close()
    assert waited[0] == 1, "the value that follows"
    assert len(waited) == 2


def updates(monkeypatch, config):
    """(steps so far, value that follows, starts of the rollout, learning rate) of every update of a run."""
    seen = []
    plain = ppo.update

    def watched(policy, optimizer, rollout, observed, last_value, settings, random):
        starts = rollout["start"].tolist()
        seen.append((last_value, starts, optimizer.param_groups[0]["lr"], rollout["reward"].tolist()))
        plain(policy, optimizer, rollout, observed, last_value, settings, random)

    monkeypatch.setattr(ppo, "update", watched)
    epochs = list(rlmix.train(config, open_set(), seed=0, device="cpu"))
    return seen, epochs


def test_updates_come_when_a_rollout_is_full_and_look_one_observation_ahead(monkeypatch):
    """Nine steps in three episodes, rollouts of 3: each ends with an episode. Of 4: after 4 and 8, inside one."""
    found, _ = updates(monkeypatch, replace(TINY, rollout=3, minibatch=3))
    assert [starts for _, starts, *_ in found] == [[True, False, False]] * 3
    assert [value for value, *_ in found] == [0.0, 0.0, 0.0]
    assert [rate for *_, rate, _ in found] == pytest.approx([3e-4 * (1 - n / 9) ** 0.9 for n in (3, 6, 9)])
    found, epochs = updates(monkeypatch, TINY)
    assert [starts for _, starts, *_ in found] == [[True, False, False, True], [False, False, True, False]]
    assert all(value != 0 for value, *_ in found)
    assert [rate for *_, rate, _ in found] == pytest.approx([3e-4 * (1 - n / 9) ** 0.9 for n in (4, 8)])
    rewards = [reward for *_, rewards in found for reward in rewards]
    assert epochs[0].metrics["reward"] == pytest.approx(np.mean(rewards[:3]), abs=1e-6)
    assert all(-1 <= reward <= 1 for reward in rewards)


@pytest.mark.parametrize(
    "changes", [{}, {"rollout": 6, "minibatch": 3}, {"rollout": 5, "minibatch": 3}, {"rollout": 3, "minibatch": 3}]
)
def test_a_run_resumes_to_the_same_numbers_even_inside_a_rollout(changes):
    config, data = replace(TINY, epochs=4, **changes), open_set()
    whole = [(dict(e.metrics), e.state()) for e in rlmix.train(config, data, seed=1, device="cpu")]
    held = {len(state["rollout"].get("reward", ())) for _, state in whole}
    assert held == {0} if config.rollout == 3 else held != {0}
    for done in (1, 2, 3):
        again = rlmix.train(config, data, seed=1, device="cpu", resume=whole[done - 1][1])
        states = [(dict(e.metrics), e.state()) for e in again]
        assert [metrics for metrics, _ in states] == [metrics for metrics, _ in whole[done:]]
        final, wanted = states[-1][1]["policy"], whole[-1][1]["policy"]
        assert all(torch.equal(final[name], wanted[name]) for name in wanted)


def test_a_choice_is_its_percentile_and_earns_the_cosine_of_pooled_saliency(monkeypatch):
    """Cells as they are, not shares of an image: what an image weighs in the batch's cosine is its gradient."""
    seen, plain = [], rlmix.mixed_loss

    def watched(config, network, step, phi, classes):
        loss, mixed = plain(config, network, step, phi, classes)
        seen.append((step.q_B, phi, mixed))
        return loss, mixed

    monkeypatch.setattr(rlmix, "mixed_loss", watched)
    first = next(rlmix.train(replace(TINY, evaluate_every=0), open_set(), seed=0, device="cpu"))
    held = first.state()["rollout"]
    assert len(seen) == len(held["reward"]) == 3
    for (q, phi, mixed), action, reward in zip(seen, held["action"], held["reward"], strict=True):
        torch.testing.assert_close(q, 0.99 * action / 9)
        one, other = (F.avg_pool2d(each, 2).flatten() for each in (phi, (mixed.grad**2).mean(1).sqrt()))
        assert float(reward) == pytest.approx(float(one @ other / (one.norm() * other.norm())), abs=1e-5)


def test_the_policys_optimiser_is_stable_baselines3s():
    optimizer = rlmix.agent_of(TINY, 3, 0, "cpu").optimizer
    assert isinstance(optimizer, torch.optim.Adam)
    assert (optimizer.defaults["lr"], optimizer.defaults["eps"]) == (3e-4, 1e-5)


def test_the_policy_moves_and_decides_what_is_trained():
    *_, first = rlmix.train(TINY, open_set(), seed=0, device="cpu")
    *_, other = rlmix.train(replace(TINY, policy_rate=0.1), open_set(), seed=0, device="cpu")
    assert first.metrics["loss"] != other.metrics["loss"]
    policy, moved = first.state()["policy"], other.state()["policy"]
    assert any(not torch.equal(policy[name], moved[name]) for name in policy)


@pytest.mark.parametrize(
    "changes",
    [
        {"patches": (2, 4)},
        {"grid": 4},
        {"reward": "pixels"},
        {"loss": "bce"},
        {"saliency_mode": "eval"},
        {"discount": 0.0},
        {"policy_decay": 0.0},
    ],
)
def test_every_option_changes_the_training(changes):
    *_, plain = rlmix.train(replace(TINY, policy_rate=0.1), open_set(), seed=0, device="cpu")
    *_, varied = rlmix.train(replace(TINY, policy_rate=0.1, **changes), open_set(), seed=0, device="cpu")
    pairs = zip(*(epoch.state()["policy"].values() for epoch in (plain, varied)), strict=True)
    assert any(one.shape != other.shape or not torch.equal(one, other) for one, other in pairs)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"grid": 3}, "grid must be at least 4"),
        ({"rollout": 1}, "rollout must be at least 2"),
        ({"minibatch": 1}, "minibatch must be at least 2"),
        ({"rollout": 9, "minibatch": 4}, "leave no remainder of 1"),
        ({"policy_rate": 0.0}, "policy_rate"),
        ({"discount": 1.5}, "discount must be between 0 and 1"),
        ({"clip": 0.0}, "clip must be above 0"),
        ({"policy_decay": math.inf}, "policy_decay"),
        ({"levels": 1}, "levels must be at least 2"),
        ({"patches": ()}, "at least one number"),
        ({"alpha": 0.0}, "alpha must be above 0"),
        ({"batch": 1}, "an image alone has no partner"),
        ({"reward": "cosine"}, "reward must be one of"),
    ],
)
def test_a_bad_config_says_what_is_allowed(changes, message):
    with pytest.raises(ConfigError, match=message):
        replace(Config(), **changes)


def test_a_grid_that_does_not_divide_the_images_says_which_does():
    with pytest.raises(ConfigError, match=r"does not divide images of 16 x 16 pixels. Set grid to one of 4, 8, 16"):
        next(rlmix.train(replace(TINY, grid=5), open_set(), seed=0, device="cpu"))


def test_a_policy_that_blows_up_is_reported():
    with pytest.raises(Diverged, match=r"In step 4 the norm of the policy's weights became (inf|nan)"):
        list(rlmix.train(replace(TINY, policy_rate=1e38), open_set(), seed=0, device="cpu"))


def test_a_policy_that_a_classifier_drags_along_names_the_rates_of_both():
    """What the policy sees is no longer finite before the epoch's losses are read."""
    config = replace(TINY, rollout=2, learning_rate=1e30, schedule="multi_step")
    with pytest.raises(Diverged, match=r"In step 2 .* a lower learning_rate or policy_rate may help"):
        list(rlmix.train(config, open_set(), seed=0, device="cpu"))
