"""Files that are whole or not there, and errors that name them."""

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
    """Let an error of the operating system that names no file, as that of a full disk, name this one.

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
    """Write what a file is to hold to another one beside it, which is removed at the end unless it was moved.

    Args:
        path: The file, which stays as it is.
        content: A text is encoded in UTF-8.

    Yields:
        The other file: to be moved to its place by `Path.replace`.

    Raises:
        OSError: It cannot be written; the message names the file whose content it is.
    """
    target = Path(path)
    aside = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        with errors_name(target):
            aside.write_bytes(content.encode() if isinstance(content, str) else content)
        yield aside
    finally:
        with suppress(OSError):  # On a disk that cannot be written there is nothing to remove.
            aside.unlink()


def write_whole(path: str | os.PathLike[str], content: bytes | str) -> None:
    """Write a file that is either complete or as it was; a text is encoded in UTF-8.

    Raises:
        OSError: The file cannot be written; the message names it, and what was there before is still there.
    """
    with written_aside(path, content) as aside:
        aside.replace(path)


def parse_json(content: bytes | str) -> Any:
    """Return what a text in JSON says.

    Raises:
        ValueError: It is no JSON, or is nested too deeply to be read.
    """
    try:
        return json.loads(content)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def read_json_object(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the object that a file of JSON holds.

    Raises:
        ValueError: The file is no JSON, or holds something else.
        OSError: There is no such file, or it cannot be read.
    """
    try:
        content = parse_json(Path(path).read_bytes())
    except ValueError as error:
        raise ValueError(f"{path}: not JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: not a JSON object")
    return content
