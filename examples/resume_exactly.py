"""
Does a run that was interrupted end as if it had not been? The script continues one from a checkpoint with resume, and from a
saved model with load.

    python examples/resume_exactly.py
"""

import tempfile
from pathlib import Path

import numpy as np
import torch as th
from shared import announce, arguments, new_figure, print_table, save
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from sb3_pgx import PPO
from sb3_pgx.checkpoints import CheckpointCallback, newest_checkpoint

TIMESTEPS = 40_000


class Interrupted(Exception):
    """Raised in the middle of a run, as if the machine had failed."""


class Parameters(BaseCallback):
    """Keep the parameters after each update, by the number of steps, and interrupt the run if asked to."""

    def __init__(self, stop_after: int | None = None):
        super().__init__()
        self.stop_after = stop_after
        self.kept: dict[int, th.Tensor] = {}

    def _on_step(self) -> bool:
        if self.stop_after is not None and self.num_timesteps >= self.stop_after:
            raise Interrupted
        return True

    def on_update_end(self, metrics: dict[str, float]) -> None:
        """Keep the parameters."""
        parameters = th.nn.utils.parameters_to_vector(self.model.policy.parameters())
        self.kept[self.model.num_timesteps] = parameters.detach().clone()


def environments() -> VecEnv:
    """Return the environments of every run."""
    return VecNormalize(make_vec_env("CartPole-v1", n_envs=4, seed=0))


def distances(parameters: dict[int, th.Tensor], whole: dict[int, th.Tensor]) -> tuple[list[int], list[float]]:
    """Return steps, and the largest difference between a parameter then and that of the uninterrupted run."""
    steps = sorted(parameters.keys() & whole.keys())
    return steps, [float((parameters[t] - whole[t]).abs().max()) for t in steps]


def main() -> None:
    args = arguments(__file__, "Does a run that was interrupted end as if it had not been?", seeds=1)
    timesteps = args.steps(TIMESTEPS, 4_000)

    def model() -> PPO:
        return PPO("MlpPolicy", environments(), n_steps=128, seed=0, device="cpu", learning_rate="lin_0.001")

    whole, resumed, loaded = Parameters(), Parameters(), Parameters()
    announce("the whole run", 0)
    model().learn(timesteps, callback=whole)
    with tempfile.TemporaryDirectory() as folder:
        announce("interrupted", 0)
        try:
            model().learn(timesteps, callback=[CheckpointCallback(timesteps // 20, folder), Parameters(timesteps // 2)])
        except Interrupted:
            print(f"interrupted after {timesteps // 2:,} steps; newest checkpoint: {Path(newest_checkpoint(folder)).name}\n")
        checkpoint = newest_checkpoint(folder)
        announce("continued with resume", 0)
        PPO.resume(folder, environments(), device="cpu").learn(timesteps, callback=resumed)
        announce("continued with load", 0)
        again = PPO.load(checkpoint, environments(), device="cpu")
        again.learn(timesteps - again.num_timesteps, callback=loaded, reset_num_timesteps=False)

    results = {"resume": distances(resumed.kept, whole.kept), "load": distances(loaded.kept, whole.kept)}
    print_table(
        ["continued with", "iterations after the checkpoint", "largest difference at the end"],
        [[name, str(len(steps)), f"{far[-1]:.2g}"] for name, (steps, far) in results.items()],
    )
    print("The parameters after resume are", "exactly" if not any(results["resume"][1]) else "not", "those of the whole run.")

    figure, (axes,) = new_figure()
    for name, (steps, far) in results.items():
        axes.plot(np.array(steps), far, "o-", label=name)
    axes.set(xlabel="environment steps", ylabel="largest difference between two parameters")
    axes.legend(frameon=False, title="continued with")
    save(figure, args)


if __name__ == "__main__":
    main()
