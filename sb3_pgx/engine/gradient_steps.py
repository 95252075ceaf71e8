"""The gradient steps of one algorithm on one objective: what they are prepared with, and the graphs compiled for them."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from operator import attrgetter, is_
from typing import Any

from stable_baselines3.common.policies import ActorCriticPolicy
from torch import Tensor, nn

from sb3_pgx.core.policies import split_parameters
from sb3_pgx.core.rollout import Rows
from sb3_pgx.engine.compile_log import CompileLog
from sb3_pgx.engine.compiler import Remembered, signature
from sb3_pgx.engine.follower import Follower
from sb3_pgx.engine.objective import BoundObjective, Objective, evaluated
from sb3_pgx.engine.optimizers import OptimizerRule, rule_of
from sb3_pgx.engine.parameters import FlatParameters, MovedParameters, states_of, steps_taken
from sb3_pgx.engine.plain_networks import PlainNetworks, is_plain, methods_set_on
from sb3_pgx.engine.plan import Plan
from sb3_pgx.engine.policy_function import left_as_it_is
from sb3_pgx.engine.step import used
from sb3_pgx.engine.traced_step import traceable_halves, traceable_step
from sb3_pgx.parallel.reductions import Reduction

Step = Callable[[Sequence[Tensor]], Any]  # a compiled step, which takes its arguments as one sequence


class GradientSteps:
    """
    The gradient steps of one algorithm on one objective, and the graphs compiled for them.

    :param objective: loss and metrics
    :param log: of what is compiled
    """

    def __init__(self, objective: Objective, log: CompileLog | None = None):
        self.objective, self.log = objective, log or CompileLog()
        self.bound = BoundObjective(objective, [], [])
        self.used: list[nn.Parameter] = []  # parameters that the optimizer moves
        self.fixed: list[nn.Parameter] = []  # other parameters of the policy
        self.has_buffers = False  # which a forward pass may change
        self._structure: tuple[Any, ...] | None = None
        self._graphs: dict[Any, Callable[[], Step | None]] = {}
        self.begun = False  # whether there has been an update, or its step has been compiled ahead
        self._version, self._mixed = 0, False
        self.followers: list[Follower] = []  # one, or none
        self.reduction = Reduction()  # of the gradient over processes
        self._moments: Sequence[Tensor] = ()  # that were moved in place last
        self._moments_layout: Any = ()
        # Cached tensors: the scalars of the optimizer's rule, the plan's numbers, and an empty log.
        self.kept_scalars, self.kept_numbers, self.kept_log = Remembered(), Remembered(), Remembered()

    def __getstate__(self) -> dict[str, Any]:
        bound = BoundObjective(self.objective, [], [])
        return {
            **vars(self),
            "bound": bound,
            "used": [],
            "fixed": [],
            "followers": [],
            "reduction": Reduction(),
            "begun": False,
            "_moments": (),
            "_moments_layout": (),
            "_structure": None,
            "_graphs": {},
        }

    def wait(self) -> None:
        """Wait for the graphs that are being compiled."""
        for graph in self._graphs.values():
            graph()

    def begin(self, version: int, follower: Follower | None) -> None:
        """
        Begin an update.

        :param version: version of the policy's layers, from :class:`~sb3_pgx.engine.layers.Modules`
        :param follower: policy that follows the trained one, if the objective has one
        """
        self.begun, self._version, self.followers = True, version, [] if follower is None else [follower]

    def prepare(self, policy: ActorCriticPolicy, plan: Plan, batch: Rows) -> type[OptimizerRule] | str:
        """
        Find out which parameters enter the loss, and drop the compiled graphs if anything that they were traced with has
        changed: layers, hooks, optimizer, coefficients.

        :return: the optimizer's rule, or the reason why there is none
        """
        optimizer = policy.optimizer
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        rule = rule_of(optimizer)
        described = [*map(attrgetter("requires_grad", "dtype", "device"), parameters)]
        objects = [policy, optimizer, self.objective, *(f.policy for f in self.followers), *parameters]
        versions = [self._version, *(f.modules.version for f in self.followers)]
        structure = (objects, (described, rule, plan.structure, versions, methods_set_on(policy)))
        if not self._is_known(structure):
            self._structure = None  # after an interruption, the next update prepares again
            with left_as_it_is(policy):
                bound = BoundObjective(self.objective, [f.policy for f in self.followers], [])
                measured = bound.measure(policy, batch, plan.as_tensors())
                spared = {id(p) for p in split_parameters(policy)[0].values()} if self.objective.critic_only else set()
                candidates = [p for p in parameters if p.requires_grad and id(p) not in spared]
                self.used = used(measured["loss"], candidates)
            self.has_buffers = next(policy.buffers(), None) is not None
            names = ["loss", *(name for name in measured if name != "loss")]
            plain = self.objective.evaluate is evaluated and is_plain(policy)
            self.bound = replace(bound, names=names, networks=PlainNetworks(policy) if plain else None)
            moved = {id(p) for p in self.used}
            self.fixed = [p for p in policy.parameters() if id(p) not in moved]
            self._mixed = len({(p.dtype, p.device) for p in self.used}) > 1
            self._structure, self._graphs = structure, {}
        if isinstance(rule, str):
            return rule
        if self._mixed:
            return "the policy's parameters differ in type or device"
        if len(set(steps_taken(states_of(optimizer, self.used), rule))) > 1:
            return "the optimizer has taken more steps for some parameters than for others"
        return rule

    def _is_known(self, structure: tuple[Any, ...]) -> bool:
        """Return whether nothing has changed. Objects are compared by identity, so references to them are kept."""
        if self._structure is None:
            return False
        (objects, values), (known, known_values) = structure, self._structure
        return values == known_values and list(map(id, objects)) == list(map(id, known))

    def graph(
        self,
        policy: ActorCriticPolicy,
        plan: Plan,
        held: MovedParameters,
        lasting: Sequence[Tensor],
        batch: Rows,
        ahead: bool = False,
    ) -> Callable[[], Step | None]:
        """
        Begin to compile the step for such arguments, unless that has been done before.

        :param lasting: the arguments before the batch
        :param batch: encoded
        :param ahead: whether to compile in a second thread
        :return: function that returns the compiled step, or ``None`` if it cannot be compiled
        """
        # Of parameters a new layout makes a new version, and the other tensors' shapes follow from what was prepared for.
        key = (type(held), held.irrevocable, self._layout_of_moments(held), signature(batch.tensors()), self.reduction.splits)
        if key not in self._graphs:
            begin = self._begin_halves if self.reduction.splits else self._begin_whole
            self._graphs[key] = begin((self.bound, policy, plan, held, batch), [*lasting, *batch.tensors()], ahead)
        return self._graphs[key]

    def _begin_whole(self, of: tuple[Any, ...], examples: list[Tensor], ahead: bool) -> Callable[[], Step | None]:
        return self.log.begin("the gradient step", lambda: traceable_step(*of), lambda: examples, ahead)

    def _begin_halves(self, of: tuple[Any, ...], examples: list[Tensor], ahead: bool) -> Callable[[], Step | None]:
        """Begin to compile gradient and optimizer step one by one; the gradient is reduced in between."""
        length = sum(p.numel() for p in self.used) + len(self.bound.names)
        numbers = self.used[0].new_zeros(length)
        first = self.log.begin("the gradient", lambda: traceable_halves(*of)[0], lambda: examples, ahead)
        second = self.log.begin("the optimizer's step", lambda: traceable_halves(*of)[1], lambda: [numbers, *examples], ahead)

        def result() -> Step | None:
            gradient, move = first(), second()
            if gradient is None or move is None:
                return None

            def step(arguments: Sequence[Tensor]) -> None:
                found = self.reduction.missed(len(self.bound.names), self.used)
                if found is None:
                    found = self.reduction.flat(*gradient(arguments))
                move([found, *arguments])

            return step

        return result

    def _layout_of_moments(self, held: MovedParameters) -> Any:
        if isinstance(held, FlatParameters):
            return signature(held.moments)
        # Moments in place are the optimizer's own, and nearly always the same tensors as in the update before.
        if len(held.moments) != len(self._moments) or not all(map(is_, held.moments, self._moments)):
            self._moments, self._moments_layout = held.moments, signature(held.moments)
        return self._moments_layout

    def report_uncompiled(self, reason: str) -> None:
        """Log once that the step cannot be compiled."""
        self.log.report_uncompiled("the gradient step", reason)
