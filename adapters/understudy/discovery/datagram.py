"""ActiveMQ's multicast announcements, and which brokers they keep alive. Pure.

A datagram is text, sent by each broker every keep-alive interval and, with ``dead.``, when it
stops; the host is always written "localhost"::

    <group>.ActiveMQ-4.alive.%<host>%<address of the broker>

Rules
* Anything else, another group's announcement too, is ignored without a word: a multicast address is
  open to all.
* A broker is gone when it says so, or when it was not heard for ten intervals.
* At most `MOST` brokers are kept, and one more to show it: those that were there first.
"""

from __future__ import annotations

from dataclasses import dataclass

from understudy.discovery.addresses import LONGEST, MOST

__all__ = ["LARGEST", "MISSED", "Announcement", "Presence"]

LARGEST = 8192  # bytes; ActiveMQ's buffer
MISSED = 10  # intervals without a word after which a broker is gone
SUFFIX = "ActiveMQ-4."


@dataclass(frozen=True)
class Announcement:
    group: str
    address: str
    is_alive: bool = True
    host: str = "localhost"

    def encode(self) -> bytes:
        state = "alive" if self.is_alive else "dead"
        return f"{self.group}.{SUFFIX}{state}.%{self.host}%{self.address}".encode()

    @classmethod
    def decode(cls, data: bytes, group: str) -> Announcement | None:
        """None for everything that is no announcement in this group."""
        if len(data) > LARGEST:
            return None
        try:
            text = data.decode()
        except UnicodeDecodeError:
            return None
        begin = f"{group}.{SUFFIX}"
        state, percent, rest = text.removeprefix(begin).partition(".%")
        host, other, address = rest.partition("%")
        fits = text.startswith(begin) and percent and other and state in ("alive", "dead")
        if not fits or not 0 < len(address) <= LONGEST:
            return None
        if not address.isprintable() or any(map(str.isspace, address)):
            return None
        return cls(group, address, state == "alive", host)


class Presence:
    """Who is there. ``now`` is any clock in seconds that never goes back."""

    def __init__(self, lifetime: float) -> None:
        """``lifetime`` in seconds."""
        self._lifetime = lifetime
        self._heard: dict[str, float] = {}

    @property
    def addresses(self) -> tuple[str, ...]:
        return tuple(self._heard)

    def hear(self, announcement: Announcement, now: float) -> None:
        address = announcement.address
        if not announcement.is_alive:
            self._heard.pop(address, None)
        elif address in self._heard or len(self._heard) <= MOST:
            self._heard[address] = now

    def expire(self, now: float) -> None:
        """Forget who was not heard for longer than the lifetime."""
        self._heard = {
            address: heard
            for address, heard in self._heard.items()
            if now - heard <= self._lifetime
        }
