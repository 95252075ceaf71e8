"""Let docstrings stay plain text: a bar is a bar, and an indented formula is shown as it stands."""

import re
from typing import Any

LITERAL = re.compile(r"(``.*?``)")


def prepare(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Escape bars outside of literals, which would refer to substitutions, and mark indented formulas as literal blocks."""
    prepared, in_fields = [], False
    for before, line in zip(["", *lines], lines, strict=False):
        in_fields = in_fields or line.startswith(":")
        starts_formula = line.startswith("    ") and not before.strip() and not in_fields
        if starts_formula and not re.match(r"\s+([-*]|\d+\.) ", line) and not (prepared and _in_formula(prepared)):
            prepared += ["::", ""]
        is_formula = line.startswith("    ") and not in_fields
        prepared.append(line if is_formula else _escaped(line))
    lines[:] = prepared


def _in_formula(lines: list[str]) -> bool:
    text = [line for line in lines if line.strip()]
    return bool(text) and text[-1].startswith("    ")


def _escaped(line: str) -> str:
    parts = LITERAL.split(line)
    return "".join(part if LITERAL.fullmatch(part) else part.replace("|", "\\|") for part in parts)


def setup(app: Any) -> dict[str, bool]:
    """Register the preparation."""
    app.connect("autodoc-process-docstring", prepare)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
