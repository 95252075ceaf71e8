"""Off-policy runs that are interrupted and resumed end bit for bit as those that are not, with their replay memory."""

import copy

import gymnasium as gym
import numpy as np
import pytest
from selection import mostly_slow
from stable_baselines3 import HerReplayBuffer
from stable_baselines3.common.callbacks import CallbackList
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.envs import BitFlippingEnv
from stable_baselines3.common.noise import OrnsteinUhlenbeckActionNoise
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from support.interrupted import Interrupt, Interruption, assert_same_run, never, uninterrupted_and_resumed
from support.models import assert_same
from support.off_policy import make
from support.small_environments import DEVICE

import sb3_pgx
from sb3_pgx.checkpoints import CheckpointCallback, newest_checkpoint


def pendulum(n=1, **kwargs):
    return make_vec_env("Pendulum-v1", n, seed=3, **kwargs)


def goals():
    """Episodes of 5 steps, whose rewards the memory computes again for other goals."""
    return DummyVecEnv([lambda: BitFlippingEnv(n_bits=4, continuous=True, max_steps=5)])


def noise():
    return OrnsteinUhlenbeckActionNoise(np.zeros(1), np.full(1, 0.3))


HINDSIGHT = dict(
    policy="MultiInputPolicy",
    replay_buffer_class=HerReplayBuffer,
    replay_buffer_kwargs=dict(n_sampled_goal=2, copy_info_dict=True),
    learning_starts=12,
)
LITTLE_MEMORY = dict(
    optimize_memory_usage=True, replay_buffer_kwargs=dict(handle_timeout_termination=False), buffer_size=30, batch_size=4
)
PRIORITIES = dict(prioritized_replay_alpha=0.6, prioritized_replay_beta="lin_0.4_1")
# An algorithm, its environments and arguments, and the step at which it is interrupted.
CASES = {
    "SAC, VecNormalize": ("SAC", lambda: VecNormalize(pendulum(2)), dict(learning_rate="lin_0.001"), 23),
    "SAC, random actions": ("SAC", pendulum, dict(learning_starts=40), 23),
    "SAC, fixed temperature": ("SAC", pendulum, dict(ent_coef=0.1), 23),
    "SAC, gSDE": ("SAC", pendulum, dict(use_sde=True, sde_sample_freq=3), 23),
    "SAC, hindsight": ("SAC", goals, HINDSIGHT, 23),
    "SAC, hindsight, a full memory": ("SAC", goals, dict(HINDSIGHT, buffer_size=21), 43),
    "SAC, n-step returns": ("SAC", pendulum, dict(n_steps=3), 23),
    "SAC, little memory": ("SAC", pendulum, LITTLE_MEMORY, 43),
    "TD3, noise": ("TD3", lambda: pendulum(2), dict(action_noise=noise()), 23),
    "TD3, several steps per update": ("TD3", pendulum, dict(action_noise=noise(), train_freq=6, gradient_steps=3), 23),
    "TD3, whole episodes": (
        "TD3",
        lambda: pendulum(env_kwargs=dict(max_episode_steps=7)),
        dict(train_freq=(1, "episode"), gradient_steps=-1),
        23,
    ),
    "DDPG": ("DDPG", pendulum, dict(action_noise=noise()), 23),
    "D4PG": ("D4PG", lambda: pendulum(2), dict(action_noise=noise()), 23),
    "D4PG, priorities": ("D4PG", lambda: pendulum(2), dict(PRIORITIES, action_noise=noise()), 23),
    "SoftQLearning": ("SoftQLearning", lambda: pendulum(2), dict(target_update_interval=4, tau=0.5), 23),
    "SoftQLearning, choices": ("SoftQLearning", lambda: make_vec_env("CartPole-v1", 2, seed=3), {}, 23),
}
QUICK = ["SAC, VecNormalize", "SAC, hindsight, a full memory", "TD3, noise", "D4PG, priorities", "SoftQLearning"]


def assert_same_memory(one, other):
    """Assert that two models have the same replay memory and action noise."""
    memories = [{name: x for name, x in vars(m.replay_buffer).items() if isinstance(x, np.ndarray)} for m in (one, other)]
    infos = [str(memory.pop("infos", np.empty(0)).tolist()) for memory in memories]
    np.testing.assert_equal(*memories)
    assert infos[0] == infos[1] and one.replay_buffer.pos == other.replay_buffer.pos
    if one.action_noise is not None:
        np.testing.assert_equal(*(rewound(m).action_noise() for m in (one, other)))


def rewound(model):
    np.random.seed(0)
    return model


@pytest.mark.filterwarnings("error:.*is ignored")  # as SB3 says of n_steps when it loads a model
@pytest.mark.parametrize("case", mostly_slow(CASES, QUICK))
def test_every_kind_of_run_continues_exactly(case, tmp_path):
    name, env, settings, at = CASES[case]

    def model(env):
        return make(sb3_pgx, name, env, **copy.deepcopy(settings))

    steps = (at + 20) * env().num_envs
    whole, resumed = uninterrupted_and_resumed(model, env, steps, tmp_path, at=at, save_freq=10, learn=dict(log_interval=None))
    assert whole._n_updates > 0
    assert_same_run(whole, resumed)
    assert_same_memory(whole, resumed)
    if getattr(whole, "log_ent_coef", None) is not None:
        assert_same(*({"log_ent_coef": m.log_ent_coef} for m in (whole, resumed)))


@pytest.mark.slow  # it compiles
@pytest.mark.parametrize("name", ["SAC", "TD3"])
def test_a_compiled_run_continues_exactly(name, tmp_path):
    def model(env):
        return make(sb3_pgx, name, env, compile=True, action_noise=noise())

    whole, resumed = uninterrupted_and_resumed(model, pendulum, 60, tmp_path, at=33, save_freq=4)
    assert whole.compiled and resumed.compiled
    assert_same_run(whole, resumed)


def test_the_callback_writes_before_and_after_the_first_gradient_step(tmp_path):
    model = make(sb3_pgx, "SAC", pendulum(), learning_starts=8)
    model.learn(12, callback=CheckpointCallback(4, str(tmp_path)))
    assert sorted(path.name for path in tmp_path.glob("*.zip")) == [f"rl_model_{n}_steps.zip" for n in (12, 4, 8)]


def test_a_checkpoint_between_two_calls_of_learn_continues_as_the_model_would(tmp_path):
    model = make(sb3_pgx, "SAC", pendulum()).learn(20)
    model.save_checkpoint(tmp_path)
    model.learn(20, reset_num_timesteps=False)
    resumed = sb3_pgx.SAC.resume(tmp_path, pendulum(), device=DEVICE)
    resumed.learn(20, reset_num_timesteps=False)
    assert_same_run(model, resumed)
    assert_same_memory(model, resumed)


def test_a_checkpoint_holds_the_filled_part_of_the_memory(tmp_path):
    sizes = []
    for buffer_size in (100, 1_000_000):
        model = make(sb3_pgx, "SAC", pendulum(), buffer_size=buffer_size).learn(20)
        model.save_checkpoint(tmp_path, f"of_{buffer_size}")
        sizes.append(newest_checkpoint(tmp_path).stat().st_size)
        resumed = sb3_pgx.SAC.resume(tmp_path, pendulum(), device=DEVICE)
        assert_same_memory(model, resumed)
        assert len(resumed.replay_buffer.observations) == buffer_size
    assert sizes[1] < 1.05 * sizes[0]


class Hidden(gym.Wrapper):
    """An environment whose state cannot be saved."""

    def __init__(self, env):
        super().__init__(env)
        self.secret = (x for x in range(3))  # cannot be pickled


def test_episodes_that_restart_end_in_the_memory(tmp_path):
    """Else n-step returns would reach from the last step before the interruption into the next episode."""

    def env():
        return make_vec_env(lambda: Hidden(gym.make("Pendulum-v1")), 1, seed=3)

    def model(env):
        return make(sb3_pgx, "SAC", env, n_steps=3, compile=False)

    one = model(env())
    with pytest.raises(Interruption):
        one.learn(60, CallbackList([CheckpointCallback(10, str(tmp_path)), Interrupt(lambda calls: calls == 35)]))
    resumed = sb3_pgx.SAC.resume(newest_checkpoint(tmp_path), env(), device=DEVICE)
    with pytest.warns(UserWarning, match="Resuming: episodes restart"):
        resumed.learn(60, CallbackList([Interrupt(never)]))
    ends = resumed.replay_buffer.dones[:60].ravel()
    assert np.flatnonzero(ends).tolist() == [29]
    assert np.flatnonzero(resumed.replay_buffer.timeouts[:60].ravel()).tolist() == [29]


class Ending(gym.Wrapper):
    """Its thirtieth step terminates the episode."""

    def __init__(self, env):
        super().__init__(env)
        self.secret, self.steps = (x for x in range(3)), 0  # cannot be pickled, so episodes restart

    def step(self, action):
        observation, reward, _, truncated, info = super().step(action)
        self.steps += 1
        return observation, reward, self.steps == 30, truncated, info


def test_an_episode_that_was_terminated_at_the_interruption_stays_terminated(tmp_path):
    def env():
        return make_vec_env(lambda: Ending(gym.make("Pendulum-v1")), 1, seed=3)

    one = make(sb3_pgx, "TD3", env(), compile=False)
    with pytest.raises(Interruption):
        one.learn(60, CallbackList([CheckpointCallback(10, str(tmp_path)), Interrupt(lambda calls: calls == 35)]))
    resumed = sb3_pgx.TD3.resume(newest_checkpoint(tmp_path), env(), device=DEVICE)
    with pytest.warns(UserWarning, match="Resuming: episodes restart"):
        resumed.learn(60, CallbackList([Interrupt(never)]))
    assert resumed.replay_buffer.dones[29, 0] == 1 and resumed.replay_buffer.timeouts[29, 0] == 0
