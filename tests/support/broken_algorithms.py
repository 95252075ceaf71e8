"""Algorithms that are broken on purpose, each in one way that its name and docstring say."""

import copy
import ctypes
import os
import time
from typing import Any

import stable_baselines3 as sb3
import torch as th

from sb3_pgx import NPG, PPO, REINFORCE, TRPO
from sb3_pgx.core.rollout import as_policy_input
from sb3_pgx.ops.returns import gae


class AdvantagesOfTheWrongSign(PPO):
    def estimate(self, rollout: Any) -> Any:
        estimated = super().estimate(rollout)
        estimated.advantages = -estimated.advantages
        return estimated


class ReturnsOfTheWrongSign(REINFORCE):
    def estimate(self, rollout: Any) -> Any:
        estimated = super().estimate(rollout)
        estimated.advantages = -estimated.advantages
        return estimated


class SB3WithAdvantagesOfTheWrongSign(sb3.PPO):
    def train(self) -> None:
        self.rollout_buffer.advantages *= -1
        super().train()


class KillsItsProcess(sb3.A2C):
    def learn(self, *args: Any, **kwargs: Any) -> Any:
        os._exit(9)


class Crashes(sb3.A2C):
    def learn(self, *args: Any, **kwargs: Any) -> Any:
        ctypes.string_at(0)


class Hangs(sb3.A2C):
    def learn(self, *args: Any, **kwargs: Any) -> Any:
        time.sleep(1e6)


class TruncationIsTermination(PPO):
    def evaluate(self, rollout: Any) -> Any:
        evaluated = super().evaluate(rollout)
        evaluated.next_values = evaluated.next_values * ~rollout.truncated
        return evaluated


class CompletesWithTheNextEpisode(PPO):
    """Bootstrap truncated episodes with the value of the observation after the reset."""

    def evaluate(self, rollout: Any) -> Any:
        evaluated = super().evaluate(rollout)
        after = th.cat([evaluated.values[1:], evaluated.last_values[None]])
        evaluated.next_values = th.where(rollout.truncated, after, evaluated.next_values)
        return evaluated


class RewardsAStepLate(PPO):
    def estimate(self, rollout: Any) -> Any:
        rollout.rewards = rollout.rewards.roll(1, dims=0)
        return super().estimate(rollout)


class EpisodesRunOn(PPO):
    """Continue returns and advantages across the end of episodes."""

    def estimate(self, rollout: Any) -> Any:
        after = th.cat([rollout.values[1:], rollout.last_values[None]])
        never = th.zeros_like(rollout.ends)
        advantages = gae(rollout.rewards, rollout.values, after, never, self.gamma, self.gae_lambda)
        return rollout.estimated(advantages, advantages + rollout.values)


class ObservationsOfOtherRows(PPO):
    def estimate(self, rollout: Any) -> Any:
        rollout.observations = rollout.observations.roll(1, dims=1)
        return super().estimate(rollout)


class LogProbOfThePolicyBefore(PPO):
    """Store log-probabilities of the policy before its last update."""

    before: Any = None

    def evaluate(self, rollout: Any) -> Any:
        evaluated = super().evaluate(rollout)
        if self.before is not None:
            evaluated.log_prob = log_prob_of(self.before, rollout, rollout.actions)
        self.before = copy.deepcopy(self.policy)
        return evaluated


class LogProbOfTheClippedAction(PPO):
    """Store log-probabilities of the clipped actions instead of the sampled ones."""

    def evaluate(self, rollout: Any) -> Any:
        evaluated = super().evaluate(rollout)
        evaluated.log_prob = log_prob_of(self.policy, rollout, rollout.actions.clamp(-1, 1))
        return evaluated


class ComparesWithTheNewPolicy(PPO):
    """Compute ratios with respect to the current policy, so that they are always 1."""

    def minibatches(self, rollout: Any, batch_size: int | None) -> Any:
        for batch in super().minibatches(rollout, batch_size):
            actions = as_policy_input(batch.actions, self.action_space)
            with th.no_grad():
                batch.log_prob = self.policy.evaluate_actions(batch.observations, actions)[1]
            yield batch


class FourTrustRegions(TRPO):
    """Take four steps, each within a trust region around the current policy instead of the one that acted."""

    def update(self, rollout: Any) -> Any:
        return [super(FourTrustRegions, self).update(rollout) for _ in range(4)][-1]


class StepsThreeTimesAsFar(NPG):
    def step_length(self, solution: Any) -> float:
        return 3 * super().step_length(solution) if self.step_rule == "kl" else super().step_length(solution)


def log_prob_of(policy: Any, rollout: Any, actions: th.Tensor) -> th.Tensor:
    """Return log π(a|s) of a rollout's observations and the given actions, ``[T, N]``."""
    flat = actions.flatten(end_dim=1)
    discrete = not flat.is_floating_point()
    with th.no_grad():
        log_prob = policy.evaluate_actions(rollout.observations.flatten(end_dim=1), flat.flatten() if discrete else flat)[1]
    return log_prob.reshape(rollout.shape)
