"""Everything of a run that a saved model lacks: where the environments, callbacks, logs and random numbers are."""

import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import SeqWriter
from torch.optim import Optimizer

from sb3_pgx.checkpoints.environments import ProcessState, of_environments, process_state, set_process_state
from sb3_pgx.checkpoints.logger_state import LoggerState, forget_after, logger_state, reopened
from sb3_pgx.checkpoints.replay_memory import continue_memory, end_episodes_in_memory
from sb3_pgx.checkpoints.shares import fitted, gathered_size, size_of
from sb3_pgx.core.errors import warn

# Attributes of the model that continue with the state of the environments, with which they may share objects. SB3 saves some
# of them, too, and sets them when `learn` starts.
ATTRIBUTES = (
    *("_last_obs", "_last_episode_starts", "_last_original_obs", "_last_memory", "ep_info_buffer", "ep_success_buffer"),
    *("action_space", "observation_space", "compiled", "_num_timesteps_at_start", "replay_buffer", "_metrics"),
    *("action_noise", "_memory_has_gap"),
)
# Objects of the model that callbacks may refer to. They stay as they are, because the saved model has them.
_REFERENCES = (
    *("policy", "average_policy", "curvature", "rollout_buffer", "env", "lr_schedule", "device", "_undo", "_modules"),
    *("log_ent_coef", "ent_coef_optimizer"),
)


class RunState(NamedTuple):
    """State of a run between two iterations. ``iteration`` is ``None`` between two calls of ``learn``."""

    process: ProcessState
    logger: LoggerState | None
    iteration: int | None


class _Values(NamedTuple):
    """What shares objects with the environments and callbacks."""

    attributes: dict[str, Any]
    elapsed: float  # seconds of `learn` so far


def run_state(model: BaseAlgorithm, callback: BaseCallback | None, iteration: int | None) -> RunState:
    """
    Save the state of a run.

    :param model: the model
    :param callback: the callbacks of ``learn``; ``None`` between two calls
    :param iteration: iterations of ``learn`` so far; ``None`` between two calls
    """
    attributes = {name: vars(model)[name] for name in ATTRIBUTES if name in vars(model)}
    elapsed = (time.time_ns() - getattr(model, "start_time", time.time_ns())) / 1e9
    roots = _roots(model, callback)
    references = {id(value): key for key, value in _references(model).items()}
    process = process_state(roots, _Values(attributes, elapsed), references)
    logger = logger_state(model.logger, model._custom_logger) if "logger" in roots else None
    return RunState(process, logger, iteration)


def _roots(model: BaseAlgorithm, callback: BaseCallback | None) -> dict[str, Any]:
    roots = {"env": model.env, "callback": callback, "logger": getattr(model, "_logger", None)}
    return {name: value for name, value in roots.items() if value is not None}


def _references(model: BaseAlgorithm) -> Mapping[Any, Any]:
    attributes = vars(model)
    references: dict[Any, Any] = {("model",): model}
    references |= {("attribute", name): attributes[name] for name in _REFERENCES if attributes.get(name) is not None}
    for name, module in model.policy.named_modules():
        references |= {("module", name): module} if name else {}
        optimizer = vars(module).get("optimizer")  # of the policy, or of each of an off-policy policy's networks
        references |= {("optimizer", *filter(None, [name])): optimizer} if isinstance(optimizer, Optimizer) else {}
    references |= {("parameter", name): parameter for name, parameter in model.policy.named_parameters()}
    return references


def open_logger(model: BaseAlgorithm, state: RunState) -> bool:
    """
    Let the model log into the files of the run, unless the user has set another logger.

    :param model: the resumed model
    :param state: where it continues
    :return: whether it does so
    """
    if state.logger is None or model._custom_logger or not any(place for _, place in state.logger.formats):
        return False
    model.set_logger(reopened(state.logger))
    return True


def continue_run(model: BaseAlgorithm, callback: BaseCallback | None, state: RunState) -> None:
    """
    Continue a run whose model has been loaded, and whose environments have been reset.

    Where the state of an environment could not be saved or put back, the episodes of all environments restart.

    :param model: the resumed model
    :param callback: the callbacks of ``learn``, initialised
    :param state: result of :func:`run_state`
    """
    roots, process = _roots(model, callback), fitted(state.process, model.env)
    values, restarting, missing = set_process_state(process, roots, _references(model))
    vars(model).update(values.attributes)
    continue_memory(model)
    model.start_time = time.time_ns() - int(values.elapsed * 1e9)
    restarts = of_environments(restarting)
    if restarts:
        _restart_episodes(model)
        _tell(model, f"Resuming: episodes restart, because the state of {_listed(restarts)} cannot be saved")
    _tell_of_random_numbers(model, size_of(state.process))
    continued = {*process.episodes.keys(), *process.workers.keys()} - restarting.keys()
    others = {**process.graph.lost, **restarting}
    others = {path: name for path, name in others.items() if path not in continued and path not in restarts}
    if others:
        _tell(model, f"Resuming: not continued, because it cannot be saved: {_listed(others)}")
    names = [process.graph.classes[path].rpartition(".")[2] for path in missing if _is_callback(path)]
    absent = [name for name in names if name not in ("CallbackList", "ConvertCallback")]
    if absent and callback is not None:
        _tell(model, f"Resuming: callbacks that are missing or in another order start from scratch: {', '.join(absent)}")
    if "logger" in roots:
        forget_after(model.logger, model.num_timesteps)


def _tell_of_random_numbers(model: BaseAlgorithm, before: int) -> None:
    now = gathered_size(model.env)
    if before != now:
        _tell(
            model,
            f"Resuming a run of {before} process{'es' * (before > 1)} in {now}: environments that draw from the global "
            "generators of Python, NumPy or torch go on with other random numbers; everything else continues exactly",
        )


def _restart_episodes(model: BaseAlgorithm) -> None:
    assert model.env is not None
    model._last_obs = model.env.reset()  # type: ignore[assignment]
    model._last_episode_starts = np.ones(model.env.num_envs, dtype=bool)
    if model._vec_normalize_env is not None:
        model._last_original_obs = model._vec_normalize_env.get_original_obs()
    end_episodes_in_memory(model)


def _is_callback(path: str) -> bool:
    """Return whether a path is that of a callback, and not of the environments or anything else that it has."""
    return path.startswith("callback") and path.rpartition(".")[2].startswith("callback")


def _tell(model: BaseAlgorithm, sentence: str) -> None:
    """Log a sentence, or warn if no output of the logger shows it."""
    outputs = model.logger.output_formats if hasattr(model, "_logger") else []
    if any(isinstance(output, SeqWriter) for output in outputs):
        model.logger.info(sentence)
    else:
        warn(sentence)


def _listed(lost: Mapping[str, Any]) -> str:
    return ", ".join(f"{path} ({names if isinstance(names, str) else ', '.join(names)})" for path, names in lost.items())
