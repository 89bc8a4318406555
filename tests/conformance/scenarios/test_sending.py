"""Sending: what was reported as sent is in a broker, and every wait has an end."""

from __future__ import annotations

import signal
import threading
import time
from functools import partial
from types import FrameType
from typing import Any

import pytest

from understudy import errors
from understudy.testing import wait_until
from understudy.testing.scenarios import Scene

pytestmark = pytest.mark.integration


@pytest.mark.scenario("F14")
def test_send_waits_while_the_broker_is_down(scene: Scene) -> None:
    """F14: a send with nobody there returns when the broker is back; exactly one copy."""
    member = scene.member()
    client = scene.open(member, timeout=-1, warnAfterReconnectAttempts=2)
    client.send(scene.queue, "before")
    scene.cut_off(member)
    sending = scene.background(lambda: client.send(scene.queue, "patient"))
    assert scene.events.reaches("SlowReconnect", 1)
    assert sending.is_running
    member.heal()
    sending.join()
    assert scene.bodies() == ["before", "patient"]


@pytest.mark.scenario("F15")
def test_send_timeout_while_every_broker_is_down(scene: Scene) -> None:
    """F15: the send ends in SendTimeout and is never sent later; the next one works."""
    members = scene.member(), scene.member()
    client = scene.open(*members, timeout=2000)
    client.send(scene.queue, "before")
    scene.cut_off(*members)
    began = time.monotonic()
    with pytest.raises(errors.SendTimeout, match="timeout=2000 ms") as caught:
        client.send(scene.queue, "late")
    assert 1.9 < time.monotonic() - began < 15
    assert isinstance(caught.value, scene.driver.library_errors)
    assert not isinstance(caught.value, OSError)
    assert len(caught.value.attempts) == 2
    members[1].heal()
    client.send(scene.queue, "after")
    assert scene.bodies() == ["before", "after"]


@pytest.mark.scenario("F15", "F36")
def test_send_timeout_while_the_broker_is_silent(scene: Scene) -> None:
    """F15: a message that was written and never answered is in doubt, and the error says so."""
    member = scene.member()
    client = scene.open(member, timeout=2000)
    client.send(scene.queue, "before")
    member.black_hole()
    with pytest.raises(errors.SendTimeout) as caught:
        client.send(scene.queue, "doubted")
    assert caught.value.written
    assert caught.value.message_id
    member.heal()
    client.send(scene.queue, "after")
    found = scene.bodies()
    assert [body for body in found if body != "doubted"] == ["before", "after"]
    assert found.count("doubted") <= 1


@pytest.mark.scenario("F16")
def test_timeout_bounds_the_first_connection(scene: Scene) -> None:
    """F16, ours: with nobody there from the start, connecting and sending end after timeout."""
    member = scene.member()
    member.refuse()

    def connect_and_send() -> None:
        scene.open(member, timeout=500).send(scene.queue, "never")

    calling = scene.background(connect_and_send)
    assert calling.is_over_within(30)
    assert isinstance(calling.error, (errors.SendTimeout, errors.ConnectFailed))
    assert isinstance(calling.error, scene.driver.library_errors)
    assert scene.bodies() == []


@pytest.mark.scenario("F28")
@pytest.mark.parametrize("track", ["false", "true"])
def test_reply_to_a_send_lost(scene: Scene, track: str) -> None:
    """F28: the broker has the message, its answer is lost: the send returns; the same id again."""
    member = scene.member()
    client = scene.open(member, trackMessages=track)
    client.send(scene.queue, "before")
    assert client.flush(30)
    cut = member.cut_after(1, "down")
    client.send(scene.queue, "doubted")
    assert client.flush(30)
    assert cut.fired == 1
    client.send(scene.queue, "after")
    assert client.flush(30)
    first, *copies, last = scene.take_all()
    assert (first.body, last.body) == ("before", "after")
    assert [copy.body for copy in copies] == ["doubted", "doubted"]
    assert [copy.is_resend for copy in copies] == [False, True]
    assert copies[0].id == copies[1].id != ""


@pytest.mark.scenario("F28")
@pytest.mark.parametrize("how", ["rst", "fin"])
def test_send_lost_on_its_way(scene: Scene, how: Any) -> None:
    """F28: the link breaks in the middle of the message: it arrives once, by the next link."""
    member = scene.member()
    client = scene.open(member)
    client.send(scene.queue, "before")
    cut = member.cut_after(10, "up", how)
    client.send(scene.queue, "again")
    assert cut.fired == 1
    assert scene.bodies() == ["before", "again"]


@pytest.mark.scenario("F28")
def test_order_of_tracked_messages(scene: Scene) -> None:
    """F28: a tracked stream over three resets: nothing lost, first copies in the order sent."""
    member = scene.member()
    client = scene.open(member, trackMessages="true", maxCacheSize=20_000)
    sent = [f"{number:03}" for number in range(300)]
    for number, body in enumerate(sent):
        client.send(scene.queue, body)
        if number in (80, 160, 240):
            member.reset()
    assert client.flush(60)
    assert list(dict.fromkeys(scene.bodies())) == sent


@pytest.mark.scenario("F36")
@pytest.mark.parametrize("track", ["false", "true"])
def test_stalled_socket(scene: Scene, track: str) -> None:
    """F36: a silent broker is left within two heartbeats or so; all 200 messages arrive."""
    silent, other = scene.member(), scene.member()
    client = scene.open(silent, other, heartbeat=1000, trackMessages=track)

    def stream() -> None:
        for number in range(200):
            if number == 100:
                silent.black_hole()
            client.send(scene.queue, str(number))
        assert client.flush(60)

    scene.background(stream).join(90)
    assert {*scene.bodies()} == {*map(str, range(200))}
    assert scene.events.reaches("Resumed", 1)
    assert scene.events.moves_to(other.port)


@pytest.mark.scenario("F51")
def test_oversize_message(scene: Scene) -> None:
    """F51: what no broker takes is the caller's error, no endless loop; the rest goes on."""
    member = scene.member()
    client = scene.open(member)
    client.send(scene.queue, "before")
    refused = scene.background(
        lambda: client.send(scene.queue, "huge", headers={"huge": "x" * 200_000})
    )
    assert refused.is_over_within(30)
    assert isinstance(refused.error, errors.DeliveryFailed)
    assert isinstance(refused.error, scene.driver.library_errors)
    client.send(scene.queue, "after")
    assert member.accepted < 8
    assert scene.bodies() == ["before", "after"]


class Interrupt(Exception):
    """Raised by a signal handler in the middle of a send."""


@pytest.mark.scenario("F53")
def test_interrupted_caller(scene: Scene) -> None:
    """F53: a signal handler's exception ends a blocked send at once; the connection works on."""
    member = scene.member()
    client = scene.open(member, timeout=-1, warnAfterReconnectAttempts=2)
    client.send(scene.queue, "before")
    scene.cut_off(member)

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise Interrupt

    def shoot() -> None:
        assert scene.events.reaches("SlowReconnect", 1)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)

    previous = signal.signal(signal.SIGUSR1, interrupt)
    try:
        shooting = scene.background(shoot)
        with pytest.raises(Interrupt):
            client.send(scene.queue, "interrupted")
        shooting.join()
    finally:
        signal.signal(signal.SIGUSR1, previous)
    member.heal()
    client.send(scene.queue, "after")
    assert scene.bodies() == ["before", "after"]


@pytest.mark.scenario("F20")
def test_publishers_of_one_client(scene: Scene) -> None:
    """F20: four threads send over one client while its link is reset 9 times: nothing lost."""
    member = scene.member()
    client = scene.open(member)
    sent: list[list[str]] = [[], [], [], []]
    is_over = threading.Event()

    def stream(worker: int) -> None:
        while not is_over.is_set():
            body = f"{worker}-{len(sent[worker])}"
            client.send(scene.queue, body)
            sent[worker].append(body)

    def are_all_sending() -> bool:
        """Until each has sent again a link may still be under way, and a reset counts twice."""
        before = [len(each) for each in sent]
        return wait_until(lambda: all(len(e) > n + 1 for e, n in zip(sent, before, strict=True)))

    workers = [scene.background(partial(stream, number)) for number in range(len(sent))]
    for drop in range(1, 10):
        assert are_all_sending()
        member.reset()
        assert scene.events.reaches("Resumed", drop)
    assert are_all_sending()
    is_over.set()
    for worker in workers:
        worker.join()
    assert scene.events.count("Interrupted") == scene.events.count("Resumed") == 9
    assert {*scene.bodies()} == {body for each in sent for body in each}
