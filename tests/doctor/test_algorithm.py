"""Sound algorithms pass every probe, and broken ones fail exactly the probes that are made for their fault."""

from typing import ClassVar

import pytest
import stable_baselines3 as sb3
from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy
from support.broken_algorithms import (
    AdvantagesOfTheWrongSign,
    ComparesWithTheNewPolicy,
    CompletesWithTheNextEpisode,
    EpisodesRunOn,
    FourTrustRegions,
    LogProbOfTheClippedAction,
    LogProbOfThePolicyBefore,
    ObservationsOfOtherRows,
    ReturnsOfTheWrongSign,
    RewardsAStepLate,
    SB3WithAdvantagesOfTheWrongSign,
    StepsThreeTimesAsFar,
    TruncationIsTermination,
)
from support.capabilities import WITHOUT_MEMORY

from sb3_pgx import A2C, PPO, SAC, REINFORCEBaseline
from sb3_pgx.doctor import examine_algorithm
from sb3_pgx.doctor.probes import PROBES
from sb3_pgx.experiments.peers import resolve_peer
from sb3_pgx.registry import ALGORITHMS, OFF_POLICY

VALUES = {"constant reward", "observation", "discounting", "time limit", "final observation"}
ACTIONS = {"action", "action and observation", "delayed reward", "continuous action"}
PLAIN = [probe for probe in PROBES if probe.needs.isdisjoint({"masks", "memory"})]
UPDATE_CHECKS = {"stored log-probability", "size of an update"}


def outcomes(results, outcome):
    return {result.name for result in results if result.outcome == outcome}


@pytest.mark.slow  # quickly, tests/doctor/test_cli.py has one
@pytest.mark.parametrize("name", [*ALGORITHMS, "sb3:ppo", "sb3:a2c", "contrib:trpo"])
def test_a_sound_algorithm_passes_every_applicable_probe(name):
    results = examine_algorithm(resolve_peer(name).algorithm)
    assert [result.name for result in results] == [*(probe.name for probe in PROBES), *sorted(UPDATE_CHECKS, reverse=True)]
    assert outcomes(results, "failed") == set(), [result for result in results if result.outcome == "failed"]
    bounded = name.rpartition(":")[2] in ("acktr", "npg", "ppo", "trpo")
    expected = (VALUES if name == "reinforce" else set()) | (set() if bounded else {"size of an update"})
    expected |= {"action mask", "memory"} if ":" in name else {"memory"} if name in WITHOUT_MEMORY else set()
    assert outcomes(results, "skipped") == expected


@pytest.mark.slow
@pytest.mark.parametrize("name", [*OFF_POLICY, "sb3:sac", "sb3:td3", "sb3:ddpg"])
def test_a_sound_off_policy_algorithm_passes_every_applicable_probe(name):
    results = examine_algorithm(resolve_peer(name).algorithm)
    assert outcomes(results, "failed") == set(), [result for result in results if result.outcome == "failed"]
    assert outcomes(results, "skipped") == UPDATE_CHECKS | {"action mask", "memory"}


class StoresMirroredActions(SAC):
    def _store_transition(self, replay_buffer, buffer_action, *args):
        super()._store_transition(replay_buffer, -buffer_action, *args)


@pytest.mark.parametrize(
    "cls, probes",
    [pytest.param(SAC, set(), marks=pytest.mark.slow), (StoresMirroredActions, {"continuous action"})],
)
def test_an_off_policy_algorithm_that_stores_other_actions_fails_the_probe_of_actions(cls, probes):
    results = examine_algorithm(cls, probes=[probe for probe in PROBES if probe.name == "continuous action"])
    assert outcomes(results, "failed") == probes


@pytest.mark.slow
def test_truncation_that_counts_as_termination_fails_its_probes_off_policy():
    chosen = [probe for probe in PROBES if probe.name in {"constant reward", "time limit", "final observation"}]
    results = examine_algorithm(SAC, probes=chosen, replay_buffer_kwargs=dict(handle_timeout_termination=False))
    assert outcomes(results, "failed") == {"time limit", "final observation"}


@pytest.mark.parametrize(
    "cls, probes",
    [
        pytest.param(AdvantagesOfTheWrongSign, ACTIONS, marks=pytest.mark.slow),
        pytest.param(ReturnsOfTheWrongSign, ACTIONS, marks=pytest.mark.slow),
        pytest.param(SB3WithAdvantagesOfTheWrongSign, ACTIONS, marks=pytest.mark.slow),
        pytest.param(TruncationIsTermination, {"time limit", "final observation"}, marks=pytest.mark.slow),
        pytest.param(CompletesWithTheNextEpisode, {"final observation"}, marks=pytest.mark.slow),
        pytest.param(RewardsAStepLate, {"observation", "discounting", "final observation", *ACTIONS}, marks=pytest.mark.slow),
        pytest.param(
            EpisodesRunOn, {"constant reward", "observation", "discounting", "final observation"}, marks=pytest.mark.slow
        ),
        (LogProbOfThePolicyBefore, {"stored log-probability"}),
        pytest.param(LogProbOfTheClippedAction, {"stored log-probability"}, marks=pytest.mark.slow),
        pytest.param(ComparesWithTheNewPolicy, {"size of an update"}, marks=pytest.mark.slow),
        pytest.param(FourTrustRegions, {"size of an update"}, marks=pytest.mark.slow),
        pytest.param(StepsThreeTimesAsFar, {"size of an update"}, marks=pytest.mark.slow),
    ],
)
def test_a_broken_algorithm_fails_exactly_the_probes_for_its_fault(cls, probes):
    results = examine_algorithm(cls, probes=PLAIN)
    assert outcomes(results, "failed") == probes
    assert all(bool(result.explanation) == (result.outcome != "passed") for result in results)


def test_shuffled_observations_fail_the_probes_that_depend_on_observations():
    dependent, independent = {"observation", "action and observation", "continuous action"}, {"constant reward", "action"}
    chosen = [probe for probe in PROBES if probe.name in dependent | independent]
    failed = outcomes(examine_algorithm(ObservationsOfOtherRows, probes=chosen), "failed")
    assert dependent <= failed and not failed & independent  # all rows look the same in the latter


class ActsWithoutMasks(PPO):
    def learn(self, *args, **kwargs):
        return super().learn(*args, **kwargs, use_masking=False)


class ForgetsBetweenSteps(PPO):
    def after_step(self, dones, infos):
        if not hasattr(self.policy, "lstm_actor"):
            return
        self.policy.lstm_actor.weight_hh_l0.data.zero_()
        self.policy.lstm_actor.bias_hh_l0.data[16:32] = -1e9  # the forget gate


@pytest.mark.parametrize("cls, probe", [(ActsWithoutMasks, "action mask"), (ForgetsBetweenSteps, "memory")])
def test_masks_and_memory_that_do_not_reach_the_policy_fail_their_probes(cls, probe):
    chosen = [p for p in PROBES if p.name == probe]
    assert probe in outcomes(examine_algorithm(cls, probes=chosen), "failed")


def training_with(cls, learn):
    """Return a class of the same name that calls ``learn`` instead of training."""
    return type(cls.__name__, (cls,), {"learn": learn})


def untrained(cls):
    """Return a class that does not train: which probes are skipped does not depend on it."""
    return training_with(cls, lambda *args, **kwargs: None)


def test_probes_of_truncation_are_skipped_without_bootstrapping():
    results = examine_algorithm(untrained(REINFORCEBaseline), bootstrap_truncated=False)
    assert outcomes(results, "skipped") == {"time limit", "final observation", "size of an update"}


def test_the_probe_of_box_actions_is_skipped_without_box_actions():
    class DiscreteOnly(PPO):
        def __init__(self, policy, env, **kwargs):
            assert isinstance(env.action_space, spaces.Discrete), "The algorithm only supports Discrete"
            super().__init__(policy, env, **kwargs)

    assert outcomes(examine_algorithm(untrained(DiscreteOnly)), "skipped") == {"continuous action"}


def test_an_untrained_model_passes_no_probe():
    assert outcomes(examine_algorithm(untrained(PPO)), "passed") == {"size of an update"}


def test_an_exception_fails_its_probe_and_the_other_probes_still_run():
    class Raises(PPO):
        def estimate(self, rollout):
            if rollout.truncated.any():
                raise RuntimeError("no bootstrap")
            return super().estimate(rollout)

    chosen = [probe for probe in PROBES if probe.name in {"constant reward", "time limit", "final observation", "action"}]
    results = {result.name: result for result in examine_algorithm(Raises, probes=chosen)}
    assert results["time limit"].explanation == "training raised RuntimeError: no bootstrap"
    assert outcomes(results.values(), "failed") == {"time limit", "final observation"}


def test_the_same_seed_gives_the_same_answers():
    one, same, other = (examine_algorithm(A2C, seed=seed, probes=PROBES[:1]) for seed in (3, 3, 4))
    assert one == same != other


class WithForeignPolicies(sb3.PPO):
    """An on-policy algorithm whose policies are not ActorCriticPolicies, like those of SBX."""

    policy_aliases: ClassVar = {"MlpPolicy": BasePolicy}


@pytest.mark.parametrize(
    "cls, hyperparameters, sentence",
    [
        (sb3.DQN, {}, "DQN is not an on-policy algorithm"),
        (WithForeignPolicies, {}, "WithForeignPolicies is not an on-policy algorithm"),
        (PPO, {"gamma": 0.9}, "gamma cannot be set"),
        (PPO, {"gae_lambda": 2}, r"gae_lambda=2 is outside \[0, 1\]"),
        (sb3.PPO, {"batch_size": 1}, "PPO cannot be created: `batch_size` must be greater than 1"),
    ],
)
def test_an_algorithm_that_cannot_be_examined_is_refused_before_training(cls, hyperparameters, sentence):
    never = training_with(cls, lambda *args, **kwargs: pytest.fail("training started"))
    with pytest.raises(ValueError, match=sentence):
        examine_algorithm(never, **hyperparameters)
