"""
How do I tune with an Optuna script of my own?

sample_params suggests the hyperparameters of a trial. TrialEvalCallback evaluates the policy during training and stops bad
trials early. Everything else is Optuna's. At the end, the best settings are compared with the defaults on new seeds. (`sb3-pgx
tune` does all this with several seeds per trial.) Optuna is required: pip install -e ".[zoo]".
"""

import numpy as np
import optuna
from shared import announce, arguments, difference, new_figure, print_table, save, train, with_interval
from stable_baselines3.common.env_util import make_vec_env

from sb3_pgx import PPO
from sb3_pgx.tuning import TrialEvalCallback, sample_params

ENV, N_ENVS, TUNING_SEED = "CartPole-v1", 8, 100


def train_with(variant: str, hyperparameters: dict, seed: int, timesteps: int, eval_episodes: int):
    env = make_vec_env(ENV, n_envs=N_ENVS, seed=seed)
    model = PPO("MlpPolicy", env, **hyperparameters, seed=seed, device="cpu")
    return train(model, timesteps, eval_episodes=eval_episodes, variant=variant)


def main(argv: list[str] | None = None) -> None:
    args = arguments(__file__, "How do I tune with an Optuna script of my own?", seeds=4, argv=argv)
    timesteps, n_trials = args.steps(10_000, quick=256), 3 if args.quick else 12

    eval_episodes = 1 if args.quick else 10

    def objective(trial: optuna.Trial) -> float:
        env, eval_env = make_vec_env(ENV, N_ENVS, seed=TUNING_SEED), make_vec_env(ENV, seed=TUNING_SEED + 1)
        hyperparameters = sample_params("ppo", trial, N_ENVS, timesteps=timesteps)
        trial.set_user_attr("hyperparameters", {name: str(value) for name, value in hyperparameters.items()})
        announce(f"trial {trial.number}", TUNING_SEED)
        callback = TrialEvalCallback(eval_env, trial, every=timesteps // 4, n_final_episodes=eval_episodes)
        model = PPO("MlpPolicy", env, **hyperparameters, seed=TUNING_SEED, device="cpu")
        try:
            model.learn(timesteps, callback=callback)
        finally:
            env.close()
            eval_env.close()
        return callback.score()

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler, pruner = optuna.samplers.TPESampler(seed=0, n_startup_trials=5), optuna.pruners.MedianPruner(n_startup_trials=5)
    study = optuna.create_study(direction="maximize", sampler=sampler, pruner=pruner)
    study.optimize(objective, n_trials=n_trials)

    best = sample_params("ppo", optuna.trial.FixedTrial(study.best_params), N_ENVS, timesteps=timesteps)
    usual = dict(n_steps=2048 // N_ENVS)
    tuned = [train_with("tuned", best, seed, timesteps, eval_episodes).final_return for seed in args.seeds]
    default = [train_with("defaults", usual, seed, timesteps, eval_episodes).final_return for seed in args.seeds]
    rows = [
        ["its defaults, 2,048 steps per rollout", with_interval(default)],
        [f"the best of {n_trials} trials", with_interval(tuned)],
    ]
    print_table(["PPO with", f"final return after {timesteps:,} steps"], rows)
    pruned = sum(trial.state == optuna.trial.TrialState.PRUNED for trial in study.trials)
    print(f"Tuned on seed {TUNING_SEED}; on seeds {list(args.seeds)}, tuned minus default: {difference(tuned, default)}.")
    print(
        f"The best trial scored {study.best_value:.1f} in the search; {pruned} of {n_trials} trials were pruned. Its settings:"
    )
    for name, value in study.best_trial.user_attrs["hyperparameters"].items():
        print(f"  {name}: {value}")

    figure, (history, judged) = new_figure(2)
    for state, marker in ((optuna.trial.TrialState.COMPLETE, "o"), (optuna.trial.TrialState.PRUNED, "x")):
        trials = study.get_trials(states=[state])
        history.plot([t.number for t in trials], [t.value for t in trials], marker, label=state.name.lower())
    history.set(xlabel="trial", ylabel="last return on the tuning seed")
    history.legend(frameon=False)
    for i, values in enumerate((default, tuned)):
        judged.plot(np.full(len(values), i), values, "o", color=f"C{i}", alpha=0.6)
    judged.set_xticks([0, 1], ["defaults", "tuned"])
    judged.set(xlim=(-0.5, 1.5), title="on new seeds", ylabel="final return")
    save(figure, args)


if __name__ == "__main__":
    main()
