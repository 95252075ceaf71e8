"""Stages 2 and 3: values and log-probabilities of a rollout, then its returns and advantages."""

import numpy as np
import torch as th

from sb3_pgx.core.custom_buffer import CustomBuffer
from sb3_pgx.core.policies import at_start, distribution_of
from sb3_pgx.core.recorder import Recorder
from sb3_pgx.core.recurrent_evaluation import is_recurrent, no_memory
from sb3_pgx.core.rollout import CollectedRollout, EvaluatedRollout, PolicyInputs, Rollout, map_tensors
from sb3_pgx.core.rollout_buffer import RolloutView
from sb3_pgx.engine import Objective
from sb3_pgx.engine.policy_graphs import MAX_EVALUATED_ROWS, MAX_EVALUATED_STEPS, CompiledPass
from sb3_pgx.ops.returns import gae
from sb3_pgx.stages.collect import Collecting
from sb3_pgx.stages.evaluate import EAGER, Evaluators, evaluate_by_graph, evaluate_rollout, rows_by_graph, sequences_by_graph


class Estimating(Collecting):
    """
    Stages two and three of an algorithm. Subclasses may override :meth:`evaluate`, :meth:`estimate` and :meth:`reweight`.
    """

    # Loss of an algorithm that steps through minibatches with `gradient_steps`. A subclass or a model may have another one; a
    # model's own is not saved.
    objective: Objective | None = None
    keeps_distribution = False  # whether rollouts keep the action distributions, for diagnostics
    _evaluation: CompiledPass  # of a whole short rollout
    _rows: CompiledPass  # of many rows at once
    _sequences: CompiledPass  # of all rows of a recurrent policy

    def evaluate(self, rollout: CollectedRollout) -> EvaluatedRollout:
        """Stage 2: return the rollout with values, log-probabilities and bootstrap values."""
        # If acting returned the values, keeping the distribution would need an extra forward pass.
        keep = self.reads_distribution or (self.keeps_distribution and not rollout.known_rows)
        evaluated = evaluate_rollout(self.policy, rollout, keep, self._evaluators() if self.compiled else EAGER)
        if not self.reads_distribution:
            evaluated.behaviour, evaluated.distribution = evaluated.distribution, None
        return evaluated

    def _evaluators(self) -> Evaluators:
        n_rows = self.n_steps * self.n_envs
        return Evaluators(
            rows_by_graph(self._rows, self._modules, n_rows), sequences_by_graph(self._sequences, self._modules, n_rows)
        )

    def estimate(self, rollout: EvaluatedRollout) -> Rollout:
        """
        Stage 3: return the rollout with advantages and returns, by GAE unless an algorithm differs. A truncated episode is
        bootstrapped through ``next_values``; its rewards stay as the environment gave them.
        """
        advantages = gae(
            rollout.rewards,
            rollout.values,
            rollout.next_values,
            rollout.ends,
            self.gamma,
            self.gae_lambda,
            None if rollout.complete else rollout.valid,
        )
        return rollout.estimated(advantages, advantages + rollout.values)

    def example_rollout(self, inputs: PolicyInputs, n_steps: int) -> Rollout:
        """
        Return a rollout of steps that nobody has taken, with the types and the layout of those to come.

        Its actions and rewards are random: a loaded graph is compared on it, and where gradients vanish, rounding decides.

        :param inputs: what the policy acts on first, ``[N, ...]``
        :param n_steps: number of steps
        """
        recorder = Recorder(self.observation_space, self.action_space, self.n_envs, n_steps)
        no, generator = np.zeros(self.n_envs, bool), np.random.default_rng(0)
        masks = None if inputs.action_masks is None else inputs.action_masks.numpy(force=True)
        repeated = map_tensors(lambda x: x.repeat(n_steps, *[1] * (x.dim() - 1)), inputs)
        started = at_start(self.policy, repeated.observations, n_steps * self.n_envs)
        with th.no_grad():
            sampled = distribution_of(self.policy, started._replace(action_masks=repeated.action_masks)).sample()
        for actions in sampled.numpy(force=True).reshape(n_steps, self.n_envs, -1):
            recorder.observe(self._last_obs)  # type: ignore[arg-type]
            recorder.mask(masks)
            recorder.add(actions, generator.normal(size=self.n_envs), no, [], ~no, no, self.env, None)  # type: ignore[arg-type]
        rollout = recorder.rollout(self._last_obs, self.device)  # type: ignore[arg-type]
        if is_recurrent(self.policy):
            rollout.memory = map_tensors(lambda x: x[None], no_memory(self.policy, self.n_envs))
        return Estimating.estimate(self, Estimating.evaluate(self, rollout))

    def evaluate_and_estimate(self, rollout: CollectedRollout) -> Rollout:
        """Run stages 2 and 3, by one compiled graph if the rollout is short and no subclass overrides a stage."""
        estimated = self.evaluate_by_graph(rollout)
        if estimated is None:
            return self._estimate_and_reweight(self._evaluated(rollout))
        self.reweight(estimated)
        return estimated

    def evaluate_by_graph(self, rollout: CollectedRollout) -> Rollout | None:
        """Return the rollout with values and advantages from one compiled graph; ``None`` if it has to be done in stages."""
        if not (self.compiled and self._has_graph(rollout)):
            return None
        return evaluate_by_graph(self.policy, rollout, self._evaluation, self._modules, self.gamma, self.gae_lambda)

    def reweight(self, rollout: Rollout) -> None:
        """Reweight the advantages after :meth:`estimate`. The default does nothing."""

    @property
    def reweights(self) -> bool:
        """Whether :meth:`reweight` changes the advantages."""
        return type(self).reweight is not Estimating.reweight

    def _estimate_and_reweight(self, rollout: EvaluatedRollout) -> Rollout:
        estimated = self.estimate(rollout)
        if not isinstance(estimated, Rollout):
            raise self._wrong_result("estimate", estimated, "rollout.estimated(advantages, returns)")
        self.reweight(estimated)
        return estimated

    def _evaluated(self, rollout: CollectedRollout) -> EvaluatedRollout:
        evaluated = self.evaluate(rollout)
        if not isinstance(evaluated, EvaluatedRollout):
            wanted = "rollout.evaluated(values, log_prob, next_values, last_values)"
            raise self._wrong_result("evaluate", evaluated, wanted)
        return evaluated

    def _wrong_result(self, stage: str, result: object, wanted: str) -> TypeError:
        return TypeError(
            f"{type(self).__name__}.{stage} returned {type(result).__name__}: return {wanted}, or what "
            f"super().{stage}(rollout) returns"
        )

    @property
    def _estimates_as_sb3(self) -> bool:
        """Whether returns and advantages are those of SB3's rollout buffer."""
        own = type(self).estimate is not Estimating.estimate or "estimate" in vars(self)
        return not own and not self.reweights

    @property
    def unlearned(self) -> tuple[str, ...]:
        """Arrays of the rollout buffer that the algorithm does not learn from; writing into them is refused."""
        return () if self._estimates_as_sb3 else ("episode_starts",)

    def _has_graph(self, rollout: CollectedRollout) -> bool:
        base, (n_steps, n_envs) = Estimating, rollout.shape
        # Rollouts of whole episodes differ in length, and each length would need its own graph.
        short = n_steps == self.n_steps and n_steps <= MAX_EVALUATED_STEPS and n_steps * n_envs <= MAX_EVALUATED_ROWS
        own = type(self).evaluate is not base.evaluate or type(self).estimate is not base.estimate
        own |= not {"evaluate", "estimate"}.isdisjoint(vars(self))
        own |= rollout.memory is not None
        return short and rollout.complete and not own and not self.reads_distribution and not rollout.known_rows

    @property
    def reads_distribution(self) -> bool:
        """Whether the objective reads the distributions of the policy that acted."""
        return self.objective is not None and self.objective.reads_distribution

    def evaluate_and_present(
        self,
        rollout: CollectedRollout,
        buffer: RolloutView | CustomBuffer,
        dones: np.ndarray,
        watched_recorder: Recorder | None,
    ) -> Rollout:
        """Run stages 2 and 3 on the rows as callbacks have left them, and show the result in the rollout buffer."""
        if watched_recorder is not None:
            self._look()
        if isinstance(buffer, CustomBuffer):
            return buffer.estimated(self._evaluated(rollout), dones)
        as_sb3 = self._estimates_as_sb3 and rollout.complete
        estimate = None if as_sb3 else self._estimate_and_reweight
        # As in SB3, bootstrapped rewards are discounted by the model's γ, and all that follows by the buffer's γ and λ.
        changed = watched_recorder is not None and not watched_recorder.ends_as_started  # starts or ends of episodes
        own = as_sb3 and (changed or (buffer.gamma, buffer.gae_lambda) != (self.gamma, self.gae_lambda))
        if not (buffer.collected(rollout) or own):
            estimated = self.evaluate_and_estimate(rollout)
            buffer.show(estimated, self.gamma, estimate)
            return estimated
        evaluated = self._evaluated(rollout)
        buffer.show(evaluated, self.gamma, estimate)
        buffer.compute_returns_and_advantage(last_values=evaluated.last_values, dones=dones)
        return buffer.rollout(self.device)
