"""fanout: one send to several brokers that know nothing of each other."""

from __future__ import annotations

import pytest

from understudy.testing import wait_until
from understudy.testing.scenarios import Client, Scene
from understudy.testing.scenarios.places import Place
from understudy.testing.scenarios.port import TopicSending

pytestmark = pytest.mark.integration


def topics_of(client: Client) -> TopicSending:
    assert isinstance(client, TopicSending)
    return client


@pytest.mark.scenario("D09")
@pytest.mark.parametrize("queues_too", ["false", "true"])
def test_delivers_to_all(scene: Scene, other_place: Place, queues_too: str) -> None:
    """D09: 100 topic messages are on each of two brokers; a queue message only where asked for."""
    places = scene.place, other_place
    for place in places:
        topic, queue = place.subscribe(f"{scene.queue}-all")
    other_place.declare(scene.queue)
    members = scene.member(), scene.member(other_place)
    client = scene.open_uri(scene.fanout_uri(*members, fanOutQueues=queues_too, minAckCount=2))
    sent = [str(number) for number in range(100)]
    for body in sent:
        topics_of(client).send_topic(topic, body)
    client.send(scene.queue, "to the queue")
    for place in places:
        assert [found.body for found in place.take_all(queue)] == sent
    assert scene.bodies() == ["to the queue"]
    there = [found.body for found in other_place.take_all(scene.queue)]
    assert there == (["to the queue"] if queues_too == "true" else [])


@pytest.mark.scenario("D10")
def test_waits_for_enough_brokers(scene: Scene, other_place: Place) -> None:
    """D10: one of two is down and minAckCount=2: the send waits, and returns when it is back."""
    places = scene.place, other_place
    for place in places:
        topic, queue = place.subscribe(f"{scene.queue}-all")
    members = scene.member(), scene.member(other_place)
    client = scene.open_uri(scene.fanout_uri(*members, minAckCount=2))
    topics_of(client).send_topic(topic, "before")
    scene.cut_off(members[1])
    sending = scene.background(lambda: topics_of(client).send_topic(topic, "patient"))
    assert not sending.is_over_within(0.5)
    members[1].heal()
    sending.join()
    for place in places:
        bodies: list[str] = []
        assert wait_until(lambda p=place, b=bodies: more(p, queue, b) >= 2)  # type: ignore[misc]
        assert list(dict.fromkeys(bodies)) == ["before", "patient"]


def more(place: Place, queue: str, bodies: list[str]) -> int:
    """Add what has come; a copy that is not counted for the send may still be under way."""
    bodies += [found.body for found in place.take_all(queue)]
    return len(bodies)
