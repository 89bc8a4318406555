"""The scripted AMQP peer, with py-amqp as its client."""

from __future__ import annotations

import socket
import struct
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import amqp
import pytest
from amqp.exceptions import MessageNacked

from understudy.testing import ScriptedPeer, wait_until
from understudy.testing.amqp_handshake import HandshakeFault
from understudy.testing.amqp_peer import Answer, PeerConnection, PeerMessage
from understudy.testing.frames import BASIC_ACK, BASIC_PUBLISH, QUEUE_DECLARE

PATIENCE = 60.0  # for what must happen
BRIEFLY = 0.2  # for what must not


@contextmanager
def connected(
    port: int, *, timeout: float = PATIENCE, confirms: bool = True, **options: Any
) -> Iterator[Any]:
    client = amqp.Connection(
        f"127.0.0.1:{port}", connect_timeout=timeout, confirm_publish=confirms, **options
    )
    try:
        client.connect()
        yield client
    finally:
        client.collect()  # not close(), which waits without bound for an answer


def publish(channel: Any, body: bytes | str = b"hello", **options: Any) -> None:
    channel.basic_publish(amqp.Message(body), routing_key="q", timeout=PATIENCE, **options)


def answering(*answers: Answer) -> Callable[[PeerConnection, int, PeerMessage], Answer]:
    """A script: one answer per message, then acks."""
    return lambda _, nth, __: answers[nth - 1] if nth <= len(answers) else "ack"


def test_a_healthy_session_is_recorded() -> None:
    with ScriptedPeer() as peer, connected(peer.port, virtual_host="/site") as client:
        channel = client.channel()
        channel.exchange_declare("e", "topic")
        assert channel.queue_declare("q").queue == "q"
        assert channel.queue_declare("").queue.startswith("amq.gen-")
        channel.queue_bind("q", "e", "r.*")
        channel.basic_qos(0, 10, False)
        message = amqp.Message(b"hello", message_id="m1", application_headers={"n": 1})
        channel.basic_publish(message, exchange="e", routing_key="r.1", mandatory=True)
        publish(channel, b"x" * 300_000)  # several body frames
        publish(channel, b"")
        first, second, third = peer.messages
        assert (first.body, first.exchange, first.routing_key) == (b"hello", "e", "r.1")
        assert (first.mandatory, first.delivery_tag, first.channel) == (True, 1, 1)
        properties = first.decode_properties()
        assert properties["message_id"] == "m1"
        assert properties["application_headers"] == {"n": 1}
        assert second.body == b"x" * 300_000
        assert (second.mandatory, second.delivery_tag, third.body) == (False, 2, b"")
        (connection,) = peer.connections
        assert (1, QUEUE_DECLARE) in connection.methods
        login = connection.login
        assert (login.user, login.password, login.vhost) == ("guest", "guest", "/site")
        assert login.client_properties["capabilities"]["connection.blocked"] is True
        assert client.server_capabilities["publisher_confirms"] is True
    assert wait_until(lambda: not peer.connections)
    assert peer.history == [connection]
    assert repr(peer).endswith("correct handshake, 3 messages>")


def test_the_clients_own_words_end_a_session() -> None:
    with ScriptedPeer() as peer, connected(peer.port) as client:
        channel = client.channel()
        channel.queue_delete("q")
        channel.tx_select()
        channel.tx_commit()
        channel.tx_rollback()
        assert channel.basic_get("q") is None
        channel.close()
        client.close()
        assert wait_until(lambda: not peer.connections)
    assert peer.accepted == 1


def test_without_confirms_nothing_is_acked() -> None:
    with ScriptedPeer() as peer, connected(peer.port, confirms=False) as client:
        publish(client.channel())
        assert wait_until(lambda: peer.messages)
        assert peer.messages[0].delivery_tag == 0
        with pytest.raises(TimeoutError):
            client.drain_events(timeout=BRIEFLY)


def test_a_nack() -> None:
    with ScriptedPeer(on_publish=answering("nack")) as peer, connected(peer.port) as client:
        channel = client.channel()
        with pytest.raises(MessageNacked):
            publish(channel)
        publish(channel)


def test_one_ack_for_several() -> None:
    script = answering("ignore", "ignore", "ack_multiple")
    acked: list[tuple[int, bool]] = []
    with (
        ScriptedPeer(on_publish=script) as peer,
        connected(peer.port, confirms=False) as client,
    ):
        channel = client.channel()
        channel.confirm_select()
        channel.events["basic_ack"].add(lambda tag, multiple: acked.append((tag, multiple)))
        for _ in range(3):
            publish(channel)
        client.drain_events(timeout=PATIENCE)
    assert acked == [(3, True)]


def test_an_unroutable_message_comes_back_before_its_ack() -> None:
    script = answering("return", ("return", 313))
    returned: list[tuple[int, str, bytes]] = []
    with ScriptedPeer(on_publish=script) as peer, connected(peer.port) as client:
        channel = client.channel()
        channel.events["basic_return"].add(
            lambda exc, _, key, message: returned.append(
                (exc.reply_code, key, bytes(message.body or b""))
            )
        )
        publish(channel, b"lost?", mandatory=True)
        publish(channel, b"", mandatory=True)
    assert returned == [(312, "q", b"lost?"), (313, "q", b"")]


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        ("close_channel", amqp.NotFound),
        (("close_channel", 403), amqp.AccessRefused),
        (("close_channel", 406), amqp.PreconditionFailed),
        ("close_connection", amqp.ConnectionForced),
        (("close_connection", 501), amqp.FrameError),
    ],
)
def test_what_is_refused_with_a_code(answer: Answer, error: type[Exception]) -> None:
    with ScriptedPeer(on_publish=answering(answer)) as peer, connected(peer.port) as client:
        channel = client.channel()
        with pytest.raises(error, match="scripted"):
            publish(channel)
        if answer[0] == "close_channel":
            publish(client.channel())
            assert len(peer.messages) == 2


def test_a_closed_channel_ignores_what_was_sent_before_the_news() -> None:
    script = answering("close_channel")
    with (
        ScriptedPeer(on_publish=script) as peer,
        connected(peer.port, confirms=False) as client,
    ):
        channel, other = client.channel(), client.channel()
        for target, body in ((channel, b"one"), (channel, b"two"), (other, b"other")):
            arguments = (0, "", "q", False, False)
            target.send_method(BASIC_PUBLISH, "Bssbb", arguments, amqp.Message(body))
        assert wait_until(lambda: len(peer.messages) == 2)
        assert peer.messages[1].body == b"other"


@pytest.mark.parametrize("answer", ["reset", "fin"])
def test_a_connection_cut_by_the_script(answer: Answer) -> None:
    with ScriptedPeer(on_publish=answering("ack", answer)) as peer, connected(peer.port) as client:
        channel = client.channel()
        publish(channel)
        with pytest.raises(OSError, match=r"reset|closed|Broken") as caught:
            publish(channel)
        assert answer == "fin" or isinstance(caught.value, ConnectionResetError)
        assert wait_until(lambda: not peer.connections)
        with connected(peer.port) as again:
            publish(again.channel())
    assert [message.delivery_tag for message in peer.messages] == [1, 2, 1]


def test_a_script_may_use_the_connection() -> None:
    def late_acks(connection: PeerConnection, nth: int, message: PeerMessage) -> Answer:
        if nth == 3:
            for tag in (2, 1, 3):
                connection.ack(message.channel, tag)
        return "ignore"

    acked: list[int] = []
    with (
        ScriptedPeer(on_publish=late_acks) as peer,
        connected(peer.port, confirms=False) as client,
    ):
        channel = client.channel()
        channel.confirm_select()
        channel.events["basic_ack"].add(lambda tag, _: acked.append(tag))
        for _ in range(3):
            publish(channel)
        while len(acked) < 3:
            client.drain_events(timeout=PATIENCE)
    assert acked == [2, 1, 3]


def test_deliveries_and_their_acks() -> None:
    received: list[Any] = []
    with ScriptedPeer() as peer, connected(peer.port) as client:
        channel = client.channel()
        tag = channel.basic_consume("q", callback=received.append)
        (connection,) = peer.connections
        assert connection.deliver(b"one") == 1
        assert connection.deliver(b"two" * 100_000, consumer_tag=tag) == 2
        while len(received) < 2:
            client.drain_events(timeout=PATIENCE)
        assert [message.body for message in received] == [b"one", b"two" * 100_000]
        channel.basic_ack(received[0].delivery_tag)
        channel.basic_cancel(tag)
        assert (1, BASIC_ACK) in connection.methods
        assert not connection.consumers


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ("silent", TimeoutError),
        ("garbage", TimeoutError),  # it reads as the beginning of a frame of 1.3 GB
        ("half_frame", TimeoutError),
        ("huge_frame", TimeoutError),
        ("slow_drip", TimeoutError),
        ("close_after_start", OSError),
        ("wrong_auth", amqp.AccessRefused),
        ("wrong_vhost", amqp.NotAllowed),
        ("bad_frame_end", amqp.UnexpectedFrame),
    ],
)
def test_handshakes_that_fail(fault: HandshakeFault, error: type[Exception]) -> None:
    timeout = BRIEFLY if error is TimeoutError else PATIENCE
    with ScriptedPeer(handshake=fault, drip=2 * BRIEFLY) as peer:
        with pytest.raises(error), connected(peer.port, timeout=timeout):
            pass
        assert wait_until(lambda: peer.history)
        assert not peer.history[0].is_ready
        peer.handshake = None
        with connected(peer.port) as client:
            publish(client.channel())


def test_a_slow_handshake_is_a_correct_one() -> None:
    with ScriptedPeer(handshake="slow_drip", drip=0.0001) as peer, connected(peer.port) as client:
        publish(client.channel())


def test_another_protocol_is_answered_with_ours() -> None:
    with (
        ScriptedPeer() as peer,
        socket.create_connection((peer.host, peer.port), PATIENCE) as client,
    ):
        client.sendall(b"AMQP\x00\x01\x00\x00")
        assert client.recv(100) == b"AMQP\x00\x00\x09\x01"
        assert client.recv(100) == b""


def test_blocked_and_unblocked() -> None:
    told: list[str] = []
    with (
        ScriptedPeer() as peer,
        connected(
            peer.port,
            confirms=False,
            on_blocked=lambda reason: told.append("blocked"),
            on_unblocked=lambda: told.append("unblocked"),
        ) as client,
    ):
        channel = client.channel()
        channel.confirm_select()
        channel.events["basic_ack"].add(lambda tag, multiple: told.append(f"ack {tag}"))
        peer.block("disk alarm")
        client.drain_events(timeout=PATIENCE)
        assert told == ["blocked"]
        publish(channel)
        with connected(peer.port, on_blocked=lambda _: told.append("blocked too")) as late:
            late.drain_events(timeout=PATIENCE)
        with pytest.raises(TimeoutError):
            client.drain_events(timeout=BRIEFLY)
        assert not peer.messages
        peer.unblock()
        while len(told) < 4:
            client.drain_events(timeout=PATIENCE)
    assert told == ["blocked", "blocked too", "unblocked", "ack 1"]


def test_blocking_may_be_words_only() -> None:
    with ScriptedPeer() as peer, connected(peer.port, on_blocked=print) as client:
        channel = client.channel()
        peer.block(hold=False)
        publish(channel)
        assert len(peer.messages) == 1


def test_heartbeats_beat_until_told_to_stop() -> None:
    with ScriptedPeer(heartbeat=1) as peer, connected(peer.port, heartbeat=1) as client:
        (connection,) = peer.connections
        assert connection.login.heartbeat == 1
        received = client.bytes_recv
        client.transport.sock.settimeout(PATIENCE)
        client.blocking_read()
        assert client.bytes_recv == received + 1
        client.send_heartbeat()
        assert wait_until(lambda: connection.wire.heartbeats_received == 1)
        peer.stop_heartbeats()
        client.channel()  # whatever was on its way has come before this answer
        with pytest.raises(TimeoutError):
            client.drain_events(timeout=1.2)


def test_raw_bytes_to_all() -> None:
    with ScriptedPeer() as peer, connected(peer.port) as client:
        peer.send_raw(struct.pack(">BHI", 1, 0, 0) + b"\x00")
        with pytest.raises(amqp.UnexpectedFrame):
            client.drain_events(timeout=PATIENCE)


def test_all_connections_may_be_reset() -> None:
    with ScriptedPeer() as peer, connected(peer.port) as one, connected(peer.port) as two:
        peer.reset()
        for client in (one, two):
            with pytest.raises(ConnectionResetError):
                client.drain_events(timeout=PATIENCE)


def test_an_unknown_method_is_not_implemented() -> None:
    with ScriptedPeer() as peer, connected(peer.port) as client:
        channel = client.channel()
        with pytest.raises(amqp.AMQPNotImplementedError):
            channel.send_method((85, 99), wait=(85, 100))


def test_a_mistake_in_the_script_is_told_at_the_end() -> None:
    peer = ScriptedPeer(on_publish=lambda *_: "akc").start()
    with connected(peer.port) as client, pytest.raises(OSError, match=r"reset|closed"):
        publish(client.channel())
    with pytest.raises(ValueError, match="'akc'; known: ack, "):
        peer.close()
    peer.close()


def test_closing_leaves_no_thread_and_frees_the_port() -> None:
    peer = ScriptedPeer().start()
    dripping = ScriptedPeer(handshake="slow_drip").start()
    blocked = ScriptedPeer().start()
    with socket.create_connection((dripping.host, dripping.port), PATIENCE) as drop:
        drop.sendall(b"AMQP\x00\x00\x09\x01")
        assert drop.recv(1) == b"\x01"
        with connected(peer.port), connected(blocked.port, on_blocked=print) as held:
            channel = held.channel()
            blocked.block()
            with pytest.raises(TimeoutError):
                channel.basic_publish(amqp.Message(b"x"), routing_key="q", timeout=BRIEFLY)
            for server in (peer, dripping, blocked):
                server.close()
    assert "ScriptedPeer" not in [thread.name for thread in threading.enumerate()]
    with ScriptedPeer(port=peer.port) as again, connected(again.port) as client:
        assert again.url == f"amqp://guest:guest@127.0.0.1:{peer.port}//"
        publish(client.channel())


def test_without_py_amqp_it_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "amqp", None)
    with pytest.raises(ImportError, match=r"pip install 'understudy\[kombu\]'"):
        ScriptedPeer()
