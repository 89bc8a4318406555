"""A lock in the Redis server that Sentinels name. The weakest kind: a failover may lose writes.

    redis+sentinel://user:password@h1:26379,h2:26379,h3:26379/NAME?db=0

Rules
* An answer counts only if, after it was given, a majority of the Sentinels names the server that
  gave it; so a server that was cut off together with its clients stops counting. A write counts as
  well if all replicas that the Sentinels know have it: whichever is promoted has it then.
  Everything else proves nothing, and is `Unavailable`.
* Sentinels learn of a failover from each other's hellos, every two seconds. So for that long after
  a promotion a majority may still name the old server, and renewals there still count. What a
  server shows that is new to us counts only after that time.
* Nobody can tell how old the data of a promoted replica is. As after a restart, the incarnation is
  another one, and every record is watched for a lease.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import parse_qsl, quote, urlencode

import redis

from understudy.core.redact import redact
from understudy.errors import ConfigurationError
from understudyd.lock.port import Observation, Unavailable
from understudyd.lock.record import LockRecord
from understudyd.lock.redis import RedisBackend, connect

__all__ = ["HELLO", "SentinelBackend"]

HELLO = 2.0  # s between two hellos of a Sentinel (SENTINEL_PUBLISH_PERIOD)
PORT = 26379
SHARE = 0.5  # of one attempt's time: for the server; what is left is for the Sentinels and WAIT

Address = tuple[str, int]


class SentinelBackend:
    def __init__(self, uri: str, group: str, timeout: float) -> None:
        """``timeout`` in seconds, for one attempt. Opens no connection yet.

        Options are those of a `RedisBackend`, and ``sentinel_username`` and ``sentinel_password``;
        with ``rediss+sentinel:`` servers and Sentinels are both reached by TLS. Raises
        ConfigurationError.
        """
        self._where = redact(uri)
        self._group = group
        self._timeout = timeout
        scheme, _, rest = uri.partition("+sentinel://")
        address, _, text = rest.partition("?")
        place, _, self._name = address.partition("/")
        self._login, at, hosts = place.rpartition("@")
        self._login += at
        query = dict(parse_qsl(text, keep_blank_values=True))
        user = quote(query.pop("sentinel_username", ""), safe="")
        password = quote(query.pop("sentinel_password", ""), safe="")
        self._scheme, self._query = scheme, urlencode(query)
        if not self._name or not hosts or "/" in self._name:
            raise ConfigurationError(
                f"{self._where}: write {scheme}+sentinel://host:{PORT},host:{PORT}/NAME, with the "
                "name by which the Sentinels know the server"
            )
        self._addresses = [_address(host, self._where) for host in hosts.split(",")]
        tls = urlencode({name: query[name] for name in query if name.startswith("ssl_")})
        login = f"{user}:{password}@" if user or password else ""
        seconds = timeout * (1 - SHARE) / 2
        self._sentinels = [
            connect(f"{scheme}://{login}{_place(address)}?{tls}", group, seconds).client
            for address in self._addresses
        ]
        self._connect(self._addresses[0]).close()  # refuses wrong options
        self._asking: ThreadPoolExecutor | None = None
        self._primary: Address | None = None
        self._server: RedisBackend | None = None  # the primary's
        self._replicas = 0  # that the Sentinels knew last
        self._hello = HELLO
        self._life = ""  # the incarnation seen last, and since when
        self._since = 0.0

    def read(self) -> Observation:
        return self._attempt(lambda server: server.read(), is_write=False)

    def swap(self, expected: Observation, record: LockRecord) -> Observation:
        def write(server: RedisBackend) -> Observation:
            return server.swap(expected, record)

        return self._attempt(write, is_write=True)

    def hurry(self) -> None:
        self._hello = 0.0

    def locate(self) -> str:
        """The URI of the server that is named now. Raises Unavailable."""
        address = self._named()
        if address is None:
            raise Unavailable(f"{self._where}: no majority of the Sentinels names a server")
        return self._uri(address)

    def close(self) -> None:
        self._leave()
        if self._asking is not None:
            self._asking.shutdown()
            self._asking = None
        for sentinel in self._sentinels:
            sentinel.close()

    # --------------------------------------------------------------------------------------------

    def _attempt(
        self, call: Callable[[RedisBackend], Observation], *, is_write: bool
    ) -> Observation:
        if self._server is None:
            self._primary = self._named()
            if self._primary is None:
                raise Unavailable(f"{self._where}: no majority of the Sentinels names a server")
            self._server = self._connect(self._primary)
        try:
            seen = call(self._server)
        except Unavailable:
            self._leave()
            raise
        named = self._named()
        if named != self._primary and not (is_write and named is None and self._is_everywhere()):
            server = _place(self._primary) if self._primary else ""
            self._leave()
            raise Unavailable(f"{self._where}: no majority of the Sentinels names {server}")
        return self._not_too_new(seen)

    def _not_too_new(self, seen: Observation) -> Observation:
        moment = time.monotonic()
        if seen.incarnation != self._life:
            self._life, self._since = seen.incarnation, moment
        if moment - self._since < self._hello:
            raise Unavailable(
                f"{self._where}: another server is named; its word counts in {self._hello:g} s"
            )
        return seen

    def _named(self) -> Address | None:
        """The server that a majority of the Sentinels names."""
        if self._asking is None:
            self._asking = ThreadPoolExecutor(len(self._sentinels), "understudy-sentinel")
        answers = list(filter(None, self._asking.map(self._ask, self._sentinels)))
        if not self._is_majority(len(answers)):
            return None
        self._replicas = max(replicas for _, replicas in answers)
        address, count = Counter(address for address, _ in answers).most_common(1)[0]
        return address if self._is_majority(count) else None

    def _is_majority(self, count: int) -> bool:
        return count > len(self._sentinels) // 2

    def _ask(self, sentinel: redis.Redis) -> tuple[Address, int] | None:
        """Which server it names, and how many replicas of it it knows."""
        try:
            found = sentinel.sentinel_get_master_addr_by_name(self._name)
            if found is None:
                return None
            replicas = len(sentinel.sentinel_slaves(self._name))
        except (redis.RedisError, OSError):
            with contextlib.suppress(Exception):
                sentinel.connection_pool.disconnect()
            return None
        host, port = found
        return (host.decode() if isinstance(host, bytes) else host, int(port)), replicas

    def _is_everywhere(self) -> bool:
        """Whether all replicas have what was just written."""
        if self._server is None or not self._replicas:
            return False
        return self._server.wait(self._replicas, self._timeout * (1 - SHARE) / 2)

    def _connect(self, address: Address) -> RedisBackend:
        return RedisBackend(self._uri(address), self._group, self._timeout * SHARE)

    def _uri(self, address: Address) -> str:
        return f"{self._scheme}://{self._login}{_place(address)}?{self._query}"

    def _leave(self) -> None:
        if self._server is not None:
            self._server.close()
        self._server = None


def _place(address: Address) -> str:
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _address(text: str, where: str) -> Address:
    host, colon, port = text.rpartition(":")
    if not colon or text.endswith("]"):
        host, port = text, str(PORT)
    if not host or not port.isdigit():
        raise ConfigurationError(f"{where}: a Sentinel is host or host:port, not {text!r}")
    return host.strip("[]"), int(port)
