"""What callbacks do to a training: they edit what is at hand at a step or at a rollout's end, and read what SB3 shows them."""

import copy

import numpy as np
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
from stable_baselines3.common.vec_env import VecEnvWrapper
from support.beside_sb3 import BOX, STEPS, Drift, drifting, idiom
from support.small_environments import DEVICE
from torch import nn

pytestmark = pytest.mark.filterwarnings("ignore:Training and eval env are not of the same type:UserWarning")


class OnStep(BaseCallback):
    """Calls a function with itself at every step."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def _on_step(self):
        return self.function(self) is not False


class OnRolloutEnd(OnStep):
    """Calls a function with itself at the end of every rollout."""

    def _on_step(self):
        return True

    def _on_rollout_end(self):
        self.function(self)


@idiom("PPO", "A2C", "TRPO", "RecurrentPPO")
def test_nothing_but_learn(make):
    return make().learn(STEPS)


# ------------------------------------------------------------------------------------------------------- at a step


@idiom("PPO", "A2C", "TRPO", "RecurrentPPO")
def test_a_bonus_is_added_to_the_rewards_of_a_step(make):
    def bonus(callback):
        callback.locals["rewards"] += 0.5 * np.abs(callback.locals["new_obs"]).max(axis=1)

    return make().learn(STEPS, callback=OnStep(bonus))


@idiom("PPO", "A2C")
def test_rewards_of_a_step_are_clipped_in_place(make):
    def clip(callback):
        np.clip(callback.locals["rewards"], -0.2, 0.6, out=callback.locals["rewards"])

    return make(env=drifting(BOX)).learn(STEPS, callback=OnStep(clip))


@idiom(quick=True)
def test_actions_are_relabelled_after_the_step(make):
    """What is learned from is not what was played: the actions of a teacher."""

    def relabel(callback):
        callback.locals["actions"][:] = callback.locals["new_obs"][:, 0] > 0

    return make().learn(STEPS, callback=OnStep(relabel))


@idiom("A2C", "PPO")
def test_observations_to_come_are_disturbed_in_place(make):
    generator = np.random.default_rng(1)

    def disturb(callback):
        callback.locals["new_obs"] += generator.normal(0, 0.3, (2, 2)).astype(np.float32)

    return make().learn(STEPS, callback=OnStep(disturb))


@idiom("PPO", "A2C")
def test_observations_that_were_acted_on_are_changed_in_place(make):
    """Of the model, where they are until the row is added."""

    def change(callback):
        callback.model._last_obs[:, 1] = 0.0

    return make().learn(STEPS, callback=OnStep(change))


@idiom("PPO", "A2C", "TRPO", "RecurrentPPO", quick=True)
def test_values_and_log_probabilities_of_a_step_are_read_and_used(make):
    seen = []

    def shape(callback):
        values, log_probs = callback.locals["values"], callback.locals["log_probs"]
        seen.append(np.concatenate([values.cpu().numpy().flatten(), log_probs.cpu().numpy()]))
        callback.locals["rewards"] -= 0.3 * log_probs.cpu().numpy() + 0.1 * th.flatten(values).cpu().numpy()

    model = make().learn(STEPS, callback=OnStep(shape))
    return model, seen


@idiom("PPO", "A2C")
def test_values_of_steps_are_kept_until_the_rollouts_end(make):
    """In the ways in which people handle tensors."""
    kept, seen = [], []

    def keep(callback):
        values, log_probs = callback.locals["values"], callback.locals["log_probs"]
        assert isinstance(values, th.Tensor) and isinstance(log_probs, th.Tensor) and not values.requires_grad
        kept.append(values)
        seen.append([float(values[0]), values.mean().item(), np.asarray(log_probs.cpu())[1], *log_probs.exp().tolist()])
        seen[-1] += [*values.squeeze(1).tolist(), (values.flatten() - log_probs).max().item(), len(values), *values.shape]

    class Keep(OnStep):
        def _on_rollout_end(self):
            baseline = th.stack(kept).squeeze(2).cpu().numpy()
            self.model.rollout_buffer.advantages = self.model.rollout_buffer.returns - 0.5 * baseline
            kept.clear()

    model = make().learn(STEPS, callback=Keep(keep))
    return model, seen


@idiom("PPO", "A2C")
def test_the_observation_that_was_acted_on_is_replaced(make):
    def replace(callback):
        callback.locals["new_obs"][callback.locals["dones"]] = 0.0
        callback.model._last_obs = 0.5 * callback.model._last_obs

    return make().learn(STEPS, callback=OnStep(replace))


@idiom("PPO")
def test_a_copy_of_the_buffer_is_iterated(make):
    """Demonstrations, kept for later: the original stays as it is."""
    rows = []

    def keep(callback):
        buffer = copy.deepcopy(callback.model.rollout_buffer)
        rows.append(buffer.swap_and_flatten(buffer.advantages).ravel().copy())
        samples = next(buffer.get(batch_size=4))
        rows[-1] = np.concatenate([rows[-1], samples.observations.cpu().ravel(), samples.old_log_prob.cpu()])
        buffer.reset()

    model = make().learn(STEPS, callback=OnRolloutEnd(keep))
    return model, rows


@idiom()
def test_the_buffer_is_read_while_it_fills(make):
    seen = []

    def read(callback):
        buffer = callback.model.rollout_buffer
        seen.append([buffer.pos, buffer.full, buffer.size(), *buffer.rewards.ravel(), *buffer.values.ravel()])
        seen[-1] += [*buffer.log_probs.ravel(), *buffer.episode_starts.ravel(), *buffer.actions.ravel()]
        seen[-1] += [*buffer.observations.ravel()]

    model = make().learn(STEPS, callback=OnStep(read))
    return model, seen


@idiom("PPO", "A2C")
def test_credit_is_given_back_to_rows_that_are_in_the_buffer(make):
    """When an episode ends badly, the rewards of the rows before are lowered."""

    def blame(callback):
        buffer = callback.model.rollout_buffer
        for i, done in enumerate(callback.locals["dones"]):
            if done and not callback.locals["infos"][i]["TimeLimit.truncated"]:
                buffer.rewards[max(0, buffer.pos - 3) : buffer.pos, i] -= 0.5

    return make().learn(STEPS, callback=OnStep(blame))


@idiom("PPO", "A2C")
def test_infos_and_dones_are_gathered(make):
    seen = []

    def gather(callback):
        distances = [info["distance"] for info in callback.locals["infos"]]
        seen.append([*distances, *callback.locals["dones"], *callback.locals["clipped_actions"], callback.num_timesteps])
        callback.logger.record("custom/distance", np.mean(distances))

    model = make().learn(STEPS, callback=OnStep(gather))
    return model, seen


@idiom("PPO", "RecurrentPPO")
def test_a_callback_stops_the_training_in_the_middle_of_a_rollout_and_another_one_begins(make):
    model = make()
    model.learn(STEPS, callback=OnStep(lambda callback: callback.num_timesteps < 26))
    stopped = model.num_timesteps
    model.learn(32)
    return model, stopped, model.num_timesteps


@idiom("A2C")
def test_a_plain_function_is_a_callback(make):
    return make().learn(STEPS, callback=lambda local_values, _: local_values["self"].num_timesteps < 40)


# ------------------------------------------------------------------------------------------------- at a rollout's end


@idiom()
def test_advantages_are_assigned(make):
    def rank(callback):
        buffer = callback.model.rollout_buffer
        buffer.advantages = np.sign(buffer.advantages) * np.sqrt(np.abs(buffer.advantages))

    return make().learn(STEPS, callback=OnRolloutEnd(rank))


@idiom("PPO", "A2C", "TRPO", "RecurrentPPO")
def test_advantages_and_returns_are_edited_in_place(make):
    def edit(callback):
        buffer = callback.model.rollout_buffer
        np.clip(buffer.advantages, -0.5, 1.0, out=buffer.advantages)
        buffer.returns *= 0.5
        buffer.returns[buffer.episode_starts == 1] += 1.0

    return make(normalize_advantage=False).learn(STEPS, callback=OnRolloutEnd(edit))


@idiom("PPO")
def test_old_log_probabilities_are_assigned(make):
    """Those of another policy that acted: importance weights."""

    def mix(callback):
        buffer = callback.model.rollout_buffer
        buffer.log_probs = buffer.log_probs + np.where(buffer.actions[:, :, 0] == 0, 0.4, -0.3)

    return make().learn(STEPS, callback=OnRolloutEnd(mix))


@idiom(quick=True)
def test_observations_and_actions_are_edited_in_place(make):
    """Augmentation, by the symmetry of the problem."""
    generator = np.random.default_rng(1)

    def flip(callback):
        buffer = callback.model.rollout_buffer
        flipped = generator.random(buffer.rewards.shape) < 0.5
        buffer.observations[flipped] *= -1
        buffer.actions[flipped] = 2 - buffer.actions[flipped]

    return make().learn(STEPS, callback=OnRolloutEnd(flip))


@idiom("PPO")
def test_values_are_edited_where_they_are_clipped(make):
    def edit(callback):
        callback.model.rollout_buffer.values += 0.05

    return make(clip_range_vf=0.02).learn(STEPS, callback=OnRolloutEnd(edit))


@idiom()
def test_rewards_are_shaped_and_the_estimates_computed_again(make):
    """With the arguments that SB3 gives."""

    def shape(callback):
        buffer = callback.model.rollout_buffer
        buffer.rewards += 0.2 * np.abs(buffer.observations).sum(axis=2)
        buffer.compute_returns_and_advantage(callback.locals["values"], callback.locals["dones"])

    return make().learn(STEPS, callback=OnRolloutEnd(shape))


@idiom("A2C", "PPO")
def test_estimates_are_computed_again_with_another_discount_and_other_last_values(make):
    def compute(callback):
        buffer = callback.model.rollout_buffer
        buffer.gamma, buffer.gae_lambda = 0.8, 0.5
        buffer.compute_returns_and_advantage(last_values=th.full((2, 1), 0.7, device=DEVICE), dones=np.array([False, True]))

    return make(env=drifting(BOX)).learn(STEPS, callback=OnRolloutEnd(compute))


@idiom("PPO", "A2C")
def test_rewards_are_divided_by_a_running_deviation_of_returns(make):
    scale = []

    def normalize(callback):
        buffer = callback.model.rollout_buffer
        scale.append(buffer.returns.std())
        buffer.rewards /= np.mean(scale) + 1e-8
        buffer.compute_returns_and_advantage(last_values=callback.locals["values"], dones=callback.locals["dones"])

    return make().learn(STEPS, callback=OnRolloutEnd(normalize))


class Novelty(BaseCallback):
    """Random network distillation: the error of a predictor is an intrinsic reward."""

    def _init_callback(self):
        with th.random.fork_rng():
            th.manual_seed(7)
            self.target, self.predictor = (nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 4)) for _ in range(2))
        self.optimizer = th.optim.Adam(self.predictor.parameters(), lr=1e-2)

    def _on_step(self):
        return True

    def _on_rollout_end(self):
        buffer = self.model.rollout_buffer
        x = th.as_tensor(buffer.observations, dtype=th.float32).reshape(-1, 2)
        error = (self.predictor(x) - self.target(x).detach()).square().mean(dim=1)
        self.optimizer.zero_grad()
        error.mean().backward()
        self.optimizer.step()
        buffer.rewards += error.detach().numpy().reshape(buffer.rewards.shape)
        buffer.compute_returns_and_advantage(self.locals["values"], self.locals["dones"])


@idiom("PPO", "A2C")
def test_an_intrinsic_reward_from_random_network_distillation(make):
    return make().learn(STEPS, callback=Novelty())


class LearnedReward(VecEnvWrapper):
    """Rewards from a discriminator, as in imitation's adversarial trainers."""

    def __init__(self, venv):
        super().__init__(venv)
        with th.random.fork_rng():
            th.manual_seed(7)
            self.discriminator = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1))

    def reset(self):
        return self.venv.reset()

    def step_wait(self):
        observations, _, dones, infos = self.venv.step_wait()
        with th.no_grad():
            logits = self.discriminator(th.as_tensor(observations)).flatten()
        return observations, -nn.functional.logsigmoid(-logits).numpy(), dones, infos


@idiom("PPO")
def test_a_discriminator_gives_the_rewards_and_learns_from_every_rollout(make):
    env = LearnedReward(drifting())
    optimizer = th.optim.Adam(env.discriminator.parameters(), lr=1e-2)
    expert = th.linspace(-0.1, 0.1, 32).reshape(16, 2)

    def train(callback):
        observations = th.as_tensor(callback.model.rollout_buffer.observations, dtype=th.float32).reshape(-1, 2)
        logits = env.discriminator(th.cat([expert, observations])).flatten()
        labels = th.cat([th.ones(16), th.zeros(len(observations))])
        optimizer.zero_grad()
        nn.functional.binary_cross_entropy_with_logits(logits, labels).backward()
        optimizer.step()

    return make(env=env).learn(STEPS, callback=OnRolloutEnd(train))


@idiom("PPO")
def test_minibatches_of_the_buffer_are_looked_at_before_the_update(make):
    """An auxiliary loss on them, with an optimizer of its own. Their order is drawn from numpy's generator, too."""

    def auxiliary(callback):
        policy = callback.model.policy
        optimizer = th.optim.SGD(policy.mlp_extractor.policy_net.parameters(), lr=0.01)
        for samples in callback.model.rollout_buffer.get(batch_size=8):
            features = policy.mlp_extractor.forward_actor(policy.extract_features(samples.observations))
            optimizer.zero_grad()
            (features.square().mean() * samples.returns.mean()).backward()
            optimizer.step()
        policy.optimizer.zero_grad()

    return make().learn(STEPS, callback=OnRolloutEnd(auxiliary))


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
