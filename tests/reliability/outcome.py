"""What must be equal, byte for byte, of two runs of the same config."""

from __future__ import annotations

from pathlib import Path

TIMED = ("tensorboard", "agent", "config.yaml", "search.yaml")
"""Files that hold times of the clock, or where the outputs lie."""


def outcome(run: Path) -> dict[str, bytes]:
    """Return path -> content of all files of a run but the `TIMED` ones and the lock files."""
    files = [path for path in run.rglob("*") if path.is_file() and path.suffix != ".lock"]
    named = {str(path.relative_to(run)): path for path in files}
    return {name: path.read_bytes() for name, path in sorted(named.items()) if not set(TIMED) & set(Path(name).parts)}
