"""The health checks there are: amqp, stomp, tcp, http, command."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import socket
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import understudy
from understudy.core.endpoint import DEFAULT_PORTS
from understudy.core.redact import redact
from understudy.errors import ConfigurationError
from understudyd.config.model import Command, Node
from understudyd.drivers.command import run
from understudyd.health.port import Health, HealthCheck
from understudyd.health.probe import probe

__all__ = ["CommandCheck", "HttpCheck", "LoginCheck", "TcpCheck", "make"]


@dataclass(frozen=True)
class LoginCheck:
    """AMQP or STOMP: connect, log in, and leave again."""

    endpoint: understudy.Endpoint

    def check(self, timeout: float) -> Health:
        answer = probe(self.endpoint, timeout)
        return Health(answer.ok, answer.server if answer.ok else answer.error)


@dataclass(frozen=True)
class TcpCheck:
    """The port can be connected to."""

    host: str
    port: int

    def check(self, timeout: float) -> Health:
        try:
            socket.create_connection((self.host, self.port), timeout).close()
        except OSError as error:
            return Health(False, f"port {self.port}: {error.strerror or error}")
        return Health(True, f"port {self.port} is open")


@dataclass(frozen=True)
class HttpCheck:
    """GET of this address is answered with a 2xx. No proxy is asked."""

    url: str

    def check(self, timeout: float) -> Health:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        where = redact(self.url)
        try:
            with contextlib.closing(opener.open(self.url, timeout=timeout)) as answer:
                return Health(200 <= answer.status < 300, f"{where}: {answer.status}")
        except urllib.error.HTTPError as error:
            with contextlib.closing(error):
                return Health(False, f"{where}: {error.code}")
        except (OSError, ValueError) as error:  # URLError is an OSError
            reason = getattr(error, "reason", error)
            return Health(False, f"{where}: {redact(str(reason))}")
        except Exception as error:  # http.client's, for what is no HTTP
            return Health(False, f"{where}: no HTTP ({type(error).__name__})")


@dataclass(frozen=True)
class CommandCheck:
    """A command that ends with exit code 0 within its limit, run by us in the broker's folder."""

    argv: tuple[str, ...]
    env: tuple[tuple[str, str], ...]
    cwd: Path | None = None

    def check(self, timeout: float) -> Health:
        outcome = run(Command(self.argv, timeout), {**os.environ, **dict(self.env)}, cwd=self.cwd)
        return Health(outcome.ok, outcome.detail or self.argv[0])


def make(node: Node) -> HealthCheck:
    """The check that is configured.

    Raises ConfigurationError where the URI is no use for it, or a library is missing.
    """
    health = node.broker.health
    if health.kind == "command":
        return CommandCheck(health.argv, tuple(node.broker.env.items()), node.broker.cwd)
    if health.kind == "http":
        return HttpCheck(health.url)
    endpoint = understudy.parse(node.uri.reveal()).endpoints[0]
    if health.kind == "amqp" and importlib.util.find_spec("amqp") is None:
        raise ConfigurationError('py-amqp is not installed: pip install "understudy[sidecar]"')
    if health.kind != "tcp":
        return LoginCheck(endpoint)
    port = endpoint.port or DEFAULT_PORTS.get(endpoint.scheme)
    if not endpoint.host or port is None:
        raise ConfigurationError(f"{endpoint.redacted} names no host and port to connect to")
    return TcpCheck(endpoint.host, port)
