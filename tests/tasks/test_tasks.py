"""The tasks: what the best policies without memory or masks can reach, and that learning with both reaches all."""

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3.common.env_checker import check_env

import sb3_pgx.tasks  # noqa: F401  # registers them
from sb3_pgx import PPO
from sb3_pgx.environments import evaluate_policy, make_vec_env

NAMES = [
    "Recall-v0",
    "MaskedRecall-v0",
    "InvalidActions-v0",
    "Gripper-v0",
    "MultiGoal-v0",
    "CartPoleNoVel-v1",
    "PendulumNoVel-v1",
]


@pytest.mark.parametrize("name", NAMES)
def test_they_keep_gymnasiums_interface_and_are_deterministic(name):
    check_env(gym.make(f"sb3_pgx.tasks:{name}").unwrapped, warn=False)
    returns = []
    for _ in range(2):
        env = gym.make(f"sb3_pgx.tasks:{name}")
        env.action_space.seed(1)
        seen = [env.reset(seed=1)[0]]
        for _ in range(20):
            observation, reward, terminated, truncated, _ = env.step(env.action_space.sample())
            seen += [observation, reward]
            if terminated or truncated:
                seen.append(env.reset()[0])
        returns.append(np.concatenate([np.ravel(x) for x in seen]))
    assert np.array_equal(*returns)


def test_agents_that_spread_over_landmarks_act_together():
    mpe2 = pytest.importorskip("mpe2", reason="mpe2 is not installed")
    joint, parallel = gym.make("sb3_pgx.tasks:SimpleSpread-v3", N=2), mpe2.simple_spread_v3.parallel_env(N=2, max_cycles=25)
    (seen, _), (expected, _) = joint.reset(seed=3), parallel.reset(seed=3)
    for step in range(25):
        actions = {"agent_0": step % 5, "agent_1": 4}
        np.testing.assert_equal(seen, expected)
        seen, reward, terminated, truncated, info = joint.step(actions)
        expected, rewards, _, ends, _ = parallel.step(actions)
        assert reward == pytest.approx(sum(rewards.values())) and info["agent_rewards"].tolist() == [*rewards.values()]
        assert not terminated and truncated == ends["agent_0"] == (step == 24)


@pytest.mark.parametrize("name, bars", [("Recall-v0", 5), ("InvalidActions-v0", 4), ("Gripper-v0", 2), ("MultiGoal-v0", 2)])
def test_a_picture_shows_the_observation_as_bars(name, bars):
    env = gym.make(f"sb3_pgx.tasks:{name}", render_mode="rgb_array")
    observation, _ = env.reset(seed=1)
    picture = env.render()
    share = (picture[:, ::16, 0] == 0).mean(axis=0)  # of each bar
    low, high = env.observation_space.low, env.observation_space.high
    assert picture.shape == (64, 16 * bars, 3) and np.allclose(share, (observation - low) / (high - low), atol=1 / 64)


def played(env, answer, episodes=400):
    """Return the mean return of a policy: a function of the observations of the episode so far and the mask."""
    total = 0.0
    for episode in range(episodes):
        seen, ended = [env.reset(seed=episode)[0]], False
        while not ended:
            observation, reward, ended, _, _ = env.step(answer(seen, env.unwrapped.action_masks()))
            seen.append(observation)
            total += reward
    return total / episodes


def test_both_memory_and_masks_are_needed_where_the_task_says_so():
    env = gym.make("sb3_pgx.tasks:MaskedRecall-v0")
    generator = np.random.default_rng(0)

    def cue(seen):
        return int(seen[0][:4].argmax())

    def both(seen, mask):
        return next(a for a in np.flatnonzero(mask) if a % 4 == cue(seen))

    def memory_alone(seen, mask):
        return 4 * generator.integers(4) + cue(seen)

    def masks_alone(seen, mask):
        return generator.choice(np.flatnonzero(mask))

    assert played(env, both) == 1.0
    assert played(env, memory_alone) == pytest.approx(0.25, abs=0.08)  # 3.7 standard errors
    assert played(env, masks_alone) == pytest.approx(0.25, abs=0.08)


@pytest.mark.slow
def test_masks_let_ppo_solve_the_task_of_invalid_actions():
    def score(use_masking):
        env = make_vec_env("sb3_pgx.tasks:InvalidActions-v0", 8, seed=1)
        model = PPO("MlpPolicy", env, n_steps=32, batch_size=64, learning_rate="lin_3e-3", seed=1, compile=False)
        model.learn(16_000, use_masking=use_masking)
        return evaluate_policy(model, make_vec_env("sb3_pgx.tasks:InvalidActions-v0", 8, seed=2), 40)[0]

    assert score(True) > 9.5  # of 10
    assert score(False) < 2


@pytest.mark.slow
def test_ppo_learns_mixed_actions():
    env = make_vec_env("sb3_pgx.tasks:Gripper-v0", 8, seed=1)
    model = PPO("MlpPolicy", env, n_steps=64, batch_size=128, learning_rate=3e-3, seed=1, compile=False).learn(24_000)
    assert evaluate_policy(model, make_vec_env("sb3_pgx.tasks:Gripper-v0", 8, seed=2), 40)[0] > 0.6


GOALS = np.array([(5, 0), (-5, 0), (0, 5), (0, -5)])


def walk(moves, seed=0):
    """Return the position at the start, and what each step of the task with four goals returns."""
    env = gym.make("sb3_pgx.tasks:MultiGoal-v0")
    start, steps = env.reset(seed=seed)[0], []
    for move in moves:
        steps.append(env.step(np.array(move, np.float32)))
        if steps[-1][2] or steps[-1][3]:
            break
    return start, steps


@pytest.mark.parametrize("goal", range(4))
def test_a_point_that_walks_to_a_goal_pays_for_moves_and_distances_and_gets_there(goal):
    direction = GOALS[goal] / 5
    start, steps = walk([0.5 * direction] * 30)
    positions = start + 0.5 * np.arange(1, len(steps) + 1)[:, None] * direction
    squares = ((positions[:, None] - GOALS) ** 2).sum(axis=2)
    expected = -30 * 0.25 - squares.min(axis=1)
    expected[-1] += 10
    assert [reward for _, reward, *_ in steps] == pytest.approx(expected, abs=1e-4)
    assert np.allclose([observation for observation, *_ in steps], positions, atol=1e-5)
    assert [terminated for _, _, terminated, *_ in steps] == [*[False] * (len(steps) - 1), True]
    assert squares[-1].argmin() == goal and squares[-1, goal] < 1 <= squares[-2].min()
    assert [info.get("goal") for *_, info in steps] == [*[None] * (len(steps) - 1), goal]


def test_a_point_between_goals_stays_inside_for_30_steps():
    _, steps = walk([(3.0, 3.0)] * 40)  # a move of more than 1 per coordinate is one of 1
    positions = np.array([observation for observation, *_ in steps])
    assert len(steps) == 30 and steps[-1][3] and not steps[-1][2] and positions.max() == 7
    assert steps[-1][1] == pytest.approx(-30 * 2 - (2**2 + 7**2), abs=1e-4)


def test_episodes_of_the_task_with_four_goals_start_near_the_middle():
    starts = np.array([walk([], seed)[0] for seed in range(400)])
    assert np.abs(starts.mean(axis=0)).max() < 0.02 and starts.std(axis=0) == pytest.approx(0.1, abs=0.012)
