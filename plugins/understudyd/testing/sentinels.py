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

    def kill(self) -> None:
        """All of them."""
        for server in (*self.sentinels, *self.servers):
            server.kill()

    def fail_over(self) -> None:
        """Kill the primary, whose replicas have all that was written; another is named then."""
        primary, *replicas = self.servers
        with client(primary) as it:
            assert it.wait(len(replicas), int(BOUND * 1000)) == len(replicas)
        primary.kill()

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

    def forget(self, gone: Redis) -> None:
        """Have all Sentinels forget this replica, which is dead."""
        for sentinel in self.sentinels:
            with client(sentinel) as it:
                it.execute_command("SENTINEL", "RESET", NAME)
        self._await({server.port for server in self.servers[1:]} - {gone.port})

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
        self._await({replica.port for replica in replicas})

    def _await(self, replicas: set[int]) -> None:
        deadline = time.monotonic() + BOUND
        while not all(self._knows(sentinel, replicas) for sentinel in self.sentinels):
            assert time.monotonic() < deadline, "the Sentinels did not find each other"
            time.sleep(0.05)

    def _knows(self, sentinel: Sentinel, replicas: set[int]) -> bool:
        with client(sentinel) as it:
            others = it.sentinel_master(NAME)["num-other-sentinels"]
            found = {int(replica["port"]) for replica in it.sentinel_slaves(NAME)}
            return others == len(self.sentinels) - 1 and found == replicas


def client(server: Redis) -> contextlib.closing[redis.Redis]:
    return contextlib.closing(redis.Redis(server.host, server.port))
