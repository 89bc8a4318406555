"""Servers that fall silent, break off or speak nonsense: what is sent goes to the next one."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from understudy.testing import wait_until
from understudy.testing.brokers import RabbitMQ
from understudy.testing.frames import (
    CHANNEL_OPEN,
    CONFIRM_SELECT,
    CONNECTION_OPEN,
    CONNECTION_START,
    CONNECTION_TUNE,
    QUEUE_DECLARE,
)
from understudy.testing.kombu_lab import prepare, send

if TYPE_CHECKING:
    from tests.integration.conftest import Events, Found, Lab

pytestmark = pytest.mark.integration

Take = Callable[[RabbitMQ, str], "list[Found]"]


def bodies(found: list[Found]) -> list[str]:
    return [message.body for message in found]


STAGES = [
    pytest.param(CONNECTION_START, "down", id="start"),
    pytest.param(CONNECTION_TUNE, "down", id="tune"),
    pytest.param(CONNECTION_OPEN, "up", id="open"),
    pytest.param((10, 41), "down", id="open-ok"),
    pytest.param(CHANNEL_OPEN, "up", id="channel"),
    pytest.param((20, 11), "down", id="channel-ok"),
    pytest.param(CONFIRM_SELECT, "up", id="confirm-select"),
    pytest.param(QUEUE_DECLARE, "up", id="declare"),
    pytest.param((50, 11), "down", id="declare-ok"),
]


@pytest.mark.parametrize("how", ["rst", "fin"])
@pytest.mark.parametrize(("method", "direction"), STAGES)
def test_f38_cut_inside_the_handshake(
    lab: Lab,
    rabbit_a: RabbitMQ,
    rabbit_b: RabbitMQ,
    take_all: Take,
    unique: str,
    method: Any,
    direction: Any,
    how: Any,
) -> None:
    """F38: the endpoint dies at any stage of connecting and preparing: the next one is used."""
    proxy = lab.proxy(rabbit_a)
    connection = lab.connect(proxy, rabbit_b)
    cut = proxy.cut_on(method, direction=direction, how=how, times=None)
    prepare(connection, unique)
    send(connection, unique, "arrives")
    assert cut.fired >= 1
    assert bodies(take_all(rabbit_b, unique)) == ["arrives"]


@pytest.mark.parametrize("how", ["proxy", "sigstop"])
def test_f36_silent_broker_is_left(
    lab: Lab,
    rabbits: tuple[RabbitMQ, RabbitMQ],
    take_all: Take,
    events: Events,
    unique: str,
    how: str,
) -> None:
    """F36: a blocked send goes on elsewhere within two heartbeats, or so."""
    first, second = rabbits
    proxy = lab.proxy(first)
    connection = lab.connect(proxy, second, heartbeat=1000, on_event=events.add)
    prepare(connection, unique)
    send(connection, unique, "before")
    if how == "proxy":
        proxy.black_hole()
    else:
        first.freeze()
    lab.background(lambda: send(connection, unique, "blocked")).join()
    first.thaw()
    assert bodies(take_all(second, unique)) == ["blocked"]
    assert wait_until(lambda: events.count("Resumed") == 1)
    assert "two heartbeats" in next(e.reason for e in events.all if e.reason)


def test_f36_silent_broker_and_a_message_larger_than_the_buffers(
    lab: Lab, rabbit_a: RabbitMQ, rabbit_b: RabbitMQ, take_all: Take, unique: str
) -> None:
    """F36: the send is stuck in the write, not in the wait for the confirm."""
    proxy = lab.proxy(rabbit_a)
    connection = lab.connect(proxy, rabbit_b, heartbeat=1000, timeout=60000)
    prepare(connection, unique)
    send(connection, unique, "before")
    proxy.black_hole()
    large = "x" * 30_000_000
    lab.background(lambda: send(connection, unique, large)).join(90)
    assert [len(m.body) for m in take_all(rabbit_b, unique)] == [len(large)]


@pytest.mark.parametrize(
    "fault",
    [
        "garbage",
        "half_frame",
        "close_after_start",
        "wrong_auth",
        "wrong_vhost",
        "slow_drip",
        "huge_frame",
        "bad_frame_end",
    ],
)
def test_f38_unusable_server(
    lab: Lab, rabbit_b: RabbitMQ, take_all: Take, unique: str, fault: Any
) -> None:
    """F38: whatever a server answers in the handshake, the next endpoint is used."""
    bad = lab.peer(handshake=fault)
    connection = lab.connect(bad, rabbit_b, connectTimeout=2000)
    prepare(connection, unique)
    send(connection, unique, "arrives")
    assert bodies(take_all(rabbit_b, unique)) == ["arrives"]
    assert bad.accepted == 1
    assert wait_until(lambda: not bad.connections)


@pytest.mark.parametrize(
    "frame",
    [
        "01 {:04x} 00000004 003c 0050 ce",  # basic.ack without its arguments
        "01 {:04x} 00000002 003c ce",  # half a method id
        "01 00ff 00000004 0014 0029 ce",  # channel.close-ok for a channel that does not exist
        "02 {:04x} 00000002 003c ce",  # a content header that nothing announced
        "07 {:04x} 00000000 ce",  # a type of frame that does not exist
    ],
)
def test_f38_a_malformed_frame_is_a_lost_connection(lab: Lab, frame: str) -> None:
    """F38: also where py-amqp stumbles over it: the message is sent again elsewhere."""

    def lie(connection: Any, nth: int, message: Any) -> Any:
        connection.send_raw(bytes.fromhex(frame.format(message.channel)))
        return "ignore"

    liar, good = lab.peer(on_publish=lie), lab.peer()
    connection = lab.connect(liar, good)
    lab.background(lambda: send(connection, "q", "told")).join()
    assert [message.body for message in good.messages] == [b"told"]
