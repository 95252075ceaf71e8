"""Which processes train a model together: its environments say it."""

from typing import Any

from stable_baselines3.common.type_aliases import MaybeCallback
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper

from sb3_pgx.environments.gathered import GatheredVecEnv
from sb3_pgx.environments.spread import ShareOfEnvironments
from sb3_pgx.parallel.failure import Failure
from sb3_pgx.parallel.same import check_same
from sb3_pgx.stages.averaging import Averaging
from sb3_pgx.stages.team import ALONE, Team, Train, described, restore, state_of


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
            model.begin_anew()  # a resumed run has been continued by the first process
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
    while isinstance(env, VecEnvWrapper) and not isinstance(env, ShareOfEnvironments):
        env = env.venv
    if isinstance(env, ShareOfEnvironments):
        return Averaging(env.team, env.reduction)
    return Gathering(env) if isinstance(env, GatheredVecEnv) else ALONE
