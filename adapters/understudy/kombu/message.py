"""A message on its way out, independent of the kind of broker that will carry it.

kombu prepares a message for one transport and some transports change it while sending. A message
that may have to be sent again, to a broker of another kind, is kept as what the application gave.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import amqp

from understudy.failover.message_ids import ID_HEADER, OVERHEAD, RESEND_HEADER, new_message_id

__all__ = [
    "ID_HEADER",
    "RESEND_HEADER",
    "OutMessage",
    "Publication",
    "id_of",
    "is_task",
    "new_message_id",
    "prepare_message",
    "without_our_headers",
]


def is_task(headers: Mapping[str, Any] | None) -> bool:
    """Whether Celery would run a message with these headers."""
    return headers is not None and "task" in headers and "id" in headers


def without_our_headers(headers: Mapping[str, Any] | None) -> dict[str, Any]:
    """What the application says of a new message.

    Celery's retry copies the headers of the message that it repeats: that is another message, and
    no resend of ours. An id in any other message is the application's own.
    """
    ours = (ID_HEADER, RESEND_HEADER) if is_task(headers) else (RESEND_HEADER,)
    return {name: value for name, value in (headers or {}).items() if name not in ours}


def id_of(message: amqp.Message) -> str:
    """The id that an `OutMessage` had when it was sent."""
    properties = message.properties
    given = properties.get("message_id")
    return str(given or (properties.get("application_headers") or {}).get(ID_HEADER))


class OutMessage:
    """What `prepare_message` of our channels returns; materialised by the link that sends it."""

    __slots__ = (
        "body",
        "content_encoding",
        "content_type",
        "headers",
        "message_id",
        "priority",
        "properties",
        "resend",
    )

    def __init__(
        self,
        body: Any,
        priority: int | None = None,
        content_type: str | None = None,
        content_encoding: str | None = None,
        headers: dict[str, Any] | None = None,
        properties: dict[str, Any] | None = None,
    ) -> None:
        self.body = body
        self.priority = priority
        self.content_type = content_type
        self.content_encoding = content_encoding
        self.headers = dict(headers) if headers else {}
        self.properties = properties or {}
        self.resend = False
        given = self.properties.get("message_id")
        if given is None:
            self.message_id = self.headers.setdefault(ID_HEADER, None) or new_message_id()
            self.headers[ID_HEADER] = self.message_id
        else:
            self.message_id = str(given)

    @classmethod
    def of(cls, message: Any) -> OutMessage:
        """The same for a message that was prepared by someone else for py-amqp."""
        if isinstance(message, OutMessage):
            return message
        properties = dict(message.properties)
        return cls(
            message.body,
            properties.pop("priority", None),
            properties.pop("content_type", None),
            properties.pop("content_encoding", None),
            properties.pop("application_headers", None),
            properties,
        )

    @property
    def size(self) -> int:
        """Bytes that this message counts for in an outbox."""
        return len(self.body) + OVERHEAD

    @property
    def is_task(self) -> bool:
        """Whether Celery would run this (its message protocol 2, or 1)."""
        return is_task(self.headers)

    @property
    def label(self) -> str:
        """The id, and for a task what its sender knows it by."""
        if not self.is_task:
            return self.message_id
        return f"{self.message_id} (task {self.headers['task']}[{self.headers['id']}])"

    def mark_resend(self) -> None:
        """From now on every copy says that an earlier one may exist."""
        if not self.resend:
            self.resend = True
            self.headers[RESEND_HEADER] = True

    def for_amqp(self) -> amqp.Message:
        return amqp.Message(
            self.body,
            priority=self.priority,
            content_type=self.content_type,
            content_encoding=self.content_encoding,
            application_headers=self.headers,
            **self.properties,
        )

    def for_channel(self, prepare: Any) -> Any:
        """Made by the ``prepare_message`` of a channel; fresh, as some transports change it."""
        return prepare(
            self.body,
            self.priority,
            self.content_type,
            self.content_encoding,
            dict(self.headers),
            dict(self.properties),
        )


class Publication:
    """A message and where it goes."""

    __slots__ = ("exchange", "immediate", "mandatory", "message", "routing_key")

    def __init__(
        self, message: OutMessage, exchange: str, routing_key: str, mandatory: bool, immediate: bool
    ) -> None:
        self.message = message
        self.exchange = exchange
        self.routing_key = routing_key
        self.mandatory = mandatory
        self.immediate = immediate


def prepare_message(
    channel: object,
    body: Any,
    priority: Any = None,
    content_type: Any = None,
    content_encoding: Any = None,
    headers: Any = None,
    properties: Any = None,
    *args: Any,
    **kwargs: Any,
) -> OutMessage:
    """The method of a kombu channel by which producers have their messages made."""
    headers = without_our_headers(headers)
    return OutMessage(body, priority, content_type, content_encoding, headers, properties)
