"""A lock in one Redis server.

Rules
* Each call is one Lua script, one round trip, on one connection without retries: the keeper owns
  the deadline. redis-py's defaults would try ten times, five seconds each, and begin each
  connection with five round trips of its own; here it only logs in, where there is a password.
* The incarnation is the server's run id with its replication id: the first changes with a restart,
  the second when a replica is promoted. Both may come back with older data. The script reads them
  itself, so that no answer is attributed to the wrong life of the server.
* No expiry: a record is never deleted, and time is measured by who watches it, not by Redis.
* Only a master answers; a replica knows nothing for certain.
* Whoever lets go says so on a channel of the key's name, so that a standby need not ask all the
  time. Nothing rests on it: who may not publish, or hears nothing, loses a moment.
* A name that no name server answers for any more leads where it did.
"""

from __future__ import annotations

import contextlib
import inspect
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, urlencode

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from understudy.core.redact import Source, redact
from understudy.errors import ConfigurationError
from understudyd.lock.names import Names
from understudyd.lock.port import Observation, Unavailable
from understudyd.lock.record import LockRecord

__all__ = ["RedisBackend", "Server", "connect"]

OPTIONS = ("db", "password", "username")
SILENCE = 10.0  # s; a channel that was silent for so long is opened anew

# Else redis-py tells the server its name and version; the option has changed its name.
_HAS_DRIVER_INFO = "driver_info" in inspect.signature(redis.Redis.__init__).parameters
_NAMELESS: dict[str, None] = dict.fromkeys(
    ["driver_info"] if _HAS_DRIVER_INFO else ["lib_name", "lib_version"]
)

_LIFE = """
local server = redis.call('INFO', 'server')
local replication = redis.call('INFO', 'replication')
if string.match(replication, 'role:(%a+)') ~= 'master' then
  return redis.error_reply('READONLY this server is a replica')
end
local life = string.match(server, 'run_id:(%x+)')
  .. ':' .. string.match(replication, 'master_replid:(%x+)')
local stored = redis.call('GET', KEYS[1])
"""

READ = _LIFE + "return {life, stored}"

# ARGV: the expected life; then the expected record's token, sequence, instance and released, or ''
# where none is expected; then the record to write, and whether it is a tombstone
SWAP = (
    _LIFE
    + """
local same = false
if not stored then
  same = ARGV[2] == ''
elseif ARGV[2] ~= '' then
  local record = cjson.decode(stored)
  same = string.format('%.0f', record.token) == ARGV[2]
    and string.format('%.0f', record.sequence) == ARGV[3]
    and record.instance == ARGV[4]
    and tostring(record.released) == ARGV[5]
end
if same and life == ARGV[1] then
  redis.call('SET', KEYS[1], ARGV[6])
  stored = ARGV[6]
  if ARGV[7] == 'true' then
    redis.pcall('PUBLISH', KEYS[1], '')
  end
end
return {life, stored}
"""
)


@dataclass(frozen=True)
class Server:
    """A client of the server that a lock's URI names, which has opened no connection yet."""

    client: redis.Redis
    key: str  # the lock's; others of the group begin with it
    where: str  # for error texts, without a password


def connect(uri: str, group: str, timeout: float) -> Server:
    """``uri`` as redis-py takes it (``redis:``, ``rediss:``, ``unix:``).

    Its query may name another ``key`` than understudy:<group>, and of redis-py's options those in
    `OPTIONS` and of TLS (``ssl_…``); others would change what is promised here. ``timeout`` in
    seconds, for a connect and for an answer. Raises ConfigurationError for what is no such address.
    """
    where = redact(uri)
    address, _, text = uri.partition("?")
    query = dict(parse_qsl(text, keep_blank_values=True))
    key = query.pop("key", f"understudy:{group}")
    if not key:
        raise ConfigurationError(f"the lock's key= is empty: {where}")
    for option in query:
        if option not in OPTIONS and not option.startswith("ssl_"):
            valid = ", ".join(("key", *OPTIONS, "ssl_…"))
            raise ConfigurationError(
                f'unknown option "{Source(uri).quote(option)}" (valid: {valid}): {where}'
            )
    # redis-py before 6.0 does not check the name in a certificate unless it is told to
    checked = {"ssl_check_hostname": True} if address.startswith("rediss:") else {}
    try:
        client = redis.Redis.from_url(
            f"{address}?{urlencode(query)}",
            **checked,
            **_by_name(address, timeout),
            single_connection_client=False,
            max_connections=1,
            retry=Retry(NoBackoff(), 0),
            protocol=2,  # 3 says HELLO, and asks for news of a cluster's maintenance
            **_NAMELESS,
            socket_timeout=timeout,
            socket_connect_timeout=timeout,
        )
    except ValueError as exc:
        raise ConfigurationError(f"{where} is no Redis address: {exc}") from None
    return Server(client, key, where)


def _by_name(address: str, timeout: float) -> dict[str, Any]:
    """What makes a client remember where its server's name led."""
    if address.startswith("unix:"):
        return {}
    kind = _SecureConnection if address.startswith("rediss:") else _Connection
    return {"connection_class": kind, "names": Names(timeout, timeout / 4)}


class _Connection(redis.Connection):  # type: ignore[misc]  # untyped
    host: str

    def __init__(self, *, names: Names, **options: Any) -> None:
        super().__init__(**options)
        self._names = names

    def _connect(self) -> Any:
        name = self.host
        *others, last = self._names.addresses(name)
        try:
            for self.host in others:
                with contextlib.suppress(OSError):
                    return super()._connect()
            self.host = last
            return super()._connect()
        finally:
            self.host = name  # what its certificate has to say


class _SecureConnection(redis.SSLConnection, _Connection):  # type: ignore[misc]  # untyped
    """TLS over such a connection."""


class RedisBackend:
    def __init__(self, uri: str, group: str, timeout: float) -> None:
        """As `connect` takes them."""
        server = connect(uri, group, timeout)
        self._client, self._key, self._where = server.client, server.key, server.where
        self._channel = _Channel(connect(uri, group, timeout))

    def read(self) -> Observation:
        return self._call(READ, [])

    def swap(self, expected: Observation, record: LockRecord) -> Observation:
        there = expected.record
        if there is None:
            known = ["", "", "", ""]
        else:
            released = str(there.released).lower()
            known = [str(there.token), str(there.sequence), there.instance, released]
        is_tombstone = str(record.released).lower()
        return self._call(SWAP, [expected.incarnation, *known, record.to_json(), is_tombstone])

    def await_change(self) -> None:
        self._channel.listen()

    def wait(self, replicas: int, seconds: float) -> bool:
        """Whether so many replicas have what was written last."""
        try:
            return bool(self._client.wait(replicas, int(seconds * 1000)) >= replicas)
        except (redis.RedisError, OSError):
            return False

    def _call(self, script: str, arguments: list[str]) -> Observation:
        try:
            life, stored = self._client.eval(script, 1, self._key, *arguments)
        except (redis.RedisError, OSError) as exc:
            with contextlib.suppress(Exception):
                self._client.connection_pool.disconnect()
            raise _unavailable(self._where, exc) from exc
        record = None if stored is None else LockRecord.from_json(stored)
        return Observation(record, life.decode())

    def close(self) -> None:
        self._client.close()
        self._client.connection_pool.disconnect()


class _Channel:
    """Hears of tombstones, on a connection of its own."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._subscription: Any = None

    def listen(self) -> None:
        """Return when there was one, or may have been one unheard. Raises Unavailable."""
        try:
            if self._subscription is None:
                self._subscription = self._server.client.pubsub(ignore_subscribe_messages=True)
                self._subscription.subscribe(self._server.key)
                self._subscription.get_message(timeout=None)  # the confirmation
                return
            if self._subscription.get_message(timeout=SILENCE) is None:
                self._leave()  # the connection may be dead
        except (redis.RedisError, OSError) as exc:
            self._leave()
            raise _unavailable(self._server.where, exc) from exc

    def _leave(self) -> None:
        with contextlib.suppress(Exception):
            self._subscription.close()
        self._subscription = None


def _unavailable(where: str, error: Exception) -> Unavailable:
    return Unavailable(f"{where}: {redact(f'{type(error).__name__}: {error}')}")
