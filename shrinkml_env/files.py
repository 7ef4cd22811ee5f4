"""Files that are either complete or not there."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["write_file"]


def write_file(path: Path, content: str | bytes) -> None:
    """Write a file aside and move it into its place, so that nobody ever sees a part of it.

    Args:
        path: Where; its folder must exist. A file that is there is replaced.
        content: Text, which is written in UTF-8 as it is, or bytes.
    """
    # Several processes of one run may arrive together.
    aside = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        aside.write_bytes(content.encode() if isinstance(content, str) else content)
        os.replace(aside, path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
