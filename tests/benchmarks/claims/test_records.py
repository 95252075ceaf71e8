"""Records: nothing is replaced, and what is no longer today's is found."""

import json
from dataclasses import replace

import claim_tables
import pytest
from support.constructed_claims import claim_of, draws_of

from benchmarks import RESULTS
from benchmarks.claims.analysis import judge
from benchmarks.claims.protocol import EarlierVersion, load_claims
from benchmarks.claims.records import add_record, code_hash_of, current_record, find_problem, make_record, read_records

CLAIM = claim_of("learning")
SOURCE = {
    "commit": "c",
    "clean": True,
    "machine": {},
    "versions": {},
    "date": "2026-01-02",
    "command": "x",
    "wall_clock_seconds": 1.0,
}
REACHED, NOT_REACHED = [500.0, 490.0, 480.0, 478.0, 477.0, 476.0], [400.0] * 6


def record_for(claim, values, code=None, errors=()):
    draws = draws_of(claim, values)
    for index in errors:
        draws[index] = replace(draws[index], measured={}, error="ValueError: no")
    return make_record(claim, draws, judge(claim, draws), code or code_hash_of(claim), SOURCE)


def second_version(claim):
    return replace(
        claim, version=2, seeds=tuple(range(1006, 1012)), earlier=(EarlierVersion(1, claim.seeds, "the loss was corrected"),)
    )


def test_a_record_carries_its_protocol_its_source_and_every_draw_failed_ones_first():
    record = record_for(CLAIM, REACHED, errors=[3])
    assert (record["verdict"], record["holds"], record["reason"]) == ("not reached", False, "1 of 6 runs failed")
    assert [d["seed"] for d in record["draws"]] == [1003, 1000, 1001, 1002, 1004, 1005]
    assert record["protocol"]["bound"] == 475.0 and record["protocol"]["power"]["wanted"] == 0.8
    assert record["hyperparameters"]["ppo"]["CartPole-v1"]["source"].startswith("ppo.yml")
    assert set(SOURCE) <= set(record) and record["code_hash"] == code_hash_of(CLAIM)


def test_a_superseded_record_stays_with_its_reason(tmp_path):
    path = tmp_path / "ppo.json"
    add_record(path, record_for(CLAIM, NOT_REACHED), CLAIM)
    again = second_version(CLAIM)
    add_record(path, record_for(again, REACHED), again)
    old, new = read_records(path)
    assert old["superseded"] == "the loss was corrected" and old["draws"] and old["verdict"] == "not reached"
    assert "superseded" not in new and current_record(again, [old, new]) == new


def test_seeds_that_were_drawn_are_not_drawn_again(tmp_path):
    path = tmp_path / "ppo.json"
    add_record(path, record_for(CLAIM, NOT_REACHED), CLAIM)
    before = path.read_text()
    with pytest.raises(ValueError, match="the record of 2026-01-02 has used these seeds, and each seed is used once"):
        add_record(path, record_for(CLAIM, REACHED), CLAIM)
    assert path.read_text() == before


def test_a_record_of_today_has_no_problem_whatever_its_verdict():
    for values in (REACHED, NOT_REACHED):
        assert find_problem(CLAIM, [json.loads(json.dumps(record_for(CLAIM, values)))]) is None


@pytest.mark.parametrize(
    ("claim", "changes", "sentence"),
    [
        (CLAIM, {"code_hash": "0" * 16}, "stale: measured with code 0000000000000000, and today's is "),
        (CLAIM, {"name": "another"}, "missing"),
        (CLAIM, {"superseded": "why not"}, "missing"),
        (second_version(CLAIM), {}, "missing"),
        (replace(CLAIM, bound=300.0), {}, "changed after it was measured: bound"),
        (CLAIM, {"verdict": "not reached"}, "altered: its draws say reached, and the record says not reached"),
    ],
)
def test_what_is_wrong_with_a_record_is_found(claim, changes, sentence):
    problem = find_problem(claim, [{**record_for(CLAIM, REACHED), **changes}])
    assert problem is not None and problem.sentence.startswith(sentence)


def test_the_hash_of_a_claim_depends_on_its_settings(tmp_path):
    for gamma in (0.9, 0.99):
        folder = tmp_path / str(gamma)
        folder.mkdir()
        (folder / "ppo.yml").write_text(f"# a comment\nCartPole-v1:\n  gamma: {gamma}\nAcrobot-v1:\n  gamma: {gamma}\n")
    hashes = [code_hash_of(CLAIM, tmp_path / name) for name in ("0.9", "0.99")]
    assert hashes[0] != hashes[1]
    (tmp_path / "0.9" / "ppo.yml").write_text("CartPole-v1:\n  gamma: 0.9\nAcrobot-v1:\n  gamma: 0.5\n")
    assert code_hash_of(CLAIM, tmp_path / "0.9") == hashes[0]  # neither words nor other environments


def test_records_from_before_the_protocol_are_kept_and_superseded():
    old = [r for path in RESULTS.glob("*.json") if path.name != "bench.json" for r in read_records(path) if r["version"] == 0]
    assert len(old) == 33 and all("before the protocol" in r["superseded"] and min(r["seeds"]) < 1000 for r in old)
    names = {claim.name for of_subject in load_claims().values() for claim in of_subject}
    assert {r["name"] for r in old} <= names


def test_records_that_were_deleted_are_there_again():
    """PPO on HalfCheetah-v5, where no seed ran, and TRPO on Walker2d-v5 before it was tuned on the seeds that decided."""
    restored = [
        r for name in ("ppo", "trpo") for r in read_records(RESULTS / f"{name}.json") if "restored" in r.get("superseded", "")
    ]
    ppo, trpo = (r["runs"]["ppo"] if "runs" in r else r for r in restored)
    assert [round(x) for x in ppo["mean_return_per_seed"].values()] == [1886, 1764, 1905, 1911, 1955]
    assert [round(x) for x in trpo["mean_return_per_seed"].values()] == [4072, 4374, 3584, 3503, 4736]


# ------------------------------------------------------------------------------------------------ the README's tables


def rows_of(*records):
    return claim_tables.claims_table([*records]).splitlines()


def test_superseded_and_stale_records_are_shown_as_such():
    (claim, *_) = load_claims()["npg"]
    values = [100.0 * i for i in range(len(claim.seeds))]
    today, stale = record_for(claim, values), record_for(claim, values, code="0" * 16)
    lines = rows_of({**today, "superseded": "too few seeds"}, stale, today)
    assert lines[0] == "**1 of 3 records is superseded and stale**: too few seeds."
    verdicts = [line.split(" | ")[0] for line in lines[4:]]
    assert verdicts == ["| superseded", f"| {today['verdict']}, **stale**", f"| {today['verdict']}"]
    assert all("npg on HalfCheetah-v5: 0, 100, 200" in line for line in lines[4:])


def test_a_record_with_failed_runs_shows_them():
    (row,) = rows_of({**record_for(CLAIM, REACHED, errors=[3]), "superseded": "x"})[4:]
    assert "| 1 of 6 runs failed | | ppo on CartPole-v1, seed 1003: ValueError: no |" in row
