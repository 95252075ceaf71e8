"""Settings of the documentation: ``make docs`` builds it with Sphinx, without a connection to the internet."""

import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(Path(__file__).parent / "_ext")]

import sb3_pgx  # noqa: E402

project = "sb3_pgx"
author = "the sb3_pgx authors"
copyright = "2026, the sb3_pgx authors"
version = release = sb3_pgx.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "command_help", "docstrings", "mathml"]
exclude_patterns = ["_build", "_parts"]  # parts are included by pages

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3

# Signatures are long; each argument gets a line of its own, and types are in the signature alone.
autodoc_typehints = "none"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
maximum_signature_line_length = 100
python_use_unqualified_type_names = True
toc_object_entries = False

html_theme = "furo"
html_title = f"sb3_pgx {release}"
html_static_path = ["_static"]
html_css_files = ["style.css"]
html_copy_source = False
html_show_sourcelink = False
