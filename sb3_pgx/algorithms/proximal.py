"""Base of PPO and PPOPenalty: several passes over a rollout, on a loss that keeps the policy near the one that acted."""

from abc import abstractmethod
from contextlib import AbstractContextManager
from typing import Any

from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import GymEnv
from torch import Tensor
from torch.nn import functional as F

from sb3_pgx.core.checks import as_flag, check_counts, check_positive_or_none, is_number, warn_of_uneven_batches
from sb3_pgx.core.evaluation import Evaluation
from sb3_pgx.core.recurrent_evaluation import is_recurrent
from sb3_pgx.core.rollout import Batch, Rollout
from sb3_pgx.core.schedules import Coefficient, as_schedule
from sb3_pgx.engine import Update
from sb3_pgx.ops.objectives import clipped, standardized
from sb3_pgx.stages.algorithm import PolicyGradientAlgorithm, ceil_div
from sb3_pgx.stages.report import Metrics

# Log-probabilities and values depend in their last bits on the batch in which they are computed, so those of an unchanged
# policy differ slightly from the rollout's. With a clip range of 0, where a schedule may end, rounding would decide which rows
# of an update's first step are clipped. Two lower bounds prevent that: for the ratio, the spacing of float32 at 1 …
MIN_CLIP_RANGE = 2.0**-23
# … and for the values, this fraction of the largest absolute value.
MIN_CLIP_RANGE_VF = 1e-6


def scaled_advantages(batch: Batch, normalize_advantage: bool) -> Tensor:
    """
    Return the advantages of a minibatch, standardised over it if asked for.

    :param batch: minibatch of B rows; a single row has no standard deviation and is never standardised
    :param normalize_advantage: whether to standardise
    :return: ``[B]``
    """
    if not normalize_advantage or len(batch) == 1:
        return batch.advantages
    return standardized(batch.advantages)


def value_error(now: Evaluation, batch: Batch, clip_range_vf: float | None) -> Tensor:
    """
    Return the mean squared error of the values.

    :param now: evaluation of the minibatch by the current policy
    :param batch: minibatch with the returns, and with the values before the update
    :param clip_range_vf: largest distance between new and old value; a value beyond it gets no gradient. ``None``: no limit
    :return: scalar
    """
    values = now.values
    if clip_range_vf is not None:
        values = batch.values + clipped(values - batch.values, clip_range_vf)
    return F.mse_loss(batch.returns, values)


class ProximalAlgorithm(PolicyGradientAlgorithm):
    """
    Base of algorithms that pass several times over a rollout in minibatches. A subclass defines ``objective``,
    :meth:`coefficients` and :meth:`max_distance`.

    :param policy: name of a policy, or a policy class
    :param env: environment, ``VecEnv`` or id
    :param batch_size: rows of a minibatch
    :param n_epochs: passes over the rollout
    :param clip_range: ε of the clipped surrogate; ``None``: no clip
    :param clip_range_vf: clip range of the value function; ``None``: no clip
    :param normalize_advantage: standardise the advantages over each minibatch
    :param target_kl: a divergence whose use the subclass defines; ``None``: none
    :param sequence_length: length of the pieces of minibatches of a recurrent policy; ``None``: minibatches are not cut
    :param kwargs: arguments of :class:`~sb3_pgx.stages.algorithm.PolicyGradientAlgorithm`
    """

    def __init__(
        self,
        policy: str | type[ActorCriticPolicy],
        env: GymEnv | str,
        *,
        batch_size: int,
        n_epochs: int,
        clip_range: Coefficient | None,
        clip_range_vf: Coefficient | None,
        normalize_advantage: bool,
        target_kl: float | None,
        sequence_length: int | None,
        **kwargs: Any,
    ):
        super().__init__(policy, env, **kwargs)
        self.batch_size = batch_size
        self.n_epochs = n_epochs
        self.clip_range = clip_range
        self.clip_range_vf = clip_range_vf
        self.normalize_advantage = normalize_advantage
        self.target_kl = target_kl
        self.sequence_length = sequence_length

    @abstractmethod
    def coefficients(self) -> Any:
        """Return the objective's coefficients for the next update: a named tuple with a field ``clip_range_vf``."""

    @abstractmethod
    def max_distance(self) -> float | None:
        """Return the objective's ``distance`` from the policy that acted beyond which an update ends; ``None``: no limit."""

    def optional_coefficient(self, name: str) -> float | None:
        """
        Return the current value of a coefficient that may be ``None``.

        :param name: name of the attribute
        :raises ValueError: the value is not a valid coefficient
        """
        return None if getattr(self, name) is None else self.coefficient(name)

    def _setup_model(self) -> None:
        super()._setup_model()
        # As in SB3's PPO, these attributes are schedules from here on.
        if self.clip_range is not None:
            self.clip_range = as_schedule(self.clip_range, "clip_range")
        if self.clip_range_vf is not None:
            self.clip_range_vf = as_schedule(self.clip_range_vf, "clip_range_vf")

    def check_arguments(self) -> None:
        """
        Check the arguments.

        :raises ValueError: an argument is invalid
        """
        super().check_arguments()
        check_counts(n_steps=self.n_steps, batch_size=self.batch_size, n_epochs=self.n_epochs)
        for name in ("ent_coef", "vf_coef"):
            self.coefficient(name)
        self.optional_coefficient("clip_range")
        if self.clip_range_vf is not None:
            # SB3 raises an AssertionError here, which scripts may catch; so does the check of the batches below.
            positive = not is_number(self.clip_range_vf) or not self.clip_range_vf <= 0  # type: ignore[operator]
            assert positive, f"clip_range_vf={self.clip_range_vf} must be positive; None disables value clipping"
            self.coefficient("clip_range_vf")
        check_positive_or_none("never ends an update early", target_kl=self.target_kl)
        self.normalize_advantage = as_flag("normalize_advantage", self.normalize_advantage)
        self._check_sequence_length()
        if self.env is not None:
            self._check_batches(self.n_steps * self.n_envs * self.team.size)

    def _check_sequence_length(self) -> None:
        if self.sequence_length is None:
            return
        check_counts(sequence_length=self.sequence_length)
        if not is_recurrent(self.policy_class):
            raise ValueError(
                f"sequence_length={self.sequence_length} cuts the sequences of a recurrent policy, but "
                f"{self.policy_class.__name__} is not recurrent: use a policy such as MlpLstmPolicy, or leave it out"
            )

    def _check_batches(self, rows: int) -> None:
        if self.normalize_advantage:
            assert self.batch_size > 1 and rows > 1, (
                f"normalize_advantage=True needs more than one row: batch_size={self.batch_size}, n_steps * n_envs={rows}"
            )
        if self.batch_size % self.team.size:
            raise ValueError(
                f"batch_size={self.batch_size} is that of all processes together and cannot be shared among {self.team.size} "
                f"of them equally: choose a multiple of {self.team.size}"
            )
        warn_of_uneven_batches(self.batch_size, self.n_steps, self.n_envs * self.team.size)

    def planned_gradient_steps(self, timesteps: int) -> int:
        """Return the number of gradient steps in a run: one per minibatch and epoch."""
        rows = self.n_steps * self.n_envs * self.team.size
        return ceil_div(timesteps, rows) * self.n_epochs * ceil_div(rows, self.batch_size)

    def steps_of(self, rollout: Rollout) -> AbstractContextManager[Update]:
        """
        The gradient steps of an update.

        :param rollout: rollout with advantages and returns
        """
        c = self.coefficients()
        if c.clip_range_vf is not None:
            smallest = MIN_CLIP_RANGE_VF * self.team.of_all(rollout.values).abs().max().item()
            c = c._replace(clip_range_vf=max(c.clip_range_vf, smallest))
        return self.gradient_steps(c, self.rows_of_minibatch, self.max_distance())

    def update(self, rollout: Rollout) -> Metrics:
        """
        Pass ``n_epochs`` times over the rollout, one gradient step per minibatch, and stop beyond :meth:`max_distance`.

        :param rollout: rollout with advantages and returns
        :return: what to log, without the prefix ``train/``
        """
        with self.steps_of(rollout) as steps:
            for epoch in range(self.n_epochs):
                steps.epoch(self.minibatches(rollout, self.batch_size))
                self._n_updates += 1
                if steps.stopped:
                    if self.verbose >= 1:
                        print(f"Early stopping at step {epoch} due to reaching max kl: {steps.distance:.2f}")
                    break
        clip_ranges = {name: self.optional_coefficient(name) for name in ("clip_range", "clip_range_vf")}
        return {
            **steps.means(),
            "loss": steps.last["loss"],  # SB3 logs the last minibatch's loss and the last epoch's approx_kl, not means
            "approx_kl": steps.last_epoch["approx_kl"],
            "explained_variance": self.explained_variance(),
            **{name: value for name, value in clip_ranges.items() if value is not None},
            **self.spread(),
            **self.after_steps(rollout),
        }

    def after_steps(self, rollout: Rollout) -> Metrics:
        """
        Called after the last step of an update. A subclass may measure its result, and adapt to it.

        :param rollout: that was learned from
        :return: what to log besides, without the prefix ``train/``
        """
        return {}
