"""
Check what would be published: ``make release-check``.

It builds the source distribution and the wheel, checks their metadata with twine, and installs the wheel into a fresh virtual
environment for each extra. There it runs the README's first script and measures the import. The results are written into
``tests/release.txt``. It installs several gigabytes, one environment after the other.

    python tests/release_check.py                 # every extra
    python tests/release_check.py --extras plots  # some extras; "" is the package alone
"""

import argparse
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
import zipfile
from email import message_from_bytes
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "tests" / "release.txt"
MODULES = {
    "plots": "sb3_pgx.experiments",
    "zoo": "sb3_pgx.tuning",
    "envpool": "envpool",
    "cluster": "ray",
    "postgresql": "psycopg2",
    "agents": "mpe2",
    "bench": "sbx",
    "docs": "furo",
    "release": "twine",
    "dev": "mypy",  # with those of `tests`
}


def main(arguments: list[str] | None = None) -> int:
    """
    Run the checks.

    :param arguments: command line; ``None``: that of the process
    :return: exit status: 1 if a check failed
    """
    parser = argparse.ArgumentParser(prog="make release-check", description=__doc__.split("\n\n")[0].strip())
    parser.add_argument("--extras", nargs="+", default=["", *MODULES], help="default: the package alone, and each extra")
    extras = parser.parse_args(arguments).extras
    lines = [f"{time.strftime('%Y-%m-%d')}, Python {platform.python_version()}, {platform.system()} {platform.machine()}"]
    with tempfile.TemporaryDirectory() as folder:
        dist = Path(folder) / "dist"
        run(sys.executable, "-m", "build", "--no-isolation", "--outdir", str(dist), str(ROOT))
        files = sorted(dist.iterdir())
        lines += [f"{file.name}: {file.stat().st_size / 1e6:.2f} MB" for file in files]
        run(sys.executable, "-m", "twine", "check", "--strict", *map(str, files))
        lines.append("twine: passed")
        (wheel,) = dist.glob("*.whl")
        lines.append(f"project URLs: {project_urls(wheel)}")
        lines += [f"installed with {extra or 'no extra'}: {installed(wheel, extra)}" for extra in extras]
    RESULT.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(*lines, sep="\n")
    return int(any("failed" in line for line in lines))


def project_urls(wheel: Path) -> str:
    """Return the project URLs that the wheel's metadata state."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        metadata = message_from_bytes(archive.read(name))
    urls = metadata.get_all("Project-URL", [])
    return "; ".join(urls) or "none, because the repository has no public address yet (CONTRIBUTING.md, Publishing a version)"


def installed(wheel: Path, extra: str) -> str:
    """
    Install the wheel with an extra, and run the README's first script there.

    :param wheel: the wheel
    :param extra: name of an extra; empty: none
    :return: one line on what came of it
    """
    with tempfile.TemporaryDirectory() as folder:
        python = str(Path(folder) / "bin" / "python")
        try:
            run(sys.executable, "-m", "venv", folder)
            what = f"{wheel}[{extra}]" if extra else str(wheel)
            run(python, "-m", "pip", "install", "--quiet", "-c", str(ROOT / "constraints.txt"), what)
            if extra in MODULES:
                run(python, "-c", f"import {MODULES[extra]}")
            run(python, "-c", quickstart(), cwd=folder)
            ours, sb3s = (min(float(run(python, "-c", IMPORT.format(name))) for _ in range(3)) for name in PACKAGES)
        except subprocess.CalledProcessError as error:
            return f"failed: {(error.stderr or error.stdout).strip().splitlines()[-1]}"
        return f"README's first script runs, import {ours:.1f} s (SB3 alone: {sb3s:.1f} s)"


IMPORT = "import time; start = time.perf_counter(); import {}; print(time.perf_counter() - start)"
PACKAGES = ("sb3_pgx", "stable_baselines3")


def quickstart() -> str:
    """Return the README's first script, with a short run."""
    (script, *_) = re.findall(
        r"^```python\n(.*?)^```$", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )
    return re.sub(r"learn\([\d_]+", "learn(4_096", script)


def run(*command: str, cwd: str | None = None) -> str:
    """Run a command without this checkout on its path, and return what it prints."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    printed = subprocess.run(command, cwd=cwd, env=environment, check=True, capture_output=True, text=True).stdout
    return re.sub(r"\x1b\[[\d;]*m", "", printed)  # colours


if __name__ == "__main__":
    sys.exit(main())
