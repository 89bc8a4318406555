"""The calls that declare and delete, the same for all kinds of channels.

``_request(method, reply)`` is the channel's: it asks the broker, remembers what succeeded, and
returns the answer, or where calls are coroutines an awaitable of it.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from enum import Enum
from typing import Any

from pika import spec, validators

__all__ = ["Declarations"]


class Declarations:
    _request: Callable[..., Any]
    _last_queue: str  # what an empty name means

    def exchange_declare(
        self,
        exchange: str,
        exchange_type: Any = "direct",
        passive: bool = False,
        durable: bool = False,
        auto_delete: bool = False,
        internal: bool = False,
        arguments: dict[str, Any] | None = None,
    ) -> Any:
        validators.require_string(exchange, "exchange")
        kind = exchange_type.value if isinstance(exchange_type, Enum) else exchange_type
        method = spec.Exchange.Declare(
            exchange=exchange,
            type=kind,
            passive=passive,
            durable=durable,
            auto_delete=auto_delete,
            internal=internal,
            arguments=dict(arguments or {}),
        )
        return self._request(method, spec.Exchange.DeclareOk)

    def exchange_delete(self, exchange: str | None = None, if_unused: bool = False) -> Any:
        method = spec.Exchange.Delete(exchange=exchange, if_unused=if_unused)
        return self._request(method, spec.Exchange.DeleteOk)

    def exchange_bind(
        self,
        destination: str,
        source: str,
        routing_key: str = "",
        arguments: dict[str, Any] | None = None,
    ) -> Any:
        validators.require_string(destination, "destination")
        validators.require_string(source, "source")
        method = spec.Exchange.Bind(
            destination=destination,
            source=source,
            routing_key=routing_key,
            arguments=dict(arguments or {}),
        )
        return self._request(method, spec.Exchange.BindOk)

    def exchange_unbind(
        self,
        destination: str | None = None,
        source: str | None = None,
        routing_key: str = "",
        arguments: dict[str, Any] | None = None,
    ) -> Any:
        method = spec.Exchange.Unbind(
            destination=destination,
            source=source,
            routing_key=routing_key,
            arguments=dict(arguments or {}),
        )
        return self._request(method, spec.Exchange.UnbindOk)

    def queue_declare(
        self,
        queue: str,
        passive: bool = False,
        durable: bool = False,
        exclusive: bool = False,
        auto_delete: bool = False,
        arguments: dict[str, Any] | None = None,
    ) -> Any:
        """As pika's; for an empty name we make one that stays the same over failovers."""
        validators.require_string(queue, "queue")
        if not queue and not passive:
            queue = f"understudy.gen-{uuid.uuid4().hex}"
        method = spec.Queue.Declare(
            queue=queue,
            passive=passive,
            durable=durable,
            exclusive=exclusive,
            auto_delete=auto_delete,
            arguments=dict(arguments or {}),
        )
        self._last_queue = method.queue or self._last_queue
        return self._request(method, spec.Queue.DeclareOk)

    def queue_delete(self, queue: str, if_unused: bool = False, if_empty: bool = False) -> Any:
        validators.require_string(queue, "queue")
        method = spec.Queue.Delete(
            queue=queue or self._last_queue, if_unused=if_unused, if_empty=if_empty
        )
        return self._request(method, spec.Queue.DeleteOk)

    def queue_purge(self, queue: str) -> Any:
        validators.require_string(queue, "queue")
        method = spec.Queue.Purge(queue=queue or self._last_queue)
        return self._request(method, spec.Queue.PurgeOk)

    def queue_bind(
        self,
        queue: str,
        exchange: str,
        routing_key: str | None = None,
        arguments: dict[str, Any] | None = None,
    ) -> Any:
        validators.require_string(queue, "queue")
        validators.require_string(exchange, "exchange")
        return self._request(self._binding(spec.Queue.Bind, locals()), spec.Queue.BindOk)

    def queue_unbind(
        self,
        queue: str,
        exchange: str,
        routing_key: str | None = None,
        arguments: dict[str, Any] | None = None,
    ) -> Any:
        validators.require_string(queue, "queue")
        return self._request(self._binding(spec.Queue.Unbind, locals()), spec.Queue.UnbindOk)

    def _binding(self, kind: Any, given: dict[str, Any]) -> Any:
        queue, key = given["queue"] or self._last_queue, given["routing_key"]
        return kind(
            queue=queue,
            exchange=given["exchange"],
            routing_key=queue if key is None else key,
            arguments=dict(given["arguments"] or {}),
        )
