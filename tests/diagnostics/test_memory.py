"""Diagnostics of recurrent and masked policies against an evaluation step by step with sb3-contrib's own methods."""

import copy

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from selection import mostly_slow
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.utils import explained_variance
from support.capabilities import BOX, envs, masked
from support.models import assert_same, make, parameters
from support.recurrent import CELLS, LAYOUTS, policy_kwargs, stepped
from support.small_environments import DEVICE, Scripted, vectorised
from support.witnessed_runs import Witness
from torch.distributions import kl_divergence

from sb3_pgx import PPO, MaskablePPO, RecurrentPPO
from sb3_pgx.diagnostics import DiagnosticsCallback, HealthCallback, PostMortemCallback
from sb3_pgx.diagnostics.update_metrics import memory_metrics

CLIP_RANGE = 0.01
CRITIC = {"explained_variance", "explained_variance_after", "return_spread", "value_error", "value_lag", "memory_gain"}


class Rollouts(BaseCallback):
    """Keep a copy of each rollout."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def _on_step(self):
        return True

    def _on_rollout_end(self):
        self.seen.append(copy.deepcopy(self.model.last_rollout))


def without_states(policy, observations):
    """Return V of each observation alone, ``[T N]``."""
    flat = observations.flatten(end_dim=1)
    layers, _, size = policy.lstm_hidden_state_shape
    zeros = flat.new_zeros(layers, len(flat), size)
    with th.no_grad():
        return policy.predict_values(flat, (zeros, zeros), th.zeros(len(flat), device=DEVICE)).flatten()


def kl_of_rows(before, after, valid):
    """Return KL(old‖new) of the valid rows by torch's formulas."""
    n_envs, n_steps = len(before.distributions), len(before.distributions[0])
    kl = th.zeros(n_steps, n_envs)
    for n in range(n_envs):
        for t in range(n_steps):
            kl[t, n] = kl_divergence(before.distributions[n][t], after.distributions[n][t]).sum()
    return kl[valid.cpu()].double().numpy()


def expected_metrics(rollout, before, after, values_alone):
    """Compute the metrics of an update with numpy's formulas in float64."""
    valid = rollout.valid
    returns, old, old_log_prob, advantages, new, log_prob, entropy, alone = (
        x[valid].double().numpy(force=True)
        for x in (
            *(rollout.returns, rollout.values, rollout.log_prob, rollout.advantages),
            *(after.values, after.log_prob, after.entropy, values_alone.view(rollout.shape)),
        )
    )
    log_ratio = log_prob - old_log_prob
    ratio, kl = np.exp(log_ratio), kl_of_rows(before, after, valid)
    return {
        "kl": kl.mean(),
        "kl_max": kl.max(),
        "approx_kl": np.mean(ratio - 1 - log_ratio),
        "clip_fraction": np.mean((ratio > 1 + CLIP_RANGE) | (ratio < 1 - CLIP_RANGE)),
        "ratio_std": ratio.std(),
        "ratio_max": ratio.max(),
        "effective_sample_size": ratio.sum() ** 2 / (ratio**2).sum() / len(ratio),
        "entropy": entropy.mean(),
        "advantage_mean": advantages.mean(),
        "return_std": returns.std(),
        "explained_variance": explained_variance(old, returns),
        "explained_variance_after": explained_variance(new, returns),
        "value_error": np.sqrt(np.mean((new - returns) ** 2)) / returns.std(),
        "value_lag": np.sqrt(np.mean((new - old) ** 2)) / returns.std(),
        "memory_gain": 1 - np.mean((new - returns) ** 2) / np.mean((alone - returns) ** 2),
    }


CASES = [
    (name, cell, layout, action_space)
    for name in ("a2c", "npg", "ppo", "reinforce", "reinforce_baseline")
    for cell in CELLS
    for layout in LAYOUTS
    for action_space in ("Discrete", "Box")
]
QUICK = [
    ("ppo", "Lstm", "separate", "Box"),
    ("ppo", "Gru", "shared", "Discrete"),
    ("npg", "Gru", "critic without memory", "Box"),
    ("reinforce", "Lstm", "separate", "Discrete"),
]


@pytest.mark.parametrize("name, cell, layout, action_space", mostly_slow(CASES, QUICK))
def test_each_metric_equals_the_evaluation_step_by_step(name, cell, layout, action_space):
    """Over two rollouts, so that states go on from one to the next, and with rows that do not count for whole episodes."""
    space = {"Discrete": spaces.Discrete(3), "Box": BOX}[action_space]
    diagnostics, witness, rollouts = DiagnosticsCallback(clip_range=CLIP_RANGE, costly_every=1), Witness(), Rollouts()
    env = envs(action_space=space)
    if name.startswith("reinforce"):
        env = vectorised(Scripted([3, 9], [True, False]), Scripted([7, 4]))
    model = make(name, env, f"Mlp{cell}Policy", policy_kwargs=policy_kwargs(layout), learning_rate=1e-2)
    with th.no_grad():
        for p in model.policy.parameters():
            p.mul_(1.5)  # states matter more
    model.learn(24, callback=[diagnostics, witness, rollouts], log_interval=1)
    assert len(diagnostics.history) == len(rollouts.seen) >= 2
    states = None
    for numbers, seen, rollout in zip(diagnostics.history, witness.seen, rollouts.seen, strict=True):
        with th.no_grad():
            before, after = (stepped(seen[key], rollout, states) for key in ("before", "after"))
        states = None if name.startswith("reinforce") else before.states
        expected = expected_metrics(rollout, before, after, without_states(seen["after"], rollout.observations))
        left_out = CRITIC if name == "reinforce" else {"memory_gain"} if layout == "critic without memory" else set()
        assert left_out.isdisjoint(numbers)
        for metric in expected.keys() - left_out:
            assert numbers[metric] == pytest.approx(expected[metric], rel=2e-4, abs=2e-5), metric
        assert numbers["initial_ratio_error"] < 1e-5 and "gradient_noise_scale" not in numbers
    assert max(numbers["kl"] for numbers in diagnostics.history) > 1e-5, "the policy did not change, so the case tests nothing"


@pytest.mark.parametrize("name", ["ppo", "ppo_penalty"])  # which keep the distributions for the callback, and for the update
@pytest.mark.parametrize("cell", CELLS)
def test_an_unchanged_policy_has_no_divergence(cell, name):
    """The distributions before and after the update are compared row by row, in the order of the sequences."""
    diagnostics = DiagnosticsCallback()
    env = vectorised(Scripted([3, 9], [True, False]), Scripted([7, 4]))
    model = make(name, env, f"Mlp{cell}Policy", policy_kwargs=policy_kwargs(), learning_rate=0.0, n_steps=20, batch_size=40)
    with th.no_grad():
        for p in model.policy.parameters():
            p.mul_(3)
    model.learn(80, callback=diagnostics, log_interval=1)
    for numbers in diagnostics.history:
        assert numbers["kl_max"] < 1e-6 and numbers["ratio_std"] < 1e-5 and numbers["value_lag"] < 1e-5


def test_the_gain_is_the_share_of_the_squared_error_that_memory_takes_away():
    values, alone, returns = th.tensor([1.0, 2.0]), th.tensor([3.0, 0.0]), th.tensor([0.0, 2.0])
    assert memory_metrics(values, alone, returns)["memory_gain"].item() == pytest.approx(1 - 1 / 13)
    assert memory_metrics(alone, values, returns)["memory_gain"].item() == pytest.approx(1 - 13)
    assert memory_metrics(returns, alone, returns)["memory_gain"].item() == 1
    assert memory_metrics(returns, returns, returns)["memory_gain"].item() == 0


def test_a_critic_that_forgets_everything_gains_nothing():
    diagnostics = DiagnosticsCallback()
    model = make("ppo", envs(), "MlpLstmPolicy", policy_kwargs=policy_kwargs(), learning_rate=0.0)
    lstm = model.policy.lstm_critic
    with th.no_grad():
        lstm.weight_hh_l0.zero_()
        lstm.bias_ih_l0[lstm.hidden_size : 2 * lstm.hidden_size] = -1e4  # the forget gate is closed
    model.learn(24, callback=diagnostics)
    assert diagnostics.history[-1]["memory_gain"] == pytest.approx(0, abs=1e-6)


class Cue(Scripted):
    """The reward of the last step is the cue of the first observation, so only memory predicts it."""

    def observe(self):
        cue = 10.0 * (-1) ** self.episode
        return np.array([cue if self.step_number == 0 else 0.0, self.step_number], np.float32)

    def step(self, action):
        observation, _, *rest = super().step(action)
        return observation, 10.0 * (-1) ** self.episode if rest[0] else 0.0, *rest


@pytest.mark.parametrize("cell", CELLS)
def test_memory_gains_where_rewards_depend_on_the_past(cell):
    diagnostics = DiagnosticsCallback(metrics=["memory_gain"])
    env = vectorised(Cue([3]), Cue([3]), Cue([3]))
    settings = dict(n_steps=12, batch_size=36, n_epochs=20, learning_rate=1e-2, seed=0, device=DEVICE, gamma=1.0)
    PPO(f"Mlp{cell}Policy", env, policy_kwargs=dict(lstm_hidden_size=16, net_arch=[]), **settings).learn(
        36 * 12, callback=diagnostics, log_interval=1
    )
    assert diagnostics.history[-1]["memory_gain"] > 0.9


def test_long_rollouts_are_compared_from_their_first_levels():
    """The first gradient step is compared over 256 rows at most, or over one row per sequence."""
    for lengths in ([[150], [400, 3]], [[1]]):
        diagnostics = DiagnosticsCallback()
        model = PPO(
            "MlpGruPolicy",
            vectorised(*map(Scripted, lengths)),
            n_steps=300,
            batch_size=300,
            n_epochs=1,
            policy_kwargs=policy_kwargs(),
            seed=0,
            device=DEVICE,
        )
        model.learn(600, callback=diagnostics)
        assert 0 <= diagnostics.history[-1]["initial_ratio_error"] < 1e-5


@pytest.mark.parametrize("cell", CELLS)
def test_a_run_is_bit_for_bit_the_same_with_and_without_diagnostics(cell):
    runs = []
    for callback in (None, HealthCallback(costly_every=1)):
        model = make("ppo", masked(), f"Mlp{cell}Policy", policy_kwargs=policy_kwargs())
        runs.append(parameters(model.learn(72, callback=callback)))
    assert_same(*runs)


def test_our_maskable_and_recurrent_ppo_are_measured():
    settings = dict(n_steps=8, batch_size=8, seed=0, device=DEVICE)
    for model in (
        MaskablePPO("MlpPolicy", masked(), **settings),
        RecurrentPPO("MlpLstmPolicy", masked(), policy_kwargs=policy_kwargs(), **settings),
    ):
        diagnostics = DiagnosticsCallback()
        model.learn(32, callback=diagnostics)
        assert 0 < diagnostics.history[-1]["valid_actions"] < 1 and 0 < diagnostics.history[-1]["relative_entropy"] <= 1


class Explodes(Scripted):
    def step(self, action):
        observation, reward, *rest = super().step(action)
        return observation, 1e30 if self.episode == 5 else reward, *rest


def test_the_post_mortem_holds_the_sequences_and_their_states(tmp_path):
    callback = PostMortemCallback(tmp_path)
    model = make("ppo", vectorised(Explodes([4])), "MlpLstmPolicy", policy_kwargs=policy_kwargs())
    with pytest.raises(ValueError, match="the step was not taken"):
        model.learn(100, callback=callback)
    with np.load(callback.written / "batch.npz") as batch:
        assert {"memory.sizes", "memory.h_pi", "memory.c_vf"} <= set(batch)
        assert batch["memory.sizes"].sum() == len(batch["returns"]) == 6
        assert batch["memory.h_pi"].shape == (batch["memory.sizes"][0], 1, 4)
