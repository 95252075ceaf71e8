"""Gradient steps on samples of a replay memory."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch as th
from torch import Tensor
from torch.optim import Optimizer

from sb3_pgx.core.errors import blaming_numbers
from sb3_pgx.core.replay_sampling import sample_replay
from sb3_pgx.core.undo import Refusal
from sb3_pgx.engine.compile_log import CompileLog
from sb3_pgx.engine.joint_steps import JointSteps, NotFiniteError, Outcome, StepFunction, flat
from sb3_pgx.stages.off_policy_collect import OffPolicyCollecting

LOGGED = "train/"  # before the names of metrics
CAUSES = (
    "learning_rate too high (lower it), rewards or observations of huge size (wrap the environment in VecNormalize), or "
    "numbers in the replay memory that are not finite"
)


class OffPolicyUpdating(OffPolicyCollecting):
    """The second stage of an off-policy algorithm."""

    _reason: str | None = None  # why the optimizers themselves must take the steps
    _metrics: Mapping[str, float] = {}  # means over the gradient steps of this iteration
    _steps: JointSteps
    _compile_log: CompileLog

    @abstractmethod
    def optimizers(self) -> Mapping[str, Optimizer]:
        """Return the optimizers by name. The learning rate is that of all of them."""

    def other_values(self) -> Mapping[str, Tensor]:
        """Return the tensors besides the policy's parameters that a gradient step reads or moves, by name."""
        return {}

    @abstractmethod
    def next_step(self, index: int) -> tuple[StepFunction, Any]:
        """
        Return the next gradient step as a function, and its coefficients as a named tuple.

        :param index: number of the step in this call of :meth:`train`, from 0
        """

    def after_step(self, index: int, batch: Any, outcome: Outcome) -> None:
        """
        Called after each gradient step, which moves parameters alone: copy the statistics of BatchNorm.

        :param index: number of the step in this call of :meth:`train`, from 0
        :param batch: sample of the replay memory on which the step was taken
        :param outcome: what the step returned, as numbers
        """

    def train(self, gradient_steps: int, batch_size: int = 64) -> None:
        """
        Take gradient steps on samples of the replay memory.

        :param gradient_steps: number of steps
        :param batch_size: rows of each sample
        :raises Refusal: the result of a step is not finite; the step was not taken
        """
        self._set_training_mode(True)
        self._update_learning_rate([*self.optimizers().values()])
        reason = self._prepare() if self._watched else self._reason
        if reason is not None:
            self._compile_log.report_uncompiled(self._steps.what, reason)
        outcomes: list[Outcome] = []
        assert self.replay_buffer is not None
        for index in range(gradient_steps):
            batch = sample_replay(self.replay_buffer, batch_size, self._vec_normalize_env)
            outcomes.append(self._step(batch, index))
            self.after_step(index, batch, outcomes[-1])
            self._n_updates += 1
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        names = dict.fromkeys(name for outcome in outcomes for name, value in outcome.items() if isinstance(value, float))
        by_name = {name: [outcome[name] for outcome in outcomes if name in outcome] for name in names}
        self._metrics = {name: sum(values) / len(values) for name, values in by_name.items()}
        for name, mean in self._metrics.items():
            self.logger.record(f"{LOGGED}{name}", mean)

    def _prepare(self) -> str | None:
        """Find out what a gradient step moves; return why the optimizers themselves must take the steps, if they must."""
        version = self._modules.look(self.policy)
        self._reason = self._steps.prepare(self.policy, version, self.other_values(), self.optimizers())
        return self._reason

    def _step(self, batch: Any, index: int) -> Outcome:
        function, coefficients = self.next_step(index)
        try:
            with blaming_numbers(lambda what: self._refusal(what, batch), self._place):
                return self._steps.take(function, batch, coefficients, self.compiled)
        except NotFiniteError as error:
            numbers = {name: value for name, value in error.metrics.items() if isinstance(value, float)}
            bad = next((f"{name} is {value}" for name, value in numbers.items() if not np.isfinite(value)), None)
            raise self._refusal(bad or "the gradient, or what it leads to, is not finite", batch) from None

    def _place(self) -> str:
        return f"in gradient step {self._n_updates + 1}"

    def _refusal(self, what: str, batch: Any) -> Refusal:
        names = [name for name, part in batch._asdict().items() if part is not None and not _finite(part)]
        cause = f" The batch's {' and '.join(names)} are not finite." if names else ""
        return Refusal(
            f"{what} {self._place()}; the step was not taken, and the model is as it was before it.{cause} Likely causes: "
            f"{CAUSES}."
        )


def _finite(part: Any) -> bool:
    return all(bool(th.isfinite(x).all()) for x in flat((part,)))
