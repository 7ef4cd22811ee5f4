"""One folder for each run, found again by the same config."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from experiments.common.identity import key_of
from shrinkml_env.files import write_whole

__all__ = ["plain", "run_directory", "title_of", "write_json"]


def run_directory(config: DictConfig, title: str, besides: Sequence[str] = ()) -> Path:
    """Return the folder of a run, ``OUTPUTS/TITLE-KEY``, made if need be and holding the config as ``config.yaml``.

    Args:
        config: The run's, with the key ``outputs``: the folder of all runs of this kind.
        title: The name by which people recognise the run.
        besides: Options that the folder does not depend on, besides those of `key_of`.
    """
    folder = Path(config.outputs) / f"{title}-{key_of(config, besides)}"
    folder.mkdir(parents=True, exist_ok=True)
    # Whole at every moment, since several processes of one run may arrive together.
    write_whole(folder / "config.yaml", OmegaConf.to_yaml(config, resolve=True))
    return folder


def title_of(model: str) -> str:
    """Return by what a run is recognised that is about a model: the last part of its name or path."""
    return Path(model.rpartition(":")[2]).name


def write_json(path: Path, content: Mapping[str, Any], indent: int | None = 2) -> None:
    """Write a file that is either complete or as it was; `indent` as in `json.dumps`."""
    write_whole(path, json.dumps(content, indent=indent))


def plain(spec: Any) -> Any:
    """Return a value of a config as Python has it: containers as dict and list, everything else as it is."""
    return OmegaConf.to_container(spec, resolve=True) if OmegaConf.is_config(spec) else spec
