"""Removes what a bridge that is gone left at its brokers.

Rules
* What is read by anybody is not removed: the broker itself sees to that (``if-unused``).
* A subscription goes with the messages that wait in it; a parking queue only when it is empty,
  unless these are said to go as well.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from random import Random

from understudyd.bridge.ends.connection import Hooks
from understudyd.bridge.ends.endpoints import Dialer
from understudyd.bridge.ends.port import ConnectionFailed
from understudyd.bridge.queues import durable_name
from understudyd.bridge.ways import Way, speaks_stomp
from understudyd.bridge.wire.methods import Method, encode_method
from understudyd.config.model import Secret

__all__ = ["Removed", "forget"]

PASSIVE = 0b1
IF_UNUSED, IF_EMPTY = 0b01, 0b10
NOT_FOUND, IN_USE = 404, 406


@dataclass(frozen=True)
class Removed:
    """What became of one queue, or subscription."""

    place: str
    name: str
    outcome: str
    is_kept: bool = False


async def forget(ways: Iterable[Way], is_all: bool) -> list[Removed]:
    """``is_all``: also what is parked. What was not there is not told."""
    wanted: dict[tuple[str, str], tuple[Secret, int]] = {}
    for way in ways:
        for pattern in way.patterns:
            if name := durable_name(way.bridge.name, pattern):
                wanted[way.source.reveal(), name] = (way.source, IF_UNUSED)
        for end in (way.source, way.target):
            flags = IF_UNUSED if is_all else IF_UNUSED | IF_EMPTY
            wanted[end.reveal(), way.parking] = (end, flags)
    done = [await _remove(end, name, flags) for (_, name), (end, flags) in wanted.items()]
    return [one for one in done if one is not None]


async def _remove(end: Secret, name: str, flags: int) -> Removed | None:
    if speaks_stomp(end):
        outcome = "its broker speaks STOMP here: remove it with the broker's own console"
        return Removed(str(end), name, outcome, is_kept=True)
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
    return Removed(str(end), name, f"removed, with {count} messages")


async def _delete(dialer: Dialer, name: str, flags: int) -> int:
    """How many messages went with it; raises ConnectionFailed."""
    connection = await dialer.dial(Hooks(lambda _: None, lambda *_: None, lambda _: None))
    try:
        look = encode_method(Method.QUEUE_DECLARE, 0, name, PASSIVE, {})
        await connection.call(look, Method.QUEUE_DECLARE_OK)  # to delete none is no error
        delete = encode_method(Method.QUEUE_DELETE, 0, name, flags)
        return int((await connection.call(delete, Method.QUEUE_DELETE_OK))[0])
    finally:
        await connection.close()
