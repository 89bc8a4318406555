"""Names that no longer resolve, and certificates that run out, under a master's renewals."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import threading
import time
from collections.abc import Iterator
from types import TracebackType

import pytest

from understudy.testing import FaultProxy
from understudy.testing.brokers import Redis
from understudyd.lock.names import Names
from understudyd.testing.estate import Clients, SidecarEstate

pytestmark = [
    pytest.mark.chaos,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root has name servers of its own"),
]

NAME = "lock.example"
ELECTED = "the lock is ours"
A = 1  # a record of an IPv4 address; they are asked for AAAA besides
IP6_HOME = bytes(15) + b"\1"


class NameServer:
    """Says ::1 and 127.0.0.1 to whatever it is asked, until it falls silent."""

    def __init__(self, address: str) -> None:
        self.is_silent = False
        self.asked = 0
        self._is_over = False
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind((address, 53))
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> NameServer:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._is_over = True
        self._thread.join()
        self._socket.close()

    def _run(self) -> None:
        self._socket.settimeout(0.1)
        while not self._is_over:
            with contextlib.suppress(TimeoutError):
                question, client = self._socket.recvfrom(512)
                self.asked += 1
                if not self.is_silent:
                    self._socket.sendto(self._answer(question), client)

    def _answer(self, question: bytes) -> bytes:
        end = question.index(0, 12) + 5
        (kind,) = struct.unpack(">H", question[end - 4 : end - 2])
        address = socket.inet_aton("127.0.0.1") if kind == A else IP6_HOME
        head = question[:2] + struct.pack(">HHHHH", 0x8180, 1, 1, 0, 0)
        record = struct.pack(">HHHIH", 0xC00C, kind, 1, 0, len(address))
        return head + question[12:end] + record + address


@contextlib.contextmanager
def resolving(estate: SidecarEstate, address: str) -> Iterator[None]:
    """Have the sidecars ask this name server, and no other; they have a /etc of their own."""
    resolver, switch = estate.folder / "resolv.conf", estate.folder / "nsswitch.conf"
    resolver.write_text(f"nameserver {address}\n")
    switch.write_text("hosts: dns\n")
    binds = "; ".join(f"mount --bind {file} /etc/{file.name}" for file in (resolver, switch))
    for node in estate.nodes.values():
        node.prefix = ("unshare", "--mount", "sh", "-ec", f'{binds}; exec "$0" "$@"')
    yield


def test_a_name_server_that_dies_costs_no_master(redis_server: Redis, unique: str) -> None:
    """Catalogue 46: not even when the connection to the lock is lost after it. And 50: of the two
    addresses of its name only the second answers."""
    address = f"127.53.{os.getpid() % 250}.{int(time.time()) % 250}"
    with (
        NameServer(address) as names,
        FaultProxy(redis_server.host, redis_server.port) as proxy,
        SidecarEstate(f"redis://{NAME}:{proxy.port}/0?key={unique}") as estate,
        resolving(estate, address),
        Clients(estate),
    ):
        master = estate.start().master()
        standby = estate.other(master)
        standby.until("/readiness")
        token = master.token
        assert names.asked
        names.is_silent = True
        for _ in range(3):
            proxy.reset()
            time.sleep(0.7)
        assert master.is_master
        assert (master.token, standby.said(ELECTED)) == (token, [])
        assert len(estate.reigns()) == 1
        assert estate.judge() == []


def test_a_look_up_that_hangs_costs_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    names = Names(first=30, again=0.05)
    found = names.addresses("localhost")
    assert names.addresses("localhost") == found
    assert names.addresses("::1") == ("::1",)
    gate = threading.Event()
    look_up = socket.getaddrinfo

    def hang(*arguments: object, **options: object) -> object:
        gate.wait(30)
        return look_up(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    before = set(threading.enumerate())
    for _ in range(5):
        assert names.addresses("localhost") == found
    assert len(set(threading.enumerate()) - before) == 1
    gate.set()
    for name in ("no.such.name.invalid", "x" * 64):
        with pytest.raises(OSError, match=r"Name or service|no name of a host"):
            names.addresses(name)
