"""ACER's trust region beside the entropy, and the ends of episodes and segments."""

from dataclasses import replace

import pytest
import torch as th
from support.acer_segments import (
    ACTIONS,
    EXACT,
    GAMMA,
    M,
    T,
    coefficients,
    evaluated,
    gradient,
    leaves,
    measured,
    partial,
    result,
    segments,
    shifted,
    small_model,
)
from torch.distributions import kl_divergence

from sb3_pgx.algorithms.acer.objective import DiscreteEvaluation
from sb3_pgx.algorithms.acer.segments import Segments

pytestmark = pytest.mark.usefixtures("on_the_tests_device")

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
        **{name: getattr(batch, name).repeat(1, 3) for name in ("rewards", "terminated", "truncated")},
        final_observations=batch.final_observations.repeat(3, 1),  # of the one row that is truncated
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
    now, c = leaves(evaluated(model, batch)), coefficients(q_coef=1.0)

    def critic(batch, now=now):
        of = partial(model, batch, now, c)["action_values"]
        return of.view(T * M, -1).sum(dim=1).view(T, M)[:, m]

    before = critic(batch)
    rewards = batch.rewards.clone()
    rewards[t + 1 :, m] += 7.0
    after = critic(replace(batch, rewards=rewards))
    assert th.equal(before[: t + 1], after[: t + 1]) and not th.isclose(before[t + 1 :], after[t + 1 :]).any()
    higher = leaves(now._replace(final_values=now.final_values + 3.0))
    moved = -len(batch) * (critic(batch, higher) - before)  # of Q^ret
    if ended == "terminated":
        assert not moved.any()
    else:
        assert moved[t].item() == pytest.approx(GAMMA * 3.0) and (moved[:t] > 0).all() and not moved[t + 1 :].any()


@pytest.mark.parametrize("kind", ACTIONS)
def test_the_last_row_goes_on_with_the_value_of_what_followed_it(kind):
    model = small_model(kind)
    batch = segments(model)
    now = evaluated(model, batch)
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
    now = evaluated(model, batch)
    assert isinstance(now, DiscreteEvaluation)
    values, log_prob, entropy = model.policy.evaluate_actions(batch.observations[: len(batch)], batch.actions.flatten())
    th.testing.assert_close((now.log_probs.exp() * now.action_values).sum(dim=1), values.flatten(), **EXACT)
    th.testing.assert_close(now.log_probs.gather(1, batch.actions).flatten(), log_prob, **EXACT)
    th.testing.assert_close(now.entropy, entropy, **EXACT)
