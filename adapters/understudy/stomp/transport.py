"""What programs know as ``connection.transport``: the listeners, and the settings of TLS.

The same names as in stomp.py's Transport, as far as programs use them.
"""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from stomp.listener import Publisher

from understudy.core.endpoint import Endpoint
from understudy.failover.notifier import logger
from understudy.stomp.arguments import check_listener
from understudy.stomp.inner import DEFAULT_PORTS, TLS_SCHEMES

if TYPE_CHECKING:
    from understudy.stomp.session import Session

__all__ = ["Transport"]

WITHOUT_FRAME = frozenset({"heartbeat", "disconnected", "heartbeat_timeout"})


class Transport(Publisher):
    def __init__(self, vhost: str | None = None) -> None:
        self.vhost = vhost
        self.listeners: dict[str, Any] = {}
        self.session: Session | None = None
        self.create_thread_fc: Callable[[Callable[[], None]], Any] | None = None
        self._tls: dict[tuple[str, int], dict[str, Any]] = {}
        self.connecting = threading.RLock()  # one connect() at a time

    def without_listeners(self) -> Transport:
        """Another one with the same settings."""
        other = Transport(self.vhost)
        other._tls = self._tls
        other.create_thread_fc = self.create_thread_fc
        return other

    # --- listeners ------------------------------------------------------------------------------

    def set_listener(self, name: str, listener: Any) -> None:
        """Raises TypeError for one that has none of the calls."""
        check_listener(listener)
        self.listeners[name] = listener

    def remove_listener(self, name: str) -> None:
        del self.listeners[name]

    def get_listener(self, name: str) -> Any:
        return self.listeners.get(name)

    def has_listener_for(self, kind: str) -> bool:
        return any(hasattr(listener, f"on_{kind}") for listener in tuple(self.listeners.values()))

    def notify(self, kind: str, *arguments: Any) -> None:
        """Call ``on_<kind>`` of every listener that has it, in the order of their names."""
        for name, listener in sorted(self.listeners.items()):
            method = getattr(listener, f"on_{kind}", None)
            if method is None:
                continue
            try:
                method(*arguments)
            except Exception:
                logger.exception("on_%s of the listener %r failed", kind, name)

    def override_threading(self, create_thread_fc: Callable[[Callable[[], None]], Any]) -> None:
        """How to start the thread that runs the listeners, from the next connect() on."""
        self.create_thread_fc = create_thread_fc

    # --- state ----------------------------------------------------------------------------------

    def is_connected(self) -> bool:
        return self.session is not None and self.session.is_connected

    @property
    def connected(self) -> bool:
        return self.is_connected()

    @property
    def current_host_and_port(self) -> tuple[str, int] | None:
        """Of the broker in use; None while there is none."""
        link = None if self.session is None else self.session.link
        return None if link is None else host_and_port(link.endpoint)

    def set_receipt(self, receipt_id: str, value: Any) -> None:
        """Nothing: in stomp.py it notes who waits for a receipt, which here the session knows."""

    # --- TLS ------------------------------------------------------------------------------------

    def set_ssl(
        self,
        for_hosts: Any = (),
        key_file: str | None = None,
        cert_file: str | None = None,
        ca_certs: str | None = None,
        cert_validator: Callable[[Any, str], tuple[bool, str]] | None = None,
        ssl_version: Any = None,
        password: str | None = None,
        verify: bool = True,
    ) -> None:
        """As in stomp.py: TLS for these (host, port) pairs; what a member's URI says goes first.

        Unlike stomp.py the certificate is verified, with the system's authorities when there are no
        ``ca_certs``, unless ``verify`` is false.
        """
        for place in for_hosts:
            self._tls[tuple(place)] = {
                "key_file": key_file,
                "cert_file": cert_file,
                "ca_certs": ca_certs,
                "cert_validator": cert_validator,
                "ssl_version": ssl_version,
                "password": password,
                "verify": verify,
            }

    def get_ssl(self, host_and_port: tuple[str, int] | None = None) -> dict[str, Any] | None:
        place = host_and_port or self.current_host_and_port
        return None if place is None else self._tls.get(tuple(place))  # type: ignore[arg-type]

    def tls_for(self, endpoint: Endpoint) -> tuple[ssl.SSLContext, str] | None:
        """The context and the name to verify; None for an endpoint without TLS."""
        given = self._tls.get(host_and_port(endpoint))
        if endpoint.scheme not in TLS_SCHEMES and given is None:
            return None
        return _context(endpoint, given or {}), endpoint.options.server_hostname or endpoint.host

    def validator_for(self, endpoint: Endpoint) -> Any:
        return (self._tls.get(host_and_port(endpoint)) or {}).get("cert_validator")


def host_and_port(endpoint: Endpoint) -> tuple[str, int]:
    return endpoint.host, endpoint.port or DEFAULT_PORTS.get(endpoint.scheme, 61613)


def _context(endpoint: Endpoint, given: Mapping[str, Any]) -> ssl.SSLContext:
    options = endpoint.options
    verify = given.get("verify", True) if options.verify is None else options.verify
    context = ssl.SSLContext(given.get("ssl_version") or ssl.PROTOCOL_TLS_CLIENT)
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    else:
        context.verify_mode = ssl.CERT_REQUIRED
        context.check_hostname = True
    cafile = options.cafile or given.get("ca_certs")
    if cafile:
        context.load_verify_locations(cafile)
    elif verify:
        context.load_default_certs()
    certfile = options.certfile or given.get("cert_file")
    if certfile:
        keyfile = options.keyfile if options.certfile else given.get("key_file")
        context.load_cert_chain(certfile, keyfile or certfile, given.get("password"))
    return context
