"""Arguments of every algorithm of the registry: SB3's names, order and defaults; and values that make no sense are refused."""

import copy
import inspect

import numpy as np
import pytest
import sb3_contrib
import stable_baselines3 as sb3
import torch as th
from gymnasium import spaces
from selection import RELATIVES, mostly_slow
from stable_baselines3.common.callbacks import BaseCallback
from support.capabilities import BOX, DICT, PPOS, envs
from support.models import assert_same, assert_same_optimizer, make, parameters, takes
from support.small_environments import DEVICE

from sb3_pgx.core.controllers import KLAdaptiveLearningRate
from sb3_pgx.registry import ALGORITHMS

# Arguments that SB3 does not have come after its own, by keyword only.
_NATURAL = ["cg_tolerance", "critic", "critic_epsilon"]
KEYWORDS = {
    "a2c": ["compile", "discount_state_weighting"],
    "a3c": ["compile", "discount_state_weighting", "n_workers", "share_statistics", "ent_coef_last"],
    "acer": ["compile", "on_policy_update", "trust_region_statistics", "n_dueling_samples"],
    "ppo": ["compile", "sequence_length"],
    "ppo_penalty": ["compile", "sequence_length"],
    "npg": ["compile", "step_rule", "step_size", *_NATURAL],
    "trpo": ["compile", *_NATURAL],
}
TAIL = ["stats_window_size", "tensorboard_log", "policy_kwargs", "verbose", "seed", "device", "_init_setup_model"]


def test_the_signature_ends_as_sb3s_and_everything_but_policy_and_env_has_a_default(name):
    arguments = inspect.signature(ALGORITHMS[name].__init__).parameters
    positional, keywords = split_by_kind(arguments)
    assert positional[:4] == ["self", "policy", "env", "learning_rate"] and positional[-7:] == TAIL
    assert keywords == KEYWORDS.get(name, ["compile"]) and arguments["compile"].default == "auto"
    assert all(p.default is not inspect.Parameter.empty for p in list(arguments.values())[3:])
    reference = inspect.signature(sb3.PPO.__init__).parameters
    assert all(arguments[n].default == reference[n].default for n in TAIL)


@pytest.mark.parametrize("name, reference", [("a2c", sb3.A2C), ("ppo", sb3.PPO), ("trpo", sb3_contrib.TRPO)])
def test_a_drop_in_takes_sb3s_arguments_in_sb3s_order(name, reference):
    ours, theirs = (inspect.signature(c.__init__).parameters for c in (ALGORITHMS[name], reference))
    positional, _ = split_by_kind(ours)
    assert [(n, ours[n].default) for n in positional] == [(n, p.default) for n, p in theirs.items()]
    assert all(ours[n].kind is p.kind for n, p in theirs.items())


def split_by_kind(arguments):
    """Names that may be given by position, and those that may only be given by keyword, in order."""
    keywords = [n for n, p in arguments.items() if p.kind is inspect.Parameter.KEYWORD_ONLY]
    return [n for n in arguments if n not in keywords], keywords


def test_a_drop_in_takes_all_of_sb3s_arguments_by_position():
    values = [1e-3, 4, 8, 2, 0.9, 0.8, 0.1, 0.3, False, 0.01, 0.4, 0.2]
    names = ["learning_rate", "n_steps", "batch_size", "n_epochs", "gamma", "gae_lambda", "clip_range", "clip_range_vf"]
    names += ["normalize_advantage", "ent_coef", "vf_coef", "max_grad_norm"]
    ours, theirs = (c("MlpPolicy", envs(), *values, device=DEVICE) for c in (ALGORITHMS["ppo"], sb3.PPO))
    for argument in names:
        left, right = (getattr(m, argument) for m in (ours, theirs))
        assert (left(0.5), "schedule") == (right(0.5), "schedule") if callable(right) else left == right, argument


def test_the_callers_arguments_are_not_changed(name):
    policy_kwargs = dict(net_arch=[4], optimizer_kwargs=dict(weight_decay=0.0))
    before = copy.deepcopy(policy_kwargs)
    make(name, policy_kwargs=policy_kwargs).learn(12)
    assert policy_kwargs == before


@pytest.mark.parametrize("gamma", [-0.1, 1.1, float("nan")])
def test_gamma_outside_the_unit_interval_is_refused(name, gamma):
    with pytest.raises(ValueError, match="gamma"):
        make(name, gamma=gamma)


@pytest.mark.parametrize("learning_rate", [-1.0, "fast", float("nan")])
def test_a_learning_rate_that_makes_no_sense_is_refused(name, learning_rate):
    with pytest.raises(ValueError, match="learning_rate"):
        make(name, learning_rate=learning_rate)


@pytest.mark.parametrize("compile", ["maybe", "", None, 1, 1.5])
def test_anything_but_true_false_and_auto_is_refused_for_compile(name, compile):
    with pytest.raises(ValueError, match=r'compile=.* is unknown; choose "auto", True or False'):
        make(name, compile=compile)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(batch_size=0, normalize_advantage=False), "batch_size=0 must be a whole number, at least 1"),
        (dict(batch_size=4.0), "batch_size=4.0 must be a whole number"),
        (dict(n_epochs=0), "n_epochs=0 must be a whole number, at least 1"),
        (dict(n_epochs=1.5), "n_epochs=1.5 must be a whole number"),
        (dict(n_steps=0), "n_steps=0 must be a whole number, at least 1"),
        (dict(target_kl=-0.01), "target_kl=-0.01 must be positive"),
        (dict(target_kl=float("nan")), "target_kl=nan must be positive"),
        (dict(clip_range=-0.1), "clip_range is -0.1"),
        (dict(vf_coef=-0.5), "vf_coef is -0.5"),
        (dict(ent_coef=float("inf")), "ent_coef is inf"),
    ],
)
@pytest.mark.parametrize("ppo", PPOS)
def test_an_argument_of_ppo_that_makes_no_sense_is_refused_by_name(ppo, arguments, message):
    with pytest.raises(ValueError, match=message):
        make(ppo, **arguments)


COEFFICIENTS = [(n, "learning_rate") for n in ALGORITHMS] + [(n, "ent_coef") for n in ALGORITHMS if takes(n, "ent_coef")]
COEFFICIENTS += [(n, "vf_coef") for n in ("a2c", *PPOS)] + [(n, c) for n in PPOS for c in ("clip_range", "clip_range_vf")]


@pytest.mark.parametrize(
    "name, coefficient, bad",
    mostly_slow(
        [(*case, bad) for case in COEFFICIENTS for bad in (float("nan"), float("inf"), -0.1)],
        lambda name, coefficient, bad: name not in RELATIVES and (np.isnan(bad) or name == "ppo"),
    ),
)
def test_a_schedule_that_goes_wrong_during_training_leaves_the_last_update_and_training_can_go_on(name, coefficient, bad):
    class Keep(BaseCallback):
        def _on_step(self):
            return True

        def on_update_end(self, metrics):
            self.reached = parameters(self.model), copy.deepcopy(self.model.policy.optimizer.state_dict())

    keep = Keep()
    model = make(name, **{coefficient: lambda progress: 0.01 if progress > 0.5 else bad})
    with pytest.raises(ValueError, match=rf"{coefficient} is {bad} at remaining progress 0\.\d+; it must be finite and >= 0"):
        model.learn(72, callback=keep)
    assert_same(parameters(model), keep.reached[0])
    assert_same_optimizer(model.policy.optimizer.state_dict(), keep.reached[1])
    setattr(model, coefficient, (lambda progress: 0.01) if "clip" in coefficient else 0.01)
    model.learn(24, reset_num_timesteps=False)
    assert any(not th.equal(p, keep.reached[0][n]) for n, p in parameters(model).items())


@pytest.mark.parametrize(
    "name, coefficient",
    mostly_slow([c for c in COEFFICIENTS if c[1] != "clip_range_vf"], lambda name, coefficient: name not in RELATIVES),
)
def test_a_schedule_may_end_at_zero(name, coefficient):
    model = make(name, **{coefficient: "lin_0.1"}).learn(60)
    assert model.coefficient(coefficient) == 0 and all(th.isfinite(p).all() for p in model.policy.parameters())


def test_a_learning_rate_that_follows_the_kl_is_refused_by_algorithms_without_a_distance(name):
    if name in PPOS:
        make(name, learning_rate=KLAdaptiveLearningRate()).learn(24)
        return
    with pytest.raises(ValueError, match=f"{ALGORITHMS[name].__name__} takes one step a rollout.*Use PPO or PPOPenalty"):
        make(name, learning_rate=KLAdaptiveLearningRate())


def test_spaces_that_are_not_supported_are_refused(name):
    with pytest.raises(AssertionError, match="only supports"):
        make(name, envs(action_space=spaces.Text(3)))
    with pytest.raises(NotImplementedError, match="observation space is not supported"):
        make(name, envs(spaces.Tuple([BOX, BOX])))
    with pytest.raises(ValueError, match="MultiInputPolicy"):
        make(name, envs(DICT))
