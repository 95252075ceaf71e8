"""
What changes if I import PPO from sb3_pgx instead of SB3?

Both train with the same arguments and the same seed, one after the other. This package draws the same random numbers as SB3 in
the same order, so the episodes are identical until rounding errors change an action; only the speed differs. The update is
compiled if the run is long enough (compile="auto"), which takes some seconds once.
"""

import numpy as np
import stable_baselines3 as sb3
from shared import Run, arguments, draw_curves, new_figure, print_table, save, train, with_interval
from stable_baselines3.common.env_util import make_vec_env

import sb3_pgx
from sb3_pgx.pages.looks import COLORS

LIBRARIES = {"SB3's PPO": sb3.PPO, "ours": sb3_pgx.PPO}


def run(PPO, seed: int, timesteps: int, eval_episodes: int) -> Run:
    env = make_vec_env("CartPole-v1", n_envs=8, seed=seed)
    model = PPO("MlpPolicy", env, n_steps=128, batch_size=64, seed=seed, device="cpu")
    return train(model, timesteps, eval_episodes=eval_episodes, variant=f"PPO of {PPO.__module__.partition('.')[0]}")


def equal_episodes(a: Run, b: Run) -> int:
    """Return the number of episodes from the start that have the same return."""
    n = min(len(a.returns), len(b.returns))
    different = np.flatnonzero(a.returns[:n] != b.returns[:n])
    return int(different[0]) if len(different) else n


def main(argv: list[str] | None = None) -> None:
    args = arguments(__file__, "What changes if I import PPO from sb3_pgx instead of SB3?", seeds=1, argv=argv)
    timesteps = args.steps(100_000, quick=2_000)

    runs: dict[str, list[Run]] = {label: [] for label in LIBRARIES}
    for seed in args.seeds:
        for label, PPO in LIBRARIES.items():  # in turn, so that the load of the machine affects both
            runs[label].append(run(PPO, seed, timesteps, eval_episodes=2 if args.quick else 20))

    rows = []
    for label, of_label in runs.items():
        seconds = sum(r.seconds for r in of_label)
        final = with_interval([r.final_return for r in of_label])
        rows.append([label, f"{seconds:.1f}", f"{timesteps * len(of_label) / seconds:,.0f}", final])
    print_table(["PPO", "seconds", "steps per second", "final return"], rows)

    theirs, ours = runs.values()
    ratio = sum(r.seconds for r in theirs) / sum(r.seconds for r in ours)
    same = [equal_episodes(a, b) for a, b in zip(theirs, ours, strict=True)]
    print(f"Ours trained {ratio:.1f} times as fast, compiling included ({args.n_seeds}, {timesteps:,} steps each).")
    print(f"From the start, {same} episodes of {[len(r.returns) for r in ours]} have exactly the same return, by seed.")

    figure, (curve, clock) = new_figure(2)
    draw_curves(curve, runs, timesteps)
    curve.set_title("CartPole-v1, same seeds")
    clock.bar(list(runs), [sum(r.seconds for r in of_label) / len(of_label) for of_label in runs.values()], color=COLORS[:2])
    clock.set_ylabel("seconds per run")
    clock.set_title(f"{ratio:.1f} times as fast")
    save(figure, args)


if __name__ == "__main__":
    main()
