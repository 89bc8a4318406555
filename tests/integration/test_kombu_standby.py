"""Tracked sends that need no broker now, and the one deadline of a call."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import amqp
import kombu
import kombu.pools
import pytest

import understudy.kombu
from understudy.errors import SendTimeout
from understudy.failover.deadline import Deadline
from understudy.kombu.message import Publication
from understudy.kombu.publisher import Publisher
from understudy.testing import FaultProxy
from understudy.testing.brokers import RabbitMQ
from understudy.testing.frames import CHANNEL_OPEN

if TYPE_CHECKING:
    from tests.integration.conftest import Found, Lab

pytestmark = pytest.mark.integration

Take = Callable[[RabbitMQ, str], "list[Found]"]

DELAYING = """
import sys, time, understudy.kombu
from celery import Celery

app = Celery("shop", broker=sys.argv[1])
app.conf.update(task_ignore_result=True, task_default_queue=sys.argv[2])

@app.task(name="buy")
def buy(number): ...

for number in range(300):
    buy.delay(number)
print("sent", flush=True)
sys.stdin.readline()
print(understudy.kombu.flush(60), flush=True)
"""


def test_f36_delay_returns_at_once_in_a_process_that_never_had_a_broker(
    lab: Lab, rabbits: tuple[RabbitMQ, RabbitMQ], take_all: Take, unique: str
) -> None:
    """F36: with every broker down and no timeout, and nothing is lost when they are back."""
    proxies = [lab.proxy(broker) for broker in rabbits]
    for proxy in proxies:
        proxy.refuse()
    uri = lab.uri(*proxies, trackMessages="true", timeout=-1, maxCacheSize=4000000)
    command = [sys.executable, "-W", "error", "-c", DELAYING, uri, unique]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        alarm = threading.Timer(150, child.kill)
        alarm.start()
        assert child.stdout.readline() == "sent\n"
        for proxy in proxies:
            proxy.heal()
        child.stdin.write("\n")
        child.stdin.flush()
        assert child.stdout.readline() == "True\n"
        child.stdin.close()
        assert child.wait(60) == 0
        alarm.cancel()
    found = [message for broker in rabbits for message in take_all(broker, unique)]
    assert sorted(message.headers["argsrepr"] for message in found) == sorted(
        f"({number},)" for number in range(300)
    )


def test_f36_new_producers_during_an_outage(
    lab: Lab, rabbit_a: RabbitMQ, take_all: Take, unique: str
) -> None:
    """F36: what they declare is declared before their messages; others see that nobody is there."""
    proxy = lab.proxy(rabbit_a)
    connection = lab.connect(proxy, trackMessages="true", timeout=2500, maxReconnectDelay=100)
    producers = kombu.pools.Producers(limit=10)[connection]
    exchange = kombu.Exchange(unique, type="topic")
    queues = [kombu.Queue(f"{unique}-{n}", exchange, routing_key=f"k{n}") for n in range(3)]

    def send(number: int) -> None:
        with producers.acquire(block=True) as producer:
            producer.publish(
                str(number),
                exchange=exchange,
                routing_key=f"k{number % 3}",
                serializer="raw",
                declare=[queues[number % 3]],
                retry=True,
            )

    try:
        send(0)
        proxy.refuse()
        proxy.reset()
        for number in range(1, 9):
            send(number)
        mine = lab.connect(proxy, trackMessages="true", timeout=2500, maxReconnectDelay=100)
        kombu.Producer(mine).publish("9", unique, serializer="raw", exchange=exchange)
        assert not mine.connected
        for ask in (
            mine.channel,
            lambda: kombu.Consumer(mine, [queues[0]]),
            mine.ensure_connection,
        ):
            with pytest.raises(SendTimeout):
                ask()
        proxy.heal()
        assert understudy.kombu.flush(60)
        send(10)
        assert mine.channel().is_open
    finally:
        producers.force_close_all()
    found = [[message.body for message in take_all(rabbit_a, queue.name)] for queue in queues]
    assert found == [["0", "3", "6"], ["1", "4", "7", "10"], ["2", "5", "8"]]


def test_a_full_outbox_bounds_what_is_taken_during_an_outage(
    lab: Lab, rabbit_a: RabbitMQ, unique: str
) -> None:
    proxy = lab.proxy(rabbit_a)
    proxy.refuse()
    connection = lab.connect(proxy, trackMessages="true", timeout=300, maxCacheSize=1000)
    producer = kombu.Producer(connection)
    for number in range(4):
        producer.publish(str(number), routing_key=unique, serializer="raw")
    with pytest.raises(SendTimeout, match="outbox stayed full"):
        producer.publish("too much", routing_key=unique, serializer="raw")


def test_what_cannot_be_deferred_is_done_on_a_real_channel(
    lab: Lab, rabbit_a: RabbitMQ, unique: str
) -> None:
    proxy = lab.proxy(rabbit_a)
    proxy.refuse()
    connection = lab.connect(proxy, trackMessages="true", timeout=3000, maxReconnectDelay=50)
    producer = kombu.Producer(connection)
    passing = kombu.Queue(f"{unique}-passing", auto_delete=True)
    producer.publish("0", routing_key=unique, serializer="raw")
    with pytest.raises(SendTimeout):
        producer.publish("1", routing_key=passing.name, serializer="raw", declare=[passing])
    proxy.heal()
    lasting = kombu.Queue(unique)
    producer.publish("1", routing_key=passing.name, serializer="raw", declare=[passing, lasting])
    assert understudy.kombu.flush(60)
    assert producer.channel.queue_declare(passing.name, passive=True).message_count == 1


# --- one deadline for a call --------------------------------------------------------------------


def test_f15_a_channel_on_a_link_that_keeps_breaking(
    lab: Lab, rabbit_a: RabbitMQ, unique: str
) -> None:
    """F15: opening a channel ends at timeout, however often a new connection is made for it."""
    proxy = lab.proxy(rabbit_a)
    cut = proxy_that_cuts_each_channel(proxy)
    connection = lab.connect(proxy, timeout=3000, initialReconnectDelay=1, maxReconnectDelay=1)
    connection.connect()
    call = lab.background(connection.channel)
    with pytest.raises(SendTimeout, match="timeout=3000 ms"):
        call.join()
    assert len(cut) > 2
    cut.clear()
    proxy.heal()
    assert connection.channel().is_open


def proxy_that_cuts_each_channel(proxy: FaultProxy) -> list[int]:
    """Until it is healed; the list grows with each cut."""
    cuts = [0]

    def again() -> None:
        if cuts:
            cuts.append(len(cuts))
            proxy.cut_on(CHANNEL_OPEN, direction="up", then=again)

    proxy.cut_on(CHANNEL_OPEN, direction="up", then=again)
    return cuts


def test_f36_the_broker_dies_while_a_producer_opens_its_channel(
    lab: Lab,
    rabbit_a: RabbitMQ,
    plain: Callable[[RabbitMQ], amqp.Channel],
    take_all: Take,
    unique: str,
) -> None:
    """F36: it goes on without a broker."""
    plain(rabbit_a).queue_declare(unique, durable=True, auto_delete=False)
    proxy = lab.proxy(rabbit_a)
    connection = lab.connect(proxy, trackMessages="true")
    connection.connect()
    proxy.cut_on(CHANNEL_OPEN, direction="up", then=proxy.refuse)
    kombu.Producer(connection).publish("told", routing_key=unique, serializer="raw")
    proxy.heal()
    assert understudy.kombu.flush(60)
    assert [message.body for message in take_all(rabbit_a, unique)] == ["told"]


def test_a_call_s_waits_share_its_deadline_and_no_other_s(
    lab: Lab, rabbit_a: RabbitMQ, unique: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = lab.connect(rabbit_a, timeout=30000)
    asked: list[Deadline] = []
    transport: Any = connection.transport
    whole = type(transport).deadline

    def watched(self: Any, *args: Any, **options: Any) -> Deadline:
        deadline: Deadline = whole(self, *args, **options)
        asked.append(deadline)
        return deadline

    monkeypatch.setattr(type(transport), "deadline", watched)
    sent: list[Deadline] = []
    publish = Publisher.publish

    def sending(self: Publisher, publication: Publication, deadline: Deadline) -> None:
        sent.append(deadline)
        publish(self, publication, deadline)

    monkeypatch.setattr(Publisher, "publish", sending)
    producer = kombu.Producer(connection)
    queue = kombu.Queue(unique)
    producer.publish("1", routing_key=unique, declare=[queue])
    assert len(asked) >= 4  # the connection, its channel, a declaration, the send
    assert {id(deadline) for deadline in asked} == {id(sent[0])}
    producer.publish("2", routing_key=unique)
    connection.close()
    connection.connect()
    kombu.Producer(connection).publish("3", routing_key=unique)
    assert len({id(deadline) for deadline in sent}) == 3


def test_a_request_while_another_thread_reads(lab: Lab, rabbit_a: RabbitMQ, unique: str) -> None:
    """It can't have its answer; it ends at timeout, and the connection stays usable."""
    connection = lab.connect(rabbit_a, timeout=1500)
    channel = connection.channel()
    reader = lab.background(lambda: connection.drain_events(timeout=8))
    inner: Any = connection.connection
    while inner._read_lock.acquire(blocking=False):
        inner._read_lock.release()
    with pytest.raises(SendTimeout, match="another thread reads"):
        channel.queue_declare(unique, passive=True)
    with pytest.raises(TimeoutError):
        reader.join()
    with pytest.raises(amqp.exceptions.NotFound):
        channel.queue_declare(unique, passive=True)
