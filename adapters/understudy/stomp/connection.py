"""`Connection12` and `Connection11`: stomp.py's own API above one failover session.

The methods that build frames (send, subscribe, ack, begin, …) are stomp.py's; every frame passes
`send_frame`, and there the failover begins.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from types import TracebackType
from typing import Any

from stomp.connect import StompConnection11, StompConnection12
from stomp.utils import Frame, merge_headers
from stomp.utils import encode as encode_body

from understudy.core.uri import FailoverURI
from understudy.errors import ConfigurationError
from understudy.failover.deadline import Deadline
from understudy.failover.notifier import EventCallback, checked_callback, logger
from understudy.stomp.arguments import Address, check_body, check_heartbeats, read_address
from understudy.stomp.commands import Commands
from understudy.stomp.dispatcher import receipt_job
from understudy.stomp.ending import let_go
from understudy.stomp.errors import ConnectionLost
from understudy.stomp.fanout import FanoutSender
from understudy.stomp.inner import Handshake
from understudy.stomp.message import OutMessage
from understudy.stomp.session import GOODBYE, Session
from understudy.stomp.transport import Transport

__all__ = ["Connection11", "Connection12"]


class Failover:
    """What both versions share. Everything public that is not here is stomp.py's."""

    version: str
    transport: Transport

    def __new__(cls, *args: Any, version: str | None = None, **options: Any) -> Any:
        if version not in (None, "1.1", "1.2"):
            raise ConfigurationError(f'version must be "1.1" or "1.2", not {version!r}')
        if version == "1.1" and cls is Connection12:
            return Connection11(*args, **options)
        if version is not None and not issubclass(cls, VERSIONS[version]):
            raise ConfigurationError(f"{cls.__name__} does not speak STOMP {version}")
        return super().__new__(cls)

    def __init__(
        self,
        uri: Address | None = None,
        *,
        version: str | None = None,
        on_event: EventCallback | None = None,
        options: Mapping[str, object] | None = None,
        heartbeats: tuple[int, int] = (0, 0),
        vhost: str | None = None,
        auto_decode: bool = True,
        encoding: str = "utf-8",
        auto_content_length: bool = True,
        bind_host_port: tuple[str, int] | None = None,
        host_and_ports: Iterable[tuple[str, int]] | None = None,
        **stomp_options: Any,
    ) -> None:
        """``uri`` is a failover URI, a plain stomp: URI, or a list of URIs or of stomp.py's
        (host, port), which are tried in order.

        ``options`` are options of the URI's, which goes before them; ``on_event`` is called with
        each event. The other arguments are stomp.py's: ``heartbeats`` in ms, where the shorter of
        it and the option ``heartbeat`` counts. What they say of reconnecting is not needed here.
        Raises ConfigurationError.
        """
        for name in stomp_options:
            if name not in IGNORED:
                raise TypeError(f"{type(self).__name__}() got an unexpected argument {name!r}")
        self.uri = read_address(uri if uri is not None else host_and_ports, options)
        self.version = "1.1" if isinstance(self, Connection11) else "1.2"
        self.heartbeats = check_heartbeats(heartbeats)
        self.auto_content_length = auto_content_length
        self.transport = Transport(vhost)
        self._on_event = checked_callback(on_event)
        self._decode = partial(decoded, encoding) if auto_decode else bytes
        self._bind = bind_host_port
        self._commands: Commands | None = None
        self._fanout: FanoutSender | None = None
        self._finalizer: weakref.finalize[..., Any] | None = None
        self._is_login_told = False

    def __repr__(self) -> str:
        session = self.transport.session
        state = "not connected"
        if session is not None:
            where = session.supervisor.current
            state = "closed" if session.is_closed else f"on {where}" if where else "connecting"
        return f"<{type(self).__name__} {state} of {self.uri}>"

    # --- begin and end --------------------------------------------------------------------------

    def connect(
        self,
        username: str | None = None,
        passcode: str | None = None,
        wait: bool = False,
        headers: Mapping[str, Any] | None = None,
        with_connect_command: bool = False,
        **keyword_headers: Any,
    ) -> None:
        """Connect to the first endpoint that answers, and stay connected until disconnect().

        One that is dropped without it flushes and ends by itself, unless something is subscribed.
        The credentials are for endpoints that have none of their own. With ``wait`` it returns when
        connected, or raises ConnectFailed after ``timeout`` or startupMaxReconnectAttempts.
        """
        deadline = self._deadline()
        self._tell_login(username, passcode)
        with self.transport.connecting:
            session = self.transport.session
            if session is None or session.is_closed:
                shown = Frame("CONNECT", merge_headers([headers, keyword_headers]), "")
                self._tell_send(shown)
                handshake = Handshake(
                    "CONNECT" if with_connect_command else "STOMP",
                    self.version,
                    username,
                    passcode,
                    self.transport.vhost,
                    dict(shown.headers),
                    self._bind,
                )
                session = self._begin(handshake)
        session.start()
        if wait:
            self._wait_connected(session, deadline)

    def _begin(self, handshake: Handshake) -> Session:
        session = self._new_session(handshake)
        self.transport.session = session
        self._commands = Commands(session)
        if self.uri.scheme == "fanout":
            self._fanout = FanoutSender(self.uri, partial(self._member, handshake))
        self._end_when_dropped(session)
        return session

    def _wait_connected(self, session: Session, deadline: Deadline) -> None:
        try:
            session.wait_connected(deadline)
        except BaseException:
            if not session.is_connected:  # nobody is left who wants it to go on
                if self._fanout is not None:
                    self._fanout.close(Deadline(0))
                session.close()
            raise

    def _end_when_dropped(self, session: Session) -> None:
        """That is why nothing that the session's thread uses may refer to this connection."""
        if self._finalizer is not None:
            self._finalizer.detach()
        self._finalizer = weakref.finalize(self, let_go, session, self._fanout)
        self._finalizer.atexit = False

    def _tell_login(self, username: str | None, passcode: str | None) -> None:
        """Once: a login that is not used where a member has another one is easily overlooked."""
        if username is None or self._is_login_told:
            return
        for endpoint in self.uri.endpoints:
            other = passcode is not None and endpoint.password != passcode
            if endpoint.username is not None and (other or endpoint.username != username):
                self._is_login_told = True
                logger.warning(
                    "connect() was given a login, but %s has another in its URI, which is used",
                    endpoint,
                )
                return

    def _new_session(self, handshake: Handshake) -> Session:
        return Session(
            self.uri,
            handshake,
            self.transport,
            beats=self.heartbeats,
            decode=self._decode,
            on_event=self._on_event,
            before=self.transport.session,
        )

    def _member(self, handshake: Handshake, uri: FailoverURI, on_event: EventCallback) -> Session:
        """Of one broker of a fanout: no listener hears of it."""
        return Session(
            uri,
            handshake,
            self.transport.without_listeners(),
            beats=self.heartbeats,
            decode=self._decode,
            on_event=on_event,
        )

    def disconnect(
        self,
        receipt: str | None = None,
        headers: Mapping[str, Any] | None = None,
        **keyword_headers: Any,
    ) -> None:
        """Flush what is tracked, say goodbye and leave, within closeTimeout and three seconds.

        Of fanout: the copies that are still to go are waited for as well.
        Raises what was refused of the tracked messages (Refused).
        """
        session = self.transport.session
        if session is None or session.is_closed:
            return
        said = merge_headers([headers, keyword_headers])
        if receipt:
            said["receipt"] = receipt
        self.transport.notify("disconnecting")
        try:
            if self._fanout is not None:
                self._fanout.close(Deadline(session.options.close_timeout / 1000))
            session.flush_at_close()
        finally:
            self._tell_send(Frame("DISCONNECT", said, ""))
            session.say_goodbye(said, Deadline(GOODBYE))
            session.close()

    def flush(self, timeout: float | None = None) -> bool:
        """Wait until every tracked message is confirmed; False when ``timeout`` (s) is over.

        Raises Refused for the first message that a broker refused since the last flush, and
        ConnectFailed when reconnecting was given up.
        """
        session = self.transport.session
        return True if session is None else session.sender.flush(Deadline(timeout))

    def __enter__(self) -> Any:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.disconnect()

    @property
    def stale_acks(self) -> int:
        """How many acknowledgements named no delivery of the present connection: dropped."""
        session = self.transport.session
        return 0 if session is None else session.stale_acks

    def override_threading(self, create_thread_fc: Callable[[Callable[[], None]], Any]) -> None:
        self.transport.override_threading(create_thread_fc)

    # --- frames ---------------------------------------------------------------------------------

    def send(
        self,
        destination: str,
        body: str | bytes,
        content_type: str | None = None,
        headers: Mapping[str, Any] | None = None,
        **keyword_headers: Any,
    ) -> None:
        """Return when a broker has confirmed it, or with trackMessages at once.

        Raises TypeError for another kind of body, SendTimeout, Refused and ConnectFailed.
        """
        check_body(body)
        stomp_send = super().send  # type: ignore[misc]  # of stomp.py's class beside this one
        stomp_send(destination, body, content_type, headers, **keyword_headers)

    def send_frame(
        self, cmd: str, headers: Mapping[str, Any] | None = None, body: Any = ""
    ) -> None:
        """What every command comes to."""
        frame = Frame(cmd, dict(headers or {}), body)
        self._tell_send(frame)
        said = frame.headers
        session = self.transport.session
        if frame.cmd in VOID_AFTER_END and session is not None and session.is_closed:
            session.stale_acks += frame.cmd in ("ACK", "NACK")
            return
        commands, deadline = self._open_commands(), self._deadline()
        match frame.cmd:
            case "SEND":
                self._send(frame, deadline)
            case "SUBSCRIBE":
                commands.subscribe(said, deadline)
            case "UNSUBSCRIBE":
                commands.unsubscribe(said)
            case "ACK" | "NACK":
                commands.acknowledge(frame.cmd, said)
            case "BEGIN" if self._fanout is not None:
                raise ConfigurationError("fanout: has no transactions over several brokers")
            case "BEGIN":
                commands.begin(said)
            case "COMMIT":
                commands.commit(said, deadline)
            case "ABORT":
                commands.abort(said)
            case _:
                raise ValueError(f"{cmd!r} is no command for send_frame")

    def _send(self, frame: Frame, deadline: Deadline) -> None:
        session = self.transport.session
        assert session is not None
        assert self._commands is not None
        body = encode_body(frame.body or "")
        headers = frame.headers
        if self.auto_content_length or "content-length" in headers:
            headers["content-length"] = len(body)
        tracked = session.sender.is_tracking and not headers.get("transaction")
        message = OutMessage(headers, body, version=self.version, is_tracked=tracked)
        if "reply-to" in headers:
            session.reader.expect_replies()
        if message.transaction:
            self._commands.send(message)
        elif self._fanout is not None and self._fanout.takes(message):
            self._fanout.send(message, deadline)
            if message.receipt is not None:
                session.dispatcher.put([receipt_job(message.receipt)])
        else:
            session.sender.send(message, deadline)

    def _tell_send(self, frame: Frame) -> None:
        """Listeners may change a frame before it is sent, as in stomp.py."""
        if self.transport.listeners:
            self.transport.notify("send", frame)

    def _open_commands(self) -> Commands:
        session = self.transport.session
        if session is None or self._commands is None or session.is_closed:
            raise ConnectionLost("not connected: call connect() first")
        return self._commands

    def _deadline(self) -> Deadline:
        limit = self.uri.options.timeout
        return Deadline(None if limit < 0 else limit / 1000)


def decoded(encoding: str, body: bytes) -> Any:
    """Text where it is text, else the bytes as they came: never a damaged body."""
    try:
        return body.decode(encoding)
    except UnicodeDecodeError:
        return body


class Connection12(Failover, StompConnection12):
    """STOMP 1.2; ``version="1.1"`` gives a `Connection11`."""


class Connection11(Failover, StompConnection11):
    """STOMP 1.1, where ack() and nack() take the message id and the subscription."""


VERSIONS = {"1.1": Connection11, "1.2": Connection12}

#: commands about what the broker forgets with the connection: void after disconnect()
VOID_AFTER_END = frozenset({"ACK", "NACK", "UNSUBSCRIBE", "ABORT"})

#: arguments of stomp.py's about its own reconnecting, sockets and heart-beats
IGNORED = frozenset(
    {
        "prefer_localhost",
        "try_loopback_connect",
        "reconnect_sleep_initial",
        "reconnect_sleep_increase",
        "reconnect_sleep_jitter",
        "reconnect_sleep_max",
        "reconnect_attempts_max",
        "timeout",
        "keepalive",
        "heart_beat_receive_scale",
    }
)
