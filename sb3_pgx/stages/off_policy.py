"""The pipeline of off-policy algorithms: step the environments into a replay memory, and learn from samples of it."""

import warnings
from typing import Any, ClassVar, TypeVar

from gymnasium import spaces
from stable_baselines3.common.buffers import NStepReplayBuffer, ReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.noise import ActionNoise, VectorizedActionNoise
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import (
    GymEnv,
    MaybeCallback,
    TrainFreq,
    TrainFrequencyUnit,
)
from stable_baselines3.common.vec_env import VecEnv

from sb3_pgx.checkpoints.replay_memory import cut_episodes_in_memory
from sb3_pgx.core.arguments import (
    as_timesteps,
    check_common_arguments,
    check_device,
    check_env_argument,
    check_learn,
    check_mapping,
    check_policy,
    check_policy_kwargs,
    check_verbose,
)
from sb3_pgx.core.checks import as_flag, check_counts, check_unit_interval, without_arrays
from sb3_pgx.core.deferred_values import may_change
from sb3_pgx.core.errors import one_line
from sb3_pgx.core.examination import Examination
from sb3_pgx.core.files import saving
from sb3_pgx.core.schedules import as_schedule, evaluate_coefficient
from sb3_pgx.core.search_space import Dimension
from sb3_pgx.core.spaces import has_start
from sb3_pgx.engine.compile_log import CompileLog
from sb3_pgx.engine.compiled_actor import CompiledActor
from sb3_pgx.engine.compiler import check_compile
from sb3_pgx.engine.joint_steps import JointSteps
from sb3_pgx.engine.layers import Modules
from sb3_pgx.environments.carrying import carrying_adapter
from sb3_pgx.environments.vector_env import as_vec_env, is_vector_env
from sb3_pgx.stages.collect import SAME_STEP_REMEDY
from sb3_pgx.stages.compiling import Compiling
from sb3_pgx.stages.guard import GuardedEnvironments, naming_dead_workers
from sb3_pgx.stages.off_policy_update import OffPolicyUpdating
from sb3_pgx.stages.report import notify, notify_of_error
from sb3_pgx.stages.resuming import Resuming
from sb3_pgx.stages.team import ALONE

SelfOffPolicy = TypeVar("SelfOffPolicy", bound="OffPolicy")

_NOT_SAVED = (
    *("_steps", "_modules", "_compile_log", "_actor", "_metrics", "compiled"),
    *("_watched", "_callback", "_guarded", "_modes", "_reason", "_memory_has_gap"),
)


class OffPolicy(Compiling, Resuming, OffPolicyUpdating):
    """
    Base of the off-policy algorithms, each of which is also SB3's algorithm of the same name.

    SB3's methods set the model up, keep the replay memory and save files. This class steps the environments, checks what they
    return, and takes the gradient steps: one function of all networks, optimizers and target networks, eager or compiled.
    """

    search_space: ClassVar[tuple[Dimension, ...]] = ()  # what is worth tuning, in addition to the network
    networks: ClassVar[tuple[Dimension, ...]] = ()  # which networks are worth trying
    examination: ClassVar[Examination] = Examination()  # settings for `sb3-pgx doctor algo`
    _callback: BaseCallback | None = None  # of the running `learn`
    _chosen_memory: tuple[type[ReplayBuffer] | None, set[str]] = (None, set())  # class that was chosen, and arguments added

    def __init__(self, policy: str | type[BasePolicy], env: GymEnv | str | None, compile: bool | str = "auto", **kwargs: Any):
        check_compile(compile)
        check_policy(policy, self.policy_aliases)
        check_device(kwargs.get("device", "auto"))
        check_mapping(policy_kwargs=kwargs.get("policy_kwargs"), replay_buffer_kwargs=kwargs.get("replay_buffer_kwargs"))
        check_verbose(kwargs.get("verbose", 0))
        self.compile = compile
        for name in ("policy_kwargs", "replay_buffer_kwargs"):
            kwargs[name] = dict(kwargs.get(name) or {})  # SB3 writes into them
        try:
            super().__init__(policy, env, **kwargs, _init_setup_model=False)  # type: ignore[arg-type, call-arg]
        except AssertionError as error:
            raise self._explained(error) from None

    def _explained(self, error: AssertionError) -> AssertionError:
        """Return SB3's error about an action space with a remedy."""
        space = getattr(self, "action_space", None)
        if space is None or isinstance(space, spaces.Box):
            return error
        return AssertionError(
            f"{type(self).__name__} needs continuous actions (Box), but the action space is {one_line(space)}: use PPO, A2C "
            "or another on-policy algorithm, or SB3's DQN"
        )

    @staticmethod
    def _wrap_env(env: GymEnv, verbose: int = 0, monitor_wrapper: bool = True) -> VecEnv:
        check_env_argument(env)
        if is_vector_env(env):
            env = as_vec_env(env)
        return OffPolicyAlgorithm._wrap_env(env, verbose, monitor_wrapper)

    # ------------------------------------------------------------------------------------------------ what differs

    def check_arguments(self) -> None:
        """
        Called with the final arguments, before anything is built; loading calls it, too.

        :raises ValueError: an argument makes no sense
        :raises TypeError: an argument has the wrong type
        """
        check_common_arguments(self)
        check_policy_kwargs(self.policy_class, self.policy_kwargs)
        check_counts(buffer_size=self.buffer_size, batch_size=self.batch_size, n_steps=self.n_steps)
        check_counts(0, learning_starts=self.learning_starts)
        check_counts(train_freq=self.train_freq[0] if isinstance(self.train_freq, tuple) else self.train_freq)
        check_counts(-1, gradient_steps=self.gradient_steps)
        check_unit_interval(tau=self.tau, gamma=self.gamma)
        self.use_sde = as_flag("use_sde", self.use_sde)
        self.optimize_memory_usage = as_flag("optimize_memory_usage", self.optimize_memory_usage)
        evaluate_coefficient(self.learning_rate, 1.0, "learning_rate")
        if has_start(self.observation_space):
            raise ValueError(
                f"observations {one_line(self.observation_space)} begin with another number than 0, and the replay memory "
                "stores them as they come: subtract the start in a wrapper, such as gymnasium.wrappers.TransformObservation"
            )

    def choose_memory(self) -> None:
        """Called with checked arguments: choose the class of the replay memory. By default, SB3 chooses if there is none."""

    # ------------------------------------------------------------------------------------------------ set up

    def _setup_lr_schedule(self) -> None:
        self.lr_schedule = as_schedule(self.learning_rate, "learning_rate")

    def _setup_model(self) -> None:
        if self.env is None and not hasattr(self, "observation_space"):
            raise ValueError(f"env=None: {type(self).__name__} needs an environment to know what its policy acts on")
        vars(self).update(without_arrays(vars(self)))
        self._forget_chosen_memory()
        self.check_arguments()
        given = self.replay_buffer_class, {*self.replay_buffer_kwargs}
        self.choose_memory()
        with warnings.catch_warnings():
            if self.replay_buffer_kwargs.get("n_steps") == self.n_steps:
                warnings.filterwarnings("ignore", "`n_steps=.* is ignored")
            super()._setup_model()
        if given[0] is None:
            self._chosen_memory = self.replay_buffer_class, {*self.replay_buffer_kwargs} - given[1]
        self.compiled = False
        self._modules = Modules()
        self._compile_log = CompileLog(self._tell)
        self._actor = CompiledActor(self._compile_log)
        self._steps = JointSteps("the gradient step", self._compile_log)

    def _forget_chosen_memory(self) -> None:
        """
        Of a saved model, choose the replay memory anew unless the user has named its class: ``load`` may be given another
        ``gamma``, ``n_steps`` or other arguments that belong to the memory.
        """
        kind, added = self._chosen_memory
        if kind is None and self.replay_buffer_class is NStepReplayBuffer:  # SB3's file, which does not say who chose it
            chosen = {"n_steps": self.n_steps, "gamma": self.gamma}
            if chosen.items() <= self.replay_buffer_kwargs.items():
                kind, added = NStepReplayBuffer, {*chosen}
        if kind is not None and self.replay_buffer_class is kind:
            self.replay_buffer_class = None
            self.replay_buffer_kwargs = {name: x for name, x in self.replay_buffer_kwargs.items() if name not in added}

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), *_NOT_SAVED]

    def save_replay_buffer(self, path: Any) -> None:
        """
        As SB3's. A file that is there already is replaced in one step by a complete one.

        :raises OSError: the file cannot be written; one sentence that names the path
        """
        with saving(path, "pkl") as file:
            super().save_replay_buffer(file)

    # ------------------------------------------------------------------------------------------------ learn

    def learn(
        self: SelfOffPolicy,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int | None = 4,
        tb_log_name: str | None = None,
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> SelfOffPolicy:
        """
        Train.

        A step of the environments that returns a number that is not finite is not stored: policy, optimizers, replay memory,
        counters and ``VecNormalize``'s statistics are as they were before it, and the next call resets the environments. A
        gradient step whose result is not finite is not taken. Other exceptions pass through.

        :param total_timesteps: environment steps
        :param callback: called at every step; where they are defined, ``on_update_end(metrics)`` is called after each
            iteration with the metrics of its gradient steps, none before ``learning_starts``, and
            ``on_training_error(error)`` with an error that ends the training
        :param log_interval: episodes between two log dumps; ``None``: never
        :param tb_log_name: name of the TensorBoard run; the class's name by default
        :param reset_num_timesteps: count from 0, and reset the environments
        :param progress_bar: show one (needs tqdm and rich)
        :return: itself
        """
        check_learn(self, callback, log_interval)
        total_timesteps = as_timesteps(total_timesteps)
        with self._checkpointing(callback) as state:
            if state is not None:
                total_timesteps, reset_num_timesteps = self._steps_left(total_timesteps), False
            try:
                total_timesteps, callback = self._setup_learn(
                    total_timesteps, callback, reset_num_timesteps, tb_log_name or type(self).__name__, progress_bar
                )
                callback.on_training_start({name: x for name, x in locals().items() if name != "state"}, globals())
                iteration = self._continue(callback, state)
                self._iterate(total_timesteps, callback, log_interval, iteration)
            except Exception as error:
                notify_of_error(self._callback, error)
                raise
            finally:
                self._watched, self._callback, self._modes = True, None, None
        callback.on_training_end()
        return self

    def _iterate(self, total_timesteps: int, callback: BaseCallback, log_interval: int | None, iteration: int) -> None:
        """
        Collect and train, until enough steps are done or a callback ends it.

        :param iteration: how many rollouts there were before; more than 0 if the run was resumed
        """
        assert self.env is not None and self.replay_buffer is not None and isinstance(self.train_freq, TrainFreq)
        while self.num_timesteps < total_timesteps:
            rollout = self.collect_rollouts(
                self.env,
                callback,
                self.train_freq,
                self.replay_buffer,
                self.action_noise,
                self.learning_starts,
                log_interval,
            )
            if not rollout.continue_training:
                break
            iteration += 1
            self._metrics = {}
            steps = self.gradient_steps if self.gradient_steps >= 0 else rollout.episode_timesteps
            if self.num_timesteps > self.learning_starts and steps > 0:
                self.train(steps, self.batch_size)  # a subclass may have its own
            notify(callback, "on_update_end", self._metrics)
            self._write_asked(callback, iteration)

    def _setup_learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        reset_num_timesteps: bool = True,
        *args: Any,
        **kwargs: Any,
    ) -> tuple[int, BaseCallback]:
        assert self.env is not None
        self._check_environments()
        if reset_num_timesteps or self._last_obs is None or self._memory_has_gap:
            cut_episodes_in_memory(self)
        self._memory_has_gap = False
        self.action_noise = _noise_for(self.env.num_envs, self.action_noise)
        guarded = GuardedEnvironments(self.env, self._vec_normalize_env, self._n_updates, self._reset_later)
        with naming_dead_workers(self.env):
            total_timesteps, callback = super()._setup_learn(total_timesteps, callback, reset_num_timesteps, *args, **kwargs)
        self._last_obs = guarded.checked_start(self._last_obs)
        self._modules.look(self.policy, start=True)
        self._decide_on_compiling(total_timesteps)
        self._watched, self._callback = may_change(callback), callback
        self._prepare()
        return total_timesteps, callback

    def _check_environments(self) -> None:
        """:raises ValueError: the algorithm cannot learn in environments of this kind"""
        gaps = carrying_adapter(self.env)
        if gaps is not None:
            raise gaps.refusal(self.refuses_gaps, SAME_STEP_REMEDY)
        if self.team is not ALONE:
            raise ValueError(
                f"{type(self).__name__} learns in one process, but these environments are those of several: make them without "
                "parallel=…, or use PPO or A2C"
            )

    @property
    def n_gradient_steps(self) -> int:  # type: ignore[override]
        """Number of gradient steps taken so far."""
        return self._n_updates

    def planned_gradient_steps(self, timesteps: int) -> int:
        assert isinstance(self.train_freq, TrainFreq)
        learned = max(timesteps - max(self.learning_starts - self.num_timesteps, 0), 0)
        if self.gradient_steps < 0 or self.train_freq.unit == TrainFrequencyUnit.EPISODE:
            return learned  # for lack of knowledge about the length of episodes
        return learned // (self.train_freq.frequency * self.n_envs) * self.gradient_steps


def _noise_for(n_envs: int, noise: ActionNoise | None) -> ActionNoise | None:
    """Return action noise for a number of environments. That of a saved model may be for another number."""
    if not isinstance(noise, VectorizedActionNoise) or noise.n_envs == n_envs:
        return noise
    return VectorizedActionNoise(noise.base_noise, n_envs) if n_envs > 1 else noise.base_noise
