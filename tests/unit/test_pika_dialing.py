"""The parameters of an endpoint, without a network."""

from __future__ import annotations

import asyncio
import inspect
from typing import Any

import pika
import pytest

from understudy.errors import ConfigurationError, ConnectionLost
from understudy.pika import AsyncConnection, BlockingConnection, dialing
from understudy.pika.dialing import PikaDialer, read_parameters


def test_a_changed_secret_changes_nothing_of_the_applications(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """update_secret() is for our later logins; the parameters given stay what they were."""
    used: list[Any] = []

    def connect(parameters: Any, deadline: object) -> None:
        used.append(parameters.credentials.password)
        raise OSError("nobody is there")

    monkeypatch.setattr(dialing, "_connect", connect)
    given = pika.ConnectionParameters("a", credentials=pika.PlainCredentials("app", "old"))
    uri, known = read_parameters(given, None)
    dialer = PikaDialer(uri, known)
    dialer.secrets["app"] = "new"
    with pytest.raises(OSError, match="nobody"):
        dialer.dial(uri.endpoints[0], 1.0)
    assert used == ["new"]
    assert given.credentials.password == "old"


@pytest.mark.parametrize("given", [b"amqp://a", 5, [b"amqp://a"], {"host": "a"}])
@pytest.mark.parametrize("kind", [AsyncConnection, BlockingConnection])
def test_what_is_no_address_is_refused(kind: Any, given: Any) -> None:
    with pytest.raises(ConfigurationError, match=f"must be a URI.*not {_inner(given)}"):
        kind(given)


def _inner(given: Any) -> str:
    return type(given[0] if isinstance(given, list) else given).__name__


@pytest.mark.parametrize("kind", [AsyncConnection, BlockingConnection])
def test_what_cannot_be_called_is_no_on_event(kind: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"on_event must be callable.*'print'"):
        kind("amqp://a", on_event="print")


@pytest.mark.parametrize("kind", [AsyncConnection, BlockingConnection])
def test_help_knows_the_arguments(kind: Any) -> None:
    told = inspect.getdoc(kind.__init__) or ""
    assert [word for word in ("failover URI", "options", "on_event") if word not in told] == []


def test_a_closed_connection_says_that_it_is_closed() -> None:
    async def use() -> None:
        connection = AsyncConnection("amqp://a")
        await connection.close()
        with pytest.raises(ConnectionLost, match="the connection is closed"):
            await connection.channel()
        with pytest.raises(ConnectionLost, match="the connection is closed"):
            await connection.connect()

    asyncio.run(use())
