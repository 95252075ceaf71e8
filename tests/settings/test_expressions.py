"""Expressions in hyperparameter files have the value that Python gives them, but no code is executed."""

from importlib.util import find_spec
from pathlib import Path

import gymnasium
import pytest
import torch as th
import yaml
from stable_baselines3 import HerReplayBuffer
from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike
from stable_baselines3.common.torch_layers import NatureCNN
from torch import nn

from sb3_pgx.cli import main
from sb3_pgx.settings.configs import EVALUATED, config_folder, load_config
from sb3_pgx.settings.expressions import evaluate_expression

SCOPE = {"nn": nn, "th": th, "torch": th, "RMSpropTFLike": RMSpropTFLike, "HerReplayBuffer": HerReplayBuffer}
ZOO = Path(find_spec("rl_zoo3").origin).parent / "hyperparams"
FILES = [*sorted(ZOO.glob("*.yml")), *sorted(config_folder().rglob("*.yml"))]


@pytest.mark.parametrize("path", FILES, ids=[f"{path.parent.name}/{path.name}" for path in FILES])
def test_every_file_of_rl_zoo3_and_of_ours_is_read_as_python_would(path):
    for entry in yaml.safe_load(path.read_text()).values():
        for key in (*EVALUATED, "env_kwargs"):
            if isinstance(text := entry.get(key), str):
                assert evaluate_expression(text) == eval(text, dict(SCOPE)), text


def test_the_zoos_files_hold_what_is_to_be_read():
    texts = [e.get(k) for path in FILES for e in yaml.safe_load(path.read_text()).values() for k in EVALUATED]
    assert sum(isinstance(text, str) for text in texts) > 150


@pytest.mark.parametrize(
    "text",
    [
        "dict(activation_fn=nn.Tanh, net_arch=dict(pi=[64, 64], vf=[]), ortho_init=False, log_std_init=-2.5)",
        "dict(activation_fn=th.nn.LeakyReLU, optimizer_kwargs=dict(eps=1e-5, betas=(0.9, 0.99)))",
        "dict(optimizer_class=th.optim.Adam)",
        "{'norm_obs': True, 3: None, (1, 2): ''}",
        "  [ ]  ",
        "(7,)",
        "2 * 64 + 3 - 4 / 8 - 7 // 2",
        "-(+3) ** 2",
        "2 ** -3",
        "1.5 ** 0.5",
        "1_000",
        "torch.nn.SiLU",
        "dict()",
        "'a' 'b'",
        "dict(\n net_arch=[1,\n 2],\n)",
    ],
)
def test_a_value_is_what_python_makes_of_it(text):
    expected = eval(text.strip(), dict(SCOPE))
    assert evaluate_expression(text) == expected and type(evaluate_expression(text)) is type(expected)


@pytest.mark.parametrize("name", ["NatureCNN", "stable_baselines3.common.torch_layers.NatureCNN"])
def test_extractors_are_known_by_name_and_by_path(name):
    assert evaluate_expression(f"dict(features_extractor_class={name})") == {"features_extractor_class": NatureCNN}


CODE = [
    "__import__('os').mkdir(RAN)",
    "dict(x=nn.Module.__init__.__globals__)",
    "dict(x=().__class__.__bases__[0].__subclasses__())",
    "th.load('file')",
    "th.hub.load('a', 'b')",
    "nn.Linear(3, 4)",
    "nn.functional.relu",
    "nn.modules",
    "th.Tensor",
    "os.mkdir",
    "[x for x in (1, 2)]",
    "(lambda: 3)()",
    "dict([('a', 1)])",
    "dict(**{'a': 1})",
    "dict(a=1, a=2)",
    "{**{}}",
    "f'{3}'",
    "'a' * 10",
    "[1] * 10",
    "3 < 4",
    "True + 1",
    "-True",
    "b'bytes'",
    "1j",
    "...",
    "dict(net_arch=[",
    "import os",
    "",
    "\0",
    "{[]: 1}",
    "1 / 0",
    "(-8) ** 0.5",
    "9 ** 9 ** 9",
    "9.0 ** 999",
    "(((2 ** 64) ** 64) ** 64) ** 64",
    "(" * 500 + ")" * 500,
    "-" * 100_000 + "1",
]


@pytest.mark.parametrize("text", CODE, ids=[text[:40] for text in CODE])
def test_what_is_more_than_a_value_is_refused(text):
    with pytest.raises(ValueError):
        evaluate_expression(text)


@pytest.fixture
def strangers(tmp_path, monkeypatch):
    """A function: the folder of a stranger's settings with this line, and the folder that is there once their code has run."""

    def write(line):
        ran = tmp_path / "ran"
        (tmp_path / "strangers_module.py").write_text(f"import os\nos.mkdir({str(ran)!r})\n\ndef wrap(env):\n    return env\n")
        found = "[c for c in ().__class__.__base__.__subclasses__() if c.__name__ == '_wrap_close'][0]"  # of the module os
        code = f"{found}.__init__.__globals__['mkdir']({str(ran)!r})"
        entry = f"CartPole-v1:\n  n_timesteps: 100\n  policy: MlpPolicy\n  {line.replace('CODE', code)}\n"
        for name in ("a2c", "ppo", "sb3_a2c"):
            (tmp_path / f"{name}.yml").write_text(entry)
        return tmp_path, ran

    monkeypatch.syspath_prepend(tmp_path)
    return write


@pytest.mark.parametrize("key", ["policy_kwargs", "env_kwargs", "normalize"])
def test_a_strangers_settings_run_none_of_their_code_and_the_sentence_says_where(strangers, key):
    folder, ran = strangers(f'{key}: "CODE"')
    with pytest.raises(ValueError, match=rf"a2c\.yml, line 4, CartPole-v1, {key}: cannot evaluate .* is more than a value"):
        load_config("a2c", "CartPole-v1", folder)
    assert not ran.exists()


@pytest.fixture
def time_limit_stays(monkeypatch):
    """In another process, because importing rl_zoo3 replaces Gymnasium's TimeLimit for every other test."""
    for module in (gymnasium.wrappers, gymnasium.wrappers.common, gymnasium.envs.registration):
        monkeypatch.setattr(module, "TimeLimit", getattr(module, "TimeLimit", None), raising=False)


@pytest.mark.usefixtures("time_limit_stays")
@pytest.mark.parametrize("algo", ["a2c", "sb3_a2c"])
@pytest.mark.parametrize("key", ["policy_kwargs", "normalize", "monitor_kwargs", "replay_buffer_kwargs"])
def test_train_runs_no_code_of_a_settings_file(strangers, algo, key, tmp_path, monkeypatch, capsys):
    folder, ran = strangers(f'{key}: "CODE"')
    monkeypatch.chdir(tmp_path)
    command = ["train", "--algo", algo, "--env", "CartPole-v1", "--conf-file", str(folder / f"{algo}.yml"), "-n", "10"]
    assert main(command) == 2
    assert f"{algo}.yml, line 4, CartPole-v1, {key}: cannot evaluate" in capsys.readouterr().err
    assert not ran.exists()


def test_reading_imports_no_module_that_a_file_names_and_a_missing_one_is_told(strangers):
    folder, ran = strangers("env_wrapper: strangers_module.wrap")
    assert load_config("a2c", "CartPole-v1", folder).wrappers == (("strangers_module.wrap", {}),)
    assert not ran.exists()
    folder, _ = strangers("env_wrapper: no_such_module.wrap")
    with pytest.raises(ValueError, match=r"line 4, CartPole-v1, env_wrapper: No module named 'no_such_module'"):
        load_config("a2c", "CartPole-v1", folder)
