"""What a rollout holds, when it is complete, and what happens when the environment or a callback misbehaves."""

from typing import ClassVar

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import VecNormalize
from support.small_environments import DEVICE, AnySpace, Scripted, ScriptedDict, vectorised

from sb3_pgx import A2C, PPO, REINFORCE, REINFORCEBaseline


def values_of(model, observations):
    """V of observations given one by one, as SB3's users do."""
    with th.no_grad():
        return [model.policy.predict_values(model.policy.obs_to_tensor(o)[0]).item() for o in observations]


def collected(model):
    """The model's first rollout, before any update."""
    model._setup_learn(10**3, None)  # too few steps to be worth compiling
    callback = model._init_callback(None)
    assert model.collect_rollouts(model.env, callback, model.rollout_buffer, model.n_steps)
    return model.last_rollout


def test_rows_are_what_the_environment_returned_and_ends_are_told_apart():
    model = A2C("MlpPolicy", vectorised(Scripted([2, 3], [True, False])), n_steps=7, device=DEVICE)
    rollout = collected(model)
    observations = rollout.observations[:, 0].tolist()
    assert observations == [[0, 0], [0, 1], [1, 0], [1, 1], [1, 2], [2, 0], [2, 1]]
    assert rollout.rewards[:, 0].tolist() == [1, 2, 1, 2, 3, 1, 2]  # no bootstrapped value in them
    assert rollout.truncated[:, 0].tolist() == [False, True, False, False, False, False, True]
    assert rollout.terminated[:, 0].tolist() == [False, False, False, False, True, False, False]
    assert rollout.episode_starts[:, 0].tolist() == [True, False, True, False, False, True, False]
    assert rollout.valid.all()


@pytest.mark.parametrize("env_class, policy", [(Scripted, "MlpPolicy"), (ScriptedDict, "MultiInputPolicy")])
def test_truncated_episode_bootstraps_from_its_final_observation_and_terminated_from_nothing(env_class, policy):
    envs = vectorised(env_class([2, 3], [True, False]), env_class([3, 2], [False, True]))
    model = A2C(policy, envs, n_steps=6, device=DEVICE, seed=0)
    rollout = collected(model)

    def value(*observation):
        vec = np.array(observation, np.float32)
        asked = vec if env_class is Scripted else {"vec": vec, "n": np.array(int(vec[0]) % 4)}
        return values_of(model, [asked])[0]

    # environment 0: rows (0,0) (0,1) end, final (0,2); (1,0) (1,1) (1,2) terminated; (2,0), next (2,1)
    expected_0 = [value(0, 1), value(0, 2), value(1, 1), value(1, 2), 0.0, value(2, 1)]
    # environment 1: (0,0) (0,1) (0,2) terminated; (1,0) (1,1) end, final (1,2); (2,0), next (2,1)
    expected_1 = [value(0, 1), value(0, 2), 0.0, value(1, 1), value(1, 2), value(2, 1)]
    np.testing.assert_allclose(rollout.next_values.cpu().numpy().T, [expected_0, expected_1], rtol=1e-5, atol=1e-6)


def test_final_observations_are_normalised_as_the_environment_did_at_that_step():
    env = VecNormalize(vectorised(Scripted([2], [True]), Scripted([3], [True])), norm_reward=False)
    seen = []

    class Keep(BaseCallback):
        def _on_step(self):
            seen.extend(i["terminal_observation"].copy() for i in self.locals["infos"] if "terminal_observation" in i)
            return True

    model = A2C("MlpPolicy", env, n_steps=6, device=DEVICE, seed=0)
    model._setup_learn(100, None)
    model.collect_rollouts(model.env, model._init_callback(Keep()), model.rollout_buffer, 6)
    rollout = model.last_rollout
    assert len(seen) == 5
    np.testing.assert_allclose(rollout.next_values[rollout.truncated].tolist(), values_of(model, seen), rtol=1e-5)


def test_bootstrapping_is_one_pass_over_last_and_one_over_final_observations():
    calls = []

    class Counting(ActorCriticPolicy):
        def predict_values(self, obs):
            calls.append(len(obs))
            return super().predict_values(obs)

    envs = vectorised(*(Scripted([2], [True]) for _ in range(3)))
    collected(A2C(Counting, envs, n_steps=10, device=DEVICE, compile=False))
    assert calls == [3, 3 * 5]  # one last observation and five truncations from each of three environments


def test_batched_evaluation_equals_evaluation_step_by_step():
    model = A2C("MlpPolicy", vectorised(Scripted([4]), Scripted([5])), n_steps=9, device=DEVICE, seed=1)
    rollout = collected(model)
    for t in range(9):
        values, log_prob, _ = model.policy.evaluate_actions(rollout.observations[t], rollout.actions[t].flatten())
        th.testing.assert_close(rollout.values[t], values.flatten().detach(), rtol=1e-5, atol=1e-6)
        th.testing.assert_close(rollout.log_prob[t], log_prob.detach(), rtol=1e-5, atol=1e-6)


def test_each_environment_contributes_exactly_its_number_of_whole_episodes():
    envs = vectorised(Scripted([3]), Scripted([1, 2]), Scripted([4, 1]))
    rollout = collected(REINFORCE("MlpPolicy", envs, n_episodes=2, device=DEVICE))
    assert (rollout.valid & rollout.ends).sum(dim=0).tolist() == [2, 2, 2]
    assert rollout.valid.sum(dim=0).tolist() == [6, 3, 5]  # not the first episodes to finish: those would be short
    assert len(rollout.valid) == 6


def test_waiting_rows_are_counted_and_never_trained_on():
    def model_and_gradient(second):
        th.manual_seed(0)
        model = REINFORCE("MlpPolicy", vectorised(Scripted([6]), second), n_episodes=1, seed=0, device=DEVICE)
        rollout = collected(model)
        model.accumulate_gradient(rollout)
        return model, th.cat([p.grad.flatten() for p in model.policy.parameters()])

    model, gradient = model_and_gradient(Scripted([2, 9]))
    other = Scripted([2, 9])
    other.bad_observation_at = None
    original = other.observe
    other.observe = lambda: original() * (1.0 if other.episode == 0 else -37.0)  # type: ignore[method-assign]
    _, same = model_and_gradient(other)
    assert th.equal(gradient, same)
    assert model.num_timesteps == 12 and model.discarded_steps == 4


def test_a_rollout_of_whole_episodes_starts_with_a_reset_if_one_was_under_way():
    first, second = Scripted([3]), Scripted([2])
    model = REINFORCE("MlpPolicy", vectorised(first, second), n_episodes=1, device=DEVICE)
    model.learn(12)  # two rollouts of three steps: the second environment is one step into its next episode
    starts = model.last_rollout.episode_starts[0]
    assert starts.all() and model.last_rollout.observations[0, :, 1].tolist() == [0, 0]
    both_done = REINFORCE("MlpPolicy", vectorised(Scripted([3]), Scripted([3])), n_episodes=1, device=DEVICE).learn(12)
    assert both_done.last_rollout.observations[0, :, 0].tolist() == [1, 1]  # no reset: the second episode follows the first


def test_an_episode_that_never_ends_is_an_error_that_names_the_environment():
    envs = vectorised(Scripted([3]), Scripted([10**9]))
    model = REINFORCE("MlpPolicy", envs, n_episodes=1, max_episode_steps=50, device=DEVICE)
    with pytest.raises(ValueError, match=r"environment 1 has not ended its episode after 50 steps.*TimeLimit"):
        model.learn(1000)


def test_an_episode_of_exactly_the_maximal_length_is_whole():
    model = REINFORCE("MlpPolicy", vectorised(Scripted([50])), n_episodes=1, max_episode_steps=50, device=DEVICE).learn(50)
    assert model._n_updates == 1
    with pytest.raises(ValueError, match="has not ended its episode after 49 steps"):
        REINFORCE("MlpPolicy", vectorised(Scripted([50])), n_episodes=1, max_episode_steps=49, device=DEVICE).learn(50)


@pytest.mark.parametrize("number", [int, float])
def test_ends_that_are_numbers_count_as_ends(number):
    class Numbers(type(vectorised(Scripted([2])))):  # type: ignore[misc]
        def step_wait(self):
            obs, rewards, dones, infos = super().step_wait()
            return obs, rewards, dones.astype(number), infos

    envs = Numbers([lambda: Scripted([3]), lambda: Scripted([2])])
    rollout = collected(REINFORCE("MlpPolicy", envs, n_episodes=2, device=DEVICE))
    assert rollout.valid.sum(dim=0).tolist() == [6, 4]


def test_a_reset_that_returns_infinity_leaves_the_statistics_as_they_were():
    sick = Scripted([3])
    env = VecNormalize(vectorised(Scripted([4]), sick))
    model = REINFORCE("MlpPolicy", env, n_episodes=1, device=DEVICE).learn(4)
    before = env.obs_rms.mean.copy()
    sick.bad_observation_at = (sick.episode + 1, 0)
    with pytest.raises(ValueError, match="environment 1 returned observation inf when it was reset"):
        model.learn(100, reset_num_timesteps=False)
    np.testing.assert_array_equal(env.obs_rms.mean, before)
    model.learn(4, reset_num_timesteps=False)


def test_success_is_counted_for_the_episodes_that_count():
    class Succeeds(Scripted):
        def step(self, action):
            *result, info = super().step(action)
            return *result, {**info, "is_success": self.episode == 0}

    envs = vectorised(Succeeds([2, 2]), Succeeds([6]))  # the first waits, and plays on then
    model = REINFORCE("MlpPolicy", envs, n_episodes=1, device=DEVICE).learn(12)
    assert list(model.ep_success_buffer) == [True, True]


def test_truncation_without_a_final_observation_names_the_environment():
    class Forgetful(type(vectorised(Scripted([2])))):  # type: ignore[misc]
        def step_wait(self):
            obs, rewards, dones, infos = super().step_wait()
            for info in infos:
                info.pop("terminal_observation", None)
            return obs, rewards, dones, infos

    env = Forgetful([lambda: Scripted([5]), lambda: Scripted([2], [True])])
    with pytest.raises(ValueError, match="environment 1 was truncated without a terminal_observation"):
        A2C("MlpPolicy", env, device=DEVICE).learn(10)


@pytest.mark.parametrize("model_class", [A2C, REINFORCE, REINFORCEBaseline])
@pytest.mark.parametrize("what", ["reward", "observation"])
def test_a_number_that_is_not_finite_names_its_environment_and_step_and_spares_the_statistics(model_class, what):
    healthy, sick = Scripted([4]), Scripted([4])
    env = VecNormalize(vectorised(healthy, sick))
    model = model_class("MlpPolicy", env, device=DEVICE, seed=0).learn(40)
    assert model._n_updates > 0
    setattr(sick, f"bad_{what}_at", (sick.episode + 1, 1))
    with pytest.raises(ValueError, match=rf"environment 1 returned {what} (nan|inf) at step \d+ of this rollout.*update"):
        model.learn(400, reset_num_timesteps=False)
    assert all(np.isfinite(s).all() for s in [env.obs_rms.mean, env.obs_rms.var, env.ret_rms.var])
    assert all(th.isfinite(p).all() for p in model.policy.parameters())
    model.learn(40, reset_num_timesteps=False)  # usable: starts by resetting the environments
    assert all(th.isfinite(p).all() for p in model.policy.parameters())


def test_a_reset_that_returns_infinity_is_found_before_the_policy_acts_on_it():
    sick = Scripted([4])
    sick.bad_observation_at = (0, 0)
    model = A2C("MlpPolicy", vectorised(Scripted([4]), sick), device=DEVICE)
    with pytest.raises(ValueError, match="environment 1 returned observation inf when it was reset"):
        model.learn(100)
    model.learn(10, reset_num_timesteps=False)  # the next reset is fine


@pytest.mark.parametrize("training", [True, False])
def test_an_infinite_observation_is_found_even_where_normalisation_clips_it(training):
    sick = Scripted([4])
    sick.bad_observation_at = (1, 2)
    env = VecNormalize(vectorised(Scripted([4]), sick), training=training)
    with pytest.raises(ValueError, match="environment 1 returned observation inf at step 5 of this rollout"):
        A2C("MlpPolicy", env, n_steps=20, device=DEVICE).learn(100)


def test_a_final_observation_that_is_not_finite_names_its_environment():
    sick = Scripted([3], [True])
    sick.bad_observation_at = (1, 3)
    with pytest.raises(ValueError, match="environment 1 ended an episode with a final observation that is not finite"):
        A2C("MlpPolicy", vectorised(Scripted([4]), sick), n_steps=20, device=DEVICE).learn(100)


def test_statistics_are_those_of_the_rollouts_start_after_an_error():
    sick = Scripted([4])
    env = VecNormalize(vectorised(sick))
    model = A2C("MlpPolicy", env, n_steps=5, device=DEVICE)
    model.learn(5)
    mean, count = env.obs_rms.mean.copy(), env.obs_rms.count
    sick.bad_reward_at = (sick.episode, sick.step_number + 2)
    with pytest.raises(ValueError):
        model.learn(5, reset_num_timesteps=False)
    np.testing.assert_array_equal(env.obs_rms.mean, mean)
    assert env.obs_rms.count == count


def test_after_the_environment_raises_the_model_saves_and_goes_on(tmp_path):
    env = Scripted([4])
    env.raises_at = (2, 3)
    model = A2C("MlpPolicy", vectorised(env), device=DEVICE)
    with pytest.raises(RuntimeError, match="simulator crashed"):
        model.learn(100)
    model.save(tmp_path / "model")
    A2C.load(tmp_path / "model", device=DEVICE)
    episode = env.episode
    model.learn(5, reset_num_timesteps=False)
    assert env.episode > episode and model.last_rollout.observations[0, 0].tolist() == [episode + 1, 0]


class Stops(BaseCallback):
    """Ends the training, one way or the other, at a step."""

    def __init__(self, at, error):
        super().__init__()
        self.at, self.error = at, error

    def _on_step(self):
        if self.n_calls == self.at and self.error:
            raise KeyError("a mistake in a callback")
        return np.bool_(self.n_calls != self.at)  # NumPy's and torch's booleans are not Python's


@pytest.mark.parametrize("error", [False, True])
def test_the_observation_is_not_stale_after_a_callback_ends_the_training(error):
    model = A2C("MlpPolicy", vectorised(Scripted([10])), n_steps=5, device=DEVICE)
    if error:
        with pytest.raises(KeyError):
            model.learn(100, callback=Stops(7, error))
    else:
        model.learn(100, callback=Stops(7, error))
    assert model.num_timesteps == 7 and model._last_obs.tolist() == [[0.0, 7.0]]
    model.learn(2, reset_num_timesteps=False)
    assert model.last_rollout.observations[:2, 0].tolist() == [[0, 7], [0, 8]]


def test_episode_statistics_are_those_of_the_episodes_that_count():
    """While it waits, an environment finishes its short episodes only; they would bias the mean."""
    envs = vectorised(Monitor(Scripted([8])), Monitor(Scripted([4, 1])))
    model = REINFORCE("MlpPolicy", envs, n_episodes=1, device=DEVICE).learn(16)
    assert sorted(info["l"] for info in model.ep_info_buffer) == [4, 8]


@pytest.mark.parametrize("squash", [True, False])
def test_the_environment_gets_the_action_rescaled_if_squashed_and_clipped_otherwise(squash):
    class Keeps(AnySpace):
        received: ClassVar[list] = []

        def step(self, action):
            self.received.append(action.copy())
            return super().step(action)

    Keeps.received.clear()
    env = Keeps(spaces.Box(-1, 1, (3,), np.float32), spaces.Box(2, 5, (2,), np.float32))
    kwargs = dict(use_sde=True, policy_kwargs=dict(squash_output=True)) if squash else {}
    rollout = collected(A2C("MlpPolicy", vectorised(env), n_steps=8, device=DEVICE, seed=0, **kwargs))
    kept = rollout.actions[:, 0].cpu().numpy()  # as the policy gave them
    expected = 3.5 + 1.5 * kept if squash else kept.clip(2, 5)
    np.testing.assert_allclose(Keeps.received, expected, rtol=1e-6)
    assert (np.abs(kept) < 1).all() if squash else (kept < 2).any()


def test_a_forward_patched_onto_the_policy_is_acted_through():
    model = A2C("MlpPolicy", vectorised(Scripted([4])), n_steps=8, device=DEVICE, seed=0)
    original = model.policy.forward
    model.policy.forward = lambda obs: (th.ones(len(obs), dtype=th.long, device=DEVICE), *original(obs)[1:])
    assert collected(model).actions.unique().tolist() == [1]


class OwnForward(ActorCriticPolicy):
    """Plays action 1 only, and values everything at 5, in ``forward`` alone."""

    def forward(self, obs, deterministic=False):
        actions, values, log_prob = super().forward(obs, deterministic)
        return th.ones_like(actions), th.full_like(values, 5.0), log_prob


def test_a_policy_that_overrides_forward_acts_and_values_through_it():
    model = A2C(OwnForward, vectorised(Scripted([4])), n_steps=8, device=DEVICE, seed=0)
    rollout = collected(model)
    assert rollout.actions.unique().tolist() == [1] and rollout.values.unique().tolist() == [5.0]


class Looks(BaseCallback):
    """Might change the policy, for all that is known."""

    def _on_step(self):
        return True


def test_compiling_is_no_change_of_the_policy(graphs):
    """
    If it were, the rows before it would be evaluated at once, and rounded differently from those of the same run that was
    compiled before, such as an uninterrupted one.
    """
    model = PPO("MlpPolicy", vectorised(Scripted([5])), n_steps=8, batch_size=4, device=DEVICE, compile=True)
    model.learn(8, callback=Looks())
    assert graphs and not model.last_rollout.known_rows


class RaisesOnce(A2C):
    """Raises in its extension point at the third step."""

    def after_step(self, dones, infos):
        if self.num_timesteps == 3 * self.n_envs:
            self.num_timesteps += 100
            raise RuntimeError("nowhere to keep it")


def test_after_an_error_in_after_step_the_next_rollout_starts_where_the_environments_are():
    env = vectorised(Scripted([100]))
    model = RaisesOnce("MlpPolicy", env, n_steps=5, seed=0, device=DEVICE)
    with pytest.raises(RuntimeError, match="nowhere to keep it"):
        model.learn(5)
    model.learn(5, reset_num_timesteps=False)
    assert model.last_rollout.observations[:, 0, 1].tolist() == [3, 4, 5, 6, 7]
