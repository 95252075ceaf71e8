"""The state of environments that are spread over processes is divided among other numbers of processes."""

from importlib.util import find_spec

import numpy as np
import pytest
from stable_baselines3.common.vec_env import VecNormalize
from support.gathered_in_threads import ended, gathered, stepped
from support.small_environments import DEVICE

from sb3_pgx import A2C
from sb3_pgx.checkpoints.environments import process_state, record_episodes, set_process_state
from sb3_pgx.checkpoints.shares import fitted
from sb3_pgx.environments import make_vec_env


def makes(name, **kwargs):
    def make(rows):
        env = make_vec_env(name, len(rows), seed=0, **({} if kwargs else {"start_index": rows.start}), **kwargs)
        env.seed(rows.start)
        return env

    return make


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    ("name", "package", "before", "now"),
    [
        *(("CartPole-v1", None, *sizes) for sizes in ((1, 2), (2, 1), (2, 3), (6, 2))),
        ("Hopper-v5", "mujoco", 2, 3),
        ("LunarLander-v3", "Box2D", 2, 3),
    ],
)
def test_each_environment_goes_on_where_it_was(name, package, before, now):
    """By pickling, by MuJoCo's state, and by replaying the episode."""
    if package is not None and find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    env, other = (VecNormalize(gathered(makes(name), 6, size)) for size in (before, now))
    record_episodes({"env": env})
    env.reset()
    stepped(env, 25, seed=0)
    state = process_state({"env": env})
    expected = stepped(env, 25, seed=1)
    other.reset()
    assert set_process_state(fitted(state, other), {"env": other})[1] == {}
    np.testing.assert_equal(stepped(other, 25, seed=1), expected)
    ended(env, other)


def test_environments_that_step_as_arrays_are_not_divided(tmp_path):
    def model(size):
        return A2C("MlpPolicy", gathered(makes("CartPole-v1", vector=True), 4, size), device=DEVICE)

    two, four = model(2), model(4)
    two.save_checkpoint(tmp_path)
    with pytest.raises(ValueError, match=r"was written by 2 processes, and this run has 4: the environments of .* cannot be"):
        A2C.resume(tmp_path, four.env)
    ended(two.env, four.env)
