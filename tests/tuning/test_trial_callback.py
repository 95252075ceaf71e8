"""The callback for Optuna scripts of users."""

import optuna
import pytest
from stable_baselines3 import A2C as SB3A2C
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecNormalize

from sb3_pgx import A2C
from sb3_pgx.tuning import TrialEvalCallback


class AlwaysPrune(optuna.pruners.BasePruner):
    def prune(self, study, trial):
        return bool(trial.intermediate_values)


@pytest.fixture
def trial_of():
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    yield lambda pruner=None: optuna.create_study(pruner=pruner or optuna.pruners.NopPruner(), direction="maximize").ask()
    optuna.logging.set_verbosity(optuna.logging.INFO)


@pytest.fixture
def envs():
    short = {"max_episode_steps": 60}
    envs = [make_vec_env("CartPole-v1", n, seed=seed, env_kwargs=short) for n, seed in ((3, 0), (1, 7), (1, 7))]
    yield envs
    for env in envs:
        env.close()


@pytest.mark.parametrize("algorithm", [A2C, SB3A2C])
def test_the_score_is_that_of_the_policy_after_the_last_update(algorithm, envs, trial_of):
    train, evaluation, again = envs
    trial = trial_of()
    # There is a single rollout, so every evaluation during training is before the only update.
    model = algorithm("MlpPolicy", train, n_steps=100, learning_rate=0.05, seed=0, device="cpu")
    callback = TrialEvalCallback(evaluation, trial, every=100, n_eval_episodes=2, n_final_episodes=3)
    model.learn(300, callback=callback)
    values = trial.study.trials[0].intermediate_values
    assert list(values) == [100, 200, 300]  # though the environments' steps are 102, 201, 300
    again.seed(7)
    evaluation.seed(7)
    callback._on_training_end()
    assert callback.score() == evaluate_policy(model, again, 3, deterministic=True)[0]
    assert callback.score() not in values.values()


@pytest.mark.parametrize("algorithm", [A2C, SB3A2C])
def test_a_trial_that_is_to_be_pruned_ends_the_training(algorithm, envs, trial_of):
    train, evaluation, _ = envs
    model = algorithm("MlpPolicy", train, seed=0, device="cpu")
    callback = TrialEvalCallback(evaluation, trial_of(AlwaysPrune()), every=50, n_eval_episodes=1)
    model.learn(10_000, callback=callback)
    assert model.num_timesteps == 51 and callback.is_pruned
    with pytest.raises(optuna.TrialPruned, match="after 51 steps"):
        callback.score()


def test_the_final_policy_sees_observations_as_it_was_trained_on_them(envs, trial_of):
    train, evaluation = VecNormalize(envs[0]), VecNormalize(envs[1], training=False, norm_reward=False)
    model = A2C("MlpPolicy", train, seed=0, device="cpu")
    model.learn(60, callback=TrialEvalCallback(evaluation, trial_of(), every=1_000, n_eval_episodes=1))
    assert evaluation.obs_rms.mean.tolist() == train.obs_rms.mean.tolist() != [0.0] * 4


def test_a_score_before_the_training_is_refused(envs, trial_of):
    with pytest.raises(ValueError, match=r"call score\(\) after learn\(\)"):
        TrialEvalCallback(envs[1], trial_of()).score()
