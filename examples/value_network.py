"""
How large should the value network be, and how much does it help?

V(s) serves as a baseline. The better it predicts the returns (explained variance), the less noise the policy's gradient has.
The gradient noise scale measures this: it is the number of rows at which a minibatch's gradient has as much signal as noise.
The policy's network is the same in all runs.
"""

import numpy as np
from shared import arguments, difference, draw_curves, new_figure, print_table, save, train, with_interval
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

from sb3_pgx import PPO
from sb3_pgx.diagnostics import DiagnosticsCallback

CRITICS = {
    "not trained": dict(vf=[64, 64]),
    "linear": dict(vf=[]),
    "4": dict(vf=[4]),
    "64, 64": dict(vf=[64, 64]),
    "256, 256": dict(vf=[256, 256]),
}
MEASURED = ("explained_variance", "gradient_noise_scale")


def run(critic: str, seed: int, timesteps: int, eval_episodes: int):
    """Train, and return the run and the median over its updates of each metric."""
    # Rewards of order 1, so that even a small network can reach the returns.
    env = VecNormalize(make_vec_env("CartPole-v1", n_envs=8, seed=seed), norm_obs=False)
    net_arch = dict(pi=[64, 64], **CRITICS[critic])
    vf_coef = 0.0 if critic == "not trained" else 0.5
    settings = dict(n_steps=128, batch_size=256, learning_rate=1e-3, vf_coef=vf_coef, policy_kwargs=dict(net_arch=net_arch))
    model = PPO("MlpPolicy", env, **settings, seed=seed, device="cpu")
    diagnostics = DiagnosticsCallback(metrics=MEASURED, costly_every=1)
    training = train(model, timesteps, [diagnostics], eval_episodes, variant=f"value network: {critic}")
    return training, [float(np.median([update[name] for update in diagnostics.history])) for name in MEASURED]


def main(argv: list[str] | None = None) -> None:
    args = arguments(__file__, "How large should the value network be, and how much does it help?", seeds=4, argv=argv)
    timesteps = args.steps(15_000, quick=1_024)

    runs: dict[str, list] = {critic: [] for critic in CRITICS}
    explained: dict[str, list[float]] = {critic: [] for critic in CRITICS}
    noise: dict[str, list[float]] = {critic: [] for critic in CRITICS}
    for critic in CRITICS:
        for seed in args.seeds:
            training, (ev, rows) = run(critic, seed, timesteps, eval_episodes=1 if args.quick else 10)
            runs[critic].append(training)
            explained[critic].append(ev)
            noise[critic].append(rows)

    rows = []
    for critic in CRITICS:
        final = with_interval([r.final_return for r in runs[critic]])
        rows.append([critic, with_interval(explained[critic], 2), with_interval(noise[critic], 0), final])
    print_table(["value network", "explained variance", "gradient noise scale (rows)", "final return"], rows)
    print("(Explained variance and noise scale: medians over the updates of each run.)")

    returns = {critic: [r.final_return for r in of_critic] for critic, of_critic in runs.items()}
    print(
        f"Return with the usual network minus that without a critic: {difference(returns['64, 64'], returns['not trained'])}."
    )
    print(f"Return with 256, 256 minus that with 64, 64: {difference(returns['256, 256'], returns['64, 64'])}.")
    best = max(CRITICS, key=lambda critic: float(np.mean(explained[critic])))
    print(f"The largest explained variance: {best}. Seeds {list(args.seeds)}, {timesteps:,} steps each.")

    figure, (scatter, curves) = new_figure(2)
    for critic in CRITICS:
        scatter.scatter(explained[critic], noise[critic], label=critic)
    scatter.set(xlabel="explained variance", ylabel="gradient noise scale (rows)", yscale="log", title="one point per seed")
    scatter.legend(frameon=False, fontsize="small", title="value network")
    draw_curves(curves, runs, timesteps)
    save(figure, args)


if __name__ == "__main__":
    main()
