"""Examine an algorithm: train it on every probe, and name the part that is probably broken if an answer is wrong."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import stable_baselines3 as sb3
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy

from sb3_pgx.algorithms.soft_q_learning import SoftQLearning
from sb3_pgx.core.policies import ActorMixin
from sb3_pgx.doctor.probe_settings import BOUNDS, N_ENVS, linear_to_zero, settings_for
from sb3_pgx.doctor.probes import (
    BOOTSTRAP,
    BOX,
    CRITIC,
    MASKS,
    MEMORY,
    PROBES,
    Answer,
    BoxActions,
    Probe,
    RewardedAction,
    probabilities,
)
from sb3_pgx.doctor.update_checks import UPDATE_SUSPECT, StoredLogProb

OFF_POLICY = (sb3.SAC, sb3.TD3, SoftQLearning)  # and those derived from them
PASSED, FAILED, SKIPPED = "passed", "failed", "skipped"


@dataclass(frozen=True)
class ProbeResult:
    """
    The result of a probe or check.

    :param name: name of the probe or check
    :param outcome: ``"passed"``, ``"failed"`` or ``"skipped"``
    :param answers: what was measured
    :param explanation: what is probably broken, or why the probe was skipped; empty if it passed
    """

    name: str
    outcome: str
    answers: tuple[Answer, ...] = ()
    explanation: str = ""


def examine_algorithm(
    cls: type[BaseAlgorithm], seed: int = 0, probes: Sequence[Probe] = PROBES, **hyperparameters: Any
) -> list[ProbeResult]:
    """
    Train an algorithm on each of the probes for a few thousand steps, and check its updates.

    :param cls: class with the interface of SB3's ``OnPolicyAlgorithm``, ``SAC`` or ``TD3``: from this package, from SB3, or
        your own
    :param seed: seed of the algorithm and of the environments
    :param probes: small environments with known answers
    :param hyperparameters: arguments of the constructor that replace those of :mod:`sb3_pgx.doctor.probe_settings`, except
        ``gamma``, which each probe sets
    :return: one result per probe, in their order; then whether the stored log-probabilities are those of the policy that
        acted, and whether a single update stays within the limit that the algorithm promises
    :raises ValueError: the class is another algorithm, or a hyperparameter is invalid
    :raises TypeError: the constructor has no such argument
    """
    policy = cls.policy_aliases.get("MlpPolicy", ActorCriticPolicy)
    on_policy = issubclass(cls, OnPolicyAlgorithm) and issubclass(policy, ActorCriticPolicy)  # SBX's policies use JAX
    if not (on_policy or issubclass(cls, OFF_POLICY)):
        raise ValueError(
            f"{cls.__name__} is not an on-policy algorithm, SAC, TD3, DDPG, D4PG or SoftQLearning with SB3's interface: "
            "the probes need action probabilities and values V(s) from an ActorCriticPolicy, or Q(s, a) from these"
        )
    if "gamma" in hyperparameters:
        raise ValueError("gamma cannot be set: each probe has its own gamma, for which the right answer is known")
    stored = StoredLogProb()
    results = [_train_on(cls, probe, seed, hyperparameters, stored) for probe in probes]
    if on_policy:
        results.append(_result(stored.name, (stored.answer(),), stored.suspect))
    else:
        results.append(ProbeResult(stored.name, SKIPPED, explanation=f"{cls.__name__} stores no log-probabilities"))
    return [*results, _check_update_size(cls, seed, hyperparameters)]


def _train_on(
    cls: type[BaseAlgorithm], probe: Probe, seed: int, hyperparameters: Mapping[str, Any], callback: BaseCallback
) -> ProbeResult:
    lacks = _lacks(cls, probe)
    if lacks is not None:
        return ProbeResult(probe.name, SKIPPED, explanation=f"{cls.__name__} {lacks}")
    try:
        model = _build(cls, probe, seed, hyperparameters)
    except AssertionError as error:
        if BOX in probe.needs and "only supports" in str(error):  # how SB3 rejects an action space
            return ProbeResult(probe.name, SKIPPED, explanation=f"{cls.__name__} does not support Box actions")
        raise ValueError(f"{cls.__name__} cannot be created: {error}") from error  # how SB3 rejects arguments
    missing = probe.needs & {CRITIC, BOOTSTRAP} - _capabilities(model)
    if missing:
        lack = "has no critic" if CRITIC in missing else "does not bootstrap truncated episodes"
        return ProbeResult(probe.name, SKIPPED, explanation=f"{cls.__name__} {lack}")
    try:
        # The check evaluates actions by observations alone.
        plain = probe.needs.isdisjoint({MASKS, MEMORY}) and not issubclass(cls, OFF_POLICY)
        model.learn(settings_for(cls).timesteps, callback=callback if plain else None)
    except Exception as error:  # the algorithm may be broken in any way
        return ProbeResult(probe.name, FAILED, explanation=f"training raised {type(error).__name__}: {error}")
    return _result(probe.name, tuple(question.answer(model) for question in probe.questions), probe.suspect)


def _lacks(cls: type[BaseAlgorithm], probe: Probe) -> str | None:
    """Return what of a probe's needs a class does not have, as far as it can be known without a model."""
    if MASKS in probe.needs and not hasattr(cls, "use_masking"):
        return "does not mask actions"
    if MEMORY in probe.needs and getattr(cls, "refuses_memory", "only this package's algorithms know") is not None:
        return "has no recurrent policies"
    return None


def _check_update_size(cls: type[BaseAlgorithm], seed: int, hyperparameters: Mapping[str, Any]) -> ProbeResult:
    name, promised = "size of an update", settings_for(cls).bound
    if promised is None:
        return ProbeResult(name, SKIPPED, explanation=f"{cls.__name__} promises no limit on a single update")
    bound = BOUNDS[promised]
    probe = next(probe for probe in PROBES if probe.environment is RewardedAction)
    model = _build(cls, probe, seed, {**hyperparameters, **bound.hyperparameters})
    before = probabilities(model, 0)
    model.learn(1)  # one rollout and its update
    return _result(name, (bound.answer(model, before, probabilities(model, 0)),), UPDATE_SUSPECT)


def _build(cls: type[BaseAlgorithm], probe: Probe, seed: int, hyperparameters: Mapping[str, Any]) -> Any:
    """Return an untrained model in the probe's environment."""
    settings = settings_for(cls)
    arguments: dict[str, Any] = {
        "learning_rate": linear_to_zero(settings.learning_rate),
        # Less exploration than SB3's default, because an action beyond the bounds gets the reward of the clipped action.
        "policy_kwargs": dict(net_arch=[16], log_std_init=-1.2),
        "device": "cpu",
        **copy.deepcopy(settings.hyperparameters),  # SB3 writes into policy_kwargs
        **hyperparameters,
        "gamma": probe.gamma,
        "seed": seed,
    }
    if hasattr(cls, "planned_gradient_steps"):  # an algorithm of this package; compiling does not pay for a few thousand steps
        arguments.setdefault("compile", False)
    policy = "MlpPolicy"
    if MEMORY in probe.needs:
        policy, arguments["policy_kwargs"] = "MlpLstmPolicy", {**arguments["policy_kwargs"], "lstm_hidden_size": 16}
    wrapper = BoxActions if issubclass(cls, OFF_POLICY) else None
    return cls(policy, make_vec_env(probe.environment, n_envs=N_ENVS, seed=seed, wrapper_class=wrapper), **arguments)


def _capabilities(model: Any) -> set[str]:
    """Return which of ``CRITIC`` and ``BOOTSTRAP`` the model has."""
    if isinstance(model.policy, ActorMixin):
        return set()
    return {CRITIC, BOOTSTRAP} if getattr(model, "bootstrap_truncated", True) else {CRITIC}


def _result(name: str, answers: tuple[Answer, ...], suspect: str) -> ProbeResult:
    right = all(answer.right for answer in answers)
    return ProbeResult(name, PASSED if right else FAILED, answers, "" if right else suspect)
