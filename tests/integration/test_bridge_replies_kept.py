"""Requests over a bridge that remembers (`dedup`) or keeps messages on disk (`spool`), and that is
killed between a request and its reply."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from understudy.testing import FaultProxy
from understudyd.testing.asked import Request, Requester, Responder, requester, responder
from understudyd.testing.bridged import until
from understudyd.testing.operated import Operated
from understudyd.testing.pairs import Pair, over

pytestmark = [pytest.mark.integration, pytest.mark.slow]


@pytest.fixture
def asking(pair: Pair) -> Iterator[Requester]:
    with closing(requester(pair.source)) as made:
        yield made


@pytest.fixture
def answering(pair: Pair) -> Iterator[Responder]:
    with closing(responder(pair.target)) as made:
        yield made


def ask(pair: Pair, asking: Requester, word: str) -> None:
    asking.ask(pair.here, word.encode(), f"id-{word}")


def answer(asking: Requester, answering: Responder, request: Request) -> None:
    answering.answer(request, b"re: " + request.body)
    assert asking.answer() == (b"re: " + request.body, f"id-{request.body.decode()}")


def took(pair: Pair, answering: Responder, word: str) -> Request:
    """The next request, which is this one."""
    request = answering.take(pair.there)
    assert request.body == word.encode()
    return request


def operated(pair: Pair, folder: Path, **options: object) -> Operated:
    rename = {f"queue://{pair.here}": f"queue://{pair.there}"}
    ends = {"source": pair.source.uri, "target": pair.target.uri, **options}
    source, target = str(ends.pop("source")), str(ends.pop("target"))
    return Operated(folder, source, target, pair.here, rename=rename, **ends)


@over(("amqp", "amqp"), ("activemq", "amqp"), ("amqp", "activemq"))
def test_a_request_that_is_not_sent_again_still_gets_its_reply(
    pair: Pair, asking: Requester, answering: Responder, tmp_path: Path
) -> None:
    """The source delivers it again to a bridge that was killed, which makes the address anew. One
    of ActiveMQ is gone with its connection."""
    is_kept = pair.target.kind == "amqp"
    port = pair.source.uri.rpartition(":")[2]
    with (
        FaultProxy(pair.source.broker.host, int(port)) as proxy,
        operated(
            pair,
            tmp_path,
            source=pair.source.uri.replace(f":{port}", f":{proxy.port}"),
            dedup="journal" if is_kept else "target",
        ) as bridge,
    ):
        ask(pair, asking, "one")
        answer(asking, answering, took(pair, answering, "one"))
        until(lambda: bridge.bridge().get("replies") == 1, "it is settled")
        proxy.half_open("down")  # acknowledgements get lost
        ask(pair, asking, "two")
        request = took(pair, answering, "two")
        until(lambda: bridge.bridge()["forwarded"] == 2, "it is confirmed")
        bridge.kill()
        proxy.heal(drop=True)
        bridge.start()
        until(lambda: bridge.bridge().get("duplicates") == 1, "it came again")
        if is_kept:
            answer(asking, answering, request)
        ask(pair, asking, "three")
        answer(asking, answering, took(pair, answering, "three"))
        until(lambda: bridge.bridge()["replies"] == 1 + is_kept, "all are settled")
        assert bridge.bridge()["replies_lost"] == 0
        assert bridge.stop() == 0


@over(("amqp", "amqp"), ("activemq", "amqp"), ("rabbitmq-stomp", "activemq"))
def test_a_request_that_waited_on_disk_gets_its_reply(
    pair: Pair, asking: Requester, answering: Responder, tmp_path: Path
) -> None:
    port = pair.target.uri.rpartition(":")[2]
    with (
        FaultProxy(pair.target.broker.host, int(port)) as proxy,
        operated(
            pair,
            tmp_path,
            target=pair.target.uri.replace(f":{port}", f":{proxy.port}"),
            spool=str(tmp_path / "spool"),
        ) as bridge,
    ):
        ask(pair, asking, "one")
        answer(asking, answering, took(pair, answering, "one"))
        until(lambda: bridge.bridge().get("replies") == 1, "it is settled")
        proxy.refuse()
        proxy.reset()
        ask(pair, asking, "two")
        until(lambda: bridge.bridge().get("spooled") == 1, "it is on disk")
        bridge.kill()
        proxy.heal()
        bridge.start()
        request = took(pair, answering, "two")
        answer(asking, answering, request)
        ask(pair, asking, "three")
        answer(asking, answering, took(pair, answering, "three"))
        until(lambda: bridge.bridge().get("replies") == 2, "all are settled")
        told = bridge.bridge()["links"][0]
        assert (told["requests"], told["requests_unserved"], told["replies_lost"]) == (2, 0, 0)
        assert bridge.stop() == 0
