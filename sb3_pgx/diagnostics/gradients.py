"""Measure gradients: their norms during an update, and the gradient noise scale before it."""

from collections.abc import Callable

import numpy as np
import torch as th
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from torch import Tensor

from sb3_pgx.core.evaluation import evaluate_actions
from sb3_pgx.core.rollout import map_tensors
from sb3_pgx.diagnostics.snapshot import Snapshot, without_side_effects
from sb3_pgx.diagnostics.update_metrics import Measured
from sb3_pgx.ops.metrics import noise_scale
from sb3_pgx.stages.algorithm import ceil_div

MAX_ROWS = 4096  # rows from which the noise scale is computed
N_GROUPS = 16  # of these rows; the scale compares their gradients with the mean one


class GradientNorms:
    """
    Measure gradient norms of some minibatches of an update, with hooks that run before the gradients are clipped.

    :param parameters: parameters of the policy
    :param steps: number of minibatches in the update; later ones are ignored
    :param max_measured: approximate number of minibatches to measure, spread evenly; the first one is always measured
    """

    def __init__(self, parameters: list[th.nn.Parameter], steps: int, max_measured: int):
        self.steps, self.every = steps, max(1, steps // max_measured)
        self._squares: dict[int, list[Tensor]] = {}  # ‖∂L/∂p‖² of each parameter, by number of the minibatch
        self._handles = [
            p.register_post_accumulate_grad_hook(self._new_hook()) for p in parameters if p.requires_grad and p.is_leaf
        ]

    def _new_hook(self) -> Callable[[Tensor], None]:
        seen = 0

        def hook(parameter: Tensor) -> None:
            nonlocal seen
            if seen < self.steps and seen % self.every == 0 and parameter.grad is not None:
                self._squares.setdefault(seen, []).append(th.linalg.vector_norm(parameter.grad).square())
            seen += 1

        return hook

    def stop(self) -> list[float]:
        """Remove the hooks and return the norm of each measured minibatch."""
        for handle in self._handles:
            handle.remove()
        if not self._squares:
            return []
        return th.stack([th.stack(parts).sum().sqrt() for parts in self._squares.values()]).tolist()


def noise_scale_metrics(model: OnPolicyAlgorithm, snapshot: Snapshot, batch_size: int) -> Measured:
    """
    Return the gradient noise scale of the policy loss −A r − ent_coef H, at the policy before the update, where r = 1.

    The gradients of :data:`N_GROUPS` random groups of rows are compared with the gradient of all these rows, at most
    :data:`MAX_ROWS`.

    :param model: model with the policy and the entropy coefficient
    :param snapshot: the rollout before the update
    :param batch_size: number of rows in a gradient of the policy
    :return: the noise scale in rows, and divided by ``batch_size``; nothing if there are too few rows
    """
    total = len(snapshot.rows)
    small = ceil_div(min(total, MAX_ROWS), N_GROUPS)
    count = min(total, MAX_ROWS) // small
    if count < 2:
        return {}
    order = np.random.RandomState(0).permutation(total)[: count * small]
    parts = th.from_numpy(order).to(snapshot.rows.actions.device).split(small)
    gradients = th.stack([_gradient(model, snapshot, part) for part in parts])  # [count, P]
    scale = noise_scale(gradients.square().sum(dim=1).mean(), gradients.mean(dim=0).square().sum(), small, count * small)
    return {"gradient_noise_scale": scale, "noise_to_batch": scale / batch_size}


def _gradient(model: OnPolicyAlgorithm, snapshot: Snapshot, index: Tensor) -> Tensor:
    """Return the gradient of the policy loss over the rows ``index``, flattened to ``[P]``."""
    rows = snapshot.rows
    with without_side_effects(model.policy), th.enable_grad():
        picked = map_tensors(lambda x: x[index], rows.inputs)
        now = evaluate_actions(model.policy, picked, rows.actions[index], False)
        advantages = rows.advantages
        if getattr(model, "normalize_advantage", False):
            advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
        ratio = (now.log_prob - now.log_prob.detach()).exp()
        loss = -(advantages[index] * ratio).mean() - current_coefficient(model, "ent_coef") * now.entropy.mean()
        parameters = [p for p in model.policy.parameters() if p.requires_grad]
        found = th.autograd.grad(loss, parameters, allow_unused=True)
    return th.cat([(th.zeros_like(p) if g is None else g).flatten() for p, g in zip(parameters, found, strict=True)])


def current_coefficient(model: OnPolicyAlgorithm, name: str) -> float:
    """
    Return the current value of a coefficient that may be a number or a schedule.

    :param model: algorithm of this package or of SB3
    :param name: attribute of the model, such as ``ent_coef``; 0 if there is none
    """
    value = getattr(model, name, 0.0)
    if hasattr(model, "coefficient"):
        return float(model.coefficient(name))
    return float(value(model._current_progress_remaining) if callable(value) else value)
