"""Dials one connection's endpoints: the supervisor's port to the network."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from understudy.core.endpoint import Endpoint
from understudy.failover.monitor import monitor
from understudy.stomp.inner import Handshake, Inner, open_inner
from understudy.stomp.words import CannotConnect, in_words

if TYPE_CHECKING:
    from understudy.discovery import Discovery
    from understudy.stomp.transport import Transport

__all__ = ["SCHEMES", "StompDialer"]

SCHEMES = frozenset({"stomp", "stomp+ssl", "tcp", "ssl"})


class StompDialer:
    def __init__(
        self,
        handshake: Handshake,
        transport: Transport,
        heartbeat: int,
        beats: tuple[int, int],
        on_dead: Callable[[Inner, str], None],
    ) -> None:
        """``heartbeat`` is the option (ms), ``beats`` what the application asked for (ms)."""
        self._handshake = handshake
        self._transport = transport
        self._heartbeat = heartbeat
        self._beats = beats
        self._on_dead = on_dead
        self.discovery: Discovery | None = None

    def dial(self, endpoint: Endpoint, timeout: float) -> Inner:
        handshake = self._handshake
        if self.discovery is not None and not self.discovery.trusts(endpoint):
            handshake = handshake.without_secrets()
        try:
            inner = open_inner(
                endpoint,
                handshake,
                self._beats_for(endpoint),
                timeout,
                self._transport.tls_for(endpoint),
                self._transport.validator_for(endpoint),
            )
        except Exception as exc:
            raise CannotConnect(in_words(exc, endpoint)) from exc
        monitor.watch(inner, self._on_dead)
        if self.discovery is not None:
            self.discovery.connected(endpoint, inner)
        return inner

    def _beats_for(self, endpoint: Endpoint) -> tuple[int, int]:
        """ms out and in: the option, or what the application asked for if that is shorter."""
        own = endpoint.options.heartbeat
        ours = self._heartbeat if own is None else own
        out, into = (min(filter(None, (ours, theirs)), default=0) for theirs in self._beats)
        return out, into

    def sever(self, connection: Inner) -> None:
        connection.sever("severed: the broker is left")

    def abandon(self, connection: Inner) -> None:
        connection.abandon()

    def is_alive(self, connection: Inner) -> bool:
        return connection.is_alive()

    def discard(self, connection: Inner) -> None:
        monitor.forget(connection)
        connection.close()
