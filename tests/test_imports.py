"""How the library's modules depend on one another."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import shrinkml_env

ROOT = Path(shrinkml_env.__file__).parent
LEVELS = 10
"""Rooms (packages and loose modules) above one another, at most."""


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_of(path): path for path in ROOT.rglob("*.py")}


def imported(path: Path) -> set[str]:
    """Every module that a file names in an import, wherever it stands: in a function, or for type checkers alone."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            submodules = {f"{node.module}.{alias.name}" for alias in node.names}
            found.update(submodules & MODULES.keys() if submodules <= MODULES.keys() else {node.module, *submodules})
    return found


GRAPH = {name: (imported(path) & MODULES.keys()) - {name} for name, path in MODULES.items()}


def room(module: str) -> str:
    return ".".join(module.split(".")[:2])


def test_no_circle():
    TopologicalSorter(GRAPH).prepare()


def test_rooms_stand_above_one_another():
    rooms = {room(module): set() for module in MODULES}
    for module, others in GRAPH.items():
        rooms[room(module)].update(room(other) for other in others if room(other) != room(module))
    levels = {}
    for name in TopologicalSorter(rooms).static_order():
        levels[name] = 1 + max((levels[other] for other in rooms[name]), default=0)
    assert max(levels.values()) <= LEVELS, levels


def test_the_library_stands_alone():
    others = {"agents", "experiments", "benchmarks", "tests"}
    for name, path in MODULES.items():
        assert not {other.split(".")[0] for other in imported(path)} & others, name


ORDER = ("envs", "mdp", "space", "evaluation", "asr", "compression", "data")
"""The packages, each of which may import those behind it."""


def test_packages_import_what_is_below_them():
    places = {f"shrinkml_env.{name}": place for place, name in enumerate(ORDER)}
    for module, others in GRAPH.items():
        for other in others:
            if {room(module), room(other)} <= places.keys():
                assert places[room(module)] <= places[room(other)], (module, other)


HELPERS = {f"shrinkml_env.{name}" for name in ("checks", "files", "progress")}


def test_agents_know_the_public_names_of_packages_alone():
    public = {name for name, path in MODULES.items() if path.name == "__init__.py"} | HELPERS
    for path in (ROOT.parent / "agents").glob("*.py"):
        modules = imported(path) & MODULES.keys()
        assert modules <= public, (path, modules - public)
        assert not {name.split(".")[0] for name in imported(path)} & {"experiments", "benchmarks", "tests"}, path


def test_commands_stand_above_what_they_share():
    shared = ROOT.parent / "experiments" / "common"
    for path in shared.glob("*.py"):
        named = {other for other in imported(path) if other.startswith("experiments.")}
        assert all(other.startswith("experiments.common") for other in named), path
