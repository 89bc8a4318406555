"""Orders from this node's API: which become requests of the group, and who waits for an answer."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable

from understudyd.api.words import Order
from understudyd.board.port import SUBJECTS, Answer, Request

__all__ = ["Orders"]

WAITING = 64  # orders that may wait; the API gives each up after some seconds


class Orders:
    def __init__(self, answer: Callable[[Order, int, str], None]) -> None:
        self._answer = answer
        self._waiting: dict[str, Order] = {}
        self._new: list[Request] = []

    def take(self, order: Order) -> Request:
        """The group's request that this order is; its answer will be the order's."""
        request = Request(uuid.uuid4().hex, order.command, order.to, order.by)
        self._waiting[request.id] = order
        self._new.append(request)
        while len(self._waiting) > WAITING:
            del self._waiting[next(iter(self._waiting))]
        return request

    def new(self) -> list[Request]:
        """What was taken since the last call."""
        new, self._new = self._new, []
        return new

    def answer(self, request: Request, answer: Answer) -> None:
        order = self._waiting.pop(request.id, None)
        if order is not None:
            self._answer(order, answer.code, answer.reason)

    def look(self, requests: Iterable[Request]) -> None:
        """What the board shows: answers of others, and what was put up in place of ours.

        Before `new`, whose requests it does not show yet.
        """
        standing = {SUBJECTS[request.command]: request for request in requests}
        for request in standing.values():
            if request.answer is not None:
                self.answer(request, request.answer)
        unseen = {request.id for request in self._new}
        for id, order in list(self._waiting.items()):
            other = standing.get(SUBJECTS[order.command])
            if other is not None and other.id != id and id not in unseen:
                del self._waiting[id]
                self._answer(order, 409, f"a later {other.command} has taken its place")
