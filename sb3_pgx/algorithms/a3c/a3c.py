"""A3C: workers in processes of their own update shared parameters asynchronously, each with A2C's gradient step."""

import io
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import cloudpickle
import numpy as np
import torch as th
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import GymEnv, Schedule
from stable_baselines3.common.vec_env import VecEnv

from sb3_pgx.algorithms.a2c import A2C
from sb3_pgx.algorithms.a3c.environments import Factory, is_factory, packed, remember_factory
from sb3_pgx.algorithms.a3c.processes import WorkerProcesses
from sb3_pgx.algorithms.a3c.shared_memory import SharedMemory, Worker, allocate
from sb3_pgx.core.checks import as_flag, check_counts
from sb3_pgx.core.search_space import Categorical, Dimension
from sb3_pgx.engine.optimizers import rule_of
from sb3_pgx.stages.algorithm import ceil_div
from sb3_pgx.stages.team import ALONE


class A3C(A2C):
    """
    Asynchronous advantage actor-critic (Mnih et al., 2016, algorithm S3).

    Each worker repeats on its own: copy the shared parameters, take ``n_steps`` in its own environments, compute the gradient
    and the optimizer's step as :class:`~sb3_pgx.A2C` does, and add the step to the shared parameters. Nobody waits for anybody
    else, and nothing is locked. With ``n_workers=1`` the numbers are those of ``A2C``.

    The first worker is this process: callbacks, logs, evaluations and saving work as in any other algorithm, and see the first
    worker's episodes. ``num_timesteps`` counts the steps of all workers. The other workers are processes that start when
    ``learn`` is called and end with it, so scripts must call ``learn`` inside of ``if __name__ == "__main__":``. If one of
    them fails or is killed, the training ends with an error, and the model keeps what had been learned by then.

    With more than one worker, a run cannot be repeated exactly, even with the same seed.

    :param policy: ``"MlpPolicy"`` (vectors), ``"CnnPolicy"`` (images), ``"MultiInputPolicy"`` (dictionaries), or a policy
        class
    :param env: an environment, a ``VecEnv``, the id of a registered environment, or a function without arguments that makes
        environments. Every other worker gets its own environments: what the function makes in its process, or a copy. The
        function, or the environments, must be such that cloudpickle can pickle them
    :param learning_rate: step size of the optimizer. Typical: 1e-4 to 1e-3. Larger values learn faster until updates become
        unstable. A number, a function of the remaining progress (1 to 0) or a string such as ``"lin_7e-4"``
    :param n_steps: steps per environment and rollout; the batch of an update has n_steps · n_envs rows, where n_envs is the
        number of environments of one worker. Typical: 5 to 32. Larger values give better gradients and fewer updates per
        environment step
    :param gamma: γ, discount factor per step, in [0, 1]. Typical: 0.98 to 0.999; rewards count over about 1/(1 − γ) steps.
        Larger values look further ahead, with more variance
    :param gae_lambda: λ of generalised advantage estimation, in [0, 1]. Typical: 0.9 to 1. 0 gives the one-step actor-critic,
        1 n-step returns minus V(s), as in the paper. Larger values bring less bias from the critic and more variance
    :param ent_coef: weight of the entropy (in nats) in the loss. Typical: 0 to 0.01. Larger values keep the policy more
        random. A number, a schedule or a string
    :param vf_coef: weight of the mean squared value error in the loss. Typical: 0.25 to 1. Larger values train the critic
        harder; matters most if actor and critic share layers. A number, a schedule or a string
    :param max_grad_norm: largest L2 norm of the gradient, which is scaled down to it. Typical: 0.5 to 1. Smaller values damp
        outliers; under Adam and RMSprop, a limit that is always active changes little. ``None`` disables clipping
    :param rms_prop_eps: ε that RMSprop adds to the root mean square of the gradient. Typical: 1e-8 to 1e-3. Larger values
        shorten the steps of parameters with small gradients
    :param use_rms_prop: use RMSprop, as the paper does, instead of Adam
    :param use_sde: use generalised state-dependent exploration (Raffin et al., 2022): smooth exploration noise, Box actions
        only
    :param sde_sample_freq: steps between two draws of the noise of ``use_sde``. Typical: 4 to 64, or −1, once per rollout.
        Larger values explore more smoothly
    :param rollout_buffer_class: your own class with the interface of SB3's ``RolloutBuffer``, filled after collection;
        ``None``: SB3's interface to the rollout
    :param rollout_buffer_kwargs: further arguments of ``rollout_buffer_class``
    :param normalize_advantage: standardise the advantages over the batch to mean 0 and standard deviation 1, so that the step
        does not depend on the scale of the rewards
    :param stats_window_size: number of recent episodes that ``rollout/ep_rew_mean`` averages over. Typical: 100. Larger values
        give smoother curves that lag more; training does not depend on it
    :param tensorboard_log: folder for TensorBoard logs; ``None`` writes none
    :param policy_kwargs: arguments of the policy's constructor, such as ``dict(net_arch=[64, 64])``
    :param verbose: 0 prints nothing, 1 prints messages and the log, 2 adds debug messages
    :param seed: seed of weights, actions, minibatches and environments; each worker derives its own from it. ``None``: not
        seeded
    :param device: ``"cpu"``, ``"cuda"`` or ``"auto"`` (CUDA if available). Shared memory is the CPU's, so ``"cpu"`` is faster
        for small networks
    :param _init_setup_model: build the networks at once; SB3 passes ``False`` while loading
    :param compile: compile acting and the gradient step: ``True``, ``False``, or ``"auto"``, which compiles if the run is long
        enough to repay it (:data:`sb3_pgx.engine.compiler.COMPILE_AFTER`)
    :param discount_state_weighting: weight the policy's gradient at step t of an episode with γ^t, which makes it the exact
        gradient of the discounted objective. Not together with ``normalize_advantage``
    :param n_workers: number of workers, of which the first is this process. Typical: 1, which is ``A2C``, up to the number of
        cores. Larger values take more steps per second, with gradients at parameters that others change meanwhile
        (``train/staleness``)
    :param share_statistics: share the optimizer's statistics, such as RMSprop's mean of squared gradients, which the paper
        found to be more robust. ``False``: each worker has its own, and the model keeps those of the first
    :param ent_coef_last: weight of the entropy for the last worker; the weights of the workers between the first and the last
        are evenly spaced from ``ent_coef`` to this. Typical: ``None``, the same weight for all, or 0.005 to 0.05. Larger
        values make the workers explore more differently. A number, a schedule or a string
    :raises ValueError: an argument is invalid
    """

    search_space: ClassVar[tuple[Dimension, ...]] = (*A2C.search_space, Categorical("share_statistics", (True, False)))

    worker: Worker | None = None  # this process's side of the shared memory, during training
    others: WorkerProcesses | None = None  # the other workers, if this is the first one

    def __init__(
        self,
        policy: str | type[ActorCriticPolicy],
        env: GymEnv | str | Factory,
        learning_rate: float | str | Schedule = 7e-4,
        n_steps: int = 5,
        gamma: float = 0.99,
        gae_lambda: float = 1.0,
        ent_coef: float | str | Schedule = 0.0,
        vf_coef: float | str | Schedule = 0.5,
        max_grad_norm: float | None = 0.5,
        rms_prop_eps: float = 1e-5,
        use_rms_prop: bool = True,
        use_sde: bool = False,
        sde_sample_freq: int = -1,
        rollout_buffer_class: type[RolloutBuffer] | None = None,
        rollout_buffer_kwargs: dict[str, Any] | None = None,
        normalize_advantage: bool = False,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: th.device | str = "auto",
        _init_setup_model: bool = True,
        *,
        compile: bool | Literal["auto"] = "auto",
        discount_state_weighting: bool = False,
        n_workers: int = 1,
        share_statistics: bool = True,
        ent_coef_last: float | str | Schedule | None = None,
    ):
        super().__init__(
            policy,
            env,  # type: ignore[arg-type]
            learning_rate=learning_rate,
            n_steps=n_steps,
            gamma=gamma,
            gae_lambda=gae_lambda,
            ent_coef=ent_coef,
            vf_coef=vf_coef,
            max_grad_norm=max_grad_norm,
            rms_prop_eps=rms_prop_eps,
            use_rms_prop=use_rms_prop,
            use_sde=use_sde,
            sde_sample_freq=sde_sample_freq,
            rollout_buffer_class=rollout_buffer_class,
            rollout_buffer_kwargs=rollout_buffer_kwargs,
            normalize_advantage=normalize_advantage,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            policy_kwargs=policy_kwargs,
            verbose=verbose,
            seed=seed,
            device=device,
            _init_setup_model=False,
            compile=compile,
            discount_state_weighting=discount_state_weighting,
        )
        self.n_workers = n_workers
        self.share_statistics = share_statistics
        self.ent_coef_last = ent_coef_last
        if _init_setup_model:
            self._setup_model()

    @staticmethod
    def _wrap_env(env: GymEnv | Factory, verbose: int = 0, monitor_wrapper: bool = True) -> VecEnv:
        if not is_factory(env):
            return A2C._wrap_env(env, verbose, monitor_wrapper)  # type: ignore[arg-type]
        made = A2C._wrap_env(env(), verbose, monitor_wrapper)  # type: ignore[operator]
        remember_factory(made, env)  # type: ignore[arg-type]
        return made

    def check_arguments(self) -> None:
        """
        Check the arguments.

        :raises ValueError: an argument is invalid
        """
        super().check_arguments()
        check_counts(n_workers=self.n_workers)
        self.share_statistics = as_flag("share_statistics", self.share_statistics)
        if self.ent_coef_last is not None:
            self.coefficient("ent_coef_last")

    def coefficient(self, name: str) -> float:
        """
        Return the current value of a coefficient, which for ``ent_coef`` depends on the worker.

        :param name: argument of the constructor
        :raises ValueError: it is negative, not finite, or no coefficient
        """
        value = super().coefficient(name)
        if name != "ent_coef" or self.worker is None or self.worker.rank == 0 or self.ent_coef_last is None:
            return value
        share = self.worker.rank / (self.n_workers - 1)
        return (1 - share) * value + share * self.coefficient("ent_coef_last")

    def planned_gradient_steps(self, timesteps: int) -> int:
        """Return the number of gradient steps of one worker."""
        return ceil_div(super().planned_gradient_steps(timesteps), self.n_workers)

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "worker", "others"]

    # ------------------------------------------------------------------------------------------------ every worker

    def collect_rollouts(self, *args: Any, **kwargs: Any) -> bool:
        """Collect a rollout, unless the training has ended. Arguments are those of the base class."""
        if self.worker is None:  # outside of `learn`
            return super().collect_rollouts(*args, **kwargs)
        if self.others is not None:
            self.others.check()
        if self.worker.stopped:
            return False
        before = self.num_timesteps
        try:
            return super().collect_rollouts(*args, **kwargs)
        finally:
            self.num_timesteps = self.worker.count_steps(self.num_timesteps - before)

    def _measured_update(self) -> dict[str, float]:
        """Take A2C's gradient step on the worker's copy of the parameters, and publish it."""
        if self.worker is None:
            return super()._measured_update()
        if self.worker.statistics is not None:
            self.worker.statistics.pull()
        try:
            metrics = super()._measured_update()
        except Exception:
            self.worker.uncount_steps()
            raise
        if self.worker.statistics is not None:
            self.worker.statistics.push()
        return {**metrics, "staleness": float(self.worker.publish())}

    # ------------------------------------------------------------------------------------------------ the first worker

    def _iterate(self, total_timesteps: int, callback: BaseCallback, log_interval: int | None, iteration: int = 0) -> int:
        if self.worker is not None:  # in the process of another worker
            return super()._iterate(total_timesteps, callback, log_interval, iteration)
        with self._training_with_others(total_timesteps):
            return super()._iterate(total_timesteps, callback, log_interval, iteration)

    def save_checkpoint(self, folder: str | Path, name_prefix: str = "rl_model", keep: int | None = None) -> None:
        """
        Write a checkpoint, as the base class does. Arguments are those of the base class.

        :raises ValueError: there are several workers, whose environments are in other processes and in other rollouts
        """
        if self.n_workers > 1:
            raise ValueError(
                f"n_workers={self.n_workers}: a run of several asynchronous workers cannot be continued exactly, so it has no "
                "checkpoints; save(path) keeps the model"
            )
        super().save_checkpoint(folder, name_prefix, keep)

    @contextmanager
    def _training_with_others(self, total_timesteps: int) -> Iterator[None]:
        """Within this context, the other workers train. Afterwards the model has the shared parameters."""
        prepare = self._packed_worker(total_timesteps) if self.n_workers > 1 else b""
        shared = allocate(self.policy, self.n_workers, self.num_timesteps)
        self.worker = Worker(self.policy, shared, 0, self.share_statistics)
        self.worker.copy_parameters()
        try:
            with WorkerProcesses(prepare, shared) as self.others:
                self.others.begin()
                if self.n_workers > 1:
                    self.start_time = time.time_ns()  # time/fps is about training, not about starting processes
                yield
        finally:
            self.worker.copy_parameters()
            self.num_timesteps = self.worker.count_steps(0)
            self.worker = self.others = None

    def _packed_worker(self, total_timesteps: int) -> bytes:
        """Return what another worker needs, pickled: this model and its environments."""
        assert self.env is not None
        if self.team is not ALONE:
            raise ValueError(
                "A3C with n_workers > 1 starts processes of its own, but these environments are those of several: make them "
                "without parallel=…, or use A2C"
            )
        if self._vec_normalize_env is not None:
            raise ValueError(
                "A3C with n_workers > 1 cannot use VecNormalize, whose statistics would differ between the workers: use A2C "
                "or PPO, or a wrapper with fixed scales"
            )
        rule = rule_of(self.policy.optimizer)
        if self.share_statistics and isinstance(rule, str):
            raise ValueError(f"A3C cannot share the optimizer's statistics, because {rule}: pass share_statistics=False")
        file = io.BytesIO()
        self.save(file)
        arguments = (type(self), file.getvalue(), packed(self.env), self.seed, self.device, total_timesteps, self.use_masking)
        return cloudpickle.dumps(partial(_prepare_worker, *arguments))


def _prepare_worker(
    algorithm: type[A3C],
    model: bytes,
    make_env: Factory,
    seed: int | None,
    device: th.device,
    total_timesteps: int,
    use_masking: bool,
    rank: int,
) -> Callable[[SharedMemory, int], None]:
    """
    Make the model of a worker, in its process, and return the function that trains it.

    :param algorithm: class of the model
    :param model: the first worker's model, as a file
    :param make_env: makes the worker's environments
    :param seed: seed of the first worker
    :param device: device of the policy
    :param total_timesteps: steps of all workers after which the training ends
    :param use_masking: see ``learn``
    :param rank: number of the worker
    """
    made = algorithm.load(io.BytesIO(model), env=make_env(), device=device, tensorboard_log=None, verbose=0)
    made.set_random_seed(_seed_of_worker(seed, rank))
    made.set_logger(Logger(None, []))

    def train(shared: SharedMemory, rank: int) -> None:
        made.worker = Worker(made.policy, shared, rank, made.share_statistics)
        made.worker.copy_parameters()
        remaining = total_timesteps - made.num_timesteps
        made.learn(remaining, log_interval=None, reset_num_timesteps=False, use_masking=use_masking)

    return train


def _seed_of_worker(seed: int | None, rank: int) -> int:
    """Return a seed for each worker, independent of the others'."""
    entropy = None if seed is None else (seed, rank)
    return int(np.random.SeedSequence(entropy).generate_state(1)[0] >> 1)
