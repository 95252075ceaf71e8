"""The folder that is written when an off-policy run ends with a number that is not finite."""

import json

import numpy as np
import pytest
import stable_baselines3 as sb3
import torch as th
from stable_baselines3 import DQN, HerReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.envs import BitFlippingEnv
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from support.off_policy import EVERY_NAME, make, tensors
from support.parallel_environments import MatrixGame
from torch.nn import functional as F

import sb3_pgx
from sb3_pgx.diagnostics import PostMortemCallback
from sb3_pgx.environments import JointEnv

STEP = 20  # at the end of which a number is spoiled; gradient steps begin after 8


class Spoils(BaseCallback):
    """Make a number NaN at the end of the 20th step, before the update, and keep what the update begins with."""

    def __init__(self, what):
        super().__init__()
        self.what = what

    def _on_rollout_end(self):
        if self.num_timesteps == STEP * self.training_env.num_envs:
            self.what(self.model)
            self.before = tensors(self.model) if hasattr(self.model, "critic") else {}

    def _on_step(self):
        return True


def spoil_all_rewards(model):
    model.replay_buffer.rewards[:] = np.nan


def spoil_temperature(model):
    with th.no_grad():
        model.log_ent_coef.fill_(np.inf)


def broken(model, tmp_path, what, **learn):
    """Train until the error. Return the folder, the error's sentence, and what the update began with."""
    post_mortem, spoils = PostMortemCallback(tmp_path), Spoils(what)
    with pytest.raises((ValueError, FloatingPointError)) as error:
        model.learn(10 * STEP, callback=[spoils, post_mortem], **{"log_interval": 1, **learn})
    return post_mortem.written, str(error.value), spoils


def loaded(folder):
    state = th.load(folder / "state.pt", weights_only=True)
    batch = np.load(folder / "batch.npz", allow_pickle=False)
    return state, {name: batch[name] for name in batch}


@pytest.mark.parametrize("package", [sb3_pgx, sb3])
@pytest.mark.parametrize("name", EVERY_NAME)
def test_the_folder_holds_the_sample_and_the_networks_before_the_failing_step(package, name, tmp_path):
    if not hasattr(package, name):
        pytest.skip("SB3 has no D4PG")
    model = make(package, name, make_vec_env("Pendulum-v1", 2, seed=0))
    folder, error, spoils = broken(model, tmp_path, spoil_all_rewards)
    state, batch = loaded(folder)
    assert "rewards" in error and (folder / "error.txt").read_text().startswith(error)
    assert np.isnan(batch["rewards"]).all() and batch["observations"].shape == (8, 3)
    for key, value in spoils.before.items():
        assert th.equal(tensors(model)[key], value), key
    for key, value in state["policy"].items():
        assert th.equal(spoils.before[f"policy.{key}"], value), key
    assert state["optimizers"].keys() == ({"ent_coef"} if name == "SAC" else set()) | {"critic", "actor"}
    assert state["optimizers"]["critic"]["state"], "moments of the steps before"
    transitions = np.load(folder / "transitions.npz", allow_pickle=False)
    assert transitions["observations"].shape == (STEP, 2, 3) and np.isnan(transitions["rewards"]).all()
    assert "train/critic_loss" in json.loads((folder / "metrics.json").read_text())[-1]


@pytest.mark.parametrize("package", [sb3_pgx, sb3])
@pytest.mark.parametrize("name", ["SAC", "TD3"])
def test_the_sample_is_that_of_the_failing_one_among_several_gradient_steps(package, name, tmp_path):
    """A reward is spoiled that the fourth sample of the update is the first one to contain."""
    model = make(package, name, gradient_steps=6, batch_size=2)
    samples = []

    def spoil(model):
        generator = np.random.RandomState()
        generator.set_state(np.random.get_state())
        for _ in range(4):
            samples.append(generator.randint(0, model.replay_buffer.pos, size=2))
            generator.randint(0, 1, size=2)  # the environments, of which there is one
        (row, *_) = set(samples[3]) - {*np.concatenate(samples[:3])}
        model.replay_buffer.rewards[row] = np.nan

    folder, _, _ = broken(model, tmp_path, spoil)
    state, batch = loaded(folder)
    assert np.array_equal(np.random.get_state()[1], state["random_state"]["numpy"][1]), "drawing again changes nothing"
    np.testing.assert_equal(batch["observations"], model.replay_buffer.observations[samples[3], 0])
    np.testing.assert_equal(batch["rewards"], model.replay_buffer.rewards[samples[3]])


def test_the_failing_step_can_be_repeated(tmp_path):
    """SB3's formulas give, from the folder's content with sound rewards, the loss of the step that would have been taken."""
    settings = dict(replay_buffer_kwargs=dict(handle_timeout_termination=False))
    model = make(sb3_pgx, "SAC", **settings)
    folder, _, _ = broken(model, tmp_path, spoil_all_rewards)
    state, batch = loaded(folder)
    again = make(sb3_pgx, "SAC", **settings)
    again.policy.load_state_dict(state["policy"])
    with th.no_grad():
        again.log_ent_coef.copy_(state["values"]["log_ent_coef"])
    th.set_rng_state(state["random_state_before_update"]["torch"])
    observations, following = (th.from_numpy(batch[name]) for name in ("observations", "next_observations"))
    again.actor.action_log_prob(observations)  # drawn first, as in SB3's step
    with th.no_grad():
        actions, log_prob = again.actor.action_log_prob(following)
        values = th.cat(again.critic_target(following, actions), dim=1).min(dim=1, keepdim=True).values
        soft = values - again.log_ent_coef.exp() * log_prob[:, None]
        targets = 1.0 + again.gamma * soft  # where each reward had been 1
    loss = 0.5 * sum(F.mse_loss(q, targets) for q in again.critic(observations, th.from_numpy(batch["actions"])))
    model.replay_buffer.rewards[:] = 1.0
    for generator, key in ((th.set_rng_state, "torch"), (np.random.set_state, "numpy")):
        generator(state["random_state_before_update"][key])
    model.train(1, 8)
    assert model.logger.name_to_value["train/critic_loss"] == pytest.approx(loss.item(), rel=1e-5)


@pytest.mark.parametrize("package", [sb3_pgx, sb3])
def test_a_temperature_that_is_not_finite_is_kept(package, tmp_path):
    folder, error, _ = broken(make(package, "SAC"), tmp_path, spoil_temperature)
    state, batch = loaded(folder)
    assert th.isinf(state["values"]["log_ent_coef"]).all() and np.isfinite(batch["rewards"]).all()
    assert "finite" in error


@pytest.mark.parametrize("package, says", [(sb3_pgx, "returned reward nan at step"), (sb3, "returned reward nan at step 23")])
def test_an_error_while_collecting_keeps_the_newest_transitions_and_no_sample(package, says, tmp_path):
    env = make_vec_env("Pendulum-v1", 1, seed=0)
    step, calls = env.step_wait, []

    def spoiled():
        observations, rewards, dones, infos = step()
        calls.append(rewards)
        return observations, rewards * (np.nan if len(calls) == 23 else 1), dones, infos

    env.step_wait = spoiled
    model = make(package, "TD3", env)
    folder, error, _ = broken(model, tmp_path, lambda model: None)
    assert says in error and not (folder / "batch.npz").exists()
    kept = np.load(folder / "transitions.npz")
    np.testing.assert_equal(kept["rewards"], np.array(calls[:22], np.float32))
    assert kept.keys() >= {"observations", "next_observations", "actions", "rewards", "dones", "timeouts"}


def test_the_networks_of_several_agents_are_kept_by_name(tmp_path):
    payoffs = [[[1.0, 0.0], [0.0, 1.0]]] * 2
    settings = dict(learning_starts=8, batch_size=8, train_freq=5, buffer_size=100, device="cpu", seed=0, compile=False)
    model = sb3_pgx.MADDPG("MlpPolicy", JointEnv(MatrixGame(payoffs)), policy_kwargs=dict(net_arch=[8]), **settings)
    folder, error, _ = broken(model, tmp_path, spoil_all_rewards)
    state, batch = loaded(folder)
    networks = {f"agents.agent_{i}.{network}" for i in (0, 1) for network in ("critic", "actor")}
    assert state["optimizers"].keys() == networks and "rewards" in error
    assert batch["rewards"].shape == (8, 2) and {"observations.agent_0", "next_observations.agent_1"} <= batch.keys()


def test_the_newest_of_a_full_memory_come_in_order(tmp_path):
    model = make(sb3_pgx, "DDPG", buffer_size=12)
    folder, _, _ = broken(model, tmp_path, spoil_all_rewards)
    kept = np.load(folder / "transitions.npz")
    np.testing.assert_equal(kept["next_observations"][:-1], kept["observations"][1:])
    assert len(kept["observations"]) == 12


def test_dictionaries_are_kept_by_key(tmp_path):
    env = DummyVecEnv([lambda: BitFlippingEnv(n_bits=4, continuous=True, max_steps=5)])
    her = dict(policy="MultiInputPolicy", replay_buffer_class=HerReplayBuffer, learning_starts=12)
    folder, error, _ = broken(make(sb3_pgx, "SAC", env, **her), tmp_path, spoil_all_rewards)
    _, batch = loaded(folder)
    assert np.isnan(batch["rewards"]).any() and batch["observations.desired_goal"].shape == (8, 4)
    assert {"observations.observation", "next_observations.desired_goal"} <= np.load(folder / "transitions.npz").keys()
    assert "rewards" in error


def test_the_sample_is_kept_as_it_was_learned_from_and_the_transitions_as_they_came(tmp_path):
    env = VecNormalize(make_vec_env("Pendulum-v1", 1, seed=0))
    folder, _, _ = broken(make(sb3_pgx, "TD3", env), tmp_path, spoil_all_rewards)
    _, batch = loaded(folder)
    raw = np.load(folder / "transitions.npz")["observations"][:, 0]
    for row in batch["observations"]:
        assert np.isclose(env.normalize_obs(raw), row).all(axis=1).any() and not np.isclose(raw, row).all(axis=1).any()


@pytest.mark.parametrize("package", [sb3_pgx, sb3])
@pytest.mark.parametrize("name", ["SAC", "TD3"])
def test_a_run_without_an_error_is_unchanged_and_writes_nothing(package, name, tmp_path):
    trained = []
    for callback in (None, PostMortemCallback(tmp_path / "post_mortem")):
        model = make(package, name)
        model.learn(30, callback=callback)
        trained.append({**tensors(model), "torch": th.rand(2), "numpy": th.as_tensor(np.random.rand(2))})
    for key, value in trained[0].items():
        assert th.equal(value, trained[1][key]), key
    assert not (tmp_path / "post_mortem").exists()
    assert not model.critic.optimizer._optimizer_step_pre_hooks


def test_an_algorithm_without_actor_is_refused(tmp_path):
    model = DQN("MlpPolicy", "CartPole-v1", learning_starts=0, buffer_size=100, device="cpu")
    with pytest.raises(ValueError, match=r"PostMortemCallback measures on-policy algorithms and SAC, TD3, DDPG and D4PG only"):
        model.learn(8, callback=PostMortemCallback(tmp_path))
