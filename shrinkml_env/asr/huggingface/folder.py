"""A model's folder as Hugging Face's libraries write it, without its weights."""

from __future__ import annotations

import base64
import importlib
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from shrinkml_env.data.torchaudio_compat import import_torchaudio
from shrinkml_env.files import parse_json

__all__ = ["LOCAL", "find_folder", "import_transformers", "model_type", "read_folder", "unpacked"]

LOCAL = {"local_files_only": True, "trust_remote_code": False}
"""How every file is read: from disk, and never as code."""

_FILES = (
    "config.json",
    "generation_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "normalizer.json",
    "tokenizer.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "added_tokens.json",
    "sentencepiece.bpe.model",
    "spm_char.model",
)
_IN_TOKENIZER_JSON = ("vocab.json", "merges.txt", "added_tokens.json")


def import_transformers() -> Any:
    """The module; imported after torchaudio, which it asks for and which may need its stand-in.

    Raises:
        ImportError: transformers is not installed.
    """
    import_torchaudio()
    try:
        return importlib.import_module("transformers")
    except ModuleNotFoundError as error:
        raise ImportError(
            "Hugging Face models need the package transformers: pip install 'shrinkml-env[hf]', or in a"
            " checkout pip install -c constraints.txt -e '.[hf]'"
        ) from error


def find_folder(name: str) -> Path:
    """A folder by its path, or that of a model on the Hugging Face Hub, fetched if need be.

    Raises:
        FileNotFoundError: It is neither.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    if not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name):
        raise FileNotFoundError(
            f"hf:{name}: no such folder, nor the name of a model on the Hugging Face Hub (ORG/NAME)"
        )
    import_transformers()
    hub = importlib.import_module("huggingface_hub")
    patterns = [*_FILES, "*.safetensors", "*.safetensors.index.json"]
    try:
        return Path(hub.snapshot_download(name, allow_patterns=patterns))
    except (OSError, ValueError) as error:
        raise FileNotFoundError(
            f"hf:{name}: no such folder, and not to be had from the Hugging Face Hub ({error})"
        ) from error


def read_folder(folder: Path) -> dict[str, str]:
    """File name -> content, base64 where it is binary, of what a model needs besides its weights.

    Raises:
        FileNotFoundError: There is no ``config.json``.
        ValueError: A file is not in UTF-8.
    """
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"{folder / 'config.json'}: no such file; a Hugging Face model's folder has it")
    names = [name for name in _FILES if (folder / name).is_file()]
    if "tokenizer.json" in names:
        names = [name for name in names if name not in _IN_TOKENIZER_JSON]
    return {name: _encode(folder / name) for name in names}


def _encode(file: Path) -> str:
    content = file.read_bytes()
    if file.suffix == ".model":
        return base64.b64encode(content).decode()
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file.name}: not a text in UTF-8 ({error})") from error


@contextmanager
def unpacked(files: Mapping[str, str]) -> Iterator[Path]:
    """A temporary folder with what `read_folder` read.

    Raises:
        ValueError: A file is none of those that a model needs.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for file, content in files.items():
            if file not in _FILES:
                raise ValueError(f"unexpected file {file!r}")
            binary = file.endswith(".model")
            (folder / file).write_bytes(base64.b64decode(content) if binary else content.encode())
        yield folder


def model_type(files: Mapping[str, str]) -> str:
    """What ``config.json`` says of the kind of model: ``"whisper"``.

    Raises:
        ValueError: It is not a JSON object with that key.
    """
    try:
        return str(parse_json(files["config.json"])["model_type"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"config.json: no model_type in it ({error!r})") from error
