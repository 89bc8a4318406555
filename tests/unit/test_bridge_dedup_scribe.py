"""A journal on a disk that hangs: its link waits, the loop does not (43)."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path

import pytest

from understudyd.bridge import diskthread
from understudyd.bridge.dedup import scribe as module
from understudyd.bridge.dedup.filter import Filter
from understudyd.bridge.dedup.journal import Journal
from understudyd.bridge.dedup.memory import Change, Row
from understudyd.bridge.dedup.scribe import Scribe
from understudyd.bridge.dialects import RABBITMQ_AMQP
from understudyd.bridge.ends.port import ConnectionFailed, SourceHooks
from understudyd.bridge.ledger import Ledger
from understudyd.testing.spool_bench import RestlessSource, amqp

PATIENCE = 30.0  # s


class Hanging(Journal):
    """On a disk that answers when the test says so."""

    def __init__(self, file: Path) -> None:
        super().__init__(file, "bridge b")
        self.answers = threading.Event()
        self.answers.set()
        self.turns: list[int] = []  # changes that were written in one go

    def write(self, *changes: Change) -> None:
        assert self.answers.wait(PATIENCE)
        self.turns.append(len(changes))
        super().write(*changes)


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Hanging]:
    made = Hanging(tmp_path / "a.db")
    yield made
    made.answers.set()  # or the thread would not end
    made.close()


def run(scenario: Callable[[], Coroutine[None, None, None]]) -> None:
    asyncio.run(asyncio.wait_for(scenario(), PATIENCE))


def row(number: int) -> Change:
    return Change([Row(number, b"%d" % number, True)])


async def confirmed(kept: Filter) -> Ledger:
    """One that took a message and had it confirmed."""
    source = RestlessSource(SourceHooks(lambda _: None, lambda _: None))
    source.dialect = RABBITMQ_AMQP
    ledger = Ledger()
    await kept.begin(ledger)
    kept.sift([amqp(1, b"a")], source)
    ledger.take([1], [(b"", b"", b"", 0)], 0.0)
    ledger.send()
    ledger.confirm([(1, 0, True)])
    kept.confirmed(ledger)
    return ledger


def test_what_follows_a_change_waits_until_it_is_written(journal: Hanging) -> None:
    async def scenario() -> None:
        scribe, done = Scribe(journal), list[str]()
        await scribe.open()
        scribe.write(Change(), lambda: done.append("nothing to write"))
        assert done == ["nothing to write"]
        journal.answers.clear()
        scribe.write(row(1), lambda: done.append("first"))
        await asyncio.sleep(0.01)
        scribe.write(row(2))
        scribe.write(Change(), lambda: done.append("second"))
        await asyncio.sleep(0.01)  # the loop goes on
        assert done == ["nothing to write"]
        assert not scribe.is_idle
        journal.answers.set()
        await scribe.written()
        assert done == ["nothing to write", "first", "second"]
        assert journal.turns == [1, 2]
        await scribe.close()

    run(scenario)
    assert [one.serial for one in journal.open()] == [1, 2]


def test_what_fails_after_a_change_keeps_nothing_else_from_being_written(
    journal: Hanging, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        scribe, done = Scribe(journal), list[str]()

        def fail() -> None:
            raise ZeroDivisionError

        await scribe.open()
        scribe.write(row(1), fail)
        scribe.write(Change(), lambda: done.append("beside it"))
        await scribe.written()
        scribe.write(row(2), lambda: done.append("later"))
        await scribe.written()
        assert done == ["beside it", "later"]
        await scribe.close()

    run(scenario)
    assert caplog.text.count("unexpected: ") == 1


def test_a_source_is_told_and_closed_when_the_journal_is_written(journal: Hanging) -> None:
    async def scenario() -> None:
        kept, told = Filter(journal), list[object]()

        async def close() -> None:
            told.append("closed")

        await confirmed(kept)
        journal.answers.clear()
        kept.acknowledge(1, told.append)
        kept.follow(lambda: told.append("widened"))
        goodbye = asyncio.ensure_future(kept.leave(close))
        await asyncio.sleep(0.01)
        assert told == []
        journal.answers.set()
        await goodbye
        assert told == [1, "widened", "closed"]
        await kept.end()

    run(scenario)


def test_while_the_disk_hangs_a_source_is_closed_in_time_and_not_opened(
    journal: Hanging, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        kept, told = Filter(journal), list[object]()

        async def close() -> None:
            told.append("closed")

        ledger = await confirmed(kept)
        await kept._scribe.written()
        monkeypatch.setattr(module, "PATIENCE", 0.01)
        journal.answers.clear()
        kept.acknowledge(1, told.append)
        await kept.leave(close)
        assert told == ["closed"]
        with pytest.raises(ConnectionFailed, match=r"bridge b: .*a\.db: the disk does not answer"):
            await kept.begin(ledger)
        journal.answers.set()
        monkeypatch.undo()
        await kept.begin(ledger)
        await kept.end()

    run(scenario)


def test_a_disk_that_takes_long_is_told_once(
    journal: Hanging, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        scribe = Scribe(journal)
        await scribe.open()
        monkeypatch.setattr(diskthread, "LONG", 0.01)
        journal.answers.clear()
        scribe.write(row(1))
        while "has not answered" not in caplog.text:
            await asyncio.sleep(0.01)
        journal.answers.set()
        await scribe.written()
        monkeypatch.undo()
        await scribe.close()

    run(scenario)
    assert caplog.text.count("a.db: the disk has not answered for 0.01 s") == 1
    assert "the disk answers again" in caplog.text


def test_whoever_does_not_wait_any_more_leaves_a_call_to_be_done(journal: Hanging) -> None:
    async def scenario() -> None:
        thread = diskthread.DiskThread("test")
        journal.answers.clear()
        journal.open()
        call = asyncio.ensure_future(thread.do(journal.write, row(1)))
        await asyncio.sleep(0.01)
        call.cancel()
        await asyncio.wait({call})
        journal.answers.set()
        await thread.do(lambda: None)
        assert journal.turns == [1]
        thread.end()

    run(scenario)
