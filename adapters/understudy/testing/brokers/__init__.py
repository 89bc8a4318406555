"""Real brokers for tests and demonstrations, private to this process and gone with it.

    with RabbitMQ() as broker:
        connect(broker.uri)
        broker.kill()       # SIGKILL
        broker.start()      # on the same data
        broker.freeze()     # SIGSTOP; thaw() lets it go on

Servers come from the system's packages; one that is missing raises ServerMissing, whose text is
the command to install it. ``python -m understudy.testing.brokers rabbitmq`` runs them by hand.
"""

from __future__ import annotations

from understudy.testing.brokers.activemq import ActiveMQ
from understudy.testing.brokers.ports import free_port
from understudy.testing.brokers.rabbitmq import RabbitMQ
from understudy.testing.brokers.redis import Redis
from understudy.testing.brokers.server import Server, ServerMissing, StartFailed, start_all

__all__ = [
    "ActiveMQ",
    "RabbitMQ",
    "Redis",
    "Server",
    "ServerMissing",
    "StartFailed",
    "free_port",
    "start_all",
]
