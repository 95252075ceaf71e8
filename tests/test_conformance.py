"""
What SB3 expects of an algorithm, checked for every algorithm of the registry.
"""

import copy
import csv
import inspect
import warnings
from collections import OrderedDict

import numpy as np
import pytest
import sb3_contrib
import stable_baselines3 as sb3
import torch as th
from gymnasium import spaces
from readme_tables import published_capabilities
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback, CallbackList, CheckpointCallback, EvalCallback, EveryNTimesteps
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import Logger, configure
from support.capabilities import BOX, CELLS, DICT, QUICK, envs, supported
from support.models import assert_same, assert_same_optimizer, make, parameters, takes
from support.small_environments import DEVICE, AnySpace, Scripted, vectorised
from support.variants import each_variant

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


# ------------------------------------------------------------------------------------------------------- constructor


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


PPOS = ("ppo", "ppo_penalty")


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


@each_variant()
def test_a_subclass_that_has_its_own_train_is_asked(variant):
    class Counts(variant.algorithm):
        calls = 0

        def train(self):
            self.calls += 1
            super().train()

    model = Counts(variant.policy, variant.envs(), seed=0, device=DEVICE, **QUICK[variant.name]).learn(24)
    assert model.calls > 0 and model._n_updates > 0


@pytest.mark.parametrize("name", ["a2c", *PPOS])  # whole episodes have estimates of their own
def test_a_callback_that_changes_rewards_and_estimates_again_changes_the_update(name):
    class Doubles(BaseCallback):
        def _on_step(self):
            return True

        def _on_rollout_end(self):
            buffer = self.model.rollout_buffer
            last_values, dones = th.tensor([3.0, -2.0]), np.array([False, True])
            self.before = buffer.returns.copy()
            buffer.rewards *= 2
            buffer.compute_returns_and_advantage(last_values, dones)
            self.returns = buffer.returns.copy()
            theirs = RolloutBuffer(
                len(buffer.rewards), buffer.observation_space, buffer.action_space, "cpu", buffer.gae_lambda, buffer.gamma, 2
            )
            for part in ("rewards", "values", "episode_starts"):
                setattr(theirs, part, getattr(buffer, part))
            theirs.compute_returns_and_advantage(last_values, dones)
            self.sb3s = theirs.returns

    callback = Doubles()
    model = make(name)
    if name == "acer":
        with pytest.raises(ValueError, match=r"rollout_buffer.rewards was written to, and this algorithm does not learn"):
            model.learn(12, callback=callback)
        return
    rollout = model.learn(12, callback=callback).last_rollout
    assert np.array_equal(rollout.returns.cpu().numpy(), callback.returns)
    monte_carlo = name in ("reinforce", "reinforce_baseline")  # which is linear in the rewards, and needs no last values
    np.testing.assert_allclose(callback.returns, 2 * callback.before if monte_carlo else callback.sb3s, rtol=1e-5)


COEFFICIENTS = [(n, "learning_rate") for n in ALGORITHMS] + [(n, "ent_coef") for n in ALGORITHMS if takes(n, "ent_coef")]
COEFFICIENTS += [(n, "vf_coef") for n in ("a2c", *PPOS)] + [(n, c) for n in PPOS for c in ("clip_range", "clip_range_vf")]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -0.1])
@pytest.mark.parametrize("name, coefficient", COEFFICIENTS)
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


@pytest.mark.parametrize("name, coefficient", [c for c in COEFFICIENTS if c[1] != "clip_range_vf"])
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


# ------------------------------------------------------------------------------------------------------- capabilities


@pytest.mark.parametrize("cell", CELLS)
def test_the_readme_says_what_trains(name, cell):
    published = published_capabilities().get((name, cell))
    assert published is not None, f"README.md does not say whether {name} trains with {cell}: run `make table`"
    assert supported(name, cell) == published, "if the change is meant, run `make table`"


def test_a_dictionary_observation_trains_as_the_same_flat_one(name):
    class InDict(AnySpace):
        def __init__(self):
            super().__init__(spaces.Dict({"only": BOX}), spaces.Discrete(2))

    no_memory = dict(replay_ratio=0) if takes(name, "replay_ratio") else {}
    kwargs = dict(policy_kwargs=dict(net_arch=[8]), learning_rate=1e-2, **no_memory)
    flat = make(name, vectorised(AnySpace(BOX, spaces.Discrete(2))), **kwargs).learn(60)
    dictionary = make(name, vectorised(InDict()), "MultiInputPolicy", **kwargs).learn(60)
    # The two spaces draw different observations from one seed: give both the same ones.
    observation = BOX.sample()
    for model in (flat, dictionary):
        model.policy.set_training_mode(False)
    for network in {"policy", "average_policy"} & set(vars(flat)):
        left, right = getattr(flat, network), getattr(dictionary, network)
        right.load_state_dict(OrderedDict(zip(right.state_dict(), left.state_dict().values(), strict=True)))
    rollout = flat.last_rollout
    dictionary.last_rollout = copy.deepcopy(rollout)
    for part in ("observations", "last_observations", "final_observations"):
        setattr(dictionary.last_rollout, part, {"only": getattr(rollout, part)})
    dictionary.policy.optimizer.load_state_dict(copy.deepcopy(flat.policy.optimizer.state_dict()))
    for model in (flat, dictionary):
        np.random.seed(0)
        model.rollout_buffer.show(model.estimate(model.last_rollout), model.gamma)
        model.train()
    for p, q in zip(flat.policy.parameters(), dictionary.policy.parameters(), strict=True):
        th.testing.assert_close(p, q)
    assert np.array_equal(
        flat.predict(observation, deterministic=True)[0], dictionary.predict({"only": observation}, deterministic=True)[0]
    )


# ------------------------------------------------------------------------------------------------------- reproducibility


def test_the_same_seed_gives_the_same_training(name):
    first, second, other = (make(name, seed=seed).learn(60) for seed in (3, 3, 4))
    assert_same(parameters(first), parameters(second))
    assert any(not th.equal(a, b) for a, b in zip(first.policy.parameters(), other.policy.parameters(), strict=True))


# ------------------------------------------------------------------------------------------------------- rows


class Numbered(Scripted):
    """Its first episode is not number 0; the reward depends on the action."""

    action_space = spaces.Discrete(3)

    def __init__(self, first, lengths, truncates):
        super().__init__(lengths, truncates)
        self.episode, self.first = first - 1, first

    def step(self, action):
        self.step_number += 1
        k = self.episode - self.first
        done, truncates = self.step_number >= self.lengths[k % len(self.lengths)], self.truncates[k % len(self.lengths)]
        reward = float(np.sin(3 * self.episode + self.step_number) + action)
        return self.observe(), reward, done and not truncates, done and truncates, {}


def acts_by_the_observation(policy_class):
    """The policy's class with actions that are no random ones: they are the same whatever they are computed beside."""

    class Fixed(policy_class):
        def forward(self, obs, deterministic=False):
            actions = (7 * obs[:, 0] + 5 * obs[:, 1]).long() % 3
            values, log_prob, _ = self.evaluate_actions(obs, actions)
            return actions, values, log_prob

    return Fixed


# Lengths of four episodes, and which of them are truncated.
LENGTHS, TRUNCATES = [3, 5, 6, 2], [False, True, True, False]
# Whole batches, so that the order of the rows does not matter, and no clipping, which would hide a factor.
WHOLE = dict(batch_size=16, n_epochs=3, critic_batch_size=16, gae_lambda=0.8, max_grad_norm=1e9)
WHOLE |= dict(replay_ratio=0, on_policy_update=True, discount_state_weighting=True)


def test_an_update_does_not_depend_on_how_rows_are_split_over_environments(name):
    """The same four episodes, one environment plays all of them, or each of two environments two."""
    policy = acts_by_the_observation(ALGORITHMS[name].policy_aliases["MlpPolicy"])
    settings = {argument: value for argument, value in WHOLE.items() if takes(name, argument)}
    settings |= dict(baseline="loo", normalize_returns=True) if name == "reinforce" else {}
    sgd, reached = dict(net_arch=[8], optimizer_class=th.optim.SGD), []
    for n_envs in (1, 2):
        each = 4 // n_envs
        parts = [slice(i, i + each) for i in range(0, 4, each)]
        env = vectorised(*(Numbered(part.start, LENGTHS[part], TRUNCATES[part]) for part in parts))
        steps = dict(n_steps=16 // n_envs) if takes(name, "n_steps") else dict(n_episodes=each)
        model = ALGORITHMS[name](
            policy, env, learning_rate=0.1, policy_kwargs=sgd, seed=0, device=DEVICE, compile=False, **steps, **settings
        )
        before = th.nn.utils.parameters_to_vector(model.policy.parameters()).detach().clone()
        model.learn(16)
        assert model.num_timesteps == 16 and model._n_updates == settings.get("n_epochs", 1)
        reached.append(th.nn.utils.parameters_to_vector(model.policy.parameters()).detach())
    assert (reached[0] - before).abs().max() > 1e-3
    th.testing.assert_close(reached[1], reached[0], rtol=0, atol=1e-6)


# ------------------------------------------------------------------------------------------------------- callbacks


class Watch(BaseCallback):
    """Keeps what the hooks see, in order."""

    def __init__(self):
        super().__init__()
        self.events, self.step_locals, self.end_locals, self.updates = [], [], [], []

    def _on_training_start(self):
        self.events.append("training_start")

    def _on_rollout_start(self):
        self.events.append("rollout_start")

    def _on_step(self):
        self.step_locals.append(set(self.locals))
        assert self.locals["self"] is self.model
        return True

    def _on_rollout_end(self):
        self.events.append("rollout_end")
        self.end_locals.append({k: np.shape(v) for k, v in self.locals.items() if k in ("values", "log_probs", "dones")})
        buffer = self.model.rollout_buffer
        assert buffer.full and np.isfinite(buffer.advantages).all() and np.abs(buffer.returns).sum() > 0

    def on_update_end(self, metrics):
        self.events.append("update_end")
        self.updates.append(metrics)

    def _on_training_end(self):
        self.events.append("training_end")


def test_callbacks_see_sb3s_locals_and_the_hooks_in_order(name):
    reference, watch = Watch(), Watch()
    sb3.A2C("MlpPolicy", envs(), n_steps=6, device=DEVICE).learn(24, callback=reference)
    child = Watch()
    make(name).learn(24, callback=CallbackList([EveryNTimesteps(5, child), watch]))
    assert child.updates == watch.updates
    assert reference.step_locals[0] - {"values", "log_probs"} <= watch.step_locals[0]
    assert watch.end_locals[0] == reference.end_locals[0]
    iterations = watch.events.count("rollout_start")
    assert iterations >= 2
    assert watch.events == ["training_start", *["rollout_start", "rollout_end", "update_end"] * iterations, "training_end"]
    assert all(isinstance(v, float) for metrics in watch.updates for v in metrics.values())
    assert "on_update_end" not in vars(BaseCallback)


@pytest.mark.filterwarnings("ignore:predict got no action_masks:UserWarning")
@each_variant()
def test_stock_callbacks_work(variant, tmp_path):
    unmasked = envs(variant.envs().observation_space, variant.envs().action_space)  # SB3's callback does not hand masks on
    evaluate = EvalCallback(unmasked, n_eval_episodes=2, eval_freq=5, log_path=str(tmp_path), verbose=0, warn=False)
    checkpoint = CheckpointCallback(6, str(tmp_path), verbose=0)
    model = variant.make().learn(48, callback=[evaluate, checkpoint])
    evaluated = np.load(tmp_path / "evaluations.npz")["timesteps"].tolist()
    assert evaluated == list(range(10, model.num_timesteps + 1, 10))  # every five steps of two environments
    assert sorted(p.name for p in tmp_path.glob("*.zip"))[0] == "rl_model_12_steps.zip"


@pytest.mark.parametrize("false", [False, np.bool_(False), 0])
@each_variant()
def test_a_callback_stops_the_training_at_once(variant, false):
    model = variant.make()
    model.learn(1000, callback=lambda locals_, _: true_until(model, 14, false))
    assert model.num_timesteps == 14
    model.learn(24, reset_num_timesteps=False)


def true_until(model, steps, false):
    return True if model.num_timesteps < steps else false


@each_variant()
def test_rollouts_run_in_evaluation_mode_and_updates_in_training_mode(variant):
    modes = {"rollout": set(), "update": set()}

    class Modes(BaseCallback):
        def _on_step(self):
            modes["rollout"].add(self.model.policy.training)
            return True

    model = variant.make(policy_kwargs=dict(net_arch=[8]))
    original = model.update
    model.update = lambda rollout: modes["update"].add(model.policy.training) or original(rollout)
    model.learn(24, callback=Modes())
    assert modes == {"rollout": {False}, "update": {True}}


# ------------------------------------------------------------------------------------------------------- logging


def logged(model, timesteps, **kwargs):
    """All that a training logged, dump by dump."""
    dumps = []
    logger = configure(None, [""])
    original = logger.dump
    logger.dump = lambda step=0: dumps.append(dict(logger.name_to_value)) or original(step)  # type: ignore[method-assign]
    model.set_logger(logger)
    model.learn(timesteps, **kwargs)
    return dumps


def test_log_keys_are_sb3s_finite_and_the_last_update_is_among_them(name):
    model = make(name, make_vec_env("CartPole-v1", 2, seed=0))
    updates = []
    original = model.update
    model.update = lambda rollout: updates.append(original(rollout)) or updates[-1]
    dumps = logged(model, 300, log_interval=1)
    assert len(dumps) == len(updates)  # SB3 logs before it updates: the last update would be lost
    last = dumps[-1]
    assert {"time/fps", "time/total_timesteps", "rollout/ep_rew_mean", "rollout/ep_len_mean"} <= last.keys()
    objectives = {**dict.fromkeys(PPOS, "policy_gradient_loss"), **dict.fromkeys(["npg", "trpo"], "policy_objective")}
    policy_loss = objectives.get(name, "policy_loss")  # SB3's and sb3-contrib's names
    others = ("value_loss", "kl_divergence_loss") if name in ("npg", "trpo") else ("entropy_loss",)
    assert {f"train/{key}" for key in ("learning_rate", "n_updates", policy_loss, *others)} <= last.keys()
    assert last[f"train/{policy_loss}"] == pytest.approx(float(updates[-1][policy_loss]))
    assert model.logger.name_to_value[f"train/{policy_loss}"] == last[f"train/{policy_loss}"]  # as after SB3's learn
    assert last["train/n_updates"] == model._n_updates
    assert all(np.isfinite(v) for v in last.values())
    assert "train/std" in logged(make(name), 48, log_interval=1)[-1]


def test_the_last_update_is_logged_whatever_the_log_interval(name):
    model = make(name, make_vec_env("CartPole-v1", 2, seed=0))
    dumps = logged(model, 300, log_interval=7)
    assert dumps[-1]["train/n_updates"] == model._n_updates


@pytest.mark.parametrize("log_interval", [1, 2, 3])
@each_variant(also_quick=False)
def test_no_step_is_logged_twice(variant, log_interval, tmp_path):
    """Whether a training is continued, ends by itself, or is stopped by a callback."""
    model = variant.make()
    model.set_logger(configure(str(tmp_path), ["csv"]))
    for _ in range(3):
        model.learn(48, log_interval=log_interval, reset_num_timesteps=False)
    model.learn(1000, log_interval=log_interval, reset_num_timesteps=False, callback=lambda a, b: model.num_timesteps < 200)
    with open(tmp_path / "progress.csv") as file:
        rows = list(csv.DictReader(file))
    steps = [int(row["time/total_timesteps"]) for row in rows]
    assert steps == sorted(set(steps)) and steps[-1] == model.num_timesteps
    assert int(rows[-1]["train/n_updates"]) == model._n_updates


def test_nothing_is_logged_without_a_log_interval(name):
    assert logged(make(name), 48, log_interval=None) == []


def test_tensorboard_runs_are_named_after_the_class(name, tmp_path):
    make(name, tensorboard_log=str(tmp_path)).learn(12)
    assert [p.name for p in tmp_path.iterdir()] == [f"{ALGORITHMS[name].__name__}_1"]


def test_a_custom_logger_is_kept(name):
    model, logger = make(name), Logger(None, [])
    model.set_logger(logger)
    assert model.learn(12).logger is logger


def test_the_statistics_window_is_respected(name):
    model = make(name, make_vec_env("CartPole-v1", 2, seed=0), stats_window_size=3).learn(200)
    assert model.ep_info_buffer.maxlen == 3 == len(model.ep_info_buffer)


# ------------------------------------------------------------------------------------------------------- environments


@each_variant()
def test_set_env_resets_and_refuses_another_number_of_environments(variant):
    model = variant.make().learn(12)
    model.set_env(variant.envs())
    assert model._last_obs is None
    model.learn(12, reset_num_timesteps=False)
    with pytest.raises(AssertionError, match="number of environments"):
        model.set_env(variant.envs(n=3))


@each_variant()
def test_training_changes_no_process_wide_state(variant):
    before = (th.get_num_threads(), th.get_default_dtype(), th.distributions.Distribution._validate_args)
    with warnings.catch_warnings():
        filters = list(warnings.filters)
        variant.make().learn(24)
        assert warnings.filters == filters
    assert before == (th.get_num_threads(), th.get_default_dtype(), th.distributions.Distribution._validate_args)
