"""``understudy network``: looks at bridges, gives them orders, sees to what they parked."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import amqp
import pytest
from amqp import Channel

from understudy.testing.brokers import ActiveMQ, RabbitMQ
from understudyd.bridge.content import StompContent
from understudyd.testing.bridged import until
from understudyd.testing.operated import COMMAND, SECRET, Operated
from understudyd.testing.sides import StompSide
from understudyd.testing.terminal import on_terminal

pytestmark = pytest.mark.integration

Plain = Callable[[RabbitMQ], Channel]


@pytest.fixture
def bridge(rabbit_a: RabbitMQ, rabbit_b: RabbitMQ, queue: str, tmp_path: Path) -> Operated:
    """Not started yet; it parks in a queue of this test's own."""
    parking = f"queue://{queue}-parked"
    return Operated(tmp_path, rabbit_a.uri, rabbit_b.uri, queue, parking=parking)


def publish(channel: Channel, queue: str, *bodies: str, **properties: Any) -> None:
    channel.confirm_select()
    for body in bodies:
        message = amqp.Message(body, **{"delivery_mode": 2, **properties})
        channel.basic_publish_confirm(message, routing_key=queue)


def depth(channel: Channel, queue: str) -> int:
    return int(channel.queue_declare(queue, passive=True).message_count)


def test_bridges_are_listed_for_people_and_for_programs(bridge: Operated, queue: str) -> None:
    with bridge:
        bridge.await_state("running")
        done = bridge.network("list")
        assert (done.returncode, done.stderr) == (0, "")
        line = done.stdout.splitlines()[0]
        assert line.startswith("bridge test running rate 0/s in-flight 0 oldest - waiting ")
        assert " dropped 0 expired 0 " in line
        assert "source amqp://guest:**@127.0.0.1" in line
        (told,) = json.loads(bridge.network("list", "--json", "test").stdout)["bridges"]
        assert told["state"] == "running"
        assert told["links"][0]["destination"] == f"queue://{queue}"
        seen = bridge.network("watch", "--count", "3", "--interval", "10ms")
        assert (seen.returncode, len(seen.stdout.splitlines())) == (0, 1)


def test_the_api_speaks_https_where_it_has_a_certificate(
    bridge: Operated, certificate: Path
) -> None:
    text = bridge.file.read_text(encoding="utf-8")
    text = text.replace(f'api = "127.0.0.1:{bridge.port}"', f'api = "localhost:{bridge.port}"')
    tls = f'tls_cert = "{certificate}"\ntls_key = "{certificate}"\n'
    bridge.file.write_text(text + tls + f'tls_ca = "{certificate.with_suffix(".crt")}"\n')
    with bridge:
        until(lambda: bridge.network("list").returncode == 0, "it answers")
        assert bridge.network("pause").returncode == 0
        bridge.file.write_text(text + tls)
        refused = bridge.network("list")
        assert refused.returncode == 1
        assert "tls_ca of [api] says whom to trust" in refused.stderr


@pytest.mark.parametrize("words", [["list"], ["watch", "--count", "2", "--interval", "10ms"]])
def test_people_get_a_table(bridge: Operated, queue: str, words: list[str]) -> None:
    with bridge:
        bridge.await_state("running")
        text = on_terminal([*COMMAND, "network", *words, "-c", str(bridge.file)])
        assert "───────" in text
        assert "running" in text
        assert queue[:40] in text


def test_orders_are_obeyed_before_the_command_ends(bridge: Operated, queue: str) -> None:
    with bridge:
        bridge.await_state("running")
        done = bridge.network("pause", "test")
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith("test is paused: paused by 127.0.0.1 at ")
        again = bridge.network("pause")
        assert again.returncode == 1
        assert "test refused to pause: it is paused already" in again.stderr
        assert bridge.network("resume", "--json").returncode == 0
        bridge.await_state("running")
        told = json.loads(bridge.network("drain", "--json").stdout)
        assert (told["name"], told["state"], told["in_flight"]) == ("test", "paused", 0)
        bridge.stop()
    lines = bridge.log.splitlines()
    (cause,) = [n for n, line in enumerate(lines) if "bridge test: pause, by " in line]
    effects = [n for n, line in enumerate(lines) if " is paused: paused by " in line]
    assert cause < effects[0], "the order stands after what it brought about"
    (first, *_) = [line for line in lines if f"bridge test queue://{queue} is " in line]
    assert " is running" in first, "what takes some milliseconds is told"


def test_what_cannot_be_done_says_what_to_do(bridge: Operated) -> None:
    bridges = bridge.file.read_text(encoding="utf-8").partition("[network]")[0]
    nobody = bridge.network("list")
    assert nobody.returncode == 1
    assert f"no bridge process answers at 127.0.0.1:{bridge.port}" in nobody.stderr
    assert "understudy bridge -c" in nobody.stderr
    waited = bridge.network("watch", "--count", "2", "--interval", "10ms")
    assert (waited.returncode, len(waited.stdout.splitlines())) == (0, 1)
    assert waited.stdout.startswith("note no bridge process answers")
    unknown = bridge.network("pause", "tset")
    assert unknown.returncode == 2
    assert "bridges has no 'tset' (there are: test)" in unknown.stderr
    assert "did you mean" in unknown.stderr
    with bridge:
        bridge.await_state("running")
        wrong = bridge.network("pause", UNDERSTUDY_API__TOKEN="other")
        assert wrong.returncode == 1
        assert "is not that of the bridge process" in wrong.stderr
        bridge.write(bridges, token="")
        none = bridge.network("pause")
        assert none.returncode == 2
        assert "has no token of [api]" in none.stderr
        ends = bridges.replace("[bridges.test]", "[bridges.second]")
        ends = ends.replace('["queue://', '["queue://other-')
        bridge.write(bridges + ends)
        several = bridge.network("pause")
        assert several.returncode == 2
        assert "say which bridge (there are: test, second)" in several.stderr
        absent = bridge.network("pause", "second")
        assert absent.returncode == 1
        assert "does not run second" in absent.stderr
        assert "bridge second not run" in bridge.network("list").stdout
        bridge.file.write_text(bridges)
        silent = bridge.network("list")
        assert silent.returncode == 2
        assert "has no [network] api" in silent.stderr


def test_what_is_parked_is_shown_and_sent_again(
    plain: Plain, rabbit_a: RabbitMQ, rabbit_b: RabbitMQ, bridge: Operated, queue: str
) -> None:
    source, target = plain(rabbit_a), plain(rabbit_b)
    nothing = bridge.network("parked", "list")
    assert (nothing.returncode, nothing.stdout) == (0, "")
    target.queue_delete(queue)
    publish(source, queue, "one", "two", application_headers={"x": 1}, expiration="60000000")
    with bridge:
        until(lambda: bridge.bridge().get("parked") == 2, "both are parked")
        bridge.stop()
    done = bridge.network("parked", "list")
    assert (done.returncode, done.stderr) == (0, "")
    first, *lines = done.stdout.splitlines()
    assert first.endswith(f"{queue}-parked 2 messages")
    assert len(lines) == 2
    assert f"queue://{queue} at 20" in lines[0]
    assert f"reason 312 NO_ROUTE: no queue {queue} at the target" in lines[0]
    warning = f"bridge test queue://{queue} has parked "
    assert [line for line in bridge.log.splitlines() if warning in line and "WARNING" in line]
    (told,) = json.loads(bridge.network("parked", "list", "--json", "--limit", "1").stdout)[
        "queues"
    ]
    assert (told["count"], len(told["messages"])) == (2, 1)
    assert told["messages"][0]["destination"] == f"queue://{queue}"
    assert depth(target, f"{queue}-parked") == 2
    refused = bridge.network("parked", "retry")
    assert refused.returncode == 1
    assert "0 sent, 2 left" in refused.stdout
    assert "312 NO_ROUTE" in refused.stdout
    assert depth(target, f"{queue}-parked") == 2
    target.queue_declare(queue, durable=True, auto_delete=False)
    sent = bridge.network("parked", "retry", "test")
    assert (sent.returncode, sent.stderr) == (0, "")
    assert "2 sent, 0 left" in sent.stdout
    for body in ("one", "two"):
        message = target.basic_get(queue, no_ack=True)
        assert message.body == body
        headers = message.properties["application_headers"]
        assert headers["x"] == 1
        assert not [name for name in headers if name.startswith("x-understudy-parked")]
        assert int(message.properties["expiration"]) <= 60000000
    assert depth(target, f"{queue}-parked") == 0


def test_a_retry_that_is_killed_in_the_middle_loses_nothing(
    plain: Plain, rabbit_b: RabbitMQ, bridge: Operated, queue: str
) -> None:
    target = plain(rabbit_b)
    parking = f"{queue}-parked"
    target.queue_declare(parking, durable=True, auto_delete=False)
    told = {"reason": "no route", "exchange": "", "routing-key": queue}
    headers = {f"x-understudy-parked-{name}": text for name, text in told.items()}
    bodies = [str(number) for number in range(1500)]
    publish(target, parking, *bodies, application_headers=headers)
    command = [*COMMAND, "network", "parked", "retry", "-c", str(bridge.file)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        until(lambda: depth(target, queue) > 20, "it is at it")
        process.kill()
    until(lambda: depth(target, parking) + depth(target, queue) >= 1500, "all are back", 20.0)
    assert depth(target, parking) > 0, "it was done before it was killed"
    assert bridge.network("parked", "retry").returncode == 0
    arrived = []
    while (message := target.basic_get(queue, no_ack=True)) is not None:
        arrived.append(message.body)
    assert set(arrived) == set(bodies)
    assert len(arrived) <= len(bodies) + 1


def test_what_is_parked_at_the_source_goes_back_to_its_queue(
    plain: Plain, rabbit_a: RabbitMQ, bridge: Operated, queue: str
) -> None:
    source = plain(rabbit_a)
    parking = f"{queue}-parked"
    source.queue_declare(parking, durable=True, auto_delete=False)
    told = {"reason": "too large", "exchange": "", "routing-key": "renamed", "bridge": "test"}
    headers = {f"x-understudy-parked-{name}": text for name, text in told.items()}
    publish(source, parking, "one", application_headers=headers)
    done = bridge.network("parked", "retry")
    assert (done.returncode, done.stderr) == (0, "")
    assert source.basic_get(queue, no_ack=True).body == "one"
    assert depth(source, parking) == 0


@pytest.mark.parametrize("kind", ["amqp", "activemq"])
def test_what_is_parked_again_at_once_is_tried_once_and_is_not_told_as_sent(
    kind: str,
    activemq: ActiveMQ,
    plain: Plain,
    rabbit_a: RabbitMQ,
    rabbit_b: RabbitMQ,
    tmp_path: Path,
    queue: str,
) -> None:
    (tmp_path / "failing.py").write_text("def fail(message):\n    raise ValueError('no')\n")
    parking = f"{queue}-parked"
    options = {"transformer": "failing:fail", "parking": f"queue://{parking}"}
    uri = activemq.uri if kind == "activemq" else rabbit_a.uri
    bridge = Operated(tmp_path, uri, rabbit_b.uri, queue, **options)
    bodies = [str(number) for number in range(60)]
    with bridge:
        bridge.await_state("running")
        if kind == "activemq":
            StompSide(activemq).put(queue, *(StompContent({}, text.encode()) for text in bodies))
        else:
            publish(plain(rabbit_a), queue, *bodies)
        until(lambda: bridge.bridge().get("parked") == 60, "all are parked")
        done = bridge.network("parked", "retry")
        assert done.returncode == 1
        assert "0 sent, 60 left" in done.stdout
        assert "parked again: failing:fail failed: ValueError no" in done.stdout
        assert bridge.bridge()["parked"] == 120
        bridge.stop()
    if kind == "activemq":
        lie_there = [content.body.decode() for content in StompSide(activemq).take(parking)]
    else:
        source = plain(rabbit_a)
        lie_there = []
        while (message := source.basic_get(parking, no_ack=True)) is not None:
            lie_there.append(message.body)
    assert sorted(lie_there) == sorted(bodies)


def test_parked_messages_of_a_broker_that_is_gone_are_an_error(
    bridge: Operated, rabbit_b: RabbitMQ, queue: str
) -> None:
    text = bridge.file.read_text(encoding="utf-8")
    bridge.file.write_text(text.replace(f":{rabbit_b.port}", ":1"))
    for words in (["parked"], ["parked", "list"], ["parked", "retry"]):
        done = bridge.network(*words)
        assert done.returncode == 1
        assert done.stderr.startswith(f"understudy: bridge test: {queue}-parked at amqp://")
        assert "127.0.0.1:1" in done.stderr
        assert "refused" in done.stderr
        assert f"{queue}-parked" in done.stdout
        assert "unknown: " in done.stdout
        told = json.loads(bridge.network(*words, "--json").stdout)["queues"]
        assert [one.get("count", one.get("moved", 0)) for one in told] == [None]


def test_a_bridge_that_is_gone_is_forgotten(
    plain: Plain, rabbit_a: RabbitMQ, rabbit_b: RabbitMQ, queue: str, tmp_path: Path
) -> None:
    parking = f"queue://{queue}-parked"
    bridge = Operated(
        tmp_path,
        rabbit_a.uri,
        rabbit_b.uri,
        queue,
        statically_included=[f"topic://{queue}"],
        parking=parking,
    )
    source, target = plain(rabbit_a), plain(rabbit_b)
    ours = f"understudy.bridge.test.topic://{queue}"
    with bridge:
        bridge.await_state("running")
        refused = bridge.network("forget", "test")
        assert refused.returncode == 1
        assert "test is running in the bridge process" in refused.stderr
        bridge.stop()
    reader = plain(rabbit_a)
    reader.basic_consume(ours)
    kept = bridge.network("forget", "test")
    assert kept.returncode == 1
    assert "somebody reads it" in kept.stdout
    reader.connection.close()
    source.basic_publish(amqp.Message("left"), "amq.topic", queue)
    until(lambda: depth(source, ours) == 1, "one waits")
    target.queue_declare(f"{queue}-parked", durable=True, auto_delete=False)  # it was empty
    publish(target, f"{queue}-parked", "parked")
    done = bridge.network("forget", "test", "--json")
    assert done.returncode == 1  # what is parked is kept
    removed = {one["name"]: one for one in json.loads(done.stdout)["removed"]}
    assert removed[ours]["outcome"] == "removed, with 1 message"
    assert removed[f"{queue}-parked"]["is_kept"]
    assert bridge.network("forget", "test", "--parked").returncode == 0
    again = bridge.network("forget", "test")
    assert (again.returncode, again.stdout) == (0, "")
    unknown = bridge.network("forget", "other")
    assert unknown.returncode == 2
    assert "write it again" in unknown.stderr
    assert SECRET not in done.stdout


@pytest.mark.parametrize("kind", ["activemq", "rabbitmq-stomp"])
def test_what_is_parked_at_a_source_over_stomp_goes_back_to_its_queue(
    activemq: ActiveMQ,
    rabbit_a: RabbitMQ,
    rabbit_b: RabbitMQ,
    tmp_path: Path,
    unique: str,
    kind: str,
) -> None:
    broker: ActiveMQ | RabbitMQ = activemq if kind == "activemq" else rabbit_a
    side = StompSide(broker)
    parking = f"{unique}-parked"
    bridge = Operated(tmp_path, side.uri, rabbit_b.uri, unique, parking=f"queue://{parking}")
    none = bridge.network("parked", "list")
    assert (none.returncode, none.stdout, none.stderr) == (0, "", "")
    for queue in (unique, parking):
        side.make(queue)
    told = {"reason": "too large", "exchange": "", "routing-key": "renamed", "at": "1790000000000"}
    headers = {f"x-understudy-parked-{name}": text for name, text in told.items()}
    messages = [StompContent({**headers, "color": "red"}, b"%d" % n) for n in range(3)]
    side.put(parking, *messages)
    seen = bridge.network("parked", "list")
    assert (seen.returncode, seen.stderr) == (0, "")
    first, *lines = seen.stdout.splitlines()
    assert first.endswith(f"{parking} 3 messages")
    assert lines[0].endswith(
        "queue://renamed at 2026-09-21T14:13:20+00:00 1 bytes reason too large"
    )
    done = bridge.network("parked", "retry")
    assert (done.returncode, done.stderr) == (0, "")
    assert "3 sent, 0 left" in done.stdout
    moved = side.take(unique)
    assert [content.body for content in moved] == [b"0", b"1", b"2"]
    assert moved[0].headers["color"] == "red"
    assert not [name for name in moved[0].headers if "parked" in name]
    assert side.take(parking) == []


def test_a_durable_subscription_is_forgotten_when_nobody_has_it(
    activemq: ActiveMQ, rabbit_b: RabbitMQ, tmp_path: Path, unique: str
) -> None:
    bridge = Operated(
        tmp_path, activemq.uri, rabbit_b.uri, unique, statically_included=[f"topic://{unique}"]
    )
    name = f"understudy.bridge.test.topic://{unique}"
    with bridge:
        bridge.await_state("running")
        api = bridge.file.read_text(encoding="utf-8").partition("[network]")[0]
        bridge.file.write_text(api)  # the broker itself knows that it is in use
        kept = bridge.network("forget", "test")
        assert kept.returncode == 1
        assert f"{name} at {activemq.uri}: kept: " in kept.stdout
        bridge.stop()
    done = bridge.network("forget", "test")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"{name} at {activemq.uri}: the durable subscription is removed" in done.stdout
    again = bridge.network("forget", "test")
    assert again.returncode == 0
    (line,) = again.stdout.splitlines()
    assert line.startswith(f"understudy.parking.test at {activemq.uri}: kept, empty, since STOMP")
