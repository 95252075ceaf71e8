"""Claims as data: what the loader takes, and what it refuses in one sentence."""

import re

import pytest
import yaml

from benchmarks import CLAIMS
from benchmarks.claims.protocol import ProtocolError, load_claims
from sb3_pgx.experiments.peers import prepare

LEARNING = {
    "kind": "learning",
    "algorithm": "ppo",
    "environments": {"CartPole-v1": 1000},
    "bound": 475,
    "seeds": "1000-1009",
    "power": {"pilot": "none", "wanted": 0.8, "distance": {"final return": 10}, "spread": {"final return": 5}},
}


def folder_of(tmp_path, **files):
    (tmp_path / "protocol.yml").write_text((CLAIMS / "protocol.yml").read_text())
    for name, claims in files.items():
        (tmp_path / f"{name}.yml").write_text(yaml.safe_dump(claims))
    return tmp_path


def test_a_claim_is_read_with_the_rules_that_all_share(tmp_path):
    claim = load_claims(folder_of(tmp_path, ppo={"one": {**LEARNING, "seeds": ["1000-1008", 1020]}}))["ppo"][0]
    assert claim.statement == "ppo reaches 475 on CartPole-v1 within 1 000 steps"
    assert claim.seeds == (*range(1000, 1009), 1020) and claim.confidence == 0.95 and "all planned seeds" in claim.stopping
    assert "decides against the claim" in claim.failed_runs


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"seeds": "0-9"}, "seed 0 is below 1000; reports use seeds from 1000 up"),
        ({"seeds": "100-999"}, "seed 100 is below 1000"),
        ({"seeds": "many"}, "neither a number nor a range"),
        ({"seeds": ["1000-1009", 1005]}, "listed twice"),
        ({"seeds": "1009-1000"}, "seeds are missing"),
        ({"seeds": "1000-1004"}, "5 seeds are planned and the power calculation asks for 10"),
        ({"kind": "hope"}, "kind is 'hope'; choose one of learning"),
        ({"bound": None, "bond": 1}, "'bond' means nothing for kind learning; did you mean 'bound'?"),
        ({"environments": {"A-v0": 1, "B-v0": 1}}, "is about one environment; got 2"),
        ({"confidence": 95}, "confidence is 95"),
        ({"version": 2}, "version 2 lists each version before it under 'earlier'"),
        ({"power": {"pilot": "x"}}, "distance is missing"),
        ({"power": {"pilot": "x", "spreads": {}}}, "power holds distance"),
        ({"power": {**LEARNING["power"], "distance": {"final return": -1}}}, "no number of seeds shows a claim that is false"),
    ],
)
def test_what_breaks_the_protocol_is_refused_with_file_and_claim(tmp_path, changes, sentence):
    with pytest.raises(ProtocolError, match=re.escape(sentence)) as caught:
        load_claims(folder_of(tmp_path, ppo={"one": {**LEARNING, **changes}}))
    assert str(caught.value).startswith("benchmarks/claims/ppo.yml, 'one': ") and "\n" not in str(caught.value)


@pytest.mark.parametrize("key", ["kind", "algorithm", "environments", "bound", "seeds", "power"])
def test_what_must_be_stated_in_advance_cannot_be_left_out(tmp_path, key):
    entry = {name: value for name, value in LEARNING.items() if name != key}
    with pytest.raises(ProtocolError, match=f"{key} "):
        load_claims(folder_of(tmp_path, ppo={"one": entry}))


def test_margins_are_stated_in_advance(tmp_path):
    entry = {**LEARNING, "kind": "equivalence", "peer": "sb3:ppo"}
    del entry["bound"]
    with pytest.raises(ProtocolError, match="margins missing"):
        load_claims(folder_of(tmp_path, ppo={"one": entry}))


def test_fewer_seeds_than_the_power_calculation_asks_for_need_a_reason(tmp_path):
    limited = {**LEARNING, "seeds": "1000-1004", "power": {**LEARNING["power"], "limited": "five hours each"}}
    (claim,) = load_claims(folder_of(tmp_path, ppo={"one": limited}))["ppo"]
    assert len(claim.seeds) == 5 < claim.seeds_needed == 10


def test_a_seed_is_used_by_one_claim_of_one_file(tmp_path):
    files = {"ppo": {"one": LEARNING}, "trpo": {"two": {**LEARNING, "seeds": "1009-1018"}}}
    with pytest.raises(ProtocolError, match=r"seed 1009 is used by ppo.yml, 'one' \(version 1\) and by trpo.yml, 'two'"):
        load_claims(folder_of(tmp_path, **files))


def test_a_seed_is_used_by_one_version_of_a_claim(tmp_path):
    earlier = [{"version": 1, "seeds": "1000-1009", "reason": "the code changed"}]
    second = {**LEARNING, "version": 2, "earlier": earlier}
    with pytest.raises(ProtocolError, match=r"seed 1000 is used by .* \(version 2\) and by .* \(version 1\)"):
        load_claims(folder_of(tmp_path, ppo={"one": second}))
    (claim,) = load_claims(folder_of(tmp_path, ppo={"one": {**second, "seeds": "1010-1019"}}))["ppo"]
    assert claim.earlier[0].reason == "the code changed"


def test_a_file_that_is_not_yaml_is_named(tmp_path):
    (folder_of(tmp_path) / "ppo.yml").write_text("one: [")
    with pytest.raises(ProtocolError, match=r"ppo\.yml cannot be read"):
        load_claims(tmp_path)


def test_the_claims_of_this_package_follow_the_protocol():
    claims = [claim for of_subject in load_claims().values() for claim in of_subject]
    assert {claim.kind for claim in claims} == {
        "learning",
        "relative",
        "equivalence",
        "superiority",
        "improvement",
        "gradient variance",
        "false alarms",
    }
    assert all(min(claim.seeds) >= 1000 for claim in claims)
    assert all(claim.planned_power >= claim.power.wanted or claim.power.limited for claim in claims)


@pytest.mark.parametrize("subject", ["npg", "ppo", "ppo_penalty", "trpo"])
def test_a_claim_trains_on_the_budget_of_the_published_settings(subject):
    for claim in load_claims()[subject]:
        for algorithm, env_id in claim.trains:
            assert prepare(algorithm, env_id)[1].n_timesteps == claim.environments[env_id]
