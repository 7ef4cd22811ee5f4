"""Atomic writing and checked reading of files."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

__all__ = ["errors_name", "parse_json", "read_json_object", "write_whole", "written_aside"]


@contextmanager
def errors_name(path: str | os.PathLike[str]) -> Iterator[None]:
    """Add a file's name to an `OSError` that has none, such as that of a full disk.

    Raises:
        OSError: The same error, with the file's name.
    """
    try:
        yield
    except OSError as error:
        if error.filename is not None or error.errno is None:
            raise
        raise OSError(error.errno, os.strerror(error.errno), str(path)) from error


@contextmanager
def written_aside(path: str | os.PathLike[str], content: bytes | str) -> Iterator[Path]:
    """Write the content of a file to a temporary file beside it, which is removed at the end unless it was moved.

    Args:
        path: The file, which is not changed.
        content: Bytes, or a text, which is encoded in UTF-8.

    Yields:
        The temporary file; move it to `path` by `Path.replace`.

    Raises:
        OSError: The temporary file cannot be written; the message names `path`.
    """
    target = Path(path)
    aside = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        with errors_name(target):
            aside.write_bytes(content.encode() if isinstance(content, str) else content)
        yield aside
    finally:
        with suppress(OSError):  # it does not exist if the disk cannot be written
            aside.unlink()


def write_whole(path: str | os.PathLike[str], content: bytes | str) -> None:
    """Write a file atomically: a failure leaves its old content. A text is encoded in UTF-8.

    Raises:
        OSError: The file cannot be written; the message names it.
    """
    with written_aside(path, content) as aside:
        aside.replace(path)


def parse_json(content: bytes | str) -> Any:
    """Parse a JSON text.

    Raises:
        ValueError: The text is not JSON, or is nested too deeply.
    """
    try:
        return json.loads(content)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def read_json_object(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the object in a JSON file.

    Raises:
        ValueError: The file is not JSON, or its content is not an object.
        OSError: The file does not exist or cannot be read.
    """
    try:
        content = parse_json(Path(path).read_bytes())
    except ValueError as error:
        raise ValueError(f"{path}: not JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: not a JSON object")
    return content
