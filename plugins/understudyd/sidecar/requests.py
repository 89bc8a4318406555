"""Orders from this node's API: which become requests of the group, and who waits for an answer."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable

from understudyd.api.words import Order
from understudyd.board.port import Answer, Request

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
        """What others answered, on the board."""
        for request in requests:
            if request.answer is not None:
                self.answer(request, request.answer)
