"""
One environment or many? How fast, how good after the same number of steps, and how much the seeds differ.

Two ways to add environments: with the rollout kept at 1,024 steps altogether, so that each one's part is shorter; or with 128
steps of each, so that the rollout grows and there are fewer updates.
"""

import numpy as np
from shared import arguments, difference, draw_curves, new_figure, print_table, save, train, with_interval
from stable_baselines3.common.env_util import make_vec_env

from sb3_pgx import PPO

NUMBERS = (1, 8, 64)
ROLLOUTS = {
    "1,024 altogether": lambda n_envs: 1024 // n_envs,
    "128 of each": lambda n_envs: 128,
}


def run(n_envs: int, n_steps: int, seed: int, timesteps: int):
    env = make_vec_env("CartPole-v1", n_envs=n_envs, seed=seed)
    settings = dict(n_steps=n_steps, batch_size=128, n_epochs=10, learning_rate=1e-3)
    return train(PPO("MlpPolicy", env, **settings, seed=seed, device="cpu"), timesteps, eval_episodes=10)


def main(argv: list[str] | None = None) -> None:
    args = arguments(__file__, "One environment or many?", seeds=3, argv=argv)
    timesteps = args.steps(16_384, quick=1_024)
    runs = {
        (rollout, n_envs): [run(n_envs, n_steps(n_envs), seed, timesteps) for seed in args.seeds]
        for rollout, n_steps in ROLLOUTS.items()
        for n_envs in NUMBERS
    }
    returns = {key: [r.late_return for r in of_key] for key, of_key in runs.items()}
    speed = {key: timesteps / np.mean([r.seconds for r in of_key]) for key, of_key in runs.items()}

    rows = []
    for (rollout, n_envs), of_key in runs.items():
        key, n_updates = (rollout, n_envs), -(-timesteps // (n_envs * ROLLOUTS[rollout](n_envs)))
        numbers = [f"{speed[key]:,.0f}", with_interval(returns[key]), with_interval([r.final_return for r in of_key])]
        rows.append([str(n_envs), rollout, str(n_updates), *numbers])
    print_table(["environments", "steps of a rollout", "updates", "steps a second", "late return", "final return"], rows)

    kept, grown = ROLLOUTS
    few, usual, many = NUMBERS
    print(f"In the same rollout, {many} environments are {speed[kept, many] / speed[kept, few]:.1f} times as fast as one.")
    print(f"Late return with {many} minus that with one, same rollout: {difference(returns[kept, many], returns[kept, few])};")
    print(f"with {many} minus {usual}: {difference(returns[kept, many], returns[kept, usual])};")
    print(f"with {many} in a rollout that grew minus {usual}: {difference(returns[grown, many], returns[grown, usual])}.")
    print(f"Seeds {list(args.seeds)}, {timesteps:,} steps of CartPole-v1 each; late: training episodes of the last fifth.")

    figure, panels = new_figure(2)
    for axes, rollout in zip(panels, ROLLOUTS, strict=True):
        draw_curves(axes, {f"{n_envs} environments": runs[rollout, n_envs] for n_envs in NUMBERS}, timesteps)
        axes.set_title(f"{rollout} a rollout")
    save(figure, args)


if __name__ == "__main__":
    main()
