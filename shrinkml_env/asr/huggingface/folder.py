"""Reading of Hugging Face model folders, except their weights."""

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
"""Arguments for transformers: read files only from disk, and never run code in them."""

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
    """Import and return transformers, after torchaudio, which it needs and which `import_torchaudio` may repair.

    Raises:
        ImportError: transformers is not installed.
    """
    import_torchaudio()
    try:
        return importlib.import_module("transformers")
    except ModuleNotFoundError as error:
        raise ImportError(
            "Hugging Face models need the package transformers: pip install 'shrinkml-env[hf]'"
        ) from error


def find_folder(name: str) -> Path:
    """Return a model's folder, given its path or its name on the Hugging Face Hub; a model is downloaded if necessary.

    Raises:
        FileNotFoundError: The name is neither a folder nor a model that can be downloaded.
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
            f"hf:{name}: no such folder, and the Hugging Face Hub could not provide it ({error})"
        ) from error


def read_folder(folder: Path) -> dict[str, str]:
    """Read the files of a model except its weights: file name -> content, base64 for binary files.

    Raises:
        FileNotFoundError: There is no ``config.json``.
        ValueError: A text file is not in UTF-8.
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
    """Write the files that `read_folder` returned to a temporary folder, for the time of the context.

    Raises:
        ValueError: A file name is not one that `read_folder` reads.
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
    """Return the ``model_type`` in ``config.json``, such as ``"whisper"``.

    Raises:
        ValueError: ``config.json`` is not a JSON object with this key.
    """
    try:
        return str(parse_json(files["config.json"])["model_type"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"config.json: no model_type in it ({error!r})") from error
