"""What is run: who takes part, with which broker URLs, and what happens when."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

__all__ = ["FULL", "QUICK", "Action", "Contestant", "Load", "Step", "celery_list"]
__all__ += ["celery_list_with_confirms", "failover"]

Action = Literal["kill", "start", "freeze", "thaw", "end"]


@dataclass(frozen=True)
class Step:
    """Something done ``after`` so many seconds since the step before it.

    ``kill`` and ``freeze`` hit the active broker, ``start`` and ``thaw`` undo it. ``freeze`` and
    ``end`` wait until both brokers are up, so that never both are away: on a slow machine the
    broker that was killed is still starting when they are due.
    """

    action: Action
    after: float


FULL = (
    Step("kill", 5),
    Step("start", 2),
    Step("freeze", 8),
    Step("thaw", 10),  # well over two heartbeats: who does not notice waits visibly longer
    Step("end", 4),
)
QUICK = (Step("kill", 2), Step("start", 0.5), Step("freeze", 6), Step("thaw", 8), Step("end", 2))


@dataclass(frozen=True)
class Load:
    """What all runs have in common."""

    rate: float = 200.0  # tasks a second, of all publishers together
    publishers: int = 2
    concurrency: int = 2  # pool processes of each worker
    heartbeat: int = 3  # s; with 2, RabbitMQ's beat each second keeps up Celery's 1 s wait at start
    timeout: float = 10.0  # s that a send may take, where that can be said

    @property
    def interval(self) -> float:
        """Seconds between two sends of one publisher."""
        return self.publishers / self.rate


@dataclass(frozen=True)
class Contestant:
    """One way to name the brokers to Celery."""

    name: str
    vhost: str
    publisher_url: str
    worker_urls: Mapping[str, str]  # by broker: each worker knows its own broker only
    heartbeat: int | None = None  # s, Celery's broker_heartbeat; None = the URL says it
    confirms: bool = False  # py-amqp's confirm_publish
    is_ours: bool = False
    shown: Sequence[str] = field(default=())  # the settings, for people


def failover(addresses: Mapping[str, str], load: Load, vhost: str) -> Contestant:
    """Understudy's failover URI."""
    common = f"maxReconnectDelay=500&heartbeat={load.heartbeat * 1000}"
    options = f"?randomize=false&timeout={load.timeout * 1000:.0f}&{common}"
    return Contestant(
        name="Understudy",
        is_ours=True,
        vhost=vhost,
        publisher_url=f"failover:({','.join(addresses.values())}){options}",
        worker_urls={name: f"failover:({url})?{common}" for name, url in addresses.items()},
        shown=(
            f"publishers: failover:({','.join(f'amqp://{name}' for name in addresses)})",
            f"    {options}",
            *(f"worker {name}:   failover:(amqp://{name})?{common}" for name in addresses),
        ),
    )


def celery_list(addresses: Mapping[str, str], load: Load, vhost: str) -> Contestant:
    """Celery's own list of brokers, with Celery's defaults."""
    return _celery_list(addresses, load, vhost, confirms=False)


def celery_list_with_confirms(addresses: Mapping[str, str], load: Load, vhost: str) -> Contestant:
    """The same with publisher confirms, which Celery leaves off."""
    return _celery_list(addresses, load, vhost, confirms=True)


def _celery_list(
    addresses: Mapping[str, str], load: Load, vhost: str, *, confirms: bool
) -> Contestant:
    setting = ["broker_transport_options={'confirm_publish': True}"] if confirms else []
    return Contestant(
        name="; list, confirms" if confirms else "Celery's ; list",
        vhost=vhost,
        publisher_url=";".join(addresses.values()),
        worker_urls=dict(addresses),
        heartbeat=load.heartbeat,
        confirms=confirms,
        shown=(
            f"publishers: {';'.join(f'amqp://{name}' for name in addresses)}",
            *(f"worker {name}:   amqp://{name}" for name in addresses),
            *setting,
            f"broker_heartbeat={load.heartbeat}, all else Celery's defaults",
        ),
    )
