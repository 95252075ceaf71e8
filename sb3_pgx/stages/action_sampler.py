"""Sample the actions of a rollout, with the policy's own methods or with a compiled graph."""

from collections.abc import Callable

import numpy as np
import torch as th
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import Tensor

from sb3_pgx.core.distributions import samples_from_noise
from sb3_pgx.core.errors import blaming_numbers, not_finite_parameter
from sb3_pgx.core.mixed_spaces import action_shape
from sb3_pgx.core.policies import can_act_from_noise, can_skip_forward, masking, sampled_unchecked, takes_masks
from sb3_pgx.core.recorder import Recorder
from sb3_pgx.core.rollout import CollectedRollout, Memory, PolicyInputs, map_tensors
from sb3_pgx.core.undo import Refusal
from sb3_pgx.engine.layers import Modules
from sb3_pgx.engine.parameters import all_finite
from sb3_pgx.engine.policy_graphs import CompiledPass, actions_from_noise
from sb3_pgx.engine.trace import NotCompilable
from sb3_pgx.stages.acting_memory import ActingMemory
from sb3_pgx.stages.plain_actor import PlainActor, acts_plainly
from sb3_pgx.stages.team import ALONE, Team


class ActionSampler:
    """
    Samples the actions of one rollout.

    :param n_envs: N, number of environments
    :param n_updates: number of updates so far, for error messages
    :param watched: whether a callback may change the policy's layers between two steps
    :param evaluates: whether values and log-probabilities are needed at each step, as a user's own buffer does
    :param memory: states of a recurrent policy; ``None``: the policy is not recurrent
    :param team: processes that act together, each in its own environments
    """

    def __init__(
        self,
        n_envs: int,
        n_updates: int,
        watched: bool = True,
        evaluates: bool = False,
        memory: ActingMemory | None = None,
        team: Team = ALONE,
    ):
        self.n_envs, self.n_updates, self.watched, self.evaluates = n_envs, n_updates, watched, evaluates
        self.memory, self._team = memory, team
        self._plain: tuple[ActorCriticPolicy, PlainActor | None] | None = None  # None: not examined
        self._policy: ActorCriticPolicy | None = None  # policy of the graph; None: no graph
        self._graph: CompiledPass
        self._modules: Modules
        self._noise: Callable[[], Tensor]

    def compile(self, policy: ActorCriticPolicy, graph: CompiledPass, modules: Modules, inputs: PolicyInputs) -> None:
        """
        Compile the policy, so that later calls run a graph. If that is impossible, they run the policy's own methods.

        :param policy: policy in evaluation mode
        :param graph: result of :func:`~sb3_pgx.engine.policy_graphs.acting_pass`
        :param modules: layers of the policy, up to date
        :param inputs: examples of what the policy acts on, ``[N, ...]``
        """
        memory = self.memory
        if not self.can_be_compiled(policy):
            return
        tensors = graph.encode(inputs)
        device = tensors[0].device  # SB3's policy.device looks through the parameters, which takes longer than all else here

        def numbers() -> list[Tensor]:
            if not samples_from_noise(policy.action_dist):
                raise NotCompilable(f"{type(policy.action_dist).__name__} samples actions in its own way")
            with th.random.fork_rng():
                noise = self._team.noise_source(policy.action_dist, self.n_envs, device)()
            return [noise] if memory is None else [noise, *memory.before(np.zeros(self.n_envs, bool))]

        if graph.prepare(policy, modules, tensors, numbers):
            self._noise = self._team.noise_source(policy.action_dist, self.n_envs, device)
            self._policy, self._graph, self._modules = policy, graph, modules

    def can_be_compiled(self, policy: ActorCriticPolicy) -> bool:
        """Return whether a graph would sample exactly the actions that the policy's own methods sample."""
        if self.memory is not None:
            return not self.memory.needs_own_methods(policy)
        return not self.evaluates and can_skip_forward(policy)

    def __call__(
        self, policy: ActorCriticPolicy, inputs: PolicyInputs, episode_starts: np.ndarray
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """
        Sample actions.

        :param policy: policy in evaluation mode. The graph belongs to one policy; another one runs its own methods
        :param inputs: what the policy acts on, ``[N, ...]``
        :param episode_starts: in which environments an episode starts; a recurrent policy's state is reset there, ``[N]``
        :return: the result of :func:`sample_actions`
        :raises ValueError: the policy's output is not finite. Exceptions of the policy's own code are passed on
        """
        try:
            actions, values, log_probs = self._act(policy, inputs, episode_starts)
        except Exception:
            with blaming_numbers(lambda what: self._refusal(policy, what), self._place):
                raise
        # Sampling from given noise does not notice NaN. Continuous actions are NaN then; discrete ones look normal, and the
        # evaluation of the rollout finds the NaN.
        from_noise = policy is self._policy or self._team.draws_for_all
        if from_noise and actions.is_floating_point() and not all_finite(actions):
            raise self._refusal(policy, f"its action is {actions[~actions.isfinite()][0]}")
        return actions, values, log_probs

    def _act(
        self, policy: ActorCriticPolicy, inputs: PolicyInputs, episode_starts: np.ndarray
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        memory = self.memory
        if policy is self._policy and not (self.watched and self._graph.is_outdated(self._modules)):
            tensors = self._graph.encode(inputs)
            # For gSDE, a callback may have drawn a noise matrix of another shape.
            if self._graph.takes(tensors) and (noise := self._noise()).shape == self._graph.shapes_before[0]:
                before = [] if memory is None else memory.before(episode_starts)
                actions, *state = self._graph([noise, *before, *tensors])
                if memory is not None:
                    memory.move(state)
                return actions, None, None
        if memory is not None:
            return memory.act(policy, inputs, episode_starts)
        if self._team.draws_for_all and can_act_from_noise(policy) and not self.evaluates:
            noise = self._team.noise_source(policy.action_dist, self.n_envs, policy.device)()
            with th.no_grad():
                return actions_from_noise(policy, inputs, noise), None, None
        actor = self._plain_actor(policy) if inputs.action_masks is None else None
        if actor is not None:
            with th.no_grad():
                sampled = actor(inputs.observations)
            if sampled is not None:
                return sampled, None, None
        return sample_actions(policy, inputs, self.evaluates, self.watched)

    def _plain_actor(self, policy: ActorCriticPolicy) -> PlainActor | None:
        """Return what samples the policy's actions fastest, if it is standard and nobody looks at its layers and methods."""
        if self.watched or self.evaluates:
            return None
        if self._plain is None or self._plain[0] is not policy:
            self._plain = policy, PlainActor(policy, self.n_envs) if acts_plainly(policy) else None
        return self._plain[1]

    def check_follows_changes(self) -> None:
        """:raises RuntimeError: a callback has changed the policy, which the actions of this rollout do not follow"""

    def value_finals(self, policy: ActorCriticPolicy, recorder: Recorder) -> None:
        """
        Let a recurrent policy value the final observations of the recorder's newest row, if values are needed at each step.
        Only now the states are at hand.

        :param policy: policy in evaluation mode
        :param recorder: recorder of the rollout
        """
        memory = self.memory
        if memory is not None and memory.evaluates:
            recorder.value_finals(lambda observation, index: memory.final_value(policy, observation, index))

    def memory_before(self) -> Memory | None:
        """Return the states of a recurrent policy before the rollout, ``[1, N, layers, H]``; ``None``: it is not recurrent."""
        return None if self.memory is None else map_tensors(lambda x: x[None], self.memory.start)

    def memory_after(self, rollout: CollectedRollout) -> Memory | None:
        """
        Return the states of a recurrent policy after a rollout, ``[N, layers, H]``.

        :param rollout: evaluated rollout
        :return: states as acting left them, and otherwise those of the evaluation; ``None``: the policy is not recurrent
        """
        if self.memory is None or rollout.memory is None:
            return None
        return {**map_tensors(lambda x: x[-1], rollout.memory), **self.memory.states}

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


def sample_actions(
    policy: ActorCriticPolicy, inputs: PolicyInputs, evaluates: bool = False, watched: bool = True
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """
    Sample actions with the same random numbers as SB3, but without computing values and log-probabilities.

    If the policy's class overrides ``forward`` or one of the methods that it calls, ``forward`` is used, and the values and
    log-probabilities that it returns are kept.

    :param policy: policy in evaluation mode
    :param inputs: what the policy acts on, ``[N, ...]``
    :param evaluates: whether to use ``forward`` in any case
    :param watched: whether a callback may read the policy's distribution
    :return: actions ``[N, *action]``, not clipped; values and log-probabilities from ``forward``, otherwise ``None`` for both
    """
    with th.no_grad():
        if can_skip_forward(policy) and not evaluates:
            if watched and inputs.action_masks is None:
                actions = policy._predict(inputs.observations)
            else:
                actions = sampled_unchecked(policy, inputs.action_masks, lambda: policy._predict(inputs.observations))
            return actions.reshape((-1, *action_shape(policy.action_space))), None, None
        with masking(policy, inputs.action_masks):
            masks = takes_masks(policy.forward, inputs.action_masks)
            actions, values, log_prob = policy(inputs.observations, **masks)
        return actions, values, log_prob
