"""Which processes train a model together: its environments say it."""

from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper

from sb3_pgx.environments.gathered import GatheredVecEnv
from sb3_pgx.environments.gathered_rollouts import GatheredRollouts
from sb3_pgx.environments.spread import LearningShare
from sb3_pgx.stages.averaging import Averaging
from sb3_pgx.stages.gathering import Gathering, GatheringRollouts
from sb3_pgx.stages.team import ALONE, Team


def team_of(env: VecEnv | None) -> Team:
    """Return the processes that train in these environments together."""
    while isinstance(env, VecEnvWrapper) and not isinstance(env, LearningShare):
        env = env.venv
    if isinstance(env, LearningShare):
        return Averaging(env)
    if isinstance(env, GatheredRollouts):
        return GatheringRollouts(env)
    return Gathering(env) if isinstance(env, GatheredVecEnv) else ALONE
