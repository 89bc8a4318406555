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
from understudyd.lock.redis import connect
from understudyd.status import HistoryEntry, Member

__all__ = ["RedisBoard"]

# KEYS: a hash; ARGV: field, text. What is written carries the server's time, for its age.
WRITE = """
local time = redis.call('TIME')
local at = time[1] .. '.' .. string.format('%06d', time[2])
redis.call('HSET', KEYS[1], ARGV[1], at .. ' ' .. ARGV[2])
"""
READ = "return {redis.call('TIME'), redis.call('HGETALL', KEYS[1])}"


class RedisBoard:
    def __init__(self, uri: str, group: str, timeout: float) -> None:
        """The board of the lock of this URI; see `connect`."""
        server = connect(uri, group, timeout, "understudy-board")
        self._client, self._key, self._where = server.client, server.key, server.where
        self._reader = Reader()

    def publish(self, member: Member) -> None:
        self._call("EVAL", WRITE, 1, f"{self._key}:nodes", member.name, dump(member))

    def nodes(self) -> list[Member]:
        return self._reader.nodes(self._read(f"{self._key}:nodes"))

    def append(self, entry: HistoryEntry) -> None:
        key = f"{self._key}:history"
        script = "redis.call('RPUSH', KEYS[1], ARGV[1]) redis.call('LTRIM', KEYS[1], ARGV[2], -1)"
        self._call("EVAL", script, 1, key, dump(entry), -HISTORY_LIMIT)

    def history(self, limit: int = HISTORY_LIMIT) -> list[HistoryEntry]:
        return read_history(self._call("LRANGE", f"{self._key}:history", -limit, -1))

    def ask(self, request: Request) -> None:
        subject = SUBJECTS[request.command]
        self._call("EVAL", WRITE, 1, f"{self._key}:asked", subject, dump(request))

    def asked(self) -> list[Request]:
        answers = self._call("HGETALL", f"{self._key}:answers")
        return self._reader.asked(self._read(f"{self._key}:asked"), _texts(answers))

    def answer(self, request: Request, answer: Answer) -> None:
        subject = SUBJECTS[request.command]
        self._call("HSET", f"{self._key}:answers", subject, dump_answer(request, answer))

    def close(self) -> None:
        self._client.close()
        self._client.connection_pool.disconnect()

    def _read(self, key: str) -> dict[str, Stored]:
        (seconds, microseconds), fields = self._call("EVAL", READ, 1, key)
        now = int(seconds) + int(microseconds) / 1e6
        found: dict[str, Stored] = {}
        for name, data in _texts(fields).items():
            at, _, text = data.partition(b" ")
            with contextlib.suppress(ValueError):
                found[name] = (text, at, now - float(at))
        return found

    def _call(self, *words: Any) -> Any:
        try:
            return self._client.execute_command(*words)
        except (redis.RedisError, OSError) as exc:
            with contextlib.suppress(Exception):
                self._client.connection_pool.disconnect()
            raise Unavailable(f"{self._where}: {redact(f'{type(exc).__name__}: {exc}')}") from exc


def _texts(fields: Any) -> dict[str, bytes]:
    """A hash, as an old or a new protocol tells it."""
    pairs = (
        fields.items() if isinstance(fields, dict) else zip(fields[::2], fields[1::2], strict=True)
    )
    return {name.decode("utf-8", "replace"): text for name, text in pairs}
