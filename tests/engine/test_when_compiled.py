"""When a training is compiled: by ``compile``, by its length, and not where it cannot be, which one sentence says."""

import copy
import random
import threading

import numpy as np
import pytest
import stable_baselines3 as sb3
import torch as th
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.torch_layers import FlattenExtractor
from support.capabilities import DICT, IMAGE, QUICK
from support.eager_and_compiled import ON_POLICY, assert_same_training, drawn, envs, make, optimizer, pair, trained, warned
from support.small_environments import DEVICE

from sb3_pgx import PPO
from sb3_pgx.engine.compiler import using_backend

# ------------------------------------------------------------------------------------------------------- when


@pytest.mark.parametrize("name, a_rollout", [("a2c", 1), ("ppo", 6), ("ppo_penalty", 6)])  # 12 rows: a batch of 4, twice
def test_auto_compiles_a_training_of_more_gradient_steps_than_the_limit(name, a_rollout, graphs):
    def made(compile):
        model = make(name, compile=compile)
        model.compile_after = 2 * a_rollout
        return model

    model = made("auto").learn(24)
    assert model.n_gradient_steps == 2 * a_rollout
    assert not graphs, "as many as the limit"
    made(False).learn(60)
    assert not graphs, "compiling is switched off"
    made("auto").learn(25)
    assert graphs, "one rollout more"


def test_auto_counts_the_steps_of_earlier_trainings_and_stays_compiled(graphs, tmp_path):
    model = make("ppo", compile="auto")
    model.compile_after = 12
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
    model.compile_after = 10**9
    model.learn(12)
    assert model.compiled and len(graphs) == 2 * count
    compiled = [s for s in model.log.sentences if "is compiled" in s]
    assert len(compiled) == len(set(compiled)) == 3 and not any("uncompiled" in s for s in model.log.sentences)
    assert model.n_gradient_steps == 24


CELLS = {
    "Box": lambda: {},
    "Discrete": lambda: dict(env=envs(spaces.Discrete(4), spaces.Discrete(3))),
    "Dict": lambda: dict(env=envs(DICT, spaces.MultiDiscrete([2, 3])), policy="MultiInputPolicy"),
    "images": lambda: dict(env=envs(IMAGE, spaces.Discrete(2)), policy="CnnPolicy"),
    "gSDE": lambda: dict(use_sde=True),
}


class Noted(BaseCallback):
    """Keeps what a function returns at each step."""

    def __init__(self, function):
        super().__init__()
        self.function, self.noted = function, []

    def _on_step(self):
        self.noted.append(self.function())
        return True


@ON_POLICY
@pytest.mark.parametrize("cell", CELLS)
def test_a_step_is_compiled_beside_acting_before_the_first_rollout(name, cell, graphs):
    """Training uses these graphs and compiles no others later."""
    model = make(name, **CELLS[cell](), compile=True)
    sentences = Noted(lambda: list(model.log.sentences))
    model.learn(36, sentences)
    before = ["acting", *(["the evaluation of a rollout"] if name == "a2c" else []), "the gradient step"]
    assert sentences.noted[0] == [f"{part} is compiled" for part in before]
    assert all(model.log.sentences.count(f"{part} is compiled") == 1 for part in before)


@ON_POLICY
def test_what_the_compiler_does_with_random_numbers_does_not_matter(name):
    """It may draw some, and put the generator back to where it was when it began."""

    def disturbing(graph, examples):
        th.rand(3), np.random.rand(3), random.random()
        return graph.forward

    random.seed(0)
    next_number = random.random()
    random.seed(0)

    models = [make(name, compile=compile) for compile in (False, True)]
    with using_backend(disturbing):
        expected, numbers = map(trained, models)
    assert numbers == expected and random.random() == next_number
    assert_same_training(*models)


@ON_POLICY
def test_a_step_whose_compilation_is_interrupted_is_compiled_at_the_next_training(name):
    """By Ctrl-C, while acting is compiled at the same time."""
    runs, before = [], 3 if name == "a2c" else 1  # acting, and the evaluation of a short rollout, which is then used once

    def interrupted_once(graph, examples):
        def run(*arguments):
            runs.append(graph)
            if len(runs) == before + 1:
                raise KeyboardInterrupt
            return graph(*arguments)

        return run

    model = make(name, compile=True)
    with using_backend(interrupted_once):
        with pytest.raises(KeyboardInterrupt):
            model.learn(24)
        assert "acting is compiled" in model.log.sentences and "the gradient step is compiled" not in model.log.sentences
        model.learn(24)
    assert model.log.sentences.count("the gradient step is compiled") == 1


@ON_POLICY
def test_a_policy_can_be_copied_in_the_first_rollout(name, graphs):
    """The step that was compiled ahead has evaluated it with gradients."""
    copies = Noted(lambda: copy.deepcopy(copies.model.policy))
    make(name, compile=True).learn(12, copies)
    assert len(copies.noted) == 6


class TrainedBeside(BaseCallback):
    """Trains another model in a thread of its own, from the first step on."""

    def __init__(self, train):
        super().__init__()
        self.thread = threading.Thread(target=train)

    def _on_training_start(self):
        self.thread.start()

    def _on_step(self):
        return True


@pytest.mark.slow
@pytest.mark.parametrize("folder", ["", "graphs"])
def test_two_threads_may_compile_the_same_at_once(folder, monkeypatch, tmp_path):
    """The real compiler, whose folder is empty."""
    monkeypatch.setenv("SB3_PGX_CACHE_DIR", folder and str(tmp_path / folder))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "compiler"))
    models = [make("a2c", compile=True) for _ in range(3)]
    other = TrainedBeside(lambda: models[1].learn(60))
    models[0].learn(60, other)
    other.thread.join()
    models[2].learn(60)
    for model in models:
        assert [s for s in model.log.sentences if "uncompiled" in s] == []
        assert sum("is compiled" in s for s in model.log.sentences) == 3


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


class Double(th.nn.Module):
    def forward(self, x):
        return x.double()


@pytest.mark.slow
@pytest.mark.parametrize("name, theirs", [("a2c", sb3.A2C), ("ppo", sb3.PPO)])
def test_parameters_of_two_types_train_uncompiled_as_sb3s_do(name, theirs):
    model = make(name, make_vec_env("Pendulum-v1", 2, seed=0), compile=True)
    env = make_vec_env("Pendulum-v1", 2, seed=0)
    expected = theirs("MlpPolicy", env, seed=0, device=DEVICE, policy_kwargs=dict(net_arch=[8]), **QUICK[name])
    for policy in (model.policy, expected.policy):
        policy.value_net = th.nn.Sequential(Double(), policy.value_net.double())
        policy.optimizer = policy.optimizer_class(policy.parameters(), lr=policy.optimizer.defaults["lr"])
    told = warned(model)[1]
    drawn()
    expected.learn(24)
    assert any(STEP + "the policy's parameters differ in type or device" in sentence for sentence in told)
    for key, value in expected.policy.state_dict().items():
        th.testing.assert_close(model.policy.state_dict()[key], value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("case", UNCOMPILABLE)
def test_where_compiling_was_not_asked_for_a_line_of_the_log_says_why_not(case, graphs):
    cell, reason = UNCOMPILABLE[case]
    model = make("ppo", **cell(), compile="auto")
    model.compile_after = 1
    _, told = warned(model)
    assert told == []
    assert len([s for s in model.log.sentences if s.startswith(STEP + reason)]) == 1


@ON_POLICY
def test_without_a_compiler_training_is_eager(name, monkeypatch):
    def backend(graph, examples):
        from torch._inductor.exc import InvalidCxxCompiler

        raise InvalidCxxCompiler()

    monkeypatch.setenv("PATH", "")
    eager, compiled = pair(name)
    expected, _ = warned(eager)
    with using_backend(backend):
        result, told = warned(compiled)
    assert result == expected
    assert f"compile=True: {STEP}no C++ compiler was found" in told
    assert all(sentence.endswith("no C++ compiler was found") for sentence in told)
    assert len(told) == len(set(told)) == 3  # not once an update
    for p, q in zip(eager.policy.parameters(), compiled.policy.parameters(), strict=True):
        assert th.equal(p, q)
