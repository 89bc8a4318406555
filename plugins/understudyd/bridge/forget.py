"""Removes what a bridge that is gone left at its brokers.

Rules
* What is read by anybody is not removed: the broker itself sees to that (``if-unused``).
* A subscription goes with the messages that wait in it; a parking queue only when it is empty,
  unless these are said to go as well. One of a source over STOMP is told of, and stays.
"""

from __future__ import annotations

from collections.abc import Awaitable, Iterable
from dataclasses import dataclass
from random import Random

from understudyd.bridge import parked_stomp
from understudyd.bridge.counts import messages
from understudyd.bridge.ends.connection import Hooks
from understudyd.bridge.ends.endpoints import Dialer, StompDialer
from understudyd.bridge.ends.port import ConnectionFailed
from understudyd.bridge.ends.stomp_connection import StompHooks
from understudyd.bridge.queues import durable_name
from understudyd.bridge.ways import Way, speaks_stomp
from understudyd.bridge.wire.methods import Method, encode_look, encode_method
from understudyd.config.model import Secret

__all__ = ["Removed", "forget"]

IF_UNUSED, IF_EMPTY = 0b01, 0b10
NOT_FOUND, IN_USE = 404, 406
NO_SUBSCRIPTION = "No durable subscription exists"  # ActiveMQ


@dataclass(frozen=True)
class Removed:
    """What became of one queue, or subscription."""

    place: str
    name: str
    outcome: str
    is_kept: bool = False


async def forget(ways: Iterable[Way], is_all: bool) -> list[Removed]:
    """``is_all``: also what is parked. What was not there is not told."""
    wanted: dict[tuple[str, str], Awaitable[Removed | None]] = {}
    parked = IF_UNUSED if is_all else IF_UNUSED | IF_EMPTY
    for way in ways:
        source = way.source
        for pattern in way.patterns:
            if name := durable_name(way.bridge.name, pattern):
                is_stomp = speaks_stomp(source)
                work = _unsubscribe(source, name) if is_stomp else _remove(source, name, IF_UNUSED)
                wanted[source.reveal(), name] = work
        for end in (source, way.target):
            if (end.reveal(), way.parking) in wanted:
                continue
            if not speaks_stomp(end):
                wanted[end.reveal(), way.parking] = _remove(end, way.parking, parked)
            elif end is source:  # nothing is parked at a target over STOMP
                wanted[end.reveal(), way.parking] = _look(end, way.parking)
    done = [await work for work in wanted.values()]
    return [one for one in done if one is not None]


async def _unsubscribe(end: Secret, name: str) -> Removed | None:
    """Remove a durable subscription over STOMP, where a broker has such; the broker refuses when
    somebody is subscribed."""
    dialer = StompDialer(end.reveal(), Random())
    try:
        connection = await dialer.dial(StompHooks(), name)
        try:
            how = connection.dialect.subscribing
            if not how.client_id:
                outcome = "is a queue here: remove it with the broker's own console"
                return Removed(str(end), name, outcome, is_kept=True)
            await connection.call("UNSUBSCRIBE", {"id": name, how.durable_name: name})
        finally:
            await connection.close()
    except ConnectionFailed as failed:
        if NO_SUBSCRIPTION in str(failed):
            return None
        return Removed(str(end), name, f"kept: {failed}", is_kept=True)
    return Removed(str(end), name, "the durable subscription is removed")


async def _look(end: Secret, name: str) -> Removed | None:
    """Of a parking queue that STOMP cannot remove: whether anything is there."""
    try:
        notes = await parked_stomp.look(end, name, 1)
    except ConnectionFailed as failed:
        return Removed(str(end), name, f"kept: {failed}", is_kept=True)
    if notes is None:
        return None
    why = "since it holds messages" if notes else "empty, since STOMP cannot remove a queue"
    outcome = f"kept, {why}: remove it with the broker's own console"
    return Removed(str(end), name, outcome, is_kept=bool(notes))


async def _remove(end: Secret, name: str, flags: int) -> Removed | None:
    dialer = Dialer(end.reveal(), {"connection_name": "understudy.bridge.forget"}, Random())
    try:
        count = await _delete(dialer, name, flags)
    except ConnectionFailed as failed:
        code = failed.closed.code if failed.closed is not None else 0
        if code == NOT_FOUND:
            return None
        why = str(failed)
        if code == IN_USE:
            why = f"kept, since somebody reads it or it holds messages: {failed}"
        return Removed(str(end), name, why, is_kept=True)
    return Removed(str(end), name, f"removed, with {messages(count)}")


async def _delete(dialer: Dialer, name: str, flags: int) -> int:
    """How many messages went with it; raises ConnectionFailed."""
    connection = await dialer.dial(Hooks())
    try:
        look = encode_look(name)
        await connection.call(look, Method.QUEUE_DECLARE_OK)  # to delete none is no error
        delete = encode_method(Method.QUEUE_DELETE, 0, name, flags)
        return int((await connection.call(delete, Method.QUEUE_DELETE_OK))[0])
    finally:
        await connection.close()
