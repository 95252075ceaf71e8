"""A callback that saves the data needed to explain a run that ended because a number was not finite."""

import json
import math
import random
import time
import traceback
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from torch import Tensor

from sb3_pgx.core.checks import arrays_are_finite, by_name, environment_name
from sb3_pgx.core.files import new_folder
from sb3_pgx.core.rollout import Batch
from sb3_pgx.diagnostics.diagnostics_callback import check_measurable
from sb3_pgx.diagnostics.snapshot import rows_from_buffer, selected_rows
from sb3_pgx.stages.algorithm import PolicyGradientAlgorithm

HISTORY_LENGTH = 1000  # updates whose metrics are kept
# Number of parameters of SB3's algorithms whose gradients are checked in every minibatch. The smallest parameters are the
# biases of the last layers, and a loss that is not finite always reaches their gradients.
CHECKED_PARAMETERS = 3


class PostMortemCallback(BaseCallback):
    """
    Write a folder when a loss, reward, observation or parameter is not finite. The error is then raised as usual.

    The folder holds:

    - ``error.txt``: one sentence about the first bad quantity, and the traceback;
    - ``batch.npz``: the rollout of the update, or the part of the current rollout that SB3's algorithms have collected;
    - ``state.pt``: for ``torch.load``, the state of the policy and of the optimizer when the error occurred, and the states
      of the random number generators at that time and at the end of the rollout;
    - ``metrics.json``: the logged metrics of the last 1,000 updates at most.

    It is safe to read another person's folder with ``torch.load(..., weights_only=True)`` and
    ``numpy.load(..., allow_pickle=False)``, which are the defaults: no code from the files is run.

    This package's algorithms stop before a step that is not finite; the callback writes a folder for any error that ends
    their run, except in the first reset, before callbacks start. SB3's algorithms continue with NaN until something fails far
    from the cause. With this callback they stop with ``FloatingPointError`` before the bad step.

    ``written`` is the folder that was written last, or ``None``.

    :param folder: parent of the folders, which are named after the algorithm and the time
    :param verbose: verbosity, as in SB3's callbacks
    """

    only_reads = True  # not of subclasses, see core/deferred_values.py

    def __init__(self, folder: str | Path = "post_mortem", verbose: int = 0):
        super().__init__(verbose)
        self.folder = Path(folder)
        self.written: Path | None = None
        self._metrics: deque[dict[str, Any]] = deque(maxlen=HISTORY_LENGTH)
        self._batch: Batch | None = None  # data of the current update
        self._random_state: dict[str, Any] = {}  # at the end of the rollout
        self._handles: list[Any] = []

    # ------------------------------------------------------------------------------------------------ detect

    def _on_training_start(self) -> None:
        check_measurable(self.model, type(self).__name__)
        self._release()
        if not self._is_ours:
            self._check(self._model._last_obs, None, "when the environments were reset")

    def _on_rollout_start(self) -> None:
        self._metrics.append({"timesteps": self.num_timesteps, **self.logger.name_to_value})
        if self._is_ours:
            return
        for name, p in self._model.policy.named_parameters():
            if not th.isfinite(p).all():
                self._break_down(f"the parameter {name} is not finite after the update")
        self._release()

    def _on_step(self) -> bool:
        if not self._is_ours:  # this package's algorithms check this before they call the callback
            when = f"at step {self.num_timesteps} of the training"
            self._check(self.locals["new_obs"], self.locals["rewards"], when)
        return True

    def _on_rollout_end(self) -> None:
        self._batch, self._random_state = rows_from_buffer(self._model, selected_rows(self._model)), random_state()
        if not self._is_ours:
            smallest = sorted((p for p in self._model.policy.parameters() if p.requires_grad), key=Tensor.numel)[
                :CHECKED_PARAMETERS
            ]
            self._handles = [p.register_post_accumulate_grad_hook(self._check_gradient) for p in smallest]

    def _on_training_end(self) -> None:
        self._release()

    def on_training_error(self, error: Exception) -> None:
        """
        Write the folder when an error ends the run; called by this package's algorithms.

        :param error: the error
        """
        self._keep(str(error), error)

    def _check(self, observations: Any, rewards: np.ndarray | None, when: str) -> None:
        returned = {} if rewards is None else {"reward": rewards}
        for what, values in {**returned, **by_name(observations)}.items():
            if not arrays_are_finite(values):
                index = next(i for i, x in enumerate(values) if not np.isfinite(x).all())
                bad = values[index][~np.isfinite(values[index])].ravel()[0]
                self._break_down(f"{environment_name(self.training_env, index)} returned {what} {bad} {when}")

    def _check_gradient(self, parameter: Tensor) -> None:
        gradient, batch = parameter.grad, self._batch
        if gradient is None or batch is None or math.isfinite(gradient.sum()):
            return
        bad = next((name for name, x in batch.suspects().items() if not th.isfinite(x).all()), None)
        name = next(name for name, p in self._model.policy.named_parameters() if p is parameter)
        because = f" because the {bad} are not finite" if bad else ""
        self._break_down(
            f"the loss is not finite{because}: the gradient of {name} shows it, and the step was not taken. Lower "
            "learning_rate, or wrap the environment in VecNormalize"
        )

    def _release(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles, self._batch = [], None

    @property
    def _is_ours(self) -> bool:
        return isinstance(self.model, PolicyGradientAlgorithm)

    @property
    def _model(self) -> OnPolicyAlgorithm:
        assert isinstance(self.model, OnPolicyAlgorithm)
        return self.model

    # ------------------------------------------------------------------------------------------------ write

    def _break_down(self, sentence: str) -> None:
        try:
            raise FloatingPointError(sentence)
        except FloatingPointError as error:
            self._keep(sentence, error)
            raise
        finally:
            self._release()

    def _keep(self, sentence: str, error: Exception) -> None:
        """Write the folder; if that fails, the run still ends with the original error."""
        try:
            self._write(sentence, error)
        except Exception as failure:
            self.logger.warn(f"the post-mortem could not be written to {self.folder}: {failure}")

    def _write(self, sentence: str, error: Exception) -> None:
        """Write the folder, which gets its final name only when it is complete."""
        trace = "".join(traceback.format_exception(error))
        state = {
            "policy": self._model.policy.state_dict(),
            "optimizer": self._model.policy.optimizer.state_dict(),
            "random_state": random_state(),
            "random_state_before_update": self._random_state,
        }
        history = [*self._metrics, {"timesteps": self.num_timesteps, **self.logger.name_to_value}]
        stem = f"{type(self.model).__name__}-{time.strftime('%Y%m%d-%H%M%S')}"
        names = (self.folder / (stem if n == 1 else f"{stem}-{n}") for n in range(1, 1_000_000))
        path = next(name for name in names if not name.exists())
        with new_folder(path) as folder:
            (folder / "error.txt").write_text(f"{sentence}\n\n{trace}", encoding="utf-8")
            np.savez_compressed(folder / "batch.npz", **self._arrays())  # type: ignore[arg-type]
            th.save(state, folder / "state.pt")
            (folder / "metrics.json").write_text(json.dumps(history, indent=1, default=as_json), encoding="utf-8")
        self.written = path
        self.logger.warn(f"batch, parameters, random states and metrics at the time of the error are in {self.written}")

    def _arrays(self) -> dict[str, np.ndarray]:
        """Return the batch by field, or by ``field.key`` for dictionaries."""
        if self._batch is None:
            buffer: Any = self._model.rollout_buffer
            held = {name: getattr(buffer, name) for name in ("observations", "actions", "rewards", "values", "log_probs")}
            held = {name: {"": x} if isinstance(x, np.ndarray) else x for name, x in held.items()}
            return {_joined(name, key): x[: buffer.pos] for name, parts in held.items() for key, x in parts.items()}
        fields = {name: getattr(self._batch, name) for name in self._batch.__dataclass_fields__}
        parts = {name: x if isinstance(x, dict) else {"": x} for name, x in fields.items() if x is not None}
        return {_joined(name, key): x.numpy(force=True) for name, part in parts.items() for key, x in part.items()}


def _joined(name: str, key: str) -> str:
    return f"{name}.{key}" if key else name


def as_json(value: Any) -> Any:
    """Return a logged value that JSON does not support as a number, or else as its ``repr``."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return repr(value)


def random_state() -> dict[str, Any]:
    """Return the states of all random number generators that a run uses."""
    return {
        "python": random.getstate(),
        "numpy": tuple(
            x.tolist() if isinstance(x, np.ndarray) else x for x in np.random.get_state()
        ),  # without arrays, for weights_only=True
        "torch": th.get_rng_state(),
        "cuda": th.cuda.get_rng_state_all() if th.cuda.is_available() else [],
    }
