"""What each number and each picture of a report means, in words."""

from collections.abc import Iterator

from sb3_pgx.experiments.design import ComparisonDesign
from sb3_pgx.experiments.number_format import quantity, thousands


def explanations(design: ComparisonDesign) -> Iterator[str]:
    """A sentence or two for each kind of number."""
    several = len(design.env_ids) > 1
    yield (
        f"Final return: {quantity(design.eval_episodes, 'deterministic episode')} of the final policy for each seed; the mean "
        f"over seeds {list(design.seeds)} of each seed's mean, with a percentile bootstrap interval over seeds."
    )
    yield (
        "Interquartile mean: the mean of the middle half of the runs. Luck at either end does not move it, and it needs "
        "fewer runs than a median (Agarwal et al., 2021)."
    )
    if design.thresholds:
        yield (
            f"Steps to the threshold: the first evaluation ({quantity(design.curve_episodes, 'deterministic episode')}) whose "
            "mean reached it; median over seeds, never counting as later than any."
        )
    if design.scored:
        yield (
            "Score: the return on a scale of its environment, 0 and 1 at the returns given below. A score may lie below 0 "
            "or above 1. Where 1 is the best run here, scores cannot be compared with those of another report."
        )
    if several:
        yield (
            "All environments together: the interquartile mean is over all runs of all environments; the mean and the "
            "median are over the environments' means; the optimality gap is by how much runs fall short of 1 on average, "
            "what is above 1 counting as 1. Only seeds that finished in every environment count, so a "
            "failed run makes its algorithm look better than it is."
        )
        yield (
            "Intervals over environments: stratified bootstrap. Runs are drawn anew within each environment; the "
            "environments stay, so nothing is said about others than these."
        )
    yield (
        f"Performance profile: the share of runs whose {'score' if design.scored else 'return'} is above τ, for every τ. A "
        "curve above another one everywhere is better in every respect; its height at one τ is one comparison."
    )
    if len(design.algorithms) > 1:
        yield (
            "Probability of improvement: how often a run of the first algorithm beats one of the second, a tie counting as "
            "half, on average over environments (the Mann–Whitney statistic). It says how often, not by how much. Intervals "
            "that exclude 0.5 are not corrected for the number of pairs."
        )
    yield (
        f"Every algorithm learned from at most {thousands(design.timesteps)} environment steps, all environments of a run "
        "together; a rollout that would have ended later was cut short and not learned from."
    )
    yield (
        "Frames per second and seconds: of training, without evaluations, on one thread each; up to "
        f"{quantity(design.workers, 'run')} at a time shared the machine. Compiling counts as training."
    )
    yield (
        "Hyperparameters are as much compared as algorithms are: a file that was tuned for an environment has an advantage "
        "over defaults. Every run's evaluations are in runs/, runs.csv and curves.csv."
    )


def picture_caption(name: str, design: ComparisonDesign) -> str:
    """What a picture shows."""
    band = "; bands are 95 % bootstrap intervals" if len(design.seeds) > 1 else ""
    score = "score" if design.scored else "return"
    captions = {
        "curves": f"Return of {quantity(design.curve_episodes, 'deterministic episode')} during training, mean over seeds",
        "aggregates": "Each algorithm over all runs of all environments",
        "profiles": f"Share of the runs whose final {score} is above τ",
        "improvement": "How often a run of the first algorithm ends above one of the second; at 0.5 neither is better",
        "sample_efficiency": "Interquartile mean of the score over all environments and seeds, by the steps that a run took",
        "wall_clock": f"Interquartile mean of the {score} over all runs, by seconds of training without evaluations; a run "
        "that has ended keeps its last one",
    }
    return f"{captions[name]}{band}."
