"""
Clip, penalty or trust region: how far does an update move the policy, and which one learns better?

All three keep the new policy near the one that collected the data. PPO gives no gradient to ratios beyond 1 ± 0.2, PPOPenalty
adds a KL penalty with an adaptive weight, and TRPO bounds the KL divergence. The fourth method, PPO with a clip range of 5,
has no effective limit. DiagnosticsCallback measures the same numbers for all four.
"""

import numpy as np
from shared import arguments, difference, draw_curves, new_figure, print_table, save, train, with_interval
from stable_baselines3.common.env_util import make_vec_env

from sb3_pgx import PPO, TRPO, PPOPenalty
from sb3_pgx.diagnostics import DiagnosticsCallback

PASSES = dict(n_steps=128, batch_size=256, n_epochs=10, learning_rate=3e-3)
METHODS = {
    "clip (PPO)": (PPO, PASSES),
    "penalty (PPOPenalty)": (PPOPenalty, dict(PASSES, target_kl=0.01)),
    "trust region (TRPO)": (TRPO, dict(n_steps=128, batch_size=128, target_kl=0.01, cg_damping=0.01)),
    "none (PPO, clip 5)": (PPO, dict(PASSES, clip_range=5.0)),
}


def run(method: str, seed: int, timesteps: int):
    """Train, and return the run and the KL divergence of each update: the mean over the states, and the maximum."""
    algorithm, settings = METHODS[method]
    env = make_vec_env("CartPole-v1", n_envs=8, seed=seed)
    model = algorithm("MlpPolicy", env, **settings, seed=seed, device="cpu")
    diagnostics = DiagnosticsCallback(metrics=("kl", "kl_max"))
    training = train(model, timesteps, [diagnostics], eval_episodes=0, variant=method)
    return training, [update["kl"] for update in diagnostics.history], [update["kl_max"] for update in diagnostics.history]


def main(argv: list[str] | None = None) -> None:
    args = arguments(__file__, "Clip, penalty or trust region: how far does an update go, and which learns better?", 4, argv)
    timesteps = args.steps(20_000, quick=1_024)
    measured = {method: [run(method, seed, timesteps) for seed in args.seeds] for method in METHODS}
    runs = {method: [training for training, _, _ in of_method] for method, of_method in measured.items()}
    returns = {method: [r.late_return for r in of_method] for method, of_method in runs.items()}
    kl = {method: np.concatenate([means for _, means, _ in of_method]) for method, of_method in measured.items()}
    kl_max = {method: np.concatenate([of_states for _, _, of_states in of_method]) for method, of_method in measured.items()}

    rows = []
    for method in METHODS:
        divergence = [f"{np.median(kl[method]):.4f}", f"{kl[method].max():.4f}", f"{np.median(kl_max[method]):.3f}"]
        seconds = np.mean([r.seconds for r in runs[method]])
        rows.append([method, *divergence, with_interval(returns[method]), f"{seconds:.1f}"])
    header = [
        "limit on the policy change",
        "KL per update, median",
        "largest",
        "in the state with the largest change",
        "late return",
        "seconds",
    ]
    print_table(header, rows)

    clip, penalty, region, nothing = METHODS
    above = np.mean(kl[region] > 0.01)
    print(f"Updates beyond a KL divergence of 0.01: TRPO, whose bound it is, {100 * above:.0f} %; PPO "
          f"{100 * np.mean(kl[clip] > 0.01):.0f} %; PPOPenalty {100 * np.mean(kl[penalty] > 0.01):.0f} %.")  # fmt: skip
    print(f"Late return, TRPO minus PPO: {difference(returns[region], returns[clip])};")
    print(f"PPOPenalty minus PPO: {difference(returns[penalty], returns[clip])};")
    print(f"PPO minus PPO without a clip: {difference(returns[clip], returns[nothing])}.")
    print(f"Seeds {list(args.seeds)}, {timesteps:,} steps of CartPole-v1.")

    figure, (distances, curves) = new_figure(2)
    for method, values in kl.items():
        distances.plot(np.sort(values), np.linspace(0, 1, len(values)), label=method)
    distances.axvline(0.01, color="0.6", linestyle=":")
    distances.set(xscale="log", xlim=(5e-4, None), xlabel="KL(old‖new) of an update", ylabel="share of the updates with less")
    distances.legend(frameon=False, fontsize="small")
    draw_curves(curves, runs, timesteps)
    save(figure, args)


if __name__ == "__main__":
    main()
