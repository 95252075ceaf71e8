"""The table of algorithms by name, which command line, zoo, comparisons and tests share."""

import re
from difflib import get_close_matches

import sb3_pgx
from sb3_pgx.stages.algorithm import PolicyGradientAlgorithm

# In rl_zoo3's commands these names stand for this package's algorithms; the algorithms of SB3 and sb3-contrib get the names
# on the right. rl_zoo3 makes folders of names, so they have no colon as in `sb3-pgx compare`: some systems forbid it.
RENAMED_IN_RL_ZOO3 = {"a2c": "sb3_a2c", "ppo": "sb3_ppo", "trpo": "contrib_trpo"}


def name_of(cls: type) -> str:
    """Return the name of an algorithm on the command line: its class's name in snake case (``"ppo_penalty"``)."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z0-9])(?=[A-Z][a-z])", "_", cls.__name__).lower()


def _exported() -> dict[str, type[PolicyGradientAlgorithm]]:
    exported = (getattr(sb3_pgx, name) for name in sb3_pgx.__all__ if name not in sb3_pgx.OF_CONTRIB)
    algorithms = (cls for cls in exported if isinstance(cls, type) and issubclass(cls, PolicyGradientAlgorithm))
    return {name_of(cls): cls for cls in sorted(algorithms, key=name_of)}


ALGORITHMS = _exported()  # every algorithm that the package exports, apart from those with sb3-contrib's interface


def algorithm_class(name: str) -> type[PolicyGradientAlgorithm]:
    """
    Return the class of an algorithm.

    :param name: a key of :data:`ALGORITHMS`
    :raises ValueError: there is no algorithm of that name; the message gives the nearest names
    """
    if name in ALGORITHMS:
        return ALGORITHMS[name]
    near = get_close_matches(name, ALGORITHMS, n=3)
    raise ValueError(f"algorithm {name!r} is unknown; choose {' or '.join(near or ALGORITHMS)}")
