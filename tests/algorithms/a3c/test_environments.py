"""The environments of A3C's workers: made by a function, or copied."""

import numpy as np
import pytest
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack, VecMonitor, VecNormalize
from support.a3c_environments import Locked, two_locked
from support.capabilities import BOX, envs
from support.gathered_in_threads import ended, gathered
from support.small_environments import DEVICE, AnySpace, vectorised

from sb3_pgx import A3C
from sb3_pgx.algorithms.a3c.environments import packed


def model(env, **kwargs):
    return A3C("MlpPolicy", env, device=DEVICE, seed=0, **kwargs)


def played(env):
    """Observations, rewards and ends of a few steps with a seed."""
    env.seed(5)
    seen = [env.reset()]
    for _ in range(7):
        observations, rewards, dones, _ = env.step([np.full(3, 0.25, np.float32)] * env.num_envs)
        seen += [observations.copy(), rewards.copy(), dones.copy()]
    return seen


@pytest.mark.parametrize(
    "wrap", [lambda env: env, lambda env: VecFrameStack(env, 2), VecMonitor], ids=["none", "stack", "monitor"]
)
def test_a_copy_plays_as_its_original_and_is_another_one(wrap):
    env = model(wrap(envs())).env
    copy = packed(env)()
    assert type(copy) is type(env) and copy.unwrapped.envs[0] is not env.unwrapped.envs[0]
    for ours, theirs in zip(played(env), played(copy), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_copy_does_not_write_the_originals_monitor_file(tmp_path):
    env = DummyVecEnv([lambda: Monitor(AnySpace(BOX, BOX), str(tmp_path / "log"))])
    played(packed(model(env).env)())
    assert len((tmp_path / "log.monitor.csv").read_text().splitlines()) == 2, "nothing but the header"
    played(env)
    assert len((tmp_path / "log.monitor.csv").read_text().splitlines()) == 3


def test_environments_that_cannot_be_copied_are_refused_with_the_remedy():
    message = (
        r"cloudpickle, but DummyVecEnv cannot be copied \(TypeError: .*lock.*\): pass env as a function without arguments"
    )
    with pytest.raises(TypeError, match=message):
        model(vectorised(Locked()), n_workers=2).learn(10)


def test_a_function_makes_environments_that_cannot_be_copied(tmp_path):
    made = model(two_locked, n_workers=2)
    copy = packed(made.env)()
    assert made.n_envs == copy.num_envs == 2 and copy.envs[0].lock is not made.env.envs[0].lock
    made.save(tmp_path / "model")
    loaded = A3C.load(tmp_path / "model", env=two_locked, device=DEVICE)
    assert packed(loaded.env)().num_envs == 2
    loaded.set_env(two_locked)
    assert packed(loaded.env)().num_envs == 2


def test_a_function_that_cannot_be_pickled_is_refused_by_name():
    lock = Locked().lock

    def with_lock():
        return Locked() if lock else None

    with pytest.raises(
        TypeError, match=r"the function <function .*with_lock.* cannot be pickled .*: make everything .* inside"
    ):
        model(with_lock, n_workers=2).learn(10)


def test_what_is_no_environment_is_refused():
    with pytest.raises(TypeError, match="env is of type int, but must be an environment"):
        model(lambda: 3)


def test_normalisation_that_would_differ_between_workers_is_refused():
    with pytest.raises(ValueError, match=r"A3C with n_workers > 1 cannot use VecNormalize, .*: use A2C or PPO"):
        model(VecNormalize(envs()), n_workers=2).learn(10)
    model(VecNormalize(envs()), n_workers=1).learn(10)


def test_environments_of_several_processes_are_refused_for_several_workers():
    spread = gathered(lambda rows: envs(), n_envs=2 * envs().num_envs, size=2)
    with pytest.raises(
        ValueError, match=r"A3C with n_workers > 1 starts processes of its own, .*: make them without parallel=…"
    ):
        model(spread, n_workers=2).learn(10)
    ended(spread)
