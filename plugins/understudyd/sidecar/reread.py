"""Reads the configuration again for a reload: elsewhere, as it may name a dead mount's folder.

Rule: what is asked for while it is being read is read after that, once: the file may have changed
in between.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from understudy.errors import ConfigurationError
from understudyd.api.words import Order
from understudyd.sidecar.settings import Settings, check_reload
from understudyd.sidecar.worker import Worker

__all__ = ["Reread", "Rereader"]


@dataclass(frozen=True)
class Reread:
    """What came of it, and the orders it answers. ``settings`` is None where they are refused."""

    orders: tuple[Order, ...]
    settings: Settings | None
    trouble: str = ""


class Rereader:
    """For one thread."""

    def __init__(self, reread: Callable[[], Settings], tell: Callable[[Reread], None]) -> None:
        """``reread`` may block, and raises ConfigurationError; ``tell`` is called from another
        thread."""
        self._reread = reread
        self._worker = Worker[Reread]("understudy-reload", tell)
        self._is_asked = False
        self._orders: list[Order] = []

    def ask(self, order: Order | None = None) -> None:
        """To be followed by `go_on`."""
        self._is_asked = True
        if order is not None:
            self._orders.append(order)

    def go_on(self, running: Settings) -> bool:
        """Begin what is asked for; to be called after each answer too. False: an earlier reading
        has not come back yet."""
        if self._is_asked:
            job = partial(_read, self._reread, running, tuple(self._orders))
            if not self._worker.do(job):
                return False
            self._is_asked = False
            self._orders = []
        return True


def _read(reread: Callable[[], Settings], running: Settings, orders: tuple[Order, ...]) -> Reread:
    try:
        wanted = reread()
        check_reload(running, wanted)
    except ConfigurationError as error:
        return Reread(orders, None, str(error))
    return Reread(orders, wanted)
