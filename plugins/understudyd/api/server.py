"""The API process: answers HTTP from the shared page, hands accepted POSTs to who owns it.

Rules
* It never waits for anything: what is not known now is a 503. Only an order to the owner (sidecar
  or bridge) waits, `ANSWER_TIME` at most.
* It knows the owner's death and the broker's from the kernel (pidfd), not from silence. When the
  owner is dead it answers 503 to who is connected and ends, so that the next one gets its place.
* It accepts connections itself and not by asyncio, so that each is counted from its first moment,
  TLS handshake included, and running out of descriptors costs the quietest client its place.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import resource
import socket
import ssl
import time
from collections.abc import Callable

from understudyd.api.connection import Connection, Crowd
from understudyd.api.metrics import Sample
from understudyd.api.routes import Asked, Reply, refusal
from understudyd.api.site import Process, Site
from understudyd.api.words import (
    LARGEST,
    Failed,
    Listening,
    Order,
    Settings,
    Verdict,
    Word,
    pack,
    unpack,
)
from understudyd.clock import now
from understudyd.config.model import Place

__all__ = ["serve"]

CONNECTIONS = 4000  # each costs some 5 KB
SPARE = 64  # descriptors that are not for connections
BACKLOG = 1024
AT_ONCE = 64  # connections accepted before others get their turn
ANSWER_TIME = 5.0  # s for the sidecar's verdict
ORDERS = 64  # that may wait for it
HANDSHAKE = 5.0  # s for TLS
FAREWELL = 0.1  # s for the last answers
BIND_TIME = 3.0  # s; the API of a sidecar that has just died frees its place within FAREWELL


def serve(site: Site, channel: socket.socket, control: int) -> int:
    """Serve until the owner, process ``control``, is dead or closes its end; the exit code."""
    message = channel.recv(LARGEST)
    if not message:  # the owner has died already
        return 0
    word = unpack(message)
    assert isinstance(word, Settings)
    try:
        tls = _tls_context(word)
        listeners = _bind(word.listen, patience=BIND_TIME)
    except OSError as exc:  # ssl.SSLError is one
        channel.send(pack(Failed(_told(word, exc))))
        return 1
    site.sign()
    with contextlib.suppress(OSError):  # the owner has died, which is seen below
        channel.send(pack(Listening()))
    return asyncio.run(_Server(site, channel, control, word, tls, listeners).run())


class _Server:
    def __init__(
        self,
        site: Site,
        channel: socket.socket,
        control: int,
        settings: Settings,
        tls: ssl.SSLContext | None,
        listeners: list[socket.socket],
    ) -> None:
        self._site = site
        self._channel = channel
        self._control = Process(control)
        self._settings = settings
        self._tls = tls
        self._listeners = listeners
        self._crowd = Crowd(_connections())
        self._waiting: dict[int, Callable[[Reply], None]] = {}
        self._count = 0  # of orders
        self._answered: dict[int, int] = {}  # by code

    async def run(self) -> int:
        loop = self._loop = asyncio.get_running_loop()
        self._end = asyncio.Event()
        self._channel.setblocking(False)
        loop.add_reader(self._channel, self._read_channel)
        if self._control.descriptor is not None:
            loop.add_reader(self._control.descriptor, self._end.set)
        self._open()
        sweeper = loop.create_task(self._sweep())
        await self._end.wait()
        sweeper.cancel()
        self._close()
        loop.remove_reader(self._channel)
        if self._control.descriptor is not None:
            loop.remove_reader(self._control.descriptor)
        for number in list(self._waiting):
            self._answer(number, refusal(503, f"the {self._site.owner} is dead"))
        await asyncio.sleep(FAREWELL)
        self._crowd.clear()
        return 0

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(1)
            self._site.sign()
            self._crowd.sweep(now())

    def _open(self) -> None:
        for listener in self._listeners:
            self._loop.add_reader(listener, self._accept, listener)

    def _close(self) -> None:
        for listener in self._listeners:
            self._loop.remove_reader(listener)
            listener.close()

    # --- the owner ------------------------------------------------------------------------------

    def _read_channel(self) -> None:
        try:
            message = self._channel.recv(LARGEST)
        except BlockingIOError:
            return
        except OSError:
            message = b""
        word = unpack(message) if message else None
        if word is None:
            self._end.set()
        elif isinstance(word, Settings):
            self._configure(word)
        elif isinstance(word, Verdict):
            self._answer(word.id, refusal(word.code, word.reason))

    def _configure(self, settings: Settings) -> None:
        """Anew, after a reload; what is no good changes nothing."""
        try:
            tls = _tls_context(settings)
            if settings.listen != self._settings.listen:
                listeners = _bind(settings.listen)
                self._close()
                self._listeners = listeners
                self._open()
        except OSError as exc:
            self._tell(Failed(_told(settings, exc)))
        else:
            self._settings, self._tls = settings, tls
            self._tell(Listening())

    def _tell(self, word: Word) -> bool:
        """False when the owner does not read what it was told already."""
        try:
            self._channel.send(pack(word))
        except OSError:
            return False
        return True

    # --- requests -------------------------------------------------------------------------------

    def _asked(self, asked: Asked, answer: Callable[[Reply], None]) -> None:
        is_alive = self._control.is_alive and not self._end.is_set()
        decided = self._site.answer(asked, self._settings.api, is_alive, self._samples())
        if isinstance(decided, Reply):
            self._count_code(decided.code)
            answer(decided)
            return
        self._count += 1
        order = Order(self._count, decided.name, decided.to, asked.peer)
        self._waiting[order.id] = answer
        if len(self._waiting) > ORDERS or not self._tell(order):
            self._answer(order.id, refusal(503, f"the {self._site.owner} is too busy"))
            return
        late = refusal(503, f"the {self._site.owner} did not answer within {ANSWER_TIME:g} s")
        self._loop.call_later(ANSWER_TIME, self._answer, order.id, late)

    def _answer(self, number: int, reply: Reply) -> None:
        """Once: later verdicts on the same order go nowhere."""
        answer = self._waiting.pop(number, None)
        if answer is not None:
            self._count_code(reply.code)
            answer(reply)

    def _count_code(self, code: int) -> None:
        self._answered[code] = self._answered.get(code, 0) + 1

    def _samples(self) -> list[Sample]:
        """What this process knows of itself."""
        return [
            ("api_connections", len(self._crowd), {}),
            ("api_evicted_total", self._crowd.evicted, {}),
            *(
                ("api_requests_total", count, {"code": str(code)})
                for code, count in self._answered.items()
            ),
        ]

    # --- connections ----------------------------------------------------------------------------

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(AT_ONCE):
            try:
                sock, address = listener.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError:  # no descriptor is left
                self._crowd.make_room(len(self._crowd) // 10 + 1)
                return
            sock.setblocking(False)
            connection = Connection(address[0], self._asked, self._crowd, now)
            connection.opening = self._loop.create_task(self._serve(sock, connection))
            self._crowd.enter(connection, now())

    async def _serve(self, sock: socket.socket, connection: Connection) -> None:
        """Until the connection is made."""
        patience = HANDSHAKE if self._tls else None
        try:
            await self._loop.connect_accepted_socket(
                lambda: connection, sock, ssl=self._tls, ssl_handshake_timeout=patience
            )
        except (OSError, asyncio.CancelledError):
            self._crowd.leave(connection)
            sock.close()


def _bind(place: Place, patience: float = 0.0) -> list[socket.socket]:
    """Listening sockets at all addresses of the place. Raises OSError."""
    until = now() + patience
    while True:
        try:
            return _bind_now(place)
        except OSError as exc:
            if exc.errno != errno.EADDRINUSE or now() >= until:
                raise
            time.sleep(FAREWELL / 2)


def _bind_now(place: Place) -> list[socket.socket]:
    found = socket.getaddrinfo(
        place.host, place.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    bound: list[socket.socket] = []
    missing: OSError | None = None
    try:
        for family, kind, protocol, _, address in dict.fromkeys(found):
            sock = socket.socket(family, kind, protocol)
            bound.append(sock)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            try:
                sock.bind(address)
            except OSError as exc:
                if exc.errno != errno.EADDRNOTAVAIL:
                    raise
                missing = exc  # localhost is ::1 too, on machines that have no ::1
                bound.pop().close()
                continue
            sock.listen(BACKLOG)
            sock.setblocking(False)
    except BaseException:
        for sock in bound:
            sock.close()
        raise
    if not bound:
        raise missing or OSError(errno.EADDRNOTAVAIL, "the host has no address")
    return bound


def _tls_context(settings: Settings) -> ssl.SSLContext | None:
    """Raises OSError for files that are no certificate and its key."""
    api = settings.api
    if api.tls_cert is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(api.tls_cert, api.tls_key)
    return context


def _told(settings: Settings, exc: OSError) -> str:
    if isinstance(exc, ssl.SSLError):
        return f"{settings.api.tls_cert} and {settings.api.tls_key} are no certificate with its key"
    return f"can't listen on {settings.listen}: {exc.strerror or exc}"


def _connections() -> int:
    """How many there may be: as many as are ours, or as the system lets us have."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = CONNECTIONS + SPARE
    limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    return max(1, limit - SPARE)
