"""
My run does not learn. What do the diagnostics say, and does their remedy help?

Of four runs of PPO, three have a common mistake. HealthCallback measures each update. If one of its rules is in alarm, it
reports what that means and one thing to try. Then the run is repeated with that remedy.
"""

import warnings

import numpy as np
from gymnasium.wrappers import TransformReward
from shared import arguments, new_figure, print_table, save, train, with_interval
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

from sb3_pgx import PPO
from sb3_pgx.diagnostics import HealthCallback, HealthWarning

SETTINGS = dict(n_steps=64, batch_size=64, n_epochs=10, learning_rate=1e-3)
# For each mistake: the wrong settings, and those that the alarm recommends.
MISTAKES = {
    "nothing": (dict(), dict()),
    "learning rate 0.05": (dict(learning_rate=0.05), dict(learning_rate=0.05 / 3, target_kl=0.02)),
    "critic switched off": (dict(vf_coef=0.0), dict(vf_coef=0.5)),
    "rewards in millions": (dict(reward_scale=1e6), dict(reward_scale=1e6, normalised=True)),
}


def run(variant: str, seed: int, timesteps: int, reward_scale: float = 1.0, normalised: bool = False, **changes):
    """Train, and return the run and its HealthCallback."""
    scaled = dict(wrapper_class=TransformReward, wrapper_kwargs=dict(func=lambda reward: reward_scale * reward))
    env = make_vec_env("CartPole-v1", n_envs=8, seed=seed, **scaled)
    if normalised:
        env = VecNormalize(env, norm_obs=False)
    model = PPO("MlpPolicy", env, **(SETTINGS | changes), seed=seed, device="cpu")
    health = HealthCallback()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", HealthWarning)  # the warnings are printed below
        return train(model, timesteps, [health], eval_episodes=0, variant=variant), health


def main(argv: list[str] | None = None) -> None:
    args = arguments(__file__, "My run does not learn. What do the diagnostics say?", seeds=2, argv=argv)
    timesteps = args.steps(12_000, quick=1_536)

    rows, curves = [], {}
    for name, (mistake, remedy) in MISTAKES.items():
        sick = [run(f"mistake: {name}", seed, timesteps, **mistake) for seed in args.seeds]
        mended = [run(f"remedy for {name}", seed, timesteps, **remedy) for seed in args.seeds] if mistake else sick
        alarms = [judge.warnings for _, judge in sick if judge.warnings]
        for warning in alarms[:1]:
            print(f"{name}:\n  {warning[0]}\n")
        rule = alarms[0][0].split(": ")[1] if alarms else "none"
        before, after = ([training.late_return for training, _ in group] for group in (sick, mended))
        rows.append([name, rule, f"{len(alarms)} of {len(sick)}", with_interval(before), with_interval(after)])
        curves[name] = [judge.history for _, judge in sick]
    print_table(["mistake", "first alarm", "seeds with one", "late return with it", "with the remedy"], rows)

    found = sum(row[1] != "none" for row in rows[1:])
    print(f"{found} of {len(rows) - 1} mistakes raised an alarm; in the healthy run: {rows[0][1]}.")
    print(f"Seeds {list(args.seeds)}, {timesteps:,} steps of CartPole-v1 each.")

    figure, panels = new_figure(3)
    for axes, metric in zip(panels, ("kl", "entropy", "explained_variance"), strict=True):
        for name, histories in curves.items():
            axes.plot([h["timesteps"] for h in histories[0]], [h.get(metric, np.nan) for h in histories[0]], label=name)
        axes.set(xlabel="environment steps", ylabel=metric)
    panels[0].set(yscale="log", ylim=(1e-6, None))
    panels[2].set_ylim(-1, 1)
    panels[0].legend(frameon=False, fontsize="small")
    save(figure, args)


if __name__ == "__main__":
    main()
