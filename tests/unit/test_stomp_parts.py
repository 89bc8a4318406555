"""The pure parts of the STOMP adapter: messages, dialects, acknowledgements, the handshake."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from understudy.core.uri import parse
from understudy.stomp.dispatcher import Dispatcher
from understudy.stomp.inner import Handshake
from understudy.stomp.message import OutMessage
from understudy.stomp.subscriptions import Subscription, to_be_acked
from understudy.wire.stomp import FrameParser, RawFrame
from understudy.wire.stomp_dialects import ACTIVEMQ, ARTEMIS, GENERIC, RABBITMQ, detect
from understudy.wire.stomp_login import error_text


def read(data: bytes) -> RawFrame:
    [frame] = FrameParser().feed(data)
    return frame


def message(**headers: Any) -> OutMessage:
    return OutMessage({"destination": "/queue/q", **headers}, b"body", version="1.2")


def test_a_message_gets_an_id_and_is_persistent() -> None:
    frame = read(message().frame(RABBITMQ, "u1"))
    assert frame.headers["persistent"] == "true"
    assert frame.headers["x-understudy-id"]
    assert frame.headers["receipt"] == "u1"
    assert "x-understudy-resend" not in frame.headers


def test_a_resend_has_the_same_id_and_says_so() -> None:
    one = message()
    first = read(one.frame(RABBITMQ, None))
    one.resend = True
    second = read(one.frame(RABBITMQ, "u7"))
    assert second.headers["x-understudy-resend"] == "true"
    assert second.headers["x-understudy-id"] == first.headers["x-understudy-id"] == one.key
    assert second.body == b"body"


def test_a_message_that_is_passed_on_is_no_resend_and_keeps_its_id() -> None:
    said = {"x-understudy-id": "theirs", "x-understudy-resend": "true"}
    one = OutMessage({"destination": "/queue/q", **said}, b"", version="1.2")
    assert one.key == "theirs"
    assert "x-understudy-resend" not in read(one.frame(RABBITMQ, None)).headers


def test_the_applications_receipt_is_not_the_one_on_the_wire() -> None:
    one = message(receipt="mine")
    assert one.receipt == "mine"
    assert read(one.frame(RABBITMQ, "u1")).headers["receipt"] == "u1"
    assert "receipt" not in read(one.frame(RABBITMQ, None)).headers


def test_a_destination_is_called_as_each_broker_calls_it() -> None:
    one = OutMessage({"destination": "/amq/queue/q"}, b"", version="1.2")
    for dialect, name in ((RABBITMQ, "/amq/queue/q"), (ACTIVEMQ, "/queue/q")) * 2:
        assert read(one.frame(dialect, None)).headers["destination"] == name


@pytest.mark.parametrize(
    ("server", "dialect"),
    [
        ("RabbitMQ/3.10.8", RABBITMQ),
        ("ActiveMQ/5.17.2", ACTIVEMQ),
        ("apache-activemq-artemis/2.31.0 ActiveMQ Artemis Messaging Engine", ARTEMIS),
        ("", GENERIC),
        ("something/1", GENERIC),
    ],
)
def test_a_broker_is_known_by_its_server_header(server: str, dialect: object) -> None:
    assert detect(server) is dialect


def test_client_mode_is_cumulative_within_its_subscription() -> None:
    unacked = {"1": "a", "2": "b", "3": "a", "4": "a"}
    client = Subscription({"id": "a", "destination": "/queue/q", "ack": "client"})
    single = Subscription({"id": "a", "destination": "/queue/q", "ack": "client-individual"})
    assert list(to_be_acked(unacked, "3", client)) == ["1", "3"]
    assert list(to_be_acked(unacked, "3", single)) == ["3"]
    assert list(to_be_acked(unacked, "3", None)) == ["3"]


def test_on_rabbitmq_client_mode_is_asked_for_one_by_one() -> None:
    client = Subscription({"id": "a", "destination": "/queue/q", "ack": "client"})
    assert read(client.frame(RABBITMQ, "c1", "1.2")).headers["ack"] == "client-individual"
    assert read(client.frame(ACTIVEMQ, "c1", "1.2")).headers["ack"] == "client"


def test_the_endpoints_own_credentials_go_first() -> None:
    handshake = Handshake("STOMP", "1.2", "app", "secret", "/", {"client-id": "me", "login": "x"})
    plain, own = parse("failover:(stomp://a,stomp://me:mine@b/vh%2F1)").endpoints
    frame = read(handshake.frame(plain, (1000, 2000)))
    assert (frame.headers["login"], frame.headers["passcode"]) == ("app", "secret")
    assert frame.headers["heart-beat"] == "1000,2000"
    assert frame.headers["client-id"] == "me"
    frame = read(handshake.frame(own, (0, 0)))
    assert (frame.headers["login"], frame.headers["passcode"]) == ("me", "mine")
    assert frame.headers["host"] == "vh/1"
    assert "heart-beat" not in frame.headers
    assert "secret" not in repr(handshake)
    assert "passcode" not in read(handshake.without_secrets().frame(plain, (0, 0))).headers


def test_an_error_is_told_in_one_line() -> None:
    told = RawFrame("ERROR", {"message": "Bad"}, b"it is\nbad\tin\nlines")
    assert error_text(told) == "Bad: it is"
    assert error_text(RawFrame("ERROR", {}, b"")) == "an ERROR frame without text"
    assert "pw" not in error_text(RawFrame("ERROR", {"message": "no amqp://me:pw@host"}, b""))


def test_the_dispatcher_keeps_order_drops_what_is_over_and_survives_errors() -> None:
    done: list[object] = []
    rooms: list[bool] = []

    def notify(kind: str, *arguments: object) -> None:
        if kind == "bad":
            raise RuntimeError
        done.append(arguments[0] if arguments else kind)

    dispatcher = Dispatcher(notify, lambda: rooms.append(True))
    dispatcher.put([("receipt", (number,), 1, None) for number in range(2000)])
    dispatcher.put([("bad", (), 0, None), ("receipt", ("over",), 0, lambda: False)])
    dispatcher.put([("disconnected", (), 0, None)])
    dispatcher.end()
    assert dispatcher.wait_ended(10)
    assert done == [*range(2000), "disconnected"]
    assert rooms
    assert dispatcher.bytes == 0


def test_the_listeners_thread_may_be_of_the_applications_own_kind() -> None:
    threads: list[threading.Thread] = []

    def start(run: Any) -> None:
        threads.append(threading.Thread(target=run, name="mine"))
        threads[0].start()

    names: list[str] = []
    dispatcher = Dispatcher(
        lambda *_: names.append(threading.current_thread().name), lambda: None, start
    )
    dispatcher.put([("heartbeat", (), 0, None)])
    dispatcher.end()
    assert dispatcher.wait_ended(10)
    assert names == ["mine"]


def test_a_caller_enters_no_condition(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its __enter__ is Python code: an exception of a signal handler there leaves it locked."""
    has_begun = threading.Event()
    dispatcher = Dispatcher(lambda *_: has_begun.set(), lambda: None)
    dispatcher.put([("first", (), 0, None)])
    assert has_begun.wait(30)
    caller = threading.current_thread()
    enter = threading.Condition.__enter__

    def checked(self: threading.Condition) -> bool:
        assert threading.current_thread() is not caller
        return enter(self)

    with monkeypatch.context() as patch:
        patch.setattr(threading.Condition, "__enter__", checked)
        dispatcher.put([("second", (), 0, None)])
        dispatcher.drop_void()
    dispatcher.end()
    assert dispatcher.wait_ended(30)


def test_a_listener_that_exits_ends_nothing() -> None:
    """Else messages are taken from the broker, and nobody hears of them."""
    told: list[str] = []

    def notify(kind: str) -> None:
        told.append(kind)
        if kind == "first":
            raise SystemExit

    dispatcher = Dispatcher(notify, lambda: None)
    dispatcher.put([("first", (), 0, None), ("second", (), 0, None)])
    dispatcher.end()
    assert dispatcher.wait_ended(30)
    assert told == ["first", "second"]
