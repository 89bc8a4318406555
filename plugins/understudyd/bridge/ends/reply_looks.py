"""Whether somebody is there still to whom a reply went, where RabbitMQ does not say.

Rules
* A requester that goes with its reply at once would be gone before it is looked for: a reply within
  `LATENESS` of its request is taken to be in time.
* Over AMQP a direct reply-to is asked for by a declaration that makes nothing: it is there, or
  NOT_FOUND, which ends the connection.
* Over STOMP a queue is subscribed to: RESOURCE_LOCKED says that its requester has it, NOT_FOUND
  that it is gone. Either ends the connection. A direct reply-to cannot be asked for.
"""

from __future__ import annotations

from understudyd.bridge.ends.connection import Connection, Hooks
from understudyd.bridge.ends.endpoints import Dialer, StompDialer
from understudyd.bridge.ends.port import ConnectionFailed
from understudyd.bridge.ends.stomp_connection import StompHooks
from understudyd.bridge.ends.stream import goodbye, within
from understudyd.bridge.wire.methods import Method, encode_look

__all__ = ["LATENESS", "AmqpLook", "StompLook"]

NOT_FOUND = 404
TIMEOUT = 5.0  # s
LATENESS = 1.0  # s


class AmqpLook:
    """Keeps its connection, as long as what is asked for is there."""

    trust = 1.0  # s after a look in which a requester is taken to be there still

    def __init__(self, dialer: Dialer) -> None:
        self._dialer = dialer
        self._connection: Connection | None = None

    async def is_there(self, reply_to: str) -> bool:
        """Raises ConnectionFailed."""
        if self._connection is None:
            self._connection = await self._dialer.dial(Hooks())
        try:
            call = self._connection.call(encode_look(reply_to), Method.QUEUE_DECLARE_OK)
            await within(TIMEOUT, call)
        except ConnectionFailed as failed:
            self._connection = None
            if failed.closed is None or failed.closed.code != NOT_FOUND:
                raise
            return False
        except TimeoutError:
            await self.close()
            raise ConnectionFailed(f"no answer within {TIMEOUT:g} s") from None
        return True

    async def close(self) -> None:
        connection, self._connection = self._connection, None
        await goodbye(connection)


class StompLook:
    """Takes a connection for each look, and a line in the broker's log."""

    trust = 10.0  # s

    def __init__(self, dialer: StompDialer) -> None:
        self._dialer = dialer

    async def is_there(self, destination: str) -> bool:
        """By the name of the queue as a SUBSCRIBE has it; raises ConnectionFailed."""
        connection = await self._dialer.dial(StompHooks())
        try:
            told = {"destination": destination, "id": "look", "ack": "client"}
            await within(TIMEOUT, connection.call("SUBSCRIBE", told))
        except ConnectionFailed as failed:
            if failed.closed is None:
                raise
            return failed.closed.code != NOT_FOUND
        except TimeoutError:
            raise ConnectionFailed(f"no answer within {TIMEOUT:g} s") from None
        finally:
            await connection.close()
        return True

    async def close(self) -> None:
        """Nothing is open."""
