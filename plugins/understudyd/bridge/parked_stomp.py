"""What `parked` does where a broker speaks STOMP here: only sources park over STOMP.

Rules
* STOMP cannot tell how much is in a queue: what came before a silence of `SILENCE` counts as all.
* What is sent again is in the words of its broker, as it was parked. An acknowledgement stands for
  all before it, so the first that cannot be sent ends a retry.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from random import Random

from understudyd.bridge.addresses import from_stomp, send_headers
from understudyd.bridge.attempts import Attempts, Mark, mark_of
from understudyd.bridge.content import StompContent, Untranslatable
from understudyd.bridge.dialects import Dialect
from understudyd.bridge.ends.deposit import Deposit
from understudyd.bridge.ends.endpoints import StompDialer
from understudyd.bridge.ends.port import ConnectionFailed, SourceHooks, StompDelivery
from understudyd.bridge.ends.stomp_source import StompSource
from understudyd.bridge.ends.stomp_target import StompTarget
from understudyd.bridge.ledger import Parcel
from understudyd.bridge.mapping import read, write
from understudyd.bridge.names import QUEUE, Destination, Pattern
from understudyd.bridge.parcels import stomp_parcel
from understudyd.bridge.parking import PARKED
from understudyd.bridge.unparking import Note, noted
from understudyd.config.model import Secret

__all__ = ["LONGEST", "SILENCE", "look", "marks", "retry"]

SILENCE = 1.5  # s; what is there comes at once
MOST = 65535  # messages that a retry looks at
LONGEST = 30.0  # s that it looks, also where more and more are parked meanwhile
NOT_FOUND = 404
BEHIND = "; and what lies behind it"
NOW = 0  # nothing has expired

BoundFor = Callable[[Note], "tuple[str, str] | None"]


class _Reader:
    """A parking queue; what is not acknowledged goes back when it is closed."""

    def __init__(self, end: Secret, queue: str, window: int) -> None:
        self.dialer = StompDialer(end.reveal(), Random())
        self._deliveries: asyncio.Queue[StompDelivery | str] = asyncio.Queue()
        hooks: SourceHooks[StompDelivery] = SourceHooks(self._came, self._deliveries.put_nowait)
        pattern = Pattern.parse(f"queue://{queue}")
        self._window = max(1, window)
        self._source = StompSource(self.dialer, pattern, hooks, prefetch=self._window)

    async def open(self) -> bool:
        """Whether there is such a queue. Raises ConnectionFailed."""
        try:
            await self._source.open(self._window, 0)
        except ConnectionFailed as failed:
            if failed.closed is not None and failed.closed.code == NOT_FOUND:
                return False
            raise
        return True

    @property
    def dialect(self) -> Dialect:
        assert self._source.dialect is not None
        return self._source.dialect

    async def next(self) -> StompDelivery | None:
        """None: no more come. Raises ConnectionFailed."""
        try:
            delivery = await asyncio.wait_for(self._deliveries.get(), SILENCE)
        except asyncio.TimeoutError:
            return None
        if isinstance(delivery, str):
            raise ConnectionFailed(delivery)
        return delivery

    def settle(self, tag: int) -> None:
        self._source.acknowledge(tag)

    async def close(self) -> None:
        await self._source.close()

    def _came(self, deliveries: list[StompDelivery]) -> None:
        for delivery in deliveries:
            self._deliveries.put_nowait(delivery)


async def look(end: Secret, queue: str, limit: int) -> list[Note] | None:
    """The first messages; None: there is no such queue. Raises ConnectionFailed."""
    reader = _Reader(end, queue, limit)
    notes: list[Note] = []
    try:
        if not await reader.open():
            return None
        while len(notes) < limit and (delivery := await reader.next()) is not None:
            notes.append(_note(delivery[1], reader.dialect))
    finally:
        await reader.close()
    return notes


async def marks(end: Secret, queue: str) -> list[Mark] | None:
    """What lies there, and what comes until a silence, or for `LONGEST` seconds; None: there is no
    such queue. Raises ConnectionFailed."""
    reader = _Reader(end, queue, MOST)
    found: list[Mark] = []
    over = time.monotonic() + LONGEST
    try:
        if not await reader.open():
            return None
        while len(found) < MOST and time.monotonic() < over:
            if (delivery := await reader.next()) is None:
                break
            found.append(_mark(delivery[1], reader.dialect))
    finally:
        await reader.close()
    return found


def _mark(content: StompContent, dialect: Dialect) -> Mark:
    return mark_of(_note(content, dialect), content.body)


async def retry(end: Secret, queue: str, bound_for: BoundFor, attempts: Attempts) -> list[str]:
    """Send what is to be tried, up to the first that cannot be sent: why that is. Raises
    ConnectionFailed where nobody can be asked."""
    reader = _Reader(end, queue, 50)
    deposits: dict[str, Deposit] = {}
    try:
        if not await reader.open():
            return []
        while attempts.left and (delivery := await reader.next()) is not None:
            tag, content = delivery
            note = _note(content, reader.dialect)
            mark = _mark(content, reader.dialect)
            if not attempts.take(mark):
                return ["others came before the rest; try again"]
            where = bound_for(note)
            if where is None:
                return [f"{note.destination}: which queue it was taken from is not known{BEHIND}"]
            name = where[1]
            if name not in deposits:
                deposits[name] = _deposit(reader.dialer, name)
            try:
                await deposits[name].put(_parcel(content, name, reader.dialect))
            except (ConnectionFailed, Untranslatable) as error:
                return [f"{note.destination}: {error}{BEHIND}"]
            reader.settle(tag)
            attempts.sent(mark)
    finally:
        await reader.close()
        for deposit in deposits.values():
            await deposit.close()
    return []


def _deposit(dialer: StompDialer, queue: str) -> Deposit:
    return Deposit(lambda hooks: StompTarget(dialer, hooks, queue=queue))


def _note(content: StompContent, dialect: Dialect) -> Note:
    told = {
        name.removeprefix(PARKED): text
        for name, text in content.headers.items()
        if name.startswith(PARKED)
    }
    note = noted(told, len(content.body))
    if note.exchange is None:
        try:
            where = from_stomp(told.get("destination", ""), QUEUE, dialect)
        except Untranslatable:
            return note
        if where.kind == QUEUE:
            return Note(note.reason, "", where.name, str(where), note.at, note.size)
    return note


def _parcel(content: StompContent, queue: str, dialect: Dialect) -> Parcel:
    """The message as it was, bound for a queue; one whose time is over expires there. Raises
    Untranslatable."""
    now = time.time_ns() // 1_000_000
    message = read(content, dialect, NOW)
    told = {name: message.headers.pop(name) for name in list(message.headers) if PARKED in name}
    deadline = told.get(f"{PARKED}deadline", "")
    if deadline.isdecimal():
        message.deadline = max(int(deadline), now + 1)
    written = write(message, dialect, now)
    assert isinstance(written, StompContent)
    where = send_headers(Destination(QUEUE, queue), dialect)
    return stomp_parcel({**where, **written.headers}, written.body)
