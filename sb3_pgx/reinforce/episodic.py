"""What both REINFORCE algorithms share: rollouts of whole episodes, and the score-function loss over them."""

from typing import Any

import torch as th
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv
from torch.nn import functional as F

from sb3_pgx.common.algorithm import Metrics, PolicyGradientAlgorithm
from sb3_pgx.common.checks import check_at_least
from sb3_pgx.common.collect import EpisodeQuota, Quota
from sb3_pgx.common.evaluate import as_policy_input, chunks
from sb3_pgx.common.rollout import Rollout, flatten, map_tensors
from sb3_pgx.common.rollout_buffer import is_users_own
from sb3_pgx.ops.objectives import score_function
from sb3_pgx.reinforce.episodes import Episodes

# Rows to make room for before the length of the first rollout is known.
_FIRST_GUESS = 512


class EpisodicAlgorithm(PolicyGradientAlgorithm):
    """
    Learns from whole episodes, the same number from each environment.

    Environments that have delivered their episodes go on stepping until the last one has; these rows are masked, counted
    in ``rollout/discarded_steps`` (all of them since the model was made) and in ``num_timesteps``, and never used.
    """

    def __init__(
        self,
        policy: Any,
        env: Any,
        *,
        n_episodes: int,
        discount_state_weighting: bool,
        max_episode_steps: int,
        **kwargs: Any,
    ):
        # SB3's n_steps is the length of a rollout; here it is only the room made for the first one.
        super().__init__(policy, env, n_steps=_FIRST_GUESS, gae_lambda=1.0, **kwargs)
        self.n_episodes = n_episodes
        self.discount_state_weighting = discount_state_weighting
        self.max_episode_steps = max_episode_steps
        self.discarded_steps = 0

    def check_arguments(self) -> None:
        super().check_arguments()
        check_at_least(1, n_episodes=self.n_episodes, max_episode_steps=self.max_episode_steps)
        if self.max_grad_norm is not None and not self.max_grad_norm > 0:
            raise ValueError(f"max_grad_norm={self.max_grad_norm} must be positive; None turns clipping off")
        self.coefficient("ent_coef")
        if is_users_own(self.rollout_buffer_class):
            raise ValueError(
                f"{type(self).__name__} learns from whole episodes, which rollout_buffer_class="
                f"{self.rollout_buffer_class.__name__} cannot hold: leave rollout_buffer_class out."  # type: ignore[union-attr]
            )

    def quota(self, env: VecEnv, n_steps: int) -> Quota:
        return EpisodeQuota(self.n_episodes, env, self.max_episode_steps)

    def collect_rollouts(
        self, env: VecEnv, callback: BaseCallback, rollout_buffer: RolloutBuffer, n_rollout_steps: int
    ) -> bool:
        complete = super().collect_rollouts(env, callback, rollout_buffer, n_rollout_steps)
        if complete:
            self.discarded_steps += int((~self._rollout.valid).sum())
            self.logger.record("rollout/discarded_steps", self.discarded_steps)
        return complete

    def accumulate_gradient(self, rollout: Rollout, vf_coef: float | None = None) -> Metrics:
        """
        Add to ``.grad`` the gradient of the mean over episodes of

            −Σ_t w_t (log π(a_t|s_t) Ψ_t + ent_coef · H(π(·|s_t))),   w_t = γ^t or 1,

        in chunks of rows, so that memory does not grow with the length of the episodes.

        :param rollout: Ψ in ``advantages``
        :param vf_coef: weight of the mean squared value error; ``None``: no such term, the critic gets no gradient
        :return: the loss and its parts
        """
        episodes = Episodes.of(rollout)
        rows = flatten(rollout.valid).nonzero().flatten()
        batch = rollout.rows(rows)
        weights = episodes.discounts(self.gamma if self.discount_state_weighting else 1.0, rollout.rewards.dtype)
        weights = flatten(weights)[rows] / len(episodes)
        ent_coef = self.coefficient("ent_coef")
        totals = th.zeros(4, device=self.device)  # loss, policy's part, entropy, value error

        for r in chunks(batch.observations):
            observations = map_tensors(lambda x, r=r: x[r], batch.observations)
            actions = as_policy_input(batch.actions[r], self.action_space)
            values, log_prob, entropy = self.policy.evaluate_actions(observations, actions)
            entropy = -log_prob if entropy is None else entropy  # no closed form: a sample's estimate, as SB3
            policy_loss = score_function(log_prob, batch.advantages[r], weights[r])
            loss = policy_loss - ent_coef * (weights[r] * entropy).sum()
            value_loss = F.mse_loss(values.flatten(), batch.returns[r], reduction="sum") / len(batch)
            if vf_coef is not None:
                loss = loss + vf_coef * value_loss
            loss.backward()
            totals += th.stack([loss, policy_loss, entropy.sum() / len(batch), value_loss]).detach()

        loss, policy_loss, entropy, value_loss = totals
        metrics: Metrics = {"loss": loss, "policy_loss": policy_loss, "entropy_loss": -entropy}
        if vf_coef is not None:
            metrics["value_loss"] = value_loss
        return metrics
