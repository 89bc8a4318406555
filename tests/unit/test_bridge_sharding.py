"""Several connections to a target that look like one: order of groups, confirms, losses (40)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from understudy.wire.stomp import encode
from understudyd.bridge.dialects import ACTIVEMQ, Dialect
from understudyd.bridge.ends.port import ConnectionFailed, TargetHooks
from understudyd.bridge.ends.sharded_target import ShardedTarget
from understudyd.bridge.sharding import GROUPS, Sharding
from understudyd.bridge.wire.amqp import Closed
from understudyd.bridge.wire.bodies import body_frames, content_header
from understudyd.bridge.wire.methods import encode_publish
from understudyd.bridge.wire.properties import build


def amqp(group: object, number: int, header: str = "JMSXGroupID") -> list[bytes]:
    raw = build({"headers": {} if group is None else {"a": 1, header: group}})  # type: ignore[dict-item]
    body = b"%d" % number
    return [encode_publish("", "q"), content_header(raw, len(body)), body_frames(body, 4096)]


def stomp(group: object, number: int, header: str = "JMSXGroupID") -> list[bytes]:
    named = {} if group is None else {header: str(group)}
    headers = {"destination": "/queue/q", **named, "z": "1"}
    return [encode("SEND", headers)[:-2], b"", b"%d\0" % number]


def body_of(piece: bytes) -> int:
    return int(piece[7:-1] if piece.startswith(b"\x03") else piece[:-1])


def numbers(parts: list[list[bytes]]) -> list[list[int]]:
    return [[body_of(piece) for piece in part[2::3]] for part in parts]


@pytest.mark.parametrize("make", [amqp, stomp])
@given(groups=st.lists(st.sampled_from([None, "a", "b", "c", "é:\n\\"]), max_size=30))
def test_groups_keep_their_order_and_what_has_none_is_in_the_first(
    make: Callable[..., list[bytes]], groups: list[str | None]
) -> None:
    pieces = [piece for number, group in enumerate(groups) for piece in make(group, number)]
    parts = numbers(Sharding(4, GROUPS).split(pieces))
    assert sorted(number for part in parts for number in part) == list(range(len(groups)))
    for part in parts:
        assert part == sorted(part)
    for group in set(groups):
        places = {
            place for place, part in enumerate(parts) for number in part if groups[number] == group
        }
        assert len(places) == 1
        assert group is not None or places == {0}


@pytest.mark.parametrize("make", [amqp, stomp])
@pytest.mark.parametrize("name", ["customer", "a.b", "x:y", "JMSXGroupID", "_AMQ_GROUP_ID"])
def test_groups_are_spread_by_the_header_that_is_named(
    make: Callable[..., list[bytes]], name: str
) -> None:
    sharding = Sharding(4, (name,) if name not in GROUPS else GROUPS)
    pieces = [piece for n in range(64) for piece in make(f"g{n}", n, name)]
    assert all(numbers(sharding.split(pieces)))
    others = Sharding(4, ("another",)).split([p for n in range(9) for p in make("g", n, name)])
    assert numbers(others) == [list(range(9)), [], [], []]


def test_headers_that_cannot_be_read_are_of_no_group() -> None:
    broken = [encode_publish("", "q"), b"\2\0\1JMSXGroupID\xce" + b"\xff" * 40, b""]
    assert [len(part) for part in Sharding(2, GROUPS).split(broken)] == [3, 0]


@given(data=st.data(), groups=st.lists(st.sampled_from("abcdef"), min_size=1, max_size=30))
def test_confirms_of_all_come_under_the_numbers_of_one_sequence(
    data: st.DataObject, groups: list[str]
) -> None:
    sharding = Sharding(3, GROUPS)
    pieces = [piece for number, group in enumerate(groups, 1) for piece in amqp(group, number)]
    sent = numbers(sharding.split(pieces))
    owed = {place: dict(enumerate(part, 1)) for place, part in enumerate(sent)}
    told: dict[int, bool] = {}
    while any(owed.values()):
        place = data.draw(st.sampled_from([one for one in owed if owed[one]]))
        number = data.draw(st.sampled_from(sorted(owed[place])))
        multiple, is_ack = data.draw(st.booleans()), data.draw(st.booleans())
        expected = [n for n in owed[place] if n == number or (multiple and n < number)]
        confirms = sharding.confirmed(place, [(number, int(multiple), is_ack)])
        assert [one[0] for one in confirms] == [owed[place].pop(n) for n in expected]
        for ours, is_multiple, is_positive in confirms:
            assert (is_multiple, is_positive) == (0, is_ack)
            assert told.setdefault(ours, is_ack) is is_ack
    assert sorted(told) == list(range(1, len(groups) + 1))


def test_confirms_of_everything_and_of_nothing() -> None:
    sharding = Sharding(2, GROUPS)
    sharding.split([piece for number in range(3) for piece in amqp(None, number)])
    assert sharding.confirmed(1, [(5, 1, True), (1, 0, True)]) == []
    assert sharding.confirmed(0, [(2, 0, False), (0, 1, True)]) == [
        (2, 0, False),
        (1, 0, True),
        (3, 0, True),
    ]
    assert sharding.confirmed(0, [(9, 1, True), (2, 0, True)]) == []


# The end


class End:
    def __init__(self, hooks: TargetHooks, frame_max: int) -> None:
        self.hooks, self.frame_max = hooks, frame_max
        self.dialect: Dialect | None = ACTIVEMQ
        self.is_open = False
        self.sent: list[bytes] = []
        self.on_open: Callable[[], Any] = lambda: None

    async def open(self) -> None:
        self.on_open()
        self.is_open = True

    def send(self, pieces: list[bytes]) -> None:
        self.sent += pieces

    def close(self) -> Awaitable[None]:
        self.is_open = False
        return asyncio.sleep(0)


class Heard:
    def __init__(self, count: int = 2) -> None:
        self.told: list[Any] = []
        hooks = TargetHooks(
            self.told.append,
            self.told.append,
            self.told.append,
            self.told.append,
            lambda reason, closed: self.told.append((reason, closed)),
        )
        self.ends: list[End] = []
        self.target = ShardedTarget(count, self._make, GROUPS, hooks)

    def _make(self, place: int, hooks: TargetHooks) -> End:
        self.ends.append(End(hooks, 100 - place))
        return self.ends[-1]


def run(work: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        await work()

    asyncio.run(main())


def test_all_are_opened_or_none() -> None:
    async def work() -> None:
        heard = Heard()
        await heard.target.open()
        assert (heard.target.frame_max, heard.target.dialect) == (99, ACTIVEMQ)
        assert all(end.is_open for end in heard.ends)
        await heard.target.close()
        heard.ends[1].on_open = _fail
        with pytest.raises(ConnectionFailed):
            await heard.target.open()
        assert not any(end.is_open for end in heard.ends)

    run(work)


def test_one_that_is_lost_while_the_others_are_opened_fails_the_opening() -> None:
    async def work() -> None:
        heard = Heard()
        heard.ends[1].on_open = lambda: heard.ends[0].hooks.on_lost("gone", None)
        with pytest.raises(ConnectionFailed, match="gone"):
            await heard.target.open()
        assert not any(end.is_open for end in heard.ends)
        assert heard.told == []
        heard.ends[1].on_open = lambda: None
        await heard.target.open()
        assert all(end.is_open for end in heard.ends)

    run(work)


def test_the_loss_of_one_is_the_loss_of_all_and_told_once() -> None:
    async def work() -> None:
        heard = Heard()
        await heard.target.open()
        closed = Closed("connection", 320, "shut down")
        heard.ends[1].hooks.on_lost("gone", closed)
        heard.ends[0].hooks.on_lost("gone too", None)
        heard.ends[0].hooks.on_confirms([(1, 0, True)])
        assert heard.told == [("gone", closed)]
        assert not any(end.is_open for end in heard.ends)
        heard.target.send(amqp("a", 1))
        assert not any(end.sent for end in heard.ends)
        await heard.target.open()
        heard.target.send(amqp(None, 1))
        heard.ends[0].hooks.on_confirms([(1, 0, True)])
        assert heard.told[1:] == [[(1, 0, True)]]

    run(work)


def test_it_is_blocked_and_congested_while_one_of_them_is() -> None:
    async def work() -> None:
        heard = Heard()
        await heard.target.open()
        one, other = (end.hooks for end in heard.ends)
        one.on_blocked("memory")
        other.on_blocked("memory")
        one.on_blocked(None)
        other.on_blocked(None)
        one.on_congested(True)
        other.on_congested(True)
        one.on_congested(False)
        other.on_congested(False)
        assert heard.told == ["memory", None, True, False]

    run(work)


def _fail() -> None:
    raise ConnectionFailed("no")
