"""Export of models to other formats, for use without ShrinkML."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from shrinkml_env.compression import CompressibleModel, load_compressed, save_compressed
from shrinkml_env.data.utterance import Utterance
from shrinkml_env.export.check import check_programs, check_texts
from shrinkml_env.export.huggingface_folder import read_huggingface, write_huggingface
from shrinkml_env.export.onnx_program import write_onnx
from shrinkml_env.export.torch_program import write_torch

__all__ = ["FORMATS", "Format", "export_model"]


@dataclass(frozen=True, slots=True)
class Format:
    """An export format.

    Attributes:
        write: Writes a model's files into an existing folder.
        check: Loads the files in a folder and compares their transcripts with the model's; returns and raises what
            `export_model` does.
    """

    write: Callable[[CompressibleModel, Path], None]
    check: Callable[[CompressibleModel, Path, Iterable[Utterance]], list[str]]


def _check_safetensors(model: CompressibleModel, folder: Path, utterances: Iterable[Utterance]) -> list[str]:
    return check_texts(model, load_compressed(folder), utterances)


def _check_huggingface(model: CompressibleModel, folder: Path, utterances: Iterable[Utterance]) -> list[str]:
    return check_texts(model, read_huggingface(model, folder), utterances)


FORMATS = {
    "safetensors": Format(save_compressed, _check_safetensors),
    "torch": Format(write_torch, check_programs),
    "onnx": Format(write_onnx, check_programs),
    "huggingface": Format(write_huggingface, _check_huggingface),
}
"""Name -> format."""


def export_model(
    model: CompressibleModel, path: str | os.PathLike[str], format_name: str, utterances: Iterable[Utterance]
) -> list[str]:
    """Export a model, load the result as a user would, and check that its transcripts equal the model's.

    The folder gets its name only after the check has passed.

    Args:
        model: The model, compressed or not, on the CPU.
        path: A folder that does not exist yet.
        format_name: One of `FORMATS`.
        utterances: Utterances for the comparison.

    Returns:
        The ids of the utterances whose transcripts differ only by rounding, where two units are almost equally
        probable. All other transcripts are equal.

    Raises:
        FileExistsError: The folder exists.
        ImportError: A package that the format needs is not installed.
        ValueError: The format is unknown or does not support this model, or transcripts differ by more than rounding.
    """
    if format_name not in FORMATS:
        raise ValueError(f"there is no format {format_name!r}; the formats are {', '.join(FORMATS)}")
    folder = Path(path)
    if folder.exists():
        raise FileExistsError(f"{folder} exists: delete it, or choose another folder")
    # In the same parent folder, so that it can be moved; transformers imports from it, so its name must be importable.
    aside = folder.with_name(f"unchecked_{secrets.token_hex(4)}_{folder.name}")
    aside.mkdir(parents=True)
    try:
        FORMATS[format_name].write(model, aside)
        near_ties = FORMATS[format_name].check(model, aside, utterances)
        aside.replace(folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return near_ties
