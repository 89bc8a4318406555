"""What a user is told when a broker could not be connected to."""

from __future__ import annotations

import socket
import ssl

import pytest

from understudy.core.endpoint import Endpoint
from understudy.core.uri import parse
from understudy.stomp.wire import WireBroken
from understudy.stomp.words import in_words
from understudy.wire.stomp import ProtocolError
from understudy.wire.stomp_login import LoginRefused, OtherProtocol, check_begin


def endpoint(member: str) -> Endpoint:
    one: Endpoint = parse(f"failover:({member})").endpoints[0]
    return one


PLAIN = endpoint("stomp://mq1:5672")
TLS = endpoint("stomp+ssl://mq1:61614")


@pytest.mark.parametrize(
    ("begin", "said"),
    [
        (b"AMQP\0\0\x09\x01", "not speak STOMP but AMQP; 5672 seems to be an AMQP port"),
        (b"HTTP/1.1 400", "not speak STOMP but HTTP; 5672 seems to be a web server's port"),
        (b"<!DOCTYPE", "not speak STOMP but HTTP"),
        (b"\x15\x03\x03\0\x02", "not speak STOMP but TLS; for STOMP in TLS write stomp+ssl:"),
        (b"\0\0\x01\x7a\x01Acti", "not speak STOMP but OpenWire, it seems"),
        (b"-ERR unknown", "not speak STOMP but Redis; 5672 seems to be a Redis port"),
    ],
)
def test_another_protocol_is_known_by_how_it_begins(begin: bytes, said: str) -> None:
    with pytest.raises(OtherProtocol) as caught:
        check_begin(begin)
    assert said in in_words(caught.value, PLAIN)


@pytest.mark.parametrize("begin", [b"", b"\n", b"C", b"CONNECTED\n", b"ERROR\n", b"H", b"\0\0"])
def test_stomp_and_what_is_cut_short_may_be_stomp(begin: bytes) -> None:
    check_begin(begin)


def wrong_version() -> ssl.SSLError:
    error = ssl.SSLError(1, "[SSL: WRONG_VERSION_NUMBER] wrong version number (_ssl.c:1)")
    error.reason = "WRONG_VERSION_NUMBER"
    return error


@pytest.mark.parametrize(
    ("failure", "said"),
    [
        (LoginRefused("Access refused"), "the broker refused the login: Access refused"),
        (
            WireBroken("the broker closed the connection"),
            "the broker closed the connection, before the login was answered",
        ),
        (ProtocolError("no"), "the server does not speak STOMP as we do: no"),
        (ConnectionRefusedError(111, "Connection refused"), "Connection refused"),
        (socket.gaierror(-2, "Name or service not known"), "Name or service not known"),
        (TimeoutError("no handshake within 5 s"), "no handshake within 5 s"),
        (TimeoutError(110, "Connection timed out"), "Connection timed out"),
        (ssl.SSLError(1, "bad certificate"), "TLS failed: bad certificate"),
        (wrong_version(), "the server does not speak TLS; without it write stomp: "),
        (RuntimeError("odd"), "RuntimeError: odd"),
    ],
)
def test_a_failure_is_told_in_words(failure: Exception, said: str) -> None:
    assert in_words(failure, TLS).startswith(said)
