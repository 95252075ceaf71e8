"""The wheel, installed by itself: it carries the hyperparameter files, its type marker and the command."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder with nothing of this package but what the wheel put there."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", ROOT, "--no-deps", "--no-build-isolation", "-w", folder / "dist"], check=True)
    (wheel,) = (folder / "dist").glob("sb3_pgx-*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--target", folder / "site", wheel], check=True)
    return wheel, folder / "site"


def run_in(site: Path, code: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(site)}
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=site, check=True, capture_output=True, text=True
    ).stdout.strip()


def test_the_installed_wheel_finds_its_hyperparameters(installed):
    _, site = installed
    code = (
        "import sb3_pgx; from sb3_pgx.settings.configs import config_folder, load_config;"
        "print(sb3_pgx.__file__); print(config_folder());"
        "print(load_config('reinforce', 'CartPole-v1').hyperparameters['baseline'])"
    )
    file, folder, baseline = run_in(site, code).splitlines()
    assert Path(file).is_relative_to(site) and Path(folder).is_relative_to(site)
    assert baseline == "loo"
    in_repository = {p.name for p in (ROOT / "zoo_configs").glob("*.yml")}
    assert {p.name for p in Path(folder).glob("*.yml")} == in_repository


def test_the_wheel_is_typed_licensed_and_has_kernel_and_command(installed):
    wheel, site = installed
    names = zipfile.ZipFile(wheel).namelist()
    assert {"sb3_pgx/py.typed", "sb3_pgx/engine/recurrence_kernel.cpp"} < {*names} and any(
        n.endswith("licenses/LICENSE") for n in names
    )
    assert not any(n.startswith(("tests/", "zoo_configs/", "benchmarks/")) or "results" in n for n in names)
    version = run_in(site, "import sys; sys.argv = ['sb3-pgx', '--version']; from sb3_pgx.cli import main; main()")
    assert version.split()[-1] == run_in(site, "import sb3_pgx; print(sb3_pgx.__version__)")


def test_importing_the_package_pulls_in_none_of_the_extras(installed):
    _, site = installed
    heavy = {"matplotlib", "scipy", "yaml", "tqdm", "optuna", "rl_zoo3", "pandas"}
    # What SB3 itself imports where it is installed is not ours to answer for.
    code = "import sys, {}; print(' '.join(sorted({{m.split('.')[0] for m in sys.modules}})))"
    ours = set(run_in(site, code.format("sb3_pgx")).split())
    theirs = set(run_in(site, code.format("stable_baselines3")).split())
    assert not (ours - theirs) & heavy
    assert "torch._inductor" not in run_in(site, "import sys, sb3_pgx; print(*sys.modules)").split()
