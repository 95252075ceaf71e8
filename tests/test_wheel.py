"""The wheel, installed by itself: it carries the hyperparameter files, its type marker and the command."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """
    The wheel, built by the project's backend, and a folder with nothing of this package but what the wheel put there.
    ``make release-check`` builds and installs it by pip.
    """
    build = pytest.importorskip("hatchling.build", reason="hatchling is not installed")
    folder = tmp_path_factory.mktemp("wheel")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        wheel = folder / build.build_wheel(str(folder))
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return wheel, folder / "site"


def run_in(site: Path, code: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(site)}
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=site, check=True, capture_output=True, text=True
    ).stdout.strip()


# One process answers all questions, because importing torch takes seconds. It lists the modules first.
QUESTIONS = """
import json, sys
import stable_baselines3
answers = {"of SB3": sorted(sys.modules)}
import sb3_pgx
answers |= {"modules": sorted(sys.modules), "file": sb3_pgx.__file__, "version": sb3_pgx.__version__}
from sb3_pgx.settings.configs import config_folder, load_config
answers["folder"] = str(config_folder())
answers["baseline"] = load_config("reinforce", "CartPole-v1").hyperparameters["baseline"]
print(json.dumps(answers))
from sb3_pgx.cli import main
sys.argv = ["sb3-pgx", "--version"]
main()
"""


@pytest.fixture(scope="module")
def answers(installed):
    """The answers to ``QUESTIONS`` of the installed package, and what its command prints."""
    first, printed = run_in(installed[1], QUESTIONS).split("\n", 1)
    return {**json.loads(first), "printed": printed}


def test_the_installed_wheel_finds_its_hyperparameters(installed, answers):
    _, site = installed
    file, folder, baseline = (answers[key] for key in ("file", "folder", "baseline"))
    assert Path(file).is_relative_to(site) and Path(folder).is_relative_to(site)
    assert baseline == "loo"
    in_repository = {p.name for p in (ROOT / "zoo_configs").glob("*.yml")}
    assert {p.name for p in Path(folder).glob("*.yml")} == in_repository


def test_the_wheel_is_typed_licensed_and_has_kernel_and_command(installed, answers):
    wheel, _ = installed
    names = zipfile.ZipFile(wheel).namelist()
    assert {"sb3_pgx/py.typed", "sb3_pgx/engine/recurrence_kernel.cpp"} < {*names} and any(
        n.endswith("licenses/LICENSE") for n in names
    )
    assert not any(n.startswith(("tests/", "zoo_configs/", "benchmarks/")) or "results" in n for n in names)
    assert answers["printed"].split()[-1] == answers["version"]


def test_importing_the_package_pulls_in_none_of_the_extras(answers):
    heavy = {"matplotlib", "scipy", "yaml", "tqdm", "rich", "optuna", "rl_zoo3", "pandas", "seaborn", "requests"}
    heavy |= {"envpool", "psycopg2", "ray", "sbx", "jax", "mujoco", "Box2D", "tensorboard", "sb3_contrib"}
    # What SB3 itself imports where it is installed is not ours to answer for.
    ours, theirs = ({module.partition(".")[0] for module in answers[whose]} for whose in ("modules", "of SB3"))
    assert "sb3_pgx" in ours and not (ours - theirs) & heavy
    assert "torch._inductor" not in answers["modules"]
