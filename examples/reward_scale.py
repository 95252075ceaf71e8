"""
Does the scale of the rewards matter to PPO, and does normalising them help?

The rewards of Pendulum are multiplied by 0.01, 1 and 100, with and without SB3's VecNormalize. PPO standardises its
advantages, so the policy's loss does not depend on the scale. But the critic's loss grows with the square of the scale, and
both losses share one clipped gradient. Returns are always reported in the original unit.
"""

import gymnasium as gym
from shared import Run, arguments, difference, draw_curves, new_figure, print_table, save, train, with_interval
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

from sb3_pgx import PPO
from sb3_pgx.experiments.statistics import interquartile_mean

SCALES = (0.01, 1, 100)
WAYS = ("raw", "normalised")


def run(scale: float, normalized: bool, seed: int, timesteps: int) -> Run:
    env = make_vec_env(
        "Pendulum-v1",
        n_envs=8,
        seed=seed,
        wrapper_class=gym.wrappers.TransformReward,
        wrapper_kwargs={"func": lambda reward: scale * reward},
    )
    if normalized:
        env = VecNormalize(
            env, norm_obs=False, norm_reward=True, gamma=0.9
        )  # divides by the running standard deviation of the returns
    model = PPO("MlpPolicy", env, learning_rate=1e-3, n_steps=64, batch_size=128, gamma=0.9, seed=seed, device="cpu")
    way = "normalised" if normalized else "raw"
    return train(model, timesteps, eval_episodes=0, variant=f"rewards × {scale:g}, {way}")


def main(argv: list[str] | None = None) -> None:
    question = "Does the scale of the rewards matter to PPO, and does normalising them help?"
    args = arguments(__file__, question, seeds=3, argv=argv)
    timesteps = args.steps(24_000, quick=1_700)
    runs = {
        way: {f"rewards × {s:g}": [run(s, way == "normalised", seed, timesteps) for seed in args.seeds] for s in SCALES}
        for way in WAYS
    }

    late = {way: {scale: [r.late_return for r in of] for scale, of in by_scale.items()} for way, by_scale in runs.items()}
    rows = [[scale, *[with_interval(late[way][scale]) for way in WAYS]] for scale in late[WAYS[0]]]
    print_table(["late training return with", *WAYS], rows)

    gaps = []
    for way in WAYS:
        means = [float(interquartile_mean(values)) for values in late[way].values()]
        gaps.append(f"{way}, the best and the worst scale are {max(means) - min(means):.0f} apart")
    print(f"{'; '.join(gaps)} ({args.n_seeds}, {timesteps:,} steps).")
    for scale in late[WAYS[0]]:
        print(f"Normalising is worth, with {scale}: {difference(late['normalised'][scale], late['raw'][scale])}.")

    figure, panels = new_figure(len(WAYS))
    for axes, way in zip(panels, WAYS, strict=True):
        draw_curves(axes, runs[way], timesteps)
        axes.set_ylim(-1700, 0)
        axes.set_title(f"Pendulum-v1, rewards {way}")
    save(figure, args)


if __name__ == "__main__":
    main()
