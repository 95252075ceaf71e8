"""What callbacks do at a rollout's end: they edit the buffer and read what SB3 shows them."""

import numpy as np
import torch as th
from stable_baselines3.common.callbacks import (
    BaseCallback,
)
from stable_baselines3.common.vec_env import VecEnvWrapper
from support.beside_sb3 import BOX, STEPS, OnRolloutEnd, drifting, idiom
from support.small_environments import DEVICE
from torch import nn


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
