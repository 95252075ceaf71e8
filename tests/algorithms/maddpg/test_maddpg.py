"""MADDPG against DDPG, against numbers that were computed by hand, and in games whose solution is known."""

import re
import warnings

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from selection import mostly_slow
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.vec_env import VecNormalize
from support.interrupted import assert_same_run, uninterrupted_and_resumed
from support.models import parameters
from support.parallel_environments import Agents, MatrixGame, OneStep, Walkers

from sb3_pgx import DDPG, MADDPG
from sb3_pgx.environments import JointEnv

BOX = spaces.Box(-1, 1, (2,), np.float32)
WIDE = spaces.Box(np.array([-3.0, 0.0], np.float32), np.array([1.0, 5.0], np.float32))
SMALL = dict(policy_kwargs=dict(net_arch=[16, 16]), learning_starts=20, batch_size=8, buffer_size=500, device="cpu", seed=0)
SMALL |= dict(compile=False, learning_rate=1e-3, train_freq=1, tau=0.005, gamma=0.99)  # steps at once, as DDPG takes them
AGENTS = ("agent_0", "agent_1")


def joint(*made, n=1):
    return make_vec_env(lambda: JointEnv(Agents(*(make() for make in made))), n, seed=0)


def game(payoffs, n=1, **kwargs):
    return make_vec_env(lambda: JointEnv(MatrixGame(payoffs, **kwargs)), n, seed=0)


# ------------------------------------------------------------------------------------------------------- one agent


@pytest.mark.parametrize(
    "n_envs, n_critics, optimizer",
    mostly_slow(  # Adamax has no rule, and takes steps itself
        [(1, 1, th.optim.Adam), (3, 2, th.optim.Adam), (1, 2, th.optim.Adamax)], lambda n_envs, n_critics, _: n_critics == 2
    ),
    ids=str,
)
def test_with_one_agent_it_is_ddpg_bit_for_bit(n_envs, n_critics, optimizer):
    def noise():
        return NormalActionNoise(np.zeros(1), np.full(1, 0.3))

    policy_kwargs = dict(net_arch=[16, 16], n_critics=n_critics, optimizer_class=optimizer)
    settings = {**SMALL, "policy_kwargs": policy_kwargs, "learning_rate": "lin_0.003", "gradient_steps": 2, "tau": 0.02}
    alone = DDPG("MlpPolicy", make_vec_env("Pendulum-v1", n_envs, seed=0), action_noise=noise(), **settings).learn(120)
    env = joint(lambda: gym.make("Pendulum-v1"), n=n_envs)
    ours = MADDPG("MlpPolicy", env, action_noise=noise(), max_grad_norm=None, **settings).learn(120)
    assert ours.n_gradient_steps == alone.n_gradient_steps > 60
    theirs = alone.policy.state_dict()
    for name, value in ours.policy.state_dict().items():
        assert th.equal(value, theirs[name.removeprefix("agents.agent_0.")]), name
    assert len(theirs) == len(ours.policy.state_dict())
    assert np.array_equal(ours.replay_buffer.actions, alone.replay_buffer.actions)
    assert np.array_equal(ours.replay_buffer.rewards[..., 0], alone.replay_buffer.rewards)
    for network in ("actor", "critic"):
        of_ours = getattr(ours.policy.agents["agent_0"], network).optimizer.state_dict()["state"]
        for i, state in getattr(alone, network).optimizer.state_dict()["state"].items():
            assert all(th.equal(of_ours[i][key], value) for key, value in state.items())
    observation = env.observation_space["agent_0"].sample()
    actions, _ = ours.predict({"agent_0": observation})
    assert np.array_equal(actions["agent_0"], alone.predict(observation)[0])


# ------------------------------------------------------------------------------------------------------- a step by hand


def network(sequential, inputs):
    """A network of SB3's, by NumPy."""
    for layer in sequential:
        if isinstance(layer, th.nn.Linear):
            weight, bias = (p.detach().numpy().astype(np.float64) for p in (layer.weight, layer.bias))
            inputs = inputs @ weight.T + bias
        else:
            inputs = np.tanh(inputs) if isinstance(layer, th.nn.Tanh) else np.maximum(inputs, 0)
    return inputs


def q(model, agent, which, observations, actions):
    critic = getattr(model.policy.agents[agent], which)
    return network(critic.q_networks[0], np.concatenate([*observations.values(), actions], axis=1))


def filled(env, n=40, **kwargs):
    """A model that has acted at random, and has taken no gradient step."""
    return MADDPG("MlpPolicy", env, **{**SMALL, "learning_starts": 10_000, "max_grad_norm": None, **kwargs}).learn(n)


def away_from_targets(model):
    """Move the critics, so that they are not what their targets are."""
    for agent in model.policy.agents.values():
        for p in agent.critic.parameters():
            p.data += 0.2 * th.randn_like(p)


def sample(model, size):
    np.random.seed(1)
    batch = model.replay_buffer.sample(size)
    np.random.seed(1)
    return batch


def array(tensor):
    return tensor.numpy().astype(np.float64)


def losses(model, size):
    """Losses of one gradient step."""
    model.set_logger(Logger(None, []))
    model.train(1, size)
    return {name: model.logger.name_to_value[f"train/{name}"] for name in ("critic_loss", "actor_loss")}


@pytest.mark.parametrize("central", [True, False])
def test_the_targets_of_a_matrix_game_are_those_computed_by_hand(central):
    """Target policies that are certain choose (1, 0); agent 0 is terminated at the end, and agent 1 truncated."""
    payoffs = [[[3.0, -1.0], [0.5, 2.0]], [[-2.0, 1.0], [4.0, 0.0]]]
    model = filled(game(payoffs, truncates=(False, True)), central_critics=central, gamma=0.9, logit_coef=0.0)
    away_from_targets(model)
    for agent, choice in zip(AGENTS, (1, 0), strict=True):
        last = model.policy.agents[agent].actor_target.mu[-1]
        th.nn.init.zeros_(last.weight), last.bias.data.copy_(100.0 * th.nn.functional.one_hot(th.tensor(choice), 2))
    batch = sample(model, 16)
    now, after = ({a: array(x) for a, x in part.items()} for part in (batch.observations, batch.next_observations))
    actions, next_actions = array(batch.actions), np.tile([0.0, 1.0, 1.0, 0.0], (16, 1))
    expected = []
    for i, agent in enumerate(AGENTS):
        own = (now, after, actions, next_actions)
        if not central:
            columns = slice(2 * i, 2 * i + 2)
            own = ({agent: now[agent]}, {agent: after[agent]}, actions[:, columns], next_actions[:, columns])
        choices = actions[:, :2].argmax(axis=1), actions[:, 2:].argmax(axis=1)
        rewards = np.array(payoffs[i])[choices]
        targets = rewards + 0.9 * (i == 1) * q(model, agent, "critic_target", own[1], own[3])[:, 0]
        expected.append(np.mean((q(model, agent, "critic", own[0], own[2])[:, 0] - targets) ** 2))
    assert losses(model, 16)["critic_loss"] == pytest.approx(np.mean(expected), rel=1e-5)


def test_the_targets_of_random_policies_are_expectations_over_their_joint_choices():
    model = filled(game(np.zeros((2, 2, 3)), truncates=(True, True)), gamma=0.9, logit_coef=0.0)
    away_from_targets(model)
    for agent in AGENTS:
        th.nn.init.normal_(model.policy.agents[agent].actor_target.mu[-1].bias)
    memory = model.replay_buffer
    for part in (*memory.observations.values(), *memory.next_observations.values(), memory.actions):
        part[:] = part[0]  # the same transition, over and over
    batch = sample(model, 1)
    now, after = ({a: array(x) for a, x in part.items()} for part in (batch.observations, batch.next_observations))
    of_agent = [th.tensor(network(model.policy.agents[a].actor_target.mu, after[a])[0]).softmax(0).numpy() for a in AGENTS]
    errors = np.zeros((2, 2, 3))
    for i, agent in enumerate(AGENTS):
        value = q(model, agent, "critic", now, array(batch.actions))[0, 0]
        for k, choice in enumerate(np.eye(2)):
            for m, other in enumerate(np.eye(3)):
                target = 0.9 * q(model, agent, "critic_target", after, np.concatenate([choice, other])[None])[0, 0]
                errors[i, k, m] = (value - target) ** 2
    joint_probability = np.outer(*of_agent)
    per_row = errors.mean(axis=0)  # over agents
    expected = (joint_probability * per_row).sum()
    n = 40_000
    spread = np.sqrt(((per_row - expected) ** 2 * joint_probability).sum() / n)
    assert losses(model, n)["critic_loss"] == pytest.approx(expected, abs=5 * spread + 1e-7)


def test_an_actor_climbs_its_critic_with_the_others_actions_from_the_memory():
    sgd = dict(net_arch=[16, 16], optimizer_class=th.optim.SGD)
    model = filled(joint(lambda: OneStep(BOX), lambda: OneStep(WIDE)), policy_kwargs=sgd, learning_rate=0.1)
    batch = sample(model, 16)
    before = {agent: model.policy.agents[agent].actor.state_dict() for agent in AGENTS}
    before = {agent: {name: value.clone() for name, value in state.items()} for agent, state in before.items()}
    losses(model, 16)
    seen = th.cat([*batch.observations.values()], dim=1)
    for i, agent in enumerate(AGENTS):
        of_agent = model.policy.agents[agent]
        after = {name: p.detach().clone() for name, p in of_agent.actor.named_parameters()}
        of_agent.actor.load_state_dict(before[agent])
        parts = [batch.actions[:, :2], batch.actions[:, 2:]]
        parts[i] = of_agent.actor.mu(batch.observations[agent])
        value = of_agent.critic.q_networks[0](th.cat([seen, *parts], dim=1)).mean()  # the critic after its step
        for (name, p), gradient in zip(
            of_agent.actor.named_parameters(), th.autograd.grad(value, [*of_agent.actor.parameters()]), strict=True
        ):
            th.testing.assert_close(after[name], p.detach() + 0.1 * gradient, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("takes_steps_itself", [False, True], ids=["as a function", "by the optimizers"])
def test_the_gradient_of_each_network_is_clipped_to_its_norm(takes_steps_itself):
    """Gradient descent moves a network by the learning rate times the norm of its gradient, wherever that is clipped."""
    moved = {}
    for limit in (None, 1e-3, 1e3):
        sgd = dict(net_arch=[16, 16], optimizer_class=th.optim.SGD)
        env = joint(lambda: OneStep(BOX), lambda: OneStep(spaces.Discrete(3)))
        model = filled(env, policy_kwargs=sgd, learning_rate=0.1, max_grad_norm=limit)
        networks = {f"{a}, {name}": getattr(model.policy.agents[a], name) for a in AGENTS for name in ("actor", "critic")}
        if takes_steps_itself:
            for network in networks.values():
                network.optimizer.register_step_post_hook(lambda *_: None)
        before = {name: th.nn.utils.parameters_to_vector(x.parameters()).detach().clone() for name, x in networks.items()}
        sample(model, 16)
        losses(model, 16)
        after = {name: th.nn.utils.parameters_to_vector(x.parameters()).detach() for name, x in networks.items()}
        moved[limit] = {name: (after[name] - before[name]).norm().item() / 0.1 for name in networks}
    assert min(moved[None].values()) > 2e-3 and moved[1e3] == pytest.approx(moved[None], rel=1e-5)
    assert moved[1e-3] == pytest.approx(dict.fromkeys(networks, 1e-3), rel=2e-3)


def test_targets_follow_at_the_rate_tau():
    model = filled(joint(lambda: OneStep(BOX), lambda: OneStep(spaces.Discrete(3))), tau=0.25)
    start = {name: value.clone() for name, value in model.policy.state_dict().items()}
    losses(model, 16)
    for name, value in model.policy.state_dict().items():
        if "_target" in name:
            followed = model.policy.state_dict()[name.replace("_target", "")]
            th.testing.assert_close(value, 0.75 * start[name] + 0.25 * followed, rtol=1e-5, atol=1e-7)
            assert not th.equal(value, start[name])


def test_logits_are_pulled_to_zero_by_their_coefficient():
    """Without a critic that has an opinion, the loss is the logits' mean square alone."""
    model = filled(game(np.zeros((2, 2, 2))), logit_coef=0.5, learning_rate=0.0)
    for agent in AGENTS:
        for p in model.policy.agents[agent].critic.parameters():
            th.nn.init.zeros_(p)
    batch = sample(model, 16)
    squares = [
        np.square(network(model.policy.agents[agent].actor.mu, array(batch.observations[agent]))).mean() for agent in AGENTS
    ]
    assert losses(model, 16)["actor_loss"] == pytest.approx(0.5 * np.mean(squares), rel=1e-5)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_a_discrete_actor_climbs_its_critic_along_relaxed_choices(temperature):
    """
    Of two choices with logits l, the relaxed first one is σ((l₀ − l₁ + x) / temperature) with logistic x. A critic that is
    linear in them, with weights w, gives the gradient (w₀ − w₁) E[σ'] of the logits' difference. The coefficient pulls logits
    to 0.
    """
    sgd = dict(net_arch=[], optimizer_class=th.optim.SGD)
    env = game(np.zeros((2, 2, 2)))
    model = filled(env, policy_kwargs=sgd, learning_rate=0.1, temperature=temperature, logit_coef=0.3, gamma=0.0)
    own, logits, n = model.policy.agents["agent_0"], th.tensor([0.4, -0.3]), 40_000
    last = own.actor.mu[-1]
    th.nn.init.zeros_(last.weight), last.bias.data.copy_(logits)
    sample(model, n)
    losses(model, n)
    first, second = own.critic.q_networks[0][-1].weight.detach()[0, -4:-2].tolist()  # after its step
    x = np.linspace(-40, 40, 40_001)
    logistic = 0.25 / np.cosh(x / 2) ** 2
    slope = 0.25 / np.cosh((0.7 + x) / temperature / 2) ** 2 / temperature
    mean, square = ((logistic * part).sum() * (x[1] - x[0]) for part in (slope, slope**2))
    expected = mean * (first - second)
    change = (last.bias.detach() - logits).numpy() / 0.1 + 0.3 * logits.numpy()  # without the pull, 2 · 0.3 · l / 2
    error = 6 * abs(first - second) * np.sqrt((square - mean**2) / n) + 1e-6
    assert change == pytest.approx([expected, -expected], abs=error) and abs(expected) > 5 * error


# ------------------------------------------------------------------------------------------------------- who sees what


@pytest.mark.parametrize("central", [True, False])
def test_a_central_critic_sees_all_agents_and_an_actor_only_itself(central):
    model = filled(joint(lambda: OneStep(BOX), lambda: OneStep(spaces.Discrete(3), size=4)), central_critics=central)
    own = model.policy.agents["agent_0"]
    observations = {"agent_0": th.randn(5, 2, requires_grad=True), "agent_1": th.randn(5, 4, requires_grad=True)}
    actions = th.randn(5, 5, requires_grad=True)
    (value,) = own.values(own.critic, observations, actions)
    others = th.autograd.grad(value.sum(), [observations["agent_1"], actions], allow_unused=True, retain_graph=True)
    seen = others[0] is not None and bool(others[0].abs().sum() > 0)
    assert seen == central and bool(others[1][:, 2:].abs().sum() > 0) == central and others[1][:, :2].abs().sum() > 0
    (gradient,) = th.autograd.grad(own.outputs(own.actor, observations).sum(), [observations["agent_1"]], allow_unused=True)
    assert gradient is None


# ------------------------------------------------------------------------------------------------------- memory, acting


def test_the_memory_has_what_the_agents_did_and_the_reward_and_end_of_each():
    payoffs = [[[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], [[10.0, 20.0, 30.0], [40.0, 50.0, 60.0]]]
    env = game(payoffs, truncates=(False, True))
    model = MADDPG("MlpPolicy", env, **SMALL).learn(60)  # at random, and then by the policies
    memory, played = model.replay_buffer, env.get_attr("parallel_env")[0].env.played
    actions = memory.actions[:60, 0]
    first, second = actions[:, :2], actions[:, 2:]
    for part, choices in zip((first, second), np.array(played[-60:]).T, strict=True):
        assert set(np.unique(part)) == {0.0, 1.0} and (part.sum(axis=1) == 1).all()
        assert np.array_equal(part.argmax(axis=1), choices) and len(set(choices.tolist())) == part.shape[1]
    expected = np.array(payoffs)[:, first.argmax(axis=1), second.argmax(axis=1)].T
    assert np.array_equal(memory.rewards[:60, 0], expected)
    batch = memory.sample(7)
    assert batch.dones.tolist() == [[1, 0]] * 7 and batch.rewards.shape == (7, 2)
    returns = [e["r"] for e in model.ep_info_buffer]
    assert returns == expected.sum(axis=1).tolist()


def test_agents_with_other_spaces_act_within_them():
    env = joint(lambda: OneStep(WIDE), lambda: OneStep(spaces.Discrete(3, start=5), size=4), lambda: OneStep(BOX), n=2)
    model = MADDPG("MlpPolicy", env, action_noise=NormalActionNoise(np.zeros(7), np.ones(7)), **SMALL).learn(100)
    observations = env.reset()
    actions, _ = model.predict(observations)
    of_agents = model.action_space.of_agents
    assert len(actions) == 2 and all(space.contains(one[agent]) for one in actions for agent, space in of_agents.items())
    single, _ = model.predict({agent: part[0] for agent, part in observations.items()}, deterministic=True)
    best = model.policy.agents["agent_1"].actor(th.as_tensor(observations["agent_1"][:1])).argmax()
    assert single["agent_1"] == 5 + best.item()
    assert np.allclose(single["agent_0"], actions[0]["agent_0"])  # a Box policy is deterministic
    mean, _ = evaluate_policy(model, env, 4)
    assert mean == 0


def test_discrete_policies_act_at_random_by_their_softmax():
    model = filled(game(np.zeros((2, 4, 2))))
    last = model.policy.agents["agent_0"].actor.mu[-1]
    th.nn.init.zeros_(last.weight), last.bias.data.copy_(th.tensor([0.0, 1.0, 2.0, -1.0]))
    n, observation = 4_000, np.zeros((4_000, 2), np.float32)
    actions, _ = model.predict({agent: observation for agent in AGENTS})
    counts = np.bincount([one["agent_0"] for one in actions], minlength=4)
    p = last.bias.detach().softmax(0).numpy()
    assert (np.abs(counts - n * p) < 5 * np.sqrt(n * p * (1 - p))).all()


def test_normalised_observations_train_and_a_sum_of_agents_does_not_scale_their_rewards():
    env = VecNormalize(game([[[1.0, 2.0], [3.0, 4.0]]] * 2, n=2), norm_reward=False)
    model = MADDPG("MlpPolicy", env, **SMALL).learn(100)
    assert model.replay_buffer.sample(50, env=env).rewards.unique().tolist() == [1, 2, 3, 4]
    competing = VecNormalize(game([[[1.0, -1.0], [-1.0, 1.0]], [[-1.0, 1.0], [1.0, -1.0]]]))
    with pytest.raises(ValueError, match="norm_reward=False"):
        MADDPG("MlpPolicy", competing, **SMALL).learn(10)


@pytest.mark.parametrize("optimizer", [th.optim.Adam, th.optim.Adamax])  # with a rule, and by itself
def test_an_opponent_may_be_frozen(optimizer):
    kwargs = {**SMALL, "policy_kwargs": dict(net_arch=[8], optimizer_class=optimizer)}
    model = MADDPG("MlpPolicy", game(np.zeros((2, 2, 2))), **kwargs)
    model.policy.agents["agent_1"].actor.requires_grad_(False)
    before = parameters(model)
    after = parameters(model.learn(40))
    changed = [name for name, value in after.items() if not th.equal(before[name], value)]
    moved = {network: any(f"{network}." in name for name in changed) for network in ("agent_1.actor", "agent_1.critic")}
    assert moved == {"agent_1.actor": False, "agent_1.critic": True} and any("agent_0.actor." in name for name in changed)


# ------------------------------------------------------------------------------------------------------- saving


def test_a_saved_model_acts_and_learns_on_as_before(tmp_path):
    made = [lambda: OneStep(WIDE), lambda: OneStep(spaces.Discrete(3))]
    model = MADDPG("MlpPolicy", joint(*made), central_critics=True, temperature=0.5, **SMALL).learn(30)
    model.save(tmp_path / "model")
    model.save_replay_buffer(tmp_path / "memory")
    loaded = MADDPG.load(tmp_path / "model", env=Agents(*(make() for make in made)), device="cpu")
    loaded.load_replay_buffer(tmp_path / "memory")
    assert loaded.temperature == 0.5 and parameters(loaded).keys() == parameters(model).keys()
    outcomes = [losses(one, 8) for one in (model, loaded) if np.random.seed(3) is None and th.manual_seed(3)]
    assert outcomes[0] == outcomes[1]
    for name, value in model.policy.state_dict().items():
        assert th.equal(loaded.policy.state_dict()[name], value), name
    alone = MADDPG.load(tmp_path / "model", device="cpu")
    observation = {agent: np.ones(2, np.float32) for agent in AGENTS}
    assert alone.predict(observation, deterministic=True)[0].keys() == set(AGENTS)
    model.policy.save(tmp_path / "policy")
    policy = type(model.policy).load(tmp_path / "policy")
    given = {agent: th.ones(1, 2) for agent in AGENTS}
    assert th.equal(policy._predict(given, True), model.policy._predict(given, True))


def test_a_run_that_was_interrupted_continues_exactly(tmp_path):
    def make_env():
        return make_vec_env(lambda: JointEnv(Walkers([7, 7])), 2, seed=0)

    def make(env):
        return MADDPG("MlpPolicy", env, **SMALL)

    assert_same_run(*uninterrupted_and_resumed(make, make_env, 50, tmp_path, at=15))


# ------------------------------------------------------------------------------------------------------- learning


@pytest.mark.slow
def test_two_agents_learn_to_coordinate():
    """Both get 1 if they choose (0, 0), 2 for (1, 1), and lose 1 if they choose differently. At random, that is 0.5."""
    payoffs = [[[1.0, -1.0], [-1.0, 2.0]]] * 2
    settings = {**SMALL, "batch_size": 64, "learning_starts": 200, "learning_rate": 3e-3, "gamma": 0.0, "buffer_size": 5_000}
    model = MADDPG("MlpPolicy", game(payoffs), **settings).learn(1_500)
    mean, _ = evaluate_policy(model, game(payoffs), 20, deterministic=True)
    assert mean > 3  # only (1, 1) gives more than 2


@pytest.mark.parametrize("discrete, max_grad_norm", [(False, None), (True, None), (True, 1e-3)])
def test_a_traced_step_is_the_eager_one(graphs, discrete, max_grad_norm):
    made = (lambda: OneStep(spaces.Discrete(3) if discrete else BOX), lambda: OneStep(WIDE))
    sgd = dict(net_arch=[16, 16], optimizer_class=th.optim.SGD)  # Adam's step hardly depends on the gradient's size
    clipped = {} if max_grad_norm is None else dict(max_grad_norm=max_grad_norm, policy_kwargs=sgd, learning_rate=1.0)
    eager, traced = (filled(joint(*made), **clipped) for _ in range(2))
    traced.compiled = True
    for model in (eager, traced):
        np.random.seed(0), th.manual_seed(0)
        losses(model, 8)
    assert len(graphs) == 1
    for name, value in eager.policy.state_dict().items():
        th.testing.assert_close(traced.policy.state_dict()[name], value, rtol=0, atol=1e-6)


def test_a_traced_run_acts_and_learns_as_the_eager_one(graphs):
    eager, traced = (
        MADDPG("MlpPolicy", game([[[1.0, 0.0], [0.0, 1.0]]] * 2), **{**SMALL, "compile": compile}).learn(40)
        for compile in (False, True)
    )
    assert len(graphs) == 2 and np.array_equal(eager.replay_buffer.actions, traced.replay_buffer.actions)
    for name, value in eager.policy.state_dict().items():
        th.testing.assert_close(traced.policy.state_dict()[name], value, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_a_step_of_box_and_discrete_agents_compiles():
    model = MADDPG(
        "MlpPolicy", joint(lambda: OneStep(spaces.Discrete(3)), lambda: OneStep(WIDE)), **{**SMALL, "compile": True}
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # what runs uncompiled is warned of
        assert model.learn(60).compiled and model.n_gradient_steps == 40


# ------------------------------------------------------------------------------------------------------- logged


def test_it_logs_ddpgs_metrics():
    model = MADDPG("MlpPolicy", game(np.zeros((2, 2, 2))), **SMALL).learn(30)
    logged = {name for name in model.logger.name_to_value if name.startswith("train/")}
    assert {re.sub("^train/", "", name) for name in logged} == {"n_updates", "learning_rate", "actor_loss", "critic_loss"}
