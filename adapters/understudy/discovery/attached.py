"""Runs the agents of one URI for one supervisor.

Rules
* Agents run while the supervisor has users: they start with the first one, and end when they tell
  something and nobody is there any more, so that a program that opens a connection for each send
  does not ask its sources each time. Nobody waits for them to start, to answer or to end.
* What a source found stays while it fails, and while it tells nothing that is an address.
* What all of them found goes to the supervisor as one list, beside the configured endpoints, which
  always stay. A broker that is no longer announced leaves the list; a connection to it stays.
* Only an agent that asks for it moves a client: a changed list alone never does. `rebalance` is
  obeyed with ``rebalanceUpdateURIs``, and like ``move_to`` only with ``reconnectSupported``.
* Under our lock agents are started and stopped, and the supervisor is told, which takes its own
  lock; it calls us without it. What is logged is only queued (see `notifier`).
* A forked child inherits no agent: its supervisor is history, and so are we.
"""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections.abc import Container, Iterable
from dataclasses import dataclass
from typing import Any

from understudy.core.endpoint import Endpoint
from understudy.core.member import CORE_SCHEMES
from understudy.core.redact import Source, redact
from understudy.core.uri import FailoverURI
from understudy.discovery.addresses import MOST
from understudy.discovery.agent import DiscoveryAgent, ListensOnConnection
from understudy.discovery.learned import Learner
from understudy.discovery.registry import agents_of
from understudy.errors import Attempt, ConfigurationError
from understudy.failover import forking
from understudy.failover.supervisor import Supervisor

__all__ = ["Discovery", "Look", "attach", "check", "look"]

MOST_NOTES = 100  # lines about single addresses in the log; then a forger has had his say


def attach(
    uri: FailoverURI,
    supervisor: Supervisor[Any],
    *,
    schemes: Container[str] = CORE_SCHEMES,
) -> Discovery:
    """Have the agents of ``uri`` tell ``supervisor`` what they find, while it has users.

    ``schemes`` are those of the members that may be learned. Raises ConfigurationError for an agent
    or an option that cannot be; touches no network. Adapters call this once for each supervisor,
    also when the URI asks for no discovery.
    """
    discovery = Discovery(supervisor, agents_of(uri), Learner(uri, schemes))
    supervisor.on_use = discovery.refresh
    return discovery


def check(uri: FailoverURI, *, schemes: Container[str] = CORE_SCHEMES) -> None:
    """Raise ConfigurationError where `attach` would; for who attaches later than he is made."""
    agents_of(uri)
    Learner(uri, schemes)


class Discovery:
    """The handle of an adapter."""

    def __init__(
        self,
        supervisor: Supervisor[Any],
        agents: dict[str, DiscoveryAgent],
        learner: Learner,
    ) -> None:
        self._supervisor = supervisor
        self._options = supervisor.uri.options
        self._learner = learner
        self._agents = agents
        self._found: dict[str, tuple[Endpoint, ...]] = {}
        self._told: dict[str, tuple[str, ...]] = {}  # what that was in the agent's words
        self._failing: dict[str, str] = {}  # the cause that was logged
        self._noted: set[str] = set()
        self._running: dict[str, _Running] = {}
        self._is_closed = False
        self._lock = threading.RLock()  # an agent may report while it is being started
        forking.register(self)

    def __repr__(self) -> str:
        state = "closed" if self._is_closed else "running" if self._running else "resting"
        return f"<Discovery by {', '.join(self._agents) or 'nobody'}: {state}>"

    def refresh(self) -> None:
        """Start or stop the agents, as the supervisor has users or not; see `Supervisor.on_use`."""
        with self._lock:
            wanted = bool(self._agents) and not self._is_closed and self._supervisor.is_used
            if wanted and not self._running:
                self._running = {label: _Running(self, label) for label in self._agents}
                for label, running in list(self._running.items()):
                    self._start(label, running)
                self._tell()
            elif not wanted:
                self._stop()

    def close(self) -> None:
        """Stop the agents for good; waits for nothing."""
        with self._lock:
            self._is_closed = True
            self._stop()

    def connected(self, endpoint: Endpoint, connection: object) -> None:
        """The adapter has made this connection; see `ListensOnConnection`."""
        with self._lock:
            listening = [agent for label, agent in self._agents.items() if label in self._running]
        for agent in listening:
            if isinstance(agent, ListensOnConnection):
                try:
                    agent.connected(endpoint, connection)
                except Exception as exc:
                    self._log(logging.ERROR, f"{agent!r} could not listen on {endpoint}: {exc!r}")

    def _start(self, label: str, running: _Running) -> None:
        try:
            self._agents[label].start(running)
        except Exception as exc:  # of another package: anything
            self.note_failure(running, f"it cannot start: {exc!r}")

    def _stop(self) -> None:
        running, self._running = self._running, {}
        for label in running:
            try:
                self._agents[label].stop()
            except Exception as exc:
                self._log(logging.ERROR, f"discovery by {label} cannot be stopped: {exc!r}")

    def trusts(self, endpoint: Endpoint) -> bool:
        """Whether this endpoint may be given what the application says beside the URI: a user name
        and password of a connect() call, headers. False for one that anybody may have announced.

        What the endpoint itself holds is for it already.
        """
        return self._learner.trusts(endpoint)

    # --- what the agents tell -------------------------------------------------------------------

    def note_found(
        self, running: _Running, addresses: Iterable[str], rebalance: bool, move_to: str | None
    ) -> None:
        listed = tuple(itertools.islice(addresses, MOST + 1))
        with self._lock:
            self.refresh()  # a user that was dropped without a close tells nobody
            label = running.label
            if self._running.get(label) is not running:
                return
            is_news = listed != self._told.get(label) or label in self._failing
            if not (is_news or rebalance or move_to is not None):
                return
            if len(listed) > MOST:
                self._note(f"{label} tells more than {MOST} brokers; the rest is ignored")
            maybe_found = [self._learned(label, address) for address in listed[:MOST]]
            found = [endpoint for endpoint in maybe_found if endpoint is not None]
            if listed and not found:  # a server's error page, say
                self.note_failure(running, "it tells no address of a broker")
                return
            if self._failing.pop(label, None) is not None:
                self._log(logging.INFO, f"discovery by {label} works again")
            self._told[label], self._found[label] = listed, tuple(found)
            options = self._options
            spread = rebalance and options.rebalance_update_uris and options.reconnect_supported
            self._tell(rebalance=spread)
            target = None if move_to is None else self._learned(label, move_to)
            if target is not None and options.reconnect_supported:
                self._supervisor.prefer(target, f"{label} asked its clients to go there")

    def note_failure(self, running: _Running, cause: str) -> None:
        with self._lock:
            self.refresh()
            label = running.label
            if self._running.get(label) is running and self._failing.get(label) != cause:
                self._failing[label] = cause
                text = f"discovery by {label} fails: {cause}; what it found before stays"
                self._log(logging.WARNING, text)
                self._tell()

    def _tell(self, *, rebalance: bool = False) -> None:
        """Tell the supervisor what is known, and why nothing is from this agent or that."""
        everything = dict.fromkeys(e for some in self._found.values() for e in some)
        troubles = tuple(
            Attempt(f"discovery by {label}", redact(self._failing.get(label, "it knows no broker")))
            for label in self._running
            if not self._found.get(label)
        )
        self._supervisor.found(tuple(everything), rebalance=rebalance, troubles=troubles)

    def _learned(self, label: str, address: str) -> Endpoint | None:
        try:
            endpoint, note = self._learner.read(address)
        except ConfigurationError as exc:
            self._note(f"{label} tells of {Source(address)}, which is ignored: {exc}")
            return None
        if note:
            self._note(f"{label} tells of {endpoint}: {note}")
        return endpoint

    def _note(self, line: str) -> None:
        """Log it, once."""
        if line not in self._noted and len(self._noted) < MOST_NOTES:
            self._noted.add(line)
            self._log(logging.WARNING, line)

    def _log(self, level: int, text: str) -> None:
        self._supervisor.notifier.log(level, redact(text))

    # --- fork safety ----------------------------------------------------------------------------

    def hold(self) -> None:
        self._lock.acquire()

    def let_go(self) -> None:
        self._lock.release()

    def abandon(self) -> None:
        self._lock = threading.RLock()
        self._is_closed = True
        self._running.clear()


class _Running:
    """What one start of an agent reports to."""

    def __init__(self, discovery: Discovery, label: str) -> None:
        self._discovery = discovery
        self.label = label

    def found(
        self, addresses: Iterable[str], *, rebalance: bool = False, move_to: str | None = None
    ) -> None:
        self._discovery.note_found(self, addresses, rebalance, move_to)

    def failed(self, cause: str) -> None:
        self._discovery.note_failure(self, cause)


# --- for who only wants to know -------------------------------------------------------------------


@dataclass(frozen=True)
class Look:
    """What one agent knew when it was asked."""

    agent: str  # redacted
    endpoints: tuple[Endpoint, ...] = ()
    notes: tuple[str, ...] = ()  # about single addresses, or about the agent
    error: str = ""


def look(
    uri: FailoverURI, *, schemes: Container[str] = CORE_SCHEMES, patience: float
) -> list[Look]:
    """Ask all agents of ``uri`` once; ``patience`` in seconds.

    Waits for each of them to find a broker or to fail. Raises ConfigurationError as `attach` does.
    """
    learner = Learner(uri, schemes)
    asked = [(_Asked(label), agent) for label, agent in agents_of(uri).items()]
    try:
        for reports, agent in asked:
            try:
                agent.start(reports)
            except Exception as exc:  # of another package: anything
                reports.failed(f"it cannot start: {exc!r}")
        end = time.monotonic() + patience
        for reports, _ in asked:
            reports.answered.wait(max(end - time.monotonic(), 0.0))
    finally:
        for reports, agent in asked:
            try:
                agent.stop()
            except Exception as exc:
                reports.note(f"it cannot be stopped: {exc!r}")
    return [reports.look(learner) for reports, _ in asked]


class _Asked:
    def __init__(self, label: str) -> None:
        self.answered = threading.Event()
        self._label = label
        self._addresses: list[str] = []
        self._notes: list[str] = []  # beside those about addresses
        self._error = f"{label} told nothing in time"

    def found(
        self, addresses: Iterable[str], *, rebalance: bool = False, move_to: str | None = None
    ) -> None:
        self._addresses, self._error = list(addresses)[:MOST], ""
        if self._addresses:
            self.answered.set()

    def failed(self, cause: str) -> None:
        self._error = redact(cause)
        self.answered.set()

    def note(self, text: str) -> None:
        self._notes.append(redact(text))

    def look(self, learner: Learner) -> Look:
        endpoints: dict[Endpoint, None] = {}
        notes = [*self._notes]
        for address in self._addresses:
            try:
                endpoint, note = learner.read(address)
            except ConfigurationError as exc:
                notes.append(f"{Source(address)} is ignored: {exc}")
                continue
            endpoints[endpoint] = None
            if note:
                notes.append(f"{endpoint}: {note}")
        return Look(self._label, tuple(endpoints), tuple(notes), self._error)
