"""
What SB3's policies lack: actors without a critic, bounded and state-dependent standard deviations, and knowledge of
which parameters the action distribution depends on.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticCnnPolicy, ActorCriticPolicy, MultiInputActorCriticPolicy
from stable_baselines3.common.preprocessing import get_action_dim
from stable_baselines3.common.torch_layers import MlpExtractor
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from torch import Tensor, nn
from torch.nn import functional as F

from sb3_pgx.common.distributions import release_graph
from sb3_pgx.common.rollout import map_tensors

STD_OPTIONS = ("log_std_bounds", "state_dependent_std")


class GaussianStdMixin(ActorCriticPolicy):
    """
    Two options for Gaussian policies (Box actions, no gSDE), for ``policy_kwargs``.

    :param log_std_bounds: lowest and highest log σ. The bound is smooth, with a gradient everywhere (Chua et al., 2018,
        appendix A.1): a hard clamp would hold a parameter forever once it has left the interval
    :param state_dependent_std: log σ is a linear function of the actor's last hidden layer instead of a free parameter
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
        if not isinstance(self.action_space, spaces.Box) or self.use_sde:
            raise ValueError(f"{' and '.join(STD_OPTIONS)} are for Gaussian policies: Box actions, use_sde=False")
        initial = self._unbounded(self.log_std_init)
        if self.state_dependent_std:
            del self.log_std
            self.log_std_net = nn.Linear(self.mlp_extractor.latent_dim_pi, get_action_dim(self.action_space))
            if self.ortho_init:
                self.init_weights(self.log_std_net, gain=0.01)
            nn.init.constant_(self.log_std_net.bias, initial)
        else:
            nn.init.constant_(self.log_std, initial)
        restart_optimizer(self, lr_schedule(1))

    def _unbounded(self, log_std: float) -> float:
        """Inverse of the bound, so that training starts at ``log_std_init``."""
        if self.log_std_bounds is None:
            return log_std
        low, high = self.log_std_bounds
        if not low < log_std < high:
            raise ValueError(f"log_std_bounds={self.log_std_bounds} must enclose log_std_init={log_std}")
        below = low + inverse_softplus(log_std - low)
        if below >= high:
            raise ValueError(f"log_std_init={log_std} is too near the lower end of log_std_bounds={self.log_std_bounds}")
        return high - inverse_softplus(high - below)

    def _get_action_dist_from_latent(self, latent_pi: Tensor) -> Any:
        if self.log_std_bounds is None and not self.state_dependent_std:
            return super()._get_action_dist_from_latent(latent_pi)
        log_std = self.log_std_net(latent_pi) if self.state_dependent_std else self.log_std
        if self.log_std_bounds is not None:
            low, high = self.log_std_bounds
            log_std = high - F.softplus(high - log_std)
            log_std = low + F.softplus(log_std - low)
        return self.action_dist.proba_distribution(self.action_net(latent_pi), log_std)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        # SB3's own list lacks share_features_extractor, so that a policy saved without sharing loads with it.
        return {
            **super()._get_constructor_parameters(),
            "share_features_extractor": self.share_features_extractor,
            **{name: getattr(self, name) for name in STD_OPTIONS},
        }


class ActorMixin(GaussianStdMixin):
    """
    A policy without a critic: no value network is built, and ``predict_values`` returns zeros.

    ``net_arch`` and ``share_features_extractor`` are accepted as SB3's policies take them; their critic part is ignored.
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
        first = next(iter(obs.values())) if isinstance(obs, dict) else obs
        return th.zeros(len(first), 1, device=first.device)


class NoCritic(nn.Module):
    """Stands where SB3's policies have their value network: V = 0."""

    def forward(self, latent: Tensor) -> Tensor:
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
    """SB3's own class, or ours where ``policy_kwargs`` ask for one of its options."""
    if any(name in policy_kwargs for name in STD_OPTIONS):
        return _WITH_STD_OPTIONS.get(policy_class, policy_class)
    return policy_class


def restart_optimizer(policy: ActorCriticPolicy, learning_rate: float) -> None:
    """Give the policy a fresh optimizer of its class over the parameters that it has now."""
    policy.optimizer = policy.optimizer_class(policy.parameters(), lr=learning_rate, **policy.optimizer_kwargs)  # type: ignore[call-arg]


def regroup_optimizer(optimizer: th.optim.Optimizer, *parts: Mapping[str, nn.Parameter]) -> None:
    """
    Split every parameter group of a fresh optimizer by ``parts``; parameters in none of them leave the optimizer.

    :param optimizer: without state
    :param parts: disjoint sets of parameters, by name
    """
    members = [{id(p) for p in part.values()} for part in parts]
    optimizer.param_groups[:] = [
        {**group, "params": picked}
        for group in optimizer.param_groups
        for ids in members
        if (picked := [p for p in group["params"] if id(p) in ids])
    ]


def split_parameters(policy: ActorCriticPolicy) -> tuple[dict[str, nn.Parameter], dict[str, nn.Parameter]]:
    """
    The parameters that the action distribution depends on, and those that the value depends on; shared ones are in both.

    Found by differentiating, not by name: a custom policy may call its layers what it likes.

    :return: actor's and critic's parameters by name
    """
    training, device = policy.training, policy.device
    policy.set_training_mode(False)
    space = policy.observation_space

    def example(space: spaces.Space) -> Tensor:
        return th.zeros((1, *(space.shape or ())), dtype=th.as_tensor(np.zeros(0, space.dtype)).dtype, device=device)

    observation: Any = map_tensors(example, dict(space.spaces) if isinstance(space, spaces.Dict) else space)
    with th.no_grad():
        action = policy.get_distribution(observation).mode()
    values, log_prob, entropy = policy.evaluate_actions(observation, action)
    policy.set_training_mode(training)
    target = log_prob.sum() if entropy is None else log_prob.sum() + entropy.sum()
    release_graph(policy)
    return depends_on(target, policy), depends_on(values.sum(), policy)


def depends_on(output: Tensor, policy: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters of ``policy`` that ``output`` was computed from, by name."""
    named = {name: p for name, p in policy.named_parameters() if p.requires_grad}
    if not output.requires_grad:
        return {}
    gradients = th.autograd.grad(output, list(named.values()), retain_graph=True, allow_unused=True)
    return {name: p for (name, p), g in zip(named.items(), gradients, strict=True) if g is not None}


def inverse_softplus(y: float) -> float:
    """x with log(1 + eˣ) = y, for y > 0."""
    return float(np.log(np.expm1(y))) if y < 30 else y
