"""The API process in tests: a master that is shown, and a client that keeps its connection."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import select
import signal
import ssl
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from understudy.testing.brokers import free_port
from understudyd.api.client import ApiProcess
from understudyd.api.page import Page, Snapshot
from understudyd.api.words import Settings
from understudyd.clock import now
from understudyd.config.model import Api, Place, Secret
from understudyd.status import BrokerStatus, ClusterStatus, NodeStatus, Role
from understudyd.testing import publisher

__all__ = [
    "API",
    "SECONDS",
    "SNAPSHOT",
    "STATUS",
    "Client",
    "receive",
    "serving",
    "settings",
    "show",
    "sidecars",
]

SECONDS = 60.0  # nothing here takes so long
STATUS = NodeStatus("g", "a", Role.MASTER, "master", 7, None, "a", BrokerStatus(True))
SNAPSHOT = Snapshot(STATUS, ClusterStatus("g", "file:/x", "a", 7))
API = Api(Secret("hush"))


def settings(api: Api = API) -> Settings:
    return Settings(Place("127.0.0.1", free_port()), api)


class Client:
    """One connection; each call is a request on it."""

    def __init__(self, given: Settings, tls: ssl.SSLContext | None = None) -> None:
        host, port = given.listen.host, given.listen.port
        if tls:
            self.http: http.client.HTTPConnection = http.client.HTTPSConnection(
                "localhost", port, timeout=SECONDS, context=tls
            )
        else:
            self.http = http.client.HTTPConnection(host, port, timeout=SECONDS)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.http.close()

    def get(self, path: str = "/master") -> int:
        self.http.request("GET", path)
        return self._answer()[0]

    def post(self, path: str, body: str = "", token: str = "hush") -> tuple[int, Any]:
        self.http.request("POST", path, body, {"Authorization": f"Bearer {token}"})
        return self._answer()

    def text(self, path: str) -> str:
        self.http.request("GET", path)
        return str(self._answer()[1].decode())

    def _answer(self) -> tuple[int, Any]:
        with self.http.getresponse() as response:
            body = response.read()
        return response.status, json.loads(body) if body.startswith(b"{") else body


@contextlib.contextmanager
def serving(given: Settings) -> Iterator[ApiProcess]:
    """One that answers, of a master."""
    with ApiProcess(given) as process:
        process.start()
        show(process.page)
        yield process


@contextlib.contextmanager
def sidecars() -> Iterator[Callable[..., tuple[subprocess.Popen[str], int]]]:
    """Starts a sidecar with an API; gives it and the API's process id."""
    with contextlib.ExitStack() as stack:

        def start(given: Settings, **options: Any) -> tuple[subprocess.Popen[str], int]:
            broker = BrokerStatus(True, os.getpid())
            snapshot = replace(SNAPSHOT, status=replace(STATUS, broker=broker))
            words = publisher.arguments(given, snapshot, **options)
            process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
            stack.callback(process.wait)
            stack.callback(process.kill)
            stack.callback(process.send_signal, signal.SIGCONT)
            assert process.stdout is not None
            stack.callback(process.stdout.close)
            return process, int(process.stdout.readline())

        yield start


def show(page: Page, snapshot: Snapshot = SNAPSHOT) -> None:
    page.publish(snapshot)
    page.beat(now() + 3600, 7)


def receive(process: ApiProcess) -> list[Any]:
    """What it has told; waits for something."""
    assert select.select([process], [], [], SECONDS)[0]
    return list(process.receive())
