"""To which of several connections a message goes, and what their confirms say together. No I/O.

Rules
* Messages of one group go to one shard, so their order stays; groups beside each other overtake one
  another. What has no group goes to the first shard, in its order.
* The group is a header of what is sent: found in its bytes, and nothing else of it is looked at.
* Each connection counts from 1. To the link there is one sequence: that of all messages.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final
from zlib import crc32

from understudy.wire.stomp import encode
from understudyd.bridge.mapping.headers import GROUP
from understudyd.bridge.parcels import PROPERTIES
from understudyd.bridge.wire.errors import WireError
from understudyd.bridge.wire.properties import get_header
from understudyd.bridge.wire.reader import Confirm

__all__ = ["GROUPS", "Sharding"]

GROUPS: Final = (GROUP, "_AMQ_GROUP_ID")
_COMMAND = len(encode("SEND", {})) - 3  # up to the line end of the command


class Sharding:
    """Of one opening of all connections."""

    def __init__(self, count: int, names: Sequence[str]) -> None:
        """``names`` are the headers that may name a group; the first that is there does."""
        self._count = count
        self._names = [(name, name.encode(), _line(name)) for name in names]
        self._next = 1  # of the one sequence
        self._owed: list[dict[int, int]] = [{} for _ in range(count)]  # theirs -> ours
        self._lowest = [1] * count  # below it nothing is owed
        self._last = [0] * count

    def split(self, pieces: Sequence[bytes]) -> list[list[bytes]]:
        """The pieces for each shard, in order."""
        parts: list[list[bytes]] = [[] for _ in range(self._count)]
        for at in range(0, len(pieces), 3):
            shard = self._shard(pieces[at], pieces[at + 1])
            parts[shard] += pieces[at : at + 3]
            number = self._last[shard] = self._last[shard] + 1
            self._owed[shard][number] = self._next
            self._next += 1
        return parts

    def confirmed(self, shard: int, confirms: Iterable[Confirm]) -> list[Confirm]:
        """The same in the one sequence; what is owed by nobody is left out."""
        owed, told = self._owed[shard], []
        for number, multiple, is_ack in confirms:
            if multiple:
                last = min(number or self._last[shard], self._last[shard])
                numbers = range(self._lowest[shard], last + 1)
            else:
                numbers = range(number, number + 1)
            told += [(owed.pop(each), 0, is_ack) for each in numbers if each in owed]
            lowest = self._lowest[shard]
            while lowest <= self._last[shard] and lowest not in owed:
                lowest += 1
            self._lowest[shard] = lowest
        return told

    def _shard(self, head: bytes, properties: bytes) -> int:
        for name, plain, line in self._names:
            if properties:
                group = _of_amqp(properties, name) if plain in properties else b""
            else:
                group = _of_stomp(head, line)
            if group:
                return crc32(group) % self._count
        return 0


def _line(name: str) -> bytes:
    """How the line of that header begins."""
    return encode("SEND", {name: "."})[_COMMAND:].rpartition(b".")[0]


def _of_amqp(header: bytes, name: str) -> bytes:
    try:
        value = get_header(header[PROPERTIES], name)
    except WireError:
        return b""
    return b"" if value is None else str(value).encode("utf-8", "surrogatepass")


def _of_stomp(head: bytes, line: bytes) -> bytes:
    _, found, rest = head.partition(line)
    return rest.partition(b"\n")[0] if found else b""
