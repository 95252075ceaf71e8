"""
ACER's loss and Retrace against PFRL's, on the same numbers: a segment of one environment, with everything that the networks
say of it as free parameters. Their trust region is in probabilities where ours is; for Gaussians it is in the standard
deviations, too, so it is left out there.
"""

import pytest
import torch as th
from torch.distributions import Categorical, Independent, Normal

from sb3_pgx.algorithms.acer.objective import (
    BoxEvaluation,
    Coefficients,
    DiscreteEvaluation,
    box_objective,
    discrete_objective,
)
from sb3_pgx.algorithms.acer.segments import Segments
from sb3_pgx.ops.returns import retrace

pfrl = pytest.importorskip("pfrl.agents.acer", reason="PFRL is not installed: pip install pfrl gym", exc_type=ImportError)

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pfrl")  # of shapes and conversions within it

T, A, D, GAMMA, CLIP, DELTA = 9, 4, 2, 0.9, 0.7, 0.3
OTHERS = dict(in_logits=False, with_std=False, average_coef=0.99)
CLOSE = dict(rtol=2e-4, atol=1e-5)  # theirs are 32-bit numbers


def random(seed, *shape):
    return th.randn(*shape, generator=th.Generator().manual_seed(seed))


def theirs(**settings):
    """Their agent, of which the loss alone is used."""
    return pfrl.ACER(th.nn.Linear(1, 1), None, T, GAMMA, None, Q_loss_coef=0.5, truncation_threshold=CLIP, **settings)


def their_loss(agent, last, actions, rewards, v, action_values, policies, behaviours, averages):
    """What it makes of the whole segment; the last four are theirs, by time."""
    return agent.compute_loss(
        t_start=0,
        t_stop=T,
        R=last.item(),
        actions=dict(enumerate(actions)),
        rewards=dict(enumerate(rewards.tolist())),
        values=each(v),
        action_values=action_values,
        action_distribs=policies,
        action_distribs_mu=behaviours,
        avg_action_distribs=averages,
    ).sum()


def discrete(q, probs, behaviour):
    """Q, policies and behaviours, as they have them."""
    return (
        {t: Values(row) for t, row in each(q).items()},
        {t: Categorical(probs=row) for t, row in each(probs).items()},
        {t: Categorical(logits=row) for t, row in each(behaviour).items()},
    )


def each(values):
    """By time, with a batch of one, as they keep them."""
    return {t: values[t : t + 1] for t in range(T)}


class Values:
    """Q of the actions that are asked for."""

    def __init__(self, q_values):
        self.q_values = q_values

    def evaluate_actions(self, actions):
        return self.q_values.gather(1, actions[:, None]).flatten()


def segment(actions, behaviour, rewards):
    """One environment's, in which no episode ends."""
    no = th.zeros(T, 1, dtype=th.bool)
    return Segments(th.zeros(T + 1, 1), actions, behaviour, rewards[:, None], no, no, None)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("trust_region", [True, False])
def test_the_gradient_of_the_loss_with_discrete_actions(seed, trust_region):
    logits, q = (random(10 * seed + i, T, A).requires_grad_(True) for i in range(2))
    behaviour, average = random(10 * seed + 2, T, A).log_softmax(dim=1), random(10 * seed + 3, T, A).log_softmax(dim=1)
    rewards, last = random(10 * seed + 4, T), random(10 * seed + 5, 1)
    actions = random(10 * seed + 6, T, A).argmax(dim=1)

    probs = logits.softmax(dim=1)
    v = (probs * q).sum(dim=1)
    agent = theirs(beta=0.02, use_trust_region=trust_region, trust_region_delta=DELTA)
    averages = {t: Categorical(probs=row.exp()) for t, row in each(average).items()}
    loss = their_loss(agent, last, actions, rewards, v, *discrete(q, probs, behaviour), averages)
    expected = th.autograd.grad(loss, [logits, q])

    log_probs = logits.log_softmax(dim=1)
    entropy = -(log_probs.exp() * log_probs).sum(dim=1)
    c = Coefficients(GAMMA, CLIP, trust_region, DELTA, q_coef=0.5, ent_coef=0.02, **OTHERS)
    now = DiscreteEvaluation(log_probs, entropy, q, last, th.zeros(T, 1), average)
    ours = discrete_objective(now, segment(actions[:, None], behaviour, rewards), c)
    assert ours["truncated_fraction"] > 0 and (ours["trust_region_fraction"] > 0) == trust_region
    for mine, other in zip(th.autograd.grad(ours["loss"], [logits, q]), expected, strict=True):
        th.testing.assert_close(mine, other, **CLOSE)


@pytest.mark.parametrize("seed", range(5))
def test_the_gradient_of_the_loss_with_box_actions(seed):
    mean, v, q = (random(10 * seed + i, *shape).requires_grad_(True) for i, shape in enumerate([(T, D), (T,), (T,)]))
    std, resampled_q = (0.4 * random(10 * seed + 3, T, D)).exp(), random(10 * seed + 4, T)
    behaviour = th.cat([mean.detach() + 0.5 * random(10 * seed + 5, T, D), 1.3 * std], dim=1)
    rewards, last = random(10 * seed + 6, T), random(10 * seed + 7, 1)
    actions, drawn = (mean.detach() + 1.5 * std * random(10 * seed + 8 + i, T, D) for i in range(2))

    class Preset(Independent):
        """Draws the action that is meant."""

        def __init__(self, t):
            super().__init__(Normal(mean[t : t + 1], std[t : t + 1]), 1)
            self.t = t

        def sample(self):
            return drawn[self.t : self.t + 1]

    class Two:
        """Q of the action that was taken, and of the other one."""

        def __init__(self, t):
            self.t = t

        def evaluate_actions(self, action):
            return (q if th.equal(action[0], actions[self.t]) else resampled_q)[self.t : self.t + 1]

    agent = theirs(beta=0.02, use_trust_region=False, use_Q_opc=True)
    two, policies = ({t: kind(t) for t in range(T)} for kind in (Two, Preset))
    behaviours = {t: Independent(Normal(*row.chunk(2, dim=1)), 1) for t, row in each(behaviour).items()}
    loss = their_loss(agent, last, actions, rewards, v, two, policies, behaviours, dict.fromkeys(range(T)))
    expected = th.autograd.grad(loss, [mean, v, q])

    parameters = th.cat([mean, std], dim=1)
    entropy = Independent(Normal(mean, std), 1).entropy()
    c = Coefficients(GAMMA, CLIP, False, DELTA, q_coef=0.5, ent_coef=0.02, **OTHERS)
    drawn_too, average = th.stack([actions, drawn]), parameters.detach()
    now = BoxEvaluation(parameters, entropy, v, q, resampled_q, drawn_too, last, th.zeros(T, 1), average)
    ours = box_objective(now, segment(actions, behaviour, rewards), c)
    assert ours["truncated_fraction"] > 0
    for mine, other in zip(th.autograd.grad(ours["loss"], [mean, v, q]), expected, strict=True):
        th.testing.assert_close(mine, other, **CLOSE)


@pytest.mark.parametrize("seed", range(3))
def test_retrace(seed):
    """Theirs is read from the gradient of their critic's loss, (Q − Q^ret) / 2 / T."""
    logits, q = (random(20 * seed + i, T, A) for i in range(2))
    behaviour, rewards, last = random(20 * seed + 2, T, A), random(20 * seed + 3, T), random(20 * seed + 4, 1)
    actions = random(20 * seed + 5, T, A).argmax(dim=1)
    probs, v = logits.softmax(dim=1), (logits.softmax(dim=1) * q).sum(dim=1)
    q.requires_grad_(True)
    agent = theirs(beta=0.0, pi_loss_coef=0.0, use_trust_region=False)
    loss = their_loss(agent, last, actions, rewards, v, *discrete(q, probs, behaviour), dict.fromkeys(range(T)))
    rows = th.arange(T)
    (slope,) = th.autograd.grad(loss, q)
    expected = (q - 2 * T * slope).detach()[rows, actions]
    ratio = (probs / behaviour.softmax(dim=1))[rows, actions]
    taken, following = q.detach()[rows, actions], th.cat([v[1:], last])
    no = th.zeros(T, 1, dtype=th.bool)
    columns = (x[:, None] for x in (rewards, taken, following, ratio.clamp(max=1.0)))
    th.testing.assert_close(retrace(*columns, no, GAMMA).flatten(), expected, **CLOSE)
