"""The table of algorithms by name, which command line, zoo, comparisons and tests share."""

import re
from collections import ChainMap
from collections.abc import Mapping
from difflib import get_close_matches

import sb3_pgx
from sb3_pgx.stages.algorithm import PolicyGradientAlgorithm
from sb3_pgx.stages.off_policy import OffPolicy

# In rl_zoo3's commands these names stand for this package's algorithms; the algorithms of SB3 and sb3-contrib get the names
# on the right. rl_zoo3 makes folders of names, so they have no colon as in `sb3-pgx compare`: some systems forbid it.
RENAMED_IN_RL_ZOO3 = {
    **{name: f"sb3_{name}" for name in ("a2c", "ddpg", "ppo", "sac", "td3")},
    "trpo": "contrib_trpo",
}


def name_of(cls: type) -> str:
    """Return the name of an algorithm on the command line: its class's name in snake case (``"ppo_penalty"``)."""
    return _snake_case(cls.__name__)


def _snake_case(class_name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z0-9])(?=[A-Z][a-z])", "_", class_name).lower()


def _exported(base: type) -> dict[str, type]:
    """Return the exported algorithms of one family by name, apart from those with sb3-contrib's interface."""
    exported = (getattr(sb3_pgx, name) for name in sb3_pgx.__all__ if name not in sb3_pgx.OF_CONTRIB)
    algorithms = (cls for cls in exported if isinstance(cls, type) and issubclass(cls, base))
    return {name_of(cls): cls for cls in sorted(algorithms, key=name_of)}


Algorithm = PolicyGradientAlgorithm | OffPolicy
# Algorithms of the pipeline: they learn from rollouts.
ALGORITHMS: dict[str, type[PolicyGradientAlgorithm]] = _exported(PolicyGradientAlgorithm)
# Algorithms for environments of several agents. Probes, searches and rl_zoo3's commands make environments of one agent, and do
# not offer these algorithms: `why_not_offered` says so. Comparisons take them in environments such as
# sb3_pgx.tasks:SimpleSpread-v3, in which all agents act together.
SEVERAL_AGENTS: dict[str, type[OffPolicy]] = {name_of(sb3_pgx.MADDPG): sb3_pgx.MADDPG}
# Algorithms that learn from a replay memory alone. They have no rollouts and no advantages.
OFF_POLICY: dict[str, type[OffPolicy]] = {
    name: cls for name, cls in _exported(OffPolicy).items() if name not in SEVERAL_AGENTS
}
EVERY_ALGORITHM: Mapping[str, type[Algorithm]] = ChainMap(OFF_POLICY, ALGORITHMS)  # type: ignore[arg-type]
# What to use on the command line instead of a class with sb3-contrib's interface.
INSTEAD = {
    "MaskablePPO": "ppo, which uses an environment's action masks by itself",
    "RecurrentPPO": "ppo with `policy: MlpLstmPolicy` in a hyperparameter file",
}


def why_not_offered(name: str) -> str | None:
    """
    Return why commands do not take a class of this package, and what to use instead. ``None`` if they take it, or if there is
    no such class.

    :param name: name of the class, as it is or in snake case
    """
    key = _snake_case(name)
    if key in SEVERAL_AGENTS:
        return (
            f"{name} learns in environments of several agents, and most commands make those of one: use sb3-pgx compare --env "
            f"sb3_pgx.tasks:SimpleSpread-v3 --algos {key}, or sb3_pgx.{SEVERAL_AGENTS[key].__name__} in a script "
            "(documentation: Several agents, docs/guide/agents.md)"
        )
    for cls, instead in INSTEAD.items():
        if key == _snake_case(cls):
            return (
                f"{name} is not on the command line, because sb3_pgx.{cls} is for scripts with sb3-contrib's interface: use "
                f"{instead} (documentation: {cls}, docs/algorithms/{key}.md)"
            )
    return None


def algorithm_class(name: str) -> type[Algorithm]:
    """
    Return the class of an algorithm.

    :param name: a key of :data:`EVERY_ALGORITHM`
    :raises ValueError: there is no algorithm of that name, and the message gives the nearest names; or it is a class that
        commands do not take, and the message says why
    """
    if name in EVERY_ALGORITHM:
        return EVERY_ALGORITHM[name]
    if (reason := why_not_offered(name)) is not None:
        raise ValueError(reason)
    near = get_close_matches(name.lower(), EVERY_ALGORITHM, n=3)
    raise ValueError(f"algorithm {name!r} is unknown; choose {' or '.join(near or EVERY_ALGORITHM)}")
