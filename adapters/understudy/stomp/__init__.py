"""The stomp.py adapter: ``failover:(…)`` for programs written for stomp.py.

::

    from understudy.stomp import Connection            # instead of stomp.Connection12

    connection = Connection("failover:(stomp://mq1:61613,stomp://mq2:61613)?timeout=10000")
    connection.set_listener("", MyListener())
    connection.connect("app", "secret", wait=True)     # for members without a login
    connection.subscribe("/queue/orders", id="1", ack="client-individual")
    connection.send("/queue/orders", "hello")          # returns when a broker has confirmed it

`Connection` is stomp.Connection12; `Connection11`, or ``version="1.1"``, is stomp.Connection11.

What is other than in stomp.py
* `send` waits for its receipt (``trackMessages=true``: it returns at once and `flush` waits;
  ``confirms=false``: nobody waits). `subscribe` and `commit` wait for the broker's answer. Messages
  are persistent unless a header ``persistent`` says otherwise.
* A lost broker is no news for listeners: `on_disconnected` comes when disconnect() has ended, or
  when reconnecting was given up. Who wants to know has ``on_interrupted(reason)`` and
  ``on_resumed(frame)`` in the listener, or gives ``on_event``. `is_connected` stays true meanwhile.
* Listeners run in order on a thread of their own, and may call anything. What they have not
  got to yet waits in a queue of 1000 messages or 8 MiB; then the broker is slowed down, except as
  long as a call waits for an answer that lies behind them.
* With ``auto_decode`` (the default) a body that is no text stays bytes.
* TLS is verified. Heart-beats are always asked for (option ``heartbeat``); a broker that answers
  that it sends none is not noticed when it falls silent.
* A signal handler may send. One that has interrupted the connection at its own work gets
  `ReentrancyError`, where the same with stomp.py never ends: better it only leaves a note.
* ``blockedTimeout`` has no effect: STOMP does not tell that a broker blocks its publishers. It just
  stops reading, and ``timeout`` bounds the sends.

After a failover
* Unconfirmed messages are sent again, in order, with the same ``x-understudy-id`` (or the
  ``amqp-message-id`` that you gave) and the header ``x-understudy-resend:true``.
* Subscriptions are restored with their headers. Deliveries that were not acknowledged come again;
  acknowledging an earlier one is dropped and counted in `Connection.stale_acks`.
* An open transaction is begun again with its messages. One that holds acknowledgements, or whose
  commit was not answered, raises `TransactionRolledBack` at commit.
* Temporary queues are new ones: replies that were on their way to the old are lost.

What the broker decides
* RabbitMQ: ``ack:client`` is cumulative within its subscription here, as STOMP says; RabbitMQ's own
  would cover the whole connection, so we acknowledge one by one. A refused publish (reject-publish)
  ends the connection without a word: tried five times in a row, the message is `Refused`; later
  versions may only keep their receipt back, so set ``timeout``. A message that reaches no queue is
  confirmed all the same. A transaction is not atomic: the broker only keeps its frames back until
  the commit, which returns when each message is confirmed. ``/queue/x`` declares a durable classic
  queue; use ``/amq/queue/x`` for one that exists with other arguments. The vhost is the path of the
  member (``stomp://mq1/vhost``), else the argument ``vhost``, else ``/``.
* ActiveMQ: NACK moves a message to the dead letter queue (logged once). With trackMessages one
  receipt stands for a batch. A durable subscription needs ``client-id`` in connect() and
  ``activemq.subscriptionName``. ``/amq/queue/x`` is ``/queue/x`` there. When its memory is full it
  stops reading: sends wait as long as ``timeout`` says. A message that it can't read (no
  destination, ``priority: high``) ends the connection without a word too, and is `Refused`.
* Artemis (from its documents, not tested): NACK would acknowledge, so it is refused;
  acknowledgements in a transaction count at once (logged).
"""

from __future__ import annotations

try:
    import stomp as _stomp
except ModuleNotFoundError as exc:
    if exc.name != "stomp":
        raise
    raise ModuleNotFoundError(
        'understudy.stomp needs stomp.py: pip install "understudy[stomp]"', name="stomp"
    ) from exc

from understudy.stomp.connection import Connection11, Connection12
from understudy.stomp.errors import (
    CommandRefused,
    ConnectFailed,
    ConnectionLost,
    ReentrancyError,
    Refused,
    SendTimeout,
    TransactionRolledBack,
)

Connection = Connection12

__all__ = [
    "CommandRefused",
    "ConnectFailed",
    "Connection",
    "Connection11",
    "Connection12",
    "ConnectionLost",
    "ReentrancyError",
    "Refused",
    "SendTimeout",
    "TransactionRolledBack",
]

del _stomp
