"""Evaluation and diagnostics of masked policies: environments are asked for their masks, and only when it is due."""

import copy
import inspect

import numpy as np
import pytest
import torch as th
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import DummyVecEnv
from support.masked_environments import Masked, MaskedArrays, environments
from support.models import make_in

from sb3_pgx import environments as evaluation
from sb3_pgx.diagnostics import DiagnosticsCallback
from sb3_pgx.environments import EvalCallback


def test_evaluation_asks_the_environments_for_their_masks(tmp_path):
    model = make_in("ppo", environments(), compile=False)
    callback = EvalCallback(environments(), n_eval_episodes=3, eval_freq=10, best_model_save_path=str(tmp_path), verbose=0)
    model.learn(60, callback)  # the environments raise on an invalid action
    assert np.isfinite(callback.last_mean_reward) and (tmp_path / "best_model.zip").exists() and callback.model is model
    mean, _ = evaluation.evaluate_policy(model, environments(), 5)
    assert np.isfinite(mean)
    with pytest.warns(UserWarning, match=r"predict got no action_masks, .*trained with those that .*action_masks\(\) gives"):
        model.predict(np.zeros(3, np.float32))


def test_the_environments_are_asked_only_when_an_evaluation_is_due():
    class Counts(DummyVecEnv):
        asked = 0

        def has_attr(self, name):
            self.asked += 1
            return super().has_attr(name)

    watched = Counts([Masked])
    callback = EvalCallback(watched, n_eval_episodes=1, eval_freq=20, verbose=0, warn=False)
    model = make_in("ppo", environments(), compile=False, n_steps=32, batch_size=32).learn(64, callback)
    assert model.num_timesteps == 64 and watched.asked == 1  # at the 20th of 32 steps


def test_our_evaluate_policy_takes_what_sb3s_and_sb3_contribs_take():
    model, env = make_in("ppo", environments(), compile=False).learn(16), environments()
    seen = []
    returns, lengths = evaluation.evaluate_policy(model, env, 4, False, False, lambda *_: seen.append(1), None, True, False)
    assert len(returns) == len(lengths) == 4 and lengths == [7] * 4 and len(seen) == 28
    with pytest.raises(AssertionError, match="below threshold"):
        evaluation.evaluate_policy(model, env, 2, reward_threshold=8.0, warn=False)
    with pytest.raises(AssertionError, match="invalid action"), pytest.warns(UserWarning, match="got no action_masks"):
        evaluation.evaluate_policy(model, env, 50, warn=False, use_masking=False)
    assert evaluation.evaluate_policy(model, Masked(), 2, True, warn=False, use_masking=True)[0] >= 0
    theirs = inspect.signature(evaluate_policy).parameters
    ours = inspect.signature(evaluation.evaluate_policy).parameters
    assert [(p.name, p.default) for p in ours.values()][: len(theirs)] == [(p.name, p.default) for p in theirs.values()]


@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP])
def test_vector_environments_are_evaluated_with_their_masks(mode):
    model = make_in("ppo", environments(), compile=False).learn(16)
    env = SyncVectorEnv([lambda: Masked(length=3), lambda: Masked(length=5)], autoreset_mode=mode)
    returns, lengths = evaluation.evaluate_policy(model, env, 4, return_episode_rewards=True)
    assert sorted(lengths) == [3, 3, 5, 5] and all(0 <= r <= 5 for r in returns)


def test_a_step_that_only_resets_an_environment_is_evaluated_without_a_valid_action():
    model = make_in("ppo", environments(in_observations=True), compile=False)
    _, lengths = evaluation.evaluate_policy(model, MaskedArrays(), 4, return_episode_rewards=True)
    assert sorted(lengths) == [3, 3, 5, 5]


def test_a_state_without_a_valid_action_is_named_in_evaluation_too():
    model, env = make_in("ppo", environments()), environments(n=1)
    env.envs[0].action_masks = lambda: env.envs[0].mask & (env.envs[0].t < 3)
    with pytest.raises(ValueError, match="no valid action at step 3 of this evaluation"):
        evaluation.evaluate_policy(model, env, 1, warn=False)


def test_the_model_of_an_evaluation_can_be_copied():
    """SB3's function gives it to a callback."""
    model, copies = make_in("ppo", environments(), compile=False), []
    evaluation.evaluate_policy(
        model, environments(), 1, callback=lambda names, _: copies.append(copy.copy(names["model"])), warn=False
    )
    assert copies[0].policy is model.policy
    assert copies[0].predict(np.zeros((2, 3), np.float32))[0].shape == (2,)
    assert not hasattr(copies[0], "__setstate__")  # which a copy asks for before it has a model


def test_the_diagnostics_measure_entropy_relative_to_the_valid_actions():
    model = make_in("ppo", environments(), compile=False, learning_rate=0.0, n_steps=64, batch_size=32)
    with th.no_grad():
        for p in model.policy.action_net.parameters():
            p.zero_()  # uniform over the valid actions
    callback = DiagnosticsCallback()
    model.learn(128, callback)
    kept = callback.history[-1]
    assert kept["relative_entropy"] == pytest.approx(1.0, rel=1e-5)
    assert kept["valid_actions"] == pytest.approx(model.last_rollout.action_masks.float().mean().item(), rel=1e-5)
