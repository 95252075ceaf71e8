"""
When does an entropy bonus help, and why anneal it?

The environment is a corridor with a trap. One step to the left there is a reward of 1; fifteen steps to the right there is one
of 10, whose discounted value is 4.6. Random exploration finds the near reward first, and the policy may settle for it. An
entropy bonus keeps the policy exploring. If the bonus stays large, the policy never becomes deterministic. If it falls to 0
(``ent_coef="lin_1_0"``), the policy explores first and decides later.
"""

import gymnasium as gym
import numpy as np
from shared import Run, arguments, difference, draw_curves, new_figure, print_table, save, train, with_interval
from stable_baselines3.common.env_util import make_vec_env

from sb3_pgx import PPO

SETTINGS = {"none": 0.0, "fixed 0.3": 0.3, "fixed 1": 1.0, "annealed from 1 to 0": "lin_1_0"}
NEAR, FAR, START, LENGTH = 1.0, 10.0, 1, 17


class NearAndFar(gym.Env):
    """A corridor in which the agent steps left or right. Each end of it gives its reward and ends the episode."""

    observation_space = gym.spaces.Box(0, 1, (LENGTH,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place = START
        return self.observation(), {}

    def step(self, action):
        self.place += 1 if action == 1 else -1
        reward = {0: NEAR, LENGTH - 1: FAR}.get(self.place, 0.0)
        return self.observation(), reward, reward > 0, False, {}

    def observation(self):
        return np.eye(LENGTH, dtype=np.float32)[self.place]


def run(ent_coef: float | str, seed: int, timesteps: int) -> Run:
    env = make_vec_env(lambda: gym.wrappers.TimeLimit(NearAndFar(), 100), n_envs=8, seed=seed)
    model = PPO(
        "MlpPolicy",
        env,
        learning_rate=1e-3,
        n_steps=64,
        batch_size=256,
        gamma=0.95,
        ent_coef=ent_coef,
        seed=seed,
        device="cpu",
    )
    return train(model, timesteps, eval_episodes=0, variant=f"ent_coef {ent_coef}")


def main(argv: list[str] | None = None) -> None:
    args = arguments(__file__, "When does an entropy bonus help, and why anneal it?", seeds=5, argv=argv)
    timesteps = args.steps(24_000, quick=800)
    runs = {label: [run(ent_coef, seed, timesteps) for seed in args.seeds] for label, ent_coef in SETTINGS.items()}

    late = {label: [r.late_return for r in of_label] for label, of_label in runs.items()}
    found = {label: sum(value > (NEAR + FAR) / 2 for value in values) for label, values in late.items()}
    rows = [[label, with_interval(late[label], 2), f"{found[label]} of {len(args.seeds)}"] for label in SETTINGS]
    print_table(["entropy bonus", "late training return", "seeds that found the far reward"], rows)

    *fixed, annealed = SETTINGS
    for label in fixed:
        print(f"Annealed against {label}: {difference(late[annealed], late[label], 2)} ({args.n_seeds}).")

    figure, (axes,) = new_figure()
    draw_curves(axes, runs, timesteps)
    axes.set_title(f"near reward {NEAR:g}, far reward {FAR:g}")
    save(figure, args)


if __name__ == "__main__":
    main()
