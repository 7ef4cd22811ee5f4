"""The folders of runs; their names follow from the configs, so that the same config finds its folder again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from experiments.common.identity import key_of
from shrinkml_env.files import write_atomic

__all__ = ["run_directory", "run_path", "title_of", "write_json"]


def run_directory(config: DictConfig, title: str) -> Path:
    """Create the folder of a run, ``OUTPUTS/TITLE-KEY``, with the config as ``config.yaml``, and return it.

    Args:
        config: The run's config, with the key ``outputs``: the folder of all runs of this kind.
        title: Readable name of the run.
    """
    folder = run_path(config, title)
    folder.mkdir(parents=True, exist_ok=True)
    # Atomic, since several processes of one run may write it at once.
    write_atomic(folder / "config.yaml", OmegaConf.to_yaml(config, resolve=True))
    return folder


def run_path(config: DictConfig, title: str) -> Path:
    """Return the path of a run's folder without creating it; see `run_directory`."""
    return Path(config.outputs) / f"{title}-{key_of(config)}"


def title_of(model: str) -> str:
    """Return the title of a run about a model: the last part of the model's name or path."""
    return Path(model.rpartition(":")[2]).name


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a mapping as JSON, atomically."""
    write_atomic(path, json.dumps(content, indent=2))
