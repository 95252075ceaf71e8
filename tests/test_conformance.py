"""What SB3 expects of an algorithm, checked for every algorithm of the registry."""

import copy
import warnings
from collections import OrderedDict
from itertools import product

import numpy as np
import pytest
import stable_baselines3 as sb3
import torch as th
from generated_sections import published_capabilities
from gymnasium import spaces
from selection import mostly_slow
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback, CallbackList, CheckpointCallback, EvalCallback, EveryNTimesteps
from support.capabilities import BOX, CELLS, PPOS, QUICK, envs, supported
from support.models import assert_same, make, parameters, takes
from support.small_environments import DEVICE, AnySpace, Scripted, vectorised
from support.variants import each_variant

from sb3_pgx.registry import ALGORITHMS


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


# ------------------------------------------------------------------------------------------------------- capabilities


def is_quick(name, cell):
    """Every cell with PPO and ACER, which differ most, and with one of the other algorithms."""
    others = [other for other in ALGORITHMS if other not in ("ppo", "acer")]
    return name not in others or name == others[[*CELLS].index(cell) % len(others)]


@pytest.mark.parametrize("name, cell", mostly_slow(product(ALGORITHMS, CELLS), is_quick))
def test_the_table_of_capabilities_says_what_trains(name, cell):
    published = published_capabilities().get((name, cell))
    assert published is not None, (
        f"docs/reference/compatibility.md does not say whether {name} trains with {cell}: run `make table`"
    )
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
    for network in {"policy", "average_policy", "curvature"} & set(vars(flat)):
        left, right = getattr(flat, network), getattr(dictionary, network)
        right.load_state_dict(OrderedDict(zip(right.state_dict(), left.state_dict().values(), strict=True)))
    rollout = flat.last_rollout
    dictionary.last_rollout = copy.deepcopy(rollout)
    for part in ("observations", "last_observations", "final_observations"):
        setattr(dictionary.last_rollout, part, {"only": getattr(rollout, part)})
    dictionary.policy.optimizer.load_state_dict(copy.deepcopy(flat.policy.optimizer.state_dict()))
    for model in (flat, dictionary):
        np.random.seed(0)
        th.manual_seed(0)
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
OF_ONE = {
    "reinforce": dict(baseline="loo", normalize_returns=True),
    # It samples an action for each row, in their order. Next to a large damping, their gradients do not matter.
    "acktr": dict(damping=1e6, learning_rate=1e5, target_kl=1e9, critic_epsilon=1e9),
}


def test_an_update_does_not_depend_on_how_rows_are_split_over_environments(name):
    """The same four episodes, one environment plays all of them, or each of two environments two."""
    policy = acts_by_the_observation(ALGORITHMS[name].policy_aliases["MlpPolicy"])
    settings = {argument: value for argument, value in WHOLE.items() if takes(name, argument)}
    settings |= {"learning_rate": 0.1, **OF_ONE.get(name, {})}
    sgd, reached = dict(net_arch=[8], optimizer_class=th.optim.SGD), []
    for n_envs in (1, 2):
        each = 4 // n_envs
        parts = [slice(i, i + each) for i in range(0, 4, each)]
        env = vectorised(*(Numbered(part.start, LENGTHS[part], TRUNCATES[part]) for part in parts))
        steps = dict(n_steps=16 // n_envs) if takes(name, "n_steps") else dict(n_episodes=each)
        model = ALGORITHMS[name](policy, env, policy_kwargs=sgd, seed=0, device=DEVICE, compile=False, **steps, **settings)
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


@pytest.mark.parametrize("false", mostly_slow([False, np.bool_(False), 0], lambda false: type(false) is np.bool_))
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
