"""The actions of a rollout: drawn by the policy's own methods, or by a graph of them."""

from collections.abc import Callable
from typing import Any

import torch as th
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import PyTorchObs
from torch import Tensor

from sb3_pgx.core.distributions import SAMPLED, noise_source
from sb3_pgx.core.errors import blaming_numbers, not_finite_parameter
from sb3_pgx.core.policies import is_sb3s
from sb3_pgx.core.undo import Refusal
from sb3_pgx.engine.compiler import NotCompilable
from sb3_pgx.engine.layers import Modules
from sb3_pgx.engine.parameters import all_finite
from sb3_pgx.engine.policy_graphs import CompiledPass

# What SB3's acting is made of: with all of it untouched, the action alone is the same action.
_ACTING = ("forward", "_predict", "get_distribution", "extract_features", "evaluate_actions")


class Acting:
    """
    Gives the actions of one rollout.

    :param n_envs: N
    :param n_updates: updates done so far, for an error
    :param watched: a callback may change the policy's layers between two steps
    :param evaluates: values and log-probabilities are needed at each step, as the policy's ``forward`` returns them
    """

    def __init__(self, n_envs: int, n_updates: int, watched: bool = True, evaluates: bool = False):
        self.n_envs, self.n_updates, self.watched, self.evaluates = n_envs, n_updates, watched, evaluates
        self._policy: ActorCriticPolicy | None = None  # that of the graph
        self._graph: CompiledPass
        self._modules: Modules
        self._noise: Callable[[], Tensor]

    def compile(self, policy: ActorCriticPolicy, graph: CompiledPass, modules: Modules, observations: PyTorchObs) -> None:
        """
        Act by a graph, where there can be one.

        :param policy: in evaluation mode
        :param graph: an :func:`~sb3_pgx.engine.policy_graphs.acting_pass`
        :param modules: the policy's layers, as they were looked at last
        :param observations: such as those to come, ``[N, *obs]``
        """
        if self.evaluates or not acts_alone(policy):
            return

        def numbers() -> list[Tensor]:
            if type(policy.action_dist) not in SAMPLED:
                raise NotCompilable(f"{type(policy.action_dist).__name__} draws the actions in a way of its own")
            with th.random.fork_rng():
                return [noise_source(policy.action_dist, self.n_envs, policy.device)()]

        if graph.prepare(policy, modules, graph.inputs(observations), numbers):
            self._noise = noise_source(policy.action_dist, self.n_envs, policy.device)
            self._policy, self._graph, self._modules = policy, graph, modules

    def __call__(self, policy: ActorCriticPolicy, observations: PyTorchObs) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """
        :param policy: in evaluation mode; the graph is that of one policy, and another one acts by its own methods
        :param observations: ``[N, *obs]``
        :return: as :func:`act`
        :raises ValueError: what the policy computes is not finite; an exception of the policy's own code comes as it is
        """
        try:
            actions, values, log_probs = self._act(policy, observations)
        except Exception:
            with blaming_numbers(lambda what: self._refusal(policy, what), self._place):
                raise
        # A graph also samples from NaN. Continuous actions are NaN then; discrete ones look normal, and the evaluation of the
        # rollout finds the NaN.
        if policy is self._policy and actions.is_floating_point() and not all_finite(actions):
            raise self._refusal(policy, f"its action is {actions[~actions.isfinite()][0]}")
        return actions, values, log_probs

    def _act(self, policy: ActorCriticPolicy, observations: PyTorchObs) -> tuple[Tensor, Tensor | None, Tensor | None]:
        if policy is self._policy and not (self.watched and self._graph.is_outdated(self._modules)):
            tensors = self._graph.inputs(observations)
            # A callback may have drawn a noise matrix of another shape for gSDE, which takes no random numbers here.
            if self._graph.takes(tensors) and [(noise := self._noise()).shape] == self._graph.shapes_before:
                (actions,) = self._graph([noise, *tensors])
                return actions, None, None
        return act(policy, observations, self.evaluates)

    def _refusal(self, policy: ActorCriticPolicy, what: str) -> Refusal:
        bad = not_finite_parameter(policy)
        return Refusal(
            f"the policy cannot act {self._since}: {what if bad is None else f'the parameter {bad} is not finite'}. Load the "
            "last saved model and lower learning_rate."
        )

    def _place(self) -> str:
        return f"while the policy acted {self._since}"

    @property
    def _since(self) -> str:
        return f"after update {self.n_updates}"


def act(
    policy: ActorCriticPolicy, observations: PyTorchObs, evaluates: bool = False
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """
    Actions of the current policy; the same random numbers as SB3's, without values and log-probabilities.

    A policy whose class overrides ``forward`` (or one of the methods that ``forward`` is made of) acts through it, and
    the values and log-probabilities that it returns are kept.

    :param policy: in evaluation mode
    :param observations: ``[N, *obs]``
    :param evaluates: act through ``forward`` in any case
    :return: actions ``[N, *action]``, not clipped; values and log-probabilities as ``forward`` returns them, or twice ``None``
    """
    with th.no_grad():
        if acts_alone(policy) and not evaluates:
            actions = policy._predict(observations)
            return actions.reshape((-1, *policy.action_space.shape)), None, None  # type: ignore[misc]
        actions, values, log_prob = policy(observations)
        return actions, values, log_prob


def acts_alone(policy: Any) -> bool:
    """Whether ``_predict`` samples exactly as ``forward`` would."""
    return is_sb3s(policy, *_ACTING)
