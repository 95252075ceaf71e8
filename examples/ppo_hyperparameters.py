"""
Which of PPO's hyperparameters matter on LunarLander?

Each row of the table changes one setting of the first row. The budget is small (solving LunarLander takes a million steps), so
the numbers show how fast a policy learns at first. If the interval in the last column contains 0, the difference from the
first row may be due to chance, and more seeds are needed.
"""

from shared import Run, arguments, difference, direction, draw_curves, new_figure, print_table, save, train, with_interval
from stable_baselines3.common.env_util import make_vec_env

from sb3_pgx import PPO

BASE = dict(n_steps=64, batch_size=64, n_epochs=4, gamma=0.999, gae_lambda=0.98, clip_range=0.2, ent_coef=0.01)
FIRST = "clip 0.2, 4 epochs, λ 0.98"
VARIANTS = {
    FIRST: {},
    "clip 0.05": {"clip_range": 0.05},
    "clip 0.5": {"clip_range": 0.5},
    "1 epoch": {"n_epochs": 1},
    "12 epochs": {"n_epochs": 12},
    "λ 0.8": {"gae_lambda": 0.8},
    "λ 1": {"gae_lambda": 1.0},
}
GROUPS = {"clip range": 1, "epochs": 3, "λ": 5}  # index of each group's first variant


def run(change: dict, seed: int, timesteps: int) -> Run:
    env = make_vec_env("LunarLander-v3", n_envs=8, seed=seed)
    model = PPO("MlpPolicy", env, **{**BASE, **change}, seed=seed, device="cpu")
    variant = ", ".join(f"{name} {value}" for name, value in change.items()) or FIRST
    return train(model, timesteps, eval_episodes=0, variant=variant)


def main(argv: list[str] | None = None) -> None:
    args = arguments(__file__, "Which of PPO's hyperparameters matter on LunarLander?", seeds=3, argv=argv)
    timesteps = args.steps(24_000, quick=1_000)
    runs = {label: [run(change, seed, timesteps) for seed in args.seeds] for label, change in VARIANTS.items()}

    late = {label: [r.late_return for r in of_label] for label, of_label in runs.items()}
    rows = [[label, with_interval(late[label]), difference(late[label], late[FIRST])] for label in VARIANTS]
    rows[0][2] = "–"
    print_table(["setting", "late training return", "difference from the first row"], rows)

    better, worse = ([label for label in VARIANTS if direction(late[label], late[FIRST]) == sign] for sign in (1, -1))
    print(f"With {args.n_seeds} and {timesteps:,} steps, better than the first row: {', '.join(better) or 'none'};")
    print(f"worse: {', '.join(worse) or 'none'}. Intervals from so few seeds are too narrow: a hint, not a proof.")

    figure, panels = new_figure(len(GROUPS))
    labels = list(VARIANTS)
    for axes, (group, start) in zip(panels, GROUPS.items(), strict=True):
        draw_curves(axes, {label: runs[label] for label in [FIRST, *labels[start : start + 2]]}, timesteps)
        axes.set_title(group)
    save(figure, args)


if __name__ == "__main__":
    main()
