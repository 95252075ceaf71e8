"""Segments of a small float64 ACER, and its objective recomputed from the definitions."""

import copy

import numpy as np
import torch as th
from gymnasium import spaces
from support.small_environments import DEVICE, AnySpace, DoubleFeatures, vectorised
from torch.distributions import Normal

from sb3_pgx.algorithms.acer import ACER
from sb3_pgx.algorithms.acer.objective import Coefficients
from sb3_pgx.algorithms.acer.segments import Segments
from sb3_pgx.core.distributions import release_graph

BOX = spaces.Box(-1, 1, (3,), np.float32)
ACTIONS = {"Discrete": spaces.Discrete(3), "Box": spaces.Box(-1, 1, (2,), np.float32)}
GAMMA, N_DUELING, T, M = 0.9, 3, 4, 3
EXACT = dict(rtol=1e-9, atol=1e-11)


def random(seed, *shape):
    return th.randn(*shape, generator=th.Generator(device=DEVICE).manual_seed(seed), dtype=th.float64)


def small_model(kind, **policy_kwargs):
    """Return an ACER whose float64 policies have a few neurons."""
    small = dict(net_arch=dict(pi=[4], vf=[5]), features_extractor_class=DoubleFeatures, ortho_init=False)
    env = vectorised(AnySpace(BOX, ACTIONS[kind]))
    kwargs = dict(policy_kwargs={**small, **policy_kwargs}, device=DEVICE, seed=0, n_dueling_samples=N_DUELING)
    model = ACER("MlpPolicy", env, n_steps=T, **kwargs)
    model.policy.double()
    model.average_policy.double()
    return model


def shifted(policy, seed, size=0.6):
    """Return a copy whose parameters, the standard deviation included, have moved a little in all directions."""
    release_graph(policy)
    other = copy.deepcopy(policy)
    with th.no_grad():
        for i, p in enumerate(other.parameters()):
            p.add_(size * random(seed + i, *p.shape))
    return other


def parameters_of(policy, observations):
    """Return logits, or means and standard deviations, as torch's distributions have them."""
    with th.no_grad():
        distribution = policy.get_distribution(observations).distribution
    if isinstance(distribution, Normal):
        return th.cat([distribution.mean, distribution.stddev], dim=1)
    return distribution.logits


def coefficients(**given):
    """Return coefficients that leave only the policy's gradient, without a trust region, except for those given."""
    nothing = dict(trust_region=False, trust_region_delta=1.0, q_coef=0.0, ent_coef=0.0, in_logits=False, with_std=False)
    return Coefficients(**{**dict(gamma=GAMMA, importance_clip=1.5, average_coef=0.99), **nothing, **given})


def segments(model, behaviour=None, average=None):
    """
    M segments of T steps in which ``behaviour`` acted; one terminates inside, one is truncated there. The actions are any:
    some that ``behaviour`` likes better, and some that the policy does. ``average`` becomes the model's average policy.
    """
    policy = model.policy
    observations = random(1, (T + 1) * M, 3).float()
    of_rows = observations[: T * M]
    model.average_policy = average or shifted(policy, 0, 0.0)
    acting = parameters_of(behaviour or policy, of_rows)
    noise = bounds = None
    if acting.shape[1] == 3:
        actions = random(2, T * M, 3).argmax(dim=1, keepdim=True)
    else:
        actions = th.where(random(6, T * M, 1) > 0, acting, parameters_of(policy, of_rows))[:, :2]
        actions = (actions + 0.1 * random(2, T * M, 2)).float()
        noise = random(3, 1 + 2 * N_DUELING, T * M, 2)
        bounds = th.tensor([[-0.3, -9.0], [0.2, 0.4]])
    terminated, truncated = (th.zeros(T, M, dtype=th.bool) for _ in range(2))
    terminated[1, 1] = truncated[2, 2] = True
    final, rewards = random(4, 1, 3).float(), random(5, T, M)
    return Segments(observations, actions, acting, rewards, terminated, truncated, final, noise, bounds)


def evaluated(model, batch):
    """Evaluate the segments with the policy and the average policy."""
    return model.objective.evaluate(model.policy, batch, model.average_policy)


def measured(model, batch, c):
    return model.objective.measure(evaluated(model, batch), batch, c)


def gradient(model, loss, **kwargs):
    """Return the gradient in all parameters, with zeros for unused ones."""
    parameters = [p for p in model.policy.parameters() if p.requires_grad]
    grads = th.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True, **kwargs)
    return th.cat([g.flatten() for g in grads])


def result(model, batch, c):
    return gradient(model, measured(model, batch, c)["loss"])


def returns(model, batch, values, last_values, action_values, traces):
    """Compute Q + Σ_s γ^{s−t} Π traces (r + γ V − Q) row by row as a sum, ``[B]``."""
    v, q, c = (x.detach().view(T, -1) for x in (values, action_values, traces))
    total, order = th.empty_like(v), batch.truncated.nonzero().tolist()
    with th.no_grad():
        finals = model.policy.predict_values(batch.final_observations).flatten()
    for t in range(T):
        for m in range(v.shape[1]):
            total[t, m], weight = q[t, m], 1.0
            for s in range(t, T):
                following = v[s + 1, m] if s + 1 < T else last_values.detach()[m]
                if batch.truncated[s, m]:
                    following = finals[order.index([s, m])]
                if batch.terminated[s, m]:
                    following = 0.0
                weight = weight * (c[s, m] if s > t else 1.0)
                total[t, m] += GAMMA ** (s - t) * weight * (batch.rewards[s, m] + GAMMA * following - q[s, m])
                if batch.terminated[s, m] or batch.truncated[s, m]:
                    break
    return total.flatten()


def leaves(now):
    return type(now)(*(x.detach().clone().requires_grad_(True) for x in now))


def partial(model, batch, now, c):
    """Return the derivative of the loss in each output of the policy, by name; ``None`` for unused ones."""
    loss = model.objective.measure(now, batch, c)["loss"]
    grads = th.autograd.grad(loss, list(now), allow_unused=True)
    return dict(zip(now._fields, grads, strict=True))
