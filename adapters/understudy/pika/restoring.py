"""Brings a new link to where the old one was: the topology, then channel by channel.

Rules
* A generator of steps: each is something to wait for, and the moment (monotonic) until which. It
  never waits itself, so a caller whose deadline passes leaves it where it is, and the next one goes
  on from there.
* Requests are written in one go wherever their order alone is enough.
* What an earlier connection of ours still holds, because the broker has not noticed its death
  (exclusive queues 405, exclusive consumers 403), is asked for again until three heartbeats have
  passed. Anything else that a broker refuses, or closes the connection over, makes this endpoint
  fail.
* A channel is restored once it has been open: over one that a broker does not take, everything
  else would be refused as well.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

from pika import exceptions, spec

from understudy.core.endpoint import Endpoint
from understudy.pika.link import Link
from understudy.pika.link_channel import Ask, LinkChannel

__all__ = [
    "REPLIES",
    "EndpointRefusals",
    "RestoreFailed",
    "Restored",
    "Step",
    "channels",
    "is_to_blame",
    "topology",
]

AGAIN = 0.1  # s between two tries to get what is still locked
GRACE = 1.0  # s that a broker may take to tidy up after a connection
LOCKED = {403: "exclusive", 405: ""}  # reply codes, and what the text then says

Step = tuple[Callable[[], bool], float]

REPLIES: dict[type, type] = {
    spec.Exchange.Declare: spec.Exchange.DeclareOk,
    spec.Exchange.Bind: spec.Exchange.BindOk,
    spec.Queue.Declare: spec.Queue.DeclareOk,
    spec.Queue.Bind: spec.Queue.BindOk,
    spec.Basic.Qos: spec.Basic.QosOk,
    spec.Basic.Consume: spec.Basic.ConsumeOk,
    spec.Confirm.Select: spec.Confirm.SelectOk,
    spec.Tx.Select: spec.Tx.SelectOk,
}


class RestoreFailed(Exception):
    """This endpoint refuses what the application had; ``cause`` is pika's channel error."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(f"what the application had could not be restored: {cause}")
        self.cause = cause


class EndpointRefusals:
    """Which endpoints have refused what the application had, since one took it last."""

    def __init__(self) -> None:
        self._refused: set[Endpoint] = set()

    def is_hopeless(self, endpoint: Endpoint, known: Iterable[Endpoint]) -> bool:
        """One more has; whether each has by now, or this one for the second time. Begins anew."""
        is_second = endpoint in self._refused
        self._refused.add(endpoint)
        hopeless = is_second or self._refused >= set(known)
        if hopeless:
            self._refused.clear()
        return hopeless

    def clear(self) -> None:
        self._refused.clear()


class Restored(Protocol):
    """A channel of the application's, or one of ours that it needs."""

    def restore_on(self, link: Link) -> LinkChannel:
        """Open it on this link, but tell the application nothing yet."""

    def requests(self) -> Iterable[Any]:
        """What it has to ask for, in order: mode, qos, consumers."""

    def restored(self, channel: LinkChannel) -> None:
        """It is what it was; go on with it."""


def patience(heartbeat: float) -> float:
    """Seconds in which a broker notices that an earlier connection of ours is dead.

    RabbitMQ looks once in each heartbeat and gives up at the second look in vain: after two to
    three of them.
    """
    return 3 * heartbeat + GRACE


class Nobody:
    """The receiver of a channel on which only declarations happen."""

    def delivered(self, method: Any, properties: Any, body: bytes) -> None: ...
    def returned(self, method: Any, properties: Any, body: bytes) -> None: ...
    def cancelled(self, method_frame: Any) -> None: ...
    def settled(self, tag: int, multiple: bool, ok: bool) -> None: ...
    def closed(self, reason: Exception) -> None: ...


def topology(link: Link, methods: list[Any], taken: Iterable[int], until: float) -> Iterator[Step]:
    """Declare all of these on a channel of our own."""
    number = link.free_number(set(taken))
    while methods:
        channel = link.open_channel(number, Nobody())
        asks = [channel.ask(method, REPLIES[type(method)]) for method in methods]
        yield asks[-1].is_over, math.inf
        if channel.reason is None:
            yield channel.close(200, "declared").is_over, math.inf
            return
        methods = methods[_answered(asks) :]
        yield from _once_unlocked(channel.reason, until)


def channels(link: Link, wanted: Iterable[Restored], until: float) -> Iterator[Step]:
    """Open the application's channels, all of them in one go."""
    opening = list(wanted)
    while opening:
        begun = []
        for one in opening:
            channel = one.restore_on(link)
            asks = [channel.ask(method, REPLIES[type(method)]) for method in one.requests()]
            begun.append((one, channel, [channel.opening, *asks][-1]))
        opening = []
        reason = None
        for one, channel, last in begun:
            yield last.is_over, math.inf
            if channel.reason is None:
                one.restored(channel)
            else:
                opening.append(one)
                reason = channel.reason
        if reason is not None:
            yield from _once_unlocked(reason, until)


def is_to_blame(link: Link) -> bool:
    """Whether restoring is what the broker closes this link over: no replayed message can be."""
    return not any(channel.keeps_more() for channel in link.channels.values())


def _answered(asks: list[Ask]) -> int:
    """How many were answered before the broker closed the channel over the next one."""
    return sum(ask.answer is not None for ask in asks)


def _once_unlocked(reason: Exception, until: float) -> Iterator[Step]:
    """Wait a moment if trying again may help; else this endpoint fails."""
    assert isinstance(reason, exceptions.ChannelClosedByBroker)
    text = LOCKED.get(reason.reply_code)
    now = time.monotonic()
    if text is None or text not in reason.reply_text or now >= until:
        raise RestoreFailed(reason)
    yield (lambda: False), now + AGAIN
