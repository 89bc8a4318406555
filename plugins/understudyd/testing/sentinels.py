"""A Redis server with replicas, watched by Sentinels, private to a test."""

from __future__ import annotations

import contextlib
import time
from types import TracebackType

import redis

from understudy.testing.brokers import Redis, start_all
from understudy.testing.brokers.server import Command

__all__ = ["NAME", "Sentinel", "Sentinels"]

NAME = "mymaster"
BOUND = 30.0  # s, for whatever a test waits for


class Sentinel(Redis):
    """One Sentinel, which knows nothing yet."""

    def _prepare(self) -> Command:
        command = super()._prepare()
        return Command([*command.argv, "--sentinel"], command.env)


class Sentinels:
    """A primary, its replicas, and three Sentinels that find it down after half a second."""

    def __init__(self, replicas: int = 2, sentinels: int = 3) -> None:
        self.servers = [Redis() for _ in range(1 + replicas)]
        self.sentinels = [Sentinel() for _ in range(sentinels)]

    def __enter__(self) -> Sentinels:
        try:
            self._begin()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        for server in (*self.sentinels, *self.servers):
            server.close()

    @property
    def uri(self) -> str:
        places = ",".join(f"{sentinel.host}:{sentinel.port}" for sentinel in self.sentinels)
        return f"redis+sentinel://{places}/{NAME}"

    def watch(self, sentinel: Sentinel, server: Redis) -> None:
        """Have this Sentinel name this server."""
        with client(sentinel) as it:
            with contextlib.suppress(redis.ResponseError):
                it.execute_command("SENTINEL", "REMOVE", NAME)
            quorum = len(self.sentinels) // 2 + 1
            it.execute_command("SENTINEL", "MONITOR", NAME, server.host, server.port, quorum)
            for option, value in {"down-after-milliseconds": 500, "failover-timeout": 3000}.items():
                it.execute_command("SENTINEL", "SET", NAME, option, value)

    def named(self, sentinel: Sentinel) -> int:
        """The port of the server that this Sentinel names."""
        with client(sentinel) as it:
            return int(it.sentinel_get_master_addr_by_name(NAME)[1])

    def _begin(self) -> None:
        start_all(*self.servers, *self.sentinels)
        primary, *replicas = self.servers
        for replica in replicas:
            with client(replica) as it:
                it.replicaof(primary.host, primary.port)
        for sentinel in self.sentinels:
            self.watch(sentinel, primary)
        deadline = time.monotonic() + BOUND
        while not all(map(self._knows_all, self.sentinels)):
            assert time.monotonic() < deadline, "the Sentinels did not find each other"
            time.sleep(0.05)

    def _knows_all(self, sentinel: Sentinel) -> bool:
        with client(sentinel) as it:
            state = it.sentinel_master(NAME)
            others = len(self.sentinels) - 1, len(self.servers) - 1
            return (state["num-other-sentinels"], state["num-slaves"]) == others


def client(server: Redis) -> contextlib.closing[redis.Redis]:
    return contextlib.closing(redis.Redis(server.host, server.port))
