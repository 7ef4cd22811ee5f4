"""Damage to saved models."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor


def put_tensor(directory: Path, name: str, tensor: Tensor | None) -> None:
    """Write another tensor, or none, under a name in a saved model."""
    file = directory / "model.safetensors"
    tensors = load_file(file)
    tensors.pop(name, None)
    if tensor is not None:
        tensors[name] = tensor
    save_file(tensors, file)
