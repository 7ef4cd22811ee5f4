"""The wheel holds the whole library, and nothing that it says sends a reader to what only a checkout holds."""

import ast
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import shrinkml_env

ROOT = Path(shrinkml_env.__file__).parent
FOREIGN = re.compile(
    r"\bexperiments\.|-m experiments\b|\bdocs/|\bconf/|\bagents\.[a-z]|constraints\.txt|\bformat=[a-z]"
)


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


PROGRAM = """
import gymnasium as gym, shrinkml_env
from shrinkml_env.space.table import Table

assert len(shrinkml_env.load_utterances("dev")) > 0
env = gym.make("ShrinkML-v0", proxy=shrinkml_env.load_utterances("proxy")[:1], cache=None)
env.reset(seed=0)
assert env.step(env.action_space.sample())[4]["size_ratio"] <= 1
assert gym.make("ShrinkMLTabular-v0").unwrapped.table.content == Table.load().content
print(shrinkml_env.__file__)
"""


@pytest.mark.slow
def test_the_wheel_is_enough(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    for name in "pyproject.toml", "setup.cfg", "README.md", "LICENSE", "agents", "experiments", "shrinkml_env":
        copy = shutil.copytree if (ROOT.parent / name).is_dir() else shutil.copy
        copy(ROOT.parent / name, source / name)
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path, source]
    built = subprocess.run(build, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.stat().st_size < 74e6  # docs/corpus.md says what it holds
    installed = tmp_path / "installed"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(installed)
    tops = {path.name for path in installed.iterdir()}
    assert tops == {"shrinkml_env", f"shrinkml_env-{shrinkml_env.__version__}.dist-info"}
    files = {path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*") if path.is_file() and path.suffix != ".pyc"}
    package = installed / "shrinkml_env"
    assert files <= {path.relative_to(package).as_posix() for path in package.rglob("*")}
    environment = os.environ | {"PYTHONPATH": str(installed)}
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert run.stdout.splitlines()[-1:] == [str(package / "__init__.py")], run.stderr
