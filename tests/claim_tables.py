"""Tables of the recorded claims, as the documentation shows them; ``generated_sections`` writes them into its pages."""

import re
from collections import Counter
from typing import Any

from benchmarks import RESULTS
from benchmarks.claims.gradient_variance import N_ENVS, N_EPISODES
from benchmarks.claims.protocol import load_claims
from benchmarks.claims.records import code_hash_of, read_records
from sb3_pgx.experiments.statistics import bootstrap_interval, interquartile_mean

BENCH = RESULTS / "bench.json"
MUJOCO = ("HalfCheetah-v5", "Hopper-v5", "Walker2d-v5")


def results() -> list[dict[str, Any]]:
    """Every record of a claim, superseded ones first, then those in which a run failed or the claim does not hold."""
    records = [record for path in sorted(set(RESULTS.glob("*.json")) - {BENCH}) for record in read_records(path)]
    return sorted(records, key=lambda record: ("superseded" not in record, record.get("holds", record.get("passed", False))))


def published_verdict(record: dict[str, Any]) -> str:
    """The verdict of a record, and whether its code is today's; a superseded record has none that counts."""
    if "superseded" in record:
        return "superseded"
    return record["verdict"] + ("" if today_hash(record) == record["code_hash"] else ", **stale**")


def today_hash(record: dict[str, Any]) -> str | None:
    """Today's hash for the claim of a record; None if nothing like it is claimed any more."""
    claims = [claim for of_subject in load_claims().values() for claim in of_subject]
    key = (record["protocol"]["algorithm"], record["name"], record["version"])  # several subjects have claims of one name
    return next((code_hash_of(c) for c in claims if (c.algorithm, c.name, c.version) == key), None)


def superseded_note(records: list[dict[str, Any]]) -> list[str]:
    """Why some records do not count, one sentence per reason."""
    reasons = Counter(record["superseded"] for record in records if "superseded" in record)
    return [
        f"**{n} of {len(records)} records {'is' if n == 1 else 'are'} superseded and stale**: {reason}."
        for reason, n in reasons.items()
    ]


def claims_table(records: list[dict[str, Any]] | None = None) -> str:
    """Every record on returns with its verdict, or these ones."""
    records = results() if records is None else records
    rows = [f"| {published_verdict(record)} {row}" for record in records for row in claim_rows(record)]
    header = ["| verdict | claim | measured | interval | every seed |", "|---|---|---|---|---|"]
    return "\n".join([*superseded_note(records), "", *header, *rows])


def claim_rows(record: dict[str, Any]) -> list[str]:
    """One row per number that a record is about."""
    if record["version"] == 0:
        return rows_before_the_protocol(record)
    failed = [f"{d['contender']} on {d['env_id']}, seed {d['seed']}: {d['error']}" for d in record["draws"] if d["error"]]
    if not record["estimates"]:
        return [f"| {record['claim']} | {record['reason']} | | {'; '.join(failed) or drawn(record)} |"]
    return [
        f"| {record['claim']}: {e['name']} | {e['value']:.4g} | {e['interval'][0]:.4g} to {e['interval'][1]:.4g} "
        f"| {drawn(record)} |"
        for e in record["estimates"]
    ]


def drawn(record: dict[str, Any]) -> str:
    """The final return of each seed, or else everything that was measured of it."""
    groups: dict[str, list[str]] = {}
    for d in sorted(record["draws"], key=lambda d: d["seed"]):
        values = [d["measured"]["final return"]] if "final return" in d["measured"] else d["measured"].values()
        groups.setdefault(f"{d['contender']} on {d['env_id']}", []).append("/".join(f"{v:.4g}" for v in values) or "failed")
    return "; ".join(f"{name}: {', '.join(values)}" for name, values in groups.items())


def rows_before_the_protocol(record: dict[str, Any]) -> list[str]:
    """The rows of a record that was measured before the protocol of claims, whose numbers are kept as they were."""
    claim = record["claim"]
    if "interquartile_mean" in record:
        low, high = record["interval_95"]
        seeds = per_seed(record["mean_return_per_seed"])
        return [f"| {claim} | {record['interquartile_mean']:.1f} | {low:.1f} to {high:.1f} | {seeds} |"]
    if "ratio" in record:
        low, high = record["interval_95"]
        seeds = "; ".join(
            f"{label} on {env_id}: {per_seed(runs['mean_return_per_seed'])}"
            for env_id, by_label in record["runs"].items()
            for label, runs in by_label.items()
        )
        return [f"| {claim} | {record['ratio']:.3f} | {low:.3f} to {high:.3f} | {seeds} |"]
    if "alarms_in_100_updates" in record:
        counts = "; ".join(
            f"{env_id}: {sum(env['alarms'].values())} in {env['updates']}" for env_id, env in record["environments"].items()
        )
        return [f"| {claim} | {record['alarms_in_100_updates']:.2f} in 100 | | {counts} |"]
    rows = []
    for name, d in record.get("differences", {}).items():
        low, high = d["interval_95"]
        seeds = "; ".join(f"{label}: {per_seed(values)}" for label, values in d["per_seed"].items())
        interval = f"{low:+.1f} to {high:+.1f} ({d['width']:.1f} wide)"
        rows.append(f"| {claim}: difference in {name} | {d['difference']:+.1f} | {interval} | {seeds} |")
    return rows


def mujoco_table() -> str:
    """What was measured there, of every algorithm and peer, in the newest records that count, else in superseded ones."""
    seeds: dict[tuple[str, str], dict[str, float]] = {}
    counts: dict[tuple[str, str], bool] = {}
    for record in results():
        current = "superseded" not in record
        for cell, runs in runs_of(record).items():
            better = (current, len(runs)) > (counts.get(cell, False), len(seeds.get(cell, ())))
            if cell[1] in MUJOCO and steps_of(record, cell[1]) == 1_000_000 and better:
                seeds[cell], counts[cell] = runs, current

    def cell_text(cell: tuple[str, str]) -> str:
        if cell not in seeds:
            return ""
        values = list(seeds[cell].values())
        low, high = bootstrap_interval(values, interquartile_mean)
        number = f"{interquartile_mean(values):.0f} [{low:.0f}, {high:.0f}] ({len(values)})"
        return number if counts[cell] else f"*{number}*"

    labels = sorted({label for label, _ in seeds}, key=lambda label: (":" in label, label))  # peers after ours
    rows = [f"| `{label}` | {' | '.join(cell_text((label, env_id)) for env_id in MUJOCO)} |" for label in labels]
    note = [] if all(counts.values()) else ["Seeds in round brackets. *In italics: from superseded, stale records.*", ""]
    return "\n".join([*note, f"| | {' | '.join(MUJOCO)} |", f"|---|{'--:|' * len(MUJOCO)}", *rows])


def steps_of(record: dict[str, Any], env_id: str) -> int | None:
    """Environment steps per run of a record."""
    return record["timesteps"] if record["version"] == 0 else record["protocol"]["environments"].get(env_id)


def runs_of(record: dict[str, Any]) -> dict[tuple[str, str], dict[str, float]]:
    """The final return of each seed, by algorithm and environment, with published settings."""
    if record["version"] > 0:
        runs: dict[tuple[str, str], dict[str, float]] = {}
        for d in record["draws"]:
            if "final return" in d["measured"] and record["protocol"]["kind"] != "improvement":
                runs.setdefault((d["contender"], d["env_id"]), {})[str(d["seed"])] = d["measured"]["final return"]
        return runs
    alone = re.match(r"(\w+) reaches \S+ on (\S+) within", record["claim"])
    beside = re.match(r"\w+ learns as \S+ does on (\S+)", record["claim"])
    if alone:
        return {(alone[1], alone[2]): record["mean_return_per_seed"]}
    if beside:
        return {(label, beside[1]): runs["mean_return_per_seed"] for label, runs in record["runs"].items()}
    if "ratio" in record:
        by_env = record["runs"].items()
        return {(a, env_id): runs["mean_return_per_seed"] for env_id, of_env in by_env for a, runs in of_env.items()}
    return {}


def per_seed(values: dict[str, float]) -> str:
    """The value of each seed."""
    return ", ".join(f"{value:.1f}" for value in values.values())


def variance_sentence() -> str:
    """The measured variance of the gradient with each baseline."""
    record = [r for r in results() if "variance of the gradient" in r["claim"]][-1]
    if record["version"] == 0:
        shares = {n: (v["mean"], *v["interval_95"]) for n, v in record["variance_relative_to_no_baseline"].items()}
        steps, episodes, n_seeds = record["timesteps_before"], record["episodes_a_gradient"], len(record["seeds"])
    else:
        shares = {e["name"]: (e["value"], *e["interval"]) for e in record["estimates"]}
        (steps,) = record["protocol"]["environments"].values()
        episodes, n_seeds = N_ENVS * N_EPISODES, len(record["seeds"])
    figures = [f"{name} {100 * v:.0f} % ({100 * low:.0f} to {100 * high:.0f})" for name, (v, low, high) in shares.items()]
    return (
        f"Measured on CartPole-v1 after {steps:,} steps with {episodes} episodes per gradient, {n_seeds} seeds,\n"
        f"as a share of the variance without a baseline (with interval; verdict: {published_verdict(record)}):\n"
        + ",\n".join(figures)
        + "."
    )


def of_algorithm(name: str) -> str:
    """The records of claims about an algorithm, without the numbers of single seeds; empty if there are none."""
    own = [record for record in results() if re.match(rf"(healthy trainings of )?{name}\b", record["claim"])]
    rows = [f"| {published_verdict(record)} {_without_seeds(row)}" for record in own for row in claim_rows(record)]
    return "\n".join(["| verdict | claim | measured | interval |", "|---|---|---|---|", *rows]) if rows else ""


def _without_seeds(row: str) -> str:
    return row[: row.rindex(" | ")] + " |"
