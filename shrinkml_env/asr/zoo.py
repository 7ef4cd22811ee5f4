"""Loading of models by name or path."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

from shrinkml_env.asr.huggingface import load_huggingface
from shrinkml_env.asr.joint import JointLAS
from shrinkml_env.asr.torchaudio_models import load_torchaudio
from shrinkml_env.compression import CompressibleModel, load_compressed
from shrinkml_env.compression.checkpoint import CONFIG_FILE

__all__ = ["SHIPPED_MODELS", "folder_of", "load_model"]

SHIPPED_MODELS = ("las_small",)
"""The names of the models in the package."""

MADE = ("compressed", "model")
"""The folders inside a run's folder that hold what it has made: the model of a search, that of a training."""


def _load_joint(name: str) -> JointLAS:
    return JointLAS.from_las(load_model(name))


_PREFIXES: dict[str, Callable[[str], CompressibleModel]] = {
    "hf:": load_huggingface,
    "joint:": _load_joint,
    "torchaudio:": load_torchaudio,
}
"""Prefix of a name -> function that loads a model by the rest of the name."""


def load_model(name_or_path: str | Path) -> CompressibleModel:
    """Load a recogniser.

    Args:
        name_or_path: One of `SHIPPED_MODELS`; the folder of a saved model, compressed or not; the folder of a finished
            run, of which the compressed or the trained model is loaded; ``"hf:FOLDER"`` or ``"hf:ORG/NAME"`` for a
            model of Hugging Face's transformers; ``"torchaudio:NAME"`` for one of torchaudio's pipelines; ``"joint:"``
            and the name or folder of an uncompressed LAS model for a version with joint factorisation (`JointLAS`).

    Returns:
        The recogniser, in evaluation mode, on the CPU.

    Raises:
        FileNotFoundError: There is no model of this name and no folder of this path, or the folder holds no model yet.
        ImportError: A package for such models is not installed.
        ValueError: The argument is not a name or path, or the folder does not hold a model of a supported kind.
    """
    if not isinstance(name_or_path, str | Path):
        raise ValueError(f"a model must be given by its name or the path of its folder, got {name_or_path!r}")
    for prefix, load in _PREFIXES.items():
        if isinstance(name_or_path, str) and name_or_path.startswith(prefix):
            name = name_or_path.removeprefix(prefix)
            if not name:
                raise ValueError(f"{prefix!r} lacks what comes after the colon: the name or the folder of a model")
            return load(name)
    if name_or_path in SHIPPED_MODELS:
        return load_compressed(Path(str(files("shrinkml_env") / "assets" / "models" / str(name_or_path))))
    if not Path(name_or_path).is_dir():
        raise FileNotFoundError(
            f"{str(name_or_path)!r} is neither a shipped model ({', '.join(SHIPPED_MODELS)}) nor the folder of a model"
            f" or a run (nor does it begin with one of {', '.join(_PREFIXES)})"
        )
    if _is_huggingface(Path(name_or_path)):
        raise ValueError(f"{name_or_path} is the folder of a model of Hugging Face's: name it hf:{name_or_path}")
    return load_compressed(_saved_in(Path(name_or_path)))


def folder_of(name_or_path: str | Path) -> Path | None:
    """Return the folder of the model that `load_model` reads; None for a shipped or a published model.

    Raises:
        FileNotFoundError: The folder holds no model.
    """
    name = str(name_or_path)
    for prefix in _PREFIXES:
        name = name.removeprefix(prefix)
    folder = Path(name).expanduser() if name != str(name_or_path) else Path(name)
    return None if name in SHIPPED_MODELS or not folder.is_dir() else _saved_in(folder)


def _saved_in(folder: Path) -> Path:
    """Return the folder of the saved model, given it or the folder of a run.

    Raises:
        FileNotFoundError: The folder holds no model.
    """
    for place in (folder, *(folder / name for name in MADE)):
        if (place / CONFIG_FILE).is_file():
            return place
    raise FileNotFoundError(
        f"{folder} holds no model: neither is it a saved model's folder, nor has a run put one in {' or '.join(MADE)}"
    )


def _is_huggingface(folder: Path) -> bool:
    try:
        config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and "model_type" in config
