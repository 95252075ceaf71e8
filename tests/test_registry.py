"""The registry of algorithms: every exported class is on the command line, or there is a sentence that says what is."""

from pathlib import Path

import pytest

import sb3_pgx
from sb3_pgx.registry import EVERY_ALGORITHM, algorithm_class, why_not_offered

DOCS = Path(__file__).parents[1]


@pytest.mark.parametrize("name", sb3_pgx.__all__)
def test_commands_take_a_class_or_say_which_page_tells_what_to_use(name):
    if getattr(sb3_pgx, name) in EVERY_ALGORITHM.values():
        assert why_not_offered(name) is None
        return
    with pytest.raises(ValueError, match=rf"^{name} .*: use .*") as refusal:
        algorithm_class(name)
    page = str(refusal.value).rpartition(", ")[2].removesuffix(")")
    assert page.startswith("docs/") and (DOCS / page).is_file()
