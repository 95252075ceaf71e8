"""
Compiled training against eager training: the same numbers, for every policy that compiles, and one sentence for the others.

A graph is traced as for the compiler and then runs operation by operation, which takes a twentieth of the time. That the real
compiler agrees is checked on four cells, and on all of them by ``-m slow``.
"""

import copy
import io
import pickle
import subprocess
import sys
import warnings
import zipfile

import cloudpickle
import numpy as np
import pytest
import stable_baselines3 as sb3
import torch as th
from capabilities import BOX, DICT, FAR, IMAGE, QUICK, OwnExtractor
from gymnasium import spaces
from problems import DEVICE, AnySpace, Scripted, vectorised
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import KVWriter, Logger, SeqWriter
from stable_baselines3.common.torch_layers import FlattenExtractor
from stable_baselines3.common.vec_env import SubprocVecEnv, VecNormalize

from sb3_pgx import PPO
from sb3_pgx.common import compiling
from sb3_pgx.common.compiling import NotCompilable, compile_function
from sb3_pgx.registry import ALGORITHMS

NAMES = ["a2c", "ppo", "ppo_penalty"]
ON_POLICY = pytest.mark.parametrize("name", NAMES)
MOSTLY_PPO = pytest.mark.parametrize("name", ["ppo", *(pytest.param(n, marks=pytest.mark.slow) for n in NAMES if n != "ppo")])
SEVERAL_EPOCHS = ("ppo", "ppo_penalty")


@pytest.fixture(autouse=True)
def validation_stays_on(monkeypatch):
    """The compiler, once imported, turns the validation of distributions off for good."""
    monkeypatch.setattr(th.distributions.Distribution, "_validate_args", th.distributions.Distribution._validate_args)


@pytest.fixture
def graphs(monkeypatch):
    """The graphs that are made from here on; they run as they were traced."""
    made = []
    monkeypatch.setattr(compiling, "backend", lambda graph, examples: made.append(graph) or graph)
    return made


@pytest.fixture
def compiler(monkeypatch):
    """The graphs that are given to the real compiler."""
    made = []
    monkeypatch.setattr(
        compiling, "backend", lambda graph, examples: made.append(graph) or compiling.inductor(graph, examples)
    )
    return made


class Sentences(KVWriter, SeqWriter):
    """What is logged."""

    def __init__(self):
        self.sentences, self.dumps = [], []

    def write_sequence(self, sequence):
        self.sentences.append(" ".join(map(str, sequence)))

    def write(self, key_values, key_excluded, step=0):
        self.dumps.append(dict(key_values))

    def close(self):
        pass


def envs(observation_space=BOX, action_space=BOX, n=2):
    """Environments whose random numbers are theirs alone: a space holds a generator."""
    return vectorised(*(AnySpace(copy.deepcopy(observation_space), copy.deepcopy(action_space)) for _ in range(n)))


def make(name, env=None, policy="MlpPolicy", **kwargs):
    """A model that keeps its log as ``model.log``."""
    small = {} if policy == "CnnPolicy" else {"net_arch": [8]}
    policy_kwargs = {**small, **kwargs.pop("policy_kwargs", {})}
    arguments = {"seed": 0, "device": DEVICE, **QUICK[name], "policy_kwargs": policy_kwargs, **kwargs}
    model = ALGORITHMS[name](policy, envs() if env is None else env, **arguments)
    model.log = Sentences()
    model.set_logger(Logger(None, [model.log]))
    return model


def pair(name, cell=lambda: {}, **kwargs):
    """The same model twice, eager and compiled."""
    return [make(name, **cell(), compile=compile, **kwargs) for compile in (False, True)]


def drawn():
    """What the generators give next; afterwards both stand where they stand after seed 0."""
    numbers = (np.random.rand(), th.rand(1).item())
    np.random.seed(0)
    th.manual_seed(0)
    return numbers


def trained(model, timesteps=24, **kwargs):
    """After a training, all that must not depend on whether it was compiled."""
    np.random.seed(0)
    th.manual_seed(0)
    model.learn(timesteps, log_interval=1, **kwargs)
    return drawn()


def assert_same_training(eager, compiled, rtol=1e-5, atol=1e-5):
    expected, parameters = eager.policy.state_dict(), compiled.policy.state_dict()
    assert parameters.keys() == expected.keys()
    for key, value in expected.items():
        th.testing.assert_close(parameters[key], value, rtol=rtol, atol=atol, msg=lambda text, key=key: f"{key}: {text}")
    ours, theirs = (m.policy.optimizer.state_dict() for m in (compiled, eager))
    assert ours["param_groups"] == theirs["param_groups"] and ours["state"].keys() == theirs["state"].keys()
    for key, state in theirs["state"].items():
        assert ours["state"][key].keys() == state.keys()
        for moment, value in state.items():
            th.testing.assert_close(ours["state"][key][moment], value, rtol=1e-4, atol=atol)
    assert len(eager.log.dumps) == len(compiled.log.dumps)
    for theirs, ours in zip(eager.log.dumps, compiled.log.dumps, strict=True):
        assert ours.keys() == theirs.keys()
        for key in theirs.keys() - {"time/fps", "time/time_elapsed"}:
            np.testing.assert_allclose(ours[key], theirs[key], rtol=1e-3, atol=1e-5, err_msg=key)
    assert (compiled._n_updates, compiled.n_gradient_steps) == (eager._n_updates, eager.n_gradient_steps)


def warned(model):
    """The warnings of :func:`trained` about compiling, and what it gave."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = trained(model)
    return result, [str(w.message) for w in caught if "compile" in str(w.message)]


# ------------------------------------------------------------------------------------------------------- what compiles


def optimizer(kind, **options):
    return lambda: dict(policy_kwargs=dict(optimizer_class=kind, optimizer_kwargs=options))


ANY = {
    "Discrete": lambda: dict(env=envs(action_space=spaces.Discrete(3))),
    "Box": lambda: {},
    "MultiDiscrete": lambda: dict(env=envs(action_space=spaces.MultiDiscrete([2, 3]))),
    "MultiBinary": lambda: dict(env=envs(action_space=spaces.MultiBinary(3))),
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
    "a2c": ["Box", "Discrete", "gSDE", "Dict observations", "no clipping", "SGD with momentum"],
    "ppo_penalty": [
        "Discrete",
        "Box",
        "MultiDiscrete",
        "MultiBinary",
        "gSDE",
        "gSDE, squashed",
        "bounded, state-dependent std",
    ],
}
BY_THE_COMPILER = [("a2c", "Discrete"), ("ppo", "target_kl"), ("ppo_penalty", "MultiDiscrete"), ("ppo", "gSDE, squashed")]


def is_quick(name, cell):
    return name == "ppo" or cell not in ANY or cell in QUICKLY[name]


def slow(cell, quick):
    return cell if quick else pytest.param(cell, marks=pytest.mark.slow)


def check(cell, made):
    name, _ = cell
    eager, compiled = pair(name, CELLS[cell])
    assert trained(compiled) == trained(eager), "random numbers were drawn differently"
    assert_same_training(eager, compiled)
    assert len(made) == (2 if name == "ppo_penalty" else 3), "acting, the step and, without distributions, the evaluation"
    assert not any("uncompiled" in sentence for sentence in compiled.log.sentences)
    return eager


@pytest.mark.filterwarnings("ignore:.*truncated mini-batch:UserWarning")
@pytest.mark.parametrize("cell", [slow(c, is_quick(*c)) for c in CELLS], ids=", ".join)
def test_a_compiled_training_is_the_eager_one(cell, graphs):
    model = check(cell, graphs)
    if "kl" in cell[1]:
        planned = 2 * model.n_epochs * -(-12 // model.batch_size)
        assert 2 < model.n_gradient_steps < planned, "it was to stop in the middle"
        assert model.n_gradient_steps % -(-12 // model.batch_size), "it was to stop within an epoch"


@pytest.mark.filterwarnings("ignore:.*truncated mini-batch:UserWarning")
@pytest.mark.parametrize("cell", [slow(c, c in BY_THE_COMPILER) for c in CELLS], ids=", ".join)
def test_the_compilers_training_is_the_eager_one(cell, compiler):
    check(cell, compiler)


# ------------------------------------------------------------------------------------------------------- changes between


@ON_POLICY
def test_numbers_that_change_need_no_new_graph(name, graphs):
    schedules = dict(learning_rate="lin_0.01", ent_coef="lin_0.1", **({"clip_range": "lin_0.2"} if name == "ppo" else {}))
    models = pair(name, **schedules)
    for model in models:
        trained(model, 36)
    count = len(graphs)
    for change in (
        lambda m: setattr(m, "ent_coef", 0.3),
        lambda m: setattr(m, "vf_coef", "lin_0.9"),
        lambda m: setattr(m, "learning_rate", 0.003),
        lambda m: setattr(m, "max_grad_norm", 0.05),
        lambda m: m.policy.optimizer.param_groups[0].update(eps=1e-2, weight_decay=0.1),
        lambda m: name == "ppo" and setattr(m, "clip_range", lambda _: 0.01),
        lambda m: name == "ppo" and setattr(m, "target_kl", 0.02),
    ):
        for model in models:
            change(model)
            trained(model, reset_num_timesteps=False)
        assert_same_training(*models)
        assert len(graphs) == count


def test_what_is_part_of_the_graph_makes_a_new_one(graphs):
    models = pair("ppo")
    for model in models:
        trained(model)
    for attribute, value in {"normalize_advantage": False, "clip_range_vf": lambda _: 0.1, "batch_size": 6}.items():
        count = len(graphs)
        for model in models:
            setattr(model, attribute, value)
            trained(model, reset_num_timesteps=False)
        assert_same_training(*models)
        assert len(graphs) == count + 1


def _load(model):
    state = {key: value * 0.5 for key, value in model.policy.state_dict().items()}
    model.policy.load_state_dict(state)


def _load_optimizer(model):
    state = copy.deepcopy(model.policy.optimizer.state_dict())
    for moments in state["state"].values():
        moments["step"] += 100 if isinstance(moments["step"], int) else th.tensor(100.0)
    model.policy.optimizer.load_state_dict(state)


def _new_memory(model):
    for p in model.policy.parameters():
        p.data = p.data.clone() * 0.5


def _new_optimizer(model):
    model.policy.optimizer = th.optim.SGD(model.policy.parameters(), lr=0.01, momentum=0.5)


def _forget_moments(model):
    model.policy.optimizer.state.clear()


def _new_layer(model):
    th.manual_seed(1)
    model.policy.value_net = th.nn.Linear(8, 1).to(DEVICE)
    _new_optimizer(model)


def _leave_out(model):
    group = model.policy.optimizer.param_groups[0]
    group["params"] = [p for p in group["params"] if p is not model.policy.action_net.bias]
    del model.policy.optimizer.state[model.policy.action_net.bias]


def _new_environment(model):
    env = envs()
    env.seed(5)
    model.set_env(env)


CHANGES = {
    "other parameters": _load,
    "other moments": _load_optimizer,
    "parameters elsewhere in memory": _new_memory,
    "moved to the device": lambda model: model.policy.to(DEVICE),
    "another optimizer": _new_optimizer,
    "no moments": _forget_moments,
    "a new layer": _new_layer,
    "a parameter that the optimizer does not have": _leave_out,
    "a new environment": _new_environment,
    "loaded parameters": lambda model: model.set_parameters(copy.deepcopy(model.get_parameters())),
}


@pytest.mark.parametrize("change", CHANGES)
@MOSTLY_PPO
def test_what_happens_between_two_trainings_is_seen(name, change, graphs):
    models = pair(name)
    for model in models:
        trained(model)
        before = [p.detach().clone() for p in model.policy.parameters()]
        CHANGES[change](model)
        trained(model, reset_num_timesteps=False)
        assert any(not th.equal(p, q) for p, q in zip(before, model.policy.parameters(), strict=True))
    assert graphs
    assert_same_training(*models)


@ON_POLICY
def test_frozen_layers_stay_exactly_as_they_are_until_they_are_thawed(name, graphs):
    models = pair(name, policy_kwargs=dict(net_arch=[8, 8]))
    for model in models:
        trained(model)
        layer = model.policy.mlp_extractor.policy_net[0]
        before = copy.deepcopy(layer.state_dict())
        moments = copy.deepcopy(model.policy.optimizer.state[layer.weight])
        layer.requires_grad_(False)
        trained(model, reset_num_timesteps=False)
        assert all(th.equal(value, before[key]) for key, value in layer.state_dict().items())
        after = model.policy.optimizer.state[layer.weight]
        assert all(th.equal(th.as_tensor(after[key]), th.as_tensor(moments[key])) for key in moments)
    assert_same_training(*models)
    for model in models:
        model.policy.mlp_extractor.policy_net[0].requires_grad_(True)
        trained(model, reset_num_timesteps=False)
        layer = model.policy.mlp_extractor.policy_net[0]
        assert not th.equal(layer.weight, before["weight"])
    assert_same_training(*models)


def test_layers_that_were_frozen_from_the_start_stay(graphs):
    models = pair("ppo")
    for model in models:
        model.policy.action_net.requires_grad_(False)
        before = model.policy.action_net.weight.clone()
        trained(model)
        assert (
            th.equal(model.policy.action_net.weight, before)
            and model.policy.action_net.weight not in model.policy.optimizer.state
        )
    assert_same_training(*models)
    assert len(graphs) == 3


# ------------------------------------------------------------------------------------------------------- what does not


class WithLayer(FlattenExtractor):
    """A feature extractor with one more layer."""

    def __init__(self, observation_space, layer):
        super().__init__(observation_space)
        self.layer = layer(self.features_dim)

    def forward(self, observations):
        return self.layer(super().forward(observations))


class ReadsValues(FlattenExtractor):
    def forward(self, observations):
        return observations if observations.sum() > 0 else -observations


def extractor(layer):
    return dict(policy_kwargs=dict(features_extractor_class=WithLayer, features_extractor_kwargs=dict(layer=layer)))


UNCOMPILABLE = {
    "BatchNorm": (lambda: extractor(th.nn.BatchNorm1d), "the policy has buffers"),
    "Dropout": (lambda: extractor(lambda _: th.nn.Dropout(0.3)), "it draws random numbers"),
    "an optimizer without a rule": (optimizer(th.optim.Adamax), "there is no rule for the optimizer Adamax"),
    "Adam with amsgrad": (optimizer(th.optim.Adam, amsgrad=True), "there is no rule for Adam with amsgrad"),
    "a policy that reads values": (lambda: dict(policy_kwargs=dict(features_extractor_class=ReadsValues)), ""),
}
STEP = "the gradient step runs uncompiled: "


@pytest.mark.parametrize("case", UNCOMPILABLE)
@ON_POLICY
def test_what_cannot_be_compiled_trains_as_without_and_one_warning_says_why(name, case, graphs):
    cell, reason = UNCOMPILABLE[case]
    eager, compiled = pair(name, cell)
    expected, silence = warned(eager)
    result, told = warned(compiled)
    assert silence == [] and result == expected, "random numbers were drawn differently"
    assert_same_training(eager, compiled)
    (told,) = [sentence for sentence in told if STEP in sentence]
    assert told.startswith("compile=True: " + STEP + reason) and "\n" not in told


@pytest.mark.parametrize(
    "name, theirs, layer",
    [
        ("a2c", sb3.A2C, th.nn.BatchNorm1d),
        ("ppo", sb3.PPO, th.nn.BatchNorm1d),
        ("ppo", sb3.PPO, lambda _: th.nn.Dropout(0.3)),  # A2C's one batch is not in SB3's order, and so has other masks
    ],
    ids=["A2C with BatchNorm", "PPO with BatchNorm", "PPO with Dropout"],
)
def test_layers_that_keep_statistics_or_draw_random_numbers_do_so_once_a_step_as_in_sb3(name, theirs, layer):
    model = make(name, make_vec_env("Pendulum-v1", 2, seed=0), compile=False, **extractor(layer))
    policy_kwargs = dict(net_arch=[8], **extractor(layer)["policy_kwargs"])
    env = make_vec_env("Pendulum-v1", 2, seed=0)
    expected = theirs("MlpPolicy", env, seed=0, device=DEVICE, policy_kwargs=policy_kwargs, **QUICK[name])
    numbers = []
    for m in (model, expected):
        drawn()
        m.learn(24)
        numbers.append(drawn())
    assert numbers[0] == numbers[1], "random numbers were drawn differently"
    for key, value in expected.policy.state_dict().items():
        th.testing.assert_close(model.policy.state_dict()[key], value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("case", UNCOMPILABLE)
def test_where_compiling_was_not_asked_for_a_line_of_the_log_says_why_not(case, graphs, monkeypatch):
    monkeypatch.setattr("sb3_pgx.common.algorithm.COMPILE_AFTER", 1)
    cell, reason = UNCOMPILABLE[case]
    model = make("ppo", **cell(), compile="auto")
    _, told = warned(model)
    assert told == []
    assert len([s for s in model.log.sentences if s.startswith(STEP + reason)]) == 1


@ON_POLICY
def test_without_a_compiler_training_is_eager(name, monkeypatch):
    def backend(graph, examples):
        from torch._inductor.exc import InvalidCxxCompiler

        raise InvalidCxxCompiler()

    monkeypatch.setattr(compiling, "backend", backend)
    eager, compiled = pair(name)
    expected, _ = warned(eager)
    result, told = warned(compiled)
    assert result == expected
    assert f"compile=True: {STEP}no C++ compiler was found" in told
    assert all(sentence.endswith("no C++ compiler was found") for sentence in told)
    assert len(told) == len(set(told)) == (2 if name == "ppo_penalty" else 3)  # not once an update
    for p, q in zip(eager.policy.parameters(), compiled.policy.parameters(), strict=True):
        assert th.equal(p, q)


def test_a_function_that_closes_over_a_tensor_or_fails_is_not_compiled(graphs):
    outside = th.ones(2)
    with pytest.raises(NotCompilable, match="reads a tensor that is neither a parameter nor in the batch"):
        compile_function(lambda x: (x + outside,), [th.ones(2)])
    with pytest.raises(NotCompilable, match=r"it draws random numbers \(aten"):
        compile_function(lambda x: (x + th.rand(2),), [th.ones(2)])
    with pytest.raises(NotCompilable, match=r"^KeyError: 'no'$"):
        compile_function(lambda x: {}["no"], [th.ones(2)])
    assert compile_function(lambda x: (x + th.tensor(2.0),), [th.ones(2)])([outside])[0].tolist() == [3.0, 3.0]


def test_examples_are_not_changed_and_arguments_that_are_not_read_are_not_passed(graphs):
    def function(a, b, c):
        a.add_(c)
        return (a * 2,)

    examples = [th.ones(2), th.ones(3), th.ones(2)]
    compiled = compile_function(function, examples)
    assert all(th.equal(x, th.ones_like(x)) for x in examples)
    assert len([node for node in graphs[0].graph.nodes if node.op == "placeholder"]) == 2
    given = [th.ones(2), th.ones(3), th.ones(2)]
    (result,) = compiled(given)
    assert result.tolist() == [4.0, 4.0] and given[0].tolist() == [2.0, 2.0]


# ------------------------------------------------------------------------------------------------------- when


@pytest.mark.parametrize("name, a_rollout", [("a2c", 1), ("ppo", 6), ("ppo_penalty", 6)])  # 12 rows: a batch of 4, twice
def test_auto_compiles_a_training_of_more_gradient_steps_than_the_limit(name, a_rollout, graphs, monkeypatch):
    monkeypatch.setattr("sb3_pgx.common.algorithm.COMPILE_AFTER", 2 * a_rollout)
    model = make(name, compile="auto")
    model.learn(24)
    assert model.n_gradient_steps == 2 * a_rollout
    assert not graphs, "as many as the limit"
    make(name, compile=False).learn(60)
    assert not graphs, "compiling is switched off"
    make(name, compile="auto").learn(25)
    assert graphs, "one rollout more"


def test_auto_counts_the_steps_of_earlier_trainings_and_stays_compiled(graphs, monkeypatch, tmp_path):
    monkeypatch.setattr("sb3_pgx.common.algorithm.COMPILE_AFTER", 12)
    model = make("ppo", compile="auto")
    model.learn(12)
    model.learn(12)
    assert not graphs
    model.save(tmp_path / "model.zip")
    loaded = PPO.load(tmp_path / "model.zip", env=envs(), device=DEVICE)
    model.learn(12)
    count = len(graphs)
    assert count == 3
    loaded.learn(12)
    assert len(graphs) == 2 * count, "a saved model has its steps behind it, too"
    monkeypatch.setattr("sb3_pgx.common.algorithm.COMPILE_AFTER", 10**9)
    model.learn(12)
    assert model._compiled and len(graphs) == 2 * count
    compiled = [s for s in model.log.sentences if "is compiled" in s]
    assert len(compiled) == len(set(compiled)) == 3 and not any("uncompiled" in s for s in model.log.sentences)
    assert model.n_gradient_steps == 24


@pytest.mark.parametrize("compile", ["yes", None, 1.5])
def test_any_other_wish_is_refused(compile):
    with pytest.raises(ValueError, match='choose "auto", True or False'):
        make("ppo", compile=compile)


# ------------------------------------------------------------------------------------------------------- what is left behind

STATE = """
import logging, os, signal, sys, warnings
import numpy as np, torch as th
import sb3_pgx
from sb3_pgx.common.compiling import compile_function

assert not [m for m in sys.modules if m.startswith(("torch._dynamo", "torch._inductor"))], "imported with the package"

def state():
    return dict(
        validation=th.distributions.Distribution._validate_args, threads=th.get_num_threads(), dtype=th.get_default_dtype(),
        between=th.get_num_interop_threads(), grad=th.is_grad_enabled(), filters=list(warnings.filters),
        deterministic=th.are_deterministic_algorithms_enabled(), precision=th.get_float32_matmul_precision(),
        folder=os.getcwd(), root=(logging.root.level, list(logging.root.handlers)), numbers=np.geterr(),
        interrupt=signal.getsignal(signal.SIGINT), excepthook=sys.excepthook,
        random=th.get_rng_state().tolist(), numpy=np.random.get_state()[1].tolist(),
        environment={k: v for k, v in os.environ.items() if "TORCHINDUCTOR" not in k},
    )

before = state()
compiled = compile_function(lambda x: (x + 1,), [th.zeros(3)])
assert compiled([th.ones(3)])[0].tolist() == [2.0, 2.0, 2.0]
assert "torch._inductor" in sys.modules
changed = {key: (before[key], value) for key, value in state().items() if value != before[key]}
assert not changed, changed
"""


def test_compiling_changes_no_process_wide_state():
    """In a process of its own, since the compiler changes what it changes when it is imported."""
    done = subprocess.run([sys.executable, "-c", STATE], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@ON_POLICY
def test_a_compiled_model_is_saved_as_plain_tensors_that_sb3_loads(name, graphs, tmp_path):
    model = make(name)
    model.compile = True
    model.learn(24)
    model.save(tmp_path / "model.zip")
    with zipfile.ZipFile(tmp_path / "model.zip") as file:
        weights, moments = (
            th.load(io.BytesIO(file.read(n)), weights_only=True) for n in ("policy.pth", "policy.optimizer.pth")
        )
    saved = [*weights.values(), *(x for s in moments["state"].values() for x in s.values() if isinstance(x, th.Tensor))]
    assert all(type(x) is th.Tensor and x.is_contiguous() for x in saved)
    assert all(x.untyped_storage().nbytes() == x.numel() * x.element_size() for x in saved), "a view of something larger"
    assert len({x.untyped_storage().data_ptr() for x in saved}) == len(saved)
    loaded = ALGORITHMS[name].load(tmp_path / "model.zip", env=envs(), device=DEVICE).learn(12)
    assert loaded.compile is True
    if name != "ppo_penalty":
        theirs = {"a2c": sb3.A2C, "ppo": sb3.PPO}[name].load(tmp_path / "model.zip", env=envs(), device=DEVICE)
        for key, value in model.policy.state_dict().items():
            assert th.equal(theirs.policy.state_dict()[key], value)
        theirs.learn(12)


@pytest.mark.parametrize("use_sde", [False, True])
@MOSTLY_PPO
def test_a_compiled_model_is_copied_and_pickled(name, use_sde, graphs):
    model = make(name, use_sde=use_sde, compile=True).learn(24)
    duplicates = [copy.deepcopy(model.policy), pickle.loads(pickle.dumps(model.policy))]
    duplicates.append(cloudpickle.loads(cloudpickle.dumps(model.policy)))
    for duplicate in duplicates:
        for key, value in model.policy.state_dict().items():
            assert th.equal(duplicate.state_dict()[key], value)
    count, twin = len(graphs), copy.deepcopy(model)
    before = {key: value.clone() for key, value in model.policy.state_dict().items()}
    results = []
    for m in (model, twin):
        results.append(trained(m))
    assert results[0] == results[1] and len(graphs) > count, "a copy has graphs of its own"
    for key, value in twin.policy.state_dict().items():
        assert th.equal(value, model.policy.state_dict()[key])
    assert any(not th.equal(value, before[key]) for key, value in model.policy.state_dict().items())


def test_an_environment_in_a_process_of_its_own_is_trained_on(graphs):
    eager = make("ppo", make_vec_env("CartPole-v1", 1, seed=0), n_steps=12)
    trained(eager)
    kwargs = dict(vec_env_cls=SubprocVecEnv, vec_env_kwargs=dict(start_method="spawn"))
    compiled = make("ppo", make_vec_env("CartPole-v1", 1, seed=0, **kwargs), n_steps=12, compile=True)
    trained(compiled)
    compiled.env.close()
    assert len(graphs) == 3
    assert_same_training(eager, compiled)


@pytest.mark.parametrize("use_sde", [False, True])
@MOSTLY_PPO
def test_a_compiled_training_that_was_saved_goes_on_bit_for_bit(name, use_sde, graphs, tmp_path):
    def environment():
        return make_vec_env("Pendulum-v1", 2, seed=1)

    kwargs = dict(learning_rate="lin_0.01", ent_coef="lin_0.1", use_sde=use_sde, compile=True)
    model = make(name, environment(), **kwargs).learn(48)
    model.save(tmp_path / "model.zip")
    loaded = ALGORITHMS[name].load(tmp_path / "model.zip", device=DEVICE)
    for m in (model, loaded):
        m.set_env(environment())
        np.random.seed(2)
        th.manual_seed(2)
        m.learn(48, reset_num_timesteps=False)
    for key, value in model.policy.state_dict().items():
        assert th.equal(value, loaded.policy.state_dict()[key])
    states = [m.policy.optimizer.state_dict()["state"] for m in (model, loaded)]
    for key, moments in states[0].items():
        assert all(th.equal(th.as_tensor(v), th.as_tensor(states[1][key][k])) for k, v in moments.items())
    assert model.n_gradient_steps == loaded.n_gradient_steps


# ------------------------------------------------------------------------------------------------------- not finite


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


def test_a_loss_that_is_not_finite_ends_the_training_before_its_step_in_the_middle_of_an_epoch(graphs):
    """Where it ends is what SB3's own training says, stopped by its optimizer."""
    kwargs = dict(
        n_steps=8, batch_size=4, n_epochs=2, normalize_advantage=False, seed=0, device=DEVICE, gae_lambda=0.0, gamma=0.5
    )

    def arguments(kind):
        policy_kwargs = dict(net_arch=[8], optimizer_class=kind, optimizer_kwargs=dict(eps=1e-5))
        return dict(policy="MlpPolicy", env=vectorised(Absurd([4])), policy_kwargs=policy_kwargs, **kwargs)

    expected = sb3.PPO(**arguments(Refuses))
    with pytest.raises(FloatingPointError):
        expected.learn(100)
    taken = {int(state["step"]) for state in expected.policy.optimizer.state.values()}
    assert len(taken) == 1 and taken.pop() % 2, "it was to end in the middle of an epoch of two minibatches"
    for compile in (False, True):
        model = PPO(**arguments(th.optim.Adam), compile=compile)
        match = rf"the value_loss is inf in update {expected._n_updates + 1}; the step was not taken"
        with pytest.raises(ValueError, match=match):
            model.learn(100)
        for key, value in expected.policy.state_dict().items():
            th.testing.assert_close(model.policy.state_dict()[key], value, rtol=1e-5, atol=1e-5)
        for p, q in zip(model.policy.parameters(), expected.policy.parameters(), strict=True):
            ours, theirs = model.policy.optimizer.state[p], expected.policy.optimizer.state[q]
            assert ours["step"] == theirs["step"]
            th.testing.assert_close(ours["exp_avg"], theirs["exp_avg"], rtol=1e-4, atol=1e-5)
        assert model.num_timesteps == expected.num_timesteps
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
def test_a_step_that_was_too_large_is_blamed_on_what_overflowed_after_it(name, graphs):
    """The bad minibatch is measured once more at the parameters before its step, not at those of the epoch's start."""
    for compile in (False, True):
        model = make(name, learning_rate=1e6, vf_coef=1e15, max_grad_norm=None, compile=compile, **optimizer(th.optim.SGD)())
        for key, p in model.policy.named_parameters():
            p.requires_grad_("value" in key)  # the actor stays as it is
        with pytest.raises(ValueError, match=r"^the value_loss is inf in update \d; the step was not taken"):
            trained(model, 100)
        assert model.policy.value_net.bias.abs() > 1e18, "a step was taken before"
