"""The actions that an off-policy algorithm's policy samples, as a compiled graph."""

from collections.abc import Sequence
from typing import Any

import torch as th
from stable_baselines3.common.policies import BasePolicy
from torch import Tensor

from sb3_pgx.engine.compile_log import CompileLog
from sb3_pgx.engine.compiler import Compiled
from sb3_pgx.engine.drawn_noise import Draw, GivenDraws, NotedDraws
from sb3_pgx.engine.joint_step import Networks
from sb3_pgx.engine.policy_function import check_traceable, laid_out, left_as_it_is, unvalidated
from sb3_pgx.engine.trace import Function


class CompiledActor:
    """
    Samples actions as ``policy._predict`` does, from the same random numbers.

    :param log: of what is compiled
    """

    def __init__(self, log: CompileLog):
        self._log = log
        self._key: Any = None
        self._graph: Compiled | None = None
        self._draws: list[Draw] = []
        self._values: Sequence[Tensor] = ()

    def __getstate__(self) -> dict[str, Any]:
        return vars(CompiledActor(self._log))

    def __call__(self, policy: BasePolicy, version: int, observations: Any) -> Tensor | None:
        """
        Sample actions. The graph is compiled at the first call, and again when the policy's layers have changed.

        :param policy: in evaluation mode
        :param version: of the policy's layers, from :class:`~sb3_pgx.engine.layers.Modules`
        :param observations: ``[N, *obs]``, or a dictionary of such tensors
        :return: actions, ``[N, D]``; ``None`` if the policy cannot be compiled
        """
        inputs = [*observations.values()] if isinstance(observations, dict) else [observations]
        key = (policy, version, *(x.shape for x in inputs), *(x.dtype for x in inputs))
        if key != self._key:
            self._key = None
            self._graph = self._compiled(policy, observations, inputs)
            self._key = key
        if self._graph is None:
            return None
        with th.no_grad():
            (actions,) = self._graph([*self._values, *(draw() for draw in self._draws), *inputs])
        return actions

    def _compiled(self, policy: BasePolicy, observations: Any, inputs: Sequence[Tensor]) -> Compiled | None:
        named = dict(policy.named_parameters())
        self._values, self._draws = [*named.values()], []
        networks, n_values = Networks(policy, named), len(named)

        def sample(policy: BasePolicy, *tensors: Tensor) -> Tensor:
            given = dict(zip(observations, tensors, strict=True)) if isinstance(observations, dict) else tensors[0]
            return policy._predict(given)

        def traceable() -> Function:
            check_traceable(policy)
            with left_as_it_is(policy), NotedDraws() as noted, unvalidated(policy), th.no_grad():
                sample(policy, *inputs)
            self._draws = noted.draws

            def run(*tensors: Tensor) -> tuple[Tensor]:
                values = laid_out(dict(zip(named, tensors, strict=False)))
                rest = tensors[n_values:]
                n = len(self._draws)
                with GivenDraws(rest[:n]), unvalidated(policy):
                    return (networks.call(values, sample, *rest[n:]),)

            return run

        return self._log.compile("acting", traceable, lambda: [*self._values, *(draw() for draw in self._draws), *inputs])
