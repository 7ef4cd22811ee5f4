"""The help of a command, made from the comments in its YAML files.

An option is explained by the comment at the end of its line, or else by the line above. If a mapping is explained, its
keys are not listed separately.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from experiments.common.compose import choices_in
from shrinkml_env.envs.assembly import PARTS

__all__ = ["Command", "Option", "read_comments"]

LONGEST = 44
"""The largest number of characters of an option with its value; longer values are shortened."""

_KEY = re.compile(r"^(?P<indent> *)(?P<item>- )?(?:override )?/?(?P<key>[^\s#{\[\"'][^#{\[\"']*?):(?:\s|$)")
_COMMENT = re.compile(r"(?:^|\s)# (?P<text>.*)$")


@dataclass(frozen=True, slots=True)
class Option:
    """An option of a command.

    Attributes:
        name: Dotted name, as it is typed.
        value: Default value; None is null in YAML; ``???`` if it must be given.
        explanation: One line; empty if its file has none.
    """

    name: str
    value: Any
    explanation: str

    @property
    def typed(self) -> str:
        """The option with its value, as it is typed."""
        if self.value == "???":
            return f"{self.name} (required)"
        return f"{self.name}={textwrap.shorten(_shown(self.value), LONGEST - len(self.name), placeholder=' ...')}"


@dataclass(frozen=True)
class Command:
    """A command and its config.

    Attributes:
        conf: The folder that contains its config and the groups.
        config_name: Name of the config.
        program: Module name for ``python -m``.
        summary: Description of the command: the docstring of its module.
    """

    conf: Path
    config_name: str
    program: str
    summary: str | None

    def help(self, overrides: list[str]) -> str:
        """Return the help text: summary, usage, options and groups.

        Args:
            overrides: The options on the command line; the options of chosen groups are explained.
        """
        config, choices = self.compose(overrides)
        options = self.options(config, choices)
        own = [option for option in options if option.name.partition(".")[0] not in choices]
        width = max(len(option.typed) for option in options)
        lines = [(self.summary or "").strip().replace("``", "`"), ""]
        lines += [f"usage: python -m {self.program} [OPTION=VALUE ...]", "", "options:"]
        lines += [f"  {option.typed:{width}}  {option.explanation}".rstrip() for option in own]
        for group, choice in choices.items():
            of_choice = [option for option in options if option.name.partition(".")[0] == group]
            if of_choice:
                about = self.about(group, choice)
                lines += ["", f"options of {group}={choice}{f' ({about})' if about else ''}:"]
                lines += [f"  {option.typed:{width}}  {option.explanation}".rstrip() for option in of_choice]
        if choices:
            lines += ["", f"groups (python -m {self.program} GROUP=CHOICE --help explains a choice's options):"]
        for group, choice in choices.items():
            name = f"{group}={'null' if choice is None else choice}"
            lines.append(f"  {name:{width}}  {self.explanations(choices).get(f'defaults.{group}', '')}".rstrip())
            listed = ", ".join(self.choices_of(group))
            lines += textwrap.wrap(listed, 100, initial_indent=" " * 6, subsequent_indent=" " * 6)
        return "\n".join(lines)

    def compose(self, overrides: list[str]) -> tuple[DictConfig, dict[str, str | None]]:
        """Return the composed config, and group -> choice."""
        with initialize_config_dir(str(self.conf), version_base="1.3"):
            config = compose(self.config_name, overrides, return_hydra_config=True)
        chosen: Mapping[Any, Any] = config.hydra.runtime.choices
        choices = {str(group): choice for group, choice in chosen.items() if str(group).partition("/")[0] != "hydra"}
        OmegaConf.set_struct(config, False)
        OmegaConf.set_readonly(config, False)
        del config["hydra"]
        return config, {group: None if choice == "null" else choice for group, choice in sorted(choices.items())}

    def options(self, config: DictConfig, choices: Mapping[str, str | None]) -> list[Option]:
        """Return the options of a composed config, in its order."""
        return list(_walk(config, "", self.explanations(choices)))

    def choices_of(self, group: str) -> list[str]:
        """Return the choices of a group."""
        return choices_in(self.conf / group)

    def about(self, group: str, choice: str | None) -> str:
        """Return the first comment line of a choice's file, which describes it; empty if there is none."""
        text = "" if choice is None else (self.conf / group / f"{choice}.yaml").read_text(encoding="utf-8")
        lines = (line.removeprefix("#").strip() for line in text.splitlines() if line.startswith("#"))
        return next((line for line in lines if not line.startswith("@package")), "").rstrip(".:")

    def explanations(self, choices: Mapping[str, str | None]) -> dict[str, str]:
        """Return the explanations: dotted name of an option, or ``defaults.GROUP``, -> explanation."""
        found = dict(self._own)
        for group, choice in choices.items():
            if choice is not None:
                found |= self._comments(f"{group}/{choice}", group)
        return found

    @cached_property
    def _own(self) -> dict[str, str]:
        return self._comments(self.config_name, "")

    def _comments(self, name: str, package: str) -> dict[str, str]:
        """Return the explanations in a file and in the files that its defaults list includes."""
        path = self.conf / f"{name}.yaml"
        text = path.read_text(encoding="utf-8")
        found: dict[str, str] = {}
        for default in (yaml.safe_load(text) or {}).get("defaults", ()):
            if isinstance(default, str) and default != "_self_":
                found |= self._comments(str(Path(name).parent / default), package)
        prefix = "" if "@package _global_" in text or not package else f"{package}."
        return found | {
            key if key.startswith("defaults.") else f"{prefix}{key}": comment
            for key, comment in read_comments(text).items()
        }


def read_comments(text: str) -> dict[str, str]:
    """Return the comments of a YAML file: dotted name of a key -> comment."""
    found: dict[str, str] = {}
    above, parents = "", [(-1, "")]
    for line in text.splitlines():
        if line.lstrip().startswith("#"):
            above = line.lstrip().removeprefix("#").strip()
            continue
        match = _KEY.match(line)
        if match:
            indent = len(match["indent"])
            while parents[-1][0] >= indent:
                parents.pop()
            name = f"{parents[-1][1]}.{match['key']}".lstrip(".")
            parents.append((indent, name))
            behind = _COMMENT.search(line)
            comment = behind["text"].strip() if behind else above
            if comment and not comment.startswith("@package"):
                found[name] = comment
        above = ""
    return found


def _walk(config: DictConfig, prefix: str, explanations: Mapping[str, str]) -> Iterator[Option]:
    """Yield the options of a config, with names below a prefix."""
    for key in config:
        name = f"{prefix}{key!s}"
        if OmegaConf.is_missing(config, key):
            yield Option(name, "???", explanations.get(name, ""))
            continue
        # The names of parts and classes are left out: the line of the group shows the choice.
        if key == "_target_" or (key == "name" and prefix.rstrip(".") in PARTS):
            continue
        inner = config._get_node(key)
        if isinstance(inner, DictConfig) and name not in explanations and not inner._is_none():
            yield from _walk(inner, f"{name}.", explanations)
        else:
            yield Option(name, _value(config, key), explanations.get(name, ""))


def _value(config: DictConfig, key: Any) -> Any:
    """Return a value, with interpolations resolved if possible."""
    try:
        value = config[key]
        return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
    except OmegaConfBaseException:
        node = config._get_node(key)
        return OmegaConf.to_container(node) if OmegaConf.is_config(node) else node._value()  # type: ignore[union-attr]


def _shown(value: Any) -> str:
    """Return a value as it is typed; a config with ``_target_`` as a call of its class."""
    if isinstance(value, dict) and "_target_" in value:
        options = ", ".join(f"{key}={_shown(inner)}" for key, inner in value.items() if key != "_target_")
        return f"{value['_target_'].rpartition('.')[2]}({options})"
    if isinstance(value, str):
        return value or '""'
    text: str = yaml.safe_dump(value, default_flow_style=True, width=10_000, sort_keys=False)
    return text.removesuffix("...\n").strip()
