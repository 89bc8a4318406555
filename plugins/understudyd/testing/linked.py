"""A bridge's link for tests that go event by event: made, running, fed, and what it asked for."""

from __future__ import annotations

from random import Random
from typing import Any, TypeVar

from understudy.core.backoff import Backoff
from understudyd.bridge.ledger import Parcel
from understudyd.bridge.link import Link
from understudyd.bridge.pace import Pace
from understudyd.bridge.parking import Parking
from understudyd.bridge.settings import LinkSettings
from understudyd.bridge.wire.bodies import body_frames, content_header, join_body
from understudyd.bridge.wire.methods import encode_publish
from understudyd.bridge.wire.properties import build
from understudyd.bridge.wire.reader import Returned
from understudyd.bridge.words import (
    Action,
    Batch,
    Send,
    State,
)

__all__ = [
    "EXACT",
    "PROPERTIES",
    "WINDOW",
    "back",
    "bodies",
    "deliver",
    "link",
    "only",
    "parcel",
    "running",
]

A = TypeVar("A", bound=Action)

WINDOW = 16
PROPERTIES = build({"delivery_mode": 2})
EXACT = Backoff(100.0, 30_000.0, jitter=0.0)


def parcel(body: bytes) -> Parcel:
    header = content_header(PROPERTIES, len(body))
    return (encode_publish("", "orders"), header, body_frames(body, 4096), len(body))


def back(body: bytes, key: str = "orders") -> Returned:
    frames = body_frames(body, 4096)
    return Returned(312, "NO_ROUTE", "", key, PROPERTIES, len(body), frames)


def link(pace: Pace | None = None, *, can_rest: bool = True, **given: Any) -> Link:
    settings = LinkSettings(**{"backoff": EXACT, **given})
    return Link(settings, Parking("b"), Random(1), pace, can_rest=can_rest)


def running(**given: Any) -> Link:
    """One that has its first messages behind it."""
    made = link(**given)
    made.start(0.0)
    made.target_up(0.0)
    made.source_up(0.0)
    assert made.state is State.RUNNING
    made.window = min(WINDOW, made._settings.prefetch)
    return made


def deliver(to: Link, *tags: int, now: float = 0.0) -> list[Action]:
    return to.delivered(Batch(list(tags), [parcel(b"%d" % tag) for tag in tags]), now)


def only(kind: type[A], actions: list[Action]) -> A:
    (found,) = [action for action in actions if isinstance(action, kind)]
    return found


def bodies(actions: list[Action]) -> list[bytes]:
    sent = [action for action in actions if isinstance(action, Send)]
    return [join_body(piece) for action in sent for piece in action.pieces[2::3]]
