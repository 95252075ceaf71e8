"""Vector environments that break gymnasium's interface: one sentence says what and where; lists are as good as arrays."""

import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from support.array_environments import TERMINATED, TRUNCATED, Arrays, Episodes, assert_same, trained
from support.models import parameters

from sb3_pgx import PPO
from sb3_pgx.environments import as_vec_env

PATTERN = [[(5, TERMINATED), (2, TRUNCATED)], [(7, TRUNCATED)]]
SAME_STEP = AutoresetMode.SAME_STEP


def lists(values):
    return {key: part.tolist() for key, part in values.items()} if isinstance(values, dict) else values.tolist()


class Lists(Arrays):
    """Everything that it returns is a list."""

    def reset(self, **kwargs):
        observations, infos = super().reset(**kwargs)
        return lists(observations), infos

    def step(self, actions):
        *arrays, infos = super().step(actions)
        return *map(lists, arrays), infos


@pytest.mark.parametrize("mode", AutoresetMode)
def test_lists_are_as_good_as_arrays(mode):
    honours_mask = mode != AutoresetMode.NEXT_STEP  # otherwise some steps only reset
    ours, theirs = (trained("ppo", kind(PATTERN, mode, honours_mask)) for kind in (Lists, Arrays))
    assert_same(ours, theirs)


class Wrong(Arrays):
    """
    Returns something wrong from its second step or reset on.

    :param change: maps what ``step`` or ``reset`` returns to something else
    :param of: which of the two
    """

    def __init__(self, change, of="step", mode=SAME_STEP):
        super().__init__(PATTERN, mode)
        self.change, self.of, self.calls = change, of, 0

    def changed(self, what, returned):
        self.calls += what == self.of
        return self.change(*returned) if what == self.of and self.calls > 1 else returned

    def reset(self, **kwargs):
        return self.changed("reset", super().reset(**kwargs))

    def step(self, actions):
        return self.changed("step", super().step(actions))


def without_final_observations(observations, rewards, terminated, truncated, infos):
    return observations, rewards, terminated, truncated, {k: v for k, v in infos.items() if k != "final_obs"}


def without_one_final_observation(observations, rewards, terminated, truncated, infos):
    return observations, rewards, terminated, truncated, {**infos, "final_obs": np.full(2, None, object)}


OF_ANOTHER_LIBRARY = (
    "it has the interface of another library, such as the old gym; adapt it to gymnasium's VectorEnv, or pass its "
    "environments to SB3's DummyVecEnv"
)
CHANGING = "which its observation_space promises; neither the shape nor the number of environments may change"
NUMBERS = r"instead of \(2,\); return one of each per environment"
NO_FINAL_OBSERVATION = (
    r"Wrong resets in the step that ends an episode \(AutoresetMode.SAME_STEP\), but environment 0 ended one without its "
    r"final observation: return it in infos\['final_obs'\], or use another mode"
)
WRONG_STEPS = {
    "four values": (
        lambda o, r, terminated, truncated, i: (o, r, terminated | truncated, i),
        "Wrong.step returned 4 values instead of a tuple of observations, rewards, terminations, truncations and infos: "
        + OF_ANOTHER_LIBRARY,
    ),
    "a list": (
        lambda *five: [*five],
        "Wrong.step returned one list instead of a tuple of observations, rewards, terminations, truncations and infos: "
        + OF_ANOTHER_LIBRARY,
    ),
    "another number of environments": (
        lambda o, r, te, tr, i: (np.repeat(o, 2, 0), r.repeat(2), te.repeat(2), tr.repeat(2), i),
        r"Wrong returned rewards, terminations and truncations of shapes \(4,\), \(4,\) and \(4,\) " + NUMBERS,
    ),
    "observations of another number": (
        lambda o, *rest: (o[:1], *rest),
        rf"Wrong returned observations of shape \(1, 3\) instead of \(2, 3\), {CHANGING}",
    ),
    "observations without environments": (
        lambda o, *rest: (o[0], *rest),
        rf"Wrong returned observations of shape \(3,\) instead of \(2, 3\), {CHANGING}",
    ),
    "lists of different lengths": (
        lambda o, *rest: ([[1.0], [1.0, 2.0]], *rest),
        rf"Wrong returned observations of shape \(\) instead of \(2, 3\), {CHANGING}",
    ),
    "rewards in a column": (
        lambda o, r, *rest: (o, r[:, None], *rest),
        r"Wrong returned rewards, terminations and truncations of shapes \(2, 1\), \(2,\) and \(2,\) " + NUMBERS,
    ),
    "one reward": (
        lambda o, r, *rest: (o, 1.0, *rest),
        r"Wrong returned rewards, terminations and truncations of shapes \(\), \(2,\) and \(2,\) " + NUMBERS,
    ),
    "one termination": (
        lambda o, r, te, *rest: (o, r, False, *rest),
        r"Wrong returned rewards, terminations and truncations of shapes \(2,\), \(\) and \(2,\) " + NUMBERS,
    ),
    "truncations of three": (
        lambda o, r, te, tr, i: (o, r, te, np.zeros(3, bool), i),
        r"Wrong returned rewards, terminations and truncations of shapes \(2,\), \(2,\) and \(3,\) " + NUMBERS,
    ),
    "infos as a list": (
        lambda *returned: (*returned[:-1], [{}, {}]),
        r"Wrong returned infos of type list instead of a dictionary of arrays$",
    ),
    "no final observations": (without_final_observations, NO_FINAL_OBSERVATION),
    "a final observation that is None": (without_one_final_observation, NO_FINAL_OBSERVATION),
}


def assert_refused(env, sentence):
    model = PPO("MlpPolicy", env, n_steps=8, batch_size=8, n_epochs=1, seed=0, device="cpu", compile=False)
    before = parameters(model)
    with pytest.raises(ValueError, match=f"^{sentence}$"):
        model.learn(32)
    assert all((before[key] == value).all() for key, value in parameters(model).items())


@pytest.mark.parametrize("wrong", WRONG_STEPS)
def test_a_wrong_step_is_refused_in_one_sentence(wrong):
    change, sentence = WRONG_STEPS[wrong]
    assert_refused(Wrong(change), sentence)


@pytest.mark.parametrize(
    "change, returned",
    [
        # Two environments: their observations would pass for observations and infos.
        (lambda observations, infos: observations, "one ndarray"),
        (lambda observations, infos: (observations, infos, None), "3 values"),
    ],
)
def test_a_reset_that_does_not_return_observations_and_infos_is_refused(change, returned):
    env = Wrong(change, of="reset")
    env.calls = 1  # from the first reset on
    assert_refused(env, f"Wrong.reset returned {returned} instead of a tuple of observations and infos: {OF_ANOTHER_LIBRARY}")


def test_a_later_reset_with_another_number_of_environments_is_refused():
    env = as_vec_env(Wrong(lambda observations, infos: (observations[:1], infos), of="reset"))
    env.reset()
    with pytest.raises(ValueError, match=rf"^Wrong returned observations of shape \(1, 3\) instead of \(2, 3\), {CHANGING}$"):
        env.reset()


class OldReset(Arrays):
    def reset(self):
        return super().reset()[0]


class NoVectorEnv:
    """As the old gym's: not of gymnasium's class."""

    def __init__(self):
        vars(self).update(vars(Arrays(PATTERN, SAME_STEP)))

    def reset(self):
        return self.observations

    def step(self, actions):
        return self.observations, np.zeros(2), np.zeros(2, bool), [{}, {}]


@pytest.mark.parametrize(
    "make, sentence",
    [
        (lambda: OldReset(PATTERN, SAME_STEP), "OldReset.reset does not take seed and options"),
        (NoVectorEnv, "NoVectorEnv has several environments, but is no VectorEnv"),
    ],
)
def test_the_old_gyms_interface_is_refused_when_a_model_is_made(make, sentence):
    with pytest.raises(ValueError, match=f"^{sentence}: {OF_ANOTHER_LIBRARY}$"):
        PPO("MlpPolicy", make())


def test_environments_that_are_tried_are_refused_when_a_model_is_made():
    """Those that cannot reset themselves."""
    change, sentence = WRONG_STEPS["four values"]
    env = Wrong(change, mode=AutoresetMode.DISABLED)
    env.calls = 1
    with pytest.raises(ValueError, match=f"^{sentence}$"):
        PPO("MlpPolicy", env)


class Parts(Episodes):
    observation_space = spaces.Dict({"number": spaces.Discrete(200), "vector": Episodes.observation_space})

    def observe(self):
        return {"number": self.t, "vector": super().observe()}


@pytest.mark.parametrize(
    "change, sentence",
    [
        (
            lambda o: [{}, {}],
            r"Sync returned \[\{\}, \{\}\] as observations; return a dictionary of arrays with the keys 'number', 'vector'",
        ),
        (
            lambda o: {"vector": o["vector"]},
            r"Sync returned .* as observations; return a dictionary of arrays with the keys .*",
        ),
        (
            lambda o: {**o, "vector": o["vector"][:1]},
            rf"Sync returned observations 'vector' of shape \(1, 3\) instead of \(2, 3\), {CHANGING}",
        ),
    ],
)
def test_wrong_parts_of_observations_are_refused(change, sentence):
    class Sync(SyncVectorEnv):
        def step(self, actions):
            observations, *rest = super().step(actions)
            return change(observations), *rest

    env = as_vec_env(Sync([lambda i=i, p=p: Parts(i, p) for i, p in enumerate(PATTERN)], autoreset_mode=SAME_STEP))
    env.reset()
    with pytest.raises(ValueError, match=f"^{sentence}$"):
        env.step(np.zeros(2, int))


def test_lists_in_parts_become_arrays_and_other_parts_are_left_out():
    class Sync(SyncVectorEnv):
        def step(self, actions):
            observations, *rest = super().step(actions)
            return {**lists(observations), "private": [0, 0]}, *rest

    env = as_vec_env(Sync([lambda i=i, p=p: Parts(i, p) for i, p in enumerate(PATTERN)], autoreset_mode=SAME_STEP))
    env.reset()
    observations = env.step(np.zeros(2, int))[0]
    assert {key: (part.tolist(), part.dtype) for key, part in observations.items()} == {
        "number": ([1, 1], np.int64),
        "vector": ([[0, 0, 0.25], [1, 0, 0.25]], np.float32),
    }


def _wider(env):
    env.observation_space = spaces.Box(-1, 1, (2, 3), np.float32)


def _more(env):
    env.num_envs = 3


def _other_actions(env):
    env.action_space = spaces.MultiDiscrete([3, 4])


@pytest.mark.parametrize(
    "spoil, sentence",
    [
        (
            _wider,
            r"Arrays has observation_space Box\(-1.0, 1.0, \(2, 3\), float32\), which is not single_observation_space .* 2",
        ),
        (_more, r"Arrays has observation_space Box\(-100.0, 100.0, \(2, 3\), float32\), which is not .* for each of 3"),
        (
            _other_actions,
            r"Arrays has action_space MultiDiscrete\(\[3 4\]\), which is not single_action_space Discrete\(3\) .* 2",
        ),
    ],
)
def test_unequal_spaces_are_refused_when_a_model_is_made(spoil, sentence):
    env = Arrays(PATTERN, SAME_STEP)
    spoil(env)
    with pytest.raises(ValueError, match=f"^{sentence} environments; all environments must have the same spaces, and "):
        PPO("MlpPolicy", env)


def test_choices_may_be_of_any_integer_type():
    env = Arrays(PATTERN, SAME_STEP)
    env.action_space = spaces.MultiDiscrete([3, 3], dtype=np.int32)
    assert PPO("MlpPolicy", env).action_space == spaces.Discrete(3)


def test_gymnasiums_environments_with_different_observations_are_refused():
    class Far(Episodes):
        observation_space = spaces.Box(-7, 7, (3,), np.float32)

    env = SyncVectorEnv([lambda: Episodes(0, PATTERN[0]), lambda: Far(1, PATTERN[1])], observation_mode="different")
    with pytest.raises(
        ValueError, match=r"SyncVectorEnv has observation_space .*; all environments must have the same spaces"
    ):
        PPO("MlpPolicy", env)
