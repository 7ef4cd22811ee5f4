"""What the files around the code say about it."""

import importlib
import re
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import shrinkml_env
from shrinkml_env.envs.assembly import PARTS

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = ("experiments", "hf")
"""Those that `make test-oldest` installs."""

OLDEST = {
    canonicalize_name(name): Version(version)
    for name, _, version in (
        line.partition("==") for line in (ROOT / "constraints-oldest.txt").read_text().splitlines() if "==" in line
    )
}
REQUIREMENTS = [
    Requirement(text)
    for text in [
        *PROJECT["dependencies"],
        *(text for extra in EXTRAS for text in PROJECT["optional-dependencies"][extra]),
    ]
]


def test_the_citation_is_of_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == shrinkml_env.__version__
    assert citation["license"] == PROJECT["license"]


@pytest.mark.parametrize("requirement", REQUIREMENTS, ids=str)
def test_the_oldest_versions_are_those_that_are_allowed(requirement):
    (least,) = [Version(part.version) for part in requirement.specifier if part.operator == ">="]
    assert OLDEST[canonicalize_name(requirement.name)] == least


def test_contributors_find_what_they_look_for():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    table = text.partition("## Where to add something\n")[2].partition("\n## ")[0]
    # The library's own folders are named as they are inside it.
    places = {
        path: next(at for at in (ROOT / path, ROOT / "shrinkml_env" / path) if at.exists())
        for path in re.findall(r"`([a-z_]+/[a-z_/.]*)`", table)
    }
    named = re.findall(r"`([A-Z_]+)` in `([\w/]+\.py)`", table)
    modules = {path: ".".join(places[path].relative_to(ROOT).with_suffix("").parts) for _, path in named}
    found = [getattr(importlib.import_module(modules[path]), name) for name, path in named]
    assert [group for group, kind in PARTS.items() if not any(one is kind.registry for one in found)] == []
