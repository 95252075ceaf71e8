"""Executes one training run with its evaluations, with the same budget, seeds and clock for every algorithm."""

import platform
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from typing import Any

import gymnasium as gym
import numpy as np
import stable_baselines3 as sb3
import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import sync_envs_normalization

import sb3_pgx
from sb3_pgx.core.errors import type_and_text
from sb3_pgx.environments.evaluation import EvalCallback, evaluate_policy
from sb3_pgx.experiments.forwarded_log import ForwardedLog
from sb3_pgx.experiments.peers import constructor_arguments
from sb3_pgx.settings.action_noise import with_action_noise
from sb3_pgx.settings.configs import ENVPOOL, RunConfig
from sb3_pgx.settings.environments import make_eval_env, make_train_env
from sb3_pgx.settings.registration import simulator_versions

# The environments of a run have consecutive seeds. The stride keeps the episodes of different runs apart. The offsets keep the
# learning curve's and the final evaluation's episodes apart from those of training (for run seeds below 1000).
CURVE_SEEDS, FINAL_SEEDS, SEED_STRIDE = 1_000_000, 2_000_000, 1_000
MAX_EVAL_ENVS = 20
COMPILING = ("compiling ", "another process compiles")  # how the sentences begin that announce a wait

AtPoint = Callable[[int, float], None]  # environment steps so far and the mean return that was measured there


def nowhere(steps: int, mean_return: float) -> None:
    """Ignore a point of the learning curve."""


@dataclass(frozen=True)
class RunProgress:
    """
    What a run has done since its last report.

    :param steps: environment steps
    :param seconds: seconds of training, without evaluations. Seconds of compiling are subtracted when they are known.
    :param last_return: mean return of the newest training episodes; ``None`` if there are none
    :param activity: sentence about compiling, if that begins; otherwise empty
    """

    steps: int = 0
    seconds: float = 0.0
    last_return: float | None = None
    activity: str = ""

    def __add__(self, later: "RunProgress") -> "RunProgress":
        """Return the progress of both."""
        return RunProgress(
            self.steps + later.steps,
            self.seconds + later.seconds,
            self.last_return if later.last_return is None else later.last_return,
            later.activity,
        )


Report = Callable[[RunProgress], bool]  # returns whether to go on


class Interrupted(Exception):
    """The run was stopped before its budget was used up."""


@dataclass(frozen=True)
class RunSpec:
    """
    One run: what to train, for how long, and how to evaluate it.

    :param label: name of the algorithm in the report
    :param algorithm: its class
    :param env_id: Gymnasium's name of the environment
    :param seed: seed of the run
    :param timesteps: environment steps, summed over the parallel environments
    :param config: the settings
    :param curve_points: number of evaluations during training, evenly spaced; 0 for none
    :param curve_episodes: deterministic episodes per evaluation during training
    :param eval_episodes: deterministic episodes of the final policy
    """

    label: str
    algorithm: type[BaseAlgorithm]
    env_id: str
    seed: int
    timesteps: int
    config: RunConfig
    curve_points: int = 20
    curve_episodes: int = 5
    eval_episodes: int = 20

    @property
    def versions(self) -> dict[str, str]:
        """Versions of the packages that affect the run."""
        return versions(self.env_id, envpool=self.config.vec_env == ENVPOOL)

    @property
    def kind(self) -> str:
        """What the runs of other seeds have in common with this one: ``sb3:ppo on CartPole-v1``."""
        return f"{self.label} on {self.env_id}"

    @property
    def title(self) -> str:
        """The run in words: ``sb3:ppo on CartPole-v1, seed 0``."""
        return f"{self.kind}, seed {self.seed}"

    @property
    def name(self) -> str:
        """File name of the run without a suffix: ``sb3-ppo-seed0``."""
        return f"{file_name(self.label)}-seed{self.seed}"


def steps_between_points(timesteps: int, curve_points: int, n_envs: int) -> int:
    """Return the environment steps from one point of a learning curve to the next, summed over the parallel environments."""
    return max(timesteps // (curve_points * n_envs), 1) * n_envs


def file_name(label: str) -> str:
    """Return a label without characters that have a meaning in paths or shells; a digest keeps variants apart."""
    name, bracket, _ = label.replace(":", "-").partition("[")
    return f"{name}-{sha256(label.encode()).hexdigest()[:8]}" if bracket else name


@dataclass(frozen=True)
class RunResult:
    """
    The result of a run.

    :param label: name of the algorithm in the report
    :param env_id: Gymnasium's name of the environment
    :param seed: seed of the run
    :param timesteps: the budget of environment steps
    :param source: where the settings came from
    :param steps: environment steps taken, summed over the parallel environments
    :param curve_steps: environment steps at each evaluation during training
    :param curve_returns: mean return of each evaluation during training
    :param returns: return of each episode of the final policy
    :param training_seconds: seconds of training, without evaluations
    :param error: why the run failed, in one sentence; ``None`` if it did not
    :param traceback: traceback of the error
    :param config: the settings
    :param versions: versions of the packages that affect the result
    :param curve_seconds: seconds of training before each evaluation during training
    """

    label: str
    env_id: str
    seed: int
    timesteps: int
    source: str
    steps: int = 0
    curve_steps: list[int] = field(default_factory=list)
    curve_returns: list[float] = field(default_factory=list)
    returns: list[float] = field(default_factory=list)
    training_seconds: float = 0.0
    error: str | None = None
    traceback: str | None = None
    config: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    curve_seconds: list[float] = field(default_factory=list)

    @property
    def mean_return(self) -> float:
        """Mean return of the final policy's episodes."""
        return float(np.mean(self.returns))

    @property
    def frames_per_second(self) -> float:
        """Environment steps per second of training."""
        return self.steps / self.training_seconds


def execute(spec: RunSpec, report: Report = lambda progress: True, at_point: AtPoint = nowhere) -> RunResult:
    """
    Train and evaluate. If the run fails, the error is part of the result, so that other runs go on.

    :param spec: the run
    :param report: called from time to time; returns whether to continue
    :param at_point: called with each point of the learning curve; may raise :class:`Interrupted` to end the run
    :raises Interrupted: ``report`` returned False, or ``at_point`` raised it
    """
    try:
        return _train_and_evaluate(spec, report, at_point)
    except Interrupted:
        raise
    except Exception as error:
        return failed(spec, error)


def failed(spec: RunSpec, error: BaseException, stack: str = "") -> RunResult:
    """
    Return the result of a run that raised an error.

    :param spec: the run
    :param error: the error
    :param stack: what the run was executing, if its process was ended; otherwise it is the error's traceback
    """
    return _result(spec, error=type_and_text(error), traceback=stack or "".join(traceback.format_exception(error)))


def versions(*env_ids: str, envpool: bool = False) -> dict[str, str]:
    """
    Return the versions of the packages that affect runs.

    :param env_ids: environments of the runs, whose simulators are included
    :param envpool: whether EnvPool simulates some of them
    """
    return {
        "sb3_pgx": sb3_pgx.__version__,
        "python": platform.python_version(),
        "torch": str(th.__version__),
        "stable_baselines3": sb3.__version__,
        "gymnasium": gym.__version__,
        **simulator_versions(env_ids, envpool),
    }


def _train_and_evaluate(spec: RunSpec, report: Report, at_point: AtPoint) -> RunResult:
    config = spec.config
    with ExitStack() as stack:
        env = make_train_env(config, spec.env_id, SEED_STRIDE * spec.seed)  # EnvPool's are seeded here and not later
        stack.callback(env.close)
        given = with_action_noise(config.hyperparameters, env.action_space, config.source)
        arguments = constructor_arguments(spec.algorithm, given)
        model = spec.algorithm(config.policy, env, seed=spec.seed, verbose=0, **arguments)
        env.seed(
            SEED_STRIDE * spec.seed
        )  # replaces the consecutive seeds of the constructor, with which runs would share episodes
        curve = _LearningCurve(spec, env.num_envs, at_point) if spec.curve_points else None
        if curve is not None:
            stack.callback(curve.eval_env.close)
        watch = _Watch(spec.timesteps, report, lambda: curve.seconds if curve else 0.0)
        callbacks: list[BaseCallback] = [watch] if curve is None else [watch, curve]
        start = time.perf_counter()
        model.learn(spec.timesteps, callback=callbacks)
        training_seconds = time.perf_counter() - start - (curve.seconds if curve else 0.0)
        watch.flush()
        if isinstance(model, OnPolicyAlgorithm) and not watch.learned_from:
            raise ValueError(
                f"the budget of {spec.timesteps} steps ended before the first rollout was complete, so nothing was learned; "
                "give the run more steps, or shorten the rollouts"
            )
        return _result(
            spec,
            steps=model.num_timesteps,
            curve_steps=curve.steps if curve else [],
            curve_seconds=curve.training_seconds if curve else [],
            curve_returns=curve.returns if curve else [],
            returns=_final_returns(spec, model),
            training_seconds=training_seconds,
        )


def _result(spec: RunSpec, **outcome: Any) -> RunResult:
    return RunResult(
        label=spec.label,
        env_id=spec.env_id,
        seed=spec.seed,
        timesteps=spec.timesteps,
        source=spec.config.source,
        config=asdict(spec.config),
        versions=spec.versions,
        **outcome,
    )


def _final_returns(spec: RunSpec, model: BaseAlgorithm) -> list[float]:
    """Return the return of each deterministic episode of the trained policy, in separate environments."""
    seed = FINAL_SEEDS + SEED_STRIDE * spec.seed
    env = make_eval_env(spec.config, spec.env_id, seed, min(spec.eval_episodes, MAX_EVAL_ENVS))
    training_env = model.get_env()
    assert training_env is not None
    sync_envs_normalization(training_env, env)
    returns, _ = evaluate_policy(model, env, spec.eval_episodes, deterministic=True, return_episode_rewards=True)
    env.close()
    if not np.isfinite(returns).all():  # nan compares with nothing, and its mean is meaningless
        raise ValueError(f"the episodes of the final policy returned {returns}; check the environment's reward function")
    return [float(r) for r in returns]


class _Watch(BaseCallback):
    """
    Stops training when the budget is used up, and reports progress.

    Rollouts of fixed length overshoot the budget, and rollouts of whole episodes even more so. Without this callback, some
    algorithms would learn from more data than others. It stops *beyond* the budget, not at it: a rollout that ends exactly at
    the budget must still be learned from, and a rollout that is cut short is not.

    :param timesteps: the budget
    :param report: receives the progress
    :param seconds_apart: returns the seconds since training started that were not training
    """

    SECONDS = 0.2

    def __init__(self, timesteps: int, report: Report, seconds_apart: Callable[[], float]):
        super().__init__()
        self.timesteps, self.report, self.seconds_apart = timesteps, report, seconds_apart
        self.reported_steps, self.reported_at, self.reported_seconds = 0, 0.0, 0.0
        self.learned_from = 0  # environment steps of complete rollouts
        self.compile_seconds = 0.0

    def _init_callback(self) -> None:
        self.started = time.perf_counter()
        self.logger.output_formats.append(ForwardedLog(self._on_sentence, self._on_numbers))

    def _on_step(self) -> bool:
        if time.monotonic() - self.reported_at > self.SECONDS:
            self.flush()
        return self.num_timesteps <= self.timesteps

    def _on_rollout_end(self) -> None:
        self.learned_from = self.num_timesteps

    def flush(self) -> None:
        """Report what was done since the last report."""
        seconds = time.perf_counter() - self.started - self.seconds_apart() - self.compile_seconds
        steps = self.num_timesteps - self.reported_steps
        progress = RunProgress(steps, seconds - self.reported_seconds, self._last_return())
        self.reported_steps, self.reported_seconds = self.num_timesteps, seconds
        self.reported_at = time.monotonic()
        if not self.report(progress):
            raise Interrupted

    def _last_return(self) -> float | None:
        returns = [episode["r"] for episode in self.model.ep_info_buffer or ()]
        return float(np.mean(returns)) if returns else None

    def _on_sentence(self, sentence: str) -> None:
        """Pass on that compiling begins. The report may not end the run here: several threads may compile."""
        if sentence.startswith(COMPILING):
            self.report(RunProgress(activity=sentence))

    def _on_numbers(self, metrics: Mapping[str, Any]) -> None:
        self.compile_seconds = float(metrics.get("time/compile_seconds", 0.0))


class _LearningCurve(EvalCallback):
    """Evenly spaced evaluations during training. Measures their seconds; the clock starts when it is constructed."""

    def __init__(self, spec: RunSpec, n_envs: int, at_point: AtPoint):
        seed = CURVE_SEEDS + SEED_STRIDE * spec.seed
        env = make_eval_env(spec.config, spec.env_id, seed, min(spec.curve_episodes, MAX_EVAL_ENVS))
        # EvalCallback counts calls; each is one step of all environments.
        every = steps_between_points(spec.timesteps, spec.curve_points, n_envs) // n_envs
        super().__init__(env, n_eval_episodes=spec.curve_episodes, eval_freq=every, deterministic=True, verbose=0)
        self.at_point = at_point
        self.seconds = 0.0
        self.started = time.perf_counter()
        self.steps: list[int] = []
        self.training_seconds: list[float] = []
        self.returns: list[float] = []

    def _on_step(self) -> bool:
        start = time.perf_counter()
        go_on = super()._on_step()
        if self.n_calls % self.eval_freq == 0:
            self.steps.append(self.num_timesteps)
            self.training_seconds.append(start - self.started - self.seconds)
            self.returns.append(float(self.last_mean_reward))
            self.at_point(self.steps[-1], self.returns[-1])
        self.seconds += time.perf_counter() - start
        return go_on
