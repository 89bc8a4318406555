"""Where an end connects: the members of its URI, one pass over them for each attempt."""

from __future__ import annotations

from random import Random

from understudy import parse
from understudy.core.endpoint import Endpoint
from understudy.core.order import connect_list
from understudy.errors import Attempt, ConfigurationError
from understudyd.bridge.ends.connection import SCHEMES, Connection, Hooks
from understudyd.bridge.ends.port import ConnectionFailed
from understudyd.bridge.wire.tables import Table

__all__ = ["FRAME_MAX", "Dialer"]

FRAME_MAX = 131072  # bytes; RabbitMQ's own


class Dialer:
    """Opens connections to one logical broker."""

    def __init__(self, uri: str, about: Table, rng: Random) -> None:
        """Raises ConfigurationError for a URI that is none of AMQP."""
        parsed = parse(uri)
        self._endpoints = parsed.endpoints
        self._options = parsed.options
        self._about = about
        self._rng = rng
        self._last: Endpoint | None = None
        for endpoint in self._endpoints:
            if endpoint.scheme not in SCHEMES:
                valid = ", ".join(sorted(SCHEMES))
                raise ConfigurationError(f"{endpoint} is no AMQP address; valid are {valid}")
        if not self._endpoints:
            raise ConfigurationError(f"{parsed} names no broker")

    def __str__(self) -> str:
        return ", ".join(endpoint.redacted for endpoint in self._endpoints)

    async def dial(self, hooks: Hooks, frame_max: int = FRAME_MAX) -> Connection:
        """The first member that answers; raises ConnectionFailed with all attempts.

        ``frame_max`` (bytes) is the most that we agree to.

        The member that was used before comes last: it is the one that failed.
        """
        order = connect_list(self._endpoints, (), self._last, self._options.randomize, self._rng)
        attempts = []
        for endpoint in order:
            try:
                connection = await Connection.open(
                    endpoint,
                    hooks,
                    about=self._about,
                    timeout=self._options.connect_timeout / 1000,
                    frame_max=frame_max,
                )
            except ConnectionFailed as failed:
                attempts.append(Attempt(str(endpoint), str(failed)))
                continue
            self._last = endpoint
            return connection
        if len(attempts) == 1:
            raise ConnectionFailed(attempts[0].cause)
        raise ConnectionFailed("; ".join(map(str, attempts)))
