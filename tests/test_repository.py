"""What the files around the code say about it."""

import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import shrinkml_env

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = ("experiments", "export", "hf", "quantise")
"""Those that `make test-oldest` installs."""

UNTRIED = {"torch", "torchaudio"}
"""Packages whose oldest versions need another index: see constraints-oldest.txt."""

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
    tried = OLDEST[canonicalize_name(requirement.name)]
    if canonicalize_name(requirement.name) in UNTRIED:
        assert tried > least
    else:
        assert tried == least
