"""
Which batch size for PPO, and should advantages be normalised?

With smaller minibatches, there are more gradient steps per rollout: the policy learns more from the same data, and training
takes longer. The learning rate is the same for all batch sizes, so with larger batches the policy moves less. Each batch size
is trained with and without standardising the advantages over the minibatch. Standardising makes the scale of the policy's
gradient independent of the scale of the rewards.
"""

from shared import Run, arguments, difference, draw_curves, new_figure, print_table, save, train, with_interval
from stable_baselines3.common.env_util import make_vec_env

from sb3_pgx import PPO
from sb3_pgx.experiments.statistics import interquartile_mean

BATCH_SIZES = (32, 128, 512)  # of the 512 rows of a rollout
WAYS = {"normalised": True, "as they are": False}


def run(batch_size: int, normalize: bool, seed: int, timesteps: int) -> Run:
    env = make_vec_env("CartPole-v1", n_envs=8, seed=seed)
    model = PPO(
        "MlpPolicy",
        env,
        n_steps=64,
        batch_size=batch_size,
        normalize_advantage=normalize,
        seed=seed,
        device="cpu",
    )
    way = "normalised" if normalize else "as they are"
    return train(model, timesteps, eval_episodes=0, variant=f"batch {batch_size}, advantages {way}")


def main(argv: list[str] | None = None) -> None:
    args = arguments(__file__, "Which batch size for PPO, and should advantages be normalised?", seeds=3, argv=argv)
    timesteps = args.steps(18_000, quick=800)
    runs = {
        way: {f"batch {size}": [run(size, normalize, seed, timesteps) for seed in args.seeds] for size in BATCH_SIZES}
        for way, normalize in WAYS.items()
    }

    late = {way: {size: [r.late_return for r in of] for size, of in by_size.items()} for way, by_size in runs.items()}
    rows = []
    for size, of_size in runs["normalised"].items():
        seconds = sum(r.seconds for r in of_size) / len(of_size)
        rows.append([size, *[with_interval(late[way][size]) for way in WAYS], f"{seconds:.1f}"])
    print_table(["late training return with", *[f"advantages {way}" for way in WAYS], "seconds per run"], rows)

    best = max(late["normalised"], key=lambda size: interquartile_mean(late["normalised"][size]))
    print(f"With normalised advantages, {best} learned most in {timesteps:,} steps ({args.n_seeds}).")
    for size in late["normalised"]:
        print(f"Normalising is worth, with {size}: {difference(late['normalised'][size], late['as they are'][size])}.")

    figure, panels = new_figure(len(WAYS))
    for axes, way in zip(panels, WAYS, strict=True):
        draw_curves(axes, runs[way], timesteps)
        axes.set_ylim(0, 510)
        axes.set_title(f"CartPole-v1, advantages {way}")
    save(figure, args)


if __name__ == "__main__":
    main()
