"""The directive ``command-help``: the help of a command of ``sb3-pgx``, as the command prints it."""

import argparse
from typing import Any
from unittest.mock import patch

from docutils import nodes
from docutils.parsers.rst import Directive

from sb3_pgx.cli import parser


class CommandHelp(Directive):
    """Show the help of the command that the argument names, such as ``doctor env``."""

    optional_arguments = 1
    final_argument_whitespace = True

    def run(self) -> list[nodes.Node]:
        """Return the help as a block of text."""
        text = help_of(self.arguments[0].split() if self.arguments else [])
        return [nodes.literal_block(text, text, language="text")]


def help_of(words: list[str]) -> str:
    """
    Return the help of a command, 80 characters wide.

    :param words: the command's words after ``sb3-pgx``
    """
    with patch.dict("os.environ", {"COLUMNS": "80", "NO_COLOR": "1"}):
        command = parser()
        for word in words:
            (choices,) = [a.choices for a in command._actions if isinstance(a, argparse._SubParsersAction)]
            command = choices[word]
        return command.format_help()


def setup(app: Any) -> dict[str, bool]:
    """Register the directive."""
    app.add_directive("command-help", CommandHelp)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
