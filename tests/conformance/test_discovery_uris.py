"""Which agents a URI names, which are refused, and what one look at them tells."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import pytest

from understudy import ConfigurationError, parse
from understudy.discovery import (
    MemoryAgent,
    Reports,
    agent_schemes,
    attach,
    look,
    registry,
)
from understudy.failover.supervisor import Supervisor
from understudy.testing import FakeDialer, wait_until

PATIENCE = 20.0  # s


@pytest.mark.parametrize(
    ("text", "agents"),
    [
        ("discovery:(file:/x)", ["<FileAgent /x>"]),
        ("discovery:(file:///x%20y?updateInterval=5000)", ["<FileAgent /x y>"]),
        ("discovery:(file:uris.txt)", ["<FileAgent uris.txt>"]),
        ("discovery:(http://u:pw@h/x?a=b)", ["<HttpAgent http://u:**@h/x?a=b>"]),
        ("discovery:(https://h:1/x?updateInterval=50&a=b)", ["<HttpAgent https://h:1/x?a=b>"]),
        ("discovery:(multicast://default)", ["<MulticastAgent default at 239.255.2.3:6155>"]),
        ("discovery:(multicast://orders:7000)", ["<MulticastAgent orders at 239.255.2.3:7000>"]),
        ("discovery:(multicast://239.1.2.3)", ["<MulticastAgent default at 239.1.2.3:6155>"]),
        ("discovery:(multicast://239.1.2.3:5?group=x)", ["<MulticastAgent x at 239.1.2.3:5>"]),
        ("failover:()?updateURIsURL=/x y", ["<FileAgent /x y>"]),
        ("failover:()?updateURIsURL=file:/x", ["<FileAgent /x>"]),
        ("failover:()?updateURIsURL=http://h/x", ["<HttpAgent http://h/x>"]),
        ("failover:(amqp://a)?updateURIsURL=/x&updateURIsSupported=false", []),
        ("failover:(amqp://a)", []),
        (
            "discovery:(http://h/x?key=a,http://h/x?key=b,http://h/x?key=a)",
            ["<HttpAgent http://h/x?key=**>"] * 2,
        ),
    ],
)
def test_f45_the_agents_of_a_uri(text: str, agents: list[str]) -> None:
    assert [repr(agent) for agent in registry.agents_of(parse(text)).values()] == agents


@pytest.mark.parametrize(
    ("address", "word"),
    [
        ("file:?x=y", "needs a path"),
        ("file://host/path", "no host"),
        ("file:/x?updateIntervall=5", "did you mean updateInterval?"),
        ("file:/x?updateInterval=0", "updateInterval must be 10 to"),
        ("file:/x?updateInterval=soon", "updateInterval must be"),
        ("http:///x", "http: address"),
        ("http:host/x", "http: address"),
        ("http://h:99999/x", "http: address"),
        ("multicast://10.0.0.1", "no multicast address"),  # D06
        ("multicast://[ff02::1]", "no multicast address"),
        ("multicast://default:0", "multicast: address"),
        ("multicast://default/x", "multicast: address"),
        ("multicast://u:s3cret@default", "multicast: address"),
        ("multicast://default?loopBackMode=yes", "true or false"),
        ("multicast://default?keepAliveInterval=-1", "keepAliveInterval must be"),
        ("multicast://default?interface=eth0", "networkInterface"),
        ("multicast://default?grup=x", "did you mean group?"),
        ("multicast://default?group=a&group=b", "twice"),
    ],
)
def test_d06_an_agent_that_cannot_be_is_refused_at_construction(address: str, word: str) -> None:
    uri = parse(f"failover:(amqp://a,discovery:({address}))")
    supervisor = Supervisor(uri, FakeDialer())
    with pytest.raises(ConfigurationError) as refused:
        attach(uri, supervisor)
    assert word in str(refused.value)
    assert "s3cret" not in str(refused.value)
    supervisor.close()


def test_other_packages_bring_agents_by_entry_point(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = tmp_path / "their_agents-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: their-agents\nVersion: 1\n")
    points = "consul = their_agents:make\nfile = their_agents:make\nbroken = their_agents:nothing\n"
    (info / "entry_points.txt").write_text(f"[{registry.GROUP}]\n{points}")
    (tmp_path / "their_agents.py").write_text(
        "from understudy.discovery import MemoryAgent\n"
        "def make(address):\n"
        "    return MemoryAgent('amqp://' + address.rpartition('/')[2])\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    registry._theirs.cache_clear()
    try:
        assert {"consul", "broken", "file", "multicast"} <= agent_schemes()
        uri = parse("discovery:(consul://c/mq1)", agents=agent_schemes())
        assert [str(one) for one in look(uri, patience=PATIENCE)[0].endpoints] == ["amqp://mq1"]
        assert repr(registry.make_agent("file:/x")) == "<FileAgent /x>"  # ours stay ours
        with pytest.raises(ConfigurationError, match="cannot be made"):
            registry.make_agent("broken:x")
        with pytest.raises(ConfigurationError, match=r"valid: broken, consul, file"):
            registry.make_agent("zookeeper:x")
    finally:
        registry._theirs.cache_clear()
        sys.modules.pop("their_agents", None)


# --- a look ---------------------------------------------------------------------------------------


def test_a_look_asks_every_agent_once(tmp_path: Path) -> None:
    (tmp_path / "uris").write_text("amqp://a,amqp://x:y@b,nonsense")
    uri = parse(f"failover:(amqp://u:pw@a)?updateURIsURL={tmp_path}/missing")
    uri = parse(f"failover:(amqp://u:pw@a,discovery:(file:{tmp_path}/uris,file:{tmp_path}/none))")
    first, second = look(uri, patience=PATIENCE)
    assert [str(endpoint) for endpoint in first.endpoints] == ["amqp://u:**@a", "amqp://b"]
    assert len(first.notes) == 2
    assert "FileNotFoundError" in second.error
    assert first.error == "" == "".join(map(str, second.endpoints))
    assert wait_until(
        lambda: not [one for one in threading.enumerate() if one.name == "understudy-discovery"]
    )


def test_a_look_survives_agents_of_other_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(MemoryAgent):
        def start(self, reports: Reports) -> None:
            raise ValueError("amqp://u:s3cret@a is no start")

        def stop(self) -> None:
            raise ValueError("no stop")

    agents = {"memory:broken": Broken(), "memory:fine": MemoryAgent("amqp://a")}
    monkeypatch.setattr("understudy.discovery.attached.agents_of", lambda _: agents)
    uri = parse("discovery:(memory:broken,memory:fine)", agents={"memory"})
    broken, fine = look(uri, patience=PATIENCE)
    assert "cannot start" in broken.error
    assert "s3cret" not in broken.error
    assert ["no stop" in note for note in broken.notes] == [True]
    assert [str(endpoint) for endpoint in fine.endpoints] == ["amqp://a"]
    assert not fine.error
