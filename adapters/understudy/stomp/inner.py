"""One connection to one endpoint: dialed, logged in, kept alive, and at its end never used again.

Rules
* `open_inner` returns after CONNECTED; until then every wait has the dialer's deadline, also with
  a peer that is silent, lies or drips.
* A peer is dead when for two heartbeats no byte has come, not even into the kernel's buffer: so a
  reader that pauses because the application is slow does not take its broker for dead. It is asked
  for `BEATS` signs of life in each.
* Before its reading thread has it (a spare), the monitor takes in what comes, which can only be
  heartbeats; anything else makes it useless.
"""

from __future__ import annotations

import ssl
import threading
import time
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import unquote

from understudy.core.endpoint import Endpoint
from understudy.failover import forking
from understudy.failover.deadline import Deadline, DeadlinePassed
from understudy.stomp.wire import Wire, WireBroken, read_until
from understudy.wire.stomp import HEARTBEAT, FrameParser, ProtocolError, RawFrame, encode
from understudy.wire.stomp_dialects import Dialect, detect
from understudy.wire.stomp_login import (
    BEATS,
    DEFAULT_PORTS,
    TLS_SCHEMES,
    LoginAnswer,
    agree_on_beats,
    error_text,
)

__all__ = ["DEFAULT_PORTS", "TLS_SCHEMES", "Handshake", "Inner", "open_inner"]

BUFFER_FULL = 65536  # unread bytes above which a buffer that does not grow proves nothing
FORK_PATIENCE = 1.0  # s; what is taken in takes moments
BEAT = b"\n"


@dataclass
class Handshake:
    """How to log in, for every endpoint alike."""

    command: str = "STOMP"
    version: str = "1.2"
    username: str | None = None
    passcode: str | None = field(default=None, repr=False)
    vhost: str | None = None
    headers: dict[str, Any] = field(default_factory=dict, repr=False)
    source: tuple[str, int] | None = None  # where to bind

    def without_secrets(self) -> Handshake:
        """For an endpoint that anybody may have announced."""
        return replace(self, username=None, passcode=None, headers={})

    def frame(self, endpoint: Endpoint, beats: tuple[int, int]) -> bytes:
        """The CONNECT frame; the endpoint's own credentials and path go before ours."""
        vhost = unquote(endpoint.path.removeprefix("/"))
        own = endpoint.username is not None
        headers = {
            "accept-version": self.version,
            "host": vhost or self.vhost or "/",  # RabbitMQ's vhost; ActiveMQ does not look
            "login": endpoint.username if own else self.username,
            "passcode": endpoint.password if own else self.passcode,
            **({"heart-beat": f"{beats[0]},{beats[1]}"} if any(beats) else {}),
        }
        given = {k: v for k, v in self.headers.items() if k not in headers or k == "host"}
        return encode(self.command, {**headers, **given})


class Inner:
    """As the supervisor knows it: hashable, weakly referable."""

    def __init__(self, endpoint: Endpoint, wire: Wire, version: str) -> None:
        self.endpoint = endpoint
        self.wire = wire
        self.parser = FrameParser(version)
        self.dead: str | None = None  # the reason
        self.connected = RawFrame("CONNECTED", {}, b"")
        self.dialect: Dialect = detect("")
        self.is_paused = False  # its reader waits for the application
        self.read_ahead = 0  # bytes that came while the listeners had enough to do
        self.is_flooding = False  # was left because it sent more than anybody should
        self.reading = threading.RLock()  # of who reads and takes in; see `turns`
        self.is_torn = False  # a read has begun; one that did not end left its frames to nobody
        self.failure: Exception | None = None  # that a caller found when he read
        self.unacked: dict[str, str] = {}  # ack id -> subscription, of deliveries to be acked
        self._send_every = self._receive_every = 0.0  # s
        self._unread = 0
        self._has_reader = False
        self._was_held = False
        forking.register(self)

    def __repr__(self) -> str:
        return f"<Inner {self.endpoint}{f' dead: {self.dead}' if self.dead else ''}>"

    def log_in(self, frame: bytes, beats: tuple[int, int], deadline: Deadline) -> None:
        """Raises LoginRefused, OtherProtocol, WireBroken, ProtocolError or DeadlinePassed."""
        self.wire.send(frame)
        login = LoginAnswer(self.parser.version)
        while (answer := login.feed(read_until(self.wire, deadline))) is None:
            deadline.check()
        self.connected = answer
        self.dialect = detect(answer.headers.get("server", ""))
        told = answer.headers.get("heart-beat", "0,0")
        self._send_every, receive = agree_on_beats(beats, told)
        self._receive_every = BEATS * receive

    # --- use ------------------------------------------------------------------------------------

    def send(self, *pieces: bytes | memoryview) -> None:
        """Never waits. Raises WireBroken."""
        self.wire.send(*pieces)

    def read(self) -> list[RawFrame]:
        """What has come; nothing when nothing has. WireBroken, ProtocolError."""
        data = self.wire.receive()
        return self.parser.feed(data) if data else []

    @property
    def is_mine(self) -> bool:
        """Whether the calling thread reads or writes just now: it is in a signal handler."""
        return self.wire.is_mine or self.reading._is_owned()  # type: ignore[attr-defined]

    def take_over(self) -> None:
        """From now on one thread reads it, until it closes it."""
        self._has_reader = True

    def sever(self, reason: str) -> None:
        """Never blocks. The thread that reads then closes it; without one it is closed now."""
        if self.dead is None:
            self.dead = reason
        self.wire.sever(reason)
        if not self._has_reader:
            self.wire.close()

    def close(self) -> None:
        """For the thread that reads, or its owner while none does."""
        if self.dead is None:
            self.dead = "closed"
        self.wire.close()

    def is_current(self) -> bool:
        """Whether its deliveries can still be acknowledged."""
        return self.dead is None

    def is_sane(self) -> bool:
        """Whether what it has delivered is to be believed."""
        return not self.is_flooding

    def is_alive(self) -> bool:
        return self.dead is None and not self.wire.is_at_end()

    # --- what the monitor needs -----------------------------------------------------------------

    @property
    def heartbeat(self) -> float:
        """Seconds; the shorter of the two directions."""
        return min((s for s in (self._send_every, self._receive_every) if s), default=0.0)

    def beat(self, now: float) -> str | None:
        """Send a heartbeat if one is due; the reason when the peer is dead, else None."""
        if self.dead is not None:
            return None
        if not self._has_reader:
            try:
                self._take_in_idle()
            except (WireBroken, ProtocolError) as exc:
                return str(exc)
        if self._send_every and now - self.wire.last_sent >= self._send_every / 2:
            try:
                if not self.wire.waiting_bytes:  # else they are a sign of life, when they go out
                    self.wire.send(BEAT)
            except WireBroken as exc:
                return str(exc)
        unread = self.wire.unread()
        if unread != self._unread or unread > BUFFER_FULL:
            self._unread = unread
            self.wire.last_received = max(self.wire.last_received, now)
        silence = now - self.wire.last_received
        if self._receive_every and silence > 2 * self._receive_every:
            return f"no sign of life for {silence:.1f} s (two heartbeats)"
        return None

    def _take_in_idle(self) -> None:
        for frame in self.parser.feed(self.wire.receive()):
            if frame.command == "ERROR":
                raise ProtocolError(error_text(frame))
            if frame.command != HEARTBEAT:
                raise ProtocolError(f"{frame.command[:40]!r} on a connection nobody has used")

    # --- fork safety ----------------------------------------------------------------------------

    def hold(self) -> None:
        """Wait for who takes something in, but not if he waits for what the fork interrupts.

        A caller may be waiting for this very lock while his signal handler forks: in the child he
        goes on waiting for it, so it has to be free there.
        """
        self._was_held = self.reading.acquire(timeout=FORK_PATIENCE)

    def let_go(self) -> None:
        if self._was_held:
            self.reading.release()

    def abandon(self) -> None:
        if self._was_held:
            self.reading.release()
        else:
            self.reading = threading.RLock()  # the other's owner is a thread that is no more
        self.dead = "inherited from the parent process"
        self.wire.abandon()


def open_inner(
    endpoint: Endpoint,
    handshake: Handshake,
    beats: tuple[int, int],
    timeout: float,
    tls: tuple[ssl.SSLContext, str] | None = None,
    check_certificate: Any = None,
) -> Inner:
    """Dial and log in within ``timeout`` seconds; any exception means failure."""
    deadline = Deadline(timeout)
    inner = Inner(endpoint, Wire(), handshake.version)
    address = endpoint.host, endpoint.port or DEFAULT_PORTS.get(endpoint.scheme, 61613)
    try:
        inner.wire.connect(address, deadline, tls, handshake.source)
        if check_certificate is not None:
            fine, why = check_certificate(inner.wire.peer_certificate(), endpoint.host)
            if not fine:
                raise ssl.SSLError(f"the certificate was refused by cert_validator: {why}")
        asked = (beats[0], -(-beats[1] // BEATS))  # rounded up: 0 asks for none
        inner.log_in(handshake.frame(endpoint, asked), asked, deadline)
    except BaseException as exc:
        inner.close()
        if isinstance(exc, DeadlinePassed | TimeoutError):
            raise TimeoutError(f"no handshake within {timeout:g} s") from exc
        raise
    inner.wire.last_received = time.monotonic()
    return inner
