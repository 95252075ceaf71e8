"""
Policies that SB3 lacks (actors without a critic, bounded and state-dependent standard deviations), and functions that find out
which parameters the action distribution depends on.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from typing import Any, TypeVar

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.distributions import CategoricalDistribution, DiagGaussianDistribution, Distribution
from stable_baselines3.common.policies import ActorCriticCnnPolicy, ActorCriticPolicy, MultiInputActorCriticPolicy
from stable_baselines3.common.torch_layers import MlpExtractor
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from torch import Tensor, nn

from sb3_pgx.core.action_masks import masked
from sb3_pgx.core.distributions import Choice, Unvalidated, as_sb3s, family_of, packed, release_graph, samples_from_noise
from sb3_pgx.core.mixed_spaces import n_gaussian
from sb3_pgx.core.product import Product
from sb3_pgx.core.recurrent_evaluation import (
    features_of,
    is_recurrent,
    no_memory,
    one_level,
    recurrent_distribution,
    recurrent_values,
)
from sb3_pgx.core.rollout import Observations, PolicyInputs, map_tensors

Method = TypeVar("Method", bound=Callable[..., Any])
Result = TypeVar("Result")

# SB3's methods that acting consists of. If a policy overrides none of them, `_predict` samples the same actions as `forward`.
_ACTING = ("forward", "_predict", "get_distribution", "extract_features", "evaluate_actions")
MASKABLE_POLICIES = "sb3_contrib.common.maskable.policies"  # whose classes compute as SB3's, apart from masks
STD_OPTIONS = ("log_std_bounds", "state_dependent_std")


class GaussianStdMixin(ActorCriticPolicy):
    """
    Two options for Gaussian policies (Box actions or parts, no gSDE), for ``policy_kwargs``.

    :param args: arguments of SB3's policy
    :param log_std_bounds: lowest and highest log σ, with log σ = low + (high − low) sigmoid(x). Typical: ``None``, which sets
        no bounds, or (−20, 2). The bound is smooth, so there is always a gradient; a hard clamp would trap a parameter that
        has left the interval
    :param state_dependent_std: make log σ a linear function of the actor's last hidden layer, instead of a free parameter
    :param kwargs: further arguments of SB3's policy
    """

    def __init__(
        self,
        *args: Any,
        log_std_bounds: tuple[float, float] | None = None,
        state_dependent_std: bool = False,
        **kwargs: Any,
    ):
        self.log_std_bounds, self.state_dependent_std = log_std_bounds, state_dependent_std
        super().__init__(*args, **kwargs)

    def _build(self, lr_schedule: Schedule) -> None:
        super()._build(lr_schedule)
        if self.log_std_bounds is None and not self.state_dependent_std:
            return
        if not n_gaussian(self.action_space) or self.use_sde:
            raise ValueError(f"{' and '.join(STD_OPTIONS)} need a Gaussian policy: Box actions and use_sde=False")
        initial = self._unbounded(self.log_std_init)
        if self.state_dependent_std:
            del self.log_std
            self.log_std_net = nn.Linear(self.mlp_extractor.latent_dim_pi, n_gaussian(self.action_space))
            if self.ortho_init:
                self.init_weights(self.log_std_net, gain=0.01)
            nn.init.constant_(self.log_std_net.bias, initial)
        else:
            nn.init.constant_(self.log_std, initial)
        restart_optimizer(self, lr_schedule(1))

    def _unbounded(self, log_std: float) -> float:
        """Invert the bound, so that training starts at ``log_std_init``."""
        if self.log_std_bounds is None:
            return log_std
        low, high = self.log_std_bounds
        if not (np.isfinite([low, high]).all() and low < log_std < high):
            raise ValueError(f"log_std_bounds={self.log_std_bounds} must be finite and enclose log_std_init={log_std}")
        return float(np.log((log_std - low) / (high - log_std)))

    def _get_action_dist_from_latent(self, latent_pi: Tensor) -> Any:
        if self.log_std_bounds is None and not self.state_dependent_std:
            return super()._get_action_dist_from_latent(latent_pi)
        log_std = self.log_std_net(latent_pi) if self.state_dependent_std else self.log_std
        if self.log_std_bounds is not None:
            low, high = self.log_std_bounds
            log_std = low + (high - low) * th.sigmoid(log_std)
        return self.action_dist.proba_distribution(self.action_net(latent_pi), log_std)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        # SB3's list lacks share_features_extractor, so a policy saved without sharing would load with it.
        return {
            **super()._get_constructor_parameters(),
            "share_features_extractor": self.share_features_extractor,
            **{name: getattr(self, name) for name in STD_OPTIONS},
        }


class ActorMixin(GaussianStdMixin):
    """
    A policy without a critic: no value network is built, and ``predict_values`` returns zeros.

    Arguments are those of SB3's policies; the critic's part of ``net_arch`` and ``share_features_extractor`` is ignored.
    """

    def __init__(self, *args: Any, share_features_extractor: bool = True, **kwargs: Any):
        super().__init__(*args, share_features_extractor=True, **kwargs)

    def _build_mlp_extractor(self) -> None:
        layers = self.net_arch.get("pi", []) if isinstance(self.net_arch, dict) else self.net_arch
        self.mlp_extractor = MlpExtractor(
            self.features_dim, net_arch=dict(pi=layers, vf=[]), activation_fn=self.activation_fn, device=self.device
        )

    def _build(self, lr_schedule: Schedule) -> None:
        super()._build(lr_schedule)
        self.value_net = NoCritic()  # type: ignore[assignment]
        restart_optimizer(self, lr_schedule(1))

    def predict_values(self, obs: PyTorchObs) -> Tensor:
        """
        Return zeros, ``[B, 1]``.

        :param obs: observations, ``[B, *obs]``
        """
        first = next(iter(obs.values())) if isinstance(obs, dict) else obs
        return th.zeros(len(first), 1, device=first.device)


class NoCritic(nn.Module):
    """Placeholder for the value network of SB3's policies: V = 0."""

    def forward(self, latent: Tensor) -> Tensor:
        """Return zeros, ``[B, 1]``."""
        return latent.new_zeros(len(latent), 1)


class GaussianStdPolicy(GaussianStdMixin, ActorCriticPolicy):
    """SB3's ``MlpPolicy`` with the options of :class:`GaussianStdMixin`."""


class GaussianStdCnnPolicy(GaussianStdMixin, ActorCriticCnnPolicy):
    """SB3's ``CnnPolicy`` with the options of :class:`GaussianStdMixin`."""


class GaussianStdMultiInputPolicy(GaussianStdMixin, MultiInputActorCriticPolicy):
    """SB3's ``MultiInputPolicy`` with the options of :class:`GaussianStdMixin`."""


class ActorPolicy(ActorMixin, ActorCriticPolicy):
    """SB3's ``MlpPolicy`` without a critic."""


class ActorCnnPolicy(ActorMixin, ActorCriticCnnPolicy):
    """SB3's ``CnnPolicy`` without a critic."""


class ActorMultiInputPolicy(ActorMixin, MultiInputActorCriticPolicy):
    """SB3's ``MultiInputPolicy`` without a critic."""


_WITH_STD_OPTIONS: dict[type, type[ActorCriticPolicy]] = {
    ActorCriticPolicy: GaussianStdPolicy,
    ActorCriticCnnPolicy: GaussianStdCnnPolicy,
    MultiInputActorCriticPolicy: GaussianStdMultiInputPolicy,
}


def policy_class_for(policy_class: Any, policy_kwargs: dict[str, Any]) -> Any:
    """
    Return the policy class to use: ours if ``policy_kwargs`` ask for one of its options, otherwise the given one.

    :param policy_class: policy class that was asked for
    :param policy_kwargs: arguments of the policy
    :raises ValueError: a user's own class gets one of the options
    """
    asked = [policy_kwargs.get(name) for name in STD_OPTIONS if name in policy_kwargs]
    if not asked or (isinstance(policy_class, type) and issubclass(policy_class, GaussianStdMixin)):
        return policy_class
    if policy_class not in _WITH_STD_OPTIONS:
        if not any(asked):
            return policy_class
        raise ValueError(
            f"{policy_class.__name__} does not take {' and '.join(STD_OPTIONS)}: derive it from "
            "sb3_pgx.core.policies.GaussianStdPolicy, or leave them out."
        )
    return _WITH_STD_OPTIONS[policy_class]


def mean_std(policy: ActorCriticPolicy, observations: Observations) -> Tensor | float | None:
    """
    Return the mean standard deviation of a policy for Box actions or parts, or ``None`` if the policy has none.

    :param policy: policy; SB3's standard deviation is a parameter, with our options it may depend on the observations
    :param observations: observations to average over, ``[B, *obs]``
    """
    log_std = getattr(policy, "log_std", None)
    bounded = getattr(policy, "log_std_bounds", None) is not None
    if log_std is not None and not bounded:
        values = log_std.detach().exp().flatten().tolist()  # faster than torch's mean for few numbers
        return sum(values) / len(values)
    if not isinstance(policy.action_dist, DiagGaussianDistribution | Product):
        return None
    with th.no_grad():
        distribution = policy.get_distribution(observations)
    std = family_of(distribution).std(packed(distribution))
    return None if std is None else std.mean()


def restart_optimizer(policy: ActorCriticPolicy, learning_rate: float) -> None:
    """
    Give the policy a new optimizer of its class, for its current parameters.

    :param policy: policy whose ``optimizer`` is replaced
    :param learning_rate: step size of the new optimizer
    """
    policy.optimizer = policy.optimizer_class(policy.parameters(), lr=learning_rate, **policy.optimizer_kwargs)  # type: ignore[call-arg]


def follow_parameters(optimizer: th.optim.Optimizer, before: Mapping[str, nn.Parameter], policy: nn.Module) -> None:
    """
    Let the optimizer move the policy's new parameters, with the old moments, if all of them have been replaced, as
    ``load_state_dict(assign=True)`` does.

    :param optimizer: optimizer of the policy
    :param before: earlier parameters of the policy, by name
    :param policy: policy with its current parameters
    """
    now, names = dict(policy.named_parameters()), {id(p): name for name, p in before.items()}
    held = [p for group in optimizer.param_groups for p in group["params"]]
    known = {id(p) for p in now.values()}
    if any(id(p) in known or names.get(id(p)) not in now for p in held):
        return
    for group in optimizer.param_groups:
        group["params"] = [now[names[id(p)]] for p in group["params"]]
    for p in held:
        if p in optimizer.state:
            optimizer.state[now[names[id(p)]]] = optimizer.state.pop(p)


def leave_out(optimizer: th.optim.Optimizer, parameters: Mapping[str, nn.Parameter]) -> None:
    """
    Remove parameters from an optimizer, and their state, which some optimizers create at once.

    :param optimizer: optimizer to change
    :param parameters: parameters to remove, by name
    """
    members = {id(p) for p in parameters.values()}
    for group in optimizer.param_groups:
        group["params"] = [p for p in group["params"] if id(p) not in members]
    optimizer.param_groups[:] = [group for group in optimizer.param_groups if group["params"]]
    for p in parameters.values():
        optimizer.state.pop(p, None)


def is_sb3s(policy: Any, *methods: str) -> bool:
    """
    Return whether a policy uses these methods of SB3's ``ActorCriticPolicy`` unchanged, in its class and in the object.

    :param policy: policy to examine
    :param methods: names of methods
    """
    own, kind = vars(policy), type(policy)
    return own.keys().isdisjoint(methods) and all(_stands_for(getattr(kind, name, None), name) for name in methods)


def can_skip_forward(policy: Any) -> bool:
    """Return whether ``_predict`` samples exactly the actions that ``forward`` would sample."""
    return is_sb3s(policy, *_ACTING)


def can_act_from_noise(policy: Any) -> bool:
    """Return whether a policy's actions are those of its distribution with the random numbers of its ``noise_source``."""
    return can_skip_forward(policy) and samples_from_noise(policy.action_dist)


@cache
def _stands_for(method: Any, name: str) -> bool:
    known = method is getattr(ActorCriticPolicy, name) or getattr(method, "samples_as_sb3", False)
    return known or getattr(method, "__module__", None) == MASKABLE_POLICIES


def is_maskable(policy_class: Any) -> bool:
    """Return whether a class is one of sb3-contrib's maskable policies, or derived from one."""
    return any(c.__module__ == MASKABLE_POLICIES for c in getattr(policy_class, "__mro__", ()))


def samples_as_sb3(method: Method) -> Method:
    """
    Mark a policy's method as one that samples the same actions as SB3's own method.

    :param method: method to mark
    """
    method.samples_as_sb3 = True  # type: ignore[attr-defined]
    return method


@contextmanager
def unchecked(policy: ActorCriticPolicy, action_masks: Tensor | None = None) -> Iterator[None]:
    """
    Within this context, the policy gives invalid actions the probability 0, and ``evaluate_actions`` and ``_predict`` skip the
    checks of torch's Categorical distribution, if the methods and the distribution are SB3's. For callers that check
    themselves that the results are finite.

    :param policy: policy whose distribution is replaced within the context
    :param action_masks: which actions are valid, ``[B, M]``; ``None``: all of them
    """
    before = policy.action_dist
    known = as_sb3s(before)
    if type(known) is CategoricalDistribution and is_sb3s(policy, *_methods_that_make_distributions(policy)):
        inside: Distribution = Choice(known.action_dim, action_masks)
    else:
        inside = known if action_masks is None else masked(known, action_masks)
    with nullcontext() if inside is before else _with_distribution(policy, inside):
        yield


@contextmanager
def _with_distribution(policy: ActorCriticPolicy, distribution: Distribution) -> Iterator[None]:
    """Within this context, the policy has another distribution."""
    attributes, before = vars(policy), policy.action_dist  # a module looks for parameters in whatever is assigned to it
    attributes["action_dist"] = distribution
    try:
        yield
    finally:
        attributes["action_dist"] = before


def sampled_unchecked(policy: ActorCriticPolicy, action_masks: Tensor | None, sample: Callable[[], Result]) -> Result:
    """
    Sample actions within :func:`unchecked`, unless something is wrong with the probabilities.

    :param policy: policy that acts
    :param action_masks: which actions are valid, ``[B, M]``; ``None``: all of them
    :param sample: samples actions of the policy
    """
    try:
        with unchecked(policy, action_masks):
            return sample()
    except RuntimeError as error:
        if not str(error).startswith("probability tensor contains"):  # which torch says before it draws a number
            raise
    return sample()  # whose checks name the cause


def _methods_that_make_distributions(policy: ActorCriticPolicy) -> tuple[str, ...]:
    own = "_get_action_dist_from_latent"
    return (own,) if is_recurrent(policy) else ("evaluate_actions", own)


def masking(policy: ActorCriticPolicy, action_masks: Tensor | None) -> AbstractContextManager[None]:
    """
    Return a context in which the policy gives invalid actions the probability 0, with all of torch's checks. Without masks,
    nothing changes.

    :param policy: policy whose distribution is replaced within the context
    :param action_masks: which actions are valid, ``[B, M]``; ``None``: all of them
    """
    if action_masks is None:
        return nullcontext()
    return _with_distribution(policy, masked(as_sb3s(policy.action_dist), action_masks))


def takes_masks(method: Callable[..., Any], action_masks: Tensor | None) -> dict[str, Tensor]:
    """
    Return masks as a keyword argument of a policy's method, if it takes them, as methods of sb3-contrib's policies do.

    :param method: of the policy
    :param action_masks: which actions are valid, ``[B, M]``; ``None``: all of them
    """
    if action_masks is None or "action_masks" not in inspect.signature(method).parameters:
        return {}
    return {"action_masks": action_masks}


def check_masked(policy: ActorCriticPolicy, observations: Observations, action_masks: Tensor) -> None:
    """
    Check that a policy makes its distribution of ``action_dist``, through which it is masked.

    :param policy: in evaluation mode
    :param observations: ``[B, *obs]``
    :param action_masks: which leave each choice its first option alone, ``[B, M]``
    :raises ValueError: a method makes another distribution
    """
    inputs = at_start(policy, observations, len(action_masks))
    with unchecked(policy, action_masks), th.no_grad():
        own = None if made_distribution(policy, inputs) is policy.action_dist else "get_distribution"
    methods = [name for name in ("forward", "evaluate_actions") if not is_recurrent(policy) and not is_sb3s(policy, name)]
    if own is None and methods and not isinstance(policy.action_dist, Product):
        own = next((name for name in methods if not _is_certain(policy, name, observations, action_masks)), None)
    if own is not None:
        raise ValueError(
            f"the environments mask actions, but {type(policy).__name__}.{own} makes a distribution of its own, which cannot "
            "be masked: let it use self.action_dist.proba_distribution(…), or pass learn(use_masking=False)"
        )


def _is_certain(policy: ActorCriticPolicy, name: str, observations: Observations, action_masks: Tensor) -> bool:
    """Return whether a policy's method gives the only valid action the probability 1."""
    only = policy.action_space.sample() * 0  # the first option of each choice
    with th.no_grad(), th.random.fork_rng(), masking(policy, action_masks):
        if name == "forward":
            taken, _, log_prob = policy(observations, **takes_masks(policy.forward, action_masks))
            right = (taken == 0).all()
        else:
            actions = th.as_tensor(np.stack([only] * len(action_masks)), device=action_masks.device)
            _, log_prob, _ = policy.evaluate_actions(
                observations, actions, **takes_masks(policy.evaluate_actions, action_masks)
            )
            right = th.tensor(True)
    return bool(right) and bool((log_prob.abs() < 1e-3).all())


def distribution_of(policy: ActorCriticPolicy, inputs: PolicyInputs) -> Distribution:
    """
    Return the action distribution for B rows.

    :param policy: policy, in the mode (training or evaluation) in which it acts
    :param inputs: observations, action masks and memory
    """
    with unchecked(policy, inputs.action_masks):
        return made_distribution(policy, inputs)


def made_distribution(policy: ActorCriticPolicy, inputs: PolicyInputs) -> Distribution:
    """
    Return the action distribution for B rows, in a context of :func:`unchecked`, which masks it.

    :param policy: policy, in the mode (training or evaluation) in which it acts
    :param inputs: observations and memory
    """
    if inputs.memory is None:
        return policy.get_distribution(inputs.observations)
    return recurrent_distribution(policy, features_of(policy, inputs.observations), inputs.memory)


def at_start(policy: ActorCriticPolicy, observations: Observations, n: int) -> PolicyInputs:
    """
    Return what a policy acts on at the start of n episodes.

    :param policy: policy, recurrent or not
    :param observations: first observations, ``[n, *obs]``
    :param n: number of episodes
    """
    return PolicyInputs(observations, memory=one_level(no_memory(policy, n)) if is_recurrent(policy) else None)


def split_parameters(policy: ActorCriticPolicy) -> tuple[dict[str, nn.Parameter], dict[str, nn.Parameter]]:
    """
    Return the parameters that the action distribution depends on, and those that the value depends on. Shared parameters are
    in both.

    They are found by differentiation, not by name, because custom policies name their layers freely.

    :param policy: policy to examine
    :return: parameters of the actor and of the critic, by name
    """
    device, space = policy.device, policy.observation_space

    def example(space: spaces.Space) -> Tensor:
        return th.zeros((1, *(space.shape or ())), dtype=th.as_tensor(np.zeros(0, space.dtype)).dtype, device=device)

    observation: Any = map_tensors(example, dict(space.spaces) if isinstance(space, spaces.Dict) else space)
    training = policy.training
    policy.set_training_mode(False)
    try:
        with Unvalidated():  # parameters that are not finite are refused by the step, which says where
            values, log_prob, entropy = _evaluated_mode(policy, at_start(policy, observation, 1))
    finally:
        policy.set_training_mode(training)
    target = log_prob.sum() if entropy is None else log_prob.sum() + entropy.sum()
    release_graph(policy)
    return depends_on(target, policy), depends_on(values.sum(), policy)


def _evaluated_mode(policy: ActorCriticPolicy, inputs: PolicyInputs) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return the value of a state, and log-probability and entropy at the most probable action."""
    if inputs.memory is None:
        with th.no_grad():
            action = policy.get_distribution(inputs.observations).mode()
        return policy.evaluate_actions(inputs.observations, action)
    made = made_distribution(policy, inputs)
    values = recurrent_values(policy, features_of(policy, inputs.observations), inputs.memory)
    return values, made.log_prob(made.mode().detach()), made.entropy()


def depends_on(output: Tensor, policy: nn.Module) -> dict[str, nn.Parameter]:
    """
    Return the trainable parameters from which an output was computed, by name.

    :param output: scalar
    :param policy: module with the parameters
    """
    named = {name: p for name, p in policy.named_parameters() if p.requires_grad}
    if not output.requires_grad:
        return {}
    gradients = th.autograd.grad(output, list(named.values()), retain_graph=True, allow_unused=True)
    return {name: p for (name, p), g in zip(named.items(), gradients, strict=True) if g is not None}
