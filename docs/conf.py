"""How Sphinx makes the guide into a site: ``make docs`` writes it to ``docs/_build``."""

import re
from typing import Any

from packtrain import __version__

project = "packtrain"
copyright = "the packtrain developers, Apache-2.0"
release = version = __version__
extensions = ["myst_parser", "sphinx_copybutton"]
exclude_patterns = ["_build"]
# The same Markdown is read on GitHub: its anchors, and links to files beside the guide.
myst_heading_anchors = 4
# Run files in part, and a shell's lines with comments in them, are more than the lexers know.
suppress_warnings = ["misc.highlighting_failure"]
html_theme = "furo"
html_title = f"packtrain {version}"
copybutton_exclude = ".linenos, .gp, .go"

#: A link to Markdown beside the guide: no page of the site, so that it is handed out as a file.
_BESIDE = re.compile(
    r"\[([^\]]+)\]\(((?:\.\./)+(?!docs/|[\w-]+\.md\))[\w./-]+\.md|\.\./(?:CONTRIBUTING|README)\.md)\)"
)


def _as_files(app: Any, page: str, source: list[str]) -> None:
    if page != "index":
        source[0] = _BESIDE.sub(r"{download}`\1 <\2>`", source[0])


def setup(app: Any) -> None:
    app.connect("source-read", _as_files)
