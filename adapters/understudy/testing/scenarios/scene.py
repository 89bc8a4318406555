"""The lab of one scenario: members with faults in front, clients, events, calls in the background.

Options are small (milliseconds instead of seconds), order is as listed, heartbeats are off unless a
scenario asks for them, so that the next byte that passes is the one that a cut is aimed at.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from understudy.core.events import Event
from understudy.failover.notifier import settle
from understudy.testing import Background, FaultProxy, wait_until
from understudy.testing.scenarios.noise import Noise, Then
from understudy.testing.scenarios.places import Found, Place
from understudy.testing.scenarios.port import Client, Delivery, Driver

__all__ = ["Background", "Events", "Inbox", "Scene", "consuming"]

CALM = {
    "heartbeat": "0",
    "timeout": "20000",
    "randomize": "false",
    "initialReconnectDelay": "1",
    "maxReconnectDelay": "100",
    "connectTimeout": "3000",
}


PATIENCE = 30.0  # s; far more than any machine needs


class Events:
    """What one client was told, in order. Call it with an event."""

    def __init__(self) -> None:
        self._all: list[Event] = []

    def __call__(self, event: Event) -> None:
        self._all.append(event)

    @property
    def all(self) -> list[Event]:
        """Everything told before now, though another thread tells it."""
        assert settle(PATIENCE)
        return self._all

    def __repr__(self) -> str:
        return f"<Events {self.names}>"

    @property
    def names(self) -> list[str]:
        return [type(event).__name__ for event in self.all]

    def count(self, name: str) -> int:
        return self.names.count(name)

    def reaches(self, name: str, count: int, seconds: float = PATIENCE) -> bool:
        """Wait until an event was told that often."""
        return wait_until(lambda: self.count(name) >= count, seconds)

    def moves_to(self, port: int, seconds: float = PATIENCE) -> bool:
        """Wait until the endpoint in use is told to have this port."""
        return wait_until(lambda: self.port == port, seconds)

    def first(self, name: str) -> Event:
        return next(event for event in self.all if type(event).__name__ == name)

    @property
    def port(self) -> int:
        """The port of the endpoint that is in use, as far as told; 0 while there is none."""
        last = [event for event in self.all if type(event).__name__ in USED_OR_NOT][-1:]
        if not last or type(last[0]).__name__ not in ("Connected", "Resumed"):
            return 0
        found = re.search(r":(\d+)(?=\D*$)", last[0].endpoint)
        return int(found[1]) if found else 0


USED_OR_NOT = ("Connected", "Resumed", "Interrupted", "GaveUp")


class Inbox:
    """What a consumer was handed, in order; acknowledges at once unless told to hold."""

    def __init__(self, *, hold: bool = False) -> None:
        self.deliveries: list[Delivery] = []
        self.acked: list[str] = []
        self._hold = hold

    def __call__(self, delivery: Delivery) -> None:
        self.deliveries.append(delivery)
        if not self._hold:
            self._ack(delivery)

    def _ack(self, delivery: Delivery) -> None:
        delivery.ack()
        self.acked.append(delivery.body)

    def release(self, count: int) -> None:
        """Acknowledge the last ``count`` deliveries, and from now on at once."""
        self._hold = False
        for delivery in self.deliveries[-count:]:
            self._ack(delivery)

    @property
    def bodies(self) -> list[str]:
        return [delivery.body for delivery in list(self.deliveries)]

    def reaches(self, count: int, seconds: float = PATIENCE) -> bool:
        """Wait until that many deliveries have come."""
        return wait_until(lambda: len(self.deliveries) >= count, seconds)


class Scene:
    def __init__(self, driver: Driver, place: Place, queue: str) -> None:
        self.driver = driver
        self.place = place
        self.queue = queue
        self.events = Events()  # of the clients that were opened without others
        self._stack = contextlib.ExitStack()
        self._clients: list[Client] = []

    def member(self, place: Place | None = None) -> FaultProxy:
        """A member of the list: a network that can fail, in front of the broker.

        Several members in front of one broker are the members of one logical broker.
        """
        target = place or self.place
        return self._stack.enter_context(FaultProxy(target.host, target.port))

    def noise(self, words: bytes = b"", then: Then = "fin") -> Noise:
        """A member of the list that nobody can use."""
        return self._stack.enter_context(Noise(words, then))

    def uri(self, *members: Any, **options: Any) -> str:
        """``members`` are proxies, other places with host and port, or texts."""
        return f"failover:({self._list(members)})?{self._query(options)}"

    def fanout_uri(self, *members: Any, **options: Any) -> str:
        return f"fanout:(static:({self._list(members)}))?{self._query(options)}"

    def _list(self, members: Iterable[Any]) -> str:
        return ",".join(m if isinstance(m, str) else self.address(m) for m in members)

    def _query(self, options: Mapping[str, Any]) -> str:
        options = {name.replace("__", "."): value for name, value in options.items()}
        return "&".join(f"{name}={value}" for name, value in {**CALM, **options}.items())

    def address(self, member: Any) -> str:
        return self.place.address(member.host, member.port)

    def open(self, *members: Any, on_event: Events | None = None, **options: Any) -> Client:
        """A client of the driver's; closed with the scene."""
        return self.open_uri(self.uri(*members, **options), on_event)

    def open_uri(self, uri: str, on_event: Events | None = None) -> Client:
        client = self.driver.open(uri, on_event or self.events)
        self._clients.append(client)
        return client

    def is_quiet(self, *members: FaultProxy, seconds: float = 1.0) -> bool:
        """Wait until nothing passes any more: handshakes, which nobody tells us of, are over."""
        passed, since = -1, time.monotonic()

        def stands_still() -> bool:
            nonlocal passed, since
            now = sum(member.bytes_up + member.bytes_down for member in members)
            if now != passed:
                passed, since = now, time.monotonic()
            return time.monotonic() - since > seconds

        return wait_until(stands_still)

    def cut_off(self, *members: FaultProxy) -> None:
        """Those brokers are gone: nobody gets in, and who is in is thrown out."""
        for member in members:
            member.refuse()
        for member in members:
            member.reset()

    def background(self, call: Callable[[], object]) -> Background:
        return Background(call)

    def take_all(self, queue: str | None = None) -> list[Found]:
        return self.place.take_all(queue or self.queue)

    def bodies(self, queue: str | None = None) -> list[str]:
        return [found.body for found in self.take_all(queue)]

    def bodies_come_back(self, *bodies: str) -> list[str]:
        """Take everything out, until these are among it: what a consumer had and did not
        acknowledge is there again some time after its link has ended."""
        found: list[str] = []

        def are_there() -> bool:
            found.extend(self.bodies())
            return {*bodies} <= {*found}

        assert wait_until(are_there), found
        return found

    def close(self) -> None:
        """Close all clients, which must not hang, then the network."""
        closing = [Background(client.close) for client in self._clients]
        for background in closing:
            background.is_over_within(PATIENCE)
        self._stack.close()
        assert not any(background.is_running for background in closing), "close() hangs"

    def __enter__(self) -> Scene:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@contextlib.contextmanager
def consuming(
    client: Client, queue: str, handler: Callable[[Delivery], object], prefetch: int = 10
) -> Iterator[None]:
    """A consumer for the length of a ``with``; its end must not hang."""
    consumer = client.consume(queue, handler, prefetch=prefetch)
    try:
        yield
    finally:
        Background(consumer.stop).join(PATIENCE)
