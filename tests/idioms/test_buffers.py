"""SB3's rollout buffer as people use it: filled by hand, replaced, subclassed, edited and iterated in subclasses."""

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import configure
from stable_baselines3.common.utils import obs_as_tensor
from support.beside_sb3 import BOX, STEPS, drifting, idiom
from support.small_environments import DEVICE
from torch.nn import functional as F


class Collects:
    """A subclass's ``collect_rollouts`` of SB3's shape, with a penalty for distance in the rewards."""

    def collect_rollouts(self, env, callback, rollout_buffer, n_rollout_steps):
        self.policy.set_training_mode(False)
        rollout_buffer.reset()
        callback.on_rollout_start()
        for _ in range(n_rollout_steps):
            with th.no_grad():
                obs_tensor = obs_as_tensor(self._last_obs, self.device)
                actions, values, log_probs = self.policy(obs_tensor)
            actions = actions.cpu().numpy()
            clipped_actions = actions
            if isinstance(self.action_space, spaces.Box):
                clipped_actions = np.clip(actions, self.action_space.low, self.action_space.high)
            new_obs, rewards, dones, infos = env.step(clipped_actions)
            rewards -= 0.5 * np.abs(new_obs).max(axis=1)
            self.num_timesteps += env.num_envs
            callback.update_locals(locals())
            if not callback.on_step():
                return False
            self._update_info_buffer(infos, dones)
            if isinstance(self.action_space, spaces.Discrete):
                actions = actions.reshape(-1, 1)
            for idx, done in enumerate(dones):
                if done and infos[idx].get("TimeLimit.truncated", False):
                    terminal_obs = self.policy.obs_to_tensor(infos[idx]["terminal_observation"])[0]
                    with th.no_grad():
                        rewards[idx] += self.gamma * self.policy.predict_values(terminal_obs)[0].item()
            rollout_buffer.add(self._last_obs, actions, rewards, self._last_episode_starts, values, log_probs)
            self._last_obs, self._last_episode_starts = new_obs, dones
        with th.no_grad():
            values = self.policy.predict_values(obs_as_tensor(new_obs, self.device))
        rollout_buffer.compute_returns_and_advantage(last_values=values, dones=dones)
        callback.update_locals(locals())
        callback.on_rollout_end()
        return True


class TrainsPPO:
    """A subclass's ``train`` of the shape of SB3's PPO, with a leaky clip."""

    def train(self):
        self.policy.set_training_mode(True)
        self._update_learning_rate(self.policy.optimizer)
        clip_range = self.clip_range(self._current_progress_remaining)
        for _ in range(self.n_epochs):
            for data in self.rollout_buffer.get(self.batch_size):
                actions = data.actions
                if isinstance(self.action_space, spaces.Discrete):
                    actions = data.actions.long().flatten()
                values, log_prob, entropy = self.policy.evaluate_actions(data.observations, actions)
                advantages = (data.advantages - data.advantages.mean()) / (data.advantages.std() + 1e-8)
                ratio = th.exp(log_prob - data.old_log_prob)
                clipped = th.clamp(ratio, 1 - clip_range, 1 + clip_range)
                surrogate = th.min(advantages * ratio, advantages * (0.9 * clipped + 0.1 * ratio))
                loss = -surrogate.mean() - 0.5 * entropy.mean() + self.vf_coef * F.mse_loss(data.returns, values.flatten())
                self.policy.optimizer.zero_grad()
                loss.backward()
                th.nn.utils.clip_grad_norm_(self.policy.parameters(), self.max_grad_norm)
                self.policy.optimizer.step()
            self._n_updates += 1
        self.logger.record("train/n_updates", self._n_updates)


class TrainsA2C:
    """A subclass's ``train`` of the shape of SB3's A2C, with a robust value loss."""

    def train(self):
        self.policy.set_training_mode(True)
        self._update_learning_rate(self.policy.optimizer)
        for data in self.rollout_buffer.get(batch_size=None):
            values, log_prob, entropy = self.policy.evaluate_actions(data.observations, data.actions.long().flatten())
            value_loss = F.smooth_l1_loss(values.flatten(), data.returns)
            loss = -(data.advantages * log_prob).mean() - 0.01 * entropy.mean() + self.vf_coef * value_loss
            self.policy.optimizer.zero_grad()
            loss.backward()
            th.nn.utils.clip_grad_norm_(self.policy.parameters(), self.max_grad_norm)
            self.policy.optimizer.step()
        self._n_updates += 1


def of(make, *mixins):
    """A subclass of the side's class."""
    return type("Own", (*mixins, make.cls), {})


# ------------------------------------------------------------------------------------------------------- subclasses


@idiom(quick=True)
def test_a_subclass_collects_as_sb3_does(make):
    return make(cls=of(make, Collects)).learn(STEPS)


@idiom("PPO")
def test_a_subclass_collects_box_actions_as_sb3_does(make):
    return make(cls=of(make, Collects), env=drifting(BOX)).learn(STEPS)


@idiom("PPO")
def test_a_subclass_trains_as_sb3s_ppo_does(make):
    return make(cls=of(make, TrainsPPO), env=drifting(BOX)).learn(STEPS)


@idiom("A2C")
def test_a_subclass_trains_as_sb3s_a2c_does(make):
    return make(cls=of(make, TrainsA2C)).learn(STEPS)


@idiom("PPO")
def test_a_subclass_both_collects_and_trains(make):
    return make(cls=of(make, Collects, TrainsPPO), env=drifting(BOX)).learn(STEPS)


@idiom()
def test_a_subclass_edits_the_buffer_before_training(make):
    class Edits:
        def train(self):
            buffer = self.rollout_buffer
            buffer.advantages = np.clip(buffer.advantages, -0.3, 0.3)
            buffer.returns += 0.1
            super().train()

    return make(cls=of(make, Edits), normalize_advantage=False).learn(STEPS)


@idiom("PPO", "A2C")
def test_a_subclass_collects_and_then_edits_rewards_and_estimates(make):
    class Edits:
        def collect_rollouts(self, env, callback, rollout_buffer, n_rollout_steps):
            continues = super().collect_rollouts(env, callback, rollout_buffer, n_rollout_steps)
            rollout_buffer.rewards[rollout_buffer.episode_starts == 1] += 1.0
            with th.no_grad():
                last_values = self.policy.predict_values(obs_as_tensor(self._last_obs, self.device))
            rollout_buffer.compute_returns_and_advantage(last_values=last_values, dones=self._last_episode_starts)
            return continues

    return make(cls=of(make, Edits)).learn(STEPS)


@idiom("PPO")
def test_a_subclass_trains_on_every_rollout_twice(make):
    class Twice:
        def train(self):
            super().train()
            super().train()

    return make(cls=of(make, Twice)).learn(STEPS)


@idiom("PPO", "A2C")
def test_a_subclass_adds_arguments_and_sets_up_more(make):
    class Extended:
        def __init__(self, *args, bonus=0.0, **kwargs):
            self.bonus = bonus
            super().__init__(*args, **kwargs)

        def _setup_model(self):
            super()._setup_model()
            self.table = np.linspace(0, self.bonus, self.n_steps, dtype=np.float32)

        def train(self):
            self.rollout_buffer.returns += self.table[:, None]
            super().train()

    return make(cls=of(make, Extended), bonus=0.5).learn(STEPS)


# ------------------------------------------------------------------------------------------------------- buffers


@idiom()
def test_the_buffer_is_replaced_by_one_of_sb3s(make):
    model = make()
    spaces_of = (model.observation_space, model.action_space)
    model.rollout_buffer = RolloutBuffer(8, *spaces_of, device=DEVICE, gae_lambda=0.7, gamma=0.8, n_envs=2)
    return model.learn(STEPS)


class MonteCarlo(RolloutBuffer):
    """Returns of the rewards that were played, and advantages on top of the mean."""

    def compute_returns_and_advantage(self, last_values, dones):
        following = last_values.clone().cpu().numpy().flatten() * (1 - dones)
        for t in reversed(range(self.buffer_size)):
            following = self.rewards[t] + self.gamma * following
            self.returns[t] = following
            following = following * (1 - self.episode_starts[t])
        self.advantages = self.returns - self.returns.mean()


@idiom()
def test_a_buffer_class_of_ones_own_estimates(make):
    return make(rollout_buffer_class=MonteCarlo).learn(STEPS)


class Prioritised(RolloutBuffer):
    """Minibatches of the rows with the largest advantages."""

    def __init__(self, *args, share=1.0, **kwargs):
        self.share = share
        super().__init__(*args, **kwargs)

    def get(self, batch_size=None):
        samples = next(super().get(None))
        best = samples.advantages.abs().argsort(descending=True)[: int(self.share * len(samples.advantages))]
        for rows in best.split(batch_size or len(best)):
            yield type(samples)(*(part[rows] for part in samples))


@idiom("PPO", quick=True)
def test_a_buffer_class_of_ones_own_chooses_rows(make):
    return make(rollout_buffer_class=Prioritised, rollout_buffer_kwargs=dict(share=0.5), batch_size=4).learn(STEPS)


@idiom("A2C", "PPO")
def test_the_buffer_is_replaced_by_one_of_ones_own_after_a_training(make):
    model = make().learn(16)
    model.rollout_buffer = MonteCarlo(8, model.observation_space, model.action_space, device=DEVICE, n_envs=2)
    return model.learn(STEPS, reset_num_timesteps=False)


# ------------------------------------------------------------------------------------------------------- by hand


def fill(model, env, observations, starts):
    """One rollout by hand; what the next one goes on from."""
    buffer = model.rollout_buffer
    buffer.reset()
    model.policy.set_training_mode(False)
    for _ in range(model.n_steps):
        with th.no_grad():
            actions, values, log_probs = model.policy(th.as_tensor(observations, device=DEVICE))
        new_observations, rewards, dones, _ = env.step(actions.cpu().numpy())
        buffer.add(observations, actions.cpu().numpy().reshape(2, 1), rewards, starts, values, log_probs)
        observations, starts = new_observations, dones
    with th.no_grad():
        values = model.policy.predict_values(th.as_tensor(observations, device=DEVICE))
    buffer.compute_returns_and_advantage(last_values=values, dones=dones)
    return observations, starts


@idiom(quick=True)
def test_a_fresh_model_is_trained_by_hand(make):
    model, env = make(), drifting()
    env.seed(3)
    model.set_logger(configure(None, []))
    there = env.reset(), np.ones(2, bool)
    for _ in range(3):
        there = fill(model, env, *there)
        model.train()
    return model


@idiom()
def test_a_trained_model_is_trained_on_by_hand_and_learns_on(make):
    model, env = make().learn(16), drifting()
    env.seed(3)
    there = env.reset(), np.ones(2, bool)
    for _ in range(2):
        there = fill(model, env, *there)
        model.train()
    return model.learn(16, reset_num_timesteps=False)


@idiom("PPO", "A2C")
def test_recorded_transitions_of_another_policy_are_learned_from(make):
    """From a data set, with log-probabilities and values of the policy that learns."""
    model, generator = make(), np.random.default_rng(5)
    model.set_logger(configure(None, []))
    for _ in range(3):
        buffer = model.rollout_buffer
        buffer.reset()
        while not buffer.full:
            observations = generator.normal(size=(2, 2)).astype(np.float32)
            actions = generator.integers(3, size=(2, 1))
            with th.no_grad():
                given = th.as_tensor(observations, device=DEVICE), th.as_tensor(actions, device=DEVICE).flatten()
                values, log_probs, _ = model.policy.evaluate_actions(*given)
            rewards = (actions.flatten() == (observations[:, 0] > 0)).astype(np.float32)
            buffer.add(observations, actions, rewards, np.ones(2), values, log_probs)
        buffer.compute_returns_and_advantage(last_values=th.zeros(2), dones=np.ones(2))
        model.train()
    return model


@idiom()
def test_ones_own_loop_calls_collect_rollouts_and_train(make):
    model = make()
    total, callback = model._setup_learn(STEPS, None)
    callback.on_training_start(locals(), globals())
    while model.num_timesteps < total:
        assert model.collect_rollouts(model.env, callback, model.rollout_buffer, model.n_steps)
        model._update_current_progress_remaining(model.num_timesteps, total)
        model.rollout_buffer.advantages[model.rollout_buffer.advantages < 0] *= 0.2
        model.train()
    callback.on_training_end()
    return model


@idiom("PPO")
def test_two_models_play_in_turn_in_one_environment(make):
    """Self-play: each model's rollouts are collected while the other one's parameters stay."""
    first, second = make(), make(seed=1)
    env = first.env
    second.set_env(env)
    for _ in range(2):
        for model in (first, second):
            model.learn(16, reset_num_timesteps=False)
    return first, *(p.detach().cpu() for p in second.policy.action_net.parameters())


class Keeps(BaseCallback):
    """Copies of the buffer at the end of every rollout."""

    def __init__(self):
        super().__init__()
        self.rows = []

    def _on_step(self):
        return True

    def _on_rollout_end(self):
        buffer = self.model.rollout_buffer
        names = ("observations", "actions", "rewards", "episode_starts", "values", "log_probs", "advantages", "returns")
        self.rows.append(np.concatenate([np.asarray(getattr(buffer, name), float).ravel() for name in names]))


@idiom("A2C")
def test_the_buffer_is_copied_for_later(make):
    callback = Keeps()
    model = make().learn(STEPS, callback=callback)
    return model, callback.rows


pytestmark = pytest.mark.filterwarnings("ignore:.*truncated mini-batch:UserWarning")
