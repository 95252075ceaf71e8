"""Open a page in a headless browser; return its picture, the messages of its console, and what a script finds in it."""

import json
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

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


def browse(page: Path, height: int = 4000, arguments: Sequence[str] = ()) -> tuple[np.ndarray, list[str]]:
    """
    :param page: HTML file
    :param height: of the window, in pixels
    :param arguments: more arguments of the browser
    :return: the picture, ``[height, width, 3]``, and the messages of the browser's console
    """
    assert CHROMIUM is not None
    with TemporaryDirectory() as folder:
        picture = Path(folder) / "page.png"
        command = [CHROMIUM, *ARGUMENTS, *arguments, f"--user-data-dir={folder}/profile", f"--window-size=1200,{height}"]
        done = subprocess.run(
            [*command, f"--screenshot={picture}", page.resolve().as_uri()], capture_output=True, text=True, timeout=120
        )
        assert picture.exists(), done.stderr
        with Image.open(picture) as image:
            seen = np.asarray(image.convert("RGB"))
    return seen, re.findall(r"CONSOLE.*", done.stderr)


def examine(page: Path, script: str, width: int = 1200, dark: bool = False) -> tuple[Any, np.ndarray, list[str]]:
    """
    Run a script in a page after its charts are drawn.

    :param page: HTML file; a copy of it is opened
    :param script: body of a JavaScript function whose result can be written as JSON
    :param width: of the page, in pixels; a frame makes it narrower than a browser's window can be
    :param dark: whether the reader prefers a dark page
    :return: the script's result, the picture, and the other messages of the console
    """
    with TemporaryDirectory() as folder:
        copy, frame = Path(folder) / "copy.html", Path(folder) / "frame.html"
        wait = (
            "<script>const look = () => document.documentElement.classList.contains('drawn') ? "
            "console.log('FOUND' + JSON.stringify((() => {"
            + script
            + "})()) + 'END') : setTimeout(look, 50); look();</script>"
        )
        copy.write_text(page.read_text(encoding="utf-8").replace("</body>", f"{wait}</body>"), encoding="utf-8")
        style = f"border:0;width:{width}px;height:3900px"
        frame.write_text(f'<body style="margin:0"><iframe src="copy.html" style="{style}"></iframe></body>', encoding="utf-8")
        seen, console = browse(frame, arguments=["--blink-settings=preferredColorScheme=0"] if dark else [])
    found = [message for message in console if "FOUND" in message]
    assert found, console
    text = re.search(r"FOUND(.*)END", found[0])
    assert text is not None
    return json.loads(text[1].replace('\\"', '"')), seen[:, :width], [message for message in console if "FOUND" not in message]


def pixels_of(seen: np.ndarray, color: str) -> int:
    """Count the pixels of a colour such as ``#0072B2``."""
    return int((seen == [int(color[i : i + 2], 16) for i in (1, 3, 5)]).all(axis=-1).sum())
