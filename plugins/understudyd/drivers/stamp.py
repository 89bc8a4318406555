"""The stamp in the shared store: the highest token that was master there.

It refuses an older master where the lock has forgotten, or never knew, a newer one; and a second
one with the same token, which another lock has given, or this one again after it forgot; and every
other group, whose tokens have nothing to do with ours. Two locks of one group, by a mistake in the
files of its nodes, are not told apart: the second master only has to take a higher token. Read,
compared and written under a lock of its own, synced with its folder; a token is never written down.
"""

from __future__ import annotations

import fcntl
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from understudyd.lock.record import LARGEST, RecordError

__all__ = ["FILE", "Stamp", "put", "read"]

FILE = ".understudy-token"


@dataclass(frozen=True)
class Stamp:
    token: int = 0
    node: str = ""
    instance: str = ""  # of the holder's record; empty, as the group: an older version did not say
    group: str = ""

    def is_of_another_group(self, other: Stamp) -> bool:
        return bool(self.group and other.group) and self.group != other.group

    def refuses(self, other: Stamp) -> bool:
        """Whether ``other`` may not be written in its place: each token has one reign."""
        if self.is_of_another_group(other):
            return True
        if self.token == other.token and self.node:
            return (self.node, self.instance) != (other.node, other.instance)
        return self.token > other.token


def read(store: Path) -> Stamp:
    """The stamp that is there; token 0 where there is none. Raises OSError and RecordError."""
    try:
        return _parsed((store / FILE).read_bytes())
    except FileNotFoundError:
        return Stamp()


def put(store: Path, stamp: Stamp) -> Stamp:
    """Write ``stamp`` unless what is there refuses it; return what is there then.

    Raises OSError and RecordError.
    """
    descriptor = os.open(store / FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o664)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        there = _parsed(os.pread(descriptor, 4096, 0))
        if there.refuses(stamp):
            return there
        data = json.dumps(asdict(stamp)).encode() + b"\n"
        os.pwrite(descriptor, data.ljust(os.fstat(descriptor).st_size), 0)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    folder = os.open(store, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
    return stamp


def _parsed(data: bytes) -> Stamp:
    if not data.strip(b" \n\0"):
        return Stamp()
    try:
        found = json.loads(data)
        instance, group = str(found.get("instance", "")), str(found.get("group", ""))
        stamp = Stamp(int(found["token"]), str(found["node"]), instance, group)
    except (
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        OverflowError,
        RecursionError,
    ) as error:
        raise RecordError(f"{FILE} holds no stamp: {error}") from error
    if not 0 <= stamp.token <= LARGEST:
        raise RecordError(
            f"{FILE} has token {stamp.token}, not from 0 to {LARGEST}, so no lock has given it: no"
            " broker is started on this store until that file is put right, or taken away"
        )
    return stamp
