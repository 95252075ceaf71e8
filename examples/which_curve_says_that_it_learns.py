"""
Which of the logged curves says that a run learns? Must the losses fall?

The script trains PPO and computes the rank correlation (Spearman) between each logged number and the return over the run: 1 if
the number rises whenever the return does, -1 if it falls.
"""

import numpy as np
from scipy.stats import spearmanr
from shared import arguments, new_figure, print_table, save, train, with_interval
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env

from sb3_pgx import PPO

CURVES = ("loss", "policy_gradient_loss", "value_loss", "explained_variance", "entropy_loss")


class KeepMetrics(BaseCallback):
    """Keep the metrics of each update, and the mean return of the last training episodes."""

    def __init__(self):
        super().__init__()
        self.rows: list[dict[str, float]] = []

    def _on_step(self) -> bool:
        return True

    def on_update_end(self, metrics: dict[str, float]) -> None:
        episodes = [episode["r"] for episode in self.model.ep_info_buffer]
        self.rows.append({**metrics, "return": float(np.mean(episodes)), "timesteps": self.num_timesteps})


def run(seed: int, timesteps: int) -> dict[str, np.ndarray]:
    env = make_vec_env("CartPole-v1", n_envs=8, seed=seed)
    settings = dict(n_steps=64, batch_size=256, learning_rate=1e-3, gae_lambda=0.9, stats_window_size=20)
    model, keep = PPO("MlpPolicy", env, **settings, seed=seed, device="cpu"), KeepMetrics()
    train(model, timesteps, [keep], eval_episodes=0, variant="PPO")
    return {name: np.array([row[name] for row in keep.rows]) for name in (*CURVES, "return", "timesteps")}


def turns(values: np.ndarray) -> float:
    """Return the percentage of the updates at which a curve changes its direction; 67 for independent noise."""
    return float(100 * np.mean(np.diff(np.sign(np.diff(values))) != 0))


def main(argv: list[str] | None = None) -> None:
    args = arguments(__file__, "Which of the logged curves says that a run learns? Must the losses fall?", seeds=4, argv=argv)
    timesteps = args.steps(25_000, quick=2_500)
    runs = [run(seed, timesteps) for seed in args.seeds]

    rows, goes_with = [], {}
    for name in CURVES:
        goes_with[name] = [float(spearmanr(r[name], r["return"]).statistic) for r in runs]
        half = len(runs[0][name]) // 2
        first, second = (np.mean([r[name][part].mean() for r in runs]) for part in (slice(half), slice(half, None)))
        turned = f"{np.mean([turns(r[name]) for r in runs]):.0f} %"
        rows.append([f"train/{name}", with_interval(goes_with[name], 2), f"{first:.3g}", f"{second:.3g}", turned])
    print_table(["curve", "correlation with return", "mean, first half", "mean, second half", "changes of direction"], rows)

    rose = with_interval([float(r["return"][-1] / r["return"][0]) for r in runs])
    turned = np.mean([turns(r["value_loss"]) for r in runs])
    value, policy, ev = (
        with_interval(goes_with[name], 2) for name in ("value_loss", "policy_gradient_loss", "explained_variance")
    )
    print(
        f"The return rose by a factor of {rose}. The value loss changed its direction at {turned:.0f} % of the updates (noise:"
    )
    print(f"67 %). Correlations with the return: value loss {value}, policy loss {policy}, explained variance {ev}.")
    print("A loss that must fall for the return to rise would have a correlation near -1.")
    print(f"Seeds {list(args.seeds)}, {timesteps:,} steps of CartPole-v1 each.")

    figure, panels = new_figure(3)
    for axes, name in zip(panels, ("return", "value_loss", "policy_gradient_loss"), strict=True):
        for seed, r in zip(args.seeds, runs, strict=True):
            axes.plot(r["timesteps"], r[name], alpha=0.7, label=f"seed {seed}")
        axes.set(xlabel="environment steps", ylabel=name if name == "return" else f"train/{name}")
    panels[0].legend(frameon=False, fontsize="small")
    save(figure, args)


if __name__ == "__main__":
    main()
