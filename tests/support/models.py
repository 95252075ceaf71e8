"""Small models of every algorithm, and comparisons of two models: parameters, optimizers, distributions."""

import inspect

import numpy as np
import torch as th
from gymnasium import spaces
from support.capabilities import QUICK, envs
from support.small_environments import DEVICE
from torch.distributions import kl_divergence

from sb3_pgx.registry import EVERY_ALGORITHM

ACTION_SPACES = {
    "Discrete": spaces.Discrete(3),
    "Box": spaces.Box(-1, 1, (2,), np.float32),
    "MultiDiscrete": spaces.MultiDiscrete([2, 3]),
    "MultiBinary": spaces.MultiBinary(2),
}


def make(name, env=None, policy="MlpPolicy", **kwargs):
    return EVERY_ALGORITHM[name](policy, env or envs(), **{"seed": 0, "device": DEVICE, **QUICK[name], **kwargs})


def make_in(name, env, **kwargs):
    """Make a small model with the policy that the environment's observations need."""
    return make(name, env, "MultiInputPolicy" if hasattr(env.observation_space, "spaces") else "MlpPolicy", **kwargs)


def takes(name, argument):
    """Return whether an algorithm's constructor has an argument of this name."""
    return argument in inspect.signature(EVERY_ALGORITHM[name].__init__).parameters


def with_sde(name, use_sde):
    """Return ``use_sde`` as a keyword argument, or nothing if the algorithm does not have it."""
    return dict(use_sde=use_sde) if takes(name, "use_sde") else {}


def parameters(model):
    return {n: p.detach().clone() for n, p in model.policy.state_dict().items()}


def assert_same(left, right):
    assert left.keys() == right.keys()
    for n in left:
        assert th.equal(left[n], right[n]), n


def assert_same_optimizer(left, right):
    """Assert that settings and moments of two optimizers' state dictionaries are equal bit for bit."""
    assert left["param_groups"] == right["param_groups"] and left["state"].keys() == right["state"].keys()
    for key, moments in left["state"].items():
        as_tensors = ({name: th.as_tensor(value) for name, value in m.items()} for m in (moments, right["state"][key]))
        assert_same(*as_tensors)


class Watched(th.nn.Module):
    """
    A layer that calls ``notice`` with the distance of its parameters from their start whenever it computes with them. Copies
    of them, with which derivatives are computed, do not count.
    """

    def __init__(self, layer, notice):
        super().__init__()
        self.layer, self.notice = layer, notice
        self.start = th.nn.utils.parameters_to_vector(layer.parameters()).detach().clone()

    def forward(self, x):
        parameters = list(self.layer.parameters())
        if all(isinstance(p, th.nn.Parameter) for p in parameters):
            with th.no_grad():
                self.notice((th.nn.utils.parameters_to_vector(parameters) - self.start).norm().item())
        return self.layer(x)


class Coarse(th.nn.Module):
    """Round to thousands, with the derivative of the identity: a gradient, and nothing that a small step improves."""

    def forward(self, x):
        return x + ((x / 1000).round() * 1000 - x).detach()


def kl_of(old, new, observations):
    """Return KL(old‖new) in every state by torch's formulas, summed over the action's dimensions."""
    with th.no_grad():
        p, q = (policy.get_distribution(observations).distribution for policy in (old, new))
        if isinstance(p, list):
            return sum(kl_divergence(a, b) for a, b in zip(p, q, strict=True))
        kl = kl_divergence(p, q)
        return kl if kl.dim() == 1 else kl.sum(dim=1)
