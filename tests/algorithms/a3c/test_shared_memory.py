"""What two workers make of the shared parameters, step by step in one process."""

import pytest
import torch as th
from gymnasium import spaces
from support.capabilities import envs
from support.small_environments import DEVICE

from sb3_pgx import A3C
from sb3_pgx.algorithms.a3c.shared_memory import Worker, allocate

ALPHA, EPS, RATE = 0.99, 1e-5, 7e-4  # of RMSprop, and the learning rate


def model(seed=0, **kwargs):
    return A3C("MlpPolicy", envs(action_space=spaces.Discrete(3)), seed=seed, device=DEVICE, compile=False, **kwargs)


def workers(share_statistics=True, **kwargs):
    """Two models with the same parameters, as two workers."""
    first, second = model(n_workers=2, **kwargs), model(n_workers=2, **kwargs)
    shared = allocate(first.policy, 2, steps=0)
    for rank, each in enumerate((first, second)):
        each.worker = Worker(each.policy, shared, rank, share_statistics)
        each.worker.copy_parameters()
    return first, second, shared


def flat(m):
    return th.cat([p.detach().flatten() for p in m.policy.parameters()]).cpu()


def shift(m, size):
    """Change a model's parameters, as an update does. Return the change."""
    before = flat(m)
    with th.no_grad():
        for p in m.policy.parameters():
            p += size * th.randn_like(p)
    return flat(m) - before


def test_changes_of_two_workers_add_up_and_each_gets_the_sum():
    first, second, shared = workers()
    start = shared.parameters.clone()
    a, b = shift(first, 1e-2), shift(second, 1e-2)
    assert first.worker.publish() == 0 and second.worker.publish() == 1
    th.testing.assert_close(shared.parameters, start + a + b, rtol=0, atol=1e-6)
    assert th.equal(flat(second), shared.parameters) and not th.equal(flat(first), shared.parameters)
    c = shift(first, 1e-2)  # at parameters without b
    assert first.worker.publish() == 1
    th.testing.assert_close(shared.parameters, start + a + b + c, rtol=0, atol=1e-6)
    assert th.equal(flat(first), shared.parameters)
    assert first.worker.publish() == 0 and second.worker.publish() == 2
    assert shared.updates.tolist() == [3, 2]


def test_parameters_that_nobody_else_has_changed_are_published_exactly():
    first, _, shared = workers()
    with th.no_grad():
        for p in first.policy.parameters():
            p.copy_(1e-6 * th.randn_like(p))  # the sum of old value and change would be rounded
    changed = flat(first)
    first.worker.publish()
    assert th.equal(shared.parameters, changed) and th.equal(flat(first), changed)


def rollout_gradient(m):
    """Return the clipped gradient of A2C's loss on the last rollout by automatic differentiation."""
    data = next(m.rollout_buffer.get(None))
    m.policy.set_training_mode(True)
    values, log_prob, _ = m.policy.evaluate_actions(data.observations, data.actions.long().flatten())
    loss = -(data.advantages * log_prob).mean() + m.vf_coef * (data.returns - values.flatten()).square().mean()
    gradients = th.autograd.grad(loss, list(m.policy.parameters()))
    vector = th.cat([g.flatten() for g in gradients]).cpu()
    return vector * min(1.0, m.max_grad_norm / (vector.norm() + 1e-6))


def collect(m):
    if m._last_obs is None:
        _, m.callback_of_learn = m._setup_learn(1000, None)
    m.collect_rollouts(m.env, m.callback_of_learn, m.rollout_buffer, m.n_steps)


@pytest.mark.parametrize("share", [True, False])
def test_each_update_is_rmsprop_on_the_workers_gradient_with_shared_or_own_statistics(share):
    """
    θ ← θ − η d / (√g + ε) and g ← α g + (1 − α) d², where d is the gradient at the parameters that the worker had copied
    (Mnih et al., 2016, §4); g is one for all, or one for each worker.
    """
    first, second, shared = workers(share)
    theta, g = shared.parameters.clone(), [th.zeros_like(shared.parameters) for _ in range(2)]
    for m in (first, second):
        collect(m)  # both on the same parameters
    for turn, m in ((0, first), (1, second), (0, first)):
        if turn == 0 and m._n_updates:
            collect(m)
        kept = g[0 if share else turn]
        d = rollout_gradient(m)
        kept.mul_(ALPHA).add_(d.square(), alpha=1 - ALPHA)
        theta = theta - RATE * d / (kept.sqrt() + EPS)
        m.train()
        th.testing.assert_close(shared.parameters, theta, rtol=1e-5, atol=2e-6)
    assert first.logger.name_to_value["train/staleness"] == 1.0


def test_statistics_of_an_optimizer_without_a_rule_cannot_be_shared():
    m = model(n_workers=2, policy_kwargs=dict(optimizer_class=th.optim.Adagrad))
    with pytest.raises(ValueError, match=r"cannot share .* no rule for the optimizer Adagrad: pass share_statistics=False"):
        m.learn(10)


def test_steps_of_all_workers_count_for_schedules():
    first, second, shared = workers()
    collect(first)
    assert first.num_timesteps == 10
    collect(second)
    assert second.num_timesteps == 20 and shared.steps.tolist() == [10, 10]
    collect(first)
    assert first.num_timesteps == 30


def test_entropy_weights_are_evenly_spaced_from_the_first_to_the_last_worker():
    m = model(n_workers=3, ent_coef=0.01, ent_coef_last="lin_0.05")
    shared = allocate(m.policy, 3, steps=0)
    weights = []
    for rank in range(3):
        m.worker = Worker(m.policy, shared, rank, True)
        weights.append(m.coefficient("ent_coef"))
    assert weights == pytest.approx([0.01, 0.03, 0.05])
    m._current_progress_remaining = 0.5
    assert m.coefficient("ent_coef") == pytest.approx(0.025)
