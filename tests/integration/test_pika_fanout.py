"""fanout: with pika on two real brokers."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from understudy.errors import ConfigurationError
from understudy.pika import BlockingConnection, ConnectFailed, ConnectionLost, SendTimeout
from understudy.pika.errors import Unroutable
from understudy.testing import wait_until
from understudy.testing.brokers import RabbitMQ

if TYPE_CHECKING:
    from tests.integration.conftest import Events, Found, Lab

pytestmark = pytest.mark.integration

Take = Callable[[RabbitMQ, str], "list[Found]"]
Fan = Callable[..., Any]


@pytest.fixture
def fan(lab: Lab) -> Iterator[Fan]:
    """A fanout connection to these places, closed with the test."""
    made: list[BlockingConnection] = []

    def connection(*places: Any, options: str = "", **more: Any) -> BlockingConnection:
        members = ",".join(lab.address(place) for place in places)
        uri = f"fanout:(static:({members}))?randomize=false&maxReconnectDelay=200{options}"
        made.append(BlockingConnection(uri, **more))
        return made[-1]

    yield connection
    for one in made:
        if one.is_open:
            one.close()


def declared(connection: BlockingConnection, name: str) -> Any:
    channel = connection.channel()
    channel.exchange_declare(name, "topic", durable=True)
    channel.queue_declare(name, durable=True)
    channel.queue_bind(name, name, "#")
    return channel


def bodies(found: list[Found]) -> list[str]:
    return [message.body for message in found]


def test_d09_a_topic_message_reaches_every_broker_a_queue_message_one(
    fan: Fan, rabbits: tuple[RabbitMQ, RabbitMQ], unique: str, take_all: Take
) -> None:
    """D09: and what the application declared is there, on each."""
    channel = declared(fan(*rabbits), unique)
    for number in range(100):
        channel.basic_publish(unique, "news", str(number))
    channel.basic_publish("", unique, "to one")
    first, second = (bodies(take_all(broker, unique)) for broker in rabbits)
    assert first == [*map(str, range(100)), "to one"]
    assert second == [*map(str, range(100))]


def test_d09_queue_messages_too_where_asked(
    fan: Fan, rabbits: tuple[RabbitMQ, RabbitMQ], unique: str, take_all: Take
) -> None:
    channel = declared(fan(*rabbits, options="&fanOutQueues=true"), unique)
    channel.basic_publish("", unique, "to all")
    ids = []
    for broker in rabbits:
        (found,) = take_all(broker, unique)
        ids.append(found.id)
    assert ids[0] == ids[1]


@pytest.mark.parametrize("kind", ["exclusive", "auto_delete"])
def test_a_private_queue_is_on_the_consumers_broker_only(
    fan: Fan, rabbits: tuple[RabbitMQ, RabbitMQ], unique: str, take_all: Take, kind: str
) -> None:
    """Publish and subscribe in one program: elsewhere nobody would empty it, and on the consumer's
    own broker a second connection may not touch it."""
    channel = declared(fan(*rabbits), unique)
    mine = channel.queue_declare("", **{kind: True}).method.queue
    channel.queue_bind(mine, unique, "#")
    channel.basic_publish(unique, "news", "x")
    (found,) = itertools.islice(channel.consume(mine, inactivity_timeout=60), 1)
    assert found[2] == b"x"
    assert [bodies(take_all(broker, unique)) for broker in rabbits] == [["x"], ["x"]]
    assert mine not in rabbits[1].ctl("list_queues", "name")


def test_d10_a_send_blocks_until_enough_brokers_are_there(
    fan: Fan, lab: Lab, rabbits: tuple[RabbitMQ, RabbitMQ], unique: str, take_all: Take
) -> None:
    """D10, with consumers on the first one going on all the while."""
    proxy = lab.proxy(rabbits[1])
    proxy.refuse()
    connection = fan(rabbits[0], proxy, options="&minAckCount=2")
    channel = declared(connection, unique)
    sent = lab.background(lambda: channel.basic_publish(unique, "news", "waits"))
    assert not sent.is_over_within(0.5)
    proxy.heal()
    sent.join()
    assert [bodies(take_all(broker, unique)) for broker in rabbits] == [["waits"], ["waits"]]


def test_one_confirm_is_enough_where_asked(
    fan: Fan, lab: Lab, rabbits: tuple[RabbitMQ, RabbitMQ], unique: str, take_all: Take
) -> None:
    proxy = lab.proxy(rabbits[1])
    channel = declared(fan(rabbits[0], proxy, options="&minAckCount=1"), unique)
    channel.basic_publish(unique, "news", "1")
    proxy.refuse()
    proxy.reset()
    for number in range(2, 50):
        channel.basic_publish(unique, "news", str(number))
    proxy.heal()
    assert set(bodies(take_all(rabbits[0], unique))) | set(
        bodies(take_all(rabbits[1], unique))
    ) == set(map(str, range(1, 50)))


def test_too_few_brokers_end_in_a_send_timeout(
    fan: Fan, lab: Lab, rabbits: tuple[RabbitMQ, RabbitMQ], unique: str
) -> None:
    proxy = lab.proxy(rabbits[1])
    proxy.refuse()
    channel = declared(fan(rabbits[0], proxy, options="&timeout=2000"), unique)
    with pytest.raises(SendTimeout, match="minAckCount=2, but 1 broker is connected"):
        channel.basic_publish(unique, "news", "late")
    channel.basic_publish("", unique, "a queue message needs one")


def test_nothing_is_sent_after_its_send_timeout(
    fan: Fan, lab: Lab, rabbits: tuple[RabbitMQ, RabbitMQ], unique: str, take_all: Take
) -> None:
    """The member's channel is opened late, with the deadline long over."""
    proxy = lab.proxy(rabbits[1])
    connection = fan(rabbits[0], proxy, options="&timeout=3000")
    channel = declared(connection, unique)
    assert wait_until(lambda: "2 of 2 connected" in repr(connection._fanout._fanout))
    proxy.black_hole()
    with pytest.raises(SendTimeout, match="1 of 2 brokers confirmed"):
        channel.basic_publish(unique, "news", "late")
    proxy.heal()
    channel.basic_publish(unique, "news", "next")
    assert bodies(take_all(rabbits[1], unique)) == ["next"]


def test_an_unroutable_message_is_refused_as_pika_does_it(
    fan: Fan, rabbits: tuple[RabbitMQ, RabbitMQ], unique: str, events: Events
) -> None:
    """Raised after the application's own confirm_delivery() only; until then it is told."""
    connection = fan(*rabbits, on_event=events.add)
    channel = connection.channel()
    channel.exchange_declare(unique, "topic")
    channel.basic_publish(unique, "nowhere", "x", mandatory=True)
    assert events.count("MessageFailed") == 1
    channel.confirm_delivery()
    with pytest.raises(Unroutable, match="reached no queue on"):
        channel.basic_publish(unique, "nowhere", "x", mandatory=True)


def test_close_ends_a_waiting_send_and_every_thread(
    fan: Fan, lab: Lab, rabbits: tuple[RabbitMQ, RabbitMQ], unique: str
) -> None:
    proxy = lab.proxy(rabbits[1])
    proxy.refuse()
    before = set(threading.enumerate())
    connection = fan(rabbits[0], proxy)
    channel = declared(connection, unique)
    sent = lab.background(lambda: channel.basic_publish(unique, "news", "x"))
    assert not sent.is_over_within(0.3)
    connection.close()
    with pytest.raises(ConnectionLost):
        sent.join()

    def ours() -> list[str]:
        return [thread.name for thread in set(threading.enumerate()) - before]

    assert wait_until(lambda: not [name for name in ours() if "fanout" in name]), ours()


def test_publish_and_close_at_once_reaches_every_broker_that_was_there(
    fan: Fan, lab: Lab, rabbits: tuple[RabbitMQ, RabbitMQ], unique: str, take_all: Take
) -> None:
    proxy = lab.proxy(rabbits[1])
    connection = fan(rabbits[0], proxy, options="&minAckCount=1&closeTimeout=20000")
    channel = declared(connection, unique)
    assert wait_until(lambda: "2 of 2 connected" in repr(connection._fanout._fanout))
    proxy.delay(0.05)
    sent = [str(number) for number in range(5)]
    for body in sent:
        channel.basic_publish(unique, "news", body)
    connection.close()
    assert [bodies(take_all(broker, unique)) for broker in rabbits] == [sent, sent]


def test_a_member_that_gave_up_is_the_reason(
    fan: Fan, lab: Lab, rabbits: tuple[RabbitMQ, RabbitMQ], unique: str
) -> None:
    proxy = lab.proxy(rabbits[1])
    connection = fan(rabbits[0], proxy, options="&reconnect=false")
    channel = declared(connection, unique)
    channel.basic_publish(unique, "news", "x")
    proxy.refuse()
    proxy.reset()
    with pytest.raises((ConnectFailed, ConnectionLost), match="reconnect=false"):
        channel.basic_publish(unique, "news", "x")  # may be under way when the member is lost
    assert wait_until(lambda: "1 of 2 connected" in repr(connection._fanout._fanout))
    with pytest.raises(ConnectFailed, match="minAckCount=2") as caught:
        channel.basic_publish(unique, "news", "x")
    assert str(proxy.port) in str(caught.value)
    assert "reconnect=false" in str(caught.value)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ("&trackMessages=true", "fanout: and trackMessages=true do not go together"),
        ("&updateURIsURL=/nowhere", "updateURIsURL|needs its brokers listed"),
    ],
)
def test_what_does_not_go_together_is_refused(
    fan: Fan, rabbits: tuple[RabbitMQ, RabbitMQ], options: str, problem: str
) -> None:
    with pytest.raises(ConfigurationError, match=problem):
        fan(*rabbits, options=options)


def test_there_are_no_transactions_over_several_brokers(
    fan: Fan, rabbits: tuple[RabbitMQ, RabbitMQ]
) -> None:
    with pytest.raises(ConfigurationError, match="no transactions"):
        fan(*rabbits).channel().tx_select()
