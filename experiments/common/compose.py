"""Configs of other commands, composed as the command line does it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig

__all__ = ["CONF", "compose_config"]

CONF = Path(__file__).parents[2] / "conf"


def compose_config(name: str, overrides: Sequence[str] = ()) -> DictConfig:
    """Return the config that ``python -m experiments.NAME OVERRIDES`` would be given."""
    # This program's own config has been read already, and Hydra holds one at a time.
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose(name, list(overrides))
