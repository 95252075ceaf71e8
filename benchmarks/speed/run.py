"""Run the benchmark: check the arguments, then measure case by case, and write each result when it is done."""

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import date, datetime
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from benchmarks import RESULTS
from benchmarks.provenance import provenance
from benchmarks.speed.cases import CASES, DIAGNOSTICS, FRAMES_ALONE, Case, missing_package, select_cases
from benchmarks.speed.measure import Measurement, Process
from benchmarks.speed.report import headline
from benchmarks.speed.results import CaseResult, Timing, as_record
from benchmarks.speed.timed_code import hash_of_case
from sb3_pgx.core.errors import type_and_text
from sb3_pgx.core.optional_packages import installed_versions, require_extra
from sb3_pgx.experiments.comparison_arguments import check_at_least_one
from sb3_pgx.experiments.pool import write_json
from sb3_pgx.experiments.runs import versions
from sb3_pgx.settings.configs import RunConfig
from sb3_pgx.settings.environments import check_environment

ROUNDS, QUICK_ROUNDS = 5, 2
RESULTS_FILE = "bench.json"
OPTIONAL = (
    "sb3_contrib",
    "sbx-rl",
    "jax",
    "mujoco",
    "envpool",
    "ale-py",
    "pfrl",
    "rltools",
    "mkl",
)  # packages that only some cases need
CEILING = "environments alone"

T = TypeVar("T")


@dataclass(frozen=True)
class BenchPlan:
    """
    A benchmark with checked arguments.

    :param cases: cases that can run here
    :param skipped: the reason why a case cannot run here, by case
    :param rounds: rounds of training per contender; about half as many are added with a stopwatch
    :param timesteps: environment steps per round; ``None``: the number of the case
    :param output: file for the results
    :param kept: existing entries of that file; they stay unless their case is measured again
    """

    cases: tuple[Case, ...]
    skipped: dict[str, str]
    rounds: int
    timesteps: int | None
    output: Path
    kept: dict[str, Any]


def plan_bench(
    cases: Sequence[str] | None = None,
    rounds: int | None = None,
    timesteps: int | None = None,
    output: Path | None = None,
    force: bool = False,
    write: bool = False,
    quick: bool = False,
    known: Sequence[Case] = CASES,
    results: Path = RESULTS,
) -> BenchPlan:
    """
    Check everything that can be checked before measuring. Create no file.

    :param cases: names of cases; ``None``: all cases
    :param rounds: rounds per contender; default: 5, or 2 with ``quick``
    :param timesteps: smallest number of environment steps per round; default: that of each case, or one rollout with ``quick``
    :param output: file for the results; default: ``runs/bench-<time>.json``
    :param force: whether to replace that file
    :param write: whether to write into ``results`` instead of ``output``
    :param quick: only check that the benchmark works; the speeds have no meaning
    :param known: the cases that there are
    :param results: folder of the results that are kept; default: this repository's
    :raises ValueError: a name is unknown, a number is out of range, ``quick`` results would be kept, or the results that are
        kept cannot be read
    :raises FileExistsError: ``output`` exists and ``force`` is False
    :raises ImportError: a required package is not installed
    """
    require_extra()
    if quick and write:
        raise ValueError("--quick measures too little for results that are kept; leave out --quick or --write")
    rounds = (QUICK_ROUNDS if quick else ROUNDS) if rounds is None else rounds
    timesteps = 1 if quick and timesteps is None else timesteps
    check_at_least_one(rounds=rounds, timesteps=1 if timesteps is None else timesteps)
    selected = select_cases(cases, known)
    file = results / RESULTS_FILE if write else output or Path("runs") / f"bench-{datetime.now():%Y%m%d-%H%M%S}.json"
    if not write and file.exists() and (file.is_dir() or not force):
        raise FileExistsError(f"{file} exists; choose another file{'' if file.is_dir() else ', or use --force to replace it'}")
    reasons = {case.name: missing_package(case.algorithm) or _missing_environment(case) for case in selected}
    skipped = {name: reason for name, reason in reasons.items() if reason}
    kept = _kept_results(file) if write and file.is_file() else {}
    return BenchPlan(tuple(c for c in selected if c.name not in skipped), skipped, rounds, timesteps, file, kept)


def run_bench(
    plan: BenchPlan, command: str, measure_case: Callable[[Case, int, int, str], CaseResult] | None = None
) -> tuple[list[CaseResult], dict[str, str]]:
    """
    Measure every case, print one line per case, and rewrite the file after each.

    :param plan: the checked arguments
    :param command: command that reproduces the results, for the record
    :param measure_case: measures one case; default: :func:`measure`
    :return: results, and the error message of each failed case
    """
    for name, reason in plan.skipped.items():
        print(f"{name}: skipped, {reason}")
    results: list[CaseResult] = []
    failures: dict[str, str] = {}
    entries = dict(plan.kept)
    for case in plan.cases:
        try:
            result = (measure_case or measure)(case, plan.rounds, plan.timesteps or case.timesteps, command)
            entries[case.name] = as_record(result)
        except Exception as error:  # other cases go on
            failures[case.name] = type_and_text(error)
            print(f"{case.name}: failed, {failures[case.name]}")
            continue
        results.append(result)
        print(headline(result))
        try:
            write_json(plan.output, entries)
        except OSError as error:
            failures[case.name] = str(error)
            print(f"{case.name}: {error}")
    return results, failures


def measure(
    case: Case, rounds: int, timesteps: int, command: str, process: Callable[[Case, str, Path], Process] = Process
) -> CaseResult:
    """
    Measure one case. Contenders take turns, so that other load on the machine affects all of them.

    :param case: the case
    :param rounds: rounds of training per contender; about half as many more have a stopwatch
    :param timesteps: smallest number of environment steps per round
    :param command: the command, for the record
    :param process: runs a contender
    :raises Exception: any error of a contender
    """
    source = {**provenance(), "code_hash": hash_of_case(case)}  # before the first round
    skipped = {peer: reason for peer in case.peers if (reason := missing_package(peer))}
    peers = [peer for peer in case.peers if peer not in skipped]
    contenders = [*peers[:1], case.algorithm, *peers[1:]]
    with ExitStack() as stack:
        cache = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sb3-pgx-bench-")))
        processes = {name: stack.enter_context(process(case, name, cache)) for name in contenders}
        for started in processes.values():  # all processes start at the same time; from here on only one is busy
            started.wait()
        warm_up = {name: p.call(Measurement.warm_up) for name, p in processes.items()}
        # One model is timed with and without diagnostics, because two processes differ by more than diagnostics cost.
        diagnosed = {name: f"{name}{DIAGNOSTICS}" not in contenders for name in contenders}
        runs = {n: p if diagnosed[n] else processes[f"{n}{DIAGNOSTICS}"] for n, p in processes.items()}
        trainings = take_turns(
            {n: partial(p.call, Measurement.round, timesteps, diagnosed[n]) for n, p in runs.items()}, rounds
        )
        inspected = {name: p for name, p in processes.items() if name not in FRAMES_ALONE}
        memory = {name: p.call(Measurement.peak_memory) for name, p in inspected.items()}
        data = {name: p.call(Measurement.data_bytes) for name, p in inspected.items()}
        turns: dict[str, Callable[[], Any]] = {
            **{n: partial(runs[n].call, Measurement.phase_round, timesteps, diagnosed[n]) for n in inspected},
            CEILING: partial(processes[case.algorithm].call, Measurement.ceiling, timesteps),
        }
        phases = take_turns(turns, (rounds + 1) // 2)
        timings = {n: Timing(trainings[n], phases.get(n, []), warm_up[n], memory.get(n), data.get(n)) for n in contenders}
        if case.compiles:
            fresh = stack.enter_context(process(case, case.algorithm, cache))
            warm = fresh.call(Measurement.warm_up)
            timings[case.algorithm] = replace(timings[case.algorithm], warm_cache_seconds=warm)
    return CaseResult(
        case=case,
        timings=timings,
        ceiling=phases[CEILING],
        skipped=skipped,
        timesteps=timesteps,
        command=command,
        date=date.today().isoformat(),
        versions={**versions(), **installed_versions(OPTIONAL)},
        **source,
    )


def take_turns(contenders: Mapping[str, Callable[[], T]], rounds: int) -> dict[str, list[T]]:
    """Call all contenders in turn, ``rounds`` times. Return the results of each contender in order."""
    measured: dict[str, list[T]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, contender in contenders.items():
            measured[name].append(contender())
    return measured


def _kept_results(file: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{file} cannot be read ({error}); restore it, or delete it to measure all cases again") from None


def _missing_environment(case: Case) -> str | None:
    try:
        check_environment(case.env_id, RunConfig(source=case.name))
    except ImportError as error:
        return str(error)
    return None
