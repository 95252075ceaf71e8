"""The first sentences of a comparison's report: which algorithm is better, by how much, and how sure that is."""

from sb3_pgx.experiments.analysis import Analysis, Pair
from sb3_pgx.experiments.design import ComparisonDesign
from sb3_pgx.experiments.number_format import quantity
from sb3_pgx.experiments.verdicts import BETTER, EQUIVALENT, UNDECIDED, WORSE


def summary(analysis: Analysis, design: ComparisonDesign) -> str:
    """Return the answer of the comparison in a few sentences."""
    means, what = _means(analysis, design)
    if len(means) < 2:
        return _alone(analysis, design)
    highest = max(means.values())
    best = [label for label, mean in means.items() if mean == highest and label not in analysis.identical]
    value = f"{highest:.{2 if design.scored else 1}f}"
    sentence = f"{_listed(best)} {'ends' if len(best) == 1 else 'end'} with the highest {what}: {value}."
    return " ".join([sentence, *_twins(analysis), *_verdicts(best, analysis, design)])


def _means(analysis: Analysis, design: ComparisonDesign) -> tuple[dict[str, float], str]:
    """Return the mean of each algorithm that has one and is not the twin of an earlier one, and what it is the mean of."""
    if design.scored:
        means = {a.label: a.estimates["mean"].value for a in analysis.aggregates}
        what = f"mean score over {quantity(len(analysis.counted), 'environment')}"
    else:
        (summaries,) = analysis.summaries.values()
        means = {s.label: s.mean.value for s in summaries if s.n_finished}
        what = "mean return"
    return means, what


def _alone(analysis: Analysis, design: ComparisonDesign) -> str:
    ends = [
        f"{s.label} ends with a mean return of {s.mean.value:.1f} in {env_id}."
        for env_id, summaries in analysis.summaries.items()
        for s in summaries
        if s.n_finished
    ]
    return " ".join(ends) or "Every run failed."


def _twins(analysis: Analysis) -> list[str]:
    return [
        f"Every evaluation of {label} equals that of {twin}, seed by seed{_faster(label, twin, analysis)}."
        for label, twin in analysis.identical.items()
    ]


def _faster(label: str, twin: str, analysis: Analysis) -> str:
    """Return which of two algorithms with the same curves trained faster."""
    found = {s.label: s for summaries in analysis.summaries.values() for s in summaries}
    a, b = found[label], found[twin]
    if len(analysis.summaries) > 1 or not (a.seconds > 0 and b.seconds > 0):
        return ""
    fast, slow = (a, b) if a.seconds <= b.seconds else (b, a)
    took = f"; {fast.label} took {fast.seconds:.1f} s per run, {slow.label} {slow.seconds:.1f} s"
    return f"{took}: {slow.seconds / fast.seconds:.1f} times as long"


def _verdicts(equals: list[str], analysis: Analysis, design: ComparisonDesign) -> list[str]:
    """
    Return sentences on the first of the best algorithms, which have the same mean, and each other one that is not identical to
    an earlier one.
    """
    best = equals[0]
    others: dict[str, list[str]] = {BETTER: [], EQUIVALENT: [], UNDECIDED: []}
    for pair in analysis.pairs:
        other = pair.second if pair.first == best else pair.first
        if best in (pair.first, pair.second) and other not in analysis.identical:
            verdict = pair.verdict.verdict if pair.first == best else _turned(pair)
            if verdict != UNDECIDED or other not in equals:
                others.setdefault(verdict, []).append(other)
    sentences = []
    if others[BETTER]:
        sentences.append(f"{best} is better than {_listed(others[BETTER])}.")
    if others[EQUIVALENT]:
        sentences.append(f"{best} is equivalent to {_listed(others[EQUIVALENT])} within {design.margin:g}.")
    if others[UNDECIDED]:
        n = quantity(len(design.seeds), "seed")
        sentences.append(f"With {n} it is undecided whether {best} is better than {_listed(others[UNDECIDED])}.")
    return sentences


def _turned(pair: Pair) -> str:
    """Return the verdict on the second algorithm of a pair."""
    return {BETTER: WORSE, WORSE: BETTER}.get(pair.verdict.verdict, pair.verdict.verdict)


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
