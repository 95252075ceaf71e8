"""The folder that is written when a run ends with a number that is not finite, for every such way to end."""

import json

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from stable_baselines3 import A2C as SB3A2C
from stable_baselines3 import PPO as SB3PPO
from stable_baselines3.common.callbacks import BaseCallback, CallbackList, EveryNTimesteps
from stable_baselines3.common.logger import HParam
from support.small_environments import Scripted, ScriptedDict, vectorised

from sb3_pgx import A2C, PPO
from sb3_pgx.diagnostics import PostMortemCallback

SETTINGS = dict(n_steps=8, seed=0, device="cpu")


class Poison(BaseCallback):
    """Make something NaN at the end of the third rollout."""

    def __init__(self, what):
        super().__init__()
        self.what, self.rollouts = what, 0

    def _on_rollout_end(self):
        self.rollouts += 1
        if self.rollouts == 3:
            self.what(self.model)

    def _on_step(self):
        return True


def spoil_advantages(model):
    model.rollout_buffer.advantages[2, 0] = np.nan


def spoil_parameter(model):
    with th.no_grad():
        model.policy.action_net.weight[0, 0] = np.nan


def breakdown(model_class, tmp_path, env=None, poison=None, **kwargs):
    env = env or vectorised(Scripted([5]))
    model = model_class(
        "MultiInputPolicy" if isinstance(env.envs[0], ScriptedDict) else "MlpPolicy", env, **SETTINGS, **kwargs
    )
    post_mortem = PostMortemCallback(tmp_path)
    before = []

    class Copies(BaseCallback):
        def _on_rollout_end(self):
            before.append({name: p.clone() for name, p in self.model.policy.state_dict().items()})

        def _on_step(self):
            return True

    callbacks = [Poison(poison), post_mortem, Copies()] if poison else [post_mortem, Copies()]
    with pytest.raises((ValueError, FloatingPointError)) as error:
        model.learn(64, callback=callbacks, log_interval=1)
    return model, post_mortem.written, str(error.value), before


@pytest.mark.parametrize(
    "model_class, what, says",
    [
        (PPO, "reward", "environment 0 returned reward nan at step 5 of this rollout"),
        (SB3PPO, "reward", "environment 0 returned reward nan at step 14 of the training"),
        (A2C, "observation", "environment 0 returned observation inf at step 5 of this rollout"),
        (SB3A2C, "observation", "environment 0 returned observation inf at step 14 of the training"),
    ],
)
def test_the_error_names_what_the_environment_returned_and_the_last_batch_is_kept(model_class, what, says, tmp_path):
    env = vectorised(Scripted([5]))
    setattr(env.envs[0], f"bad_{what}_at", (2, 4))
    kwargs = dict(batch_size=8) if model_class in (PPO, SB3PPO) else {}
    _, folder, error, _ = breakdown(model_class, tmp_path, env, **kwargs)
    text = (folder / "error.txt").read_text()
    assert says in error and text.startswith(error) and "Traceback" in text
    batch = np.load(folder / "batch.npz")
    rows = (
        8 if model_class in (PPO, A2C) else 5
    )  # this package has the last complete rollout, SB3 what is in the buffer so far
    assert batch["observations"].reshape(rows, 2).shape == (rows, 2) and np.isfinite(batch["observations"]).all()


@pytest.mark.parametrize("model_class", [SB3PPO, SB3A2C])
def test_a_loss_that_is_not_finite_stops_sb3s_algorithms_before_the_step(model_class, tmp_path):
    kwargs = dict(batch_size=8, n_epochs=2, normalize_advantage=False) if model_class is SB3PPO else {}
    model, folder, error, before = breakdown(model_class, tmp_path, poison=spoil_advantages, **kwargs)
    assert error.startswith("the loss is not finite because the advantages are not finite: the gradient of ")
    state = th.load(folder / "state.pt", weights_only=False)
    for name, value in before[2].items():  # at the end of the third rollout
        assert th.equal(state["policy"][name], value) and th.equal(model.policy.state_dict()[name], value), name
    assert state["optimizer"]["state"], "moments of the updates before"
    assert np.isnan(np.load(folder / "batch.npz")["advantages"]).sum() == 1
    metrics = json.loads((folder / "metrics.json").read_text())
    assert [m["timesteps"] for m in metrics] == [0, 8, 16, 24]
    assert "train/value_loss" in metrics[2] and metrics[2]["train/n_updates"] > 0
    assert not model.policy.optimizer._optimizer_step_pre_hooks


def test_the_files_can_be_read_without_unpickling(tmp_path):
    _, folder, _, before = breakdown(PPO, tmp_path, poison=spoil_advantages, batch_size=8, normalize_advantage=False)
    state = th.load(folder / "state.pt", weights_only=True)
    assert state.keys() == {"policy", "optimizer", "random_state", "random_state_before_update"}
    assert all(th.equal(state["policy"][name], value) for name, value in before[-1].items())
    np.random.set_state(state["random_state"]["numpy"])
    assert all(array.dtype != object for array in np.load(folder / "batch.npz", allow_pickle=False).values())


def test_the_random_numbers_of_the_update_can_be_reproduced(tmp_path):
    drawn = []
    permutation = np.random.permutation

    def spy(n):
        drawn.append(permutation(n))
        return drawn[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(np.random, "permutation", spy)
        _, folder, _, _ = breakdown(
            SB3PPO, tmp_path, poison=spoil_advantages, batch_size=4, n_epochs=1, normalize_advantage=False
        )
    state = th.load(folder / "state.pt", weights_only=False)
    np.random.set_state(state["random_state_before_update"]["numpy"])
    assert np.array_equal(np.random.permutation(8), drawn[-1])
    assert th.equal(state["random_state"]["torch"], th.get_rng_state())


@pytest.mark.parametrize("model_class", [PPO, A2C])
def test_this_packages_algorithms_raise_their_own_error_and_the_data_are_kept(model_class, tmp_path):
    kwargs = dict(batch_size=8, n_epochs=2, normalize_advantage=False) if model_class is PPO else {}
    _, folder, error, before = breakdown(model_class, tmp_path, poison=spoil_advantages, **kwargs)
    assert "the advantages are not finite in update" in error
    state = th.load(folder / "state.pt", weights_only=False)
    assert all(th.equal(state["policy"][name], value) for name, value in before[2].items())
    assert np.isnan(np.load(folder / "batch.npz")["advantages"]).sum() == 1


def test_the_error_names_a_parameter_that_the_update_made_nan(tmp_path):
    class Spoils(SB3A2C):
        def train(self):
            super().train()
            if self.num_timesteps >= 16:
                spoil_parameter(self)

    _, folder, error, _ = breakdown(Spoils, tmp_path)
    assert error == "the parameter action_net.weight is not finite after the update"
    assert np.load(folder / "batch.npz")["advantages"].shape == (8,)


def test_the_error_names_a_first_observation_that_is_not_finite(tmp_path):
    env = vectorised(Scripted([5]))
    env.envs[0].bad_observation_at = (0, 0)
    _, folder, error, _ = breakdown(SB3A2C, tmp_path, env)
    assert "returned observation inf when the environments were reset" in error and (folder / "error.txt").exists()


def test_dictionaries_are_kept_by_key_and_folders_are_never_replaced(tmp_path, monkeypatch):
    monkeypatch.setattr("time.strftime", lambda *_: "now")
    folders = []
    for _ in range(2):
        env = vectorised(ScriptedDict([5]))
        env.envs[0].bad_reward_at = (3, 2)
        folders.append(breakdown(A2C, tmp_path, env)[1])
    assert [folder.name for folder in folders] == ["A2C-now", "A2C-now-2"]
    assert {"observations.vec", "observations.n"} <= np.load(folders[0] / "batch.npz").keys()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["A2C-now", "A2C-now-2"], "no incomplete folder is left"


@pytest.mark.parametrize("model_class", [A2C, SB3A2C])
def test_a_run_without_an_error_is_unchanged_and_writes_nothing(model_class, tmp_path):
    trained = []
    for callback in (None, PostMortemCallback(tmp_path / "post_mortem")):
        model = model_class("MlpPolicy", gym.make("CartPole-v1"), **SETTINGS)
        model.learn(64, callback=callback)
        trained.append(th.cat([p.flatten() for p in model.policy.parameters()]))
    assert th.equal(*trained) and not (tmp_path / "post_mortem").exists()


@pytest.mark.parametrize("model_class", [A2C, SB3A2C])
def test_a_failure_to_write_does_not_hide_the_error(model_class, tmp_path):
    env = vectorised(Scripted([5]))
    env.envs[0].bad_reward_at = (3, 2)
    model = model_class("MlpPolicy", env, **SETTINGS)

    class Logs(BaseCallback):
        def _on_step(self):
            self.logger.record("hparams", HParam({"a": 1}, {"b": 2.0}))
            return True

    post_mortem = PostMortemCallback(tmp_path / "post_mortem")
    with pytest.raises((ValueError, FloatingPointError), match="reward nan"):
        model.learn(64, callback=[Logs(), post_mortem])
    assert "HParam" in (post_mortem.written / "metrics.json").read_text()
    (tmp_path / "file").write_text("in the way")
    env.envs[0].bad_reward_at = (env.envs[0].episode + 2, 2)
    with pytest.raises((ValueError, FloatingPointError), match="reward nan"):
        model.learn(64, callback=PostMortemCallback(tmp_path / "file"))


def test_a_nested_callback_is_called_on_an_error(tmp_path):
    post_mortem = PostMortemCallback(tmp_path)
    env = vectorised(Scripted([5]))
    env.envs[0].bad_reward_at = (3, 2)
    model = A2C("MlpPolicy", env, **SETTINGS)
    nested = CallbackList([EveryNTimesteps(1000, Poison(spoil_parameter)), CallbackList([post_mortem])])
    with pytest.raises(ValueError, match="reward nan"):
        model.learn(64, callback=nested)
    assert post_mortem.written is not None
