"""Callbacks may change the model during a run, and SB3's own callbacks work."""

import pytest
import torch as th
from stable_baselines3.common.callbacks import (
    BaseCallback,
    CallbackList,
    CheckpointCallback,
    EvalCallback,
    EveryNTimesteps,
    StopTrainingOnMaxEpisodes,
    StopTrainingOnRewardThreshold,
)
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from support.beside_sb3 import BOX, STEPS, Drift, OnRolloutEnd, OnStep, drifting, idiom

pytestmark = pytest.mark.filterwarnings("ignore:Training and eval env are not of the same type:UserWarning")


@idiom("PPO", "A2C", "TRPO", "RecurrentPPO")
def test_nothing_but_learn(make):
    return make().learn(STEPS)


# ------------------------------------------------------------------------------------------------------- of the model


@idiom("PPO", "A2C", "RecurrentPPO")
def test_the_entropy_coefficient_is_annealed(make):
    def anneal(callback):
        callback.model.ent_coef = 0.5 * (1 - callback.num_timesteps / STEPS)

    return make(env=drifting(BOX)).learn(STEPS, callback=OnStep(anneal))


@idiom("PPO", "A2C", "RecurrentPPO")
def test_the_learning_rate_is_changed(make):
    def change(callback):
        callback.model.lr_schedule = lambda _: 1e-2 if callback.num_timesteps > 16 else 1e-4

    return make().learn(STEPS, callback=OnStep(change))


@idiom("PPO", "A2C")
def test_the_learning_rate_attribute_is_changed_and_set_up(make):
    def change(callback):
        callback.model.learning_rate = 1e-2 / callback.num_timesteps
        callback.model._setup_lr_schedule()

    return make().learn(STEPS, callback=OnRolloutEnd(change))


@idiom("PPO", quick=True)
def test_clip_range_epochs_and_batch_size_are_changed(make):
    def change(callback):
        model = callback.model
        model.clip_range = lambda _: 0.02
        model.n_epochs, model.batch_size = 3, 4

    return make().learn(STEPS, callback=OnRolloutEnd(change))


@idiom("PPO", "A2C")
def test_the_standard_deviation_is_annealed(make):
    def anneal(callback):
        callback.model.policy.log_std.data.fill_(-callback.num_timesteps / STEPS)

    return make(env=drifting(BOX)).learn(STEPS, callback=OnRolloutEnd(anneal))


@idiom("PPO", "A2C", "RecurrentPPO", quick=True)
def test_noise_is_added_to_the_parameters_at_every_rollouts_start(make):
    class Noise(BaseCallback):
        def _on_rollout_start(self):
            with th.no_grad():
                for p in self.model.policy.mlp_extractor.policy_net.parameters():
                    p += 0.01 * th.randn_like(p)

        def _on_step(self):
            return True

    return make().learn(STEPS, callback=Noise())


@idiom("PPO", "A2C")
def test_a_curriculum_through_env_method_and_set_attr(make):
    def harder(callback):
        callback.training_env.env_method("set_wind", 0.2 * callback.num_timesteps / STEPS)
        callback.training_env.set_attr("max_steps", 9)
        assert callback.training_env.get_attr("max_steps") == [9, 9]

    return make().learn(STEPS, callback=OnRolloutEnd(harder))


# ------------------------------------------------------------------------------------------------------- SB3's own


@idiom("PPO", "RecurrentPPO")
def test_evaluation_stops_a_training_that_is_good_enough(make, tmp_path):
    stop = StopTrainingOnRewardThreshold(reward_threshold=2.0)
    env = Monitor(Drift())
    env.reset(seed=5)
    evaluate = EvalCallback(
        env, stop, n_eval_episodes=2, eval_freq=5, best_model_save_path=str(tmp_path), verbose=0, warn=False
    )
    model = make().learn(STEPS * 2, callback=evaluate)
    return model, evaluate.best_mean_reward, model.num_timesteps


@idiom("PPO", "A2C")
def test_a_stochastic_evaluation_draws_from_the_same_random_numbers(make):
    rewards, env = [], drifting()
    env.seed(5)

    def evaluate(callback):
        rewards.append(evaluate_policy(callback.model, env, n_eval_episodes=2, deterministic=False, warn=False))

    model = make().learn(STEPS, callback=EveryNTimesteps(10, OnStep(evaluate)))
    return model, rewards


@idiom("A2C", "PPO", "RecurrentPPO")
def test_a_list_of_callbacks_with_checkpoints_every_few_steps(make, tmp_path):
    counts = []
    callbacks = [
        CheckpointCallback(8, str(tmp_path / make.cls.__module__)),
        EveryNTimesteps(12, OnStep(lambda callback: counts.append(callback.n_calls))),
        StopTrainingOnMaxEpisodes(max_episodes=7),
    ]
    model = make().learn(STEPS * 3, callback=CallbackList(callbacks))
    checkpoint = make.load(tmp_path / make.cls.__module__ / "rl_model_16_steps")
    return checkpoint, counts, model.num_timesteps
