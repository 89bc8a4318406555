"""What the sidecar and its API process say to each other: JSON, one object to a message.

The API tells `Listening` or `Failed` once, and then an `Order` for each accepted POST; the sidecar
gives `Settings` first, again after a reload, and a `Verdict` for each order.
"""

from __future__ import annotations

import ipaddress
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from understudyd.config.model import Api, Network, Place, Secret

__all__ = [
    "COMMANDS",
    "LARGEST",
    "Failed",
    "Listening",
    "Order",
    "Settings",
    "Verdict",
    "Word",
    "pack",
    "unpack",
]

COMMANDS = ("switchover", "failover", "pause", "resume", "reload")
LARGEST = 65_536  # bytes of a message


@dataclass(frozen=True)
class Settings:
    listen: Place
    api: Api


@dataclass(frozen=True)
class Listening:
    """The API answers."""


@dataclass(frozen=True)
class Failed:
    """The API can't answer: its place is taken, or a certificate is no good."""

    cause: str


@dataclass(frozen=True)
class Order:
    """A POST that was allowed. ``to``: the node to be master, where one was named; or the bridge
    that is meant."""

    id: int
    command: str  # the sidecar's: one of COMMANDS
    to: str | None = None
    by: str = ""  # the address that it came from


@dataclass(frozen=True)
class Verdict:
    """What the sidecar says to an order: 202 accepted, 409 not possible now, 412 wrong state."""

    id: int
    code: int
    reason: str = ""


Word: TypeAlias = Settings | Listening | Failed | Order | Verdict


def pack(word: Word) -> bytes:
    data = _settings_to_json(word) if isinstance(word, Settings) else vars(word)
    return json.dumps({"word": type(word).__name__, **data}).encode()


def unpack(message: bytes) -> Word:
    data = json.loads(message)
    kind = _KINDS[data.pop("word")]
    word: Word = _settings_from_json(data) if kind is Settings else kind(**data)
    return word


_KINDS: dict[str, type[Word]] = {
    kind.__name__: kind for kind in (Settings, Listening, Failed, Order, Verdict)
}


def _settings_to_json(settings: Settings) -> dict[str, Any]:
    api = settings.api
    return {
        "listen": [settings.listen.host, settings.listen.port],
        "token": api.token.reveal() if api.token else None,
        "tls": [str(path) if path else None for path in (api.tls_cert, api.tls_key)],
        "allow": [str(network) for network in api.allow],
    }


def _settings_from_json(data: dict[str, Any]) -> Settings:
    cert, key = (Path(path) if path else None for path in data["tls"])
    token = data["token"]
    allow: tuple[Network, ...] = tuple(map(ipaddress.ip_network, data["allow"]))
    api = Api(Secret(token) if token else None, cert, key, allow=allow)
    return Settings(Place(*data["listen"]), api)
