"""The data of a model that a post-mortem keeps: what the failing update learned from, and the state of its optimizers."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import numpy as np
import stable_baselines3 as sb3
import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from torch import Tensor
from torch.optim import Optimizer

from sb3_pgx.core.replay_sampling import sample_replay
from sb3_pgx.core.rollout import Batch
from sb3_pgx.diagnostics.snapshot import rows_from_buffer, selected_rows
from sb3_pgx.stages.off_policy import OffPolicy

OFF_POLICY = (OffPolicy, sb3.SAC, sb3.TD3)  # algorithms that learn from a replay memory
NEWEST_STEPS = 1000  # steps of the replay memory that are kept

Arrays = dict[str, np.ndarray]


class Evidence(ABC):
    """
    The data of a model.

    :param model: algorithm of this package or of SB3
    """

    def __init__(self, model: BaseAlgorithm):
        self.model: Any = model

    @abstractmethod
    def keep(self, numpy_state: Any) -> None:
        """
        Called at the end of a rollout: keep what the update will learn from.

        :param numpy_state: of NumPy's global generator
        """

    @abstractmethod
    def forget(self) -> None:
        """Called when the update is over."""

    @abstractmethod
    def begin_step(self) -> None:
        """Called before each gradient step of SB3's algorithms."""

    @abstractmethod
    def optimizers(self) -> Mapping[str, Optimizer]:
        """Return the optimizers by name; the first one steps exactly once per gradient step."""

    @abstractmethod
    def suspects(self) -> Mapping[str, Tensor]:
        """Return the tensors of the current batch that may explain a loss that is not finite, by name."""

    @abstractmethod
    def files(self) -> Mapping[str, Arrays]:
        """Return arrays by the name of the file that keeps them and by field, or ``field.key`` for dictionaries."""

    @abstractmethod
    def state(self) -> Mapping[str, Any]:
        """Return the state of the optimizers, and of everything that moves besides the policy."""


class RolloutEvidence(Evidence):
    """The rollout of an on-policy algorithm."""

    _batch: Batch | None = None  # of the current update

    def keep(self, numpy_state: Any) -> None:
        self._batch = rows_from_buffer(self.model, selected_rows(self.model))

    def forget(self) -> None:
        self._batch = None

    def begin_step(self) -> None:
        pass  # all steps learn from one rollout

    def optimizers(self) -> Mapping[str, Optimizer]:
        return {"policy": self.model.policy.optimizer}

    def suspects(self) -> Mapping[str, Tensor]:
        return {} if self._batch is None else self._batch.suspects()

    def files(self) -> Mapping[str, Arrays]:
        if self._batch is not None:
            return {"batch": flattened({name: getattr(self._batch, name) for name in self._batch.__dataclass_fields__})}
        buffer = self.model.rollout_buffer
        names = ("observations", "actions", "rewards", "values", "log_probs")
        held = flattened({name: getattr(buffer, name) for name in names})
        return {"batch": {name: x[: buffer.pos] for name, x in held.items()}}

    def state(self) -> Mapping[str, Any]:
        return {"optimizer": self.model.policy.optimizer.state_dict()}


class ReplayEvidence(Evidence):
    """
    The replay memory of an off-policy algorithm, and the sample of the gradient step that fails.

    An update draws a sample per gradient step from NumPy's global generator. The sample of the failing step is drawn again,
    from the state in which the generator was before the update.
    """

    _numpy_state: Any = None  # before the current update; None: there is none
    _steps_before = 0  # gradient steps before it
    _begun = 0  # gradient steps that SB3's algorithm has begun since

    def keep(self, numpy_state: Any) -> None:
        self._numpy_state, self._steps_before, self._begun = numpy_state, self.model._n_updates, 0

    def forget(self) -> None:
        self._numpy_state = None

    def begin_step(self) -> None:
        self._begun += 1

    def optimizers(self) -> Mapping[str, Optimizer]:
        if isinstance(self.model, OffPolicy):
            return self.model.optimizers()
        temperature = getattr(self.model, "ent_coef_optimizer", None)
        networks = {"critic": self.model.critic.optimizer, "actor": self.model.actor.optimizer}
        return networks if temperature is None else {"ent_coef": temperature, **networks}

    def suspects(self) -> Mapping[str, Tensor]:
        return {name: x for name, x in _parts(self._batch()).items() if isinstance(x, Tensor)}

    def files(self) -> Mapping[str, Arrays]:
        batch = flattened(self._batch())
        return {"transitions": self._transitions(), **({"batch": batch} if batch else {})}

    def state(self) -> Mapping[str, Any]:
        of_sb3 = {name: getattr(self.model, name, None) for name in ("log_ent_coef", "ent_coef_tensor")}
        values = self.model.other_values() if isinstance(self.model, OffPolicy) else of_sb3
        return {
            "optimizers": {name: optimizer.state_dict() for name, optimizer in self.optimizers().items()},
            "values": {name: x.detach().clone() for name, x in values.items() if x is not None},
            "gradient_steps": self.model._n_updates,
        }

    def _batch(self) -> dict[str, Any]:
        """Return the sample of the failing gradient step, by field; empty between two updates, or if none can be drawn."""
        if self._numpy_state is None:
            return {}
        ours = isinstance(self.model, OffPolicy)
        n = self.model._n_updates - self._steps_before + 1 if ours else self._begun
        now, batch = np.random.get_state(), None
        np.random.set_state(self._numpy_state)
        try:
            with suppress(RuntimeError, ValueError):  # drawing may be what has failed
                for _ in range(n):
                    batch = sample_replay(self.model.replay_buffer, self.model.batch_size, self.model.get_vec_normalize_env())
        finally:
            np.random.set_state(now)
        return {} if batch is None else batch._asdict()

    def _transitions(self) -> Arrays:
        """Return the newest rows of the memory, the oldest of them first, ``[steps, environments, ...]``."""
        buffer = self.model.replay_buffer
        rows = np.arange(buffer.pos - min(buffer.size(), NEWEST_STEPS), buffer.pos) % buffer.buffer_size
        shape = (buffer.buffer_size, buffer.n_envs)
        held = {name: x for name, x in vars(buffer).items() if isinstance(x, np.ndarray | dict)}
        arrays = {name: x for name, x in flattened(held).items() if x.shape[:2] == shape and x.dtype != object}
        return {name: x[rows] for name, x in arrays.items()}


def flattened(fields: Mapping[str, Any]) -> Arrays:
    """
    Return arrays by field, or by ``field.key`` for dictionaries.

    :param fields: arrays, tensors, dictionaries of these, or ``None``; everything else is left out
    """
    arrays = {name: x.numpy(force=True) if isinstance(x, Tensor) else x for name, x in _parts(fields).items()}
    return {name: x for name, x in arrays.items() if isinstance(x, np.ndarray)}


def _parts(fields: Mapping[str, Any]) -> dict[str, Any]:
    by_field = ((name, x if isinstance(x, dict) else {"": x}) for name, x in fields.items())
    return {f"{name}.{key}" if key else name: x for name, parts in by_field for key, x in parts.items()}


def evidence_of(model: BaseAlgorithm) -> Evidence:
    """
    Return what a post-mortem can keep of a model.

    :param model: algorithm of this package or of SB3
    """
    return ReplayEvidence(model) if isinstance(model, OFF_POLICY) else RolloutEvidence(model)


def first_bad_parameter(optimizer: Optimizer, checked: int) -> Tensor | None:
    """
    Return a parameter of an optimizer whose gradient is not finite; ``None`` if there is none among those that are checked.

    :param optimizer: the optimizer, before its step
    :param checked: number of parameters to check: the smallest ones
    """
    parameters = (p for group in optimizer.param_groups for p in group["params"] if p.grad is not None)
    smallest = sorted(parameters, key=Tensor.numel)[:checked]
    return next((p for p in smallest if not bool(th.isfinite(p.grad.sum()))), None)
