"""What an application declared on one connection, in the order in which it has to be done again.

Rules
* Recorded is what succeeded: exchanges, queues, bindings, as pika's own method objects. Passive
  declarations create nothing. A second declaration of a name replaces the first one.
* Deleting and unbinding forget, with a queue or an exchange all of its bindings; so does cancelling
  the last consumer of an auto-delete queue, as the broker deletes that.
"""

from __future__ import annotations

from typing import Any

from pika import spec

__all__ = ["Topology"]

Key = tuple[Any, ...]


class Topology:
    """Not thread-safe."""

    def __init__(self) -> None:
        self._exchanges: dict[str, Any] = {}
        self._queues: dict[str, Any] = {}
        self._bindings: dict[Key, Any] = {}

    def __len__(self) -> int:
        return len(self._exchanges) + len(self._queues) + len(self._bindings)

    def methods(self) -> list[Any]:
        """What to declare, in order."""
        return [*self._exchanges.values(), *self._queues.values(), *self._bindings.values()]

    def shared(self) -> list[Any]:
        """The same without exclusive and auto-delete queues and their bindings.

        For other connections too, where nobody consumes.
        """
        return [method for method in self.methods() if not self._is_private(method)]

    def _is_private(self, method: Any) -> bool:
        is_of_queue = isinstance(method, spec.Queue.Declare | spec.Queue.Bind)
        queue = self._queues.get(method.queue) if is_of_queue else None
        return queue is not None and bool(queue.exclusive or queue.auto_delete)

    def note(self, method: Any) -> None:
        """This method succeeded."""
        match method:
            case spec.Exchange.Declare():
                if not method.passive:
                    self._exchanges[method.exchange] = method
            case spec.Queue.Declare():
                if not method.passive:
                    self._queues[method.queue] = method
            case spec.Queue.Bind() | spec.Exchange.Bind():
                self._bindings[_key(method)] = method
            case spec.Queue.Unbind() | spec.Exchange.Unbind():
                self._bindings.pop(_key(method), None)
            case spec.Queue.Delete():
                self.forget_queue(method.queue)
            case spec.Exchange.Delete():
                self._forget_exchange(method.exchange)

    def forget_queue(self, name: str) -> None:
        self._queues.pop(name, None)
        self._drop_bindings(lambda kind, destination, source: (kind, destination) == ("q", name))

    def is_auto_delete(self, queue: str) -> bool:
        return queue in self._queues and bool(self._queues[queue].auto_delete)

    def _forget_exchange(self, name: str) -> None:
        self._exchanges.pop(name, None)
        self._drop_bindings(
            lambda kind, destination, source: source == name or (kind, destination) == ("e", name)
        )

    def _drop_bindings(self, is_gone: Any) -> None:
        for key in [key for key in self._bindings if is_gone(*key[:3])]:
            del self._bindings[key]


def _key(method: Any) -> Key:
    arguments = repr(sorted((method.arguments or {}).items()))
    if isinstance(method, spec.Queue.Bind | spec.Queue.Unbind):
        return "q", method.queue, method.exchange, method.routing_key, arguments
    return "e", method.destination, method.source, method.routing_key, arguments
