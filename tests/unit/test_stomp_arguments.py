"""What an application may give to a STOMP Connection, and what it is told about the rest."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import stomp

from understudy.errors import ConfigurationError
from understudy.stomp import Connection, Connection11
from understudy.stomp.subscriptions import Subscription
from understudy.wire.stomp_dialects import ACTIVEMQ, ARTEMIS, GENERIC, RABBITMQ

LIST = "failover:(stomp://a:1,stomp://b:2)"


@pytest.mark.parametrize(
    "given",
    [
        ["stomp://a:1", "stomp://b:2"],
        ("stomp://a:1", "stomp://b:2"),
        [("a", 1), ("b", 2)],
        [("a", "1"), ("b", "2")],
        ["stomp://a:1", ("b", 2)],
    ],
)
def test_a_list_is_tried_in_order(given: Any) -> None:
    uri = Connection(given).uri
    assert [str(one) for one in uri.endpoints] == ["stomp://a:1", "stomp://b:2"]
    assert not uri.options.randomize


@pytest.mark.parametrize(
    "given", [5, b"stomp://a", ("a", 61613), [5], [b"stomp://a"], {"a": 1}, [("a", 1, 2)], [None]]
)
def test_what_is_no_address_is_refused(given: Any) -> None:
    with pytest.raises(ConfigurationError, match=r'\[\("mq1", 61613\), \("mq2", 61613\)\]'):
        Connection(given)


@pytest.mark.parametrize("given", ["x", 5, None, (1,), (1, 2, 3), (1, "2"), (-1, 0), (True, 0)])
def test_heartbeats_that_are_none_are_refused(given: Any) -> None:
    with pytest.raises(ConfigurationError, match="two whole numbers of ms"):
        Connection(LIST, heartbeats=given)


def test_what_cannot_be_called_is_no_on_event() -> None:
    with pytest.raises(ConfigurationError, match=r"on_event must be callable.*'print'"):
        Connection(LIST, on_event="print")  # type: ignore[arg-type]


@pytest.mark.parametrize("mode", ["client_individual", "AUTO", "", None])
def test_an_unknown_ack_mode_is_refused(mode: Any) -> None:
    """A broker would take it for auto: unprocessed deliveries would be gone."""
    with pytest.raises(ConfigurationError, match="auto, client, client-individual"):
        Subscription({"id": "1", "destination": "/queue/q", "ack": mode})


def test_the_nearest_ack_mode_is_named() -> None:
    with pytest.raises(ConfigurationError, match=r"did you mean client-individual\?"):
        Subscription({"id": "1", "destination": "/queue/q", "ack": "client_individual"})


@pytest.mark.parametrize("listener", [print, None, object()])
def test_a_listener_without_calls_is_refused(listener: Any) -> None:
    with pytest.raises(TypeError, match=r"on_message.*on_interrupted"):
        Connection(LIST).set_listener("", listener)


def test_one_call_makes_a_listener() -> None:
    class Quiet:
        def on_resumed(self, frame: object) -> None:
            pass

    connection, quiet = Connection(LIST), Quiet()
    connection.set_listener("", quiet)
    assert connection.get_listener("") is quiet


@pytest.mark.parametrize("body", [5, 0, None, {"a": 1}, ["x"]])
def test_a_body_that_is_no_text_is_refused(body: Any) -> None:
    with pytest.raises(TypeError, match="a body must be str or bytes, not"):
        Connection(LIST).send("/queue/q", body)


def test_its_repr_is_one_line_without_passwords() -> None:
    uri = "failover:(stomp://app:hush@a:1)"
    assert repr(Connection(uri)) == "<Connection12 not connected of failover:(stomp://app:**@a:1)>"
    assert repr(Connection11(uri)).startswith("<Connection11 not connected of failover:(")


@pytest.mark.parametrize(
    ("login", "is_told"),
    [
        (("app", "wrong"), True),
        (("guest", "hush"), True),
        (("app", "hush"), False),
        (("app", None), False),
        ((None, None), False),
    ],
)
def test_a_login_that_is_not_used_is_told_once(
    login: tuple[str | None, str | None], is_told: bool, caplog: pytest.LogCaptureFixture
) -> None:
    connection = Connection("failover:(stomp://app:hush@127.0.0.1:1)")
    caplog.set_level(logging.WARNING, "understudy")
    for _ in range(2):
        connection._tell_login(*login)  # what connect() does first; no network here
    told = [one.getMessage() for one in caplog.records if "connect()" in one.getMessage()]
    assert len(told) == is_told
    assert "hush" not in caplog.text
    assert "wrong" not in caplog.text
    assert all("stomp://app:**@127.0.0.1:1" in one for one in told)


def test_every_broker_may_refuse_without_a_word() -> None:
    """One that closes for each resend would be sent it for ever, and nothing else."""
    assert all(one.refuses_silently for one in (RABBITMQ, ACTIVEMQ, ARTEMIS, GENERIC))


def test_a_connection_without_arguments_is_stomp_pys() -> None:
    assert [one.port for one in Connection().uri.endpoints] == [61613]
    assert isinstance(Connection(), stomp.Connection12)
