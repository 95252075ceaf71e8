"""ALE's vector environment: rollouts are what it returns when it is stepped by hand in another autoreset mode."""

import gymnasium as gym
import numpy as np
import pytest

from sb3_pgx import PPO
from sb3_pgx.environments import make_vec_env

pytest.importorskip("ale_py", reason="needs ALE")
PONG = "ale_py:ALE/Pong-v5"
# Episodes of ten steps after as many as 30 in which nothing is done, which are random.
SETTINGS = dict(max_num_frames_per_episode=160, num_threads=1, img_height=36, img_width=36)


def test_a_rollout_is_what_the_library_returns_by_hand():
    """By hand the environments reset in the step that ends an episode. Ours reset one by one, through a mask."""
    env = make_vec_env(PONG, 3, vector=True, env_kwargs=SETTINGS)
    assert not env.carries
    model = PPO("CnnPolicy", env, n_steps=90, batch_size=90, n_epochs=1, seed=5, device="cpu", compile=False)
    model.learn(1)
    rollout, place = model.last_rollout, 0
    same_step = gym.vector.AutoresetMode.SAME_STEP
    hand = gym.make_vec(PONG, 3, "vector_entry_point", autoreset_mode=same_step, **SETTINGS)
    observations, _ = hand.reset(seed=5)
    for t in range(90):
        np.testing.assert_array_equal(rollout.observations[t], observations)
        observations, rewards, terminated, truncated, infos = hand.step(rollout.actions[t].numpy().flatten())
        np.testing.assert_array_equal(rollout.rewards[t], rewards)
        np.testing.assert_array_equal(rollout.terminated[t], terminated)
        np.testing.assert_array_equal(rollout.truncated[t], truncated & ~terminated)
        for i in np.flatnonzero(rollout.truncated[t]):
            np.testing.assert_array_equal(rollout.final_observations[place], infos["final_obs"][i])
            place += 1
    np.testing.assert_array_equal(rollout.last_observations, observations)
    assert place > 3 and rollout.valid.all() and model.num_timesteps == 270
