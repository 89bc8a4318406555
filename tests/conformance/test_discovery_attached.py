"""Discovery beside a real supervisor: when agents run, what of their reports counts."""

from __future__ import annotations

import gc
import logging
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from understudy import ConnectFailed, parse
from understudy.core.events import Event
from understudy.discovery import (
    Discovery,
    MemoryAgent,
    attach,
    registry,
)
from understudy.failover.deadline import Deadline
from understudy.failover.supervisor import Supervisor
from understudy.testing import FakeConnection, FakeDialer, wait_until

PATIENCE = 20.0  # s


class User:
    """Whoever holds a connection."""


class Place:
    """A supervisor with agents that do what the test says."""

    def __init__(self, text: str, agents: dict[str, MemoryAgent]) -> None:
        uri = parse(text, agents={"memory"})
        self.dialer = FakeDialer()
        self.events: list[Event] = []
        self.supervisor: Supervisor[FakeConnection] = Supervisor(
            uri, self.dialer, on_event=self.events.append
        )
        self.discovery = attach(uri, self.supervisor)
        self.agents = [agents[address] for address in uri.agents]
        self.user = User()

    def connect(self) -> FakeConnection:
        self.supervisor.attach(self.user)
        return self.supervisor.acquire(Deadline(PATIENCE))

    @staticmethod
    def told(error: ConnectFailed) -> dict[str, str]:
        return {attempt.endpoint: attempt.cause for attempt in error.attempts}

    @property
    def known(self) -> list[str]:
        return [str(endpoint) for endpoint in self.supervisor.endpoints]

    @property
    def current(self) -> str:
        return str(self.supervisor.current)


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Place]]:
    agents: dict[str, MemoryAgent] = {}
    places = []
    monkeypatch.setattr(
        registry,
        "_theirs",
        lambda: {"memory": lambda: lambda address: agents.setdefault(address, MemoryAgent())},
    )

    def make(text: str = "failover:(amqp://a,discovery:(memory:one))", **options: str) -> Place:
        query = "&".join(f"{name}={value}" for name, value in {**CALM, **options}.items())
        places.append(Place(f"{text}?{query}", agents))
        return places[-1]

    yield make
    for made in places:
        made.supervisor.close()
        assert not any(agent.is_started for agent in made.agents)


CALM = {"randomize": "false", "initialReconnectDelay": "0"}


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, logger="understudy")
    return caplog


def count(log: pytest.LogCaptureFixture, words: str) -> int:
    return sum(words in record.getMessage() for record in log.records)


# --- D05, F46 -------------------------------------------------------------------------------------


def test_d05_an_announced_broker_is_used_and_one_that_vanished_keeps_its_connection(
    place: Callable[..., Place],
) -> None:
    it = place("discovery:(memory:one)")
    (agent,) = it.agents
    waiting = threading.Thread(target=it.connect, daemon=True)
    waiting.start()
    assert wait_until(lambda: agent.is_started)
    agent.announce("amqp://b")
    waiting.join(PATIENCE)
    assert it.current == "amqp://b"
    agent.announce()
    assert it.known == []
    assert it.current == "amqp://b"
    assert [connection.fate for connection in it.dialer.connections] == ["open"]


def test_f46_configured_ones_stay_and_work_when_all_learned_are_dead(
    place: Callable[..., Place],
) -> None:
    it = place()
    it.agents[0].announce("amqp://b", "amqp://c")
    connection = it.connect()
    assert it.known == ["amqp://a", "amqp://b", "amqp://c"]
    it.dialer.fail("amqp://a")
    it.supervisor.lost(connection, "dead")
    connection = it.supervisor.acquire(Deadline(PATIENCE))
    assert it.current == "amqp://b"
    it.dialer.fail("amqp://b", "amqp://c")
    it.dialer.succeed("amqp://a")
    it.supervisor.lost(connection, "dead")
    it.supervisor.acquire(Deadline(PATIENCE))
    assert it.current == "amqp://a"


def test_what_all_agents_found_is_one_list(place: Callable[..., Place]) -> None:
    it = place("discovery:(memory:one,memory:two,static:(amqp://a))")
    one, two = it.agents
    it.supervisor.attach(it.user)
    one.announce("amqp://b", "amqp://c")
    two.announce("amqp://c", "amqp://d")
    assert it.known == ["amqp://a", "amqp://b", "amqp://c", "amqp://d"]
    one.announce()
    assert it.known == ["amqp://a", "amqp://c", "amqp://d"]


def test_a_forged_list_gets_no_password_and_no_connection_of_ours_is_moved(
    place: Callable[..., Place], log: pytest.LogCaptureFixture
) -> None:
    it = place("failover:(amqp://app:s3cret@a,discovery:(memory:one))")
    connection = it.connect()
    forged = [f"amqp://evil{number}" for number in range(1000)]
    for _ in range(3):
        it.agents[0].announce(*forged, "amqp://app:s3cret@evil", "nonsense")
    assert connection.fate == "open"
    assert len(it.known) == 201
    learned = it.supervisor.endpoints[1:]
    assert {(endpoint.username, endpoint.password) for endpoint in learned} == {(None, None)}
    it.agents[0].announce("amqp://app:s3cret@evil", "amqp://thief:loot@a:1", "amqp://x:s3cret")
    assert it.supervisor.notifier.settle(PATIENCE)
    assert count(log, "more than 200") == 1
    assert count(log, "amqp://evil7:") == 1  # said once
    assert count(log, "s3cret") == count(log, "loot") == 0


def test_a_spare_to_a_vanished_broker_is_closed(place: Callable[..., Place]) -> None:
    it = place(backup="true", backupPoolSize="2")
    it.agents[0].announce("amqp://b", "amqp://c")
    it.connect()
    assert wait_until(lambda: len(it.dialer.open) == 3)
    it.agents[0].announce("amqp://c")
    assert wait_until(lambda: len(it.dialer.open) == 2)
    assert {str(connection.endpoint) for connection in it.dialer.open} == {"amqp://a", "amqp://c"}


def test_a_stream_of_forged_brokers_leaves_no_trace(place: Callable[..., Place]) -> None:
    """They fail, are logged, counted, and replaced by others, again and again."""
    it = place(backup="true", maxReconnectDelay="1", reconnectDelayJitter="0")
    it.dialer.fail("amqp://a")
    it.supervisor.attach(it.user)
    threading.Thread(target=it.connect, daemon=True).start()
    for number in range(50):
        name = f"amqp://evil{number}"
        it.dialer.fail(name)
        it.agents[0].announce(name)
        assert wait_until(lambda name=name: name in it.dialer.dials)  # type: ignore[misc]
    supervisor: Any = it.supervisor
    assert wait_until(lambda: len(supervisor.attempts) == 2)
    pool = supervisor._spares
    traces = (supervisor._dialing.logged, pool._failures, pool._retry_at)
    assert max(map(len, traces)) <= 2
    it.dialer.succeed("amqp://a")
    assert wait_until(lambda: supervisor.current is not None)


# --- moving ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "moves"),
    [
        ({}, True),
        ({"rebalanceUpdateURIs": "false"}, False),
        ({"reconnectSupported": "false"}, False),
    ],
)
def test_f47_rebalance_is_obeyed_when_it_may(
    place: Callable[..., Place], options: dict[str, str], moves: bool
) -> None:
    it = place(**options)
    it.dialer.fail("amqp://a")
    it.agents[0].announce("amqp://b")
    it.connect()
    assert it.current == "amqp://b"
    it.dialer.succeed("amqp://a")
    it.agents[0].announce("amqp://b", "amqp://c")
    assert it.current == "amqp://b"  # a list alone moves nobody
    it.agents[0].announce("amqp://b", "amqp://d", rebalance=True)
    it.supervisor.acquire(Deadline(PATIENCE))
    assert it.current == ("amqp://a" if moves else "amqp://b")


@pytest.mark.parametrize("obeys", [True, False])
def test_an_order_to_move_is_obeyed_with_reconnect_supported(
    place: Callable[..., Place], obeys: bool
) -> None:
    it = place(reconnectSupported=str(obeys).lower())
    it.connect()
    it.agents[0].announce("amqp://b", move_to="amqp://b")
    it.supervisor.acquire(Deadline(PATIENCE))
    assert it.current == ("amqp://b" if obeys else "amqp://a")
    it.agents[0].announce("amqp://b", move_to="amqp://unknown")
    assert it.current == ("amqp://b" if obeys else "amqp://a")


# --- when agents run ------------------------------------------------------------------------------


def test_agents_run_while_there_are_users(place: Callable[..., Place]) -> None:
    it = place()
    (agent,) = it.agents
    assert not agent.is_started
    it.supervisor.attach(it.user)
    other = User()
    it.supervisor.attach(other)
    assert agent.is_started
    it.supervisor.detach(it.user)
    agent.announce("amqp://b")
    assert agent.is_started
    it.supervisor.detach(other)
    agent.announce("amqp://c")  # the first thing it tells when nobody is there
    assert not agent.is_started
    assert it.known == ["amqp://a", "amqp://b"]
    it.supervisor.attach(it.user)
    assert agent.starts == 2
    assert it.known == ["amqp://a", "amqp://c"]


def test_a_user_that_is_dropped_without_a_word_counts_no_more(place: Callable[..., Place]) -> None:
    it = place()
    it.supervisor.attach(it.user)
    it.user = User()
    gc.collect()
    it.agents[0].fail("by the script")
    assert not it.agents[0].is_started


@pytest.mark.parametrize("end", [Discovery.close, lambda it: it._supervisor.close()])
def test_close_ends_the_agents_at_once_and_for_good(
    place: Callable[..., Place], end: Callable[[Discovery], None]
) -> None:
    it = place()
    it.supervisor.attach(it.user)
    assert it.agents[0].is_started
    end(it.discovery)
    assert not it.agents[0].is_started
    it.supervisor.attach(User())
    assert not it.agents[0].is_started


def test_a_failing_source_keeps_what_it_found_and_is_logged_once(
    place: Callable[..., Place], log: pytest.LogCaptureFixture
) -> None:
    it = place()
    (agent,) = it.agents
    it.supervisor.attach(it.user)
    agent.announce("amqp://b")
    for _ in range(3):
        agent.fail("GET http://u:s3cret@h failed")
    assert it.known == ["amqp://a", "amqp://b"]
    agent.announce("<html>", "an error page</html>")
    assert it.known == ["amqp://a", "amqp://b"]
    agent.announce("amqp://b")
    assert it.supervisor.notifier.settle(PATIENCE)
    assert count(log, "memory:one fails: GET") == 1
    assert count(log, "memory:one fails: it tells no address") == 1
    assert count(log, "works again") == 1
    assert count(log, "s3cret") == 0


def test_who_cannot_connect_is_told_why_no_broker_was_found(place: Callable[..., Place]) -> None:
    both = "failover:(amqp://a,discovery:(memory:one),discovery:(memory:two))"
    it = place(both, startupMaxReconnectAttempts="1")
    it.dialer.fail("amqp://a", "amqp://b")
    with pytest.raises(ConnectFailed) as failed:
        it.connect()
    nobody = "it knows no broker"
    assert it.told(failed.value) == {
        "amqp://a": "ConnectionRefusedError: refused by the script",
        "discovery by memory:one": nobody,
        "discovery by memory:two": nobody,
    }
    it.agents[0].fail("no such file")
    it.agents[1].announce("amqp://b")
    with pytest.raises(ConnectFailed) as failed:
        it.connect()
    told = it.told(failed.value)
    assert told.keys() == {"amqp://a", "amqp://b", "discovery by memory:one"}
    assert told["discovery by memory:one"] == "no such file"


def test_an_agent_that_fails_in_every_way_harms_nobody(
    place: Callable[..., Place], monkeypatch: pytest.MonkeyPatch, log: pytest.LogCaptureFixture
) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("a bug of theirs")

    for name in ("start", "stop", "connected"):
        monkeypatch.setattr(MemoryAgent, name, fail)
    it = place()
    connection = it.connect()
    it.discovery.connected(connection.endpoint, connection)
    it.discovery.close()
    assert it.supervisor.notifier.settle(PATIENCE)
    assert count(log, "a bug of theirs") == 3


def test_agents_are_handed_the_connections(place: Callable[..., Place]) -> None:
    it = place()
    connection = it.connect()
    it.discovery.connected(connection.endpoint, connection)
    assert it.agents[0].connections == [(connection.endpoint, connection)]
    it.discovery.close()
    it.discovery.connected(connection.endpoint, connection)
    assert len(it.agents[0].connections) == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")  # on purpose
def test_a_forked_child_has_no_running_agent(place: Callable[..., Place]) -> None:
    it = place()
    it.supervisor.attach(it.user)
    pid = os.fork()
    if pid == 0:
        it.discovery.refresh()
        it.supervisor.attach(User())
        os._exit(int(it.agents[0].is_started) + 2 * int("closed" not in repr(it.discovery)))
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert it.agents[0].is_started


def test_without_agents_nothing_runs() -> None:
    uri = parse("failover:(amqp://a)")
    supervisor = Supervisor(uri, FakeDialer())
    discovery = attach(uri, supervisor)
    supervisor.attach(user := User())
    assert repr(discovery) == "<Discovery by nobody: resting>"
    assert not [one for one in threading.enumerate() if one.name == "understudy-discovery"]
    supervisor.close()
    del user
