"""
What do action masks and memory add, and when does a task need both?

A cue is shown in the first step. After a delay, 4 of 16 answers are valid, one for each cue, and the right one means the cue
that was shown. The observations no longer show the cue, and never which answers are valid. A policy without memory has to
guess the cue, and one without masks has to guess which answer counts: each alone is right in 1 of 4 episodes.
"""

from shared import Run, arguments, difference, draw_curves, new_figure, print_table, save, train, with_interval

import sb3_pgx.tasks  # noqa: F401  # registers the environment
from sb3_pgx import PPO
from sb3_pgx.environments import make_vec_env

SETTINGS = {
    "masks and memory": ("MlpLstmPolicy", True),
    "memory alone": ("MlpLstmPolicy", False),
    "masks alone": ("MlpPolicy", True),
}


def run(policy: str, use_masking: bool, seed: int, timesteps: int) -> Run:
    env = make_vec_env("MaskedRecall-v0", n_envs=16, seed=seed)
    model = PPO(
        policy,
        env,
        learning_rate=3e-3,
        n_steps=32,
        batch_size=128,
        ent_coef=0.01,
        policy_kwargs=dict(lstm_hidden_size=32) if "Lstm" in policy else {},
        seed=seed,
        device="cpu",
    )
    variant = f"{policy}, {'with' if use_masking else 'without'} masks"
    return train(model, timesteps, eval_episodes=0, variant=variant, use_masking=use_masking)


def main(argv: list[str] | None = None) -> None:
    args = arguments(__file__, "What do action masks and memory add?", seeds=3, argv=argv)
    timesteps = args.steps(40_000, quick=1_500)
    runs = {label: [run(*setting, seed, timesteps) for seed in args.seeds] for label, setting in SETTINGS.items()}

    late = {label: [r.late_return for r in of_label] for label, of_label in runs.items()}
    print_table(["policy", "share of right answers, late in training"], [[k, with_interval(v, 2)] for k, v in late.items()])

    both, *alone = SETTINGS
    for label in alone:
        print(f"Both against {label}: {difference(late[both], late[label], 2)} ({args.n_seeds}).")

    figure, (axes,) = new_figure()
    draw_curves(axes, runs, timesteps)
    axes.set(ylabel="share of right answers", title="1 of 4 is right by guessing")
    save(figure, args)


if __name__ == "__main__":
    main()
