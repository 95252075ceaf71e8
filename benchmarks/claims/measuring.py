"""Measuring claims, one after the other: select them, run their seeds, judge, record."""

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


def select_claims(name: str, only: str | None = None, folder: Path = CLAIMS) -> dict[str, list[Claim]]:
    """
    :param name: a subject, or ``"all"``
    :param only: keep the claims on this environment; default all of them
    :param folder: the files of claims
    :return: claims by subject
    :raises ValueError: nothing is claimed under these names, with the nearest ones; or a file breaks the protocol
    :raises ImportError: a package that reading claims needs is not installed
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
    Check before the first run what can be checked.

    :param claims: what is to be measured
    :param results: folder that the records go to; ``None`` to keep none
    :param configs: folder of hyperparameter files; default this repository's
    :raises ValueError: an unknown name, a broken hyperparameter file, or seeds that a record has used
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
    :param folder: the files of claims
    :raises ValueError: one of them is not committed: what is claimed is decided before the first run
    """
    if changed := uncommitted(folder, "*.yml"):
        raise ValueError(f"commit {', '.join(changed)} before the first run: claims are decided before they are measured")


def measure_claims(claims: Claims, options: RunOptions, command: str, results: Path | None = None) -> bool:
    """
    Measure claims and print each verdict as soon as it is known.

    :param claims: by subject, from :func:`select_claims`
    :param options: how to run
    :param command: what reproduces the records
    :param results: folder in which ``<subject>.json`` gets the records; ``None`` to keep none
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


def measure_claim(claim: Claim, options: RunOptions, command: str) -> Record:
    """Draw every planned seed of a claim, judge it, and return its record; arguments as :func:`measure_claims`."""
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
    :param options: how to run
    :param code: hash of the code that training depends on; kept runs are reused only with the same hash
    """
    if claim.kind == "false alarms":
        return count_all_alarms(claim, options)
    if claim.kind == "gradient variance":
        return measure_variances(claim, options)
    return train(claim, options, code)


def report_lines(record: Record) -> list[str]:
    """Return the report on a measured claim: verdict and statement, failed runs first, then each run, then the numbers."""
    lines = [f"{record['verdict'].upper()}  {record['claim']}"]
    for d in record["draws"]:
        values = ", ".join(f"{name} {value:.4g}" for name, value in d["measured"].items())
        lines.append(f"{d['contender']} on {d['env_id']}, seed {d['seed']}: {values or 'failed, ' + d['error']}")
    for e in record["estimates"]:
        low, high = e["interval"]
        lines.append(f"{e['name']}: {e['value']:.4g}, interval [{low:.4g}, {high:.4g}]: {e['verdict']}")
    return [*lines, record["reason"]] if record["reason"] else lines


def plan_lines(claims: Claims) -> list[str]:
    """Return the sample size of each claim: what the power calculation asks for, and what is planned."""
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
