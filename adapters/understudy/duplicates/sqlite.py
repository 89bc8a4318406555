"""Ids in a SQLite file, for all processes of one machine; one file for each window.

A file on a local disk: SQLite's locks cannot be relied upon on network filesystems. What was done
in the last moment before a power failure may be forgotten, and is then processed again.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator

from understudy.duplicates.store import DEFAULT_AGE, DEFAULT_LIMIT, Verdict, check_bounds
from understudy.errors import ConfigurationError
from understudy.failover import forking
from understudy.failover.deadline import Deadline

__all__ = ["SQLiteStore"]

BUSY_TIMEOUT = 5.0  # s to wait for another process's transaction; one takes well below 10 ms
SLICE = 0.05  # s of that with our lock held, which a fork and our other threads wait for
BREAK = 0.001  # s between two slices, so that those get it

SCHEMA = """
CREATE TABLE IF NOT EXISTS done (
    number INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT NOT NULL UNIQUE, at REAL NOT NULL);
CREATE INDEX IF NOT EXISTS done_at ON done (at);
CREATE TABLE IF NOT EXISTS claims (
    key TEXT PRIMARY KEY, owner TEXT NOT NULL, until REAL NOT NULL) WITHOUT ROWID;
"""

_inherited: list[
    sqlite3.Connection
] = []  # of our parents: SQLite forbids a child even to close them


class SQLiteStore:
    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        limit: int | None = DEFAULT_LIMIT,
        age: float | None = DEFAULT_AGE,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Remember at most ``limit`` ids, for at most ``age`` seconds; None = no such bound.

        The file is made at first use. All users of a file should agree on the bounds. Raises
        ConfigurationError when the folder does not exist.
        """
        check_bounds(limit, age)
        self._path = os.fspath(path)
        folder = os.path.dirname(os.path.abspath(self._path))
        if not os.path.isdir(folder):
            raise ConfigurationError(f"SQLiteStore: the folder {folder} does not exist; make it")
        self._limit = limit
        self._age = age
        self._clock = clock  # of the whole machine, unlike the monotonic one over a restart
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        forking.register(self)

    def __repr__(self) -> str:
        return f"<SQLiteStore {self._path}>"

    def claim(self, key: str, owner: str, lease: float, *, take_over: bool = False) -> Verdict:
        with self._transaction() as connection:
            now = self._clock()
            if self._is_done(connection, key, now):
                return Verdict.DONE
            found = connection.execute(
                "SELECT 1 FROM claims WHERE key = ? AND owner <> ? AND until > ?", (key, owner, now)
            ).fetchone()
            if found is not None and not take_over:
                return Verdict.BUSY
            connection.execute(
                "INSERT OR REPLACE INTO claims VALUES (?, ?, ?)", (key, owner, now + lease)
            )
            return Verdict.CLAIMED

    def done(self, key: str, owner: str) -> None:
        with self._transaction() as connection:
            now = self._clock()
            connection.execute("DELETE FROM claims WHERE key = ? OR until <= ?", (key, now))
            newest = connection.execute(
                "INSERT OR REPLACE INTO done (key, at) VALUES (?, ?)", (key, now)
            ).lastrowid
            if self._limit is not None and newest is not None:
                connection.execute("DELETE FROM done WHERE number <= ?", (newest - self._limit,))
            if self._age is not None:
                connection.execute("DELETE FROM done WHERE at <= ?", (now - self._age,))

    def release(self, key: str, owner: str) -> None:
        with self._transaction() as connection:
            connection.execute("DELETE FROM claims WHERE key = ? AND owner = ?", (key, owner))

    def is_done(self, key: str) -> bool:
        with self._transaction() as connection:
            return self._is_done(connection, key, self._clock())

    def close(self) -> None:
        with self._lock:
            connection, self._connection = self._connection, None
            if connection is not None:
                connection.close()

    def _is_done(self, connection: sqlite3.Connection, key: str, now: float) -> bool:
        row = connection.execute("SELECT at FROM done WHERE key = ?", (key,)).fetchone()
        return row is not None and (self._age is None or row[0] > now - self._age)

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """Alone among all threads and processes; nothing is changed when the block fails."""
        patience = Deadline(BUSY_TIMEOUT)
        while True:
            with self._lock:
                try:
                    connection = self._begin()
                except sqlite3.OperationalError as exc:
                    if "locked" not in str(exc) or patience.remaining() == 0:
                        raise
                else:
                    try:
                        yield connection
                        connection.execute("COMMIT")
                    except BaseException:
                        with contextlib.suppress(sqlite3.Error):  # at times SQLite has done it
                            connection.execute("ROLLBACK")
                        raise
                    return
            time.sleep(BREAK)

    def _begin(self) -> sqlite3.Connection:
        if self._connection is None:
            self._connection = self._open()
        self._connection.execute("BEGIN IMMEDIATE")
        return self._connection

    def _open(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self._path, timeout=SLICE, isolation_level=None, check_same_thread=False
        )
        try:
            with contextlib.suppress(sqlite3.OperationalError):  # another process is just doing it
                connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")
            connection.executescript(f"BEGIN IMMEDIATE; {SCHEMA} COMMIT;")
        except BaseException:
            connection.close()
            raise
        return connection

    # --- fork safety ----------------------------------------------------------------------------

    def hold(self) -> None:
        self._lock.acquire()

    def let_go(self) -> None:
        self._lock.release()

    def abandon(self) -> None:
        self._lock = threading.Lock()
        if self._connection is not None:
            _inherited.append(self._connection)
            self._connection = None
