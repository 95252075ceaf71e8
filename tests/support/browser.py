"""Open a page in a headless browser; return its picture and the messages of its console."""

import re
import shutil
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from PIL import Image

CHROMIUM = shutil.which("chromium")
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed (apt-get install chromium)")
ARGUMENTS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --disable-dev-shm-usage --hide-scrollbars --enable-logging=stderr --v=0 "
    "--virtual-time-budget=3000"
).split()


def browse(page: Path, height: int = 4000) -> tuple[np.ndarray, list[str]]:
    """
    :param page: HTML file
    :param height: of the window, in pixels
    :return: the picture, ``[height, width, 3]``, and the messages of the browser's console
    """
    assert CHROMIUM is not None
    with TemporaryDirectory() as folder:
        picture = Path(folder) / "page.png"
        command = [CHROMIUM, *ARGUMENTS, f"--user-data-dir={folder}/profile", f"--window-size=1200,{height}"]
        done = subprocess.run(
            [*command, f"--screenshot={picture}", page.resolve().as_uri()], capture_output=True, text=True, timeout=60
        )
        assert picture.exists(), done.stderr
        with Image.open(picture) as image:
            seen = np.asarray(image.convert("RGB"))
    return seen, re.findall(r"CONSOLE.*", done.stderr)


def pixels_of(seen: np.ndarray, color: str) -> int:
    """Count the pixels of a colour such as ``#0072B2``."""
    return int((seen == [int(color[i : i + 2], 16) for i in (1, 3, 5)]).all(axis=-1).sum())
