"""fanout: with stomp.py on two real brokers."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import amqp
import pytest
from stomp.utils import Frame

from understudy.errors import ConfigurationError
from understudy.stomp import Connection, ConnectionLost, SendTimeout
from understudy.testing import FaultProxy, wait_until
from understudy.testing.brokers import RabbitMQ

if TYPE_CHECKING:
    from tests.integration.conftest import Found, Lab

pytestmark = pytest.mark.integration

Take = Callable[[RabbitMQ, str], "list[Found]"]
Plain = Callable[[RabbitMQ], amqp.Channel]
Fan = Callable[..., Any]


@pytest.fixture
def fan() -> Iterator[Fan]:
    """A connected fanout connection to these places, closed with the test."""
    made: list[Any] = []

    def connection(*places: RabbitMQ | FaultProxy, options: str = "") -> Any:
        ports = [p.stomp_port if isinstance(p, RabbitMQ) else p.port for p in places]
        members = ",".join(f"stomp://guest:guest@127.0.0.1:{port}" for port in ports)
        uri = f"fanout:(static:({members}))?randomize=false&maxReconnectDelay=200{options}"
        made.append(Connection(uri))
        made[-1].connect(wait=True)
        return made[-1]

    yield connection
    for one in made:
        one.disconnect()


@pytest.fixture
def topic(rabbits: tuple[RabbitMQ, RabbitMQ], plain: Plain, unique: str) -> str:
    """A topic that a queue of the same name is bound to, on both brokers."""
    for broker in rabbits:
        channel = plain(broker)
        channel.queue_declare(unique, durable=True, auto_delete=False)
        channel.queue_bind(unique, "amq.topic", unique)
    return f"/topic/{unique}"


def bodies(found: list[Found]) -> list[str]:
    return [message.body for message in found]


def proxy_to(lab: Lab, broker: RabbitMQ) -> FaultProxy:
    assert broker.stomp_port
    return lab._stack.enter_context(FaultProxy(broker.host, broker.stomp_port))


def test_d09_a_topic_message_reaches_every_broker_a_queue_message_one(
    fan: Fan, rabbits: tuple[RabbitMQ, RabbitMQ], topic: str, unique: str, take_all: Take
) -> None:
    """D09."""
    connection = fan(*rabbits)
    for number in range(100):
        connection.send(topic, str(number))
    connection.send(f"/amq/queue/{unique}", "to one")
    first, second = (bodies(take_all(broker, unique)) for broker in rabbits)
    assert first == [*map(str, range(100)), "to one"]
    assert second == [*map(str, range(100))]


def test_d09_queue_messages_too_where_asked(
    fan: Fan, rabbits: tuple[RabbitMQ, RabbitMQ], topic: str, unique: str, take_all: Take
) -> None:
    fan(*rabbits, options="&fanOutQueues=true").send(f"/amq/queue/{unique}", "to all")
    found = [take_all(broker, unique) for broker in rabbits]
    assert [bodies(one) for one in found] == [["to all"], ["to all"]]
    assert found[0][0].id == found[1][0].id


def test_d10_a_send_blocks_until_enough_brokers_are_there(
    fan: Fan, lab: Lab, rabbits: tuple[RabbitMQ, RabbitMQ], topic: str, unique: str, take_all: Take
) -> None:
    """D10."""
    proxy = proxy_to(lab, rabbits[1])
    proxy.refuse()
    connection = fan(rabbits[0], proxy)
    sent = lab.background(lambda: connection.send(topic, "waits"))
    assert not sent.is_over_within(0.5)
    proxy.heal()
    sent.join()
    assert [bodies(take_all(broker, unique)) for broker in rabbits] == [["waits"], ["waits"]]


def test_too_few_brokers_end_in_a_send_timeout(
    fan: Fan, lab: Lab, rabbits: tuple[RabbitMQ, RabbitMQ], topic: str
) -> None:
    proxy = proxy_to(lab, rabbits[1])
    proxy.refuse()
    connection = fan(rabbits[0], proxy, options="&timeout=2000")
    with pytest.raises(SendTimeout, match="minAckCount=2, but 1 broker is connected"):
        connection.send(topic, "late")


def test_an_own_receipt_comes_once(
    fan: Fan, rabbits: tuple[RabbitMQ, RabbitMQ], topic: str
) -> None:
    receipts: list[str] = []

    class Listener:
        def on_receipt(self, frame: Frame) -> None:
            receipts.append(frame.headers["receipt-id"])

    connection = fan(*rabbits)
    connection.set_listener("", Listener())
    connection.send(topic, "x", receipt="mine")
    connection.send(topic, "y", receipt="last")
    assert wait_until(lambda: "last" in receipts)
    assert receipts == ["mine", "last"]


def test_disconnect_ends_a_waiting_send_and_every_thread(
    fan: Fan, lab: Lab, rabbits: tuple[RabbitMQ, RabbitMQ], topic: str
) -> None:
    proxy = proxy_to(lab, rabbits[1])
    proxy.refuse()
    before = set(threading.enumerate())
    connection = fan(rabbits[0], proxy)
    sent = lab.background(lambda: connection.send(topic, "x"))
    assert not sent.is_over_within(0.3)
    connection.disconnect()
    with pytest.raises(ConnectionLost):
        sent.join()

    def ours() -> list[str]:
        return [thread.name for thread in set(threading.enumerate()) - before]

    assert wait_until(lambda: not [name for name in ours() if "fanout" in name]), ours()


def test_what_does_not_go_together_is_refused(fan: Fan, rabbits: tuple[RabbitMQ, RabbitMQ]) -> None:
    with pytest.raises(ConfigurationError, match="fanout: and trackMessages=true do not go"):
        fan(*rabbits, options="&trackMessages=true")
    with pytest.raises(ConfigurationError, match="no transactions"):
        fan(*rabbits).begin()


def test_publish_and_disconnect_at_once_reaches_every_broker_that_was_there(
    fan: Fan,
    lab: Lab,
    rabbits: tuple[RabbitMQ, RabbitMQ],
    topic: str,
    unique: str,
    take_all: Take,
) -> None:
    proxy = proxy_to(lab, rabbits[1])
    connection = fan(rabbits[0], proxy, options="&minAckCount=1&closeTimeout=20000")
    assert wait_until(lambda: "2 of 2 connected" in repr(connection._fanout._fanout))
    proxy.delay(0.05)
    sent = [str(number) for number in range(5)]
    for body in sent:
        connection.send(topic, body)
    connection.disconnect()
    assert [bodies(take_all(broker, unique)) for broker in rabbits] == [sent, sent]
