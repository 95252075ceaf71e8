"""The pipeline: collect, evaluate, estimate, update, report. An algorithm fills in three of the stages."""

import copy
import sys
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar, TypeVar
from weakref import WeakValueDictionary

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import (
    ActorCriticCnnPolicy,
    ActorCriticPolicy,
    BasePolicy,
    MultiInputActorCriticPolicy,
)
from stable_baselines3.common.save_util import recursive_getattr
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback
from stable_baselines3.common.utils import explained_variance, obs_as_tensor
from stable_baselines3.common.vec_env import VecEnv

from sb3_pgx.core.arguments import (
    as_timesteps,
    check_device,
    check_environment,
    check_learn,
    check_mapping,
    check_policy,
    check_policy_kwargs,
    check_sb3s_arguments,
    check_spaces,
    check_verbose,
)
from sb3_pgx.core.checks import (
    FiniteGuard,
    as_arrays,
    as_flag,
    check_positive_or_none,
    check_unit_interval,
    naming_dead_workers,
    without_arrays,
)
from sb3_pgx.core.controllers import KLAdaptiveLearningRate, adapted_scale
from sb3_pgx.core.deferred_values import ActingPolicy, StepEvaluation, may_read_locals
from sb3_pgx.core.distributions import release_graph
from sb3_pgx.core.errors import warn
from sb3_pgx.core.files import saving
from sb3_pgx.core.policies import follow_parameters, mean_std, policy_class_for
from sb3_pgx.core.rollout import Batch, Rollout, map_tensors
from sb3_pgx.core.rollout_buffer import (
    DictRolloutView,
    FedBuffer,
    RolloutView,
    batches,
    final_value,
    is_users_own,
    rollout_of,
    to_numpy,
)
from sb3_pgx.core.schedules import Coefficient, as_schedule, evaluate_coefficient
from sb3_pgx.core.spaces import environment_actions, within, zero_based
from sb3_pgx.core.undo import Undo, attributes_of, numbers_of, options_of, tensors_of, undone_if_refused
from sb3_pgx.engine import Follower, GradientSteps, Objective, Plan, Update
from sb3_pgx.engine.compiler import COMPILE_AFTER, check_compile
from sb3_pgx.engine.layers import Modules
from sb3_pgx.engine.policy_graphs import MAX_EVALUATED_ROWS, MAX_EVALUATED_STEPS, acting_pass, evaluation_pass
from sb3_pgx.ops.returns import gae
from sb3_pgx.stages.acting import Acting
from sb3_pgx.stages.collect import HOST, Quota, Recorder, StepQuota, counted, moved
from sb3_pgx.stages.evaluate import evaluate_by_graph, evaluate_rollout, evaluate_rows
from sb3_pgx.stages.report import Metrics, notify, notify_of_error, read

SelfAlgorithm = TypeVar("SelfAlgorithm", bound="PolicyGradientAlgorithm")

ACTION_SPACES = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)


# By collection and `learn`. Episodes of a refused rollout would spoil the means that are logged.
_CHANGED_BY_ROLLOUTS = ("num_timesteps", "_current_progress_remaining", "ep_info_buffer", "ep_success_buffer")
_NOT_SAVED = (
    "_steps",
    "_modules",
    "_metrics",
    "_acting",
    "_evaluation",
    "_compiled",
    "_undo",
    "keeps_distribution",
)


class PolicyGradientAlgorithm(OnPolicyAlgorithm):
    """
    Base of all algorithms: SB3's ``OnPolicyAlgorithm`` in five stages.

    1. *collect* steps the environments; acting computes the action alone.
    2. *evaluate* is one batched pass: values, log-probabilities, bootstraps.
    3. *estimate*: returns and advantages, by GAE unless the algorithm differs.
    4. *update* (the algorithm's): gradient steps; returns what it measured.
    5. *report* logs, and calls ``on_update_end(metrics)`` on callbacks that define it (``on_training_error(error)`` likewise).

    Callbacks and subclasses find what they know from SB3: ``rollout_buffer`` fills step by step, and what stands in it when
    ``train`` starts is what is learned from (:class:`~sb3_pgx.core.rollout_buffer.RolloutView`). ``values`` and
    ``log_probs`` among the locals of ``on_step`` are computed when they are first read. One difference: the last row of the
    log has the last update, which SB3 does not log.

    A rollout that is refused, in any stage, changes nothing: see :meth:`learn`.

    Arguments are SB3's; ``learning_rate`` and every coefficient also take a string such as ``"lin_0.01"``.
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": ActorCriticPolicy,
        "CnnPolicy": ActorCriticCnnPolicy,
        "MultiInputPolicy": MultiInputActorCriticPolicy,
    }
    n_gradient_steps = 0  # taken so far
    learning_rate: Coefficient  # type: ignore[assignment]
    _rollout: Rollout = None  # type: ignore[assignment]  # that was collected last; None before the first one
    _metrics: dict[str, float]  # of the last update
    keeps_distribution = False  # whether rollouts keep the action distributions for whoever looks at them

    objective: ClassVar[Objective | None] = None  # of an algorithm that steps through minibatches with `gradient_steps`
    takes_one_step = False  # whether an update is one step of the objective, which is taken as a whole or not at all

    def __init__(
        self, policy: str | type[ActorCriticPolicy], env: GymEnv | str | None, compile: bool | str = "auto", **kwargs: Any
    ):
        check_compile(compile)
        check_policy(policy, self.policy_aliases)
        check_device(kwargs.get("device", "auto"))
        check_mapping(policy_kwargs=kwargs.get("policy_kwargs"), rollout_buffer_kwargs=kwargs.get("rollout_buffer_kwargs"))
        check_verbose(kwargs.get("verbose", 0))
        as_flag("use_sde", kwargs.get("use_sde", False))
        self.compile = compile
        super().__init__(
            policy,
            env,  # type: ignore[arg-type]
            **{**kwargs, "policy_kwargs": dict(kwargs.get("policy_kwargs") or {})},
            supported_action_spaces=ACTION_SPACES,
            _init_setup_model=False,
        )
        self.policy_class = policy_class_for(self.policy_class, self.policy_kwargs)

    @staticmethod
    def _wrap_env(env: GymEnv, verbose: int = 0, monitor_wrapper: bool = True) -> VecEnv:
        check_environment(env)
        return OnPolicyAlgorithm._wrap_env(env, verbose, monitor_wrapper)

    # ------------------------------------------------------------------------------------------------ what differs

    def evaluate(self, rollout: Rollout) -> None:
        """Stage 2: fill in values, log-probabilities and bootstraps."""
        # If acting has given the values, it would take one more pass.
        keep = self._reads_distribution or (self.keeps_distribution and not rollout.given)
        evaluate_rollout(self.policy, rollout, keep)
        if not self._reads_distribution:
            rollout.acted, rollout.distribution = rollout.distribution, None

    def estimate(self, rollout: Rollout) -> None:
        """Stage 3: fill in ``advantages`` and ``returns``; generalised advantage estimates unless an algorithm differs."""
        rollout.advantages = gae(
            rollout.rewards,
            rollout.values,
            rollout.next_values,
            rollout.ends,
            self.gamma,
            self.gae_lambda,
            None if rollout.complete else rollout.valid,
        )
        rollout.returns = rollout.advantages + rollout.values

    def evaluate_and_estimate(self, rollout: Rollout) -> None:
        """Both stages, for a short rollout by one graph, unless a class has one of them of its own."""
        if self._compiled and self._has_graph(rollout):
            arguments = (self.policy, rollout, self._evaluation, self._modules, self.gamma, self.gae_lambda)
            if evaluate_by_graph(*arguments):
                self.weigh(rollout)
                return
        self.evaluate(rollout)
        self._estimate_and_weigh(rollout)

    def weigh(self, rollout: Rollout) -> None:
        """Change the advantages after any estimate, also that of a subclass, if the algorithm ``weighs`` its rows."""

    @property
    def weighs(self) -> bool:
        """Whether :meth:`weigh` does anything."""
        return False

    def _estimate_and_weigh(self, rollout: Rollout) -> None:
        self.estimate(rollout)
        self.weigh(rollout)

    @property
    def _estimates_as_sb3(self) -> bool:
        """Whether returns and advantages are those of SB3's rollout buffer."""
        own = type(self).estimate is not PolicyGradientAlgorithm.estimate or "estimate" in vars(self)
        return not own and not self.weighs

    @property
    def refuses_rows(self) -> str | None:
        """Why the algorithm cannot learn from rows that a caller adds to the buffer, in one sentence; ``None``: it can."""
        return None

    @property
    def refuses_buffers(self) -> str | None:
        """Why the algorithm cannot learn from a buffer class of the user's own, in one sentence; ``None``: it can."""
        return None

    @property
    def unlearned(self) -> tuple[str, ...]:
        """Arrays of the rollout buffer that are not learned from; writing into them is refused."""
        return () if self._estimates_as_sb3 else ("episode_starts",)

    def _has_graph(self, rollout: Rollout) -> bool:
        base, (n_steps, n_envs) = PolicyGradientAlgorithm, rollout.shape
        # Rollouts of whole episodes differ in length: each would need a graph of its own.
        short = n_steps == self.n_steps and n_steps <= MAX_EVALUATED_STEPS and n_steps * n_envs <= MAX_EVALUATED_ROWS
        own = type(self).evaluate is not base.evaluate or type(self).estimate is not base.estimate
        own |= not {"evaluate", "estimate"}.isdisjoint(vars(self))
        return short and not own and not self._reads_distribution and not rollout.given

    @property
    def _reads_distribution(self) -> bool:
        return self.objective is not None and self.objective.reads_distribution

    @abstractmethod
    def update(self, rollout: Rollout) -> Metrics:
        """Stage 4: change the policy; return what to log, keys without the ``train/`` prefix."""

    def quota(self, env: VecEnv, n_steps: int) -> Quota:
        """When a rollout is complete."""
        return StepQuota(n_steps, env.num_envs)

    def check_arguments(self) -> None:
        """
        Called with the final arguments and environment, before anything is built; loading calls it, too.

        :raises ValueError: an argument makes no sense
        """
        check_sb3s_arguments(self)
        check_policy_kwargs(self.policy_class, self.policy_kwargs)
        check_spaces(self.policy_class, self.policy_kwargs, self.observation_space, self.action_space)
        self.use_sde = as_flag("use_sde", self.use_sde)
        check_unit_interval(gamma=self.gamma, gae_lambda=self.gae_lambda)
        check_positive_or_none("turns clipping off", max_grad_norm=self.max_grad_norm)
        self.coefficient("learning_rate")
        if is_users_own(self.rollout_buffer_class):
            self._refuse_buffer(self.rollout_buffer_class, "rollout_buffer_class")  # type: ignore[arg-type]

    def planned_gradient_steps(self, timesteps: int) -> int:
        """How many steps of the algorithm's ``objective`` so many environment steps lead to, for ``compile="auto"``."""
        return 0

    # ------------------------------------------------------------------------------------------------ set up

    def _setup_lr_schedule(self) -> None:
        if isinstance(self.learning_rate, KLAdaptiveLearningRate):
            if self.objective is None or self.objective.distance is None:
                raise ValueError(
                    f"{type(self).__name__} takes one step a rollout, at no distance from the policy that acted: its "
                    "learning_rate cannot adapt to the KL divergence. Use PPO or PPOPenalty, or a schedule."
                )
            self.learning_rate = copy.copy(self.learning_rate)  # two models must not share one
        self.lr_schedule = as_schedule(self.learning_rate, "learning_rate")
        self._scheduled_learning_rate = self.learning_rate

    def _update_learning_rate(self, optimizers: Any) -> None:
        if self.learning_rate is not self._scheduled_learning_rate:  # somebody has set it
            self._setup_lr_schedule()
        evaluate_coefficient(self.lr_schedule, self._current_progress_remaining, "learning_rate")
        super()._update_learning_rate(optimizers)

    def _setup_model(self) -> None:
        if self.env is None and not hasattr(self, "observation_space"):
            raise ValueError(f"env=None: {type(self).__name__} needs an environment to know what its policy acts on")
        vars(self).update(without_arrays(vars(self)))
        self.check_arguments()
        if not is_users_own(self.rollout_buffer_class):
            self.rollout_buffer_class = None  # SB3 takes the one of its two that fits the observations
        super()._setup_model()
        release_graph(self.policy)
        self._compiled, self._metrics = False, {}
        self._undo = Undo()
        self._modules = Modules()
        self._modules.look(self.policy)
        self._acting = acting_pass(self.observation_space, self._tell)
        self._evaluation = evaluation_pass(self.observation_space, self._tell)
        if self.objective is not None:
            self._steps = GradientSteps(self.objective, self._tell)
        if not is_users_own(self.rollout_buffer_class):
            view: Any = DictRolloutView if isinstance(self.observation_space, spaces.Dict) else RolloutView
            made = view(
                self.n_steps, self.observation_space, self.action_space, self.device, self.gae_lambda, self.gamma, self.n_envs
            )
            made.refuses_rows, made.unlearned = self.refuses_rows, self.unlearned
            self.rollout_buffer = made

    def _maybe_recommend_cpu(self, mlp_class_name: str = "ActorCriticPolicy") -> None:
        # SB3 knows its MlpPolicy by the class's name, and ours have names of their own.
        name = self.policy_class.__name__
        super()._maybe_recommend_cpu(name if name in ("ActorPolicy", "GaussianStdPolicy") else mlp_class_name)

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "_rollout", "_scheduled_learning_rate", *_NOT_SAVED]

    def save(self, path: Any, exclude: Iterable[str] | None = None, include: Iterable[str] | None = None) -> None:
        """
        As SB3's. A file that is there already is replaced in one step by a complete one. A learning rate given as a string is
        saved as the schedule that it stands for, which SB3 can load.

        :raises OSError: the file cannot be written; one sentence that names the path
        """
        given = self.learning_rate
        if isinstance(given, str):
            self.learning_rate = self.lr_schedule
        try:
            with saving(path, "zip") as file:
                super().save(file, exclude, include)
        finally:
            self.learning_rate = given

    @classmethod
    def load(
        cls: type[SelfAlgorithm],
        path: Any,
        env: Any = None,
        device: th.device | str = "auto",
        custom_objects: dict[str, Any] | None = None,
        print_system_info: bool = False,
        force_reset: bool = True,
        **kwargs: Any,
    ) -> SelfAlgorithm:
        """
        As SB3's. This unpickles parts of the file, which runs whatever code its author put there: load only files of people
        you trust.

        To read the parameters of anybody else's file, construct the model yourself and call ``model.set_parameters(path)``.
        It reads tensors alone, with torch's ``weights_only``, and runs none of the file's code.
        """
        return super().load(path, env, device, custom_objects, print_system_info, force_reset, **kwargs)

    def coefficient(self, name: str) -> float:
        """
        Value of a coefficient now, from whatever the attribute holds: a number, a schedule or a string.

        :raises ValueError: it is negative, not finite, or no coefficient
        """
        return evaluate_coefficient(getattr(self, name), self._current_progress_remaining, name)

    # ------------------------------------------------------------------------------------------------ the stages

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
        quota = self.quota(env, n_rollout_steps)
        guard = FiniteGuard(env, self._vec_normalize_env, self._n_updates)
        self._undo.forget()
        self._undo.add(self._reset_later, guard.put_back, attributes_of(self, *_CHANGED_BY_ROLLOUTS))
        self._start_whole_episodes(env, quota, guard)
        recorder = Recorder(self.observation_space, self.action_space, env.num_envs, capacity=n_rollout_steps)
        buffer = self._following(rollout_buffer, recorder)
        watched = may_read_locals(callback)
        evaluations: WeakValueDictionary[int, StepEvaluation] = WeakValueDictionary()  # that a callback may have kept
        n_steps, complete = 0, False
        if self.use_sde:
            self._reset_noise(env)
        callback.on_rollout_start()
        acting = ActingPolicy(self.policy) if watched else None
        buffer.follow_policy(self.policy)
        act = Acting(env.num_envs, self._n_updates, watched, evaluates=isinstance(buffer, FedBuffer))
        self._look()
        if self._compiled:
            act.compile(self.policy, self._acting, self._modules, self._as_tensor(recorder.observe(self._last_obs)))

        while not complete:
            self._renew_noise(env, n_steps)
            row = recorder.observe(self._last_obs)
            obs_tensor = self._as_tensor(row)
            # The action alone, unless the policy acts through a forward of its own
            action_tensor, values, log_probs = act(self.policy, obs_tensor)
            actions = moved(action_tensor, HOST).numpy()
            clipped_actions = environment_actions(actions, self.policy, self.action_space)
            evaluation = StepEvaluation(self.policy, row, actions) if watched and values is None else None
            if evaluation is not None:
                evaluations[n_steps], (values, log_probs) = evaluation, evaluation.deferred
            if not recorder.shifts:
                self._last_obs = row  # what a callback writes into it is kept, as by SB3
            before = self._last_obs
            new_obs, rewards, dones, infos = self._step(env, clipped_actions, guard, n_steps)

            self.num_timesteps += env.num_envs
            if watched:
                callback.update_locals(locals())
            try:
                continues = callback.on_step()
                observed, episode_starts = self._last_obs, self._last_episode_starts  # as the callback has left them
            finally:
                # Whatever the callback did, the next rollout starts from where the environments are.
                self._last_obs, self._last_episode_starts = new_obs, dones
            if not continues:
                self._stop(evaluations.values())
                return False

            if observed is not before:
                recorder.observe(observed)
            valid = quota.contributing()
            self._update_info_buffer(*counted(infos, dones, quota))
            given = (values, log_probs) if evaluation is None else evaluation.to_keep(row, actions)
            if isinstance(self.action_space, spaces.Discrete):
                actions = actions.reshape(-1, 1)  # which SB3's callbacks find at on_rollout_end
            recorder.add(actions, rewards, dones, infos, valid, episode_starts, env, given)
            if acting is not None and acting.has_changed(self.policy):
                self._evaluate_before_change(acting, recorder)
                acting = ActingPolicy(self.policy)
                buffer.follow_policy(self.policy)
            buffer.recorded()
            complete = quota.count(dones)
            n_steps += 1

        rollout = self._rollout = recorder.rollout(new_obs, self.device)
        self._complete(rollout, buffer, dones, recorder if watched else None)
        for t, kept in evaluations.items():
            kept.settle(rollout.values[t], rollout.log_prob[t])
        values, log_probs = rollout.last_values[:, None], rollout.log_prob[-1]
        callback.update_locals(locals())
        callback.on_rollout_end()
        return True

    def _stop(self, evaluations: Iterable[StepEvaluation]) -> None:
        """Leave a rollout that a callback has stopped: its steps were done, and what the callback has kept is computed."""
        for evaluation in evaluations:
            evaluation.computed()  # by the policy that acted
        self._undo.forget()

    def _following(self, buffer: RolloutBuffer, recorder: Recorder) -> RolloutView | FedBuffer:
        """The buffer, empty, as it will follow the rows of a recorder."""
        followed = buffer if isinstance(buffer, RolloutView) else FedBuffer(buffer)
        if isinstance(followed, FedBuffer):
            self._refuse_buffer(type(buffer), "rollout_buffer")
        else:
            followed.refuses_rows, followed.unlearned = self.refuses_rows, self.unlearned
        followed.follow(recorder, self.policy, self.gamma)
        return followed

    def _evaluate_before_change(self, acting: ActingPolicy, recorder: Recorder) -> None:
        """Evaluate the rows so far by the policy that acted in them, which a callback has changed."""
        with acting.as_it_acted() as possible:
            if not possible:
                return
            for t in range(recorder.size):
                if t not in recorder.given:
                    observations = map_tensors(lambda x, t=t: x[t], recorder.observations)
                    values, log_prob = StepEvaluation(acting.policy, observations, recorder.actions[t]).computed()
                    recorder.given[t] = values.flatten(), log_prob.flatten()
            # SB3 evaluates final observations after on_step: those of the newest row belong to the changed policy.
            for place, observation in enumerate(recorder.finals_before(recorder.size - 1)):
                if place not in recorder.given_finals:
                    recorder.given_finals[place] = final_value(acting.policy, observation)

    def _complete(
        self, rollout: Rollout, buffer: RolloutView | FedBuffer, dones: np.ndarray, watched: Recorder | None
    ) -> None:
        """Stages 2 and 3, from what callbacks, if there are any, have made of the ``watched`` rows and of the policy."""
        if watched is not None:
            self._look()
        if isinstance(buffer, FedBuffer):
            self.evaluate(rollout)
            buffer.users.compute_returns_and_advantage(last_values=rollout.last_values, dones=dones)
            return
        as_sb3 = self._estimates_as_sb3 and rollout.complete
        estimate = None if as_sb3 else self._estimate_and_weigh
        # As in SB3, bootstrapped rewards are discounted by the model's γ, and all that follows by the buffer's γ and λ.
        changed = watched is not None and not watched.ends_as_started  # starts or ends of episodes
        own = as_sb3 and (changed or (buffer.gamma, buffer.gae_lambda) != (self.gamma, self.gae_lambda))
        if not (buffer.collected(rollout) or own):
            self.evaluate_and_estimate(rollout)
            buffer.show(rollout, self.gamma, estimate)
            return
        self.evaluate(rollout)
        buffer.show(rollout, self.gamma, estimate)
        buffer.compute_returns_and_advantage(last_values=rollout.last_values, dones=dones)
        buffer.rollout(self.device)

    def _update_info_buffer(self, infos: list[dict[str, Any]], dones: np.ndarray | None = None) -> None:
        if any("episode" in info for info in infos):  # which an environment may use again in its next step
            infos = [{**info, "episode": dict(info["episode"])} if "episode" in info else info for info in infos]
        super()._update_info_buffer(infos, dones)

    def predict(
        self,
        observation: np.ndarray | dict[str, np.ndarray],
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
        """
        As SB3's, for all of the spaces: choices count from the space's ``start``, and actions of an integer Box are whole
        numbers. ``policy.predict``, and SB3 itself from the same file, count from 0.

        :param observation: of one environment or of several
        :param state: unused, as in SB3
        :param episode_start: unused, as in SB3
        :param deterministic: the most probable action instead of a sample
        :return: the action or actions, and ``state``
        """
        observation = zero_based(observation, self.observation_space)
        actions, state = super().predict(observation, state, episode_start, deterministic)
        return within(actions, self.action_space), state

    def _setup_learn(self, *args: Any, **kwargs: Any) -> tuple[int, BaseCallback]:
        assert self.env is not None
        guard = FiniteGuard(self.env, self._vec_normalize_env, self._n_updates)
        with naming_dead_workers(self.env):
            result = super()._setup_learn(*args, **kwargs)
        self._check_start(guard)
        self._look_at_policy(start=True)
        self._decide_on_compiling(result[0])
        return result

    def _decide_on_compiling(self, total_timesteps: int) -> None:
        if self.compile == "auto":
            remaining = min(total_timesteps, sys.maxsize) - self.num_timesteps  # it may be infinite
            planned = self.planned_gradient_steps(remaining)
            self._compiled = self._compiled or self.n_gradient_steps + planned > COMPILE_AFTER
        else:
            self._compiled = bool(self.compile)

    def _tell(self, sentence: str) -> None:
        if self.compile is True and "uncompiled" in sentence:
            warn(f"compile=True: {sentence}")
        self.logger.info(sentence)

    def _start_whole_episodes(self, env: VecEnv, quota: Quota, guard: FiniteGuard) -> None:
        if quota.whole_episodes and not np.all(self._last_episode_starts):
            with naming_dead_workers(env):
                self._last_obs = env.reset()  # type: ignore[assignment]
            self._last_episode_starts = np.ones(env.num_envs, dtype=bool)
            self._check_start(guard)

    def _check_start(self, guard: FiniteGuard) -> None:
        """What ``reset`` returned; after an error, the next ``learn`` resets once more."""
        try:
            self._last_obs = as_arrays(self._last_obs)
            guard.check(self._last_obs)
        except (TypeError, ValueError):
            self._last_obs = None
            raise

    def _look(self) -> None:
        """During a rollout: a callback may have changed the policy, and what is new in it has to be in evaluation mode."""
        before = self._modules.version
        if self._look_at_policy() != before:
            self._modules.train(self.policy, False)

    def _look_at_policy(self, start: bool = False) -> int:
        """What the policy's layers are now; see :meth:`~sb3_pgx.engine.layers.Modules.look`."""
        before = self._modules.parameters
        version = self._modules.look(self.policy, start)
        if self._modules.parameters is not before:
            follow_parameters(self.policy.optimizer, before, self.policy)
        return version

    def _as_tensor(self, observations: Any) -> Any:
        if isinstance(observations, np.ndarray):
            return moved(th.from_numpy(observations), self.device)  # what SB3's function does, in a fifth of the time
        return obs_as_tensor(observations, self.device)

    def _renew_noise(self, env: VecEnv, n_steps: int) -> None:
        if self.use_sde and self.sde_sample_freq > 0 and n_steps % self.sde_sample_freq == 0:
            self._reset_noise(env)

    def _reset_noise(self, env: VecEnv) -> None:
        with th.no_grad():
            self.policy.reset_noise(env.num_envs)

    def _step(self, env: VecEnv, actions: np.ndarray, guard: FiniteGuard, step: int) -> Any:
        """Step the environments; after an error, the next ``learn`` starts by resetting them."""
        try:
            new_obs, rewards, dones, infos = env.step(actions)
            new_obs, rewards = as_arrays(new_obs), as_arrays(rewards)
            guard.check(new_obs, rewards, step)
            dones = np.array(as_arrays(dones), dtype=bool)  # a copy, of what may be numbers
        except BaseException:
            self._last_obs = None
            with naming_dead_workers(env):
                raise
        return new_obs, rewards, dones, infos

    def _reset_later(self) -> None:
        """The next ``learn`` starts by resetting the environments."""
        self._last_obs = None

    def follower(self) -> Follower | None:
        """A second policy, which follows the one that is trained as the objective says."""
        return None

    @contextmanager
    def gradient_steps(
        self, coefficients: Any, rows: int, max_distance: float | None = None, one_by_one: bool = False
    ) -> Iterator[Update]:
        """
        Steps on the algorithm's ``objective``; see :class:`~sb3_pgx.engine.Update`.

        :param coefficients: a named tuple, as :class:`~sb3_pgx.engine.Plan` wants it
        :param rows: of a minibatch; smaller ones are never compiled
        :param max_distance: of the policy from the one that acted; beyond it, no more steps are taken
        :param one_by_one: whether each step counts as an update, of which there are few
        """
        controller = self.learning_rate if isinstance(self.learning_rate, KLAdaptiveLearningRate) else None
        adapt, numbers = (None, ()) if controller is None else (adapted_scale, controller.numbers)
        plan = Plan(coefficients, self.max_grad_norm, rows, max_distance, adapt, numbers, one_by_one)
        version, follower = self._modules.version, self.follower()
        others = (version, follower, self._keep_parameters) if self.takes_one_step else (version, follower)
        with self._steps.update(self.policy, plan, self._compiled, self._n_updates, *others) as update:
            try:
                yield update
            finally:
                self.n_gradient_steps += update.taken
                if controller is not None:
                    controller.scaled(update.scale)

    def minibatches(self, rollout: Rollout, batch_size: int | None) -> Iterator[Batch]:
        """
        The rollout's rows in a random order, drawn as SB3 draws it, or what the user's own buffer class yields.

        :param rollout: estimated
        :param batch_size: rows a batch; ``None``: all in one
        """
        if not isinstance(self.rollout_buffer, RolloutView):
            yield from batches(self.rollout_buffer, batch_size)
            return
        if batch_size is None:
            np.random.permutation(rollout.n_valid)  # as SB3 does, even where all rows are one batch
            yield rollout.rows(None if rollout.complete else rollout.valid_rows())
        else:
            rows = rollout.valid_rows()
            order = th.as_tensor(np.random.permutation(len(rows)), device=rows.device)
            yield from rollout.rows(rows[order]).split(batch_size)

    def spread(self) -> Metrics:
        """``std`` as SB3 logs it, where the policy has one; with our own options, the mean over the last observations."""
        if not isinstance(self.action_space, spaces.Box) or self._rollout is None:
            return {}
        std = mean_std(self.policy, self._rollout.last_observations)
        return {} if std is None else {"std": std}

    def explained_variance(self) -> float:
        """Return 1 − Var(returns − values) / Var(returns), of the values before the update."""
        ours = isinstance(self.rollout_buffer, RolloutView)
        values, returns = (
            to_numpy(getattr(self._rollout, name)) if ours else getattr(self.rollout_buffer, name)
            for name in ("values", "returns")
        )
        return float(explained_variance(values.ravel(), returns.ravel()))

    def train(self) -> None:
        """Stages 4 and 5 for the rollout that was collected last."""
        self._metrics = self._measured_update()
        self._report(self._metrics)

    def _measured_update(self) -> dict[str, float]:
        self._look_at_policy()  # a callback may have changed it
        with self._undo.on(Exception):
            rollout = self._learned_rollout()
            self._modules.train(self.policy, True)
            self._undo.add(numbers_of(self), options_of(self.policy.optimizer))
            self._update_learning_rate(self.policy.optimizer)
            if isinstance(self.learning_rate, KLAdaptiveLearningRate):
                self._undo.add(numbers_of(self.learning_rate))
            if not self.takes_one_step:
                self._keep_parameters()
            try:
                metrics = read(self.update(rollout))
            finally:
                release_graph(self.policy)
        self._undo.forget()
        return metrics

    def _keep_parameters(self) -> None:
        """Whatever is saved as a state dictionary: policy and optimizer, and what an algorithm has besides."""
        tensors, optimizers = self._modules.tensors(), []
        for name in self._get_torch_save_params()[0]:
            kept = recursive_getattr(self, name)
            if isinstance(kept, th.optim.Optimizer):
                optimizers.append(kept)
            elif kept is not self.policy:
                tensors += [*kept.parameters(), *kept.buffers()]
        self._undo.add(tensors_of(tensors, optimizers))

    def _learned_rollout(self) -> Rollout:
        """What stands in the rollout buffer now."""
        buffer = self.rollout_buffer
        if not isinstance(buffer, RolloutView):
            self._refuse_buffer(type(buffer), "rollout_buffer")
            return rollout_of(buffer, None, self.device) if self._rollout is None else self._rollout
        rollout = self._rollout = buffer.rollout(self.device)
        changed = "observations" not in self.unlearned and buffer.observations_in_hand
        if self._reads_distribution and (rollout.distribution is None or changed):
            self._modules.train(self.policy, False)
            with th.no_grad():
                rollout.distribution = evaluate_rows(self.policy, rollout, True)[2]
        return rollout

    def _refuse_buffer(self, buffer_class: type, name: str) -> None:
        if self.refuses_buffers is not None:
            given = getattr(buffer_class, "__name__", buffer_class)
            raise ValueError(f"{self.refuses_buffers}, which {name}={given} cannot keep: leave {name} as it was.")

    def _report(self, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            self.logger.record(f"train/{name}", value)
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")

    # ------------------------------------------------------------------------------------------------ learn

    def learn(
        self: SelfAlgorithm,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int | None = 1,
        tb_log_name: str | None = None,
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> SelfAlgorithm:
        """
        Train.

        A rollout or an update that is refused, for instance because of a number that is not finite, changes nothing: policy,
        optimizer, ``VecNormalize``'s statistics, counters (``num_timesteps`` included) and ACER's memory are as they were
        before the rollout, and the next call resets the environments and goes on from there. Any other exception in an update
        undoes it, too. One in the environment or in a callback leaves things as they are then, between two gradient steps,
        and so does an interrupt. The random number generators of the process have moved on in any case.

        :param total_timesteps: environment steps; the last rollout is completed, so that more may be done
        :param callback: called at every step; where they are defined, ``on_update_end(metrics)`` is called after each update
            and ``on_training_error(error)`` with an error that ends the training
        :param log_interval: iterations between two log dumps; ``None``: never
        :param tb_log_name: name of the TensorBoard run; the class's name by default
        :param reset_num_timesteps: count from 0, and reset the environments
        :param progress_bar: show one (needs tqdm and rich)
        :return: itself
        """
        iteration = 0
        check_learn(self, callback, log_interval)
        total_timesteps, callback = self._setup_learn(
            as_timesteps(total_timesteps), callback, reset_num_timesteps, tb_log_name or type(self).__name__, progress_bar
        )
        callback.on_training_start(locals(), globals())
        try:
            iteration = self._iterate(total_timesteps, callback, log_interval)
        except Exception as error:
            notify_of_error(callback, error)
            raise
        # SB3 logs before it updates, which would lose the last update. As after SB3's learn, its metrics stay in the logger.
        if log_interval is not None and iteration > 0:
            self.dump_logs(iteration)
            self._report(self._metrics)
            self.logger.record("train/learning_rate", self.lr_schedule(self._current_progress_remaining))
        callback.on_training_end()
        return self

    def _iterate(self, total_timesteps: int, callback: BaseCallback, log_interval: int | None) -> int:
        """Collect and update, until enough steps are done or a callback ends it; how many rollouts there were."""
        assert self.env is not None
        iteration = 0
        while self.num_timesteps < total_timesteps:
            if not self.collect_rollouts(self.env, callback, self.rollout_buffer, self.n_steps):
                break
            iteration += 1
            self._update_current_progress_remaining(self.num_timesteps, total_timesteps)
            is_last = self.num_timesteps >= total_timesteps  # its row is written after its update, and once
            if log_interval is not None and iteration % log_interval == 0 and not is_last:
                self.dump_logs(iteration)
            self._metrics = {}
            self.train()  # a subclass may have its own
            notify(callback, "on_update_end", self._metrics)
        return iteration

    def _update_current_progress_remaining(self, num_timesteps: int, total_timesteps: int) -> None:
        # The last rollout may overshoot: without the floor, schedules would be extrapolated below their end.
        self._current_progress_remaining = max(0.0, 1.0 - num_timesteps / total_timesteps)


def ceil_div(a: int, b: int) -> int:
    """a / b, rounded up."""
    return -(-a // b)
