"""Links from the pages to what is in the repository and no page: folders, code, configs, the README.

They lead to where the code is hosted: to [project.urls] Repository in pyproject.toml. Until that is known a file can be
downloaded, and other links are their text.
"""

from __future__ import annotations

from pathlib import Path

from docutils import nodes
from sphinx.addnodes import download_reference, pending_xref
from sphinx.application import Sphinx


def setup(app: Sphinx) -> dict[str, bool]:
    """Register what follows."""
    app.add_config_value("repository", None, "env", (str, type(None)))
    app.connect("doctree-read", follow)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def follow(app: Sphinx, doctree: nodes.document) -> None:
    """Replace the links of a page that leave the folder of the pages."""
    root, page = app.srcdir.parent, app.srcdir / app.env.docname
    for node in list(doctree.findall(pending_xref)) + list(doctree.findall(download_reference)):
        if node.get("reftype") != "myst":
            continue
        # MyST gives another page by its path from the folder of the pages, everything else as it stands in the link.
        start = app.srcdir if node.get("refdomain") == "doc" else page.parent
        target = (start / node["reftarget"]).resolve()
        if target.is_relative_to(app.srcdir) or not target.is_relative_to(root):
            continue
        if app.config.repository is not None:
            address = f"{app.config.repository}/{_kind(target)}/main/{_name(target).relative_to(root).as_posix()}"
            node.replace_self(nodes.reference("", "", *node.children, refuri=address))
        elif isinstance(node, pending_xref):
            node.replace_self(node.children)


def _name(target: Path) -> Path:
    """Return the path of a file or folder, of which MyST may have cut off the suffix."""
    return target if target.exists() else target.with_suffix(".md")


def _kind(target: Path) -> str:
    return "tree" if target.is_dir() else "blob"
