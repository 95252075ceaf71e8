"""What cannot be trained is refused in one sentence before training, and what SB3 trains is trained."""

import inspect
import math

import numpy as np
import pytest
import stable_baselines3 as sb3
import torch as th
from gymnasium import spaces
from selection import mostly_slow
from stable_baselines3.common.callbacks import CheckpointCallback
from support.capabilities import BOX, QUICK, envs
from support.models import assert_same, make, parameters, takes
from support.refusals import refusal
from support.small_environments import DEVICE

from sb3_pgx import A2C, ACER
from sb3_pgx.registry import ALGORITHMS

FLAGS = [
    *((n, "use_sde") for n in ALGORITHMS if takes(n, "use_sde")),
    *((n, f) for n in ALGORITHMS for f in ("normalize_advantage", "discount_state_weighting") if takes(n, f)),
    ("reinforce", "normalize_returns"),
    ("reinforce_baseline", "bootstrap_truncated"),
    ("a2c", "use_rms_prop"),
    ("a3c", "use_rms_prop"),
    ("a3c", "share_statistics"),
    ("acer", "use_rms_prop"),
    ("acer", "trust_region"),
    ("acer", "on_policy_update"),
]
NOT_NUMBERS = (
    "use_sde",
    "rollout_buffer_class",
    "rollout_buffer_kwargs",
    "policy_kwargs",
    "tensorboard_log",
    "device",
    "compile",
)
NOT_NUMBERS += ("_init_setup_model", "policy", "env", "baseline", "critic", "step_rule", "trust_region_statistics", "verbose")
NUMBERS = [
    (n, argument)
    for n in ALGORITHMS
    for argument in inspect.signature(ALGORITHMS[n].__init__).parameters
    if argument not in ("self", *NOT_NUMBERS) and (n, argument) not in FLAGS
]


# ------------------------------------------------------------------------------------------------------- numbers, flags


@pytest.mark.parametrize("value", [True, "many", math.nan], ids=repr)
@pytest.mark.parametrize("name, argument", NUMBERS)
def test_what_is_no_number_is_refused_by_the_arguments_name(name, argument, value):
    assert argument in refusal(lambda: make(name, **{argument: value}))


@pytest.mark.parametrize("value", ["no", None, 2, 0.5, math.nan])
@pytest.mark.parametrize("name, argument", FLAGS)
def test_what_is_no_truth_value_is_refused(name, argument, value):
    if (argument, value) == ("on_policy_update", None):
        return
    assert f"{argument}={value!r} must be True or False" in refusal(lambda: make(name, **{argument: value}))


@pytest.mark.parametrize("name, argument", FLAGS)
def test_truth_values_may_be_numpys_or_0_and_1(name, argument):
    for value in (np.True_, np.False_, 0, 1, np.int64(1)):
        model = make(name, **{argument: value})
        if argument != "use_rms_prop":
            assert getattr(model, argument) is bool(value)


@pytest.mark.parametrize("of", [np.float32, np.float64, np.array, th.tensor])
def test_numbers_may_be_numpys_or_torchs(name, of):
    """And train as Python's."""
    given = {
        n: 0.5
        for n in ("gamma", "ent_coef", "vf_coef", "q_coef", "max_grad_norm", "clip_range", "cg_damping")
        if takes(name, n)
    }
    counts = {n: v for n, v in QUICK[name].items() if n != "policy_kwargs"}
    whole = np.int64 if of in (np.float32, np.float64) else of
    expected = make(name, **given).learn(24)
    model = make(name, **{n: of(v) for n, v in given.items()}, **{n: whole(v) for n, v in counts.items()}).learn(24)
    assert_same(parameters(model), parameters(expected))


@pytest.mark.parametrize("name, argument", [(n, a) for n, a in NUMBERS if a.endswith("learning_rate")])
def test_a_learning_rate_may_be_a_number_in_a_string_and_not_beyond_all_bounds(name, argument):
    """PyYAML reads ``3e-4`` as a string."""
    models = [make(name, **{argument: value}).learn(24) for value in (3e-4, "3e-4")]
    assert_same(*map(parameters, models))
    for value in (1e30, "1e30", lambda progress: 1e30):
        assert f"{argument} is 1e+30, and must be at most 1e+10: a larger step" in refusal(
            lambda value=value: make(name, **{argument: value})
        )


def test_a_schedule_that_returns_no_number_is_named_and_one_that_fails_is_the_users():
    assert "ent_coef at remaining progress 1.000 is not a number" in refusal(lambda: make("a2c", ent_coef=lambda p: None))
    with pytest.raises(TypeError, match=r"^can only concatenate str"):
        make("a2c", ent_coef=lambda p: "0.1" + p)


@pytest.mark.parametrize(
    "name, arguments, message",
    [
        ("ppo", dict(batch_size=True), "batch_size=True must be a whole number"),
        ("ppo", dict(stats_window_size=-1), "stats_window_size=-1 must be a whole number, at least 0"),
        ("ppo", dict(sde_sample_freq=2.5), "sde_sample_freq=2.5 must be a whole number"),
        ("ppo", dict(seed=-1), "seed=-1 must be a whole number from 0 to 4294967295"),
        ("ppo", dict(seed="3"), "seed='3' must be a whole number"),
        ("ppo", dict(verbose=None), "verbose=None must be 0"),
        ("ppo", dict(device="gpu"), "device='gpu' is unknown; choose"),
        ("ppo", dict(tensorboard_log=3), "tensorboard_log=3 must be the path"),
        ("ppo", dict(rollout_buffer_class="own"), "rollout_buffer_class='own' must be a class"),
        ("ppo", dict(rollout_buffer_class=lambda *args: None), "cannot be made with rollout_buffer_kwargs={}"),
        ("ppo", dict(use_sde=np.array([1, 2])), "use_sde=array([1, 2]) must be True or False"),
        ("ppo", dict(rollout_buffer_kwargs="own"), "rollout_buffer_kwargs='own' must be a dictionary"),
        ("ppo", dict(policy_kwargs="own"), "policy_kwargs='own' must be a dictionary"),
        ("a2c", dict(policy_kwargs="own"), "policy_kwargs='own' must be a dictionary"),
        ("a2c", dict(rms_prop_eps="own"), "rms_prop_eps='own' must be finite"),
        ("acer", dict(replay_ratio=1e300), "replay_ratio=1e+300 must be at most 1,000,000"),
        ("acer", dict(importance_clip=1e300), "importance_clip=1e+300 must be a positive number"),
        ("ppo", dict(clip_range_vf=1e300), "clip_range_vf is 1e+300, and must be at most 3.4e+38: no number"),
        ("ppo", dict(rollout_buffer_kwargs=np.array([1, 2])), "rollout_buffer_kwargs=array([1, 2]) must be a dictionary"),
        ("acer", dict(replay_ratio=math.inf), "replay_ratio=inf must be finite"),
        ("trpo", dict(line_search_shrinking_factor="0.5"), "line_search_shrinking_factor='0.5' must be between 0 and 1"),
        ("reinforce", dict(baseline=np.array([1, 2])), "is unknown; choose one of None, 'mean'"),
    ],
)
def test_an_argument_that_makes_no_sense_is_refused_with_its_value(name, arguments, message):
    assert message in refusal(lambda: make(name, **arguments))


@pytest.mark.parametrize(
    "policy_kwargs, message",
    [
        (dict(net_arch=[-1]), "net_arch=[-1] has a layer of size -1; it must be a whole number, at least 1"),
        (dict(net_arch=[8, 0]), "net_arch=[8, 0] has a layer of size 0"),
        (dict(net_arch=dict(pi=[8], vf=[2.5])), "has a layer of size 2.5"),
        (dict(net_arch=8), "net_arch=8 must be a list"),
        (dict(net_arch=["8"]), "has a layer of size '8'"),
        (dict(activation_fn="relu"), "activation_fn='relu' must be a class"),
        (dict(log_std_init=math.nan), "log_std_init=nan must be a number within ±87"),
        (dict(log_std_init=-200), "log_std_init=-200 must be a number within ±87"),
        (dict(optimizer_class="Adam"), "optimizer_class='Adam' must be a class"),
        (dict(optimizer_class=th.optim.LBFGS), "LBFGS evaluates the loss several times"),
        (dict(optimizer_class=th.optim.SparseAdam), "SparseAdam takes only sparse gradients"),
        (dict(optimizer_kwargs=dict(lr=1e-3)), "optimizer_kwargs has lr: set the algorithm's learning_rate"),
        (dict(optimizer_kwargs=[1]), "optimizer_kwargs=[1] must be a dictionary"),
    ],
)
def test_what_the_policy_is_given_is_looked_at(name, policy_kwargs, message):
    plain = dict(use_rms_prop=False) if takes(name, "use_rms_prop") else {}  # which has arguments of its own
    assert message in refusal(lambda: make(name, policy_kwargs=policy_kwargs, **plain))


def test_an_optimizer_that_somebody_puts_in_place_is_looked_at_before_training(name):
    model = make(name)
    model.policy.optimizer = th.optim.LBFGS(model.policy.parameters())
    assert "LBFGS evaluates the loss several times" in refusal(lambda: model.learn(24))


def test_options_of_ours_may_be_switched_off_and_sb3s_own_buffers_named(name):
    policy_kwargs = dict(state_dependent_std=False, log_std_bounds=None, net_arch=[4])
    make(name, policy_kwargs=policy_kwargs).learn(24)
    if takes(name, "rollout_buffer_class"):
        dictionary = envs(spaces.Dict({"a": BOX}))
        make(name, dictionary, "MultiInputPolicy", rollout_buffer_class=sb3.common.buffers.RolloutBuffer).learn(24)


@pytest.mark.parametrize("net_arch", [(8, 8), np.array([8, 8]), dict(pi=[8]), [dict(pi=[8], vf=[8])], []])
def test_layers_may_be_given_in_every_way_that_sb3_takes(net_arch):
    make("ppo", policy_kwargs=dict(net_arch=net_arch)).learn(24)


def test_a_policy_of_the_users_may_give_arguments_another_meaning():
    class Own(sb3.common.policies.ActorCriticPolicy):
        def __init__(self, *args, net_arch, activation_fn, **kwargs):
            assert (net_arch, activation_fn) == ("small", "relu")
            super().__init__(*args, net_arch=[4], activation_fn=th.nn.ReLU, **kwargs)

    make("ppo", policy=Own, policy_kwargs=dict(net_arch="small", activation_fn="relu")).learn(24)


def test_acers_wrong_critic_is_refused_for_what_it_is():
    assert "ACER needs an action-value critic" in refusal(lambda: ACER(sb3.common.policies.ActorCriticPolicy, envs()))


# ------------------------------------------------------------------------------------------------------- learn


@pytest.mark.parametrize("value", ["1000", math.nan, -5, None, True, [24]])
def test_a_number_of_steps_that_makes_no_sense_is_refused(name, value):
    model = make(name)
    assert f"total_timesteps={value!r} must be a number" in refusal(lambda: model.learn(value))
    assert model._last_obs is None


@pytest.mark.parametrize("value", [0, 24.0, 24.5, np.int64(24), np.array(24), th.tensor(24)])
def test_a_number_of_steps_is_what_it_is_for_sb3(value):
    ours, theirs = (c("MlpPolicy", envs(), n_steps=6, device=DEVICE).learn(value) for c in (A2C, sb3.A2C))
    assert ours.num_timesteps == theirs.num_timesteps


@pytest.mark.parametrize("name", mostly_slow(ALGORITHMS, ["ppo"]))
def test_a_training_may_have_no_end_of_its_own(name, graphs):
    """And is long enough to compile it."""
    model = make(name)
    model.learn(math.inf, callback=lambda a, b: model.num_timesteps < 48)
    assert 48 <= model.num_timesteps < 60 and (graphs or name == "reinforce")


@pytest.mark.parametrize("arguments", [dict(log_interval=0), dict(log_interval="1"), dict(callback="all"), dict(callback=[3])])
def test_arguments_of_learn_are_looked_at(arguments):
    (name,) = arguments
    assert name in refusal(lambda: make("a2c").learn(24, **arguments))
    assert "must be a callback object" in refusal(lambda: make("a2c").learn(24, callback=CheckpointCallback))
