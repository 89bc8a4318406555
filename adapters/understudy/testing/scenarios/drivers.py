"""All drivers: the columns of the table."""

from __future__ import annotations

from understudy.testing.scenarios.kombu_driver import KombuDriver
from understudy.testing.scenarios.pika_async_driver import PikaAsyncDriver
from understudy.testing.scenarios.pika_driver import PikaDriver
from understudy.testing.scenarios.port import Driver
from understudy.testing.scenarios.stomp_driver import StompDriver

__all__ = ["DRIVERS"]

DRIVERS: tuple[Driver, ...] = (
    KombuDriver(),
    PikaDriver(),
    PikaAsyncDriver(),
    StompDriver("rabbitmq"),
    StompDriver("activemq"),
)
