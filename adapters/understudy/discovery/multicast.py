"""``multicast://group``: brokers that announce themselves, as ActiveMQ's do.

The host is the group's name, or the IPv4 address of the multicast (then the group is "default");
the port is 6155 unless given. Options, as ActiveMQ has them: ``group``, ``keepAliveInterval`` (ms,
500), ``timeToLive`` (1), ``loopBackMode`` (false; true switches the loop back off), ``interface``
(an address), ``networkInterface`` and ``joinNetworkInterface`` (names).

Rules
* We only listen. The three interfaces are one question to a listener, where to join; the nearest to
  joining is taken. ``timeToLive`` and ``loopBackMode`` are set on the socket; on most systems they
  matter to who sends.
* A multicast address is open to all: whoever reaches it can announce what he likes, and so make
  clients try brokers that do not exist. Credentials he cannot collect (`learned`).
* A network that is not there yet, or a process that has no descriptor left, is tried again every
  five seconds, as ActiveMQ does.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import socket
import struct
import sys
import threading
import time
from dataclasses import dataclass
from urllib.parse import urlsplit

from understudy.core.redact import Source
from understudy.discovery.agent import Reports
from understudy.discovery.datagram import LARGEST, MISSED, Announcement, Presence
from understudy.discovery.query import flag, split_options, whole_number
from understudy.failover import forking
from understudy.failover.deadline import Deadline
from understudy.failover.polling import Wakeup

__all__ = ["MulticastAgent"]

ADDRESS, PORT, GROUP = "239.255.2.3", 6155, "default"
RETRY = 5.0  # s
PAUSE = 0.05  # s between two reports, so that a flood of forged announcements burns no CPU
AT_ONCE = 1000  # datagrams read between two looks at the clock; more wait in the kernel
OPTIONS = {
    *("group", "keepAliveInterval", "timeToLive", "loopBackMode"),
    *("interface", "networkInterface", "joinNetworkInterface"),
}


@dataclass(frozen=True)
class Place:
    """Where to listen."""

    address: str = ADDRESS
    port: int = PORT
    time_to_live: int = 1
    is_loop_off: bool = False
    interface: str = ""  # its name
    interface_address: str = ""

    def open(self) -> socket.socket:
        """A socket that has joined; raises OSError."""
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if hasattr(socket, "SO_REUSEPORT") and sys.platform != "linux":
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            # bound to the group, so that nothing else is read; Windows can't
            sock.bind(("" if os.name == "nt" else self.address, self.port))
            ip = socket.IPPROTO_IP
            sock.setsockopt(ip, socket.IP_MULTICAST_TTL, self.time_to_live)
            sock.setsockopt(ip, socket.IP_MULTICAST_LOOP, 0 if self.is_loop_off else 1)
            sock.setsockopt(ip, socket.IP_ADD_MEMBERSHIP, self._membership())
        except BaseException:
            sock.close()
            raise
        return sock

    def _membership(self) -> bytes:
        group = socket.inet_aton(self.address)
        if self.interface and os.name != "nt":
            number = socket.if_nametoindex(self.interface)
            return struct.pack("=4s4si", group, socket.inet_aton("0.0.0.0"), number)
        if self.interface:  # there an interface is named by 0.0.0.<its number>
            return group + struct.pack("!i", socket.if_nametoindex(self.interface))
        return group + socket.inet_aton(self.interface_address or "0.0.0.0")


class MulticastAgent:
    def __init__(self, place: Place, group: str, keep_alive: float) -> None:
        """``keep_alive`` in seconds."""
        self._place = place
        self._group = group
        self._keep_alive = keep_alive
        self._lock = threading.Lock()
        self._ear: _Ear | None = None
        forking.register(self)

    @classmethod
    def of(cls, address: str) -> MulticastAgent:
        """The agent of a ``multicast:`` address; raises ConfigurationError."""
        source = Source(address)
        try:
            url = urlsplit(address)
            host, port = url.hostname or "", url.port
            is_fine = bool(host) and port != 0 and url.path in ("", "/") and "@" not in url.netloc
        except ValueError:
            is_fine = False
        if not is_fine:
            raise source.error(
                "that is no multicast: address; write multicast://default or "
                f"multicast://{ADDRESS}:{PORT}?group=default"
            )
        ours, _ = split_options(url.query, OPTIONS, source)
        multicast, group = _address_or_group(host, source)
        place = Place(
            address=multicast,
            port=port or PORT,
            time_to_live=whole_number(ours, "timeToLive", 1, 0, 255, source),
            is_loop_off=flag(ours, "loopBackMode", source),
            interface=ours.get("joinNetworkInterface") or ours.get("networkInterface", ""),
            interface_address=_interface_address(ours.get("interface", ""), source),
        )
        interval = whole_number(ours, "keepAliveInterval", 500, 1, 3_600_000, source)
        return cls(place, ours.get("group") or group, interval / 1000)

    def __repr__(self) -> str:
        return f"<MulticastAgent {self._group} at {self._place.address}:{self._place.port}>"

    def start(self, reports: Reports) -> None:
        with self._lock:
            ear = self._ear = _Ear()
        if forking.start_thread("understudy-discovery", lambda: self._run(reports, ear)) is None:
            self._drop(ear)

    def stop(self) -> None:
        ear = self._ear
        if ear is not None:
            ear.over.set()
            if ear.wakeup is not None:
                ear.wakeup.set()

    def _run(self, reports: Reports, ear: _Ear) -> None:
        try:
            while not ear.over.is_set():
                try:
                    with self._lock:
                        ear.open(self._place)
                    self._listen(reports, ear)
                except OSError as exc:
                    reports.failed(f"cannot listen to {self._place.address}: {exc}")
                    ear.over.wait(RETRY)
                finally:
                    self._deafen(ear)
        finally:
            self._drop(ear)

    def _listen(self, reports: Reports, ear: _Ear) -> None:
        """Until the end, or an OSError."""
        assert ear.socket is not None
        assert ear.wakeup is not None
        presence = Presence(MISSED * self._keep_alive)
        tick = Deadline(self._keep_alive)
        told: tuple[str, ...] = ()
        while not ear.over.is_set():
            ear.wakeup.wait(ear.socket, tick)
            for data in _waiting_in(ear.socket):
                announcement = Announcement.decode(data, self._group)
                if announcement is not None:
                    presence.hear(announcement, time.monotonic())
            presence.expire(time.monotonic())
            if presence.addresses != told or tick.remaining() == 0:
                told = presence.addresses
                reports.found(told)
                ear.over.wait(PAUSE)
            if tick.remaining() == 0:
                tick = Deadline(self._keep_alive)

    def _deafen(self, ear: _Ear) -> None:
        with self._lock:
            if ear.socket is not None:
                ear.socket.close()
            ear.socket = None

    def _drop(self, ear: _Ear) -> None:
        with self._lock:
            if ear.wakeup is not None:
                ear.wakeup.close()
            if self._ear is ear:
                self._ear = None

    # --- fork safety ----------------------------------------------------------------------------

    def hold(self) -> None:
        self._lock.acquire()

    def let_go(self) -> None:
        self._lock.release()

    def abandon(self) -> None:
        self._lock = threading.Lock()
        if self._ear is not None:
            self._deafen(self._ear)
            self._drop(self._ear)


class _Ear:
    """What one start() owns."""

    def __init__(self) -> None:
        self.over = threading.Event()
        self.wakeup: Wakeup | None = None
        self.socket: socket.socket | None = None

    def open(self, place: Place) -> None:
        """Raises OSError, also for want of descriptors; may be called again then."""
        if self.wakeup is None:
            self.wakeup = Wakeup()
        self.socket = place.open()


def _waiting_in(sock: socket.socket) -> list[bytes]:
    found: list[bytes] = []
    with contextlib.suppress(BlockingIOError):
        while len(found) < AT_ONCE:
            found.append(sock.recv(LARGEST + 1))
    return found


def _address_or_group(host: str, source: Source) -> tuple[str, str]:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return ADDRESS, host
    if address.version != 4 or not address.is_multicast:
        raise source.error("that is no multicast address; IPv4 has 224.0.0.0 to 239.255.255.255")
    return host, GROUP


def _interface_address(text: str, source: Source) -> str:
    try:
        return str(ipaddress.IPv4Address(text)) if text else ""
    except ValueError:
        message = "interface must be an IPv4 address of this machine; a name is networkInterface"
        raise source.error(message) from None
