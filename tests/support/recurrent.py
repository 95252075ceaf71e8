"""Small recurrent policies, and their evaluation step by step with sb3-contrib's own methods."""

from typing import NamedTuple

import torch as th
from sb3_contrib.common.recurrent.type_aliases import RNNStates
from support.small_environments import DEVICE, DoubleFeatures

from sb3_pgx.core.policy_names import named_policy
from sb3_pgx.core.rollout import as_policy_input, map_tensors

# How the critic remembers: by a network of its own, by the actor's, or not at all.
LAYOUTS = {
    "separate": {},
    "shared": dict(shared_lstm=True, enable_critic_lstm=False),
    "critic without memory": dict(enable_critic_lstm=False),
}
CELLS = ("Lstm", "Gru")


def policy_kwargs(layout="separate", **kwargs):
    return dict(lstm_hidden_size=4, net_arch=[3], **LAYOUTS[layout], **kwargs)


def double_policy(name="MlpLstmPolicy", seed=0):
    """Return a class of float64 policies, moved away from their initial parameters."""

    class Double(named_policy(name)):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, features_extractor_class=DoubleFeatures, **kwargs)
            self.double()
            generator = th.Generator().manual_seed(seed)
            with th.no_grad():
                for p in self.parameters():
                    p.add_(0.3 * th.randn(p.shape, generator=generator, dtype=p.dtype).to(p.device))

    return Double


def zero_states(policy, n=1):
    """Return the states of actor and critic at the start of n episodes."""
    layers, _, size = policy.lstm_hidden_state_shape
    like = next(policy.parameters())
    pair = (like.new_zeros(layers, n, size), like.new_zeros(layers, n, size))
    return RNNStates(pair, pair)


class Stepped(NamedTuple):
    """A rollout evaluated step by step, ``[T, N]``, and the states after it, per environment."""

    values: th.Tensor
    log_prob: th.Tensor
    entropy: th.Tensor
    next_values: th.Tensor
    distributions: list  # [N][T]
    states: list


def stepped(policy, rollout, states=None):
    """
    Step through each environment of a rollout alone, with sb3-contrib's own methods. Gradients go back to its first row.

    :param states: per environment, after the rollout before; ``None``: zeros
    """
    columns, after, distributions = [], [], []
    n_steps, n_envs = rollout.shape
    final = iter([] if rollout.final_observations is None else range(int(rollout.truncated.sum())))
    place = {(t, n): next(final) for t, n in rollout.truncated.nonzero().tolist()}
    for n in range(n_envs):
        state = zero_states(policy) if states is None else states[n]
        rows, made = [], []
        for t in range(n_steps):
            observation = map_tensors(lambda x, t=t, n=n: x[t, n : n + 1], rollout.observations)
            start = rollout.episode_starts[t, n : n + 1].float()
            action = as_policy_input(rollout.actions[t, n : n + 1], policy.action_space)
            distribution, _ = policy.get_distribution(observation, state.pi, start)
            log_prob, entropy = distribution.log_prob(action), distribution.entropy()
            made.append(distribution.distribution)
            _, value, _, state = policy.forward(observation, state, start)
            following = th.zeros(1, 1)
            if rollout.truncated[t, n]:
                seen = map_tensors(lambda x, k=place[t, n]: x[k : k + 1], rollout.final_observations)
                following = policy.predict_values(seen, critics(policy, state), th.zeros(1, device=DEVICE))
            elif t == n_steps - 1 and not rollout.terminated[t, n]:
                seen = map_tensors(lambda x, n=n: x[n : n + 1], rollout.last_observations)
                following = policy.predict_values(seen, critics(policy, state), th.zeros(1, device=DEVICE))
            rows.append([value.flatten(), log_prob, entropy, following.flatten()])
        values, log_probs, entropies, followings = (th.cat(x) for x in zip(*rows, strict=True))
        inside = ~rollout.ends[:-1, n]
        followings = th.cat([th.where(inside, values[1:], followings[:-1]), followings[-1:]])
        columns.append([values, log_probs, entropies, followings])
        after.append(state)
        distributions.append(made)
    return Stepped(*(th.stack(x, dim=1) for x in zip(*columns, strict=True)), distributions, after)


def critics(policy, state):
    """Return the states that the critic continues from."""
    return state.pi if policy.lstm_critic is None else state.vf
