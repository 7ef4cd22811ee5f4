"""The persistent cache of measurements."""

from __future__ import annotations

import csv
import json
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import platformdirs
from filelock import FileLock

from shrinkml_env.files import errors_name, parse_json

__all__ = ["CacheSummary", "EvaluationCache", "default_cache_path"]

_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS measurements "
    "(key TEXT PRIMARY KEY, value TEXT NOT NULL, subject TEXT NOT NULL, made REAL NOT NULL) WITHOUT ROWID"
)
_PATIENCE = (60.0, 600.0)
"""Seconds to wait for another process's lock, at the first and at the second try."""

_LOCKS = 4096
"""The number of lock files; every key belongs to one of them."""

_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR)
"""SQLite's error codes for a file that is truncated, is not a database, or has a table with other columns."""


def default_cache_path() -> Path:
    """Return ``$SHRINKML_CACHE``, or ``evaluations.sqlite`` in the user's cache folder."""
    configured = os.environ.get("SHRINKML_CACHE")
    return Path(configured) if configured else platformdirs.user_cache_path("shrinkml") / "evaluations.sqlite"


class CacheSummary(NamedTuple):
    """A summary of the measurements that a cache holds for one subject.

    Attributes:
        subject: Description of the model, utterance set and factorisation that were measured.
        measurements: Number of measurements.
        first: Time of the oldest one, seconds since 1970.
        last: Time of the newest one, seconds since 1970.
    """

    subject: str
    measurements: int
    first: float
    last: float


class EvaluationCache:
    """A key-value store in one SQLite file, safe for many processes at once and for a kill at any moment.

    It uses SQLite's rollback journal, not its write-ahead log, so that the file may lie on a network file system whose
    POSIX locks work; each entry is one transaction. Each process opens the file at its first use, so that a cache
    pickles. The folder ``PATH.locks`` holds lock files, which the operating system releases when a process dies.

    Every method raises a ValueError if the file is damaged or is not a cache, an OSError if it cannot be read or
    written, as on a full disk, and, except for `exclusive`, a TimeoutError if other processes keep it locked for many
    minutes. Each error names the file, which is left unchanged.

    Args:
        path: The file, which is created if it is missing; None for that of `default_cache_path`.
    """

    def __init__(self, path: str | Path | None = None) -> None:
        self.path = default_cache_path() if path is None else Path(path)
        self._connection: sqlite3.Connection | None = None
        self._owner = -1

    def get(self, key: str) -> dict[str, Any] | None:
        """Return the value stored under a key, or None if there is none."""
        row = self._execute("SELECT value FROM measurements WHERE key = ?", (key,)).fetchone()
        if row is None:
            return None
        try:
            value: dict[str, Any] = parse_json(row[0])
        except (TypeError, ValueError) as error:
            raise self._damaged(f"the measurement {key} is not JSON: {error}") from error
        return value

    def put(self, key: str, value: dict[str, Any], subject: str = "") -> None:
        """Store a measurement, unless the key has one already: equal keys mean equal measurements.

        Args:
            key: A content hash, hexadecimal.
            value: The measurement, JSON-able.
            subject: Description of what was measured, for `summary` and `prune`.
        """
        row = (key, json.dumps(value), subject, time.time())
        self._execute("INSERT OR IGNORE INTO measurements VALUES (?, ?, ?, ?)", row)

    @contextmanager
    def exclusive(self, keys: Iterable[str]) -> Iterator[None]:
        """Hold the locks of these keys, so that no other process measures one of them at the same time.

        It waits as long as another process holds them, since a measurement may take long.

        Look the keys up again inside the block: the process that held the locks before may have stored their values.
        """
        folder = self.path.with_name(self.path.name + ".locks")
        with errors_name(folder):
            folder.mkdir(parents=True, exist_ok=True)
        # In ascending order, so that two processes that want several cannot deadlock.
        with ExitStack() as stack:
            for number in sorted({int(key[:8], 16) % _LOCKS for key in keys}):
                stack.enter_context(FileLock(folder / f"{number:03x}", is_singleton=False))
            yield

    def summary(self) -> list[CacheSummary]:
        """Return one summary for each subject, the one with the latest measurement last."""
        query = "SELECT subject, COUNT(*), MIN(made), MAX(made) FROM measurements GROUP BY subject ORDER BY MAX(made)"
        return [CacheSummary(*row) for row in self._execute(query)]

    def prune(self, before: float = float("inf"), subject: str = "") -> int:
        """Delete measurements.

        Args:
            before: Delete those that were made before this time, seconds since 1970.
            subject: Delete those whose subject contains this text.

        Returns:
            The number of deleted measurements.
        """
        chosen = "made < ? AND instr(subject, ?)"
        deleted = self._execute(f"DELETE FROM measurements WHERE {chosen}", (before, subject)).rowcount
        self._execute("VACUUM")
        return deleted

    def export(self, file: TextIO) -> int:
        """Write all measurements as CSV (key, subject, made, value as JSON), and return their number."""
        writer = csv.writer(file)
        writer.writerow(("key", "subject", "made", "value"))
        rows = self._execute("SELECT key, subject, made, value FROM measurements ORDER BY made, key").fetchall()
        writer.writerows(rows)
        return len(rows)

    def __len__(self) -> int:
        return int(self._execute("SELECT COUNT(*) FROM measurements").fetchone()[0])

    def _execute(self, statement: str, values: tuple[Any, ...] = ()) -> sqlite3.Cursor:
        """Run one transaction, and retry it if the file is busy for long: a finished measurement must not be lost."""
        for patience in _PATIENCE:
            try:
                connection = self._open(patience)
                with connection:
                    return connection.execute(statement, values)
            except sqlite3.DatabaseError as error:
                kind = error.sqlite_errorcode & 0xFF  # the primary code; the other bits extend it
                if kind in _DAMAGED:
                    raise self._damaged(str(error)) from error
                if kind not in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                    raise OSError(
                        f"{self.path}: the evaluation cache cannot be used ({error}); nothing in it is damaged: make "
                        "room for it, or set SHRINKML_CACHE to a file that can be written"
                    ) from error
                busy = error
        raise TimeoutError(
            f"{self.path}: other processes have kept the evaluation cache locked for {sum(_PATIENCE):.0f} s ({busy}); "
            "nothing in it is damaged: try again when they are done, end the one that hangs, or set SHRINKML_CACHE"
        ) from busy

    def _open(self, patience: float) -> sqlite3.Connection:
        # A connection must not cross a fork.
        if self._connection is None or self._owner != os.getpid():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            connection = sqlite3.connect(self.path, timeout=patience, check_same_thread=False)
            with connection:
                connection.execute(_SCHEMA)
            self._connection, self._owner = connection, os.getpid()
        self._connection.execute(f"PRAGMA busy_timeout = {round(1000 * patience)}")
        return self._connection

    def _damaged(self, cause: str) -> ValueError:
        return ValueError(
            f"{self.path}: cannot be used as an evaluation cache ({cause}); delete it or set SHRINKML_CACHE"
        )

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["path"])  # type: ignore[misc]
