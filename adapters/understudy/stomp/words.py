"""Why a broker could not be connected to, as its user understands it."""

from __future__ import annotations

import ssl

from understudy.core.endpoint import Endpoint
from understudy.errors import UnderstudyError
from understudy.stomp.codec import ProtocolError
from understudy.stomp.wire import WireBroken, said_by_system

__all__ = ["CannotConnect", "LoginRefused", "OtherProtocol", "check_begin", "in_words"]

#: how what is not STOMP begins, and what is said of it
OTHERS = (
    (b"AMQP", "AMQP; {place} seems to be an AMQP port"),
    (b"HTTP/", "HTTP; {place} seems to be a web server's port"),
    (b"<", "HTTP; {place} seems to be a web server's port"),  # the answer to a line that is no HTTP
    (b"\x15\x03", "TLS; for STOMP in TLS write {tls}"),
    (b"\x00\x00\x01", "OpenWire, it seems; ActiveMQ has another port for STOMP"),
    (b"-ERR", "Redis; {place} seems to be a Redis port"),
)
NO_TLS = frozenset({"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST"})


class CannotConnect(UnderstudyError):
    """No connection to this endpoint."""


class LoginRefused(Exception):
    """The broker answered CONNECT with ERROR."""


class OtherProtocol(Exception):
    """The peer speaks a protocol that is known, and is not STOMP."""


def check_begin(begin: bytes) -> None:
    """Raises OtherProtocol for the first bytes of a peer that will never say CONNECTED."""
    for sign, hint in OTHERS:
        if begin.startswith(sign):
            raise OtherProtocol(hint)


def in_words(exc: Exception, endpoint: Endpoint) -> str:
    """One sentence about what made an attempt fail."""
    plain, secure = (
        ("tcp:", "ssl:") if endpoint.scheme in ("tcp", "ssl") else ("stomp:", "stomp+ssl:")
    )
    match exc:
        case OtherProtocol():
            hint = str(exc).format(place=endpoint.port or "this", tls=secure)
            return f"the server does not speak STOMP but {hint}"
        case LoginRefused():
            return f"the broker refused the login: {exc}"
        case ProtocolError():
            return f"the server does not speak STOMP as we do: {exc}"
        case WireBroken():
            return f"{exc}, before the login was answered"
        case ssl.SSLEOFError():
            return f"the server ended the TLS handshake; if it speaks no TLS, write {plain}"
        case ssl.SSLError() if getattr(exc, "reason", None) in NO_TLS:  # ours have no reason
            return (
                f"the server does not speak TLS; without it write {plain} ({said_by_system(exc)})"
            )
        case ssl.SSLError():
            return f"TLS failed: {said_by_system(exc)}"
        case TimeoutError() if exc.errno is None:
            return str(exc)
        case OSError():
            return said_by_system(exc)
    return f"{type(exc).__name__}: {exc}"
