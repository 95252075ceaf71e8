"""Base of both REINFORCE algorithms: rollouts of whole episodes, and the score-function loss over them."""

import itertools
from collections.abc import Iterator
from typing import Any, ClassVar

import torch as th
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor
from torch.nn import functional as F

from sb3_pgx.algorithms.reinforce.episodes import Episodes
from sb3_pgx.core.checks import as_flag, check_counts
from sb3_pgx.core.errors import blaming_numbers
from sb3_pgx.core.evaluation import evaluate_actions
from sb3_pgx.core.rollout import Rollout
from sb3_pgx.core.undo import attributes_of
from sb3_pgx.engine.refusals import step_refusal
from sb3_pgx.ops.objectives import score_function
from sb3_pgx.stages.algorithm import PolicyGradientAlgorithm
from sb3_pgx.stages.evaluate import chunks
from sb3_pgx.stages.quotas import EpisodeQuota, Quota
from sb3_pgx.stages.report import Metrics

# Initial capacity of the rollout in rows; longer rollouts grow it.
_CAPACITY = 512


class EpisodicAlgorithm(PolicyGradientAlgorithm):
    """
    Base of algorithms that learn from whole episodes, the same number from each environment.

    Environments that have finished their episodes keep stepping until the last one has finished. These rows are masked and
    never used. They count in ``num_timesteps``, and ``rollout/discarded_steps`` logs their number since the model was made.

    :param policy: name of a policy, or a policy class
    :param env: environment, ``VecEnv`` or id
    :param n_episodes: whole episodes per environment and update
    :param discount_state_weighting: weight step t of an episode with γ^t
    :param max_episode_steps: steps after which an unfinished episode is an error
    :param kwargs: arguments of :class:`~sb3_pgx.stages.algorithm.PolicyGradientAlgorithm`
    """

    refuses_all_reduce: ClassVar[str | None] = (
        "processes would have rollouts of different lengths, and baselines are statistics of all episodes"
    )

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
        # SB3's n_steps is the length of a rollout; here it is the initial capacity.
        super().__init__(policy, env, n_steps=_CAPACITY, gae_lambda=1.0, **kwargs)
        self.n_episodes = n_episodes
        self.discount_state_weighting = discount_state_weighting
        self.max_episode_steps = max_episode_steps
        self.discarded_steps = 0

    def check_arguments(self) -> None:
        """
        Check the arguments.

        :raises ValueError: an argument is invalid
        """
        super().check_arguments()
        check_counts(n_episodes=self.n_episodes, max_episode_steps=self.max_episode_steps)
        self.discount_state_weighting = as_flag("discount_state_weighting", self.discount_state_weighting)
        self.coefficient("ent_coef")

    @property
    def refuses_rows(self) -> str | None:
        """Why the algorithm cannot learn from rows that a caller adds to the buffer."""
        return f"{type(self).__name__} learns from whole episodes"

    refuses_buffers = refuses_rows

    @property
    def unlearned(self) -> tuple[str, ...]:
        """Arrays of the rollout buffer that the algorithm does not learn from; writing into them is refused."""
        return "episode_starts", "log_probs"

    def quota(self, env: VecEnv, n_steps: int) -> Quota:
        """Return the quota of a rollout: ``n_episodes`` whole episodes from each environment."""
        return EpisodeQuota(self.n_episodes, env, self.max_episode_steps)

    def collect_rollouts(
        self, env: VecEnv, callback: BaseCallback, rollout_buffer: RolloutBuffer, n_rollout_steps: int
    ) -> bool:
        """Collect whole episodes, and count the steps of environments that waited. Arguments are those of the base class."""
        complete = super().collect_rollouts(env, callback, rollout_buffer, n_rollout_steps)
        if complete:
            self._undo.add(attributes_of(self, "discarded_steps"))
            self.discarded_steps += int((~self.last_rollout.valid).sum())
            self.logger.record("rollout/discarded_steps", self.discarded_steps)
        return complete

    def _refusal(self, what: str) -> ValueError:
        return step_refusal(f"the policy failed ({what})", self._n_updates)

    def accumulate_gradient(self, rollout: Rollout, vf_coef: float | None = None) -> Metrics:
        """
        Accumulate in ``.grad`` the gradient of the mean over episodes of

            −Σ_t w_t (log π(a_t|s_t) Ψ_t + ent_coef · H(π(·|s_t))),   w_t = γ^t or 1,

        in chunks of rows, so that memory does not grow with the length of the episodes. Chunks of a recurrent policy are whole
        episodes. Earlier gradients are cleared.

        :param rollout: rollout with Ψ in ``advantages``
        :param vf_coef: weight of the mean squared value error; ``None``: no such term, and no gradient for the critic
        :return: the loss and its parts
        """
        self.policy.zero_grad(set_to_none=True)  # a callback may have left gradients behind
        episodes = Episodes.of(rollout)
        rows = rollout.valid_rows()
        weights = episodes.discounts(self.gamma if self.discount_state_weighting else 1.0, rollout.rewards.dtype)
        weights = weights.flatten() / len(episodes)
        ent_coef = self.coefficient("ent_coef")
        totals = th.zeros(4, device=self.device)  # loss, policy loss, entropy, value error

        for part in self._parts(rollout, rows):
            selection = rollout.selected(part)
            batch, weight = rollout.batch(selection), weights[selection.rows]
            with blaming_numbers(self._refusal, lambda: f"while the policy learned, in update {self._n_updates + 1}"):
                values, log_prob, entropy, _ = evaluate_actions(self.policy, batch.inputs, batch.actions)
            policy_loss = score_function(log_prob, batch.advantages, weight)
            loss = policy_loss - ent_coef * (weight * entropy).sum()
            value_loss = F.mse_loss(values, batch.returns.to(values), reduction="sum") / len(rows)
            if vf_coef is not None:
                loss = loss + vf_coef * value_loss
            loss.backward()
            totals += th.stack([loss, policy_loss, entropy.sum() / len(rows), value_loss]).detach()

        loss, policy_loss, entropy, value_loss = totals
        metrics: Metrics = {"loss": loss, "policy_loss": policy_loss, "entropy_loss": -entropy}
        if vf_coef is not None:
            metrics["value_loss"] = value_loss
        return metrics

    @staticmethod
    def _parts(rollout: Rollout, rows: Tensor) -> Iterator[Tensor]:
        """Yield the rows in chunks; for a recurrent policy, a chunk has whole episodes, as many as fit, but at least one."""
        parts = [rows[r] for r in chunks(rollout.observations, len(rows), leading=2)]
        if rollout.memory is None or len(parts) == 1:
            yield from parts
            return
        first = [*rollout.episode_starts.flatten()[rows].nonzero().squeeze(1).tolist(), len(rows)]
        begin = 0
        for end, following in itertools.pairwise(first[1:]):
            if following - begin > len(parts[0]):
                yield rows[begin:end]
                begin = end
        yield rows[begin:]
