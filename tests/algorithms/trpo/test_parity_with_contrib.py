"""
TRPO beside sb3-contrib's on the same rollout: its steps, for a bound and a damping that mean the same.

sb3-contrib averages the divergence over the dimensions of a Box or MultiBinary action, and bounds KL(π‖π_old): both line
searches shorten by little at a time here, or they would end at different lengths. Its conjugate gradients start at random.
"""

import math

import pytest
import sb3_contrib
import torch as th
from gymnasium import spaces
from selection import each_value
from support.dense_natural_gradient import DoublePolicy, Updated, actor_vector, double_envs, double_model
from support.small_environments import DEVICE
from support.torch_versions import mse_loss_mixes_types

CASES = {
    "Box, 2 dimensions": (spaces.Box(-1, 1, (2,), "float64"), 2),
    "Box, 5 dimensions": (spaces.Box(-1, 1, (5,), "float64"), 5),
    "MultiBinary, 3": (spaces.MultiBinary(3), 3),
    "Discrete": (spaces.Discrete(3), 1),
    "MultiDiscrete": (spaces.MultiDiscrete([2, 3]), 1),
}
SETTINGS = dict(
    n_steps=32, batch_size=64, cg_max_steps=60, n_critic_updates=1, line_search_shrinking_factor=0.998,
    line_search_max_iter=100, seed=0,
)  # fmt: skip


def both(space, ours, theirs, **settings):
    """Our update, and what sb3-contrib's has done to the same policy after the same rollout."""
    if not mse_loss_mixes_types():
        pytest.skip("with this torch, sb3-contrib cannot train a policy in double precision")
    settings = {**SETTINGS, **settings}
    contrib = sb3_contrib.TRPO(DoublePolicy, double_envs(space), device=DEVICE, **settings, **theirs)
    start = actor_vector(contrib.policy)
    contrib.learn(settings["n_steps"] * 2)
    update = Updated(double_model("trpo", space, **settings, **ours))
    assert th.equal(start, actor_vector(update.old))
    rollout, buffer = update.batch, contrib.rollout_buffer
    actions = th.as_tensor(buffer.actions).view(2, 32, -1).transpose(0, 1).flatten(end_dim=1)  # it flattens by environment
    assert th.equal(actions.double(), rollout.actions.double().cpu()), "they have not played the same"
    assert contrib.logger.name_to_value["train/is_line_search_success"] == update.metrics["is_line_search_success"] == 1.0
    return update, contrib, actor_vector(contrib.policy) - start


def cosine(one, other):
    return (one @ other / (one.norm() * other.norm())).item()


@pytest.mark.parametrize("case, normalize_advantage", each_value(CASES, [True, False]))
def test_for_a_bound_and_a_damping_of_as_many_times_the_dimensions_the_step_is_contribs(case, normalize_advantage):
    space, d = CASES[case]
    ours, theirs = (dict(target_kl=1e-4 * k, cg_damping=0.01 * k) for k in (d, 1))
    update, contrib, step = both(space, ours, theirs, normalize_advantage=normalize_advantage)
    assert cosine(update.step, step) > 0.9999
    assert update.step.norm().item() == pytest.approx(step.norm().item(), rel=0.01)
    assert cosine(update.step, update.gradient()) < 0.95  # or any step uphill would do
    assert contrib.logger.name_to_value["train/kl_divergence_loss"] * d == pytest.approx(
        update.metrics["kl_divergence_loss"], rel=0.02
    )


@pytest.mark.parametrize("case", ["Box, 5 dimensions", "MultiBinary, 3"])
def test_for_the_same_bound_contribs_policy_goes_beyond_it_by_as_many_times_as_there_are_dimensions(case):
    space, d = CASES[case]
    ours, theirs = (dict(target_kl=1e-4, cg_damping=0.001 * k) for k in (d, 1))
    update, contrib, step = both(space, ours, theirs)
    assert (step.norm() / update.step.norm()).item() == pytest.approx(math.sqrt(d), rel=0.01)
    kl, of_contrib = (update.kl(policy).mean().item() for policy in (update.new, contrib.policy))
    assert kl <= 1e-4 and of_contrib == pytest.approx(d * kl, rel=0.05) and of_contrib > 2e-4
