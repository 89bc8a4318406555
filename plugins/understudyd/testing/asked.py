"""Who asks at one broker, and who answers at another, by clients that are not the bridge's."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import pika

from understudyd.testing.sides import AmqpSide, Frames, Side, StompSide

__all__ = ["Answer", "Request", "Requester", "Responder", "requester", "responder"]

PATIENCE = 30.0  # s


class Answer(NamedTuple):
    body: bytes
    correlation_id: str | None


class Request(NamedTuple):
    body: bytes
    reply_to: str
    correlation_id: str | None


class _Amqp:
    def __init__(self, side: AmqpSide) -> None:
        self._connection = pika.BlockingConnection(pika.URLParameters(side.uri))
        self._channel = self._connection.channel()

    def close(self) -> None:
        self._connection.close()

    def _next(self, take: Callable[[], Any], within: float) -> Any:
        """What ``take`` says once that is something; None when that takes too long."""
        deadline = time.monotonic() + within
        while not (found := take()) and time.monotonic() < deadline:
            self._connection.process_data_events(time_limit=0.02)
        return found or None


class AmqpRequester(_Amqp):
    """With RabbitMQ's direct reply-to, or with a queue of its own that goes with it."""

    def __init__(self, side: AmqpSide, *, is_direct: bool) -> None:
        super().__init__(side)
        self._found: list[Answer] = []
        self._reply_to = "amq.rabbitmq.reply-to"
        if not is_direct:
            self._reply_to = self._channel.queue_declare("", exclusive=True).method.queue
        self._channel.basic_consume(self._reply_to, self._came, auto_ack=True)

    def _came(self, channel: Any, method: Any, properties: Any, body: bytes) -> None:
        self._found.append(Answer(body, properties.correlation_id))

    def ask(self, queue: str, body: bytes, correlation_id: str | None = None) -> None:
        told = pika.BasicProperties(
            reply_to=self._reply_to, correlation_id=correlation_id, message_id=correlation_id
        )
        self._channel.basic_publish("", queue, body, told)

    def answer(self, within: float = PATIENCE) -> Answer | None:
        """The next one; None: none came in time."""
        found = self._next(lambda: self._found[:1], within)
        return self._found.pop(0) if found else None


class AmqpResponder(_Amqp):
    def take(self, queue: str) -> Request:
        """The next request."""
        _, told, body = self._next(lambda: self._got(queue), PATIENCE)
        return Request(body, told.reply_to, told.correlation_id)

    def _got(self, queue: str) -> Any:
        found = self._channel.basic_get(queue, auto_ack=True)
        return found if found[0] is not None else None

    def answer(self, request: Request, body: bytes) -> None:
        told = pika.BasicProperties(correlation_id=request.correlation_id)
        self._channel.basic_publish("", request.reply_to, body, told)


class _Stomp:
    def __init__(self, side: StompSide) -> None:
        assert side._port is not None
        self._side = side
        self._frames = Frames(side.broker.host, side._port)

    def close(self) -> None:
        self._frames.close()

    def _send(self, where: str, body: bytes, headers: dict[str, str | None]) -> None:
        told = {name: value for name, value in headers.items() if value is not None}
        length = {"content-length": str(len(body)), "receipt": "sent"}
        self._frames.write("SEND", {"destination": where, **length, **told}, body)
        self._frames.read("RECEIPT")


class StompRequester(_Stomp):
    """With a temporary queue, which RabbitMQ makes by itself."""

    def __init__(self, side: StompSide) -> None:
        super().__init__(side)
        if side.kind == "activemq":
            told = {"destination": "/temp-queue/mine", "id": "1", "receipt": "in"}
            self._frames.write("SUBSCRIBE", told)
            self._frames.read("RECEIPT")

    def ask(self, queue: str, body: bytes, correlation_id: str | None = None) -> None:
        told = {"reply-to": "/temp-queue/mine", "correlation-id": correlation_id}
        self._send(self._side.address(queue), body, told)

    def answer(self, within: float = PATIENCE) -> Answer | None:
        """The next one; None: none came in time."""
        self._frames._socket.settimeout(within)
        try:
            frame = self._frames.read("MESSAGE")
        except TimeoutError:
            return None
        return Answer(frame.body, frame.headers.get("correlation-id"))


class StompResponder(_Stomp):
    def __init__(self, side: StompSide) -> None:
        super().__init__(side)
        self._is_reading = False

    def take(self, queue: str) -> Request:
        """The next request."""
        if not self._is_reading:
            self._frames.subscribe(self._side.address(queue))
            self._is_reading = True
        frame = self._frames.read("MESSAGE")
        self._frames.write("ACK", {"id": frame.headers["ack"]})
        headers = frame.headers
        return Request(frame.body, headers["reply-to"], headers.get("correlation-id"))

    def answer(self, request: Request, body: bytes) -> None:
        self._send(request.reply_to, body, {"correlation-id": request.correlation_id})


Requester: TypeAlias = "AmqpRequester | StompRequester"
Responder: TypeAlias = "AmqpResponder | StompResponder"


def requester(side: Side, *, is_direct: bool = True) -> Requester:
    """``is_direct`` is about AMQP."""
    if isinstance(side, AmqpSide):
        return AmqpRequester(side, is_direct=is_direct)
    return StompRequester(side)


def responder(side: Side) -> Responder:
    return AmqpResponder(side) if isinstance(side, AmqpSide) else StompResponder(side)
