"""
One environment or many? The script compares speed, return after the same number of steps, and the spread over seeds.

There are two ways to add environments. With 1,024 steps per rollout in total, each environment contributes fewer steps. With
128 steps per environment, the rollout grows and there are fewer updates.
"""

import math

import numpy as np
from shared import arguments, difference, new_figure, print_table, save, train, with_interval
from stable_baselines3.common.env_util import make_vec_env

from sb3_pgx import PPO

NUMBERS = (1, 8, 64)
ROLLOUTS = {
    "1,024 in total": lambda n_envs: 1024 // n_envs,
    "128 per environment": lambda n_envs: 128,
}


def run(rollout: str, n_envs: int, seed: int, timesteps: int, quick: bool):
    env = make_vec_env("CartPole-v1", n_envs=n_envs, seed=seed)
    n_steps = ROLLOUTS[rollout](n_envs)
    settings = dict(n_steps=n_steps, batch_size=128, n_epochs=1 if quick else 10, learning_rate=1e-3)
    model = PPO("MlpPolicy", env, **settings, seed=seed, device="cpu")
    variant = f"environments: {n_envs}, steps per rollout: {rollout}"
    return train(model, timesteps, eval_episodes=1 if quick else 10, variant=variant)


def main(argv: list[str] | None = None) -> None:
    args = arguments(__file__, "One environment or many?", seeds=3, argv=argv)
    timesteps = args.steps(16_384, quick=1_024)
    runs = {
        (rollout, n_envs): [run(rollout, n_envs, seed, timesteps, args.quick) for seed in args.seeds]
        for rollout in ROLLOUTS
        for n_envs in NUMBERS
    }
    # Evaluate after training: with many environments, each has too few steps for a long training episode.
    final = {key: [r.final_return for r in of_key] for key, of_key in runs.items()}
    speed = {key: timesteps / np.mean([r.seconds for r in of_key]) for key, of_key in runs.items()}

    rows = []
    for rollout, n_envs in runs:
        key, n_updates = (rollout, n_envs), math.ceil(timesteps / (n_envs * ROLLOUTS[rollout](n_envs)))
        rows.append([str(n_envs), rollout, str(n_updates), f"{speed[key]:,.0f}", with_interval(final[key])])
    print_table(["environments", "steps per rollout", "updates", "steps per second", "final return"], rows)

    kept, grown = ROLLOUTS
    few, usual, many = NUMBERS
    print(f"With the same rollout, {many} environments are {speed[kept, many] / speed[kept, few]:.1f} times as fast as one.")
    print(f"Final return with {many} minus that with one, same rollout: {difference(final[kept, many], final[kept, few])};")
    print(f"with {many} minus {usual}: {difference(final[kept, many], final[kept, usual])};")
    print(f"with {many} and a larger rollout minus {usual}: {difference(final[grown, many], final[grown, usual])}.")
    print(f"Seeds {list(args.seeds)}, {timesteps:,} steps of CartPole-v1 each.")

    figure, (clock, outcome) = new_figure(2)
    for rollout in ROLLOUTS:
        clock.plot(NUMBERS, [speed[rollout, n_envs] for n_envs in NUMBERS], "o-", label=rollout)
        (line,) = outcome.plot(NUMBERS, [np.mean(final[rollout, n_envs]) for n_envs in NUMBERS], label=f"mean, {rollout}")
        outcome.plot(NUMBERS, [final[rollout, n_envs] for n_envs in NUMBERS], "o", color=line.get_color())
    for axes, label in ((clock, "steps per second"), (outcome, "final return, one point per seed")):
        axes.set(xscale="log", xlabel="environments", ylabel=label)
        axes.minorticks_off()
        axes.set_xticks(NUMBERS, list(map(str, NUMBERS)))
        axes.legend(frameon=False, fontsize="small", title="steps per rollout")
    save(figure, args)


if __name__ == "__main__":
    main()
