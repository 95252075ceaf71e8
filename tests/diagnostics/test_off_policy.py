"""Diagnostics of SAC, TD3 and DDPG: every metric against an independent computation, when they are measured, and no trace."""

import copy
import csv
import math

import numpy as np
import pytest
import stable_baselines3 as sb3
import torch as th
from selection import mostly_slow
from stable_baselines3 import HerReplayBuffer
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.envs import BitFlippingEnv
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from support.observers import logging_to
from support.off_policy import make, tensors

import sb3_pgx
from sb3_pgx.diagnostics import DiagnosticsCallback
from sb3_pgx.diagnostics.off_policy_metrics import ROWS, critic_metrics

EPISODE = 10


def pendulum(n=1):
    return make_vec_env("Pendulum-v1", n, seed=0, env_kwargs=dict(max_episode_steps=EPISODE))


def normalised():
    return VecNormalize(pendulum(2), gamma=0.9)


def q(network, batch):
    """Q of the first and of the second critic, in float64."""
    inputs = th.cat([batch.observations, batch.actions], dim=1)
    return np.stack([net(inputs).double().numpy().ravel() for net in network.q_networks])


def scaled(x, y):
    return np.sqrt(np.mean(x**2)) / max(y.std(), 0.01 * np.sqrt(np.mean(y**2)))


def expected_of_sac(model, batch):
    """The policy's numbers and targets from the networks' outputs and fresh noise, in the order in which it is drawn."""
    policy, alpha = model.policy, model.log_ent_coef.exp().item()

    def sampled(observations):
        hidden = policy.actor.latent_pi(observations)
        mean, std = policy.actor.mu(hidden).double(), policy.actor.log_std(hidden).clamp(-20, 2).double().exp()
        u = mean + std * th.normal(th.zeros_like(mean.float()), 1.0).double()
        log_prob = th.distributions.Normal(mean, std).log_prob(u) - (1 - u.tanh() ** 2 + 1e-6).log()
        return mean.tanh(), u.tanh().float(), log_prob.sum(dim=1).numpy()

    deterministic, _, log_prob = sampled(batch.observations)
    _, following, next_log_prob = sampled(batch.next_observations)
    inputs = th.cat([batch.next_observations, following], dim=1)
    least = np.min([net(inputs).double().numpy().ravel() for net in policy.critic_target.q_networks], axis=0)
    measured = {
        "temperature": alpha,
        "entropy": -log_prob.mean(),
        "entropy_deficit": -1.0 + log_prob.mean(),  # the wanted entropy of one action component is −1
    }
    return deterministic, least - alpha * next_log_prob, measured, alpha * np.abs(log_prob).max()


def expected_of_td3(model, batch):
    policy = model.policy
    noise = th.normal(th.zeros_like(batch.actions), model.target_policy_noise).clamp(-0.5, 0.5)
    inputs = th.cat([batch.next_observations, (policy.actor_target.mu(batch.next_observations) + noise).clamp(-1, 1)], dim=1)
    least = np.min([net(inputs).double().numpy().ravel() for net in policy.critic_target.q_networks], axis=0)
    return policy.actor.mu(batch.observations), least, {}, 0.0


@pytest.mark.parametrize("package", [sb3_pgx, sb3])
@pytest.mark.parametrize(
    "name, environment",
    mostly_slow([("SAC", pendulum), ("SAC", normalised), ("TD3", pendulum)], [("SAC", normalised), ("TD3", pendulum)]),
)
def test_each_metric_equals_the_independent_computation(package, name, environment):
    env = environment()
    model = make(package, name, env, gamma=0.9)
    diagnostics = DiagnosticsCallback()
    model.learn(2 * EPISODE * env.num_envs, callback=diagnostics, log_interval=1000)  # measured at the end alone
    numbers = diagnostics.history[-1]
    # The callback has left the random numbers as they were, so the same ones come now.
    batch = model.replay_buffer.sample(ROWS, env=model.get_vec_normalize_env())
    with th.no_grad():
        expected = expected_of_sac if name == "SAC" else expected_of_td3
        actions, next_values, measured, bonus = expected(model, batch)
        values, lagged = q(model.policy.critic, batch), q(model.policy.critic_target, batch)
    rewards = batch.rewards.double().numpy().ravel()
    targets = rewards + 0.9 * (1 - batch.dones.numpy().ravel()) * next_values
    stored = model.replay_buffer.rewards[: model.replay_buffer.pos]
    if isinstance(env, VecNormalize):
        stored = np.clip(stored / np.sqrt(env.ret_rms.var + env.epsilon), -10, 10)
    mean = values.mean(axis=0)
    expected_numbers = {
        **measured,
        "q_mean": mean.mean(),
        "q_std": mean.std(),
        "q_min": mean.min(),
        "q_max": mean.max(),
        "td_error": scaled(values - targets, targets),
        "target_lag": scaled(values - lagged, values),
        "saturated_actions": (actions.abs() > 0.99).double().mean().item(),
        "q_excess": np.abs(values).max() / max((np.abs(stored).max() + bonus) / (1 - 0.9), 1),
        "reward_mean": rewards.mean(),
        "reward_size": np.abs(stored).max(),
        "observation_max": batch.observations.abs().max().item(),
        **({"relative_temperature": measured["temperature"] / targets.std()} if name == "SAC" else {}),
    }
    for metric, value in expected_numbers.items():
        assert numbers[metric] == pytest.approx(value, rel=2e-4, abs=1e-6), metric
    assert numbers["timesteps"] == 2 * EPISODE * env.num_envs and numbers["update"] == model._n_updates


@pytest.mark.parametrize("choices", [False, True], ids=["Box", "Discrete"])
def test_each_metric_of_soft_q_learning_equals_the_independent_computation(choices):
    env = make_vec_env("CartPole-v1", 2, seed=0) if choices else pendulum(2)
    model = make(sb3_pgx, "SoftQLearning", env, gamma=0.9, ent_coef=0.4, n_value_samples=6)
    diagnostics = DiagnosticsCallback()
    model.learn(120, callback=diagnostics, log_interval=1000)
    numbers, batch, policy = diagnostics.history[-1], model.replay_buffer.sample(ROWS), model.policy
    with th.no_grad():
        if choices:
            following = policy.q_net_target(batch.next_observations).double().numpy()
            soft = 0.4 * np.log(np.exp(following / 0.4).sum(axis=1))
            chosen = batch.actions.numpy()
            values, lagged = (
                np.take_along_axis(net(batch.observations).double().numpy(), chosen, axis=1).T
                for net in (policy.q_net, policy.q_net_target)
            )
        else:
            actions = 1 - 2 * (-th.empty(ROWS, 6, 1).exponential_()).exp()
            pairs = th.cat([batch.next_observations[:, None].expand(-1, 6, -1), actions], dim=2)
            following = policy.critic_target.q_networks[0](pairs)[..., 0].double().numpy()
            weights = np.exp(following / 0.4)
            soft = 0.4 * np.log(2 * weights.mean(axis=1))
            values, lagged = q(policy.critic, batch), q(policy.critic_target, batch)
    rewards = batch.rewards.double().numpy().ravel()
    targets = rewards + 0.9 * (1 - batch.dones.numpy().ravel()) * soft
    largest = np.abs(model.replay_buffer.rewards[: model.replay_buffer.pos]).max() + 0.4 * np.log(2)
    expected = {
        "temperature": 0.4,
        "relative_temperature": 0.4 / targets.std(),
        **({} if choices else {"value_samples": (weights.sum(axis=1) ** 2 / (weights**2).sum(axis=1)).mean()}),
        "q_mean": values.mean(),
        "td_error": scaled(values - targets, targets),
        "target_lag": scaled(values - lagged, values),
        "q_excess": np.abs(values).max() / max(largest / (1 - 0.9), 1),
    }
    for metric, value in expected.items():
        assert numbers[metric] == pytest.approx(value, rel=2e-4, abs=1e-6), metric
    assert ("saturated_actions" in numbers) != choices and "entropy" not in numbers


@pytest.mark.parametrize("v_min, low, high", [(-1000.0, 0.0, 0.05), (-10.0, 0.05, 0.8), (-1.0, 0.8, 1.0)])
def test_clipped_returns_are_the_probability_below_and_above_the_support(v_min, low, high):
    """Rewards are below −1 from the first step on in some states, and the sum of three is below −1 everywhere."""
    model = make(sb3_pgx, "D4PG", pendulum(2), v_min=v_min, v_max=0.0, n_steps=3, gamma=0.9)
    diagnostics = DiagnosticsCallback()
    model.learn(4 * EPISODE, callback=diagnostics, log_interval=1000)
    measured = diagnostics.history[-1]["clipped_returns"]
    batch = model.replay_buffer.sample(ROWS)
    with th.no_grad():
        inputs = th.cat([batch.next_observations, model.policy.actor_target(batch.next_observations)], dim=1)
        probs = model.policy.critic_target.q_networks[0](inputs).softmax(dim=1).double().numpy()
    atoms = np.linspace(v_min, 0, 51)
    returns = batch.rewards.double().numpy() + (batch.discounts * (1 - batch.dones)).double().numpy() * atoms
    expected = (probs * ((returns < v_min - 1e-4) | (returns > 1e-4))).sum(axis=1).mean()
    assert measured == pytest.approx(expected, abs=1e-3)
    assert low <= measured <= high


def test_values_at_their_targets_have_no_error_and_target_networks_that_are_copies_no_lag():
    targets = th.linspace(-3, 5, 7)[:, None]
    values = targets.repeat(1, 2)
    measured = critic_metrics(values, values, targets)
    assert measured["td_error"] == 0 and measured["target_lag"] == 0
    off_by_one = critic_metrics(values + 1, values, targets)
    spread = targets.std(correction=0)
    assert off_by_one["td_error"] == pytest.approx(1 / spread) and off_by_one["target_lag"] == pytest.approx(1 / spread)


@pytest.mark.parametrize("package", [sb3_pgx, sb3])
def test_it_measures_when_the_log_is_written_and_at_the_end(package, tmp_path):
    model = make(package, "SAC", pendulum(), learning_starts=15, train_freq=2)
    diagnostics = DiagnosticsCallback()
    with logging_to(tmp_path, model):
        model.learn(76, callback=diagnostics, log_interval=2)
    assert [numbers["timesteps"] for numbers in diagnostics.history] == [20, 40, 60, 76]
    assert [numbers["update"] for numbers in diagnostics.history] == [2, 12, 22, 31]
    # 10 gradient steps on 8 transitions in 20 environment steps
    assert [numbers.get("samples_per_step") for numbers in diagnostics.history[:3]] == [None, 4.0, 4.0]
    with open(tmp_path / "progress.csv") as file:
        rows = list(csv.DictReader(file))
    assert [row["diagnostics/training_return"] for row in rows[:3]] == [row["rollout/ep_rew_mean"] for row in rows[:3]]
    logged = [(row["time/total_timesteps"], row["diagnostics/timesteps"], row["diagnostics/q_mean"]) for row in rows]
    assert [x[:2] for x in logged] == [("20", "20"), ("40", "40"), ("60", "60"), ("", "76")]
    assert [float(x[2]) for x in logged] == pytest.approx([numbers["q_mean"] for numbers in diagnostics.history])


def test_one_in_every_is_measured():
    diagnostics = DiagnosticsCallback(every=3)
    make(sb3_pgx, "TD3", pendulum()).learn(7 * EPISODE, callback=diagnostics, log_interval=None)
    assert [numbers["timesteps"] for numbers in diagnostics.history] == [10, 40, 70]


def goals():
    return DummyVecEnv([lambda: BitFlippingEnv(n_bits=4, continuous=True, max_steps=5)])


RUNS = {
    "SAC": ("SAC", pendulum, {}),
    "SAC, gSDE": ("SAC", normalised, dict(use_sde=True)),
    "SAC, n-step returns": ("SAC", pendulum, dict(n_steps=3)),
    "SAC, hindsight": (
        "SAC",
        goals,
        dict(policy="MultiInputPolicy", replay_buffer_class=HerReplayBuffer, learning_starts=12),
    ),
    "TD3": ("TD3", normalised, dict(action_noise=NormalActionNoise(np.zeros(1), np.full(1, 0.3)))),
    "DDPG": ("DDPG", pendulum, {}),
}


@pytest.mark.parametrize("package", [sb3_pgx, sb3])
@pytest.mark.parametrize("case", mostly_slow(RUNS, ["SAC, hindsight", "TD3"]))
def test_a_run_is_bit_for_bit_the_same_with_and_without_diagnostics(case, package):
    name, environment, settings = RUNS[case]
    trained = []
    for callbacks in ([], [DiagnosticsCallback(costly_every=1)]):
        env = environment()
        model = make(package, name, env, **copy.deepcopy(settings)).learn(40, callback=callbacks, log_interval=1)
        modes = th.tensor([module.training for module in model.policy.modules()])
        random = {"next": th.rand(3), "next of numpy": th.as_tensor(np.random.rand(3))}
        trained.append({**tensors(model), **random, "modes": modes})
        assert not {"step_async", "step_wait"} & vars(env.unwrapped).keys(), "the environment is restored"
    assert len(callbacks[0].history) > 1 and trained[0].keys() == trained[1].keys()
    for key, value in trained[0].items():
        assert th.equal(value, trained[1][key]), key
    assert all(math.isfinite(number) for numbers in callbacks[0].history for number in numbers.values())
