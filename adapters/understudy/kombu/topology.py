"""Remembers what the application declared, so that a message finds its way on another broker.

Rules
* Recorded are durable-in-name declarations: exchanges, queues and bindings with names of the
  application's. Exclusive, auto-delete and server-named queues belong to one connection and are
  left to their consumer; passive declarations create nothing.
* On a link of a later epoch, the part that a message needs is declared again before the message is
  sent: its exchange, and from there all bindings, exchanges and queues it can reach, as a dead
  letter too.
* Declarations are idempotent. One that the new broker refuses (other arguments) is logged and
  left: the broker's own definition stands, and the send will show whether it suffices.
* A *deferred* declaration has been done on no broker yet: it is needed in every epoch.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Any

__all__ = ["Declaration", "Topology", "outlives_connection"]


NO_EPOCH = -2  # no link's: -1 is that of one which is over


@dataclass(frozen=True)
class Declaration:
    """One call on a channel, and what it is about."""

    method: str
    arguments: tuple[tuple[str, Any], ...]

    def apply(self, channel: Any) -> Any:
        return getattr(channel, self.method)(**dict(self.arguments))


def outlives_connection(
    method: str, arguments: dict[str, Any], passing_queues: frozenset[str] = frozenset()
) -> bool:
    """Whether a declaration means the same on any connection to any broker.

    ``passing_queues`` are those that go with the present connection.
    """
    if arguments.get("passive") or arguments.get("exclusive") or arguments.get("auto_delete"):
        return False
    if not method.startswith("queue"):
        return True
    queue = arguments.get("queue")
    return bool(queue) and (method == "queue_declare" or queue not in passing_queues)


class Topology:
    """What one process declared on one logical broker; thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._exchanges: dict[str, tuple[Declaration, int]] = {}
        self._queues: dict[str, tuple[Declaration, int]] = {}
        # source exchange -> (kind, destination, routing key, arguments) -> binding
        self._bindings: dict[str, dict[tuple[Any, ...], tuple[Declaration, int]]] = {}
        self._fanouts: set[str] = set()
        self.deferrals = 0  # how many declarations were deferred, ever

    def is_fanout(self, exchange: str) -> bool:
        """Whether an exchange was declared as one that sends to everybody who listens."""
        return exchange in self._fanouts

    def record(self, method: str, arguments: dict[str, Any], epoch: int) -> None:
        """Note a declaration that succeeded in this epoch."""
        call = Declaration(method, tuple(arguments.items()))
        with self._lock:
            match method:
                case "exchange_declare":
                    name = arguments["exchange"]
                    self._exchanges[name] = (call, epoch)
                    is_fanout = arguments.get("type") == "fanout"
                    (self._fanouts.add if is_fanout else self._fanouts.discard)(name)
                case "queue_declare":
                    self._queues[arguments["queue"]] = (call, epoch)
                case "queue_bind" | "exchange_bind":
                    source, key = _binding(method, arguments)
                    self._bindings.setdefault(source, {})[key] = (call, epoch)
                case "queue_unbind" | "exchange_unbind":
                    source, key = _binding(method, arguments)
                    self._bindings.get(source, {}).pop(key, None)
                case "queue_delete":
                    self._queues.pop(arguments["queue"], None)
                    self._drop_bindings_to("queue", arguments["queue"])
                case "exchange_delete":
                    self._exchanges.pop(arguments["exchange"], None)
                    self._bindings.pop(arguments["exchange"], None)
                    self._drop_bindings_to("exchange", arguments["exchange"])

    def defer(self, method: str, arguments: dict[str, Any]) -> None:
        """Note a declaration that is still to be done."""
        self.record(method, arguments, NO_EPOCH)
        self.deferrals += 1

    def _drop_bindings_to(self, kind: str, name: str) -> None:
        for bindings in self._bindings.values():
            for key in [key for key in bindings if key[:2] == (kind, name)]:
                del bindings[key]

    def needed(self, exchange: str, routing_key: str, epoch: int) -> list[Declaration]:
        """What must be declared before a message can take this way in this epoch, in order."""
        with self._lock:
            found = list(self._reach(exchange, routing_key))
        return [call for call, declared in found if declared != epoch]

    def _reach(self, exchange: str, routing_key: str) -> Iterator[tuple[Declaration, int]]:
        if not exchange:
            dead_letters = yield from self._queue(routing_key)
            todo = deque(dead_letters)
        else:
            todo = deque([exchange])
        seen = set(todo)
        while todo:
            source = todo.popleft()
            if source in self._exchanges:
                yield self._exchanges[source]
                ways = _arguments(self._exchanges[source]).get("alternate-exchange")
                if ways and ways not in seen:
                    seen.add(ways)
                    todo.append(ways)
            for (kind, name, *_), binding in self._bindings.get(source, {}).items():
                if kind == "queue":
                    further = yield from self._queue(name)
                    todo.extend(one for one in further if one not in seen)
                    seen.update(further)
                if kind == "exchange" and name not in seen:
                    seen.add(name)
                    todo.append(name)
                    if name in self._exchanges:
                        yield self._exchanges[name]
                yield binding

    def _queue(self, name: str) -> Generator[tuple[Declaration, int], None, list[str]]:
        """A queue, and the exchange that its dead letters go to."""
        known = self._queues.get(name)
        if known is None:
            return []
        yield known
        arguments = _arguments(known)
        dead_letters = arguments.get("x-dead-letter-exchange")
        if dead_letters == "":
            target = self._queues.get(arguments.get("x-dead-letter-routing-key", name))
            if target is not None and target is not known:
                yield target
        return [dead_letters] if dead_letters else []


def _arguments(known: tuple[Declaration, int]) -> dict[str, Any]:
    return dict(known[0].arguments).get("arguments") or {}


def _binding(method: str, arguments: dict[str, Any]) -> tuple[str, tuple[Any, ...]]:
    kind = method.partition("_")[0]
    source = arguments["exchange" if kind == "queue" else "source"]
    destination = arguments["queue" if kind == "queue" else "destination"]
    details = repr(sorted((arguments.get("arguments") or {}).items()))
    return source, (kind, destination, arguments.get("routing_key", ""), details)
