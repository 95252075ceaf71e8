"""
How does PPO learn to swing up a pendulum, and how does its action distribution change?

A mean return above −200 is good. The policy is a Gaussian over the torque. With generalised state-dependent exploration
(``use_sde=True``), both its mean and its standard deviation depend on the state. The picture shows maps of the mean torque
over angle and velocity during training.
"""

import numpy as np
import torch as th
from shared import Run, arguments, draw_curves, new_figure, print_table, save, train, with_interval
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env

from sb3_pgx import PPO

ANGLES, VELOCITIES = np.linspace(-np.pi, np.pi, 41), np.linspace(-8, 8, 33)
GOOD = -200


class ActionDistribution(BaseCallback):
    """Keep maps of the mean torque over angle and velocity, and the mean standard deviation, during training."""

    def __init__(self, timesteps: int):
        super().__init__()
        self.due = [0, 0.15 * timesteps, 0.4 * timesteps]
        self.kept: list[tuple[int, np.ndarray, float]] = []
        angle, velocity = np.meshgrid(ANGLES, VELOCITIES)
        self.grid = np.stack([np.cos(angle), np.sin(angle), velocity], axis=-1).reshape(-1, 3).astype(np.float32)

    def _on_rollout_start(self) -> None:
        if self.due and self.num_timesteps >= self.due[0]:
            self.keep()

    def keep(self) -> None:
        del self.due[:1]
        with th.no_grad():
            gaussian = self.model.policy.get_distribution(th.as_tensor(self.grid)).distribution
        mean = gaussian.mean.numpy().reshape(len(VELOCITIES), len(ANGLES)).clip(-2, 2)
        self.kept.append((self.num_timesteps, mean, float(gaussian.stddev.mean())))

    def _on_step(self) -> bool:
        return True

    def _on_training_end(self) -> None:
        self.keep()


def run(seed: int, timesteps: int, eval_episodes: int) -> tuple[Run, ActionDistribution]:
    env = make_vec_env("Pendulum-v1", n_envs=4, seed=seed)
    settings = dict(learning_rate=1e-3, n_steps=1024, gamma=0.9, use_sde=True, sde_sample_freq=4)  # as in rl-baselines3-zoo
    model = PPO("MlpPolicy", env, **settings, seed=seed, device="cpu")
    watch = ActionDistribution(timesteps)
    return train(model, timesteps, callbacks=[watch], eval_episodes=eval_episodes, variant="PPO"), watch


def main(argv: list[str] | None = None) -> None:
    question = "How does PPO learn to swing up a pendulum, and how does its action distribution change?"
    args = arguments(__file__, question, seeds=3, argv=argv)
    timesteps = args.steps(100_000)
    episodes = 10 if args.quick else 100
    runs, watches = zip(*[run(seed, timesteps, episodes) for seed in args.seeds], strict=True)

    kept = watches[0].kept
    spread = [f"{np.abs(mean).mean():.2f}" for _, mean, _ in kept]
    rows = [[f"{steps:,}", s, f"{std:.2f}"] for (steps, _, std), s in zip(kept, spread, strict=True)]
    print_table(["steps", "mean absolute torque over the states", "mean standard deviation"], rows)
    finals = [r.final_return for r in runs]
    good = sum(final > GOOD for final in finals)
    print(f"Return of {episodes} episodes: {with_interval(finals)}; {good} of {args.n_seeds} above {GOOD}.")
    print(f"The mean standard deviation went from {kept[0][2]:.2f} to {kept[-1][2]:.2f}.")

    figure, panels = new_figure(len(kept) + 1)
    for axes, (steps, mean, std) in zip(panels, kept, strict=False):
        image = axes.pcolormesh(np.degrees(ANGLES), VELOCITIES, mean, cmap="RdBu", vmin=-2, vmax=2)
        axes.grid(False)
        axes.set_title(f"{steps:,} steps: σ = {std:.2f}")
        axes.set_xlabel("angle from upright, degrees")
        axes.set_ylabel("angular velocity, rad/s")
    figure.colorbar(image, ax=panels, label="mean torque, N m")
    draw_curves(panels[-1], {f"PPO, {args.n_seeds}": runs}, timesteps)
    panels[-1].axhline(GOOD, color="0.4", linestyle="--", linewidth=1)
    save(figure, args)


if __name__ == "__main__":
    main()
