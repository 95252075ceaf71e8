"""The pipeline of off-policy algorithms: step the environments into a replay memory, and learn from samples of it."""

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.type_aliases import (
    GymEnv,
    MaybeCallback,
    RolloutReturn,
    TrainFreq,
    TrainFrequencyUnit,
)
from stable_baselines3.common.utils import should_collect_more_steps
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor
from torch.optim import Optimizer

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
from sb3_pgx.core.deferred_values import may_change, may_read_locals
from sb3_pgx.core.errors import blaming_numbers, not_finite_parameter, one_line
from sb3_pgx.core.examination import Examination
from sb3_pgx.core.files import saving
from sb3_pgx.core.replay_sampling import sample_replay
from sb3_pgx.core.schedules import as_schedule, evaluate_coefficient
from sb3_pgx.core.search_space import Dimension
from sb3_pgx.core.undo import Refusal, tensors_of
from sb3_pgx.engine.compile_log import CompileLog
from sb3_pgx.engine.compiled_actor import CompiledActor
from sb3_pgx.engine.compiler import check_compile
from sb3_pgx.engine.joint_steps import JointSteps, NotFiniteError, StepFunction, flat
from sb3_pgx.engine.layers import Modules, NetworkModes
from sb3_pgx.engine.parameters import all_finite
from sb3_pgx.environments.vector_env import as_vec_env, is_vector_env
from sb3_pgx.stages.compiling import Compiling
from sb3_pgx.stages.guard import GuardedEnvironments, naming_dead_workers
from sb3_pgx.stages.report import notify_of_error

SelfOffPolicy = TypeVar("SelfOffPolicy", bound="OffPolicy")

_NOT_SAVED = (
    *("_steps", "_modules", "_compile_log", "_actor", "compiled"),
    *("_watched", "_callback", "_guarded", "_modes", "_reason"),
)
CAUSES = (
    "learning_rate too high (lower it), rewards or observations of huge size (wrap the environment in VecNormalize), or "
    "numbers in the replay memory that are not finite"
)


class OffPolicy(Compiling, OffPolicyAlgorithm):
    """
    Base of the off-policy algorithms, each of which is also SB3's algorithm of the same name.

    SB3's methods set the model up, keep the replay memory and save files. This class steps the environments, checks what they
    return, and takes the gradient steps: one function of all networks, optimizers and target networks, eager or compiled.
    """

    search_space: ClassVar[tuple[Dimension, ...]] = ()  # what is worth tuning, in addition to the network
    networks: ClassVar[tuple[Dimension, ...]] = ()  # which networks are worth trying
    examination: ClassVar[Examination] = Examination()  # settings for `sb3-pgx doctor algo`
    _callback: BaseCallback | None = None  # of the running `learn`
    _reason: str | None = None  # why the optimizers themselves must take the steps
    _modes: NetworkModes | None = None  # as long as no callback may change the policy
    _guarded: GuardedEnvironments  # of this rollout
    _watched = True  # whether a callback may change policy and optimizers between two gradient steps
    _steps: JointSteps
    _actor: CompiledActor
    _modules: Modules

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

    def after_step(self, index: int) -> None:
        """
        Called after each gradient step, which moves parameters alone: copy the statistics of BatchNorm.

        :param index: number of the step in this call of :meth:`train`, from 0
        """

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
        check_counts(-1, gradient_steps=self.gradient_steps)
        check_unit_interval(tau=self.tau, gamma=self.gamma)
        self.use_sde = as_flag("use_sde", self.use_sde)
        self.optimize_memory_usage = as_flag("optimize_memory_usage", self.optimize_memory_usage)
        evaluate_coefficient(self.learning_rate, 1.0, "learning_rate")

    # ------------------------------------------------------------------------------------------------ set up

    def _setup_lr_schedule(self) -> None:
        self.lr_schedule = as_schedule(self.learning_rate, "learning_rate")

    def _setup_model(self) -> None:
        if self.env is None and not hasattr(self, "observation_space"):
            raise ValueError(f"env=None: {type(self).__name__} needs an environment to know what its policy acts on")
        vars(self).update(without_arrays(vars(self)))
        self.check_arguments()
        super()._setup_model()
        self.compiled = False
        self._modules = Modules()
        self._compile_log = CompileLog(self._tell)
        self._actor = CompiledActor(self._compile_log)
        self._steps = JointSteps("the gradient step", self._compile_log)

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), *_NOT_SAVED]

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

    def save_replay_buffer(self, path: Any) -> None:
        """
        As SB3's. A file that is there already is replaced in one step by a complete one.

        :raises OSError: the file cannot be written; one sentence that names the path
        """
        with saving(path, "pkl") as file:
            super().save_replay_buffer(file)

    @classmethod
    def load(
        cls: type[SelfOffPolicy],
        path: Any,
        env: Any = None,
        device: th.device | str = "auto",
        custom_objects: dict[str, Any] | None = None,
        print_system_info: bool = False,
        force_reset: bool = True,
        **kwargs: Any,
    ) -> SelfOffPolicy:
        """
        As SB3's. This unpickles parts of the file, which runs whatever code its author put there: load only files of people
        you trust.

        To read the parameters of anybody else's file, construct the model yourself and call ``model.set_parameters(path)``.
        It reads tensors alone, with torch's ``weights_only``, and runs none of the file's code.
        """
        return super().load(path, env, device, custom_objects, print_system_info, force_reset, **kwargs)

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
        :param callback: called at every step; where it is defined, ``on_training_error(error)`` is called with an error that
            ends the training
        :param log_interval: episodes between two log dumps; ``None``: never
        :param tb_log_name: name of the TensorBoard run; the class's name by default
        :param reset_num_timesteps: count from 0, and reset the environments
        :param progress_bar: show one (needs tqdm and rich)
        :return: itself
        """
        check_learn(self, callback, log_interval)
        try:
            return super().learn(
                as_timesteps(total_timesteps),
                callback,
                log_interval,  # type: ignore[arg-type]
                tb_log_name or type(self).__name__,
                reset_num_timesteps,
                progress_bar,
            )
        except Exception as error:
            notify_of_error(self._callback, error)
            raise
        finally:
            self._watched, self._callback, self._modes = True, None, None

    def _setup_learn(self, *args: Any, **kwargs: Any) -> tuple[int, BaseCallback]:
        assert self.env is not None
        guarded = GuardedEnvironments(self.env, self._vec_normalize_env, self._n_updates, self._reset_later)
        with naming_dead_workers(self.env):
            total_timesteps, callback = super()._setup_learn(*args, **kwargs)
        self._last_obs = guarded.checked_start(self._last_obs)
        self._modules.look(self.policy, start=True)
        self._decide_on_compiling(total_timesteps)
        self._watched, self._callback = may_change(callback), callback
        self._prepare()
        return total_timesteps, callback

    def _reset_later(self) -> None:
        """Make the next ``learn`` start by resetting the environments."""
        self._last_obs = None

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

    # ------------------------------------------------------------------------------------------------ collect

    def collect_rollouts(
        self,
        env: VecEnv,
        callback: BaseCallback,
        train_freq: TrainFreq,
        replay_buffer: ReplayBuffer,
        action_noise: ActionNoise | None = None,
        learning_starts: int = 0,
        log_interval: int | None = None,
    ) -> RolloutReturn:
        """
        Step the environments and store what they return, as SB3's method does, with the same locals for callbacks.

        :raises Refusal: an observation or a reward is not finite
        """
        self._set_training_mode(False)
        num_collected_steps, num_collected_episodes = 0, 0
        assert isinstance(env, VecEnv), "You must pass a VecEnv"
        if env.num_envs > 1 and train_freq.unit != TrainFrequencyUnit.STEP:
            raise ValueError(
                f"train_freq={tuple(train_freq)} counts episodes, but there are {env.num_envs} environments: count steps, or "
                "use one environment"
            )
        if self.use_sde:
            self.actor.reset_noise(env.num_envs)  # type: ignore[operator]
        self._guarded = GuardedEnvironments(env, self._vec_normalize_env, self._n_updates, self._reset_later)
        callback.on_rollout_start()
        continue_training = True
        while should_collect_more_steps(train_freq, num_collected_steps, num_collected_episodes):
            if self.use_sde and self.sde_sample_freq > 0 and num_collected_steps % self.sde_sample_freq == 0:
                self.actor.reset_noise(env.num_envs)  # type: ignore[operator]
            actions, buffer_actions = self._sample_action(learning_starts, action_noise, env.num_envs)
            new_obs, rewards, dones, infos = self._guarded.step(actions, num_collected_steps)
            self.num_timesteps += env.num_envs
            num_collected_steps += 1
            if may_read_locals(callback):
                callback.update_locals(locals())
            if not callback.on_step():
                return RolloutReturn(num_collected_steps * env.num_envs, num_collected_episodes, continue_training=False)
            self._update_info_buffer(infos, dones)
            self._store_transition(replay_buffer, buffer_actions, new_obs, rewards, dones, infos)
            self._update_current_progress_remaining(self.num_timesteps, self._total_timesteps)
            self._on_step()
            for idx, done in enumerate(dones):
                if done:
                    num_collected_episodes += 1
                    self._episode_num += 1
                    if action_noise is not None:
                        kwargs = dict(indices=[idx]) if env.num_envs > 1 else {}
                        action_noise.reset(**kwargs)
                    if log_interval is not None and self._episode_num % log_interval == 0:
                        self.dump_logs()
        callback.on_rollout_end()
        return RolloutReturn(num_collected_steps * env.num_envs, num_collected_episodes, continue_training)

    def _sample_action(
        self, learning_starts: int, action_noise: ActionNoise | None = None, n_envs: int = 1
    ) -> tuple[np.ndarray, np.ndarray]:
        """As SB3's; the policy's action comes from a compiled graph if there is one."""
        warms_up = self.num_timesteps < learning_starts and not (self.use_sde and self.use_sde_at_warmup)
        sampled = None if warms_up or not self._acts_compiled() else self._compiled_actions()
        if sampled is None:
            return super()._sample_action(learning_starts, action_noise, n_envs)
        # SB3 scales the actions to the space's bounds and back, which rounds them.
        scaled = self.policy.scale_action(self.policy.unscale_action(sampled))
        if action_noise is not None:
            scaled = np.clip(scaled + action_noise(), -1, 1)
        return self.policy.unscale_action(scaled), scaled

    def _acts_compiled(self) -> bool:
        return (
            self.compiled and type(self).predict is BaseAlgorithm.predict and type(self.policy).predict is BasePolicy.predict
        )

    def _compiled_actions(self) -> np.ndarray | None:
        """Return the policy's actions, scaled to [−1, 1]; ``None`` if the policy cannot be compiled."""
        if self._watched and not self._modules.act_as_before():
            self._modules.look(self.policy)
        observations: Any = self._last_obs
        if isinstance(observations, np.ndarray) and not is_image_space(self.observation_space):
            observations = th.from_numpy(observations)
        else:
            observations = self.policy.obs_to_tensor(observations)[0]
        actions = self._actor(self.policy, self._modules.version, observations)
        if actions is None:
            return None
        if not all_finite(actions):
            bad = not_finite_parameter(self.policy)
            raise Refusal(
                f"the policy cannot act after gradient step {self._n_updates}: "
                f"{'its action' if bad is None else f'the parameter {bad}'} is not finite. Load the last saved model and "
                "lower learning_rate."
            )
        return actions.numpy().reshape((-1, *self.action_space.shape))  # type: ignore[misc, arg-type]

    # ------------------------------------------------------------------------------------------------ train

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
        outcomes: list[Mapping[str, float]] = []
        if reason is not None:
            self._compile_log.report_uncompiled(self._steps.what, reason)
            self._train_as_sb3_does(gradient_steps, batch_size)
            return
        assert self.replay_buffer is not None
        for index in range(gradient_steps):
            batch = sample_replay(self.replay_buffer, batch_size, self._vec_normalize_env)
            outcomes.append(self._step(batch, index))
            self.after_step(index)
            self._n_updates += 1
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        for name in dict.fromkeys(name for outcome in outcomes for name in outcome):
            values = [outcome[name] for outcome in outcomes if name in outcome]
            self.logger.record(f"train/{name}", sum(values) / len(values))

    def _set_training_mode(self, mode: bool) -> None:
        if self._watched:
            self.policy.set_training_mode(mode)
            return
        if self._modes is None:
            self._modes = NetworkModes(self.policy)
        self._modes.train(mode)

    def _prepare(self) -> str | None:
        """Find out what a gradient step moves; return why the optimizers themselves must take the steps, if they must."""
        version = self._modules.look(self.policy)
        self._reason = self._steps.prepare(self.policy, version, self.other_values(), self.optimizers())
        return self._reason

    def _step(self, batch: Any, index: int) -> Mapping[str, float]:
        function, coefficients = self.next_step(index)
        try:
            with blaming_numbers(lambda what: self._refusal(what, batch), self._place):
                metrics = self._steps.take(function, batch, coefficients, self.compiled)
        except NotFiniteError as error:
            bad = next((f"{name} is {value}" for name, value in error.metrics.items() if not np.isfinite(value)), None)
            raise self._refusal(bad or "the gradient, or what it leads to, is not finite", batch) from None
        return metrics

    def _place(self) -> str:
        return f"in gradient step {self._n_updates + 1}"

    def _refusal(self, what: str, batch: Any) -> Refusal:
        names = [name for name, part in batch._asdict().items() if part is not None and not _finite(part)]
        cause = f" The batch's {' and '.join(names)} are not finite." if names else ""
        return Refusal(
            f"{what} {self._place()}; the step was not taken, and the model is as it was before it.{cause} Likely causes: "
            f"{CAUSES}."
        )

    def _train_as_sb3_does(self, gradient_steps: int, batch_size: int) -> None:
        """Let SB3 train, where the optimizers themselves must take the steps."""
        moved = [*self.policy.parameters(), *self.policy.buffers(), *self.other_values().values()]
        put_back, n_updates = tensors_of(moved, self.optimizers().values()), self._n_updates

        def refusal(what: str) -> Refusal:
            return Refusal(
                f"{what} in a gradient step after step {n_updates}; the model is as it was after that step. Likely causes: "
                f"{CAUSES}."
            )

        try:
            with blaming_numbers(refusal, self._place):
                super().train(gradient_steps, batch_size)
            if not all(map(all_finite, moved)):
                raise refusal("a parameter is not finite")
        except Refusal:
            put_back()
            self._n_updates = n_updates
            raise


def _finite(part: Any) -> bool:
    return all(bool(th.isfinite(x).all()) for x in flat((part,)))
