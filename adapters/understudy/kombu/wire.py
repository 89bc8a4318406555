"""What py-amqp raises about the wire, told apart from what others raise in the middle of it.

py-amqp takes what it reads for well formed. A peer that breaks, lies or ends within a frame shows
as whatever error Python meets on the way: that is translated here, once, into a recoverable
connection error. So no bug of ours or of the application's is taken for a lost connection.
"""

from __future__ import annotations

import struct
from typing import Any

import amqp
from amqp.exceptions import RecoverableConnectionError

__all__ = [
    "CLOSED",
    "MALFORMED",
    "NOT_ENCODABLE",
    "WIRE_ERRORS",
    "Outgoing",
    "closed_by_another",
    "malformed",
    "refuse_to_write",
]

#: what a broken connection raises, once translated
WIRE_ERRORS: tuple[type[Exception], ...] = (amqp.exceptions.AMQPError, OSError)

#: what decoding a malformed frame raises; Arithmetic: a date beyond all years, Recursion: a table
#: in a table in a table
MALFORMED: tuple[type[Exception], ...] = (
    struct.error,
    AttributeError,
    LookupError,
    TypeError,
    ValueError,
    ArithmeticError,
    RecursionError,
)

#: what one meets, beside OSError, whose connection another thread closes: py-amqp's objects and the
#: socket lose their parts
CLOSED: tuple[type[Exception], ...] = (AttributeError, LookupError, TypeError, ValueError)

#: what encoding raises for what AMQP cannot carry
NOT_ENCODABLE = (*WIRE_ERRORS, *MALFORMED)


def malformed(exc: Exception) -> RecoverableConnectionError:
    return RecoverableConnectionError(f"malformed frame: {type(exc).__name__}: {exc}")


def closed_by_another(exc: Exception) -> RecoverableConnectionError:
    text = f"closed by another thread: {type(exc).__name__}: {exc}"
    return RecoverableConnectionError(text)


class Outgoing:
    """Stands between py-amqp's frame writer and its transport."""

    __slots__ = ("_transport", "held", "writes")

    def __init__(self, transport: Any) -> None:
        self._transport = transport
        self.held: bytearray | None = None
        self.writes = 0  # begun

    def write(self, frames: Any) -> None:
        self.writes += 1
        if self.held is not None:
            self.held += frames
            return
        try:
            self._transport.write(frames)
        except CLOSED as exc:
            raise closed_by_another(exc) from exc


def refuse_to_write(*_: Any) -> None:
    raise RecoverableConnectionError("connection closed")
