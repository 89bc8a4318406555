"""Bridges between all kinds of brokers, paused and drained in mid-stream."""

from __future__ import annotations

from pathlib import Path

import pytest

from understudyd.testing.bridged import until
from understudyd.testing.operated import Operated
from understudyd.testing.pairs import Pair, over

pytestmark = pytest.mark.integration

COUNT = 6_000
WINDOW = 200  # messages


@over(
    ("activemq", "amqp"),
    ("amqp", "activemq"),
    ("rabbitmq-stomp", "activemq"),
    ("activemq", "rabbitmq-stomp"),
)
def test_pauses_and_drains_under_load_lose_nothing(pair: Pair, tmp_path: Path) -> None:
    """A pause at once doubles a window at most, a drain nothing."""
    sent = [b"%06d" % number + b"x" * 500 for number in range(COUNT)]
    pair.source.fill(pair.here, sent)
    bridge = Operated(
        tmp_path,
        pair.source.uri,
        pair.target.uri,
        pair.here,
        rename={f"queue://{pair.here}": f"queue://{pair.there}"},
        prefetch_size=WINDOW,
    )
    pauses = 0
    with bridge:
        for part, verb in enumerate(("pause", "drain", "pause", "drain"), 1):
            mark = part * COUNT // 6
            until(lambda mark=mark: bridge.bridge().get("forwarded", 0) >= mark, "a part")  # type: ignore[misc]
            code, _ = bridge.post(f"/bridges/test/{verb}")
            assert code == 202
            told = bridge.await_state("paused")
            assert told["in_flight"] == 0
            pauses += verb == "pause"
            assert bridge.post("/bridges/test/resume")[0] == 202
        until(lambda: bridge.bridge()["forwarded"] >= COUNT, "all is forwarded")
        assert bridge.stop() == 0
    pair.check(sent, pauses * WINDOW)
