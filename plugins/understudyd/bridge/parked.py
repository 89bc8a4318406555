"""Looks into the parking queues of bridges, and sends on what lies there.

Rules
* Whoever looks takes nothing away: what was delivered is given back.
* A message leaves its parking queue when its destination has confirmed it, not before: whoever is
  killed in the middle leaves one that comes twice, and none that is lost.
* A retry tries what lies there when it begins, each message once: what the bridge parks again in
  the meantime stays, and does not count as sent.
* What is parked at the target is bound for a destination there. What is parked at the source goes
  back to the queue that it was taken from, and by the bridge from there; a copy of a topic cannot
  go back without being copied to everybody again, so it stays.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from random import Random
from typing import Any

from understudyd.bridge import parked_stomp
from understudyd.bridge.attempts import Attempts, Mark, mark_of
from understudyd.bridge.ends.deposit import AmqpDeposit, Deposit
from understudyd.bridge.ends.endpoints import Dialer
from understudyd.bridge.ends.parking_queue import ParkingQueue
from understudyd.bridge.ends.port import ConnectionFailed
from understudyd.bridge.names import QUEUE, Destination
from understudyd.bridge.unparking import Note, note_of, restored
from understudyd.bridge.ways import Way, speaks_stomp
from understudyd.bridge.wire.reader import Delivery
from understudyd.config.model import Secret

__all__ = ["Parked", "Retried", "Shown", "look", "retry"]

WINDOW = 200  # messages that are held at a time; those that are refused count too
MOST = 65535  # messages of a queue in one retry: as many as AMQP lets somebody hold
REASONS = 10  # that are told of a queue


@dataclass(frozen=True)
class Shown:
    """One message, for people."""

    destination: str
    at: str
    reason: str
    size: int


@dataclass(frozen=True)
class Parked:
    """What lies in one queue."""

    bridge: str
    place: str
    name: str
    count: int | None = None
    """None: not known, see ``error``."""
    messages: tuple[Shown, ...] = ()
    error: str = ""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass
class Retried:
    """What became of one queue."""

    bridge: str
    place: str
    name: str
    moved: int | None = 0
    """None: not known, see ``error``."""
    left: int | None = 0
    reasons: tuple[str, ...] = ()
    """Why some were left, each once."""
    error: str = ""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class _Place:
    """A broker that may have a parking queue."""

    way: Way
    is_target: bool

    @property
    def said(self) -> tuple[str, str, str]:
        """Bridge, broker and queue, for people."""
        return self.way.bridge.name, str(self.end), self.way.parking

    @property
    def end(self) -> Secret:
        return self.way.target if self.is_target else self.way.source

    def dialer(self) -> Dialer:
        name = f"understudy.bridge.{self.way.bridge.name}.parked"
        return Dialer(self.end.reveal(), {"connection_name": name}, Random())

    def bound_for(self, note: Note) -> tuple[str, str] | None:
        """Exchange and routing key; None where it cannot be known."""
        if self.is_target:
            return None if note.exchange is None else (note.exchange, note.routing_key)
        queues = [
            pattern.destination
            for pattern in self.way.patterns
            if pattern.kind == QUEUE and pattern.is_exact
        ]
        if len(queues) == len(self.way.patterns) == 1:
            return "", queues[0].name
        here = Destination(QUEUE, note.routing_key)
        if note.exchange == "" and any(pattern.matches(here) for pattern in self.way.patterns):
            return "", here.name
        renamed = [
            queue.name for queue in queues if self.way.routes.target(queue).name == here.name
        ]
        return ("", renamed[0]) if len(renamed) == 1 and note.exchange == "" else None


def _places(ways: Iterable[Way]) -> list[_Place]:
    """Each queue once."""
    found: dict[tuple[str, str], _Place] = {}
    for way in ways:
        for is_target in (True, False):
            place = _Place(way, is_target)
            if not (is_target and speaks_stomp(place.end)):  # STOMP brings nothing back
                found.setdefault((place.end.reveal(), way.parking), place)
    return list(found.values())


async def look(ways: Iterable[Way], limit: int) -> list[Parked]:
    """What is parked, ``limit`` messages of each queue at most; queues that are not there are left
    out."""
    found = [await _look(place, limit) for place in _places(ways)]
    return [one for one in found if one is not None]


async def _look(place: _Place, limit: int) -> Parked | None:
    if speaks_stomp(place.end):
        return await _look_stomp(place, limit)
    queue = ParkingQueue(place.dialer(), place.way.parking)
    try:
        count = await queue.open()
        if count is None:
            return None
        wanted = min(count, limit)
        await queue.consume(wanted)
        messages = [_shown(note_of(delivery)) for delivery in await queue.take(wanted)]
        return Parked(*place.said, count, tuple(messages))
    except ConnectionFailed as failed:
        return Parked(*place.said, error=str(failed))
    finally:
        await queue.close()


async def _look_stomp(place: _Place, limit: int) -> Parked | None:
    try:
        notes = await parked_stomp.look(place.end, place.way.parking, limit)
    except ConnectionFailed as failed:
        return Parked(*place.said, error=str(failed))
    return Parked(*place.said, len(notes), tuple(map(_shown, notes))) if notes else None


def _shown(note: Note) -> Shown:
    return Shown(note.destination, _time(note.at), note.reason, note.size)


def _time(at: int | None) -> str:
    """For people; empty: it is not known, or no time that there is."""
    if at is None:
        return ""
    try:
        when = datetime.fromtimestamp(at / 1000, timezone.utc)
    except (OverflowError, ValueError, OSError):
        return ""
    return when.isoformat(timespec="seconds")


async def retry(ways: Iterable[Way]) -> list[Retried]:
    """Send on what is parked now; queues that are not there are left out."""
    done = [await _retry(place) for place in _places(ways)]
    return [one for one in done if one is not None]


async def _retry(place: _Place) -> Retried | None:
    done = Retried(*place.said)
    attempts: Attempts | None = None
    whys: list[str] = []
    try:
        there = await _marks(place, is_first=True)
        if there is None:
            return None
        attempts = Attempts(there)
        if attempts.count == MOST:
            whys.append(f"{MOST} messages are tried at a time: try again for those behind them")
        try:
            if speaks_stomp(place.end):
                whys += await parked_stomp.retry(place.end, done.name, place.bound_for, attempts)
            else:
                await _retry_amqp(place, attempts, whys)
        finally:
            done.moved, done.left = attempts.moved, attempts.count - attempts.moved
        if done.moved:
            again = attempts.came_back(await _marks(place, is_first=False) or [])
            done.moved -= len(again)
            done.left += len(again)
            whys += [f"parked again: {why}" for why in again]
    except ConnectionFailed as failed:
        done.error = str(failed)
        if attempts is None:
            done.moved = done.left = None
    done.reasons = (*dict.fromkeys(whys),)[:REASONS]
    return done


async def _marks(place: _Place, *, is_first: bool) -> list[Mark] | None:
    """What lies there: at first all of it, afterwards also what comes, as `parked_stomp.marks`;
    None: nothing that could be retried. Raises ConnectionFailed."""
    if speaks_stomp(place.end):
        return await parked_stomp.marks(place.end, place.way.parking) or None
    queue = ParkingQueue(place.dialer(), place.way.parking)
    marks: list[Mark] = []
    over = time.monotonic() + parked_stomp.LONGEST
    try:
        count = await queue.open()
        if count is None:
            return None
        most = min(count, MOST) if is_first else MOST
        await queue.consume(most)
        while len(marks) < most and (is_first or time.monotonic() < over):
            taken = await queue.take(1, parked_stomp.SILENCE)
            if not taken:
                break
            marks.append(_mark(taken[0]))
    finally:
        await queue.close()
    return marks


def _mark(delivery: Delivery) -> Mark:
    return mark_of(note_of(delivery), delivery[5])


async def _retry_amqp(place: _Place, attempts: Attempts, whys: list[str]) -> None:
    """Adds to ``whys`` why some stay; raises ConnectionFailed."""
    queue = ParkingQueue(place.dialer(), place.way.parking)
    sender = AmqpDeposit(place.dialer(), place.way.parking)
    try:
        await queue.open()
        await queue.consume(WINDOW)
        while attempts.left:
            taken = await queue.take(1)
            if not taken:
                break  # somebody else had it, or what is left fills the window
            mark = _mark(taken[0])
            if not attempts.take(mark):
                continue
            if why := await _send(place, taken[0], sender):
                whys.append(why)
            else:
                queue.settle(taken[0][0])
                attempts.sent(mark)
    finally:
        await queue.close()
        await sender.close()


async def _send(place: _Place, delivery: Delivery, sender: Deposit) -> str:
    """Why it has to stay; empty: it has arrived. Raises ConnectionFailed."""
    note = note_of(delivery)
    where = place.bound_for(note)
    if where is None:
        return f"{note.destination}: which queue it was taken from is not known; move it by hand"
    try:
        parcel = restored(delivery, *where, int(time.time() * 1000))
    except ValueError as error:
        return f"{note.destination}: {error}"
    await sender.open()
    try:
        await sender.put(parcel)
    except ConnectionFailed as failed:
        return f"{note.destination}: {failed}"
    return ""
