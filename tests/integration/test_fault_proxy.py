"""The fault proxy on real sockets. The test itself is the client and the target."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress

import pytest

from understudy.testing import FaultProxy, wait_until
from understudy.testing.proxy_bench import (
    PATIENCE,
    Bench,
    read_exactly,
    read_to_end,
    turned,
)
from understudy.testing.proxy_cuts import Direction


@pytest.fixture
def bench() -> Iterator[Bench]:
    with ExitStack() as stack:
        yield Bench(stack, "127.0.0.1")


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
