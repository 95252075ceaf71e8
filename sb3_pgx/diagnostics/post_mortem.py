"""A callback that saves the data needed to explain a run that ended because a number was not finite."""

import json
import random
import time
import traceback
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.callbacks import BaseCallback
from torch.optim import Optimizer

from sb3_pgx.core.checks import arrays_are_finite, by_name, environment_name
from sb3_pgx.core.files import new_folder
from sb3_pgx.diagnostics.diagnostics_callback import check_measurable
from sb3_pgx.diagnostics.evidence import OFF_POLICY, Evidence, evidence_of, first_bad_parameter
from sb3_pgx.stages.algorithm import PolicyGradientAlgorithm
from sb3_pgx.stages.off_policy import OffPolicy

HISTORY_LENGTH = 1000  # updates whose metrics are kept
# Number of parameters per optimizer of SB3's algorithms whose gradients are checked before every step. The smallest parameters
# are the biases of the last layers, and a loss that is not finite always reaches their gradients.
CHECKED_PARAMETERS = 3


class PostMortemCallback(BaseCallback):
    """
    Write a folder when a loss, reward, observation or parameter is not finite. The error is then raised as usual.

    The folder holds:

    - ``error.txt``: one sentence about the first bad quantity, and the traceback;
    - ``batch.npz``: the rollout of the update, or the part of the current rollout that SB3's algorithms have collected. Of an
      off-policy algorithm: the sample of the replay memory on which the failing gradient step was to be taken; there is no
      such file if the error came while collecting;
    - ``transitions.npz``, of an off-policy algorithm: the newest 1,000 steps in the replay memory,
      ``[steps, environments, ...]``;
    - ``state.pt``: for ``torch.load``, the state of the policy and of the optimizer when the error occurred, which is before
      the failing step, and the states of the random number generators at that time and at the end of the rollout. Off-policy
      algorithms have several optimizers, by name, and the temperature;
    - ``metrics.json``: the logged metrics of the last 1,000 updates at most.

    To repeat a failing gradient step of an off-policy algorithm, load policy and optimizers, set torch's generator to its
    state in ``random_state_before_update``, and take the step on ``batch.npz``. The numbers are the same if it was the first
    one of its call of ``train``, as with ``gradient_steps=1``. Otherwise the noise differs, because earlier steps drew some.

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
    _evidence: Evidence  # of the model

    def __init__(self, folder: str | Path = "post_mortem", verbose: int = 0):
        super().__init__(verbose)
        self.folder = Path(folder)
        self.written: Path | None = None
        self._metrics: deque[dict[str, Any]] = deque(maxlen=HISTORY_LENGTH)
        self._random_state: dict[str, Any] = {}  # at the end of the rollout
        self._handles: list[Any] = []

    # ------------------------------------------------------------------------------------------------ detect

    def _init_callback(self) -> None:
        self._evidence = evidence_of(self.model)

    def _on_training_start(self) -> None:
        if not isinstance(self.model, OFF_POLICY):
            check_measurable(self.model, type(self).__name__, " and SAC, TD3, DDPG and D4PG")
        self._release()
        if not self._is_ours:
            self._check(self.model._last_obs, None, "when the environments were reset")

    def _on_rollout_start(self) -> None:
        self._metrics.append({"timesteps": self.num_timesteps, **self.logger.name_to_value})
        if isinstance(self.model, PolicyGradientAlgorithm):
            return  # its last rollout is kept until the next one is complete
        if not self._is_ours:
            for name, p in self.model.policy.named_parameters():
                if not th.isfinite(p).all():
                    self._break_down(f"the parameter {name} is not finite after the update")
        self._release()

    def _on_step(self) -> bool:
        if not self._is_ours:  # this package's algorithms check this before they call the callback
            when = f"at step {self.num_timesteps} of the training"
            self._check(self.locals["new_obs"], self.locals["rewards"], when)
        return True

    def _on_rollout_end(self) -> None:
        self._random_state = random_state()
        self._evidence.keep(self._random_state["numpy"])
        if not self._is_ours:
            optimizers = [*self._evidence.optimizers().values()]
            first = optimizers[0].register_step_pre_hook(lambda *_: self._evidence.begin_step())
            self._handles = [first, *(o.register_step_pre_hook(self._check_gradients) for o in optimizers)]

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

    def _check_gradients(self, optimizer: Optimizer, *_: Any) -> None:
        bad = first_bad_parameter(optimizer, CHECKED_PARAMETERS)
        if bad is None:
            return
        part = next((name for name, x in self._evidence.suspects().items() if not th.isfinite(x).all()), None)
        names = (name for name, p in self.model.policy.named_parameters() if p is bad)
        because = f" because the {part} are not finite" if part else ""
        name = next(names, "the temperature")
        self._break_down(
            f"the loss is not finite{because}: the gradient of {name} shows it, and the step was not taken. Lower "
            "learning_rate, or wrap the environment in VecNormalize"
        )

    def _release(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self._evidence.forget()

    @property
    def _is_ours(self) -> bool:
        return isinstance(self.model, PolicyGradientAlgorithm | OffPolicy)

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
            "policy": self.model.policy.state_dict(),
            **self._evidence.state(),
            "random_state": plain(random_state()),
            "random_state_before_update": plain(self._random_state),
        }
        history = [*self._metrics, {"timesteps": self.num_timesteps, **self.logger.name_to_value}]
        stem = f"{type(self.model).__name__}-{time.strftime('%Y%m%d-%H%M%S')}"
        names = (self.folder / (stem if n == 1 else f"{stem}-{n}") for n in range(1, 1_000_000))
        path = next(name for name in names if not name.exists())
        with new_folder(path) as folder:
            (folder / "error.txt").write_text(f"{sentence}\n\n{trace}", encoding="utf-8")
            for name, arrays in self._evidence.files().items():
                np.savez_compressed(folder / f"{name}.npz", **arrays)  # type: ignore[arg-type]
            th.save(state, folder / "state.pt")
            (folder / "metrics.json").write_text(json.dumps(history, indent=1, default=as_json), encoding="utf-8")
        self.written = path
        self.logger.warn(f"data, parameters, random states and metrics at the time of the error are in {self.written}")


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
        "numpy": np.random.get_state(),
        "torch": th.get_rng_state(),
        "cuda": th.cuda.get_rng_state_all() if th.cuda.is_available() else [],
    }


def plain(state: dict[str, Any]) -> dict[str, Any]:
    """Return the result of :func:`random_state` without NumPy's arrays, as ``weights_only=True`` needs it."""
    numpy = (x.tolist() if isinstance(x, np.ndarray) else x for x in state.get("numpy", ()))
    return {**state, "numpy": tuple(numpy)} if state else {}
