"""How a STOMP session begins: the answer to CONNECT, and the heart-beats agreed on. No I/O."""

from __future__ import annotations

from understudy.core.redact import redact
from understudy.wire.stomp import HEARTBEAT, FrameParser, ProtocolError, RawFrame

__all__ = [
    "BEATS",
    "DEFAULT_PORTS",
    "TLS_SCHEMES",
    "LoginAnswer",
    "LoginRefused",
    "OtherProtocol",
    "agree_on_beats",
    "check_begin",
    "error_text",
]

DEFAULT_PORTS = {"stomp": 61613, "tcp": 61613, "stomp+ssl": 61614, "ssl": 61614}
TLS_SCHEMES = frozenset({"stomp+ssl", "ssl"})
BEATS = 2  # that a broker is asked for in each heart-beat: ActiveMQ may leave out every other one
LIMIT = 65536  # bytes that a peer may send before it has said CONNECTED

#: how what is not STOMP begins, and what is said of it
OTHERS = (
    (b"AMQP", "AMQP; {place} seems to be an AMQP port"),
    (b"HTTP/", "HTTP; {place} seems to be a web server's port"),
    (b"<", "HTTP; {place} seems to be a web server's port"),  # the answer to a line that is no HTTP
    (b"\x15\x03", "TLS; for STOMP in TLS write {tls}"),
    (b"\x00\x00\x01", "OpenWire, it seems; ActiveMQ has another port for STOMP"),
    (b"-ERR", "Redis; {place} seems to be a Redis port"),
)
_BEGIN = 8  # bytes that tell one protocol from another


class LoginRefused(Exception):
    """The broker answered CONNECT with ERROR."""


class OtherProtocol(Exception):
    """The peer speaks a protocol that is known, and is not STOMP."""


class LoginAnswer:
    """Takes in what the peer sends until it has answered CONNECT."""

    def __init__(self, version: str) -> None:
        self._version = version
        self._parser = FrameParser(version, max_head=LIMIT, max_body=LIMIT)
        self._begin = b""

    def feed(self, data: bytes) -> RawFrame | None:
        """The CONNECTED frame; None when more must come.

        Raises LoginRefused, OtherProtocol or ProtocolError.
        """
        self._begin = (self._begin + data)[:_BEGIN]
        check_begin(self._begin)
        answers = [frame for frame in self._parser.feed(data) if frame.command != HEARTBEAT]
        if not answers:
            return None
        answer = answers[0]
        if answer.command == "ERROR":
            raise LoginRefused(error_text(answer))
        if answer.command != "CONNECTED" or len(answers) > 1 or not self._parser.is_between_frames:
            raise ProtocolError(f"the broker answered CONNECT with {answer.command[:40]!r}")
        told = answer.headers.get("version", "1.0")[:20]
        if told != self._version:
            raise ProtocolError(f"the broker speaks STOMP {told}, not {self._version}")
        return answer


def check_begin(begin: bytes) -> None:
    """Raises OtherProtocol for the first bytes of a peer that will never say CONNECTED."""
    for sign, hint in OTHERS:
        if begin.startswith(sign):
            raise OtherProtocol(hint)


def agree_on_beats(ours: tuple[int, int], told: str) -> tuple[float, float]:
    """Seconds between two heart-beats, of ours and of the peer; 0: none.

    ``ours`` is what our heart-beat header said (ms), ``told`` is the peer's. Raises ProtocolError.
    """
    try:
        theirs = [int(number) for number in told.split(",")]
        can, wants = theirs[0], theirs[1]
        send = max(ours[0], wants) / 1000 if ours[0] and wants > 0 else 0.0
        receive = max(ours[1], can) / 1000 if ours[1] and can > 0 else 0.0
    except (ValueError, IndexError, OverflowError):
        raise ProtocolError("the broker's heart-beat header is none") from None
    return send, receive


def error_text(frame: RawFrame) -> str:
    """What an ERROR frame says, in one line."""
    body = frame.body.decode("utf-8", "replace").strip().partition("\n")[0]
    said = frame.headers.get("message", "")
    text = said if not body or body in said else f"{said}: {body}" if said else body
    return redact(text[:300]) or "an ERROR frame without text"
