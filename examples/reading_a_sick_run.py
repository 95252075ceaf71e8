"""
My run does not learn. What do the diagnostics say, and does their remedy help?

Four trainings of PPO, three of them with a common mistake. HealthCallback measures each update from the outside; where one of
its rules is in alarm, it says what that means and one thing to try. Then the same training with that remedy.
"""

import warnings

import numpy as np
from gymnasium.wrappers import TransformReward
from shared import arguments, new_figure, print_table, save, train, with_interval
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

from sb3_pgx import PPO
from sb3_pgx.callbacks import HealthCallback, HealthWarning

SETTINGS = dict(n_steps=128, batch_size=64, n_epochs=5, learning_rate=1e-3)
# What is wrong, and what the alarm says to do about it.
MISTAKES = {
    "nothing": (dict(), dict()),
    "learning rate 0.1": (dict(learning_rate=0.1), dict(learning_rate=0.1 / 3, target_kl=0.02)),
    "critic switched off": (dict(vf_coef=0.0), dict(vf_coef=0.5)),
    "rewards in millions": (dict(reward_scale=1e6), dict(reward_scale=1e6, normalised=True)),
}


def run(seed: int, timesteps: int, reward_scale: float = 1.0, normalised: bool = False, **changes):
    """A training, and the judge who watched it."""
    scaled = dict(wrapper_class=TransformReward, wrapper_kwargs=dict(func=lambda reward: reward_scale * reward))
    env = make_vec_env("CartPole-v1", n_envs=8, seed=seed, **scaled)
    if normalised:
        env = VecNormalize(env, norm_obs=False)
    model = PPO("MlpPolicy", env, **(SETTINGS | changes), seed=seed, device="cpu")
    health = HealthCallback()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", HealthWarning)  # they are printed below
        return train(model, timesteps, [health], eval_episodes=10), health


def first_alarm(health: HealthCallback) -> str:
    """The name of the rule that spoke first, and at which update."""
    if not health.warnings:
        return "none"
    update, name, _ = health.warnings[0].split(":", 2)
    return f"{name.strip()} ({update})"


def main(argv: list[str] | None = None) -> None:
    args = arguments(__file__, "My run does not learn. What do the diagnostics say?", seeds=2, argv=argv)
    timesteps = args.steps(16_000, quick=3_000)

    rows, curves = [], {}
    for name, (mistake, remedy) in MISTAKES.items():
        sick = [run(seed, timesteps, **mistake) for seed in args.seeds]
        mended = [run(seed, timesteps, **remedy) for seed in args.seeds] if mistake else sick
        health = sick[0][1]
        scores = [np.mean([not watch.alarms for watch in judge.watches if watch.looked]) for _, judge in sick]
        before, after = ([training.final_return for training, _ in group] for group in (sick, mended))
        rows.append([name, first_alarm(health), f"{np.mean(scores):.2f}", with_interval(before), with_interval(after)])
        if health.warnings:
            print(f"{name}:\n  {health.warnings[0]}\n")
        curves[name] = [judge.history for _, judge in sick]
    print_table(["mistake", "first alarm, seed 0", "healthy rules", "return with it", "return with the remedy"], rows)

    found = sum(row[1] != "none" for row in rows[1:])
    quiet = "none" if rows[0][1] == "none" else rows[0][1]
    print(f"{found} of {len(rows) - 1} mistakes raised an alarm with seed 0; alarms in the sound training: {quiet}.")
    print(f"Seeds {list(args.seeds)}, {timesteps:,} steps of CartPole-v1 each.")

    figure, panels = new_figure(3)
    for axes, metric in zip(panels, ("kl", "entropy", "explained_variance"), strict=True):
        for name, histories in curves.items():
            axes.plot([h["timesteps"] for h in histories[0]], [h.get(metric, np.nan) for h in histories[0]], label=name)
        axes.set(xlabel="environment steps", title=metric)
    panels[0].set_yscale("log")
    panels[2].set_ylim(-1, 1)
    panels[0].legend(frameon=False, fontsize="small")
    save(figure, args)


if __name__ == "__main__":
    main()
