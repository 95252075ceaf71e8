"""
Compiled training against eager training: the same numbers, for every policy that compiles.

A graph is traced as for the compiler and then runs operation by operation, which takes a twentieth of the time. That the real
compiler agrees is checked on one cell, and on all of them by ``-m slow``.
"""

import copy

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from selection import mostly_slow
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import SubprocVecEnv, VecNormalize
from support.capabilities import BOX, DICT, FAR, IMAGE, MIXED, OwnExtractor
from support.eager_and_compiled import NAMES, SEVERAL_EPOCHS, assert_same_training, envs, make, optimizer, pair, trained
from support.small_environments import vectorised
from torch.fx.experimental.proxy_tensor import make_fx

from sb3_pgx.core.rollout import Batch
from sb3_pgx.engine.compiler import kept_or_compiled, using_backend
from sb3_pgx.engine.graph_rewrites import CpuKernels


@pytest.fixture
def compiler():
    """The graphs that are given to the real compiler."""
    made = []
    with using_backend(lambda graph, examples: made.append(graph) or kept_or_compiled(graph, examples, print, print)()):
        yield made


ANY = {
    "Discrete": lambda: dict(env=envs(action_space=spaces.Discrete(3))),
    "Box": lambda: {},
    "MultiDiscrete": lambda: dict(env=envs(action_space=spaces.MultiDiscrete([2, 3]))),
    "MultiBinary": lambda: dict(env=envs(action_space=spaces.MultiBinary(3))),
    "Dict actions": lambda: dict(env=envs(action_space=MIXED)),
    "one environment": lambda: dict(env=envs(n=1)),
    "gSDE": lambda: dict(use_sde=True, sde_sample_freq=2, ent_coef=0.1),
    "gSDE, one environment": lambda: dict(env=envs(n=1), use_sde=True),
    "gSDE, squashed": lambda: dict(env=envs(action_space=FAR), use_sde=True, policy_kwargs=dict(squash_output=True)),
    "bounded std": lambda: dict(policy_kwargs=dict(log_std_bounds=(-5, 2))),
    "bounded, state-dependent std": lambda: dict(policy_kwargs=dict(log_std_bounds=(-5, 2), state_dependent_std=True)),
    "Discrete observations": lambda: dict(env=envs(spaces.Discrete(4))),
    "MultiDiscrete observations": lambda: dict(env=envs(spaces.MultiDiscrete([2, 3]))),
    "Dict observations": lambda: dict(env=envs(DICT, spaces.MultiDiscrete([2, 3])), policy="MultiInputPolicy"),
    "images": lambda: dict(env=envs(IMAGE), policy="CnnPolicy"),
    "separate extractors": lambda: dict(
        policy_kwargs=dict(features_extractor_class=OwnExtractor, share_features_extractor=False)
    ),
    "no clipping": lambda: dict(max_grad_norm=None),
    "much clipping, all losses": lambda: dict(max_grad_norm=0.01, ent_coef=0.5, vf_coef=2.0),
    "VecNormalize": lambda: dict(env=VecNormalize(envs())),
    "Adam with weight decay": optimizer(th.optim.Adam, eps=1e-5, weight_decay=0.1),
    "AdamW": optimizer(th.optim.AdamW, eps=1e-5, weight_decay=0.1),
    "RMSprop": optimizer(th.optim.RMSprop, eps=1e-5),
    "SGD": optimizer(th.optim.SGD),
    "SGD with momentum": optimizer(th.optim.SGD, momentum=0.9, dampening=0.1),
}
OF_SEVERAL_EPOCHS = {
    "one minibatch an epoch": lambda: dict(batch_size=12),
    "a last minibatch that is smaller": lambda: dict(batch_size=5),
    "a last minibatch of one row": lambda: dict(batch_size=11),
    "clip_range_vf": lambda: dict(clip_range_vf=0.01, learning_rate=1e-2),
    "a schedule of the clip": lambda: dict(clip_range="lin_0.2", learning_rate="lin_0.01"),
}
OF_ONE = {
    "normalized advantages": ("a2c", lambda: dict(normalize_advantage=True, gae_lambda=0.9)),
    "Adam": ("a2c", lambda: dict(use_rms_prop=False)),
    "weighted states": ("a2c", lambda: dict(discount_state_weighting=True, gamma=0.5)),
    "advantages as they are": ("ppo", lambda: dict(normalize_advantage=False)),
    "target_kl": ("ppo", lambda: dict(target_kl=1e-3, learning_rate=1e-2, n_epochs=5)),
    "target_kl of a smaller minibatch": ("ppo", lambda: dict(target_kl=4e-4, learning_rate=1e-2, n_epochs=5, batch_size=5)),
    "early_stop_kl": ("ppo_penalty", lambda: dict(early_stop_kl=1.0, target_kl=1e-3, learning_rate=1e-2, n_epochs=5)),
    "hinge and clip": ("ppo_penalty", lambda: dict(hinge_coef=10.0, target_kl=1e-3, clip_range=0.1, learning_rate=1e-2)),
}
CELLS = {
    **{(name, cell): make for name in NAMES for cell, make in ANY.items()},
    **{(name, cell): make for name in SEVERAL_EPOCHS for cell, make in OF_SEVERAL_EPOCHS.items()},
    **{(name, cell): make for cell, (name, make) in OF_ONE.items()},
}
# What differs from algorithm to algorithm: the distributions that PPOPenalty measures, and A2C's single step.
QUICKLY = {
    "ppo": [
        "Box",
        "gSDE, one environment",
        "bounded std",
        "Dict observations",
        "images",
        "separate extractors",
        "VecNormalize",
    ],
    "a2c": ["Box", "gSDE", "no clipping", "SGD with momentum"],
    "ppo_penalty": [
        "Discrete",
        "MultiDiscrete",
        "gSDE, squashed",
        "bounded, state-dependent std",
    ],
}
BY_THE_COMPILER = [("a2c", "Adam")]


def is_quick(name, cell):
    if cell in OF_SEVERAL_EPOCHS:
        return name == "ppo"
    return cell not in ANY or cell in QUICKLY[name]


def check(cell, made):
    eager, compiled = pair(cell[0], CELLS[cell])
    assert trained(compiled) == trained(eager), "random numbers were drawn differently"
    assert_same_training(eager, compiled)
    assert len(made) == 3, "acting, the step and the evaluation"
    assert not any("uncompiled" in sentence for sentence in compiled.log.sentences)
    return eager


@pytest.mark.filterwarnings("ignore:.*truncated mini-batch:UserWarning")
@pytest.mark.parametrize("name, cell", mostly_slow(CELLS, is_quick))
def test_a_compiled_training_is_the_eager_one(name, cell, graphs):
    model = check((name, cell), graphs)
    if "kl" in cell:
        planned = 2 * model.n_epochs * -(-12 // model.batch_size)
        assert 2 < model.n_gradient_steps < planned, "it was to stop in the middle"
        assert model.n_gradient_steps % -(-12 // model.batch_size), "it was to stop within an epoch"


@pytest.mark.filterwarnings("ignore:.*truncated mini-batch:UserWarning")
@pytest.mark.parametrize("name, cell", mostly_slow(CELLS, BY_THE_COMPILER))
def test_the_compilers_training_is_the_eager_one(name, cell, compiler):
    check((name, cell), compiler)


def test_an_environment_in_a_process_of_its_own_is_trained_on(graphs):
    eager = make("ppo", make_vec_env("CartPole-v1", 1, seed=0), n_steps=12)
    trained(eager)
    kwargs = dict(vec_env_cls=SubprocVecEnv, vec_env_kwargs=dict(start_method="forkserver"))
    compiled = make("ppo", make_vec_env("CartPole-v1", 1, seed=0, **kwargs), n_steps=12, compile=True)
    trained(compiled)
    compiled.env.close()
    assert len(graphs) == 3
    assert_same_training(eager, compiled)


@pytest.mark.parametrize("space, at_once", [(spaces.Discrete(1000), 1), (BOX, 3)], ids=["one-hot", "numbers"])
def test_of_one_hot_observations_one_minibatch_is_held_at_a_time(space, at_once):
    events = []

    class Noted(Batch):
        def for_graph(self):
            events.append("encoded")
            return super().for_graph()

    def backend(graph, examples):
        return lambda *arguments: events.append("graph") or graph(*arguments)

    def noted(rollout, batch_size):
        for batch in minibatches(rollout, batch_size):
            yield Noted(**vars(batch))

    model = make("ppo", envs(space), compile=True)
    with using_backend(backend):
        model.learn(12)  # compiles
        minibatches, model.minibatches = model.minibatches, noted
        model.learn(12, reset_num_timesteps=False)
    of_the_update = events[events.index("encoded") :]
    assert of_the_update == (["encoded"] * at_once + ["graph"] * at_once) * (6 // at_once)


# ------------------------------------------------------------------------------------------------------- numbers of any size


@pytest.fixture
def kernels():
    """The compiler's graphs as they are rewritten for the CPU, run operation by operation."""

    def backend(graph, examples):
        rewritten = make_fx(graph, tracing_mode="fake")(*examples)  # as the compiler has it
        CpuKernels()(rewritten.graph)
        rewritten.recompile()
        return rewritten

    with using_backend(backend):
        yield


class Sized(gym.Env):
    """Normally distributed observations times a factor, of which the seventh step's may be another one; random rewards."""

    action_space, observation_space = spaces.Discrete(3), spaces.Box(-np.inf, np.inf, (4,), np.float32)

    def begin(self, factor, seventh=None):
        self.factor, self.seventh, self.steps, self.rng = factor, seventh, 0, np.random.default_rng(0)

    def reset(self, *, seed=None, options=None):
        return self._observation(), {}

    def step(self, action):
        self.steps += 1
        return self._observation(), self.rng.normal(), self.steps % 10 == 0, False, {}

    def _observation(self):
        observation = self.rng.normal(size=4) * self.factor
        if self.steps == 7 and self.seventh is not None:
            observation[1] = self.seventh
        return observation.astype(np.float32)


SIZED = {
    "ppo": dict(n_steps=64, batch_size=64, n_epochs=1),
    "ppo, epochs": dict(n_steps=64, batch_size=32, n_epochs=4),
    "a2c": dict(n_steps=16),
}
SIZES = [
    *(dict(factor=10.0**exponent) for exponent in (-30, 0, 2, 3, 4, 6, 30)),
    *(dict(factor=1.0, seventh=size) for size in (1e10, 1e30, 1e38, -3e38)),
]


def check_sizes(case):
    """The same model eager and compiled, from the same start for observations of each size."""
    envs = Sized(), Sized()
    for env in envs:
        env.begin(1.0)
    eager, compiled = models = [
        make(case.split(",")[0], vectorised(env), policy_kwargs=dict(net_arch=[64, 64]), compile=compile, **SIZED[case])
        for env, compile in zip(envs, (False, True), strict=True)
    ]
    policy, optimizer = (copy.deepcopy(x.state_dict()) for x in (eager.policy, eager.policy.optimizer))
    for size in SIZES:
        for model, env in zip(models, envs, strict=True):
            env.begin(**size)
            model.policy.load_state_dict(policy)
            model.policy.optimizer.load_state_dict(copy.deepcopy(optimizer))
            trained(model, timesteps=64)
        for key, expected in eager.policy.state_dict().items():
            reached = compiled.policy.state_dict()[key]
            th.testing.assert_close(reached, expected, rtol=0, atol=2e-6, msg=lambda text, at=(size, key): f"{at}: {text}")
    assert sum("is compiled" in sentence for sentence in compiled.log.sentences) >= 2


@pytest.mark.parametrize("case", mostly_slow(SIZED, ["ppo, epochs"]))
def test_observations_of_any_size_lead_to_the_eager_parameters(case, kernels):
    """Most of all where units are saturated: Adam and RMSprop turn a derivative that should be 0 into full steps."""
    check_sizes(case)


@pytest.mark.slow
@pytest.mark.parametrize("case", SIZED)
def test_observations_of_any_size_lead_the_compilers_training_to_the_eager_parameters(case, compiler):
    check_sizes(case)
