"""Small float64 policies, and their natural-gradient steps by dense linear algebra."""

import copy
import math

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.distributions import BernoulliDistribution
from support.models import kl_of
from support.small_environments import DEVICE, AnySpace, DoubleFeatures, vectorised
from torch.distributions import kl_divergence

from sb3_pgx.core.policies import GaussianStdPolicy
from sb3_pgx.core.rollout import as_policy_input
from sb3_pgx.registry import ALGORITHMS

OBSERVATIONS = spaces.Box(-1, 1, (3,), np.float64)
PLANE = spaces.Box(-1, 1, (2,), np.float64)  # of the type of the actions that a policy in float64 gives
GSDE = dict(action_space=PLANE, use_sde=True)
# All kinds of action distribution, with so few actions, or nodes of a quadrature, that they can be enumerated.
KINDS = {
    "Discrete": dict(action_space=spaces.Discrete(3)),
    "MultiDiscrete": dict(action_space=spaces.MultiDiscrete([2, 3])),
    "MultiBinary": dict(action_space=spaces.MultiBinary(2)),
    "Box": dict(action_space=PLANE),
    "gSDE": dict(GSDE, policy_kwargs=dict(log_std_init=-1.0)),
    "gSDE, few parameters": dict(GSDE, policy_kwargs=dict(log_std_init=-1.0, full_std=False, use_expln=True)),
    "gSDE, squashed": dict(GSDE, policy_kwargs=dict(log_std_init=-1.0, squash_output=True)),
    "bounded, state-dependent std": dict(policy_kwargs=dict(log_std_bounds=(-5, 2), state_dependent_std=True)),
}


class DoubleBernoulli(BernoulliDistribution):
    """SB3's Bernoulli distribution with log-probabilities in float64, whatever the type of the actions."""

    def log_prob(self, actions):
        return super().log_prob(actions.double())


class DoublePolicy(GaussianStdPolicy):
    """A float64 policy, moved away from its initial parameters, for which all actions are alike."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, features_extractor_class=DoubleFeatures, **{"net_arch": [2], **kwargs})

    def _build(self, lr_schedule):
        if isinstance(self.action_dist, BernoulliDistribution):
            self.action_dist = DoubleBernoulli(self.action_dist.action_dims)
        super()._build(lr_schedule)
        self.double()
        generator = th.Generator().manual_seed(1)
        with th.no_grad():
            for name, p in self.named_parameters():
                size = 0.1 if "log_std" in name else 0.3
                p.add_(size * th.randn(p.shape, generator=generator, dtype=p.dtype).to(p.device))


def double_envs(action_space=PLANE, n=2):
    return vectorised(*(AnySpace(copy.deepcopy(OBSERVATIONS), copy.deepcopy(action_space)) for _ in range(n)))


def double_model(name, action_space=PLANE, policy=DoublePolicy, env=None, **kwargs):
    """Return a model with a float64 policy of two hidden units. It is not compiled by default."""
    settings = dict(n_steps=8, batch_size=16, n_critic_updates=1, seed=0, device=DEVICE, compile=False)
    return ALGORITHMS[name](policy, env or double_envs(action_space), **{**settings, **kwargs})


class Updates(BaseCallback):
    """A callback that keeps each rollout, the policy before and after its update, and the update's metrics."""

    def __init__(self):
        super().__init__()
        self.rollouts, self.before, self.after, self.metrics = [], [], [], []

    def _on_step(self):
        return True

    def _on_rollout_end(self):
        self.rollouts.append(self.model.last_rollout)
        self.before.append(copy.deepcopy(self.model.policy))

    def on_update_end(self, metrics):
        self.after.append(copy.deepcopy(self.model.policy))
        self.metrics.append(metrics)


class Updated:
    """One update on one rollout, with everything recomputed independently. Vectors are flat, over the actor's parameters."""

    def __init__(self, model, advantages=None):
        """:param advantages: advantages from a user's own rollout buffer, ``[T, N]``; ``None``: the rollout's"""
        callback = Updates()
        model.learn(model.n_steps * model.n_envs, callback=callback)
        (rollout,), (self.old,), (self.new,), (self.metrics,) = (
            callback.rollouts, callback.before, callback.after, callback.metrics
        )  # fmt: skip
        if advantages is not None:
            rollout.advantages = rollout.returns = advantages
        self.model, self.batch = model, rollout.rows()
        self.observations = self.batch.observations
        self.step = actor_vector(self.new) - actor_vector(self.old)
        A = self.batch.advantages
        self.advantages = (A - A.mean()) / (A.std() + 1e-8) if model.normalize_advantage else A

    def surrogate(self, policy):
        """Return the mean of A π / π_old."""
        with th.no_grad():
            return self._surrogate(policy).item()

    def _surrogate(self, policy):
        with th.no_grad():
            old = log_prob_of(self.old, self.batch)
        return (self.advantages * (log_prob_of(policy, self.batch) - old).exp()).mean()

    def kl(self, policy):
        """Return KL(π_old‖π) in every state."""
        return kl_of(self.old, policy, self.observations)

    def gradient(self):
        policy = copy.deepcopy(self.old)
        return flat_grad(self._surrogate(policy), actor_of(policy).values())

    def fisher(self, observations=None):
        return hessian_of_kl(self.old, self.observations if observations is None else observations)

    def moved(self, step):
        """Return the old policy after a step of its actor."""
        policy = copy.deepcopy(self.old)
        th.nn.utils.vector_to_parameters(actor_vector(policy) + step, actor_of(policy).values())
        return policy


def in_double(policy):
    """Return a float64 copy of a policy that has one feature extractor, for vector observations."""
    policy = copy.deepcopy(policy).double()
    policy.features_extractor.register_forward_pre_hook(lambda _, inputs: (inputs[0].double(),))  # SB3 hands over float32
    return policy


def is_actors(name):
    """Return whether a parameter belongs to the actor, judged by SB3's names."""
    return "value" not in name and "vf_" not in name


def actor_of(policy):
    return {name: p for name, p in policy.named_parameters() if is_actors(name) and p.requires_grad}


def actor_vector(policy):
    return th.nn.utils.parameters_to_vector(actor_of(policy).values()).detach().clone()


def flat_grad(value, parameters, **kwargs):
    return th.cat([g.flatten() for g in th.autograd.grad(value, list(parameters), **kwargs)])


def log_prob_of(policy, batch):
    distribution = policy.get_distribution(batch.observations)
    return distribution.log_prob(as_policy_input(batch.actions, policy.action_space))


def hessian_of_kl(policy, observations):
    """Return the Hessian of the mean KL(old‖new) at new = old, by differentiating torch's formulas twice."""
    policy = copy.deepcopy(policy)
    parameters = list(actor_of(policy).values())
    with th.no_grad():
        old = policy.get_distribution(observations).distribution
    new = policy.get_distribution(observations).distribution
    pairs = zip(old, new, strict=True) if isinstance(old, list) else [(old, new)]
    kl = sum(kl_divergence(p, q).sum() / p.batch_shape[0] for p, q in pairs)
    gradient = flat_grad(kl, parameters, create_graph=True)
    return th.stack([flat_grad(g, parameters, retain_graph=True, materialize_grads=True) for g in gradient]).detach()


def mean_outer_product_of_scores(policy, observations):
    """Return E_a[∇log π ∇log πᵀ], averaged over the states, with one backward pass per action."""
    policy = copy.deepcopy(policy)
    parameters, total = list(actor_of(policy).values()), 0.0
    for x in observations:
        actions, weights = actions_and_weights(policy, x[None])
        assert abs(weights.sum().item() - 1) < 1e-12
        for action, weight in zip(actions, weights, strict=True):
            score = flat_grad(policy.get_distribution(x[None]).log_prob(action[None]).sum(), parameters)
            total = total + weight * th.outer(score, score)
    return total / len(observations)


def actions_and_weights(policy, x):
    """Return every action of a state with its probability; for a Gaussian, nodes of a quadrature exact to degree 9."""
    space, device = policy.action_space, x.device
    with th.no_grad():
        distribution = policy.get_distribution(x)
        if isinstance(space, spaces.Box):
            nodes, weights = (th.from_numpy(v).to(device) for v in np.polynomial.hermite_e.hermegauss(5))
            normal = distribution.distribution
            actions = normal.mean + normal.stddev * th.cartesian_prod(nodes, nodes)
            weights = th.cartesian_prod(weights, weights).prod(dim=1) / (2 * math.pi)
            return (actions.tanh() if policy.squash_output else actions), weights
        sizes = {"Discrete": lambda: [space.n], "MultiDiscrete": lambda: space.nvec, "MultiBinary": lambda: [2] * space.n}
        ranges = [th.arange(int(n), device=device) for n in sizes[type(space).__name__]()]
        actions = th.cartesian_prod(*ranges)
        return actions, th.cat([distribution.log_prob(a[None]) for a in actions]).exp()


def brute_force(product, size, like):
    """Return the matrix of a matrix-vector product, one column per unit vector."""
    return th.stack([product(unit) for unit in th.eye(size, dtype=like.dtype, device=like.device)], dim=1)
