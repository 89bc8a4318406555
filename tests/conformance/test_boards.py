"""What every board owes to the sidecar and to the command line, over all of them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from understudy.testing import wait_until
from understudy.testing.brokers import Redis
from understudyd.board.file import FileBoard
from understudyd.board.memory import MemoryBoard, Store
from understudyd.board.port import HISTORY_LIMIT, Answer, Board, Request
from understudyd.board.redis import SET, RedisBoard
from understudyd.lock.port import Unavailable
from understudyd.status import HistoryEntry, Member, Role, stamp
from understudyd.testing.sentinels import Sentinels

MEMBER = Member("a", Role.STANDBY, "watching", weight=2, api="h:1", healthy=True, nofailover=True)
ENTRY = HistoryEntry(1, "a", Role.MASTER, stamp(0.0), "first", 0.25)


@dataclass
class Lab:
    open: Callable[[], Board]
    #: make the store unreachable
    stop: Callable[[], object]
    #: put something unreadable in the place of node and request
    spoil: Callable[[], object]


@pytest.fixture(params=["memory", "file", "redis", "sentinel"])
def lab(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Lab]:
    if request.param == "memory":
        store = Store()

        def spoil_memory() -> None:
            for texts in (store.nodes, store.requests):
                for name, (_, count, at) in texts.items():
                    texts[name] = ("{", count, at)

        yield Lab(lambda: MemoryBoard(store), lambda: setattr(store, "is_down", True), spoil_memory)
    elif request.param == "file":
        folder = tmp_path / "lock.board"

        def stop() -> None:
            for inner in ("nodes", "requests", "history"):
                for path in (folder / inner).glob("*"):
                    path.unlink()
                if (folder / inner).is_dir():
                    (folder / inner).rmdir()
                folder.mkdir(exist_ok=True)
                (folder / inner).write_text("no folder")

        def spoil_files() -> None:
            for path in folder.glob("*/*.json"):
                path.write_text("{")

        yield Lab(lambda: FileBoard(tmp_path / "lock"), stop, spoil_files)
    elif request.param == "sentinel":
        with Sentinels(replicas=1) as world:
            opened = [RedisBoard(world.uri, "g", 5.0) for _ in range(3)]
            others = iter(opened)

            def spoil_primary() -> None:
                _spoil(opened[0])

            def stop_all() -> None:
                for server in world.servers:
                    server.kill()

            yield Lab(lambda: next(others), stop_all, spoil_primary)
            for one in opened:
                one.close()
    else:
        with Redis(password="p@ss:w/rd") as server:
            boards: list[RedisBoard] = []

            def connected() -> RedisBoard:
                boards.append(RedisBoard(server.uri, "g", 5.0))
                return boards[-1]

            yield Lab(connected, server.kill, lambda: _spoil(connected()))
            for board in boards:
                board.close()


def _spoil(board: RedisBoard) -> None:
    for part, field in (("nodes", "a"), ("asked", "pause")):
        board._call(SET, (part,), field, "1.5 {")


def test_shows_who_has_published(lab: Lab) -> None:
    a, b = lab.open(), lab.open()
    assert a.read().members == ()
    b.publish(replace(MEMBER, name="b"))
    a.publish(MEMBER)
    shown = b.read().members
    assert [replace(member, seen_s=None) for member in shown] == [
        MEMBER,
        replace(MEMBER, name="b"),
    ]
    assert all(member.seen_s is not None and 0 <= member.seen_s < 60 for member in shown)


def test_shows_the_last_that_a_node_has_published(lab: Lab) -> None:
    a, b = lab.open(), lab.open()
    a.publish(MEMBER)
    b.read()
    a.publish(replace(MEMBER, role=Role.MASTER, token=7))
    (shown,) = b.read().members
    assert (shown.role, shown.token) == (Role.MASTER, 7)
    assert shown.seen_s == 0.0  # the reader saw it change


def test_a_member_ages_while_it_says_nothing(lab: Lab) -> None:
    a, b = lab.open(), lab.open()
    a.publish(MEMBER)
    first = b.read().members[0].seen_s
    second = b.read().members[0].seen_s
    assert first is not None
    assert second is not None
    assert second >= first


def test_keeps_the_newest_of_the_history(lab: Lab) -> None:
    a, b = lab.open(), lab.open()
    assert a.read().history == ()
    for token in range(HISTORY_LIMIT + 5):
        a.append(replace(ENTRY, token=token, cause=f"the {token}. time, “quoted”\n"))
    tokens = [entry.token for entry in b.read().history]
    assert tokens == list(range(5, HISTORY_LIMIT + 5))
    assert b.read().history[-1] == replace(
        ENTRY, token=HISTORY_LIMIT + 4, cause=f"the {HISTORY_LIMIT + 4}. time, “quoted”\n"
    )


def test_a_request_stands_until_another_of_its_subject(lab: Lab) -> None:
    """Catalogue 98: the last of pause and resume is the state of the group."""
    a, b = lab.open(), lab.open()
    assert a.read().requests == ()
    a.ask(Request("1", "pause", by="me"))
    assert list(b.read().requests) == [Request("1", "pause", by="me")]
    a.ask(Request("2", "switchover", to="b"))
    assert list(b.read().requests) == [
        Request("1", "pause", by="me"),
        Request("2", "switchover", to="b"),
    ]
    a.ask(Request("3", "resume"))
    a.ask(Request("4", "failover"))
    assert list(b.read().requests) == [Request("3", "resume"), Request("4", "failover")]


def test_shows_the_answer_to_a_request_and_to_no_other(lab: Lab) -> None:
    a, b = lab.open(), lab.open()
    first = Request("1", "switchover", to="b")
    a.ask(first)
    b.answer(first, Answer(409, "b is not healthy"))
    assert list(a.read().requests) == [replace(first, answer=Answer(409, "b is not healthy"))]
    second = Request("2", "switchover")
    a.ask(second)
    assert list(a.read().requests) == [second]
    b.answer(first, Answer(202))  # late
    assert list(a.read().requests) == [second]


def test_leaves_out_what_it_can_t_read(lab: Lab) -> None:
    a, b = lab.open(), lab.open()
    a.publish(MEMBER)
    a.ask(Request("1", "pause"))
    lab.spoil()
    assert b.read().members == ()
    assert b.read().requests == ()
    a.publish(MEMBER)
    assert len(b.read().members) == 1


def test_says_unavailable_when_its_store_is(lab: Lab) -> None:
    a = lab.open()
    a.publish(MEMBER)
    lab.stop()
    for call in (
        lambda: a.publish(MEMBER),
        lambda: a.append(ENTRY),
        lambda: a.ask(Request("1", "pause")),
        a.read,
    ):
        with pytest.raises(Unavailable):
            call()


def test_follows_the_sentinels_to_another_server() -> None:
    with Sentinels(replicas=1) as world, contextlib.ExitStack() as stack:
        board = RedisBoard(world.uri, "g", 2.0)
        stack.callback(board.close)
        board.publish(MEMBER)
        world.servers[0].kill()
        assert wait_until(lambda: _is_shown(board), 60)


def _is_shown(board: RedisBoard) -> bool:
    try:
        board.publish(MEMBER)
        return [member.name for member in board.read().members] == ["a"]
    except Unavailable:
        return False
