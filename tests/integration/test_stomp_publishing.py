"""Sends of the STOMP adapter on real brokers: confirmed, resent, refused, bounded in time."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import amqp
import pytest
import stomp

import understudy.stomp
from understudy import errors
from understudy.testing.brokers import ActiveMQ, RabbitMQ
from understudy.testing.stomp_lab import Listener, StompLab, stomp_address

pytestmark = pytest.mark.integration

Broker = RabbitMQ | ActiveMQ


@pytest.fixture
def lab() -> Iterator[StompLab]:
    with StompLab() as lab:
        yield lab


def test_it_is_a_connection_of_stomp_py(lab: StompLab) -> None:
    connection = lab.connection("stomp://127.0.0.1:1")
    assert isinstance(connection, stomp.connect.BaseConnection)
    assert isinstance(connection, stomp.Connection12)
    assert isinstance(lab.connection("stomp://a:1", version="1.1"), stomp.Connection11)


@pytest.mark.parametrize("version", ["1.1", "1.2"])
def test_a_program_written_for_stomp_py(
    lab: StompLab, stomp_broker: Broker, unique: str, version: str
) -> None:
    """Its own list of addresses, its listeners, its receipts; F14 without an outage."""
    classes: dict[str, Any] = {
        "1.1": understudy.stomp.Connection11,
        "1.2": understudy.stomp.Connection12,
    }
    connection = classes[version]([stomp_address(stomp_broker)], vhost="/")
    listener = Listener()
    connection.set_listener("mine", listener)
    assert connection.get_listener("mine") is listener
    with connection:
        connection.connect("guest", "guest", wait=True)
        assert connection.is_connected()
        name, host = classes[version].__name__, stomp_address(stomp_broker)[0]
        assert repr(connection).startswith(f"<{name} on stomp://{host}:")
        assert " of failover:(" in repr(connection)
        connection.subscribe(destination=f"/queue/{unique}", id="1", ack="auto")
        connection.send(f"/queue/{unique}", "hello", receipt="mine-1", headers={"a:b": "c\\d\ne"})
        listener.wait_for_bodies("hello")
        listener.wait_until(lambda it: it.receipts == ["mine-1"], "the receipt")
        assert listener.frames[0].headers["a:b"] == "c\\d\ne"
        connection.unsubscribe("1")
    assert not connection.is_connected()
    assert repr(connection).startswith(f"<{name} closed of failover:(")
    assert listener.calls[:2] == ["connecting", "connected"]
    listener.wait_until(lambda it: it.calls[-1] == "disconnected", "on_disconnected")


@pytest.mark.parametrize("body", [bytes(range(256)), b"", b"\0", b"\0" * 3000, b"\xff\xfe"])
def test_bytes_stay_what_they_are(
    lab: StompLab, stomp_broker: Broker, unique: str, body: bytes
) -> None:
    connection = lab.connect(stomp_broker)
    listener = Listener()
    connection.set_listener("", listener)
    connection.subscribe(f"/queue/{unique}", id="1")
    connection.send(f"/queue/{unique}", body, content_type="application/octet-stream")
    listener.wait_until(lambda it: it.frames, "the message")
    got = listener.frames[0].body
    assert (got.encode() if isinstance(got, str) else got) == body


def test_a_large_body_passes(lab: StompLab, stomp_broker: Broker, unique: str) -> None:
    connection = lab.connect(stomp_broker)
    listener = Listener()
    connection.set_listener("", listener)
    connection.subscribe(f"/queue/{unique}", id="1")
    body = b"\0\xff" * 4_000_000
    connection.send(f"/queue/{unique}", body)
    listener.wait_until(lambda it: it.frames, "the message")
    assert listener.frames[0].body == body


def test_a_send_whose_receipt_was_lost_is_sent_again_and_says_so(
    lab: StompLab, stomp_broker: Broker, unique: str
) -> None:
    """F28: at least once, the same id, and the mark of a resend."""
    first, second = lab.proxy(stomp_broker), lab.proxy(stomp_broker)
    connection = lab.connect(first, second, heartbeat=0)
    connection.send(f"/queue/{unique}", "before")
    cut = first.cut_after(1, "down")  # the broker has the message, its receipt does not pass
    connection.send(f"/queue/{unique}", "doubt")
    assert cut.fired == 1
    frames = lab.take_all(stomp_broker, f"/queue/{unique}", 3)
    assert [frame.body for frame in frames] == ["before", "doubt", "doubt"]
    marks = [frame.headers.get("x-understudy-resend") for frame in frames]
    assert marks == [None, None, "true"]
    assert len({frame.headers["x-understudy-id"] for frame in frames}) == 2
    assert not any("receipt" in frame.headers for frame in frames)


def test_an_id_of_the_applications_own_is_kept(
    lab: StompLab, stomp_broker: Broker, unique: str
) -> None:
    connection = lab.connect(stomp_broker)
    connection.send(f"/queue/{unique}", "a", headers={"amqp-message-id": "mine"})
    connection.send(f"/queue/{unique}", "b", headers={"x-understudy-id": "mine too"})
    first, second = lab.take_all(stomp_broker, f"/queue/{unique}", 2)
    assert "x-understudy-id" not in first.headers
    assert second.headers["x-understudy-id"] == "mine too"


def test_a_message_is_persistent_unless_said_otherwise(
    lab: StompLab, stomp_broker: Broker, unique: str
) -> None:
    connection = lab.connect(stomp_broker)
    connection.send(f"/queue/{unique}", "a")
    connection.send(f"/queue/{unique}", "b", persistent="false")
    first, second = lab.take_all(stomp_broker, f"/queue/{unique}", 2)
    assert first.headers.get("persistent") == "true"
    assert second.headers.get("persistent") != "true"


def test_a_send_ends_at_its_deadline_and_the_connection_works_again(
    lab: StompLab, stomp_broker: Broker, unique: str
) -> None:
    """F15: what timed out is never sent by us later."""
    proxy = lab.proxy(stomp_broker)
    connection = lab.connect(proxy, timeout=4000, heartbeat=0)
    proxy.refuse()
    proxy.reset()
    lab.wait_for_event("Interrupted")  # else it may be written to what is dead already
    with pytest.raises(understudy.stomp.SendTimeout) as caught:
        connection.send(f"/queue/{unique}", "late")
    assert not isinstance(caught.value, OSError)
    assert isinstance(caught.value, stomp.exception.StompException)
    assert not caught.value.written
    assert caught.value.message_id
    assert caught.value.attempts
    proxy.heal()
    connection.send(f"/queue/{unique}", "again")
    frames = lab.take_all(stomp_broker, f"/queue/{unique}", 1)
    assert [frame.body for frame in frames] == ["again"]


def test_a_send_waits_out_an_outage(lab: StompLab, stomp_broker: Broker, unique: str) -> None:
    """F14."""
    proxy = lab.proxy(stomp_broker)
    connection = lab.connect(proxy)
    proxy.refuse()
    proxy.reset()
    threading.Timer(1.0, proxy.heal).start()
    connection.send(f"/queue/{unique}", "patient")
    assert [f.body for f in lab.take_all(stomp_broker, f"/queue/{unique}", 1)] == ["patient"]


def test_rabbitmq_refuses_a_message_for_an_exchange_that_is_not_there(
    lab: StompLab, rabbit_a: RabbitMQ, unique: str
) -> None:
    """The broker's error is the application's, named; the connection goes on."""
    connection = lab.connect(rabbit_a)
    with pytest.raises(understudy.stomp.Refused, match="no exchange") as caught:
        connection.send(f"/exchange/{unique}/x", "nowhere", headers={"x-understudy-id": "the-id"})
    assert caught.value.message_id == "the-id"
    assert isinstance(caught.value, stomp.exception.StompException)
    connection.send(f"/queue/{unique}", "fine")


def test_a_refused_message_is_found_while_the_connection_consumes_too(
    lab: StompLab, rabbit_a: RabbitMQ, unique: str
) -> None:
    """Its subscription is restored at each try, and takes no blame; others' messages arrive."""
    connection = lab.connection(rabbit_a)
    listener = Listener(connection)
    connection.set_listener("", listener)
    connection.connect(wait=True)
    connection.subscribe(f"/queue/{unique}", id="1", ack="client-individual")
    stop = threading.Event()
    failures: list[BaseException] = []

    def work() -> None:
        try:
            while not stop.is_set():
                connection.send(f"/queue/{unique}", "x")
        except BaseException as exc:
            failures.append(exc)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        for _ in range(3):
            with pytest.raises(understudy.stomp.Refused, match="no exchange"):
                connection.send(f"/exchange/{unique}/x", "nowhere")
    finally:
        stop.set()
        thread.join(60)
    assert not failures


def test_rabbitmq_refuses_a_header_and_stays_open(
    lab: StompLab, rabbit_a: RabbitMQ, unique: str
) -> None:
    """An ERROR without a receipt-id, on a connection that is not closed."""
    connection = lab.connect(rabbit_a)
    with pytest.raises(understudy.stomp.Refused, match="message-id"):
        connection.send(f"/queue/{unique}", "x", headers={"message-id": "1"})
    connection.send(f"/queue/{unique}", "fine")


def test_rabbitmq_refuses_without_a_word_when_a_queue_is_full(
    lab: StompLab, rabbit_a: RabbitMQ, unique: str
) -> None:
    """RabbitMQ 3.10 closes the connection and says nothing; the sender must not try for ever."""
    with amqp.Connection(f"{rabbit_a.host}:{rabbit_a.port}") as admin:
        arguments = {"x-max-length": 1, "x-overflow": "reject-publish"}
        admin.channel().queue_declare(unique, durable=True, auto_delete=False, arguments=arguments)
    connection = lab.connect(rabbit_a)
    connection.send(f"/amq/queue/{unique}", "fits")
    with pytest.raises(understudy.stomp.Refused, match="without a word"):
        connection.send(f"/amq/queue/{unique}", "too much")
    connection.send(f"/queue/{unique}-other", "fine")


@pytest.mark.parametrize(
    ("destination", "headers"),
    [
        ("", {}),
        ("/queue/%s", {"priority": "high"}),
        ("/queue/%s", {"expires": "tomorrow"}),
        ("/queue/%s", {"transformation": "jms-map-xml"}),
        ("/queue/%s", {"": "x"}),
    ],
    ids=["no destination", "priority", "expires", "transformation", "empty header name"],
)
def test_activemq_refuses_a_poison_message_and_takes_all_others(
    lab: StompLab, activemq: ActiveMQ, unique: str, destination: str, headers: dict[str, str]
) -> None:
    """It closes the connection without an ERROR, each time; the others' sends go on meanwhile."""
    connection = lab.connect(activemq)
    failures: list[BaseException] = []

    def work() -> None:
        try:
            for number in range(25):
                connection.send(f"/queue/{unique}", f"good {number}")
        except BaseException as exc:
            failures.append(exc)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        where = destination.replace("%s", unique)
        named = {**headers, "x-understudy-id": "the-poison"}
        with pytest.raises(understudy.stomp.Refused, match=r"the-poison.*without a word") as caught:
            connection.send(where, "x", headers=named)
    finally:
        for thread in threads:
            thread.join(60)
    assert caught.value.message_id == "the-poison"
    assert not any(thread.is_alive() for thread in threads)
    assert not failures
    connection.send(f"/queue/{unique}", "fine")


def test_what_cannot_be_encoded_is_the_callers_error(lab: StompLab, rabbit_a: RabbitMQ) -> None:
    """F51: before anything is written."""
    connection = lab.connect(rabbit_a)
    with pytest.raises(ValueError, match="NUL"):
        connection.send("/queue/x", "x", headers={"a": "b\0c"})
    with pytest.raises(TypeError):
        connection.send("/queue/x", 17)
    assert [type(event).__name__ for event in lab.events] == ["Connected"]


def test_without_connect_nothing_hangs(lab: StompLab) -> None:
    connection = lab.connection("stomp://127.0.0.1:1")
    with pytest.raises(stomp.exception.NotConnectedException):
        connection.send("/queue/x", "x")
    connection.disconnect()


def test_giving_up_reaches_everybody_and_the_next_call_begins_anew(
    lab: StompLab, stomp_broker: Broker, unique: str
) -> None:
    """F07, F08, F52."""
    proxy = lab.proxy(stomp_broker)
    connection = lab.connect(proxy, maxReconnectAttempts=1)
    listener = Listener()
    connection.set_listener("", listener)
    proxy.refuse()
    proxy.reset()
    with pytest.raises(stomp.exception.ConnectFailedException) as caught:
        connection.send(f"/queue/{unique}", "x")
    assert isinstance(caught.value, errors.ConnectFailed)
    listener.wait_until(lambda it: "disconnected" in it.calls, "on_disconnected")
    assert not connection.is_connected()
    proxy.heal()
    connection.send(f"/queue/{unique}", "y")
    assert connection.is_connected()
    assert [f.body for f in lab.take_all(stomp_broker, f"/queue/{unique}", 1)] == ["y"]


def test_reconnect_false_never_reconnects(lab: StompLab, stomp_broker: Broker) -> None:
    proxy = lab.proxy(stomp_broker)
    connection = lab.connect(proxy, reconnect="false")
    proxy.reset()
    for _ in range(2):
        with pytest.raises(understudy.stomp.ConnectionLost):
            connection.send("/queue/x", "x")


def test_fire_and_forget(lab: StompLab, stomp_broker: Broker, unique: str) -> None:
    connection = lab.connect(stomp_broker, confirms="false")
    for number in range(50):
        connection.send(f"/queue/{unique}", str(number))
    frames = lab.take_all(stomp_broker, f"/queue/{unique}", 50)
    assert [frame.body for frame in frames] == [str(number) for number in range(50)]
    assert "receipt" not in frames[0].headers


def test_many_threads_send_on_one_connection_through_cuts(
    lab: StompLab, stomp_broker: Broker, unique: str
) -> None:
    """F20: nobody sees an error, nothing is lost, interrupted = resumed = drops."""
    proxy = lab.proxy(stomp_broker)
    connection = lab.connect(proxy)
    failures: list[BaseException] = []

    def work(worker: int) -> None:
        try:
            for number in range(30):
                connection.send(f"/queue/{unique}", f"{worker}-{number}")
                time.sleep(0.01)
        except BaseException as exc:
            failures.append(exc)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(5)]
    for thread in threads:
        thread.start()
    for _ in range(4):
        time.sleep(0.1)
        proxy.reset()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    assert not failures
    lab.wait_until_resumed()
    taker = lab.connect(stomp_broker)
    listener = Listener(taker)
    taker.set_listener("", listener)
    taker.subscribe(f"/queue/{unique}", id="1", ack="client-individual")
    listener.wait_for_bodies(*(f"{w}-{n}" for w in range(5) for n in range(30)))
