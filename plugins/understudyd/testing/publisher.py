"""``python -m understudyd.testing.publisher``: a sidecar without a lock, for tests of its API.

It shows one snapshot, keeps beating, and says 202 to every order. Its arguments are JSON objects:
the settings of the API, then what to publish. ``busy`` threads keep its interpreter occupied.
"""

from __future__ import annotations

import json
import select
import sys
import threading
from typing import Any

from understudyd.api.client import ApiProcess
from understudyd.api.page import BEAT, Snapshot
from understudyd.api.words import Order, Settings, pack, unpack
from understudyd.clock import now

__all__ = ["arguments", "main"]

MODULE = "understudyd.testing.publisher"
LEASE = 3600.0  # s; the tests end it by other means


def arguments(settings: Settings, snapshot: Snapshot, *, busy: int = 0) -> list[str]:
    """The command line for it."""
    told = {"snapshot": snapshot.to_json().decode(), "busy": busy}
    return [sys.executable, "-m", MODULE, pack(settings).decode(), json.dumps(told)]


def main() -> None:
    settings = unpack(sys.argv[1].encode())
    assert isinstance(settings, Settings)
    told: dict[str, Any] = json.loads(sys.argv[2])
    snapshot = Snapshot.from_json(told["snapshot"].encode())
    for _ in range(told["busy"]):
        threading.Thread(target=_occupy, daemon=True).start()
    with ApiProcess(settings) as api:
        api.page.publish(snapshot)
        api.start()
        api.page.beat(now() + LEASE, snapshot.status.token or 0)
        print(api.pid, flush=True)
        while True:
            select.select([api], [], [], BEAT)
            for word in api.receive():
                if isinstance(word, Order):
                    api.reply(word, 202, f"{word.command} {word.to}")
            api.page.beat(now() + LEASE, snapshot.status.token or 0)


def _occupy() -> None:
    while True:
        sum(range(100_000))


if __name__ == "__main__":
    main()
