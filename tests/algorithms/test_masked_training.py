"""Action masks in every algorithm: no invalid action is taken, and what is learned is that of the masked distribution."""

import copy
import gc
import inspect
import weakref

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.vector.utils import batch_space
from sb3_contrib.common.maskable.buffers import MaskableRolloutBuffer
from selection import mostly_slow
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.distributions import CategoricalDistribution
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecFrameStack, VecNormalize
from support.capabilities import QUICK
from support.masked_environments import MASKED_SPACES, MIXED, Masked
from support.models import assert_same, parameters
from support.small_environments import DEVICE

from sb3_pgx import PPO
from sb3_pgx import environments as evaluation
from sb3_pgx.diagnostics import DiagnosticsCallback
from sb3_pgx.environments import EvalCallback
from sb3_pgx.registry import ALGORITHMS

CASES = [
    (name, space, in_observations, compiled)
    for name in ALGORITHMS
    for space in (*MASKED_SPACES, "Dict")
    for in_observations in (False, True)
    for compiled in (False, True)
    if name != "acer" or space == "Discrete"
]


def quick(name, space, in_observations, compiled):
    return not compiled and (in_observations == (space == "MultiDiscrete"))


def environments(space="Discrete", n=2, **kwargs):
    return DummyVecEnv([lambda: Masked(copy.deepcopy({**MASKED_SPACES, "Dict": MIXED}[space]), **kwargs)] * n)


def made(name, env, **kwargs):
    policy = "MultiInputPolicy" if hasattr(env.observation_space, "spaces") else "MlpPolicy"
    return ALGORITHMS[name](policy, env, **{"seed": 0, "device": DEVICE, **QUICK[name], **kwargs})


@pytest.mark.parametrize("name, space, in_observations, compiled", mostly_slow(CASES, quick))
def test_no_algorithm_takes_an_invalid_action(name, space, in_observations, compiled):
    model = made(name, environments(space, in_observations=in_observations, truncates=True), compile=compiled)
    before = parameters(model)
    model.learn(120)  # the environment raises on an invalid action
    rollout = model.last_rollout
    assert rollout.action_masks is not None and not rollout.action_masks.all()
    assert any(not th.equal(before[key], value) for key, value in parameters(model).items()), "nothing was learned"


@pytest.mark.parametrize("name", ALGORITHMS)
def test_masks_that_allow_everything_change_nothing(name):
    results = []
    for use_masking in (True, False):
        model = made(name, environments(free=True, truncates=True), compile=False)
        results.append(model.learn(100, use_masking=use_masking))
    masked, unmasked = results
    assert masked.last_rollout.action_masks is not None and unmasked.last_rollout.action_masks is None
    th.testing.assert_close(parameters(masked), parameters(unmasked), rtol=1e-4, atol=1e-5)
    assert th.equal(masked.last_rollout.actions, unmasked.last_rollout.actions)


@pytest.mark.parametrize("name", mostly_slow(ALGORITHMS, ["ppo", "trpo"]))
def test_masks_of_the_method_and_of_the_observations_are_used_alike(name):
    """The networks differ, so the masks are compared: of the rows, and of what the next rollout starts with."""
    by_method, by_part = (
        made(name, environments(in_observations=part, truncates=True), compile=False).learn(60) for part in (False, True)
    )
    rows = by_part.last_rollout
    assert th.equal(rows.action_masks, rows.observations["action_mask"].bool())
    assert by_method.last_rollout.action_masks.float().mean() == pytest.approx(
        rows.action_masks.float().mean().item(), abs=0.2
    )


def test_the_log_probabilities_of_a_rollout_are_those_of_the_masked_policy():
    model = made("ppo", environments("MultiDiscrete"), compile=False, n_steps=8, n_epochs=1).learn(16)
    rollout, policy = model.last_rollout, copy.deepcopy(made("ppo", environments("MultiDiscrete"), compile=False).policy)
    flat = rollout.observations.flatten(end_dim=1)
    logits = policy.action_net(policy.mlp_extractor.forward_actor(policy.extract_features(flat)))
    masks, actions = rollout.action_masks.flatten(end_dim=1), rollout.actions.flatten(end_dim=1).long()
    expected = th.zeros(len(flat))
    for part, mask, action in zip(logits.split([3, 2, 4], 1), masks.split([3, 2, 4], 1), actions.unbind(1), strict=True):
        weights = part.exp() * mask
        expected += (weights.gather(1, action[:, None]).flatten() / weights.sum(dim=1)).log().cpu()
    th.testing.assert_close(rollout.log_prob.flatten().cpu(), expected.detach(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["a2c", "ppo"])
def test_a_callback_sees_and_cannot_silently_write_the_masks(name):
    class Reads(BaseCallback):
        def _on_rollout_end(self):
            masks = self.model.rollout_buffer.action_masks
            assert masks.shape == (self.model.n_steps, 2, 5) and masks.dtype == bool
            with pytest.raises(ValueError, match="read-only"):
                masks[0] = True
            self.seen = masks

        def _on_step(self):
            values, log_probs = self.locals["values"], self.locals["log_probs"]  # computed when read
            self.read = values + log_probs
            return True

    callback = Reads()
    watched = made(name, environments(), compile=False).learn(60, callback)
    assert np.array_equal(callback.seen, watched.last_rollout.action_masks.numpy())
    assert_close = th.testing.assert_close
    assert_close(parameters(watched), parameters(made(name, environments(), compile=False).learn(60)), rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_the_masks_pass_through_processes():
    plain = made("ppo", environments(in_observations=True), compile=False).learn(32)
    space = copy.deepcopy(MASKED_SPACES["Discrete"])
    processes = make_vec_env(Masked, 2, env_kwargs=dict(action_space=space, in_observations=True), vec_env_cls=SubprocVecEnv)
    try:
        assert_same(parameters(made("ppo", processes, compile=False).learn(32)), parameters(plain))
    finally:
        processes.close()
    asked = make_vec_env(Masked, 2, env_kwargs=dict(action_space=space), vec_env_cls=SubprocVecEnv)
    try:
        by_method = made("ppo", environments(), compile=False).learn(32)
        assert_same(parameters(made("ppo", asked, compile=False).learn(32)), parameters(by_method))
    finally:
        asked.close()


def test_the_masks_pass_through_wrappers():
    for wrapped in (
        VecNormalize(environments(in_observations=True), norm_obs_keys=["vector"]),
        VecNormalize(environments()),
        VecFrameStack(environments(in_observations=True), 3),
        VecFrameStack(environments(), 3),
    ):
        model = made("ppo", wrapped, compile=False).learn(60)
        assert not model.last_rollout.action_masks.all()


def test_stacked_frames_are_masked_as_their_newest_one():
    model = made("ppo", VecFrameStack(environments(in_observations=True), 3), compile=False).learn(16)
    rollout = model.last_rollout
    assert th.equal(rollout.action_masks, rollout.observations["action_mask"][..., -5:].bool())


def test_predict_takes_masks_and_finds_those_of_the_observations():
    model = made("ppo", environments(), compile=False)
    observation, mask = np.zeros((2, 3), np.float32), np.array([[0, 0, 1, 0, 0], [1, 0, 0, 0, 0]])
    for deterministic in (False, True):
        for given in (mask, mask.astype(bool), mask.tolist()):
            assert model.predict(observation, action_masks=given, deterministic=deterministic)[0].tolist() == [2, 0]
    assert model.predict(observation[0], action_masks=mask[0])[0] == 2
    parts = made("ppo", environments(in_observations=True), compile=False)
    seen = {"vector": observation, "action_mask": mask.astype(np.int8)}
    assert parts.predict(seen)[0].tolist() == [2, 0]
    assert parts.predict({key: part[0] for key, part in seen.items()})[0] == 2


def test_sb3s_evaluation_uses_the_masks_of_the_observations():
    model = made("ppo", environments(in_observations=True), compile=False).learn(32)
    evaluate_policy(model, environments(in_observations=True), n_eval_episodes=6)  # the environment raises on others


def test_a_row_added_by_a_caller_brings_its_masks():
    model = made("ppo", environments(), n_steps=4, batch_size=8, n_epochs=1, compile=False)
    model.learn(8)
    buffer, rollout = model.rollout_buffer, copy.deepcopy(model.last_rollout)
    buffer.reset()
    for t in range(4):
        row = (rollout.observations[t], rollout.actions[t], rollout.rewards[t], rollout.episode_starts[t])
        masks = rollout.action_masks[t].numpy()
        buffer.add(*(x.numpy() for x in row), rollout.values[t], rollout.log_prob[t], action_masks=masks)
    buffer.compute_returns_and_advantage(rollout.last_values, np.zeros(2))
    model.train()
    assert th.equal(model.last_rollout.action_masks, rollout.action_masks)


# ------------------------------------------------------------------------------------------------------- bad input


def test_a_state_without_a_valid_action_is_named():
    env = environments()
    env.envs[1].action_masks = lambda: np.zeros(5, bool)
    with pytest.raises(
        ValueError, match=r"environment 1 .*no valid action at step 0 .*action_masks\(\) gives \[0, 0, 0, 0, 0\]"
    ):
        made("ppo", env).learn(8)


def test_a_mask_of_the_wrong_size_is_refused():
    env = environments()
    env.envs[1].action_masks = lambda: np.ones(4, bool)
    with pytest.raises(ValueError, match=r"masks of shape \(4,\) and \(5,\).*need 5 entries"):
        made("ppo", env).learn(8)


def test_a_mask_of_other_numbers_is_refused():
    env = environments()
    env.envs[0].action_masks = lambda: np.full(5, 0.5)
    with pytest.raises(ValueError, match=r"gives 0.5 in a mask.*norm_obs_keys"):
        made("ppo", env).learn(8)


def test_a_policy_with_a_distribution_of_its_own_is_refused():
    class Own(PPO.policy_aliases["MlpPolicy"]):
        def get_distribution(self, obs):
            return copy.deepcopy(super().get_distribution(obs))

    with pytest.raises(ValueError, match=r"Own.get_distribution makes a distribution of its own, which cannot be masked"):
        PPO(Own, environments(), n_steps=8, batch_size=8, device=DEVICE).learn(8)


class OwnForward(PPO.policy_aliases["MlpPolicy"]):
    def forward(self, obs, deterministic=False):
        distribution = CategoricalDistribution(5).proba_distribution(th.zeros(len(obs), 5, device=obs.device))
        actions = distribution.get_actions(deterministic)
        return actions, self.predict_values(obs), distribution.log_prob(actions)


class OwnEvaluation(PPO.policy_aliases["MlpPolicy"]):
    def evaluate_actions(self, obs, actions):
        values, log_prob, entropy = super().evaluate_actions(obs, actions)
        return values, th.full_like(log_prob, -1.0), entropy


class OwnDistribution(CategoricalDistribution):
    """A user's class, whose probabilities may be others."""


class WithOwnDistribution(PPO.policy_aliases["MlpPolicy"]):
    def _build(self, lr_schedule):
        super()._build(lr_schedule)
        self.action_dist = OwnDistribution(5)


@pytest.mark.parametrize(
    "policy, match",
    [(OwnForward, "OwnForward.forward"), (OwnEvaluation, "OwnEvaluation.evaluate_actions"), (WithOwnDistribution, "OwnDis")],
)
def test_whatever_method_leaves_the_masks_out_is_named(policy, match):
    model = PPO(policy, environments(free=True), n_steps=8, batch_size=8, device=DEVICE)
    with pytest.raises(ValueError, match=f"environments mask actions, but .*{match}"):
        model.learn(8)
    model.learn(8, use_masking=False)


class ReadsProbabilities(PPO.policy_aliases["MlpPolicy"]):
    def evaluate_actions(self, obs, actions):
        self.probabilities = self.get_distribution(obs).distribution.probs
        return super().evaluate_actions(obs, actions)


def test_an_overridden_method_finds_sb3s_distribution_masked():
    model = PPO(ReadsProbabilities, environments(), n_steps=8, batch_size=16, n_epochs=1, device=DEVICE).learn(16)
    possible, valid = model.policy.probabilities > 0, model.last_rollout.rows().action_masks
    assert possible.sum() == valid.sum() < valid.numel()  # of all rows, in another order


class OwnBuffer(RolloutBuffer):
    """A user's class that knows no masks."""


class Swallows(RolloutBuffer):
    def add(self, *args, action_masks=None):
        super().add(*args)


@pytest.mark.parametrize("buffer", [OwnBuffer, Swallows])
def test_a_buffer_that_loses_the_masks_is_refused(buffer):
    model = made("ppo", environments(), rollout_buffer_class=buffer)
    with pytest.raises(
        ValueError, match=f"{buffer.__name__} does not keep action masks: derive it from .*MaskableRolloutBuffer"
    ):
        model.learn(40)


def test_a_buffer_derived_from_contribs_keeps_the_masks():
    class Own(MaskableRolloutBuffer):
        """A user's class."""

    kept, plain = (made("ppo", environments(), compile=False, **kwargs) for kwargs in ({"rollout_buffer_class": Own}, {}))
    kept.set_random_seed(3), kept.learn(40)
    plain.set_random_seed(3), plain.learn(40)
    th.testing.assert_close(parameters(kept), parameters(plain), rtol=1e-4, atol=1e-6)


def test_masks_that_the_environment_overwrites_are_kept_as_they_were_acted_on():
    class Reuses(MaskedArrays):
        def stacked(self, seen):
            new = MaskedArrays.stacked(seen)
            known = self.__dict__.setdefault("arrays", {key: x.copy() for key, x in new.items()})
            for key, array in known.items():
                array[:] = new[key]
            return known

    arguments = {"seed": 0, "device": DEVICE, **QUICK["ppo"], "compile": False}
    one, other = (PPO("MultiInputPolicy", env, **arguments).learn(60) for env in (Reuses(), MaskedArrays()))
    assert th.equal(one.last_rollout.action_masks, other.last_rollout.action_masks)
    assert_same(parameters(one), parameters(other))


def test_an_attribute_that_is_no_method_and_environments_out_of_reach():
    env = environments()
    env.envs[0].action_masks = np.ones(5)
    with pytest.raises(ValueError, match=r"action_masks of the environments is .*must be a method"):
        made("ppo", env).learn(8)

    class OutOfReach(DummyVecEnv):
        def get_attr(self, name, indices=None):
            if name == "render_mode":
                return super().get_attr(name, indices)
            raise NotImplementedError

    made("ppo", OutOfReach([lambda: Masked(free=True)])).learn(8)


def test_array_environments_may_give_the_masks_of_all_at_once():
    class Batched(MaskedArrays):
        def __init__(self):
            super().__init__()
            self.envs = [Masked(length=length) for length in (3, 5)]
            self.single_observation_space = self.envs[0].observation_space
            self.observation_space = batch_space(self.single_observation_space, 2)

        def action_masks(self):
            return np.stack([env.mask | ended for env, ended in zip(self.envs, self.ended, strict=True)])

        def step(self, actions):
            seen = []
            for i, (env, action) in enumerate(zip(self.envs, actions, strict=True)):
                seen.append((env.reset()[0], 0.0, False) if self.ended[i] else env.step(action)[:3])
            self.ended = np.array([end for *_, end in seen])
            rewards = np.array([reward for _, reward, _ in seen])
            return self.stacked([x for x, *_ in seen]), rewards, self.ended.copy(), np.zeros(2, bool), {}

        @staticmethod
        def stacked(seen):
            return np.stack(seen)

    model = PPO("MlpPolicy", Batched(), **{"seed": 0, "device": DEVICE, **QUICK["ppo"]}, compile=False).learn(60)
    assert not model.last_rollout.action_masks.all()


def test_predict_masks_as_the_training_did():
    model = made("ppo", environments(in_observations=True, free=True), compile=False).learn(16, use_masking=False)
    seen = {"vector": np.zeros(3, np.float32), "action_mask": np.zeros(5, np.int8)}
    assert model.predict(seen)[0] in range(5)  # the part means nothing to this model
    model.learn(16)
    with pytest.raises(ValueError, match="leaves no valid action"):
        model.predict(seen)


def test_predict_takes_tensors_and_one_mask_for_all():
    model = made("ppo", environments(), compile=False)
    observations = np.zeros((3, 3), np.float32)
    assert model.predict(observations, action_masks=th.tensor([0, 0, 1, 0, 0]))[0].tolist() == [2, 2, 2]
    with pytest.raises(ValueError, match=r"masks of shape \(2, 5\)"):
        model.predict(observations, action_masks=np.ones((2, 5)))


def test_after_training_the_model_does_not_hold_on_to_the_environments():
    env = environments()
    model = made("ppo", env, compile=False).learn(16)
    held = weakref.ref(env.envs[0])
    model.env = None
    del env
    gc.collect()
    assert held() is None


def test_a_policy_with_nan_does_not_predict_an_action():
    model = made("ppo", environments(), compile=False)
    with th.no_grad():
        model.policy.action_net.bias.fill_(th.nan)
    for deterministic in (False, True):
        with pytest.raises(ValueError, match="nan"):
            model.predict(np.zeros(3, np.float32), action_masks=np.ones(5), deterministic=deterministic)


def test_masks_of_actions_that_cannot_be_masked_are_refused():
    env = make_vec_env("Pendulum-v1", 1)
    env.envs[0].unwrapped.action_masks = lambda: np.ones(1, bool)
    model = PPO("MlpPolicy", env, n_steps=8, batch_size=8, device=DEVICE)
    with pytest.raises(ValueError, match=r"those of Box.* cannot be masked.*use_masking=False"):
        model.learn(8)
    model.learn(8, use_masking=False)


@pytest.mark.parametrize("given, match", [(np.ones(4), "need 5 entries"), (np.zeros(5), "leaves no valid action")])
def test_bad_masks_for_predict_are_refused(given, match):
    model = made("ppo", environments())
    with pytest.raises(ValueError, match=match):
        model.predict(np.zeros(3, np.float32), action_masks=given)


def test_acer_needs_the_masks_of_final_states():
    class Forgets(Masked):
        def step(self, action):
            return *super().step(action)[:4], {}

    env = DummyVecEnv([lambda: Forgets(truncates=True)])
    with pytest.raises(ValueError, match=r'environment 0 .*was truncated.*info\["action_masks"\].*action_mask'):
        made("acer", env).learn(100)


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("change", ["use_masking", "other environments", "memory of a file"])
def test_acers_memory_takes_transitions_with_masks_or_without_but_not_both(first, change, tmp_path):
    masked, unmasked = (lambda: environments(free=True)), (lambda: DummyVecEnv([Unmasked] * 2))
    model = made("acer", masked(), compile=False)
    if change == "other environments":
        model.set_env(masked() if first else unmasked())
        model.learn(40)
        model.set_env(unmasked() if first else masked())
    else:
        model.learn(40, use_masking=first)
    if change == "memory of a file":
        model.save_replay_buffer(tmp_path / "memory.pkl")
        model = made("acer", masked(), compile=False)
        model.load_replay_buffer(tmp_path / "memory.pkl")
    before, policy = model.replay_buffer.size, parameters(model)
    again = {} if change == "other environments" else {"use_masking": not first}
    held, new = ("with", "without") if first else ("without", "with")
    with pytest.raises(ValueError, match=rf"holds {before} transitions {held} action masks.*stored {new} .*reset\(\)"):
        model.learn(40, **again)
    assert model.replay_buffer.size == before
    assert_same(parameters(model), policy)
    model.replay_buffer.reset()
    model.learn(40, **again)
    assert (model.last_rollout.action_masks is None) == first


class Unmasked(Masked):
    """All actions are valid, and there are no masks."""

    def __init__(self):
        super().__init__(free=True)
        del self.action_masks


class Named(Masked):
    """Observations are a dictionary; its parts have the names that are given."""

    def __init__(self, names, masked):
        super().__init__(free=not masked, truncates=True)
        self.observation_space = spaces.Dict({name: self.observation_space for name in names})
        if not masked:
            del self.action_masks

    def drawn(self):
        return dict.fromkeys(self.observation_space.spaces, super().drawn())


@pytest.mark.parametrize("names", [("action_masks", "vector"), ("observations", "vector"), ("observations",)])
@pytest.mark.parametrize("masked", [False, True])
def test_parts_of_observations_may_have_any_name(names, masked):
    """ACER's memory keeps masks together with the observations."""
    learned = [
        made("acer", DummyVecEnv([lambda names=parts: Named(names, masked)] * 2), compile=False).learn(100)
        for parts in (names, ["a", "b"][: len(names)])
    ]
    named, expected = (model.policy.state_dict() for model in learned)
    assert learned[0].n_gradient_steps > 10
    assert all(th.equal(x, y) for x, y in zip(named.values(), expected.values(), strict=True))
    assert (learned[0].last_rollout.action_masks is None) != masked


# ------------------------------------------------------------------------------------------------------- evaluation


def test_evaluation_asks_the_environments_for_their_masks(tmp_path):
    model = made("ppo", environments(), compile=False)
    callback = EvalCallback(environments(), n_eval_episodes=3, eval_freq=10, best_model_save_path=str(tmp_path), verbose=0)
    model.learn(60, callback)  # the environments raise on an invalid action
    assert np.isfinite(callback.last_mean_reward) and (tmp_path / "best_model.zip").exists() and callback.model is model
    mean, _ = evaluation.evaluate_policy(model, environments(), 5)
    assert np.isfinite(mean)
    with pytest.warns(UserWarning, match=r"predict got no action_masks, .*trained with those that .*action_masks\(\) gives"):
        model.predict(np.zeros(3, np.float32))


def test_the_environments_are_asked_only_when_an_evaluation_is_due():
    class Counts(DummyVecEnv):
        asked = 0

        def has_attr(self, name):
            self.asked += 1
            return super().has_attr(name)

    watched = Counts([Masked])
    callback = EvalCallback(watched, n_eval_episodes=1, eval_freq=20, verbose=0, warn=False)
    model = made("ppo", environments(), compile=False, n_steps=32, batch_size=32).learn(64, callback)
    assert model.num_timesteps == 64 and watched.asked == 1  # at the 20th of 32 steps


def test_our_evaluate_policy_takes_what_sb3s_and_sb3_contribs_take():
    model, env = made("ppo", environments(), compile=False).learn(16), environments()
    seen = []
    returns, lengths = evaluation.evaluate_policy(model, env, 4, False, False, lambda *_: seen.append(1), None, True, False)
    assert len(returns) == len(lengths) == 4 and lengths == [7] * 4 and len(seen) == 28
    with pytest.raises(AssertionError, match="below threshold"):
        evaluation.evaluate_policy(model, env, 2, reward_threshold=8.0, warn=False)
    with pytest.raises(AssertionError, match="invalid action"), pytest.warns(UserWarning, match="got no action_masks"):
        evaluation.evaluate_policy(model, env, 50, warn=False, use_masking=False)
    assert evaluation.evaluate_policy(model, Masked(), 2, True, warn=False, use_masking=True)[0] >= 0
    theirs = inspect.signature(evaluate_policy).parameters
    ours = inspect.signature(evaluation.evaluate_policy).parameters
    assert [(p.name, p.default) for p in ours.values()][: len(theirs)] == [(p.name, p.default) for p in theirs.values()]


@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP])
def test_vector_environments_are_evaluated_with_their_masks(mode):
    model = made("ppo", environments(), compile=False).learn(16)
    env = SyncVectorEnv([lambda: Masked(length=3), lambda: Masked(length=5)], autoreset_mode=mode)
    returns, lengths = evaluation.evaluate_policy(model, env, 4, return_episode_rewards=True)
    assert sorted(lengths) == [3, 3, 5, 5] and all(0 <= r <= 5 for r in returns)


def test_a_step_that_only_resets_an_environment_is_evaluated_without_a_valid_action():
    model = made("ppo", environments(in_observations=True), compile=False)
    _, lengths = evaluation.evaluate_policy(model, MaskedArrays(), 4, return_episode_rewards=True)
    assert sorted(lengths) == [3, 3, 5, 5]


def test_a_state_without_a_valid_action_is_named_in_evaluation_too():
    model, env = made("ppo", environments()), environments(n=1)
    env.envs[0].action_masks = lambda: env.envs[0].mask & (env.envs[0].t < 3)
    with pytest.raises(ValueError, match="no valid action at step 3 of this evaluation"):
        evaluation.evaluate_policy(model, env, 1, warn=False)


def test_the_model_of_an_evaluation_can_be_copied():
    """SB3's function gives it to a callback."""
    model, copies = made("ppo", environments(), compile=False), []
    evaluation.evaluate_policy(
        model, environments(), 1, callback=lambda names, _: copies.append(copy.copy(names["model"])), warn=False
    )
    assert copies[0].policy is model.policy
    assert copies[0].predict(np.zeros((2, 3), np.float32))[0].shape == (2,)
    assert not hasattr(copies[0], "__setstate__")  # which a copy asks for before it has a model


def test_the_diagnostics_measure_entropy_relative_to_the_valid_actions():
    model = made("ppo", environments(), compile=False, learning_rate=0.0, n_steps=64, batch_size=32)
    with th.no_grad():
        for p in model.policy.action_net.parameters():
            p.zero_()  # uniform over the valid actions
    callback = DiagnosticsCallback()
    model.learn(128, callback)
    kept = callback.history[-1]
    assert kept["relative_entropy"] == pytest.approx(1.0, rel=1e-5)
    assert kept["valid_actions"] == pytest.approx(model.last_rollout.action_masks.float().mean().item(), rel=1e-5)


class MaskedArrays(VectorEnv):
    """Two masked environments that reset in the step after an episode's end, whose observation has no valid action."""

    metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012

    def __init__(self):
        self.envs = [Masked(in_observations=True, length=length) for length in (3, 5)]
        self.num_envs = 2
        self.single_observation_space, self.single_action_space = self.envs[0].observation_space, self.envs[0].action_space
        self.observation_space = batch_space(self.single_observation_space, 2)
        self.action_space = batch_space(self.single_action_space, 2)
        self.ended = np.zeros(2, bool)

    def reset(self, *, seed=None, options=None):
        self.ended[:] = False
        return self.stacked([env.reset(seed=i)[0] for i, env in enumerate(self.envs)]), {}

    def step(self, actions):
        seen, rewards, ends = [], np.zeros(2), np.zeros(2, bool)
        for i, (env, action) in enumerate(zip(self.envs, actions, strict=True)):
            if self.ended[i]:
                seen.append(env.reset()[0])
                continue
            observation, rewards[i], ends[i], _, _ = env.step(action)
            seen.append({**observation, "action_mask": observation["action_mask"] * (not ends[i])})
        self.ended = ends.copy()
        return self.stacked(seen), rewards, ends, np.zeros(2, bool), {}

    @staticmethod
    def stacked(seen):
        return {key: np.stack([one[key] for one in seen]) for key in seen[0]}


@pytest.mark.parametrize("name", mostly_slow([n for n in ALGORITHMS if n != "acer"], ["ppo", "reinforce"]))
def test_a_step_that_only_resets_an_environment_needs_no_valid_action(name):
    model = ALGORITHMS[name]("MultiInputPolicy", MaskedArrays(), **{"seed": 0, "device": DEVICE, **QUICK[name]}, compile=False)
    model.learn(60)
    rollout = model.last_rollout
    learned = rollout.rows(rollout.valid_rows())
    assert (~rollout.valid).any() and learned.action_masks.any(dim=1).all()
