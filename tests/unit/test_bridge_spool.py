"""A spool between a source that only writes down what it is asked, and a link that is this test."""

from __future__ import annotations

import asyncio
import errno
from typing import Any

import pytest

from understudyd.bridge.ends.port import ConnectionFailed
from understudyd.bridge.settings import FIRST_WINDOW
from understudyd.bridge.spool.port import SpoolFailed
from understudyd.bridge.spool.store import CURSOR
from understudyd.testing.spool_bench import RestlessSource, SpoolBench, amqp, run


def test_messages_are_taken_without_a_target_and_given_in_order_when_it_is_there() -> None:
    async def scenario(bench: SpoolBench) -> None:
        await bench.fill(amqp(1, b"a"), amqp(2, b"b"))
        assert (bench.spool.spooled, bench.got) == (2, [])
        await bench.spool.open(10, 131072)
        await bench.fill(amqp(3, b"c"))
        await bench.until(lambda: len(bench.got) == 3)
        assert bench.bodies == [b"a", b"b", b"c"]
        assert [delivery[0] for delivery in bench.got] == [1, 2, 3]
        bench.spool.acknowledge(3)
        await bench.until(lambda: bench.spool.spooled == bench.spool.spooled_bytes == 0)

    run(scenario)


def test_what_was_not_acknowledged_comes_again_also_to_another_process() -> None:
    async def scenario(bench: SpoolBench) -> None:
        await bench.fill(*[amqp(tag, b"%d" % tag) for tag in range(1, 6)])
        await bench.spool.open(10, 131072)
        await bench.until(lambda: len(bench.got) == 5)
        bench.spool.acknowledge(2)
        await bench.spool.close()
        await bench.spool.open(10, 131072)
        await bench.until(lambda: len(bench.got) == 8)
        assert bench.bodies[5:] == [b"3", b"4", b"5"]
        assert [delivery[:2] for delivery in bench.got[5:]] == [(1, 1), (2, 1), (3, 1)]
        await bench.until(lambda: bench.spool.spooled == 3)
        await bench.end()
        bench.bridge()
        await bench.spool.open(10, 131072)
        await bench.fill(amqp(1, b"new"))
        await bench.until(lambda: len(bench.got) == 4)
        assert bench.bodies == [b"3", b"4", b"5", b"new"]

    run(scenario)


def test_no_more_than_the_window_is_given_and_nothing_while_the_link_does_not_read() -> None:
    async def scenario(bench: SpoolBench) -> None:
        await bench.spool.open(2, 131072)
        bench.spool.read(False)
        await bench.fill(*[amqp(tag, b"%d" % tag) for tag in range(1, 8)])
        assert bench.got == []
        bench.spool.read(True)
        await bench.until(lambda: len(bench.got) == 2)
        bench.spool.acknowledge(1)
        await bench.until(lambda: len(bench.got) == 3)
        bench.spool.widen(4)
        await bench.until(lambda: len(bench.got) == 5)
        bench.spool.rest()
        bench.spool.acknowledge(5)
        await bench.until(lambda: bench.spool.spooled == 2)
        assert len(bench.got) == 5
        bench.spool.widen(4)
        await bench.until(lambda: len(bench.got) == 7)

    run(scenario)


def test_while_the_link_rests_the_source_does_so_too_if_it_can() -> None:
    async def scenario(bench: SpoolBench) -> None:
        await bench.spool.open(10, 131072)
        await bench.fill(*[amqp(tag, b"") for tag in range(1, FIRST_WINDOW + 1)])
        bench.spool.rest()
        bench.source.hooks.on_deliveries([amqp(tag, b"") for tag in range(2, 9)])
        await bench.until(lambda: 8 in bench.source.acknowledged)
        assert (bench.source.rests, bench.source.closed) == (1, 0)
        assert bench.source.windows == [FIRST_WINDOW, 2 * FIRST_WINDOW]
        bench.spool.widen(10)
        bench.spool.widen(20)
        assert bench.source.windows[2:] == [4 * FIRST_WINDOW]

    run(scenario)


def test_a_source_that_cannot_rest_is_closed_meanwhile_and_its_window_stays() -> None:
    async def scenario(bench: SpoolBench) -> None:
        await bench.spool.open(10, 131072)
        await bench.fill(*[amqp(tag, b"") for tag in range(1, FIRST_WINDOW + 1)])
        bench.spool.rest()
        await bench.until(lambda: bench.source.closed)
        bench.spool.widen(10)
        await bench.until(lambda: bench.source.opened == 2)
        assert bench.source.windows == [FIRST_WINDOW, 2 * FIRST_WINDOW, 2 * FIRST_WINDOW]
        bench.source.hooks.on_lost("cut")
        await bench.until(lambda: bench.source.opened == 3)
        assert bench.source.windows[3:] == [FIRST_WINDOW]

    run(scenario, kind=RestlessSource)


def test_nothing_is_settled_that_is_not_on_disk() -> None:
    async def scenario(bench: SpoolBench) -> None:
        await bench.fill(amqp(1, b"a"))
        bench.files.fails.add("sync")
        bench.source.hooks.on_deliveries([amqp(2, b"b")])
        await bench.until(lambda: bench.source.closed)
        assert bench.source.acknowledged == [1]
        await bench.until(lambda: bench.source.opened == 2)
        await bench.fill(amqp(1, b"b"))
        assert bench.source.acknowledged == [1, 1]
        await bench.spool.open(10, 131072)
        await bench.until(lambda: len(bench.got) == 2)
        assert bench.bodies == [b"a", b"b"]

    run(scenario)


def test_the_source_is_closed_when_it_is_full_and_opened_when_there_is_room() -> None:
    async def scenario(bench: SpoolBench) -> None:
        body = bytes(3000)
        await bench.fill(amqp(1, body))
        bench.source.hooks.on_deliveries([amqp(tag, body) for tag in range(2, 40)])
        await bench.until(lambda: bench.shown[0] == "spool-full")
        assert "of 65536 bytes are in use (spool_size)" in bench.shown[1]
        assert bench.spool.shown("holding", "target: gone")[1].endswith("; target: gone")
        await bench.until(lambda: bench.source.closed == 1)
        kept = bench.spool.spooled
        assert bench.source.acknowledged[-1] == kept < 39
        await bench.spool.open(100, 131072)
        await bench.until(lambda: len(bench.got) == kept)
        bench.spool.acknowledge(2)
        await bench.until(lambda: bench.spool.spooled == kept - 2)
        assert bench.source.opened == 1
        bench.spool.acknowledge(kept)
        await bench.until(lambda: bench.source.opened == 2)
        await bench.until(lambda: bench.shown == ("running", ""))

    run(scenario, quota=64 << 10)


def test_a_source_is_not_opened_again_and_again_over_what_has_no_room() -> None:
    """Each time would count as a delivery in vain."""

    async def scenario(bench: SpoolBench) -> None:
        await bench.fill(*[amqp(tag, bytes(3000)) for tag in range(1, 11)])
        bench.source.hooks.on_deliveries([amqp(11, bytes(40 << 10))])
        await bench.until(lambda: bench.shown[0] == "spool-full")
        for _ in range(100):
            await asyncio.sleep(0)
        assert bench.source.opened == 1
        await bench.spool.open(100, 131072)
        await bench.until(lambda: len(bench.got) == 10)
        bench.spool.acknowledge(10)
        await bench.until(lambda: bench.source.opened == 2)

    run(scenario, quota=64 << 10)


def test_a_full_disk_is_told_and_waited_for_without_taking_anything() -> None:
    async def scenario(bench: SpoolBench) -> None:
        bench.files.room = 9000
        bench.spool.follow("running")
        await bench.until(lambda: bench.shown[0] == "spool-failed")
        assert bench.shown[1] == "spool /spool: No space left on device"
        assert not bench.source.opened
        bench.files.room = None
        await bench.fill(amqp(1, b"a"))

    run(scenario)


def test_a_source_that_is_lost_is_told_and_opened_again() -> None:
    async def scenario(bench: SpoolBench) -> None:
        bench.source.trouble.append(ConnectionFailed("refused"))
        await bench.fill(amqp(1, b"a"))
        assert (bench.source.opened, bench.failed) == (2, 1)
        bench.source.trouble += [ConnectionFailed("gone")] * 1000
        bench.source.hooks.on_lost("cut")
        await bench.until(lambda: bench.shown == ("waiting-source", "source: gone"))
        bench.source.trouble.clear()
        await bench.fill(amqp(1, b"b"))
        bench.spool.follow("paused")
        await bench.until(lambda: bench.source.closed == bench.source.opened)
        assert bench.spool.shown("paused", "so") == ("paused", "so")

    run(scenario)


def test_a_source_that_is_silent_though_messages_wait_is_opened_anew() -> None:
    async def scenario(bench: SpoolBench) -> None:
        bench.source.waits = 3
        bench.spool.follow("running")
        await bench.until(lambda: bench.source.opened == 2)

    run(scenario, watch_time=0.01)


def test_the_window_of_the_source_grows_with_what_was_settled() -> None:
    async def scenario(bench: SpoolBench) -> None:
        await bench.fill(*[amqp(tag, b"") for tag in range(1, FIRST_WINDOW + 1)])
        assert bench.source.windows == [FIRST_WINDOW, 2 * FIRST_WINDOW]

    run(scenario)


def test_a_cursor_that_cannot_be_written_is_told_and_the_link_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("understudyd.bridge.spool.source.AGAIN", 0.001)

    async def scenario(bench: SpoolBench) -> None:
        await bench.fill(amqp(1, b"a"), amqp(2, b"b"))
        await bench.spool.open(10, 131072)
        await bench.until(lambda: len(bench.got) == 2)
        write, is_broken = bench.files.write, True

        def refused(name: str, at: int, data: bytes) -> None:
            if is_broken and name == CURSOR:
                raise OSError(errno.EIO, "Input/output error")
            write(name, at, data)

        bench.files.write = refused  # type: ignore[method-assign]
        bench.spool.acknowledge(1)
        await bench.until(lambda: bench.shown[0] == "spool-failed")
        assert bench.shown[1] == "spool /spool: Input/output error"
        is_broken = False
        await bench.until(lambda: bench.shown == ("running", ""))
        assert bench.spool.spooled == 1

    run(scenario)


def test_what_cannot_be_read_is_a_source_that_is_lost() -> None:
    async def scenario(bench: SpoolBench) -> None:
        await bench.fill(amqp(1, b"a"))
        bench.files.fails.add("read")
        await bench.spool.open(10, 131072)
        await bench.until(lambda: bench.lost)
        assert bench.lost == ["spool /spool: Input/output error"]
        await bench.spool.open(10, 131072)
        await bench.until(lambda: bench.got)

    run(scenario)


def test_a_record_that_is_no_delivery_is_not_settled_by_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scenario(bench: SpoolBench) -> None:
        def odd(*_: object, **__: object) -> None:
            raise KeyError("odd")

        await bench.fill(amqp(1, b"a"))
        with monkeypatch.context() as patch:
            patch.setattr("understudyd.bridge.spool.source.decode", odd)
            await bench.spool.open(10, 131072)
            await bench.until(lambda: bench.lost)
        assert bench.lost == ["unexpected: KeyError: 'odd'"]
        await bench.fill(amqp(2, b"b"))
        assert bench.got == []
        await bench.spool.open(10, 131072)
        await bench.until(lambda: bench.bodies == [b"a", b"b"])

    run(scenario)


def test_what_comes_while_nothing_can_be_read_is_not_passed_over() -> None:
    async def scenario(bench: SpoolBench) -> None:
        await bench.fill(amqp(1, b"broken"))
        (name,) = (name for name in bench.files.names() if name.endswith(".segment"))
        bench.files.seen[name][bench.files.seen[name].index(b"broken")] ^= 1
        shelf, read = bench.spool._shelf, bench.spool._shelf.read

        async def slow(number: int) -> Any:
            batch = await read(number)
            shelf.read = read  # type: ignore[method-assign]
            await bench.fill(amqp(2, b"new"))
            return batch

        shelf.read = slow  # type: ignore[method-assign]
        await bench.spool.open(10, 131072)
        await bench.until(lambda: bench.bodies == [b"new"])

    run(scenario)


def test_a_folder_that_cannot_be_had_is_why_the_link_cannot_open_it() -> None:
    async def scenario(bench: SpoolBench) -> None:
        def claim() -> None:
            raise SpoolFailed("/spool is in use by another process")

        bench.files.claim = claim  # type: ignore[attr-defined]
        with pytest.raises(ConnectionFailed, match="spool /spool is in use by another process"):
            await bench.spool.open(10, 131072)

    run(scenario)


def test_a_backlog_is_read_in_parts() -> None:
    async def scenario(bench: SpoolBench) -> None:
        for first in range(1, 400, 50):
            await bench.fill(
                *[amqp(tag, b"%d" % tag + bytes(9_000)) for tag in range(first, first + 50)]
            )
        await bench.spool.open(1000, 131072)
        await bench.until(lambda: len(bench.got) == 400)
        assert [int(body[:3].rstrip(b"\0")) for body in bench.bodies] == list(range(1, 401))

    run(scenario, quota=32 << 20)
