"""Gradients: their norms while an update runs, and how much of one over few rows is noise."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from torch import Tensor

from sb3_pgx.core.rollout import map_tensors
from sb3_pgx.diagnostics.measures import Measured
from sb3_pgx.diagnostics.snapshot import Snapshot, as_it_acts
from sb3_pgx.engine.step import evaluated_actions
from sb3_pgx.ops.metrics import noise_scale

MOST = 4096  # rows that the noise scale is taken from


class GradientNorms:
    """
    Norms of the gradients of some of an update's minibatches, from hooks that see them before they are clipped.

    :param parameters: of the policy
    :param steps: how many minibatches there will be; what comes after them is not looked at
    :param most: about so many of them are measured, the first one always
    """

    def __init__(self, parameters: list[th.nn.Parameter], steps: int, most: int):
        self.steps, self.every = steps, max(1, steps // most)
        self._squares: dict[int, list[Tensor]] = {}  # by number of the minibatch
        self._handles = [
            p.register_post_accumulate_grad_hook(self._watch()) for p in parameters if p.requires_grad and p.is_leaf
        ]

    def _watch(self) -> Callable[[Tensor], None]:
        seen = 0

        def hook(parameter: Tensor) -> None:
            nonlocal seen
            if seen < self.steps and seen % self.every == 0 and parameter.grad is not None:
                self._squares.setdefault(seen, []).append(th.linalg.vector_norm(parameter.grad).square())
            seen += 1

        return hook

    def stop(self) -> list[float]:
        """Remove the hooks; the norms, one a measured minibatch."""
        for handle in self._handles:
            handle.remove()
        if not self._squares:
            return []
        return th.stack([th.stack(parts).sum().sqrt() for parts in self._squares.values()]).tolist()


def gradient_noise(model: OnPolicyAlgorithm, snapshot: Snapshot, batch_size: int, pieces: int = 16) -> Measured:
    """
    The gradient noise scale of the policy's part of the loss, −A r − ent_coef H, at the policy before the update, where r = 1.

    :param model: it has the policy and the coefficient
    :param snapshot: of the rollout
    :param batch_size: rows of a minibatch
    :param pieces: into which up to 4,096 rows are dealt at random; their gradients are compared with that of all of them
    :return: the scale in rows, and as a multiple of ``batch_size``; nothing where there are too few rows
    """
    total = len(snapshot.rows)
    small = -(-min(total, MOST) // pieces)
    count = min(total, MOST) // small
    if count < 2:
        return {}
    order = np.random.RandomState(0).permutation(total)[: count * small]
    parts = th.from_numpy(order).to(snapshot.rows.actions.device).split(small)
    gradients = th.stack([_gradient(model, snapshot, part) for part in parts])  # [count, P]
    scale = noise_scale(gradients.square().sum(dim=1).mean(), gradients.mean(dim=0).square().sum(), small, count * small)
    return {"gradient_noise_scale": scale, "noise_to_batch": scale / batch_size}


def _gradient(model: OnPolicyAlgorithm, snapshot: Snapshot, index: Tensor) -> Tensor:
    rows = snapshot.rows
    with as_it_acts(model.policy), th.enable_grad():
        picked: Any = map_tensors(lambda x: x[index], rows.observations)
        now = evaluated_actions(model.policy, picked, rows.actions[index], False)
        advantages = rows.advantages
        if getattr(model, "normalize_advantage", False):
            advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
        ratio = (now.log_prob - now.log_prob.detach()).exp()
        loss = -(advantages[index] * ratio).mean() - coefficient(model, "ent_coef") * now.entropy.mean()
        parameters = [p for p in model.policy.parameters() if p.requires_grad]
        found = th.autograd.grad(loss, parameters, allow_unused=True)
    return th.cat([(th.zeros_like(p) if g is None else g).flatten() for p, g in zip(parameters, found, strict=True)])


def coefficient(model: OnPolicyAlgorithm, name: str) -> float:
    """A coefficient's value now: a number in SB3, perhaps a schedule in ours."""
    value = getattr(model, name, 0.0)
    if hasattr(model, "coefficient"):
        return float(model.coefficient(name))
    return float(value(model._current_progress_remaining) if callable(value) else value)
