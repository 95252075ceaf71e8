"""Actions that are drawn with given noise: those of the policy's own forward, and the generator is left as it leaves it."""

import pytest
import torch as th
from gymnasium import spaces
from support.capabilities import BOX, FAR, MIXED
from support.eager_and_compiled import envs
from support.small_environments import DEVICE

from sb3_pgx import A2C
from sb3_pgx.core.distributions import noise_source, sample_with

POLICIES = {
    "Discrete": dict(action_space=spaces.Discrete(5)),
    "Discrete, one choice": dict(action_space=spaces.Discrete(1)),
    "Box": {},
    "MultiDiscrete": dict(action_space=spaces.MultiDiscrete([2, 4, 3])),
    "MultiBinary": dict(action_space=spaces.MultiBinary(3)),
    "Dict": dict(action_space=MIXED),
    "Tuple": dict(action_space=spaces.Tuple([spaces.Discrete(3), spaces.Discrete(2)])),
    "gSDE": dict(use_sde=True),
    "gSDE, learned features": dict(use_sde=True, policy_kwargs=dict(full_std=False, use_expln=True)),
    "gSDE, squashed": dict(use_sde=True, action_space=FAR, policy_kwargs=dict(squash_output=True)),
    "bounded std": dict(policy_kwargs=dict(log_std_bounds=(-5, 2))),
    "state-dependent std": dict(policy_kwargs=dict(state_dependent_std=True)),
}


@pytest.mark.parametrize("n", [1, 3, 64])
@pytest.mark.parametrize("case", POLICIES)
def test_noise_gives_the_actions_of_the_policys_own_forward_and_leaves_the_generator_as_it_does(case, n):
    kwargs = {"action_space": BOX, **POLICIES[case]}
    env = envs(action_space=kwargs.pop("action_space"), n=n)
    policy_kwargs = dict(net_arch=[8], **kwargs.pop("policy_kwargs", {}))
    policy = A2C("MlpPolicy", env, seed=0, device=DEVICE, policy_kwargs=policy_kwargs, **kwargs).policy
    for p in policy.parameters():  # away from the start, where all choices are alike
        p.data += 0.3 * th.randn_like(p)
    for attempt in range(5):
        observations = th.randn(n, 3, device=DEVICE)
        th.manual_seed(attempt)
        if "gSDE" in case:
            policy.reset_noise(n)
        with th.no_grad(), th.random.fork_rng():
            numbers = noise_source(policy.action_dist, n, policy.device)()
            actions = sample_with(policy.get_distribution(observations), numbers)
            drawn = th.rand(3)
        with th.no_grad():
            expected, _, _ = policy(observations)
        assert th.equal(th.rand(3), drawn), "the generator is not where sampling leaves it"
        assert actions.dtype == expected.dtype and th.equal(actions.reshape(expected.shape), expected)


def test_noise_of_another_number_of_states_is_the_first_environments_as_in_sb3():
    policy = A2C("MlpPolicy", envs(n=3), use_sde=True, seed=0, device=DEVICE).policy
    policy.reset_noise(3)
    observations = th.randn(2, 3, device=DEVICE)
    with th.no_grad():
        expected, _, _ = policy(observations)
        actions = sample_with(policy.get_distribution(observations), noise_source(policy.action_dist, 2, policy.device)())
    assert th.equal(actions, expected)


@pytest.mark.parametrize("p", [[0.5, 0.3, 0.2, 0.0], [0.0, 0.0, 1.0, 0.0], [1e-6, 0.9, 0.1 - 1e-6, 0.0]])
def test_choices_are_drawn_with_their_probabilities(p):
    n = 100_000
    policy = A2C("MlpPolicy", envs(action_space=spaces.Discrete(4), n=1), seed=0, device=DEVICE).policy
    th.manual_seed(0)
    distribution = policy.action_dist.proba_distribution(th.tensor(p, device=DEVICE).log().clamp(min=-1e30).expand(n, 4))
    chosen = sample_with(distribution, noise_source(distribution, n, policy.device)())
    frequencies = chosen.bincount(minlength=4).double().cpu() / n
    expected = th.tensor(p, dtype=th.float64)
    assert ((frequencies - expected).abs() <= 5 * (expected * (1 - expected) / n).sqrt()).all()
    assert (frequencies[expected == 0] == 0).all()
