"""
How do I train on an environment of my own, from the first check to the evaluation?

The task: a sledge on ice is pushed left or right at each of 60 steps and must come to rest at the origin. To run the same
checks from the shell, use `sb3-pgx doctor env own_environment:Sledge-v0` in this folder.
"""

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from shared import arguments, draw_curves, new_figure, print_table, save, train, with_interval
from stable_baselines3.common.env_checker import check_env
from stable_baselines3.common.env_util import make_vec_env

from sb3_pgx import PPO
from sb3_pgx.doctor import examine_environment
from sb3_pgx.doctor.report import environment_text


class Sledge(gym.Env):
    """A sledge on ice. Observations and actions are within [-1, 1] and rewards of order 1, as PPO works best."""

    observation_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
    action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)  # seeds self.np_random
        self.place, self.speed = self.np_random.uniform(-1, 1), self.np_random.uniform(-0.3, 0.3)
        return self._observation(), {}

    def step(self, action):
        push = float(np.clip(action[0], -1, 1))
        self.speed = 0.98 * self.speed + 0.05 * push
        self.place += 0.2 * self.speed
        terminated = abs(self.place) > 2.0  # over the edge
        reward = 0.1 - abs(self.place) / 2 - 0.05 * push**2 - 10.0 * terminated
        return self._observation(), reward, terminated, False, {}

    def _observation(self):
        return np.clip([self.place / 2, self.speed], -1, 1).astype(np.float32)


# With the time limit here, Gymnasium reports it as truncation, so the algorithm bootstraps the return.
gym.register("Sledge-v0", entry_point=Sledge, max_episode_steps=60)


def by_hand(observation: np.ndarray) -> np.ndarray:
    """Return the action of a rule that an engineer would try first: push against position and speed."""
    return np.clip([-3.0 * observation[0] - 3.0 * observation[1]], -1, 1)


def mean_return(act, episodes: int = 50) -> float:
    """Return the mean return of a function from an observation to an action."""
    env = gym.make("Sledge-v0")
    total = 0.0
    for episode in range(episodes):
        observation, _ = env.reset(seed=10_000 + episode)
        done = False
        while not done:
            observation, reward, terminated, truncated, _ = env.step(act(observation))
            total, done = total + reward, terminated or truncated
    return total / episodes


def main(argv: list[str] | None = None) -> None:
    args = arguments(__file__, "How do I train on an environment of my own?", seeds=3, argv=argv)
    timesteps = args.steps(40_000, quick=2_000)

    check_env(gym.make("Sledge-v0").unwrapped)  # SB3's check of the interface: raises an error or warns if there is a problem
    print("SB3's check_env found no problem. The report of sb3-pgx doctor env:\n")
    print(environment_text(examine_environment("Sledge-v0")), "\n")

    runs, returns = [], []
    for seed in args.seeds:
        env = make_vec_env(lambda: gym.make("Sledge-v0"), n_envs=8, seed=seed)
        settings = dict(n_steps=128, batch_size=128, gamma=0.95, learning_rate=1e-3)
        model = PPO("MlpPolicy", env, **settings, seed=seed, device="cpu")
        runs.append(train(model, timesteps, variant="PPO"))
        returns.append(mean_return(lambda observation, model=model: model.predict(observation, deterministic=True)[0]))

    space = spaces.Box(-1.0, 1.0, (1,), np.float32, seed=0)
    random, engineer = mean_return(lambda observation: space.sample()), mean_return(by_hand)
    rows = [["random pushes", f"{random:.2f}"], ["by hand", f"{engineer:.2f}"], ["PPO", with_interval(returns, 2)]]
    print_table(["policy", "return on 50 new episodes"], rows)
    beaten = sum(r > engineer for r in returns)
    print(f"PPO is better than the rule by hand with {beaten} of {len(returns)} seeds, and than random pushes with "
          f"{sum(r > random for r in returns)}. Seeds {list(args.seeds)}, {timesteps:,} steps.")  # fmt: skip

    figure, (axes,) = new_figure()
    draw_curves(axes, {"PPO during training, with exploration noise": runs}, timesteps)
    axes.axhline(engineer, color="0.3", linestyle="--")
    axes.text(0, engineer, "by hand", va="bottom")
    save(figure, args)


if __name__ == "__main__":
    main()
