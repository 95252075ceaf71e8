"""Report of the speed benchmark: a table of ratios, a table of time per phase, and how both were measured."""

from collections.abc import Sequence
from statistics import median

from benchmarks.speed.cases import CASES
from benchmarks.speed.phases import PHASES
from benchmarks.speed.results import METRICS, CaseResult, PeerComparison, Spread, Timing, compare_with_peers, spread
from benchmarks.speed.timed_code import hash_of_case
from sb3_pgx.experiments.number_format import thousands

UNKNOWN = "–"


def headline(result: CaseResult) -> str:
    """Return one line with the speed relative to each peer."""
    ratios = [f"{_spread(c.ratio)} times {c.peer}" for c in compare_with_peers(result) if c.metric == "frames"]
    skipped = [f"{reason} (skipped)" for reason in result.skipped.values()]
    return f"{result.case.name}: {'; '.join([*ratios, *skipped])}"


def markdown(results: Sequence[CaseResult]) -> str:
    """
    Return both tables, how they were measured, which peers were missing, and which rows are stale, that is, measured with
    other code than today's.
    """
    tables = [*_ratios(results), "", *_where_time_goes(results)]
    return "\n".join([*tables, "", _measured(results), *_skipped(results), *_stale(results)])


def _ratios(results: Sequence[CaseResult]) -> list[str]:
    lines = [
        "| case | peer | frames per second: ours, peer, environments alone | times as fast | minibatch step, times as fast "
        "| acting, times as fast | peak memory, ratio | data, ratio |",
        "|---|---|--:|--:|--:|--:|--:|--:|",
    ]
    for result in results:
        comparisons = compare_with_peers(result)
        for peer in dict.fromkeys(c.peer for c in comparisons):
            of = {c.metric: c for c in comparisons if c.peer == peer}
            speeds = [of["frames"].ours, of["frames"].theirs, median(r.frames_per_second for r in result.ceiling)]
            ratios = [_judged(of[metric]) if metric in of else UNKNOWN for metric in METRICS]
            lines.append(_row([result.case.name, peer, " / ".join(map(thousands, speeds)), *ratios]))
    return lines


def _where_time_goes(results: Sequence[CaseResult]) -> list[str]:
    names = ["case", "algorithm", *PHASES, "acting, µs per step", "minibatch step, µs", "compile, s: cold / warm", "peak, MiB"]
    lines = [_row(names), "|---|---|" + "--:|" * (len(names) - 2)]
    for result in results:
        lines += [_phases(result, name, timing) for name, timing in result.timings.items() if timing.phase_rounds]
    return lines


def _phases(result: CaseResult, name: str, timing: Timing) -> str:
    rounds = timing.phase_rounds
    shares = {phase: f"{100 * median(r.share(phase) for r in rounds):.0f} %" for phase in PHASES}
    callback_goal = result.case.callback_goal if name == result.case.algorithm else None
    if callback_goal is not None:
        share = median(r.share("callback") for r in rounds)
        shares["callback"] = f"{100 * share:.1f} %, {_mark(share <= callback_goal)} ≤ {100 * callback_goal:g} %"
    acting = spread([r.acting_us for r in rounds])
    goal = result.case.acting_goal if name == result.case.algorithm else None
    acting_cell = f"{acting.median:.0f}" + ("" if goal is None else f", {_mark(acting.median <= goal)} ≤ {goal:g}")
    compiling = UNKNOWN
    if timing.warm_cache_seconds is not None:
        compiling = f"{timing.warm_up_seconds:.1f} / {timing.warm_cache_seconds:.1f}"
    elif name.startswith("sbx:"):  # by default, JAX keeps no compiled code for the next process
        compiling = f"{timing.warm_up_seconds:.1f}"
    step = f"{median(r.step_us for r in rounds):.0f}"
    return _row([result.case.name, name, *shares.values(), acting_cell, step, compiling, f"{timing.peak_memory_mib:.0f}"])


def _measured(results: Sequence[CaseResult]) -> str:
    """Return when, where and how the results were measured. Versions that another case includes are left out."""
    dates = ", ".join(sorted({r.date for r in results}))
    machines = "; ".join(sorted({f"{r.machine['cpu']}, {r.machine['cores']} cores, {r.machine['system']}" for r in results}))
    whole = [r.versions for r in results if not any(r.versions.items() < other.versions.items() for other in results)]
    versions = "; ".join(sorted({", ".join(f"{name} {version}" for name, version in v.items()) for v in whole}))
    rounds = ", ".join(str(n) for n in sorted({len(t.rounds) for r in results for t in r.timings.values()}))
    return (
        f"Measured {dates} on {machines}; {versions}. Ratios are medians (lowest–highest) over the rounds, {rounds} per case, "
        "in which the contenders took turns, one torch thread each, after a warm-up; memory is the peak of a process of its "
        "own, including the compiler; data are all tensors and the rollout buffer between two updates. Shares, acting (a "
        "step of all environments, without their own time) and minibatch steps are from rounds with a stopwatch."
    )


def _skipped(results: Sequence[CaseResult]) -> list[str]:
    missing = [f"{result.case.name}: {', '.join(result.skipped.values())}" for result in results if result.skipped]
    return ["", f"**Not measured**: {'; '.join(missing)}."] if missing else []


def _stale(results: Sequence[CaseResult]) -> list[str]:
    today = {case.name: case for case in CASES}
    cases = [today.get(result.case.name, result.case) for result in results]
    stale = [x.name for x, result in zip(cases, results, strict=True) if result.code_hash != hash_of_case(x)]
    if not stale:
        return []
    names = "all rows" if len(stale) == len(results) else ", ".join(stale)
    return ["", f"**Stale** (measured with code that has changed since, or that was not recorded): {names}."]


def _judged(comparison: PeerComparison) -> str:
    if comparison.goal is None:
        return _spread(comparison.ratio)
    sign = "≤" if METRICS[comparison.metric].at_most else "≥"
    return f"{_spread(comparison.ratio)}, {_mark(bool(comparison.reached))} {sign} {comparison.goal:.3g}"


def _spread(ratio: Spread) -> str:
    return f"{ratio.median:.2f}" + (f" ({ratio.low:.2f}–{ratio.high:.2f})" if ratio.low < ratio.high else "")


def _mark(reached: bool) -> str:
    return "✓" if reached else "✗"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
