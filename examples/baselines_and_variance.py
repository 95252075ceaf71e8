"""
What does a baseline do for REINFORCE?

A baseline is subtracted from the return. It lowers the variance of the gradient and does not change its expectation. (The mean
over all episodes is an exception: each episode is part of it, so it shortens the gradient a little.) The first column of the
table shows the variance: all baselines get the same episodes of one fixed policy. The second column shows the return of a
training run with each baseline.
"""

from shared import Run, arguments, difference, draw_curves, new_figure, print_table, save, train, with_interval
from stable_baselines3.common.env_util import make_vec_env

from benchmarks.claims.gradient_variance import LEARNED, relative_variances
from sb3_pgx import REINFORCE, REINFORCEBaseline
from sb3_pgx.experiments.statistics import interquartile_mean
from sb3_pgx.pages.looks import COLORS

BASELINES = {"none": None, "mean": "mean", "leave-one-out": "loo", "optimal": "optimal", "learned V(s)": LEARNED}


def run(baseline: str | None, seed: int, timesteps: int) -> Run:
    env = make_vec_env("CartPole-v1", n_envs=8, seed=seed)
    settings = dict(learning_rate=5e-3, gamma=0.99, n_episodes=1, max_grad_norm=1.0, seed=seed, device="cpu")
    if baseline == LEARNED:
        model = REINFORCEBaseline("MlpPolicy", env, **settings)
    else:
        model = REINFORCE("MlpPolicy", env, baseline=baseline, **settings)
    return train(model, timesteps, eval_episodes=0, variant=f"baseline {baseline or 'none'}")


def main(argv: list[str] | None = None) -> None:
    args = arguments(__file__, "What does a baseline do for REINFORCE?", seeds=3, argv=argv)
    timesteps = args.steps(40_000, quick=600)
    timesteps_before, gradients = args.steps(10_000, 500), 4 if args.quick else 40

    # Relative to the variance without a baseline.
    variances = [relative_variances("CartPole-v1", timesteps_before, gradients, seed) for seed in args.seeds]
    relative = {label: [v.get(str(key), 1.0) for v in variances] for label, key in BASELINES.items()}
    runs = {label: [run(key, seed, timesteps) for seed in args.seeds] for label, key in BASELINES.items()}

    header = ["baseline", "variance of the gradient", "late training return"]
    late = {label: [r.late_return for r in of_label] for label, of_label in runs.items()}
    print_table(header, [[label, with_interval(relative[label], 2), with_interval(late[label])] for label in BASELINES])

    least = min(relative, key=lambda label: interquartile_mean(relative[label]))
    best = max(late, key=lambda label: interquartile_mean(late[label]))
    print(
        f"Of the gradient's variance without a baseline, {least} leaves {100 * interquartile_mean(relative[least]):.0f} %, "
        f"the least ({args.n_seeds}).\nAfter {timesteps:,} steps, {best} had the highest return, by "
        f"{difference(late[best], late['none'])} more than without."
    )

    figure, (spread, curves) = new_figure(2)
    spread.bar(list(relative), [interquartile_mean(v) for v in relative.values()], color=COLORS[: len(relative)])
    spread.tick_params(axis="x", rotation=20)
    spread.set_ylabel("variance of the gradient (1: without a baseline)")
    draw_curves(curves, runs, timesteps)
    curves.set_title("training on CartPole-v1")
    save(figure, args)


if __name__ == "__main__":
    main()
