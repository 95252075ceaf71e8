"""
Run the notebooks of ``examples/notebooks/`` and replace their outputs: ``make docs-outputs``.

The cells are plain Python, so neither Jupyter nor a kernel is needed. An output is what a cell prints, with its warnings, and
the figures that it leaves open.
"""

import base64
import io
import json
import os
import sys
import tempfile
import warnings
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

from outputs import OF_OTHERS

FOLDER = Path(__file__).resolve().parents[1] / "examples" / "notebooks"


def execute(notebook: dict[str, Any], edit: Callable[[str], str] = str) -> None:
    """
    Run the cells of a notebook in their order, in the working folder, and put their outputs into it.

    :param notebook: a notebook of format 4
    :param edit: changes the code of a cell before it runs
    """
    namespace: dict[str, Any] = {"__name__": "__main__"}
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    for number, cell in enumerate(cells, 1):
        printed = io.StringIO()
        with redirect_stdout(printed), redirect_stderr(printed):
            exec(compile(edit("".join(cell["source"])), f"cell {number}", "exec"), namespace)
        cell["execution_count"] = number
        text = OF_OTHERS.sub("", printed.getvalue()).splitlines(keepends=True)
        cell["outputs"] = [{"name": "stdout", "output_type": "stream", "text": text}] if text else []
        cell["outputs"] += [
            {"data": {"image/png": picture}, "metadata": {}, "output_type": "display_data"} for picture in open_figures()
        ]


def open_figures() -> list[str]:
    """Return the open figures of matplotlib as PNG files in base 64, and close them."""
    from matplotlib import pyplot

    pictures = []
    for number in pyplot.get_fignums():
        content = io.BytesIO()
        pyplot.figure(number).savefig(content, format="png", dpi=72, bbox_inches="tight")
        pictures.append(base64.b64encode(content.getvalue()).decode())
    pyplot.close("all")
    return pictures


def main() -> None:
    """Refresh every notebook."""
    warnings.filterwarnings("ignore", "FigureCanvasAgg is non-interactive")
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for path in sorted(FOLDER.glob("*.ipynb")):
            print(path.name, flush=True)
            notebook = json.loads(path.read_text(encoding="utf-8"))
            execute(notebook)
            path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    os.environ["MPLBACKEND"] = "agg"
    sys.path.insert(0, str(FOLDER.parents[1]))
    main()
