"""Why a broker could not be connected to, as its user understands it."""

from __future__ import annotations

import ssl

from understudy.core.endpoint import Endpoint
from understudy.errors import UnderstudyError
from understudy.stomp.wire import WireBroken, said_by_system
from understudy.wire.stomp import ProtocolError
from understudy.wire.stomp_login import LoginRefused, OtherProtocol

__all__ = ["CannotConnect", "in_words"]

NO_TLS = frozenset({"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST"})


class CannotConnect(UnderstudyError):
    """No connection to this endpoint."""


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
