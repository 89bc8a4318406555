"""Members that nobody configured: from files, web servers and multicast."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from understudy.errors import ConfigurationError, ConnectFailed
from understudy.testing import FaultProxy, wait_until
from understudy.testing.scenarios import Scene

pytestmark = pytest.mark.integration

OFTEN = "updateInterval=50"  # ms


class ListFile:
    """A list that is replaced whole, as an operator should."""

    def __init__(self, scene: Scene, path: Path) -> None:
        self.path = path
        self.agent = f"discovery:(file:{path}?{OFTEN})"
        self._scene = scene

    def write(self, *members: FaultProxy, separator: str = "\n") -> None:
        text = separator.join(bare(self._scene, member) for member in members)
        draft = self.path.with_suffix(".draft")
        draft.write_text(text + "\n", encoding="utf-8")
        draft.replace(self.path)


def bare(scene: Scene, member: FaultProxy) -> str:
    """As it is announced: without credentials."""
    return scene.place.address(member.host, member.port, login="")


@pytest.fixture
def listed(scene: Scene, tmp_path: Path) -> ListFile:
    return ListFile(scene, tmp_path / "brokers")


def knows(scene: Scene, *members: FaultProxy) -> bool:
    """Wait until the client was told of just these members."""

    def told() -> bool:
        changes = [e for e in scene.events.all if type(e).__name__ == "EndpointsChanged"]
        ports = re.findall(r"127\.0\.0\.1:(\d+)", changes[-1].reason) if changes else []
        return {*map(int, ports)} == {member.port for member in members}

    return wait_until(told)


@pytest.mark.scenario("F45")
@pytest.mark.parametrize("separator", ["\n", ","])
def test_update_uris_url(scene: Scene, listed: ListFile, separator: str) -> None:
    """F45: a second broker is added to the file; the first dies: the client moves there."""
    gone, one, two = scene.member(), scene.member(), scene.member()
    gone.refuse()
    listed.write(one)
    url = quote(f"file:{listed.path}?{OFTEN}", safe="")
    client = scene.open(gone, updateURIsURL=url)
    client.send(scene.queue, "1")
    assert scene.events.moves_to(one.port)
    listed.write(one, two, separator=separator)
    assert knows(scene, gone, one, two)
    scene.cut_off(one)
    client.send(scene.queue, "2")
    assert scene.events.moves_to(two.port)
    assert scene.bodies() == ["1", "2"]


@pytest.mark.scenario("F46", "D05")
def test_learned_members_beside_configured_ones(scene: Scene, listed: ListFile) -> None:
    """F46: a learned one serves while the configured one is gone, and the other way round."""
    configured, learned = scene.member(), scene.member()
    listed.write(learned)
    client = scene.open(configured, listed.agent)
    client.send(scene.queue, "1")
    assert knows(scene, configured, learned)
    scene.cut_off(configured)
    client.send(scene.queue, "2")
    assert scene.events.moves_to(learned.port)
    configured.heal()
    scene.cut_off(learned)
    client.send(scene.queue, "3")
    assert scene.events.moves_to(configured.port)
    assert scene.bodies() == ["1", "2", "3"]


@pytest.mark.scenario("D05")
def test_a_member_that_is_no_longer_listed(scene: Scene, listed: ListFile) -> None:
    """D05: it leaves the list, the living link to it stays."""
    configured, learned = scene.member(), scene.member()
    configured.refuse()
    listed.write(learned)
    client = scene.open(configured, listed.agent)
    client.send(scene.queue, "1")
    assert scene.events.moves_to(learned.port)
    moves = len(scene.events.names)
    listed.write()
    assert wait_until(lambda: len(scene.events.names) > moves)
    assert knows(scene, configured)
    accepted = learned.accepted
    client.send(scene.queue, "2")
    assert learned.accepted == accepted
    assert scene.events.count("Interrupted") == 0
    assert scene.bodies() == ["1", "2"]


@pytest.mark.scenario("D04")
def test_options_of_found_members(scene: Scene, listed: ListFile) -> None:
    """D04: discovered.heartbeat reaches a found member, so its silence is noticed."""
    configured, learned = scene.member(), scene.member()
    configured.refuse()
    listed.write(learned)
    client = scene.open(configured, listed.agent, discovered__heartbeat=1000, heartbeat=0)
    client.send(scene.queue, "1")
    assert scene.events.moves_to(learned.port)
    configured.heal()
    learned.black_hole()
    scene.background(lambda: client.send(scene.queue, "2")).join()
    assert scene.events.moves_to(configured.port)


@pytest.mark.scenario("D02")
def test_attempts_end(scene: Scene, listed: ListFile) -> None:
    """D02: maxReconnectAttempts over found members ends with an error that names them."""
    found = scene.noise()
    listed.path.write_text(scene.place.address(found.host, found.port, login=""), encoding="utf-8")
    gone = scene.member()
    gone.refuse()
    with pytest.raises(ConnectFailed) as caught:
        scene.open(gone, listed.agent, maxReconnectAttempts=8)
    assert found.accepted > 0
    assert str(found.port) in str(caught.value)


@pytest.mark.scenario("D06")
@pytest.mark.parametrize(
    "agent", ["multicast://group:99999", "multicast://10.0.0.1", "file:///", "multcast://default"]
)
def test_bad_agent_address(scene: Scene, agent: str) -> None:
    """D06: refused at once, before any socket, and no thread is left."""
    threads = threading.active_count()
    with pytest.raises(ConfigurationError):
        scene.open(f"discovery:({agent})")
    assert threading.active_count() <= threads


class Registry(BaseHTTPRequestHandler):
    text = ""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.text.encode())

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def registry() -> Iterator[ThreadingHTTPServer]:
    with ThreadingHTTPServer(("127.0.0.1", 0), type("OwnRegistry", (Registry,), {})) as server:
        serving = threading.Thread(target=server.serve_forever, args=(0.05,))
        serving.start()
        yield server
        server.shutdown()
        serving.join()


@pytest.mark.scenario("D07")
def test_list_over_http(scene: Scene, registry: Any) -> None:
    """D07: what the server lists is used; when it fails, what it listed is kept."""
    configured, learned = scene.member(), scene.member()
    configured.refuse()
    handler = registry.RequestHandlerClass
    handler.text = bare(scene, learned)
    port = registry.server_address[1]
    client = scene.open(configured, f"discovery:(http://127.0.0.1:{port}/uris?{OFTEN})")
    client.send(scene.queue, "1")
    assert scene.events.moves_to(learned.port)
    handler.text = "\x00 this is no list"
    learned.reset()
    client.send(scene.queue, "2")
    assert scene.bodies() == ["1", "2"]
