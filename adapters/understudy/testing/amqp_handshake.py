"""The server's side of an AMQP 0-9-1 handshake, right or wrong on purpose."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from understudy.testing.amqp_wire import Over, Wire, serialization
from understudy.testing.frames import (
    CONNECTION_CLOSE,
    CONNECTION_OPEN,
    CONNECTION_START,
    CONNECTION_TUNE,
    IDS,
    METHOD,
    MethodId,
    encode_frame,
)

__all__ = ["CLOSE_OK", "OPEN_OK", "HandshakeFault", "Login", "shake_hands"]

HandshakeFault = Literal[
    "silent",  # accepts, and never says a word
    "garbage",  # answers with something that is not AMQP, and stays
    "half_frame",  # sends half of Connection.Start, and stays
    "close_after_start",  # closes the socket when the client has answered Start
    "wrong_auth",  # 403
    "wrong_vhost",  # 530
    "slow_drip",  # a correct handshake, byte by byte
    "huge_frame",  # announces a frame of 2 GB
    "bad_frame_end",  # Connection.Start with a wrong last byte
]

PROTOCOL_HEADER = b"AMQP\x00\x00\x09\x01"
START_OK: MethodId = (10, 11)
TUNE_OK: MethodId = (10, 31)
OPEN_OK: MethodId = (10, 41)
CLOSE_OK: MethodId = (10, 51)
CAPABILITIES = (
    "publisher_confirms",
    "consumer_cancel_notify",
    "connection.blocked",
    "basic.nack",
    "authentication_failure_close",
)
GARBAGE = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n"
HUGE_FRAME = b"\x01\x00\x00\x7f\xff\xff\xff" + IDS.pack(*CONNECTION_START)


@dataclass
class Login:
    """What the client said of itself."""

    user: str = ""
    password: str = ""
    vhost: str = ""
    client_properties: dict[str, Any] = field(default_factory=dict)
    frame_max: int = 0
    heartbeat: int = 0


def shake_hands(
    wire: Wire, fault: HandshakeFault | None, *, frame_max: int, heartbeat: int, channel_max: int
) -> Login:
    """Return when all but OpenOk is said; raises ``Over`` when it will not come to that."""
    if fault == "silent":
        wire.read_nothing()
    if wire.read_exactly(len(PROTOCOL_HEADER)) != PROTOCOL_HEADER:
        wire.send_raw(PROTOCOL_HEADER)
        raise Over
    start = encode_frame(METHOD, 0, IDS.pack(*CONNECTION_START) + start_arguments())
    wrong_starts = {
        "garbage": GARBAGE,
        "half_frame": start[: len(start) // 2],
        "huge_frame": HUGE_FRAME,
        "bad_frame_end": start[:-1] + b"\x00",
    }
    if fault in wrong_starts:
        wire.send_raw(wrong_starts[fault])
        wire.read_nothing()
    wire.send_raw(start)
    login = read_start_ok(expect(wire, START_OK))
    if fault == "close_after_start":
        raise Over
    if fault == "wrong_auth":
        refuse(wire, 403, "ACCESS_REFUSED - Login was refused", (0, 0))
    amqp = serialization()
    wire.send_method(0, CONNECTION_TUNE, amqp.dumps("BlB", (channel_max, frame_max, heartbeat)))
    agreed, _ = amqp.loads("BlB", expect(wire, TUNE_OK), 0)
    login.frame_max, login.heartbeat = agreed[1], agreed[2]
    (login.vhost,), _ = amqp.loads("s", expect(wire, CONNECTION_OPEN), 0)
    if fault == "wrong_vhost":
        refuse(wire, 530, f"NOT_ALLOWED - vhost {login.vhost} not found", CONNECTION_OPEN)
    return login


def start_arguments() -> bytes:
    properties = {
        "product": "understudy scripted peer",
        "capabilities": dict.fromkeys(CAPABILITIES, True),
    }
    encoded: bytes = serialization().dumps("ooFSS", (0, 9, properties, "PLAIN", "en_US"))
    return encoded


def read_start_ok(arguments: bytes) -> Login:
    (properties, _, response), _ = serialization().loads("Fsx", arguments, 0)
    user, _, password = response[1:].partition(b"\0")  # PLAIN: NUL user NUL password
    return Login(user.decode(), password.decode(), client_properties=properties)


def expect(wire: Wire, method: MethodId) -> bytes:
    """The arguments of the next method, which is ``method``; else the connection is over."""
    frame = wire.read_frame()
    if frame.kind != METHOD or IDS.unpack_from(frame.payload) != method:
        if frame.kind == METHOD and IDS.unpack_from(frame.payload) == CONNECTION_CLOSE:
            wire.send_method(0, CLOSE_OK)
        raise Over
    return frame.payload[IDS.size :]


def refuse(wire: Wire, code: int, text: str, cause: MethodId) -> None:
    """Close the connection with a reason, and wait for the client to have read it."""
    wire.send_method(0, CONNECTION_CLOSE, serialization().dumps("BsBB", (code, text, *cause)))
    expect(wire, CLOSE_OK)
    raise Over
