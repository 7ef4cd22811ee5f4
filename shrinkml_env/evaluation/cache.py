"""Measurements that outlive the process."""

from __future__ import annotations

import json
import os
import sqlite3
from pathlib import Path
from typing import Any

import platformdirs

__all__ = ["EvaluationCache", "default_cache_path"]

_SCHEMA = "CREATE TABLE IF NOT EXISTS evaluations (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID"
_PATIENCE = 60.0


def default_cache_path() -> Path:
    """``$SHRINKML_CACHE``, or ``evaluations.sqlite`` in the user's cache folder."""
    configured = os.environ.get("SHRINKML_CACHE")
    return Path(configured) if configured else platformdirs.user_cache_path("shrinkml") / "evaluations.sqlite"


class EvaluationCache:
    """A key-value store in one SQLite file, safe for many processes at once and for a kill at any moment.

    Uses SQLite's rollback journal (not its write-ahead log, which network file systems do not support); each entry is
    one transaction. The file is opened at the first use in each process, so that a cache pickles.

    Args:
        path: The file; made when it is missing.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._connection: sqlite3.Connection | None = None
        self._owner = -1

    def get(self, key: str) -> dict[str, Any] | None:
        """The value stored under a key."""
        row = self._open().execute("SELECT value FROM evaluations WHERE key = ?", (key,)).fetchone()
        return None if row is None else json.loads(row[0])

    def put(self, key: str, value: dict[str, Any]) -> None:
        """Store a JSON-able value; one that is there already stays, since equal keys mean equal measurements."""
        with self._open() as connection:
            connection.execute("INSERT OR IGNORE INTO evaluations VALUES (?, ?)", (key, json.dumps(value)))

    def __len__(self) -> int:
        return int(self._open().execute("SELECT COUNT(*) FROM evaluations").fetchone()[0])

    def _open(self) -> sqlite3.Connection:
        # A connection must not cross a fork.
        if self._connection is None or self._owner != os.getpid():
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                connection = sqlite3.connect(self.path, timeout=_PATIENCE, check_same_thread=False)
                with connection:
                    connection.execute(_SCHEMA)
            except (OSError, sqlite3.DatabaseError) as error:
                raise ValueError(
                    f"{self.path}: cannot be used as an evaluation cache ({error}); delete it or set SHRINKML_CACHE"
                ) from error
            self._connection, self._owner = connection, os.getpid()
        return self._connection

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["path"])  # type: ignore[misc]

    def __deepcopy__(self, memo: dict[int, Any]) -> EvaluationCache:
        return EvaluationCache(self.path)
