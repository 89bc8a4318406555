"""The file in which a bridge remembers what the target has."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from understudyd.bridge.dedup.journal import Journal
from understudyd.bridge.dedup.memory import Change, Row


def test_a_journal_is_read_again(tmp_path: Path) -> None:
    file = tmp_path / "a.db"
    rows = [Row(1, b"a" * 16, True), Row(2, b"b" * 16, False), Row(3, b"c" * 16, False)]
    journal = Journal(file, "bridge a")
    assert journal.open() == []
    journal.write(Change(rows))
    journal.write(Change((), [2]))
    other = Journal(file, "bridge a")
    assert other.open() == []  # somebody has it
    journal.close()
    again = Journal(file, "bridge a")
    assert again.open() == [rows[0], rows[2]]
    again.write(Change((), (), 2))
    again.close()
    assert Journal(file, "bridge a").open() == [rows[2]]


def test_what_is_known_by_its_content_is_not_believed_after_the_machine_was_started_again(
    tmp_path: Path,
) -> None:
    file = tmp_path / "a.db"
    journal = Journal(file, "bridge a")
    journal.open()
    journal.write(Change([Row(1, b"a", True), Row(2, b"b", False)]))
    journal.close()
    with sqlite3.connect(file) as database:
        database.execute("UPDATE boot SET id = 'before'")
    database.close()
    again = Journal(file, "bridge a")
    assert again.open() == [Row(1, b"a", True)]
    again.close()


@pytest.mark.parametrize("content", [b"this is no database" * 100, None])
def test_a_journal_that_cannot_be_read_is_begun_anew(
    tmp_path: Path, content: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "a.db"
    if content is None:
        with sqlite3.connect(file) as database:
            database.execute("PRAGMA user_version = 99")
        database.close()
    else:
        file.write_bytes(content)
    journal = Journal(file, "bridge a")
    assert journal.open() == []
    assert "begun anew" in caplog.text
    journal.write(Change([Row(1, b"a", True)]))
    journal.close()
    again = Journal(file, "bridge a")
    assert again.open() == [Row(1, b"a", True)]
    again.close()


def test_without_room_it_goes_on_without_a_journal(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "a.db"
    journal = Journal(file, "bridge a")
    journal.open()
    journal.write(Change([Row(1, b"a", False)]))
    assert journal._database is not None
    journal._database.execute("PRAGMA max_page_count = 1")
    journal.write(Change([Row(n, b"x" * 4096, True) for n in range(2, 50)]))
    assert "is not written" in caplog.text
    journal.write(Change([Row(60, b"a", True)]))
    assert not file.exists()  # what was to be forgotten would come back with it


def test_a_folder_that_is_not_there_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    journal = Journal(tmp_path / "none" / "a.db", "bridge a")
    assert journal.open() == []
    assert "bridge a" in caplog.text


def test_no_write_waits_for_the_disk(tmp_path: Path) -> None:
    """All bridges of the process would wait with it: a disk may hang."""
    journal = Journal(tmp_path / "a.db", "bridge a")
    journal.open()
    assert journal._database is not None
    assert journal._database.execute("PRAGMA synchronous").fetchone() == (0,)
    journal.close()
