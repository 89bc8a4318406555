"""Who sends to one broker, and who takes from the other; each in a thread, with our own clients."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter, deque
from itertools import pairwise
from types import TracebackType

import understudy.pika
import understudy.stomp
from understudy.errors import UnderstudyError

__all__ = ["Consumer", "Producer"]

TIMEOUT = 60_000  # ms for one send, outages included
LOOK = 0.2  # s, between two looks at whether it is over
PATIENCE = 30.0  # s to end


class _Worker:
    """A thread, for as long as a ``with`` lasts."""

    def __init__(self, name: str) -> None:
        self.error = ""
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._guarded, name=name, daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def stop(self) -> None:
        self._is_over.set()
        if self._thread.is_alive():
            self._thread.join(PATIENCE)

    def _guarded(self) -> None:
        try:
            self._work()
        except UnderstudyError as error:
            self.error = str(error)

    def _work(self) -> None:
        raise NotImplementedError


class Producer(_Worker):
    """Sends numbers, ``rate`` of them in a second; what is in ``sent`` was confirmed."""

    def __init__(self, uri: str, queue: str, rate: float) -> None:
        super().__init__("producer")
        self._queue = queue
        self.sent: list[int] = []
        self._uri = f"failover:({uri})?timeout={TIMEOUT}"
        self._pause = 1 / rate

    def _work(self) -> None:
        connection = understudy.stomp.Connection(self._uri)
        connection.connect(wait=True)
        try:
            due = time.monotonic()
            while not self._is_over.wait(max(0.0, due - time.monotonic())):
                number = len(self.sent) + 1
                connection.send(f"/queue/{self._queue}", str(number))
                self.sent.append(number)
                due += self._pause
        finally:
            connection.disconnect()


class Consumer(_Worker):
    """Counts what it takes."""

    def __init__(self, uri: str, queue: str) -> None:
        super().__init__("consumer")
        self._queue = queue
        self.arrived: Counter[int] = Counter()
        self.times: list[float] = []
        """When each number came for the first time."""
        self._recent: deque[float] = deque(maxlen=10_000)
        self._uri = f"failover:({uri})?timeout={TIMEOUT}"

    @property
    def again(self) -> int:
        """How many came that had come before."""
        return self.arrived.total() - len(self.arrived)

    def rate(self, now: float) -> float:
        """Of the last second."""
        return float(sum(moment > now - 1 for moment in list(self._recent)))

    def longest_pause(self) -> float:
        """s in which nothing new came."""
        pauses = (after - before for before, after in pairwise(self.times))
        return max(pauses, default=0.0)

    def _work(self) -> None:
        connection = understudy.pika.BlockingConnection(self._uri)
        channel = connection.channel()
        try:
            for method, _, body in channel.consume(self._queue, inactivity_timeout=LOOK):
                if method is not None:
                    self._take(int(body))
                    channel.basic_ack(method.delivery_tag)
                if self._is_over.is_set():
                    break
        finally:
            with contextlib.suppress(UnderstudyError):
                connection.close()

    def _take(self, number: int) -> None:
        now = time.monotonic()
        if number not in self.arrived:
            self.times.append(now)
        self.arrived[number] += 1
        self._recent.append(now)
