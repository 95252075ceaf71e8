"""Rows of the rollout buffer appear step by step, with the values of the policy that acted, as in SB3's."""

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import stable_baselines3 as sb3
import torch as th
from selection import each_value
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import VecNormalize
from support.buffers import NAMES, arrays_of
from support.small_environments import DEVICE, Scripted, ScriptedDict, vectorised

import sb3_pgx
from sb3_pgx import A2C


class EachStep(BaseCallback):
    """What stands in the buffer at every step, and what is among the locals."""

    def __init__(self, first=0):
        super().__init__()
        self.first, self.seen = first, []

    def _on_step(self):
        if self.num_timesteps // self.training_env.num_envs <= self.first:
            return True
        buffer = self.model.rollout_buffer
        rows = ((name, arrays_of(getattr(buffer, name))) for name in (*NAMES, "observations"))
        arrays = {name: {key: x[: buffer.pos].copy() for key, x in parts.items()} for name, parts in rows}
        told = {name: self.locals[name].clone().numpy() for name in ("values", "log_probs")}
        self.seen.append((buffer.pos, buffer.full, buffer.size(), arrays, told))
        return True


@pytest.mark.parametrize("first", [0, 2])
@pytest.mark.parametrize("scripted, policy", [(Scripted, "MlpPolicy"), (ScriptedDict, "MultiInputPolicy")])
def test_rows_appear_step_by_step_as_in_sb3s_buffer(scripted, policy, first):
    def watched(model_class):
        env = vectorised(scripted([3, 2], [True, False]), scripted([2], [True]))
        callback = EachStep(first)
        model_class(policy, env, n_steps=5, seed=0, gae_lambda=0.9, device="cpu").learn(10, callback=callback)
        return callback.seen

    for ours, theirs in zip(watched(A2C), watched(sb3.A2C), strict=True):
        assert ours[:3] == theirs[:3]
        for mine, other in zip(ours[3:], theirs[3:], strict=True):
            for name, expected in other.items():
                for key, array in arrays_of(expected).items():
                    np.testing.assert_allclose(arrays_of(mine[name])[key], array, rtol=1e-4, atol=1e-5, err_msg=name)


def test_values_and_log_probabilities_of_a_step_cost_nothing_until_they_are_read(monkeypatch):
    original, evaluated = ActorCriticPolicy.evaluate_actions, []
    counted = lambda self, *args: evaluated.append(1) or original(self, *args)  # noqa: E731
    monkeypatch.setattr(ActorCriticPolicy, "evaluate_actions", counted)

    class Reads(BaseCallback):
        def __init__(self, at):
            super().__init__()
            self.at = at

        def _on_step(self):
            if self.num_timesteps in self.at:
                assert self.locals["values"].shape == (1, 1) and np.isfinite(self.locals["log_probs"].numpy()).all()
            return True

    def evaluations(callback):
        evaluated.clear()
        A2C("MlpPolicy", vectorised(Scripted([3])), n_steps=5, device=DEVICE, compile=False).learn(5, callback=callback)
        return len(evaluated)

    assert [evaluations(Reads(at)) - evaluations(None) for at in ((), (2,), (2, 4))] == [0, 1, 2]


def perturb(model):
    with th.no_grad():
        for p in model.policy.parameters():
            p += 0.3


def perturb_data(model):
    for p in model.policy.parameters():
        p.data.mul_(1.5)


def replace_policy(model):
    other = copy.deepcopy(model.policy)
    perturb_data(SimpleNamespace(policy=other))
    model.policy = other


@pytest.mark.parametrize("when", [0, 4])
@pytest.mark.parametrize("change, compile", each_value([perturb, perturb_data, replace_policy], [False, True]))
def test_rows_are_evaluated_by_the_policy_that_acted_in_them(change, when, compile, graphs):
    class Changes(BaseCallback):
        def _on_rollout_start(self):
            if when == 0:
                change(self.model)

        def _on_step(self):
            if self.n_calls == when:
                change(self.model)
            return True

        def _on_rollout_end(self):
            buffer = self.model.rollout_buffer
            self.arrays = [np.copy(getattr(buffer, name)) for name in ("values", "log_probs", "advantages", "actions")]

    def arrays(model_class, **kwargs):
        env = vectorised(Scripted([3, 2], [True, False]), Scripted([2], [True]))
        callback = Changes()
        model_class("MlpPolicy", env, n_steps=7, seed=0, device="cpu", **kwargs).learn(14, callback=callback)
        return callback.arrays

    for ours, theirs in zip(arrays(A2C, compile=compile), arrays(sb3.A2C), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("timesteps", [10, 8])
def test_values_that_are_kept_and_read_later_are_those_of_the_policy_that_acted(timesteps):
    class Keeps(BaseCallback):
        def __init__(self):
            super().__init__()
            self.kept = []

        def _on_step(self):
            self.kept.append((self.locals["values"], self.locals["log_probs"]))
            return self.num_timesteps < timesteps

    def kept(model_class):
        callback = Keeps()
        env = vectorised(Scripted([3, 2]))
        model = model_class("MlpPolicy", env, n_steps=5, learning_rate=0.1, seed=0, device="cpu")
        model.learn(10, callback=callback)
        perturb(model)
        return [th.cat([x.flatten() for x in column]) for column in zip(*callback.kept, strict=True)]

    for ours, theirs in zip(kept(A2C), kept(sb3.A2C), strict=True):
        th.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


class Evaluates(ActorCriticPolicy):
    """Another value for training than for acting."""

    def evaluate_actions(self, obs, actions):
        values, log_prob, entropy = super().evaluate_actions(obs, actions)
        return values * 0.5, log_prob, entropy


def starts_everywhere(model):
    model._last_episode_starts = np.ones(1, bool)


def reads_at_the_start(model):
    model.rollout_buffer.observations  # noqa: B018


@pytest.mark.parametrize(
    "policy, on_start, on_step",
    [(Evaluates, None, None), ("MlpPolicy", None, starts_everywhere), ("MlpPolicy", reads_at_the_start, None)],
)
@pytest.mark.parametrize("normalise", [False, True])
def test_trains_as_sb3_does(policy, on_start, on_step, normalise):
    class Does(BaseCallback):
        def _on_rollout_start(self):
            if on_start:
                on_start(self.model)

        def _on_step(self):
            if on_step:
                on_step(self.model)
            return True

    def train(library):
        env = vectorised(Scripted([3, 2], [True, False]))
        env = VecNormalize(env, norm_reward=False) if normalise else env
        return list(library.A2C(policy, env, seed=0, device="cpu").learn(20, callback=Does()).policy.parameters())

    for ours, theirs in zip(train(sb3_pgx), train(sb3), strict=True):
        th.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
