"""The fault proxy on real sockets. The test itself is the client and the target."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from typing import Literal

import pytest

from understudy.testing import FaultProxy, wait_until
from understudy.testing.frames import BASIC_ACK, BASIC_PUBLISH, BODY, HEADER, METHOD, encode_frame
from understudy.testing.proxy_cuts import Direction, How

PATIENCE = 20.0  # for what must happen
Pair = tuple[socket.socket, socket.socket]  # the client's and the target's end of one connection

ACK = encode_frame(METHOD, 1, struct.pack(">HHQB", *BASIC_ACK, 1, 0))
PUBLISH = (
    encode_frame(METHOD, 1, struct.pack(">HH", *BASIC_PUBLISH) + b"\0\0\0\1q\0")
    + encode_frame(HEADER, 1, struct.pack(">HHQH", 60, 0, 5, 0))
    + encode_frame(BODY, 1, b"hello")
)


class Bench:
    """A listening target, a proxy before it, and whatever connections a test makes."""

    def __init__(self, stack: ExitStack, address: Literal["127.0.0.1", "::1"]) -> None:
        self.stack = stack
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self.listener = self.own(socket.create_server((address, 0), family=family))
        self.listener.settimeout(PATIENCE)
        self.target_port = self.listener.getsockname()[1]
        self.proxy = stack.enter_context(FaultProxy(address, self.target_port, listen_host=address))

    def own(self, sock: socket.socket) -> socket.socket:
        return self.stack.enter_context(sock)

    def client(self) -> socket.socket:
        return self.own(socket.create_connection((self.proxy.host, self.proxy.port), PATIENCE))

    def target(self) -> socket.socket:
        sock, _ = self.listener.accept()
        sock.settimeout(PATIENCE)
        return self.own(sock)

    def pair(self) -> Pair:
        return self.client(), self.target()

    def nobody_came(self) -> bool:
        """Whether the target has no connection waiting."""
        self.listener.setblocking(False)
        try:
            self.own(self.listener.accept()[0])
        except BlockingIOError:
            return True
        finally:
            self.listener.settimeout(PATIENCE)
        return False


@pytest.fixture
def bench() -> Iterator[Bench]:
    with ExitStack() as stack:
        yield Bench(stack, "127.0.0.1")


def read_exactly(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = sock.recv(size - len(data))
        assert piece, f"ended after {data!r}"
        data += piece
    return data


def read_to_end(sock: socket.socket) -> tuple[bytes, str]:
    """All that comes, and how it ended."""
    data = b""
    while True:
        try:
            piece = sock.recv(65536)
        except ConnectionResetError:
            return data, "rst"
        if not piece:
            return data, "fin"
        data += piece


def turned(pair: Pair, direction: Direction) -> Pair:
    """(sender, receiver) of that direction."""
    client, target = pair
    return (client, target) if direction == "up" else (target, client)


def send_quietly(sock: socket.socket, data: bytes) -> None:
    """Send to somebody who may cut the connection meanwhile."""
    with suppress(OSError):
        sock.sendall(data)


def test_bytes_pass_both_ways_and_are_counted(bench: Bench) -> None:
    client, target = bench.pair()
    client.sendall(b"question")
    assert read_exactly(target, 8) == b"question"
    target.sendall(b"answer")
    assert read_exactly(client, 6) == b"answer"
    proxy = bench.proxy
    assert (proxy.connections, proxy.accepted) == (1, 1)
    assert (proxy.bytes_up, proxy.bytes_down) == (8, 6)
    status = f"127.0.0.1:{proxy.port} -> 127.0.0.1:{bench.target_port}, 1 open"
    assert repr(proxy) == f"<FaultProxy {status}, healthy>"


def test_each_end_is_passed_on_for_itself(bench: Bench) -> None:
    client, target = bench.pair()
    client.sendall(b"last words")
    client.shutdown(socket.SHUT_WR)
    assert read_to_end(target) == (b"last words", "fin")
    target.sendall(b"heard")
    target.close()
    assert read_to_end(client) == (b"heard", "fin")
    assert wait_until(lambda: bench.proxy.connections == 0)


@pytest.mark.parametrize("direction", ["up", "down"])
def test_a_reset_of_one_side_reaches_the_other(bench: Bench, direction: Direction) -> None:
    sender, receiver = turned(bench.pair(), direction)
    sender.sendall(b"last words")
    assert read_exactly(receiver, 10) == b"last words"
    sender.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sender.close()
    assert read_to_end(receiver) == (b"", "rst")
    assert wait_until(lambda: bench.proxy.connections == 0)


def test_a_target_that_refuses_is_a_reset(bench: Bench) -> None:
    bench.listener.close()
    with suppress(ConnectionResetError):  # that quick
        assert read_to_end(bench.client()) == (b"", "rst")
    assert wait_until(lambda: bench.proxy.connections == 0)


def test_a_target_that_closes_and_is_written_to_is_a_reset(bench: Bench) -> None:
    client, target = bench.pair()
    target.close()
    assert read_to_end(client) == (b"", "fin")

    def is_told() -> bool:
        try:
            client.sendall(b"anybody?")
        except OSError:
            return True
        return False

    assert wait_until(is_told, PATIENCE)
    assert wait_until(lambda: bench.proxy.connections == 0)


def test_a_slow_reader_slows_the_sender_and_loses_nothing(bench: Bench) -> None:
    client, target = bench.pair()
    data = bytes(range(256)) * 65536  # 16 MiB: more than all buffers on the way

    def send_and_end() -> None:
        client.sendall(data)
        client.close()

    sender = threading.Thread(target=send_and_end)
    sender.start()
    received, end = read_to_end(target)
    sender.join()
    assert end == "fin"
    assert received == data


def test_refused_connections_and_the_same_port_again(bench: Bench) -> None:
    client, target = bench.pair()
    port = bench.proxy.port
    bench.proxy.refuse()
    bench.proxy.refuse()
    for _ in range(3):
        with pytest.raises(ConnectionRefusedError):
            bench.client()
    client.sendall(b"still here")
    assert read_exactly(target, 10) == b"still here"
    assert "refusing" in repr(bench.proxy)
    bench.proxy.heal()
    assert bench.proxy.port == port
    client, target = bench.pair()
    client.sendall(b"back")
    assert read_exactly(target, 4) == b"back"
    assert bench.proxy.accepted == 2


def test_reset_cuts_what_exists_and_nothing_else(bench: Bench) -> None:
    pairs = [bench.pair(), bench.pair()]
    bench.proxy.reset()
    for sock in (sock for pair in pairs for sock in pair):
        assert read_to_end(sock) == (b"", "rst")
    assert bench.proxy.connections == 0
    client, target = bench.pair()
    client.sendall(b"new")
    assert read_exactly(target, 3) == b"new"


def test_fin_ends_what_exists(bench: Bench) -> None:
    client, target = bench.pair()
    bench.proxy.fin()
    assert read_to_end(client) == (b"", "fin")
    assert read_to_end(target) == (b"", "fin")
    assert bench.proxy.connections == 0


def test_a_black_hole_keeps_bytes_and_ends(bench: Bench) -> None:
    client, target = bench.pair()
    bench.proxy.black_hole()
    client.sendall(b"up")
    target.sendall(b"down")
    client.shutdown(socket.SHUT_WR)
    late = bench.client()
    late.sendall(b"late")
    assert wait_until(lambda: bench.proxy.accepted == 2)
    assert bench.nobody_came()
    assert (bench.proxy.bytes_up, bench.proxy.bytes_down) == (0, 0)
    assert "black hole" in repr(bench.proxy)
    bench.proxy.heal()
    assert read_to_end(target) == (b"up", "fin")
    assert read_exactly(client, 4) == b"down"
    assert read_exactly(bench.target(), 4) == b"late"


def test_healing_a_black_hole_may_lose_what_was_in_it(bench: Bench) -> None:
    client, target = bench.pair()
    bench.proxy.black_hole()
    client.sendall(b"up")
    target.sendall(b"down")
    late = bench.client()
    assert wait_until(lambda: bench.proxy.accepted == 2)
    bench.proxy.heal(drop=True)
    for sock in (client, target, late):
        assert read_to_end(sock) == (b"", "rst")
    assert bench.nobody_came()
    client, target = bench.pair()
    bench.proxy.heal(drop=True)  # nothing was held back
    client.sendall(b"fresh")
    assert read_exactly(target, 5) == b"fresh"


@pytest.mark.parametrize("direction", ["up", "down"])
def test_half_open_passes_one_direction(bench: Bench, direction: Direction) -> None:
    pair = bench.pair()
    sender, receiver = turned(pair, direction)
    bench.proxy.half_open(direction)
    receiver.sendall(b"held back")
    sender.sendall(b"passes")
    assert read_exactly(receiver, 6) == b"passes"
    assert bench.proxy.bytes_up + bench.proxy.bytes_down == 6
    late = bench.client()
    assert wait_until(lambda: bench.proxy.accepted == 2)
    assert bench.nobody_came()
    bench.proxy.heal()
    assert read_exactly(sender, 9) == b"held back"
    late.sendall(b"late")
    assert read_exactly(bench.target(), 4) == b"late"


def test_delay_and_throttle_keep_the_order(bench: Bench) -> None:
    client, target = bench.pair()
    bench.proxy.delay(0.02)
    bench.proxy.throttle(200_000)
    for number in range(100):
        client.sendall(f"{number:3}".encode())
    client.shutdown(socket.SHUT_WR)
    assert read_to_end(target) == ("".join(f"{n:3}" for n in range(100)).encode(), "fin")
    target.sendall(bytes(10_000))
    assert read_exactly(client, 10_000) == bytes(10_000)
    assert "delay 0.02 s, 200000 bytes/s" in repr(bench.proxy)


def test_healing_ends_a_long_delay(bench: Bench) -> None:
    client, target = bench.pair()
    bench.proxy.delay(3600)
    client.sendall(b"slow")
    bench.proxy.heal()
    assert read_exactly(target, 4) == b"slow"


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


def test_retarget_moves_new_connections_only(bench: Bench) -> None:
    client, target = bench.pair()
    with socket.create_server(("127.0.0.1", 0)) as elsewhere:
        elsewhere.settimeout(PATIENCE)
        bench.proxy.retarget("localhost", elsewhere.getsockname()[1])
        mover = bench.client()
        there = bench.own(elsewhere.accept()[0])
        there.settimeout(PATIENCE)
        mover.sendall(b"moved")
        assert read_exactly(there, 5) == b"moved"
    client.sendall(b"stayed")
    assert read_exactly(target, 6) == b"stayed"
    assert bench.nobody_came()


def test_closing_leaves_nothing(bench: Bench) -> None:
    client, target = bench.pair()
    proxy = bench.proxy
    bench.proxy.black_hole()
    bench.client()
    proxy.close()
    proxy.close()
    assert read_to_end(client) == (b"", "fin")
    assert read_to_end(target) == (b"", "fin")
    assert f"FaultProxy-{proxy.port}" not in [thread.name for thread in threading.enumerate()]
    with pytest.raises(ConnectionRefusedError):
        bench.client()
    with pytest.raises(RuntimeError, match="closed"):
        proxy.heal()


def test_then_may_close_the_proxy(bench: Bench) -> None:
    client, target = bench.pair()
    bench.proxy.cut_on(BASIC_ACK, direction="up", then=bench.proxy.close)
    client.sendall(ACK)
    assert read_to_end(target) == (b"", "fin")


def test_it_is_started_once_and_before_use() -> None:
    proxy = FaultProxy("127.0.0.1", 9)
    with pytest.raises(RuntimeError, match="not started"):
        proxy.heal()
    proxy.close()
    with proxy, pytest.raises(RuntimeError, match="started once"):
        proxy.start()


@pytest.mark.parametrize(
    "order", [lambda p: p.delay(-1), lambda p: p.throttle(0), lambda p: p.cut_after(0)]
)
def test_impossible_orders_are_refused(bench: Bench, order: Callable[[FaultProxy], None]) -> None:
    with pytest.raises(ValueError, match=r"must|above"):
        order(bench.proxy)


def test_the_port_that_was_asked_for(bench: Bench) -> None:
    bench.proxy.close()
    with FaultProxy("127.0.0.1", bench.target_port, bench.proxy.port) as again:
        assert again.port == bench.proxy.port
        client, target = bench.pair()
        client.sendall(b"same port")
        assert read_exactly(target, 9) == b"same port"
        with pytest.raises(OSError, match="in use"):
            FaultProxy("127.0.0.1", bench.target_port, again.port).start()


def test_ipv6_on_request() -> None:
    with ExitStack() as stack:
        try:
            bench = Bench(stack, "::1")
        except OSError as error:
            pytest.skip(f"no IPv6 here: {error}")
        client, target = bench.pair()
        client.sendall(b"six")
        assert read_exactly(target, 3) == b"six"
