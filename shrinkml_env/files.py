"""Atomic writing and checked reading of files, and files of lines that survive a kill."""

from __future__ import annotations

import glob
import io
import json
import os
import platform
import secrets
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.lib.npyio import NpzFile

__all__ = [
    "append_lines",
    "errors_name",
    "open_arrays",
    "parse_json",
    "read_json_object",
    "read_lines",
    "write_atomic",
    "written_aside",
]


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
    # Processes of several machines that share a disk may have the same number, and threads have that of their process.
    aside = target.with_name(f"{_begin_of_asides(target)}{os.getpid()}-{secrets.token_hex(4)}")
    _remove_leftovers(target)
    try:
        with errors_name(target):
            aside.write_bytes(content.encode() if isinstance(content, str) else content)
        yield aside
    finally:
        with suppress(OSError):  # it does not exist if the disk cannot be written
            aside.unlink()


def _begin_of_asides(target: Path) -> str:
    """Return how the names of a file's temporary files begin that processes of this machine write."""
    return f".{target.name}.{platform.node()}-{_process_namespace()}"


def _process_namespace() -> str:
    """Return what tells containers of one machine apart, which number their processes independently."""
    with suppress(OSError):  # elsewhere than on Linux there is no such file
        return f"{os.stat('/proc/self/ns/pid').st_ino}-"
    return ""


def _remove_leftovers(target: Path) -> None:
    """Remove the temporary files of a file whose processes were killed."""
    begin = _begin_of_asides(target)
    with suppress(OSError):
        for path in target.parent.glob(f"{glob.escape(begin)}*"):
            process = path.name.removeprefix(begin).partition("-")[0]
            if process.isdecimal() and not _is_running(int(process)):
                path.unlink(missing_ok=True)


def _is_running(process: int) -> bool:
    """Return whether a process of this machine is running, by its number; on Windows, where it is not known, True."""
    if os.name == "nt":
        return True
    try:
        os.kill(process, 0)  # sends nothing
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def write_atomic(path: str | os.PathLike[str], content: bytes | str) -> None:
    """Write a file atomically: a failure leaves its old content. A text is encoded in UTF-8.

    Raises:
        OSError: The file cannot be written; the message names it.
    """
    with written_aside(path, content) as aside:
        aside.replace(path)


def append_lines(path: str | os.PathLike[str], lines: Sequence[str], header: str = "") -> None:
    """Append lines to a file; they are on disk when the function returns.

    A kill can leave the last line incomplete: such a line is removed first. The caller keeps other writers out.

    Args:
        path: The file; its folder must exist.
        lines: Lines without their ends.
        header: The first line of a file that has none yet; by default the first of `lines`.

    Raises:
        OSError: The file cannot be written; the message names it.
    """
    with errors_name(path), open(path, "a+b") as file:
        whole = _end_of_lines(file)
        if whole < file.seek(0, os.SEEK_END):
            file.truncate(whole)
        written = [header, *lines] if header and not whole else lines
        file.write("".join(f"{line}\n" for line in written).encode())
        file.flush()
        os.fsync(file.fileno())


def read_lines(path: str | os.PathLike[str]) -> tuple[list[bytes], bytes]:
    """Return the lines of a file without their ends, and what follows the last end: nothing, or an incomplete line."""
    *lines, torn = Path(path).read_bytes().split(b"\n")
    return lines, torn


def _end_of_lines(file: BinaryIO) -> int:
    """Return the number of bytes up to and including the last newline."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - 1))
    if file.read() in (b"\n", b""):
        return size
    file.seek(0)
    return file.read().rfind(b"\n") + 1


def open_arrays(content: bytes) -> NpzFile:
    """Open the content of a NumPy archive (.npz), of which no object is unpickled.

    Raises:
        ValueError: It is no such archive.
        zipfile.BadZipFile: It is damaged.
    """
    # NumPy takes anything else for a pickle, and says how to trust it.
    if not zipfile.is_zipfile(io.BytesIO(content)):
        raise ValueError("it is no .npz file")
    archive: NpzFile = np.load(io.BytesIO(content), allow_pickle=False)
    return archive


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
