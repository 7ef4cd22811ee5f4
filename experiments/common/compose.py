"""Composition of other commands' configs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig

__all__ = ["CONF", "choices_in", "compose_config"]

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
