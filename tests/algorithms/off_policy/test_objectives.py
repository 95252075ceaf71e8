"""The parts of off-policy gradient steps that SB3 cannot vouch for, against quadrature and closed forms."""

from functools import partial

import numpy as np
import pytest
import torch as th
from scipy import integrate, stats
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from support.off_policy import make
from torch import nn

import sb3_pgx
from sb3_pgx.algorithms.sac import Coefficients, sac_step
from sb3_pgx.engine.drawn_noise import GivenDraws, NotedDraws
from sb3_pgx.engine.joint_step import JointStep, Mover, Networks
from sb3_pgx.engine.optimizers import SGD


def log_density(action, mean, std):
    """log π(a) of a = tanh(u), u ~ N(mean, std²): the derivative of the distribution function, from scipy."""
    return stats.norm.logpdf(np.arctanh(action), mean, std) - np.log1p(-(action**2))


@pytest.mark.parametrize("mean, std", [(0.0, 0.3), (0.8, 0.5), (-1.2, 0.2)])
def test_the_squashed_gaussians_log_probability_is_that_of_a_density(mean, std):
    """It integrates to 1 over the actions, and the actor's numbers are its logarithm."""
    assert integrate.quad(lambda a: np.exp(log_density(a, mean, std)), -1, 1, limit=200)[0] == pytest.approx(1, abs=1e-6)
    actor = make(sb3_pgx, "SAC").actor.double()
    nn.init.zeros_(actor.mu.weight), nn.init.constant_(actor.mu.bias, mean)
    nn.init.zeros_(actor.log_std.weight), nn.init.constant_(actor.log_std.bias, np.log(std))
    noise = th.linspace(-2, 2, 9, dtype=th.float64).reshape(-1, 1)
    with GivenDraws([noise]):
        actor.extract_features = lambda observations, extractor: observations
        actions, log_prob = actor.action_log_prob(th.zeros(9, 3, dtype=th.float64))
    actions, log_prob = actions.detach().numpy()[:, 0], log_prob.detach().numpy()
    assert np.allclose(actions, np.tanh(mean + std * noise.numpy()[:, 0]), rtol=1e-9, atol=0)
    # SB3 adds 1e-6 to 1 − a², so that its logarithm is finite.
    assert np.allclose(log_prob, log_density(actions, mean, std), rtol=0, atol=1e-6 / (1 - actions**2).min() + 1e-9)


def test_noted_draws_are_those_of_torchs_distributions():
    def draw():
        return [th.distributions.Normal(th.zeros(5, 4), 2.0).rsample(), th.empty(3).normal_(1.0, 0.5)]

    with NotedDraws() as noted:
        draw()
    th.manual_seed(3)
    expected = draw()
    th.manual_seed(3)
    numbers = [draw() for draw in noted.draws]
    with GivenDraws(numbers):
        given = draw()
    assert all(th.equal(one, other) for one, other in zip(given, expected, strict=True))


class LinearCritic(nn.Module):
    """Q(s, a) = w a: its gradients are known."""

    def __init__(self, weight):
        super().__init__()
        self.weight = nn.Parameter(th.tensor([weight], dtype=th.float64))

    def forward(self, observations, actions):
        return (self.weight * actions,)


class ConstantActor(nn.Module):
    """a = m + ε of a Gaussian with standard deviation 1, which is not squashed: log π depends on ε alone."""

    def __init__(self, mean):
        super().__init__()
        self.mean = nn.Parameter(th.tensor([mean], dtype=th.float64))

    def action_log_prob(self, observations):
        noise = th.empty(len(observations), 1, dtype=th.float64).normal_()
        return self.mean + noise, -0.5 * (noise**2 + np.log(2 * np.pi)).flatten()


class Policy(nn.Module):
    def __init__(self):
        super().__init__()
        self.actor, self.critic, self.critic_target = ConstantActor(0.5), LinearCritic(2.0), LinearCritic(-1.0)


def test_a_step_of_sac_is_that_of_the_paper():
    """
    With linear critics and gradient descent, every number of a step can be written down. The temperature of the targets and
    of the actor is the one before the step, and the actor climbs the critic after it.
    """
    policy, log_alpha = Policy(), th.tensor([np.log(0.3)], dtype=th.float64, requires_grad=True)
    held = {**dict(policy.named_parameters()), "log_ent_coef": log_alpha}
    rates = {"ent_coef": ("log_ent_coef", 0.1), "critic": ("critic.weight", 0.2), "actor": ("actor.mean", 0.4)}
    movers = {
        name: Mover([of], [()], partial(SGD.stepped, group={"lr": rate, "weight_decay": 0.0}, number=1))
        for name, (of, rate) in rates.items()
    }
    zeros, column = th.zeros(2, 1, dtype=th.float64), lambda *x: th.tensor(x, dtype=th.float64).reshape(-1, 1)
    batch = ReplayBufferSamples(zeros, column(1.0, -0.5), zeros, column(0.0, 1.0), column(3.0, 4.0))
    step = JointStep(Networks(policy, held), held, movers)
    noise, next_noise = np.array([0.3, -0.7]), np.array([1.1, 0.2])
    with GivenDraws([column(*noise), column(*next_noise)]):
        metrics = sac_step(step, batch, Coefficients(0.9, 0.25, -1.0, False))

    def log_prob(x):
        return -0.5 * (x**2 + np.log(2 * np.pi))

    actions, rewards, going = np.array([1.0, -0.5]), np.array([3.0, 4.0]), np.array([1.0, 0.0])
    targets = rewards + going * 0.9 * (-1.0 * (0.5 + next_noise) - 0.3 * log_prob(next_noise))
    errors = 2.0 * actions - targets
    weight = 2.0 - 0.2 * np.mean(errors * actions)  # of ½ (Q − y)²
    expected = {
        "log_ent_coef": np.log(0.3) + 0.1 * np.mean(log_prob(noise) - 1.0),
        "critic.weight": weight,
        "actor.mean": 0.5 + 0.4 * weight,  # log π does not depend on the mean
        "critic_target.weight": 0.75 * -1.0 + 0.25 * weight,
    }
    assert {name: step.values[name].item() for name in expected} == pytest.approx(expected, rel=1e-12)
    assert metrics["critic_loss"].item() == pytest.approx(0.5 * np.mean(errors**2), rel=1e-12)
    assert metrics["actor_loss"].item() == pytest.approx(np.mean(0.3 * log_prob(noise) - weight * (0.5 + noise)), rel=1e-12)
    assert metrics["ent_coef"].item() == pytest.approx(0.3, rel=1e-12) and step.check() == 0
