"""A message between two forms: everything of it that any protocol has, as text and numbers."""

from __future__ import annotations

__all__ = ["BYTES", "JAVA", "TEXT", "Message"]

TEXT, BYTES = "text", "bytes"
JAVA = "java"  # text that its broker keeps as Java writes it, see `java_text`; here it is UTF-8


class Message:
    """One message on its way from one form into another.

    A reader (`amqp.read`, `stomp.read`) makes it, routes may change it, a writer uses it up.
    Strings hold bytes that are no UTF-8 as lone surrogates.
    """

    __slots__ = (
        "body",
        "deadline",
        "delivery_mode",
        "destination",
        "headers",
        "kind",
        "priority",
        "properties",
        "timestamp",
        "types",
    )

    def __init__(self, body: bytes) -> None:
        self.body = body
        #: Where it comes from, as a configuration says it; told to a transformer.
        self.destination = ""
        #: TEXT, BYTES or JAVA; None where the source knows no difference.
        self.kind: str | None = None
        #: The application's headers by their own names, and the bridge's that are no sidecars.
        self.headers: dict[str, str] = {}
        #: The kinds (see `values`) of those of them that are no strings in AMQP.
        self.types: dict[str, str] = {}
        #: Properties that are text, by AMQP's names; a missing one was not set.
        self.properties: dict[str, str] = {}
        #: 2 is persistent; None when the sender said nothing.
        self.delivery_mode: int | None = None
        self.priority: int | None = None
        #: Milliseconds since 1970.
        self.timestamp: int | None = None
        #: When it expires, milliseconds since 1970.
        self.deadline: int | None = None

    def __repr__(self) -> str:
        return f"<Message {len(self.headers)} headers, {len(self.body)} bytes of {self.kind}>"
