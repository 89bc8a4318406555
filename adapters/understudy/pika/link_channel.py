"""One AMQP channel of a `Link`: what is asked on it, what is sent, what comes in.

Rules
* Its link feeds it whole frames, and serialises all calls as its owner does. It never waits.
* Requests may be written one behind the other: the answers of a channel come in their order.
* A message is never larger than `LARGEST_MESSAGE`.
* ``lost.is_verdict``: the broker itself closed the connection, with an error that what we sent may
  be the reason of. Not so: forced (320), out of resources (506).
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from pika import exceptions, frame, spec

from understudy.pika.properties import decoded_properties

if TYPE_CHECKING:
    from understudy.pika.link import Link

__all__ = ["Ask", "Content", "LinkChannel", "LinkLost", "Receiver", "Sent"]

LARGEST_MESSAGE = 2**29  # bytes; what RabbitMQ can be set to at most
NOT_A_VERDICT = (200, 320, 506)
CONTENT = (spec.Basic.Deliver, spec.Basic.GetOk, spec.Basic.Return)
OF_FIRST_MESSAGE = (spec.Channel.OpenOk, spec.Confirm.SelectOk)  # is written right before it
HEADER = struct.Struct(">HHQ")

Content = tuple[Any, Any, bytes]  # method, properties, body


class LinkLost(Exception):
    """The link is over; ``cause`` is pika's error where the broker said why."""

    def __init__(
        self, reason: str, cause: Exception | None = None, *, outstanding: int = 0
    ) -> None:
        super().__init__(reason)
        self.cause = cause
        self.outstanding = outstanding  # messages and requests that had no answer by then

    @property
    def is_verdict(self) -> bool:
        cause = self.cause
        return isinstance(cause, exceptions.ConnectionClosedByBroker) and (
            cause.reply_code not in NOT_A_VERDICT
        )

    def convicts(self, own: int = 1) -> bool:
        """Whether the broker meant the caller, who had ``own`` of them outstanding."""
        return self.is_verdict and self.outstanding <= own


class Receiver(Protocol):
    """Who is told what comes on a channel. Runs inside `Link.feed`: it must not wait."""

    def delivered(self, method: Any, properties: Any, body: bytes) -> None: ...
    def returned(self, method: Any, properties: Any, body: bytes) -> None: ...
    def cancelled(self, method_frame: Any) -> None:
        """The broker has cancelled a consumer."""

    def settled(self, tag: int, multiple: bool, ok: bool) -> None:
        """The broker has confirmed or refused messages."""

    def closed(self, reason: Exception) -> None:
        """The broker has closed the channel."""


class Ask:
    """A request, and its answer once it is there."""

    __slots__ = ("answer", "content", "failed", "replies")

    def __init__(self, replies: tuple[type, ...]) -> None:
        self.replies = replies
        self.answer: Any = None  # pika's frame.Method
        self.content: Content | None = None  # of a basic.get
        self.failed: Exception | None = None  # the channel was closed instead

    @classmethod
    def over(cls) -> Ask:
        """One that needs no answer."""
        ask = cls(())
        ask.answer = ask
        return ask

    def is_over(self) -> bool:
        return self.answer is not None or self.failed is not None


class Sent:
    """A message that waits for its confirm."""

    __slots__ = ("failed", "is_over", "message_id", "ok", "returned")

    def __init__(self, message_id: str) -> None:
        self.message_id = message_id
        self.is_over = False
        self.ok = False
        self.returned: Content | None = None
        self.failed: Exception | None = None

    def is_settled(self) -> bool:
        return self.is_over


class LinkChannel:
    def __init__(self, link: Link, number: int, receiver: Receiver) -> None:
        self.link = link
        self.number = number
        self.opening = Ask.over()
        self.is_open = True  # until closed by either side
        self.reason: Exception | None = None  # of the broker, for closing it
        self.closed_over = 0  # the INDEX of the method that the broker names as its reason
        self.is_confirming = False
        self.next_tag = 1  # of the next message, in confirm mode
        self.unsettled: dict[int, Sent] = {}
        self.keeps_more: Callable[[], bool] = lambda: False  # messages that are not in `unsettled`
        self._receiver = receiver
        self._asked: list[Ask] = []
        self._closing: Ask | None = None
        self._method: Any = None  # of the content that is coming in
        self._properties: Any = None
        self._missing = 0
        self._fragments: list[bytes] = []

    @property
    def outstanding(self) -> int:
        """Messages and requests without an answer; a message counts for what goes before it."""
        rest = self._requests + len(self.unsettled) + self.keeps_more()
        return rest or int(bool(self._asked))

    @property
    def _requests(self) -> int:
        return sum(ask.replies[0] not in OF_FIRST_MESSAGE for ask in self._asked)

    def is_alone(self) -> bool:
        """Whether messages of this channel, and what goes before the first one, are all that waits
        for an answer on its link."""
        link = self.link
        others = (other for other in link.channels.values() if other is not self)
        is_asked = self._requests or link.secrets
        return not is_asked and not any(other.outstanding for other in others)

    def ask(self, method: Any, *replies: type) -> Ask:
        """Write a request; raises the caller's encoding errors and writes nothing then."""
        data = frame.Method(self.number, method).marshal()
        ask = Ask(replies)
        self._begin_note()
        try:
            self._asked.append(ask)
            self.link.write(data)
        except BaseException:
            self.link.interrupted()
            raise
        finally:
            self.link.is_noting = False
        return ask

    def _begin_note(self) -> None:
        if self.link.is_noting:
            self.link.interrupted()  # nothing is written any more; who waits for it is told
        self.link.is_noting = True

    def send(self, method: Any) -> None:
        """Write a method that has no answer."""
        self.link.send(self.number, method)

    def select_confirms(self) -> Ask:
        ask = self.ask(spec.Confirm.Select(), spec.Confirm.SelectOk)
        self.is_confirming = True
        return ask

    def publish(self, message: Any) -> Sent:
        """Write a message; in confirm mode what is returned tells when it is settled."""
        frames = message.frames(self.number, self.link.frame_max)
        sent = Sent(message.message_id)
        self._begin_note()
        try:
            if self.is_confirming:
                self.unsettled[self.next_tag] = sent
                self.next_tag += 1
            self.link.write(frames)
        except BaseException:
            self.link.interrupted()
            raise
        finally:
            self.link.is_noting = False
        return sent

    def close(self, code: int, text: str) -> Ask:
        """Ask the broker to close it; nothing that still comes is passed on."""
        if self._closing is None:
            self.is_open = False
            self.link.send(self.number, spec.Channel.Close(code, text, 0, 0))
            self._closing = Ask((spec.Channel.CloseOk,))
        return self._closing

    # --- what comes in --------------------------------------------------------------------------

    def settle(self, tag: int, multiple: bool, ok: bool) -> None:
        unsettled = self.unsettled
        if multiple:
            tags = [t for t in unsettled if t <= tag or tag == 0]
        else:
            tags = [tag] if tag in unsettled else []
        for one in tags:
            sent = unsettled.pop(one)
            sent.ok = ok
            sent.is_over = True
        if self._closing is None:
            self._receiver.settled(tag, multiple, ok)

    def on_method(self, method: Any) -> None:
        kind = type(method)
        if kind in CONTENT:
            self._method = method
            return
        if kind is spec.Channel.Close:
            self._closed_by_broker(method)
        elif kind is spec.Channel.CloseOk:
            if self._closing is None:
                raise exceptions.UnexpectedFrameError(method)
            self._closing.answer = frame.Method(self.number, method)
            self.link.forget(self)
        elif self._closing is not None:
            return
        elif kind is spec.Basic.Cancel:
            self._receiver.cancelled(frame.Method(self.number, method))
        elif kind is spec.Channel.Flow:
            self.send(spec.Channel.FlowOk(method.active))
        else:
            self._answered(method)

    def _answered(self, method: Any, content: Content | None = None) -> None:
        if not self._asked or type(method) not in self._asked[0].replies:
            raise exceptions.UnexpectedFrameError(method)
        ask = self._asked.pop(0)
        ask.content = content
        ask.answer = frame.Method(self.number, method)

    def _closed_by_broker(self, method: Any) -> None:
        self.send(spec.Channel.CloseOk())
        if self._closing is not None:
            return  # ours is on its way; its answer ends it
        self.is_open = False
        self.reason = exceptions.ChannelClosedByBroker(method.reply_code, method.reply_text)
        self.closed_over = method.class_id << 16 | method.method_id
        self.link.forget(self)
        for ask in self._asked:
            ask.failed = self.reason
        for sent in self.unsettled.values():
            sent.failed = self.reason
            sent.is_over = True
        self.unsettled.clear()
        self._receiver.closed(self.reason)

    def on_header(self, payload: bytes) -> None:
        if self._method is None or self._properties is not None:
            raise exceptions.InvalidFrameError("a content header without its method")
        _, _, self._missing = HEADER.unpack_from(payload)
        if self._missing > LARGEST_MESSAGE:
            raise exceptions.BodyTooLongError(self._missing, LARGEST_MESSAGE)
        self._properties = decoded_properties(payload[12:])
        if not self._missing:
            self._complete(b"")

    def on_body(self, payload: bytes) -> None:
        if self._properties is None:
            raise exceptions.InvalidFrameError("a content body without its header")
        self._missing -= len(payload)
        if self._missing < 0:
            raise exceptions.InvalidFrameError("a content body that is longer than announced")
        if self._missing:
            self._fragments.append(payload)
        elif self._fragments:
            self._fragments.append(payload)
            body, self._fragments = b"".join(self._fragments), []
            self._complete(body)
        else:
            self._complete(payload)

    def _complete(self, body: bytes) -> None:
        method, properties = self._method, self._properties
        self._method = self._properties = None
        if self._closing is not None:
            return
        kind = type(method)
        if kind is spec.Basic.Deliver:
            self._receiver.delivered(method, properties, body)
        elif kind is spec.Basic.GetOk:
            self._answered(method, (method, properties, body))
        else:
            self._receiver.returned(method, properties, body)
