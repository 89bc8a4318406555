"""A bridge process that is watched, paused, drained, reloaded and ended."""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import amqp
import pytest
from amqp import Channel

from understudy.testing import FaultProxy
from understudy.testing.brokers import RabbitMQ
from understudyd.testing.bridged import until
from understudyd.testing.operated import SECRET, Operated

pytestmark = pytest.mark.integration

Plain = Callable[[RabbitMQ], Channel]


def publish(channel: Channel, queue: str, *bodies: str) -> None:
    channel.confirm_select()
    for body in bodies:
        message = amqp.Message(body, delivery_mode=2)
        channel.basic_publish_confirm(message, routing_key=queue)


def test_one_that_runs_is_shown_and_measured(
    plain: Plain, rabbit_a: RabbitMQ, rabbit_b: RabbitMQ, queue: str, tmp_path: Path
) -> None:
    publish(plain(rabbit_a), queue, *map(str, range(20)))
    with Operated(tmp_path, rabbit_a.uri, rabbit_b.uri, queue) as bridge:
        until(lambda: bridge.bridge().get("forwarded") == 20, "all are forwarded")
        told = bridge.await_state("running")
        assert {name: told[name] for name in ("reason", "in_flight", "oldest_s", "parked")} == {
            "reason": "",
            "in_flight": 0,
            "oldest_s": None,
            "parked": 0,
        }
        assert (told["retried"], told["last_error"]) == (0, "")
        assert "guest:**@" in told["source"]
        until(lambda: bridge.bridge()["lag"] == 0, "the source tells what waits")
        assert bridge.get("/health")[0] == 200
        assert bridge.get("/liveness")[0] == 200
        code, text = bridge.get("/metrics")
        assert code == 200
        where = f'{{bridge="test",destination="queue://{queue}"'
        assert f"understudy_bridge_forwarded_total{where}}} 20.0\n" in text
        assert f'understudy_bridge_state{where},state="running",reason=""}} 1.0\n' in text
        assert f"understudy_bridge_lag{where}}} 0.0\n" in text
        assert bridge.get("/nothing")[0] == 404
        assert bridge.stop() == 0
    assert f"bridge test queue://{queue} is stopped" in bridge.log


def test_who_may_order_is_checked(
    rabbit_a: RabbitMQ, rabbit_b: RabbitMQ, queue: str, tmp_path: Path
) -> None:
    with Operated(tmp_path, rabbit_a.uri, rabbit_b.uri, queue) as bridge:
        bridge.await_state("running")
        assert bridge.post("/bridges/test/pause", token="wrong")[0] == 401
        assert bridge.get("/bridges/test/pause")[0] == 405
        assert bridge.post("/bridges/other/pause")[0] == 404
        assert bridge.post("/bridges/test/explode")[0] == 404
        code, text = bridge.post("/bridges/test/resume")
        assert code == 412
        assert "it is running" in text
        assert bridge.bridge()["state"] == "running"


def test_a_pause_closes_both_ends_and_lasts_over_a_restart(
    plain: Plain, rabbit_a: RabbitMQ, rabbit_b: RabbitMQ, queue: str, tmp_path: Path
) -> None:
    source, target = plain(rabbit_a), plain(rabbit_b)

    def consumers() -> int:
        return int(source.queue_declare(queue, passive=True).consumer_count)

    with Operated(tmp_path, rabbit_a.uri, rabbit_b.uri, queue) as bridge:
        bridge.await_state("running")
        assert bridge.post("/bridges/test/pause")[0] == 202
        told = bridge.bridge()
        assert told["state"] == "paused"
        assert told["reason"].startswith("paused by 127.0.0.1 at 20")
        assert bridge.post("/bridges/test/pause")[0] == 412
        assert bridge.get("/health")[0] == 200  # somebody wants it so
        until(lambda: consumers() == 0, "nobody reads the queue")
        publish(source, queue, "one")
        bridge.kill()
        bridge.start()
        again = bridge.await_state("paused")
        assert again["reason"] == told["reason"]
        assert target.basic_get(queue) is None
        assert bridge.post("/bridges/test/resume")[0] == 202
        until(lambda: bridge.bridge()["forwarded"] == 1, "it goes on")
        assert bridge.stop() == 0
        bridge.start()
        bridge.await_state("running")


def test_a_drain_settles_and_then_pauses(
    plain: Plain, rabbit_a: RabbitMQ, rabbit_b: RabbitMQ, queue: str, tmp_path: Path
) -> None:
    bodies = [str(number) for number in range(3000)]
    publish(plain(rabbit_a), queue, *bodies)
    target = plain(rabbit_b)
    with Operated(tmp_path, rabbit_a.uri, rabbit_b.uri, queue) as bridge:
        until(lambda: bridge.bridge().get("forwarded"), "it has begun")
        assert bridge.post("/bridges/test/drain")[0] == 202
        told = bridge.await_state("paused")
        assert told["in_flight"] == 0
        settled = told["forwarded"]
        bridge.stop()
    left = plain(rabbit_a).queue_declare(queue, passive=True).message_count
    arrived = target.queue_declare(queue, passive=True).message_count
    assert (settled, arrived + left) == (arrived, len(bodies))  # none twice, none lost


def test_who_waits_for_a_broker_is_told_why(
    rabbit_a: RabbitMQ, rabbit_b: RabbitMQ, queue: str, tmp_path: Path
) -> None:
    wrong = f"amqp://guest:{SECRET}@{rabbit_b.host}:{rabbit_b.port}//"
    with Operated(tmp_path, rabbit_a.uri, wrong, queue) as bridge:
        until(lambda: "ACCESS_REFUSED" in bridge.bridge().get("reason", ""), "it is shown")
        assert bridge.bridge()["state"] == "waiting-target"
        code, text = bridge.get("/health")
        assert code == 503
        assert "test is waiting-target: target: " in text
        assert 'state="waiting-target"' in bridge.get("/metrics")[1]
        assert SECRET not in bridge.log
        line = next(line for line in bridge.log.splitlines() if "ACCESS_REFUSED" in line)
        assert f"bridge test queue://{queue} is waiting-target: target: " in line
        assert line[10] == "T"
        assert line[23:24] in "+-"  # a time zone
        assert bridge.stop() == 0


def test_a_queue_that_is_not_there_leaves_the_others_lag_alone(
    plain: Plain, rabbit_a: RabbitMQ, rabbit_b: RabbitMQ, queue: str, tmp_path: Path
) -> None:
    publish(plain(rabbit_a), queue, "one")
    names = [f"queue://{queue}-missing", f"queue://{queue}"]
    with Operated(tmp_path, rabbit_a.uri, rabbit_b.uri, queue, statically_included=names) as bridge:

        def lags() -> list[int | None]:
            return [link["lag"] for link in bridge.bridge().get("links", [])]

        until(lambda: lags() == [None, 0], "the one that is there is asked")
        told = bridge.bridge()
        assert told["lag"] is None  # of all of them together nobody knows
        assert told["state"] == "waiting-source"
        assert "404" in told["reason"]
        assert told["reason"].startswith(f"queue://{queue}-missing: source: ")


def test_a_stuck_link_does_not_keep_the_api_from_answering(
    plain: Plain, rabbit_a: RabbitMQ, rabbit_b: RabbitMQ, queue: str, tmp_path: Path
) -> None:
    """The target's network swallows everything: stalled, long before its connection is lost."""
    with FaultProxy(rabbit_b.host, rabbit_b.port) as proxy:
        target = f"amqp://guest:guest@{proxy.host}:{proxy.port}//?heartbeat=60000"
        with Operated(tmp_path, rabbit_a.uri, target, queue) as bridge:
            bridge.await_state("running")
            proxy.black_hole()
            publish(plain(rabbit_a), queue, "one")
            told = bridge.await_state("stalled")
            assert "nothing was confirmed" in told["reason"]
            assert told["in_flight"] == 1
            assert bridge.get("/health")[0] == 503
            assert bridge.post("/bridges/test/pause")[0] == 202
            bridge.await_state("paused")


def test_a_bridge_process_that_stands_still_is_not_told_to_work(
    rabbit_a: RabbitMQ, rabbit_b: RabbitMQ, queue: str, tmp_path: Path
) -> None:
    with Operated(tmp_path, rabbit_a.uri, rabbit_b.uri, queue) as bridge:
        bridge.await_state("running")
        assert bridge.process is not None
        os.kill(bridge.process.pid, signal.SIGSTOP)
        try:
            until(lambda: bridge.get("/status")[0] == 503, "it is known to stand still")
            assert "silent" in json.loads(bridge.get("/health")[1])["reason"]
            assert "understudy_bridge_up{} 0.0" in bridge.get("/metrics")[1]
        finally:
            os.kill(bridge.process.pid, signal.SIGCONT)
        bridge.await_state("running")


def test_a_reload_leaves_alone_what_did_not_change(
    plain: Plain, rabbit_a: RabbitMQ, rabbit_b: RabbitMQ, queue: str, tmp_path: Path
) -> None:
    other = f"{queue}-2"
    for node in (rabbit_a, rabbit_b):
        plain(node).queue_declare(other, durable=True, auto_delete=False)
    channel = plain(rabbit_a)
    with Operated(tmp_path, rabbit_a.uri, rabbit_b.uri, queue) as bridge:
        publish(channel, queue, "one")
        until(lambda: bridge.bridge().get("forwarded") == 1, "it runs")
        ends = f'source = "{rabbit_a.uri}"\ntarget = "{rabbit_b.uri}"\n'
        before = bridge.file.read_text(encoding="utf-8").partition("[network]")[0]
        second = f'[bridges.second]\n{ends}statically_included = ["queue://{other}"]\n'
        bridge.write(before + second)
        bridge.reload()
        bridge.await_state("running", name="second")
        assert bridge.bridge()["forwarded"] == 1  # it is the same as before
        bridge.write("[bridges.second]\nsource = 7\n")
        bridge.reload()
        until(lambda: "everything goes on as before" in bridge.log, "the mistake is told")
        bridge.write(f"{before}{second}prefetch_size = 7\n")
        bridge.reload()
        until(lambda: "bridge second: changed" in bridge.log, "the change is seen")
        bridge.await_state("running", name="second")
        bridge.write(second)
        bridge.reload()
        until(lambda: not bridge.bridge(), "the first is gone")
        publish(channel, other, "two")
        until(lambda: bridge.bridge("second").get("forwarded") == 1, "the second runs")
        assert bridge.stop() == 0


def test_an_api_that_dies_is_started_again(
    rabbit_a: RabbitMQ, rabbit_b: RabbitMQ, queue: str, tmp_path: Path
) -> None:
    with Operated(tmp_path, rabbit_a.uri, rabbit_b.uri, queue) as bridge:
        bridge.await_state("running")
        assert bridge.process is not None
        folder = Path(f"/proc/{bridge.process.pid}/task/{bridge.process.pid}")
        (child,) = (folder / "children").read_text().split()
        os.kill(int(child), signal.SIGKILL)
        until(lambda: "starting another" in bridge.log, "it is missed")
        bridge.await_state("running")
        assert bridge.post("/bridges/test/pause")[0] == 202


def test_a_reload_takes_another_token(
    rabbit_a: RabbitMQ, rabbit_b: RabbitMQ, queue: str, tmp_path: Path
) -> None:
    with Operated(tmp_path, rabbit_a.uri, rabbit_b.uri, queue) as bridge:
        bridge.await_state("running")
        bridges = bridge.file.read_text(encoding="utf-8").partition("[network]")[0]
        bridge.write(bridges, token="another")
        bridge.reload()
        until(lambda: bridge.post("/bridges/test/pause")[0] == 401, "the old token is no good")
        bridge.await_state("paused", "running")
        assert bridge.post("/bridges/test/drain", token="another")[0] in (202, 412)
        bridge.await_state("paused")


def test_a_reload_says_that_the_api_comes_and_goes_with_the_process(
    rabbit_a: RabbitMQ, rabbit_b: RabbitMQ, queue: str, tmp_path: Path
) -> None:
    with Operated(tmp_path, rabbit_a.uri, rabbit_b.uri, queue) as bridge:
        bridge.await_state("running")
        bridges = bridge.file.read_text(encoding="utf-8").partition("[network]")[0]
        bridge.file.write_text(bridges, encoding="utf-8")
        bridge.reload()
        until(lambda: "[network] api was removed" in bridge.log, "it is told")
        bridge.await_state("running")  # it answers still


def test_systemd_is_told(
    rabbit_a: RabbitMQ,
    rabbit_b: RabbitMQ,
    queue: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.settimeout(60)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        monkeypatch.setenv("WATCHDOG_USEC", "10000000")

        def await_told(line: str) -> None:
            while line not in listener.recv(4096).decode().splitlines():
                pass

        with Operated(tmp_path, rabbit_a.uri, rabbit_b.uri, queue) as bridge:
            await_told("READY=1")
            await_told("WATCHDOG=1")
            await_told("STATUS=bridges: 1 running")
            bridge.reload()
            await_told("RELOADING=1")
            await_told("READY=1")
            assert bridge.stop() == 0
            await_told("STOPPING=1")
