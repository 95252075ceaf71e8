"""
A discrete task: policy gradient or value-based method? And can I discretise a continuous action and use DQN?

The script compares SB3's DQN with ACER and PPO, on CartPole-v1 and on Pendulum-v1 with five levels of torque. A value-based
method learns from each step many times. PPO uses its data once, but its steps are cheap and it can use many environments, so
it is also trained with four times the steps.
"""

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from shared import arguments, difference, draw_curves, new_figure, print_table, save, train, with_interval
from stable_baselines3 import DQN
from stable_baselines3.common.env_util import make_vec_env

from sb3_pgx import ACER, PPO

LEVELS = 5


class Levels(gym.ActionWrapper):
    """Turn the torque into a choice of five numbers from -2 to 2."""

    def __init__(self, env: gym.Env):
        super().__init__(env)
        self.action_space = spaces.Discrete(LEVELS)

    def action(self, action):
        return np.linspace(-2, 2, LEVELS, dtype=np.float32)[[action]]


gym.register("PendulumLevels-v0", lambda **kwargs: Levels(gym.make("Pendulum-v1", **kwargs).unwrapped), max_episode_steps=200)

REPLAY = dict(buffer_size=50_000, learning_starts=1_000, batch_size=64, exploration_final_eps=0.04)
MORE = "PPO, 4 times the steps"
# For CartPole-v1, DQN has the settings of rl-baselines3-zoo except the network; ACER and PPO have those of zoo_configs/.
METHODS = {
    "CartPole-v1": {
        "DQN": (DQN, 1, dict(learning_rate=2.3e-3, train_freq=256, gradient_steps=128, target_update_interval=10, **REPLAY)),
        "ACER": (ACER, 8, dict(learning_rate="lin_0.008")),
        "PPO": (PPO, 8, dict(n_steps=32, batch_size=256, n_epochs=20, learning_rate="lin_0.001", gae_lambda=0.8, gamma=0.98)),
    },
    "PendulumLevels-v0": {
        "DQN": (DQN, 1, dict(learning_rate=2e-3, train_freq=4, gradient_steps=2, target_update_interval=200, **REPLAY)),
        "ACER": (ACER, 8, dict(learning_rate="lin_0.003")),
        "PPO": (PPO, 4, dict(n_steps=256, batch_size=64, n_epochs=10, learning_rate=1e-3, gamma=0.9)),
    },
}


def run(task: str, method: str, seed: int, timesteps: int, eval_episodes: int):
    algorithm, n_envs, settings = METHODS[task][method.partition(",")[0]]
    env = make_vec_env(task, n_envs=n_envs, seed=seed)
    model = algorithm("MlpPolicy", env, **settings, seed=seed, device="cpu")
    return train(model, timesteps, eval_episodes=eval_episodes, variant=f"{task}, {method}")


def main(argv: list[str] | None = None) -> None:
    args = arguments(__file__, "A discrete task: policy gradient or DQN?", seeds=2, argv=argv)
    timesteps = args.steps(15_000, quick=512)
    runs, rows = {}, []
    for task, methods in METHODS.items():
        for method in (*methods, MORE):
            steps = 4 * timesteps if method == MORE else timesteps
            of_method = runs[task, method] = [
                run(task, method, seed, steps, eval_episodes=1 if args.quick else 10) for seed in args.seeds
            ]
            seconds = f"{np.mean([r.seconds for r in of_method]):.1f}"
            rows.append([task, method, f"{steps:,}", with_interval([r.final_return for r in of_method]), seconds])
    print_table(["task", "method", "steps", "final return", "seconds"], rows)

    final = {key: [r.final_return for r in of_key] for key, of_key in runs.items()}
    for task in METHODS:
        print(f"{task}: DQN minus PPO in the same steps {difference(final[task, 'DQN'], final[task, 'PPO'])};")
        print(f"  DQN minus PPO with four times the steps {difference(final[task, 'DQN'], final[task, MORE])}.")
    print(f"DQN's network has one output per combination of levels: {LEVELS} for one torque, {LEVELS**6:,} for the 6 of "
          f"HalfCheetah, {LEVELS**17:.1e} for the 17 of Humanoid.")  # fmt: skip
    print(f"Seeds {list(args.seeds)}.")

    figure, panels = new_figure(2)
    for axes, task in zip(panels, METHODS, strict=True):
        draw_curves(axes, {method: runs[task, method] for method in METHODS[task]}, timesteps)
        axes.set_title(task)
    save(figure, args)


if __name__ == "__main__":
    main()
