"""Nothing that the library says sends a reader of an installed wheel to what only a checkout holds."""

import ast
import re
from pathlib import Path

import pytest

import shrinkml_env

ROOT = Path(shrinkml_env.__file__).parent
FOREIGN = re.compile(r"\bexperiments\.|-m experiments\b|\bdocs/|\bconf/|\bagents\.[a-z]")


def texts(source: str) -> list[tuple[int, str]]:
    """Line and text of every string constant that is no docstring."""
    tree = ast.parse(source)
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    return [
        (node.lineno, node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings
    ]


def test_what_counts_as_a_text():
    source = '''"""See docs/a.md."""
NAME = 3
"""Set by experiments.x."""
raise ValueError(f"{NAME}: see "
                 f"docs/b.md")
'''
    assert [text for _, text in texts(source) if FOREIGN.search(text)] == [": see docs/b.md"]


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_text_advises_what_the_wheel_lacks(path):
    found = [(line, text) for line, text in texts(path.read_text(encoding="utf-8")) if FOREIGN.search(text)]
    assert found == []
