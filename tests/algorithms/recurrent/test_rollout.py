"""Rollouts of recurrent policies: states, values and bootstrap values against stepping each environment alone."""

import itertools

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from selection import mostly_slow
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import SubprocVecEnv, VecNormalize
from support.array_environments import TERMINATED, TRUNCATED, Arrays
from support.capabilities import DICT, IMAGE, envs
from support.recurrent import CELLS, LAYOUTS, policy_kwargs, stepped, zero_states
from support.small_environments import DEVICE, Scripted, vectorised

from sb3_pgx import A2C, PPO, REINFORCE


class Rollouts(BaseCallback):
    """Keep each rollout. ``watches`` says whether the callback may change the policy, so that values are computed at once."""

    def __init__(self, watches):
        super().__init__()
        self.watches, self.rollouts, self.values = watches, [], []

    def _on_step(self):
        self.values.append(self.locals["values"])
        return True

    def _on_rollout_end(self):
        self.rollouts.append(self.model.last_rollout)


class Unwatched(Rollouts):
    only_reads = True


def scripted():
    return vectorised(
        Scripted([3, 2, 7], [True, False, True]), Scripted([4, 1], [False, True]), Scripted([50]), Scripted([6], [True])
    )


def check(ours, theirs):
    for name in ("values", "log_prob", "next_values"):
        th.testing.assert_close(getattr(ours, name), getattr(theirs, name), rtol=1e-4, atol=1e-5, msg=name)


WAYS = [(Rollouts, False), (Unwatched, False), (Unwatched, True)]  # to act: with a callback and whether compiled


def each_layout_in_another_way(cell, layout, way):
    return WAYS.index(way) == (CELLS.index(cell) + [*LAYOUTS].index(layout)) % 3


@pytest.mark.parametrize("cell, layout, way", mostly_slow(itertools.product(CELLS, LAYOUTS, WAYS), each_layout_in_another_way))
def test_values_are_those_of_each_environment_alone_over_several_rollouts(cell, layout, way, graphs):
    """A state goes on in the next rollout, and ends with the episode. A final observation is one more step of the critic."""
    callback, compile = way
    kwargs = policy_kwargs(layout, n_lstm_layers=2)
    watcher = callback(callback is Rollouts)
    settings = dict(n_steps=9, seed=1, device=DEVICE, compile=compile, policy_kwargs=kwargs)
    model = A2C(f"Mlp{cell}Policy", scripted(), 0.0, **settings)
    model.learn(3 * 9 * 4, callback=watcher)
    assert len(graphs) == 3 * compile  # of acting, of the gradient step, and one of the evaluation of all rollouts
    states = None
    for rollout in watcher.rollouts:
        assert rollout.truncated.any() and rollout.terminated.any()
        with th.no_grad():
            expected = stepped(model.policy, rollout, states)
        check(rollout, expected)
        with th.no_grad():  # where an episode ended, the last observation is the first of the next one
            first = model.policy.predict_values(
                rollout.last_observations, zero_states(model.policy, 4).pi, th.ones(4, device=DEVICE)
            ).flatten()
        ended = rollout.ends[-1]
        th.testing.assert_close(rollout.last_values[ended], first[ended], rtol=1e-4, atol=1e-5)
        states = expected.states
    assert any(rollout.ends[-1].any() for rollout in watcher.rollouts)


ENVIRONMENTS = {
    "Dict": ("MultiInput", lambda: envs(DICT)),
    "images": ("Cnn", lambda: envs(IMAGE)),
    "VecNormalize": ("Mlp", lambda: VecNormalize(envs())),
    "Discrete observations": ("Mlp", lambda: envs(spaces.Discrete(4))),
    "processes": ("Mlp", lambda: SubprocVecEnv([lambda: Scripted([4], [True])] * 2, start_method="fork")),
}


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("case", ENVIRONMENTS)
def test_other_environments(case, shared):
    name, make = ENVIRONMENTS[case]
    kwargs = policy_kwargs(share_features_extractor=shared)
    watcher, env = Unwatched(False), make()
    model = PPO(f"{name}LstmPolicy", env, 0.0, 8, 8, 1, seed=1, device=DEVICE, policy_kwargs=kwargs).learn(16, watcher)
    with th.no_grad():
        check(watcher.rollouts[0], stepped(model.policy, watcher.rollouts[0]))
    env.close()


def test_a_callback_reads_the_values_of_each_step():
    watcher = Rollouts(True)
    model = A2C("MlpLstmPolicy", scripted(), 0.0, n_steps=9, seed=1, device=DEVICE, policy_kwargs=policy_kwargs())
    model.learn(9 * 4, callback=watcher)
    th.testing.assert_close(th.stack(watcher.values)[..., 0], watcher.rollouts[0].values, rtol=1e-5, atol=1e-6)


class ReadsRewards(Rollouts):
    def _on_step(self):
        self.values.append(self.model.rollout_buffer.rewards.copy())
        return True


def test_a_callback_reads_bootstrapped_rewards_during_collection():
    watcher = ReadsRewards(True)
    model = A2C("MlpLstmPolicy", scripted(), 0.0, n_steps=9, seed=1, device=DEVICE, policy_kwargs=policy_kwargs())
    model.learn(9 * 4, callback=watcher)
    rollout = watcher.rollouts[0]
    expected = rollout.rewards + 0.99 * rollout.next_values * rollout.truncated
    np.testing.assert_allclose(watcher.values[-1][:8], expected[:8].cpu(), rtol=1e-5, atol=1e-5)


def test_whole_episodes_start_without_memory():
    watcher = Unwatched(False)
    model = REINFORCE("MlpGruPolicy", scripted(), 0.0, 1, seed=1, device=DEVICE, policy_kwargs=policy_kwargs())
    model.learn(60, callback=watcher)
    for rollout in watcher.rollouts:
        with th.no_grad():
            expected = stepped(model.policy, rollout)
        th.testing.assert_close(rollout.log_prob[rollout.valid], expected.log_prob[rollout.valid], rtol=1e-4, atol=1e-5)


def test_a_run_that_a_callback_stops_goes_on_with_new_episodes():
    """The states of the critic are not known in the middle of a rollout."""
    model = A2C("MlpLstmPolicy", scripted(), 0.0, n_steps=9, seed=1, device=DEVICE, policy_kwargs=policy_kwargs())
    model.learn(36, callback=lambda *_: model.num_timesteps < 20)
    watcher = Unwatched(False)
    model.learn(36, callback=watcher, reset_num_timesteps=False)
    assert watcher.rollouts[0].episode_starts[0].all()
    with th.no_grad():
        check(watcher.rollouts[0], stepped(model.policy, watcher.rollouts[0]))


PATTERNS = [[(3, TRUNCATED), (4, TERMINATED)], [(5, TERMINATED)], [(2, TRUNCATED)]]


@pytest.mark.filterwarnings("ignore:batch_size=7 does not divide:UserWarning")
@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_environments_that_step_as_arrays(mode):
    """Rows that only reset an environment are left out of the minibatches, and carry no state into the next episode."""
    watcher = Unwatched(False)
    model = PPO("MlpLstmPolicy", Arrays(PATTERNS, mode, wild=1e3), 0.0, 9, 7, 2, seed=0, policy_kwargs=policy_kwargs())
    model.learn(18, callback=watcher)
    rollout = watcher.rollouts[0]
    assert rollout.complete == (mode == AutoresetMode.SAME_STEP)
    with th.no_grad():
        expected = stepped(model.policy, rollout)
    for name in ("values", "log_prob", "next_values"):
        ours, theirs = (getattr(x, name)[rollout.valid] for x in (rollout, expected))
        th.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5, msg=name)
