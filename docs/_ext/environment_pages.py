"""The page of each registered environment: what Gymnasium knows of it, and a docstring in Markdown.

The docstring is that of its class, or of its entry point if that has sections of its own.

The pages are written before Sphinx reads the folder, and Git ignores them.
"""

from __future__ import annotations

import inspect
import typing
from typing import Any

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec, load_env_creator
from pages import write_pages
from sphinx.application import Sphinx

import shrinkml_env

ARGUMENTS = """## Arguments

```{{eval-rst}}
.. autofunction:: {path}
   :no-index:
```"""


def setup(app: Sphinx) -> dict[str, bool]:
    """Register what follows."""
    app.connect("builder-inited", write)
    app.connect("autodoc-process-docstring", refer)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def write(app: Sphinx) -> None:
    """Write the pages."""
    write_pages(app.srcdir / "environments", {f"{spec.id}.md": page(spec) for spec in environments()})


def refer(app: Sphinx, what: str, name: str, value: Any, options: Any, lines: list[str]) -> None:
    """Put a link to the page where the API reference has a docstring with sections in Markdown."""
    heading = next((place for place, line in enumerate(lines) if line.startswith("## ")), None)
    if heading is not None:
        described = next(spec.id for spec in environments() if described_in(spec) is value)
        lines[heading:] = [f"All about it: :doc:`/environments/{described}`.", ""]


def environments() -> list[EnvSpec]:
    """Return what the library has registered with Gymnasium."""
    return [spec for spec in gym.registry.values() if str(spec.entry_point).startswith(f"{shrinkml_env.__name__}.")]


def class_of(spec: EnvSpec) -> type[Any]:
    """Return the class of an environment: what its entry point says that it returns."""
    assert spec.entry_point is not None
    made: type[Any] = typing.get_type_hints(load_env_creator(spec.entry_point))["return"]
    return made


def described_in(spec: EnvSpec) -> Any:
    """Return what has the docstring of an environment: the entry point, if that has sections, or else the class."""
    assert spec.entry_point is not None
    entry_point = load_env_creator(spec.entry_point)
    return entry_point if "\n## " in inspect.cleandoc(entry_point.__doc__ or "") else class_of(spec)


def described_by(spec: EnvSpec) -> EnvSpec:
    """Return the environment that a page refers to for all that is not said: the first one with the same docstring."""
    return next(other for other in environments() if described_in(other) is described_in(spec))


def page(spec: EnvSpec) -> str:
    """Return the page of an environment, in Markdown."""
    first = described_by(spec)
    env = gym.make(spec.id)
    facts = {"action space": f"`{env.action_space}`", "observation space": f"`{env.observation_space}`"}
    if reward_space := getattr(env.unwrapped, "reward_space", None):
        facts["reward space"] = f"`{reward_space}`"
    if spec.kwargs:
        arguments = ", ".join(f"{name}={value!r}" for name, value in spec.kwargs.items()).replace("'", '"')
        facts["the same as"] = f'`gym.make("{first.id}", {arguments})`'
    table = "\n".join(f"| {name} | {value} |" for name, value in facts.items())
    # What the constructor takes is of no use to those who call gym.make.
    text = inspect.cleandoc(described_in(spec).__doc__ or "").partition("\nArgs:\n")[0]
    if spec is not first:
        text = f"{text.partition(chr(10))[0]} All that is not said here is as in [{first.id}]({first.id}.md)."
    if not spec.kwargs and "\n## Arguments\n" not in text:
        text += f"\n\n{ARGUMENTS.format(path=str(spec.entry_point).replace(':', '.'))}"
    return f'# {spec.id}\n\n| make | `gym.make("{spec.id}")` |\n| --- | --- |\n{table}\n\n{text}\n'
