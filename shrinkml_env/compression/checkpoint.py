"""Models on disk: a directory with `model.safetensors` and `config.json`."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from shrinkml_env.compression.compress import replace_matrices
from shrinkml_env.compression.counting import inference_tensors
from shrinkml_env.compression.discovery import ranks_of
from shrinkml_env.compression.layers import matrix_ranks
from shrinkml_env.compression.protocol import CompressibleModel
from shrinkml_env.compression.svd import Factors

__all__ = [
    "architectures",
    "exact_storage_dtype",
    "load_compressed",
    "register_architecture",
    "require_storable",
    "round_to_storage",
    "save_compressed",
]

FORMAT_VERSION = 1
CONFIG_FILE = "config.json"
TENSOR_FILE = "model.safetensors"
STORAGE_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
CONFIG_TYPES = {"format_version": int, "architecture": str, "config": dict, "ranks": dict, "storage_dtype": str}

architectures: dict[str, type[CompressibleModel]] = {}
"""Architecture name -> class, as `register_architecture` fills it."""

ClassT = TypeVar("ClassT", bound=type[CompressibleModel])


def register_architecture(name: str) -> Callable[[ClassT], ClassT]:
    """Class decorator: saved models of this class are loaded again under this name, its `architecture`.

    Raises:
        ValueError: Another class has the name.
    """

    def register(cls: ClassT) -> ClassT:
        known = architectures.get(name)
        if known is not None and (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
            raise ValueError(f"architecture {name!r} is registered already: {known.__module__}.{known.__qualname__}")
        cls.architecture = name
        architectures[name] = cls
        return cls

    return register


def exact_storage_dtype(tensors: Iterable[Tensor]) -> torch.dtype:
    """The smallest number format, of those that a file may have, that represents all tensors exactly."""
    tensors = list(tensors)
    for dtype in (torch.float16, torch.bfloat16):
        if all(torch.equal(tensor.to(dtype).to(tensor.dtype), tensor) for tensor in tensors):
            return dtype
    return torch.float32


@torch.no_grad()
def round_to_storage(model: CompressibleModel) -> None:
    """Round a model's parameters, in place, to what its `storage_dtype` represents.

    To be called after training and before anything is measured, so that what is measured is what is saved.

    Raises:
        ValueError: A parameter is not finite, or lies outside the format's range.
    """
    for name, tensor in inference_tensors(model).items():
        stored = tensor.to(_stored_dtype(tensor, model.storage_dtype))
        if not stored.isfinite().all():
            raise ValueError(f"parameter {name!r} holds NaN, infinity or values beyond the range of {stored.dtype}")
        tensor.copy_(stored)


def require_storable(model: CompressibleModel) -> None:
    """Check that a saved file would hold exactly this model.

    Raises:
        ValueError: The model's `storage_dtype` does not represent a parameter exactly.
    """
    for name, tensor in inference_tensors(model).items():
        stored = tensor.to(_stored_dtype(tensor, model.storage_dtype))
        if not torch.equal(stored.to(tensor.dtype), tensor):
            raise ValueError(
                f"parameter {name!r} holds values that {model.storage_dtype} does not represent exactly: call"
                " round_to_storage(model), then measure and save it"
            )


def _stored_dtype(tensor: Tensor, storage_dtype: torch.dtype) -> torch.dtype:
    """Floating-point parameters are stored in `storage_dtype`, buffers as they are."""
    return storage_dtype if isinstance(tensor, nn.Parameter) and tensor.is_floating_point() else tensor.dtype


def save_compressed(model: CompressibleModel, path: str | os.PathLike[str]) -> None:
    """Write a model, compressed or not, to a directory, in place of a model that is there.

    The tensors that inference does not use are left out. `config.json` is written last: without it the directory is
    not a model, so one that was being written when the process died is never mistaken for one.

    Raises:
        ValueError: The model's class is not registered, or `storage_dtype` does not represent a parameter exactly.
    """
    if architectures.get(model.architecture) is not type(model):
        raise ValueError(f"{type(model).__name__} is not registered: decorate it with @register_architecture(name)")
    require_storable(model)
    tensors = {}
    for name, tensor in inference_tensors(model).items():
        tensor_dtype = _stored_dtype(tensor, model.storage_dtype)
        tensors[name] = tensor.detach().to("cpu", tensor_dtype, copy=True, memory_format=torch.contiguous_format)
    config = {
        "format_version": FORMAT_VERSION,
        "architecture": model.architecture,
        "config": model.to_config(),
        "ranks": ranks_of(model),
        "storage_dtype": str(model.storage_dtype).removeprefix("torch."),
    }
    config_bytes = (json.dumps(config, indent=2, ensure_ascii=False) + "\n").encode()
    directory = Path(path)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / CONFIG_FILE).unlink(missing_ok=True)
    _write(directory / TENSOR_FILE, save(tensors))
    _write(directory / CONFIG_FILE, config_bytes)


def _write(file: Path, content: bytes) -> None:
    """Write a file that is either complete or not there."""
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        temporary.write_bytes(content)
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)


def load_compressed(path: str | os.PathLike[str]) -> CompressibleModel:
    """Read what `save_compressed` wrote: a model of the saved class, in evaluation mode, float32 on the CPU.

    It needs neither the original nor a search, only the registered class. What only training uses is as `from_config`
    made it.

    Raises:
        FileNotFoundError: The directory or one of its two files is missing.
        ValueError: A file is malformed, or does not fit the architecture; the message names file and key or tensor.
    """
    directory = Path(path)
    config_file, tensor_file = directory / CONFIG_FILE, directory / TENSOR_FILE
    for file in config_file, tensor_file:
        if not file.is_file():
            raise FileNotFoundError(f"{file}: no such file; a saved model is a directory with this file in it")
    config = _read_config(config_file)
    storage_dtype = STORAGE_DTYPES[config["storage_dtype"]]
    model = _build(config, config_file)
    model.storage_dtype = storage_dtype
    _load_tensors(model, tensor_file)
    cast(nn.Module, model).eval()
    return model


def _read_config(file: Path) -> dict[str, Any]:
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file}: not JSON: {error}") from error
    if not isinstance(config, dict):
        raise ValueError(f"{file}: not a JSON object")
    if config.get("format_version") != FORMAT_VERSION:
        raise ValueError(f"{file}: key 'format_version' must be {FORMAT_VERSION}, got {config.get('format_version')!r}")
    for key, expected in CONFIG_TYPES.items():
        if key not in config:
            raise ValueError(f"{file}: key {key!r} is missing")
        if type(config[key]) is not expected:
            raise ValueError(f"{file}: key {key!r} must be of type {expected.__name__}, got {config[key]!r}")
    for key in config:
        if key not in CONFIG_TYPES:
            raise ValueError(f"{file}: unknown key {key!r}")
    for key, choices in ("architecture", architectures), ("storage_dtype", STORAGE_DTYPES):
        if config[key] not in choices:
            raise ValueError(f"{file}: unknown {key} {config[key]!r}; known are {', '.join(choices)}")
    return config


def _build(config: dict[str, Any], file: Path) -> CompressibleModel:
    """The model with low-rank modules at the recorded ranks, its tensors still to be loaded."""
    try:
        with torch.random.fork_rng(devices=[]):  # Loading must not shift the caller's random numbers.
            model = architectures[config["architecture"]].from_config(config["config"])
    except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"{file}: key 'config' does not fit {config['architecture']!r}: {error!r}") from error
    ranks = config["ranks"]
    try:
        factored = matrix_ranks(model.layers, ranks)
    except (OverflowError, TypeError, ValueError) as error:
        raise ValueError(f"{file}: key 'ranks': {error}") from error
    for name, rank in ranks.items():
        if factored.get(name) != rank:
            raise ValueError(f"{file}: key 'ranks': {name!r} is not a matrix that rank {rank} factors")
    matrices = {matrix.name: matrix for layer in model.layers for matrix in layer.matrices}
    return replace_matrices(
        model,
        {
            name: Factors(u=torch.zeros(matrices[name].rows, rank), v=torch.zeros(rank, matrices[name].columns))
            for name, rank in factored.items()
        },
    )


@torch.no_grad()
def _load_tensors(model: CompressibleModel, file: Path) -> None:
    try:
        tensors = load(file.read_bytes())
    except SafetensorError as error:
        raise ValueError(f"{file}: not a complete safetensors file: {error}") from error
    expected = inference_tensors(model)
    for name in tensors:
        if name not in expected:
            raise ValueError(f"{file}: unexpected tensor {name!r}: the architecture at these ranks has none")
    for name, target in expected.items():
        if name not in tensors:
            raise ValueError(f"{file}: tensor {name!r} is missing")
        tensor, dtype = tensors[name], _stored_dtype(target, model.storage_dtype)
        if tensor.shape != target.shape or tensor.dtype != dtype:
            found = f"{tensor.dtype} {tuple(tensor.shape)}"
            raise ValueError(f"{file}: tensor {name!r} must be {dtype} {tuple(target.shape)}, got {found}")
        target.copy_(tensor)
