"""
What does ACER gain from its memory?

replay_ratio is the mean number of updates from the memory per rollout. With 0 there is no memory, and ACER learns from every
transition once, as A2C does. The learning rate is that of zoo_configs/acer.yml in all runs.
"""

import numpy as np
from shared import arguments, difference, draw_curves, new_figure, print_table, save, train, with_interval
from stable_baselines3.common.env_util import make_vec_env

from sb3_pgx import ACER

RATIOS = (0, 1, 4)


def run(replay_ratio: int, seed: int, timesteps: int, eval_episodes: int):
    env = make_vec_env("CartPole-v1", n_envs=8, seed=seed)
    model = ACER("MlpPolicy", env, learning_rate="lin_0.008", replay_ratio=replay_ratio, seed=seed, device="cpu")
    return train(model, timesteps, eval_episodes=eval_episodes, variant=f"replay_ratio {replay_ratio}")


def steps_to(run, threshold: float, episodes: int = 20) -> float:
    """Return the environment steps until the mean of consecutive training episodes reaches a threshold; infinite if never."""
    if len(run.returns) < episodes:
        return np.inf
    means = np.convolve(run.returns, np.ones(episodes) / episodes, "valid")
    reached = np.flatnonzero(means >= threshold)
    return float(run.steps[reached[0] + episodes - 1]) if len(reached) else np.inf


def main(argv: list[str] | None = None) -> None:
    args = arguments(__file__, "What does ACER gain from its memory?", seeds=5, argv=argv)
    timesteps = args.steps(20_000, quick=1_500)
    eval_episodes = 1 if args.quick else 10
    runs = {ratio: [run(ratio, seed, timesteps, eval_episodes) for seed in args.seeds] for ratio in RATIOS}
    returns = {ratio: [r.late_return for r in of_ratio] for ratio, of_ratio in runs.items()}

    rows = []
    for ratio, of_ratio in runs.items():
        reached = [steps_to(r, 200.0) for r in of_ratio]
        steps = f"{np.median(reached):,.0f}" if np.isfinite(np.median(reached)) else "not reached"
        seconds = np.mean([r.seconds for r in of_ratio])
        final = with_interval([r.final_return for r in of_ratio])
        rows.append([str(ratio), steps, with_interval(returns[ratio]), final, f"{timesteps / seconds:,.0f}"])
    print_table(["replay_ratio", "steps to 200 (median)", "late return", "final return", "steps per second"], rows)

    none, some, most = RATIOS
    slower = np.mean([r.seconds for r in runs[most]]) / np.mean([r.seconds for r in runs[none]])
    print(f"Late return with {most} replays minus that without: {difference(returns[most], returns[none])};")
    print(f"with {most} minus that with {some}: {difference(returns[most], returns[some])}.")
    print(f"A step with {most} replays costs {slower:.1f} times as much. Seeds {list(args.seeds)}, {timesteps:,} steps each.")

    figure, (curves, clock) = new_figure(2)
    labels = {ratio: f"replay_ratio={ratio}" for ratio in RATIOS}
    draw_curves(curves, {labels[ratio]: of_ratio for ratio, of_ratio in runs.items()}, timesteps)
    clock.bar(list(labels.values()), [np.mean([r.seconds for r in of_ratio]) for of_ratio in runs.values()])
    clock.set_ylabel("seconds per run")
    save(figure, args)


if __name__ == "__main__":
    main()
