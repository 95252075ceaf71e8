"""The command that reproduces a comparison, and the folder that it writes to by default."""

import shlex
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path

from sb3_pgx.experiments.comparison_arguments import Threshold
from sb3_pgx.experiments.output_folder import folder_name


def command_of(
    env_ids: Sequence[str],
    names: Sequence[str],
    timesteps: int,
    seeds: Sequence[int],
    threshold: Threshold,
    eval_episodes: int,
    configs: Path | str | None,
    normalize: Mapping[str, tuple[float, float]],
    vec_env: str | None,
    margin: float,
    looks: Sequence[int],
) -> str:
    """
    Return the command that reproduces a comparison, without its output folder. Arguments are those of
    :func:`~sb3_pgx.experiments.comparison.compare`.

    :param seeds: all seeds that may be used
    :param margin: the argument ``equivalence``, or 0
    :param looks: numbers of seeds after which the comparison may end; empty if only when all are done
    """
    words = ["sb3-pgx", "compare", "--env", *env_ids, "--algos", *names, "--timesteps", str(timesteps)]
    seeds = seeds[: looks[0]] if looks else seeds
    words += (
        ["--seeds", str(len(seeds))]
        if [*seeds] == [*range(len(seeds))]
        else ["--seeds", ",".join(map(str, seeds)) + ("," if len(seeds) == 1 else "")]
    )
    if isinstance(threshold, Mapping):
        words += ["--threshold", *(f"{env_id}={value}" for env_id, value in threshold.items())] if threshold else []
    elif threshold is not None:
        words += ["--threshold", f"{threshold}"]
    words += ["--eval-episodes", str(eval_episodes)] if eval_episodes != 20 else []
    words += ["--configs", str(configs)] if configs is not None else []
    words += ["--normalize", *(f"{env_id}={low},{high}" for env_id, (low, high) in normalize.items())] if normalize else []
    words += ["--vec-env", vec_env] if vec_env is not None else []
    words += ["--equivalence", f"{margin:g}"] if margin else []
    words += ["--until-decided", str(looks[-1])] if looks else []
    return shlex.join(words)


def default_output(env_ids: Sequence[str]) -> Path:
    """Return the folder for the results if none is given: ``runs/compare-<env>-<time>``."""
    name = folder_name(env_ids[0]) if len(env_ids) == 1 else f"{len(env_ids)}-environments"
    return Path("runs") / f"compare-{name}-{datetime.now():%Y%m%d-%H%M%S}"
