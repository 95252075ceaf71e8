"""Trains an algorithm on every probe, and says which part of it is likely to be broken where an answer is wrong."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy

from sb3_pgx.core.policies import ActorMixin
from sb3_pgx.doctor.mechanics import STEP_SUSPECT, StoredLogProb
from sb3_pgx.doctor.probes import BOOTSTRAP, BOX, CRITIC, PROBES, Probe, RewardedAction
from sb3_pgx.doctor.questions import Answer, probabilities
from sb3_pgx.doctor.settings import N_ENVS, falling, settings_for

PASSED, FAILED, SKIPPED = "passed", "failed", "skipped"


@dataclass(frozen=True)
class ProbeResult:
    """
    What came of a probe: ``outcome`` is ``"passed"``, ``"failed"`` or ``"skipped"``. ``sentence`` names the part that is
    likely to be broken, or why the probe was skipped; it is empty where the probe passed.
    """

    name: str
    outcome: str
    answers: tuple[Answer, ...] = ()
    sentence: str = ""


def examine_algorithm(cls: type[BaseAlgorithm], seed: int = 0, **hyperparameters: Any) -> list[ProbeResult]:
    """
    Trains on each of :data:`~sb3_pgx.doctor.probes.PROBES` for a few thousand steps, and looks at how the updates were made.

    :param cls: a class with the interface of SB3's ``OnPolicyAlgorithm``: of this package, of SB3, or derived from one
    :param seed: of training and environments
    :param hyperparameters: instead of those of :mod:`sb3_pgx.doctor.settings`; the discount factor is each probe's own
    :return: a result for each probe, in their order; then whether the stored log-probabilities are those of the policy that
        acted, and whether one update moves the policy no further than the algorithm promises
    :raises ValueError: the class is no on-policy algorithm, or a hyperparameter makes no sense
    :raises TypeError: the constructor does not know a hyperparameter
    """
    policy = cls.policy_aliases.get("MlpPolicy", ActorCriticPolicy)
    if not (issubclass(cls, OnPolicyAlgorithm) and issubclass(policy, ActorCriticPolicy)):  # SBX's policies are JAX's
        raise ValueError(
            f"{cls.__name__} is no on-policy algorithm of SB3's interface: the probes ask for a policy's probabilities and "
            "for values V(s), which it does not have"
        )
    if "gamma" in hyperparameters:
        raise ValueError("gamma belongs to the probes: each has its own, for which the answer is known")
    stored = StoredLogProb()
    results = [_train_on(cls, probe, seed, hyperparameters, stored) for probe in PROBES]
    results.append(_result(stored.name, (stored.answer(),), stored.suspect))
    return [*results, _size_of_an_update(cls, seed, hyperparameters)]


def _train_on(
    cls: type[OnPolicyAlgorithm], probe: Probe, seed: int, hyperparameters: Mapping[str, Any], callback: BaseCallback
) -> ProbeResult:
    try:
        model = _build(cls, probe, seed, hyperparameters)
    except AssertionError as error:
        if BOX in probe.needs and "only supports" in str(error):  # how SB3's base class refuses an action space
            return ProbeResult(probe.name, SKIPPED, sentence=f"{cls.__name__} has no Box actions")
        raise ValueError(f"{cls.__name__} cannot be made: {error}") from error  # how SB3 refuses arguments
    missing = probe.needs & {CRITIC, BOOTSTRAP} - _capabilities(model)
    if missing:
        lack = "has no critic" if CRITIC in missing else "does not bootstrap truncated episodes"
        return ProbeResult(probe.name, SKIPPED, sentence=f"{cls.__name__} {lack}")
    try:
        model.learn(settings_for(cls).timesteps, callback=callback)
    except Exception as error:  # what is examined may be broken in any way
        return ProbeResult(probe.name, FAILED, sentence=f"training ended with {type(error).__name__}: {error}")
    return _result(probe.name, tuple(question.put_to(model) for question in probe.questions), probe.suspect)


def _size_of_an_update(cls: type[OnPolicyAlgorithm], seed: int, hyperparameters: Mapping[str, Any]) -> ProbeResult:
    name, bound = "size of an update", settings_for(cls).bound
    if bound is None:
        return ProbeResult(name, SKIPPED, sentence=f"{cls.__name__} promises no bound on a single update")
    probe = next(probe for probe in PROBES if probe.environment is RewardedAction)
    model = _build(cls, probe, seed, {**hyperparameters, **bound.hyperparameters})
    before = probabilities(model, 0)
    model.learn(1)  # a whole rollout, and its update
    return _result(name, (bound.answer(model, before, probabilities(model, 0)),), STEP_SUSPECT)


def _build(cls: type[OnPolicyAlgorithm], probe: Probe, seed: int, hyperparameters: Mapping[str, Any]) -> Any:
    """The untrained model, in the probe's environment."""
    settings = settings_for(cls)
    arguments: dict[str, Any] = {
        "learning_rate": falling(settings.learning_rate),
        # Less exploration than SB3's: an action beyond the bounds is clipped, and its reward that of another one.
        "policy_kwargs": dict(net_arch=[16], log_std_init=-1.2),
        "device": "cpu",
        **settings.hyperparameters,
        **hyperparameters,
        "gamma": probe.gamma,
        "seed": seed,
    }
    if hasattr(cls, "planned_gradient_steps"):  # of this package: a few thousand steps do not pay for a compiler
        arguments.setdefault("compile", False)
    return cls("MlpPolicy", make_vec_env(probe.environment, n_envs=N_ENVS, seed=seed), **arguments)


def _capabilities(model: Any) -> set[str]:
    """What the model has of what a probe may need."""
    if isinstance(model.policy, ActorMixin):
        return set()
    return {CRITIC, BOOTSTRAP} if getattr(model, "bootstrap_truncated", True) else {CRITIC}


def _result(name: str, answers: tuple[Answer, ...], suspect: str) -> ProbeResult:
    right = all(answer.right for answer in answers)
    return ProbeResult(name, PASSED if right else FAILED, answers, "" if right else suspect)
