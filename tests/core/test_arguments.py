"""What cannot be trained is refused in one sentence before training, and what SB3 trains is trained."""

import inspect
import math
import os
import signal
import warnings

import gymnasium as gym
import numpy as np
import pytest
import sb3_contrib
import stable_baselines3 as sb3
import torch as th
from gymnasium import spaces
from selection import mostly_slow
from stable_baselines3.common.callbacks import CheckpointCallback
from stable_baselines3.common.torch_layers import FlattenExtractor
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecNormalize
from support.capabilities import BOX, QUICK, OwnExtractor, envs
from support.models import assert_same, make, parameters, takes
from support.small_environments import DEVICE, AnySpace

from sb3_pgx import A2C, ACER, NPG, PPO, TRPO
from sb3_pgx.registry import ALGORITHMS

FLAGS = [
    *((n, "use_sde") for n in ALGORITHMS if takes(n, "use_sde")),
    *((n, f) for n in ALGORITHMS for f in ("normalize_advantage", "discount_state_weighting") if takes(n, f)),
    ("reinforce", "normalize_returns"),
    ("reinforce_baseline", "bootstrap_truncated"),
    ("a2c", "use_rms_prop"),
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


def refusal(build):
    """The error, which is ours: raised in this package, by a type that scripts catch, in one line."""
    with pytest.raises((ValueError, TypeError)) as raised:
        build()
    assert raised.traceback[-1].frame.f_globals["__name__"].startswith("sb3_pgx"), raised.value
    text = str(raised.value)
    assert "\n" not in text and len(text) > 20
    return text


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


# ------------------------------------------------------------------------------------------------------- spaces


def box(*shape):
    return spaces.Box(-1, 1, shape, np.float32)


TWO_ROWS = spaces.MultiDiscrete([[2, 3], [2, 2]])


@pytest.mark.parametrize(
    "space, message",
    [
        (box(), "has no dimension: give it shape (1,)"),
        (box(0), "has no numbers: leave it out"),
        (box(3, 0), "has no numbers: leave it out"),
        (
            TWO_ROWS,
            "MultiDiscrete([[2, 3], [2, 2]]), but SB3's policies take one row of choices: flatten it, MultiDiscrete([2,",
        ),
        (spaces.Dict({}), "is an empty Dict"),
        *(
            (spaces.Dict({key: BOX}), f"the part {key!r} of the observation space has a key that cannot name a layer")
            for key in ("x.y", "", "keys", 3)
        ),
        (spaces.Dict({"a": BOX, "b": box()}), "the part 'b' of the observation space is Box"),
        (spaces.Dict({"a": BOX, "b": TWO_ROWS}), "the part 'b' of the observation space is MultiDiscrete"),
        (spaces.Dict({"a": spaces.Box(0, 255, (8, 8, 3), np.uint8)}), "needs at least 36 × 36 pixels"),
    ],
)
def test_observations_that_sb3s_policies_cannot_take_are_refused(name, space, message):
    policy = "MultiInputPolicy" if isinstance(space, spaces.Dict) else "MlpPolicy"
    assert message in refusal(lambda: make(name, envs(space), policy))


@pytest.mark.parametrize(
    "space, message",
    [
        (box(0), "whose actions are empty"),
        (TWO_ROWS, "one row of choices: flatten it, MultiDiscrete([2, 3, 2, 2])"),
        (spaces.MultiBinary([2, 3]), "one row of switches: flatten it, MultiBinary(6)"),
    ],
)
def test_actions_that_sb3s_policies_cannot_give_are_refused(name, space, message):
    assert message in refusal(lambda: make(name, envs(action_space=space)))


@pytest.mark.parametrize("space", [box(), box(2, 3)])
def test_a_box_of_actions_may_have_any_number_of_dimensions(name, space):
    make(name, envs(action_space=space)).learn(24)


def test_the_wrong_policy_for_the_observations_is_refused(name):
    def refused(space, policy):
        return refusal(lambda: make(name, envs(space), policy))

    assert "takes dictionaries, but the observation space is Box(" in refused(BOX, "MultiInputPolicy")
    assert "takes arrays, but the observation space is Dict(" in refused(
        spaces.Dict({"a": BOX}), ALGORITHMS[name].policy_aliases["MlpPolicy"]
    )
    for space in (BOX, spaces.Discrete(3)):
        assert refused(space, "CnnPolicy").endswith("use MlpPolicy")
    small = envs(spaces.Box(0, 255, (35, 60, 1), np.uint8))
    assert "images of shape (1, 35, 60), but SB3's NatureCNN" in refusal(lambda: make(name, small, "CnnPolicy"))
    assert "is unknown; choose one of MlpPolicy" in refusal(lambda: make(name, envs(), "MLPPolicy"))
    assert "policy=None must be one of MlpPolicy" in refusal(lambda: make(name, envs(), None))


def test_an_extractor_of_the_users_may_take_what_sb3s_do_not():
    class Sum(FlattenExtractor):
        def __init__(self, observation_space):
            super(FlattenExtractor, self).__init__(observation_space, 1)

        def forward(self, observations):
            return sum(x.flatten(1).sum(1, keepdim=True) for x in observations.values())

    space = spaces.Dict({"x.y": BOX, "keys": BOX})
    make("ppo", envs(space), "MultiInputPolicy", policy_kwargs=dict(features_extractor_class=Sum)).learn(24)


def test_a_default_type_that_sb3s_policies_do_not_compute_in_is_refused(name):
    class Doubles(OwnExtractor):
        def forward(self, observations):
            return super().forward(observations.double())

    th.set_default_dtype(th.float64)
    try:
        assert "torch's default dtype is torch.float64, but FlattenExtractor gives" in refusal(lambda: make(name))
        doubles = dict(features_extractor_class=Doubles)
        make(name, envs(action_space=spaces.Discrete(2)), policy_kwargs=doubles).learn(24)
    finally:
        th.set_default_dtype(th.float32)


# ------------------------------------------------------------------------------------------------------- environments


@pytest.mark.parametrize(
    "env, message",
    [
        (gym.vector.SyncVectorEnv([lambda: gym.make("CartPole-v1")] * 2), "env is SyncVectorEnv, a VectorEnv of gymnasium"),
        (lambda: gym.make("CartPole-v1"), "env is of type function"),
        (AnySpace, "env is the class AnySpace"),
        ([], "env is of type list"),
        (3, "env is of type int"),
        (None, "env=None: "),
    ],
)
def test_what_is_no_environment_is_refused(env, message, tmp_path):
    assert message in refusal(lambda: PPO("MlpPolicy", env, device=DEVICE))
    if env is not None:
        assert message in refusal(lambda: make("a2c").set_env(env))
        make("a2c").save(tmp_path / "model")
        assert message in refusal(lambda: A2C.load(tmp_path / "model", env=env))


def test_a_model_without_an_environment_says_how_to_give_it_one(name, tmp_path):
    make(name).save(tmp_path / "model")
    model = ALGORITHMS[name].load(tmp_path / "model", device=DEVICE)
    text = refusal(lambda: model.learn(24))
    assert f"{ALGORITHMS[name].__name__}.load(path, env=env), or call model.set_env(env)" in text


class Returns(DummyVecEnv):
    """Returns what it has in another form."""

    form = staticmethod(lambda array: array)

    def reset(self):
        return self._formed(super().reset())

    def step_wait(self):
        observations, rewards, dones, infos = super().step_wait()
        return self._formed(observations), self.form(rewards), self.form(dones), infos

    def _formed(self, observations):
        return (
            {k: self.form(v) for k, v in observations.items()} if isinstance(observations, dict) else self.form(observations)
        )


@pytest.mark.parametrize("form", [np.ndarray.tolist, th.as_tensor, tuple])
@pytest.mark.parametrize(
    "name, observation_space",
    [*((n, BOX) for n in ALGORITHMS), ("ppo", spaces.Dict({"a": BOX, "b": spaces.Discrete(3)})), ("ppo", spaces.Discrete(4))],
)
def test_lists_and_tensors_from_an_environment_train_as_arrays(name, form, observation_space):
    policy = "MultiInputPolicy" if isinstance(observation_space, spaces.Dict) else "MlpPolicy"
    results = []
    for kind in (lambda x: x, form):
        env = Returns([lambda: AnySpace(observation_space, BOX)] * 2)
        env.form = kind
        small = dict(net_arch=[8])
        results.append(parameters(make(name, env, policy, policy_kwargs=small).learn(24)))
    assert_same(*results)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_bad_number_in_a_list_is_found(bad):
    env = Returns([lambda: AnySpace(BOX, BOX)] * 2)
    env.form = lambda array: [bad, *array[1:].tolist()] if array.dtype == np.float32 and array.ndim == 1 else array
    with pytest.raises(ValueError, match=f"environment 0 returned reward {bad} at step 0"):
        make("ppo", env).learn(24)


@pytest.mark.parametrize("reward", [None, "one", [1.0, [2.0]]])
def test_rewards_that_are_no_numbers_are_refused(reward):
    env = Returns([lambda: AnySpace(BOX, BOX)] * 2)
    env.form = lambda array: [reward, reward] if array.dtype == np.float32 and array.ndim == 1 else array
    assert "observations and rewards must be arrays of numbers" in refusal(lambda: make("ppo", env).learn(24))


class Dies(AnySpace):
    """Ends its process in its third step."""

    how = staticmethod(lambda: os.kill(os.getpid(), signal.SIGKILL))

    def step(self, action):
        if self.steps == 2:
            self.how()
        return super().step(action)


@pytest.mark.parametrize(
    "how, end",
    [(lambda: os.kill(os.getpid(), signal.SIGKILL), "was ended by SIGKILL"), (lambda: os._exit(3), "with exit code 3")],
)
@pytest.mark.parametrize("wrapped", [False, True])
def test_a_worker_that_died_is_named(how, end, wrapped):
    def dies():
        env = Dies(BOX, BOX)
        env.how = how
        return env

    env = SubprocVecEnv([dies, lambda: AnySpace(BOX, BOX)], start_method="fork")
    model = make("ppo", VecNormalize(env) if wrapped else env)
    with pytest.raises((EOFError, ConnectionError), match=rf"environment 0 is gone: its process .*{end}.*DummyVecEnv"):
        model.learn(24)
    with pytest.raises((EOFError, ConnectionError), match=r"environment 0 is gone"):
        model.learn(24)
    for process in env.processes:
        process.kill()


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


# ------------------------------------------------------------------------------------------------------- batches


WITH_BATCHES = ("ppo", "ppo_penalty", "npg", "trpo", "reinforce_baseline")


@pytest.mark.parametrize(
    "name, compile", [*((n, False) for n in WITH_BATCHES), *mostly_slow([(n, True) for n in WITH_BATCHES], [("ppo", True)])]
)
def test_a_batch_larger_than_a_rollout_is_the_whole_rollout(name, compile, graphs):
    argument = "critic_batch_size" if name == "reinforce_baseline" else "batch_size"
    whole = 10 if name == "reinforce_baseline" else 12
    results = []
    for size in (whole, 1000):
        model = make(name, **{argument: size}, compile=compile).learn(48)
        results.append(parameters(model))
    assert_same(*results)


@pytest.mark.parametrize("ours, theirs", [(PPO, sb3.PPO), (TRPO, sb3_contrib.TRPO)])
def test_a_batch_larger_than_a_rollout_is_warned_of_as_by_sb3(ours, theirs):
    for algorithm in (theirs, ours):
        with pytest.warns(UserWarning, match="mini-batch"):
            algorithm("MlpPolicy", envs(), n_steps=6, batch_size=13, device=DEVICE)


def test_a_batch_larger_than_a_rollout_trains_as_sb3s():
    results = []
    for algorithm in (sb3.PPO, PPO):
        model = algorithm("MlpPolicy", envs(), n_steps=6, batch_size=64, seed=0, device=DEVICE)
        results.append(parameters(model.learn(48)))
    theirs, ours = results
    for key, value in theirs.items():
        th.testing.assert_close(ours[key], value, rtol=1e-4, atol=1e-5)


# ------------------------------------------------------------------------------------------------------- sb3-contrib's files


@pytest.mark.parametrize("action_space", [spaces.Discrete(3), spaces.MultiDiscrete([2, 3]), BOX, spaces.MultiBinary(3)])
def test_a_model_of_contribs_loads_predicts_the_same_and_trains_on(action_space, tmp_path):
    theirs = sb3_contrib.TRPO("MlpPolicy", envs(action_space=action_space), n_steps=6, batch_size=4, seed=0, device=DEVICE)
    theirs.learn(24).save(tmp_path / "theirs")
    one_sum = isinstance(action_space, spaces.Box | spaces.MultiBinary)
    for algorithm in (TRPO, NPG):
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            model = algorithm.load(tmp_path / "theirs", env=envs(action_space=action_space), device=DEVICE)
        told = [str(w.message) for w in warned if "sb3-contrib" in str(w.message)]
        assert len(told) == one_sum and all("target_kl=3 * 0.01, cg_damping=3 * 0.1" in text for text in told)
        assert_same(parameters(model), parameters(theirs))
        observation = BOX.sample()
        assert np.array_equal(*(m.predict(observation, deterministic=True)[0] for m in (model, theirs)))
        model.learn(24)
        model.save(tmp_path / "ours")
        assert algorithm.load(tmp_path / "ours").max_grad_norm is None


# ------------------------------------------------------------------------------------------------------- replaced parameters


EAGER = [(n, when, False) for n in ALGORITHMS for when in ("before", "between", "in a rollout")]
COMPILED = [(n, "between", True) for n in ALGORITHMS]


@pytest.mark.parametrize("name, when, compile", [*EAGER, *mostly_slow(COMPILED, lambda name, when, compile: name == "ppo")])
def test_parameters_that_are_assigned_are_trained_as_those_that_are_copied(name, when, compile, graphs):
    """``load_state_dict(assign=True)`` puts other parameters into the policy than its optimizer moves."""
    results = []
    for assign in (False, True):
        model = make(name, compile=compile)

        def load(*_, model=model, assign=assign):
            state = {key: value.clone() for key, value in model.policy.state_dict().items()}
            model.policy.load_state_dict(state, assign=assign)
            return True

        if when == "before":
            load()
        model.learn(24, callback=load if when == "in a rollout" else None)
        if when == "between":
            load()
        model.learn(24, reset_num_timesteps=False)
        results.append(parameters(model))
        moments = [state for state in model.policy.optimizer.state.values()]
        held = {id(p) for group in model.policy.optimizer.param_groups for p in group["params"]}
        assert held <= {id(p) for p in model.policy.parameters()} and len(moments) <= len(held)
    assert_same(*results)
    assert not all(th.equal(results[0][key], value) for key, value in parameters(make(name)).items())


def test_acers_wrong_critic_is_refused_for_what_it_is():
    assert "ACER needs an action-value critic" in refusal(lambda: ACER(sb3.common.policies.ActorCriticPolicy, envs()))
