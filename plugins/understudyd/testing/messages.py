"""What a message can hold, so that tests of bridges hold all of it."""

from __future__ import annotations

from understudyd.bridge.wire.tables import Table, Typed

__all__ = ["EVERYTHING", "EVIL"]

#: Would be a frame of its own where somebody forgot to escape.
EVIL = "\n\nfoo\0\nSEND\ndestination:/queue/evil\n\n\0"

#: The properties of a message of AMQP; no expiration, which does not stay the same.
EVERYTHING: Table = {
    "content_type": "application/json",
    "content_encoding": "gzip",
    "delivery_mode": 2,
    "priority": 255,
    "correlation_id": "c\u00e9",
    "reply_to": "replies",
    "message_id": "m-1",
    "timestamp": 1_790_000_000_000,  # milliseconds: the year 58692 where seconds are meant
    "type": "t",
    "app_id": "app",
    "cluster_id": "c",
    "headers": {
        "float": 1.75,
        "float32": Typed("f", 1.5),
        "least": -(1 << 63),
        "most": (1 << 63) - 1,
        "small": Typed("l", 5),
        "byte": Typed("b", -1),
        "time": Typed("T", 1_790_000_000_000),
        "empty": {},
        "nested": {"a": [1, {"b": [None, True, b"\xff"]}], "": "no name"},
        "text": f"a\nb\0c\\ :\U0001f600{EVIL}",
        EVIL: "x",
        "": "no name",
        "a:b\n": "y",
        "not utf-8": "\udcff",
        "large": "x" * 60_000,
        "destination": "/queue/evil",
        "priority": "not a number",
    },
}
