"""CONTRIBUTING.md: its algorithm, built from the document's text, fits into five files and conforms."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import summary
import test_conformance as conformance
import test_constructor as constructor
import torch as th
from support.capabilities import QUICK, smallest

from sb3_pgx.registry import ALGORITHMS, name_of

ROOT = Path(__file__).parent.parent
DOCUMENT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
# The files whose text the document gives: a line with the path, then a block of code.
FILES = dict(re.findall(r"^`([\w/.]+)`:\n\n```\w+\n(.*?)```", DOCUMENT, re.MULTILINE | re.DOTALL))
MODULE = "sb3_pgx/algorithms/v_trace.py"


@pytest.fixture
def v_trace(monkeypatch):
    """The name of the document's algorithm, which is registered in this process."""
    namespace = {"__name__": "v_trace"}
    exec(compile(FILES[MODULE], MODULE, "exec"), namespace)
    cls = namespace["VTrace"]
    monkeypatch.setitem(ALGORITHMS, name_of(cls), cls)
    monkeypatch.setitem(QUICK, name_of(cls), smallest(cls))
    return name_of(cls)


def test_an_algorithm_takes_five_files_and_eighty_lines():
    table = DOCUMENT.partition("| file | what goes into it |\n")[2].partition("\n\n")[0]
    assert len(FILES[MODULE].splitlines()) <= 80
    listed = re.findall(r"^\| `(\S+)` \|", table, re.MULTILINE)
    assert len(listed) <= 5 and FILES.keys() <= set(listed)
    assert set(listed) - FILES.keys() == {"sb3_pgx/__init__.py", "docs/algorithms/v_trace.md"}  # an import, and a page


def test_the_index_of_the_helper_modules_is_complete():
    support = ROOT / "tests" / "support"
    rows = re.findall(r"^\| (`.*?) \|", (support / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    indexed = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert indexed == {module.stem for module in support.glob("*.py")}, "update tests/support/README.md"


@pytest.mark.parametrize(
    "check",
    [
        constructor.test_the_signature_ends_as_sb3s_and_everything_but_policy_and_env_has_a_default,
        constructor.test_the_callers_arguments_are_not_changed,
        conformance.test_the_same_seed_gives_the_same_training,
        conformance.test_callbacks_see_sb3s_locals_and_the_hooks_in_order,
        conformance.test_an_update_does_not_depend_on_how_rows_are_split_over_environments,
    ],
    ids=lambda check: check.__name__,
)
def test_the_algorithm_conforms(check, v_trace):
    check(v_trace)


@pytest.fixture(scope="module")
def extended_project(tmp_path_factory):
    """A copy of the project to which the document's files are added; its tables are as they were."""
    project = tmp_path_factory.mktemp("project")
    for name in ("sb3_pgx", "tests", "benchmarks", "zoo_configs", "docs"):
        shutil.copytree(ROOT / name, project / name, ignore=shutil.ignore_patterns("__pycache__", "_build"))
    for name in ("README.md", "CONTRIBUTING.md", "pyproject.toml"):
        shutil.copy(ROOT / name, project)
    for name, text in FILES.items():
        (project / name).parent.mkdir(exist_ok=True, parents=True)
        (project / name).write_text(text, encoding="utf-8")
    package = project / "sb3_pgx" / "__init__.py"
    exported = package.read_text(encoding="utf-8") + 'from sb3_pgx.algorithms.v_trace import VTrace\n__all__ += ["VTrace"]\n'
    package.write_text(exported, encoding="utf-8")
    return project


def run(project, *arguments):
    """What a Python process in the copy prints, and whether it succeeded."""
    env = {**os.environ, "PYTHONPATH": str(project)}
    done = subprocess.run([sys.executable, *arguments], cwd=project, env=env, capture_output=True, text=True)
    return done.stdout + done.stderr, done.returncode == 0


def pytest_in(project, expression, *files):
    return run(project, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", expression, *files)


@pytest.mark.slow
def test_every_check_of_an_algorithm_passes(extended_project):
    settings = "tests/settings/test_search_spaces.py", "tests/settings/test_published_configs.py"
    every = (f"tests/test_{name}.py" for name in ("constructor", "conformance", "logging", "saving"))
    files = *every, *settings, "tests/algorithms/v_trace"
    output, passed = pytest_in(extended_project, "v_trace and not says_what_trains", "-m", "slow or not slow", *files)
    assert passed and int(re.search(r"(\d+) passed", output)[1]) > 60, output


@pytest.mark.slow
def test_the_doctor_finds_nothing(extended_project):
    command = "from sb3_pgx.cli import main; raise SystemExit(main(['doctor', 'algo', 'v_trace']))"
    output, passed = run(extended_project, "-c", command)
    assert passed and "time limit" in output, output


@pytest.mark.slow
def test_a_missing_table_or_file_is_named_with_the_command_that_makes_it(extended_project):
    output, passed = pytest_in(extended_project, "v_trace and says_what_trains and Discrete", "tests/test_conformance.py")
    assert not passed and "make table" in output
    config = extended_project / "zoo_configs" / "v_trace.yml"
    text = config.read_text(encoding="utf-8")
    config.unlink()
    try:
        output, passed = pytest_in(extended_project, "published_figures", "tests/test_documentation.py")
    finally:
        config.write_text(text, encoding="utf-8")
    assert not passed and "zoo_configs/v_trace.yml" in output


def test_without_a_cuda_device_its_suite_is_not_run(capsys):
    if th.cuda.is_available():
        pytest.skip("there is a device")
    with pytest.raises(SystemExit):
        summary.main(["--cuda"])
    assert "finds no CUDA device: install a build for CUDA on a machine that has one" in capsys.readouterr().err
    assert not summary.ON_CUDA.exists()
