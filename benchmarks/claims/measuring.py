"""Measure claims, one after the other: select them, run their seeds, judge, record."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import date
from difflib import get_close_matches
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

from benchmarks import CLAIMS
from benchmarks.claims.analysis import Judgement, judge
from benchmarks.claims.draws import Draw, RunOptions
from benchmarks.claims.false_alarms import count_all_alarms
from benchmarks.claims.gradient_variance import measure_variances
from benchmarks.claims.protocol import KINDS, Claim, load_claims
from benchmarks.claims.records import Record, add_record, check_seeds_are_unused, code_hash_of, make_record
from benchmarks.claims.training_runs import train
from benchmarks.provenance import provenance, uncommitted
from sb3_pgx.core.optional_packages import require_extra
from sb3_pgx.experiments.peers import package_versions, prepare
from sb3_pgx.experiments.runs import versions

Claims = Mapping[str, Sequence[Claim]]
# By kind; all other kinds of claims are about training runs.
OTHER_MEASUREMENTS = {"false alarms": count_all_alarms, "gradient variance": measure_variances}


def select_claims(name: str, only: str | None = None, folder: Path = CLAIMS) -> dict[str, list[Claim]]:
    """
    Return the claims on a subject.

    :param name: a subject, or ``"all"``
    :param only: keep only the claims on this environment; default: keep all
    :param folder: folder of the claims
    :return: claims by subject
    :raises ValueError: there is no such claim (the message gives the nearest names), or a file breaks the protocol
    :raises ImportError: a package that is needed to read claims is not installed
    """
    require_extra()
    claims = load_claims(folder)
    if name != "all" and name not in claims:
        raise ValueError(f"nothing is claimed of {name!r}; choose {_nearest(name, [*claims, 'all'])}")
    chosen = {subject: [*claims[subject]] for subject in (claims if name == "all" else [name])}
    if only is None:
        return chosen
    env_ids = list(dict.fromkeys(env_id for of_subject in chosen.values() for c in of_subject for env_id in c.environments))
    if only not in env_ids:
        raise ValueError(f"nothing is claimed of {name} on {only!r}; choose {_nearest(only, env_ids)}")
    return {subject: [c for c in of_subject if only in c.environments] for subject, of_subject in chosen.items()}


def check_ready(claims: Claims, results: Path | None, configs: Path | None = None) -> None:
    """
    Check everything that can be checked before the first run.

    :param claims: claims to measure, by subject
    :param results: folder of the records; ``None``: records are not kept
    :param configs: folder of hyperparameter files; default: this repository's
    :raises ValueError: a name is unknown, a hyperparameter file has a mistake, or a record has used the seeds
    :raises ImportError: a package that an algorithm or an environment needs is not installed
    """
    for pair in dict.fromkeys(pair for of_subject in claims.values() for claim in of_subject for pair in claim.trains):
        prepare(*pair, configs)
    if results is not None:
        for subject, of_subject in claims.items():
            for claim in of_subject:
                check_seeds_are_unused(results / f"{subject}.json", claim)


def check_committed(folder: Path = CLAIMS) -> None:
    """
    Check that all claims are committed: they must be decided before the first run.

    :param folder: folder of the claims
    :raises ValueError: a file is not committed
    """
    if changed := uncommitted(folder, "*.yml"):
        raise ValueError(f"commit {', '.join(changed)} before the first run: claims are decided before they are measured")


def measure_claims(claims: Claims, options: RunOptions, command: str, results: Path | None = None) -> bool:
    """
    Measure claims and print each verdict as soon as it is known.

    :param claims: claims by subject, from :func:`select_claims`
    :param options: options of the runs
    :param command: command that reproduces the records
    :param results: folder in which ``<subject>.json`` gets the records; ``None``: records are not kept
    :return: whether all claims hold
    """
    hold = True
    with TemporaryDirectory() as temporary:
        options = replace(options, output=options.output or Path(temporary))
        for subject, of_subject in claims.items():
            for claim in of_subject:
                record = measure_claim(claim, options, command)
                hold &= record["holds"]
                print("\n      ".join(report_lines(record)))
                if results is not None:
                    add_record(results / f"{subject}.json", record, claim)
    return hold


def run_shares(claims: Claims, options: RunOptions) -> None:
    """
    Train a share of the runs of each claim, and judge nothing. Claims that need other measurements than training runs are left
    to :func:`measure_claims`.

    :param claims: claims by subject, from :func:`select_claims`
    :param options: options of the runs, with the folder that keeps them and the shard
    """
    for claim in (claim for of_subject in claims.values() for claim in of_subject):
        if claim.kind in OTHER_MEASUREMENTS:
            print(f"{claim.statement}: left to the command without --shard")
            continue
        draws = train(claim, options, code_hash_of(claim, options.configs))
        n_failed = sum(draw.error is not None for draw in draws)
        print(f"{claim.statement}: {len(draws) - n_failed} runs of shard {options.shard} finished, {n_failed} failed")


def measure_claim(claim: Claim, options: RunOptions, command: str) -> Record:
    """Run every planned seed of a claim, judge the claim, and return its record; arguments as :func:`measure_claims`."""
    source = provenance()  # before the first run
    code = code_hash_of(claim, options.configs)
    start = perf_counter()
    draws = run_seeds(claim, options, code)
    source |= {
        "versions": {**versions(*claim.environments), **package_versions(name for name, _ in claim.trains)},
        "date": date.today().isoformat(),
        "command": command,
        "wall_clock_seconds": perf_counter() - start,
    }
    judgement: Judgement = judge(claim, draws)
    return make_record(claim, draws, judgement, code, source, options.configs)


def run_seeds(claim: Claim, options: RunOptions, code: str) -> list[Draw]:
    """
    Run every planned seed of a claim.

    :param claim: the claim
    :param options: options of the runs
    :param code: hash of the code that training depends on; finished runs are reused only with the same hash
    """
    measure = OTHER_MEASUREMENTS.get(claim.kind)
    return train(claim, options, code) if measure is None else measure(claim, options)


def report_lines(record: Record) -> list[str]:
    """Return the report on a measured claim: verdict and statement, all runs with the failed ones first, the numbers."""
    lines = [f"{record['verdict'].upper()}  {record['claim']}"]
    for d in record["draws"]:
        values = ", ".join(f"{name} {value:.4g}" for name, value in d["measured"].items())
        lines.append(f"{d['contender']} on {d['env_id']}, seed {d['seed']}: {values or 'failed, ' + d['error']}")
    for e in record["estimates"]:
        low, high = e["interval"]
        lines.append(f"{e['name']}: {e['value']:.4g}, interval [{low:.4g}, {high:.4g}]: {e['verdict']}")
    return [*lines, record["reason"]] if record["reason"] else lines


def plan_lines(claims: Claims) -> list[str]:
    """Return the number of seeds of each claim: by the power calculation, and as planned."""
    lines = []
    for of_subject in claims.values():
        for claim in of_subject:
            p = claim.power
            lines.append(f"{claim.statement}")
            lines += [f"  {m}: distance {p.distance[m]:.4g}, spread {p.spread[m]:.4g} per √seeds" for m in p.spread]
            lines.append(
                f"  power {p.wanted:g} for the verdict {KINDS[claim.kind].claimed!r} needs {claim.seeds_needed} seeds; "
                f"{len(claim.seeds)} are planned (power {claim.planned_power:.2f}{', ' if p.limited else ''}{p.limited})"
            )
            lines.append(f"  pilot: {p.pilot}")
    return lines


def _nearest(name: str, names: Sequence[str]) -> str:
    return " or ".join(get_close_matches(name, names, n=3) or names)
