"""``sb3-pgx warmup`` compiles what a run needs; ``sb3-pgx cache`` shows and removes what is kept."""

import subprocess
import sys

import pytest

from sb3_pgx.cli import main
from sb3_pgx.engine.kept_graphs import VARIABLE, graphs

A2C = "a2c[policy_kwargs={'net_arch': [4]}]"
RUN = """
import sys, warnings
warnings.filterwarnings("error", message="compile=True: ")
import torch as th
th.set_num_threads(1)
from stable_baselines3.common.env_util import make_vec_env
from sb3_pgx import A2C
model = A2C("MlpPolicy", make_vec_env("CartPole-v1", 1), compile=True, policy_kwargs={"net_arch": [4]}, device="cpu").learn(20)
print("torch._inductor.compile_fx" in sys.modules)
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv(VARIABLE, str(tmp_path / "graphs"))
    return tmp_path / "graphs"


def test_what_is_compiled_ahead_is_what_a_run_needs(folder, capsys):
    assert main(["warmup", "--algo", A2C, "--env", "CartPole-v1", "--defaults", "--threads", "1"]) == 0
    said = capsys.readouterr().out
    assert "A2C in CartPole-v1:" in said and "compiling the gradient step, which takes about" in said
    names = {graph.file.name for graph in graphs(folder)}
    assert f"{len(names)} compiled graphs" in said and len(names) == 3
    done = subprocess.run([sys.executable, "-c", RUN], capture_output=True, text=True)
    assert done.stdout == "False\n", done.stderr
    assert {graph.file.name for graph in graphs(folder)} == names

    assert main(["cache"]) == 0
    said = capsys.readouterr().out
    assert str(folder) in said and all(name[:12] in said for name in names)
    (folder / "notes.txt").write_text("mine")
    assert main(["cache", "--clear"]) == 0
    assert capsys.readouterr().out == f"removed 3 compiled graphs from {folder}\n"
    assert [file.name for file in folder.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (["--algo", "sb3:ppo", "--env", "CartPole-v1"], "sb3:ppo is not an algorithm of this package"),
        (["--algo", "ppoo", "--env", "CartPole-v1"], "ppoo"),
        (["--algo", "ppo", "--env", "CartPoole-v1"], "CartPoole"),
        (["--algo", "ppo[n_stepss=3]", "--env", "CartPole-v1", "--defaults"], "n_stepss"),
    ],
)
def test_wrong_names_are_refused_before_anything_is_compiled(folder, capsys, arguments, sentence):
    assert main(["warmup", *arguments]) == 2
    error = capsys.readouterr().err
    assert sentence in error and len(error.splitlines()) == 1 and not folder.exists()


def test_that_nothing_is_kept_is_said(monkeypatch, capsys):
    monkeypatch.setenv(VARIABLE, "")
    assert main(["cache"]) == 0
    assert capsys.readouterr().out == "compiled graphs are not kept: SB3_PGX_CACHE_DIR is empty\n"
