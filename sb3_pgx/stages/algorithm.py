"""The pipeline: collect, evaluate, estimate, update, report. An algorithm fills in three of the stages."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import (
    ActorCriticCnnPolicy,
    ActorCriticPolicy,
    BasePolicy,
    MultiInputActorCriticPolicy,
)
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback
from stable_baselines3.common.vec_env import VecEnv

from sb3_pgx.core.action_masks import first_option_masks
from sb3_pgx.core.arguments import (
    as_timesteps,
    check_device,
    check_env_argument,
    check_learn,
    check_mapping,
    check_policy,
    check_policy_kwargs,
    check_sb3s_arguments,
    check_spaces,
    check_verbose,
)
from sb3_pgx.core.asymmetric_policies import policy_class_with_critic_key
from sb3_pgx.core.checks import (
    as_flag,
    check_positive_or_none,
    check_unit_interval,
    without_arrays,
)
from sb3_pgx.core.controllers import KLAdaptiveLearningRate
from sb3_pgx.core.custom_buffer import buffers_of_stored_actions, check_keeps_masks, is_users_own
from sb3_pgx.core.distributions import release_graph
from sb3_pgx.core.errors import warn
from sb3_pgx.core.examination import Examination
from sb3_pgx.core.mixed_spaces import is_mixed
from sb3_pgx.core.policies import check_masked, is_maskable, masking, policy_class_for
from sb3_pgx.core.policy_names import RECURRENT_POLICIES, check_acts_in, named_policy, policy_class_acting_in
from sb3_pgx.core.recurrent_evaluation import check_recurrent, is_recurrent
from sb3_pgx.core.rollout_buffer import DictRolloutView, RolloutView
from sb3_pgx.core.schedules import as_schedule
from sb3_pgx.core.search_space import Dimension
from sb3_pgx.core.spaces import within, zero_based
from sb3_pgx.core.undo import Undo
from sb3_pgx.engine import GradientSteps
from sb3_pgx.engine.compile_log import CompileLog
from sb3_pgx.engine.compiler import check_compile
from sb3_pgx.engine.layers import Modules
from sb3_pgx.engine.policy_graphs import acting_pass, evaluation_pass, rows_pass, sequences_pass
from sb3_pgx.environments.action_masks import find_action_masks, is_part, predicted_masks
from sb3_pgx.environments.gathered_rollouts import with_rollouts_gathered
from sb3_pgx.environments.vector_env import as_vec_env, is_vector_env
from sb3_pgx.stages.compiling import Compiling
from sb3_pgx.stages.guard import GuardedEnvironments, naming_dead_workers
from sb3_pgx.stages.report import notify, notify_of_error
from sb3_pgx.stages.resuming import Resuming
from sb3_pgx.stages.update import Updating

SelfAlgorithm = TypeVar("SelfAlgorithm", bound="PolicyGradientAlgorithm")

_MLP_POLICIES = ("ActorPolicy", "GaussianStdPolicy", "MixedActionsPolicy", "MixedActionsActorPolicy")
_NOT_SAVED = (
    "_steps",
    "_modules",
    "_metrics",
    "_acting_pass",
    "_compile_log",
    "_evaluation",
    "_rows",
    "_sequences",
    "compiled",
    "objective",
    "_undo",
    "keeps_distribution",
    "_action_masks",
    "_last_memory",
)


class PolicyGradientAlgorithm(Compiling, Resuming, Updating):
    """
    Base of all algorithms with rollouts: SB3's ``OnPolicyAlgorithm`` in five stages.

    1. *collect* steps the environments. Acting computes actions, and nothing else.
    2. *evaluate* computes values, log-probabilities and bootstrap values of the whole rollout in one batch.
    3. *estimate* computes returns and advantages, by GAE unless the algorithm overrides it.
    4. *update* takes the algorithm's gradient steps, and returns metrics.
    5. *report* logs the metrics, and calls ``on_update_end(metrics)`` on callbacks that define it.
       If an error ends the run, it calls ``on_training_error(error)``.

    Callbacks and subclasses work as with SB3: ``rollout_buffer`` fills step by step, and the update learns from its content
    when ``train`` starts (:class:`~sb3_pgx.core.rollout_buffer.RolloutView`). ``values`` and ``log_probs`` among the locals of
    ``on_step`` are computed when they are first read. One difference: the last row of the log holds the last update, which SB3
    does not log.

    A rollout that is refused, in any stage, changes nothing: see :meth:`learn`.

    Arguments are SB3's; ``learning_rate`` and every coefficient also take a string such as ``"lin_0.01"``.
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": ActorCriticPolicy,
        "CnnPolicy": ActorCriticCnnPolicy,
        "MultiInputPolicy": MultiInputActorCriticPolicy,
    }
    action_spaces: ClassVar[tuple[type[spaces.Space], ...]] = (
        *(spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary),
        *(spaces.Dict, spaces.Tuple),
    )
    refuses_memory: ClassVar[str | None] = None  # reason why the policy cannot be recurrent; None if it can
    refuses_all_reduce: ClassVar[str | None] = None  # reason why processes cannot average gradients; None if they can
    trains_critic: ClassVar[bool] = True  # whether the policy's V is learned, so that its error means something
    search_space: ClassVar[tuple[Dimension, ...]] = ()  # what is worth tuning; `settings` adds the network
    examination: ClassVar[Examination] = Examination()  # settings for `sb3-pgx doctor algo`

    def __init__(
        self, policy: str | type[ActorCriticPolicy], env: GymEnv | str | None, compile: bool | str = "auto", **kwargs: Any
    ):
        check_compile(compile)
        check_policy(policy, (*self.policy_aliases, *RECURRENT_POLICIES))
        check_device(kwargs.get("device", "auto"))
        check_mapping(policy_kwargs=kwargs.get("policy_kwargs"), rollout_buffer_kwargs=kwargs.get("rollout_buffer_kwargs"))
        check_verbose(kwargs.get("verbose", 0))
        as_flag("use_sde", kwargs.get("use_sde", False))
        self.compile = compile
        super().__init__(
            named_policy(policy),
            env,  # type: ignore[arg-type]
            **{**kwargs, "policy_kwargs": dict(kwargs.get("policy_kwargs") or {})},
            supported_action_spaces=self.action_spaces,
            _init_setup_model=False,
        )
        self.policy_class = policy_class_for(self.policy_class, self.policy_kwargs)
        if env is not None:
            self.policy_class = policy_class_acting_in(self.policy_class, self.action_space)
        self.policy_class = policy_class_with_critic_key(self.policy_class, self.policy_kwargs, type(self).__name__)

    @staticmethod
    def _wrap_env(env: GymEnv, verbose: int = 0, monitor_wrapper: bool = True) -> VecEnv:
        check_env_argument(env)
        if is_vector_env(env):
            env = as_vec_env(env)
        return with_rollouts_gathered(OnPolicyAlgorithm._wrap_env(env, verbose, monitor_wrapper))

    # ------------------------------------------------------------------------------------------------ what differs

    def check_arguments(self) -> None:
        """
        Check the final arguments and the environment, before anything is built. Loading a model calls it, too.

        :raises ValueError: an argument is invalid
        """
        check_sb3s_arguments(self)
        check_policy_kwargs(self.policy_class, self.policy_kwargs)
        if is_recurrent(self.policy_class) and self.refuses_memory is not None:
            raise ValueError(f"{self.refuses_memory}: use a policy without memory, or another algorithm, such as PPO")
        check_spaces(self.policy_class, self.policy_kwargs, self.observation_space, self.action_space)
        self.use_sde = as_flag("use_sde", self.use_sde)
        check_unit_interval(gamma=self.gamma, gae_lambda=self.gae_lambda)
        check_positive_or_none("turns clipping off", max_grad_norm=self.max_grad_norm)
        self.coefficient("learning_rate")
        if is_users_own(self.rollout_buffer_class):
            self.refuse_buffer(self.rollout_buffer_class, "rollout_buffer_class")  # type: ignore[arg-type]

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

    def _setup_model(self) -> None:
        if self.env is None and not hasattr(self, "observation_space"):
            raise ValueError(f"env=None: {type(self).__name__} needs an environment to know what its policy acts on")
        vars(self).update(without_arrays(vars(self)))
        self.check_arguments()
        check_acts_in(self.policy_class, self.action_space)
        if not is_users_own(self.rollout_buffer_class):
            self.rollout_buffer_class = None  # SB3 takes the one of its two that fits the observations
        with self._policy_class_with_use_sde(), buffers_of_stored_actions(self):
            super()._setup_model()
        check_recurrent(self.policy)
        release_graph(self.policy)
        self.compiled, self._metrics = False, {}
        self._undo = Undo()
        self._modules = Modules()
        self._modules.look(self.policy)
        self._compile_log = CompileLog(self._tell)
        self._acting_pass = acting_pass(self.observation_space, self._compile_log, is_recurrent(self.policy))
        self._evaluation = evaluation_pass(self.observation_space, self._compile_log)
        self._rows = rows_pass(self.observation_space, self._compile_log)
        self._sequences = sequences_pass(self.observation_space, self._compile_log)
        if self.objective is not None:
            self._steps = GradientSteps(self.objective, self._compile_log)
        if not is_users_own(self.rollout_buffer_class):
            view: Any = DictRolloutView if isinstance(self.observation_space, spaces.Dict) else RolloutView
            made = view(
                self.n_steps, self.observation_space, self.action_space, self.device, self.gae_lambda, self.gamma, self.n_envs
            )
            made.refuses_rows, made.unlearned = self.refusal_of_rows, self.unlearned
            self.rollout_buffer = made

    @contextmanager
    def _policy_class_with_use_sde(self) -> Iterator[None]:
        """Within this context, the policy's class takes ``use_sde`` as SB3 passes it, which not all of sb3-contrib's do."""
        given = self.policy_class
        if is_maskable(given):
            if self.use_sde:
                raise ValueError(f"use_sde=True needs Box actions, which {given.__name__} does not have: leave it out")
            self.policy_class = wraps(given)(lambda *args, use_sde, **kwargs: given(*args, **kwargs))  # type: ignore[assignment]
        try:
            yield
        finally:
            self.policy_class = given

    def _maybe_recommend_cpu(self, mlp_class_name: str = "ActorCriticPolicy") -> None:
        # SB3 knows its MlpPolicy by the class's name, and ours have names of their own.
        name = self.policy_class.__name__
        super()._maybe_recommend_cpu(name if name in _MLP_POLICIES else mlp_class_name)

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "last_rollout", "_scheduled_learning_rate", *_NOT_SAVED]

    # ------------------------------------------------------------------------------------------------ the stages

    def predict(
        self,
        observation: np.ndarray | dict[str, np.ndarray],
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
        action_masks: np.ndarray | None = None,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
        """
        Return actions for observations, as SB3's ``predict`` does.

        Choices count from the space's ``start``, and actions of an integer Box are whole numbers. ``policy.predict``, and SB3
        if it loads the same file, count from 0. An action of a ``Dict`` or ``Tuple`` space is a dictionary or a tuple; for
        several environments, the actions are a list of them.

        :param observation: observation of one environment, or of several
        :param state: state of a recurrent policy, as returned by the call before; ``None``: the state at an episode's start
        :param episode_start: whether an episode starts in each environment; it resets the state of a recurrent policy, ``[N]``
        :param deterministic: whether to return the most probable action instead of a sample
        :param action_masks: which actions are valid, boolean, ``[M]`` or ``[N, M]``: one entry per option of each choice, two
            (off and on) per switch of a MultiBinary; ``None``: the part ``"action_mask"`` of the observation, or all actions
        :return: the action or actions, and the next state; without a recurrent policy, ``state`` unchanged
        """
        masks = self._predicted_masks(action_masks, observation)
        observation = zero_based(observation, self.observation_space)
        with masking(self.policy, masks):
            actions, state = super().predict(observation, state, episode_start, deterministic)
        return (actions if is_mixed(self.action_space) else within(actions, self.action_space)), state

    def _predicted_masks(self, given: Any, observation: Any) -> th.Tensor | None:
        """Return the masks with which to predict, ``[N, M]``; ``None`` if all actions are valid."""
        if given is None and self._masked_by_method:
            warn(
                f"predict got no action_masks, but this {type(self).__name__} was trained with those that its environments' "
                "method action_masks() gives: it may choose an invalid action. Pass action_masks=…; evaluate_policy and "
                "EvalCallback of sb3_pgx.environments do."
            )
        if given is None and not (self.use_masking and is_part(self.observation_space)):
            return None
        first = next(iter(observation.values())) if isinstance(observation, dict) else observation
        vectorised = self.policy.is_vectorized_observation(observation)
        n = len(first) if vectorised else 1
        masks = predicted_masks(given, observation, n, self.observation_space, self.action_space)
        return None if masks is None else th.tensor(masks, device=self.device)

    def _setup_learn(self, *args: Any, **kwargs: Any) -> tuple[int, BaseCallback]:
        assert self.env is not None
        guarded = GuardedEnvironments(self.env, self._vec_normalize_env, self._n_updates, self._reset_later)
        with naming_dead_workers(self.env):
            result = super()._setup_learn(*args, **kwargs)
        self._last_obs = guarded.checked_start(self._last_obs)
        self._find_action_masks()
        self._look_at_policy(start=True)
        self._decide_on_compiling(result[0])
        return result

    def _find_action_masks(self) -> None:
        assert self.env is not None
        found = find_action_masks(self.env, self.observation_space, self.action_space) if self.use_masking else None
        self._action_masks, self._masked_by_method = found, found is not None and not found.in_observations
        if found is None:
            return
        if not isinstance(self.rollout_buffer, RolloutView):
            check_keeps_masks(self.rollout_buffer)
        self.policy.set_training_mode(False)
        observations = self.policy.obs_to_tensor(zero_based(self._last_obs, self.observation_space))[0]
        check_masked(
            self.policy, observations, th.tensor(first_option_masks(self.action_space, self.n_envs), device=self.device)
        )
        self.logger.info(f"Actions are masked as {found.source} says")

    # ------------------------------------------------------------------------------------------------ learn

    def learn(
        self: SelfAlgorithm,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int | None = 1,
        tb_log_name: str | None = None,
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
        *,
        use_masking: bool = True,
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
        :param use_masking: never take actions that the environments mark as invalid, if they mark any: by a method
            ``action_masks()``, as for sb3-contrib's ``MaskablePPO``, or by a part ``"action_mask"`` of their observations
        :return: itself
        """
        self.use_masking = as_flag("use_masking", use_masking)
        check_learn(self, callback, log_interval)

        def train(callback: MaybeCallback) -> None:
            self._train(total_timesteps, callback, log_interval, tb_log_name, reset_num_timesteps, progress_bar)

        self.team.learn(self, train, callback, total_timesteps)
        return self

    def _train(
        self,
        total_timesteps: int,
        callback: MaybeCallback,
        log_interval: int | None,
        tb_log_name: str | None,
        reset_num_timesteps: bool,
        progress_bar: bool,
    ) -> None:
        """Train in this process. Arguments are those of :meth:`learn`."""
        iteration, total_timesteps = 0, as_timesteps(total_timesteps)
        with self._checkpointing(callback) as state:
            if state is not None:
                total_timesteps, reset_num_timesteps = self._steps_left(total_timesteps), False
            total_timesteps, callback = self._setup_learn(
                total_timesteps, callback, reset_num_timesteps, tb_log_name or type(self).__name__, progress_bar
            )
            callback.on_training_start(locals(), globals())
            iteration = self._continue(callback, state)
            try:
                iteration = self._iterate(total_timesteps, callback, log_interval, iteration)
            except Exception as error:
                notify_of_error(callback, error)
                raise
            finally:
                self._action_masks = None  # they refer to the environments
        # SB3 logs before it updates, which would lose the last update. As after SB3's learn, its metrics stay in the logger.
        if log_interval is not None and iteration > 0:
            self.dump_logs(iteration)
            self._report(self._metrics)
            self.logger.record("train/learning_rate", self.lr_schedule(self._current_progress_remaining))
        callback.on_training_end()

    def _iterate(self, total_timesteps: int, callback: BaseCallback, log_interval: int | None, iteration: int = 0) -> int:
        """
        Collect and update, until enough steps are done or a callback ends it.

        :param iteration: how many rollouts there were before; more than 0 if the run was resumed
        :return: how many rollouts there were
        """
        team = self.team

        def collect() -> bool:
            assert self.env is not None
            return self.collect_rollouts(self.env, callback, self.rollout_buffer, self.n_steps)

        while self.num_timesteps < total_timesteps:
            if not team.collect(self, collect):
                break
            iteration += 1
            self._update_current_progress_remaining(self.num_timesteps, total_timesteps)
            is_last = self.num_timesteps >= total_timesteps  # its row is written after its update, and once
            if log_interval is not None and iteration % log_interval == 0 and not is_last:
                self.dump_logs(iteration)
            self._metrics = {}
            self.train()  # a subclass may have its own
            team.check(self, iteration)
            notify(callback, "on_update_end", self._metrics)
            self._write_asked(callback, iteration)
        return iteration

    def _update_current_progress_remaining(self, num_timesteps: int, total_timesteps: int) -> None:
        # The last rollout may overshoot: without the floor, schedules would be extrapolated below their end.
        self._current_progress_remaining = max(0.0, 1.0 - num_timesteps / total_timesteps)


def ceil_div(a: int, b: int) -> int:
    """a / b, rounded up."""
    return -(-a // b)
