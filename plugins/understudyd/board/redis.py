"""A board in Redis, in keys beside the lock's: its own and ``:nodes``, ``:history`` and so on.

One round trip for each call, on one connection, without retries. Ages are the server's.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import redis

from understudy.core.redact import redact
from understudyd.board.port import HISTORY_LIMIT, SUBJECTS, Answer, Request, Shown
from understudyd.board.stored import Reader, Stored, dump, dump_answer
from understudyd.lock.port import Unavailable
from understudyd.lock.redis import Server, connect
from understudyd.lock.sentinel import SentinelBackend
from understudyd.status import HistoryEntry, Member

__all__ = ["RedisBoard"]


# KEYS: a hash; ARGV: field, text. What is written carries the server's time, for its age.
WRITE = """
local time = redis.call('TIME')
local at = time[1] .. '.' .. string.format('%06d', time[2])
redis.call('HSET', KEYS[1], ARGV[1], at .. ' ' .. ARGV[2])
"""
SET = "redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])"
APPEND = "redis.call('RPUSH', KEYS[1], ARGV[1]) redis.call('LTRIM', KEYS[1], ARGV[2], -1)"
READ = """
return {
  redis.call('TIME'),
  redis.call('HGETALL', KEYS[1]), redis.call('HGETALL', KEYS[2]), redis.call('HGETALL', KEYS[3]),
  redis.call('LRANGE', KEYS[4], ARGV[1], -1)
}
"""


class RedisBoard:
    def __init__(self, uri: str, group: str, timeout: float) -> None:
        """The board of the lock of this URI; see `connect` and `SentinelBackend`."""
        self._group = group
        self._timeout = timeout
        self._sentinels: SentinelBackend | None = None
        self._server: Server | None = None
        if "+sentinel://" in uri:
            self._sentinels = SentinelBackend(uri, group, timeout)
        else:
            self._server = connect(uri, group, timeout)
        self._reader = Reader()

    def read(self) -> Shown:
        parts = ("nodes", "asked", "answers", "history")
        told = self._call(READ, parts, -HISTORY_LIMIT)
        (seconds, microseconds), nodes, asked, answers, history = told
        now = int(seconds) + int(microseconds) / 1e6
        return self._reader.read(_stored(nodes, now), _stored(asked, now), _texts(answers), history)

    def publish(self, member: Member) -> None:
        self._call(WRITE, ("nodes",), member.name, dump(member))

    def append(self, entry: HistoryEntry) -> None:
        self._call(APPEND, ("history",), dump(entry), -HISTORY_LIMIT)

    def ask(self, request: Request) -> None:
        self._call(WRITE, ("asked",), SUBJECTS[request.command], dump(request))

    def answer(self, request: Request, answer: Answer) -> None:
        subject = SUBJECTS[request.command]
        self._call(SET, ("answers",), subject, dump_answer(request, answer))

    def close(self) -> None:
        if self._sentinels is not None:
            self._sentinels.close()
        if self._server is not None:
            self._server.client.close()
            self._server.client.connection_pool.disconnect()

    def _call(self, script: str, parts: Sequence[str], *arguments: Any) -> Any:
        server = self._found()
        keys = [f"{server.key}:{part}" for part in parts]
        try:
            return server.client.eval(script, len(keys), *keys, *arguments)
        except (redis.RedisError, OSError) as exc:
            with contextlib.suppress(Exception):
                server.client.connection_pool.disconnect()
            if self._sentinels is not None:
                self._server = None  # they may name another one by now
            raise Unavailable(f"{server.where}: {redact(f'{type(exc).__name__}: {exc}')}") from exc

    def _found(self) -> Server:
        if self._server is None:
            assert self._sentinels is not None
            uri = self._sentinels.locate()
            self._server = connect(uri, self._group, self._timeout)
        return self._server


def _stored(fields: Any, now: float) -> dict[str, Stored]:
    """``now``: the server's, in seconds."""
    found: dict[str, Stored] = {}
    for name, data in _texts(fields).items():
        at, _, text = data.partition(b" ")
        with contextlib.suppress(ValueError):
            found[name] = (text, at, now - float(at))
    return found


def _texts(fields: Any) -> dict[str, bytes]:
    """A hash, as an old or a new protocol tells it."""
    pairs = (
        fields.items() if isinstance(fields, dict) else zip(fields[::2], fields[1::2], strict=True)
    )
    return {name.decode("utf-8", "replace"): text for name, text in pairs}
