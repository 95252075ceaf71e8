"""What a health warning is worth: how often the rules that come with the package fire in trainings that go well."""

import warnings
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch as th

from benchmarks.claims.verdict import Settings, Verdict, provenance
from sb3_pgx.diagnostics import HealthCallback, HealthWarning
from sb3_pgx.experiments.peers import prepare
from sb3_pgx.settings.environments import make_train_env

SEEDS = tuple(range(10))


@dataclass(frozen=True)
class Watched:
    """What became of one training: measured updates, how often each rule came into alarm, and the last mean return."""

    env_id: str
    updates: int
    alarms: dict[str, int]
    training_return: float


@dataclass(frozen=True)
class FalseAlarmClaim:
    """
    With tuned settings, at most ``bound`` rules come into alarm in 100 updates, each counted once for as long as it stays.

    :param trainings: environments with the steps of each training
    """

    algorithm: str
    trainings: tuple[tuple[str, int], ...]
    bound: float = 1.0
    seeds: tuple[int, ...] = SEEDS

    @property
    def statement(self) -> str:
        """The claim in words."""
        envs = ", ".join(env_id for env_id, _ in self.trainings)
        return f"healthy trainings of {self.algorithm} on {envs} have at most {self.bound:g} false alarm in 100 updates"

    @property
    def trains(self) -> tuple[tuple[str, str], ...]:
        """The algorithm in every environment."""
        return tuple((self.algorithm, env_id) for env_id, _ in self.trainings)

    def __call__(self, settings: Settings) -> Verdict:
        """Trains every seed in a process of its own."""
        jobs = [(self.algorithm, *training, seed, settings.configs) for training in self.trainings for seed in self.seeds]
        with ProcessPoolExecutor(settings.workers or 2, mp_context=get_context("spawn")) as pool:
            return judge(self, list(pool.map(watch_training, *zip(*jobs, strict=True))), settings.command)


def judge(claim: FalseAlarmClaim, outcomes: list[Watched], command: str) -> Verdict:
    """
    :param claim: the claim
    :param outcomes: of all its trainings
    :param command: what reproduces the verdict, for the record
    """
    per_environment, lines = {}, []
    for env_id, steps in claim.trainings:
        of_env = [outcome for outcome in outcomes if outcome.env_id == env_id]
        alarms = sum((Counter(outcome.alarms) for outcome in of_env), Counter[str]())
        updates = sum(outcome.updates for outcome in of_env)
        per_environment[env_id] = {
            "timesteps": steps,
            "updates": updates,
            "alarms": dict(alarms),
            "training_return_per_seed": [outcome.training_return for outcome in of_env],
        }
        lines.append(f"{env_id}: {alarms.total()} alarms in {updates} updates {dict(alarms) or ''}".rstrip())
    fired = sum(sum(outcome.alarms.values()) for outcome in outcomes)
    rate = 100 * fired / sum(outcome.updates for outcome in outcomes)
    lines.append(f"{rate:.2f} alarms in 100 updates, bound {claim.bound:g}")
    record = {
        "claim": claim.statement,
        "passed": rate <= claim.bound,
        "bound": claim.bound,
        "alarms_in_100_updates": rate,
        "environments": per_environment,
        "seeds": list(claim.seeds),
        **provenance(claim, command),
    }
    return Verdict("false alarms", claim.statement, rate <= claim.bound, tuple(lines), record)


def watch_training(algorithm: str, env_id: str, steps: int, seed: int, configs: Path | None) -> Watched:
    """One training with its published settings, every update of it measured."""
    th.set_num_threads(1)
    peer, config, _ = prepare(algorithm, env_id, configs)
    model: Any = peer.algorithm(config.policy, make_train_env(config, env_id, seed), seed=seed, **config.hyperparameters)
    health = CountsAlarms()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", HealthWarning)
        model.learn(steps, callback=health, log_interval=1)
    return Watched(env_id, len(health.history), dict(health.alarms), health.history[-1].get("training_return", float("nan")))


class CountsAlarms(HealthCallback):
    """Counts how often each rule comes into alarm."""

    def __init__(self) -> None:
        super().__init__()
        self.alarms: Counter[str] = Counter()
        self._sounding: set[str] = set()

    def on_measured(self) -> None:
        super().on_measured()
        sounding = {watch.rule.name for watch in self.watches if watch.in_alarm}
        self.alarms.update(sounding - self._sounding)
        self._sounding = sounding
