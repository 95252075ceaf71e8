"""One table from name to algorithm, so that command line, zoo, comparisons and tests agree on what there is."""

from difflib import get_close_matches

from stable_baselines3.common.base_class import BaseAlgorithm

from sb3_pgx.algorithms.a2c import A2C
from sb3_pgx.algorithms.acer import ACER
from sb3_pgx.algorithms.npg import NPG
from sb3_pgx.algorithms.ppo import PPO
from sb3_pgx.algorithms.ppo_penalty import PPOPenalty
from sb3_pgx.algorithms.reinforce import REINFORCE, REINFORCEBaseline
from sb3_pgx.algorithms.trpo import TRPO

ALGORITHMS: dict[str, type[BaseAlgorithm]] = {
    "a2c": A2C,
    "acer": ACER,
    "npg": NPG,
    "ppo": PPO,
    "ppo_penalty": PPOPenalty,
    "reinforce": REINFORCE,
    "reinforce_baseline": REINFORCEBaseline,
    "trpo": TRPO,
}

# In rl_zoo3's commands these names stand for this package's algorithms; the algorithms of SB3 and sb3-contrib get the names
# on the right. rl_zoo3 makes folders of names, so they have no colon as in `sb3-pgx compare`: some systems forbid it.
RENAMED_IN_RL_ZOO3 = {"a2c": "sb3_a2c", "ppo": "sb3_ppo", "trpo": "contrib_trpo"}


def algorithm_class(name: str) -> type[BaseAlgorithm]:
    """
    :param name: a key of :data:`ALGORITHMS`
    :return: the algorithm's class
    :raises ValueError: no algorithm of that name; gives the nearest ones
    """
    if name in ALGORITHMS:
        return ALGORITHMS[name]
    near = get_close_matches(name, ALGORITHMS, n=3)
    raise ValueError(f"algorithm {name!r} is unknown; choose {' or '.join(near or ALGORITHMS)}")
