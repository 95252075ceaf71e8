"""Normalises the returns of different environments: which return counts as 0, which as 1, and why."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from sb3_pgx.experiments.runs import RunResult
from sb3_pgx.experiments.statistics import Floats, Sample
from sb3_pgx.settings.configs import RunConfig
from sb3_pgx.settings.environments import make_eval_env

RANDOM_EPISODES, RANDOM_STEPS, RANDOM_SEED = 20, 50_000, 3_000_000


@dataclass(frozen=True)
class Scale:
    """
    A linear map from returns to scores: ``low`` becomes 0, ``high`` becomes 1. Scores may lie below 0 or above 1.

    :param low: return that counts as 0
    :param high: return that counts as 1, above ``low``
    :param low_is: where ``low`` comes from, in words
    :param high_is: where ``high`` comes from, in words
    """

    low: float
    high: float
    low_is: str
    high_is: str

    def __call__(self, returns: Sample | float) -> Floats:
        """Return the scores, in the shape of the returns."""
        return (np.asarray(returns, dtype=float) - self.low) / (self.high - self.low)


RETURNS = Scale(0.0, 1.0, "a return of 0", "a return of 1")  # scores that are the returns themselves


def find_scale(
    returns: Sequence[float],
    given: tuple[float, float] | None,
    random: float | None,
    threshold: float | None,
) -> Scale:
    """
    Choose the returns that count as 0 and as 1. Most environments have no human score, so a random policy counts as 0. The
    threshold counts as 1 if the environment has one, otherwise the best run of the comparison does; scores of different
    comparisons are then not comparable. If random actions have no return, because they crash the environment for example, the
    worst run counts as 0.

    :param returns: mean return of every finished run in the environment
    :param given: returns that the user wants to count as 0 and as 1, or ``None``
    :param random: mean return of a random policy, or ``None`` if it has none
    :param threshold: return that counts as solved, or ``None``
    """
    if given is not None:
        return Scale(*given, "given by the user", "given by the user")
    low_is = f"a random policy (at most {RANDOM_EPISODES} episodes)"
    if random is None:
        random, low_is = min(returns, default=0.0), "the worst run of this comparison" if returns else "0, without any run"
    if threshold is not None and threshold > random:
        return Scale(random, threshold, low_is, "the threshold")
    best, worst = max(returns, default=random), min(returns, default=random)
    if best > random:
        return Scale(random, best, low_is, "the best run of this comparison")
    # No run is better than random: the unit is the distance from a random policy down to the worst run.
    return Scale(
        random, random + ((random - worst) or 1.0), low_is, "as far above the random policy as the worst run is below it"
    )


def random_return(env_id: str, config: RunConfig, max_steps: int = RANDOM_STEPS) -> float:
    """
    Return the mean return of a policy that acts uniformly at random, over :data:`RANDOM_EPISODES` episodes, or over as many as
    end within ``max_steps`` steps.

    :param env_id: Gymnasium's name of the environment
    :param config: settings whose environment arguments and wrappers are used
    :param max_steps: most steps to play
    :raises ValueError: no episode ended
    """
    env = make_eval_env(replace(config, normalize=None, frame_stack=None), env_id, RANDOM_SEED)
    env.action_space.seed(RANDOM_SEED)
    env.reset()
    returns: list[float] = []
    for _ in range(max_steps):
        _, _, dones, infos = env.step([env.action_space.sample()])  # type: ignore[arg-type]
        if dones[0]:
            returns.append(float(infos[0]["episode"]["r"]))
            if len(returns) == RANDOM_EPISODES:
                break
    env.close()
    if not returns:
        raise ValueError(f"they end no episode within {max_steps} steps")
    return float(np.mean(returns))


def complete_seeds(results: Sequence[RunResult], env_ids: Sequence[str]) -> list[int]:
    """Return the seeds of one algorithm whose runs finished in every environment, so that environments have equal weight."""
    finished = {(r.seed, r.env_id) for r in results if r.error is None}
    seeds = dict.fromkeys(r.seed for r in results)
    return [seed for seed in seeds if all((seed, env_id) in finished for env_id in env_ids)]


def score_matrix(results: Sequence[RunResult], scales: Mapping[str, Scale]) -> Floats:
    """
    Return the final scores of one algorithm.

    :param results: its runs
    :param scales: one scale per environment
    :return: ``[S, E]``: seeds whose runs finished in every environment, and environments in the order of ``scales``
    """
    means = {(r.seed, r.env_id): float(scales[r.env_id](r.mean_return)) for r in results if r.error is None}
    seeds = complete_seeds(results, [*scales])
    return np.array([[means[seed, env_id] for env_id in scales] for seed in seeds]).reshape(len(seeds), len(scales))
