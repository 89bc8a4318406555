"""Parcels of either protocol: made of what a message holds, and taken apart again. No I/O.

A parcel is three pieces and the size of the body, see `ends.port` for what the pieces are.
"""

from __future__ import annotations

from collections.abc import Mapping

from understudy.wire.stomp import FrameParser, encode_head
from understudyd.bridge.content import AmqpContent, StompContent
from understudyd.bridge.ledger import Parcel
from understudyd.bridge.wire.bodies import body_frames, content_header
from understudyd.bridge.wire.methods import split_route

__all__ = [
    "PROPERTIES",
    "ROUTE",
    "amqp_content",
    "amqp_parcel",
    "amqp_route",
    "stomp_content",
    "stomp_parcel",
]

ROUTE = slice(13, -2)  # of the method frame of a publish
PROPERTIES = slice(19, -1)  # of a header frame


def amqp_parcel(publish: bytes, content: AmqpContent, frame_max: int) -> Parcel:
    """``publish`` is the method frame; ``frame_max`` bytes bounds the frames of the body."""
    body = content.body
    header = content_header(content.properties, len(body))
    return (publish, header, body_frames(body, frame_max), len(body))


def amqp_route(parcel: Parcel) -> tuple[str, str]:
    """Exchange and routing key."""
    return split_route(parcel[0][ROUTE])


def amqp_content(parcel: Parcel) -> AmqpContent:
    return AmqpContent(parcel[1][PROPERTIES], frames=parcel[2])


def stomp_parcel(headers: Mapping[str, str], body: bytes) -> Parcel:
    """``headers`` are all of the SEND but the receipt."""
    return (encode_head("SEND", headers.items()), b"", body + b"\0", len(body))


def stomp_content(parcel: Parcel) -> StompContent:
    """With all headers of the SEND."""
    (frame,) = FrameParser().feed(parcel[0] + b"\n" + parcel[2])
    return StompContent(frame.headers, frame.body)
