"""``vec_env`` in settings: how environments step changes neither what is trained nor what is evaluated."""

from importlib.metadata import version

import gymnasium as gym
import numpy as np
import pytest
import stable_baselines3 as sb3
import torch as th
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv
from support.packages import without

from sb3_pgx import ACER, PPO
from sb3_pgx.environments import VectorEnvAdapter
from sb3_pgx.experiments.runs import FINAL_SEEDS, SEED_STRIDE, RunSpec, execute, failed, versions
from sb3_pgx.settings.configs import VEC_ENVS, RunConfig, load_config
from sb3_pgx.settings.environments import check_environment, make_eval_env

SWING, POLE = "Swing-v0", "CartPole-v1"  # gymnasium's CartPole has a vectorised implementation of its own, which resets late
LIMIT = ("gymnasium.wrappers.TimeLimit", {"max_episode_steps": 7})


@pytest.fixture(autouse=True)
def swing(monkeypatch):
    """Pendulum with episodes of 10 steps: every wrong seed, reset or action changes all numbers."""
    spec = gym.envs.registration.EnvSpec(SWING, "gymnasium.envs.classic_control:PendulumEnv", max_episode_steps=10)
    monkeypatch.setitem(gym.registry, SWING, spec)


def witness(algorithm):
    """The algorithm, which keeps where a run starts and what it ends with."""

    class Witness(algorithm):
        def learn(self, *args, **kwargs):
            Witness.start, Witness.stepped = self.env.reset(), type(self.env.unwrapped)
            super().learn(*args, **kwargs)
            Witness.parameters = th.nn.utils.parameters_to_vector(self.policy.parameters())
            return self

    return Witness


def run(algorithm, vec_env, env_id=SWING, seed=3, timesteps=200, **changes):
    settings = dict(n_steps=16, batch_size=48, n_epochs=2, device="cpu")
    config = RunConfig(**{"source": "test", "n_envs": 3, "vec_env": vec_env, "hyperparameters": settings, **changes})
    kind = witness(algorithm)
    result = execute(RunSpec("x", kind, env_id, seed, timesteps, config, curve_points=2, curve_episodes=2, eval_episodes=3))
    assert result.error is None, result.traceback
    return result, kind


@pytest.mark.parametrize(
    "changes",
    [{}, {"normalize": {"gamma": 0.9}}, {"wrappers": (LIMIT,)}, {"frame_stack": 2}, {"env_kwargs": {"g": 3.0}}],
    ids=lambda changes: next(iter(changes), "bare"),
)
@pytest.mark.parametrize("algorithm", [PPO, sb3.PPO], ids=["ours", "SB3's"])
def test_a_run_with_arrays_is_that_of_the_environments_one_by_one(algorithm, changes):
    (arrays, ours), (one_by_one, expected) = (run(algorithm, vec_env, **changes) for vec_env in ("vector", "dummy"))
    assert (ours.stepped, expected.stepped) == (VectorEnvAdapter, DummyVecEnv)
    assert th.equal(ours.parameters, expected.parameters) and np.array_equal(ours.start, expected.start)
    assert arrays.returns == one_by_one.returns and arrays.curve_returns == one_by_one.curve_returns
    assert arrays.steps == one_by_one.steps and len(set(arrays.returns)) == 3


@pytest.mark.slow  # starts processes
def test_a_run_in_processes_is_that_of_the_environments_one_by_one():
    short = {"env_id": "Pendulum-v1", "env_kwargs": {"max_episode_steps": 10}}  # registered in other processes, too
    (processes, ours), (one_by_one, expected) = (run(PPO, vec_env, **short) for vec_env in ("subproc", "dummy"))
    assert ours.stepped is SubprocVecEnv and expected.stepped is DummyVecEnv
    assert th.equal(ours.parameters, expected.parameters) and processes.returns == one_by_one.returns


def arrays_by_hand(vec_env, seed, n_envs=3):
    """Return the first observations of CartPole's environments, and a function that steps them."""
    if vec_env == "envpool":
        pool = pytest.importorskip("envpool").make(POLE, env_type="gymnasium", num_envs=n_envs, seed=seed)
        return pool.reset()[0], pool.step
    env = gym.make_vec(POLE, n_envs, "vector_entry_point")
    return env.reset(seed=seed)[0], env.step


class PushesLeft(PPO):
    def predict(self, observation, *args, **kwargs):
        return np.zeros(len(observation), int), None


@pytest.mark.parametrize("vec_env", ["vector", "envpool"])
def test_the_seed_reaches_environments_that_only_step_as_arrays_in_training_and_in_evaluation(vec_env):
    start, _ = arrays_by_hand(vec_env, 3 * SEED_STRIDE)
    _, step = arrays_by_hand(vec_env, FINAL_SEEDS + 3 * SEED_STRIDE)
    result, kind = run(PushesLeft, vec_env, POLE, timesteps=48)
    np.testing.assert_array_equal(kind.start, start)
    lengths, t = {}, 0
    while len(lengths) < 3:
        t += 1
        ended = np.logical_or(*step(np.zeros(3, int))[2:4])
        lengths = {**{i: t for i in np.flatnonzero(ended)}, **lengths}
    assert sorted(result.returns) == sorted(lengths.values())
    assert not np.array_equal(run(PushesLeft, vec_env, POLE, seed=4, timesteps=48)[1].start, start)


def test_evaluation_environments_are_those_of_training_with_raw_rewards_and_the_same_wrappers():
    config = RunConfig("test", vec_env="vector", normalize={"gamma": 0.9}, frame_stack=2, wrappers=(LIMIT,))
    env = make_eval_env(config, SWING, seed=0, n_envs=2)
    assert env.reset().shape == (2, 6)
    total, ended = 0.0, False
    while not ended:
        _, rewards, (ended, _), infos = env.step(np.zeros((2, 1), np.float32))
        total += rewards[0]
    assert infos[0]["episode"] == {"r": pytest.approx(total), "l": 7, "t": infos[0]["episode"]["t"]} and total < -1


def test_each_value_is_read_and_another_is_refused_with_its_line(tmp_path):
    for vec_env in VEC_ENVS:
        (tmp_path / "a.yml").write_text(f"{SWING}:\n  gamma: 0.9\n  vec_env: {vec_env}\n")
        config = load_config("a", SWING, tmp_path)
        assert (config.vec_env, config.hyperparameters) == (vec_env, {"gamma": 0.9})
    (tmp_path / "a.yml").write_text(f"{SWING}:\n  gamma: 0.9\n  vec_env: arrays\n")
    choices = "vec_env 'arrays' is unknown; choose dummy, subproc, vector, envpool"
    with pytest.raises(ValueError, match=rf"a\.yml, line 3, {SWING}, vec_env: {choices}"):
        load_config("a", SWING, tmp_path)
    with pytest.raises(ValueError, match=choices):
        config.with_vec_env("arrays")
    assert load_config("b", SWING, tmp_path).vec_env == "dummy"


LATE = "CartPoleVectorEnv resets an environment in the step after an episode's end, which is no experience, and "


@pytest.mark.parametrize(
    ("algorithm", "changes", "problem"),
    [
        (sb3.PPO, {}, f"{LATE}PPO of stable_baselines3 learns from every step; .*vec_env: dummy"),
        (ACER, {}, f"{LATE}ACER replays whole segments; .*vec_env: dummy"),
        (PPO, {"frame_stack": 4}, f"{LATE}VecFrameStack would mix the frames of two episodes; .*vec_env: dummy"),
        (PPO, {"wrappers": (LIMIT,)}, r"CartPole-v1's own vectorised implementation .* no single ones to wrap: .*env_wrapper"),
        (PPO, {"env_kwargs": {"wind": 3}}, "CartPole-v1 cannot be made with .*wind"),
    ],
)
def test_what_an_implementation_of_its_own_cannot_be_combined_with_is_one_sentence(algorithm, changes, problem):
    with pytest.raises(ValueError, match=problem) as caught:
        check_environment(POLE, RunConfig("test", vec_env="vector", **changes), algorithm)
    assert "\n" not in str(caught.value)


def test_what_resets_in_the_same_step_can_be_combined_with_all_of_them():
    everything = RunConfig("test", vec_env="vector", frame_stack=4, wrappers=(LIMIT,))
    for algorithm in (sb3.PPO, ACER, PPO):
        assert check_environment(SWING, everything, algorithm).spec.max_episode_steps == 10
    assert check_environment(POLE, RunConfig("test", vec_env="vector"), PPO).spec.reward_threshold == 475


@pytest.mark.parametrize(
    ("env_id", "changes", "problem"),
    [
        ("CartPol-v1", {}, "EnvPool has no environment 'CartPol-v1'; did you mean 'CartPole-v1'"),
        (SWING, {}, f"EnvPool has no environment '{SWING}'"),
        (
            POLE,
            {"wrappers": (LIMIT,)},
            "EnvPool steps all environments at once, so there are no single ones to wrap: .*env_wrapper",
        ),
        (POLE, {"env_kwargs": {"wind": 3}}, "CartPole-v1 cannot be made with .*wind"),
    ],
)
def test_what_envpool_cannot_be_combined_with_is_one_sentence(env_id, changes, problem):
    pytest.importorskip("envpool")
    with pytest.raises(ValueError, match=problem) as caught:
        check_environment(env_id, RunConfig("test", vec_env="envpool", **changes), PPO)
    assert "\n" not in str(caught.value)


def test_envpools_environments_have_its_thresholds_frames_and_version():
    pytest.importorskip("envpool")
    config = RunConfig("test", vec_env="envpool", frame_stack=4)
    assert check_environment(POLE, config, sb3.PPO).spec.reward_threshold == 475
    spec = RunSpec("x", PPO, POLE, 0, 10, config)
    assert failed(spec, MemoryError()).versions == {**versions(POLE), "envpool": version("envpool")}


def test_envpool_that_is_missing_is_told_with_the_command_that_installs_it(monkeypatch):
    without(monkeypatch, "envpool")
    with pytest.raises(ImportError, match="environments of EnvPool need the package envpool: pip install envpool"):
        check_environment(POLE, RunConfig("test", vec_env="envpool"), PPO)
