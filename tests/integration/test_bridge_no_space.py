"""ActiveMQ has no space: for one destination, which must not stop others, or in its store."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress

import pytest

from understudy.testing.brokers import ActiveMQ, RabbitMQ, Server
from understudyd.bridge.settings import LinkSettings
from understudyd.testing.bridged import RunningLink, until
from understudyd.testing.sides import AmqpSide, Frames, StompSide

pytestmark = [pytest.mark.integration, pytest.mark.slow]

BODY = b"x" * 5_000
IN_MEMORY = "<pendingQueuePolicy><vmQueueCursor/></pendingQueuePolicy>"
NARROW = (
    '<destinationPolicy><policyMap><policyEntries><policyEntry queue="narrow.>" '
    f'producerFlowControl="true" memoryLimit="200kb">{IN_MEMORY}</policyEntry>'
    "</policyEntries></policyMap></destinationPolicy>"
)
WAITING = ("holding", "waiting-target")
SETTINGS = LinkSettings(prefetch=50, hold_time=3.0, confirm_timeout=1.0)


class Tight(ActiveMQ):
    """With other limits than those of the configuration that tests have."""

    def __init__(self, *, fails: bool, store: str = "4 gb", extra_xml: str = "") -> None:
        super().__init__(name="tight", extra_xml=extra_xml)
        self._fails, self._store = fails, store

    def _configuration(self) -> str:
        text = super()._configuration().replace('limit="4 gb"', f'limit="{self._store}"')
        fails = f'<systemUsage sendFailIfNoSpace="{str(self._fails).lower()}">'
        return text.replace("<systemUsage><systemUsage>", f"<systemUsage>{fails}")


def drained(broker: ActiveMQ, queue: str) -> list[bytes]:
    """What comes until nothing does; a mark could not be put behind it."""
    assert broker.port is not None
    found: list[bytes] = []
    with closing(Frames(broker.host, broker.port)) as connection:
        connection.subscribe(f"/queue/{queue}")
        connection.wait_no_longer_than(2.0)
        with suppress(TimeoutError):
            while True:
                frame = connection.read("MESSAGE")
                found.append(frame.body)
                connection.write("ACK", {"id": frame.headers["ack"]})
    return found


@contextmanager
def filled(node: RabbitMQ, queue: str, count: int) -> Iterator[list[bytes]]:
    side = AmqpSide(node)
    side.make(queue)
    sent = [b"%06d" % number + BODY for number in range(count)]
    side.fill(queue, sent)
    yield sent
    assert side.take(queue) == []
    side.remove(queue)


@pytest.mark.parametrize("fails", [True, False], ids=["it says so", "it blocks"])
def test_one_destination_without_space_stops_no_other(
    launch: Callable[[Server], Server], rabbit_a: RabbitMQ, unique: str, fails: bool
) -> None:
    """Scenario 30."""
    broker = Tight(fails=fails, extra_xml=NARROW)
    launch(broker)
    narrow, wide = f"narrow.{unique}", f"wide.{unique}"
    side = StompSide(broker)
    with filled(rabbit_a, narrow, 200) as some, filled(rabbit_a, wide, 500) as others:  # noqa: SIM117
        with RunningLink(rabbit_a.uri, broker.uri, narrow, settings=SETTINGS) as full:
            full.await_forwarded(10)
            full.await_state(*WAITING)
            with RunningLink(rabbit_a.uri, broker.uri, wide, settings=SETTINGS) as free:
                free.await_forwarded(len(others))
                assert free.state == "running"
            assert len(side.take(wide)) == len(others)
            until(lambda: not full.in_flight, "all is given back")
            assert full.reason
            spent = time.process_time()
            time.sleep(2.0)
            assert time.process_time() - spent < 1.0, "it is busy"
            found: list[bytes] = []

            def all_came() -> bool:
                found.extend(drained(broker, narrow))
                return set(found) == set(some)

            until(all_came, "all have arrived", 180.0)  # some at a time, then a back-off
            assert full.parked == 0
            full.await_state("running")


@pytest.mark.parametrize("fails", [True, False], ids=["it says so", "it blocks"])
def test_a_full_store_is_waited_for(
    launch: Callable[[Server], Server], rabbit_a: RabbitMQ, unique: str, fails: bool
) -> None:
    """Scenario 30."""
    broker = Tight(fails=fails, store="40 mb")
    launch(broker)
    with filled(rabbit_a, unique, 12_000) as sent:  # noqa: SIM117  (the link ends first)
        with RunningLink(rabbit_a.uri, broker.uri, unique, settings=SETTINGS) as link:
            link.await_forwarded(1_000)
            link.await_state(*WAITING)
            until(lambda: not link.in_flight, "all is given back")
            assert link.reason
            found: list[bytes] = []

            def all_came() -> bool:
                found.extend(drained(broker, unique))
                return set(found) == set(sent)

            until(all_came, "all have arrived", 120.0)
            assert link.parked == 0
