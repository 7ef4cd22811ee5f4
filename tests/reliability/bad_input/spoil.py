"""Ways to damage a file."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

Spoil = Callable[[Path], object]


def unchanged(path: Path, use: Callable[[], object]) -> None:
    """Use a file, which must be as it was afterwards."""
    before = path.read_bytes() if path.is_file() else None
    try:
        use()
    finally:
        assert before is None or path.read_bytes() == before


def cut(share: float) -> Spoil:
    return lambda path: os.truncate(path, int(path.stat().st_size * share))


def replace_with(content: bytes) -> Spoil:
    return lambda path: path.write_bytes(content)


def change(path: Path, changes: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def without(path: Path, key: str) -> None:
    content = json.loads(path.read_text())
    del content[key]
    path.write_text(json.dumps(content))


PICKLE = pickle.dumps({"weight": [1.0]})
DEEP = b"[" * 100_000
