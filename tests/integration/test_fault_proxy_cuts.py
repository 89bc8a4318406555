"""Cuts that the fault proxy is told to make: after so many bytes, or at a frame."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import amqp
import pytest

from understudy.testing import FaultProxy, ScriptedPeer, wait_until
from understudy.testing.frames import BASIC_ACK, BASIC_PUBLISH, BODY, HEADER, METHOD, encode_frame
from understudy.testing.proxy_bench import (
    PATIENCE,
    Bench,
    read_exactly,
    read_to_end,
    send_quietly,
    turned,
)
from understudy.testing.proxy_cuts import Direction, How

ACK = encode_frame(METHOD, 1, struct.pack(">HHQB", *BASIC_ACK, 1, 0))
PUBLISH = (
    encode_frame(METHOD, 1, struct.pack(">HH", *BASIC_PUBLISH) + b"\0\0\0\1q\0")
    + encode_frame(HEADER, 1, struct.pack(">HHQH", 60, 0, 5, 0))
    + encode_frame(BODY, 1, b"hello")
)


@pytest.fixture
def bench() -> Iterator[Bench]:
    with ExitStack() as stack:
        yield Bench(stack, "127.0.0.1")


@pytest.mark.parametrize("how", ["rst", "fin"])
@pytest.mark.parametrize("direction", ["up", "down"])
@pytest.mark.parametrize("step", [1, 7, 10_000])
def test_a_connection_is_cut_after_exactly_n_bytes(
    bench: Bench, how: How, direction: Direction, step: int
) -> None:
    sender, receiver = turned(bench.pair(), direction)
    sender.sendall(b"not counted")
    assert read_exactly(receiver, 11) == b"not counted"
    cut = bench.proxy.cut_after(1001, direction, how)
    data = bytes(range(250)) * 5
    for at in range(0, len(data), step):
        send_quietly(sender, data[at : at + step])
    assert read_to_end(receiver) == (data[:1001], how)
    assert cut.wait(PATIENCE)
    assert cut.fired == 1
    client, target = bench.pair()  # one cut was ordered: the next connection lives
    client.sendall(data)
    assert read_exactly(target, len(data)) == data


def test_a_cut_waits_for_a_reader_who_is_behind(bench: Bench) -> None:
    bench.listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client, target = bench.pair()
    size = 40_000  # more than the reader's kernel takes, less than the proxy's gives
    cut = bench.proxy.cut_after(size, "up", "rst")
    client.sendall(bytes(size + 1000))
    assert wait_until(lambda: bench.proxy.bytes_up == size)
    data, end = read_to_end(target)
    assert (len(data), end) == (size, "rst")
    assert cut.wait(PATIENCE)


def test_a_cut_may_be_a_black_hole(bench: Bench) -> None:
    client, target = bench.pair()
    cut = bench.proxy.cut_after(3, "both", "black_hole")
    client.sendall(b"ab")
    assert read_exactly(target, 2) == b"ab"
    target.sendall(b"cdef")
    assert read_exactly(client, 1) == b"c"
    assert cut.wait(PATIENCE)
    client.sendall(b"gh")
    other_client, other_target = bench.pair()
    other_client.sendall(b"not concerned")
    assert read_exactly(other_target, 13) == b"not concerned"
    assert (bench.proxy.bytes_up, bench.proxy.bytes_down) == (15, 1)
    bench.proxy.heal()
    assert read_exactly(client, 3) == b"def"
    assert read_exactly(target, 2) == b"gh"


def test_every_connection_may_be_cut(bench: Bench) -> None:
    cut = bench.proxy.cut_after(4, "up", "fin", times=None)
    for fired in (1, 2, 3):
        client, target = bench.pair()
        client.sendall(b"12345")
        assert read_to_end(target) == (b"1234", "fin")
        assert wait_until(lambda fired=fired: cut.fired == fired)  # type: ignore[misc]
    cut.cancel()
    client, target = bench.pair()
    client.sendall(b"12345")
    assert read_exactly(target, 5) == b"12345"


@pytest.mark.parametrize("step", [1, 5, 10_000])
@pytest.mark.parametrize("before", [True, False])
def test_an_aimed_cut_comes_just_before_or_just_after(
    bench: Bench, step: int, before: bool
) -> None:
    client, target = bench.pair()
    up = bench.proxy.cut_on(BASIC_PUBLISH, nth=2, direction="up", before=before)
    stream = b"AMQP\0\0\x09\1" + 3 * PUBLISH
    for at in range(0, len(stream), step):
        send_quietly(client, stream[at : at + step])
    end = 8 + len(PUBLISH) * (1 if before else 2)
    assert read_to_end(target) == (stream[:end], "rst")
    assert up.wait(PATIENCE)
    assert repr(up) == "<FrameCut rst, disarmed, fired 1>"


def test_after_the_publish_and_before_the_ack(bench: Bench) -> None:
    """What the aimed cut is for: the broker has the message and the client does not know."""
    client, target = bench.pair()
    happened: list[str] = []
    cut = bench.proxy.cut_on(
        BASIC_ACK,
        direction="down",
        how="fin",
        then=lambda: happened.append(f"{bench.proxy.connections} open, {bench.proxy.bytes_up} up"),
    )
    client.sendall(PUBLISH)
    assert read_exactly(target, len(PUBLISH)) == PUBLISH
    target.sendall(ACK)
    assert read_to_end(client) == (b"", "fin")
    assert cut.wait(PATIENCE)
    assert happened == [f"1 open, {len(PUBLISH)} up"]


def test_frames_are_counted_over_connections_and_anew_after_each_cut(bench: Bench) -> None:
    cut = bench.proxy.cut_on(BASIC_PUBLISH, nth=3, direction="up", before=True, times=2)
    for _ in range(2):
        for number in range(3):
            client, target = bench.pair()
            client.sendall(PUBLISH)
            if number < 2:
                assert read_exactly(target, len(PUBLISH)) == PUBLISH
        assert read_to_end(target) == (b"", "rst")
    assert wait_until(lambda: cut.fired == 2)
    assert not cut.is_armed


def test_then_may_call_the_proxy(bench: Bench) -> None:
    client, target = bench.pair()
    bystander, _ = bench.pair()

    def storm() -> None:
        bench.proxy.refuse()
        bench.proxy.reset()
        bench.proxy.cut_after(1)

    cut = bench.proxy.cut_on(BASIC_ACK, direction="up", then=storm)
    client.sendall(ACK)
    assert read_to_end(target) == (b"", "rst")
    assert read_to_end(bystander) == (b"", "rst")
    assert cut.wait(PATIENCE)
    with pytest.raises(ConnectionRefusedError):
        bench.client()


def test_what_then_raises_is_told_and_the_cut_is_made(bench: Bench) -> None:
    client, target = bench.pair()

    def fail() -> None:
        raise LookupError("no such broker")

    cut = bench.proxy.cut_on(BASIC_ACK, direction="up", then=fail)
    client.sendall(ACK)
    assert read_to_end(target) == (b"", "rst")
    with pytest.raises(LookupError, match="no such broker"):
        cut.wait(PATIENCE)


@pytest.mark.parametrize("disarm", ["cancel", "heal"])
def test_a_disarmed_cut_lets_go_of_what_it_held(bench: Bench, disarm: str) -> None:
    client, target = bench.pair()
    cut = bench.proxy.cut_on(BASIC_ACK, direction="up")
    client.sendall(PUBLISH + ACK[:9])
    assert read_exactly(target, len(PUBLISH)) == PUBLISH
    if disarm == "cancel":
        cut.cancel()
    else:
        bench.proxy.heal()
    assert read_exactly(target, 9) == ACK[:9]
    client.sendall(ACK[9:] + ACK)
    assert read_exactly(target, len(ACK) * 2 - 9) == ACK[9:] + ACK
    assert not cut.is_armed
    assert not cut.wait(0)


def test_then_may_close_the_proxy(bench: Bench) -> None:
    client, target = bench.pair()
    bench.proxy.cut_on(BASIC_ACK, direction="up", then=bench.proxy.close)
    client.sendall(ACK)
    assert read_to_end(target) == (b"", "fin")


@contextmanager
def connected(port: int) -> Iterator[Any]:
    client = amqp.Connection(f"127.0.0.1:{port}", connect_timeout=PATIENCE, confirm_publish=True)
    try:
        client.connect()
        yield client
    finally:
        client.collect()  # not close(), which waits without bound for an answer


def publish(channel: Any, body: bytes) -> None:
    channel.basic_publish(amqp.Message(body), routing_key="q", timeout=PATIENCE)


def test_a_cut_between_a_message_and_its_confirm() -> None:
    with ScriptedPeer() as peer, FaultProxy(peer.host, peer.port) as proxy:
        cut = proxy.cut_on(BASIC_ACK, nth=2, direction="down", then=proxy.refuse)
        with connected(proxy.port) as client:
            channel = client.channel()
            publish(channel, b"confirmed")
            with pytest.raises(ConnectionResetError):
                publish(channel, b"in doubt")
        assert cut.wait(PATIENCE)
        assert [message.body for message in peer.messages] == [b"confirmed", b"in doubt"]
        with pytest.raises(ConnectionRefusedError), connected(proxy.port):
            pass


def test_a_cut_before_a_message_is_sent() -> None:
    with ScriptedPeer() as peer, FaultProxy(peer.host, peer.port) as proxy:
        cut = proxy.cut_on(BASIC_PUBLISH, nth=2, direction="up", before=True)
        with connected(proxy.port) as client:
            channel = client.channel()
            publish(channel, b"sent")
            with pytest.raises(OSError, match=r"reset|closed|Broken"):
                publish(channel, b"never sent")
        assert cut.wait(PATIENCE)
        assert [message.body for message in peer.messages] == [b"sent"]
