"""The arguments of a comparison, checked one by one, each mistake one sentence."""

import math
from collections.abc import Mapping, Sequence
from typing import TypeAlias

from sb3_pgx.settings.configs import suggestion

Threshold: TypeAlias = float | Mapping[str, float] | None
SEEDS_END = 2**32  # NumPy's generator takes none from there on


def check_at_least_one(**arguments: int) -> None:
    """:raises ValueError: an argument is below 1"""
    for name, value in arguments.items():
        if value < 1:
            raise ValueError(f"{name.replace('_', '-')} is {value}; it must be at least 1")


def choose_seeds(seeds: int | Sequence[int]) -> tuple[int, ...]:
    """
    :param seeds: how many, or which ones
    :raises ValueError: none, one twice, or one that no generator takes
    """
    if isinstance(seeds, int):
        check_at_least_one(seeds=seeds)
        return tuple(range(seeds))
    check_at_least_one(seeds=len(seeds))
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"a seed is named twice: {', '.join(map(str, seeds))}")
    for seed in seeds:
        if not 0 <= seed < SEEDS_END:
            raise ValueError(f"seed {seed}: seeds are from 0 to {SEEDS_END - 1}")
    return tuple(seeds)


def check_distinct(names: Sequence[str], what: str) -> tuple[str, ...]:
    """:raises ValueError: no name, or one twice"""
    if not names:
        raise ValueError(f"no {what} to compare was given")
    if len(set(names)) < len(names):
        raise ValueError(f"an {what} is named twice: {', '.join(names)}")
    return tuple(names)


def check_normalize(normalize: Mapping[str, tuple[float, float]], env_ids: Sequence[str]) -> None:
    """:raises ValueError: an environment that is not compared, or returns that are no scale"""
    for env_id, (low, high) in normalize.items():
        _check_compared("normalize", env_id, env_ids)
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise ValueError(f"normalize {env_id}={low:g},{high:g}: the first return counts as 0 and must be below the second")


def find_thresholds(given: Threshold, known: Mapping[str, float | None]) -> dict[str, float]:
    """
    :param given: one number for a single environment, or by environment
    :param known: Gymnasium's, by environment
    :return: those that there are
    :raises ValueError: one number for several environments, an environment that is not compared, or no finite number
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
            raise ValueError(f"threshold {env_id}={value:g}: no return can be compared with it")
    return {env_id: float(value) for env_id, value in both.items() if value is not None}


def read_seeds(text: str) -> int | tuple[int, ...]:
    """``3`` for how many, ``4,7`` for which ones (``4,`` for one)."""
    try:
        return tuple(int(seed) for seed in text.split(",") if seed) if "," in text else int(text)
    except ValueError:
        raise ValueError(f"seeds {text}: write a number, or the seeds themselves with commas between them") from None


def read_threshold(texts: Sequence[str] | None) -> Threshold:
    """``475``, or ``CartPole-v1=475 Acrobot-v1=-100``."""
    if texts is None:
        return None
    if len(texts) == 1 and "=" not in texts[0]:
        return _number("threshold", texts[0], texts[0])
    return {env_id: _number("threshold", text, value) for text, (env_id, value) in _pairs("threshold", texts, "RETURN")}


def read_normalize(texts: Sequence[str] | None) -> dict[str, tuple[float, float]]:
    """``CartPole-v1=20,475 Acrobot-v1=-500,-100``."""
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
        raise ValueError(f"{option} names {env_id!r}, and compared is {', '.join(env_ids)}{near}")
