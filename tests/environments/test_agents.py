"""Agents of one environment as rows of a VecEnv: they learn as environments of their own do."""

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from mpe2 import simple_spread_v3
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecFrameStack, VecNormalize
from support.array_environments import BOTH, TERMINATED, TRUNCATED, Episodes, assert_same, one_by_one, trained
from support.interrupted import assert_same_run, uninterrupted_and_resumed
from support.parallel_environments import Agents, OneStep, Walkers, WithState
from support.refusals import refusal

from sb3_pgx import DDPG, PPO, environments
from sb3_pgx.diagnostics import DiagnosticsCallback
from sb3_pgx.environments import AgentsVecEnv, as_vec_env

BOX = spaces.Box(-1, 1, (2,), np.float32)
# Of each agent, the lengths of its episodes and how they end, over and over.
TOGETHER = [[(5, TERMINATED), (2, TRUNCATED)], [(5, TRUNCATED), (2, TERMINATED)], [(5, BOTH), (2, TRUNCATED)]]
APART = [[(1, TERMINATED), (4, TRUNCATED)], [(5, TRUNCATED), (2, TERMINATED)], [(3, BOTH), (4, TRUNCATED)]]


def copies(patterns, n=1, of=Agents, **kwargs):
    return AgentsVecEnv([lambda: of(*(Episodes(i, p) for i, p in enumerate(patterns)))] * n, **kwargs)


def test_copies_of_an_environment_of_one_agent_train_as_a_vector_of_environments_bit_for_bit(name):
    patterns = [[(5, TERMINATED), (2, TRUNCATED)], [(7, TRUNCATED)], [(4, BOTH), (30, TRUNCATED)]]
    made = [lambda i=i, p=p: Agents(Episodes(i, p)) for i, p in enumerate(patterns)]
    assert_same(trained(name, AgentsVecEnv(made)), trained(name, one_by_one(patterns)))


def test_copies_are_seeded_as_a_vector_of_environments_is():
    settings = dict(n_steps=32, batch_size=32, seed=3, device="cpu", compile=False)
    ours = PPO("MlpPolicy", AgentsVecEnv([lambda: Agents(gym.make("CartPole-v1"))] * 4), **settings).learn(512)
    theirs = PPO("MlpPolicy", make_vec_env("CartPole-v1", 4), **settings).learn(512)
    assert_same(ours, theirs)


def test_agents_that_end_together_train_as_a_vector_of_environments_bit_for_bit():
    assert_same(trained("ppo", copies(TOGETHER)), trained("ppo", one_by_one(TOGETHER)))


def played(env, actions):
    """Rows of one agent alone that is given these actions, until its episode ends: observation, reward, how it ended."""
    rows, observation = [], env.reset()[0]
    for action in actions:
        following, reward, terminated, truncated, _ = env.step(action)
        rows.append((*observation, reward, terminated, truncated and not terminated))
        observation = env.reset()[0] if terminated or truncated else following
    return np.array(rows, np.float32)


@pytest.mark.parametrize("n", [1, 2])
def test_the_rows_that_count_are_those_of_each_agent_played_by_hand(n):
    """An agent that has ended waits for the others: none of its rows count, and the next one that does starts an episode."""
    model = trained("ppo", copies(APART, n), timesteps=1, n_steps=40, batch_size=60)
    rollout, counted = model.last_rollout, 0
    for row in range(3 * n):
        valid, agent = rollout.valid[:, row], row % 3
        expected = played(Episodes(agent, APART[agent]), rollout.actions[valid, row].flatten().tolist())
        ours = [rollout.observations[:, row], rollout.rewards[:, row : row + 1], rollout.terminated[:, row : row + 1]]
        ours = th.cat([x.float() for x in (*ours, rollout.truncated[:, row : row + 1])], dim=1)[valid]
        np.testing.assert_allclose(ours, expected, rtol=1e-6)
        counted += int(valid.sum())
    # Episodes of a copy last 5 steps and 4 steps in turn: its agents play 1 and 4, 5 and 2, 3 and 4 of them.
    assert counted == model.num_timesteps == n * ((1 + 4 + 5 + 2 + 3 + 4) * 4 + 1 + 4 + 3)
    truncated = (rollout.truncated & rollout.valid).nonzero()
    assert len(truncated) > 0
    for place, (t, row) in enumerate(truncated.tolist()):
        assert rollout.final_observations[place, :2].tolist() == rollout.observations[t, row, :2].tolist()
        assert rollout.final_observations[place, 2] == rollout.observations[t, row, 2] + 0.25
    lengths = {length for pattern in APART for length, _ in pattern}
    assert {e["l"] for e in model.ep_info_buffer} <= lengths


class Wild(Agents):
    """After their ends, agents still return observations, which are huge."""

    def step(self, actions):
        observations, *rest = super().step(actions)
        gone = {agent: np.full(3, 99, np.float32) for agent in self.possible_agents if agent not in actions}
        return ({**observations, **gone}, *rest)


def test_what_stands_in_the_row_of_an_agent_that_waits_does_not_matter(name):
    if name == "acer":
        assert "may end before the others" in refusal(lambda: trained(name, copies(APART)))
        return
    calm, wild = (trained(name, VecNormalize(copies(APART, of=of))) for of in (Agents, Wild))
    for key, value in calm.policy.state_dict().items():
        assert th.equal(wild.policy.state_dict()[key], value), key
    assert np.array_equal(calm.env.obs_rms.mean, wild.env.obs_rms.mean)


def test_evaluation_takes_agents_that_end_early():
    model = trained("ppo", copies(APART))
    returns, lengths = evaluate_policy(model, copies(APART, 2), 12, return_episode_rewards=True)
    assert set(lengths) <= {1, 2, 3, 4, 5} and len(returns) == 12


def test_diagnostics_measure_the_rows_that_count(tmp_path):
    callback = DiagnosticsCallback()
    settings = dict(n_steps=8, batch_size=8, n_epochs=1, seed=0, device="cpu", compile=False)
    model = PPO("MlpPolicy", copies(APART), **settings).learn(100, callback=callback)
    assert len(callback.history) > 3 and all(np.isfinite(row["reward_mean"]) for row in callback.history)
    valid = model.last_rollout.valid
    assert callback.history[-1]["reward_mean"] == pytest.approx(model.last_rollout.rewards[valid].mean().item(), rel=1e-5)


# ------------------------------------------------------------------------------------------------------- the critic's part


@pytest.mark.parametrize("of", [Agents, Wild])
def test_the_critic_gets_the_observations_of_all_agents_with_zeros_for_those_that_have_ended(of):
    env = copies(APART, of=of, critic="observations")
    start = env.reset()
    assert np.array_equal(start["critic"], np.stack([start["observation"].ravel()] * 3))
    observations, _, dones, infos = env.step(np.zeros(3, int))
    assert dones.tolist() == [True, False, False] and np.array_equal(
        infos[0]["terminal_observation"]["critic"], observations["critic"][1]
    )
    assert np.array_equal(observations["critic"][1], observations["observation"].ravel())
    observations, *_ = env.step(np.zeros(3, int))
    expected = observations["observation"].copy()
    expected[0] = 0
    assert np.array_equal(observations["critic"], np.stack([expected.ravel()] * 3))


def test_the_critic_gets_the_state_before_the_next_episode_starts():
    env = copies(APART, of=WithState, critic="state")
    assert env.reset()["critic"].tolist() == [[3, 0]] * 3
    seen = [env.step(np.zeros(3, int)) for _ in range(5)]
    assert [step[0]["critic"][0].tolist() for step in seen] == [[2, 1], [2, 2], [1, 3], [1, 4], [3, 0]]
    assert seen[-1][3][1]["terminal_observation"]["critic"].tolist() == [0, 5]


@pytest.mark.parametrize("critic", ["state", "observations"])
def test_an_environment_of_pettingzoo_trains_with_a_central_critic(critic):
    env = AgentsVecEnv([lambda: simple_spread_v3.parallel_env(max_cycles=10)] * 2, critic=critic)
    model = PPO(
        "MultiInputPolicy",
        env,
        n_steps=20,
        batch_size=40,
        policy_kwargs=dict(critic_key="critic", net_arch=[8]),
        seed=0,
        compile=False,
    )
    assert model.learn(120).num_timesteps == 120 and env.num_envs == 6
    own = env.observation_space["observation"].sample()
    action, _ = model.predict({"observation": own}, deterministic=True)
    assert env.action_space.contains(int(action))


def test_parts_of_the_agents_own_observations_stay_beside_the_critics():
    class InParts(OneStep):
        def __init__(self):
            super().__init__(spaces.Discrete(2))
            self.observation_space = spaces.Dict({"place": BOX, "kind": spaces.Discrete(3)})

        def reset(self, *, seed=None, options=None):
            return {"place": np.ones(2, np.float32), "kind": 2}, {}

    env = AgentsVecEnv([lambda: Agents(InParts(), InParts())], critic="observations")
    start = env.reset()
    assert start.keys() == {"place", "kind", "critic"} and start["kind"].tolist() == [2, 2]
    # Flattened, a choice of three is a unit vector; gymnasium sorts the parts.
    assert start["critic"].tolist() == [[0, 0, 1, 1, 1] * 2] * 2


# ------------------------------------------------------------------------------------------------------- SB3's interface


def test_attributes_and_methods_are_those_of_each_rows_copy():
    class Numbered(Agents):
        calls = 0

        def count(self, by):
            self.calls += by
            return self.calls

    made = []
    env = AgentsVecEnv([lambda: made.append(Numbered(*(OneStep(BOX) for _ in range(2)))) or made[-1]] * 3)
    env.set_attr("mark", "x", indices=[2, 3])
    assert [hasattr(copy, "mark") for copy in made] == [False, True, False] and not env.has_attr("mark")
    assert env.env_method("count", 5) == [5] * 6 and env.env_method("count", 1, indices=[4, 5, 0]) == [6, 6, 6]
    assert env.get_attr("calls") == [6, 6, 5, 5, 6, 6] and env.get_attr("calls", 1) == [6]
    env.close()


def test_what_a_step_returned_is_not_overwritten_by_the_next_one():
    env = copies(TOGETHER)
    first = env.reset()
    kept = first.copy()
    env.step(np.zeros(3, int))
    assert np.array_equal(first, kept)


def test_a_run_that_was_interrupted_while_an_agent_waited_continues_exactly(tmp_path):
    def make(env):
        return PPO("MlpPolicy", env, n_steps=8, batch_size=16, n_epochs=2, seed=0, device="cpu", compile=False)

    def make_env():
        return VecNormalize(AgentsVecEnv([lambda: Walkers([3, 6, 5])] * 2))

    assert_same_run(*uninterrupted_and_resumed(make, make_env, 150, tmp_path, at=12))


# ------------------------------------------------------------------------------------------------------- refusals


def test_agents_with_different_spaces_cannot_share_a_policy():
    text = refusal(lambda: PPO("MlpPolicy", Agents(OneStep(BOX), OneStep(BOX, size=3))))
    assert "observations of agent_0" in text and "those of agent_1" in text and "MADDPG" in text
    text = refusal(lambda: AgentsVecEnv([lambda: Agents(OneStep(BOX), OneStep(spaces.Discrete(2)))]))
    assert "actions of agent_0" in text


def test_agents_that_act_in_turn_are_refused():
    assert "parallel_env()" in refusal(lambda: PPO("MlpPolicy", simple_spread_v3.env()))


def test_an_environment_without_the_parallel_api_is_refused():
    class Half:
        possible_agents = ("a",)

        def reset(self):
            return {}

        def step(self):
            return {}

    assert "observation_space and action_space" in refusal(lambda: as_vec_env(Half()))


def test_an_agent_that_is_missing_is_named():
    class Late(Agents):
        def reset(self, seed=None, options=None):
            observations, infos = super().reset(seed, options)
            return {"agent_0": observations["agent_0"]}, infos

    class Vanishing(Agents):
        def step(self, actions):
            return tuple({"agent_0": part["agent_0"]} for part in super().step(actions))

    agents = [OneStep(BOX), OneStep(BOX)]
    assert "reset returned no observation of agent_1" in refusal(lambda: as_vec_env(Late(*agents)).reset())
    env = as_vec_env(Vanishing(*agents))
    env.reset()
    assert "step returned no observation of agent_1" in refusal(lambda: env.step(np.zeros((2, 2))))


def test_the_old_interface_is_refused():
    class Old(Agents):
        def reset(self, seed=None, options=None):
            return super().reset(seed, options)[0]

    assert "parallel API of today" in refusal(lambda: as_vec_env(Old(OneStep(BOX))).reset())


def test_a_state_that_does_not_exist_and_a_part_that_does_are_refused():
    assert "critic='observations'" in refusal(lambda: copies(APART, critic="state"))
    assert "choose one of" in refusal(lambda: copies(APART, critic="central"))

    class HasCritic(OneStep):
        def __init__(self):
            super().__init__(spaces.Discrete(2))
            self.observation_space = spaces.Dict({"critic": BOX})

    assert "leave it out" in refusal(lambda: AgentsVecEnv([lambda: Agents(HasCritic())], critic="observations"))


def test_copies_that_are_none_are_refused():
    one = Agents(OneStep(BOX))
    assert "must make one of its own" in refusal(lambda: AgentsVecEnv([lambda: one] * 2))
    assert "is empty" in refusal(lambda: AgentsVecEnv([]))
    made = iter([Agents(OneStep(BOX)), Agents(OneStep(BOX), OneStep(BOX))])
    assert "different agents" in refusal(lambda: AgentsVecEnv([lambda: next(made)] * 2))


def test_algorithms_that_keep_every_row_refuse_agents_that_may_end_early():
    text = refusal(lambda: DDPG("MlpPolicy", Agents(OneStep(BOX), OneStep(BOX)), compile=False).learn(10))
    assert "may end before the others" in text and "the replay memory keeps every step" in text
    stacked = VecFrameStack(copies(APART), 2)
    assert "mix the frames" in refusal(lambda: trained("ppo", stacked))
    assert DDPG("MlpPolicy", Agents(OneStep(BOX)), compile=False).learn(10).num_timesteps == 10  # one agent waits for none


def test_an_evaluation_tells_a_policy_with_memory_where_episodes_start():
    """SB3's function takes the step after an episode's end for the start of the next one, but ended agents wait."""

    class Remembers:
        """Its state is the number of steps since the start of the episode."""

        def predict(self, observation, state=None, episode_start=None, deterministic=False):
            state = np.where(episode_start, 0, 0 if state is None else state + 1)
            steps.append((waiting(), state))
            return np.zeros(len(state), int), state

    env = AgentsVecEnv([lambda: Walkers([2, 4])])
    steps = []

    def waiting():
        return np.zeros(2, bool) if env.resetting is None else env.resetting.copy()

    environments.evaluate_policy(Remembers(), env, 4)
    counted = [[int(state[i]) for waits, state in steps if not waits[i]] for i in range(2)]
    assert counted == [[0, 1, 0, 1], [0, 1, 2, 3, 0, 1, 2, 3]]
