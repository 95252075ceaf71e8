"""
Check what would be published: ``make release-check``.

It builds the source distribution and the wheel, checks their metadata with twine, and downloads all that the extras require,
once, in the versions of ``constraints.txt``. Then it installs the wheel into a fresh virtual environment, and each extra into
one of its own that sees the packages of the first but none of the other extras. In each, the README's first script runs. The
results are written into ``tests/release.txt`` as they come. A part that fails is named with the end of its output, and the
other parts still run.

    python tests/release_check.py                          # every extra
    python tests/release_check.py --extras plots zoo       # some extras
    python tests/release_check.py --file /tmp/release.txt  # leave tests/release.txt as it is
    python tests/release_check.py --downloads wheels       # keep what is downloaded there, for the next time
"""

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import textwrap
import time
import zipfile
from collections.abc import Callable
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
    "tests": "hypothesis",
    "release": "twine",
    "dev": "mypy",
}
# The processor's time: that of the clock depends on what else runs.
IMPORT = "import time; start = time.process_time(); import {}; print(time.process_time() - start)"
IMPORT_ADDS = 0.3  # seconds that importing this package may add to importing SB3
SHOWN = 20  # last lines of the output of a part that failed


class Results:
    """The results of the parts, in a file that is written after each part."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.failed: list[str] = []
        self._lines: list[str] = []

    def add(self, line: str) -> None:
        """Write and print a line."""
        self._lines.append(line)
        self.file.write_text("\n".join(self._lines) + "\n", encoding="utf-8")
        print(line, flush=True)

    def part(self, name: str, check: Callable[[], str]) -> bool:
        """
        Run a part, and write its result.

        :param name: what the line starts with
        :param check: returns the result; its commands raise :class:`subprocess.CalledProcessError`
        :return: whether it passed
        """
        try:
            self.add(f"{name}: {check()}")
        except subprocess.CalledProcessError as error:
            output = [line for line in f"{error.stdout or ''}{error.stderr or ''}".splitlines() if line.strip()]
            self.failed.append(name)
            self.add("\n".join([f"{name}: failed", *(f"    {line}" for line in output[-SHOWN:])]))
        return name not in self.failed


def main(arguments: list[str] | None = None) -> int:
    """
    Run the checks.

    :param arguments: command line; ``None``: that of the process
    :return: exit status: 1 if a part failed
    """
    parser = argparse.ArgumentParser(prog="make release-check", description=__doc__.split("\n\n")[0].strip())
    parser.add_argument(
        "--extras", nargs="*", choices=list(MODULES), default=list(MODULES), help="default: each of %(choices)s"
    )
    parser.add_argument("--file", type=Path, default=RESULT, help="default: tests/release.txt")
    parser.add_argument("--downloads", type=Path, help="folder of wheels; it is used as it is if it exists")
    options = parser.parse_args(arguments)
    results = Results(options.file)
    results.add(f"{time.strftime('%Y-%m-%d')}, Python {platform.python_version()}, {platform.system()} {platform.machine()}")
    with tempfile.TemporaryDirectory() as folder:
        dist, base = Path(folder) / "dist", Path(folder) / "base"
        downloads = options.downloads or Path(folder) / "downloads"
        if results.part("sdist and wheel", lambda: built(dist)):
            (wheel,) = dist.glob("*.whl")
            results.part("twine check --strict", lambda: described(dist))
            results.part("project URLs", lambda: project_urls(wheel))
            if results.part("requirements", lambda: downloaded(wheel, options.extras, downloads)) and results.part(
                "installed alone", lambda: installed(wheel, "", downloads, base)
            ):
                for extra in options.extras:
                    layer = Path(folder) / extra
                    results.part(f"[{extra}] in addition", lambda e=extra, f=layer: installed(wheel, e, downloads, f, base))
                    shutil.rmtree(layer, ignore_errors=True)
    results.add(f"failed: {', '.join(results.failed)}" if results.failed else "everything passed")
    return int(bool(results.failed))


def built(dist: Path) -> str:
    """Build the source distribution and the wheel. Return their sizes."""
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", str(dist), str(ROOT))
    return ", ".join(f"{file.name} {megabytes(file):.1f} MB" for file in sorted(dist.iterdir()))


def described(dist: Path) -> str:
    """Check that a package index accepts the metadata."""
    run(sys.executable, "-m", "twine", "check", "--strict", *map(str, sorted(dist.iterdir())))
    return "passed"


def project_urls(wheel: Path) -> str:
    """Return the project URLs that the wheel's metadata state."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        metadata = message_from_bytes(archive.read(name))
    urls = metadata.get_all("Project-URL", [])
    return "; ".join(urls) or "none, because the repository has no public address yet (CONTRIBUTING.md, Publishing a version)"


def downloaded(wheel: Path, extras: list[str], downloads: Path) -> str:
    """Download the requirements of all extras as wheels, so that each is downloaded once. Return their number and size."""
    if not downloads.exists():
        wanted = f"{wheel}[{','.join(extras)}]" if extras else str(wheel)
        constraints = str(ROOT / "constraints.txt")
        run(sys.executable, "-m", "pip", "wheel", "--quiet", "-c", constraints, "-w", str(downloads), wanted)
    files = sorted(downloads.glob("*.whl"))
    return f"{len(files)} wheels, {sum(map(megabytes, files)):,.0f} MB"


def installed(wheel: Path, extra: str, downloads: Path, folder: Path, base: Path | None = None) -> str:
    """
    Install the wheel with an extra, import what the extra is for, and run the README's first script.

    :param wheel: the wheel
    :param extra: name of an extra; empty: none, and the import is measured
    :param downloads: folder with the wheels of all requirements
    :param folder: the new virtual environment
    :param base: a virtual environment whose packages are visible in the new one
    :return: what was run, and what was installed
    """
    python = str(folder / "bin" / "python")
    run(sys.executable, "-m", "venv", *(["--without-pip"] if base else []), str(folder))
    if base:
        (site_packages(folder) / "base.pth").write_text(f"{site_packages(base)}\n", encoding="utf-8")
    what = f"{wheel}[{extra}]" if extra else str(wheel)
    pip = [python, "-m", "pip"]
    run(*pip, "install", "--quiet", "--no-compile", "--no-index", "--find-links", str(downloads), what)
    run(*pip, "check")
    done = "the README's first script runs"
    if extra:
        run(python, "-c", f"import {MODULES[extra]}\n{quickstart()}", cwd=str(folder))
        done = f"import {MODULES[extra]}, and {done}"
    else:
        run(python, "-c", quickstart(), cwd=str(folder))
        done = f"{done}; {imports(python, str(folder))}"
    listed = json.loads(run(*pip, "list", "--format", "json", "--path", str(site_packages(folder))))
    size = sum(map(megabytes, site_packages(folder).rglob("*.*")))
    contents = textwrap.wrap(", ".join(f"{p['name']} {p['version']}" for p in listed), 120, break_on_hyphens=False)
    return "\n    ".join([f"{done}; {len(listed)} packages, {size:,.0f} MB:", *contents])


def site_packages(environment: Path) -> Path:
    """Return the folder of a virtual environment's packages."""
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    return Path(run(str(environment / "bin" / "python"), "-c", code).strip())


def imports(python: str, folder: str) -> str:
    """Measure how long importing this package and SB3 takes, in turn. Refuse more than :data:`IMPORT_ADDS` in addition."""
    seconds: dict[str, list[float]] = {"sb3_pgx": [], "stable_baselines3": []}
    for _ in range(3):
        for name, measured in seconds.items():
            measured.append(float(run(python, "-c", IMPORT.format(name), cwd=folder)))
    ours, sb3s = (min(measured) for measured in seconds.values())
    text = f"import {ours:.2f} s of processor time, SB3 alone {sb3s:.2f} s"
    if ours - sb3s > IMPORT_ADDS:
        raise subprocess.CalledProcessError(1, "import sb3_pgx", f"{text}: more than {IMPORT_ADDS} s in addition")
    return text


def quickstart() -> str:
    """Return the README's first script, with a short run."""
    (script, *_) = re.findall(
        r"^```python\n(.*?)^```$", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )
    return re.sub(r"learn\([\d_]+", "learn(4_096", script)


def megabytes(file: Path) -> float:
    """Return the size of a file; 0 for a folder or a link."""
    return file.stat().st_size / 1e6 if file.is_file() and not file.is_symlink() else 0.0


def run(*command: str, cwd: str | None = None) -> str:
    """Run a command without this checkout on its path, and return what it prints."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    printed = subprocess.run(command, cwd=cwd, env=environment, check=True, capture_output=True, text=True).stdout
    return re.sub(r"\x1b\[[\d;]*m", "", printed)  # colours


if __name__ == "__main__":
    sys.exit(main())
