"""Checks the arguments of a comparison and reads them from the command line. Each mistake is reported in one sentence."""

import math
from collections.abc import Mapping, Sequence
from typing import TypeAlias

from sb3_pgx.settings.configs import suggestion

Threshold: TypeAlias = float | Mapping[str, float] | None
SEEDS_END = 2**32  # the first number that NumPy's generators refuse as a seed


def check_at_least_one(**arguments: int) -> None:
    """
    Check that each argument is at least 1.

    :param arguments: whole numbers by name; an underscore in a name is shown as a hyphen
    :raises ValueError: an argument is below 1
    """
    for name, value in arguments.items():
        if value < 1:
            raise ValueError(f"{name.replace('_', '-')} is {value}; it must be at least 1")


def choose_seeds(seeds: int | Sequence[int]) -> tuple[int, ...]:
    """
    Return the seeds of the runs.

    :param seeds: a number of seeds (0, 1, …), or the seeds themselves
    :raises ValueError: there is no seed, a duplicate, or a seed that NumPy's generators refuse
    """
    if isinstance(seeds, int):
        check_at_least_one(seeds=seeds)
        return tuple(range(seeds))
    check_at_least_one(seeds=len(seeds))
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"a seed is given twice: {', '.join(map(str, seeds))}")
    for seed in seeds:
        if not 0 <= seed < SEEDS_END:
            raise ValueError(f"seed {seed} is out of range: seeds are from 0 to {SEEDS_END - 1}")
    return tuple(seeds)


def choose_looks(first: tuple[int, ...], most: int | None) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """
    Return all seeds that may be used, and the numbers of seeds after which a comparison may end. They are declared before the
    first run, because the level of its tests depends on their number.

    :param first: the seeds of the first batch; each further batch has as many, with the next whole numbers
    :param most: most seeds; ``None`` to use the first batch only, without looks
    :raises ValueError: ``most`` is not above the first batch, or the first batch has one seed
    """
    if most is None:
        return first, ()
    n = len(first)
    if n < 2:
        raise ValueError("until-decided needs --seeds 2 or more: one seed has no spread, so it decides nothing")
    if most <= n:
        raise ValueError(f"until-decided is {most}; it must be above the {n} seeds of the first batch")
    seeds = (*first, *range(max(first) + 1, max(first) + 1 + most - n))
    return choose_seeds(seeds), (*range(n, most, n), most)


def check_margin(margin: float | None) -> float:
    """
    Return the largest difference that counts as equivalent, 0 for none.

    :raises ValueError: it is not a positive number
    """
    if margin is not None and not (math.isfinite(margin) and margin > 0):
        raise ValueError(f"equivalence is {margin:g}; it must be a positive number, in units of return (or of score)")
    return margin or 0.0


def check_distinct(names: Sequence[str], what: str) -> tuple[str, ...]:
    """
    Return the names as a tuple.

    :param names: names of environments or of algorithms
    :param what: the kind of thing that they name, for the error
    :raises ValueError: there is no name, or a duplicate
    """
    if not names:
        raise ValueError(f"no {what} to compare was given")
    if len(set(names)) < len(names):
        raise ValueError(f"an {what} is given twice: {', '.join(names)}")
    return tuple(names)


def check_normalize(normalize: Mapping[str, tuple[float, float]], env_ids: Sequence[str]) -> None:
    """
    Check the scales that the user gave.

    :param normalize: returns that count as 0 and as 1, by environment
    :param env_ids: the environments of the comparison
    :raises ValueError: an environment is not part of the comparison, or its two returns are not finite and ascending
    """
    for env_id, (low, high) in normalize.items():
        _check_compared("normalize", env_id, env_ids)
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise ValueError(
                f"normalize {env_id}={low:g},{high:g}: the return that counts as 0 must be below the one that counts as 1"
            )


def find_thresholds(given: Threshold, known: Mapping[str, float | None]) -> dict[str, float]:
    """
    Return the threshold of each environment that has one.

    :param given: the user's: one number for a single environment, or numbers by environment
    :param known: Gymnasium's reward thresholds by environment; ``None`` if it has none
    :raises ValueError: one number was given for several environments, an environment is not part of the comparison, or a
        threshold is not finite
    """
    if isinstance(given, Mapping):
        for env_id in given:
            _check_compared("threshold", env_id, [*known])
    elif given is not None:
        if len(known) > 1:
            raise ValueError(
                f"threshold {given:g} is for one environment; write {next(iter(known))}={given:g} for each of them"
            )
        given = dict.fromkeys(known, given)
    both = {**known, **(given or {})}
    for env_id, value in both.items():
        if value is not None and not math.isfinite(value):
            raise ValueError(f"threshold {env_id}={value:g} must be a finite number")
    return {env_id: float(value) for env_id, value in both.items() if value is not None}


def read_seeds(text: str) -> int | tuple[int, ...]:
    """Read ``3`` as a number of seeds, and ``4,7`` as the seeds themselves (``4,`` for one)."""
    try:
        return tuple(int(seed) for seed in text.split(",") if seed) if "," in text else int(text)
    except ValueError:
        raise ValueError(f"seeds {text}: write a number of seeds, or the seeds themselves separated by commas") from None


def read_threshold(texts: Sequence[str] | None) -> Threshold:
    """Read ``475``, or ``CartPole-v1=475 Acrobot-v1=-100``."""
    if texts is None:
        return None
    if len(texts) == 1 and "=" not in texts[0]:
        return _number("threshold", texts[0], texts[0])
    return {env_id: _number("threshold", text, value) for text, (env_id, value) in _pairs("threshold", texts, "RETURN")}


def read_normalize(texts: Sequence[str] | None) -> dict[str, tuple[float, float]]:
    """Read ``CartPole-v1=20,475 Acrobot-v1=-500,-100``."""
    found = {}
    for text, (env_id, values) in _pairs("normalize", texts or (), "LOW,HIGH"):
        low, comma, high = values.partition(",")
        if not comma:
            raise ValueError(f"normalize {text}: write ENVIRONMENT=LOW,HIGH")
        found[env_id] = (_number("normalize", text, low), _number("normalize", text, high))
    return found


def _pairs(option: str, texts: Sequence[str], what: str) -> list[tuple[str, tuple[str, str]]]:
    pairs = []
    for text in texts:
        env_id, equals, value = text.rpartition("=")
        if not (env_id and equals and value):
            raise ValueError(f"{option} {text}: write ENVIRONMENT={what}")
        pairs.append((text, (env_id, value)))
    return pairs


def _number(option: str, text: str, value: str) -> float:
    try:
        return float(value)
    except ValueError:
        raise ValueError(f"{option} {text}: {value!r} is not a number") from None


def _check_compared(option: str, env_id: str, env_ids: Sequence[str]) -> None:
    if env_id not in env_ids:
        near = suggestion(env_id, [*env_ids])
        raise ValueError(f"{option} names {env_id!r}, which is not among the compared environments {', '.join(env_ids)}{near}")
