"""An interrupted run that is resumed ends bit for bit as one that was not interrupted."""

from importlib.util import find_spec

import gymnasium as gym
import numpy as np
import pytest
from selection import mostly_slow
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import SubprocVecEnv, VecFrameStack, VecNormalize
from support.capabilities import DICT, envs
from support.interrupted import assert_same_run, uninterrupted_and_resumed
from support.masked_environments import Masked
from support.models import assert_same, takes
from support.small_environments import DEVICE, vectorised
from support.variants import each_variant

from sb3_pgx import A2C, ACER, PPO, MaskablePPO, PPOPenalty, RecurrentPPO
from sb3_pgx.checkpoints import CheckpointCallback
from sb3_pgx.core.controllers import KLAdaptiveLearningRate
from sb3_pgx.environments import make_vec_env as make_array_env


@each_variant()
def test_every_algorithm_continues_exactly(variant, tmp_path):
    coefficient = dict(ent_coef="lin_0.1") if takes(variant.name, "ent_coef") else {}

    def environment():
        return VecNormalize(variant.envs())

    def model(env):
        return variant.make(env, learning_rate="lin_0.01", **coefficient)

    assert_same_run(*uninterrupted_and_resumed(model, environment, 72, tmp_path, at=29, save_freq=9))


def ppo(env, **kwargs):
    is_dict = isinstance(env.observation_space, gym.spaces.Dict)
    arguments = dict(n_steps=32, batch_size=16, n_epochs=2, seed=1, device=DEVICE)
    return PPO("MultiInputPolicy" if is_dict else "MlpPolicy", env, **{**arguments, **kwargs})


FORK = dict(start_method="fork")  # faster than starting Python again
ENVIRONMENTS = {
    "CartPole": lambda: make_vec_env("CartPole-v1", 2, seed=3),
    "CartPole in processes": lambda: make_vec_env("CartPole-v1", 2, seed=3, vec_env_cls=SubprocVecEnv, vec_env_kwargs=FORK),
    "stacked frames": lambda: VecNormalize(VecFrameStack(make_vec_env("Pendulum-v1", 2, seed=3), 3)),
    "normalised frames": lambda: VecFrameStack(VecNormalize(make_vec_env("Pendulum-v1", 2, seed=3)), 3),
    "dictionaries": lambda: envs(DICT),
    "CartPole as arrays": lambda: make_array_env("CartPole-v1", 3, 3, "vector"),
    "a SyncVectorEnv": lambda: gym.make_vec("Acrobot-v1", 2, "sync"),
    "LunarLander": lambda: make_vec_env("LunarLander-v3", 2, seed=3),
    "LunarLander in processes": lambda: make_vec_env(
        "LunarLander-v3", 2, seed=3, vec_env_cls=SubprocVecEnv, vec_env_kwargs=FORK
    ),
    "HalfCheetah": lambda: VecNormalize(make_vec_env("HalfCheetah-v5", 2, seed=3)),
    "Ant": lambda: make_vec_env("Ant-v5", 1, seed=3),  # its reward depends on positions that a step leaves behind
}
NEEDS = {"LunarLander": "Box2D", "HalfCheetah": "mujoco", "Ant": "mujoco"}
SLOW = ("CartPole", "a SyncVectorEnv", "LunarLander in processes", "Ant", "normalised frames")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("kind", mostly_slow([(kind,) for kind in ENVIRONMENTS], lambda kind: kind not in SLOW), ids=str)
def test_every_environment_continues_exactly(kind, tmp_path, recwarn):
    package = NEEDS.get(kind.split()[0])
    if package is not None and find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    assert_same_run(*uninterrupted_and_resumed(ppo, ENVIRONMENTS[kind], 320, tmp_path, at=110, save_freq=40))
    assert not [w for w in recwarn if "Resuming" in str(w.message)]


ADAPTIVE = {
    "gSDE": lambda env: A2C("MlpPolicy", env, n_steps=8, seed=1, use_sde=True, sde_sample_freq=3, device=DEVICE),
    "learning rate": lambda env: ppo(env, learning_rate=KLAdaptiveLearningRate(1e-3)),
    "penalty": lambda env: PPOPenalty(
        "MlpPolicy", env, n_steps=32, batch_size=16, n_epochs=4, target_kl=1e-3, seed=1, device=DEVICE
    ),
}


@pytest.mark.parametrize("kind", list(ADAPTIVE))
def test_adaptive_quantities_continue_exactly(kind, tmp_path):
    def make_env():
        return make_vec_env("Pendulum-v1", 2, seed=3)

    whole, resumed = uninterrupted_and_resumed(ADAPTIVE[kind], make_env, 320, tmp_path, at=110, save_freq=40)
    assert_same_run(whole, resumed)
    if kind == "learning rate":
        assert resumed.learning_rate.value == whole.learning_rate.value != 1e-3


SETTINGS = dict(n_steps=8, batch_size=4, n_epochs=2, seed=1, device=DEVICE)
OF_CONTRIB = {
    "RecurrentPPO": (
        lambda env: RecurrentPPO("MlpLstmPolicy", env, policy_kwargs=dict(lstm_hidden_size=4, net_arch=[4]), **SETTINGS),
        envs,
    ),
    "MaskablePPO": (
        lambda env: MaskablePPO("MlpPolicy", env, **SETTINGS),
        lambda: vectorised(Masked(truncates=True), Masked()),
    ),
}


@pytest.mark.parametrize("kind", list(OF_CONTRIB))
def test_the_classes_with_sb3_contribs_interface_continue_exactly(kind, tmp_path):
    """Their files name policies and buffers of sb3-contrib."""
    assert_same_run(*uninterrupted_and_resumed(*OF_CONTRIB[kind], 96, tmp_path, at=30, save_freq=9))


def test_replayed_memory_continues_exactly(tmp_path):
    def acer(env):
        return ACER("MlpPolicy", env, n_steps=8, buffer_size=200, replay_start=50, replay_ratio=2, seed=1, device=DEVICE)

    def make_env():
        return VecNormalize(make_vec_env("CartPole-v1", 2, seed=3))

    whole, resumed = uninterrupted_and_resumed(acer, make_env, 600, tmp_path, at=170, save_freq=40)
    assert_same_run(whole, resumed)
    samples = [m.replay_buffer.sample((2, 3), np.random.default_rng(0)) for m in (whole, resumed)]
    np.testing.assert_equal(*(vars(sample) for sample in samples))
    assert_same(*(m.average_policy.state_dict() for m in (whole, resumed)))


class CompiledLate(PPO):
    """The steps that are left after the interruption would not be worth compiling by themselves."""

    compile_after = 38  # of the run's 40 gradient steps

    def planned_gradient_steps(self, timesteps):
        return timesteps // 8


def test_the_decision_to_compile_is_kept(graphs, tmp_path):
    def make_model(env):
        return CompiledLate("MlpPolicy", env, n_steps=32, batch_size=64, n_epochs=1, seed=1, device=DEVICE)

    whole, resumed = uninterrupted_and_resumed(make_model, ENVIRONMENTS["CartPole"], 320, tmp_path, at=110, save_freq=40)
    assert whole.compiled and resumed.compiled
    assert_same_run(whole, resumed)


@pytest.mark.slow  # it compiles
def test_a_compiled_run_continues_exactly(tmp_path):
    whole, resumed = uninterrupted_and_resumed(
        lambda env: ppo(env, compile=True), ENVIRONMENTS["CartPole"], 320, tmp_path, at=110, save_freq=40
    )
    assert whole.compiled and resumed.compiled
    assert_same_run(whole, resumed)


def test_a_run_continues_with_more_steps_than_it_was_to_have(tmp_path):
    """The second call begins where the first one ended; ``learn`` counts from the beginning of the interrupted call."""
    model = ppo(ENVIRONMENTS["CartPole"]())
    model.learn(128, callback=CheckpointCallback(1, str(tmp_path)))
    resumed = PPO.resume(tmp_path, ENVIRONMENTS["CartPole"](), device=DEVICE).learn(256)
    assert (model.num_timesteps, resumed.num_timesteps) == (128, 256)


@pytest.mark.parametrize("reset", [False, True])
def test_a_checkpoint_between_two_calls_of_learn_continues_as_the_model_would(reset, tmp_path):
    model = ppo(VecNormalize(ENVIRONMENTS["CartPole"]())).learn(128)
    model.save_checkpoint(tmp_path)
    model.learn(128, reset_num_timesteps=reset)
    resumed = PPO.resume(tmp_path, VecNormalize(ENVIRONMENTS["CartPole"]()), device=DEVICE)
    resumed.learn(128, reset_num_timesteps=reset)
    assert_same_run(model, resumed)
