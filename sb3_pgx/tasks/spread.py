"""Agents that spread over landmarks, as one environment of gymnasium."""

from typing import Any

from sb3_pgx.core.optional_packages import require_extra
from sb3_pgx.environments import JointEnv


def simple_spread(**kwargs: Any) -> JointEnv:
    """
    Return mpe2's ``simple_spread`` (Lowe et al., 2017: cooperative navigation) as :class:`~sb3_pgx.environments.JointEnv`, in
    which :class:`~sb3_pgx.MADDPG` learns. Its reward is the sum over agents, and its episodes have 25 steps.

    :param kwargs: arguments of mpe2's environment, such as ``N``, the number of agents
    :raises ImportError: mpe2 is not installed; says how to install it
    """
    require_extra("environments of several agents", ("mpe2", "pettingzoo"), "agents")
    from mpe2 import simple_spread_v3

    return JointEnv(simple_spread_v3.parallel_env(**{"max_cycles": 25, **kwargs}))
