"""The loss of an update on its minibatches, the gradient, and the errors if they are not finite."""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager

import torch as th
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import Tensor

from sb3_pgx.core.errors import blaming_numbers
from sb3_pgx.core.rollout import Rows
from sb3_pgx.core.undo import Refusal
from sb3_pgx.engine.gradient_steps import GradientSteps
from sb3_pgx.engine.plan import Plan
from sb3_pgx.engine.refusals import check_state, led_astray, not_finite, of_another_process, step_refusal
from sb3_pgx.engine.step import gradients_of_loss, total_norm


class MinibatchLoss:
    """
    The loss of one update, at the policy's parameters of the moment.

    :param steps: of the objective
    :param policy: in training mode
    :param plan: coefficients and limits
    :param taken: returns the number of steps that the update has taken, for an error; the host may wait for the device
    :param number: number of updates done before, for an error
    """

    def __init__(self, steps: GradientSteps, policy: ActorCriticPolicy, plan: Plan, taken: Callable[[], int], number: int):
        self.steps, self.policy, self.plan, self._taken, self._number = steps, policy, plan, taken, number

    def gradient(self, batch: Rows) -> tuple[dict[str, Tensor], list[Tensor]]:
        """
        Return what the objective measures, among it the loss, and the gradient of each parameter that moves.

        :raises Refusal: the policy's distribution cannot be made from its parameters
        """
        with th.enable_grad(), self.refusals():
            measured = self.steps.bound.measure_eagerly(self.policy, batch, self.plan.coefficients)
        return measured, gradients_of_loss(measured["loss"], self.steps.used)

    def refusals(self) -> AbstractContextManager[None]:
        """Turn errors of torch's distributions (NaN, a standard deviation of 0) into the refusal of a step."""
        return blaming_numbers(self._refusal, lambda: f"while the policy learned, in update {self._done + 1}")

    def not_finite(self, batch: Rows) -> Refusal:
        """Repeat a step at the parameters before it. Return the error that names what is not finite."""
        self.check_state()
        with self.refusals():
            measured = self.steps.bound.measure(self.policy, batch, self.plan.coefficients)
        pieces = gradients_of_loss(measured["loss"], self.steps.used)
        gradients = {f"gradient of {name}": g for name, g in zip(self._moved, pieces, strict=True)}
        parts = {name: value for name, value in measured.items() if name != "loss"}
        if all(map(math.isfinite, (measured["loss"].item(), total_norm(pieces)))):
            return of_another_process(self._done) if self.steps.reduction.splits else self.led_astray()
        return not_finite({**batch.suspects(), **parts, "loss": measured["loss"], **gradients}, self._done)

    def led_astray(self) -> Refusal:
        """Return the error for a step whose gradient was finite, and whose result is not."""
        return led_astray(self._done)

    def check_state(self) -> None:
        """:raises Refusal: what the optimizer keeps for the parameters is not finite"""
        check_state(self.policy.optimizer, self._moved, self._done)

    @property
    def _moved(self) -> dict[str, Tensor]:
        names = {id(p): name for name, p in self.policy.named_parameters()}
        return {names[id(p)]: p for p in self.steps.used}

    @property
    def _done(self) -> int:
        return self._number + self._taken() * self.plan.one_by_one

    def _refusal(self, what: str) -> ValueError:
        self.check_state()
        return step_refusal(f"the policy failed ({what})", self._done)
