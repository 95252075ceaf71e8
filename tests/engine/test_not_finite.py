"""A loss or a gradient that is not finite ends eager and compiled trainings alike, before the step."""

import copy
import warnings

import pytest
import stable_baselines3 as sb3
import torch as th
from gymnasium import spaces
from selection import mostly_slow
from stable_baselines3.common.callbacks import BaseCallback
from support.eager_and_compiled import NAMES, ON_POLICY, SEVERAL_EPOCHS, assert_same_training, envs, make, optimizer, trained
from support.recurrent import CELLS, policy_kwargs
from support.small_environments import DEVICE, Scripted, vectorised
from support.variants import VARIANTS, is_quick

from sb3_pgx import A2C, PPO, PPOPenalty


class Refuses(th.optim.Adam):
    """Stops before the first step on a gradient that is not finite, or that an infinite norm has clipped to nothing."""

    def step(self, closure=None):
        gradients = [p.grad for group in self.param_groups for p in group["params"] if p.grad is not None]
        if not all(th.isfinite(g).all() for g in gradients) or not any(g.any() for g in gradients):
            raise FloatingPointError
        return super().step(closure)


class Absurd(Scripted):
    """One reward of absurd size, after some time."""

    def step(self, action):
        observation, reward, *rest = super().step(action)
        return observation, 1e30 if self.episode == 3 and self.step_number == 4 else reward / 10, *rest


class BeforeUpdates(BaseCallback):
    """Keeps policy, moments and steps done as they were before the last update."""

    def _on_step(self):
        return True

    def _on_rollout_start(self):
        self.num_timesteps_before = self.model.num_timesteps

    def _on_rollout_end(self):
        policy = copy.deepcopy(self.model.policy)
        self.parameters, self.optimizer = policy.state_dict(), policy.optimizer.state_dict()["state"]


def test_a_loss_that_is_not_finite_in_the_middle_of_an_epoch_ends_the_training_where_the_update_began(graphs):
    """Where it ends is what SB3's own training says, stopped by its optimizer."""
    kwargs = dict(
        n_steps=8, batch_size=4, n_epochs=2, normalize_advantage=False, seed=0, device=DEVICE, gae_lambda=0.0, gamma=0.5
    )

    def arguments(kind):
        policy_kwargs = dict(net_arch=[8], optimizer_class=kind, optimizer_kwargs=dict(eps=1e-5))
        return dict(policy="MlpPolicy", env=vectorised(Absurd([4])), policy_kwargs=policy_kwargs, **kwargs)

    expected, before = sb3.PPO(**arguments(Refuses)), BeforeUpdates()
    with pytest.raises(FloatingPointError):
        expected.learn(100, callback=before)
    taken = {int(state["step"]) for state in expected.policy.optimizer.state.values()}
    assert len(taken) == 1 and taken.pop() % 2, "it was to end in the middle of an epoch of two minibatches"
    for compile in (False, True):
        model = PPO(**arguments(th.optim.Adam), compile=compile)
        match = rf"the value_loss is inf in update {expected._n_updates + 1}; the step was not taken"
        with pytest.raises(ValueError, match=match):
            model.learn(100)
        for key, value in before.parameters.items():
            th.testing.assert_close(model.policy.state_dict()[key], value, rtol=1e-5, atol=1e-5)
        moments = model.policy.optimizer.state_dict()["state"]
        assert moments.keys() == before.optimizer.keys() and moments
        for key, theirs in before.optimizer.items():
            assert moments[key]["step"] == theirs["step"]
            th.testing.assert_close(moments[key]["exp_avg"], theirs["exp_avg"], rtol=1e-4, atol=1e-5)
        assert model.num_timesteps == before.num_timesteps_before
        model.predict(model.observation_space.sample())
    assert len(graphs) == 3


@ON_POLICY
def test_eager_and_compiled_trainings_fail_alike_and_can_go_on(name, graphs):
    class Never(Absurd):
        def step(self, action):
            observation, reward, *rest = super().step(action)
            return observation, 1e30 if reward > 1e20 and not calm else min(reward, 1.0), *rest

    messages, models = [], []
    for compile in (False, True):
        calm = False
        model = make(name, vectorised(Never([4]), Never([4])), compile=compile)
        with pytest.raises(ValueError, match=r"the step was not taken") as error:
            trained(model, 100)
        messages.append(str(error.value))
        assert all(th.isfinite(p).all() for p in model.policy.parameters())
        calm = True
        trained(model, 24)
        assert all(th.isfinite(p).all() for p in model.policy.parameters())
        models.append(model)
    assert messages[0] == messages[1]
    assert_same_training(*models)


@pytest.mark.parametrize("name", SEVERAL_EPOCHS)
def test_a_step_that_was_too_large_is_blamed_on_what_overflowed_after_it_and_undone(name, graphs):
    """The bad minibatch is measured once more at the parameters before its step, not at those of the epoch's start."""
    for compile in (False, True):
        model = make(name, learning_rate=1e6, vf_coef=1e15, max_grad_norm=None, compile=compile, **optimizer(th.optim.SGD)())
        for key, p in model.policy.named_parameters():
            p.requires_grad_("value" in key)  # the actor stays as it is
        with pytest.raises(ValueError, match=r"^the value_loss is inf in update \d; the step was not taken"):
            trained(model, 100)
        values = model.policy.predict_values(model.last_rollout.last_observations)
        assert values.abs().max() < 100, "far from where the first step led: the square of an error of 1e19 overflows"


class Spoiled(BaseCallback):
    """
    Spoils one number of the actor between rollout and update.

    :param parameter: name of the parameter
    """

    def __init__(self, parameter="action_net.bias"):
        super().__init__()
        self.parameter = parameter

    def _on_step(self):
        return True

    def _on_rollout_end(self):
        with th.no_grad():
            self.model.policy.get_parameter(self.parameter).view(-1)[0] = th.nan


@ON_POLICY
@pytest.mark.parametrize(
    "action_space, what",
    [(spaces.Discrete(3), r"the \w+ is nan"), (spaces.Box(-1, 1, (2,)), r"the policy failed \(Expected parameter loc .*\)")],
)
def test_an_actor_that_is_not_finite_is_refused_before_the_step(name, action_space, what, graphs):
    for compile in (False, True):
        model = make(name, envs(action_space=action_space), compile=compile)
        before = {key: value.clone() for key, value in model.policy.state_dict().items() if key != "action_net.bias"}
        match = rf"^{what} in update 1; the step was not taken, .*learning_rate too high"
        with pytest.raises(ValueError, match=match):
            trained(model, callback=Spoiled())
        assert all(th.equal(model.policy.state_dict()[key], value) for key, value in before.items())


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("parameter", ["action_net.bias", "lstm_actor.weight_hh_l0"])
def test_a_recurrent_actor_that_is_not_finite_is_refused_before_the_step(parameter, cell, graphs):
    for compile in (False, True):
        kwargs = dict(policy_kwargs=policy_kwargs(), n_steps=8, batch_size=8, sequence_length=4)
        model = make("ppo", envs(action_space=spaces.Discrete(3)), f"Mlp{cell}Policy", compile=compile, **kwargs)
        before = {key: value.clone() for key, value in model.policy.state_dict().items() if key != parameter}
        with pytest.raises(ValueError, match=r"^the \w+ is nan in update 1; the step was not taken, .*learning_rate too high"):
            trained(model, callback=Spoiled(parameter))
        assert all(th.equal(model.policy.state_dict()[key], value) for key, value in before.items())
    assert graphs, "nothing was compiled"


NEW = [(v,) for v in VARIANTS if v.name != "acer" and not (v.name in NAMES and v.kind == "plain")]


@pytest.mark.parametrize("variant", mostly_slow(NEW, is_quick), ids=str)
def test_an_actor_of_every_other_kind_that_is_not_finite_is_refused(variant):
    model = variant.make()
    before = {key: value.clone() for key, value in model.policy.state_dict().items() if key != "action_net.bias"}
    match = (
        r"^(the \w+ is nan|the gradient of \S+ is not finite|the policy failed \(.*\)) in update 1; the step was not taken, "
    )
    with pytest.raises(ValueError, match=match):
        model.learn(48, callback=Spoiled())
    assert all(th.equal(model.policy.state_dict()[key], value) for key, value in before.items())


@pytest.mark.parametrize("compile", [False, True])
def test_a_moment_that_is_not_finite_is_refused_before_a_single_step_that_no_graph_takes(compile, graphs):
    """A layer with a hook has no graph, so that the eager step takes the place of the compiled one."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = A2C("MlpPolicy", vectorised(Scripted([4])), n_steps=4, device=DEVICE, seed=0, compile=compile)
        model.policy.value_net.register_forward_hook(lambda *arguments: None)
        model.learn(8)
        first = next(model.policy.parameters())
        model.policy.optimizer.state[first]["square_avg"].fill_(th.nan)
        before = [p.detach().clone() for p in model.policy.parameters()]
        with pytest.raises(ValueError, match="square_avg"):
            model.learn(4, reset_num_timesteps=False)
    assert all(map(th.equal, model.policy.parameters(), before))


def test_an_update_that_leads_to_a_policy_without_finite_probabilities_is_refused_by_the_divergence_after_it():
    """The parameters are finite, and the logits overflow."""
    model = PPOPenalty(
        "MlpPolicy",
        "CartPole-v1",
        learning_rate=1e10,
        n_steps=64,
        n_epochs=1,
        max_grad_norm=None,
        policy_kwargs=dict(net_arch=[64] * 6, activation_fn=th.nn.ReLU, optimizer_class=th.optim.SGD, optimizer_kwargs={}),
        seed=0,
        device=DEVICE,
        compile=False,
    )
    before = [p.detach().clone() for p in model.policy.parameters()]
    with pytest.raises(ValueError, match="not finite"):
        model.learn(64)
    assert all(map(th.equal, model.policy.parameters(), before)) and model._n_updates == 0
