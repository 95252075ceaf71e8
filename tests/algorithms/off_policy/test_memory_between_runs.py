"""What a replay memory and the next run hold after a run was stopped, cut off, saved or loaded."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3 import HerReplayBuffer
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.envs import BitFlippingEnv
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from support.off_policy import EVERY_NAME, make

import sb3_pgx

EVERY = pytest.mark.parametrize("name", EVERY_NAME)
ONE = dict(n_steps=1)


class Counts(gym.Env):
    """The observation is the number of steps of all episodes so far, and so is the reward."""

    observation_space, action_space = spaces.Box(-1e6, 1e6, (1,), np.float32), spaces.Box(-1, 1, (1,), np.float32)

    def __init__(self, length=10, final=None, truncates=True):
        self.length, self.final, self.truncates, self.steps, self.left = length, final, truncates, 0, 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.left, self.steps = self.length, self.steps + 1_000  # far from all others
        return np.float32([self.steps]), {}

    def step(self, action):
        self.steps, self.left = self.steps + 1, self.left - 1
        ends = self.left == 0
        observation = np.float32([self.steps if self.final is None or not ends else self.final])
        return observation, float(self.steps), ends and not self.truncates, ends and self.truncates, {}


def counts(n=1, **kwargs):
    return DummyVecEnv([lambda: Counts(**kwargs)] * n)


def transitions(model):
    memory = model.replay_buffer
    rows = slice(0, memory.size())
    return memory.observations[rows, 0, 0], memory.next_observations[rows, 0, 0], memory.rewards[rows, 0]


def stop_at(step):
    return lambda values, _: values["self"].num_timesteps < step


def raise_at(step):
    def callback(values, _):
        if values["self"].num_timesteps == step:
            raise KeyboardInterrupt
        return True

    return callback


@pytest.mark.parametrize("normalizes", [False, True])
@pytest.mark.parametrize("end", [stop_at, raise_at])
@EVERY
def test_a_run_that_a_callback_has_ended_goes_on_from_where_the_environment_is(name, end, normalizes):
    """The step at which it ended is not stored. The next one must not begin with the observation before it."""
    env = counts(length=100)
    model = make(sb3_pgx, name, VecNormalize(env) if normalizes else env, **ONE)
    try:
        model.learn(30, callback=end(15))
    except KeyboardInterrupt:
        pass
    model.learn(10, reset_num_timesteps=False)
    before, after, rewards = transitions(model)
    assert len(before) == 24 and np.array_equal(after, before + 1) and np.array_equal(rewards, after)
    assert after[13] == 1014 and before[14] == 1015


@pytest.mark.parametrize("reset_num_timesteps", [True, False])
@EVERY
def test_returns_over_several_steps_do_not_reach_beyond_a_step_that_is_not_stored(name, reset_num_timesteps):
    """After it, or after the environments were reset, the rewards of the next steps belong to another episode."""
    model = make(sb3_pgx, name, counts(length=100), n_steps=3, gamma=1.0)
    model.learn(30, callback=stop_at(15))
    model.learn(10, reset_num_timesteps=reset_num_timesteps)
    batch = model.replay_buffer.sample(500)
    first, last = batch.observations.numpy()[:, 0], batch.next_observations.numpy()[:, 0]
    assert set(last - first) == {1.0, 2.0, 3.0}, "within an episode, and no step is left out"
    rewards = (last * (last + 1) - first * (first + 1)) / 2  # the sum of all numbers from the one after `first` to `last`
    np.testing.assert_allclose(batch.rewards.numpy()[:, 0], rewards)
    assert not batch.dones.any()


def test_episodes_that_are_cut_off_by_a_reset_have_hindsight_goals_of_their_own():
    def env():
        return DummyVecEnv([lambda: BitFlippingEnv(n_bits=4, continuous=True, max_steps=5)])

    her = dict(policy="MultiInputPolicy", replay_buffer_class=HerReplayBuffer, learning_starts=12)
    model = make(sb3_pgx, "SAC", env(), **her).learn(18)
    memory = model.replay_buffer
    assert memory.ep_length[17, 0] == 0, "the episode has not ended yet"
    model.learn(17)
    assert memory.ep_start[17, 0] + memory.ep_length[17, 0] == 18 == memory.ep_start[18, 0]
    assert memory.dones[17, 0] and memory.timeouts[17, 0]


def test_observations_that_are_stored_once_keep_their_successor():
    settings = dict(optimize_memory_usage=True, replay_buffer_kwargs=dict(handle_timeout_termination=False), **ONE)
    model = make(sb3_pgx, "TD3", counts(length=100), **settings)
    model.learn(30, callback=stop_at(15))
    model.learn(10, reset_num_timesteps=False)
    batch = model.replay_buffer.sample(500)
    goes_on = ~batch.dones.numpy().astype(bool)[:, 0]
    assert (batch.next_observations - batch.observations).numpy()[goes_on].tolist() == [[1.0]] * goes_on.sum()
    assert 0 < (~goes_on).sum() < 100, "the transition whose successor was replaced"


@pytest.mark.parametrize("truncates", [True, False])
@EVERY
def test_a_final_observation_that_is_not_finite_is_not_stored(name, truncates):
    model = make(sb3_pgx, name, VecNormalize(counts(final=np.nan, truncates=truncates)))
    with pytest.raises(
        ValueError, match="environment 0 ended an episode with a final observation that is not finite, at step"
    ):
        model.learn(30)
    assert model.num_timesteps == 9 and model.replay_buffer.pos == 9
    assert np.isfinite(model.env.obs_rms.mean).all()
    assert all(np.isfinite(x).all() for x in transitions(model))
    model.env.venv.envs[0].final = None
    model.learn(20, reset_num_timesteps=False)
    assert model.num_timesteps == 29


def test_a_truncated_episode_needs_its_final_observation():
    class Forgets(DummyVecEnv):
        def step_wait(self):
            observations, rewards, dones, infos = super().step_wait()
            return observations, rewards, dones, [{k: v for k, v in i.items() if k != "terminal_observation"} for i in infos]

    model = make(sb3_pgx, "SAC", Forgets([Counts]))
    with pytest.raises(ValueError, match="environment 0 was truncated without a terminal_observation in its info"):
        model.learn(30)
    assert model.replay_buffer.pos == 9


@pytest.mark.parametrize("before, after", [(1, 3), (3, 1), (3, 2)])
def test_the_noise_of_a_loaded_model_is_for_its_environments(before, after, tmp_path):
    noise = NormalActionNoise(np.zeros(1), np.full(1, 0.3))
    make(sb3_pgx, "TD3", make_vec_env("Pendulum-v1", before), action_noise=noise).learn(20).save(tmp_path / "model")
    model = sb3_pgx.TD3.load(tmp_path / "model", make_vec_env("Pendulum-v1", after)).learn(40)
    actions = model.replay_buffer.actions[:10, :, 0]
    assert actions.shape == (10, after) and len(np.unique(actions)) == 10 * after


def test_a_model_that_was_loaded_without_environments_needs_them_to_learn(tmp_path):
    make(sb3_pgx, "SAC").save(tmp_path / "model")
    model = sb3_pgx.SAC.load(tmp_path / "model")
    assert model.predict(np.zeros(3, np.float32))[0].shape == (1,)
    with pytest.raises(ValueError, match="environment"):
        model.learn(10)
    model.set_env(make_vec_env("Pendulum-v1", 1))
    assert model.learn(10).num_timesteps == 10
