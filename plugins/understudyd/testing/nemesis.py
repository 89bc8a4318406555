"""A random nemesis: two to six faults at once against a group of real sidecars, from a seed.

Rules
* What it does follows from the seed alone, not from what it meets, so that a seed can be replayed;
  when exactly things happen is the machine's.
* It never freezes all that could act for a node (sidecar, guard and watcher) while its broker runs:
  then nothing on that machine can fence, as in a pause of the whole machine.
* After each round everything goes on again, and there has to be one master.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

from understudy.testing.brokers import Redis
from understudyd.testing.estate import Sidecar, SidecarEstate, eventually

__all__ = ["Nemesis"]


class Nemesis:
    def __init__(self, estate: SidecarEstate, seed: int, redis: Redis | None, key: str) -> None:
        """``redis`` has the lock under ``key``; None: it is a file."""
        self.faults = 0
        self.told: list[str] = []
        self._estate = estate
        self._random = random.Random(seed)
        self._redis = redis
        self._key = key
        self._frozen: list[int] = []

    def round(self) -> None:
        """Faults, then calm; raises TimeoutError when no master comes back."""
        said = []
        for _ in range(self._random.randint(2, 6)):
            fault = self._random.choice(self._of_nodes + self._of_the_lock)
            node = self._random.choice(list(self._estate.nodes.values()))
            said.append(f"{fault.__name__.strip('_')} {node.name}")
            print(f"{time.strftime('%H:%M:%S')} {said[-1]}")
            fault(node)
            self.faults += 1
            time.sleep(self._random.uniform(0, 0.4))
        self.told.append(", ".join(said))
        time.sleep(self._random.uniform(0, 2.0))
        self.calm()

    def calm(self) -> None:
        for pid in self._frozen:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        self._frozen = []
        if self._redis is not None:
            self._redis.start()  # thaws it too
        for node in self._estate.nodes.values():
            if not node.is_running:
                node.start()
        eventually(self._is_calm)

    def _is_calm(self) -> bool:
        nodes = self._estate.nodes.values()
        for node in nodes:
            if not node.is_running:  # killed by its own guard, after a freeze
                node.start()
        return sum(node.is_master for node in nodes) == 1

    # --- faults ---------------------------------------------------------------------------------

    @property
    def _of_nodes(self) -> list[Callable[[Sidecar], None]]:
        return [
            self._kill_sidecar,
            self._kill_broker,
            self._kill_guard,
            self._kill_watcher,
            self._kill_sidecar_and_guard,
            self._kill_all_but_the_broker,
            self._freeze_sidecar,
            self._freeze_broker,
            self._freeze_guard,
            self._stop,
            self._switch_over,
            self._fail_over,
        ]

    @property
    def _of_the_lock(self) -> list[Callable[[Sidecar], None]]:
        if self._redis is None:
            return [self._replace_lock_file]
        return [self._freeze_redis, self._flush_redis, self._restart_redis]

    def _kill_sidecar(self, node: Sidecar) -> None:
        self._kill(node.pid)

    def _kill_broker(self, node: Sidecar) -> None:
        self._kill(*_broker(node))

    def _kill_guard(self, node: Sidecar) -> None:
        self._kill(*node.guards[1:])

    def _kill_watcher(self, node: Sidecar) -> None:
        self._kill(*node.guards[:1])

    def _kill_sidecar_and_guard(self, node: Sidecar) -> None:
        self._kill(*node.guards[1:], node.pid)

    def _kill_all_but_the_broker(self, node: Sidecar) -> None:
        self._kill(*node.guards, node.pid)

    def _freeze_sidecar(self, node: Sidecar) -> None:
        self._freeze(node.pid)

    def _freeze_broker(self, node: Sidecar) -> None:
        self._freeze(*_broker(node))

    def _freeze_guard(self, node: Sidecar) -> None:
        if node.pid not in self._frozen:
            self._freeze(*node.guards[1:])

    def _stop(self, node: Sidecar) -> None:
        if node.is_running:
            node.signal(signal.SIGTERM)

    def _switch_over(self, node: Sidecar) -> None:
        node.post("switchover")

    def _fail_over(self, node: Sidecar) -> None:
        node.post("failover")

    def _replace_lock_file(self, node: Sidecar) -> None:
        Path(self._estate.lock.partition(":")[2]).unlink(missing_ok=True)

    def _freeze_redis(self, node: Sidecar) -> None:
        assert self._redis is not None
        self._redis.freeze()

    def _flush_redis(self, node: Sidecar) -> None:
        import redis

        assert self._redis is not None
        with (
            contextlib.closing(redis.Redis(port=self._redis.port, socket_timeout=1)) as client,
            contextlib.suppress(redis.RedisError),
        ):
            client.delete(self._key)

    def _restart_redis(self, node: Sidecar) -> None:
        assert self._redis is not None
        self._redis.restart()

    def _kill(self, *pids: int) -> None:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _freeze(self, *pids: int) -> None:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
                self._frozen.append(pid)


def _broker(node: Sidecar) -> list[int]:
    pid = node.broker if node.is_running else None
    return [] if pid is None else [pid]
