"""Writes down what a memory holds, so that it outlives the process.

Rules
* Written before the source is told: what is missing is sent once more. A write reaches the kernel,
  and asks for no more (`scribe` minds that it may take long anyway): it outlives a ``kill -9`` of
  the bridge, and after a crash of the machine any of it may be missing. As that may be what was to
  be forgotten, what is known by its content alone is not believed then.
* A file that cannot be read or written is begun anew, or done without, and that is told; the bridge
  goes on either way.
* One process at a time has it open.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
from pathlib import Path

from understudyd.bridge.dedup.memory import Change, Row

__all__ = ["Journal"]

FORMAT = 1
BOOT = Path("/proc/sys/kernel/random/boot_id")
_TABLES = """
CREATE TABLE IF NOT EXISTS ids (serial INTEGER PRIMARY KEY, key BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS contents (serial INTEGER PRIMARY KEY, key BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS boot (id TEXT NOT NULL);
"""

_log = logging.getLogger("understudyd.bridge")


class Journal:
    """One file, of one link."""

    def __init__(self, file: Path, about: str) -> None:
        """``about`` is who it belongs to, for the log."""
        self._file = file
        self._about = about
        self._database: sqlite3.Connection | None = None

    def __str__(self) -> str:
        return f"{self._about}: {self._file}"

    def open(self) -> list[Row]:
        """What was written; nothing where there is no file yet, or it cannot be used."""
        try:
            return self._open()
        except (sqlite3.DatabaseError, OSError) as error:
            if isinstance(error, (sqlite3.OperationalError, OSError)):  # locked, full, not ours
                self._do_without(error)
                return []
            _log.error("%s: %s cannot be read and is begun anew: %s", *self._named(error))
        self._remove()
        try:
            return self._open()
        except (sqlite3.Error, OSError) as error:
            self._do_without(error)
            return []

    def write(self, *changes: Change) -> None:
        """All of them or none, in order."""
        if self._database is None:
            return
        try:
            with self._database as database:
                for change in changes:
                    _write(database, change)
        except sqlite3.Error as error:
            self._do_without(error)
            self._remove()  # or a later process would believe what was to be forgotten

    def close(self) -> None:
        if self._database is not None:
            with contextlib.suppress(sqlite3.Error):
                self._database.close()
            self._database = None

    def _open(self) -> list[Row]:
        database = self._database = sqlite3.connect(self._file, timeout=0, check_same_thread=False)
        database.execute("PRAGMA synchronous = OFF")
        (found,) = database.execute("PRAGMA user_version").fetchone()
        if found not in (0, FORMAT):
            raise sqlite3.DatabaseError(f"its format is {found}, not {FORMAT}")
        database.execute("PRAGMA locking_mode = EXCLUSIVE")
        database.execute("PRAGMA journal_mode = WAL")
        with database:
            database.executescript(_TABLES)
            database.execute(f"PRAGMA user_version = {FORMAT}")
            self._begin(database)
        found = database.execute(
            "SELECT serial, key, 1 FROM ids UNION ALL SELECT serial, key, 0 FROM contents"
            " ORDER BY serial"
        )
        return [Row(serial, bytes(key), bool(has_id)) for serial, key, has_id in found]

    @staticmethod
    def _begin(database: sqlite3.Connection) -> None:
        """Believe no contents of before the machine was started."""
        now = BOOT.read_text(encoding="ascii").strip() if BOOT.exists() else ""
        before = database.execute("SELECT id FROM boot").fetchone()
        if before != (now,) or not now:
            database.execute("DELETE FROM contents")
            database.execute("DELETE FROM boot")
            database.execute("INSERT INTO boot VALUES (?)", (now,))

    def _do_without(self, error: Exception) -> None:
        _log.error("%s: %s is not written, until a restart: %s", *self._named(error))
        self.close()

    def _remove(self) -> None:
        self.close()
        for suffix in ("", "-wal", "-shm"):
            with contextlib.suppress(OSError):
                self._file.with_name(self._file.name + suffix).unlink(missing_ok=True)

    def _named(self, error: Exception) -> tuple[str, Path, Exception]:
        return (self._about, self._file, error)


def _write(database: sqlite3.Connection, change: Change) -> None:
    ids = [row[:2] for row in change.added if row.has_id]
    contents = [row[:2] for row in change.added if not row.has_id]
    gone = [(serial,) for serial in change.gone]
    database.executemany("INSERT OR REPLACE INTO ids VALUES (?, ?)", ids)
    database.executemany("INSERT OR REPLACE INTO contents VALUES (?, ?)", contents)
    database.executemany("DELETE FROM contents WHERE serial = ?", gone)
    if change.ids_below:
        database.execute("DELETE FROM ids WHERE serial < ?", (change.ids_below,))
