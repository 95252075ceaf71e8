"""Stage 1: step the environments, and keep what they return and what the policy did."""

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar
from weakref import WeakValueDictionary

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.utils import obs_as_tensor
from stable_baselines3.common.vec_env import VecEnv, VecFrameStack, is_vecenv_wrapped

from sb3_pgx.core.buffer_arrays import final_value
from sb3_pgx.core.custom_buffer import CustomBuffer
from sb3_pgx.core.deferred_values import StepEvaluation, may_change, may_read_locals
from sb3_pgx.core.policies import follow_parameters
from sb3_pgx.core.recorder import Recorder
from sb3_pgx.core.recurrent_evaluation import is_recurrent
from sb3_pgx.core.rollout import CollectedRollout, Memory, PolicyInputs, Rollout, map_tensors
from sb3_pgx.core.rollout_buffer import RolloutView
from sb3_pgx.core.spaces import environment_actions
from sb3_pgx.core.undo import Undo, attributes_of, undone_if_refused
from sb3_pgx.engine.behaviour_policy import BehaviourPolicy
from sb3_pgx.engine.layers import Modules
from sb3_pgx.engine.policy_graphs import CompiledPass
from sb3_pgx.environments.action_masks import ActionMasks
from sb3_pgx.environments.array_infos import ArrayInfos, JoinedInfos
from sb3_pgx.environments.carrying import carrying_adapter
from sb3_pgx.environments.vector_env import MIXED_FRAMES
from sb3_pgx.stages.acting_memory import acting_memory
from sb3_pgx.stages.action_sampler import ActionSampler
from sb3_pgx.stages.guard import GuardedEnvironments, naming_dead_workers
from sb3_pgx.stages.quotas import Quota, StepQuota, counted
from sb3_pgx.stages.saving import Saving
from sb3_pgx.stages.team import Team

HOST = th.device("cpu")  # where environments are
# Attributes that a rollout changes. Episodes of a refused rollout would bias the means that are logged.
_CHANGED_BY_ROLLOUTS = (
    "num_timesteps",
    "_current_progress_remaining",
    "ep_info_buffer",
    "ep_success_buffer",
    "_last_memory",
)
SAME_STEP_REMEDY = (
    "use an environment that resets in the same step, such as gymnasium.make_vec(id, N, 'sync', vector_kwargs="
    "{'autoreset_mode': gymnasium.vector.AutoresetMode.SAME_STEP})"
)


def to_device(tensor: th.Tensor, device: th.device) -> th.Tensor:
    """Return ``tensor.to(device)`` without the overhead of a call that changes nothing: it runs twice per step."""
    return tensor if tensor.device == device else tensor.to(device)


def _settle(evaluations: Mapping[int, StepEvaluation], rollout: Rollout) -> None:
    """Give the evaluations of steps, by row, their results from the evaluated rollout."""
    for t, evaluation in evaluations.items():
        evaluation.settle(rollout.values[t], rollout.log_prob[t])


class Collecting(Saving, OnPolicyAlgorithm):
    """
    The first stage of an algorithm. Subclasses may differ in :meth:`quota` and in what they keep in :meth:`after_step`.
    """

    refuses_gaps: ClassVar[str | None] = None  # reason why single rows of a rollout cannot be left out; None if they can
    last_rollout: Rollout = None  # type: ignore[assignment]  # that was collected last; None before the first one
    _last_memory: Memory | None = None  # states of a recurrent policy after the last rollout, [N, layers, H]
    _acting_pass: CompiledPass
    _modules: Modules
    use_masking = True  # whether to use the action masks of environments that have some; `learn` decides
    _masked_by_method = False  # whether the last training used masks that predict has to be given
    _action_masks: ActionMasks | None = None  # of the training environments; `learn` looks for them
    compiled: bool  # whether acting and gradient steps run compiled where they can; `learn` decides
    _undo: Undo

    def quota(self, env: VecEnv, n_steps: int) -> Quota:
        """Return when a rollout is complete: after a fixed number of steps, unless an algorithm differs."""
        return StepQuota(n_steps, env.num_envs)

    @property
    def unlearned(self) -> tuple[str, ...]:
        """Arrays of the rollout buffer that the algorithm does not learn from; writing into them is refused."""
        return ()

    @property
    def refuses_rows(self) -> str | None:
        """Reason why the algorithm cannot learn from rows that a caller adds to the buffer; ``None`` if it can."""
        return None

    @property
    def refuses_buffers(self) -> str | None:
        """Reason why the algorithm cannot learn from a custom buffer class; ``None`` if it can."""
        return None

    @property
    def refusal_of_rows(self) -> str | None:
        """Reason why rows that a caller adds to the buffer are refused, be it the algorithm's or the policy's."""
        recurrent = f"{type(self.policy).__name__} is recurrent, and such rows have no states"
        return recurrent if is_recurrent(self.policy) else self.refuses_rows

    def after_step(self, dones: np.ndarray, infos: list[dict[str, Any]]) -> None:
        """
        Keep more of a step than the rollout does. Called after each step of the environments, before callbacks are.

        :param dones: which episodes have ended, ``[N]``
        :param infos: as the environments returned them
        """

    def compile_acting(self, sampler: ActionSampler, inputs: PolicyInputs) -> None:
        """
        Compile acting, unless it is compiled.

        :param sampler: of the rollout's actions
        :param inputs: the first ones of the rollout
        """
        sampler.compile(self.policy, self._acting_pass, self._modules, inputs)

    @abstractmethod
    def evaluate_and_present(
        self,
        rollout: CollectedRollout,
        buffer: RolloutView | CustomBuffer,
        dones: np.ndarray,
        watched_recorder: Recorder | None,
    ) -> Rollout:
        """
        Evaluate and estimate a rollout that has been collected, and present it as the rollout buffer.

        :param rollout: the collected rollout
        :param buffer: the rollout buffer, which has followed it step by step
        :param dones: which episodes ended in the last row, ``[N]``
        :param watched_recorder: the rollout's recorder if callbacks may have changed rows or the policy, otherwise ``None``
        :return: what the update is to learn from
        """

    @undone_if_refused
    def collect_rollouts(
        self, env: VecEnv, callback: BaseCallback, rollout_buffer: RolloutBuffer, n_rollout_steps: int
    ) -> bool:
        """
        Stages 1 to 3: step the environments, evaluate the rollout, estimate, and present it as ``rollout_buffer``.

        :return: false if a callback stopped the training
        :raises ValueError: a reward or an observation is not finite, or an episode is malformed
        """
        assert self._last_obs is not None and self._last_episode_starts is not None, "learn() has not reset the environments"
        self._modules.train(self.policy, False)
        team = self.team
        quota = self.quota(env, n_rollout_steps)
        guarded = GuardedEnvironments(env, self._vec_normalize_env, self._n_updates, self._reset_later)
        self._undo.forget()
        self._undo.add(self._reset_later, guarded.put_back, attributes_of(self, *_CHANGED_BY_ROLLOUTS))
        if quota.needs_reset(self._last_episode_starts):
            self._last_obs, self._last_episode_starts = guarded.reset(), np.ones(env.num_envs, dtype=bool)
        recorder = Recorder(self.observation_space, self.action_space, env.num_envs, capacity=n_rollout_steps)
        buffer = self._attach_buffer(rollout_buffer, recorder)
        informed, watched = may_read_locals(callback), may_change(callback)
        evaluations: WeakValueDictionary[int, StepEvaluation] = WeakValueDictionary()  # that a callback may have kept
        carrying = carrying_adapter(env)
        n_steps, is_full = 0, False
        if self.use_sde:
            self._reset_noise(env, team)
        callback.on_rollout_start()
        snapshot: BehaviourPolicy | None = None
        buffer.follow_policy(self.policy)
        memory = acting_memory(self.policy, self._last_memory, env.num_envs, watched)
        own_buffer = isinstance(buffer, CustomBuffer)
        sampler = team.taken_actions(self) or ActionSampler(
            env.num_envs, self._n_updates, watched, evaluates=own_buffer, memory=memory, team=team
        )
        self._look()

        while not is_full:
            self._renew_noise(env, n_steps, team)
            row = recorder.observe(self._last_obs)
            resetting = None if carrying is None else carrying.resetting  # rows of which this step will be no experience
            action_masks = self._masks_of_step(n_steps, resetting)
            obs_tensor = self._as_tensor(row)
            inputs = PolicyInputs(obs_tensor, None if action_masks is None else self._as_tensor(action_masks))
            if n_steps == 0:
                snapshot = self._ready_to_act(sampler, inputs, watched)
            # Compute the action alone, unless the policy overrides forward.
            action_tensor, values, log_probs = sampler(self.policy, inputs, self._last_episode_starts)
            actions = to_device(action_tensor, HOST).numpy()
            clipped_actions = environment_actions(actions, self.policy, self.action_space)
            evaluation = StepEvaluation(self.policy, row, actions, action_masks) if watched and values is None else None
            if evaluation is not None:
                evaluations[n_steps], (values, log_probs) = evaluation, evaluation.deferred
            # As in SB3, a callback may write into what was acted on.
            before = self._last_obs = self._last_obs if recorder.shifts else row
            new_obs, rewards, dones, infos = guarded.step(clipped_actions, n_steps)

            self.num_timesteps += team.size * (env.num_envs if resetting is None else int((~resetting).sum()))
            if informed:
                callback.update_locals(locals())
            ends = dones if resetting is None else dones | resetting
            try:
                self.after_step(ends, infos)
                continues = callback.on_step()
                observed, episode_starts = self._last_obs, self._last_episode_starts  # a callback may have replaced them
            finally:
                # Whatever was raised, the next rollout starts from where the environments are.
                self._last_obs, self._last_episode_starts = new_obs, ends
            if not continues:
                self._stop(evaluations.values())
                return False

            if observed is not before:
                row = recorder.observe(observed)
            recorder.mask(action_masks)
            valid = quota.contributing() if resetting is None else quota.contributing() & ~resetting
            self._update_info_buffer(*counted(infos, dones, quota))
            given = (values, log_probs) if evaluation is None else evaluation.to_keep(row, actions)
            if isinstance(self.action_space, spaces.Discrete):
                actions = actions.reshape(-1, 1)  # which SB3's callbacks find at on_rollout_end
            recorder.add(actions, rewards, ends, infos, valid, episode_starts, env, given)
            sampler.value_finals(self.policy, recorder)
            if snapshot is not None and snapshot.has_changed(self.policy):
                sampler.check_follows_changes()
                self._evaluate_before_change(snapshot, recorder)
                snapshot = BehaviourPolicy(self.policy)
                buffer.follow_policy(self.policy)
            buffer.recorded()
            is_full = quota.count(dones, valid)
            n_steps += 1

        collected = recorder.rollout(new_obs, self.device)
        collected.memory = sampler.memory_before()
        rollout = self.last_rollout = self.evaluate_and_present(collected, buffer, ends, recorder if watched else None)
        del collected  # the callback's locals would keep its tensors
        self._last_memory = sampler.memory_after(rollout)
        _settle(evaluations, rollout)
        if informed:
            values, log_probs = rollout.last_values[:, None], rollout.log_prob[-1]
            callback.update_locals(locals())
        callback.on_rollout_end()
        return True

    def _ready_to_act(self, sampler: ActionSampler, inputs: PolicyInputs, watched: bool) -> BehaviourPolicy | None:
        """
        Compile acting in a compiled run. Return the policy that acts if a callback may change it; compiling must be over then,
        because it writes the parameters, as they are.
        """
        if self.compiled:
            self.compile_acting(sampler, inputs)
        return BehaviourPolicy(self.policy) if watched else None

    def _attach_buffer(self, buffer: RolloutBuffer, recorder: Recorder) -> RolloutView | CustomBuffer:
        """Reset the rollout buffer and connect it to the recorder."""
        followed = buffer if isinstance(buffer, RolloutView) else CustomBuffer(buffer)
        gaps = carrying_adapter(self.env)
        if gaps is not None:
            own_buffer = "a rollout buffer of your own learns from every row"
            stacked = is_vecenv_wrapped(self.env, VecFrameStack)  # type: ignore[arg-type]
            reason = own_buffer if isinstance(followed, CustomBuffer) else MIXED_FRAMES if stacked else self.refuses_gaps
            if reason is not None:
                raise gaps.refusal(reason, SAME_STEP_REMEDY)
        if isinstance(followed, CustomBuffer):
            self.refuse_buffer(type(buffer), "rollout_buffer")
        else:
            followed.refuses_rows, followed.unlearned = self.refusal_of_rows, self.unlearned
        followed.follow(recorder, self.policy, self.gamma)
        return followed

    def refuse_buffer(self, buffer_class: type, name: str) -> None:
        """:raises ValueError: the algorithm cannot learn from a buffer of this class"""
        recurrent = f"{self.policy_class.__name__} needs the states of its sequences"
        reason = recurrent if is_recurrent(self.policy_class) else self.refuses_buffers
        if reason is not None:
            given = getattr(buffer_class, "__name__", buffer_class)
            raise ValueError(f"{reason}, which {name}={given} cannot keep: leave {name} as it was.")

    def _stop(self, evaluations: Iterable[StepEvaluation]) -> None:
        """
        Leave a rollout that a callback has stopped: keep its steps, and compute what the callback still holds. The states of a
        recurrent critic are not known in the middle of a rollout, so the next one begins with new episodes.
        """
        for evaluation in evaluations:
            evaluation.computed()  # by the policy that acted
        if is_recurrent(self.policy):
            self._reset_later()
        self._undo.forget()

    def _evaluate_before_change(self, behaviour: BehaviourPolicy, recorder: Recorder) -> None:
        """Evaluate the rows so far by the policy that acted in them, because a callback has changed it."""
        with behaviour.restored() as possible:
            if not possible:
                return
            for t in range(recorder.size):
                if t not in recorder.known_rows:
                    observations = map_tensors(lambda x, t=t: x[t], recorder.observations)
                    values, log_prob = StepEvaluation(
                        behaviour.policy, observations, recorder.actions[t], recorder.masks_in(t)
                    ).computed()
                    recorder.known_rows[t] = values.flatten(), log_prob.flatten()
            # SB3 evaluates final observations after on_step: those of the newest row belong to the changed policy.
            for place, observation in enumerate(recorder.finals_before(recorder.size - 1)):
                if place not in recorder.known_finals:
                    recorder.known_finals[place] = final_value(behaviour.policy, observation)

    def _update_info_buffer(self, infos: Sequence[dict[str, Any]], dones: np.ndarray | None = None) -> None:
        if type(infos) is not list and isinstance(infos, ArrayInfos | JoinedInfos):
            told = list(infos.ended)
        else:
            told = [i for i, info in enumerate(infos) if "episode" in info or "is_success" in info]
        if told:
            # An environment may use the dictionary of an episode again in its next step.
            kept = [{**infos[i], "episode": dict(infos[i]["episode"])} if infos[i].get("episode") else infos[i] for i in told]
            super()._update_info_buffer(kept, None if dones is None else np.asarray(dones)[told])

    def _look(self) -> None:
        """Check whether a callback has replaced layers of the policy, and put new ones into evaluation mode."""
        before = self._modules.version
        if self._look_at_policy() != before:
            self._modules.train(self.policy, False)

    def _look_at_policy(self, start: bool = False) -> int:
        """Compare the policy's layers with those seen last, and return their version; see :meth:`Modules.look`."""
        before = self._modules.parameters
        version = self._modules.look(self.policy, start)
        if self._modules.parameters is not before:
            follow_parameters(self.policy.optimizer, before, self.policy)
        return version

    def _as_tensor(self, observations: Any) -> Any:
        if isinstance(observations, np.ndarray):
            return to_device(th.from_numpy(observations), self.device)  # what SB3's function does, in a fifth of the time
        return obs_as_tensor(observations, self.device)

    def _masks_of_step(self, step: int, resetting: np.ndarray | None) -> np.ndarray | None:
        """Return which actions are valid, ``[N, M]``. Environments that the step only resets may have no valid action."""
        if self._action_masks is None:
            return None
        try:
            return self._action_masks(self._last_obs, step, resetting)
        except (EOFError, ConnectionError):
            with naming_dead_workers(self._action_masks.env):
                raise

    def _renew_noise(self, env: VecEnv, n_steps: int, team: Team) -> None:
        if self.use_sde and self.sde_sample_freq > 0 and n_steps % self.sde_sample_freq == 0:
            self._reset_noise(env, team)

    def _reset_noise(self, env: VecEnv, team: Team) -> None:
        with th.no_grad():
            team.reset_noise(self.policy, env.num_envs)

    def _reset_later(self) -> None:
        """Make the next ``learn`` start by resetting the environments."""
        self._last_obs = None
