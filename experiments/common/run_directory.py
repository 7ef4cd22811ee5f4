"""One folder a run, found again by the same config."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

__all__ = ["plain", "read_json", "run_directory", "write_json"]


def run_directory(config: DictConfig, title: str, besides: Sequence[str] = ()) -> Path:
    """``OUTPUTS/TITLE-HASH`` of the resolved config, made if need be and holding it as ``config.yaml``.

    Args:
        config: With the key ``outputs``: the folder of all runs of this kind.
        title: What people recognise the run by.
        besides: Keys that the folder does not depend on, like ``outputs``.
    """
    content = OmegaConf.to_container(config, resolve=True)
    assert isinstance(content, dict)
    outputs = Path(content.pop("outputs"))
    for key in besides:
        del content[key]
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:8]
    folder = outputs / f"{title}-{digest}"
    folder.mkdir(parents=True, exist_ok=True)
    # Written aside and moved, since several processes of one run may arrive together.
    aside = folder / f"config.yaml.{os.getpid()}"
    OmegaConf.save(config, aside, resolve=True)
    os.replace(aside, folder / "config.yaml")
    return folder


def write_json(path: Path, content: Mapping[str, Any], indent: int | None = 2) -> None:
    """A file that is either complete or not there; `indent` as in `json.dumps`."""
    aside = path.with_suffix(".tmp")
    aside.write_text(json.dumps(content, indent=indent))
    os.replace(aside, path)


def read_json(path: Path) -> dict[str, Any]:
    """What `write_json` wrote."""
    content: dict[str, Any] = json.loads(path.read_text())
    return content


def plain(spec: Any) -> Any:
    """A value of a config as Python has it: containers as dict and list, everything else as it is."""
    return OmegaConf.to_container(spec, resolve=True) if OmegaConf.is_config(spec) else spec
