"""The tables of parts and arguments, on the pages and in the environment's docstring: they list what the code has."""

import inspect
import re

import pytest

from shrinkml_env import ShrinkEnv
from shrinkml_env.compression.factorisations import FACTORISATIONS
from shrinkml_env.envs.assembly import PARTS
from shrinkml_env.envs.registration import make_env
from shrinkml_env.mdp.rewards import REWARDS
from shrinkml_env.space.formation import SEARCH_SPACES
from tests.helpers.pages import ROOT

DOCSTRING = inspect.getdoc(ShrinkEnv)
PAGES = {
    "action": "actions.md",
    "observation": "observations.md",
    "reward": "rewards.md",
    "constraint": "constraints.md",
    "factorisation": "factorisations.md",
    "search_space": "search-space.md",
}


def rows(text, head):
    """The rows of the first table whose head begins with some cells, as lists of cells."""
    lines = iter(text.splitlines())
    for line in lines:
        if line.startswith(head):
            next(lines)
            table = []
            for row in lines:
                if not row.startswith("|"):
                    return table
                table.append([cell.strip() for cell in row.strip("|").split(" | ")])
            return table
    raise AssertionError(f"no table begins with {head}")


def names(table):
    """What the first cells of a table's rows name."""
    return [name for cells in table for name in re.findall(r'`"?(\w+)"?`', cells[0])]


def page(kind):
    return (ROOT / "docs" / PAGES[kind]).read_text(encoding="utf-8")


@pytest.mark.parametrize("kind", PAGES)
def test_a_page_lists_every_part(kind):
    assert sorted(names(rows(page(kind), "| name |"))) == sorted(PARTS[kind].registry)


@pytest.mark.parametrize("kind", ["action", "reward", "constraint"])
def test_the_docstring_lists_every_part(kind):
    assert sorted(names(rows(DOCSTRING, f"| `{kind}` |"))) == sorted(PARTS[kind].registry)


OPTIONS = [
    *((page("reward"), "| name |", "reward", name) for name in REWARDS),
    *((DOCSTRING, "| `reward` |", "reward", name) for name in REWARDS),
    *((page("factorisation"), "| name |", "factorisation", name) for name in FACTORISATIONS),
    *((page("search_space"), "| name |", "search_space", name) for name in SEARCH_SPACES),
]


@pytest.mark.parametrize(("text", "head", "kind", "name"), OPTIONS, ids=lambda value: value if len(value) < 20 else "")
def test_options_and_their_defaults(text, head, kind, name):
    (row,) = [cells for cells in rows(text, head) if names([cells]) == [name]]
    told = dict(re.findall(r'`(\w+)(?:`? ?= ?"?`?"?)?([-\w.]*)', row[2]))
    signature = inspect.signature(PARTS[kind].registry[name]).parameters
    assert [option for option in told if option in signature] == list(signature)
    for option, given in signature.items():
        if told[option]:
            assert told[option] == str(given.default) or float(told[option]) == given.default


def test_the_docstring_lists_every_argument_with_its_default():
    told = {names([cells])[0]: cells[1].strip("`") for cells in rows(DOCSTRING, "| argument |")}
    parameters = inspect.signature(make_env).parameters
    defaults = {name: given.default for name, given in parameters.items() if given.default is not given.empty}
    assert set(told) == set(defaults)
    for name, default in defaults.items():
        assert told[name] == repr([] if default == () else default).replace("'", '"'), name
