"""How the processes of a run train one model together: what each does in ``learn``."""

import io
from collections.abc import Callable
from typing import Any

import torch as th
from stable_baselines3.common.type_aliases import MaybeCallback
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper

from sb3_pgx.core.undo import is_scalar
from sb3_pgx.environments.gathered import Failure, GatheredVecEnv
from sb3_pgx.parallel.same import check_same
from sb3_pgx.stages.guard import statistics_of

Train = Callable[[MaybeCallback], None]
# Attributes of a model in which processes may differ.
_OWN = ("verbose", "start_time", "tensorboard_log", "device")


class Team:
    """The processes that train a model: this one alone. Subclasses differ in what they do together."""

    size = 1
    is_first = True

    def learn(self, model: Any, train: Train, callback: MaybeCallback, total_timesteps: int) -> None:
        """
        Train.

        :param model: the model
        :param train: trains it in this process, with a callback
        :param callback: the user's
        :param total_timesteps: environment steps
        """
        train(callback)


ALONE = Team()


class Gathering(Team):
    """
    One process acts and learns, the others step environments for it.

    :param env: the environments of all processes
    """

    def __init__(self, env: GatheredVecEnv):
        self.env, self.is_first = env, env.team.is_first

    def learn(self, model: Any, train: Train, callback: MaybeCallback, total_timesteps: int) -> None:
        check_same(self.env.team, {**described(model), "total_timesteps": total_timesteps})
        if not self.is_first:
            result = self.env.serve()
            if isinstance(result, Failure):
                raise result.error()
            restore(model, result)
            return
        self.env.serving = True
        try:
            train(callback)
        except Exception as error:
            self.env.dismiss(Failure(error, 0))
            raise
        self.env.dismiss(state_of(model))


def team_of(env: VecEnv | None) -> Team:
    """Return the processes that train in these environments together."""
    while isinstance(env, VecEnvWrapper):
        env = env.venv
    return Gathering(env) if isinstance(env, GatheredVecEnv) else ALONE


def described(model: Any) -> dict[str, Any]:
    """Return the arguments and counters of a model that must be the same in all processes."""
    simple = (str, bool, int, float, type(None))
    values = {k: v for k, v in vars(model).items() if isinstance(v, simple) and k[0] != "_" and k not in _OWN}
    return {"the algorithm": type(model).__name__, "the policy": model.policy_class.__name__, **values}


def state_of(model: Any) -> dict[str, Any]:
    """Return what another process needs to have the same model: parameters, optimizers, counters and statistics."""
    file = io.BytesIO()
    th.save(model.get_parameters(), file)
    normalize = model.get_vec_normalize_env()
    return {
        "parameters": file.getvalue(),
        "numbers": {k: v for k, v in vars(model).items() if is_scalar(v) and k not in _OWN},
        "statistics": {} if normalize is None else statistics_of(normalize),
    }


def restore(model: Any, state: dict[str, Any]) -> None:
    """
    Give a model the state of another one.

    :param model: of the same class and arguments
    :param state: result of :func:`state_of`
    """
    model.set_parameters(th.load(io.BytesIO(state["parameters"]), map_location=model.device), device=model.device)
    vars(model).update(state["numbers"])
    normalize = model.get_vec_normalize_env()
    if normalize is not None:
        vars(normalize).update(state["statistics"])
