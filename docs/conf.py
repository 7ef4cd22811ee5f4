"""Sphinx's configuration: ``make docs`` builds the site in docs/_build, offline and with warnings as errors."""

import sys
import tomllib
import zlib
from pathlib import Path

DOCS = Path(__file__).parent
ROOT = DOCS.parent

sys.path[:0] = [str(ROOT), str(DOCS / "_ext")]

import shrinkml_env  # noqa: E402

package = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

project = "ShrinkML"
author = package["authors"][0]["name"]
copyright = author
version = release = shrinkml_env.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.intersphinx",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "api_pages",
    "environment_pages",
    "links",
]
exclude_patterns = ["_build", "notebooks/outputs"]

# Where the code is hosted: [project.urls] Repository of pyproject.toml, once it has one.
repository = package.get("urls", {}).get("Repository")

# Pages are Markdown as GitHub shows it: links lead to files, and to headings by their slugs.
myst_heading_anchors = 4
highlight_language = "text"

# Notebooks are shown with the outputs that they hold: `make notebooks`.
nb_execution_mode = "off"

# Docstrings: Google style, with single backticks around names.
default_role = "py:obj"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
autosummary_generate = False
autodoc_default_options = {"members": True, "show-inheritance": True, "special-members": "__call__"}
autodoc_inherit_docstrings = False
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
toc_object_entries_show_parents = "hide"
python_maximum_signature_line_length = 100

# An inventory that cannot be fetched is replaced by an empty one, so that the site builds offline: without links to
# other projects, and without a warning.
no_inventory = DOCS / "_build" / "empty.inv"
no_inventory.parent.mkdir(exist_ok=True)
no_inventory.write_bytes(
    b"# Sphinx inventory version 2\n# Project: none\n# Version: 0\n"
    b"# The remainder of this file is compressed using zlib.\n" + zlib.compress(b"")
)
intersphinx_mapping = {
    name: (address, (None, str(no_inventory)))
    for name, address in {
        "python": "https://docs.python.org/3",
        "numpy": "https://numpy.org/doc/stable",
        "torch": "https://docs.pytorch.org/docs/stable",
        "gymnasium": "https://gymnasium.farama.org",
        "stable_baselines3": "https://stable-baselines3.readthedocs.io/en/master",
        "sb3_contrib": "https://sb3-contrib.readthedocs.io/en/master",
    }.items()
}
intersphinx_timeout = 5

html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["outputs.css"]
html_title = f"{project} {release}"
html_theme_options = {"source_repository": repository, "source_branch": "main", "source_directory": "docs/"}
if repository is None:
    html_theme_options = {}
