"""What SB3's distributions need before functions can be differentiated sample by sample, copied and pickled."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.preprocessing import preprocess_obs
from torch.distributions import Distribution as TorchDistribution

from sb3_pgx.common.rollout import Observations, map_tensors


def release_graph(policy: ActorCriticPolicy) -> None:
    """
    Detach what the policy's distribution still holds of the last pass: tensors with a graph can be neither copied nor
    pickled, and they keep the whole batch's activations alive.
    """
    distribution = getattr(policy, "action_dist", None)
    for name, value in vars(distribution).items() if distribution is not None else ():
        setattr(distribution, name, _detached(value))


def _detached(value: Any) -> Any:
    if isinstance(value, th.Tensor) and not isinstance(value, th.nn.Parameter):
        return value.detach()
    if isinstance(value, list):
        return [_detached(v) for v in value]
    if isinstance(value, TorchDistribution):
        for name, inner in vars(value).items():
            if isinstance(inner, th.Tensor):
                setattr(value, name, inner.detach())
    return value


@contextmanager
def without_validation() -> Iterator[None]:
    """Argument checks of torch's distributions read tensor values, which function transforms cannot do."""
    before = TorchDistribution._validate_args
    TorchDistribution.set_default_validate_args(False)
    try:
        yield
    finally:
        TorchDistribution.set_default_validate_args(before)


@contextmanager
def distribution_kept(policy: ActorCriticPolicy) -> Iterator[None]:
    """Puts the policy's distribution back as it was: function transforms leave tensors in it that are dead afterwards."""
    state = vars(policy.action_dist)
    before = dict(state)
    try:
        yield
    finally:
        state.clear()
        state.update(before)


@contextmanager
def encoded(policy: ActorCriticPolicy, observations: Observations) -> Iterator[Observations]:
    """
    Observations as the feature extractor gets them (one-hot, scaled images), with a policy that takes them so.

    One-hot encoding reads values, which function transforms cannot do; within this context it has been done already.
    """
    space = policy.observation_space
    features: Any = preprocess_obs(observations, space, normalize_images=policy.normalize_images)

    def box(x: th.Tensor) -> spaces.Box:
        return spaces.Box(-np.inf, np.inf, tuple(x.shape[1:]), np.float32)

    boxes = map_tensors(box, features)
    policy.observation_space = spaces.Dict(boxes) if isinstance(boxes, dict) else boxes
    try:
        yield features
    finally:
        policy.observation_space = space
