"""One question to an API: a node's, or that of bridges."""

from __future__ import annotations

import http.client
import json
import ssl
from dataclasses import dataclass
from typing import Any

from understudy.errors import ConfigurationError
from understudyd.config.model import Api, Place

__all__ = ["PATIENCE", "Answered", "NoAnswer", "get", "post"]

PATIENCE = 2.0  # s for a connection and for an answer; an API that works takes milliseconds
VERDICT = 8.0  # s for an order; the API itself gives up after 5
LARGEST = 1024 * 1024  # bytes of an answer


class NoAnswer(Exception):
    """The API can't be reached, or what is there is no API."""


@dataclass(frozen=True)
class Answered:
    code: int
    data: Any  # JSON, or text for what is text

    @property
    def reason(self) -> str:
        """Why it is no 200, in the node's words."""
        told = self.data.get("reason") if isinstance(self.data, dict) else None
        return str(told or f"the API answered {self.code}")


def get(place: Place, api: Api, path: str) -> Answered:
    """Raises NoAnswer, and ConfigurationError for certificates that can't be used."""
    return _ask(place, api, "GET", path, "", {}, PATIENCE)


def post(place: Place, api: Api, path: str, to: str | None = None) -> Answered:
    """Raises NoAnswer: then the order may have been taken all the same."""
    headers = {"Content-Type": "application/json"}
    if api.token is not None:
        headers["Authorization"] = f"Bearer {api.token.reveal()}"
    body = json.dumps({"to": to} if to is not None else {})
    return _ask(place, api, "POST", path, body, headers, VERDICT)


def _ask(
    place: Place, api: Api, method: str, path: str, body: str, headers: dict[str, str], wait: float
) -> Answered:
    connection = _connection(place, api)
    try:
        connection.connect()
        connection.sock.settimeout(wait)
        connection.request(method, path, body or None, headers)
        with connection.getresponse() as response:
            data = response.read(LARGEST)
            is_json = response.headers.get_content_type() == "application/json"
        return Answered(response.status, json.loads(data) if is_json else data.decode())
    except TimeoutError:
        raise NoAnswer("no answer in time") from None
    except ssl.SSLCertVerificationError as exc:
        why = f"{exc.reason} ({exc.verify_message})"
        raise NoAnswer(f"TLS failed: {why}; tls_ca of [api] says whom to trust") from exc
    except ssl.SSLError as exc:
        raise NoAnswer(f"TLS failed: {exc.reason or exc}") from exc
    except OSError as exc:
        raise NoAnswer(exc.strerror or str(exc)) from exc
    except (http.client.HTTPException, ValueError) as exc:
        raise NoAnswer("what answers there is no API of ours") from exc
    finally:
        connection.close()


def _connection(place: Place, api: Api) -> http.client.HTTPConnection:
    if api.tls_cert is None and api.tls_ca is None:
        return http.client.HTTPConnection(place.host, place.port, timeout=PATIENCE)
    try:
        context = ssl.create_default_context(cafile=None if api.tls_ca is None else str(api.tls_ca))
    except OSError as exc:  # ssl.SSLError is one
        raise ConfigurationError(f"api.tls_ca: {api.tls_ca} holds no certificates: {exc}") from exc
    return http.client.HTTPSConnection(place.host, place.port, timeout=PATIENCE, context=context)
