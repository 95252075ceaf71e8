"""
Is the best policy deterministic? Not if states look alike.

The environment is the short corridor with switched actions (Sutton & Barto, 2018, example 13.1). The agent cannot tell its
three states apart, and in the middle state left and right are swapped. Each step costs 1. The return of every policy is known
exactly.
"""

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from shared import arguments, new_figure, print_table, save, train, with_interval
from stable_baselines3.common.env_util import make_vec_env

from sb3_pgx import REINFORCE

MAX_STEPS = 200


class Corridor(gym.Env):
    """States 0, 1, 2 and the end, 3. Action 1 goes right, but in state 1 it goes left. The observation is constant."""

    observation_space, action_space = spaces.Box(0.0, 1.0, (1,), np.float32), spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.state = 0
        return np.ones(1, np.float32), {}

    def step(self, action):
        right = (action == 1) != (self.state == 1)
        self.state = self.state + 1 if right else max(0, self.state - 1)
        return np.ones(1, np.float32), -1.0, self.state == 3, False, {}


gym.register("Corridor-v0", entry_point=Corridor, max_episode_steps=MAX_STEPS)


def exact_return(p: float) -> float:
    """Return the return of going right with probability p, from v = -1 + P v; minus infinity if the end is never reached."""
    P = np.array([[1 - p, p, 0], [p, 0, 1 - p], [0, 1 - p, 0]])
    return float(np.linalg.solve(np.eye(3) - P, -np.ones(3))[0]) if 0 < p < 1 else -np.inf


def main(argv: list[str] | None = None) -> None:
    args = arguments(__file__, "Is the best policy deterministic?", seeds=4, argv=argv)
    timesteps = args.steps(40_000, quick=1_000)
    grid = np.linspace(0.01, 0.99, 981)
    best = float(grid[np.argmax([exact_return(p) for p in grid])])

    learned, runs = [], []
    for seed in args.seeds:
        env = make_vec_env(lambda: gym.make("Corridor-v0"), n_envs=8, seed=seed)
        model = REINFORCE(
            "MlpPolicy", env, n_episodes=4, gamma=1.0, baseline="loo", learning_rate=1e-3, seed=seed, device="cpu"
        )
        runs.append(train(model, timesteps, eval_episodes=0, variant="REINFORCE"))
        observation, _ = model.policy.obs_to_tensor(np.ones(1, np.float32))
        learned.append(float(model.policy.get_distribution(observation).distribution.probs[0, 1].detach()))

    rows = [
        ["always right (or always left)", "1 (or 0)", "never arrives"],
        ["right, and left in 1 step of 20", "0.95", f"{exact_return(0.95):.1f}"],
        ["left or right with equal probability", "0.5", f"{exact_return(0.5):.1f}"],
        ["the best one, by enumeration", f"{best:.3f}", f"{exact_return(best):.1f}"],
        ["REINFORCE", with_interval(learned, 3), with_interval([exact_return(p) for p in learned])],
    ]
    print_table(["policy", "probability of right", "exact return"], rows)
    gained, off = exact_return(best) - exact_return(0.95), float(np.mean([abs(p - best) for p in learned]))
    print(f"The best policy is random. Its return is {gained:.1f} higher than that of the nearly deterministic one, and a")
    print(f"deterministic one never arrives. REINFORCE ends {off:.3f} from the best probability (seeds {list(args.seeds)}).")

    figure, (axes,) = new_figure()
    axes.plot(grid, [exact_return(p) for p in grid])
    axes.plot(learned, [exact_return(p) for p in learned], "o", color="C1", label="REINFORCE, one point per seed")
    axes.axvline(best, color="0.6", linestyle=":")
    axes.set(
        xlabel="probability of going right", ylabel="exact return", ylim=(-100, 0), title="a corridor whose states look alike"
    )
    axes.legend(frameon=False)
    save(figure, args)


if __name__ == "__main__":
    main()
