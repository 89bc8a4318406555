"""A board in Redis, in keys beside the lock's: its own and ``:nodes``, ``:history`` and so on.

One round trip for each call, on one connection, without retries. Ages are the server's.
"""

from __future__ import annotations

import contextlib
from typing import Any

import redis

from understudy.core.redact import redact
from understudyd.board.port import HISTORY_LIMIT, SUBJECTS, Answer, Request
from understudyd.board.stored import Reader, Stored, dump, dump_answer, read_history
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
APPEND = "redis.call('RPUSH', KEYS[1], ARGV[1]) redis.call('LTRIM', KEYS[1], ARGV[2], -1)"
READ = "return {redis.call('TIME'), redis.call('HGETALL', KEYS[1])}"


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

    def publish(self, member: Member) -> None:
        self._script(WRITE, "nodes", member.name, dump(member))

    def nodes(self) -> list[Member]:
        return self._reader.nodes(self._read("nodes"))

    def append(self, entry: HistoryEntry) -> None:
        self._script(APPEND, "history", dump(entry), -HISTORY_LIMIT)

    def history(self, limit: int = HISTORY_LIMIT) -> list[HistoryEntry]:
        return read_history(self._call("LRANGE", "history", -limit, -1))

    def ask(self, request: Request) -> None:
        self._script(WRITE, "asked", SUBJECTS[request.command], dump(request))

    def asked(self) -> list[Request]:
        answers = self._call("HGETALL", "answers")
        return self._reader.asked(self._read("asked"), _texts(answers))

    def answer(self, request: Request, answer: Answer) -> None:
        self._call("HSET", "answers", SUBJECTS[request.command], dump_answer(request, answer))

    def close(self) -> None:
        if self._sentinels is not None:
            self._sentinels.close()
        if self._server is not None:
            self._server.client.close()
            self._server.client.connection_pool.disconnect()

    def _read(self, part: str) -> dict[str, Stored]:
        (seconds, microseconds), fields = self._script(READ, part)
        now = int(seconds) + int(microseconds) / 1e6
        found: dict[str, Stored] = {}
        for name, data in _texts(fields).items():
            at, _, text = data.partition(b" ")
            with contextlib.suppress(ValueError):
                found[name] = (text, at, now - float(at))
        return found

    def _script(self, script: str, part: str, *arguments: Any) -> Any:
        server = self._found()
        return self._sent(server, "EVAL", script, 1, f"{server.key}:{part}", *arguments)

    def _call(self, command: str, part: str, *arguments: Any) -> Any:
        server = self._found()
        return self._sent(server, command, f"{server.key}:{part}", *arguments)

    def _found(self) -> Server:
        if self._server is None:
            assert self._sentinels is not None
            uri = self._sentinels.locate()
            self._server = connect(uri, self._group, self._timeout)
        return self._server

    def _sent(self, server: Server, *words: Any) -> Any:
        try:
            return server.client.execute_command(*words)
        except (redis.RedisError, OSError) as exc:
            with contextlib.suppress(Exception):
                server.client.connection_pool.disconnect()
            if self._sentinels is not None:
                self._server = None  # they may name another one by now
            raise Unavailable(f"{server.where}: {redact(f'{type(exc).__name__}: {exc}')}") from exc


def _texts(fields: Any) -> dict[str, bytes]:
    """A hash, as an old or a new protocol tells it."""
    pairs = (
        fields.items() if isinstance(fields, dict) else zip(fields[::2], fields[1::2], strict=True)
    )
    return {name.decode("utf-8", "replace"): text for name, text in pairs}
