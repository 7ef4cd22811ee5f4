"""The API reference: a page for each package, with every name in the ``__all__`` of its modules.

A name is documented once, at its shortest path: ``shrinkml_env.Evaluator``, not
``shrinkml_env.evaluation.evaluator.Evaluator``. The pages are written before Sphinx reads the folder, and Git ignores
them.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import pkgutil
from collections import Counter
from typing import Any

from docutils import nodes
from pages import write_pages
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util.nodes import make_refnode

import agents
import shrinkml_env

PACKAGES = (shrinkml_env, agents)

LONGEST = 80
"""Characters of a constant's value that is shown."""


def setup(app: Sphinx) -> dict[str, bool]:
    """Register what follows."""
    app.connect("builder-inited", write)
    app.connect("autodoc-process-docstring", forget_types_docstring)
    app.connect("autodoc-process-docstring", restore_colon, priority=501)  # after napoleon's
    app.connect("missing-reference", follow_name)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def write(app: Sphinx) -> None:
    """Write the pages."""
    found: dict[str, list[str]] = {}
    for module in public_names():
        found.setdefault(room_of(module), []).append(module)
    write_pages(app.srcdir / "api", {f"{room}.rst": page(room, modules) for room, modules in found.items()})


def forget_types_docstring(app: Sphinx, what: str, name: str, value: Any, options: Any, lines: list[str]) -> None:
    """A constant without a docstring has none: that of `dict` says nothing about it."""
    if what == "data" and "\n".join(lines).strip() == (inspect.getdoc(type(value)) or "").strip():
        lines.clear()


def restore_colon(app: Sphinx, what: str, name: str, value: Any, options: Any, lines: list[str]) -> None:
    """Put back what stood before a colon in the first line of an attribute: napoleon takes it for a type."""
    if what in ("attribute", "data", "property"):
        for place, line in enumerate(lines):
            if line.startswith(":type: "):
                lines[0] = f"{line.removeprefix(':type: ')}: {lines[0]}"
                del lines[place]
                return


def follow_name(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, content: nodes.TextElement
) -> nodes.Node | None:
    """Lead from a public name, however a docstring spells it, to where it is documented."""
    if node.get("refdomain") != "py":
        return None
    target = node["reftarget"].removesuffix("()")
    owner, _, member = target.rpartition(".")
    path = spellings().get(target) or f"{spellings().get(owner)}.{member}"
    entry = env.domains.python_domain.objects.get(path)
    if entry is None:
        return None
    return make_refnode(app.builder, node["refdoc"], entry.docname, entry.node_id, content, path)


@functools.cache
def public_names() -> dict[str, tuple[str, ...]]:
    """Return the name of every module that says what is public in it -> those names; fewest dots first."""
    names = [package.__name__ for package in PACKAGES]
    for package in PACKAGES:
        names += [info.name for info in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")]
    modules = map(importlib.import_module, sorted(names, key=lambda name: (name.count("."), name)))
    return {module.__name__: tuple(module.__all__) for module in modules if hasattr(module, "__all__")}


@functools.cache
def homes() -> dict[str, str]:
    """Return every public path -> the path at which the same object is documented."""
    homes_of_objects: dict[Any, str] = {}
    objects = {}
    for module, names in public_names().items():
        for name in names:
            path, value = f"{module}.{name}", getattr(importlib.import_module(module), name)
            objects[path] = (name, id(value))
            # Classes and functions bring their docstrings along: the shortest path that no module has is theirs.
            # The docstring of anything else stands where it is assigned: in the last module.
            if not has_docstring(value):
                homes_of_objects[objects[path]] = path
            elif path not in public_names():
                homes_of_objects.setdefault(objects[path], path)
    return {path: homes_of_objects[key] for path, key in objects.items()}


@functools.cache
def spellings() -> dict[str, str]:
    """Return the ways in which a docstring may write a public name -> the path at which it is documented."""
    often = Counter(home.rpartition(".")[2] for home in set(homes().values()))
    found = dict(homes())
    for home in homes().values():
        module, _, name = home.rpartition(".")
        # A lower-case word is as a rule an argument, except for the names that everyone uses.
        if often[name] == 1 and (name != name.lower() or "_" in name or module == shrinkml_env.__name__):
            found[name] = home
    return found


def room_of(module: str) -> str:
    """Return the page on which a module is: its package's below the root, or that of the loose modules."""
    root, _, below = module.partition(".")
    package = ".".join([root, *below.split(".")[:1]]).rstrip(".")
    return package if hasattr(importlib.import_module(package), "__path__") else f"{root}.modules"


def page(room: str, modules: list[str]) -> str:
    """Return a page, in reStructuredText."""
    parts = [] if room in modules else [underlined(f"Modules of {room.rpartition('.')[0]}", "=")]
    for module in modules:
        parts += [underlined(module, "=" if module == room else "-"), f".. automodule:: {module}\n   :no-members:\n"]
        paths = [f"{module}.{name}" for name in public_names()[module]]
        own = [path for path in paths if homes()[path] == path]
        if module == room:
            # autosummary wants what lies below a module without the module's name.
            rows = [homes()[path].removeprefix(f"{module}.") for path in paths]
            parts.append("\n".join([".. autosummary::", "   :nosignatures:", "", *(f"   ~{row}" for row in rows), ""]))
        parts += [entry(path) for path in own]
    return "\n".join(parts)


def entry(path: str) -> str:
    """Return autodoc's directive for a public object."""
    module, _, name = path.rpartition(".")
    value = getattr(importlib.import_module(module), name)
    if inspect.isclass(value):
        return f".. {'autoexception' if issubclass(value, BaseException) else 'autoclass'}:: {path}\n"
    if inspect.isroutine(value):
        return f".. autofunction:: {path}\n"
    shown = len(repr(value)) <= LONGEST
    return f".. autodata:: {path}\n" + ("" if shown else "   :no-value:\n")


def has_docstring(value: Any) -> bool:
    """Return whether a value is a class or a function."""
    return inspect.isclass(value) or inspect.isroutine(value)


def underlined(title: str, line: str) -> str:
    """Return a heading."""
    return f"{title}\n{line * len(title)}\n"
