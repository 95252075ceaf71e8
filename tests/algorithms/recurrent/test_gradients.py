"""Steps of recurrent policies in float64, against gradients and dense matrices from sb3-contrib's methods, step by step."""

import pytest
import torch as th
from gymnasium import spaces
from selection import mostly_slow
from support.dense_natural_gradient import Updates, double_envs, flat_grad, in_double
from support.recurrent import CELLS, LAYOUTS, double_policy, policy_kwargs, stepped
from support.small_environments import DEVICE

from sb3_pgx import A2C, NPG, REINFORCE, REINFORCEBaseline

LAYOUT_OF_CELL = [*((cell, layout) for cell in CELLS for layout in LAYOUTS)]
COMPILED_CRITIC = pytest.param("separate", True, marks=pytest.mark.slow)
COMPILED = [("Lstm", "separate"), ("Gru", "shared")]


def updated(algorithm, cell="Lstm", layout="separate", compile=False, **kwargs):
    """
    Return a model after one update on 6 steps of 2 environments, the rollout, and the policy before, in float64. Only float32
    can be compiled.
    """
    callback = Updates()
    kwargs = dict(n_steps=6, seed=0, device=DEVICE, compile=compile, policy_kwargs=policy_kwargs(layout), **kwargs)
    name = f"Mlp{cell}Policy"
    model = algorithm(name if compile else double_policy(name), double_envs(spaces.Discrete(3)), **kwargs)
    model.learn(12, callback=callback)
    return model, callback.rollouts[0], in_double(callback.before[0])


def moved(model, before, names):
    after = dict(model.policy.named_parameters())
    return th.cat([(after[name] - p).flatten() for name, p in before.named_parameters() if name in names]).detach()


def named(policy, names):
    return [p for name, p in policy.named_parameters() if name in names]


def names_of(policy, of_actor):
    """Return the names of the actor's parameters, or of the critic's, judged by sb3-contrib's names."""
    critics = ("value_net", "mlp_extractor.value_net", "critic", "lstm_critic")
    return [name for name, _ in policy.named_parameters() if name.startswith(critics) != of_actor]


def standardized(x):
    return (x - x.mean()) / (x.std() + 1e-8)


@pytest.mark.parametrize("cell, layout", LAYOUT_OF_CELL)
def test_a2c_descends_on_the_whole_rollout(cell, layout):
    sgd = dict(optimizer_class=th.optim.SGD)
    kwargs = dict(learning_rate=0.1, n_steps=12, ent_coef=0.2, vf_coef=0.7, max_grad_norm=None, use_rms_prop=False)
    callback = Updates()
    model = A2C(
        double_policy(f"Mlp{cell}Policy"),
        double_envs(spaces.Discrete(3)),
        policy_kwargs={**policy_kwargs(layout), **sgd},
        seed=0,
        device=DEVICE,
        **kwargs,
    )
    model.learn(24, callback=callback)
    (rollout,), (before,) = callback.rollouts, callback.before
    now = stepped(before, rollout)
    loss = -(rollout.advantages * now.log_prob).mean() - 0.2 * now.entropy.mean()
    loss = loss + 0.7 * (now.values - rollout.returns).square().mean()
    expected = -0.1 * flat_grad(loss, before.parameters(), materialize_grads=True)
    step = moved(model, before, [name for name, _ in before.named_parameters()])
    th.testing.assert_close(step, expected, rtol=1e-6, atol=1e-7)  # the rollout's numbers are kept in float32


@pytest.mark.parametrize(
    "cell, layout, compile",
    mostly_slow([*((*c, False) for c in LAYOUT_OF_CELL), *((*c, True) for c in COMPILED)], lambda *case: not case[-1]),
)
def test_the_natural_gradient_is_that_of_the_dense_fisher_matrix(cell, layout, compile):
    exact = dict(cg_max_steps=300, cg_damping=0.1, cg_tolerance=1e-12, step_rule="fixed", step_size=0.3)
    model, rollout, before = updated(NPG, cell, layout, compile, batch_size=12, n_critic_updates=1, **exact)
    names = names_of(before, of_actor=True)
    parameters = named(before, names)
    now = stepped(before, rollout)
    gain = (standardized(rollout.advantages) * (now.log_prob - now.log_prob.detach()).exp()).mean()
    gradient = flat_grad(gain, parameters, retain_graph=True)
    fisher = 0
    for made in (p for column in now.distributions for p in column):
        jacobian = th.stack([flat_grad(x, parameters, retain_graph=True) for x in made.logits[0]])
        p = made.probs[0].detach()
        fisher = fisher + jacobian.T @ (th.diag(p) - th.outer(p, p)) @ jacobian / rollout.valid.numel()
    expected = 0.3 * th.linalg.solve(fisher + 0.1 * th.eye(len(gradient), dtype=gradient.dtype), gradient)
    precision = dict(rtol=1e-3, atol=1e-5) if compile else dict(rtol=1e-4, atol=1e-7)
    assert expected.abs().max() > 0.01
    th.testing.assert_close(moved(model, before, names), expected, **precision)


@pytest.mark.parametrize("layout, compile", [*((layout, False) for layout in LAYOUTS), COMPILED_CRITIC])
def test_the_critics_trust_region_is_that_of_the_dense_gauss_newton_matrix(layout, compile):
    exact = dict(cg_max_steps=300, cg_damping=0.1, cg_tolerance=1e-12, critic="trust_region", critic_epsilon=1e-3)
    model, rollout, before = updated(NPG, "Lstm", layout, compile, step_rule="fixed", step_size=1e-9, **exact)
    names = names_of(before, of_actor=False)
    values = stepped(before, rollout).values.flatten()
    error = (values - rollout.returns.flatten()).square().mean()
    gradient = flat_grad(error, named(before, names), retain_graph=True)
    jacobian = th.stack([flat_grad(v, named(before, names), retain_graph=True) for v in values])
    matrix = jacobian.T @ jacobian / len(values)
    expected = -th.linalg.solve(matrix + 0.1 * th.eye(len(matrix), dtype=matrix.dtype), gradient)
    step = moved(model, before, names)
    assert (th.nn.functional.cosine_similarity(step, expected, dim=0) > 1 - 1e-6).item() and step.norm() > 0


@pytest.mark.parametrize("algorithm", [REINFORCE, REINFORCEBaseline])
def test_the_gradient_of_whole_episodes(algorithm):
    kwargs = dict(policy_kwargs={**policy_kwargs(), "optimizer_class": th.optim.SGD}, seed=0, device=DEVICE)
    callback = Updates()
    env = double_envs(spaces.Discrete(3))
    model = algorithm(double_policy(), env, learning_rate=0.01, n_episodes=2, **kwargs).learn(20, callback=callback)
    (rollout,), (before,) = callback.rollouts, callback.before
    log_prob = stepped(before, rollout).log_prob
    loss = -(log_prob * rollout.advantages)[rollout.valid].sum() / 4
    names = names_of(before, of_actor=True)
    expected = -0.01 * flat_grad(loss, named(before, names))
    th.testing.assert_close(moved(model, before, names), expected, rtol=1e-5, atol=1e-7)
