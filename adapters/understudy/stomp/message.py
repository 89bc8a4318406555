"""A message on its way out, independent of the broker that will carry it.

It is encoded once, in the caller's thread: what cannot be sent is the caller's error. Only the
receipt and the mark of a resend differ from copy to copy; they stand first in the frame.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from understudy.failover.message_ids import (
    ID_HEADER,
    OVERHEAD,
    RESEND_HEADER,
    new_message_id,
)
from understudy.failover.waiters import Waiter
from understudy.wire.stomp import encode
from understudy.wire.stomp_dialects import Dialect

__all__ = ["OutMessage"]

THEIR_ID = "amqp-message-id"  # RabbitMQ's, which an application may give instead of ours

RESEND_LINE = f"{RESEND_HEADER}:true\n".encode()


class OutMessage:
    """``error`` and ``is_settled`` are set once, by whoever reads; then a bell rings."""

    __slots__ = (
        "_destination",
        "_encoded",
        "bell",
        "body",
        "error",
        "headers",
        "is_settled",
        "is_tracked",
        "key",
        "receipt",
        "resend",
        "transaction",
        "version",
    )

    def __init__(
        self, headers: Mapping[str, Any], body: bytes, *, version: str, is_tracked: bool = False
    ) -> None:
        said = dict(headers)
        said.pop(RESEND_HEADER, None)  # of a message that is passed on: this is another one
        self.receipt: str | None = said.pop("receipt", None)  # what the application asked for
        self.transaction: str | None = said.get("transaction")
        key = said.get(ID_HEADER) or said.get(THEIR_ID)
        if not key:
            key = said[ID_HEADER] = new_message_id()
        said.setdefault("persistent", "true")
        self.key = str(key)
        self.headers = said
        self.body = body
        self.version = version
        self.is_tracked = is_tracked
        self.resend = False
        self.is_settled = False
        self.error: Exception | None = None
        self.bell: Waiter | None = None  # of a caller who waits for it
        self._destination = str(said.get("destination"))  # as it is called in `_encoded`
        self._encoded = encode("SEND", said, body, version=version)

    def __repr__(self) -> str:
        return f"<OutMessage {self.key} {len(self.body)} bytes>"

    @property
    def size(self) -> int:
        """Bytes that it counts for in an outbox."""
        return len(self.body) + OVERHEAD

    def frame(self, dialect: Dialect, receipt: str | None) -> bytes:
        """The bytes of the next copy."""
        destination = dialect.destination(str(self.headers["destination"]))
        if destination != self._destination:
            self._destination = destination
            headers = {**self.headers, "destination": destination}
            self._encoded = encode("SEND", headers, self.body, version=self.version)
        if receipt is None and not self.resend:
            return self._encoded
        resend = RESEND_LINE if self.resend else b""
        asked = b"receipt:%b\n" % receipt.encode() if receipt is not None else b""
        return b"SEND\n%b%b%b" % (asked, resend, self._encoded[5:])

    def settle(self, error: Exception | None = None) -> None:
        """It is over: in a broker, or failed with ``error``."""
        self.error = error
        self.is_settled = True
        if self.bell is not None:
            self.bell.ring()
