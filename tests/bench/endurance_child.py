"""A process that publishes through many failovers; driven by `endurance`, by lines of JSON.

It writes {"cut": port} when the connection through that port is to be cut, reads a line when that
has happened, and writes what it measured of itself after the failovers named on its command line.
"""

from __future__ import annotations

import gc
import json
import logging
import os
import sys
import time

from kombu import Connection, Producer, Queue

import understudy.kombu

QUEUE = Queue("understudy.bench.memory", durable=True, max_length=100)
SETTLE = 0.5  # s for threads that are about to end, and for what they hold
PATIENCE = 30.0  # s for one failover


def main(uri: str, *moments: str) -> None:
    logging.getLogger("understudy").setLevel(logging.CRITICAL)
    with Connection(uri) as connection:
        QUEUE(connection.default_channel).declare()
        producer = Producer(connection)
        supervisor = connection.transport.broker.supervisor
        for number in range(1, max(map(int, moments)) + 1):
            _publish(producer)
            _tell({"cut": supervisor.current.port})
            sys.stdin.readline()
            _wait_for_epoch(producer, supervisor, number + 1)
            if str(number) in moments:
                time.sleep(SETTLE)
                gc.collect()
                _tell(_state(number))


def _publish(producer: Producer) -> None:
    producer.publish(b"x" * 1024, routing_key=QUEUE.name, delivery_mode=2)
    if not understudy.kombu.flush(PATIENCE):
        raise TimeoutError("a tracked message was not confirmed")


def _wait_for_epoch(producer: Producer, supervisor: object, epoch: int) -> None:
    """Publish until this failover has happened: a tracked message may outrun the loss."""
    deadline = time.monotonic() + PATIENCE
    while True:
        _publish(producer)
        if supervisor.epoch >= epoch:  # type: ignore[attr-defined]
            return
        if time.monotonic() > deadline:
            raise TimeoutError(f"no failover: {supervisor!r}")


def _state(failovers: int) -> dict[str, int]:
    with open("/proc/self/statm", encoding="ascii") as file:
        pages = int(file.read().split()[1])
    return {
        "failovers": failovers,
        "rss": pages * os.sysconf("SC_PAGE_SIZE"),
        "threads": len(os.listdir("/proc/self/task")),
        "descriptors": len(os.listdir("/proc/self/fd")) - 1,  # but the one that lists
    }


def _tell(what: dict[str, int]) -> None:
    print(json.dumps(what), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
