"""The environments of the speed benchmark: both kinds of an Atari game have the same preprocessing."""

from itertools import pairwise

import numpy as np
import pytest
from stable_baselines3.common.vec_env import DummyVecEnv, VecTransposeImage

from benchmarks.speed.environments import make_environments
from sb3_pgx.environments import VectorEnvAdapter

PONG = "ale_py:ALE/Pong-v5"


@pytest.fixture(scope="module")
def both():
    pytest.importorskip("ale_py", reason="needs ale-py")
    pytest.importorskip("cv2", reason="needs OpenCV")
    made = [VecTransposeImage(make_environments(PONG, 2, "ppo", 3)), make_environments(PONG, 2, "ppo+arrays", 3)]
    yield made
    for env in made:
        env.close()


def test_both_kinds_of_a_game_have_the_same_spaces(both):
    one_by_one, arrays = both
    assert one_by_one.observation_space == arrays.observation_space and one_by_one.action_space == arrays.action_space
    assert isinstance(one_by_one.unwrapped, DummyVecEnv) and isinstance(arrays, VectorEnvAdapter)


def test_both_kinds_of_a_game_take_four_frames_per_step_and_show_the_last_four_steps(both):
    for env in both:
        observations, frames = [env.reset()], []
        for _ in range(12):
            obs, rewards, dones, infos = env.step(np.array([2, 3]))  # both move the bat, in opposite directions
            observations.append(np.array(obs))
            frames.append([info["episode_frame_number"] for info in infos])
            assert obs.shape == (2, 4, 84, 84) and set(rewards) <= {-1.0, 0.0, 1.0} and not dones.any()
        assert (np.diff(frames, axis=0) == 4).all()
        for before, after in pairwise(observations):
            np.testing.assert_array_equal(after[:, :3], before[:, 1:])
        assert (observations[-1][0] != observations[-1][1]).any()


def test_both_kinds_of_a_game_show_the_same_picture_but_for_bat_and_ball(both):
    """After the waiting frames, ``AtariWrapper`` starts a game by two actions that move the bat, and ALE by one."""
    pictures = [np.concatenate([env.reset()[:, -1].astype(int) for _ in range(4)]) for env in both]
    differing = [(one != other).mean() for one in pictures[0] for other in pictures[1]]
    assert max(differing) < 0.02


def test_envpools_environments_are_its_own():
    envpool = pytest.importorskip("envpool", reason="needs EnvPool")
    ours = make_environments("Pendulum-v1", 3, "ppo+envpool", 5)
    theirs = envpool.make("Pendulum-v1", env_type="gymnasium", num_envs=3, seed=5, num_threads=1)
    np.testing.assert_array_equal(ours.reset(), theirs.reset()[0])
