"""Where a measurement comes from: a hash that code changes and words do not, the commit, and whether the tree was clean."""

import subprocess
import sys
from pathlib import Path

import pytest
from stable_baselines3 import PPO as SB3PPO
from stable_baselines3.common.env_util import make_vec_env

from benchmarks.dependencies import ENDS, files_reached, files_that_define
from benchmarks.provenance import ROOT, code_hash, git, provenance, uncommitted
from sb3_pgx import A2C, ACER, NPG, PPO, REINFORCE, SAC

SOURCE = (
    '"""Words."""\n\n\nclass A:\n    """Words."""\n\n    def f(self):\n        """Words."""\n        return "# 1"  # words\n'
)
MODULES = {
    "sb3_pgx/__init__.py": "from sb3_pgx.algorithms.ppo import PPO\nfrom sb3_pgx.algorithms.sac import SAC\n",
    "sb3_pgx/algorithms/__init__.py": "",
    "sb3_pgx/algorithms/ppo.py": (
        "import sb3_pgx\nfrom sb3_pgx.core import rollout\n\n\ndef f():\n    import sb3_pgx.ops.late\n"
    ),
    "sb3_pgx/algorithms/sac.py": "from sb3_pgx.core.replay import A\n",
    "sb3_pgx/core/__init__.py": "from sb3_pgx.core.named import A as B\n",
    "sb3_pgx/core/named.py": SOURCE,
    "sb3_pgx/core/rollout.py": "from sb3_pgx.ops.returns import A\nfrom sb3_pgx.registry import A as B\n",
    "sb3_pgx/core/replay.py": SOURCE,
    "sb3_pgx/ops/__init__.py": "",
    "sb3_pgx/ops/late.py": SOURCE,
    "sb3_pgx/ops/returns.py": SOURCE,
    "sb3_pgx/ops/kernel.cpp": "int a = 1;  // words\n",
    "sb3_pgx/registry.py": "from sb3_pgx.algorithms.sac import SAC\n",
}
PPO_FILE = "sb3_pgx/algorithms/ppo.py"
REACHED = sorted(
    set(MODULES) - {"sb3_pgx/__init__.py", "sb3_pgx/algorithms/sac.py", "sb3_pgx/core/replay.py", "sb3_pgx/registry.py"}
)


@pytest.fixture
def checkout(tmp_path):
    """A repository with two algorithms that share some modules, committed."""
    for name, source in MODULES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(source)
    for command in (["init", "-q"], ["add", "."], ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "first"]):
        subprocess.run(["git", "-C", str(tmp_path), *command], check=True)
    return tmp_path


@pytest.mark.parametrize("name", MODULES)
def test_a_file_changes_the_hash_of_what_imports_it_and_of_nothing_else(checkout, name):
    before = code_hash([PPO_FILE], root=checkout)
    with (checkout / name).open("a") as file:
        file.write("int b = 2;\n" if name.endswith(".cpp") else "b = 2\n")
    assert (code_hash([PPO_FILE], root=checkout) != before) == (name in REACHED)


def test_a_start_counts_with_all_files_of_a_folder_even_where_imports_are_not_followed(checkout):
    assert checkout / "sb3_pgx/registry.py" in files_reached(["sb3_pgx/registry.py"], checkout)
    names = [file.relative_to(checkout).as_posix() for file in files_reached(["sb3_pgx"], checkout)]
    assert names == sorted(MODULES)


def test_words_do_not_change_the_hash(checkout):
    before = code_hash([PPO_FILE], root=checkout)
    path = checkout / "sb3_pgx" / "ops" / "returns.py"
    path.write_text(SOURCE.replace("Words", "Better\n    words").replace("  # words", "") + "\n# the end\n")
    assert code_hash([PPO_FILE], root=checkout) == before
    path.write_text(SOURCE.replace('"# 1"', '"# 2"'))
    assert code_hash([PPO_FILE], root=checkout) != before


def test_settings_and_further_starts_change_the_hash(checkout):
    hashes = {code_hash([PPO_FILE], settings, checkout) for settings in (None, {"gamma": 0.9}, {"gamma": 0.99})}
    hashes.add(code_hash([PPO_FILE, "sb3_pgx/core/replay.py"], root=checkout))
    assert len(hashes) == 4


def test_code_that_has_moved_is_noticed(checkout):
    (checkout / PPO_FILE).unlink()
    with pytest.raises(FileNotFoundError, match=r"sb3_pgx/algorithms/ppo\.py is a start of the hashed code"):
        code_hash([PPO_FILE], root=checkout)


@pytest.mark.parametrize(
    ("algorithm", "env_id", "arguments"),
    [
        (PPO, "CartPole-v1", {"n_steps": 32, "batch_size": 32, "n_epochs": 1}),
        (A2C, "Pendulum-v1", {}),
        (ACER, "CartPole-v1", {"replay_start": 10}),
        (NPG, "CartPole-v1", {"n_steps": 32}),
        (REINFORCE, "CartPole-v1", {}),
        (SAC, "Pendulum-v1", {"learning_starts": 10, "policy_kwargs": {"net_arch": [8]}}),
    ],
)
def test_all_code_that_runs_in_training_is_found_by_its_imports(algorithm, env_id, arguments):
    """The interpreter says which files the called functions are in."""
    env = make_vec_env(env_id, 2, seed=0)
    called = set()
    sys.setprofile(lambda frame, event, argument: called.add(frame.f_code.co_filename))
    try:
        algorithm("MlpPolicy", env, seed=0, device="cpu", **arguments).learn(100)
    finally:
        sys.setprofile(None)
    ours = {Path(x) for x in called if Path(x).is_relative_to(ROOT / "sb3_pgx")}
    reached = {*files_reached(files_that_define([algorithm], [], ROOT), ROOT)}
    missed = {file.relative_to(ROOT).as_posix() for file in ours - reached}
    assert len(ours) > 10 and not {name for name in missed if not name.startswith(ENDS)}


def test_only_files_of_the_checkout_are_starts():
    env_ids = ["CartPole-v1", "sb3_pgx.tasks:Recall-v0", "gymnasium.envs:CartPole-v1"]
    assert files_that_define([PPO, SB3PPO], env_ids, ROOT) == [PPO_FILE, "sb3_pgx/tasks/__init__.py"]
    assert files_that_define([PPO], [], ROOT / "benchmarks") == []


def test_a_record_names_commit_machine_and_whether_the_tree_was_clean(checkout):
    facts = provenance(checkout)
    assert facts["clean"] and facts["commit"] == git(checkout, "rev-parse", "HEAD") and len(facts["commit"]) == 40
    assert facts["machine"]["cpu"] and facts["machine"]["cores"] >= 1
    (checkout / "benchmarks" / "results").mkdir(parents=True)
    (checkout / "benchmarks" / "results" / "a.json").write_text("[]")  # written while measuring
    assert provenance(checkout)["clean"]
    (checkout / "new.py").write_text("")
    assert not provenance(checkout)["clean"] and uncommitted(checkout) == ["new.py"]


def test_without_a_repository_nothing_is_known(tmp_path):
    facts = provenance(tmp_path)
    assert facts["commit"] is None and not facts["clean"]
