"""What people do with the policy, the optimizer, parameters and files, and how they divide a training into parts."""

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from support.beside_sb3 import BOX, STEPS, Make, drifting, idiom
from support.small_environments import DEVICE
from torch import nn

# ------------------------------------------------------------------------------------------------------- networks


class Extractor(BaseFeaturesExtractor):
    """As in SB3's documentation."""

    def __init__(self, observation_space, features_dim=6):
        super().__init__(observation_space, features_dim)
        self.linear = nn.Sequential(nn.Linear(2, features_dim), nn.ReLU(), nn.LayerNorm(features_dim))

    def forward(self, observations):
        return self.linear(observations)


@idiom("PPO", "A2C", "RecurrentPPO")
@pytest.mark.parametrize(
    "policy_kwargs",
    [
        dict(net_arch=dict(pi=[6], vf=[5, 4]), activation_fn=nn.ReLU, ortho_init=False),
        dict(net_arch=[4], features_extractor_class=Extractor, features_extractor_kwargs=dict(features_dim=5)),
        dict(net_arch=[4], features_extractor_class=Extractor, share_features_extractor=False),
        dict(net_arch=[], features_extractor_class=Extractor),
    ],
    ids=["layers", "extractor", "two extractors", "extractor alone"],
)
def test_policy_kwargs(make, policy_kwargs):
    return make(policy_kwargs=policy_kwargs).learn(STEPS)


class Network(nn.Module):
    """As in SB3's documentation."""

    def __init__(self, feature_dim):
        super().__init__()
        self.latent_dim_pi, self.latent_dim_vf = 6, 5
        self.policy_net = nn.Sequential(nn.Linear(feature_dim, 6), nn.ReLU())
        self.value_net = nn.Sequential(nn.Linear(feature_dim, 5), nn.ELU())

    def forward(self, features):
        return self.forward_actor(features), self.forward_critic(features)

    def forward_actor(self, features):
        return self.policy_net(features)

    def forward_critic(self, features):
        return self.value_net(features)


class CustomPolicy(ActorCriticPolicy):
    """As in SB3's documentation."""

    def __init__(self, observation_space, action_space, lr_schedule, *args, **kwargs):
        kwargs["ortho_init"] = False
        super().__init__(observation_space, action_space, lr_schedule, *args, **kwargs)

    def _build_mlp_extractor(self):
        self.mlp_extractor = Network(self.features_dim)


@idiom("PPO", "A2C")
def test_a_policy_with_an_extractor_of_its_own(make):
    return make(CustomPolicy).learn(STEPS)


class Explores(ActorCriticPolicy):
    """Now and then a random action, by a ``forward`` of its own."""

    def forward(self, obs, deterministic=False):
        actions, values, _ = super().forward(obs, deterministic)
        actions = th.where(th.rand(len(actions)) < 0.3, th.randint(3, (len(actions),)), actions)
        return actions, values, self.get_distribution(obs).log_prob(actions)


@idiom(quick=True)
def test_a_policy_that_acts_by_a_forward_of_its_own(make):
    return make(Explores).learn(STEPS)


class Forbids(ActorCriticPolicy):
    """Pushes outwards are forbidden where the point is far out: masked logits."""

    def get_distribution(self, obs):
        return self._masked(super().get_distribution(obs), obs)

    def _masked(self, distribution, obs):
        logits = distribution.distribution.logits.clone()
        far = obs[:, 0] > 0.5
        logits[far, 2] = -1e8
        return distribution.proba_distribution(logits)

    def forward(self, obs, deterministic=False):
        distribution = self.get_distribution(obs)
        actions = distribution.get_actions(deterministic=deterministic)
        return actions, self.predict_values(obs), distribution.log_prob(actions)

    def evaluate_actions(self, obs, actions):
        distribution = self.get_distribution(obs)
        return self.predict_values(obs), distribution.log_prob(actions), distribution.entropy()


@idiom("PPO", "A2C", quick=True)
def test_a_policy_that_masks_actions(make):
    return make(Forbids, ent_coef=0.01).learn(STEPS)


class Bounded(ActorCriticPolicy):
    """Means within bounds, by a latent of its own kind."""

    def _get_action_dist_from_latent(self, latent_pi):
        return self.action_dist.proba_distribution(th.tanh(self.action_net(latent_pi)), self.log_std.clamp(-2, 0))


@idiom("PPO", "A2C")
def test_a_policy_that_bounds_its_distribution(make):
    return make(Bounded, drifting(BOX)).learn(STEPS)


@idiom("PPO", "A2C")
def test_state_dependent_exploration(make):
    return make(env=drifting(BOX), use_sde=True, sde_sample_freq=3).learn(STEPS)


@idiom("PPO", "A2C")
def test_squashed_state_dependent_exploration(make):
    wide = spaces.Box(-3, 2, (2,), np.float32)
    return make(env=drifting(wide), use_sde=True, policy_kwargs=dict(squash_output=True, net_arch=[8])).learn(STEPS)


@idiom("PPO", "A2C", quick=True)
def test_layers_are_replaced_after_construction(make):
    model = make()
    model.policy.mlp_extractor.policy_net = nn.Sequential(nn.Linear(2, 8), nn.SiLU()).to(DEVICE)
    model.policy.optimizer = th.optim.Adam(model.policy.parameters(), lr=1e-3)
    return model.learn(STEPS)


# ------------------------------------------------------------------------------------------------------- optimizers


@idiom()
def test_the_optimizer_is_replaced(make):
    model = make()
    model.policy.optimizer = th.optim.AdamW(model.policy.parameters(), lr=1e-3, weight_decay=0.1)
    return model.learn(STEPS)


@idiom("PPO", "A2C")
@pytest.mark.parametrize(
    "kind", [th.optim.SGD, th.optim.AdamW, th.optim.Adagrad, th.optim.NAdam], ids=lambda kind: kind.__name__
)
def test_an_optimizer_class(make, kind):
    options = dict(momentum=0.9) if kind is th.optim.SGD else {}
    return make(policy_kwargs=dict(net_arch=[8], optimizer_class=kind, optimizer_kwargs=options)).learn(STEPS)


@idiom("PPO", "A2C", quick=True)
def test_groups_of_parameters_with_settings_of_their_own(make):
    model = make()
    value = [p for name, p in model.policy.named_parameters() if "value" in name]
    rest = [p for name, p in model.policy.named_parameters() if "value" not in name]
    groups = [dict(params=rest, betas=(0.5, 0.9)), dict(params=value, weight_decay=0.1)]
    model.policy.optimizer = th.optim.Adam(groups, lr=1e-3, eps=1e-5)
    return model.learn(STEPS)


@idiom("PPO", "A2C", quick=True)
def test_layers_are_frozen(make):
    model = make(policy_kwargs=dict(net_arch=[4], features_extractor_class=Extractor))
    for p in model.policy.features_extractor.parameters():
        p.requires_grad = False
    model.learn(32)
    for p in model.policy.features_extractor.parameters():
        p.requires_grad = True
    return model.learn(32, reset_num_timesteps=False)


@idiom("PPO", "A2C")
def test_the_critic_is_warmed_up_before_the_actor_learns(make):
    model = make()
    actor = [p for name, p in model.policy.named_parameters() if "value" not in name]
    for p in actor:
        p.requires_grad_(False)
    model.learn(32)
    for p in actor:
        p.requires_grad_(True)
    return model.learn(32, reset_num_timesteps=False)


@idiom("PPO", "A2C", quick=True)
def test_gradients_are_scaled_by_hooks(make):
    model = make()
    for p in model.policy.mlp_extractor.policy_net.parameters():
        p.register_hook(lambda gradient: 0.1 * gradient)
    return model.learn(STEPS)


# ------------------------------------------------------------------------------------------------------- parameters


@idiom()
def test_the_policy_is_cloned_from_behaviour_before_it_learns(make):
    model, generator = make(), np.random.default_rng(2)
    observations = th.as_tensor(generator.normal(size=(32, 2)), dtype=th.float32, device=DEVICE)
    actions = (observations[:, 0] < 0).long() * 2
    optimizer = th.optim.Adam(model.policy.parameters(), lr=1e-2)
    model.policy.set_training_mode(True)
    for rows in th.arange(32).split(8):
        _, log_prob, entropy = model.policy.evaluate_actions(observations[rows], actions[rows])
        loss = -log_prob.mean() - 1e-3 * entropy.mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.learn(STEPS)


@idiom()
def test_parameters_are_got_disturbed_and_set(make):
    model = make().learn(32)
    parameters = model.get_parameters()
    for p in parameters["policy"].values():
        p += 0.01 * th.randn_like(p)
    other = make(seed=1)
    other.set_parameters(parameters)
    return other.learn(32)


@idiom("PPO", "A2C")
def test_the_policys_state_is_loaded_and_the_last_layer_made_small(make):
    source, model = make(seed=1).learn(16), make()
    model.policy.load_state_dict(source.policy.state_dict())
    with th.no_grad():
        model.policy.action_net.weight.mul_(0.01)
        model.policy.action_net.bias.zero_()
    return model.learn(STEPS)


@idiom("PPO", "A2C")
def test_parameters_are_averaged_over_models(make):
    models = [make(seed=seed).learn(16) for seed in range(2)]
    states = [model.policy.state_dict() for model in models]
    models[0].policy.load_state_dict({name: (states[0][name] + states[1][name]) / 2 for name in states[0]})
    return models[0].learn(16, reset_num_timesteps=False)


@idiom("PPO", "A2C")
def test_predictions(make):
    model = make().learn(STEPS)
    observations = np.random.default_rng(3).normal(size=(20, 2)).astype(np.float32)
    likely, _ = model.predict(observations, deterministic=True)
    sampled, _ = model.predict(observations)
    one, _ = model.predict(observations[0])
    values = model.policy.predict_values(model.policy.obs_to_tensor(observations)[0]).detach().cpu()
    return model, likely, sampled, one, values


# ------------------------------------------------------------------------------------------------------- parts of a run


@idiom()
def test_many_short_trainings(make):
    model = make(learning_rate=lambda progress: 1e-3 * progress)
    for _ in range(4):
        model.learn(16, reset_num_timesteps=False)
    return model, model.num_timesteps, model._n_updates, model._current_progress_remaining


@idiom()
def test_a_training_is_saved_and_goes_on_after_loading(make, tmp_path):
    model = make().learn(32)
    model.save(tmp_path / "model")
    env = drifting()
    env.seed(5)
    loaded = make.load(tmp_path / "model", env=env)
    return loaded.learn(32, reset_num_timesteps=False), loaded.num_timesteps


@idiom("PPO", "A2C")
def test_a_file_that_sb3_wrote_is_trained_on(make, tmp_path):
    Make(make.algorithm, ours=False)().learn(32).save(tmp_path / "model")
    env = drifting()
    env.seed(5)
    return make.load(tmp_path / "model", env=env).learn(32, reset_num_timesteps=False)


@idiom("PPO")
def test_custom_objects_replace_what_a_file_holds(make, tmp_path):
    model = make(learning_rate=lambda _: 1e-3).learn(32)
    model.save(tmp_path / "model")
    new = dict(learning_rate=5e-3, lr_schedule=lambda _: 5e-3, clip_range=lambda _: 0.05, n_epochs=3)
    env = drifting()
    env.seed(5)
    return make.load(tmp_path / "model", env=env, custom_objects=new).learn(32)


@idiom("A2C", "PPO")
def test_arguments_are_replaced_when_a_file_is_loaded(make, tmp_path):
    make().learn(32).save(tmp_path / "model")
    env = drifting()
    env.seed(5)
    return make.load(tmp_path / "model", env=env, gamma=0.9, ent_coef=0.1, n_steps=6).learn(36)


@idiom("PPO", "A2C")
def test_another_seed_is_set_between_trainings(make):
    model = make().learn(32)
    model.set_random_seed(11)
    return model.learn(32, reset_num_timesteps=False)


@idiom("PPO")
def test_schedules_and_a_limit_on_the_divergence(make):
    model = make(
        learning_rate=lambda progress: 0.05 * progress, clip_range=lambda progress: 0.3 * progress, target_kl=1e-3, n_epochs=5
    )
    return model.learn(STEPS), model._n_updates


@idiom("PPO")
def test_minibatches_that_do_not_divide_the_rollout(make):
    return make(batch_size=6, gae_lambda=0.7, gamma=0.9, vf_coef=1.0, ent_coef=0.02, max_grad_norm=0.1).learn(STEPS)


pytestmark = pytest.mark.filterwarnings("ignore:.*truncated mini-batch:UserWarning")
