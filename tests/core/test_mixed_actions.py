"""
Mixed actions (``Dict`` and ``Tuple`` spaces): the distribution by enumeration and quadrature, training against the spaces that
SB3 knows, and what environments and callers of ``predict`` get.
"""

import math

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from selection import mostly_slow
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback
from stable_baselines3.common.distributions import (
    BernoulliDistribution,
    CategoricalDistribution,
    DiagGaussianDistribution,
    MultiCategoricalDistribution,
)
from stable_baselines3.common.env_checker import check_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecNormalize
from support.capabilities import BOX, DICT, MIXED, envs
from support.models import make, parameters
from support.refusals import refusal
from support.small_environments import DEVICE

from sb3_pgx.core.distributions import family_of, packed
from sb3_pgx.core.mixed_policies import MixedActionsPolicy
from sb3_pgx.core.mixed_spaces import by_part
from sb3_pgx.core.policies import split_parameters
from sb3_pgx.core.policy_names import named_policy
from sb3_pgx.core.product import Product
from sb3_pgx.diagnostics import DiagnosticsCallback
from sb3_pgx.environments import as_vec_env
from sb3_pgx.registry import ALGORITHMS

MIXED_ALGORITHMS = ["a2c", "npg", "ppo", "ppo_penalty", "reinforce", "reinforce_baseline", "trpo"]
each = pytest.mark.parametrize("name", MIXED_ALGORITHMS)

# ------------------------------------------------------------------------------------------------------- the distribution

PARTS = {
    "first": spaces.Box(-1, 1, (1,), np.float32),
    "choice": spaces.Discrete(3),
    "second": spaces.Box(-1, 1, (1,), np.float32),
    "switches": spaces.MultiBinary(2),
    "choices": spaces.MultiDiscrete([2, 3]),
}
SPACE = spaces.Dict(list(PARTS.items()))  # a list keeps the order
N_OUTPUTS, WIDTH, STEPS = 1 + 3 + 1 + 2 + 5, 8.0, 41  # of the network; of the grid, in standard deviations, and its points


def given_parameters(seed):
    """Return the outputs of a network for one state and log σ of the two numbers."""
    generator = th.Generator().manual_seed(seed)
    outputs = th.randn(1, N_OUTPUTS, generator=generator, dtype=th.float64)
    return outputs, 0.3 * th.randn(2, generator=generator, dtype=th.float64)


def product(outputs, log_std):
    return Product(SPACE).proba_distribution(outputs, log_std)


def every_action(outputs, log_std):
    """Return all choices with a grid of numbers for each, ``[B, 7]``, and the area of a grid's cell."""
    means, stds = outputs[0, [0, 4]], log_std.exp()
    grid = th.linspace(-WIDTH, WIDTH, STEPS, dtype=th.float64)
    first, second = (mean + std * grid for mean, std in zip(means, stds, strict=True))
    columns = [first, range(3), second, range(2), range(2), range(2), range(3)]
    actions = th.cartesian_prod(*(th.as_tensor(list(x), dtype=th.float64) for x in columns))
    return actions, float(stds.prod()) * (grid[1] - grid[0]).item() ** 2


def log_prob(outputs, log_std, actions):
    return product(outputs.expand(len(actions), -1), log_std).log_prob(actions)


def test_the_density_is_that_of_the_parts_and_its_integral_over_all_actions_is_1():
    outputs, log_std = given_parameters(0)
    actions, area = every_action(outputs, log_std)
    density = log_prob(outputs, log_std, actions).exp()
    assert density.sum().item() * area == pytest.approx(1, abs=1e-12)
    of_choice = [density[actions[:, 1] == k].sum().item() * area for k in range(3)]
    assert of_choice == pytest.approx(outputs[0, 1:4].softmax(dim=0).tolist(), abs=1e-12)
    of_switch = density[actions[:, 4] == 1].sum().item() * area
    assert of_switch == pytest.approx(outputs[0, 6].sigmoid().item(), abs=1e-12)


def test_entropy_and_divergence_are_the_sums_over_all_actions():
    (outputs, log_std), (others, other_log_std) = given_parameters(0), given_parameters(1)
    p, q = product(outputs, log_std), product(others, other_log_std)
    actions, area = every_action(outputs, log_std)
    log_p, log_q = log_prob(outputs, log_std, actions), log_prob(others, other_log_std, actions)
    weights = log_p.exp() * area
    assert p.entropy().item() == pytest.approx(-(weights * log_p).sum().item(), abs=1e-10)
    kl = family_of(p).kl(packed(p), packed(q)).item()
    assert kl > 0.5
    assert kl == pytest.approx((weights * (log_p - log_q)).sum().item(), abs=1e-10)


def test_the_fisher_matrix_is_the_hessian_of_the_divergence():
    p = product(*given_parameters(0))
    family, parameters = family_of(p), packed(p)
    n = parameters.shape[1]
    assert n == N_OUTPUTS + 2, "means and standard deviations, and logits"
    hessian = th.autograd.functional.hessian(lambda new: family.kl(parameters, new[None]).sum(), parameters[0])
    matrix = family.fisher(parameters.expand(n, -1), th.eye(n, dtype=th.float64))
    th.testing.assert_close(matrix, hessian, rtol=1e-9, atol=1e-12)
    assert (matrix.diagonal() > 0).all()


def test_samples_are_those_of_sb3s_distributions_drawn_one_after_another():
    generator = th.Generator().manual_seed(0)
    outputs, log_std = 2 * th.randn(50, N_OUTPUTS, generator=generator), th.randn(2, generator=generator)
    ours = Product(SPACE).proba_distribution(outputs, log_std)
    theirs = [
        DiagGaussianDistribution(1).proba_distribution(outputs[:, :1], log_std[:1]),
        CategoricalDistribution(3).proba_distribution(outputs[:, 1:4]),
        DiagGaussianDistribution(1).proba_distribution(outputs[:, 4:5], log_std[1:]),
        BernoulliDistribution(2).proba_distribution(outputs[:, 5:7]),
        MultiCategoricalDistribution([2, 3]).proba_distribution(outputs[:, 7:]),
    ]
    for deterministic in (False, True):
        th.manual_seed(1)
        actions = ours.get_actions(deterministic)
        th.manual_seed(1)
        expected = [part.get_actions(deterministic).float().reshape(50, -1) for part in theirs]
        assert actions.dtype == th.float32 and th.equal(actions, th.cat(expected, dim=1))
        th.manual_seed(1)
        assert th.equal(Product(SPACE).actions_from_params(outputs, log_std, deterministic), actions)
    th.manual_seed(2)
    again, log_probs = Product(SPACE).log_prob_from_params(outputs, log_std)
    assert th.equal(log_probs, ours.log_prob(again))


# ------------------------------------------------------------------------------------------------------- training


class Walk(gym.Env):
    """
    A walk over ten places that two numbers decide, with ends of both kinds.

    :param action_space: of the actions
    :param numbers: function that makes two numbers of an action
    """

    observation_space = spaces.Box(-1, 2, (2,), np.float32)

    def __init__(self, action_space, numbers):
        self.action_space, self.numbers = action_space, numbers
        self.place = self.steps = 0

    def _observation(self):
        return np.array([self.place / 10, self.steps / 5], np.float32)

    def reset(self, *, seed=None, options=None):
        self.place, self.steps = (7 * self.place + 3) % 10, 0
        return self._observation(), {}

    def step(self, action):
        assert self.action_space.contains(action), f"{action!r} is not in {self.action_space}"
        one, two = map(float, self.numbers(action))
        self.place, self.steps = int(3 * self.place + 2.5 * abs(one) + abs(two) + 1) % 10, self.steps + 1
        terminated = self.place == 4
        return self._observation(), self.place / 10 + one - 0.3 * two, terminated, not terminated and self.steps >= 4, {}


def walks(action_space, numbers):
    return DummyVecEnv([lambda: Walk(action_space, numbers)] * 2)


PAIR = spaces.MultiDiscrete([2, 3])
NUMBERS = spaces.Box(-1, 1, (2,), np.float32)
TWINS = {
    "Dict of choices": ((PAIR, list), (spaces.Dict(a=spaces.Discrete(2), b=spaces.Discrete(3)), lambda a: (a["a"], a["b"]))),
    "Tuple of choices": (
        (PAIR, list),
        (spaces.Tuple([spaces.Discrete(2, start=5), spaces.Discrete(3)]), lambda a: (a[0] - 5, a[1])),
    ),
    "Dict of a Box": ((NUMBERS, list), (spaces.Dict(x=NUMBERS), lambda a: a["x"])),
    "Tuple of a Box": ((NUMBERS, list), (spaces.Tuple([NUMBERS]), lambda a: a[0])),
    "Dict of switches": ((spaces.MultiBinary(2), list), (spaces.Dict(on=spaces.MultiBinary(2)), lambda a: a["on"])),
}


NETWORKS = {"MlpPolicy": {}, "MlpLstmPolicy": dict(lstm_hidden_size=8), "MlpGruPolicy": dict(lstm_hidden_size=8)}


@pytest.mark.parametrize(
    "name, case, policy",
    mostly_slow(
        [(name, case, policy) for name in MIXED_ALGORITHMS for case in TWINS for policy in NETWORKS],
        lambda name, case, policy: (
            (policy == "MlpPolicy" and (case in ("Dict of choices", "Tuple of a Box") or name in ("ppo", "trpo")))
            or (case == "Dict of choices" and name in ("ppo", "trpo"))
        ),
    ),
)
def test_a_product_of_what_sb3_knows_trains_bit_for_bit_as_sb3s_space(name, case, policy):
    trained = []
    for space, numbers in TWINS[case]:
        model = make(name, walks(space, numbers), policy, policy_kwargs=dict(net_arch=[8], **NETWORKS[policy]))
        before = parameters(model)
        trained.append(model.learn(60))
    plain, mixed = trained
    assert_same_parameters(mixed, plain)
    assert (parameters(plain)["action_net.weight"] - before["action_net.weight"]).abs().max() > 1e-4


def assert_same_parameters(mixed, plain):
    ours, theirs = parameters(mixed), parameters(plain)
    assert ours.keys() == theirs.keys()
    for key, value in theirs.items():
        assert th.equal(ours[key], value), key


@pytest.mark.parametrize("options", [dict(log_std_bounds=(-5, 2)), dict(state_dependent_std=True), dict(log_std_init=-1.0)])
def test_standard_deviations_have_the_options_of_a_box(options):
    plain, mixed = (
        make("ppo", walks(*twin), policy_kwargs=dict(net_arch=[8], **options)).learn(60) for twin in TWINS["Dict of a Box"]
    )
    assert_same_parameters(mixed, plain)
    assert mixed.logger.name_to_value["train/std"] == plain.logger.name_to_value["train/std"]


@pytest.mark.parametrize("vec_env", [SubprocVecEnv, "VecNormalize", "VectorEnv"])
def test_environments_of_every_kind_train_alike(vec_env):
    """Each of them asserts that its actions are members of the space."""
    space, numbers = (
        spaces.Dict(a=spaces.Discrete(2, start=1), x=spaces.Box(-1, 1, (1,), np.float32)),
        lambda a: (a["a"], *a["x"]),
    )
    makers = [lambda: Walk(space, numbers)] * 2
    plain = make("a2c", DummyVecEnv(makers)).learn(60)
    if vec_env == "VecNormalize":
        env = VecNormalize(DummyVecEnv(makers), norm_obs=False, norm_reward=False)
    elif vec_env == "VectorEnv":
        same_step = gym.vector.AutoresetMode.SAME_STEP
        env = as_vec_env(gym.vector.SyncVectorEnv(makers, autoreset_mode=same_step))
    else:
        env = vec_env(makers, start_method="fork")
    model = make("a2c", env).learn(60)
    env.close()
    assert_same_parameters(model, plain)


def test_a_tuple_in_a_vector_env_trains_as_in_a_dummy_vec_env():
    case = TWINS["Tuple of choices"][1]
    same_step = gym.vector.AutoresetMode.SAME_STEP
    env = gym.vector.SyncVectorEnv([lambda: Walk(*case)] * 2, autoreset_mode=same_step)
    assert_same_parameters(make("ppo", env).learn(60), make("ppo", walks(*case)).learn(60))


class Bandit(gym.Env):
    """One step: the reward is 1 − |x − target| for the right choice, and 0 for the others; the observation shows both."""

    observation_space = spaces.Box(-1, 1, (2,), np.float32)
    action_space = spaces.Dict(kind=spaces.Discrete(2, start=1), x=spaces.Box(-1, 1, (1,), np.float32))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.kind, self.target = int(self.np_random.integers(2)), float(self.np_random.choice([-0.5, 0.5]))
        return np.array([2 * self.kind - 1, self.target], np.float32), {}

    def step(self, action):
        right = action["kind"] == self.kind + 1
        reward = 1 - abs(float(action["x"][0]) - self.target) if right else 0.0
        return np.zeros(2, np.float32), reward, True, False, {}


SOLVING = {
    "a2c": dict(n_steps=16, learning_rate=3e-2, use_rms_prop=False),
    "npg": dict(n_steps=64, target_kl=0.1),
    "ppo": dict(n_steps=32, batch_size=64, n_epochs=8, learning_rate=1e-2),
    "ppo_penalty": dict(n_steps=32, batch_size=64, n_epochs=8, learning_rate=1e-2),
    "reinforce": dict(n_episodes=64, learning_rate=3e-2),
    "reinforce_baseline": dict(n_episodes=64, learning_rate=3e-2),
    "trpo": dict(n_steps=64, target_kl=0.1),
}


@pytest.mark.parametrize("name", mostly_slow(MIXED_ALGORITHMS, ["reinforce"]))
def test_every_algorithm_learns_both_parts(name):
    """A policy that ignores either part of the observation gets at most 0.5."""
    env = DummyVecEnv([lambda: Monitor(Bandit())] * 8)
    env.seed(0)
    kwargs = dict(policy_kwargs=dict(net_arch=[16], log_std_init=-1.0), gamma=0.5, **SOLVING[name])
    model = ALGORITHMS[name]("MlpPolicy", env, seed=0, device=DEVICE, **kwargs).learn(4_000)
    mean, _ = evaluate_policy(model, env, n_eval_episodes=100)
    assert mean > 0.75


# ------------------------------------------------------------------------------------------------------- structure

ORDERED = spaces.Dict(
    [
        ("z", spaces.Discrete(3, start=2)),
        ("a", spaces.Box(-0.1, 0.1, (2, 2), np.float32)),
        ("m", spaces.Box(0, 3, (2,), np.int64)),
    ]
)
SPACES = {"Dict": ORDERED, "Tuple": spaces.Tuple(ORDERED.values())}


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
@pytest.mark.parametrize("deterministic", [True, False])
def test_predict_returns_a_member_for_one_environment_and_a_list_for_several(space, deterministic):
    model = make("ppo", envs(action_space=space), policy_kwargs=dict(log_std_init=1.0)).learn(24)
    observations = np.stack([BOX.sample() for _ in range(4)])
    for predictor in (model, model.policy):
        one, _ = predictor.predict(observations[0], deterministic=deterministic)
        several, _ = predictor.predict(observations, deterministic=deterministic)
        assert isinstance(several, list) and len(several) == 4
        for action in (one, *several):
            assert space.contains(action)
            parts = list(action.values()) if isinstance(action, dict) else action
            assert [np.asarray(x).dtype for x in parts] == [np.int64, np.float32, np.int64]
            if isinstance(action, dict):
                assert list(action) == ["z", "a", "m"]
    assert model.policy.action_space is model.action_space == space


def test_an_action_of_predict_is_the_most_probable_one_of_each_part():
    model = make("a2c", envs(action_space=ORDERED)).learn(24)
    observation = BOX.sample()
    distribution = model.policy.get_distribution(model.policy.obs_to_tensor(observation)[0])
    gaussian, choice = distribution.parts[1].distribution, distribution.parts[0].distribution
    action, _ = model.predict(observation, deterministic=True)
    assert action["z"] == choice.probs.argmax().item() + 2
    np.testing.assert_array_equal(action["a"].ravel(), gaussian.mean.detach().cpu().numpy().ravel().clip(-0.1, 0.1))


def test_a_rollout_keeps_rows_of_numbers_in_the_order_of_the_space():
    class Watch(BaseCallback):
        taken = ()

        def _on_step(self):
            assert self.locals["actions"].shape == (2, 7)
            for row, action in zip(self.locals["actions"], self.locals["clipped_actions"], strict=True):
                assert list(action) == ["z", "a", "m"] and action["z"] == row[0] + 2
                np.testing.assert_array_equal(action["a"].ravel(), row[1:5].clip(-0.1, 0.1).astype(np.float32))
                np.testing.assert_array_equal(action["m"], np.rint(row[5:].clip(0, 3)))
            self.taken = (*self.taken, self.locals["actions"].copy())
            return True

        def _on_rollout_end(self):
            np.testing.assert_array_equal(self.model.rollout_buffer.actions, np.stack(self.taken))
            self.taken = ()

    model = make("ppo", envs(action_space=ORDERED)).learn(24, callback=Watch())
    assert model.rollout_buffer.actions.dtype == np.float32
    assert [tuple(x.shape) for x, _ in by_part(model.last_rollout.actions, ORDERED)] == [(6, 2, 1), (6, 2, 4), (6, 2, 2)]


def test_a_choice_that_a_callback_writes_must_exist():
    class Writes(BaseCallback):
        def _on_step(self):
            return True

        def _on_rollout_end(self):
            self.model.rollout_buffer.actions[0, 0, 0] = 3.0

    model = make("ppo", envs(action_space=ORDERED))
    with pytest.raises(ValueError, match="has written the action 3, and the space has 3 choices from 0"):
        model.learn(24, callback=Writes())


def test_a_users_own_buffer_keeps_the_same_rows():
    class Own(RolloutBuffer):
        """A user's class."""

    model = make("ppo", envs(action_space=ORDERED), rollout_buffer_class=Own).learn(24)
    assert type(model.rollout_buffer) is Own and model.rollout_buffer_class is Own
    rows = model.last_rollout.actions.transpose(0, 1).flatten(end_dim=1)
    np.testing.assert_array_equal(model.rollout_buffer.actions, rows.cpu().numpy())
    usual = parameters(make("ppo", envs(action_space=ORDERED)).learn(24))
    for key, value in parameters(model).items():
        th.testing.assert_close(value, usual[key], rtol=1e-4, atol=1e-6, msg=lambda m, key=key: f"{key}: {m}")


@pytest.mark.parametrize(
    "name, policy, observation_space", [("ppo", "MlpPolicy", BOX), ("reinforce", "MultiInputPolicy", DICT)]
)
def test_models_are_saved_and_loaded(name, policy, observation_space, tmp_path):
    model = make(name, envs(observation_space, ORDERED), policy).learn(24)
    model.save(tmp_path / "model")
    model.policy.save(tmp_path / "policy")
    reordered = spaces.Dict(sorted(ORDERED.items()))
    loaded = type(model).load(tmp_path / "model", env=envs(observation_space, reordered), device=DEVICE)
    policies = [loaded, loaded.policy, type(model.policy).load(tmp_path / "policy", device=DEVICE)]
    observation = observation_space.sample()
    expected, _ = model.predict(observation, deterministic=True)
    for predictor in policies:
        action, _ = predictor.predict(observation, deterministic=True)
        assert list(action) == list(expected) and all(np.array_equal(action[key], expected[key]) for key in expected)
    loaded.learn(24, reset_num_timesteps=False)
    with pytest.raises(ValueError, match="Action spaces do not match"):
        type(model).load(tmp_path / "model", env=envs(observation_space, spaces.Dict(z=spaces.Discrete(3))), device=DEVICE)


def test_sb3s_checks_callbacks_and_evaluation_work(tmp_path):
    check_env(Bandit())
    callback = EvalCallback(DummyVecEnv([lambda: Monitor(Bandit())]), eval_freq=6, log_path=str(tmp_path), verbose=0)
    env = VecNormalize(DummyVecEnv([lambda: Monitor(Bandit())] * 2))
    callback.eval_env = VecNormalize(callback.eval_env, training=False)
    model = make("ppo", env).learn(24, callback=callback)
    assert callback.evaluations_results
    for evaluated in (
        env,
        as_vec_env(gym.vector.SyncVectorEnv([Bandit] * 2, autoreset_mode=gym.vector.AutoresetMode.SAME_STEP)),
    ):
        mean, _ = evaluate_policy(model, evaluated, n_eval_episodes=4, warn=False)
        assert math.isfinite(mean)


# ------------------------------------------------------------------------------------------------------- parameters


def test_there_is_a_standard_deviation_for_each_number_and_none_for_logits():
    model = make("ppo", envs(action_space=MIXED), policy_kwargs=dict(log_std_init=-0.5))
    assert model.policy.action_net.out_features == 4 + 3 + 2 + 5 + 1
    assert th.equal(model.policy.log_std, th.full((5,), -0.5, device=DEVICE))
    actor, critic = split_parameters(model.policy)
    assert set(actor) | set(critic) == set(dict(model.policy.named_parameters()))
    in_optimizer = {id(p) for group in model.policy.optimizer.param_groups for p in group["params"]}
    assert in_optimizer == {id(p) for p in model.policy.parameters()}
    without = make("ppo", envs(action_space=spaces.Dict(a=spaces.Discrete(2), b=spaces.MultiBinary(2))))
    assert not hasattr(without.policy, "log_std")


def test_policies_for_images_and_without_critic():
    model = make("ppo", envs(DICT, MIXED), "MultiInputPolicy").learn(12)
    assert isinstance(model.policy, MixedActionsPolicy.__mro__[2])
    image = spaces.Box(0, 255, (36, 36, 1), np.uint8)
    make("a2c", envs(image, MIXED), "CnnPolicy").learn(12)
    actor = make("reinforce", envs(image, MIXED), "CnnPolicy").learn(12).policy
    assert not split_parameters(actor)[1]


class OwnMixedPolicy(MixedActionsPolicy):
    """A user's policy for mixed actions."""


def test_a_users_policy_may_be_derived_from_ours():
    assert type(make("ppo", envs(action_space=MIXED), OwnMixedPolicy).learn(24).policy) is OwnMixedPolicy


def test_diagnostics_know_the_parts():
    callback = DiagnosticsCallback()
    model = make("ppo", envs(action_space=MIXED), policy_kwargs=dict(log_std_init=0.5)).learn(24, callback=callback)
    numbers, rollout = callback.history[-1], model.last_rollout
    std = model.policy.log_std.exp()
    assert "relative_entropy" not in numbers
    for metric, value in dict(std_mean=std.mean(), std_min=std.min(), std_max=std.max()).items():
        assert numbers[metric] == pytest.approx(value.item())
    flat = rollout.actions.flatten(end_dim=1).cpu().numpy()
    keys = list(MIXED)
    outside = [
        (rows < MIXED[key].low.ravel()) | (rows > MIXED[key].high.ravel())
        for key, (rows, _) in zip(keys, by_part(flat, MIXED), strict=True)
        if isinstance(MIXED[key], spaces.Box)
    ]
    assert 0 < numbers["actions_clipped"] < 1
    assert numbers["actions_clipped"] == pytest.approx(np.concatenate(outside, axis=1).mean())
    choices = spaces.Tuple([spaces.Discrete(3), spaces.MultiDiscrete([2, 4]), spaces.MultiBinary(2)])
    callback = DiagnosticsCallback()
    make("ppo", envs(action_space=choices)).learn(12, callback=callback)
    numbers = callback.history[-1]
    assert numbers["relative_entropy"] == pytest.approx(numbers["entropy"] / math.log(3 * 2 * 4 * 2 * 2))


# ------------------------------------------------------------------------------------------------------- refusals


@each
@pytest.mark.parametrize(
    "space, message",
    [
        (spaces.Dict({}), "the action space is an empty Dict"),
        (spaces.Tuple([]), "the action space is an empty Tuple"),
        (spaces.Dict(a=spaces.Dict(b=spaces.Discrete(2))), "the part 'a' of the action space is Dict('b': Discrete(2))"),
        (spaces.Tuple([spaces.Discrete(2), spaces.Text(3)]), "the part 1 of the action space is Text(1, 3, charset="),
        (spaces.Dict(a=spaces.MultiBinary([2, 3])), "the part 'a' of the action space is MultiBinary((2, 3)), but SB3's"),
        (spaces.Dict(a=spaces.Box(-np.inf, np.inf, (2,))), "give it finite bounds, to which actions are clipped"),
        (spaces.Tuple([spaces.Box(-1, 1, (0,))]), "the part 0 of the action space is Box([], [], (0,), float32), whose"),
    ],
)
def test_parts_that_cannot_be_acted_in_are_refused(name, space, message):
    assert message in refusal(lambda: make(name, envs(action_space=space)))


@pytest.mark.parametrize(
    "kwargs, message",
    [
        (dict(policy_kwargs=dict(squash_output=True)), "squash_output=True needs Box actions, but the action space is Dict("),
        (dict(policy=type("Own", (ActorCriticPolicy,), {})), "Own cannot act in Dict("),
    ],
)
def test_options_that_need_one_box_are_refused(kwargs, message):
    assert message in refusal(lambda: make("ppo", envs(action_space=MIXED), **kwargs))


def test_gsde_is_refused():
    with pytest.raises(ValueError, match=r"gSDE.* can only be used with continuous actions"):
        make("ppo", envs(action_space=MIXED), use_sde=True)
    assert "use_sde=True needs Box actions" in refusal(lambda: MixedActionsPolicy(BOX, MIXED, lambda _: 1e-3, use_sde=True))


def test_acer_and_sb3s_spaces_are_refused_with_the_alternative():
    assert "ACER cannot act in Dict(" in refusal(lambda: make("acer", envs(action_space=MIXED)))
    recurrent = type("OwnMemory", (named_policy("MlpLstmPolicy"),), {})
    message = refusal(lambda: make("ppo", envs(action_space=MIXED), recurrent))
    assert "OwnMemory cannot act in Dict(" in message and "MlpLstmPolicy, MlpGruPolicy or their relatives" in message
    assert "acts in Dict and Tuple spaces" in refusal(lambda: make("ppo", envs(), MixedActionsPolicy))
    options = dict(policy_kwargs=dict(log_std_bounds=(-5, 2)))
    assert "need a Gaussian policy" in refusal(lambda: make("ppo", envs(action_space=spaces.Dict(a=PAIR)), **options))
