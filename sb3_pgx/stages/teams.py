"""Which processes train a model together: its environments say it."""

from weakref import WeakSet

from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper

from sb3_pgx.environments.gathered import GatheredVecEnv
from sb3_pgx.environments.gathered_rollouts import GatheredRollouts
from sb3_pgx.environments.spread import LearningShare
from sb3_pgx.stages.averaging import Averaging
from sb3_pgx.stages.gathering import Gathering, GatheringRollouts
from sb3_pgx.stages.team import ALONE, Team

_alone: WeakSet[VecEnv] = WeakSet()  # environments of this process alone, which are looked up at each step


def team_of(env: VecEnv | None) -> Team:
    """Return the processes that train in these environments together."""
    if env is None or env in _alone:
        return ALONE
    inner = env
    while isinstance(inner, VecEnvWrapper) and not isinstance(inner, LearningShare):
        inner = inner.venv
    if isinstance(inner, LearningShare):
        return Averaging(inner)
    if isinstance(inner, GatheredRollouts):
        return GatheringRollouts(inner)
    if isinstance(inner, GatheredVecEnv):
        return Gathering(inner)
    _alone.add(env)
    return ALONE
