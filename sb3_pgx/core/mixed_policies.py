"""Policies for mixed actions (``Dict`` and ``Tuple`` action spaces), which SB3 lacks."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.distributions import BernoulliDistribution
from stable_baselines3.common.policies import ActorCriticCnnPolicy, ActorCriticPolicy, MultiInputActorCriticPolicy
from stable_baselines3.common.type_aliases import Schedule
from torch import Tensor, nn

from sb3_pgx.core.errors import one_line
from sb3_pgx.core.mixed_spaces import is_mixed, stored_space
from sb3_pgx.core.policies import (
    ActorCnnPolicy,
    ActorMixin,
    ActorMultiInputPolicy,
    ActorPolicy,
    GaussianStdCnnPolicy,
    GaussianStdMixin,
    GaussianStdMultiInputPolicy,
    GaussianStdPolicy,
    restart_optimizer,
    samples_as_sb3,
)
from sb3_pgx.core.product import Product
from sb3_pgx.core.spaces import environment_actions


class MixedActionsMixin(ActorCriticPolicy):
    """
    A policy that acts in all parts of a ``Dict`` or ``Tuple`` action space at once: a product of independent distributions.

    One linear layer computes the means and logits of all parts. ``log_std`` has a number for each number of a Box part; there
    is none without such a part. ``forward`` and ``evaluate_actions`` take and return rows of numbers, ``[B, action_dim]``.
    Recurrent policies get it, too (:mod:`~sb3_pgx.core.recurrent_policies`).

    :param observation_space: observation space
    :param action_space: mixed action space
    :param args: further arguments of SB3's policy
    :param kwargs: further arguments of SB3's policy; ``use_sde`` is refused
    """

    def __init__(self, observation_space: spaces.Space, action_space: spaces.Space, *args: Any, **kwargs: Any):
        if not is_mixed(action_space):
            raise ValueError(
                f"{type(self).__name__} acts in Dict and Tuple spaces, but the action space is {one_line(action_space)}: use "
                "a policy such as MlpPolicy, CnnPolicy, MultiInputPolicy or MlpLstmPolicy"
            )
        self._mixed_space = action_space
        super().__init__(observation_space, stored_space(action_space), *args, **kwargs)

    def _build(self, lr_schedule: Schedule) -> None:
        if self.use_sde:
            raise ValueError(
                f"use_sde=True needs Box actions, but the action space is {one_line(self._mixed_space)}: leave it out"
            )
        self.action_space = self._mixed_space
        product = Product(self.action_space)
        self.action_dist = BernoulliDistribution(sum(product.n_outputs))  # for which SB3 builds one linear layer
        super()._build(lr_schedule)
        self.action_dist = product
        if product.n_gaussian:
            self.log_std = nn.Parameter(th.full((sum(product.n_gaussian),), float(self.log_std_init)))
            restart_optimizer(self, lr_schedule(1))

    def _get_action_dist_from_latent(self, latent_pi: Tensor) -> Any:
        return self.action_dist.proba_distribution(self.action_net(latent_pi), getattr(self, "log_std", None))

    @contextmanager
    def _rows_of_numbers(self) -> Iterator[None]:
        """Within this context, SB3's methods shape actions as rows of numbers."""
        self.action_space = stored_space(self._mixed_space)
        try:
            yield
        finally:
            self.action_space = self._mixed_space

    @samples_as_sb3
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """
        Sample actions.

        :param args: arguments of the policy without mixed actions: observations ``[B, *obs]``, for a recurrent policy states
            and starts of episodes, and whether to take the most likely action
        :param kwargs: keyword arguments of the same policy
        :return: actions ``[B, action_dim]``, V(s) ``[B, 1]`` and log π(a|s) ``[B]``; for a recurrent policy also its states
        """
        with self._rows_of_numbers():
            return super().forward(*args, **kwargs)

    def predict(
        self,
        observation: np.ndarray | dict[str, np.ndarray],
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[Any, tuple[np.ndarray, ...] | None]:
        """
        Return actions as the environment takes them: members of the action space.

        :param observation: observation of one environment or of several
        :param state: state of a recurrent policy, as returned before; unused by other policies, as in SB3
        :param episode_start: in which environments an episode starts, for a recurrent policy, ``[N]``
        :param deterministic: whether to take the most likely action
        :return: a dictionary or tuple for one environment, a list of them for several; and the next state
        """
        with self._rows_of_numbers():
            rows, state = super().predict(observation, state, episode_start, deterministic)
        actions = environment_actions(np.atleast_2d(rows), self, self.action_space)
        return (actions[0] if rows.ndim == 1 else actions), state


class MixedActionsPolicy(GaussianStdMixin, MixedActionsMixin):
    """``MlpPolicy`` for mixed actions, with the options of :class:`~sb3_pgx.core.policies.GaussianStdMixin`."""


class MixedActionsCnnPolicy(GaussianStdMixin, MixedActionsMixin, ActorCriticCnnPolicy):
    """``CnnPolicy`` for mixed actions, with the options of :class:`~sb3_pgx.core.policies.GaussianStdMixin`."""


class MixedActionsMultiInputPolicy(GaussianStdMixin, MixedActionsMixin, MultiInputActorCriticPolicy):
    """``MultiInputPolicy`` for mixed actions, with the options of :class:`~sb3_pgx.core.policies.GaussianStdMixin`."""


class MixedActionsActorPolicy(ActorMixin, MixedActionsMixin):
    """``MlpPolicy`` for mixed actions, without a critic."""


class MixedActionsActorCnnPolicy(ActorMixin, MixedActionsMixin, ActorCriticCnnPolicy):
    """``CnnPolicy`` for mixed actions, without a critic."""


class MixedActionsActorMultiInputPolicy(ActorMixin, MixedActionsMixin, MultiInputActorCriticPolicy):
    """``MultiInputPolicy`` for mixed actions, without a critic."""


FOR_MIXED_ACTIONS: dict[Any, type[MixedActionsMixin]] = {
    ActorCriticPolicy: MixedActionsPolicy,
    ActorCriticCnnPolicy: MixedActionsCnnPolicy,
    MultiInputActorCriticPolicy: MixedActionsMultiInputPolicy,
    GaussianStdPolicy: MixedActionsPolicy,
    GaussianStdCnnPolicy: MixedActionsCnnPolicy,
    GaussianStdMultiInputPolicy: MixedActionsMultiInputPolicy,
    ActorPolicy: MixedActionsActorPolicy,
    ActorCnnPolicy: MixedActionsActorCnnPolicy,
    ActorMultiInputPolicy: MixedActionsActorMultiInputPolicy,
}
