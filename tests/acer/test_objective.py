"""
What ACER descends on, row by row from the paper in float64: returns as sums, gradients in the statistics by automatic
differentiation of log-probabilities and of the divergence, and one backward pass through the policy a row.
"""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from problems import DEVICE, AnySpace, DoubleFeatures, vectorised
from torch.distributions import Normal, kl_divergence

from sb3_pgx.acer import ACER
from sb3_pgx.acer.objective import BoxEvaluation, Coefficients, DiscreteEvaluation
from sb3_pgx.acer.segments import Segments
from sb3_pgx.common.distributions import release_graph

pytestmark = pytest.mark.usefixtures("on_the_tests_device")

BOX = spaces.Box(-1, 1, (3,), np.float32)
ACTIONS = {"Discrete": spaces.Discrete(3), "Box": spaces.Box(-1, 1, (2,), np.float32)}
GAMMA, N_DUELING, T, M = 0.9, 3, 4, 3
EXACT = dict(rtol=1e-9, atol=1e-11)


def random(seed, *shape):
    return th.randn(*shape, generator=th.Generator(device=DEVICE).manual_seed(seed), dtype=th.float64)


def small_model(kind, **policy_kwargs):
    """A few neurons, in float64."""
    small = dict(net_arch=dict(pi=[4], vf=[5]), features_extractor_class=DoubleFeatures, ortho_init=False)
    env = vectorised(AnySpace(BOX, ACTIONS[kind]))
    kwargs = dict(policy_kwargs={**small, **policy_kwargs}, device=DEVICE, seed=0, n_dueling_samples=N_DUELING)
    model = ACER("MlpPolicy", env, n_steps=T, **kwargs)
    model.policy.double()
    return model


def shifted(policy, seed, size=0.6):
    """A copy that has been moved a little, in all directions, its standard deviation included."""
    release_graph(policy)
    other = copy.deepcopy(policy)
    with th.no_grad():
        for i, p in enumerate(other.parameters()):
            p.add_(size * random(seed + i, *p.shape))
    return other


def parameters_of(policy, observations):
    """Logits, or means and standard deviations; by torch's distributions."""
    with th.no_grad():
        distribution = policy.get_distribution(observations).distribution
    if isinstance(distribution, Normal):
        return th.cat([distribution.mean, distribution.stddev], dim=1)
    return distribution.logits


def coefficients(**given):
    """Nothing but the policy's gradient, without a trust region, unless others are given."""
    nothing = dict(trust_region=False, trust_region_delta=1.0, q_coef=0.0, ent_coef=0.0, in_logits=False, with_std=False)
    return Coefficients(**{**dict(gamma=GAMMA, importance_clip=1.5), **nothing, **given})


def segments(model, behaviour=None, average=None):
    """
    M segments of T steps in which ``behaviour`` acted; one terminates inside, one is truncated there. The actions are any:
    some that ``behaviour`` likes better, and some that the policy does.
    """
    policy = model.policy
    observations = random(1, (T + 1) * M, 3).float()
    of_rows = observations[: T * M]
    behaviour, average = behaviour or policy, average or policy
    acting = parameters_of(behaviour, of_rows)
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
    final_values = th.where(truncated, random(4, T, M), 0.0)
    rewards = random(5, T, M)
    of_average = parameters_of(average, of_rows)
    return Segments(observations, actions, acting, of_average, rewards, terminated, truncated, final_values, noise, bounds)


def measured(model, batch, c):
    return model.objective.measure(model.objective.evaluate(model.policy, batch), batch, c)


def gradient(model, loss, **kwargs):
    """In all parameters; zeros where one does not enter."""
    parameters = [p for p in model.policy.parameters() if p.requires_grad]
    grads = th.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True, **kwargs)
    return th.cat([g.flatten() for g in grads])


def result(model, batch, c):
    return gradient(model, measured(model, batch, c)["loss"])


def returns(batch, values, last_values, action_values, traces):
    """Q + Σ_s γ^{s−t} Π traces (r + γ V − Q): the sum, for each row on its own, ``[B]``."""
    v, q, c = (x.detach().view(T, -1) for x in (values, action_values, traces))
    total = th.empty_like(v)
    for t in range(T):
        for m in range(v.shape[1]):
            total[t, m], weight = q[t, m], 1.0
            for s in range(t, T):
                following = v[s + 1, m] if s + 1 < T else last_values.detach()[m]
                if batch.truncated[s, m]:
                    following = batch.final_values[s, m]
                if batch.terminated[s, m]:
                    following = 0.0
                weight = weight * (c[s, m] if s > t else 1.0)
                total[t, m] += GAMMA ** (s - t) * weight * (batch.rewards[s, m] + GAMMA * following - q[s, m])
                if batch.terminated[s, m] or batch.truncated[s, m]:
                    break
    return total.flatten()


# ------------------------------------------------------------------------------------- the paper, one row after another


def projected(g, k, c):
    """The trust region's step; that it is the quadratic programme's solution is tested where it is defined."""
    excess = (k @ g - c.trust_region_delta).item()
    return g - excess / (k @ k) * k if c.trust_region and excess > 0 else g


def in_statistics(row_terms, divergence, phi, c):
    """∇φ of the terms of a row and of KL(average‖policy), and the step that the trust region leaves."""
    leaf = phi.detach().clone().requires_grad_(True)
    (g,) = th.autograd.grad(row_terms(leaf), leaf)
    (k,) = th.autograd.grad(divergence(leaf), leaf)
    return projected(g, k, c)


def discrete_reference(model, batch, c):
    """The loss's gradient."""
    rows = len(batch)
    distribution, latent = model.policy.distribution_and_latent(batch.observations)
    torch_distribution, q = distribution.distribution, model.policy.value_net(latent)
    p, mu = torch_distribution.probs.detach(), batch.behaviour.softmax(dim=1)
    v = (p * q.detach()).sum(dim=1)
    actions = batch.actions.flatten()
    index = th.arange(rows)
    ratio = p[index, actions] / mu[index, actions]
    targets = returns(batch, v[:rows], v[rows:], q[index, actions], ratio.clamp(max=1.0))
    total = 0.0
    for i, a in enumerate(actions.tolist()):
        ours = p[i] / mu[i]
        weight = min(c.importance_clip, ours[a].item()) * (targets[i] - v[i])
        corrections = p[i] * (1 - c.importance_clip / ours).clamp(min=0) * (q[i].detach() - v[i])
        average = batch.average[i].softmax(dim=0)

        def log_f(phi):
            return phi.log_softmax(dim=0) if c.in_logits else phi.log()

        def terms(phi, a=a, weight=weight, corrections=corrections):
            return weight * log_f(phi)[a] + (corrections * log_f(phi)).sum()

        def divergence(phi, average=average):
            return (average * (average.log() - log_f(phi))).sum()

        phi = (torch_distribution.logits if c.in_logits else torch_distribution.probs)[i]
        z = in_statistics(terms, divergence, phi, c)
        total = total - z @ phi + c.q_coef * 0.5 * (targets[i] - q[i, a]) ** 2 - c.ent_coef * torch_distribution.entropy()[i]
    return gradient(model, total / rows)


def box_reference(model, batch, c):
    """The same for Box."""
    rows, policy = len(batch), model.policy
    distribution, latent = policy.distribution_and_latent(batch.observations)
    now, v_with_grad = distribution.distribution, policy.value_net(latent).flatten()
    v = v_with_grad.detach()
    mean, std, behaviour = now.mean[:rows], now.stddev[:rows], Normal(*batch.behaviour.chunk(2, dim=1))
    drawn, *samples = (mean + std * batch.noise).detach()
    taken = batch.actions.double()

    def q_of(actions, of_samples):
        """Every action has samples of its own to compare with; the environment is given none beyond the bounds."""
        executed = (th.maximum(th.minimum(a, batch.bounds[1]), batch.bounds[0]) for a in (actions, *of_samples))
        advantage, *others = (policy.advantage_net(latent[:rows], a[None])[0] for a in executed)
        return v_with_grad[:rows] + advantage - sum(others) / len(others)

    def ratio_of(actions):
        now = Normal(mean.detach(), std.detach())
        return (now.log_prob(actions) - behaviour.log_prob(actions)).sum(dim=1).exp()

    q, resampled_q = q_of(taken, samples[:N_DUELING]), q_of(drawn, samples[N_DUELING:]).detach()
    ratio, resampled_ratio = ratio_of(taken), ratio_of(drawn)
    retraced = returns(batch, v[:rows], v[rows:], q, ratio.sqrt().clamp(max=1.0))  # ρ^(1/d) with d = 2
    corrected = returns(batch, v[:rows], v[rows:], q, th.ones_like(ratio))
    total = 0.0
    for i in range(rows):
        average = Normal(*batch.average[i].chunk(2))
        weights = (
            min(c.importance_clip, ratio[i].item()) * (corrected[i] - v[i]),
            max(0.0, 1 - c.importance_clip / resampled_ratio[i].item()) * (resampled_q[i] - v[i]),
        )
        fixed = std[i].detach()

        def gaussian(phi, fixed=fixed):
            return Normal(phi[:2], phi[2:].exp()) if c.with_std else Normal(phi, fixed)

        def terms(phi, i=i, weights=weights, gaussian=gaussian):
            f = gaussian(phi)
            return sum(w * f.log_prob(a[i]).sum() for w, a in zip(weights, (taken, drawn), strict=True))

        def divergence(phi, average=average, gaussian=gaussian):
            return kl_divergence(average, gaussian(phi)).sum()

        phi = th.cat([mean[i], std[i].log()]) if c.with_std else mean[i]
        z = in_statistics(terms, divergence, phi, c)
        surprise = (retraced[i] - q[i]).detach()
        critic = 0.5 * (retraced[i] - q[i]) ** 2 - min(1.0, ratio[i].item()) * surprise * v_with_grad[i]
        entropy = now.entropy()[i].sum()
        total = total - z @ phi + c.q_coef * critic - c.ent_coef * entropy
    return gradient(model, total / rows)


REGIONS = {"no region": {}, "tight": dict(trust_region=True, trust_region_delta=0.05), "δ = 1": dict(trust_region=True)}


@pytest.mark.parametrize("region", REGIONS)
@pytest.mark.parametrize("in_logits", [False, True], ids=["probabilities", "logits"])
def test_a_discrete_step_is_the_papers_row_by_row(in_logits, region):
    model = small_model("Discrete")
    batch = segments(model, shifted(model.policy, 10), shifted(model.policy, 50))
    c = coefficients(in_logits=in_logits, q_coef=0.5, ent_coef=0.1, **REGIONS[region])
    now = measured(model, batch, c)
    assert 0 < now["truncated_fraction"] < 1, "some weights are to be truncated, others not"
    assert region == "no region" or in_logits or 0 < now["trust_region_fraction"] < 1
    th.testing.assert_close(gradient(model, now["loss"]), discrete_reference(model, batch, c), **EXACT)


@pytest.mark.parametrize("region", REGIONS)
@pytest.mark.parametrize("learn_std", [False, True], ids=["mean", "mean and log std"])
def test_a_box_step_is_the_papers_row_by_row(learn_std, region):
    model = small_model("Box", learn_std=learn_std)
    batch = segments(model, shifted(model.policy, 10, 0.3), shifted(model.policy, 50, 0.3))
    c = coefficients(with_std=model.policy.learns_std, q_coef=0.5, ent_coef=0.1, **REGIONS[region])
    assert c.with_std == learn_std
    now = measured(model, batch, c)
    assert 0 < now["truncated_fraction"] < 1, "some weights are to be truncated, others not"
    assert region == "no region" or 0 < now["trust_region_fraction"] < 1
    low, high = batch.bounds
    assert all(0 < x.float().mean() < 1 for x in (batch.actions < low, batch.actions > high)), "some are to be clipped"
    th.testing.assert_close(gradient(model, now["loss"]), box_reference(model, batch, c), **EXACT)


def test_one_on_policy_step_is_that_of_advantage_actor_critic_with_a_q():
    """ρ = 1 truncates and corrects nothing: ∇log π (G − V) and ½ (G − Q)², G the returns of the segment."""
    model = small_model("Discrete")
    batch = segments(model)
    rows = len(batch)
    observations, actions = batch.observations[:rows], batch.actions.flatten()
    values, log_prob, entropy = model.policy.evaluate_actions(observations, actions)
    with th.no_grad():
        last = model.policy.predict_values(batch.observations[rows:]).flatten()
    q = model.policy.value_net(model.policy.mlp_extractor(model.policy.extract_features(observations))[1])
    q = q[th.arange(rows), actions]
    one = th.ones(rows, dtype=th.float64)
    G = returns(batch, values, last, q, one)
    loss = -(log_prob * (G - values.detach().flatten())) + 0.25 * (G - q) ** 2 - 0.01 * entropy
    c = coefficients(importance_clip=10.0, q_coef=0.5, ent_coef=0.01)
    now = measured(model, batch, c)
    assert now["ratio"].item() == pytest.approx(1.0) and now["truncated_fraction"] == 0
    th.testing.assert_close(gradient(model, now["loss"]), gradient(model, loss.mean()), **EXACT)


# ------------------------------------------------------------------------------------------------- what is a constant


def leaves(now):
    return type(now)(*(x.detach().clone().requires_grad_(True) for x in now))


def evaluated(model, batch):
    """What the policy says of the segments, with every quantity on its own."""
    return leaves(model.objective.evaluate(model.policy, batch))


def partial(model, batch, now, c):
    """The loss's derivative in each quantity that the policy gave, by name; ``None`` where it does not enter."""
    loss = model.objective.measure(now, batch, c)["loss"]
    grads = th.autograd.grad(loss, list(now), allow_unused=True)
    return dict(zip(now._fields, grads, strict=True))


def test_no_gradient_flows_through_returns_values_ratios_and_advantages_of_a_discrete_policy():
    """Q enters by the loss of the actions that were taken; V of what follows, and Q of other actions, not at all."""
    model = small_model("Discrete")
    batch = segments(model, shifted(model.policy, 10))
    now = evaluated(model, batch)
    of = partial(model, batch, now, coefficients(q_coef=0.5))
    rows, actions = len(batch), batch.actions.flatten()
    index, p = th.arange(rows), now.log_probs.detach().exp()
    ratio = p[index, actions] / batch.behaviour.softmax(dim=1)[index, actions]
    q = now.action_values.detach()
    targets = returns(batch, (p * q).sum(dim=1), now.last_values, q[index, actions], ratio.clamp(max=1.0))
    expected = th.zeros_like(q)
    expected[index, actions] = -0.5 * (targets - q[index, actions]) / rows
    th.testing.assert_close(of["action_values"], expected, **EXACT)
    assert of["last_values"] is None and of["entropy"] is None
    without_critic = partial(model, batch, now, coefficients())["action_values"]
    assert without_critic is None or not without_critic.any()


def test_no_gradient_flows_through_returns_values_ratios_and_advantages_of_a_box_policy():
    model = small_model("Box")
    batch = segments(model, shifted(model.policy, 10, 0.3))
    now = evaluated(model, batch)
    of = partial(model, batch, now, coefficients(q_coef=0.5))
    rows = len(batch)
    current, behaviour = (Normal(*x.detach().chunk(2, dim=1)) for x in (now.parameters, batch.behaviour))
    ratio = (current.log_prob(now.actions[0]) - behaviour.log_prob(now.actions[0])).sum(dim=1).exp().detach()
    q = now.action_values.detach()
    surprise = returns(batch, now.values, now.last_values, q, ratio.sqrt().clamp(max=1.0)) - q
    assert (ratio < 0.9).any() and (ratio > 1.1).any()
    th.testing.assert_close(of["action_values"], -0.5 * surprise / rows, **EXACT)
    th.testing.assert_close(of["values"], -0.5 * ratio.clamp(max=1.0) * surprise / rows, **EXACT)
    assert of["resampled_values"] is None, "Q of the action that was drawn is a number"
    assert of["last_values"] is None and of["entropy"] is None
    assert not model.objective.evaluate(model.policy, batch).actions.requires_grad, "and so is that action"


def by_hand(rho, d=2, **given):
    """
    Two steps in one state, by numbers: r = (1, 2), V = 3 and 4, 5 after them, Q(s, a) = 6 and 8, and ρ of the second action;
    the policy's mean is 0 in all ``d`` dimensions, its σ 1, and the one that acted has the same σ.
    """
    zero, one = th.zeros(2, d, dtype=th.float64), th.ones(2, d, dtype=th.float64)
    actions = zero.clone()
    # Each dimension brings its share: log ρ_i = ½ [(a − m)² − a²] with a = 0, or a = m where ρ < 1.
    share = np.log(rho) / d
    mean = zero.clone()
    mean[1] = np.sqrt(2 * abs(share))
    actions[1] = mean[1] if share < 0 else 0.0
    parameters = th.cat([zero, one], dim=1)
    now = BoxEvaluation(
        parameters=parameters,
        entropy=zero[:, 0],
        values=th.tensor([3.0, 4.0], dtype=th.float64),
        action_values=th.tensor([6.0, 8.0], dtype=th.float64),
        resampled_values=th.tensor([3.0, 4.0], dtype=th.float64),  # no advantage
        actions=th.stack([actions, zero]),
        last_values=th.tensor([5.0], dtype=th.float64),
    )
    columns = dict(
        rewards=[[1.0], [2.0]], terminated=[[False], [False]], truncated=[[False], [False]], final_values=[[0.0]] * 2
    )
    tensors = {name: th.tensor(x, dtype=th.bool if name[0] == "t" else th.float64) for name, x in columns.items()}
    batch = Segments(
        observations=th.zeros(3, 1), actions=actions, behaviour=th.cat([mean, one], 1), average=parameters, **tensors
    )
    model = small_model("Box")
    return partial(model, batch, leaves(now), Coefficients(**{**coefficients()._asdict(), "gamma": 1.0, **given}))


@pytest.mark.parametrize("rho", [0.25, 4.0])
def test_the_root_of_the_ratio_enters_the_returns_of_q_alone(rho):
    """
    Q^ret = (1 + 4 + min(1, ρ^½) (7 − 8), 2 + 5), whereas V's target has min(1, ρ) in it, and the weight of the policy's
    gradient min(c, ρ).
    """
    of = by_hand(rho, q_coef=1.0)
    surprises = th.tensor([5 - min(1.0, rho**0.5) - 6, 7 - 8], dtype=th.float64)
    th.testing.assert_close(of["action_values"], -surprises / 2, **EXACT)
    th.testing.assert_close(of["values"], -surprises * th.tensor([1.0, min(1.0, rho)]) / 2, **EXACT)


@pytest.mark.parametrize("rho, clip", [(0.25, 10.0), (4.0, 10.0), (4.0, 1.5)])
def test_the_policys_gradient_has_returns_whose_traces_are_1_and_the_whole_ratio(rho, clip):
    """With Q^opc = (1 + 4 + (7 − 8), 7) and σ = 1, −∂/∂μ of log N is a: that of the first row is 0, as the mean is."""
    of = by_hand(rho, q_coef=0.0, importance_clip=clip)
    a = np.sqrt(2 * np.log(4) / 2) if rho < 1 else 0.0
    expected = th.zeros(2, 4, dtype=th.float64)
    expected[1, :2] = -min(clip, rho) * (7 - 4) * a / 2
    th.testing.assert_close(of["parameters"], expected, **EXACT)


def test_the_first_rows_gradient_is_weighted_with_q_opc_whatever_the_ratio_that_follows():
    model = small_model("Box")
    batch = segments(model, shifted(model.policy, 10, 0.3))
    now = evaluated(model, batch)
    c = coefficients(importance_clip=1e9)  # no correction
    before = partial(model, batch, now, c)["parameters"]
    behaviour = batch.behaviour.clone()
    behaviour[M:] = parameters_of(shifted(model.policy, 30, 0.5), batch.observations[M : T * M])  # of all but the first steps
    after = partial(model, replace(batch, behaviour=behaviour), now, c)["parameters"]
    assert th.equal(before[:M], after[:M]) and not th.isclose(before[M:], after[M:]).all()


def test_the_trace_of_many_dimensions_is_the_root_of_a_ratio_far_below_what_a_float_holds():
    """ρ = e^−160 over 32 dimensions: its root is e^−5."""
    of = by_hand(float(np.exp(-160.0)), d=32, q_coef=1.0)
    surprise = 5 - np.exp(-5.0) - 6
    assert of["action_values"][0].item() == pytest.approx(-surprise / 2, rel=1e-9)


# ------------------------------------------------------------------------------------------------- entropy, trust region


CASES = {"Discrete": {}, "Discrete, logits": dict(in_logits=True), "Box": dict(with_std=True)}


def case(name):
    kind = name.split(",")[0]
    model = small_model(kind, **(dict(learn_std=True) if kind == "Box" else {}))
    batch = segments(model, shifted(model.policy, 10, 0.3), shifted(model.policy, 50, 0.3))
    return model, batch, CASES[name]


@pytest.mark.parametrize("delta", [0.0, 1.0])
@pytest.mark.parametrize("name", CASES)
def test_the_entropys_gradient_is_outside_of_the_trust_region(name, delta):
    model, batch, options = case(name)
    options = dict(trust_region=True, trust_region_delta=delta, q_coef=0.5, **options)
    difference = result(model, batch, coefficients(ent_coef=0.3, **options)) - result(model, batch, coefficients(**options))
    entropy = model.policy.get_distribution(batch.observations[: len(batch)]).entropy().mean()
    expected = -0.3 * gradient(model, entropy)
    assert expected.norm() > 0.01
    th.testing.assert_close(difference, expected, **EXACT)


@pytest.mark.parametrize("name", CASES)
def test_delta_does_not_depend_on_how_many_rows_there_are(name):
    """The same segments three times over have the same mean; the gradient is divided by their number after the projection."""
    model, batch, options = case(name)

    def thrice(x, rows_of_one_step):
        return x.unflatten(0, (-1, rows_of_one_step)).repeat(1, 3, *([1] * (x.dim() - 1))).flatten(end_dim=1)

    repeated = Segments(
        observations=thrice(batch.observations, M),
        actions=thrice(batch.actions, M),
        behaviour=thrice(batch.behaviour, M),
        average=thrice(batch.average, M),
        **{name: getattr(batch, name).repeat(1, 3) for name in ("rewards", "terminated", "truncated", "final_values")},
        noise=None if batch.noise is None else th.stack([thrice(x, M) for x in batch.noise]),
        bounds=batch.bounds,
    )
    c = coefficients(trust_region=True, trust_region_delta=0.1, q_coef=0.5, ent_coef=0.1, **options)
    assert not th.isclose(result(model, batch, c), result(model, batch, c._replace(trust_region=False))).all()
    th.testing.assert_close(result(model, repeated, c), result(model, batch, c), **EXACT)


@pytest.mark.parametrize("name", CASES)
def test_the_average_policy_comes_first_in_the_divergence_that_is_measured(name):
    model, batch, options = case(name)
    average = shifted(model.policy, 50, 0.3)
    with th.no_grad():
        p, q = (x.get_distribution(batch.observations[: len(batch)]).distribution for x in (average, model.policy))
    expected = kl_divergence(p, q).view(len(batch), -1).sum(dim=1).mean().item()
    assert measured(model, batch, coefficients(**options))["average_kl"].item() == pytest.approx(expected, rel=1e-9)


# ------------------------------------------------------------------------------------------------- ends of episodes


@pytest.mark.parametrize("kind", ACTIONS)
@pytest.mark.parametrize("ended", ["terminated", "truncated"])
def test_nothing_after_the_end_of_an_episode_reaches_the_rows_before_it(kind, ended):
    model = small_model(kind)
    batch = segments(model, shifted(model.policy, 10, 0.3))
    t, m = {"terminated": (1, 1), "truncated": (2, 2)}[ended]
    now, c = evaluated(model, batch), coefficients(q_coef=1.0)

    def critic(batch):
        of = partial(model, batch, now, c)["action_values"]
        return of.view(T * M, -1).sum(dim=1).view(T, M)[:, m]

    before = critic(batch)
    rewards = batch.rewards.clone()
    rewards[t + 1 :, m] += 7.0
    after = critic(replace(batch, rewards=rewards))
    assert th.equal(before[: t + 1], after[: t + 1]) and not th.isclose(before[t + 1 :], after[t + 1 :]).any()
    final_values = batch.final_values + 3.0
    moved = -len(batch) * (critic(replace(batch, final_values=final_values)) - before)  # of Q^ret
    if ended == "terminated":
        assert not moved.any()
    else:
        assert moved[t].item() == pytest.approx(GAMMA * 3.0) and (moved[:t] > 0).all() and not moved[t + 1 :].any()


@pytest.mark.parametrize("kind", ACTIONS)
def test_the_last_row_goes_on_with_the_value_of_what_followed_it(kind):
    model = small_model(kind)
    batch = segments(model)
    now = model.objective.evaluate(model.policy, batch)
    expected = model.policy.predict_values(batch.observations[len(batch) :]).flatten()
    th.testing.assert_close(now.last_values, expected, **EXACT)
    higher = leaves(now._replace(last_values=now.last_values + 2.0))
    c, name = coefficients(q_coef=1.0), "action_values"
    before, after = (partial(model, batch, x, c)[name] for x in (leaves(now), higher))
    moved = -len(batch) * (after - before).view(T * M, -1).sum(dim=1)
    assert moved.view(T, M)[-1].tolist() == pytest.approx([GAMMA * 2.0] * M)


def test_the_evaluations_hold_what_the_policy_says():
    model = small_model("Discrete")
    batch = segments(model)
    now = model.objective.evaluate(model.policy, batch)
    assert isinstance(now, DiscreteEvaluation)
    values, log_prob, entropy = model.policy.evaluate_actions(batch.observations[: len(batch)], batch.actions.flatten())
    th.testing.assert_close((now.log_probs.exp() * now.action_values).sum(dim=1), values.flatten(), **EXACT)
    th.testing.assert_close(now.log_probs.gather(1, batch.actions).flatten(), log_prob, **EXACT)
    th.testing.assert_close(now.entropy, entropy, **EXACT)
