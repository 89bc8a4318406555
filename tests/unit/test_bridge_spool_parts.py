"""The parts of a spool: records, words, the folder, and what the configuration says of it."""

from __future__ import annotations

import asyncio
import errno
import os
import resource
from pathlib import Path
from random import Random
from typing import Any

import pytest

from understudy import ConfigurationError
from understudyd.bridge.content import StompContent
from understudyd.bridge.dialects import ACTIVEMQ, RABBITMQ_AMQP, RABBITMQ_STOMP
from understudyd.bridge.mapping import relay
from understudyd.bridge.names import Pattern
from understudyd.bridge.spool.disk import Folder
from understudyd.bridge.spool.folders import folder_of, left_over, shelf_of
from understudyd.bridge.spool.port import SpoolFailed
from understudyd.bridge.spool.records import decode, decode_meta, encode, encode_meta
from understudyd.bridge.spool.store import Store
from understudyd.bridge.spool.words import ASKED, Spooling, Trouble, shown
from understudyd.bridge.status import TROUBLE
from understudyd.bridge.wire.bodies import body_frames
from understudyd.bridge.wire.properties import build, get
from understudyd.bridge.wire.tables import Typed
from understudyd.bridge.words import State
from understudyd.bridge.worn import is_worn
from understudyd.config.bridges import load_bridges

PROPERTIES = build({"delivery_mode": 2})
ROUTE = b"\0\x06orders"
NOW = 1_000_000


def amqp(tag: int, body: bytes, properties: bytes = PROPERTIES) -> Any:
    return (tag, 0, ROUTE, properties, len(body), body_frames(body, 4096))


# Records


def test_a_delivery_comes_back_as_it_was() -> None:
    meta = decode_meta(encode_meta(RABBITMQ_AMQP, 4096, "s"))
    delivery = amqp(7, bytes(range(256)) * 40)
    assert decode(9, encode(delivery, RABBITMQ_AMQP, NOW), meta, 4096) == (9, *delivery[1:])
    content = StompContent({"destination": "/queue/a", "é\n": "\ud83d\0"}, b"\0body")
    for dialect in (ACTIVEMQ, RABBITMQ_STOMP):
        meta = decode_meta(encode_meta(dialect, 0, "s"))
        tag, back = decode(3, encode((1, content), dialect, NOW), meta, 131072)
        assert (tag, back.headers, back.body) == (3, content.headers, content.body)
        assert meta.dialect is dialect


def test_a_message_on_disk_is_not_worn_by_the_queue_it_came_from() -> None:
    """Else it would go back to the tail of that queue."""
    meta = decode_meta(encode_meta(RABBITMQ_AMQP, 4096, "s"))
    raw = build({"headers": {"x-delivery-count": Typed("l", 15)}})
    assert is_worn(raw, 1)
    kept = decode(1, encode(amqp(1, b"", raw), RABBITMQ_AMQP, NOW), meta, 4096)[3]
    assert not is_worn(kept, 1)
    told = StompContent({"x-delivery-count": "15"}, b"")
    meta = decode_meta(encode_meta(RABBITMQ_STOMP, 0, "s"))
    assert not decode(1, encode((1, told), RABBITMQ_STOMP, NOW), meta, 0)[1].headers


def test_frames_are_no_larger_than_the_target_takes() -> None:
    meta = decode_meta(encode_meta(RABBITMQ_AMQP, 131072, "s"))
    body = bytes(range(256)) * 100
    raw = encode(
        (1, 0, ROUTE, PROPERTIES, len(body), body_frames(body, 131072)), RABBITMQ_AMQP, NOW
    )
    frames = decode(1, raw, meta, 4096)[5]
    assert frames == body_frames(body, 4096)


def test_the_time_on_disk_is_spent() -> None:
    meta = decode_meta(encode_meta(RABBITMQ_AMQP, 4096, "s"))
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
    meta = decode_meta(encode_meta(RABBITMQ_STOMP, 0, "s"))
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
    store = Store(second, 1 << 20, Random(1))
    store.open()
    store.append([b"x"], b"meta")
    second.release()
    with pytest.raises(SpoolFailed, match=r"source 'here', and here it is source 'there'"):
        folder(path, source="there").claim()
    (path / "spool.json").write_text("{")
    with pytest.raises(SpoolFailed, match="is this the folder of a spool"):
        folder(path).claim()
    assert path.stat().st_mode & 0o077 == 0


def test_a_folder_without_messages_is_had_by_whoever_comes(tmp_path: Path) -> None:
    """As the error says of one that has some."""
    first = folder(tmp_path)
    first.claim()
    store = Store(first, 1 << 20, Random(1))
    store.open()
    store.append([b"x"], b"meta")
    store.acknowledge(2, store.bytes)
    first.release()
    second = folder(tmp_path, source="there")
    second.claim()
    again = Store(second, 1 << 20, Random(2))
    again.open()
    assert (again.messages, again.cursor) == (0, 2)
    again.append([b"y"], b"meta")
    second.release()
    with pytest.raises(SpoolFailed, match=r"source 'there', and here it is source 'here'"):
        folder(tmp_path).claim()


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


def test_what_is_no_file_or_was_not_finished_is_none_of_ours(tmp_path: Path) -> None:
    first = f"{1:020d}.segment"
    (tmp_path / first).mkdir()
    (tmp_path / f"{2:020d}.segment").symlink_to(tmp_path / "nowhere")
    (tmp_path / f"{3:020d}.segment.new").write_bytes(b"torn")
    files = folder(tmp_path)
    files.claim()
    assert set(files.names()) == {"lock", "spool.json"}
    store = Store(files, 1 << 20, Random(1))
    store.open()
    with pytest.raises(IsADirectoryError):
        store.prepare()
    (tmp_path / first).rmdir()
    store.prepare()
    assert store.append([b"a"], b"meta") == 1
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


def test_a_spool_whose_messages_all_went_on_was_not_left_behind(tmp_path: Path) -> None:
    spooling, one = Spooling(tmp_path, 1 << 20), Pattern.parse("queue://a")
    path = folder_of(spooling, "b", one)
    files = Folder(path, {"bridge": "b"})
    files.claim()
    store = Store(files, 1 << 20, Random(1))
    store.open()
    store.prepare()
    assert left_over(spooling, "b", []) == []
    store.append([b"x", b"y"], b"meta")
    for count, left in ((0, [path]), (1, [path]), (2, [])):
        store.acknowledge(1 + count, 0)
        assert left_over(spooling, "b", []) == left
    store.append([b"z"], b"other meta")
    assert left_over(spooling, "b", []) == [path]
    files.release()


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


def test_nobodys_home_is_guessed(tmp_path: Path) -> None:
    """A folder that is called ``~`` would be made."""
    file = tmp_path / "understudy.toml"
    file.write_text(f'{PLAIN}spool = "~/kept"')
    with pytest.raises(ConfigurationError, match=r'spool = "~/kept" must be a path without ~'):
        load_bridges(file, {})


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
