"""Ids in a Redis, for consumers on any number of machines.

Everything is decided by scripts on the server, by its clock. A Redis that loses data (no
persistence, eviction, a failover) forgets ids: their messages then count as new.
"""

from __future__ import annotations

from understudy.core.redact import redact
from understudy.duplicates.store import DEFAULT_AGE, DEFAULT_LIMIT, Verdict, check_bounds
from understudy.errors import ConfigurationError

try:
    import redis
    from redis.backoff import NoBackoff
    from redis.retry import Retry
except ModuleNotFoundError as exc:
    if exc.name != "redis":
        raise
    raise ModuleNotFoundError(
        'understudy.duplicates.redis needs redis: pip install "understudy[redis]"', name="redis"
    ) from exc

__all__ = ["RedisStore"]

TIMEOUT = 1.0  # s for a connect, and for an answer; a script takes far below 1 ms

NOW = """
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
"""
IS_DONE = (
    NOW
    + """
local at = redis.call('ZSCORE', KEYS[1], ARGV[1])
local age = tonumber(ARGV[2])
local is_done = at and (age == 0 or tonumber(at) > now - age)
"""
)
ASK = IS_DONE + "return is_done and 1 or 0"
CLAIM = (
    IS_DONE
    + """
if is_done then return 'done' end
local owner = redis.call('GET', KEYS[2])
if owner and owner ~= ARGV[3] and ARGV[5] == '0' then return 'busy' end
redis.call('SET', KEYS[2], ARGV[3], 'PX', ARGV[4])
return 'claimed'
"""
)
DONE = (
    NOW
    + """
local age, limit = tonumber(ARGV[2]), tonumber(ARGV[3])
redis.call('ZADD', KEYS[1], now, ARGV[1])
redis.call('DEL', KEYS[2])
if limit > 0 then redis.call('ZREMRANGEBYRANK', KEYS[1], 0, -(limit + 1)) end
if age > 0 then
    redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - age)
    redis.call('PEXPIRE', KEYS[1], math.ceil(age / 1000))
end
"""
)
RELEASE = "if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end"


class RedisStore:
    def __init__(
        self,
        url: str,
        name: str,
        *,
        limit: int | None = DEFAULT_LIMIT,
        age: float | None = DEFAULT_AGE,
    ) -> None:
        """Remember at most ``limit`` ids, for at most ``age`` seconds; None = no such bound.

        ``url`` as redis-py takes it (``redis://``, ``rediss://``, ``unix://``); nothing is dialed
        yet. Windows of one ``name`` are one window: give each kind of work its own. They should
        agree on the bounds.
        """
        check_bounds(limit, age)
        if not name:
            raise ConfigurationError("a RedisStore needs a name, one for each kind of work")
        self._shown = f"<RedisStore {name} {redact(url)}>"
        self._prefix = f"understudy:duplicates:{{{name}}}"  # braces: one slot of a cluster
        self._limit = limit or 0
        self._age = int((age or 0) * 1e6)
        try:
            self._client = redis.Redis.from_url(
                url,
                socket_timeout=TIMEOUT,
                socket_connect_timeout=TIMEOUT,
                retry=Retry(NoBackoff(), 0),  # the window decides when to ask again
                decode_responses=True,
            )
        except ValueError as exc:
            raise ConfigurationError(f"{redact(url)} is no Redis URL: {redact(str(exc))}") from None
        self._claim, self._done, self._release, self._ask = map(
            self._client.register_script, (CLAIM, DONE, RELEASE, ASK)
        )

    def __repr__(self) -> str:
        return self._shown

    def claim(self, key: str, owner: str, lease: float, *, take_over: bool = False) -> Verdict:
        arguments = [key, self._age, owner, max(int(lease * 1000), 1), int(take_over)]
        return Verdict(self._claim([self._prefix, self._claim_key(key)], arguments))

    def done(self, key: str, owner: str) -> None:
        self._done([self._prefix, self._claim_key(key)], [key, self._age, self._limit])

    def release(self, key: str, owner: str) -> None:
        self._release([self._claim_key(key)], [owner])

    def is_done(self, key: str) -> bool:
        return bool(self._ask([self._prefix], [key, self._age]))

    def close(self) -> None:
        self._client.close()

    def _claim_key(self, key: str) -> str:
        return f"{self._prefix}:claim:{key}"
