"""
Evaluate recurrent policies on rows in packed order (:mod:`sb3_pgx.core.sequences`): sb3-contrib's, and ours with a GRU.

The states before the sequences come as a dictionary, the *memory* of a batch: ``sizes``, rows per level ``[L]``, and ``h_pi``,
``c_pi``, ``h_vf``, ``c_vf``, states of actor and critic ``[S, layers, H]``. The critic has states only if it has a recurrent
network of its own: it may share the actor's, or have none. A batch in fixed shapes has ``padded_sizes`` in place of
``sizes``, ``[R]``, and R states, both filled up with zeros: all batches of R rows have the same shapes, so their evaluation
can be compiled.
"""

import sys
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch as th
from stable_baselines3.common.policies import BaseModel
from torch import Tensor, nn

from sb3_pgx.core.recurrence import State, no_state, run_cells, run_operators, run_padded, run_step
from sb3_pgx.core.rollout import Memory, Observations

# Runs the network of a policy with this name over features, given the memory of the batch.
Run = Callable[[nn.RNNBase, Tensor, Mapping[str, Tensor], str], Tensor]
POLICIES = "sb3_contrib.common.recurrent.policies"


class Features(NamedTuple):
    """What the features extractors make of observations, ``[R, F]``. Actor and critic may share an extractor."""

    pi: Tensor
    vf: Tensor


class Latents(NamedTuple):
    """Last hidden layers of actor and critic, ``[R, K]``, from which the policy's heads compute distribution and value."""

    pi: Tensor
    vf: Tensor


def is_recurrent(policy: Any) -> bool:
    """Return whether a policy, or a class of policies, is one of sb3-contrib's recurrent ones or derived from them."""
    module = sys.modules.get(POLICIES)  # it is imported if there is such a policy
    if module is None:
        return False
    return issubclass(policy if isinstance(policy, type) else type(policy), module.RecurrentActorCriticPolicy)


# Methods of sb3-contrib's policies whose computations are done here, on packed rows.
_COMPUTED_HERE = ("evaluate_actions", "get_distribution", "predict_values", "_process_sequence")


def check_recurrent(policy: Any) -> None:
    """
    Check that this module computes what a recurrent policy's own methods would compute.

    :param policy: any policy
    :raises ValueError: it does not
    """
    if not is_recurrent(policy):
        return
    name, base = type(policy).__name__, sys.modules[POLICIES].RecurrentActorCriticPolicy
    own = [method for method in _COMPUTED_HERE if getattr(type(policy), method) is not getattr(base, method)]
    if own:
        raise ValueError(
            f"{name} overrides {own[0]}, but sequences of a recurrent policy are evaluated without it: change the features "
            "extractor, the networks or _get_action_dist_from_latent instead"
        )
    for option in ("batch_first", "bidirectional", "proj_size"):
        if getattr(policy.lstm_actor, option):
            raise ValueError(f"policy_kwargs: lstm_kwargs has {option}, with which {name} cannot act: leave it out")


def networks_of(policy: Any) -> dict[str, nn.RNNBase]:
    """Return the recurrent networks of a policy by name: the actor's ``pi``, and ``vf`` if the critic has its own."""
    return {"pi": policy.lstm_actor} | ({} if policy.lstm_critic is None else {"vf": policy.lstm_critic})


def has_recurrent_critic(policy: Any) -> bool:
    """Return whether V of a policy depends on a recurrent state: of a network of the critic's own or of the actor's."""
    return is_recurrent(policy) and (policy.lstm_critic is not None or policy.shared_lstm)


def no_memory(policy: Any, n: int) -> Memory:
    """Return the states of n sequences at the start of an episode, which are zeros, without ``sizes``."""
    return as_memory({name: no_state(network, n) for name, network in networks_of(policy).items()})


def names_of_memory(policy: Any) -> list[str]:
    """Return the names of the tensors in the memory of a batch in fixed shapes, in their order."""
    return ["padded_sizes", *no_memory(policy, 0)]


def one_level(states: Mapping[str, Tensor]) -> Memory:
    """Return the memory of a batch of one row per sequence, given the states before them."""
    return {"sizes": th.tensor([len(states["h_pi"])]), **states}


def state_in(memory: Mapping[str, Tensor], name: str) -> State:
    """Return the state of the network of this name."""
    return memory[f"h_{name}"], memory[f"c_{name}"]


def as_memory(states: Mapping[str, State]) -> Memory:
    """Return the states of networks, by name, as a memory without ``sizes``."""
    return {f"{kind}_{name}": x for name, state in states.items() for kind, x in zip("hc", state, strict=True)}


def features_of(policy: Any, observations: Observations) -> Features:
    """Return the features of actor and critic for observations ``[R, *obs]``."""
    features = policy.extract_features(observations)
    return Features(features, features) if policy.share_features_extractor else Features(*features)


def latents_of(policy: Any, features: Features, memory: Mapping[str, Tensor]) -> Latents:
    """
    Return the last hidden layers of actor and critic.

    :param policy: recurrent policy
    :param features: features in packed order
    :param memory: memory of the batch
    """
    return _latents(policy, features, memory, _outputs)


def _latents(policy: Any, features: Features, memory: Mapping[str, Tensor], run: Run) -> Latents:
    outputs = run(policy.lstm_actor, features.pi, memory, "pi")
    of_critic = _critic_outputs(policy, features, memory, run, outputs)
    return Latents(policy.mlp_extractor.forward_actor(outputs), policy.mlp_extractor.forward_critic(of_critic))


def latents_and_states(policy: Any, features: Features, memory: Mapping[str, Tensor]) -> tuple[Latents, Memory]:
    """Return :func:`latents_of`, and the states after each row in packed order, ``[R, layers, H]`` each."""
    after: dict[str, State] = {}

    def run(network: nn.RNNBase, inputs: Tensor, memory: Mapping[str, Tensor], name: str) -> Tensor:
        if "padded_sizes" in memory:
            outputs, after[name] = run_operators(network, inputs, memory["padded_sizes"], state_in(memory, name))
        else:
            outputs, after[name] = run_cells(network, inputs, memory["sizes"], state_in(memory, name))
        return outputs

    latents = _latents(policy, features, memory, run)
    return latents, as_memory(after)


def recurrent_distribution(policy: Any, features: Features, memory: Mapping[str, Tensor]) -> Any:
    """Return the action distribution, which is the policy's ``action_dist``; arguments as for :func:`latents_of`."""
    outputs = _outputs(policy.lstm_actor, features.pi, memory, "pi")
    return policy._get_action_dist_from_latent(policy.mlp_extractor.forward_actor(outputs))


def recurrent_step(policy: Any, observations: Observations, resets: Tensor, state: State) -> tuple[Any, State]:
    """
    Return the action distribution at one step of N environments, and the actor's state after it.

    :param policy: recurrent policy
    :param observations: observations, ``[N, *obs]``
    :param resets: in which environments an episode starts, ``[N]``
    :param state: actor's state before the step, not yet reset, ``[N, layers, H]`` each
    """
    features = BaseModel.extract_features(policy, observations, policy.pi_features_extractor)
    outputs, after = run_step(policy.lstm_actor, features, resets, state)
    return policy._get_action_dist_from_latent(policy.mlp_extractor.forward_actor(outputs)), after


def acts_as_contribs(policy: Any) -> bool:
    """Return whether a recurrent policy acts by :func:`recurrent_step`, apart from random numbers."""
    return type(policy)._predict is sys.modules[POLICIES].RecurrentActorCriticPolicy._predict and "_predict" not in vars(
        policy
    )


def recurrent_values(policy: Any, features: Features, memory: Mapping[str, Tensor]) -> Tensor:
    """Return V, ``[R, 1]``; arguments as for :func:`latents_of`."""
    of_actor = None
    if policy.shared_lstm:
        of_actor = _outputs(policy.lstm_actor, features.pi, memory, "pi")
    of_critic = _critic_outputs(policy, features, memory, _outputs, of_actor)
    return policy.value_net(policy.mlp_extractor.forward_critic(of_critic))


def _outputs(network: nn.RNNBase, inputs: Tensor, memory: Mapping[str, Tensor], name: str) -> Tensor:
    """Return the outputs of one network. A batch in fixed shapes has its own way to run it."""
    if "padded_sizes" in memory:
        return run_operators(network, inputs, memory["padded_sizes"], state_in(memory, name))[0]
    return run_padded(network, inputs, memory["sizes"], state_in(memory, name))


def _critic_outputs(
    policy: Any, features: Features, memory: Mapping[str, Tensor], run: Run, of_actor: Tensor | None
) -> Tensor:
    """Return what the critic's layers take, in one of three layouts: an own network, the actor's outputs, or one layer."""
    if policy.lstm_critic is not None:
        return run(policy.lstm_critic, features.vf, memory, "vf")
    if policy.shared_lstm:
        assert of_actor is not None
        return of_actor.detach()  # as in sb3-contrib, the critic does not train the actor's network
    return policy.critic(features.vf)
