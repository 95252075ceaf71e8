"""What recurrent policies cannot do is refused with one sentence, and what they can do beside other features."""

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from selection import each_value
from stable_baselines3.common.buffers import RolloutBuffer
from support.capabilities import BOX, envs
from support.dense_natural_gradient import Updates
from support.recurrent import CELLS, policy_kwargs
from support.small_environments import DEVICE, AnySpace, Scripted, vectorised

from sb3_pgx import A2C, ACER, NPG, PPO, REINFORCE, TRPO, PPOPenalty
from sb3_pgx.core.evaluation import evaluate_actions
from sb3_pgx.core.policy_names import named_policy


class OwnEvaluation(named_policy("MlpLstmPolicy")):
    def evaluate_actions(self, obs, actions, lstm_states, episode_starts):
        return super().evaluate_actions(obs, actions, lstm_states, episode_starts)


class OwnBuffer(RolloutBuffer):
    """A user's class."""


def lstm(**kwargs):
    return dict(policy_kwargs=policy_kwargs(lstm_kwargs=kwargs))


REFUSED = {
    "replay": (ACER, "MlpLstmPolicy", {}, "ACER replays old rollouts, .* are stale: use a policy without memory"),
    "scores": (
        REINFORCE,
        "MlpGruPolicy",
        dict(baseline="optimal"),
        'its gradient goes through whole episodes: use baseline="loo"',
    ),
    "states": (TRPO, "MlpLstmPolicy", dict(sub_sampling_factor=2), "needs those before them: set sub_sampling_factor=1"),
    "buffer": (PPO, "MlpLstmPolicy", dict(rollout_buffer_class=OwnBuffer), "needs the states of its sequences, which roll"),
    "method": (PPO, OwnEvaluation, {}, "OwnEvaluation overrides evaluate_actions, but sequences .* without it"),
    "pieces": (PPO, "MlpPolicy", dict(sequence_length=4), "ActorCriticPolicy is not recurrent: use a policy such as MlpLst"),
    "no piece": (PPO, "MlpLstmPolicy", dict(sequence_length=0), "sequence_length"),
    "both ways": (A2C, "MlpLstmPolicy", lstm(bidirectional=True), "lstm_kwargs has bidirectional, .* leave it out"),
    "layout": (A2C, "MlpLstmPolicy", lstm(batch_first=True), "lstm_kwargs has batch_first, .* leave it out"),
    "size": (PPO, "MlpGruPolicy", dict(policy_kwargs=dict(lstm_hidden_size=0)), "lstm_hidden_size=0"),
    "layers": (PPO, "MlpLstmPolicy", dict(policy_kwargs=dict(n_lstm_layers=1.5)), "n_lstm_layers=1.5"),
    "images": (PPO, "CnnGruPolicy", {}, "CnnGruPolicy takes images, but .*: use MlpLstmPolicy"),
    "name": (PPO, "LstmPolicy", {}, 'policy="LstmPolicy" is unknown; choose one of MlpPolicy, .*, MlpLstmPolicy, '),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case):
    algorithm, policy, kwargs, sentence = REFUSED[case]
    with pytest.raises(ValueError, match=sentence):
        algorithm(policy, vectorised(Scripted([4]), Scripted([5])), seed=0, device=DEVICE, **kwargs)


def test_a_shared_network_beside_one_of_the_critic_is_refused_as_in_sb3_contrib():
    with pytest.raises(AssertionError, match=r"shared_lstm=True .* enable_critic_lstm=False"):
        PPO("MlpLstmPolicy", vectorised(Scripted([4])), policy_kwargs=dict(shared_lstm=True), device=DEVICE)


def test_rows_that_a_caller_adds_have_no_states():
    model = PPO("MlpLstmPolicy", vectorised(Scripted([4])), n_steps=4, batch_size=4, device=DEVICE)
    model.rollout_buffer.reset()
    with pytest.raises(ValueError, match="RecurrentActorCriticPolicy is recurrent, and such rows have no states"):
        model.rollout_buffer.add(np.zeros((1, 2)), np.zeros((1, 1)), np.zeros(1), np.zeros(1), th.zeros(1), th.zeros(1))


@pytest.mark.parametrize("cell", CELLS)
def test_the_penalty_of_an_unchanged_policy_is_zero(cell):
    """Distributions are compared row by row, whatever the order of the rows in a minibatch."""
    callback = Updates()
    settings = dict(n_steps=12, batch_size=8, n_epochs=2, seed=0, device=DEVICE, policy_kwargs=policy_kwargs())
    PPOPenalty(f"Mlp{cell}Policy", envs(), 0.0, **settings).learn(48, callback=callback)
    for metrics in callback.metrics:
        assert metrics["kl_max"] < 1e-6 and abs(metrics["minibatch_kl"]) < 1e-6
        assert metrics["ratio_max"] == pytest.approx(1, abs=1e-4)


class Forbids(AnySpace):
    """Allows one of three actions, another one at each step, and raises if another is taken."""

    def __init__(self):
        super().__init__(spaces.Box(-1, 1, (3,), np.float32), spaces.Discrete(3))

    def action_masks(self):
        return np.arange(3) != self.steps % 3

    def step(self, action):
        assert self.action_masks()[action]
        return super().step(action)


@pytest.mark.parametrize("cell, algorithm", each_value(CELLS, [PPO, NPG]))
def test_masks_and_memory_together(cell, algorithm):
    settings = dict(n_steps=12, batch_size=8, seed=0, device=DEVICE, policy_kwargs=policy_kwargs())
    model = algorithm(f"Mlp{cell}Policy", vectorised(Forbids(), Forbids()), **settings).learn(96)
    for batch in model.minibatches(model.last_rollout, 8):
        assert batch.action_masks.sum(dim=1).eq(2).all()
        with th.no_grad():
            now = evaluate_actions(model.policy, batch.inputs, batch.actions)
        assert th.isfinite(now.log_prob).all() and (now.log_prob > -20).all() and (now.entropy < np.log(2) + 1e-5).all()


def test_long_episodes_are_differentiated_in_parts():
    """A part has whole episodes: 4,500 rows are more than one part holds."""
    env = vectorised(*(Scripted([500], [True]) for _ in range(9)))
    kwargs = dict(seed=0, device=DEVICE, policy_kwargs=policy_kwargs())
    model = REINFORCE("MlpGruPolicy", env, 1e-9, 1, **kwargs).learn(1)
    rollout = model.last_rollout
    model.accumulate_gradient(rollout)
    accumulated = {name: p.grad.clone() for name, p in model.policy.named_parameters() if p.grad is not None}
    batch = rollout.rows()
    (-(evaluate_actions(model.policy, batch.inputs, batch.actions).log_prob * batch.advantages).sum() / 9).backward()
    assert "lstm_actor.weight_hh_l0" in accumulated
    for name, p in model.policy.named_parameters():
        if name in accumulated:
            th.testing.assert_close(p.grad - accumulated[name], accumulated[name], rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("action_space", [spaces.Discrete(3), BOX])
def test_a_network_that_is_not_finite_is_named(action_space):
    model = A2C("MlpLstmPolicy", envs(action_space=action_space), n_steps=4, device=DEVICE, policy_kwargs=policy_kwargs())
    with th.no_grad():
        model.policy.lstm_actor.weight_hh_l0[0, 0] = np.nan
    with pytest.raises(ValueError, match=r"cannot act after update 0: the parameter lstm_actor\.weight_hh_l0 is not"):
        model.learn(8)
