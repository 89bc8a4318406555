"""One broker address of a list.

Rules: an endpoint is a value, hashable and immutable. Its URI never holds options that are ours
(those live in ``options``); its ``repr`` and ``redacted`` never hold a password. Two endpoints are
the same one when everything but the spelling is equal: scheme and host in lower case, ``localhost``
for the loopback addresses, the default port and the default vhost written or not, credentials, path
and query included. Host names are compared as text and never looked up (a name with an underscore
is a name like any other).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import unquote

__all__ = ["Endpoint", "EndpointOptions"]

LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
SAME_SCHEME = {"pyamqp": "amqp"}  # kombu's alias
DEFAULT_PORTS = {"amqp": 5672, "amqps": 5671, "stomp": 61613, "stomp+ssl": 61614}


@dataclass(frozen=True)
class EndpointOptions:
    """Member options of ours; ``None`` means "not said here"."""

    heartbeat: int | None = None  # ms
    cafile: str | None = None
    certfile: str | None = None
    keyfile: str | None = None
    server_hostname: str | None = None
    verify: bool | None = None


@dataclass(frozen=True)
class Endpoint:
    """A parsed member. ``host`` is empty and ``port`` None for schemes without an authority."""

    uri: str = field(repr=False)  # with credentials, without the options that are ours
    redacted: str
    scheme: str
    host: str = ""
    port: int | None = None
    username: str | None = field(default=None, repr=False)  # percent-decoded
    password: str | None = field(default=None, repr=False)  # percent-decoded
    path: str = ""  # as written, with its leading slash
    query: Mapping[str, str] = field(default_factory=dict, repr=False)  # the host library's own
    options: EndpointOptions = EndpointOptions()

    @property
    def identity(self) -> tuple[object, ...]:
        scheme = SAME_SCHEME.get(self.scheme.lower(), self.scheme.lower())
        host = "localhost" if self.host.lower() in LOOPBACK_NAMES else self.host.lower()
        port = self.port or DEFAULT_PORTS.get(scheme)
        path = self.path
        if scheme in DEFAULT_PORTS:  # a vhost; all libraries of ours read these as the vhost "/"
            path = "/" if unquote(path) in ("", "/", "//") else path
        authority: tuple[object, ...] = (host, port) if host else (self.uri,)
        return (
            scheme,
            *authority,
            self.username,
            self.password,
            path,
            tuple(sorted(self.query.items())),
            self.options,
        )

    @property
    def address(self) -> str:
        """Scheme, host and port, spelled as in `identity`: which broker, whoever logs in."""
        if not self.host:
            return self.redacted
        scheme, host, port = self.identity[:3]
        host = f"[{host}]" if ":" in str(host) else host
        return f"{scheme}://{host}" + (f":{port}" if port else "")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Endpoint) and self.identity == other.identity

    def __hash__(self) -> int:
        return hash(self.identity)

    def __str__(self) -> str:
        return self.redacted
