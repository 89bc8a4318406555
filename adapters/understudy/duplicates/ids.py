"""Which message is this? The identity that its sender gave it, wherever the host keeps that.

A broker's own numbers (delivery tags, STOMP's ``message-id``) do not count: another copy of the
same message has another one, and after a failover another message may have the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from understudy.failover.message_ids import ID_HEADER

__all__ = ["find_message", "message_id"]

AMQP_ID = "amqp-message-id"  # RabbitMQ's STOMP name of the AMQP property


def message_id(message: Any) -> str | None:
    """The id of a message; None when its sender gave it none, and it can never be a duplicate.

    ``message`` is a kombu or py-amqp Message, pika's BasicProperties, a stomp.py Frame, a mapping
    of headers, or the id itself. TypeError for anything else: pika's method or body have no id.
    """
    if message is None or isinstance(message, str):
        return message or None
    if isinstance(message, Mapping):
        return _first(message, AMQP_ID)
    properties = getattr(message, "properties", None)
    if isinstance(properties, Mapping):  # kombu, py-amqp
        headers = properties.get("application_headers") or getattr(message, "headers", None)
        return _text(properties.get("message_id")) or _first(headers)
    if properties is not None:  # a message that carries pika's properties
        return message_id(properties)
    if hasattr(message, "message_id"):  # pika
        return _text(message.message_id) or _first(message.headers)
    if isinstance(getattr(message, "headers", None), Mapping):  # stomp.py
        return _first(message.headers, AMQP_ID)
    raise TypeError(
        f"a {type(message).__name__} has no message id: give a kombu Message, pika's "
        "BasicProperties, a stomp.py Frame, a mapping of headers, or the id itself"
    )


def find_message(arguments: tuple[Any, ...]) -> Any:
    """What `message_id` understands among the arguments that a host gives to a callback.

    The last one that has headers or properties: kombu gives (body, message), pika (channel, method,
    properties, body), stomp.py (frame). TypeError when there is none.
    """
    for argument in reversed(arguments):
        if any(hasattr(argument, name) for name in ("properties", "headers")):
            return argument
    kinds = ", ".join(type(argument).__name__ for argument in arguments) or "nothing"
    raise TypeError(f"the callback got no message with an id: {kinds}")


def _first(headers: Mapping[str, Any] | None, *more: str) -> str | None:
    for name in (*more, ID_HEADER):
        if headers and (found := _text(headers.get(name))):
            return found
    return None


def _text(value: Any) -> str | None:
    if isinstance(value, bytes):
        value = value.decode("utf-8", "backslashreplace")
    return str(value) if value not in (None, "") else None
