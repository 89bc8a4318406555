"""Connecting: which member is used, what an unusable one costs, and how waiting ends."""

from __future__ import annotations

import random
from typing import Any

import pytest

from understudy import errors
from understudy.testing import FaultProxy, wait_until
from understudy.testing.scenarios import Events, Inbox, Noise, Scene, consuming
from understudy.testing.scenarios.places import Place

pytestmark = pytest.mark.integration


@pytest.mark.scenario("F05")
def test_unknown_hosts_do_not_block_known_ones(scene: Scene) -> None:
    """F05: a name that nobody knows stands first; the second member is used, again and again."""
    unknown = scene.place.address("nowhere.invalid", 5672)
    member = scene.member()
    client = scene.open(unknown, member)
    client.send(scene.queue, "one")
    member.reset()
    client.send(scene.queue, "two")
    assert scene.bodies() == ["one", "two"]


@pytest.mark.scenario("F07")
def test_giving_up_on_start_up(scene: Scene) -> None:
    """F07: startupMaxReconnectAttempts=3: three passes, then an error with every cause."""
    closes, refuses = scene.noise(), scene.member()
    refuses.refuse()
    with pytest.raises(errors.ConnectFailed) as caught:
        scene.open(closes, refuses, startupMaxReconnectAttempts=3, maxReconnectAttempts=7)
    assert closes.accepted == 3
    assert isinstance(caught.value, scene.driver.library_errors)
    told = [attempt.endpoint for attempt in caught.value.attempts]
    for port, endpoint in zip((closes.port, refuses.port), told, strict=True):
        assert str(port) in endpoint
    assert all(str(attempt) in str(caught.value) for attempt in caught.value.attempts)
    assert scene.events.reaches("GaveUp", 1)
    assert scene.events.names == ["GaveUp"]


@pytest.mark.scenario("F08")
def test_reconnect_false(scene: Scene) -> None:
    """F08: told once, no Interrupted and no Resumed; every send raises, no new link is made."""
    member = scene.member()
    client = scene.open(member, reconnect="false")
    client.send(scene.queue, "before")
    accepted = member.accepted
    member.reset()
    for _ in range(2):
        with pytest.raises(errors.ConnectionLost) as caught:
            client.send(scene.queue, "lost")
        assert isinstance(caught.value, scene.driver.library_errors)
    assert scene.events.reaches("GaveUp", 1)
    assert scene.events.names == ["Connected", "GaveUp"]
    assert member.accepted == accepted
    assert scene.bodies() == ["before"]


@pytest.mark.scenario("F09")
def test_initial_reconnect_delay(scene: Scene) -> None:
    """F09: the first attempt after a loss waits as long as asked for, and no other does."""
    member = scene.member()
    client = scene.open(
        member, initialReconnectDelay=800, reconnectDelayJitter=0, maxReconnectDelay=30_000
    )
    client.send(scene.queue, "one")
    member.reset()
    client.send(scene.queue, "two")
    assert scene.events.reaches("Resumed", 1)
    waited = scene.events.first("Resumed").time - scene.events.first("Interrupted").time
    assert 0.7 < waited < 15


@pytest.mark.scenario("F12")
def test_listed_order_and_the_lost_one_last(scene: Scene) -> None:
    """F12: 1 is used; it dies: 2; it dies: 3; 1 lives again and 3 dies: 1."""
    members = [scene.member() for _ in range(3)]
    client = scene.open(*members)
    for turn in range(5):
        client.send(scene.queue, str(turn))
        used, following = members[turn % 3], members[(turn + 1) % 3]
        assert scene.events.moves_to(used.port)
        following.heal()
        scene.cut_off(used)
    members[2].heal()
    assert scene.bodies() == [str(turn) for turn in range(5)]


@pytest.mark.scenario("F13")
def test_random_order(scene: Scene) -> None:
    """F13: of 16 clients with the same list of two, each member gets some."""
    members = scene.member(), scene.member()
    for _ in range(16):
        events = Events()
        scene.open(*members, on_event=events, randomize="true")
        assert events.reaches("Connected", 1)
    assert all(member.accepted for member in members)  # all alike: once in 30 000 runs


@pytest.mark.scenario("F37")
def test_half_open_server(scene: Scene) -> None:
    """F37: a server that accepts and stays silent costs connectTimeout, and no pile of sockets."""
    silent, member = scene.noise(then="silence"), scene.member()
    client = scene.open(silent, member, connectTimeout=1000)
    for number in range(3):
        client.send(scene.queue, str(number))
        member.reset()
    client.send(scene.queue, "3")
    assert scene.bodies() == ["0", "1", "2", "3"]
    assert 1 <= silent.accepted <= 8
    assert wait_until(lambda: silent.connections == 0)


LONGER_THAN_A_HANDSHAKE = 900  # bytes, both ways; RabbitMQ's over AMQP takes 750

NOISES: dict[str, dict[str, Any]] = {
    "fin": {},
    "another protocol": {"words": b"HTTP/1.1 400 Bad Request\r\n\r\n"},
    "random bytes": {"words": random.Random(3).randbytes(100_000), "then": "silence"},
    "half of AMQP": {"words": b"\x01\x00\x00\x00\x00\x01\x00\x00\x0a\x00\x0a", "then": "silence"},
    "half of STOMP": {"words": b"CONNECTED\nversion:1.2\n", "then": "silence"},
    "endless zeros": {"words": b"\x00" * 4096, "then": "flood"},
    "endless lines": {"words": b"\n" * 4096, "then": "flood"},
    "endless header": {"words": b"CONNECTED\n" + b"x" * 4096, "then": "flood"},
}


@pytest.mark.scenario("F38")
@pytest.mark.parametrize("noise", NOISES)
def test_unusable_server(scene: Scene, noise: str) -> None:
    """F38: whatever a server says, the next member is used, in time, and nothing spins."""
    bad, member = scene.noise(**NOISES[noise]), scene.member()

    def use() -> None:
        scene.open(bad, member, connectTimeout=1000).send(scene.queue, "arrives")

    scene.background(use).join(30)
    assert scene.bodies() == ["arrives"]
    assert bad.accepted <= 3
    assert wait_until(lambda: bad.connections == 0)


@pytest.mark.scenario("F37")
def test_server_that_drips(scene: Scene) -> None:
    """F37: a handshake that comes byte by byte is over at connectTimeout too."""
    dripping, member = scene.member(), scene.member()
    dripping.throttle(30)  # bytes a second; a handshake has hundreds
    client = scene.open(dripping, member, connectTimeout=1000)
    client.send(scene.queue, "arrives")
    assert scene.events.moves_to(member.port)
    assert scene.bodies() == ["arrives"]


@pytest.mark.scenario("F28", "F38")
@pytest.mark.parametrize("how", ["rst", "fin"])
def test_broken_after_so_many_bytes(scene: Scene, how: Any) -> None:
    """F38, F28: links to the first member end after n bytes, in the handshake or behind it."""
    breaking, member = scene.member(), scene.member()
    sent: list[str] = []
    cuts = 0
    for n_bytes in range(1, LONGER_THAN_A_HANDSHAKE, 19):
        cut = breaking.cut_after(n_bytes, "both", how, times=None)
        client = scene.open(breaking, member, on_event=Events())
        for _ in range(3):
            sent.append(str(len(sent)))
            client.send(scene.queue, sent[-1])
        client.close()
        breaking.heal()
        cuts += cut.fired
    assert cuts > 20
    assert list(dict.fromkeys(scene.bodies())) == sent


@pytest.mark.scenario("F39")
@pytest.mark.parametrize("other", ["refuses", "stays silent"])
def test_close_while_reconnecting(scene: Scene, other: str) -> None:
    """F39: close() while it waits or connects returns soon, and the waiting send is told."""
    member, silent = scene.member(), scene.noise(then="silence")
    members: list[FaultProxy | Noise] = [member] if other == "refuses" else [member, silent]
    bounds: dict[str, Any] = {"timeout": -1, "connectTimeout": 60_000, "closeTimeout": 60_000}
    client = scene.open(*members, warnAfterReconnectAttempts=1, **bounds)
    client.send(scene.queue, "before")
    scene.cut_off(member)
    sending = scene.background(lambda: client.send(scene.queue, "never"))
    if other == "refuses":
        assert scene.events.reaches("SlowReconnect", 1)
    else:
        assert wait_until(lambda: silent.connections == 1)
    scene.background(client.close).join(20)  # closeTimeout is for tracked messages
    assert sending.is_over_within(20)
    assert isinstance(sending.error, scene.driver.library_errors)
    member.heal()
    assert scene.bodies() == ["before"]


@pytest.mark.scenario("F40")
def test_backups(scene: Scene) -> None:
    """F40: two idle links are held ready; 1 -> 2 -> 3 without a handshake; then refilled."""
    members = [scene.member() for _ in range(3)]
    client = scene.open(*members, backup="true", backupPoolSize=2, initialReconnectDelay=20_000)
    client.send(scene.queue, "0")
    first = members[0].accepted
    assert wait_until(lambda: [m.accepted for m in members] == [first, 1, 1])
    for left, taken in ((0, 1), (1, 2)):
        assert scene.is_quiet(*members)
        accepted = members[taken].accepted
        bytes_up = members[taken].bytes_up
        scene.cut_off(members[left])
        client.send(scene.queue, str(taken))
        assert scene.events.moves_to(members[taken].port)
        assert members[taken].accepted - accepted < first, "the ready link was not used"
        assert members[taken].bytes_up > bytes_up
    members[0].heal()
    accepted = members[0].accepted
    assert wait_until(lambda: members[0].accepted > accepted), "the pool was not refilled"
    assert scene.bodies() == ["0", "1", "2"]


@pytest.mark.scenario("F42", "F43", "F44")
@pytest.mark.parametrize("preferred", ["first", "named"])
def test_priority_backup(scene: Scene, preferred: str) -> None:
    """F42, F44: away while home is down, back when it is stable; both are told, in pairs."""
    a, b = scene.member(), scene.member()
    home, other = (a, b) if preferred == "first" else (b, a)
    options: dict[str, Any] = {"priorityBackup": "true"}
    if preferred == "named":
        options["priorityURIs"] = scene.place.address(b.host, b.port, login="")
    client = scene.open(a, b, **options)
    client.send(scene.queue, "0")
    assert scene.events.moves_to(home.port)
    assert other.accepted <= 1  # where it started; at home nothing else is dialed
    scene.cut_off(home)
    client.send(scene.queue, "1")
    assert scene.events.moves_to(other.port)
    moves = scene.events.count("Resumed")
    home.heal()
    assert scene.events.reaches("Resumed", moves + 1)
    assert scene.events.moves_to(home.port)
    client.send(scene.queue, "2")
    assert scene.events.count("Interrupted") == scene.events.count("Resumed") == moves + 1
    assert scene.bodies() == ["0", "1", "2"]


@pytest.mark.scenario("F43")
def test_stays_at_home(scene: Scene) -> None:
    """F43: on a priority member nothing else is looked for."""
    home, other = scene.member(), scene.member()
    client = scene.open(home, other, priorityBackup="true")
    client.send(scene.queue, "0")
    assert scene.events.reaches("Connected", 1)
    assert not wait_until(lambda: other.accepted > 0, 1.0)
    assert scene.events.names == ["Connected"]


@pytest.mark.scenario("F49")
def test_nested_options(scene: Scene) -> None:
    """F49: nested.heartbeat reaches the members, so silence is noticed; the lost one comes last."""
    members = [scene.member() for _ in range(3)]
    client = scene.open(*members, nested__heartbeat=1000, heartbeat=0, connectTimeout=1000)
    client.send(scene.queue, "0")
    members[0].black_hole()
    scene.background(lambda: client.send(scene.queue, "1")).join()
    assert scene.events.moves_to(members[1].port)
    scene.cut_off(members[1])
    client.send(scene.queue, "2")
    assert scene.events.moves_to(members[2].port)


@pytest.mark.scenario("F50")
def test_publisher_moves_to_another_broker(scene: Scene, other_place: Place) -> None:
    """F50: two brokers that know nothing of each other: who consumes at the second one receives."""
    first, second = scene.member(), scene.member(other_place)
    other_place.declare(scene.queue)
    publisher = scene.open(first, second)
    consumer = scene.open(scene.member(other_place), on_event=Events())
    inbox = Inbox()
    with consuming(consumer, scene.queue, inbox):
        publisher.send(scene.queue, "before")
        scene.cut_off(first)
        publisher.send(scene.queue, "after")
        assert inbox.reaches(1)
    assert inbox.bodies == ["after"]
    assert scene.bodies() == ["before"]


@pytest.mark.scenario("F07", "F52")
def test_after_giving_up(scene: Scene) -> None:
    """F52, ours: giving up ends the call that waits; the next one begins anew."""
    member = scene.member()
    client = scene.open(member, maxReconnectAttempts=3, timeout=-1)
    client.send(scene.queue, "before")
    scene.cut_off(member)
    with pytest.raises(errors.ConnectFailed) as caught:
        client.send(scene.queue, "given up")
    assert isinstance(caught.value, scene.driver.library_errors)
    assert scene.events.reaches("GaveUp", 1)
    member.heal()
    client.send(scene.queue, "again")
    assert scene.bodies() == ["before", "again"]
