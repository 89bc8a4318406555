"""A spool between a source that only writes down what it is asked, and a link that is this test."""

from __future__ import annotations

import asyncio
import errno
import os
import resource
from collections.abc import Callable, Coroutine
from pathlib import Path
from random import Random
from typing import Any

import pytest

from understudy import ConfigurationError
from understudy.core.backoff import Backoff
from understudyd.bridge.content import StompContent
from understudyd.bridge.dialects import ACTIVEMQ, RABBITMQ_AMQP, RABBITMQ_STOMP, Dialect
from understudyd.bridge.ends.port import ConnectionFailed, SourceHooks
from understudyd.bridge.mapping import relay
from understudyd.bridge.names import Pattern
from understudyd.bridge.settings import FIRST_WINDOW, LinkSettings
from understudyd.bridge.spool.disk import Folder
from understudyd.bridge.spool.folders import folder_of, left_over, shelf_of
from understudyd.bridge.spool.port import SpoolFailed
from understudyd.bridge.spool.records import decode, decode_meta, encode, encode_meta
from understudyd.bridge.spool.shelf import Shelf
from understudyd.bridge.spool.source import SpooledSource
from understudyd.bridge.spool.store import CURSOR, Store
from understudyd.bridge.spool.words import ASKED, Spooling, Trouble, shown
from understudyd.bridge.status import TROUBLE
from understudyd.bridge.wire.bodies import body_frames, join_body
from understudyd.bridge.wire.properties import build, get
from understudyd.bridge.words import State
from understudyd.config.bridges import load_bridges
from understudyd.testing.spooled import MemoryFiles

PATIENCE = 30.0  # s
PROPERTIES = build({"delivery_mode": 2})
ROUTE = b"\0\x06orders"
NOW = 1_000_000


def amqp(tag: int, body: bytes, properties: bytes = PROPERTIES) -> Any:
    return (tag, 0, ROUTE, properties, len(body), body_frames(body, 4096))


class Source:
    """Delivers what the test gives it."""

    frame_max = 4096

    def __init__(self, hooks: SourceHooks[Any]) -> None:
        self.hooks = hooks
        self.dialect: Dialect | None = None
        self.opened = self.closed = self.rests = 0
        self.trouble: list[ConnectionFailed] = []
        self.acknowledged: list[int] = []
        self.windows: list[int] = []
        self.waits = 0
        self.is_reading = True

    async def open(self, window: int, frame_max: int) -> None:
        self.opened += 1
        self.windows.append(window)
        if self.trouble:
            raise self.trouble.pop(0)
        self.dialect = RABBITMQ_AMQP

    def widen(self, window: int) -> None:
        self.windows.append(window)

    async def ready(self) -> int:
        return self.waits

    def read(self, is_wanted: bool) -> None:
        self.is_reading = is_wanted

    def acknowledge(self, tag: int) -> None:
        self.acknowledged.append(tag)

    async def close(self) -> None:
        self.closed += 1


class RestingSource(Source):
    def rest(self) -> None:
        self.rests += 1


class Bench:
    """The folder outlives the bridge: `bridge()` makes another one."""

    def __init__(self, **given: Any) -> None:
        self.files = MemoryFiles(Random(1))
        self.files.claim = lambda: None  # type: ignore[attr-defined]
        self.files.release = lambda: None  # type: ignore[attr-defined]
        self.given: dict[str, Any] = {
            "quota": 1 << 20,
            "watch_time": PATIENCE,
            "kind": RestingSource,
            **given,
        }
        self.bridge()

    def bridge(self) -> None:
        settings = LinkSettings(
            backoff=Backoff(1.0, 1.0), watch_time=self.given["watch_time"], prefetch=100
        )
        store = Store(self.files, self.given["quota"], Random(1))
        shelf = Shelf(self.files, store, "/spool")  # type: ignore[arg-type]
        self.got: list[Any] = []
        self.lost: list[str] = []
        self.failed = 0
        hooks: SourceHooks[Any] = SourceHooks(self.got.extend, self.lost.append)
        self.spool = SpooledSource(self._make, shelf, settings, hooks, Random(1), self._fail)

    def _make(self, hooks: SourceHooks[Any]) -> Any:
        self.source: Source = self.given["kind"](hooks)
        return self.source

    def _fail(self) -> None:
        self.failed += 1

    @property
    def bodies(self) -> list[bytes]:
        return [join_body(delivery[5]) for delivery in self.got]

    @property
    def shown(self) -> tuple[str, str]:
        return self.spool.shown("running", "")

    async def until(self, check: Callable[[], Any]) -> None:
        async def wait() -> None:
            while not check():
                await asyncio.sleep(0.001)

        await asyncio.wait_for(wait(), PATIENCE)

    async def fill(self, *deliveries: Any) -> None:
        """Take these in, on disk and settled."""
        self.spool.follow("waiting-target")
        await self.until(lambda: self.shown == ("running", ""))
        before = len(self.source.acknowledged)
        self.source.hooks.on_deliveries(list(deliveries))
        last = deliveries[-1][0]
        await self.until(lambda: last in self.source.acknowledged[before:])

    async def end(self) -> None:
        await self.spool.close()
        await asyncio.wait_for(self.spool.end(), PATIENCE)


def run(scenario: Callable[[Bench], Coroutine[Any, Any, None]], **given: Any) -> None:
    async def main() -> None:
        bench = Bench(**given)
        try:
            await scenario(bench)
        finally:
            await bench.end()

    asyncio.run(main())


def test_messages_are_taken_without_a_target_and_given_in_order_when_it_is_there() -> None:
    async def scenario(bench: Bench) -> None:
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
    async def scenario(bench: Bench) -> None:
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
    async def scenario(bench: Bench) -> None:
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
    async def scenario(bench: Bench) -> None:
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
    async def scenario(bench: Bench) -> None:
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

    run(scenario, kind=Source)


def test_nothing_is_settled_that_is_not_on_disk() -> None:
    async def scenario(bench: Bench) -> None:
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
    async def scenario(bench: Bench) -> None:
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


def test_a_full_disk_is_told_and_waited_for_without_taking_anything() -> None:
    async def scenario(bench: Bench) -> None:
        bench.files.room = 9000
        bench.spool.follow("running")
        await bench.until(lambda: bench.shown[0] == "spool-failed")
        assert bench.shown[1] == "spool /spool: No space left on device"
        assert not bench.source.opened
        bench.files.room = None
        await bench.fill(amqp(1, b"a"))

    run(scenario)


def test_a_source_that_is_lost_is_told_and_opened_again() -> None:
    async def scenario(bench: Bench) -> None:
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
    async def scenario(bench: Bench) -> None:
        bench.source.waits = 3
        bench.spool.follow("running")
        await bench.until(lambda: bench.source.opened == 2)

    run(scenario, watch_time=0.01)


def test_the_window_of_the_source_grows_with_what_was_settled() -> None:
    async def scenario(bench: Bench) -> None:
        await bench.fill(*[amqp(tag, b"") for tag in range(1, FIRST_WINDOW + 1)])
        assert bench.source.windows == [FIRST_WINDOW, 2 * FIRST_WINDOW]

    run(scenario)


def test_a_cursor_that_cannot_be_written_is_told_and_the_link_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("understudyd.bridge.spool.source.AGAIN", 0.001)

    async def scenario(bench: Bench) -> None:
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
    async def scenario(bench: Bench) -> None:
        await bench.fill(amqp(1, b"a"))
        bench.files.fails.add("read")
        await bench.spool.open(10, 131072)
        await bench.until(lambda: bench.lost)
        assert bench.lost == ["spool /spool: Input/output error"]
        await bench.spool.open(10, 131072)
        await bench.until(lambda: bench.got)

    run(scenario)


def test_a_folder_that_cannot_be_had_is_why_the_link_cannot_open_it() -> None:
    async def scenario(bench: Bench) -> None:
        def claim() -> None:
            raise SpoolFailed("/spool is in use by another process")

        bench.files.claim = claim  # type: ignore[attr-defined]
        with pytest.raises(ConnectionFailed, match="spool /spool is in use by another process"):
            await bench.spool.open(10, 131072)

    run(scenario)


def test_a_backlog_is_read_in_parts() -> None:
    async def scenario(bench: Bench) -> None:
        for first in range(1, 400, 50):
            await bench.fill(
                *[amqp(tag, b"%d" % tag + bytes(9_000)) for tag in range(first, first + 50)]
            )
        await bench.spool.open(1000, 131072)
        await bench.until(lambda: len(bench.got) == 400)
        assert [int(body[:3].rstrip(b"\0")) for body in bench.bodies] == list(range(1, 401))

    run(scenario, quota=32 << 20)


# Records


def test_a_delivery_comes_back_as_it_was() -> None:
    meta = decode_meta(encode_meta(RABBITMQ_AMQP, 4096))
    delivery = amqp(7, bytes(range(256)) * 40)
    assert decode(9, encode(delivery, RABBITMQ_AMQP, NOW), meta, 4096) == (9, *delivery[1:])
    content = StompContent({"destination": "/queue/a", "é\n": "\ud83d\0"}, b"\0body")
    for dialect in (ACTIVEMQ, RABBITMQ_STOMP):
        meta = decode_meta(encode_meta(dialect, 0))
        tag, back = decode(3, encode((1, content), dialect, NOW), meta, 131072)
        assert (tag, back.headers, back.body) == (3, content.headers, content.body)
        assert meta.dialect is dialect


def test_frames_are_no_larger_than_the_target_takes() -> None:
    meta = decode_meta(encode_meta(RABBITMQ_AMQP, 131072))
    body = bytes(range(256)) * 100
    raw = encode(
        (1, 0, ROUTE, PROPERTIES, len(body), body_frames(body, 131072)), RABBITMQ_AMQP, NOW
    )
    frames = decode(1, raw, meta, 4096)[5]
    assert frames == body_frames(body, 4096)


def test_the_time_on_disk_is_spent() -> None:
    meta = decode_meta(encode_meta(RABBITMQ_AMQP, 4096))
    raw = build({"expiration": "5000", "headers": {"a": 1}})
    kept = decode(1, encode(amqp(1, b"", raw), RABBITMQ_AMQP, NOW), meta, 4096)[3]
    assert get(relay(kept, NOW + 3000), "expiration") == "2000"
    odd = build({"expiration": "soon"})
    assert decode(1, encode(amqp(1, b"", odd), RABBITMQ_AMQP, NOW), meta, 4096)[3] == odd
    unreadable = b"\x01\0\x05"
    assert (
        decode(1, encode(amqp(1, b"", unreadable), RABBITMQ_AMQP, NOW), meta, 4096)[3] == unreadable
    )
    told = StompContent({"expiration": "5000"}, b"")
    meta = decode_meta(encode_meta(RABBITMQ_STOMP, 0))
    back = decode(1, encode((1, told), RABBITMQ_STOMP, NOW), meta, 0)[1]
    assert back.headers["x-understudy-deadline"] == f"{NOW + 5000} 5000"
    absolute = StompContent({"expires": "5000"}, b"")
    assert b"deadline" not in encode((1, absolute), ACTIVEMQ, NOW)


def test_what_another_version_wrote_is_refused() -> None:
    with pytest.raises(SpoolFailed, match="messages of 'Kafka'"):
        decode_meta(b'{"dialect": "Kafka", "frame_max": 0}')


# Words


def test_the_worse_of_link_and_spool_is_shown() -> None:
    full = Trouble("spool-full", "the spool is full")
    away = Trouble("waiting-source", "source: gone")
    assert shown(None, "running", "") == ("running", "")
    assert shown(full, "running", "") == full
    assert shown(away, "running", "") == away
    assert shown(full, "waiting-target", "target: gone") == (
        "spool-full",
        "the spool is full; target: gone",
    )
    assert shown(away, "holding", "target: gone") == ("holding", "target: gone; source: gone")
    for state in ASKED:
        assert shown(full, state, "so") == (state, "so")
        assert State(state)
    assert {"spool-full", "spool-failed"} <= set(TROUBLE)


# The folder


def folder(path: Path, **owner: str) -> Folder:
    return Folder(path, {"bridge": "b", "source": "here", **owner})


def test_a_folder_has_one_owner(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b"
    first = folder(path)
    first.claim()
    first.claim()
    with pytest.raises(SpoolFailed, match="in use by another process"):
        folder(path).claim()
    first.release()
    second = folder(path)
    second.claim()
    second.release()
    with pytest.raises(SpoolFailed, match=r"source 'here', and here it is source 'there'"):
        folder(path, source="there").claim()
    (path / "spool.json").write_text("{")
    with pytest.raises(SpoolFailed, match="is this the folder of a spool"):
        folder(path).claim()
    assert path.stat().st_mode & 0o077 == 0


def test_files_do_what_the_one_in_memory_does(tmp_path: Path) -> None:
    files = folder(tmp_path)
    files.claim()
    store = Store(files, 1 << 20, Random(1))
    store.open()
    payloads = [b"%d" % number + bytes(5000) for number in range(100)]
    assert store.append(payloads, b"meta") == 100
    store.acknowledge(41, 40 * 5022)
    (last,) = (path for path in tmp_path.glob("*.segment") if int(path.stem) > 70)
    files.release()
    with last.open("ab") as torn:
        torn.write(b"\xf5rec torn")
    files.claim()
    again = Store(files, 1 << 20, Random(2))
    again.open()
    assert again.messages == 60
    assert again.append([b"last"], b"other") == 1
    found, number = [], again.cursor
    while (batch := again.read(number)[1]) != []:
        found += [payload for _, payload in batch]
        number = batch[-1][0] + 1
    assert found == [*payloads[40:], b"last"]
    again.acknowledge(102, again.bytes)
    assert len(list(tmp_path.glob("*.segment"))) == 1
    files.release()


def test_a_limit_of_the_system_is_a_full_disk(tmp_path: Path) -> None:
    files = folder(tmp_path)
    files.claim()
    store = Store(files, 1 << 20, Random(1))
    store.open()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
    try:
        with pytest.raises(OSError, match=os.strerror(errno.EFBIG)):
            store.prepare()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.glob("*.segment")) == []
    store.prepare()
    files.release()


def test_what_no_link_reads_any_more_is_found(tmp_path: Path) -> None:
    spooling = Spooling(tmp_path, 1 << 20)
    one, other = Pattern.parse("queue://a/b"), Pattern.parse("queue://a_b")
    assert folder_of(spooling, "b", one) != folder_of(spooling, "b", other)
    assert folder_of(spooling, "b", one) != folder_of(
        Spooling(tmp_path, 1 << 20, is_back=True), "b", one
    )

    async def keep() -> None:
        shelf = shelf_of(spooling, "b", one, "here", "there")
        await shelf.open()
        await shelf.append([b"x"], b"meta")
        await shelf.close()

    asyncio.run(keep())
    assert left_over(spooling, "b", [one]) == []
    assert left_over(spooling, "b", [other]) == [folder_of(spooling, "b", one)]
    assert left_over(spooling, "c", [other]) == []


# The configuration

PLAIN = """
[bridges.orders]
source = "amqp://a"
target = "amqp://b"
statically_included = ["queue://orders"]
"""


def test_a_bridge_names_the_folder_and_its_size(tmp_path: Path) -> None:
    file = tmp_path / "understudy.toml"
    file.write_text(PLAIN)
    assert load_bridges(file, {})["orders"].spool is None
    file.write_text(PLAIN + 'spool = "kept"\nspool_size = "500MiB"')
    bridge = load_bridges(file, {})["orders"]
    assert (bridge.spool, bridge.spool_size) == (tmp_path / "kept", 500 << 20)
    file.write_text(PLAIN + 'spool = "/var/spool/bridges"')
    assert load_bridges(file, {})["orders"].spool_size == 1 << 30


@pytest.mark.parametrize("size", ['"1GB"', '"1023KiB"', '"-1GiB"', "1000000000", '"0MiB"'])
def test_a_size_has_its_unit(tmp_path: Path, size: str) -> None:
    file = tmp_path / "understudy.toml"
    file.write_text(f'{PLAIN}spool = "kept"\nspool_size = {size}')
    with pytest.raises(ConfigurationError, match='as "500MiB" or "1GiB", from 1MiB on'):
        load_bridges(file, {})


def test_a_size_without_a_folder_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "understudy.toml"
    file.write_text(f'{PLAIN}spool_size = "1GiB"')
    with pytest.raises(ConfigurationError, match="has no effect without spool"):
        load_bridges(file, {})
