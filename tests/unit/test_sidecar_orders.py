"""Orders from a node's API: each gets one answer, whoever gives it; and what the board shows."""

from __future__ import annotations

from dataclasses import replace

import pytest

from understudyd.api.words import Order
from understudyd.board.port import Answer, Request
from understudyd.sidecar.billboard import News
from understudyd.sidecar.orders import WAITING, Orders
from understudyd.status import Member, Role


class Desk:
    def __init__(self) -> None:
        self.told: list[tuple[int, int, str]] = []
        self.orders = Orders(self.answer)
        self.count = 0

    def answer(self, order: Order, code: int, reason: str) -> None:
        self.told.append((order.id, code, reason))

    def take(self, command: str = "switchover", to: str | None = "b") -> Request:
        self.count += 1
        return self.orders.take(Order(self.count, command, to, "10.0.0.9"))


@pytest.fixture
def desk() -> Desk:
    return Desk()


def test_an_order_becomes_a_request_of_the_group(desk: Desk) -> None:
    request = desk.take()
    assert (request.command, request.to, request.by) == ("switchover", "b", "10.0.0.9")
    assert desk.orders.new() == [request]
    assert desk.orders.new() == []
    assert desk.take().id != request.id


def test_is_answered_once_by_this_node_or_by_another(desk: Desk) -> None:
    ours, theirs = desk.take(), desk.take("pause", None)
    desk.orders.new()
    desk.orders.answer(ours, Answer(202))
    shown = [replace(ours, answer=Answer(202)), replace(theirs, answer=Answer(409, "no"))]
    desk.orders.look(shown)
    desk.orders.look(shown)
    assert desk.told == [(1, 202, ""), (2, 409, "no")]


def test_what_the_board_does_not_show_yet_is_waited_for(desk: Desk) -> None:
    old = Request("old", "failover", answer=Answer(202))
    request = desk.take()
    desk.orders.look([old])  # a look that had begun before
    desk.orders.new()
    desk.orders.look([])  # the board can't be reached
    desk.orders.look([request])
    assert desk.told == []


def test_a_later_request_takes_the_place_of_one_that_waits(desk: Desk) -> None:
    """Only one move stands: nobody will ever answer the first."""
    desk.take()
    desk.take("pause", None)
    desk.orders.new()
    desk.orders.look([Request("later", "failover"), Request("2", "resume")])
    assert [(number, code) for number, code, _ in desk.told] == [(1, 409), (2, 409)]
    assert "a later failover has taken its place" in desk.told[0][2]


def test_only_so_many_wait(desk: Desk) -> None:
    first, *others = [desk.take("pause", None) for _ in range(WAITING + 1)]
    for request in (first, *others):
        desk.orders.answer(request, Answer(202))
    assert [number for number, _, _ in desk.told] == list(range(2, WAITING + 2))


def test_news_of_the_board_can_wait_while_nothing_but_time_has_passed() -> None:
    """Not while somebody waits for an answer: it may be for this node to give."""
    standby = Member("b", Role.STANDBY, "standby", seen_s=0.4)
    known = News((standby,), (Request("1", "pause", answer=Answer(202)),))
    assert replace(known, members=(replace(standby, seen_s=1.4),)).is_as_expected(known)
    assert not replace(known, members=(replace(standby, healthy=True),)).is_as_expected(known)
    assert not replace(known, trouble="gone").is_as_expected(known)
    asked = replace(known, requests=(Request("2", "failover"),))
    assert not asked.is_as_expected(known)
    assert not asked.is_as_expected(asked)
