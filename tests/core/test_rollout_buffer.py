"""The live view of a rollout, against SB3's own buffers filled by SB3's own collection."""

import copy
import pickle
import threading
from types import SimpleNamespace

import numpy as np
import pytest
import stable_baselines3 as sb3
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import DictRolloutBuffer, RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import configure
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import VecNormalize
from support.small_environments import DEVICE, AnySpace, Scripted, ScriptedDict, vectorised

import sb3_pgx
from sb3_pgx import A2C, ACER, PPO, REINFORCE, PPOPenalty, REINFORCEBaseline
from sb3_pgx.core import rollout_buffer
from sb3_pgx.core.rollout_buffer import RolloutView

BOX = spaces.Box(-1, 1, (3,), np.float32)
NAMES = ("actions", "rewards", "advantages", "returns", "episode_starts", "log_probs", "values")


class KeepBuffer(BaseCallback):
    """Copies of the buffer's arrays, and the minibatches it gives, at the end of the first rollout."""

    def _on_step(self):
        return True

    def _on_rollout_end(self):
        buffer = self.model.rollout_buffer
        self.arrays = {name: getattr(buffer, name).copy() for name in NAMES}
        observations = buffer.observations
        self.arrays["observations"] = dict(observations) if isinstance(observations, dict) else observations
        self.types = (buffer.full, buffer.pos, buffer.size(), buffer.buffer_size, buffer.n_envs)
        np.random.seed(0)
        self.batches = list(buffer.get(batch_size=4))


def first_buffer(model_class, make_env, policy="MlpPolicy"):
    callback = KeepBuffer()
    model_class(policy, make_env(), n_steps=5, seed=0, gae_lambda=0.9, device=DEVICE).learn(10, callback=callback)
    return callback


def arrays_of(values):
    return values if isinstance(values, dict) else {"": values}


@pytest.mark.parametrize(
    "policy, make_env",
    [
        ("MlpPolicy", lambda: vectorised(Scripted([3]), Scripted([2]))),
        ("MultiInputPolicy", lambda: vectorised(ScriptedDict([3]), ScriptedDict([2]))),
        ("MlpPolicy", lambda: vectorised(*(AnySpace(spaces.Discrete(3), BOX) for _ in range(2)))),
        ("MlpPolicy", lambda: vectorised(*(AnySpace(BOX, spaces.MultiBinary(2)) for _ in range(2)))),
        ("MlpPolicy", lambda: vectorised(*(AnySpace(BOX, spaces.MultiDiscrete([2, 3])) for _ in range(2)))),
    ],
)
def test_names_shapes_types_and_minibatches_are_sb3s(policy, make_env):
    ours, theirs = first_buffer(A2C, make_env, policy), first_buffer(sb3.A2C, make_env, policy)
    assert ours.types == theirs.types
    for name in (*NAMES, "observations"):
        mine, other = arrays_of(ours.arrays[name]), arrays_of(theirs.arrays[name])
        for key, expected in other.items():
            assert isinstance(mine[key], np.ndarray) and mine[key].dtype == expected.dtype, name
            np.testing.assert_allclose(mine[key], expected, rtol=1e-4, atol=1e-5, err_msg=name)
    for mine, expected in zip(ours.batches, theirs.batches, strict=True):
        for a, b in zip(mine, expected, strict=True):
            for key, value in arrays_of(b).items():
                th.testing.assert_close(arrays_of(a)[key], value, rtol=1e-4, atol=1e-5)


def test_arrays_are_views_of_the_rollout_on_the_cpu():
    model = A2C("MlpPolicy", vectorised(Scripted([3])), n_steps=5, device="cpu").learn(5)
    model.last_rollout.advantages[2, 0] = 123.0
    model.last_rollout.observations[1, 0, 0] = 77.0
    assert model.rollout_buffer.advantages[2, 0] == 123.0
    assert model.rollout_buffer.observations[1, 0, 0] == 77.0


def test_minibatches_leave_out_rows_that_do_not_count():
    model = REINFORCE("MlpPolicy", vectorised(Scripted([6]), Scripted([2])), n_episodes=1, device=DEVICE).learn(6)
    assert (model.rollout_buffer.returns[2:, 1] == 0).all()
    batches = list(model.rollout_buffer.get(batch_size=3))
    assert [len(b.returns) for b in batches] == [3, 3, 2]
    seen = sorted(tuple(o) for b in batches for o in b.observations.tolist())
    assert seen == sorted([(0, k) for k in range(6)] + [(0, 0), (0, 1)])


# ------------------------------------------------------------------------------------------------------- live


class EachStep(BaseCallback):
    """What stands in the buffer at every step, and what is among the locals."""

    def __init__(self, first=0):
        super().__init__()
        self.first, self.seen = first, []

    def _on_step(self):
        if self.num_timesteps // self.training_env.num_envs <= self.first:
            return True
        buffer = self.model.rollout_buffer
        rows = ((name, arrays_of(getattr(buffer, name))) for name in (*NAMES, "observations"))
        arrays = {name: {key: x[: buffer.pos].copy() for key, x in parts.items()} for name, parts in rows}
        told = {name: self.locals[name].clone().numpy() for name in ("values", "log_probs")}
        self.seen.append((buffer.pos, buffer.full, buffer.size(), arrays, told))
        return True


@pytest.mark.parametrize("first", [0, 2])
@pytest.mark.parametrize("scripted, policy", [(Scripted, "MlpPolicy"), (ScriptedDict, "MultiInputPolicy")])
def test_rows_appear_step_by_step_as_in_sb3s_buffer(scripted, policy, first):
    def watched(model_class):
        env = vectorised(scripted([3, 2], [True, False]), scripted([2], [True]))
        callback = EachStep(first)
        model_class(policy, env, n_steps=5, seed=0, gae_lambda=0.9, device="cpu").learn(10, callback=callback)
        return callback.seen

    for ours, theirs in zip(watched(A2C), watched(sb3.A2C), strict=True):
        assert ours[:3] == theirs[:3]
        for mine, other in zip(ours[3:], theirs[3:], strict=True):
            for name, expected in other.items():
                for key, array in arrays_of(expected).items():
                    np.testing.assert_allclose(arrays_of(mine[name])[key], array, rtol=1e-4, atol=1e-5, err_msg=name)


def test_values_and_log_probabilities_of_a_step_cost_nothing_until_they_are_read(monkeypatch):
    original, evaluated = ActorCriticPolicy.evaluate_actions, []
    counted = lambda self, *args: evaluated.append(1) or original(self, *args)  # noqa: E731
    monkeypatch.setattr(ActorCriticPolicy, "evaluate_actions", counted)

    class Reads(BaseCallback):
        def __init__(self, at):
            super().__init__()
            self.at = at

        def _on_step(self):
            if self.num_timesteps in self.at:
                assert self.locals["values"].shape == (1, 1) and np.isfinite(self.locals["log_probs"].numpy()).all()
            return True

    def evaluations(callback):
        evaluated.clear()
        A2C("MlpPolicy", vectorised(Scripted([3])), n_steps=5, device=DEVICE, compile=False).learn(5, callback=callback)
        return len(evaluated)

    assert [evaluations(Reads(at)) - evaluations(None) for at in ((), (2,), (2, 4))] == [0, 1, 2]


def perturb(model):
    with th.no_grad():
        for p in model.policy.parameters():
            p += 0.3


def perturb_data(model):
    for p in model.policy.parameters():
        p.data.mul_(1.5)


def replace_policy(model):
    other = copy.deepcopy(model.policy)
    perturb_data(SimpleNamespace(policy=other))
    model.policy = other


@pytest.mark.parametrize("change", [perturb, perturb_data, replace_policy])
@pytest.mark.parametrize("compile", [False, True])
@pytest.mark.parametrize("when", [0, 4])
def test_rows_are_evaluated_by_the_policy_that_acted_in_them(change, when, compile, graphs):
    class Changes(BaseCallback):
        def _on_rollout_start(self):
            if when == 0:
                change(self.model)

        def _on_step(self):
            if self.n_calls == when:
                change(self.model)
            return True

        def _on_rollout_end(self):
            buffer = self.model.rollout_buffer
            self.arrays = [np.copy(getattr(buffer, name)) for name in ("values", "log_probs", "advantages", "actions")]

    def arrays(model_class, **kwargs):
        env = vectorised(Scripted([3, 2], [True, False]), Scripted([2], [True]))
        callback = Changes()
        model_class("MlpPolicy", env, n_steps=7, seed=0, device="cpu", **kwargs).learn(14, callback=callback)
        return callback.arrays

    for ours, theirs in zip(arrays(A2C, compile=compile), arrays(sb3.A2C), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("timesteps", [10, 8])
def test_values_that_are_kept_and_read_later_are_those_of_the_policy_that_acted(timesteps):
    class Keeps(BaseCallback):
        def __init__(self):
            super().__init__()
            self.kept = []

        def _on_step(self):
            self.kept.append((self.locals["values"], self.locals["log_probs"]))
            return self.num_timesteps < timesteps

    def kept(model_class):
        callback = Keeps()
        env = vectorised(Scripted([3, 2]))
        model = model_class("MlpPolicy", env, n_steps=5, learning_rate=0.1, seed=0, device="cpu")
        model.learn(10, callback=callback)
        perturb(model)
        return [th.cat([x.flatten() for x in column]) for column in zip(*callback.kept, strict=True)]

    for ours, theirs in zip(kept(A2C), kept(sb3.A2C), strict=True):
        th.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


class Evaluates(ActorCriticPolicy):
    """Another value for training than for acting."""

    def evaluate_actions(self, obs, actions):
        values, log_prob, entropy = super().evaluate_actions(obs, actions)
        return values * 0.5, log_prob, entropy


def starts_everywhere(model):
    model._last_episode_starts = np.ones(1, bool)


def reads_at_the_start(model):
    model.rollout_buffer.observations  # noqa: B018


@pytest.mark.parametrize(
    "policy, on_start, on_step",
    [(Evaluates, None, None), ("MlpPolicy", None, starts_everywhere), ("MlpPolicy", reads_at_the_start, None)],
)
@pytest.mark.parametrize("normalise", [False, True])
def test_trains_as_sb3_does(policy, on_start, on_step, normalise):
    class Does(BaseCallback):
        def _on_rollout_start(self):
            if on_start:
                on_start(self.model)

        def _on_step(self):
            if on_step:
                on_step(self.model)
            return True

    def train(library):
        env = vectorised(Scripted([3, 2], [True, False]))
        env = VecNormalize(env, norm_reward=False) if normalise else env
        return list(library.A2C(policy, env, seed=0, device="cpu").learn(20, callback=Does()).policy.parameters())

    for ours, theirs in zip(train(sb3_pgx), train(sb3), strict=True):
        th.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("algorithm", [A2C, REINFORCE])
def test_a_buffer_is_pickled_without_its_model(algorithm):
    class WithLock(Scripted):
        def __init__(self, lengths):
            super().__init__(lengths)
            self.lock = threading.Lock()

    arguments = dict(discount_state_weighting=True) if algorithm is A2C else {}
    buffer = algorithm("MlpPolicy", vectorised(WithLock([5])), seed=0, device=DEVICE, **arguments).learn(5).rollout_buffer
    data = pickle.dumps(buffer)
    assert len(data) < 50_000
    for name in (*NAMES, "observations"):
        np.testing.assert_array_equal(getattr(pickle.loads(data), name), getattr(buffer, name))


def test_what_a_stopped_rollout_did_is_not_undone_by_a_later_call():
    class Stops(BaseCallback):
        def _on_step(self):
            return self.num_timesteps < 8

    model = A2C("MlpPolicy", vectorised(Scripted([5])), device=DEVICE).learn(20, callback=Stops())
    with pytest.raises(ValueError, match="the rollout buffer holds 2 of 5 steps"):
        model.train()
    assert model.num_timesteps == 8 and model._last_obs is not None


@pytest.fixture(params=["shared", "separate"])
def memory(request, monkeypatch):
    """The arrays of the buffer are views of the model's tensors as on the CPU, or copies as on CUDA."""
    if request.param == "separate":
        monkeypatch.setattr(rollout_buffer, "to_numpy", lambda x: x.numpy(force=True).copy())


WRITES = {
    "in place": lambda b, name: np.multiply(getattr(b, name), 0.5, out=getattr(b, name)),
    "assigned": lambda b, name: setattr(b, name, getattr(b, name) * np.float32(0.5)),
    "assigned, float64": lambda b, name: setattr(b, name, getattr(b, name).astype(np.float64) / 2),
    "one row": lambda b, name: getattr(b, name).__setitem__(1, 0.25),
    "after get": lambda b, name: (list(b.get(4)), np.multiply(getattr(b, name), 0.5, out=getattr(b, name))),
}


@pytest.mark.parametrize("how", WRITES)
@pytest.mark.parametrize("column", ["advantages", "returns", "log_probs", "values", "observations"])
@pytest.mark.parametrize("algorithm", ["A2C", "PPO"])
def test_what_stands_in_the_buffer_is_learned_from_whoever_wrote_it(algorithm, column, how, memory):
    class Writes(BaseCallback):
        def _on_step(self):
            return True

        def _on_rollout_end(self):
            WRITES[how](self.model.rollout_buffer, column)

    def train(library, callback):
        kwargs = dict(batch_size=5, n_epochs=2, clip_range_vf=0.1, normalize_advantage=False) if algorithm == "PPO" else {}
        env = vectorised(Scripted([3, 2], [True, False]), Scripted([2], [True]))
        model = getattr(library, algorithm)(
            "MlpPolicy", env, n_steps=5, seed=0, learning_rate=1e-2, policy_kwargs=dict(net_arch=[8]), device=DEVICE, **kwargs
        )
        return list(model.learn(30, callback=callback).policy.parameters())

    ours, theirs, unwritten = train(sb3_pgx, Writes()), train(sb3, Writes()), train(sb3_pgx, None)
    for p, q in zip(ours, theirs, strict=True):
        th.testing.assert_close(p, q, rtol=1e-4, atol=1e-5)
    ignored = {"A2C": ("log_probs", "values"), "PPO": ()}[algorithm]  # by the loss
    assert all(map(th.equal, ours, unwritten)) == (column in ignored)


@pytest.mark.parametrize("column", ["advantages", "rewards", "observations", "actions", "values", "episode_starts"])
@pytest.mark.parametrize("when", ["step", "end"])
@pytest.mark.parametrize("how", ["in place", "assigned"])
def test_a_write_that_cannot_be_learned_from_is_refused(column, when, how):
    class Writes(BaseCallback):
        def _on_step(self):
            return when != "step" or self.num_timesteps != 4 or self.write()

        def _on_rollout_end(self):
            if when == "end":
                self.write()

        def write(self):
            buffer = self.model.rollout_buffer
            if how == "in place":
                getattr(buffer, column)[0] += 1
            else:
                setattr(buffer, column, getattr(buffer, column) + 1)
            return True

    model = ACER("MlpPolicy", vectorised(Scripted([5])), n_steps=8, replay_start=8, device=DEVICE)
    before = [p.clone() for p in model.policy.parameters()]
    with pytest.raises(
        ValueError, match=rf"rollout_buffer.{column} was written to, and this algorithm does not learn from it"
    ):
        model.learn(16, callback=Writes())
    assert all(map(th.equal, before, model.policy.parameters()))


@pytest.mark.parametrize("learned", [False, True])
@pytest.mark.parametrize("algorithm", [REINFORCE, REINFORCEBaseline, ACER])
def test_an_algorithm_that_needs_more_of_a_row_refuses_added_ones(algorithm, learned):
    model = algorithm("MlpPolicy", vectorised(Scripted([5])), device=DEVICE)
    if learned:
        model.learn(5)
        model.rollout_buffer.reset()
    with pytest.raises(ValueError, match=rf"rollout_buffer.add: {algorithm.__name__} learns from"):
        model.rollout_buffer.add(np.zeros((1, 2)), np.zeros(1), np.zeros(1), np.ones(1), th.zeros(1), th.zeros(1))


def test_a_penalty_is_measured_from_the_distributions_of_the_observations_that_stand_in_the_buffer():
    """At the first step of an update KL(old‖new) is 0, whatever was written into the observations."""

    class Writes(BaseCallback):
        def _on_step(self):
            return True

        def _on_rollout_end(self):
            self.model.rollout_buffer.observations += 3.0

    env = vectorised(Scripted([5]))
    model = PPOPenalty("MlpPolicy", env, n_steps=8, batch_size=8, n_epochs=1, learning_rate=0.0, seed=0, device=DEVICE)
    model.learn(8, callback=Writes())
    assert abs(model.logger.name_to_value["train/kl"]) < 1e-9


def test_a_buffer_that_is_not_full_is_not_learned_from():
    model = A2C("MlpPolicy", vectorised(Scripted([5])), device=DEVICE)
    model.set_logger(configure(None, []))
    with pytest.raises(ValueError, match=r"the rollout buffer holds 0 of 5 steps: call learn\(\), or fill it with add\(\)"):
        model.train()


def test_an_array_of_another_shape_is_named():
    class Writes(BaseCallback):
        def _on_step(self):
            return True

        def _on_rollout_end(self):
            self.model.rollout_buffer.advantages = np.zeros(3)

    model = A2C("MlpPolicy", vectorised(Scripted([5])), device=DEVICE)
    with pytest.raises(ValueError, match=r"rollout_buffer.advantages has the shape \(3,\), and the rollout has 5 steps of 1"):
        model.learn(5, callback=Writes())


@pytest.mark.parametrize("name", ["gamma", "gae_lambda"])
@pytest.mark.parametrize("owner", ["model", "buffer"])
def test_a_discount_that_is_changed_in_model_or_buffer_does_what_it_does_in_sb3(name, owner):
    class Changes(BaseCallback):
        def _on_step(self):
            setattr(self.model if owner == "model" else self.model.rollout_buffer, name, 0.3)
            return True

    def advantages(model_class):
        env = vectorised(Scripted([3, 2], [True, False]))
        model = model_class("MlpPolicy", env, n_steps=6, seed=0, gae_lambda=0.9, device=DEVICE)
        return model.learn(12, callback=Changes()).rollout_buffer.advantages.reshape(-1)

    np.testing.assert_allclose(advantages(A2C), advantages(sb3.A2C), rtol=1e-4, atol=1e-5)


# ------------------------------------------------------------------------------------------------------- a class of one's own
class Shapes(BaseCallback):
    """Adds 1 to all rewards of the buffer and has returns and advantages computed again, as SB3's users do."""

    def _on_step(self):
        return True

    def _on_rollout_end(self):
        buffer = self.model.rollout_buffer
        buffer.rewards += 1
        buffer.compute_returns_and_advantage(self.locals["values"], self.locals["dones"])
        self.arrays = buffer.advantages.copy(), buffer.returns.copy()


def test_estimates_that_are_computed_again_keep_the_bootstraps_of_truncated_episodes():
    """Episodes that are truncated or terminated in the middle and at the end of a rollout, and one that goes on."""
    computed = []
    for model_class in (sb3.A2C, A2C):
        env = vectorised(Scripted([2, 3, 4], [True, False, True]), Scripted([3, 6], [True, True]), Scripted([7]))
        callback = Shapes()
        model_class("MlpPolicy", env, n_steps=9, gae_lambda=0.8, seed=0, device=DEVICE).learn(27, callback=callback)
        computed.append(callback.arrays)
    for theirs, ours in zip(*computed, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)


class Recording(RolloutBuffer):
    """A user's own buffer: counts what it is asked to do."""

    def __init__(self, *args, **kwargs):
        self.calls = []
        super().__init__(*args, **kwargs)

    def add(self, *args):
        self.calls.append("add")
        super().add(*args)

    def compute_returns_and_advantage(self, *args, **kwargs):
        self.calls.append("compute")
        super().compute_returns_and_advantage(*args, **kwargs)


def test_a_users_own_buffer_class_is_fed_as_sb3_feeds_it():
    def train(model_class):
        env = vectorised(Scripted([3, 4], [True, False]), Scripted([2], [True]))
        model = model_class("MlpPolicy", env, n_steps=5, seed=0, rollout_buffer_class=Recording, device=DEVICE)
        return model.learn(30)

    ours, theirs = train(A2C), train(sb3.A2C)
    assert ours.rollout_buffer.calls == theirs.rollout_buffer.calls
    for name in NAMES:
        expected = getattr(theirs.rollout_buffer, name)
        np.testing.assert_allclose(getattr(ours.rollout_buffer, name), expected, rtol=1e-4, atol=1e-5, err_msg=name)
    for p, q in zip(ours.policy.parameters(), theirs.policy.parameters(), strict=True):
        th.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)


class Transposing(RolloutBuffer):
    """A user's own buffer: every second minibatch has its pictures transposed, every third has them in double precision."""

    def get(self, batch_size=None):
        for i, samples in enumerate(super().get(batch_size)):
            observations = samples.observations.transpose(1, 2) if i % 2 else samples.observations
            yield samples._replace(observations=observations if i % 3 else observations.double())


def test_minibatches_of_a_users_own_buffer_need_not_be_laid_out_alike(graphs):
    def train(compile):
        env = vectorised(*(AnySpace(spaces.Box(-1, 1, (4, 4), np.float32), spaces.Discrete(3)) for _ in range(2)))
        model = PPO(
            "MlpPolicy",
            env,
            n_steps=24,
            batch_size=8,
            n_epochs=2,
            learning_rate=1e-2,
            seed=0,
            compile=compile,
            rollout_buffer_class=Transposing,
            policy_kwargs={"net_arch": [8]},
            device=DEVICE,
        )
        return model.learn(96).policy.parameters()

    for ours, eager in zip(train(True), train(False), strict=True):
        th.testing.assert_close(ours, eager, rtol=1e-5, atol=1e-5)
    assert len(graphs) == 4, "a step for each of two orders and two types; acting gives values, too, and is not compiled"


@pytest.mark.parametrize("buffer_class", [RolloutBuffer, None])
def test_sb3s_own_classes_mean_no_choice(buffer_class):
    model = A2C("MlpPolicy", vectorised(Scripted([3])), rollout_buffer_class=buffer_class, device=DEVICE)
    assert model.rollout_buffer_class is RolloutBuffer  # what SB3 writes into a saved file
    assert isinstance(model.rollout_buffer, RolloutView)
    dictionary = A2C("MultiInputPolicy", vectorised(ScriptedDict([3])), device=DEVICE)
    assert dictionary.rollout_buffer_class is DictRolloutBuffer
    assert isinstance(dictionary.rollout_buffer, DictRolloutBuffer)


def test_an_algorithm_of_whole_episodes_refuses_a_users_own_buffer_class():
    with pytest.raises(ValueError, match=r"REINFORCE learns from whole episodes.*Recording"):
        REINFORCE("MlpPolicy", vectorised(Scripted([3])), rollout_buffer_class=Recording, device=DEVICE)
