"""The bridges of one process: run, paused, read again, shown, and ended.

Rules
* A bridge is one thing to whoever pauses or reloads it, however many links it has.
* A reload checks the whole file first, and leaves alone what did not change; what did change is
  drained, then begins anew. A file that cannot be used changes nothing.
* One that has given up rests until it is resumed. When all have and nobody can resume them, since
  nothing listens for orders, it ends.
* What is shown is written twice a second, and when an order was obeyed before that is answered.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from datetime import datetime, timezone
from typing import Any

from understudy import __version__
from understudy.errors import ConfigurationError
from understudyd.api.words import Order
from understudyd.bridge.front import NoFront
from understudyd.bridge.lag import LagWatch
from understudyd.bridge.leftovers import left_behind
from understudyd.bridge.pauses import Pauses
from understudyd.bridge.shell import LinkRunner
from understudyd.bridge.status import summary
from understudyd.config.bridges import BridgeConfig
from understudyd.systemd import notify, notify_alive, notify_reloading

__all__ = ["Bridge", "Service"]

BEAT = 0.5  # s
GIVEN_UP = "given-up"
RESTING = ("paused", "pausing", GIVEN_UP)

_log = logging.getLogger("understudyd.bridge")


class Bridge:
    """The links of one bridge; made when its configuration was found good."""

    def __init__(
        self,
        config: BridgeConfig,
        links: Sequence[LinkRunner],
        watches: Sequence[LagWatch] = (),
    ) -> None:
        self.config = config
        self._links = links
        self._watches = watches
        self._watching: list[asyncio.Task[None]] = []

    def start(self, *, paused: str = "", watch: bool = False) -> None:
        """``paused``: why it is to rest; ``watch``: whether to ask what waits at the source."""
        for link in self._links:
            if paused:
                link.pause(paused)
            else:
                link.start()
        if watch:
            self._watching = [asyncio.ensure_future(watch.run()) for watch in self._watches]

    def pause(self, reason: str, *, at_once: bool) -> None:
        for link in self._links:
            link.pause(reason, at_once=at_once)

    def resume(self) -> None:
        for link in self._links:
            link.resume()

    def stop(self) -> None:
        """Settle what is in flight, then end; `ended` waits for it."""
        for watching in self._watching:
            watching.cancel()
        for link in self._links:
            link.stop()

    async def ended(self) -> None:
        await asyncio.gather(*(link.finished for link in self._links))

    def look(self) -> dict[str, Any]:
        config = self.config
        glances = [link.look() for link in self._links]
        return summary(config.name, str(config.source), str(config.target), glances)


class Service:
    """All bridges of a process."""

    def __init__(self, bridges: Iterable[Bridge], pauses: Pauses) -> None:
        self.front: NoFront = NoFront()
        self._bridges = {bridge.config.name: bridge for bridge in bridges}
        self._pauses = pauses
        self._changes: set[asyncio.Task[None]] = set()
        self._reading = asyncio.Lock()  # of the configuration, which is on a disk
        self._reloading = asyncio.Lock()
        self._ended = asyncio.Event()
        self._is_stopping = False
        self.has_given_up = False
        """Whether one had, when it was stopped."""
        self._states: set[str] = set()  # of all links, as they were shown last
        self._told = ""

    async def run(self) -> None:
        """Until `stop` has done its work."""
        for bridge in self._bridges.values():
            self._start(bridge)
        self.front.listen()
        self._show()
        notify("READY=1")
        beating = asyncio.ensure_future(self._beat())
        try:
            await self._ended.wait()
        finally:
            beating.cancel()
        self._show()

    @property
    def is_stopping(self) -> bool:
        return self._is_stopping

    def stop(self) -> None:
        """Settle what is in flight, then end."""
        self._is_stopping = True
        self._show()
        self.has_given_up = GIVEN_UP in self._states
        notify("STOPPING=1")
        for bridge in self._bridges.values():
            bridge.stop()
        self._change(self._stop_all())

    def reload(self, read: Callable[[], Awaitable[Sequence[Bridge]]]) -> None:
        """``read`` makes all bridges as they are to be; raises ConfigurationError. Asked for again
        meanwhile it is called again, after that."""
        if self._is_stopping:
            return
        notify_reloading()
        self._change(self._reload(read))

    def obey(self, order: Order) -> tuple[int, str]:
        """Code and reason for the one who ordered."""
        bridge = self._bridges.get(order.to or "")
        if self._is_stopping or bridge is None:
            return 409, "the bridge process is being stopped" if bridge else "it was removed"
        state = bridge.look()["state"]
        if order.command == "resume":
            if state not in RESTING:
                return 412, f"it is not paused: it is {state}"
            remark = self._pauses.remove(bridge.config.name)
            _log.info("bridge %s: resume, by %s", order.to, order.by)
            bridge.resume()
        elif state == "paused" or (state, order.command) == ("pausing", "drain"):
            return 412, f"it is {state} already"
        else:
            at = datetime.now(timezone.utc).isoformat(timespec="seconds")
            why = f"paused by {order.by} at {at}"
            remark = self._pauses.add(bridge.config.name, why)
            _log.info("bridge %s: %s, by %s", order.to, order.command, order.by)
            bridge.pause(why, at_once=order.command == "pause")
        self._show()
        return 202, remark

    def _start(self, bridge: Bridge) -> None:
        name = bridge.config.name
        why = self._pauses.why(name) if name in self._pauses else ""
        bridge.start(paused=why, watch=self.front.is_open)

    async def _stop_all(self) -> None:
        async with self._reloading:
            await asyncio.gather(*(bridge.ended() for bridge in self._bridges.values()))
        self._ended.set()

    async def _reload(self, read: Callable[[], Awaitable[Sequence[Bridge]]]) -> None:
        async with self._reading:
            try:
                wanted = {bridge.config.name: bridge for bridge in await read()}
            except ConfigurationError as error:
                _log.error("everything goes on as before: %s", error)
            else:
                self._change(self._adopt(wanted))
        notify("READY=1")

    async def _adopt(self, wanted: dict[str, Bridge]) -> None:
        async with self._reloading:
            await asyncio.gather(
                *(self._replace(name, wanted.get(name)) for name in {*self._bridges, *wanted})
            )

    async def _replace(self, name: str, wanted: Bridge | None) -> None:
        """One bridge by another, or by none; what is equal stays."""
        running = self._bridges.get(name)
        if running is not None:
            if wanted is not None and running.config == wanted.config:
                return
            _log.info("bridge %s: %s", name, "changed" if wanted else "removed")
            running.stop()
            await running.ended()
            del self._bridges[name]
            for left in left_behind(running.config, wanted.config if wanted else None):
                _log.warning("bridge %s: %s stays, and gathers what comes: remove it", name, left)
        if wanted is not None and not self._is_stopping:
            self._bridges[name] = wanted
            self._start(wanted)

    def _change(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._changes.add(task)
        task.add_done_callback(self._changes.discard)

    async def _beat(self) -> None:
        while True:
            self._show()
            notify_alive()
            if self._states == {GIVEN_UP} and not self.front.is_open and not self._is_stopping:
                self.stop()
            await asyncio.sleep(BEAT)

    def _show(self) -> None:
        told = [bridge.look() for bridge in self._bridges.values()]
        self._states = {link["state"] for bridge in told for link in bridge["links"]}
        self.front.beat()
        if self.front.is_open:
            self.front.publish(json.dumps({"version": __version__, "bridges": told}).encode())
        states = Counter(bridge["state"] for bridge in told)
        line = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
        if line != self._told:
            self._told = line
            notify(f"STATUS=bridges: {line}")
