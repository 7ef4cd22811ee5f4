"""Composition of other commands' configs, and their values as plain Python."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

__all__ = ["CONF", "choices_in", "compose_config", "option_of", "override_of", "to_container"]

CONF = Path(__file__).parents[2] / "conf"


def choices_in(folder: Path) -> list[str]:
    """Return the choices of a group, given its folder."""
    return sorted(path.stem for path in folder.glob("*.yaml"))


def compose_config(name: str, overrides: Sequence[str] = ()) -> DictConfig:
    """Return the config of ``python -m experiments.NAME OVERRIDES``."""
    # Hydra supports one initialised config folder at a time, and this program has composed its own config before.
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose(name, list(overrides))


def option_of(override: str) -> str:
    """Return the option that an override names."""
    return override.lstrip("+~").partition("=")[0]


def override_of(option: str, text: object) -> str:
    """Return the override that sets an option to a text, such as a path: with quotes where Hydra needs them."""
    plain = str(text)
    if re.fullmatch(r"[\w./:-]+", plain):
        return f"{option}={plain}"
    escaped = plain.replace("'", "\\'")
    return f"{option}='{escaped}'"


def to_container(spec: Any) -> Any:
    """Return a value of a config with OmegaConf's containers converted to dict and list; other values as they are."""
    return OmegaConf.to_container(spec, resolve=True) if OmegaConf.is_config(spec) else spec
