"""Returns of different environments on one scale: which return counts as 0, which one as 1, and why."""

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
    A return as a score: ``low`` is 0, ``high`` is 1, and the rest lies on a line through them, beyond 0 and 1, too.

    :param low: return that counts as 0
    :param high: return that counts as 1, above ``low``
    :param low_is: what ``low`` is, in words
    :param high_is: what ``high`` is
    """

    low: float
    high: float
    low_is: str
    high_is: str

    def __call__(self, returns: Sample | float) -> Floats:
        """Scores of returns, of the same shape."""
        return (np.asarray(returns, dtype=float) - self.low) / (self.high - self.low)


RETURNS = Scale(0.0, 1.0, "a return of 0", "a return of 1")  # scores that are the returns themselves


def find_scale(
    returns: Sequence[float],
    given: tuple[float, float] | None,
    random: float | None,
    threshold: float | None,
) -> Scale:
    """
    There are no human scores for most environments. So a random policy is 0; and what counts as solved, where that is known,
    is 1, else the best run of the comparison, which makes scores of different comparisons incomparable.

    :param returns: mean return of every finished run in the environment
    :param given: returns that the user wants to count as 0 and 1
    :param random: mean return of a random policy; may be None where ``given`` is not
    :param threshold: return that counts as solved
    """
    if given is not None:
        return Scale(*given, "given", "given")
    assert random is not None
    low_is = f"a random policy (at most {RANDOM_EPISODES} episodes)"
    if threshold is not None and threshold > random:
        return Scale(random, threshold, low_is, "the threshold")
    best, worst = max(returns, default=random), min(returns, default=random)
    if best > random:
        return Scale(random, best, low_is, "the best run here")
    # No run got beyond it: then the unit is how far the worst one lies below.
    return Scale(random, random + ((random - worst) or 1.0), low_is, "as far above it as the worst run is below")


def random_return(env_id: str, config: RunConfig) -> float:
    """
    Mean return of episodes of uniformly random actions: :data:`RANDOM_EPISODES` of them, or as many as end within
    :data:`RANDOM_STEPS` steps.

    :param env_id: Gymnasium's name of the environment
    :param config: its arguments and wrappers
    :raises ValueError: random actions do not end an episode
    """
    env = make_eval_env(replace(config, normalize=None, frame_stack=None), env_id, RANDOM_SEED)
    env.action_space.seed(RANDOM_SEED)
    env.reset()
    returns: list[float] = []
    for _ in range(RANDOM_STEPS):
        _, _, dones, infos = env.step(np.stack([env.action_space.sample()]))
        if dones[0]:
            returns.append(float(infos[0]["episode"]["r"]))
            if len(returns) == RANDOM_EPISODES:
                break
    env.close()
    if not returns:
        raise ValueError(
            f"random actions end no episode of {env_id} within {RANDOM_STEPS} steps, so that its returns have no scale; say "
            f"which ones count as 0 and 1: --normalize {env_id}=LOW,HIGH"
        )
    return float(np.mean(returns))


def complete_seeds(results: Sequence[RunResult], env_ids: Sequence[str]) -> list[int]:
    """Seeds of one algorithm whose runs finished in every environment, so that each environment counts as much as another."""
    finished = {(r.seed, r.env_id) for r in results if r.error is None}
    seeds = dict.fromkeys(r.seed for r in results)
    return [seed for seed in seeds if all((seed, env_id) in finished for env_id in env_ids)]


def score_matrix(results: Sequence[RunResult], scales: Mapping[str, Scale]) -> Floats:
    """
    Final scores of one algorithm.

    :param results: its runs
    :param scales: by environment
    :return: ``[S, E]``, of the seeds whose runs finished in every environment, environments in the order of ``scales``
    """
    means = {(r.seed, r.env_id): float(scales[r.env_id](r.mean_return)) for r in results if r.error is None}
    seeds = complete_seeds(results, [*scales])
    return np.array([[means[seed, env_id] for env_id in scales] for seed in seeds]).reshape(len(seeds), len(scales))
