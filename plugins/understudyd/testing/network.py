"""A small network of a test's own, to be cut: one network namespace for each place, one switch.

Rules
* The switch is a bridge in a namespace of its own, and each place hangs on it by a pair of virtual
  cables. Nothing in the namespace of the test is touched, and nothing gets a name on this machine.
* A namespace lives as long as what runs in it. Each is held open by a process that waits for the
  end of its input, so that all is gone with the test, whatever way that ends.
* What is cut off loses packets without a word: no carrier goes, no address is refused.
* A direction is lost where it begins: the sender has a false hardware address of the receiver.
* A part of the packets is lost where they arrive, by a rule of the place's own firewall.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import subprocess
from collections.abc import Iterator
from functools import partial
from types import TracebackType
from typing import Any

from understudy.errors import UnderstudyError
from understudy.testing.brokers import Redis
from understudy.testing.brokers.server import Command
from understudyd.testing.estate import SidecarEstate

__all__ = ["LOCK", "Network", "NetworkMissing", "WalledRedis", "estate_apart"]

LOCK = "lock"
"""The place of the Redis that keeps the lock."""

_CLONE_NEWNET = 0x40000000
_NOBODY = "02:00:00:00:00:ff"
_libc = ctypes.CDLL(None, use_errno=True)


class NetworkMissing(UnderstudyError):
    """No network can be made here; the text says why."""


class Network:
    """Places that reach each other until they are cut off; a context manager.

    Entering raises NetworkMissing without root, without `ip`, or where the kernel allows no
    namespaces.
    """

    def __init__(self, *names: str) -> None:
        self._addresses = {name: f"10.0.0.{number}" for number, name in enumerate(names, 1)}
        self._ports = {name: f"port{number}" for number, name in enumerate(names, 1)}
        self._holders: dict[str, subprocess.Popen[bytes]] = {}
        self._lost: set[tuple[str, str]] = set()
        self._thin: set[str] = set()

    def __enter__(self) -> Network:
        _check()
        try:
            self._build()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the namespaces; each ends with the last process in it. Idempotent."""
        for holder in self._holders.values():
            holder.kill()
            holder.communicate()
        self._holders.clear()

    def address(self, name: str) -> str:
        return self._addresses[name]

    def prefix(self, name: str) -> tuple[str, ...]:
        """What runs a command at this place; it becomes the command, under the same pid."""
        return ("nsenter", f"--net={self._file(name)}")

    @contextlib.contextmanager
    def inside(self, name: str) -> Iterator[None]:
        """Sockets that this thread makes meanwhile are at this place."""
        with open("/proc/thread-self/ns/net", "rb") as own, open(self._file(name), "rb") as there:
            _enter(there.fileno())
            try:
                yield
            finally:
                _enter(own.fileno())

    def cut(self, name: str) -> None:
        """Cut this place off from all others."""
        self._switch("link", "set", self._ports[name], "nomaster")

    def lose(self, sender: str, receiver: str) -> None:
        """Lose what the one sends to the other, and only that."""
        self._neighbour("replace", sender, receiver, "lladdr", _NOBODY, "nud", "permanent")
        self._lost.add((sender, receiver))

    def thin(self, name: str, percent: int) -> None:
        """Lose so many of a hundred packets that arrive at this place, at random."""
        if shutil.which("nft") is None:
            raise NetworkMissing("nft is not installed: apt-get install nftables")
        rules = (
            "add table inet thin",
            "add chain inet thin arriving { type filter hook input priority 0; }",
            f"add rule inet thin arriving iif eth0 numgen random mod 100 < {percent} drop",
        )
        self._run(name, "nft", "; ".join(rules))
        self._thin.add(name)

    def heal(self, name: str) -> None:
        """Undo all that was cut or lost at this place. Idempotent."""
        if name in self._thin:
            self._run(name, "nft", "delete table inet thin")
            self._thin.remove(name)
        self._switch("link", "set", self._ports[name], "master", "switch")
        for way in [way for way in self._lost if name in way]:
            self._neighbour("del", *way)
            self._lost.remove(way)

    def _build(self) -> None:
        self._hold("")
        settings = ("stp_state", "0", "forward_delay", "0")  # a port that comes back works at once
        self._switch("link", "add", "switch", "type", "bridge", *settings)
        self._switch("link", "set", "switch", "up")
        for name, port in self._ports.items():
            pid = str(self._hold(name))
            pair = ("type", "veth", "peer", "name", "eth0", "netns", pid)
            self._switch("link", "add", port, *pair)
            self._switch("link", "set", port, "master", "switch", "up")
            self._at(name, "address", "add", f"{self.address(name)}/24", "dev", "eth0")
            for device in ("lo", "eth0"):
                self._at(name, "link", "set", device, "up")

    def _hold(self, name: str) -> int:
        """Make a namespace; the pid of the process that holds it."""
        pipe = subprocess.PIPE
        holder = subprocess.Popen(
            ["unshare", "--net", "cat"], stdin=pipe, stdout=pipe, stderr=pipe, bufsize=0
        )
        self._holders[name] = holder
        assert holder.stdin
        assert holder.stdout
        assert holder.stderr
        with contextlib.suppress(BrokenPipeError):
            holder.stdin.write(b"\n")
        if not holder.stdout.read(1):  # what comes back comes from the new namespace
            raise NetworkMissing(f"no network namespace: {holder.stderr.read().decode().strip()}")
        return holder.pid

    def _file(self, name: str) -> str:
        return f"/proc/{self._holders[name].pid}/ns/net"

    def _switch(self, *arguments: str) -> None:
        self._at("", *arguments)

    def _neighbour(self, verb: str, sender: str, receiver: str, *more: str) -> None:
        self._at(sender, "neigh", verb, self.address(receiver), "dev", "eth0", *more)

    def _at(self, name: str, *arguments: str) -> None:
        self._run(name, "ip", *arguments)

    def _run(self, name: str, *command: str) -> None:
        done = subprocess.run(
            [*self.prefix(name), *command], capture_output=True, text=True, timeout=60
        )
        if done.returncode:
            raise NetworkMissing(f"{' '.join(command)}: {done.stderr.strip()}")


class WalledRedis(Redis):
    """A Redis at the place LOCK of a network."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self._network = network

    @property
    def uri(self) -> str:
        return f"redis://{self._network.address(LOCK)}:{self.port}/0"

    def _prepare(self) -> Command:
        command = super()._prepare()
        everywhere = ("--bind", "0.0.0.0", "--protected-mode", "no")
        return Command([*self._network.prefix(LOCK), *command.argv, *everywhere], command.env)

    def _is_ready(self) -> bool:
        with self._network.inside(LOCK):
            return super()._is_ready()


@contextlib.contextmanager
def estate_apart(names: str = "ab", **options: Any) -> Iterator[tuple[SidecarEstate, Network]]:
    """A group, not started yet, of which each node has a place of its own, as has its Redis.

    A node's address on 127.0.0.1 is within its place; the estate and its clients know that.
    Raises NetworkMissing and ServerMissing.
    """
    with (
        Network(LOCK, *names) as network,
        WalledRedis(network) as redis,
        SidecarEstate(redis.uri, names=names, **options) as estate,
    ):
        for name, node in estate.nodes.items():
            node.prefix = network.prefix(name)
            node.inside = partial(network.inside, name)
        yield estate, network


def _check() -> None:
    if os.geteuid() != 0:
        raise NetworkMissing("only root can make network namespaces")
    for tool, package in (("ip", "iproute2"), ("unshare", "util-linux"), ("nsenter", "util-linux")):
        if shutil.which(tool) is None:
            raise NetworkMissing(f"{tool} is not installed: apt-get install {package}")


def _enter(descriptor: int) -> None:
    if _libc.setns(descriptor, _CLONE_NEWNET):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
