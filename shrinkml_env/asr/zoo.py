"""Models by name or folder."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from shrinkml_env.compression import CompressibleModel, load_compressed

__all__ = ["SHIPPED_MODELS", "load_model"]

SHIPPED_MODELS = ("las_small",)
"""Names of the models that come with the package."""


def load_model(name_or_path: str | Path) -> CompressibleModel:
    """A recogniser in evaluation mode, on the CPU.

    Args:
        name_or_path: One of `SHIPPED_MODELS`, or the folder of a saved model, compressed or not.

    Raises:
        FileNotFoundError: Neither.
        ValueError: The folder's files are not a model.
    """
    if name_or_path in SHIPPED_MODELS:
        return load_compressed(Path(str(files("shrinkml_env") / "assets" / "models" / str(name_or_path))))
    if not Path(name_or_path).is_dir():
        raise FileNotFoundError(
            f"{str(name_or_path)!r} is neither a shipped model ({', '.join(SHIPPED_MODELS)}) nor a model's folder"
        )
    return load_compressed(Path(name_or_path))
