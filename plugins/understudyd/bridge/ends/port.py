"""What a link asks of its two ends, whatever they speak, and what they tell it. No I/O.

Rules
* Everything is called, and told, in the loop's thread; no hook may raise.
* ``close()`` lets go at once: from the call on nothing is told or sent. What it returns is the
  goodbye, to be awaited.
* An end may be opened again after it was lost or closed; ``open()`` makes a connection of its own.
* A loss is told once, and never after ``close()``. While ``open()`` waits it raises
  `ConnectionFailed` instead.
* What a broker turns out to be is known when it was opened: ``dialect``. It stays what it was while
  the end is closed.
* No text that is told holds a password.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeAlias, TypeVar, runtime_checkable

from understudy.errors import UnderstudyError
from understudyd.bridge.content import StompContent
from understudyd.bridge.dialects import Dialect
from understudyd.bridge.wire.amqp import Closed
from understudyd.bridge.wire.reader import Confirm, Returned

__all__ = [
    "CanRest",
    "ConnectionFailed",
    "DeadLetters",
    "SourceEnd",
    "SourceHooks",
    "StompDelivery",
    "TargetEnd",
    "TargetHooks",
]

D = TypeVar("D")

StompDelivery: TypeAlias = "tuple[int, StompContent]"
"""A message of a STOMP source with its tag: 1, 2, 3 ... since the source was opened. One of AMQP is
a `wire.reader.Delivery`, which begins with its tag too."""


class ConnectionFailed(UnderstudyError):
    """The connection could not be opened, or ended while something was asked."""

    def __init__(self, message: str, closed: Closed | None = None) -> None:
        super().__init__(message)
        self.closed = closed
        """What the broker said, where it said something."""


@dataclass(frozen=True)
class SourceHooks(Generic[D]):
    on_deliveries: Callable[[list[D]], None]
    """What one read brought."""
    on_lost: Callable[[str], None]


@dataclass(frozen=True)
class TargetHooks:
    on_confirms: Callable[[list[Confirm]], None]
    """Messages are numbered 1, 2, 3 ... in the order of ``send()`` since the target was opened."""
    on_returned: Callable[[Returned], None]
    on_blocked: Callable[[str | None], None]
    """With the reason; None: it reads again. STOMP does not tell."""
    on_congested: Callable[[bool], None]
    on_lost: Callable[[str, Closed | None], None]
    """With what the broker said, where it said something: an ERROR of STOMP has a code of AMQP."""


class SourceEnd(Protocol):
    """Where messages are taken from."""

    @property
    def frame_max(self) -> int:
        """Bytes of the largest frame that may come; 0 while it is closed, and where none is larger
        than any other."""

    @property
    def dialect(self) -> Dialect | None:
        """None before it was opened."""

    async def open(self, window: int, frame_max: int) -> None:
        """Connect and let it deliver ``window`` messages without an acknowledgement.

        Raises ConnectionFailed. ``frame_max`` is the target's.
        """

    def widen(self, window: int) -> None:
        """Let it deliver more."""

    async def ready(self) -> int:
        """How many messages wait for anybody; -1 where the broker cannot tell.

        Raises ConnectionFailed.
        """

    def read(self, is_wanted: bool) -> None:
        """Whether to read from the connection."""

    def acknowledge(self, tag: int) -> None:
        """Everything up to this tag is settled."""

    def close(self) -> Awaitable[None]:
        """Give back what was not acknowledged, and end."""


@runtime_checkable
class DeadLetters(Protocol):
    """A source whose broker can be asked to put a message away as it is."""

    async def dead_letter(self, tag: int) -> None:
        """Move what was delivered with this tag to the broker's dead letter queue, which is settled
        with it; raises ConnectionFailed where the broker does not say that it did."""


@runtime_checkable
class CanRest(Protocol):
    """A source that can stop delivering and keep what it has delivered."""

    def rest(self) -> None:
        """Deliver nothing more until ``widen()``."""


class TargetEnd(Protocol):
    """Where messages are published."""

    @property
    def frame_max(self) -> int:
        """Bytes of the largest frame that it takes."""

    @property
    def dialect(self) -> Dialect | None:
        """None before it was opened."""

    async def open(self) -> None:
        """Connect, ready to confirm; raises ConnectionFailed."""

    def send(self, pieces: list[bytes]) -> None:
        """Write messages, in order, three pieces for each.

        In AMQP: method frame, header frame, body frames. In STOMP: command and headers of a SEND,
        each line with its end, without the empty line; nothing; body and NUL.
        """

    def close(self) -> Awaitable[None]:
        """End in order; what was not confirmed is in doubt."""
