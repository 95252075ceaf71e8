"""
Run the examples whose output the pages show, and replace the outputs: ``make docs-outputs``.

    python docs/outputs.py                    # all pages
    python docs/outputs.py guide/sick_run.md  # some pages

An output is a block ``text`` after the mark ``<!-- output -->``: all that the last command of the block before it prints, with
its warnings. The blocks of a page run in one folder, in their order, up to the last mark.
"""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

DOCS = Path(__file__).parent
BLOCK = re.compile(
    r"(?P<mark><!-- output -->\n)?^```(?P<language>python|sh|text)\n(?P<content>.*?)^```$", re.DOTALL | re.MULTILINE
)
# A package that only benchmarks need prints this into every process that imports SB3.
OF_OTHERS = re.compile(
    r"^Gym has been unmaintained.*?^See the migration guide at \S+ for additional information\.\n", re.DOTALL | re.M
)


def refreshed(text: str, page: str) -> str:
    """
    Return a page with new outputs.

    :param text: the page
    :param page: name of the page, for messages
    """
    blocks = list(BLOCK.finditer(text))
    marked = [i for i, block in enumerate(blocks) if block["mark"]]
    if not marked:
        return text
    outputs: dict[int, str] = {}
    printed = ""
    with tempfile.TemporaryDirectory() as folder:
        for block in blocks[: marked[-1] + 1]:
            if block["mark"]:
                outputs[block.start("content")] = printed
            elif block["language"] != "text":
                print(f"{page}: {block['content'].strip().splitlines()[-1]}", flush=True)
                printed = run(block["language"], block["content"], Path(folder))
    for start in sorted(outputs, reverse=True):
        end = text.index("\n```", start) + 1
        text = text[:start] + outputs[start].rstrip() + "\n" + text[end:]
    return text


def run(language: str, content: str, folder: Path) -> str:
    """
    Run a block, and return what its last command prints.

    :param language: ``"python"`` or ``"sh"``
    :param content: the block
    :param folder: working folder
    """
    scripts = Path(sys.executable).parent
    environment = {**os.environ, "PATH": f"{scripts}:{os.environ['PATH']}", "COLUMNS": "100", "OMP_NUM_THREADS": "1"}
    environment |= {"PYTHONPATH": str(DOCS.parent), "PYTHONSAFEPATH": "1"}
    if language == "python":
        (folder / "example.py").write_text(content, encoding="utf-8")
        commands = [f"{sys.executable} example.py"]
    else:
        commands = [line for line in content.splitlines() if line.startswith(("sb3-pgx ", "sed "))]
    printed = ""
    for command in commands:
        done = subprocess.run(
            command, shell=True, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        printed = OF_OTHERS.sub("", done.stdout).replace(f"{folder.resolve()}/", "")
    return "\n".join(line.rstrip() for line in printed.splitlines())


def main(pages: list[str]) -> None:
    """
    Refresh the outputs of pages.

    :param pages: paths below ``docs/``; empty: all
    """
    for path in [DOCS / page for page in pages] or sorted(DOCS.rglob("*.md")):
        if "_build" not in path.parts:
            text = path.read_text(encoding="utf-8")
            new = refreshed(text, path.relative_to(DOCS).as_posix())
            if new != text:
                path.write_text(new, encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
