"""How Sphinx makes the guide into a site: ``make docs`` writes it to ``docs/_build``."""

from packtrain import __version__

project = "packtrain"
copyright = "the packtrain developers, Apache-2.0"  # noqa: A001  (Sphinx's name for it)
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
