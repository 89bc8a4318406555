"""A RabbitMQ that has too little memory, and blocks who publishes."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Iterator

from understudy.testing.brokers.rabbitmq import RabbitMQ

__all__ = ["memory_alarm", "relieve", "starve"]

LITTLE, PLENTY = "0.0001", "0.9"  # of the machine's memory
PATIENCE = 120.0  # s


@contextlib.contextmanager
def memory_alarm(broker: RabbitMQ) -> Iterator[None]:
    """Its publishers are blocked until the block ends."""
    starve(broker)
    try:
        yield
    finally:
        relieve(broker)


def starve(broker: RabbitMQ) -> None:
    """Block publishers, each with its first message from now on, until `relieve`."""
    broker.ctl("set_vm_memory_high_watermark", LITTLE)


def relieve(broker: RabbitMQ) -> None:
    """Let publishers go on. Harmless where they do.

    Asks again where rabbitmqctl fails, as it may on a machine under load: whoever uses this broker
    next would be blocked as well.
    """
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            broker.ctl("set_vm_memory_high_watermark", PLENTY, timeout=60.0)
        except (RuntimeError, subprocess.TimeoutExpired):
            if time.monotonic() > deadline:
                raise
        else:
            return
