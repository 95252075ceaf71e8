"""
How much does PPO's learning rate matter, and is the best one the same for discrete and continuous actions?

The same learning rates are tried on CartPole (Discrete) and Pendulum (Box). Below the best one, the policy learns too slowly
for the budget. Above it, the steps are so large that the collected data say little about the new policy.
"""

from shared import Run, arguments, draw_curves, new_figure, print_table, save, train, with_interval
from stable_baselines3.common.env_util import make_vec_env

from sb3_pgx import PPO
from sb3_pgx.experiments.statistics import interquartile_mean

RATES = (1e-4, 1e-3, 3e-3, 1e-2)
TASKS = {"CartPole-v1": 0.98, "Pendulum-v1": 0.9}  # discount factor of each task


def run(env_id: str, rate: float, seed: int, timesteps: int) -> Run:
    env = make_vec_env(env_id, n_envs=8, seed=seed)
    settings = dict(n_steps=64, batch_size=128, gamma=TASKS[env_id], seed=seed, device="cpu")
    model = PPO("MlpPolicy", env, learning_rate=rate, **settings)
    return train(model, timesteps, eval_episodes=0, variant=f"{env_id}, learning rate {rate:g}")


def nearly_best(values: dict[float, float]) -> list[float]:
    """Return the rates that reach at least 90 % of the way from the worst to the best return."""
    low, high = min(values.values()), max(values.values())
    return [rate for rate, value in values.items() if value >= high - 0.1 * (high - low)]


def main(argv: list[str] | None = None) -> None:
    args = arguments(__file__, "How much does PPO's learning rate matter?", seeds=3, argv=argv)
    timesteps = args.steps(18_000, quick=1_700)
    runs = {task: {rate: [run(task, rate, s, timesteps) for s in args.seeds] for rate in RATES} for task in TASKS}

    late = {task: {rate: [r.late_return for r in of] for rate, of in by_rate.items()} for task, by_rate in runs.items()}
    rows = [[f"{rate:g}", *[with_interval(late[task][rate]) for task in TASKS]] for rate in RATES]
    print_table(["learning rate", *[f"late training return, {task}" for task in TASKS]], rows)
    for task in TASKS:
        means = {rate: float(interquartile_mean(values)) for rate, values in late[task].items()}
        good = ", ".join(f"{rate:g}" for rate in nearly_best(means))
        best = max(means, key=means.get)
        print(f"{task}: best {best:g}; at least 90 % of the way from worst to best: {good} ({args.n_seeds}).")

    figure, panels = new_figure(len(TASKS))
    for axes, task in zip(panels, TASKS, strict=True):
        draw_curves(axes, {f"{rate:g}": of for rate, of in runs[task].items()}, timesteps)
        axes.set_title(task)
    save(figure, args)


if __name__ == "__main__":
    main()
